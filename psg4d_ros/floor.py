"""The floor of a cloud: the plane that says where down is when nothing else does. Numpy only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from psg4d_ros.structures import Float32, Float64

_X, _Y, _Z = np.eye(3)

MIN_FLOOR_POINTS = 200
MAX_TILT = np.radians(60.0)  # of the sensor, for the floor to be found; cameras that look down by 45 degrees are common
# What corrects the optical convention must be the floor beyond doubt; how these were chosen: docs/design.md.
MAX_ROLL = np.radians(25.0)
MIN_FLATNESS = 0.65  # share of its points within a third of the tolerance; a plane laid across edges has about 1/3
MIN_WIDTH_M = 0.9  # its smaller extent, without the outer tenth: more than a table has


class _Plane(NamedTuple):
    """normal: unit, up. height: of the sensor above it, metres. points: float64[N, 3] of those on it. flatness: see
    MIN_FLATNESS."""

    normal: Float64
    height: float
    points: Float64
    flatness: float


def floor_transform(points: Float32, seed: int = 0) -> Float64 | None:
    """T_core_sensor float64[4, 4] that puts the floor seen in float32[N, 3] sensor points at z = 0, or None.

    The sensor's x, y stay the core's origin, and its forward axis the core's x. Both conventions are tried, body (z up)
    and optical (y down), since a frame_id does not always say which; each within MAX_TILT. Deterministic.
    """
    rng = np.random.default_rng(seed)
    sample = _thin(points.astype(np.float64), rng)
    if len(sample) < MIN_FLOOR_POINTS // 2:
        return None
    forward = _X
    plane = _floor_plane(sample, _Z, -0.3, rng)
    # A camera sees only what is in front of it. Without that check, and the greater support asked for, the left wall of
    # a corridor would pass for the floor of an optical frame.
    if np.count_nonzero(sample[:, 2] > 0.0) > 0.99 * len(sample):
        optical = _floor_plane(sample, -_Y, 0.05, rng)
        if optical is not None and (plane is None or len(optical.points) > 2 * len(plane.points)):
            plane, forward = optical, _Z
    return None if plane is None else _level(plane, forward)


def camera_floor_transform(points: Float32, seed: int = 0) -> Float64 | None:
    """As floor_transform, of points in an optical frame (x right, y down, z forward), where the floor is beyond doubt.

    The convention is the prior: y points down, within MAX_TILT in all and MAX_ROLL about the optical axis. None where
    what is seen could be a table, a wall, or no plane at all; then the convention itself is the better guess.
    """
    rng = np.random.default_rng(seed)
    sample = _thin(points.astype(np.float64), rng)
    if len(sample) < MIN_FLOOR_POINTS // 2:
        return None
    plane = _floor_plane(sample, -_Y, 0.05, rng)
    if plane is None:
        return None
    roll = np.arctan2(plane.normal[0], -plane.normal[1])
    clear = abs(roll) < MAX_ROLL and plane.flatness > MIN_FLATNESS and _width(plane) > MIN_WIDTH_M
    return _level(plane, _Z) if clear else None


def _level(plane: _Plane, forward: Float64) -> Float64:
    """T_core_sensor float64[4, 4]: the plane is z = 0, x is what is horizontal of ``forward``."""
    x = forward - plane.normal * (plane.normal @ forward)
    x /= np.linalg.norm(x)
    T = np.eye(4)
    T[:3, :3] = [x, np.cross(plane.normal, x), plane.normal]
    T[2, 3] = plane.height
    return T


def _width(plane: _Plane) -> float:
    """Metres from the 5th to the 95th percentile of the plane's points, along the shorter of their two main axes."""
    centred = plane.points - plane.points.mean(axis=0)
    across = centred @ np.linalg.svd(centred, full_matrices=False)[2][1]
    low, high = np.percentile(across, (5.0, 95.0))
    return float(high - low)


def _thin(points: Float64, rng: np.random.Generator, cell_m: float = 0.05, most: int = 4000) -> Float64:
    """At most ``most`` points, one per cell, so that what is near the sensor does not outvote the rest."""
    points = points[np.abs(points).max(axis=1) < 1e3]
    cells = np.floor(points / cell_m).astype(np.int64) + (1 << 20)
    _, first = np.unique((cells[:, 0] << 42) | (cells[:, 1] << 21) | cells[:, 2], return_index=True)
    if len(first) > most:
        first = rng.choice(first, most, replace=False)
    return np.asarray(points[first])


def _floor_plane(
    points: Float64, up: Float64, min_height_m: float, rng: np.random.Generator, tries: int = 1000
) -> _Plane | None:
    """The floor by RANSAC and least squares, None if not seen.

    A floor is what nearly nothing lies under (a wall seen from inside has that too, hence the cone around ``up``), and
    the sensor is above it. A table seen without its floor passes: level all the same.
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
    best, best_count = None, 0
    for normal, height in zip(normals[candidates], heights[candidates], strict=True):
        above = points @ normal + height
        on = np.abs(above) < tolerance
        # Many points on it make it worth a look; those close to it decide. Else a plane laid slantwise across steps and
        # edges, which gathers points from all of them, would win over a floor that is half hidden.
        if np.count_nonzero(on) <= max(50, len(points) // 10) or _under(above, tolerance):
            continue
        count = int(np.count_nonzero(np.abs(above) < tolerance / 3))
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
    above = points @ normal + height
    on = np.abs(above) < tolerance
    if _under(above, tolerance) or not on.any() or normal @ up <= np.cos(MAX_TILT) or height <= min_height_m:
        return None
    flatness = float(np.mean(np.abs(above[on]) < tolerance[on] / 3))
    return _Plane(normal, height, points[on], flatness)


def _under(above: Float64, tolerance: Float64) -> bool:
    """Whether more than 3 % of the points lie well under the plane, by float64[N] heights above it."""
    return bool(np.count_nonzero(above < -3.0 * tolerance) > 0.03 * len(above))
