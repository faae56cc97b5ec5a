"""The lifecycle node ``perception``: parameters, transitions and the way out. What it does is in session.py."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import traceback
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

from psg4d_ros.config import NodeConfig
from psg4d_ros.errors import Psg4dError
from psg4d_ros.torch_environment import prepare_torch

from . import params
from .process import run

NODE_NAME = "perception"
# An inference under way may finish, but a process that was told to end must not outlive the patience of ros2 launch,
# which sends SIGTERM after 5 s.
EXIT_PATIENCE_S = 3.0


class PerceptionNode(LifecycleNode):
    """configure: load and warm up; activate: subscribe; deactivate: stop; cleanup: free everything.

    Raises ConfigError for parameters that do not exist or do not fit.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(NODE_NAME, **arguments)
        self.config = params.declare(self, NodeConfig)
        self.add_on_set_parameters_callback(
            lambda changes: params.check_change(NodeConfig, changes, configured=self.session is not None)
        )
        self.session: Any = None
        self._state = "unconfigured"
        self._failure = ""
        # By the steady clock: a simulation that pauses must not silence the diagnostics.
        self._steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._diagnostics_timer = self.create_timer(
            self.config.diagnostics_period_s, self._publish_diagnostics, clock=self._steady_clock
        )

    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        started = time.monotonic()
        try:
            self.config = params.read(self, NodeConfig)
            # Here and not above: torch takes seconds to import, and wrong parameters should be told at once.
            from .session import Session

            self.session = Session(self, self.config, self._steady_clock)
        except Psg4dError as error:
            return self._refuse("configure", str(error))
        except Exception as error:
            return self._refuse("configure", "".join(traceback.format_exception(error)))
        pipeline = self.session.pipeline
        took_s = time.monotonic() - started
        self.get_logger().info(f"loaded {pipeline.model_id} from {self.session.checkpoint} in {took_s:.1f} s")
        if not pipeline.trained:
            self.get_logger().warning("this checkpoint is untrained: its labels, masks and relations mean nothing")
        self._state, self._failure = "inactive", ""
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: Any) -> TransitionCallbackReturn:
        super().on_activate(state)  # the publishers
        try:
            self.session.activate()
        except Exception as error:
            self.session.deactivate()
            super().on_deactivate(state)
            return self._refuse("activate", f"{type(error).__name__}: {error}")
        self._state, self._failure = "active", ""
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: Any) -> TransitionCallbackReturn:
        self.session.deactivate()
        self._state = "inactive"
        return super().on_deactivate(state)

    def on_cleanup(self, state: Any) -> TransitionCallbackReturn:
        self.free()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: Any) -> TransitionCallbackReturn:
        self.free()
        self._state = "finalized"
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: Any) -> TransitionCallbackReturn:
        self.free()
        return TransitionCallbackReturn.SUCCESS

    def free(self, timeout_s: float | None = None) -> bool:
        """Free the session. False when an inference is still under way after ``timeout_s``."""
        session, self.session = self.session, None
        self._state = "unconfigured"
        if session is None:
            return True
        ended = bool(session.close(timeout_s))
        del session
        from .session import free_memory

        free_memory()
        return ended

    def _refuse(self, transition: str, reason: str) -> TransitionCallbackReturn:
        self._failure = f"{transition} failed: {reason}"
        self.get_logger().error(self._failure)
        return TransitionCallbackReturn.FAILURE

    def _publish_diagnostics(self) -> None:
        if self.session is not None:
            message = self.session.diagnostics(self._state)
        else:
            name = f"{self.get_fully_qualified_name().lstrip('/')}: input"
            level = DiagnosticStatus.ERROR if self._failure else DiagnosticStatus.OK
            text = self._failure.splitlines()[0] if self._failure else self._state
            message = DiagnosticArray(status=[DiagnosticStatus(level=level, name=name, message=text)])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


class RosLogHandler(logging.Handler):
    """Forwards the core's log records to the node's logger."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        # One call per level: rclpy ties the level to the place of the call.
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        elif record.levelno >= logging.INFO:
            self._logger.info(text)
        else:
            self._logger.debug(text)


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to end. Exit status: 0 on SIGINT and SIGTERM, 1 when it could not start."""
    prepare_torch()
    nodes: list[PerceptionNode] = []

    def body() -> int:
        node = PerceptionNode()
        nodes.append(node)
        log = logging.getLogger("psg4d_ros")
        log.addHandler(RosLogHandler(node.get_logger()))
        log.setLevel(logging.INFO)  # ROS has levels of its own
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        if node.config.autostart:
            for transition in (node.trigger_configure, node.trigger_activate):
                if transition() is not TransitionCallbackReturn.SUCCESS:
                    return 1
        executor.spin()
        return 0

    status = run(NODE_NAME, args, body)
    ended = True
    for node in nodes:
        # A signal may have come while something was being made, which then cannot be taken down piece by piece; the end
        # of the context takes down the rest.
        with contextlib.suppress(RuntimeError, ValueError):
            ended = node.free(EXIT_PATIENCE_S)
        with contextlib.suppress(RuntimeError, ValueError):
            node.destroy_node()
    rclpy.try_shutdown()
    if not ended:
        # The worker is inside torch. Ending the interpreter under it would abort the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
