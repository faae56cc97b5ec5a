"""Live transforms: tf2_ros where it is installed, else /tf and /tf_static into the core's own buffer."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time

from psg4d_ros.errors import ConfigError, TransformError
from psg4d_ros.structures import Float64
from psg4d_ros.transforms import TransformBuffer, TransformLookup, rigid

from .health import Health


@dataclass(frozen=True)
class TransformSource:
    """Where transforms come from. name: for status and diagnostics. clock_jumped_back: to be called when
    it did, or when stamps did.
    """

    lookup: TransformLookup | None
    name: str
    close: Callable[[], None] = lambda: None
    clock_jumped_back: Callable[[], None] = lambda: None


def open_transforms(node: Any, target_frame: str, health: Health) -> TransformSource:
    """The best source there is, or none when ``target_frame`` is empty.

    Raises ConfigError when a target frame is asked for and nothing that carries transforms is installed.
    """
    if not target_frame:
        return TransformSource(None, "not used (coordinates.target_frame is empty)")
    if importlib.util.find_spec("tf2_msgs") is None:
        raise ConfigError(
            f"coordinates.target_frame is {target_frame!r}, but no tf2_msgs is installed to receive transforms with; "
            "install tf2_ros for this ROS distribution, or leave target_frame empty"
        )
    if importlib.util.find_spec("tf2_ros") is not None:
        return _tf2_ros(node)
    return _own_buffer(node, health)


def _tf2_ros(node: Any) -> TransformSource:
    tf2_ros = importlib.import_module("tf2_ros")
    buffer = tf2_ros.Buffer()
    listener = tf2_ros.TransformListener(buffer, node)
    return TransformSource(Tf2Lookup(buffer, tf2_ros), "tf2_ros", listener.unregister, buffer.clear)


class Tf2Lookup:
    """TransformLookup on a tf2_ros buffer."""

    def __init__(self, buffer: Any, tf2_ros: Any) -> None:
        self._buffer = buffer
        self._tf2 = tf2_ros

    def lookup(self, target: str, source: str, stamp_ns: int) -> tuple[Float64, int]:
        """See TransformLookup. tf2 does not extrapolate, so past the newest transform the newest one is asked for."""
        target, source = target.lstrip("/"), source.lstrip("/")
        try:
            try:
                return _matrix(self._buffer.lookup_transform(target, source, Time(nanoseconds=stamp_ns))), 0
            except self._tf2.ExtrapolationException as error:
                newest = self._buffer.lookup_transform(target, source, Time())
                age_ns = stamp_ns - Time.from_msg(newest.header.stamp).nanoseconds
                if age_ns < 0:
                    raise TransformError(f"no transform {target} <- {source} that early: {error}") from error
                return _matrix(newest), age_ns
        except self._tf2.TransformException as error:
            known = ", ".join(sorted(_frames(self._buffer))) or "none"
            raise TransformError(f"no transform {target} <- {source}: {error}; known frames: {known}") from error


def _own_buffer(node: Any, health: Health) -> TransformSource:
    message_type = importlib.import_module("tf2_msgs.msg").TFMessage
    buffer = TransformBuffer()

    def fill(message: Any, static: bool) -> None:
        for transform in message.transforms:
            try:
                buffer.add(transform, static)
            except TransformError as error:
                line = health.complain("transforms_refused", str(error))
                if line:
                    node.get_logger().warning(line)

    latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    subscriptions = [
        node.create_subscription(message_type, "/tf", lambda m: fill(m, False), QoSProfile(depth=100)),
        node.create_subscription(message_type, "/tf_static", lambda m: fill(m, True), latched),
    ]

    def close() -> None:
        for subscription in subscriptions:
            node.destroy_subscription(subscription)

    # The buffer notices jumps by the transforms' own stamps and keeps what is static.
    return TransformSource(buffer, "/tf and /tf_static, own buffer (tf2_ros is not installed)", close)


def _matrix(message: Any) -> Float64:
    t, q = message.transform.translation, message.transform.rotation
    return rigid(np.array([t.x, t.y, t.z]), np.array([q.x, q.y, q.z, q.w]))


def _frames(buffer: Any) -> set[str]:
    """Names of all frames in a tf2_ros buffer."""
    described = yaml.safe_load(buffer.all_frames_as_yaml()) or {}
    if not isinstance(described, dict):
        return set()
    return set(described) | {str(frame["parent"]) for frame in described.values() if "parent" in frame}
