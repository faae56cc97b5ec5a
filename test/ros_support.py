"""What the ROS tests share: an own domain per test, a node that runs in a thread, and waiting with a reason."""

from __future__ import annotations

import fcntl
import itertools
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

# Tests must neither see nor disturb other ROS systems, and field types are checked as strictly as rclpy can.
ENVIRONMENT = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_PYTHON_CHECK_FIELDS": "1"}
os.environ.update(ENVIRONMENT)

_domains = itertools.count(os.getpid())
_locks: list[IO[str]] = []


def own_domain() -> int:
    """A ROS domain that no other test uses, not even one of another run on this machine (1 to 100 are free to use)."""
    for _ in range(200):
        domain = 1 + next(_domains) % 100
        lock = (Path(tempfile.gettempdir()) / f"ros_domain_{domain}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        _locks.append(lock)  # held until this process ends
        while len(_locks) > 20:
            _locks.pop(0).close()
        return domain
    raise AssertionError("all ROS domains are taken by other test runs")


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = 20.0) -> Any:
    """The first true value of ``condition()``; fails the test with ``what`` when none comes."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"waited {timeout_s:.0f} s for: {what}")


@contextmanager
def ros_context(domain: int | None = None) -> Iterator[Any]:
    """An rclpy context of its own, in a domain of its own."""
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    context = rclpy.Context()
    rclpy.init(
        context=context,
        domain_id=own_domain() if domain is None else domain,
        signal_handler_options=SignalHandlerOptions.NO,
    )
    try:
        yield context
    finally:
        rclpy.try_shutdown(context=context)


@contextmanager
def spinning(context: Any, *nodes: Any) -> Iterator[Any]:
    """Spin nodes in a thread of their own; the node of the test's side and the node under test never share one."""
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
    from rclpy.task import Future

    executor = SingleThreadedExecutor(context=context)
    for node in nodes:
        executor.add_node(node)
    done = Future()

    def spin() -> None:
        with suppress(ExternalShutdownException):
            executor.spin_until_future_complete(done)

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    try:
        yield executor
    finally:
        # Not by executor.shutdown(): that frees what the thread still works with, and the thread would die of it.
        done.set_result(None)
        thread.join(10.0)
        assert not thread.is_alive(), "a callback does not end"
        executor.shutdown()


def cloud_message(
    points: np.ndarray[Any, Any], stamp_ns: int, frame_id: str = "camera_optical_frame", pad_to_bytes: int = 0
) -> Any:
    """A PointCloud2 of float32[N, 3] points. pad_to_bytes: blow each point up until the cloud has about that size."""
    import array

    from sensor_msgs.msg import PointCloud2, PointField

    step = max(12, pad_to_bytes // max(1, len(points)) // 4 * 4)
    data = np.zeros((len(points), step), np.uint8)
    data[:, :12] = np.ascontiguousarray(points, np.float32).view(np.uint8).reshape(-1, 12)
    message = PointCloud2(height=1, width=len(points), point_step=step, row_step=step * len(points), is_dense=True)
    message.header.frame_id = frame_id
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    message.fields = [PointField(name=n, offset=4 * i, datatype=7, count=1) for i, n in enumerate("xyz")]
    message.data = array.array("B", data.tobytes())
    return message


def room(points: int = 2000, seed: int = 0) -> np.ndarray[Any, Any]:
    """float32[N, 3] in an optical frame (y down): a floor 1.2 m below the sensor, and two boxes on it."""
    rng = np.random.default_rng(seed)
    floor = np.column_stack([rng.uniform(-2, 2, points), np.full(points, 1.2), rng.uniform(1, 4, points)])
    boxes = [rng.uniform((x, 0.7, 2.0), (x + 0.5, 1.2, 2.5), (points // 4, 3)) for x in (-1.0, 0.6)]
    return np.concatenate([floor, *boxes]).astype(np.float32)


def values(status: Any) -> dict[str, str]:
    """The key-value pairs of a DiagnosticStatus."""
    return {pair.key: pair.value for pair in status.values}


class Process:
    """A process of the system under test, in a domain of the test's, with its output collected."""

    def __init__(self, command: list[str], domain: int, **environment: str) -> None:
        full = os.environ | ENVIRONMENT | {"ROS_DOMAIN_ID": str(domain), "PYTHONUNBUFFERED": "1"} | environment
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=full, errors="replace"
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        return "".join(self._lines)

    def wait_for(self, text: str, timeout_s: float = 60.0) -> None:
        """Wait until the process has printed ``text``; fail at once when it ends without."""
        end = time.monotonic() + timeout_s
        while text not in self.output:
            gone = self._process.poll() is not None
            if gone:
                self._reader.join(5.0)
            if text not in self.output:
                assert not gone, f"ended with {self._process.returncode} before {text!r}:\n{self.output}"
                assert time.monotonic() < end, f"no {text!r} within {timeout_s:.0f} s:\n{self.output}"
            time.sleep(0.02)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def ended(self, timeout_s: float = 30.0) -> int:
        """Wait for the end; the exit status."""
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s:.0f} s:\n{self.output}") from None
        self._reader.join(5.0)
        return status

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        self._lines.extend(iter(self._process.stdout.readline, ""))
