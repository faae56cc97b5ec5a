"""The truth of simulated scenes: every predicate in a world made for it, transitions, attributes, and real scenes."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hand_made_timeline import FLOOR, FRAMES, STEPS, HandMade, box, case, hinge, table
from predicate_scenes import BY_GEOMETRY, frame, said_and_not_said, who_sits

from psg4d_ros.data.recording import AttributeSpan, TrueRelation
from psg4d_ros.data.simulation.attributes import true_attributes
from psg4d_ros.data.simulation.classes import TRAIN_WORDS
from psg4d_ros.data.simulation.contacts import HANDS, Surfaces, gap_to
from psg4d_ros.data.simulation.director import perform
from psg4d_ros.data.simulation.furnishing import make_world
from psg4d_ros.data.simulation.predicates import ACTIVITY, ATTRIBUTES, PREDICATES, predicate_table
from psg4d_ros.data.simulation.relations import true_relations
from psg4d_ros.data.simulation.spans import steady_spans, steady_states
from psg4d_ros.data.simulation.world import Timeline
from psg4d_ros.vocabulary import default_vocabulary

ROOT = Path(__file__).resolve().parents[1]


def found(relations: tuple[TrueRelation, ...], name: str) -> set[tuple[int, int, int, int]]:
    return {(r.subject_id, r.object_id, r.start_frame, r.end_frame) for r in relations if r.predicate == name}


@pytest.mark.parametrize("name", BY_GEOMETRY)
def test_holds_exactly_where_its_scene_says(name):
    timeline, expected = BY_GEOMETRY[name]()
    assert found(true_relations(timeline, STEPS), name) == expected


@pytest.mark.parametrize("name", [p.name for p in ACTIVITY])
def test_what_the_script_decides_cannot_be_told_from_boxes(name):
    timeline, expected = said_and_not_said(name)
    assert found(true_relations(timeline, STEPS), name) == expected


def test_every_predicate_has_a_scene_and_is_a_word_of_the_vocabulary():
    assert {*BY_GEOMETRY, *(p.name for p in ACTIVITY)} == set(PREDICATES)
    assert len(PREDICATES) >= 30
    words = default_vocabulary()
    assert set(PREDICATES) <= set(words.predicates)
    assert {name for names in ATTRIBUTES for name in names.split(", ")} <= set(words.attributes)
    for p in PREDICATES.values():
        assert set(p.implies) <= set(PREDICATES)
        assert not p.inverse or p.inverse in words.predicates


def test_the_page_of_definitions_is_the_table():
    command = [sys.executable, ROOT / "scripts" / "make_predicate_docs.py", "--check"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0, "run scripts/make_predicate_docs.py"
    assert (ROOT / "docs" / "predicates.md").read_text(encoding="utf-8") == predicate_table()


def test_who_carries_a_person_changes_without_a_gap():
    """Standing on the floor ends in the frame in which sitting on the chair starts, and the other way round."""
    timeline, _ = who_sits()
    relations = true_relations(timeline, STEPS)
    person = timeline.world.people[0].entity_id
    carried = [r for r in relations if r.subject_id == person and PREDICATES[r.predicate].decided_by == "support"]
    carried.sort(key=lambda r: r.start_frame)
    assert [r.predicate for r in carried] == ["standing on", "walking on", "standing on", "sitting on", "standing on"]
    assert [r.start_frame for r in carried[1:]] == [r.end_frame for r in carried[:-1]]
    assert (carried[0].start_frame, carried[-1].end_frame) == (0, FRAMES)


def test_a_held_cup_leaves_the_table_when_it_is_lifted_and_not_when_it_is_touched():
    timeline, _ = BY_GEOMETRY["on"]()
    relations = true_relations(timeline, STEPS)
    cup = next(e.entity_id for e in timeline.world.entities if e.label == "cup")
    (holding,) = [r for r in relations if r.predicate == "holding" and r.object_id == cup]
    on = [r for r in relations if r.predicate == "on" and r.subject_id == cup]
    assert on[0].end_frame == frame(2) > holding.start_frame == frame(1.6 + 0.15)
    assert on[1].start_frame == frame(4)


def test_what_is_shorter_than_a_frame_is_kept_where_an_activity_says_so():
    s = HandMade("kick")
    p, ball = s.person((0, 0)), s.add("ball", [box((0.2, 0.2, 0.2))], (1.0, 1.0))
    s.say(p, "kicking", ball, 2.02, 2.14)
    assert found(true_relations(s.timeline(), STEPS), "kicking") == {(p, ball, frame(2), frame(2) + 1)}


@pytest.mark.parametrize(
    ("fact", "message"),
    [
        (("juggling", 3, 4), "'juggling', which predicates.py does not define"),
        (("talking to", 3, 4), "'talking to' of a person and a thing, expected person and person"),
        (("holding", 4, 3), "'holding' of a thing and a person, expected person and thing"),
    ],
)
def test_a_script_that_uses_other_words_is_refused(fact, message):
    s = HandMade("words")
    s.person((0, 0))
    s.add("ball", [box((0.2, 0.2, 0.2))], (1.0, 1.0))
    s.say(fact[1], fact[0], fact[2], 1.0, 2.0)
    with pytest.raises(ValueError, match=message):
        true_relations(s.timeline(), STEPS)


@pytest.mark.parametrize(
    ("mask", "spans"),
    [
        ("1111", [(0, 4)]),
        ("1101", [(0, 4)]),  # a gap of one frame
        ("1100110", [(0, 2), (4, 6)]),
        ("0100", []),  # a blip
        ("0101", [(1, 4)]),  # two blips around a gap are one span
        ("1", [(0, 1)]),  # all there is
        ("0", []),
    ],
)
def test_gaps_of_a_frame_close_and_blips_drop(mask, spans):
    assert steady_spans(np.array([c == "1" for c in mask])) == spans


@pytest.mark.parametrize(
    ("states", "spans"),
    [
        ("aaa", [("a", 0, 3)]),
        ("aabbb", [("a", 0, 2), ("b", 2, 5)]),
        ("aabaa", [("a", 0, 5)]),
        ("abb", [("b", 0, 3)]),  # nothing comes before the first
        ("aab", [("a", 0, 3)]),
        ("aabcdd", [("a", 0, 4), ("d", 4, 6)]),
        ("a", [("a", 0, 1)]),
    ],
)
def test_of_states_that_exclude_each_other_one_holds_at_every_frame(states, spans):
    assert steady_states(states) == spans


@pytest.mark.parametrize("name", ["on", "sitting on", "in front of"])
def test_spans_do_not_depend_on_the_rate_of_the_sensor(name):
    """Five times as many frames: the same spans to within a frame of the slower sensor."""
    timeline, expected = BY_GEOMETRY[name]()
    dense = found(true_relations(timeline, np.arange(5 * FRAMES)), name)
    assert len(dense) == len(expected)
    for (s, o, a, b), (s5, o5, a5, b5) in zip(sorted(expected), sorted(dense), strict=True):
        assert (s, o) == (s5, o5)
        assert 5 * (a - 1) <= a5 <= 5 * a
        assert 5 * (b - 1) <= b5 <= 5 * b


@pytest.fixture(scope="module")
def acted() -> Timeline:
    """A furnished world in which three people act for ten seconds."""
    rng = np.random.default_rng(7)
    return perform(make_world(rng, name="acted", words=TRAIN_WORDS, rooms=1, people=3), rng, duration_s=10.0)


def test_in_a_furnished_world_everything_is_carried_by_exactly_one_thing_or_held(acted):
    steps = np.arange(0, len(acted.times_s), 5)
    carried = np.zeros((len(steps), len(acted.world.entities)), dtype=int)
    for r in true_relations(acted, steps):
        if PREDICATES[r.predicate].decided_by == "support":
            carried[r.start_frame : r.end_frame, r.subject_id - 1] += 1
    people = [p.entity_id for p in acted.world.people]
    for e in acted.world.entities:
        by = np.broadcast_to(acted.carrier[e.entity_id - 1], len(acted.times_s))[steps]
        rests = (by > 0) & ~(np.isin(by, people) & (e.body is None))
        assert (carried[:, e.entity_id - 1] == rests).mean() > 0.95, f"{e.label} {e.entity_id}"  # lifted between frames


def test_in_a_furnished_world_what_is_held_is_at_the_hand(acted):
    steps = np.arange(0, len(acted.times_s), 5)
    surfaces = Surfaces(acted, steps)
    held = [r for r in true_relations(acted, steps) if r.predicate == "holding"]
    assert held
    for r in held:
        for f in range(r.start_frame, r.end_frame):
            triangles = surfaces.triangles(r.object_id, f)
            assert min(gap_to(surfaces.hand(r.subject_id, h, f), triangles, 0.5) for h in HANDS) < 0.04


def test_in_a_furnished_world_attributes_that_exclude_each_other_fill_all_frames(acted):
    steps = np.arange(0, len(acted.times_s), 5)
    groups = (("standing", "sitting", "lying"), ("moving", "still"), ("open", "closed"))
    for spans in true_attributes(acted, steps).values():
        for group in groups:
            of_group = sorted((a.start_frame, a.end_frame) for a in spans if a.name in group)
            assert not of_group or (of_group[0][0], of_group[-1][1]) == (0, len(steps))
            assert all(a[1] == b[0] for a, b in pairwise(of_group))


def test_attributes_over_time():
    s = HandMade("attributes")
    t = s.add("table", table())
    p = s.person((0.0, 1.0))
    cup = s.add("cup", [box((0.08, 0.08, 0.1))], (0.2, 0.0, 0.72), on=t)
    cupboard = s.add("cabinet", case(0.8, 0.4, 0.9, front=True), (2, 0), joints=(hinge(5, 0.4, -0.2),))
    s.move(cup, (2.0, 0.2, 0.0, 0.72, 0), (4.0, 2.2, 0.0, 0.72, 0))
    s.carry(cup, 2.0, p)
    s.open[cupboard] = [(0.0, 0.0), (3.0, 0.6), (5.0, 0.0)]
    s.walk(p, 4.0, 5.0, (0.0, 3.0))
    attributes = true_attributes(s.timeline(), STEPS)
    spans = {i: {(a.name, a.start_frame, a.end_frame) for a in found} for i, found in attributes.items()}
    assert spans[cup] == {
        ("gray", 0, FRAMES), ("held", frame(2), FRAMES), ("still", 0, frame(2)), ("moving", frame(2), frame(4) + 1),
        ("still", frame(4) + 1, FRAMES),
    }  # fmt: skip
    assert {a for a in spans[cupboard] if a[0] in ("open", "closed")} == {
        ("closed", 0, frame(3)), ("open", frame(3), frame(5)), ("closed", frame(5), FRAMES),
    }  # fmt: skip
    assert {("standing", 0, FRAMES), ("walking", frame(4), frame(5))} <= spans[p]
    assert spans[FLOOR] == {("gray", 0, FRAMES)}
    assert AttributeSpan("held", frame(2), FRAMES) in attributes[cup]
