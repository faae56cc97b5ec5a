"""Where clouds come from: a bag, or a folder of PCD files, KITTI velodyne scans or RGB-D images.

One interface, so that whatever runs on a recording runs on each of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from psg4d_ros.cloud import cloud_message, frame_from_cloud
from psg4d_ros.data import rgbd, velodyne
from psg4d_ros.data.bag import Bag, bag_types, open_bag
from psg4d_ros.data.files import check_folder
from psg4d_ros.data.pcd import read_pcd
from psg4d_ros.errors import CloudError, DatasetError
from psg4d_ros.structures import Float64, PointFrame
from psg4d_ros.transforms import NS_PER_S, TransformBuffer, rigid, transform_points

WORLD_FRAME = "world"  # parent of the sensor's frame, for folders that bring poses
PCD_FRAME_ID = "sensor"
RATE_HZ = {"pcd": 10.0, "velodyne": 10.0, "rgbd": 30.0}  # of folders whose files carry no times: KITTI's, Kinect's
_FORMS = "*.pcd, *.bin (KITTI velodyne) or frame-*.depth.png (7-Scenes), each gzipped or not"
FIRST_STAMP_NS = NS_PER_S  # of folders whose files carry no times; 0 would mean "no stamp"
_GRAVITY_FRAMES = 5


class FrameSource(Protocol):
    """An open recording. name: of its file or folder. topic: of its clouds, or the form of a folder's files."""

    name: str
    topic: str

    def __len__(self) -> int:
        """Clouds, as far as the recording says."""

    def frames(self, transforms: TransformBuffer, tf_wait_s: float) -> Iterator[Callable[[], PointFrame]]:
        """One call per cloud, oldest first, that decodes it or raises Psg4dError for this cloud alone.

        transforms: filled on the way; for bags as the node would have them, up to ``tf_wait_s`` after each cloud.
        """


@contextmanager
def open_frame_source(
    path: Path | str, *, topic: str | None = None, rate_hz: float | None = None
) -> Iterator[FrameSource]:
    """Context manager: ``with open_frame_source(path) as source``. path: a bag, or a folder of frames.

    topic: the bag's cloud topic; None takes the only one. rate_hz: frames per second of a folder whose files carry no
    times; None: the usual rate of its sensor (RATE_HZ). Raises DatasetError for what is neither, and for a topic given
    for a folder or a rate for a bag.
    """
    path = Path(path)
    if path.is_dir() and not is_bag_folder(path):
        if topic is not None:
            raise DatasetError(f"{path} is a folder of frames and has no topics, {topic} was asked for")
        yield _open_folder(path, rate_hz)
        return
    with open_bag(path) as bag:
        if rate_hz is not None:
            raise DatasetError(f"{path} is a bag, its clouds bring their times; expected no rate, got {rate_hz} Hz")
        yield _BagFrames(bag, bag.choose_cloud_topic(topic))


def is_bag_folder(path: Path) -> bool:
    """Whether a folder is one bag, and not one of frames (or of many bags)."""
    return any(next(path.glob(pattern), None) is not None for pattern in ("metadata.yaml", "*.mcap", "*.db3"))


class _BagFrames:
    def __init__(self, bag: Bag, topic: str) -> None:
        self.name, self.topic = bag.path.name, topic
        self._bag = bag

    def __len__(self) -> int:
        return self._bag.count(self.topic)

    def frames(self, transforms: TransformBuffer, tf_wait_s: float) -> Iterator[Callable[[], PointFrame]]:
        for message, received_ns in self._bag.clouds(self.topic, transforms=transforms, tf_wait_s=tf_wait_s):
            yield partial(_decode, message, received_ns)


def _decode(message: Any, received_ns: int) -> PointFrame:
    stamp = message.header.stamp
    unset = stamp.sec == 0 and stamp.nanosec == 0  # then the time of recording is the best there is
    return frame_from_cloud(message, stamp_ns=received_ns if unset else None)


class _FolderFrames:
    """Files of one form. read: number of the frame -> the frame, and its sensor's pose in WORLD_FRAME if known."""

    def __init__(self, name: str, form: str, number: int, read: Callable[[int], tuple[PointFrame, Float64 | None]]):
        self.name, self.topic = name, form
        self._number, self._read = number, read

    def __len__(self) -> int:
        return self._number

    def frames(self, transforms: TransformBuffer, tf_wait_s: float) -> Iterator[Callable[[], PointFrame]]:
        for number in range(self._number):
            yield partial(self._frame, number, transforms)

    def _frame(self, number: int, transforms: TransformBuffer) -> PointFrame:
        frame, T_world_sensor = self._read(number)
        if T_world_sensor is not None:
            quaternion = Rotation.from_matrix(T_world_sensor[:3, :3]).as_quat()
            transforms.set_transform(WORLD_FRAME, frame.frame_id, frame.stamp_ns, T_world_sensor[:3, 3], quaternion)
        return frame


def _open_folder(folder: Path, rate_hz: float | None) -> FrameSource:
    """The form is told by the files that are there; more than one form in a folder is an error, not a guess."""
    if rate_hz is not None and not 1e-3 <= rate_hz <= 1e6:
        raise DatasetError(f"rate_hz is {rate_hz}, expected 0.001 to 1000000 frames per second")
    check_folder(folder, "a recording")
    scans = folder / "velodyne" if (folder / "velodyne").is_dir() else folder
    found = {
        "pcd": _files(folder, ".pcd"),
        "velodyne": _files(scans, ".bin"),
        "rgbd": _files(folder, ".depth.png"),
    }
    forms = [form for form, files in found.items() if files]
    if len(forms) != 1:
        what = f"files of several forms: {', '.join(forms)}" if forms else "no frames"
        raise DatasetError(f"{folder} holds {what}; expected a bag or one form of {_FORMS}")
    (form,) = forms
    open_form = {"pcd": _pcd_folder, "velodyne": _velodyne_folder, "rgbd": _rgbd_folder}[form]
    return open_form(folder, found[form], rate_hz or RATE_HZ[form])


def _pcd_folder(folder: Path, files: list[Path], rate_hz: float) -> FrameSource:
    """The pose is the file's VIEWPOINT."""
    files, stamps = _in_order(files, rate_hz)

    def read(number: int) -> tuple[PointFrame, Float64 | None]:
        pcd = read_pcd(files[number])
        try:
            frame = frame_from_cloud(cloud_message(pcd.points, stamps[number], PCD_FRAME_ID, bag_types()))
        except CloudError as error:
            raise DatasetError(f"{files[number]}: {error}") from error
        turn = np.roll(pcd.viewpoint[3:], -1)  # the file has w first
        length = float(np.linalg.norm(turn))
        if abs(length - 1.0) > 0.01:
            raise DatasetError(f"{files[number]}: VIEWPOINT has a quaternion of length {length:.3g}, expected 1")
        return frame, rigid(pcd.viewpoint[:3], turn / length)

    return _FolderFrames(folder.name, "pcd", len(files), read)


def _velodyne_folder(folder: Path, files: list[Path], rate_hz: float) -> FrameSource:
    """A folder of scans, or a KITTI odometry sequence: velodyne/*.bin with times.txt, poses.txt and calib.txt."""
    files, stamps = _in_order(files, rate_hz)
    sequence = files[0].parent.parent if files[0].parent.name == "velodyne" else folder
    times, poses, calibration = (sequence / name for name in ("times.txt", "poses.txt", "calib.txt"))
    lines = [_frame_number(file) for file in files]
    if times.exists():
        stamps = [FIRST_STAMP_NS + int(t) for t in _rows(velodyne.read_kitti_times(times), lines, times)]
    T = _rows(velodyne.read_kitti_poses(poses, calibration), lines, poses) if poses.exists() else None

    def read(number: int) -> tuple[PointFrame, Float64 | None]:
        return velodyne.read_velodyne(files[number], stamps[number]), None if T is None else T[number]

    return _FolderFrames(folder.name, "velodyne", len(files), read)


def _rows(values: NDArray[Any], lines: list[int], path: Path) -> NDArray[Any]:
    if max(lines) >= len(values):
        raise DatasetError(f"{path} has {len(values)} lines, scan {max(lines):06d} needs line {max(lines) + 1}")
    return np.asarray(values[lines])


def _rgbd_folder(folder: Path, files: list[Path], rate_hz: float) -> FrameSource:
    """frame-000000.depth.png with .color.png or .color.jpg and .pose.txt beside it, and the camera's intrinsics."""
    files, stamps = _in_order(files, rate_hz)
    intrinsics = folder / rgbd.INTRINSICS_FILE
    if not intrinsics.exists():
        raise DatasetError(
            f"{folder} has no {rgbd.INTRINSICS_FILE}: the pinhole matrix of the depth camera, three lines of three "
            "numbers; for 7-Scenes it is 585 0 320 / 0 585 240 / 0 0 1"
        )
    K = rgbd.read_intrinsics(intrinsics)
    # What one frame has, all must have: one that lacks it is an error of that frame, not a frame without.
    posed = any(_beside(file, ".pose.txt").exists() for file in files)
    colored = any(_color_of(file) is not None for file in files)

    def read_cloud(number: int) -> tuple[PointFrame, Float64 | None]:
        depth = rgbd.read_depth(files[number])
        color = _color_of(files[number])
        if colored and color is None:
            raise DatasetError(f"{files[number]} has no .color.png or .color.jpg beside it, as other frames here have")
        points, index = rgbd.back_project(depth, K)
        colors = None if color is None else rgbd.read_color(color, depth.shape).reshape(-1, 3)[index]
        frame = PointFrame(points, colors, None, index, stamps[number], rgbd.FRAME_ID)
        return frame, rgbd.read_pose(_beside(files[number], ".pose.txt")) if posed else None

    T_world_recording = _level(read_cloud, len(files)) if posed else np.eye(4)

    def read(number: int) -> tuple[PointFrame, Float64 | None]:
        frame, T_recording_camera = read_cloud(number)
        return frame, None if T_recording_camera is None else T_world_recording @ T_recording_camera

    return _FolderFrames(folder.name, "rgbd", len(files), read)


def _level(read: Callable[[int], tuple[PointFrame, Float64 | None]], number: int) -> Float64:
    """T_world_recording from a few frames spread over the folder, see rgbd.level_world."""
    clouds = []
    for i in np.unique(np.linspace(0, number - 1, _GRAVITY_FRAMES).astype(int)):
        with suppress(DatasetError):  # said when the frame itself is read
            frame, T_recording_camera = read(int(i))
            assert T_recording_camera is not None
            clouds.append(transform_points(T_recording_camera, frame.points))
    return rgbd.level_world(clouds)


def _files(folder: Path, suffix: str) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.name.removesuffix(".gz").endswith(suffix) and p.is_file())


def _beside(depth: Path, suffix: str) -> Path:
    return depth.with_name(depth.name.removesuffix(".gz").removesuffix(".depth.png") + suffix)


def _color_of(depth: Path) -> Path | None:
    return next((c for c in (_beside(depth, f".color.{kind}") for kind in ("png", "jpg")) if c.exists()), None)


def _in_order(files: list[Path], rate_hz: float) -> tuple[list[Path], list[int]]:
    """Files by time, and their stamps in nanoseconds.

    Names that hold a date and time (20121214T142255.814212, read as UTC), seconds since 1970 with a fraction, or 19
    digits of nanoseconds are taken at their word; in others the last number counts frames, ``rate_hz`` a second.
    """
    read = next((f for f in (_date, _seconds, _nanoseconds) if any(f(file) is not None for file in files)), None)
    stamps: dict[int, Path] = {}
    first = min(_frame_number(file) for file in files) if read is None else 0
    for file in files:
        stamp = read(file) if read else FIRST_STAMP_NS + round((_frame_number(file) - first) * NS_PER_S / rate_hz)
        if stamp is None:
            timed = next(other.name for other in files if read is not None and read(other) is not None)
            raise DatasetError(f"{file} has no time in its name as {timed} has; expected the same form for all")
        if stamp >= 2**63:
            raise DatasetError(f"{file} would be of the time {stamp} ns, expected below 2^63: its number is too large")
        if stamp in stamps:
            raise DatasetError(f"{stamps[stamp]} and {file} are of the same time; expected one file a frame")
        stamps[stamp] = file
    return [stamps[t] for t in sorted(stamps)], sorted(stamps)


def _stem(file: Path) -> str:
    return file.name.removesuffix(".gz").removesuffix(".depth.png").removesuffix(".pcd").removesuffix(".bin")


def _date(file: Path) -> int | None:
    found = re.search(r"(?<!\d)(\d{8}T\d{6})(?:\.(\d{1,9}))?(?!\d)", _stem(file))
    if found is None:
        return None
    try:
        time = datetime.strptime(found[1], "%Y%m%dT%H%M%S").replace(tzinfo=timezone.utc)
    except ValueError:
        return None
    return int(time.timestamp()) * NS_PER_S + int((found[2] or "").ljust(9, "0"))


def _seconds(file: Path) -> int | None:
    found = re.search(r"(?<!\d)(\d{9,10})\.(\d{1,9})(?!\d)", _stem(file))
    return None if found is None else int(found[1]) * NS_PER_S + int(found[2].ljust(9, "0"))


def _nanoseconds(file: Path) -> int | None:
    found = re.search(r"(?<!\d)\d{19}(?!\d)", _stem(file))
    return None if found is None or int(found[0]) >= 2**63 else int(found[0])


def _frame_number(file: Path) -> int:
    numbers = re.findall(r"\d+", _stem(file))
    if not numbers:
        raise DatasetError(f"{file} has no number in its name; expected one such as 000000.bin that says its place")
    if len(numbers[-1]) > 18:
        raise DatasetError(f"{file} has a number of {len(numbers[-1])} digits in its name, expected at most 18")
    return int(numbers[-1])
