"""The sensors that look at simulated worlds: where their rays go, and how a range image becomes points.

A range image is uint16[H, W] in millimetres, 0 where nothing came back: depth along the optical axis for a camera,
distance along the ray for a LiDAR. Every reader of simulated data computes points from it with the functions here, so
that a scene on disk and the same scene in a bag hold the same float32 numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from psg4d_ros.errors import DatasetError
from psg4d_ros.structures import Float32, Float64, UInt8, check_array
from psg4d_ros.transforms import R_BODY_OPTICAL

UInt16 = NDArray[np.uint16]

RANGE_UNIT_M = 0.001
_MAX_RAYS = 4_000_000


@dataclass(frozen=True)
class DepthCamera:
    """A pinhole camera with colour and depth. Its frame is the optical one: x right, y down, z forward.

    fov_deg: horizontal field of view. noise: scale of all errors of measurement, 1 = a structured-light camera.
    """

    width: int = 160
    height: int = 120
    fov_deg: float = 70.0
    near_m: float = 0.3
    far_m: float = 8.0
    noise: float = 1.0

    kind: ClassVar[str] = "depth"
    frame_id: ClassVar[str] = "camera_optical_frame"
    mount_frame_id: ClassVar[str] = "camera_link"  # REP 103 body axes: x forward, y left, z up
    # x, y, z, w of the rotation of R_BODY_OPTICAL
    mount_quaternion: ClassVar[tuple[float, float, float, float]] = (-0.5, 0.5, -0.5, 0.5)
    R_mount_sensor: ClassVar[Float64] = R_BODY_OPTICAL

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    def directions(self) -> Float32:
        """float32[H * W, 3]: a point of each pixel's ray at depth 1, row by row."""
        return _pinhole(self.width, self.height, self.fov_deg)


@dataclass(frozen=True)
class SpinningLidar:
    """A LiDAR whose rings turn about z. Its frame: x forward, y left, z up. Columns run counter-clockwise from behind.

    up_deg, down_deg: elevation of the highest and the lowest ring; rings are evenly spaced, the highest first.
    """

    rings: int = 32
    columns: int = 600
    up_deg: float = 20.0
    down_deg: float = -40.0
    near_m: float = 0.3
    far_m: float = 30.0
    noise: float = 1.0

    kind: ClassVar[str] = "lidar"
    frame_id: ClassVar[str] = "lidar"
    mount_frame_id: ClassVar[str] = "lidar_link"
    mount_quaternion: ClassVar[tuple[float, float, float, float]] = (0.0, 0.0, 0.0, 1.0)
    R_mount_sensor: ClassVar[Float64] = np.eye(3)

    @property
    def shape(self) -> tuple[int, int]:
        return self.rings, self.columns

    def directions(self) -> Float32:
        """float32[H * W, 3]: unit vectors along the rays, ring by ring."""
        return _turning(self.rings, self.columns, self.up_deg, self.down_deg)


Sensor = DepthCamera | SpinningLidar


@dataclass(frozen=True, eq=False)
class Scan:
    """What a sensor measured at one time, and whose each pixel is.

    ranges: uint16[H, W] millimetres, 0 = nothing. colors: uint8[H, W, 3] (cameras, also where no depth came back) or
    None. intensity: uint8[H, W] (LiDAR) or None. instance: uint16[H, W] entity_id, 0 where nothing came back.
    """

    ranges: UInt16
    colors: UInt8 | None
    intensity: UInt8 | None
    instance: UInt16

    def __post_init__(self) -> None:
        check_array("Scan", "ranges", self.ranges, np.uint16, (None, None))
        check_array("Scan", "instance", self.instance, np.uint16, self.ranges.shape)
        if self.colors is not None:
            check_array("Scan", "colors", self.colors, np.uint8, (*self.ranges.shape, 3))
        if self.intensity is not None:
            check_array("Scan", "intensity", self.intensity, np.uint8, self.ranges.shape)


def scan_points(sensor: Sensor, ranges: UInt16) -> Float32:
    """float32[H * W, 3]: the point of every pixel in the sensor's frame, metres; NaN where nothing came back."""
    measured = ranges.reshape(-1)
    metres = np.where(measured > 0, measured * np.float32(RANGE_UNIT_M), np.float32(np.nan)).astype(np.float32)
    return np.asarray(sensor.directions() * metres[:, None], dtype=np.float32)


def sensor_json(sensor: Sensor) -> dict[str, Any]:
    """What sensor_from_json takes."""
    return {"kind": sensor.kind, **asdict(sensor)}


def sensor_from_json(values: Any, where: str) -> Sensor:
    """The reverse of sensor_json. Raises DatasetError naming ``where`` and the value that is wrong."""
    if not isinstance(values, Mapping) or values.get("kind") not in ("depth", "lidar"):
        raise DatasetError(f"{where}: sensor is {values!r}, expected an object with kind depth or lidar")
    cls = DepthCamera if values["kind"] == "depth" else SpinningLidar
    given = {name: value for name, value in values.items() if name != "kind"}
    expected = asdict(cls())
    if set(given) != set(expected):
        raise DatasetError(f"{where}: sensor has {sorted(given)}, expected {sorted(expected)}")
    for name, default in expected.items():
        value = given[name]
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and np.isfinite(value)
        if not number or (isinstance(default, int) and not isinstance(value, int)):
            raise DatasetError(f"{where}: sensor.{name} is {value!r}, expected a number like {default!r}")
    sensor: Sensor = cls(**given)
    height, width = sensor.shape
    if min(sensor.shape) < 1 or height * width > _MAX_RAYS:
        raise DatasetError(f"{where}: sensor has {width} x {height} rays, expected 1 to {_MAX_RAYS} of them")
    if isinstance(sensor, DepthCamera) and not 1.0 <= sensor.fov_deg <= 170.0:
        raise DatasetError(f"{where}: sensor.fov_deg is {sensor.fov_deg}, expected 1 to 170")
    return sensor


@lru_cache(maxsize=8)
def _pinhole(width: int, height: int, fov_deg: float) -> Float32:
    focal = 0.5 * width / np.tan(np.radians(0.5 * fov_deg))
    x = (np.arange(width) + 0.5 - 0.5 * width) / focal
    y = (np.arange(height) + 0.5 - 0.5 * height) / focal
    out = np.ones((height, width, 3), np.float32)
    out[..., 0], out[..., 1] = x, y[:, None]
    return _frozen(out)


@lru_cache(maxsize=8)
def _turning(rings: int, columns: int, up_deg: float, down_deg: float) -> Float32:
    elevation = np.radians(np.linspace(up_deg, down_deg, rings))[:, None]
    azimuth = -np.pi + (np.arange(columns) + 0.5) * (2 * np.pi / columns)
    out = np.empty((rings, columns, 3), np.float32)
    out[..., 0] = np.cos(elevation) * np.cos(azimuth)
    out[..., 1] = np.cos(elevation) * np.sin(azimuth)
    out[..., 2] = np.sin(elevation)
    return _frozen(out)


def _frozen(directions: Float32) -> Float32:
    """Shared by all callers, so nobody may write to it."""
    flat = directions.reshape(-1, 3)
    flat.flags.writeable = False
    return flat
