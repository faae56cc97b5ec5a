"""Boxes, turned bodies, bars and cushions: what the furniture without a mesh is built from.

A piece is (vertices [V, 3], faces [M, 3], tones [M]); a Shape is several pieces that move as one. Tones say which of an
entity's colours a face gets; classes.py draws them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from psg4d_ros.structures import Float64, Int32, UInt8

Piece = tuple[Float64, Int32, UInt8]
MAIN, SECOND, METAL, DARK, WHITE, LEAF, WOOD = range(7)


@dataclass(frozen=True, eq=False)
class Shape:
    """A rigid piece without its paint. vertices: float64[V, 3] metres, faces: int32[M, 3], tones: uint8[M]."""

    name: str
    vertices: Float64
    faces: Int32
    tones: UInt8

    def moved(self, x: float, y: float, z: float) -> Shape:
        return replace(self, vertices=self.vertices + np.array([x, y, z]))


def shape(name: str, *pieces: Piece) -> Shape:
    """One Shape of all pieces."""
    starts = np.cumsum([0, *(len(v) for v, _, _ in pieces)])
    faces = [f + start for (_, f, _), start in zip(pieces, starts, strict=False)]
    return Shape(
        name,
        np.concatenate([v for v, _, _ in pieces]).astype(np.float64),
        np.concatenate(faces).astype(np.int32),
        np.concatenate([t for _, _, t in pieces]).astype(np.uint8),
    )


def _piece(vertices: Float64, faces: Sequence[Sequence[int]] | Int32, tone: int) -> Piece:
    f = np.asarray(faces, np.int32)
    return np.asarray(vertices, np.float64), f, np.full(len(f), tone, np.uint8)


_BOX_FACES = [
    (0, 2, 1), (1, 2, 3), (4, 5, 6), (5, 7, 6), (0, 1, 4), (1, 5, 4),
    (2, 6, 3), (3, 6, 7), (0, 4, 2), (2, 4, 6), (1, 3, 5), (3, 7, 5),
]  # fmt: skip


def box(low: Sequence[float], high: Sequence[float], tone: int = MAIN) -> Piece:
    """A box from corner to corner."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    vertices = np.array([(x, y, z) for z in (z0, z1) for y in (y0, y1) for x in (x0, x1)])
    return _piece(vertices, _BOX_FACES, tone)


def _rings(rings: Float64, tones: Sequence[int], closed: bool = True) -> Piece:
    """Quads between rings [K, n, 3]; closed: each ring joins its own start."""
    k, n = rings.shape[:2]
    faces, colors = [], []
    for i in range(k - 1):
        for j in range(n if closed else n - 1):
            a, b = i * n + j, i * n + (j + 1) % n
            faces += [(a, b, a + n), (b, b + n, a + n)]
            colors += [tones[i]] * 2
    return rings.reshape(-1, 3), np.array(faces, np.int32), np.array(colors, np.uint8)


def lathe(
    profile: Sequence[tuple[float, float]],
    tone: int | Sequence[int] = MAIN,
    center: tuple[float, float] = (0.0, 0.0),
    sides: int = 16,
) -> Piece:
    """A turned body: (radius, z) from one end of the profile to the other. tone: of all, or of each step."""
    angle = np.arange(sides) * (2 * np.pi / sides)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    rings = np.stack(
        [np.column_stack([circle * r + np.array(center), np.full(sides, z)]) for r, z in profile]  #
    )
    return _rings(rings, [tone] * len(profile) if isinstance(tone, int) else tone)


def bar(start: Sequence[float], end: Sequence[float], radius: float, tone: int = METAL, sides: int = 8) -> Piece:
    """A round bar with closed ends."""
    a, b = np.asarray(start, float), np.asarray(end, float)
    along = (b - a) / np.linalg.norm(b - a)
    side = np.cross(along, (1.0, 0, 0) if abs(along[0]) < 0.9 else (0, 1.0, 0))
    side /= np.linalg.norm(side)
    other = np.cross(along, side)
    angle = np.arange(sides) * (2 * np.pi / sides)
    circle = np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * other
    rings = np.stack([a + 0 * circle, a + radius * circle, b + radius * circle, b + 0 * circle])
    return _rings(rings, [tone] * 4)


def cushion(size: Sequence[float], tone: int = MAIN, roundness: float = 0.45) -> Piece:
    """A soft block standing on z = 0: flat where it lies, round at its edges (a superellipsoid)."""
    u = np.linspace(-np.pi / 2, np.pi / 2, 9)
    v = np.arange(20) * (2 * np.pi / 20)

    def power(x: Float64) -> Float64:
        return np.sign(x) * np.abs(x) ** roundness

    rings = np.stack(
        [
            np.column_stack(
                [
                    power(np.cos(a)) * power(np.cos(v)),
                    power(np.cos(a)) * power(np.sin(v)),
                    np.full(20, power(np.sin(a))),
                ]
            )
            for a in u
        ]
    )
    rings = rings * (np.asarray(size, float) / 2) + np.array([0, 0, size[2] / 2])
    return _rings(rings, [tone] * len(u))


def drape(width: float, height: float, depth: float, folds: int, tone: int = MAIN) -> Piece:
    """Hanging cloth in the xz plane, folded along x, from z = 0 up to height."""
    t = np.linspace(0, 1, folds * 6 + 1)
    x, y = (t - 0.5) * width, 0.5 * depth * np.sin(t * folds * 2 * np.pi)
    front = np.stack([np.column_stack([x, y, np.full(len(t), z)]) for z in (0.0, height)])
    return _rings(front, [tone] * 2, closed=False)


def moved(piece: Piece, x: float, y: float, z: float) -> Piece:
    return piece[0] + np.array([x, y, z]), piece[1], piece[2]
