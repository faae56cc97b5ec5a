"""From ideal hits to what a real sensor would have returned.

Depth camera: axial noise and quantisation grow with depth squared, as measured on structured-light cameras (Nguyen,
Izadi and Lovell, 3DIMPVT 2012; Khoshelham and Oude Elberink, Sensors 2012); pixels at depth edges take a neighbour's
value or are lost; grazing and shiny surfaces return less. LiDAR: constant range noise; dark surfaces at a grazing angle
and shiny ones return less; intensity from material and incidence. All random numbers are drawn for every pixel, hit or
not, so that one pixel's fate does not shift another's.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from psg4d_ros.data.simulation.render import Hits
from psg4d_ros.data.simulation.sensors import RANGE_UNIT_M, DepthCamera, Scan, SpinningLidar
from psg4d_ros.data.simulation.world import World
from psg4d_ros.structures import Float32, UInt8

_AXIAL_FLOOR_M, _AXIAL_PER_M2, _AXIAL_NEAR_M = 0.0012, 0.0019, 0.4  # Nguyen et al., equation for sigma_z
_QUANTUM_PER_M2 = 0.00285  # metres between neighbouring disparities at 1 m, Khoshelham and Elberink
_EDGE_RELATIVE, _EDGE_FLOOR_M = 0.02, 0.03  # a jump in depth of this much between neighbours is an edge
_EDGE_LOST, _EDGE_SWAPPED, _STRAY_LOST = 0.35, 0.3, 0.004
_GRAZING_COSINE = 0.2  # below it returns become rare
# How much of the light a surface does not send back; 0 for all others.
_LOST_ON = {
    "mirror": 0.7,
    "window": 0.7,
    "glass": 0.5,
    "television": 0.25,
    "monitor": 0.25,
    "vase": 0.1,
    "bottle": 0.1,
    "faucet": 0.2,
    "sink": 0.1,
}
_LIDAR_SIGMA_M = 0.008
_STEPS = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)])  # rows and columns to the pixel above, below, left and right

_Pixels = tuple[NDArray[np.intp], ...]  # rows, columns
_Number = TypeVar("_Number", bound=np.generic)


def lost_share(world: World) -> Float32:
    """float32[E + 1]: by entity_id, the share of rays that a surface swallows or throws elsewhere."""
    return np.array([0.0, *(_LOST_ON.get(e.label, 0.0) for e in world.entities)], dtype=np.float32)


def measure_depth(camera: DepthCamera, hits: Hits, lost: Float32, exposure: float, rng: np.random.Generator) -> Scan:
    """What a depth camera makes of its rays' hits (row by row, distances along the optical axis).

    lost: see lost_share. exposure: factor on brightness, one per recording.
    """
    shape = camera.shape
    noise, uniform, lost_draw, side = (
        rng.standard_normal(shape, dtype=np.float32),
        rng.random(shape, dtype=np.float32),
        rng.random(shape, dtype=np.float32),
        rng.integers(0, 4, shape, dtype=np.uint8),
    )
    depth = np.where(np.isfinite(hits.distance), hits.distance, np.float32(0.0)).reshape(shape)
    entity, incidence = hits.entity.reshape(shape), hits.incidence.reshape(shape)
    edge = _edges(depth)
    swapped = edge & (uniform < _EDGE_SWAPPED * camera.noise)
    at = np.nonzero(swapped)
    near = _neighbours(at, side[at], shape)
    depth, entity, incidence = (_exchanged(values, at, near) for values in (depth, entity, incidence))

    sigma = _AXIAL_FLOOR_M + _AXIAL_PER_M2 * (depth - _AXIAL_NEAR_M) ** 2
    measured = depth + camera.noise * sigma * noise
    # Disparity is what the camera measures, in equal steps: round 1/z, whose step gives _QUANTUM_PER_M2 * z^2 in depth.
    quantum = np.float32(max(camera.noise, 0.05) * _QUANTUM_PER_M2)
    with np.errstate(divide="ignore", invalid="ignore"):
        stepped = 1.0 / (np.maximum(np.rint(1.0 / (measured * quantum)), 1.0) * quantum)
    keep = (depth > camera.near_m) & (stepped >= camera.near_m) & (stepped <= camera.far_m)
    gone = _STRAY_LOST + (1 - _STRAY_LOST) * lost[entity]
    gone = np.maximum(gone, np.float32(_EDGE_LOST) * (edge & ~swapped))
    gone = np.maximum(gone, np.clip(1.0 - incidence / _GRAZING_COSINE, 0.0, 1.0) * 0.8)
    keep &= lost_draw >= camera.noise * gone
    # The colour image has no part in these errors: at edges colour and depth do not quite agree, as in reality.
    colors = _shaded(hits, exposure).reshape(*shape, 3)
    return Scan(_millimetres(stepped, keep), colors, None, np.where(keep, entity, 0).astype(np.uint16))


def measure_lidar(lidar: SpinningLidar, hits: Hits, lost: Float32, rng: np.random.Generator) -> Scan:
    """What a spinning LiDAR makes of its rays' hits (ring by ring, distances along the rays); ``lost``: lost_share."""
    shape = lidar.shape
    noise = rng.standard_normal(shape, dtype=np.float32)
    lost_draw, speckle = rng.random(shape, dtype=np.float32), rng.random(shape, dtype=np.float32)
    distance = np.where(np.isfinite(hits.distance), hits.distance, np.float32(0.0)).reshape(shape)
    entity, incidence = hits.entity.reshape(shape), hits.incidence.reshape(shape)
    measured = distance + lidar.noise * _LIDAR_SIGMA_M * noise
    keep = (distance > lidar.near_m) & (measured >= lidar.near_m) & (measured <= lidar.far_m)
    red, green, blue = hits.colors.T.astype(np.float32)
    albedo = ((0.3 * red + 0.59 * green + 0.11 * blue) / 255.0).reshape(shape)
    returned = (0.25 + 0.75 * albedo) * incidence
    gone = _STRAY_LOST + (1 - _STRAY_LOST) * lost[entity]
    gone = np.maximum(gone, np.clip(0.5 - 10.0 * returned, 0.0, 0.9))  # dark at a grazing angle
    keep &= lost_draw >= lidar.noise * gone
    strength = returned * (0.9 + 0.2 * speckle)
    intensity = np.where(keep, np.clip(np.rint(strength * 255.0), 1, 255), 0).astype(np.uint8)
    return Scan(_millimetres(measured, keep), None, intensity, np.where(keep, entity, 0).astype(np.uint16))


def _millimetres(metres: NDArray[np.floating], keep: NDArray[np.bool_]) -> NDArray[np.uint16]:
    return np.rint(np.where(keep, metres, np.float32(0.0)) / np.float32(RANGE_UNIT_M)).astype(np.uint16)


def _edges(depth: Float32) -> NDArray[np.bool_]:
    """Pixels with a jump in depth to one of their four neighbours (nothing there counts as depth 0)."""
    limit = _EDGE_FLOOR_M + _EDGE_RELATIVE * depth
    out = np.zeros(depth.shape, dtype=bool)
    down = np.abs(depth[1:] - depth[:-1])
    right = np.abs(depth[:, 1:] - depth[:, :-1])
    out[1:] |= down > limit[1:]
    out[:-1] |= down > limit[:-1]
    out[:, 1:] |= right > limit[:, 1:]
    out[:, :-1] |= right > limit[:, :-1]
    return out


def _neighbours(pixels: _Pixels, side: UInt8, shape: tuple[int, int]) -> _Pixels:
    """The pixel above, below, left or right of each (side 0 to 3); the pixel itself at the border."""
    rows = pixels[0] + _STEPS[side, 0]
    columns = pixels[1] + _STEPS[side, 1]
    return np.clip(rows, 0, shape[0] - 1), np.clip(columns, 0, shape[1] - 1)


def _exchanged(values: NDArray[_Number], pixels: _Pixels, sources: _Pixels) -> NDArray[_Number]:
    """A copy in which ``pixels`` have the values that ``sources`` had."""
    out = values.copy()
    out[pixels] = values[sources]
    return out


def _shaded(hits: Hits, exposure: float) -> UInt8:
    """uint8[N, 3]: colours under light from above and from about the camera, in steps of 4 as video gives them."""
    light = exposure * (0.5 + 0.25 * np.maximum(hits.up, 0.0) + 0.3 * hits.incidence)
    values: UInt8 = np.minimum(hits.colors * light.astype(np.float32)[:, None], np.float32(255)).astype(np.uint8)
    return (values & np.uint8(0xFC)) | np.uint8(0x02)
