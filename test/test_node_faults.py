"""What can go wrong around a running node: each row ends in a clear word or a degraded status, and the node goes on."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs rclpy: source a ROS 2 distribution, or run `make test` for the wheels")

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from node_support import TOPIC, Probe, make_node, running, stamp_of
from rclpy.clock import ClockChange, TimeJump
from rclpy.duration import Duration
from rclpy.parameter import Parameter
from rclpy.qos import ReliabilityPolicy
from ros_support import cloud_message, room, ros_context, spinning, values, wait_until

from psg4d_ros.ros import diagnostics, load, outputs, qos
from psg4d_ros.ros.health import Health
from psg4d_ros.srv import QuerySceneGraph

pytestmark = pytest.mark.ros


def count(status: DiagnosticStatus, name: str) -> int:
    return int(values(status)[name])


# --- quality of service


def test_auto_follows_a_best_effort_publisher(tiny_checkpoint: Path) -> None:
    with ros_context() as context:
        node = make_node(context, tiny_checkpoint)
        node.trigger_configure()
        node.trigger_activate()
        with spinning(context, node):
            probe = Probe(context, reliability=ReliabilityPolicy.BEST_EFFORT)
            with spinning(context, probe.node):
                status = probe.status("input", lambda s: values(s)["reliability"] == "BEST_EFFORT")
                assert count(status, "resubscribed") == 1
                probe.send_and_wait()
        node.free()


def test_a_reliable_subscription_to_a_best_effort_publisher_says_what_to_change(tiny_checkpoint: Path) -> None:
    with ros_context() as context:
        node = make_node(context, tiny_checkpoint, input__reliability="reliable")
        node.trigger_configure()
        node.trigger_activate()
        probe = Probe(context, reliability=ReliabilityPolicy.BEST_EFFORT)
        with spinning(context, node), spinning(context, probe.node):
            status = probe.status("input", lambda s: s.level == DiagnosticStatus.ERROR)
            assert "BEST_EFFORT only" in status.message
            assert "input.reliability" in status.message
        node.free()


def test_a_qos_override_wins_over_auto(tiny_checkpoint: Path) -> None:
    override = {f"qos_overrides.{TOPIC}.subscription.reliability": "best_effort"}
    with running(tiny_checkpoint, **override) as (_, probe):
        assert values(probe.status("input"))["reliability"] == "BEST_EFFORT"
        probe.send_and_wait()


def test_large_best_effort_clouds_without_a_profile_name_the_one_we_ship(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FASTDDS_DEFAULT_PROFILES_FILE", raising=False)
    with running(tiny_checkpoint, input__reliability="best_effort") as (_, probe):
        probe.send_and_wait(pad_to_bytes=1_000_000)
        status = probe.status("input", lambda s: "shared memory" in s.message)
        assert status.level == DiagnosticStatus.WARN
        assert "config/fastdds.xml" in status.message


@pytest.mark.parametrize("sent", [0, 1], ids=["from the start", "after a cloud"])
@pytest.mark.parametrize("reliability", ["auto", "best_effort"])
@pytest.mark.parametrize("profile", ["", "/some/profile.xml"], ids=["no profile", "profile"])
def test_a_publisher_that_is_silent_is_warned_of_whatever_the_qos_and_profile(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, sent: int, reliability: str, profile: str
) -> None:
    monkeypatch.setattr(qos, "SILENCE_S", 0.3)
    with running(tiny_checkpoint, input__reliability=reliability) as (_, probe):
        # Only now: Fast DDS of this process must not look for it.
        monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE", raising=False)
        monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", profile)
        for _ in range(sent):
            probe.send_and_wait()
        status = probe.status("input", lambda s: "no cloud" in s.message)
        assert status.level == DiagnosticStatus.WARN
        assert f"no cloud {'for' if sent else 'yet'}" in status.message
        # Whether the publisher has the profile cannot be seen from here.
        assert ("in the publisher's process too" in status.message) is (reliability == "best_effort")
        assert ("in this process" in status.message) is (reliability == "best_effort" and not profile)


def test_silence_counts_from_the_moment_that_somebody_publishes(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(qos, "time", SimpleNamespace(monotonic=lambda: now[0]))
    health = Health(monotonic=lambda: now[0])
    with ros_context() as context:
        node = make_node(context, tiny_checkpoint)
        subscription = qos.CloudSubscription(node, node.config.input, print, health)
        subscription.open()
        now[0] += 100.0
        assert subscription.match().problem == ""  # nobody is there to be silent
        publisher = Probe(context)
        wait_until(lambda: subscription.match().publishers == 1, "the publisher")
        now[0] += qos.SILENCE_S - 1
        assert subscription.match().problem == ""
        now[0] += 2
        assert "no cloud yet" in subscription.match().problem
        health.cloud_arrived(10)
        assert subscription.match().problem == ""
        now[0] += qos.SILENCE_S + 1
        assert "no cloud for 6 s" in subscription.match().problem
        # While it was not subscribed nothing could come.
        subscription.close()
        subscription.open()
        assert subscription.match().problem == ""
        subscription.destroy()
        publisher.node.destroy_node()
        node.destroy_node()


def test_clouds_that_the_middleware_lost_are_counted_as_dropped(tiny_checkpoint: Path) -> None:
    with running(tiny_checkpoint) as (node, probe):
        # Fast DDS reports this by an event; real losses need a full shared-memory segment of another process.
        node.session._subscription._on_lost(SimpleNamespace(total_count_change=3))
        status = probe.status("input", lambda s: count(s, "messages_lost") == 3)
        assert status.level == DiagnosticStatus.WARN
        assert "lost 3 clouds" in status.message and "fastdds.xml" in status.message
        assert count(status, "frames_dropped") == 3


def test_another_message_type_on_the_cloud_topic_is_told(tiny_checkpoint: Path) -> None:
    from rclpy.node import Node
    from std_msgs.msg import String

    # From another participant: within one, a topic has one type.
    with running(tiny_checkpoint) as (node, probe), ros_context(node.context.get_domain_id()) as elsewhere:
        stranger = Node("stranger", context=elsewhere, use_global_arguments=False)
        stranger.create_publisher(String, TOPIC, 1)
        status = probe.status("input", lambda s: "std_msgs/msg/String" in s.message)
        assert status.level >= DiagnosticStatus.WARN


# --- load


def test_a_burst_of_ten_times_the_rate_loses_no_cloud_and_serves_the_newest_windows(tiny_checkpoint: Path) -> None:
    parameters = {"window__frame_interval_s": 0.0, "input__depth": 200}
    with running(tiny_checkpoint, **parameters) as (_, probe):
        probe.send_and_wait()
        stamps = [probe.send(probe.stamp_ns + 10_000_000) for _ in range(100)]
        probe.graph_of(stamps[-1])
        status = probe.status("input", lambda s: count(s, "clouds_received") == 101)
        assert count(status, "accepted") == 101
        assert count(status, "frames_dropped") == 0
        status = probe.status("inference", lambda s: count(s, "windows_due") == 101)
        assert count(status, "windows_processed") + count(status, "windows_replaced") == 101
        assert count(status, "windows_replaced") > 0
        assert [g.sequence for g in probe.graphs] == list(range(len(probe.graphs)))


def test_what_nobody_listens_to_is_not_built(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    for name in ("instance_cloud", "marker_array", "event_message"):
        real = getattr(outputs, name)

        def counted(*args: Any, _real: Any = real, _name: str = name) -> Any:
            built.append(_name)
            return _real(*args)

        monkeypatch.setattr(outputs, name, counted)
    with running(tiny_checkpoint) as (_, probe):
        probe.send_and_wait()
        assert built == []
        instances, markers = probe.collect_instances(), probe.collect_markers()
        wait_until(lambda: _subscribed(probe, "instances") and _subscribed(probe, "markers"), "both subscriptions")
        graph = probe.send_and_wait()
        wait_until(lambda: instances and markers, "cloud and markers")
        assert stamp_of(instances[-1]) == stamp_of(graph)
        assert {"instance_cloud", "marker_array"} <= set(built)


def _subscribed(probe: Probe, name: str) -> bool:
    return bool(probe.node.count_subscribers(f"/scene_graph/{name}"))


def test_a_subscriber_that_comes_late_gets_the_labels(tiny_checkpoint: Path) -> None:
    with running(tiny_checkpoint) as (node, probe):
        probe.send_and_wait()
        labels = probe.collect_labels()
        wait_until(lambda: labels, "the latched label table")
        assert labels[0].class_names[:2] == list(node.session.pipeline.vocabulary.class_names[:2])
        assert len(labels[0].class_is_thing) == len(labels[0].class_names)
        assert labels[0].model_id == "tiny"


# --- errors


def test_a_broken_cloud_is_counted_and_the_next_one_works(tiny_checkpoint: Path) -> None:
    with running(tiny_checkpoint) as (_, probe):
        broken = cloud_message(room(100), probe.stamp_ns)
        broken.point_step = 10
        probe.clouds.publish(broken)
        status = probe.status("input", lambda s: count(s, "clouds_rejected") == 1)
        assert status.level == DiagnosticStatus.WARN
        assert "point_step" in status.message
        probe.send_and_wait()


def test_a_fault_in_the_worker_is_an_error_and_the_next_window_works(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tiny_checkpoint) as (node, probe):
        pipeline = node.session.pipeline
        infer, failures = pipeline.infer, [ZeroDivisionError("injected")]
        monkeypatch.setattr(pipeline, "infer", lambda w: _raise(failures.pop()) if failures else infer(w))
        probe.send()
        status = probe.status("inference", lambda s: s.level == DiagnosticStatus.ERROR)
        assert "ZeroDivisionError: injected" in status.message
        assert count(status, "windows_failed") == 1
        probe.send_and_wait()


def test_an_inference_that_does_not_end_is_told_of(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "LONG_INFERENCE_S", 0.2)
    go_on = threading.Event()
    with running(tiny_checkpoint) as (node, probe):
        pipeline = node.session.pipeline
        infer = pipeline.infer
        monkeypatch.setattr(pipeline, "infer", lambda w: go_on.wait(30) and infer(w))
        try:
            stamp_ns = probe.send()
            status = probe.status("inference", lambda s: "has been under way for" in s.message)
            assert status.level == DiagnosticStatus.WARN
            assert float(values(status)["under_way_s"]) > 0
        finally:
            go_on.set()
        probe.graph_of(stamp_ns)
        probe.status("inference", lambda s: values(s)["under_way_s"] == "0.0" and "under way" not in s.message)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_inference_thread_that_is_gone_is_an_error(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tiny_checkpoint) as (node, probe):
        pipeline = node.session.pipeline
        infer, failures = pipeline.infer, [SystemExit("injected")]
        monkeypatch.setattr(pipeline, "infer", lambda w: _raise(failures.pop()) if failures else infer(w))
        probe.send()
        status = probe.status("inference", lambda s: s.level == DiagnosticStatus.ERROR)
        assert "the inference thread has ended; deactivate and activate" in status.message
        for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
            assert probe.call(ChangeState, "change_state", transition=Transition(id=transition)).success
        probe.connected().send_and_wait()
        probe.status("inference", lambda s: "thread" not in s.message)


def _raise(error: BaseException) -> Any:
    raise error


def test_out_of_memory_makes_the_node_do_less_say_so_and_recover(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "GOOD_WINDOWS_TO_RECOVER", 2)
    with running(tiny_checkpoint, inference__max_points=9000) as (node, probe):
        pipeline = node.session.pipeline
        infer, failures = pipeline.infer, [MemoryError("injected")]
        monkeypatch.setattr(pipeline, "infer", lambda w: _raise(failures.pop()) if failures else infer(w))
        probe.send(points=3000)
        status = probe.status("inference", lambda s: count(s, "out_of_memory") == 1)
        assert status.level == DiagnosticStatus.ERROR
        assert values(status)["relations"] == "false"
        # The cloud has 4500 points: half of what did not fit, not half of a limit that was not reached.
        assert pipeline.config.inference.max_points == 2250
        graph = probe.send_and_wait()
        assert graph.status == graph.DEGRADED_TRUNCATED
        assert "memory ran out" in graph.status_text
        for _ in range(4):
            graph = probe.send_and_wait()
        wait_until(lambda: pipeline.config.inference.max_points == 9000, "the configured limits")
        assert pipeline.config.inference.relations
        assert "memory ran out" not in probe.send_and_wait().status_text


# --- stamps and clocks


def test_a_cloud_without_stamp_is_taken_at_its_arrival_and_counted(tiny_checkpoint: Path) -> None:
    with running(tiny_checkpoint) as (node, probe):
        before = node.get_clock().now().nanoseconds
        probe.send(0)
        wait_until(lambda: probe.graphs, "a graph")
        assert before <= stamp_of(probe.graphs[0]) <= node.get_clock().now().nanoseconds
        status = probe.status("input", lambda s: count(s, "stamps_replaced") == 1)
        assert status.level == DiagnosticStatus.WARN


def test_older_and_repeated_stamps_are_counted_and_a_bag_loop_opens_a_new_epoch(tiny_checkpoint: Path) -> None:
    with running(tiny_checkpoint) as (_, probe):
        first = probe.send_and_wait()
        start = stamp_of(first)
        probe.send(start)
        probe.send(start - 100_000_000)
        status = probe.status("input", lambda s: count(s, "duplicate") == 1 and count(s, "late") == 1)
        assert count(status, "frames_dropped") == 0
        looped = probe.graph_of(probe.send(start - 60 * 10**9))
        assert (first.epoch, looped.epoch) == (0, 1)
        ahead = probe.graph_of(probe.send(start + 3600 * 10**9))
        assert ahead.epoch == 2


def test_a_bag_that_loops_without_a_clock_clears_the_transforms(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from psg4d_ros.ros import session
    from psg4d_ros.ros.tf import TransformSource

    cleared: list[int] = []
    source = TransformSource(None, "a stand-in", clock_jumped_back=lambda: cleared.append(1))
    monkeypatch.setattr(session, "open_transforms", lambda *arguments: source)
    with running(tiny_checkpoint) as (_, probe):
        start = stamp_of(probe.send_and_wait())
        probe.graph_of(probe.send(start + 10**9))
        assert cleared == []
        assert probe.graph_of(probe.send(start - 60 * 10**9)).epoch == 1
        assert cleared == [1]


@pytest.mark.parametrize(
    ("change", "delta_ns", "text"),
    [
        (ClockChange.ROS_TIME_NO_CHANGE, -1_500_000_000, "the clock jumped back by 1.5 s"),
        (ClockChange.ROS_TIME_ACTIVATED, 7 * 10**9, "the clock changed to simulated time (/clock)"),
        (ClockChange.ROS_TIME_DEACTIVATED, 7 * 10**9, "the clock changed to system time"),
    ],
)
def test_a_jump_of_the_clock_is_named_for_what_it_is(change: ClockChange, delta_ns: int, text: str) -> None:
    from psg4d_ros.ros.session import jump_text

    assert jump_text(TimeJump(change, Duration(nanoseconds=delta_ns))) == text


def test_turning_simulated_time_on_is_not_told_as_a_jump_back(
    tiny_checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with running(tiny_checkpoint) as (node, probe):
        capfd.readouterr()
        for value, text in ((True, "the clock changed to simulated time"), (False, "the clock changed to system time")):
            assert node.set_parameters([Parameter("use_sim_time", value=value)])[0].successful
            said = ""

            def told(text: str = text) -> bool:
                nonlocal said
                said += "".join(capfd.readouterr())
                return text in said

            wait_until(told, text)
            assert "jumped back" not in said
        status = probe.status("input", lambda s: count(s, "clock_jumps") == 2)
        assert count(status, "epochs") == 2


def test_simulated_time_may_pause_and_jump_forward_and_only_a_jump_back_opens_an_epoch(tiny_checkpoint: Path) -> None:
    from rosgraph_msgs.msg import Clock

    with running(tiny_checkpoint, use_sim_time=True) as (node, probe):
        clock = probe.node.create_publisher(Clock, "/clock", 10)
        wait_until(lambda: clock.get_subscription_count(), "the node's clock")

        def set_clock(seconds: int) -> None:
            message = Clock()
            message.clock.sec = seconds
            clock.publish(message)
            wait_until(lambda: node.get_clock().now().nanoseconds == seconds * 10**9, f"the clock at {seconds}")

        set_clock(100)
        jumps = count(probe.status("input"), "clock_jumps")
        assert probe.graph_of(probe.send(100 * 10**9)).epoch == 0
        # The simulation pauses: /clock stands still, the diagnostics go on, and they still say what is the case.
        paused = len(probe.diagnostics)
        wait_until(lambda: len(probe.diagnostics) >= paused + 5, "diagnostics in the pause")
        assert {m.header.stamp.sec for m in probe.diagnostics[paused + 1 :]} == {100}
        statuses = {s.name: values(s) for s in probe.diagnostics[-1].status}
        assert statuses["perception: input"]["lifecycle_state"] == "active"
        assert statuses["perception: input"]["clouds_received"] == "1"
        assert statuses["perception: inference"]["windows_processed"] == "1"
        set_clock(130)  # forward: neither an epoch nor a jump, unless the clouds leave a gap
        assert count(probe.status("input"), "clock_jumps") == jumps
        assert probe.call(QuerySceneGraph, "query").success
        assert probe.graph_of(probe.send(100 * 10**9 + 500_000_000)).epoch == 0
        assert probe.graph_of(probe.send(130 * 10**9)).epoch == 1
        set_clock(129)
        status = probe.status("input", lambda s: count(s, "clock_jumps") == jumps + 1)
        assert "clock" not in status.message
        assert "no graph yet" in probe.call(QuerySceneGraph, "query").message, "the graph of another time is forgotten"
        # By less than what clouds alone would need to show a jump.
        assert probe.graph_of(probe.send(130 * 10**9 - 100_000_000)).epoch == 2


def test_clouds_of_two_frames_on_one_topic_are_warned_of(tiny_checkpoint: Path) -> None:
    with running(tiny_checkpoint) as (_, probe):
        first = probe.send_and_wait(frame_id="left_optical_frame")
        other = probe.send_and_wait(frame_id="right_optical_frame")
        assert (first.epoch, other.epoch) == (0, 1)
        status = probe.status("input", lambda s: count(s, "core_frame_changes") == 1)
        assert status.level == DiagnosticStatus.WARN
        for part in ("left_optical_frame", "right_optical_frame", "set coordinates.target_frame"):
            assert part in status.message
        assert "core_frame_changes" not in values(probe.status("inference"))


# --- what the model is loaded from


@pytest.mark.parametrize("fault", ["missing", "altered", "pickle"])
def test_a_bad_checkpoint_leaves_the_node_unconfigured_with_the_reason(
    tiny_checkpoint: Path, tmp_path: Path, fault: str
) -> None:
    import shutil

    folder = tmp_path / "checkpoint"
    if fault != "missing":
        shutil.copytree(tiny_checkpoint, folder)
    if fault == "altered":
        (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    if fault == "pickle":
        (folder / "weights.pt").write_bytes(b"\x80\x04.")
    with ros_context() as context:
        node, probe = make_node(context, folder), Probe(context)
        assert node.trigger_configure().name == "FAILURE"
        assert node.session is None
        with spinning(context, node), spinning(context, probe.node):
            status = probe.status("input", lambda s: s.level == DiagnosticStatus.ERROR)
            assert str(folder) in status.message


def test_an_empty_cloud_gives_an_empty_input_status(tiny_checkpoint: Path) -> None:
    with running(tiny_checkpoint) as (_, probe):
        stamp_ns = probe.stamp_ns
        probe.clouds.publish(cloud_message(np.full((5, 3), np.nan, np.float32), stamp_ns))
        assert probe.graph_of(stamp_ns).status == 3


def test_a_cloud_of_two_million_points_goes_through(tiny_checkpoint: Path) -> None:
    points = 2_000_000
    xyz = np.resize(room(2000), (points, 3)) + np.random.default_rng(0).normal(0, 0.02, (points, 3))
    with running(tiny_checkpoint, inference__max_points=20_000) as (_, probe):
        instances = probe.collect_instances()
        wait_until(lambda: _subscribed(probe, "instances"), "the subscription")
        probe.clouds.publish(cloud_message(xyz.astype(np.float32), probe.stamp_ns))
        graph = probe.graph_of(probe.stamp_ns)
        (cloud,) = wait_until(lambda: instances, "the instance cloud")
        # Every point is labelled, although the model saw a part of them only.
        assert cloud.width * cloud.height == points
        assert stamp_of(cloud) == stamp_of(graph)
        status = probe.status("input", lambda s: count(s, "clouds_received") == 1)
        assert count(status, "frames_dropped") == 0
        # And the next one is as good as any.
        probe.send_and_wait()
