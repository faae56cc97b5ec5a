"""What changed between two graphs, and the part of a graph that a question asks for."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scene_graphs import SECOND, graph, holds, thing

from psg4d_ros.errors import ConfigError
from psg4d_ros.events import EventType, graph_events, query
from psg4d_ros.vocabulary import ObjectClass, Vocabulary

APPEARED, LOST = EventType.OBJECT_APPEARED, EventType.OBJECT_LOST
STARTED, ENDED = EventType.RELATION_STARTED, EventType.RELATION_ENDED


def told(previous, current) -> list[tuple]:
    """Events in short: (type, track_id) or (type, subject, predicate, object)."""
    return [
        (e.type, e.object.track_id)
        if e.relation is None
        else (e.type, e.object.track_id, e.relation.predicate, e.relation.object_id)
        for e in graph_events(previous, current)
    ]


# --- events ---


def test_in_the_first_graph_everything_is_new():
    now = graph(thing(1), thing(2), holds(1, "on", 2))
    assert told(None, now) == [(APPEARED, 1), (APPEARED, 2), (STARTED, 1, "on", 2)]


def test_nothing_is_told_of_what_stays():
    before = graph(thing(1), thing(2), holds(1, "on", 2, 1, 5), holds(2, "under", 1, 1, 2, ongoing=False))
    after = graph(thing(1), thing(2), holds(1, "on", 2, 1, 6), stamp_s=6)
    assert told(before, after) == []


def test_events_bear_the_new_graphs_stamp_and_the_last_state_of_what_was_lost():
    before, after = graph(thing(1, "cup"), stamp_s=5), graph(thing(2), stamp_s=6, frame_id="map")
    lost, appeared = graph_events(before, after)
    assert (lost.type, lost.object.label, appeared.type) == (LOST, "cup", APPEARED)
    assert {(e.stamp_ns, e.frame_id) for e in (lost, appeared)} == {(6 * SECOND, "map")}


def test_an_ended_relation_bears_its_true_end():
    before = graph(thing(1), thing(2), holds(1, "on", 2, 1, 5))
    after = graph(thing(1), thing(2), holds(1, "on", 2, 1, 4.5, ongoing=False), stamp_s=6)
    (event,) = graph_events(before, after)
    assert event.type is ENDED
    assert event.relation.end_ns == 4.5 * SECOND and not event.relation.ongoing


def test_a_relation_ends_when_its_object_is_lost():
    before = graph(thing(1), thing(2), holds(1, "on", 2))
    assert told(before, graph(thing(1), stamp_s=6)) == [(ENDED, 1, "on", 2), (LOST, 2)]
    assert told(before, graph(thing(2), stamp_s=6)) == [(ENDED, 1, "on", 2), (LOST, 1)]


def test_a_relation_that_began_and_ended_between_two_graphs_is_told_of():
    before = graph(thing(1), thing(2))
    after = graph(thing(1), thing(2), holds(1, "hits", 2, 5.25, 5.5, ongoing=False), stamp_s=6)
    assert told(before, after) == [(STARTED, 1, "hits", 2), (ENDED, 1, "hits", 2)]
    assert told(after, graph(*after.objects, *after.relations, stamp_s=7)) == []


def test_a_relation_that_comes_back_starts_again():
    old = holds(1, "on", 2, 1, 3, ongoing=False)
    before = graph(thing(1), thing(2), old)
    after = graph(thing(1), thing(2), old, holds(1, "on", 2, 5.5, 6), stamp_s=6)
    assert told(before, after) == [(STARTED, 1, "on", 2)]


def test_two_spans_that_do_not_touch_are_two_relations():
    before = graph(thing(1), thing(2), holds(1, "on", 2, 1, 3))
    after = graph(thing(1), thing(2), holds(1, "on", 2, 1, 3, ongoing=False), holds(1, "on", 2, 5, 6), stamp_s=6)
    assert told(before, after) == [(ENDED, 1, "on", 2), (STARTED, 1, "on", 2)]


def test_after_a_change_of_epoch_equal_ids_are_other_objects():
    before = graph(thing(1, "cup"), thing(2), holds(1, "on", 2), epoch=0)
    after = graph(thing(1, "dog"), epoch=1, stamp_s=2)
    assert told(before, after) == [(ENDED, 1, "on", 2), (LOST, 1), (LOST, 2), (APPEARED, 1)]
    events = graph_events(before, after)
    assert [e.epoch for e in events] == [0, 0, 0, 1], "an id is told with the epoch it belongs to"
    assert [e.object.label for e in events if e.type in (LOST, APPEARED)] == ["cup", "chair", "dog"]


@st.composite
def graphs(draw):
    ids = draw(st.lists(st.integers(1, 4), unique=True))
    relations = {}
    for _ in range(draw(st.integers(0, 5)) if ids else 0):
        start = draw(st.integers(0, 8))
        end = start + draw(st.integers(1, 4))
        subject, object = draw(st.sampled_from(ids)), draw(st.sampled_from(ids))
        ongoing = draw(st.booleans())
        # as the tracker has it: at most one ongoing span of a subject, predicate and object
        relations[subject, object, start if not ongoing else "now"] = holds(subject, "on", object, start, end, ongoing)
    return graph(*map(thing, ids), *relations.values(), epoch=draw(st.integers(0, 1)))


@settings(max_examples=500, deadline=None)
@given(graphs(), graphs())
def test_who_applies_the_events_in_order_ends_up_with_the_new_graph(before, after):
    objects = {o.track_id for o in before.objects}
    relations = {(r.subject_id, r.object_id) for r in before.relations if r.ongoing}
    for event in graph_events(before, after):
        number = event.object.track_id
        if event.type is APPEARED:
            assert number not in objects
            objects.add(number)
        elif event.type is LOST:
            objects.remove(number)
            assert not any(number in pair for pair in relations), "an object was lost before its relations ended"
        else:
            pair = (event.relation.subject_id, event.relation.object_id)
            assert number == pair[0]
            assert set(pair) <= objects
            if event.type is STARTED:
                relations.add(pair)
            else:
                relations.discard(pair)
    assert objects == {o.track_id for o in after.objects}
    assert relations == {(r.subject_id, r.object_id) for r in after.relations if r.ongoing}


# --- questions ---

VOCABULARY = Vocabulary(
    (ObjectClass("person", synonyms=("human",)), ObjectClass("chair", synonyms=("seat",)), ObjectClass("cup")),
    ("sitting on", "on"),
)
SCENE = graph(
    thing(1, "person"),
    thing(2, "chair"),
    thing(3, "cup", first_seen_ns=4 * SECOND),
    thing(4, "person", last_seen_ns=2 * SECOND),
    holds(1, "sitting on", 2, 2, 5),
    holds(3, "on", 2, 4, 5),
    holds(4, "on", 2, 1, 2, ongoing=False),
)


def found(**conditions) -> tuple[list[int], list[tuple[int, int]]]:
    """Track ids and (subject, object) pairs of the answer."""
    answer = query(SCENE, VOCABULARY, **conditions)
    return [o.track_id for o in answer.objects], [(r.subject_id, r.object_id) for r in answer.relations]


def test_no_condition_matches_everything():
    assert found() == ([1, 2, 3, 4], [(1, 2), (3, 2), (4, 2)])


@pytest.mark.parametrize("label", ["person", "Person", " human ", "HUMAN"])
def test_labels_match_through_synonyms_and_in_any_case(label):
    assert found(subject_label=label) == ([1, 2, 4], [(1, 2), (4, 2)])


@pytest.mark.parametrize(
    ("conditions", "answer"),
    [
        ({"subject_id": 3}, ([2, 3], [(3, 2)])),
        ({"predicate": "Sitting  On"}, ([1, 2], [(1, 2)])),
        ({"predicate": "on", "subject_label": "cup"}, ([2, 3], [(3, 2)])),
        ({"object_label": "seat", "subject_label": "human", "predicate": "on"}, ([2, 4], [(4, 2)])),
        ({"object_id": 2}, ([1, 2, 3, 4], [(1, 2), (3, 2), (4, 2)])),
        ({"subject_label": "person", "subject_id": 2}, ([], [])),
        ({"subject_label": "dragon"}, ([], [])),
        ({"predicate": "eating"}, ([], [])),
    ],
)
def test_all_conditions_must_hold(conditions, answer):
    assert found(**conditions) == answer


def test_an_object_without_relations_is_found_when_the_question_is_about_it_alone():
    assert found(subject_label="chair") == ([2], [])
    assert found(object_label="cup") == ([3], [])
    assert found(object_label="cup", predicate="on") == ([], []), "with a predicate the question is about relations"
    assert found(object_label="cup", subject_label="chair") == ([], [])


def test_spans_of_time_are_half_open():
    assert found(subject_label="person", since_ns=2 * SECOND)[1] == [(1, 2)], "[1, 2) does not hold at 2"
    assert found(subject_label="person", since_ns=2 * SECOND)[0] == [1, 2, 4], "track 4 was still seen at 2"
    assert found(subject_label="person", since_ns=2 * SECOND + 1)[0] == [1, 2]
    assert found(subject_label="cup", until_ns=4 * SECOND + 1) == ([2, 3], [(3, 2)])
    assert found(subject_label="cup", until_ns=4 * SECOND) == ([], []), "first seen at 4, not before"


@pytest.mark.parametrize(
    "conditions",
    [
        {"since_ns": 3, "until_ns": 2},
        {"since_ns": 2, "until_ns": 2},
        {"subject_id": -1},
        {"object_id": -1},
        {"since_ns": -1},
    ],
)
def test_questions_that_nothing_can_answer_are_refused(conditions):
    with pytest.raises(ConfigError, match=r"(since|subject_id|object_id)"):
        found(**conditions)


def test_the_answer_keeps_header_and_status():
    answer = query(SCENE, VOCABULARY, subject_label="dragon")
    assert (answer.stamp_ns, answer.frame_id, answer.status) == (SCENE.stamp_ns, SCENE.frame_id, SCENE.status)
