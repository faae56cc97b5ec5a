"""Depth and colour images as point clouds, and the files of an RGB-D folder in the form of 7-Scenes.

Form: https://www.microsoft.com/en-us/research/project/rgb-d-dataset-7-scenes/. The camera frame is optical (REP 103):
x right, y down, z forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from psg4d_ros.data.files import read_image, read_numbers
from psg4d_ros.errors import DatasetError, TransformError
from psg4d_ros.floor import floor_transform
from psg4d_ros.structures import Float32, Float64, Int64, UInt8
from psg4d_ros.transforms import R_BODY_OPTICAL, check_rigid, transform_points

FRAME_ID = "camera_optical_frame"
INTRINSICS_FILE = "camera-intrinsics.txt"
_INVALID_MM = (0, 65535)


def read_intrinsics(path: Path) -> Float64:
    """float64[3, 3] pinhole matrix in pixels: fx 0 cx / 0 fy cy / 0 0 1. Raises DatasetError for anything else."""
    K = read_numbers(path, 3)
    if K.shape != (3, 3) or not np.isfinite(K).all() or not (K[0, 0] > 0 and K[1, 1] > 0 and (K[2] == (0, 0, 1)).all()):
        raise DatasetError(f"{path} holds {K.tolist()}, expected the pinhole matrix fx 0 cx / 0 fy cy / 0 0 1")
    return K


def read_pose(path: Path) -> Float64:
    """float64[4, 4] camera-to-world from a text file of four lines. Raises DatasetError when it is not rigid."""
    T = read_numbers(path, 4)
    try:
        check_rigid(T, "the pose")
    except TransformError as error:
        raise DatasetError(f"{path}: {error}") from error
    return T


def read_depth(path: Path) -> Float32:
    """float32[H, W] metres from a 16-bit image in millimetres; 0 where nothing was measured (0 or 65535)."""
    image = read_image(path)
    if image.mode not in ("I;16", "I;16L", "I;16B", "I"):
        raise DatasetError(f"{path} has pixels of kind {image.mode}, expected 16-bit depth in millimetres")
    millimetres = np.asarray(image)
    depth = millimetres.astype(np.float32) * np.float32(1e-3)
    depth[np.isin(millimetres, _INVALID_MM) | (millimetres < 0)] = 0.0
    return depth


def read_color(path: Path, shape: tuple[int, int]) -> UInt8:
    """uint8[H, W, 3]. shape: (H, W) of the depth image that it must match, else DatasetError."""
    image = read_image(path)
    if (image.height, image.width) != shape:
        raise DatasetError(
            f"{path} is {image.width} x {image.height}, expected the size of its depth image, {shape[1]} x {shape[0]}"
        )
    return np.asarray(image.convert("RGB"), dtype=np.uint8)


def back_project(depth: Float32, K: Float64) -> tuple[Float32, Int64]:
    """Points of the pixels that hold a depth: float32[N, 3] metres in the camera frame; int64[N] their row-major index.

    depth: float32[H, W] metres along z, 0 = nothing there.
    """
    index = np.flatnonzero(depth)
    row, column = np.divmod(index, depth.shape[1])
    z = depth.reshape(-1)[index].astype(np.float64)
    points = np.stack([(column - K[0, 2]) / K[0, 0] * z, (row - K[1, 2]) / K[1, 1] * z, z], axis=1)
    return points.astype(np.float32), index.astype(np.int64)


def level_world(clouds: Sequence[Float32]) -> Float64:
    """T_world_recording float64[4, 4]: from the frame of some first camera (z forward, y down) to a world with z up.

    clouds: float32[N, 3] in the recording's frame. The convention is turned, and then the floor put at z = 0 as the
    clouds together show it, for such a first camera is rarely level: that of the kitchen of 7-Scenes looked down by 27
    degrees. Where no floor is seen, the turn is all.
    """
    T_turn = np.eye(4)
    T_turn[:3, :3] = R_BODY_OPTICAL
    T_floor = floor_transform(transform_points(T_turn, np.concatenate(clouds))) if clouds else None
    return T_turn if T_floor is None else T_floor @ T_turn
