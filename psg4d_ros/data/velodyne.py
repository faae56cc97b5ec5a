"""KITTI velodyne scans (.bin: float32 x, y, z, intensity) and the poses and times that belong to a sequence of them.

Layout: http://www.cvlibs.net/datasets/kitti/eval_odometry.php. The sensor frame has x forward, y left, z up.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from psg4d_ros.data.files import read_bytes, read_numbers, read_text
from psg4d_ros.errors import DatasetError, TransformError
from psg4d_ros.structures import Float64, Int64, PointFrame
from psg4d_ros.transforms import R_BODY_OPTICAL, check_rigid

FRAME_ID = "velodyne"
_POINT_BYTES = 16


def read_velodyne(path: Path, stamp_ns: int) -> PointFrame:
    """One scan, gzipped or not: points in metres and intensity 0 to 1; points that are not finite are left out.

    Raises DatasetError for a file whose length is no multiple of 16 bytes: another layout, or one cut off.
    """
    raw = read_bytes(path)
    if len(raw) % _POINT_BYTES:
        raise DatasetError(f"{path} has {len(raw)} bytes, expected a multiple of {_POINT_BYTES} (x, y, z, intensity)")
    values = np.frombuffer(raw, "<f4").reshape(-1, 4).astype(np.float32)
    index = np.flatnonzero(np.isfinite(values).all(axis=1))
    kept = values[index]
    return PointFrame(
        np.ascontiguousarray(kept[:, :3]), None, kept[:, 3].copy(), index.astype(np.int64), stamp_ns, FRAME_ID
    )


def read_kitti_times(path: Path) -> Int64:
    """int64[F] stamps in nanoseconds from times.txt (seconds, one a line). Raises DatasetError unless they increase."""
    seconds = read_numbers(path, 1)[:, 0]
    wrong = np.flatnonzero(~((seconds >= 0) & (seconds < 9e9)) | (np.diff(seconds, prepend=-1.0) <= 0))  # 9e9: int64
    if len(wrong):
        raise DatasetError(
            f"{path}: time {wrong[0] + 1} is {seconds[wrong[0]]:g}, expected seconds from 0 on, each after the last"
        )
    return np.rint(seconds * 1e9).astype(np.int64)


def read_kitti_poses(poses: Path, calibration: Path) -> Float64:
    """float64[F, 4, 4] pose of the velodyne in a world with z up, from poses.txt and calib.txt of an odometry sequence.

    KITTI's poses are those of the left camera in its own first frame (z forward, y down); that frame, turned to x
    forward and z up, is the world. Raises DatasetError for files of another form and poses that are not rigid.
    """
    T_camera_velodyne = np.eye(4)
    T_camera_velodyne[:3] = _calibration(calibration)
    T_world_camera0 = np.eye(4)
    T_world_camera0[:3, :3] = R_BODY_OPTICAL
    T_camera0_camera = np.tile(np.eye(4), (len(rows := read_numbers(poses, 12)), 1, 1))
    T_camera0_camera[:, :3] = rows.reshape(-1, 3, 4)
    for line, T in enumerate(T_camera0_camera, start=1):
        try:
            check_rigid(T, f"pose {line}")
        except TransformError as error:
            raise DatasetError(f"{poses}: {error}") from error
    return np.asarray(T_world_camera0 @ T_camera0_camera @ T_camera_velodyne, dtype=np.float64)


def _calibration(path: Path) -> Float64:
    """float64[3, 4]: velodyne to left camera, the line ``Tr`` of calib.txt."""
    for line in read_text(path).splitlines():
        name, _, values = line.partition(":")
        if name.strip() in ("Tr", "Tr_velo_to_cam"):
            try:
                return np.array([float(word) for word in values.split()], dtype=np.float64).reshape(3, 4)
            except ValueError as error:
                raise DatasetError(f"{path}: line {name} is not 12 numbers: {error}") from None
    raise DatasetError(f"{path} has no line Tr (velodyne to camera, 12 numbers)")
