"""Simulated scenes on disk: one .npz file per scene, the same bytes whenever the same scene is written.

Inside are range images, colours or intensities, and instance images, [frames, height, width] each, and
``annotation.json`` with everything else: sensor, stamps, poses, objects and relations. See docs/data.md.
"""

from __future__ import annotations

import io
import json
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from psg4d_ros.data.recording import AttributeSpan, LabelledFrame, Recording, TrueObject, TrueRelation
from psg4d_ros.data.simulation.sensors import Scan, Sensor, scan_points, sensor_from_json, sensor_json
from psg4d_ros.errors import DatasetError
from psg4d_ros.structures import Float64, Int64, PointFrame
from psg4d_ros.transforms import invert_rigid, rigid

WORLD_FRAME_ID = "world"
_ANNOTATION = "annotation.json"
_FORMAT = "psg4d_ros simulated scene"
_FORMAT_VERSION = 1
_MAX_FRAMES, _MAX_ANNOTATION_BYTES = 100_000, 64 << 20
# Range images of real sensors are noise to any compressor; a higher level costs time and saves next to nothing.
_COMPRESSION_LEVEL = 2


@dataclass(frozen=True, eq=False)
class SceneData:
    """A simulated scene as it is kept: what a Recording is made from.

    stamps_ns: int64[F]. mount_poses: float64[F, 7] pose of the sensor's mount in the world frame: x, y, z in metres and
    a unit quaternion x, y, z, w. open_scans: starts a pass over the F scans. settings: what the scene was made with.
    """

    name: str
    sensor: Sensor
    stamps_ns: Int64
    mount_poses: Float64
    objects: tuple[TrueObject, ...]
    relations: tuple[TrueRelation, ...]
    open_scans: Callable[[], Iterator[Scan]]
    settings: dict[str, Any] = field(default_factory=dict)

    def T_world_sensor(self, number: int) -> Float64:
        """float64[4, 4]: the sensor's pose in a frame."""
        return sensor_pose(self.sensor, self.mount_poses[number])

    def recording(self) -> Recording:
        """The scene as training and evaluation see it. Raises DatasetError when its truth contradicts itself."""
        return Recording(
            self.name, self.objects, self.relations, self.stamps_ns, self._frames, select_frames=self._select
        )

    def _frames(self) -> Iterator[LabelledFrame]:
        return self._select(range(len(self.stamps_ns)))

    def _select(self, numbers: Sequence[int]) -> Iterator[LabelledFrame]:
        wanted = set(numbers)
        image_width = self.sensor.shape[1] if self.sensor.kind == "depth" else None
        for number, scan in enumerate(islice(self.open_scans(), max(wanted, default=-1) + 1)):
            if number in wanted:
                frame, instance = scan_frame(self.sensor, scan, int(self.stamps_ns[number]))
                yield LabelledFrame(frame, self.T_world_sensor(number), instance, image_width)


def sensor_pose(sensor: Sensor, mount_pose: Float64) -> Float64:
    """T_world_sensor float64[4, 4] from the pose of the mount, float64[7], by the path that a reader of TF takes."""
    T_mount_sensor = rigid(np.zeros(3), np.array(sensor.mount_quaternion))
    return invert_rigid(np.eye(4)) @ (rigid(mount_pose[:3], mount_pose[3:]) @ T_mount_sensor)


def scan_frame(sensor: Sensor, scan: Scan, stamp_ns: int) -> tuple[PointFrame, NDArray[np.int32]]:
    """The measured points of a scan, in the sensor's frame, and int32[N], whose each is.

    ``source_index`` of the points is the pixel, row * W + column.
    """
    index = np.flatnonzero(scan.ranges.reshape(-1))
    intensity = None
    if scan.intensity is not None:
        intensity = scan.intensity.reshape(-1)[index].astype(np.float32)
    frame = PointFrame(
        points=scan_points(sensor, scan.ranges)[index],
        colors=None if scan.colors is None else scan.colors.reshape(-1, 3)[index],
        intensity=intensity,
        source_index=index.astype(np.int64),
        stamp_ns=stamp_ns,
        frame_id=sensor.frame_id,
    )
    return frame, scan.instance.reshape(-1)[index].astype(np.int32)


def write_scene(path: Path, scene: SceneData) -> None:
    """Write a scene whole or not at all. Raises DatasetError when the file cannot be written."""
    scans = list(scene.open_scans())
    arrays = {"ranges": np.stack([s.ranges for s in scans]), "instance": np.stack([s.instance for s in scans])}
    second = "colors" if scans[0].colors is not None else "intensity"
    arrays[second] = np.stack([getattr(s, second) for s in scans])
    annotation = json.dumps(_annotation(scene), indent=None, separators=(",", ":"), sort_keys=True)

    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            _write_entry(archive, _ANNOTATION, annotation.encode())
            for name, values in arrays.items():
                buffer = io.BytesIO()
                np.lib.format.write_array(buffer, values, allow_pickle=False)
                _write_entry(archive, f"{name}.npy", buffer.getbuffer())

    write_whole(path, write)


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file whole or not at all; ``write`` puts the content into an open file.

    Raises DatasetError when it cannot be written; nothing is left behind then.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
            temporary = Path(file.name)
            write(file)
        temporary.chmod(0o644)  # temporary files are private
        temporary.replace(path)
    except OSError as error:
        raise DatasetError(f"{path} cannot be written: {error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _write_entry(archive: zipfile.ZipFile, name: str, content: bytes | memoryview) -> None:
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))  # no clock in the file
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content, zipfile.ZIP_DEFLATED, _COMPRESSION_LEVEL)


def read_scene(path: Path) -> SceneData:
    """The annotation of a scene file; its images are read when somebody looks at the frames.

    Raises DatasetError, naming the file and what is wrong with it: at once for the annotation, when their frames are
    read for the images.
    """
    with _opened(path) as archive:
        raw = _content(path, archive, _ANNOTATION, _MAX_ANNOTATION_BYTES)
        try:
            values = json.loads(raw)
        except ValueError as error:
            raise DatasetError(f"{path}: {_ANNOTATION} is not JSON: {error}") from error
    return _scene(path, values)


def open_scene(path: Path) -> Recording:
    """A scene file as a Recording; errors as read_scene."""
    return read_scene(path).recording()


def open_folder(path: Path) -> list[Recording]:
    """All scenes of a folder written by ``psg4d simulate``, by name. Raises DatasetError when there is none."""
    return [open_scene(file) for file in scene_files(path)]


def scene_files(path: Path) -> list[Path]:
    """The scene files of a folder, by name. Raises DatasetError when there is none."""
    files = sorted(path.glob("*.npz")) if path.is_dir() else []
    if not files:
        raise DatasetError(f"{path} holds no scene files (*.npz); expected a folder written by `psg4d simulate`")
    return files


class _opened:
    """Context manager: the zip archive of a scene file, with every fault of it as a DatasetError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> zipfile.ZipFile:
        try:
            self._archive = zipfile.ZipFile(self._path)
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise DatasetError(f"{self._path} is not a readable scene file (.npz): {error}") from error
        return self._archive

    def __exit__(self, *reason: object) -> None:
        self._archive.close()


@contextmanager
def _faults_of(path: Path, archive: zipfile.ZipFile, name: str) -> Iterator[None]:
    """What goes wrong while an entry is read, as a DatasetError."""
    try:
        yield
    except KeyError:
        raise DatasetError(f"{path} has no {name}; it holds {', '.join(archive.namelist()[:8]) or 'nothing'}") from None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, ValueError) as error:
        raise DatasetError(f"{path}: {name} is damaged: {error or 'it ends too early'}") from error


def _content(path: Path, archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """An entry's bytes, refused when there are more than ``most``, whatever the archive's directory claims."""
    with _faults_of(path, archive, name), archive.open(name) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise DatasetError(f"{path}: {name} holds more than the {most} bytes expected")
    return content


def _read_scans(path: Path, sensor: Sensor, frames: int) -> Iterator[Scan]:
    """The arrays are read side by side: whoever stops early has not unpacked the rest."""
    second = "colors" if sensor.kind == "depth" else "intensity"
    shape = (frames, *sensor.shape)
    with _opened(path) as archive:
        ranges = _rows(path, archive, "ranges", np.dtype("<u2"), shape)
        instance = _rows(path, archive, "instance", np.dtype("<u2"), shape)
        extra = _rows(path, archive, second, np.dtype("u1"), (*shape, 3) if second == "colors" else shape)
        for measured, owner, more in zip(ranges, instance, extra, strict=True):
            colors, intensity = (more, None) if second == "colors" else (None, more)
            yield Scan(measured, colors, intensity, owner)


def _rows(
    path: Path, archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> Iterator[NDArray[Any]]:
    """An array of the archive, entry by entry of its first axis; never more of it than the annotation speaks of."""
    entry, row_bytes = f"{name}.npy", int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
    with _faults_of(path, archive, entry):
        file = archive.open(entry)
    with file:
        with _faults_of(path, archive, entry):
            wrong = _wrong_header(file, dtype, shape)
        if wrong:
            raise DatasetError(f"{path}: {entry} is not the array it should be: {wrong}")
        for number in range(shape[0]):
            with _faults_of(path, archive, entry):
                content = file.read(row_bytes)
                more = file.read(1) if number + 1 == shape[0] else b""  # the checksum is compared at the very end
            if len(content) < row_bytes:
                raise DatasetError(f"{path}: {entry} is damaged: it ends in frame {number} of {shape[0]}")
            if more:
                raise DatasetError(f"{path}: {entry} holds more than the {shape[0]} frames expected")
            yield np.frombuffer(content, dtype).reshape(shape[1:])


def _wrong_header(file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> str:
    """What is wrong with an array's header, "" if nothing is."""
    try:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            return f"version {version}, expected (1, 0)"
        found_shape, fortran, found = np.lib.format.read_array_header_1_0(file)
    except (ValueError, SyntaxError, tokenize.TokenError) as error:  # the header is a Python literal
        return str(error)
    if (found_shape, found, fortran) != (shape, dtype, False):
        return f"{found} {found_shape}, expected {dtype} {shape} as the annotation says"
    return ""


def _annotation(scene: SceneData) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "version": _FORMAT_VERSION,
        "name": scene.name,
        "settings": scene.settings,
        "sensor": sensor_json(scene.sensor),
        "world_frame_id": WORLD_FRAME_ID,
        "stamps_ns": scene.stamps_ns.tolist(),
        "mount_poses": scene.mount_poses.tolist(),
        "objects": [
            {
                "object_id": o.object_id,
                "label": o.label,
                "is_thing": o.is_thing,
                "attributes": [[a.name, a.start_frame, a.end_frame] for a in o.attributes],
            }
            for o in scene.objects
        ],
        "relations": [[r.subject_id, r.predicate, r.object_id, r.start_frame, r.end_frame] for r in scene.relations],
    }


def _scene(path: Path, values: Any) -> SceneData:
    if not isinstance(values, dict) or values.get("format") != _FORMAT or values.get("version") != _FORMAT_VERSION:
        raise DatasetError(f"{path}: {_ANNOTATION} is not one of a {_FORMAT}, version {_FORMAT_VERSION}")
    place = f"{path}: {_ANNOTATION}"
    try:
        sensor = sensor_from_json(values["sensor"], place)
        stamps = np.array(values["stamps_ns"], dtype=np.int64)
        poses = np.array(values["mount_poses"], dtype=np.float64)
        if stamps.ndim != 1 or not 1 <= len(stamps) <= _MAX_FRAMES:
            raise ValueError(f"stamps_ns holds {stamps.shape} numbers, expected 1 to {_MAX_FRAMES} in a row")
        if poses.shape != (len(stamps), 7):
            raise ValueError(f"mount_poses is {poses.shape}, expected {(len(stamps), 7)}")
        if not np.isfinite(poses).all() or (np.abs(np.linalg.norm(poses[:, 3:], axis=1) - 1.0) > 1e-6).any():
            raise ValueError("mount_poses must be finite, with quaternions of length 1")
        objects = tuple(_object(entry) for entry in values["objects"])
        relations = tuple(TrueRelation(*_typed(entry, (int, str, int, int, int))) for entry in values["relations"])
        name, settings = _typed((values["name"], values["settings"]), (str, dict))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        what = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise DatasetError(f"{place}: {what}") from error
    frames = len(stamps)
    open_scans = partial(_read_scans, path, sensor, frames)  # no lambda: a recording goes to other processes
    scene = SceneData(name, sensor, stamps, poses, objects, relations, open_scans, settings)
    try:
        scene.recording()  # checks ids, spans and stamps
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from error
    return scene


def _object(entry: dict[str, Any]) -> TrueObject:
    object_id, label, is_thing = _typed((entry["object_id"], entry["label"], entry["is_thing"]), (int, str, bool))
    spans = tuple(AttributeSpan(*_typed(span, (str, int, int))) for span in entry["attributes"])
    return TrueObject(object_id, label, is_thing, spans)


def _typed(values: Any, types: tuple[type, ...]) -> Any:
    """``values`` itself, when it is a sequence of exactly these types; else ValueError."""
    if len(values) != len(types) or any(type(v) is not t for v, t in zip(values, types, strict=True)):
        raise ValueError(f"{values!r} should be {', '.join(t.__name__ for t in types)}")
    return values
