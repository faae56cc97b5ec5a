"""The helpers of the ROS tests themselves."""

from __future__ import annotations

import threading
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs rclpy: source a ROS 2 distribution, or run `make test` for the wheels")

from ros_support import ros_context, spinning

pytestmark = pytest.mark.ros


def test_an_executor_is_shut_down_when_its_thread_has_ended_and_not_under_it() -> None:
    from rclpy.node import Node

    begun, go_on, order = threading.Event(), threading.Event(), []

    def callback() -> None:
        begun.set()
        assert go_on.wait(10)
        order.append("callback ended")

    with ros_context() as context:
        node = Node("under_test", context=context, use_global_arguments=False)
        node.create_timer(0.001, callback)
        with spinning(context, node) as executor:
            shutdown = executor.shutdown

            def told(*arguments: Any, **named: Any) -> Any:
                order.append("shutdown")
                return shutdown(*arguments, **named)

            executor.shutdown = told
            assert begun.wait(10)
            threading.Timer(0.3, go_on.set).start()  # while the helper is already ending the thread
        node.destroy_node()
    assert order[0] == "callback ended"
    assert order[-1] == "shutdown"
