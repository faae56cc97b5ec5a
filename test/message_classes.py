"""The two kinds of message classes that the package works with."""

from __future__ import annotations

import pytest

from psg4d_ros.messages import MessageTypes

KINDS = ["rosbags", pytest.param("rclpy", marks=pytest.mark.ros)]


def message_classes(kind: str) -> MessageTypes:
    """Where classes of that kind come from; skips the test where they are not installed."""
    if kind == "rosbags":
        from psg4d_ros.data.bag import bag_types

        return bag_types()
    pytest.importorskip("rclpy", reason="rclpy is not installed")
    pytest.importorskip("psg4d_ros.msg", reason="psg4d_ros.msg is not built (make setup, or colcon build)")
    from psg4d_ros.ros.outputs import RclpyTypes

    return RclpyTypes()
