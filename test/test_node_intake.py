"""From message to due window: stamps, order, late transforms, and errors that cost one cloud."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("sensor_msgs", reason="needs the ROS messages: source a ROS 2 distribution, or run `make test`")

from ros_support import cloud_message, room

from psg4d_ros.config import CoordinatesConfig, PipelineConfig, WindowConfig
from psg4d_ros.errors import TransformError
from psg4d_ros.ros.health import Health
from psg4d_ros.ros.intake import MAX_WAITING, CloudIntake
from psg4d_ros.structures import PointFrame, Window
from psg4d_ros.transforms import GravityAligner, TransformBuffer
from psg4d_ros.window import Admission, SlidingWindow

pytestmark = pytest.mark.ros
S = 1_000_000_000


class PushOnly:
    """The part of the pipeline that the intake sees, with the real window and aligner and without a model."""

    def __init__(self, config: PipelineConfig, transforms: TransformBuffer | None) -> None:
        self.config = config
        self.window = SlidingWindow(config.window)
        self.aligner = GravityAligner(config.coordinates, transforms)
        self.pushed: list[int] = []

    def push(self, frame: PointFrame) -> Window | None:
        self.pushed.append(frame.stamp_ns)
        if self.window.admit(frame.stamp_ns) not in (Admission.ACCEPT, Admission.NEW_EPOCH):
            return None
        return self.window.push(self.aligner.align(frame))


class Bench:
    """An intake with a clock that the test moves."""

    def __init__(self, target_frame: str = "") -> None:
        self.now, self.ros_now_ns = 0.0, 5 * S
        self.transforms = TransformBuffer() if target_frame else None
        coordinates = CoordinatesConfig(target_frame=target_frame, tf_timeout_s=0.2, tf_max_age_s=0.5)
        self.pipeline = PushOnly(
            PipelineConfig(window=WindowConfig(frame_interval_s=0.0), coordinates=coordinates), self.transforms
        )
        self.windows: list[Window] = []
        self.reports: list[tuple[str, Exception]] = []
        self.health = Health(monotonic=lambda: self.now)
        self.intake = CloudIntake(
            self.pipeline,  # type: ignore[arg-type]
            self.transforms,
            offer=self.windows.append,
            now_ns=lambda: self.ros_now_ns,
            report=lambda kind, error: self.reports.append((kind, error)),
            health=self.health,
            monotonic=lambda: self.now,
        )

    def take(self, stamp_ns: int, frame_id: str = "camera") -> None:
        self.intake.take(cloud_message(room(50), stamp_ns, frame_id))

    def transform_at(self, stamp_ns: int) -> None:
        assert self.transforms is not None
        self.transforms.set_transform("odom", "camera", stamp_ns, (0, 0, 1), (0, 0, 0, 1))

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.reports]


def test_a_good_cloud_becomes_a_due_window() -> None:
    bench = Bench()
    bench.take(3 * S)
    assert [w.newest.stamp_ns for w in bench.windows] == [3 * S]
    assert bench.reports == []
    assert bench.health.counts()["clouds_received"] == 1
    assert bench.health.callback.percentiles() is not None


def test_a_cloud_without_a_stamp_gets_its_time_of_arrival_and_a_warning() -> None:
    bench = Bench()
    bench.take(0)
    assert [w.newest.stamp_ns for w in bench.windows] == [bench.ros_now_ns]
    assert bench.kinds == ["stamps_replaced"]


def test_a_cloud_without_a_stamp_before_the_clock_started_is_refused() -> None:
    bench = Bench()
    bench.ros_now_ns = 0
    bench.take(0)
    assert bench.windows == []
    assert bench.kinds == ["clouds_rejected"]
    assert "no /clock yet" in str(bench.reports[0][1])


def test_a_broken_cloud_costs_itself_only() -> None:
    bench = Bench()
    broken = cloud_message(room(50), 1 * S)
    broken.fields = broken.fields[:2]
    bench.intake.take(broken)
    bench.take(2 * S)
    assert bench.kinds == ["clouds_rejected"]
    assert [w.newest.stamp_ns for w in bench.windows] == [2 * S]


def test_an_error_of_ours_costs_the_cloud_and_is_told_apart() -> None:
    bench = Bench()

    def fail(frame: PointFrame) -> Window:
        raise KeyError("a bug")

    bench.pipeline.push = fail  # type: ignore[method-assign]
    bench.take(1 * S)
    assert bench.kinds == ["errors"]


def test_older_equal_and_jumping_stamps_are_counted_and_never_raise() -> None:
    bench = Bench()
    for stamp_s in (100.0, 100.3, 100.3, 100.1, 90.0, 90.3, 500.0):
        bench.take(round(stamp_s * S))
    assert bench.reports == []
    counts = bench.pipeline.window.counts
    assert (counts["duplicate"], counts["late"], counts["epochs"]) == (1, 1, 2)
    assert [w.epoch for w in bench.windows] == [0, 0, 1, 1, 2]


def test_a_cloud_waits_for_its_transform_and_those_behind_it_keep_their_order() -> None:
    bench = Bench("odom")
    bench.transform_at(1 * S)
    bench.take(2 * S)  # its transform has not come yet; extrapolating at once would be less exact than waiting
    bench.take(2 * S + 1, frame_id="odom")  # needs no transform, yet must not overtake
    assert bench.windows == []
    assert bench.intake.waiting == 2
    bench.transform_at(3 * S)
    bench.intake.drain()
    assert bench.pipeline.pushed == [2 * S, 2 * S + 1]
    assert bench.windows[0].newest.alignment == "tf"
    assert not bench.windows[0].newest.stale_tf
    assert bench.intake.waiting == 0


def test_when_the_time_is_up_a_slightly_old_transform_stands_in() -> None:
    bench = Bench("odom")
    bench.transform_at(2 * S - S // 10)
    bench.take(2 * S)
    bench.now = 0.19
    bench.intake.drain()
    assert bench.windows == []
    bench.now = 0.21
    bench.intake.drain()
    assert bench.windows[0].newest.stale_tf
    assert bench.reports == []


@pytest.mark.parametrize("transform_at_s", [None, 1.0, 4.0], ids=["missing", "too old", "from the future"])
def test_when_the_time_is_up_without_a_usable_transform_the_cloud_is_counted(transform_at_s: float | None) -> None:
    bench = Bench("odom")
    if transform_at_s is not None:
        bench.transform_at(round(transform_at_s * S))
    bench.take(3 * S)
    bench.now = 0.3
    bench.intake.drain()
    assert bench.windows == []
    assert bench.kinds == ["transforms_failed"]
    assert isinstance(bench.reports[0][1], TransformError)


def test_clouds_that_wait_are_bounded_and_can_be_forgotten() -> None:
    bench = Bench("odom")
    for number in range(MAX_WAITING + 10):
        bench.take(3 * S + number)
    assert bench.intake.waiting == MAX_WAITING
    assert bench.kinds == ["transforms_failed"] * 10
    bench.intake.forget()
    assert bench.intake.waiting == 0


def test_clouds_of_two_frames_on_one_topic_are_complained_of_with_the_remedy() -> None:
    bench = Bench()
    for number, frame_id in enumerate(("left", "left", "right", "left"), 1):
        bench.take(number * S, frame_id)
    assert [w.epoch for w in bench.windows] == [0, 0, 1, 2]
    assert bench.kinds == ["core_frame_changes"] * 2
    text = str(bench.reports[-1][1])
    assert "'right'" in text and "'left'" in text and "set coordinates.target_frame" in text


def test_points_without_a_finite_coordinate_still_make_a_window() -> None:
    bench = Bench()
    bench.intake.take(cloud_message(np.full((10, 3), np.nan, np.float32), 1 * S))
    window: Any = bench.windows[0]
    assert len(window.newest.frame) == 0
    assert bench.reports == []
