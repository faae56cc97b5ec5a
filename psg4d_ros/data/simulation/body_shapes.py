"""Closed triangle meshes of the parts of a body: stacks of ellipses with rounded ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from psg4d_ros.data.simulation.world import Part
from psg4d_ros.structures import Float64, Int32

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Shape:
    """vertices: float64[V, 3]. faces: int32[M, 3], seen from outside they turn counter-clockwise."""

    vertices: Float64
    faces: Int32


def loft(centers: Sequence[Sequence[float]], radii: Sequence[tuple[float, float]], segments: int, along: str) -> Shape:
    """Ellipses around ``centers`` joined to a skin, ends rounded to a point.

    along: "z" (ellipses lie level, radii along x and y) or "y" (ellipses stand, radii along x and z). Centers run in
    the negative direction of ``along``: downwards, or to the front.
    """
    c, r = np.asarray(centers, dtype=np.float64), np.asarray(radii, dtype=np.float64)
    c, r = _rounded(c, r)
    angle = np.arange(segments) * (2 * np.pi / segments)
    up, side = (2, 1) if along == "z" else (1, 2)
    rings = np.repeat(c[1:-1, None, :], segments, axis=1)
    rings[..., 0] += r[:, :1] * np.cos(angle)
    rings[..., side] += r[:, 1:] * np.sin(angle)
    vertices = np.concatenate([c[:1], rings.reshape(-1, 3), c[-1:]])
    i = np.arange(segments)
    j = (i + 1) % segments
    faces = [np.stack([np.zeros_like(i), 1 + i, 1 + j], axis=1)]
    for k in range(len(r) - 1):
        a, b = 1 + k * segments, 1 + (k + 1) * segments
        faces += [np.stack([a + i, b + i, b + j], axis=1), np.stack([a + i, b + j, a + j], axis=1)]
    last = len(vertices) - 1
    a = 1 + (len(r) - 1) * segments
    faces.append(np.stack([a + i, np.full_like(i, last), a + j], axis=1))
    result = np.concatenate(faces).astype(np.int32)
    if up == 1:  # x, z, y is a left-handed order: turn the faces round
        result = result[:, [0, 2, 1]]
    return Shape(vertices, result)


def _rounded(c: Float64, r: Float64) -> tuple[Float64, Float64]:
    """Centers with a pole before and behind, and one more ring at either end that makes it round."""
    first, last = _unit(c[0] - c[1]), _unit(c[-1] - c[-2])
    start, end = r[0].min(), r[-1].min()
    lift, shrink = 0.7, 0.72  # about 45 degrees round the ball
    centers = [c[0] + first * start, c[0] + first * start * lift, *c, c[-1] + last * end * lift, c[-1] + last * end]
    return np.array(centers), np.concatenate([r[:1] * shrink, r, r[-1:] * shrink])


def _unit(v: Float64) -> Float64:
    return v / float(np.linalg.norm(v))


def limb(top: Float64, bottom: Float64, radii: Sequence[float], flatten: float = 1.0, segments: int = 8) -> Shape:
    """A straight limb with radii at equal steps from ``top`` to ``bottom``; flatten: depth relative to width."""
    share = np.linspace(0.0, 1.0, len(radii))[:, None]
    return loft(list(top + share * (bottom - top)), [(r, r * flatten) for r in radii], segments, "z")


def joined(shapes: Sequence[Shape]) -> Shape:
    """Several closed shapes as one."""
    offsets = np.cumsum([0] + [len(s.vertices) for s in shapes[:-1]])
    faces = np.concatenate([s.faces + o for s, o in zip(shapes, offsets, strict=True)]).astype(np.int32)
    return Shape(np.concatenate([s.vertices for s in shapes]), faces)


def part(name: str, shape: Shape, color: Color, rng: np.random.Generator) -> Part:
    """A Part in one colour, a little lighter or darker from face to face as cloth and skin are."""
    return painted(name, shape, np.tile(np.array(color, dtype=np.float64), (len(shape.faces), 1)), rng)


def painted(name: str, shape: Shape, colors: Float64, rng: np.random.Generator) -> Part:
    """A Part with a colour per face (float64[M, 3], 0 to 255) and the same noise."""
    shade = 1.0 + 0.03 * rng.standard_normal((len(colors), 1))
    return Part(
        name,
        shape.vertices.astype(np.float32),
        shape.faces,
        np.clip(colors * shade, 0, 255).round().astype(np.uint8),
    )


def face_centers(shape: Shape) -> Float64:
    """float64[M, 3]."""
    return np.asarray(shape.vertices[shape.faces].mean(axis=1), dtype=np.float64)
