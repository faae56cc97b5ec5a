"""How our processes start and end: one line for what is wrong, and one clean way out, however many signals come."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

import rclpy
from rclpy.executors import ExternalShutdownException

from psg4d_ros.errors import ConfigError, Psg4dError


def run(name: str, arguments: list[str] | None, body: Callable[[], int]) -> int:
    """Initialise rclpy, run ``body`` until it ends or a signal comes, and return the exit status.

    0 also after SIGINT and SIGTERM, which raise KeyboardInterrupt wherever ``body`` is; 1 after a Psg4dError. The
    context is left open for what the caller has to take down; from the first signal on no other interrupts it.
    """
    try:
        _interrupt_on_first_signal()
        try:
            rclpy.init(args=arguments)
        except RuntimeError as error:  # wrong --ros-args, a params file that does not parse
            raise ConfigError(str(error)) from error
        return body()
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    except Psg4dError as error:
        rclpy.logging.get_logger(name).fatal(str(error))
        return 1
    finally:
        _ignore_signals()


def _interrupt_on_first_signal() -> None:
    """rclpy's own handlers come on top of these and call them."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        # ros2 launch passes a Ctrl-C on that the terminal has sent already; the second one must not break the way out.
        _ignore_signals()
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
