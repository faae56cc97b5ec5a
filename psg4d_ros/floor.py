"""The floor of a cloud: the plane that says where down is when nothing else does. Numpy only."""

from __future__ import annotations

import numpy as np

from psg4d_ros.structures import Float32, Float64

MIN_FLOOR_POINTS = 200
MAX_TILT = np.radians(60.0)  # of the sensor, for the floor to be found; cameras that look down by 45 degrees are common


def floor_transform(points: Float32, seed: int = 0) -> Float64 | None:
    """T_core_sensor float64[4, 4] that puts the floor seen in float32[N, 3] sensor points at z = 0, or None.

    The sensor's x, y stay the core's origin, and its forward axis the core's x. Both conventions are tried, body (z up)
    and optical (y down), since a frame_id does not always say which; each within MAX_TILT. Deterministic.
    """
    rng = np.random.default_rng(seed)
    sample = _thin(points.astype(np.float64), rng)
    if len(sample) < MIN_FLOOR_POINTS // 2:
        return None
    forward = np.array([1.0, 0.0, 0.0])
    plane = _floor_plane(sample, np.array([0.0, 0.0, 1.0]), -0.3, rng)
    # A camera sees only what is in front of it. Without that check, and the greater support asked for, the left wall of
    # a corridor would pass for the floor of an optical frame.
    if np.count_nonzero(sample[:, 2] > 0.0) > 0.99 * len(sample):
        optical = _floor_plane(sample, np.array([0.0, -1.0, 0.0]), 0.05, rng)
        if optical is not None and (plane is None or optical[2] > 2 * plane[2]):
            plane, forward = optical, np.array([0.0, 0.0, 1.0])
    if plane is None:
        return None
    normal, height, _ = plane
    x = forward - normal * (normal @ forward)
    x /= np.linalg.norm(x)
    T = np.eye(4)
    T[:3, :3] = [x, np.cross(normal, x), normal]
    T[2, 3] = height
    return T


def _thin(points: Float64, rng: np.random.Generator, cell_m: float = 0.05, most: int = 4000) -> Float64:
    """At most ``most`` points, one per cell, so that what is near the sensor does not outvote the rest."""
    points = points[np.abs(points).max(axis=1) < 1e3]
    cells = np.floor(points / cell_m).astype(np.int64) + (1 << 20)
    _, first = np.unique((cells[:, 0] << 42) | (cells[:, 1] << 21) | cells[:, 2], return_index=True)
    if len(first) > most:
        first = rng.choice(first, most, replace=False)
    return np.asarray(points[first])


def _floor_plane(
    points: Float64, up: Float64, min_height_m: float, rng: np.random.Generator, tries: int = 300
) -> tuple[Float64, float, int] | None:
    """(unit normal, height of the sensor above the plane, points on it) of the floor by RANSAC and least squares.

    None if not seen. A floor is what nearly nothing lies under (a wall seen from inside has that too, hence the cone
    around ``up``), and the sensor is above it. A table seen without its floor passes: level all the same.
    """
    tolerance = 0.03 + 0.01 * np.linalg.norm(points, axis=1)  # depth noise grows with range
    triples = rng.integers(0, len(points), (tries, 3))
    a, b, c = points[triples[:, 0]], points[triples[:, 1]], points[triples[:, 2]]
    normals = np.cross(b - a, c - a)
    lengths = np.linalg.norm(normals, axis=1)
    usable = lengths > 1e-6
    normals, a = normals[usable] / lengths[usable, None], a[usable]
    normals *= np.where(normals @ up < 0, -1.0, 1.0)[:, None]
    heights = -np.einsum("ij,ij->i", normals, a)
    candidates = (normals @ up > np.cos(MAX_TILT)) & (heights > min_height_m)
    best, best_count = None, max(50, len(points) // 10)
    for normal, height in zip(normals[candidates], heights[candidates], strict=True):
        count = _floor_support(points, normal, height, tolerance)
        if count > best_count:
            best, best_count = (normal, float(height)), count
    if best is None:
        return None
    for _ in range(3):
        normal, height = best
        on_floor = points[np.abs(points @ normal + height) < tolerance]
        centre = on_floor.mean(axis=0)
        normal = np.linalg.svd(on_floor - centre, full_matrices=False)[2][2]
        normal = normal if normal @ up > 0 else -normal
        best = (normal, float(-normal @ centre))
    normal, height = best
    count = _floor_support(points, normal, height, tolerance)
    good = count > 0 and normal @ up > np.cos(MAX_TILT) and height > min_height_m
    return (normal, height, count) if good else None


def _floor_support(points: Float64, normal: Float64, height: float, tolerance: Float64) -> int:
    """Number of points on the plane; 0 when more than 3 % of all lie well under it."""
    above = points @ normal + height
    if np.count_nonzero(above < -3.0 * tolerance) > 0.03 * len(points):
        return 0
    return int(np.count_nonzero(np.abs(above) < tolerance))
