"""Reading and writing recordings (rosbag2: mcap and sqlite3; ROS 1 bags can be read) without any ROS installation."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection, Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from psg4d_ros.detections import VISION_MSGS
from psg4d_ros.errors import DatasetError, TransformError
from psg4d_ros.transforms import TransformBuffer
from psg4d_ros.version import share_directory

CLOUD_TYPE = "sensor_msgs/msg/PointCloud2"
TF_TYPE = "tf2_msgs/msg/TFMessage"
GROUND_TRUTH = "/ground_truth/"  # topics below hold what is true, not what a sensor saw (see bag_truth.py)
PREDICTED_CLOUDS = "/scene_graph/instances"  # how the topic of the node's own labelled clouds ends
Storage = Literal["mcap", "sqlite3"]

_log = logging.getLogger(__name__)
_FOREVER = QosTime(9223372036, 854775807)  # how rosbag2 writes an unset duration
_STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}


@cache
def _typestore() -> Typestore:
    """The messages of ROS 2, our own, read from their .msg files, and the detections of vision_msgs."""
    store = get_typestore(Stores.ROS2_KILTED)
    folder = share_directory() / "msg"
    files = sorted(folder.glob("*.msg"))
    if not files:
        raise DatasetError(f"no message definitions in {folder}; the installation is incomplete")
    types: dict[str, Any] = {}
    for file in files:
        types.update(get_types_from_msg(file.read_text(encoding="utf-8"), f"psg4d_ros/msg/{file.stem}"))
    for name, definition in VISION_MSGS.items():
        types.update(get_types_from_msg(definition, name))
    store.register(types)
    return store


class BagTypes:
    """MessageTypes (see messages.py) of rosbags: what BagWriter writes and what a Bag hands out."""

    def get(self, name: str) -> Any:
        try:
            return _typestore().types[name]
        except KeyError:
            raise DatasetError(f"unknown message type {name!r}, expected one like psg4d_ros/msg/SceneGraph") from None

    def array(self, values: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(values)


def bag_types() -> BagTypes:
    """Message classes for bags."""
    return BagTypes()


def serialize(message: Any) -> memoryview:
    """CDR bytes of a message of bag_types(). Raises DatasetError for anything else, or fields of wrong types."""
    kind = getattr(message, "__msgtype__", None)
    if not isinstance(kind, str) or kind not in _typestore().types:
        raise DatasetError(f"{type(message).__name__} is not a message of bag_types()")
    try:
        return _typestore().serialize_cdr(message, kind)
    except Exception as error:  # wrong types of fields fail in many ways
        raise DatasetError(f"a {kind} cannot be serialised: {_reason(error)}") from error


def deserialize(cdr: bytes | memoryview, message_type: str) -> Any:
    """A message of bag_types() from its CDR bytes. Raises DatasetError when they are not a message of that type."""
    BagTypes().get(message_type)
    try:
        return _typestore().deserialize_cdr(cdr, message_type)
    except Exception as error:  # hostile bytes fail in many ways
        raise DatasetError(f"{len(cdr)} bytes are not a {message_type}: {_reason(error)}") from error


class Bag:
    """An open recording; see open_bag. Messages come in the order of recording.

    Every fault of the file raises DatasetError with its path, the message it happened at, and the reason.
    """

    def __init__(self, path: Path, reader: AnyReader) -> None:
        self.path = path
        self._reader = reader

    @property
    def topics(self) -> dict[str, str]:
        """Message type of each topic, sorted by topic."""
        return {c.topic: c.msgtype for c in sorted(self._reader.connections, key=lambda c: c.topic)}

    @property
    def cloud_topics(self) -> tuple[str, ...]:
        """Topics that hold PointCloud2."""
        return tuple(topic for topic, kind in self.topics.items() if kind == CLOUD_TYPE)

    def count(self, topic: str) -> int:
        """Messages of one topic, as the bag's index states it."""
        return sum(c.msgcount for c in self._reader.connections if c.topic == topic)

    def choose_cloud_topic(self, topic: str | None = None) -> str:
        """``topic`` if it holds clouds; None: the only cloud topic there is, not counting ground truth and predictions.

        Raises DatasetError with the choice.
        """
        clouds, listed = self.cloud_topics, ", ".join(f"{t} ({k})" for t, k in self.topics.items()) or "none"
        if topic is not None:
            if topic not in clouds:
                what = f"holds {self.topics[topic]}" if topic in self.topics else "is not in the bag"
                raise DatasetError(f"{self.path}: topic {topic} {what}, expected PointCloud2; topics: {listed}")
            return topic
        clouds = tuple(t for t in clouds if not t.startswith(GROUND_TRUTH) and not t.endswith(PREDICTED_CLOUDS))
        if not clouds:
            raise DatasetError(f"{self.path} has no topic of type {CLOUD_TYPE}; topics: {listed}")
        if len(clouds) > 1:
            raise DatasetError(f"{self.path} has several cloud topics: {', '.join(clouds)}; choose one of them")
        return clouds[0]

    def clouds(
        self, topic: str | None = None, *, transforms: TransformBuffer | None = None, tf_wait_s: float = 0.1
    ) -> Iterator[tuple[Any, int]]:
        """(PointCloud2 message, time of recording in ns) of one topic (None: the only one), oldest first.

        transforms: filled on the way from /tf and /tf_static. Static transforms are all there before the first cloud;
        others up to ``tf_wait_s`` after each cloud, as the node waits for them. Memory stays bounded: no more than the
        clouds of that time are held.
        """
        topic = self.choose_cloud_topic(topic)
        if transforms is None:
            for _, message, received_ns in self.messages([topic]):
                yield message, received_ns
            return
        for _, message, received_ns in self.messages(self._tf_topics(static=True)):
            self._feed(transforms, message, received_ns, static=True)
        moving = self._tf_topics(static=False)
        waiting: deque[tuple[Any, int]] = deque()
        for name, message, received_ns in self.messages([topic, *moving]):
            while waiting and waiting[0][1] + round(tf_wait_s * 1e9) < received_ns:
                yield waiting.popleft()
            if name == topic:
                waiting.append((message, received_ns))
            else:
                self._feed(transforms, message, received_ns, static=False)
        yield from waiting

    def messages(self, topics: Collection[str] | None = None) -> Iterator[tuple[str, Any, int]]:
        """(topic, message, time of recording in ns) of the given topics (None: all), oldest first."""
        for record, (connection, received_ns, raw) in enumerate(self._records(topics)):
            try:
                message = self._reader.deserialize(raw, connection.msgtype)
            except Exception as error:  # decoding hostile bytes fails in many ways
                raise DatasetError(
                    f"{self.path}: message {record} of {connection.topic} is not a {connection.msgtype}: "
                    f"{_reason(error)}"
                ) from error
            yield connection.topic, message, received_ns

    def raw_messages(self, topics: Collection[str] | None = None) -> Iterator[tuple[str, str, bytes, int]]:
        """(topic, message type, CDR bytes, time of recording in ns), oldest first; ROS 2 bags only."""
        for connection, received_ns, raw in self._records(topics):
            yield connection.topic, connection.msgtype, bytes(raw), received_ns

    def _records(self, topics: Collection[str] | None) -> Iterator[tuple[Connection, int, bytes]]:
        chosen = [c for c in self._reader.connections if topics is None or c.topic in topics]
        if not chosen:
            return  # the reader takes an empty choice for all topics
        records, number = self._reader.messages(connections=chosen), 0
        while True:
            try:
                record = next(records, None)
            except Exception as error:  # reading a damaged file fails in many ways
                raise DatasetError(f"{self.path} cannot be read beyond message {number}: {_reason(error)}") from error
            if record is None:
                return
            yield record
            number += 1

    def _tf_topics(self, static: bool) -> list[str]:
        return [t for t, kind in self.topics.items() if kind.endswith("/TFMessage") and _is_static(t) == static]

    def _feed(self, transforms: TransformBuffer, message: Any, received_ns: int, static: bool) -> None:
        for t in message.transforms:
            try:
                transforms.add(t, static)
            except TransformError as error:  # tf2 leaves such transforms out as well, and goes on
                _log.warning("%s: transform recorded at %d ns left out: %s", self.path, received_ns, error)


def _is_static(topic: str) -> bool:
    return topic.rsplit("/", 1)[-1] == "tf_static"


def _is_latched(topic: str) -> bool:
    return _is_static(topic) or topic.rsplit("/", 1)[-1] == "label_info"


def _reason(error: BaseException) -> str:
    return f"{error}".rstrip(".") or type(error).__name__


class open_bag:
    """Context manager: ``with open_bag(path) as bag``. path: a rosbag2 folder, a single .mcap or .db3, or a ROS 1 .bag.

    Raises DatasetError when it is not there, not a bag, cut off, or of a version or message type that cannot be read.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._reader: AnyReader | None = None

    def __enter__(self) -> Bag:
        if not self._path.exists():
            raise DatasetError(f"{self._path} does not exist; expected a rosbag2 folder or file")
        try:
            reader = AnyReader([self._path], default_typestore=_typestore())
            reader.open()
        except Exception as error:  # a file that is not a bag fails in many ways
            raise DatasetError(
                f"{self._path} is not a readable bag (rosbag2 folder, .mcap, .db3 or .bag): {_reason(error)}"
            ) from error
        self._reader = reader
        return Bag(self._path, reader)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


class BagWriter:
    """Context manager that writes a rosbag2 folder, or, where the name ends in ``.mcap``, that single file; whole or
    not at all.

    Everything goes into a hidden folder beside ``path``, which takes the final name when the block ends well and is
    removed when it ends with an exception. A process that is killed leaves the hidden folder, never half a bag.
    The same messages give the same bytes. Raises DatasetError when ``path`` exists (unless ``overwrite``, which
    replaces it at the end) or cannot be written.
    """

    def __init__(self, path: Path | str, storage: Storage = "mcap", *, overwrite: bool = False) -> None:
        if storage not in _STORAGES:
            raise DatasetError(f"storage is {storage!r}, expected one of {', '.join(_STORAGES)}")
        self.path = Path(path)
        self._file = self.path.suffix == ".mcap"
        if self._file and storage != "mcap":
            raise DatasetError(f"{path} is to hold {storage}, expected a name without .mcap")
        self._storage = _STORAGES[storage]
        self._overwrite = overwrite
        self._folder: Path | None = None
        self._writer: Writer | None = None
        self._connections: dict[str, Connection] = {}

    def __enter__(self) -> BagWriter:
        if self.path.exists() and not self._overwrite:
            raise DatasetError(f"{self.path} exists already; give a new name, or remove it first")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.", dir=self.path.parent))
            # The files inside are named after their folder, so that has its final name from the start.
            self._writer = Writer(self._folder / self._name, version=9, storage_plugin=self._storage)
            self._writer.open()
        except OSError as error:
            raise DatasetError(f"{self.path} cannot be written: {error}") from error
        return self

    @property
    def _name(self) -> str:
        """Of the folder, and of the file in it."""
        return self.path.stem if self._file else self.path.name

    def write(self, topic: str, message: Any, stamp_ns: int) -> None:
        """Append a message (of bag_types()) under ``topic``. stamp_ns: its time of recording, nanoseconds."""
        raw = serialize(message)
        self.write_raw(topic, message.__msgtype__, raw, stamp_ns)

    def write_raw(self, topic: str, message_type: str, cdr: bytes | memoryview, stamp_ns: int) -> None:
        """Append a serialised message, e.g. one of Bag.raw_messages or of rclpy."""
        if self._writer is None:
            raise DatasetError(f"{self.path} is not open for writing; use it in a with block")
        connection = self._connections.get(topic)
        try:
            if connection is None:
                connection = self._connections[topic] = self._writer.add_connection(
                    topic, message_type, typestore=_typestore(), offered_qos_profiles=[_qos(latched=_is_latched(topic))]
                )
            elif connection.msgtype != message_type:
                raise DatasetError(f"{topic} holds {connection.msgtype}, cannot take a {message_type} as well")
            self._writer.write(connection, int(stamp_ns), cdr)
        except (OSError, KeyError) as error:
            raise DatasetError(f"{self.path}: a {message_type} cannot be written: {_reason(error)}") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        writer, folder = self._writer, self._folder
        self._writer = self._folder = None
        if writer is None or folder is None:
            return
        try:
            if kind is not None:
                writer.abort()
                return
            writer.close()
            if self.path.exists() and self._overwrite:
                os.replace(self.path, folder / ".replaced")
            made = folder / self._name
            os.rename(made / f"{self._name}.mcap" if self._file else made, self.path)
        except OSError as failure:
            raise DatasetError(f"{self.path} cannot be written: {failure}") from failure
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _qos(latched: bool) -> Qos:
    durability = QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE
    return Qos(
        QosHistory.KEEP_LAST, 1 if latched else 10, QosReliability.RELIABLE, durability,
        _FOREVER, _FOREVER, QosLiveliness.AUTOMATIC, _FOREVER, False,
    )  # fmt: skip
