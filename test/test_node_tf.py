"""Live transforms through tf2_ros, which no wheel brings: a stand-in of its buffer with the same answers."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy: source a ROS 2 distribution, or run `make test` for the wheels")

from geometry_msgs.msg import TransformStamped
from rclpy.time import Time
from ros_support import cloud_message, room

from psg4d_ros.config import CoordinatesConfig, PipelineConfig, WindowConfig
from psg4d_ros.errors import TransformError
from psg4d_ros.ros.health import Health
from psg4d_ros.ros.intake import CloudIntake
from psg4d_ros.ros.tf import Tf2Lookup, TransformSource, open_transforms
from psg4d_ros.structures import PointFrame, Window
from psg4d_ros.transforms import GravityAligner
from psg4d_ros.window import SlidingWindow

pytestmark = pytest.mark.ros
S = 1_000_000_000
CACHE_NS = 10 * S  # what tf2 keeps


class TransformException(Exception):
    pass


class LookupException(TransformException):
    pass


class ExtrapolationException(TransformException):
    pass


class Buffer:
    """One edge, odom <- camera, that moves along z; it takes, refuses and interpolates as tf2's."""

    def __init__(self) -> None:
        self._heights: dict[int, float] = {}

    def put(self, stamp_ns: int, z: float) -> None:
        if not self._heights or stamp_ns >= max(self._heights) - CACHE_NS:  # tf2: TF_OLD_DATA, and ignored
            self._heights[stamp_ns] = z

    def clear(self) -> None:
        self._heights.clear()

    def all_frames_as_yaml(self) -> str:
        return "camera:\n  parent: 'odom'\n  broadcaster: 'x'\n" if self._heights else "[]"

    def lookup_transform(self, target: str, source: str, time: Time) -> TransformStamped:
        for name in (target, source):
            if not self._heights or name not in ("odom", "camera"):
                raise LookupException(f'"{name}" passed to lookupTransform does not exist')
        stamps = sorted(self._heights)
        asked = time.nanoseconds or stamps[-1]
        if not stamps[0] <= asked <= stamps[-1]:
            raise ExtrapolationException("Lookup would require extrapolation")
        found = TransformStamped(child_frame_id=source)
        found.header.frame_id = target
        found.header.stamp = Time(nanoseconds=asked).to_msg()
        found.transform.translation.z = float(np.interp(asked, stamps, [self._heights[s] for s in stamps]))
        return found


@pytest.fixture
def tf2(monkeypatch: pytest.MonkeyPatch) -> Any:
    """tf2_ros and tf2_msgs as modules that can be found and imported."""
    module: Any = types.ModuleType("tf2_ros")
    module.Buffer, module.TransformException = Buffer, TransformException
    module.LookupException, module.ExtrapolationException = LookupException, ExtrapolationException
    module.listeners = []

    class TransformListener:
        def __init__(self, buffer: Buffer, node: Any) -> None:
            self.buffer, self.unregistered = buffer, False
            module.listeners.append(self)

        def unregister(self) -> None:
            self.unregistered = True

    module.TransformListener = TransformListener
    for name, found in (("tf2_ros", module), ("tf2_msgs", types.ModuleType("tf2_msgs"))):
        found.__spec__ = importlib.machinery.ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, found)
    return module


@pytest.fixture
def source(tf2: Any) -> TransformSource:
    return open_transforms(SimpleNamespace(), "odom", Health())


def test_tf2_ros_is_used_where_it_is_and_closed(tf2: Any, source: TransformSource) -> None:
    assert source.name == "tf2_ros"
    assert isinstance(source.lookup, Tf2Lookup)
    (listener,) = tf2.listeners
    source.close()
    assert listener.unregistered


@pytest.mark.parametrize(
    ("stamp_ns", "height", "age_ns"),
    [(2 * S, 1.0, 0), (2 * S + S // 2, 1.5, 0), (3 * S, 2.0, 0), (3 * S + 7, 2.0, 7)],
    ids=["exact", "between two", "the newest", "past the newest"],
)
def test_a_lookup_is_interpolated_and_past_the_newest_tells_its_age(
    tf2: Any, source: TransformSource, stamp_ns: int, height: float, age_ns: int
) -> None:
    tf2.listeners[0].buffer.put(2 * S, 1.0)
    tf2.listeners[0].buffer.put(3 * S, 2.0)
    assert source.lookup is not None
    matrix, age = source.lookup.lookup("/odom", "camera", stamp_ns)  # tf2 knows no leading slash
    np.testing.assert_allclose(matrix, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, height], [0, 0, 0, 1]], atol=1e-12)
    assert age == age_ns


def test_a_lookup_before_the_oldest_is_an_error(tf2: Any, source: TransformSource) -> None:
    tf2.listeners[0].buffer.put(2 * S, 1.0)
    assert source.lookup is not None
    with pytest.raises(TransformError, match="odom <- camera that early"):
        source.lookup.lookup("odom", "camera", 1 * S)


@pytest.mark.parametrize("known", [True, False])
def test_an_unknown_frame_is_named_with_those_that_are_known(tf2: Any, source: TransformSource, known: bool) -> None:
    if known:
        tf2.listeners[0].buffer.put(2 * S, 1.0)
    assert source.lookup is not None
    with pytest.raises(TransformError) as caught:
        source.lookup.lookup("odom", "lidar", 2 * S)
    assert "odom <- lidar" in str(caught.value)
    assert f"known frames: {'camera, odom' if known else 'none'}" in str(caught.value)


class PushOnly:
    """The part of the pipeline that the intake sees, with the real window and aligner and without a model."""

    def __init__(self, config: PipelineConfig, source: TransformSource) -> None:
        self.config = config
        self.window = SlidingWindow(config.window)
        self.aligner = GravityAligner(config.coordinates, source.lookup)

    def push(self, frame: PointFrame) -> Window | None:
        return self.window.push(self.aligner.align(frame)) if self.window.admit(frame.stamp_ns).kept else None


@pytest.mark.parametrize("start_again_s", [1000, 100], ids=["within the cache", "beyond the cache"])
def test_a_bag_that_loops_without_a_clock_gets_the_transforms_of_its_new_pass(
    tf2: Any, source: TransformSource, start_again_s: int
) -> None:
    buffer, windows, reports, now = tf2.listeners[0].buffer, [], [], [0.0]
    config = PipelineConfig(
        window=WindowConfig(frame_interval_s=0.0),
        coordinates=CoordinatesConfig(target_frame="odom", tf_timeout_s=0.2),
    )
    pipeline = PushOnly(config, source)
    jumps: list[int] = []

    def jumped_back() -> None:
        jumps.append(pipeline.window.epoch)
        source.clock_jumped_back()

    intake = CloudIntake(
        pipeline,  # type: ignore[arg-type]
        source.lookup,
        offer=windows.append,
        now_ns=lambda: 0,
        report=lambda kind, error: reports.append((kind, str(error))),
        health=Health(),
        jumped_back=jumped_back,
        monotonic=lambda: now[0],
    )

    def take(stamp_ns: int) -> None:
        intake.take(cloud_message(room(100), stamp_ns, "camera"))

    for step in range(30):
        buffer.put(1000 * S + step * S // 10, 1.0)
        take(1000 * S + step * S // 10)
    take(1002 * S + S * 7 // 10)  # late, which is no jump
    assert (len(windows), jumps) == (30, [])
    start = start_again_s * S
    take(start)
    assert jumps == [0]
    for step in range(11):
        buffer.put(start + step * S // 10, 5.0)
    intake.drain()
    take(start + S)
    assert jumps == [0]
    assert [w.newest.stamp_ns for w in windows[30:]] == [start, start + S]
    assert {w.epoch for w in windows[30:]} == {1}
    assert source.lookup is not None
    assert source.lookup.lookup("odom", "camera", start + S // 20)[0][2, 3] == 5.0
    assert reports == []


def test_a_reset_is_no_jump(tf2: Any, source: TransformSource) -> None:
    """After /clock jumped the buffer is clear already, and holds what came since."""
    jumps: list[int] = []
    pipeline = PushOnly(PipelineConfig(window=WindowConfig(frame_interval_s=0.0)), source)
    intake = CloudIntake(
        pipeline,  # type: ignore[arg-type]
        None,
        offer=lambda window: None,
        now_ns=lambda: 0,
        report=lambda kind, error: None,
        health=Health(),
        jumped_back=lambda: jumps.append(0),
    )
    intake.take(cloud_message(room(100), 100 * S, "camera"))
    pipeline.window.reset()
    intake.take(cloud_message(room(100), 50 * S, "camera"))
    assert jumps == []
    # An epoch that began for another reason keeps its newest stamp.
    intake.take(cloud_message(room(100), 51 * S, "lidar"))
    assert pipeline.window.epoch == 2
    intake.take(cloud_message(room(100), 20 * S, "lidar"))
    assert jumps == [0]
