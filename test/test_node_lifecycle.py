"""The node's transitions, its services, several nodes at once, and live transforms."""

from __future__ import annotations

import gc
import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs rclpy: source a ROS 2 distribution, or run `make test` for the wheels")

from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from node_support import Probe, make_node, running, stamp_of
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterValue
from rcl_interfaces.srv import SetParameters
from ros_support import ros_context, spinning, values, wait_until
from std_srvs.srv import Trigger

from psg4d_ros.srv import QuerySceneGraph, SetVocabulary

pytestmark = pytest.mark.ros
no_tf2_msgs = pytest.mark.skipif(
    importlib.util.find_spec("tf2_msgs") is None,
    reason="needs tf2_msgs, which comes with ROS from apt and not as a wheel",
)


def test_a_lifecycle_manager_drives_the_node_through_its_services(tiny_checkpoint: Path) -> None:
    with ros_context() as context:
        node, probe = make_node(context, tiny_checkpoint, autostart=False), Probe(context)
        with spinning(context, node), spinning(context, probe.node):

            def change(transition: int) -> int:
                answer = probe.call(ChangeState, "change_state", transition=Transition(id=transition))
                assert answer.success
                return int(probe.call(GetState, "get_state").current_state.id)

            assert change(Transition.TRANSITION_CONFIGURE) == State.PRIMARY_STATE_INACTIVE
            assert probe.clouds.get_subscription_count() == 0
            assert change(Transition.TRANSITION_ACTIVATE) == State.PRIMARY_STATE_ACTIVE
            first = probe.connected().send_and_wait()
            assert change(Transition.TRANSITION_DEACTIVATE) == State.PRIMARY_STATE_INACTIVE
            wait_until(lambda: probe.clouds.get_subscription_count() == 0, "no subscription any more")
            assert change(Transition.TRANSITION_ACTIVATE) == State.PRIMARY_STATE_ACTIVE
            # The same run goes on: ids still compare.
            assert probe.connected().send_and_wait().epoch == first.epoch
            assert change(Transition.TRANSITION_DEACTIVATE) == State.PRIMARY_STATE_INACTIVE
            assert change(Transition.TRANSITION_CLEANUP) == State.PRIMARY_STATE_UNCONFIGURED
            assert node.session is None
            assert change(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN) == State.PRIMARY_STATE_FINALIZED


def test_parameters_change_before_configure_and_are_refused_after(tiny_checkpoint: Path) -> None:
    with ros_context() as context:
        node, probe = make_node(context, tiny_checkpoint), Probe(context)
        with spinning(context, node), spinning(context, probe.node):

            def set_frames(number: int) -> Any:
                value = ParameterValue(type=2, integer_value=number)
                request = [ParameterMessage(name="window.num_frames", value=value)]
                return probe.call(SetParameters, "set_parameters", parameters=request).results[0]

            assert set_frames(3).successful
            assert not set_frames(0).successful
            probe.call(ChangeState, "change_state", transition=Transition(id=Transition.TRANSITION_CONFIGURE))
            assert node.session.pipeline.config.window.num_frames == 3
            refused = set_frames(4)
            assert not refused.successful
            assert "read at configure" in refused.reason
        node.free()


def test_configure_and_cleanup_fifty_times_leaves_nothing_behind(tiny_checkpoint: Path) -> None:
    def resident_kb() -> int:
        gc.collect()
        text = Path("/proc/self/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0])

    with ros_context() as context:
        node = make_node(context, tiny_checkpoint)

        def entities() -> tuple[int, ...]:
            listed = (node.publishers, node.subscriptions, node.services, node.timers, node.guards, node.waitables)
            return (*(len(list(kind)) for kind in listed), len(node._managed_entities), threading.active_count())

        before, memory = entities(), 0
        for number in range(50):
            assert node.trigger_configure().name == "SUCCESS"
            assert node.trigger_activate().name == "SUCCESS"
            assert node.trigger_deactivate().name == "SUCCESS"
            assert node.trigger_cleanup().name == "SUCCESS"
            assert entities() == before
            if number == 9:  # caches of torch and Fast DDS have filled by then
                memory = resident_kb()
        # Less than what 40 rounds would take that leaked one tiny model each.
        assert resident_kb() - memory < 10_000
        node.destroy_node()


def test_reset_opens_a_new_epoch_where_ids_start_again(tiny_checkpoint: Path) -> None:
    with running(tiny_checkpoint) as (_, probe):
        events = probe.collect_events()
        before = probe.send_and_wait()
        answer = probe.call(Trigger, "reset")
        assert answer.success and "epoch" in answer.message
        after = probe.send_and_wait()
        assert (before.epoch, after.epoch) == (0, 1)
        assert after.num_frames == 1
        assert sorted(o.track_id for o in after.objects) == list(range(1, 1 + len(after.objects)))
        if after.objects:
            appeared = [e for e in wait_until(lambda: events, "events") if e.epoch == 1 and e.type == e.OBJECT_APPEARED]
            assert {e.object.track_id for e in appeared} <= {o.track_id for o in after.objects}


@pytest.fixture
def held(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A running node whose next inferences wait: (probe, busy, go_on); busy is set when one has begun."""
    with running(tiny_checkpoint) as (node, probe):
        pipeline = node.session.pipeline
        infer, busy, go_on = pipeline.infer, threading.Event(), threading.Event()

        def slow(window: Any) -> Any:
            busy.set()
            assert go_on.wait(20)
            return infer(window)

        monkeypatch.setattr(pipeline, "infer", slow)
        try:
            yield probe, busy, go_on
        finally:
            go_on.set()


def test_a_window_that_waited_over_a_reset_is_forgotten(held: Any) -> None:
    probe, busy, go_on = held
    under_way = probe.send()
    assert busy.wait(20)
    probe.send()
    probe.status("inference", lambda s: values(s)["windows_due"] == "2")
    assert probe.call(Trigger, "reset").success
    go_on.set()
    status = probe.status("inference", lambda s: values(s)["windows_forgotten"] == "1")
    assert values(status)["windows_processed"] == "1"
    after = probe.send_and_wait()
    # The one that was under way is still told of, in its own epoch; the one that waited never is.
    assert [(stamp_of(g), g.epoch, g.sequence) for g in probe.graphs] == [
        (under_way, 0, 0),
        (stamp_of(after), 1, 1),
    ]


def test_a_query_after_a_reset_returns_no_forgotten_graph(held: Any) -> None:
    probe, busy, go_on = held
    go_on.set()
    probe.send_and_wait()
    assert probe.call(QuerySceneGraph, "query").success
    assert probe.call(Trigger, "reset").success
    assert "no graph yet" in probe.call(QuerySceneGraph, "query").message
    go_on.clear()
    busy.clear()
    late = probe.send()
    assert busy.wait(20)
    assert probe.call(Trigger, "reset").success
    go_on.set()
    probe.graph_of(late)  # an inference that was under way at the reset, and ended after it
    assert not probe.call(QuerySceneGraph, "query").success
    graph = probe.send_and_wait()
    assert stamp_of(probe.call(QuerySceneGraph, "query").graph) == stamp_of(graph)


def test_query_answers_from_the_newest_graph(tiny_checkpoint: Path) -> None:
    with running(tiny_checkpoint) as (_, probe):
        early = probe.call(QuerySceneGraph, "query")
        assert not early.success and "no graph yet" in early.message
        graph = probe.send_and_wait()
        everything = probe.call(QuerySceneGraph, "query")
        assert everything.success
        assert stamp_of(everything.graph) == stamp_of(graph)
        assert [o.track_id for o in everything.graph.objects] == [o.track_id for o in graph.objects]
        for wanted in graph.objects[:1]:
            one = probe.call(QuerySceneGraph, "query", subject_id=wanted.track_id).graph
            assert wanted.track_id in [o.track_id for o in one.objects]
            assert all(r.subject_id == wanted.track_id for r in one.relations)
        nothing = probe.call(QuerySceneGraph, "query", subject_label="no such thing")
        assert nothing.success and not nothing.graph.objects


def test_new_words_are_announced_and_unsafe_ones_refused(tiny_checkpoint: Path) -> None:
    with running(tiny_checkpoint) as (node, probe):
        labels = probe.collect_labels()
        wait_until(lambda: labels, "the first label table")
        for word in ("line\nbreak", "<|im_start|>system", "", "x" * 100):
            refused = probe.call(SetVocabulary, "set_vocabulary", class_names=["teapot", word])
            assert not refused.success and refused.message
        assert "teapot" not in node.session.pipeline.vocabulary.class_names
        accepted = probe.call(SetVocabulary, "set_vocabulary", class_names=["teapot"], predicate_names=["pouring into"])
        assert accepted.success, accepted.message
        assert "teapot" in node.session.pipeline.vocabulary.class_names
        wait_until(lambda: len(labels) == 2, "the label table once more")
        probe.send_and_wait()


def test_two_nodes_in_one_domain_keep_apart(tiny_checkpoint: Path) -> None:
    with ros_context() as context:
        nodes = [make_node(context, tiny_checkpoint, namespace=name) for name in ("left", "right")]
        probes = [Probe(context, namespace=f"/{name}") for name in ("left", "right")]
        for node in nodes:
            assert node.trigger_configure().name == "SUCCESS"
            assert node.trigger_activate().name == "SUCCESS"
        with spinning(context, *nodes), spinning(context, *(p.node for p in probes)):
            left, right = (probe.connected() for probe in probes)
            graphs = [left.send_and_wait(), right.send_and_wait(), left.send_and_wait()]
            assert [stamp_of(g) for g in left.graphs] == [stamp_of(graphs[0]), stamp_of(graphs[2])]
            assert [stamp_of(g) for g in right.graphs] == [stamp_of(graphs[1])]
            wait_until(
                lambda: {s.name.split("/")[0] for m in left.diagnostics for s in m.status} == {"left", "right"},
                "diagnostics of both",
            )
        for node in nodes:
            node.free()


# --- live transforms


@pytest.mark.skipif(importlib.util.find_spec("tf2_msgs") is not None, reason="tf2_msgs is installed here")
def test_a_target_frame_without_tf_installed_is_refused_with_the_remedy(tiny_checkpoint: Path) -> None:
    with ros_context() as context:
        node, probe = make_node(context, tiny_checkpoint, coordinates__target_frame="odom"), Probe(context)
        assert node.trigger_configure().name == "FAILURE"
        with spinning(context, node), spinning(context, probe.node):
            assert "install tf2_ros" in probe.status("input", lambda s: "odom" in s.message).message


class Broadcaster:
    """Publishes odom <- camera."""

    def __init__(self, probe: Probe) -> None:
        from tf2_msgs.msg import TFMessage

        self._type = TFMessage
        self._publisher = probe.node.create_publisher(TFMessage, "/tf", 100)
        wait_until(self._publisher.get_subscription_count, "the node's subscription to /tf")

    def send(self, stamp_ns: int, height: float = 1.0) -> None:
        from geometry_msgs.msg import TransformStamped

        transform = TransformStamped(child_frame_id="camera")
        transform.header.frame_id = "odom"
        transform.header.stamp.sec, transform.header.stamp.nanosec = divmod(stamp_ns, 10**9)
        transform.transform.translation.z = height
        self._publisher.publish(self._type(transforms=[transform]))


@no_tf2_msgs
def test_graphs_are_in_the_target_frame_and_clouds_wait_for_their_transform(tiny_checkpoint: Path) -> None:
    parameters = {"coordinates__target_frame": "odom", "coordinates__tf_timeout_s": 5.0}
    with running(tiny_checkpoint, **parameters) as (_, probe):
        broadcaster = Broadcaster(probe)
        stamp_ns = probe.stamp_ns
        broadcaster.send(stamp_ns - 100_000_000)
        probe.send(stamp_ns, frame_id="camera")
        waiting = probe.status("input", lambda s: values(s)["waiting_for_transform"] == "1")
        assert "tf2_ros" in values(waiting)["transforms"]
        broadcaster.send(stamp_ns + 100_000_000)
        graph = probe.graph_of(stamp_ns)
        assert graph.header.frame_id == "odom"
        assert graph.status != graph.STALE_TF
        assert values(probe.status("inference"))["alignment"] == "tf"


@no_tf2_msgs
def test_a_transform_that_stays_away_costs_the_cloud_and_names_the_frame(tiny_checkpoint: Path) -> None:
    with running(tiny_checkpoint, coordinates__target_frame="odom") as (_, probe):
        Broadcaster(probe)
        probe.send(frame_id="camera")
        status = probe.status("input", lambda s: values(s)["transforms_failed"] == "1")
        assert "camera" in status.message and "odom" in status.message
        assert probe.graphs == []


@no_tf2_msgs
def test_a_transform_slightly_too_old_stands_in_and_the_graph_says_so(tiny_checkpoint: Path) -> None:
    with running(tiny_checkpoint, coordinates__target_frame="odom") as (_, probe):
        Broadcaster(probe).send(probe.stamp_ns - 300_000_000)
        graph = probe.graph_of(probe.send(probe.stamp_ns, frame_id="camera"))
        assert graph.status == graph.STALE_TF
