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
    raise ConfigError(
        f"the simulator needs Embree ({error}): install psg4d_ros with its extra [sim], or embreex itself "
        "(pip install embreex)"
    ) from error

_SAME_POSE = 1e-6  # metres, and entries of rotation matrices: less than this is no movement


@dataclass(frozen=True, eq=False)
class Hits:
    """Where N rays end. distance: float32[N] in lengths of the given direction, inf = nowhere.

    entity: int32[N] entity_id, 0 = none. colors: uint8[N, 3] of the face, black = none. incidence: float32[N] cosine
    between the face's normal and the ray, 0 = grazing, 1 = head-on. up: float32[N] cosine between that normal, turned
    towards the ray's origin, and the world's z: 1 = a floor seen from above.
    """

    distance: Float32
    entity: Int32
    colors: UInt8
    incidence: Float32
    up: Float32


class Renderer:
    """Casts rays into a timeline's world at given steps of its clock.

    steps: int64[F], the steps that will be asked for; what has the same pose at all of them counts as static.
    """

    def __init__(self, timeline: Timeline, steps: Int64) -> None:
        static: list[tuple[int, int]] = []
        moving: list[tuple[int, int]] = []
        for entity in timeline.world.entities:
            poses = timeline.T_world_part[entity.entity_id - 1]
            rows = poses[steps] if len(poses) > 1 else poses
            moves = np.abs(rows - rows[:1]).max(axis=(0, 2, 3)) > _SAME_POSE
            for part in range(len(entity.parts)):
                (moving if moves[part] else static).append((entity.entity_id, part))
        self._moving = _Solid(timeline, moving)
        still = _Solid(timeline, static)
        self._static_scene, normals = still.placed(int(steps[0]))
        self._moving_scene: Any = None
        self._placed_at: int | None = None
        # Of nothing (row 0), then of the faces of the static scene, then of those of the moving one.
        self._first_moving = 1 + len(normals)
        self._entity = np.concatenate([np.zeros(1, np.int32), still.entity, self._moving.entity])
        self._colors = np.concatenate([np.zeros((1, 3), np.uint8), still.colors, self._moving.colors])
        self._normals = np.concatenate([np.zeros((1, 3), np.float32), normals, self._moving.normals])
        self._static_cast: tuple[Float64, Float32, dict[str, Any]] | None = None

    def cast(self, origin: Float64, directions: Float32, step: int) -> Hits:
        """What the rays from ``origin`` (float64[3]) along ``directions`` (float32[N, 3]) hit; world frame, metres."""
        origins = np.empty((len(directions), 3), np.float32)
        origins[:] = origin
        hit = self._cast_static(origin, origins, directions)
        distance, face = hit["tfar"], hit["primID"] + 1  # primID is -1 where nothing is hit
        self._move_to(step)
        if self._moving_scene is not None:
            distance = distance.copy()  # Embree looks only up to there, and writes what is nearer into it
            nearer = self._moving_scene.run(origins, directions, dists=distance, output=1)["primID"]
            face = np.where(nearer >= 0, nearer + self._first_moving, face)
        cosine = np.zeros(len(directions), np.float32)
        square = np.zeros(len(directions), np.float32)
        normals = self._normals.take(face, axis=0)
        for axis in range(3):
            cosine += normals[:, axis] * directions[:, axis]
            square += directions[:, axis] * directions[:, axis]
        return Hits(
            distance=np.where(face > 0, distance, np.float32(np.inf)),
            entity=self._entity.take(face),
            colors=self._colors.take(face, axis=0),
            incidence=np.asarray(np.abs(cosine) / np.sqrt(square), dtype=np.float32),
            up=np.where(cosine > 0, -normals[:, 2], normals[:, 2]),
        )

    def _cast_static(self, origin: Float64, origins: Float32, directions: Float32) -> dict[str, Any]:
        """A sensor that stands still casts the same rays frame after frame: the last answer is kept."""
        known = self._static_cast
        if known is None or not np.array_equal(known[0], origin) or not np.array_equal(known[1], directions):
            known = (origin, directions, self._static_scene.run(origins, directions, output=1))
            self._static_cast = known
        return known[2]

    def _move_to(self, step: int) -> None:
        if len(self._moving.entity) and self._placed_at != step:
            self._moving_scene, self._normals[self._first_moving :] = self._moving.placed(step)
            self._placed_at = step


class _Solid:
    """Some parts of a timeline's entities, as one mesh that can be placed where they are at a step.

    chosen: (entity_id, index of the part). entity: int32[M], colors: uint8[M, 3], normals: float32[M, 3] (unit, in the
    entity's frame) of each face.
    """

    def __init__(self, timeline: Timeline, chosen: Sequence[tuple[int, int]]) -> None:
        self._poses = [(timeline.T_world_part[entity_id - 1], number) for entity_id, number in chosen]
        parts = [timeline.world.entity(entity_id).parts[number] for entity_id, number in chosen]
        vertices, faces = [len(p.vertices) for p in parts], [len(p.faces) for p in parts]
        self._vertices = np.concatenate([np.zeros((0, 3), np.float32), *(p.vertices for p in parts)])
        self._vertex_part = np.repeat(np.arange(len(parts)), vertices)
        self._face_part = np.repeat(np.arange(len(parts)), faces)
        before = np.cumsum([0, *vertices])
        numbered = [p.faces + np.int32(n) for p, n in zip(parts, before, strict=False)]
        self._faces: Int32 = np.concatenate([np.zeros((0, 3), np.int32), *numbered])
        self.entity = np.repeat(np.array([entity_id for entity_id, _ in chosen], np.int32), faces)
        self.colors = np.concatenate([np.zeros((0, 3), np.uint8), *(p.colors for p in parts)])
        first, second, third = (self._vertices[self._faces[:, k]] for k in range(3))
        normals = np.cross(second - first, third - first)
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-20)
        self.normals = normals.astype(np.float32)

    def placed(self, step: int) -> tuple[Any, Float32]:
        """An Embree scene with all parts where they are at a step, and float32[M, 3]: normals of the faces there."""
        T = np.array([poses[step if len(poses) > 1 else 0, part, :3] for poses, part in self._poses], np.float32)
        T = T.reshape(-1, 3, 4)
        R = T[:, :, :3]
        vertices = turned(R[self._vertex_part], self._vertices) + T[self._vertex_part, :, 3]
        scene = EmbreeScene(_device())
        TriangleMesh(scene, vertices, self._faces)
        return scene, turned(R[self._face_part], self.normals)


@cache
def _device() -> Any:
    """One Embree device for the process: it costs more to make than a scene."""
    return EmbreeDevice()


def turned(R: Float32 | Float64, vectors: Float32) -> Float32:
    """float32[N, 3]: ``vectors`` (float32[N, 3]) turned by R ([3, 3], or [N, 3, 3]: one for each).

    Not with `@`: BLAS sums in another order on another machine, and its threads get in each other's way here.
    """
    R = R.astype(np.float32, copy=False)
    x, y, z = vectors.T
    out = np.empty(vectors.shape, np.float32)
    for axis in range(3):
        out[:, axis] = R[..., axis, 0] * x + R[..., axis, 1] * y + R[..., axis, 2] * z
    return out
