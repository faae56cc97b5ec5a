"""Ray casting against the triangles of a timeline (Embree): what lies where each ray of a sensor ends.

What never moves is built into one Embree scene, once; what moves is placed and built anew for each frame. Each ray is
cast against both, and the nearer hit wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from psg4d_ros.data.simulation.world import Timeline
from psg4d_ros.errors import ConfigError
from psg4d_ros.structures import Float32, Float64, Int32, Int64, UInt8

try:
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore import EmbreeDevice
    from embreex.rtcore_scene import EmbreeScene
except ImportError as error:
    raise ConfigError(f"the simulator needs Embree ({error}); install it with: pip install embreex") from error

_SAME_POSE = 1e-6  # metres, and entries of rotation matrices: less than this is no movement


@dataclass(frozen=True, eq=False)
class Hits:
    """Where N rays end. distance: float32[N] in lengths of the given direction, inf = nowhere.

    entity: int32[N] entity_id, 0 = none. colors: uint8[N, 3] of the face, black = none. normals: float32[N, 3] unit,
    world frame, turned towards the ray's origin. incidence: float32[N] cosine between normal and ray, 0 = grazing,
    1 = head-on.
    """

    distance: Float32
    entity: Int32
    colors: UInt8
    normals: Float32
    incidence: Float32


@dataclass(frozen=True, eq=False)
class _Faces:
    """What is known of each triangle. entity: int32[M]. colors: uint8[M, 3]. normals: float32[M, 3] unit, world."""

    entity: Int32
    colors: UInt8
    normals: Float32


class Renderer:
    """Casts rays into a timeline's world at given steps of its clock.

    steps: int64[F], the steps that will be asked for; what has the same pose at all of them counts as static.
    """

    def __init__(self, timeline: Timeline, steps: Int64) -> None:
        self._timeline = timeline
        static: list[tuple[int, int]] = []
        self._moving: list[tuple[int, int]] = []
        for entity in timeline.world.entities:
            poses = timeline.T_world_part[entity.entity_id - 1]
            rows = poses[steps] if len(poses) > 1 else poses
            moves = np.abs(rows - rows[:1]).max(axis=(0, 2, 3)) > _SAME_POSE
            for part in range(len(entity.parts)):
                (self._moving if moves[part] else static).append((entity.entity_id, part))
        self._static_scene, self._static = self._place(static, int(steps[0]))
        self._moving_scene: Any = None
        self._faces = self._static  # those of the static scene, then those of the moving one
        self._placed_at: int | None = None
        self._static_cast: tuple[Float64, Float32, dict[str, Any]] | None = None

    def cast(self, origin: Float64, directions: Float32, step: int) -> Hits:
        """What the rays from ``origin`` (float64[3]) along ``directions`` (float32[N, 3]) hit; world frame, metres."""
        origins = np.tile(origin.astype(np.float32), (len(directions), 1))
        hit = self._cast_static(origin, origins, directions)
        struck = hit["geomID"] >= 0
        distance = np.where(struck, hit["tfar"], np.inf).astype(np.float32)
        face = np.where(struck, hit["primID"], 0)
        self._move_to(step)
        if self._moving_scene is not None:
            other = self._moving_scene.run(origins, directions, output=1)
            nearer = (other["geomID"] >= 0) & (other["tfar"] < distance)
            distance[nearer] = other["tfar"][nearer]
            face[nearer] = other["primID"][nearer] + len(self._static.entity)
        return _hits(self._faces, distance, face, directions)

    def _cast_static(self, origin: Float64, origins: Float32, directions: Float32) -> dict[str, Any]:
        """A sensor that stands still casts the same rays frame after frame: the last answer is kept."""
        known = self._static_cast
        if known is None or not np.array_equal(known[0], origin) or not np.array_equal(known[1], directions):
            known = (origin, directions, self._static_scene.run(origins, directions, output=1))
            self._static_cast = known
        return known[2]

    def _move_to(self, step: int) -> None:
        if not self._moving or self._placed_at == step:
            return
        self._moving_scene, placed = self._place(self._moving, step)
        both = zip(vars(self._static).items(), vars(placed).values(), strict=True)
        self._faces = _Faces(**{name: np.concatenate([static, moving]) for (name, static), moving in both})
        self._placed_at = step

    def _place(self, chosen: Sequence[tuple[int, int]], step: int) -> tuple[Any, _Faces]:
        """An Embree scene of some parts, (entity_id, index of the part), where they are at a step."""
        vertices, faces = [np.zeros((0, 3), np.float32)], [np.zeros((0, 3), np.int32)]
        entities, colors = [np.zeros(0, np.int32)], [np.zeros((0, 3), np.uint8)]
        count = 0
        for entity_id, number in chosen:
            part = self._timeline.world.entity(entity_id).parts[number]
            poses = self._timeline.T_world_part[entity_id - 1]
            T = poses[step if len(poses) > 1 else 0, number]
            vertices.append(turned(T[:3, :3], part.vertices) + T[:3, 3].astype(np.float32))
            faces.append(part.faces + np.int32(count))
            entities.append(np.full(len(part.faces), entity_id, np.int32))
            colors.append(part.colors)
            count += len(part.vertices)
        placed, corner = np.concatenate(vertices), np.concatenate(faces)
        scene = EmbreeScene(_device())
        TriangleMesh(scene, placed, corner)
        first, second, third = (placed[corner[:, k]] for k in range(3))
        normals = np.cross(second - first, third - first)
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-20)
        return scene, _Faces(np.concatenate(entities), np.concatenate(colors), normals.astype(np.float32))


@cache
def _device() -> Any:
    """One Embree device for the process: it costs more to make than a scene."""
    return EmbreeDevice()


def turned(R: Float64, vectors: Float32) -> Float32:
    """float32[N, 3]: ``vectors`` (float32[N, 3]) turned by R (float64[3, 3]).

    Not with `@`: BLAS sums in another order on another machine, and its threads get in each other's way here.
    """
    x, y, z = vectors.T
    out = np.empty(vectors.shape, np.float32)
    for axis, (a, b, c) in enumerate(R.astype(np.float32)):
        out[:, axis] = a * x + b * y + c * z
    return out


def _hits(faces: _Faces, distance: Float32, face: Int32, directions: Float32) -> Hits:
    struck = np.isfinite(distance)
    if not len(faces.entity):
        face, faces = np.zeros_like(face), _Faces(np.zeros(1, "i4"), np.zeros((1, 3), "u1"), np.zeros((1, 3), "f4"))
    normals = faces.normals[face]
    cosine = np.einsum("ij,ij->i", normals, directions)
    lengths = np.sqrt(np.einsum("ij,ij->i", directions, directions))
    return Hits(
        distance=distance,
        entity=np.where(struck, faces.entity[face], 0).astype(np.int32),
        colors=np.where(struck[:, None], faces.colors[face], 0).astype(np.uint8),
        normals=np.where(cosine[:, None] > 0, -normals, normals),
        incidence=np.asarray(np.abs(cosine) / lengths, dtype=np.float32),
    )
