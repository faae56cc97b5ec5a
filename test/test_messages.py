"""SceneGraph -> messages of rclpy and of rosbags, and back. Everything is also serialised, which checks each field."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from message_classes import KINDS, message_classes
from scene_graphs import SECOND, graph, holds, same, scene_graphs, thing

from psg4d_ros.events import graph_events
from psg4d_ros.messages import (
    event_message,
    graph_from_message,
    graph_message,
    label_info_message,
    marker_array,
    stamp_of,
    time_parts,
)
from psg4d_ros.structures import GraphStatus
from psg4d_ros.vocabulary import ObjectClass, Vocabulary

PER_KIND = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def types(kind):
    return message_classes(kind)


def over_the_wire(message: Any, kind: str) -> Any:
    """The message after serialisation and back, as a subscriber or a bag's reader sees it."""
    if kind == "rclpy":
        from rclpy.serialization import deserialize_message, serialize_message

        return deserialize_message(serialize_message(message), type(message))
    from psg4d_ros.data.bag import deserialize, serialize

    return deserialize(serialize(message), message.__msgtype__)


@PER_KIND
@given(given_graph=scene_graphs())
def test_a_graph_survives_the_wire(kind, given_graph):
    types = message_classes(kind)
    read = graph_from_message(over_the_wire(graph_message(given_graph, types), kind))
    assert same(read, given_graph)


@pytest.mark.ros
def test_each_kind_reads_what_the_other_wrote():
    """A bag written offline holds what the node would have published, and the other way round."""
    rclpy, rosbags = message_classes("rclpy"), message_classes("rosbags")
    from rclpy.serialization import deserialize_message, serialize_message

    from psg4d_ros.data.bag import deserialize, serialize

    full = graph(thing(1), thing(2, velocity=np.ones(3)), holds(1, "on", 2))
    published, written = serialize_message(graph_message(full, rclpy)), bytes(serialize(graph_message(full, rosbags)))
    assert len(published) == len(written)  # the bytes between the fields may differ
    assert same(graph_from_message(deserialize(published, "psg4d_ros/msg/SceneGraph")), full)
    assert same(graph_from_message(deserialize_message(written, rclpy.get("psg4d_ros/msg/SceneGraph"))), full)


def test_the_message_says_what_the_graph_says(types):
    message = graph_message(
        graph(
            thing(7, "cup", velocity=np.array([0.5, 0.0, -1.0])),
            thing(9, "table"),
            holds(7, "on", 9, 1.5, 5.25),
            status=GraphStatus.UNTRAINED,
        ),
        types,
    )
    assert (message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id) == (5, 0, "odom")
    assert (message.status, message.num_frames, message.sequence) == (message.UNTRAINED, 8, 7)
    cup, table = message.objects
    assert (cup.track_id, cup.label, cup.velocity_valid, cup.velocity.z) == (7, "cup", True, -1.0)
    assert (table.velocity_valid, table.velocity.x, list(table.alternative_labels)) == (False, 0.0, ["sofa"])
    assert (cup.pose.position.x, cup.pose.orientation.w, cup.size.z) == (7.0, 1.0, 1.0)
    (relation,) = message.relations
    assert (relation.subject_id, relation.predicate, relation.object_id, relation.ongoing) == (7, "on", 9, True)
    assert stamp_of(relation.start) == 1.5 * SECOND and stamp_of(relation.end) == 5.25 * SECOND
    assert list(message.stage_names) == ["encode", "turn1"] and list(message.stage_ms) == [1.5, 2.25]


@pytest.mark.parametrize("numpy_scalars", [False, True])
def test_numpy_scalars_are_fine_too(types, kind, numpy_scalars):
    """The tracker computes with numpy; rclpy would fail on its scalars only at serialisation."""
    as_int, as_float = (np.uint32, np.float32) if numpy_scalars else (int, float)
    one = thing(as_int(1), score=as_float(0.5), class_id=as_int(2), num_points=as_int(3), is_thing=np.bool_(True))
    arrived = over_the_wire(graph_message(graph(one, num_frames=as_int(2), epoch=as_int(1)), types), kind)
    assert (arrived.num_frames, arrived.epoch) == (2, 1)
    assert (arrived.objects[0].track_id, arrived.objects[0].score, arrived.objects[0].is_thing) == (1, 0.5, True)


def test_messages_that_contradict_themselves_are_refused(types):
    message = graph_message(graph(thing(1), thing(2), holds(1, "on", 2)), types)
    message.objects[1].track_id = 1
    with pytest.raises(ValueError, match="distinct track ids"):
        graph_from_message(message)


@pytest.mark.parametrize(
    ("stamp_ns", "parts"), [(0, (0, 0)), (1, (0, 1)), (SECOND - 1, (0, SECOND - 1)), (5 * SECOND + 7, (5, 7))]
)
def test_time_parts(stamp_ns, parts):
    assert time_parts(stamp_ns) == parts


# --- events and labels ---


def test_events_carry_their_object_and_relation(types, kind):
    now = graph(thing(1, "cup"), thing(2, "table"), holds(1, "on", 2), epoch=4)
    messages = [over_the_wire(event_message(e, types), kind) for e in graph_events(None, now)]
    assert [m.type for m in messages] == [m.OBJECT_APPEARED for m in messages[:2]] + [messages[0].RELATION_STARTED]
    assert [m.object.label for m in messages] == ["cup", "table", "cup"]
    assert (messages[2].relation.predicate, messages[2].relation.object_id, messages[2].epoch) == ("on", 2, 4)
    assert (messages[0].relation.predicate, messages[0].relation.subject_id) == ("", 0)
    assert stamp_of(messages[0].header.stamp) == now.stamp_ns


VOCABULARY = Vocabulary(
    (ObjectClass("cup"), ObjectClass("table"), ObjectClass("floor", is_thing=False)), ("on", "under")
)


def test_label_info_is_the_table_that_ids_point_into(types, kind):
    message = over_the_wire(label_info_message("psg4d-small", VOCABULARY, 7 * SECOND, "", types), kind)
    assert message.model_id == "psg4d-small" and stamp_of(message.header.stamp) == 7 * SECOND
    assert list(message.class_names) == ["cup", "table", "floor"]
    assert [bool(b) for b in message.class_is_thing] == [True, True, False]
    assert list(message.predicate_names) == ["on", "under"]


def test_words_added_at_run_time_have_no_row_and_others_keep_theirs(types, kind):
    words = VOCABULARY.with_words(["robot", "floor"], ["near", "under"], replace=True)
    message = over_the_wire(label_info_message("m", words, 0, "", types), kind)
    assert list(message.class_names) == ["", "", "floor"]
    assert [bool(b) for b in message.class_is_thing] == [False, False, False]
    assert list(message.predicate_names) == ["", "under"]


# --- markers ---

ADD, DELETE, DELETEALL = 0, 2, 3


def test_boxes_labels_and_arrows_are_shown(types, kind):
    scene = graph(
        thing(1, "cup"), thing(2, "table"), holds(1, "on", 2), holds(2, "under", 1), holds(1, "near", 2, ongoing=False)
    )
    message, shown = marker_array(scene, types, frozenset())
    markers = {(m.ns, m.id): m for m in over_the_wire(message, kind).markers}
    assert set(markers) == shown
    assert sorted(ns for ns, _ in shown) == sorted(["boxes", "labels", "relations", "predicates"] * 2)
    box, text = markers["boxes", 1], markers["labels", 1]
    assert (box.type, box.pose.position.x, box.scale.z, box.header.frame_id) == (box.CUBE, 1.0, 1.0, "odom")
    assert text.type == text.TEXT_VIEW_FACING and text.text.startswith("cup 1") and text.pose.position.z > 1.0
    arrow, word = markers["relations", 0], markers["predicates", 0]
    assert (arrow.type, [p.x for p in arrow.points], word.text) == (arrow.ARROW, [1.0, 2.0], "on")
    assert word.pose.position.z != markers["predicates", 1].pose.position.z, "two relations of a pair share a place"
    assert all(m.color.a > 0 for m in markers.values())


def test_what_is_not_shown_any_more_is_deleted(types):
    before = graph(thing(1), thing(2), holds(1, "on", 2))
    after = graph(thing(2))
    _, shown = marker_array(before, types, frozenset())
    message, now = marker_array(after, types, shown)
    deleted = {(m.ns, m.id) for m in message.markers if m.action == DELETE}
    assert deleted == {("boxes", 1), ("labels", 1), ("relations", 0), ("predicates", 0)}
    assert now == {("boxes", 2), ("labels", 2)}
    message, _ = marker_array(after, types, now)
    assert all(m.action == ADD for m in message.markers)


def test_the_first_array_clears_what_an_earlier_run_left(types):
    message, _ = marker_array(graph(thing(1)), types, None)
    assert message.markers[0].action == DELETEALL


def test_a_flat_box_is_still_visible(types):
    """RViz refuses markers with an extent of 0."""
    message, _ = marker_array(graph(thing(1, size=np.zeros(3))), types, frozenset())
    assert min(message.markers[0].scale.x, message.markers[0].scale.y, message.markers[0].scale.z) > 0
