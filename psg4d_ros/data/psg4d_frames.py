"""The frames of PSG4D: RGB-D images of GTA V (SAIL-VOS 3D) and of HOI4D with their masks, as labelled clouds.

Folders, names and units as the data set's own tools use them: https://github.com/Jingkang50/PSG4D (data/GTA, data/HOI).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psg4d_ros.data.files import read_array, read_text
from psg4d_ros.data.recording import LabelledFrame
from psg4d_ros.data.rgbd import FRAME_ID, back_project, level_world, read_color, read_depth
from psg4d_ros.errors import DatasetError, TransformError
from psg4d_ros.structures import Float32, Float64, Int64, PointFrame
from psg4d_ros.transforms import check_rigid, transform_points

# Raw depth of SAIL-VOS 3D to depth in normalised device coordinates, as PSG4D's own tools convert it.
_GTA_DEPTH_SCALE, _GTA_DEPTH_OFFSET = 1.0 / 6.0, -4e-5
_GTA_FAR_M = 100.0  # beyond: sky and painted background
_OPTICAL_GL = np.diag([1.0, -1.0, -1.0, 1.0])  # x right, y up, z backward <-> x right, y down, z forward


@dataclass(frozen=True)
class GtaFrames:
    """A video of PSG4D-GTA. root: the folder of images/, depth/, masks/ and rage_matrices/."""

    root: Path
    video_id: str

    def read(self, number: int, stamp_ns: int, objects: Mapping[int, int], stride: int) -> LabelledFrame:
        """One labelled frame. objects: object_id of each mask value. stride: every n-th row and column is taken.

        Depth is what the game rendered; its world is metric with z up. Raises DatasetError naming the file at fault.
        """
        files = gta_files(self.root, self.video_id, number)
        depth = _image_array(files["depth"], "fiu").astype(np.float64)
        mask = _mask(files["mask"], read_array(files["mask"]), depth.shape)
        colors = read_color(files["image"], depth.shape)
        P_inv, VP_inv = (_matrix(files["rage_matrices"], name) for name in ("P_inv", "VP_inv"))
        T_world_camera = _pose(
            np.asarray(np.linalg.solve(P_inv, VP_inv).T @ _OPTICAL_GL, np.float64), files["rage_matrices"]
        )
        height, width = depth.shape
        rows, columns = np.mgrid[0:height:stride, 0:width:stride].reshape(2, -1)
        ndc = np.ones((len(rows), 4))
        ndc[:, 0] = 2.0 * columns / (width - 1) - 1.0
        ndc[:, 1] = 1.0 - 2.0 * rows / (height - 1)
        ndc[:, 2] = depth[rows, columns] * _GTA_DEPTH_SCALE + _GTA_DEPTH_OFFSET
        with np.errstate(all="ignore"):  # what is not finite is left out below
            camera = ndc @ P_inv
            points = (camera[:, :3] / camera[:, 3:]) * (1.0, -1.0, -1.0)
        kept = np.flatnonzero(np.isfinite(points).all(axis=1) & (points[:, 2] > 0.0) & (points[:, 2] < _GTA_FAR_M))
        index = (rows * width + columns)[kept]
        return _labelled(points[kept].astype(np.float32), index, colors, mask, objects, stamp_ns, T_world_camera)


@dataclass(frozen=True)
class HoiFrames:
    """A video of PSG4D-HOI. root: the folder of HOI4D_release/, HOI4D_depth_video/, HOI4D_mask/, camera_params/.

    Videos must have been decoded to images, as HOI4D's utils/decode.py does it with ffmpeg (15 frames a second, from
    00000). T_recording_camera: float64[F, 4, 4] camera poses, or None where 3Dseg/output.log is absent.
    T_world_recording: gravity, see rgbd.level_world.
    """

    root: Path
    video_id: str
    T_recording_camera: Float64 | None
    T_world_recording: Float64

    def read(self, number: int, stamp_ns: int, objects: Mapping[int, int], stride: int) -> LabelledFrame:
        """As GtaFrames.read; the world is level where the floor could be seen, see open_hoi."""
        files = hoi_files(self.root, self.video_id, number)
        depth, points, index = _hoi_points(files, stride)
        mask = read_array(files["mask"], "array")  # the data set's masks are stored with the columns first
        mask = _mask(files["mask"], mask if mask.shape != depth.shape[::-1] else mask.T, depth.shape)
        colors = read_color(files["image"], (depth.shape[0], depth.shape[1]))
        T = self.T_world_recording
        if self.T_recording_camera is not None:
            if number >= len(self.T_recording_camera):
                poses = hoi_pose_file(self.root, self.video_id)
                raise DatasetError(f"{poses} has {len(self.T_recording_camera)} poses, frame {number} has none")
            T = T @ self.T_recording_camera[number]
        return _labelled(points, index, colors, mask, objects, stamp_ns, T)


def open_hoi(root: Path, video_id: str, num_frames: int) -> HoiFrames:
    """The frames of a video; its poses are read, and gravity found from a few frames together, when it is opened."""
    poses = hoi_pose_file(root, video_id)
    T = read_pose_log(poses) if poses.exists() else None
    spread = np.unique(np.linspace(0, num_frames - 1, 3).astype(int)) if T is not None else np.zeros(1, int)
    clouds = []
    for number in spread:
        _, points, _ = _hoi_points(hoi_files(root, video_id, int(number)), stride=8)
        if T is None:
            clouds.append(points)
        elif number < len(T):
            clouds.append(transform_points(T[number], points))
    return HoiFrames(root, video_id, T, level_world(clouds))


def gta_files(root: Path, video_id: str, number: int) -> dict[str, Path]:
    """The files of one frame of PSG4D-GTA by their kind."""
    kinds = {"image": "bmp", "depth": "npy", "mask": "npy", "rage_matrices": "npz"}
    folders = {"image": "images", "mask": "masks"}
    return {k: root / folders.get(k, k) / video_id / f"{number:06d}.{suffix}" for k, suffix in kinds.items()}


def hoi_pose_file(root: Path, video_id: str) -> Path:
    """Where the camera's poses of a video of HOI4D are."""
    return root / "HOI4D_annotations" / video_id / "3Dseg" / "output.log"


def read_pose_log(path: Path) -> Float64:
    """float64[F, 4, 4] camera-to-world from a trajectory file of the Redwood form.

    Per frame: a line of three numbers, then the 4 x 4 matrix.
    """
    lines = [line.split() for line in read_text(path).splitlines() if line.strip()]
    if not lines or len(lines) % 5:
        raise DatasetError(f"{path} has {len(lines)} lines, expected five for each frame (a header and a 4 x 4 matrix)")
    try:
        T = np.array([[float(word) for word in line] for i, line in enumerate(lines) if i % 5], np.float64)
        T = T.reshape(-1, 4, 4)
    except ValueError as error:
        raise DatasetError(f"{path} does not hold 4 x 4 matrices: {error}") from None
    return np.stack([_pose(pose, path) for pose in T])


def hoi_files(root: Path, video_id: str, number: int) -> dict[str, Path]:
    """The files of one frame of HOI4D by their kind."""
    return {
        "image": root / "HOI4D_release" / video_id / "align_rgb" / f"{number:05d}.jpg",
        "depth": root / "HOI4D_depth_video" / video_id / "align_depth" / f"{number:05d}.png",
        "mask": root / "HOI4D_mask" / video_id / "mask" / f"{number:05d}.npz",
        "intrinsics": root / "camera_params" / video_id.split("/")[0] / "intrin.npy",
    }


def _hoi_points(files: Mapping[str, Path], stride: int) -> tuple[Float32, Float32, Int64]:
    """Depth image, points in the camera frame, their pixels."""
    depth = read_depth(files["depth"])
    K = read_array(files["intrinsics"])
    if K.shape != (3, 3) or K.dtype.kind != "f" or not np.isfinite(K).all() or K[0, 0] <= 0 or K[1, 1] <= 0:
        raise DatasetError(f"{files['intrinsics']} is {K.tolist()}, expected the 3 x 3 pinhole matrix in pixels")
    thinned = np.zeros_like(depth)
    thinned[::stride, ::stride] = depth[::stride, ::stride]
    points, index = back_project(thinned, K.astype(np.float64))
    return depth, points, index


def _image_array(path: Path, kinds: str) -> NDArray[Any]:
    values = read_array(path)
    if values.ndim != 2 or values.dtype.kind not in kinds or min(values.shape) < 2:
        raise DatasetError(f"{path} is {values.dtype} of shape {values.shape}, expected one number a pixel [H, W]")
    return values


def _mask(path: Path, mask: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if mask.shape != shape or mask.dtype.kind not in "iu":
        raise DatasetError(f"{path} is {mask.dtype} of shape {mask.shape}, expected integers of its depth's {shape}")
    return mask


def _matrix(path: Path, name: str) -> Float64:
    values = read_array(path, name)
    if values.shape != (4, 4) or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
        raise DatasetError(f"{path}: {name} is {values.dtype} of shape {values.shape}, expected 4 x 4 finite numbers")
    if abs(np.linalg.det(values)) < 1e-12:
        raise DatasetError(f"{path}: {name} is singular, expected an invertible matrix")
    return values.astype(np.float64)


def _pose(T: Float64, path: Path) -> Float64:
    """A pose that is rigid within the rounding of float32 files, made exactly so in its last row."""
    if abs(T[3, 3]) > 0.5 and np.abs(T[3, :3]).max() < 1e-3:
        T = np.vstack([T[:3] / T[3, 3], (0.0, 0.0, 0.0, 1.0)])
    try:
        check_rigid(T, "the camera's pose")
    except TransformError as error:
        raise DatasetError(f"{path}: {error}") from error
    return T


def _labelled(
    points: Float32,
    index: NDArray[np.int64],
    colors: NDArray[np.uint8],
    mask: NDArray[Any],
    objects: Mapping[int, int],
    stamp_ns: int,
    T_world_sensor: Float64,
) -> LabelledFrame:
    """objects: object_id of each value of the mask; other values are nobody's."""
    frame = PointFrame(points, colors.reshape(-1, 3)[index], None, index.astype(np.int64), stamp_ns, FRAME_ID)
    values, which = np.unique(mask.reshape(-1)[index], return_inverse=True)
    ids = np.array([objects.get(int(value), 0) for value in values], np.int32)
    return LabelledFrame(frame, T_world_sensor, ids[which].reshape(-1) if len(values) else np.zeros(0, np.int32))
