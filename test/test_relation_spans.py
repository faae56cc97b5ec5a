"""Relations over windows: one span per stretch of time, gaps, scores, history, and tracks that are lost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tracking_world import START, STEP, Run, S, Thing, between, ongoing, pair, seen_while, still

from psg4d_ros.config import TrackerConfig
from psg4d_ros.structures import (
    RelationPrediction,
)


def test_a_relation_seen_by_many_windows_is_one_span() -> None:
    run = Run(pair())
    for newest in range(30):
        graph = run.step(newest, relations=between(5, 20))
        if newest < 5:
            assert graph.relations == ()
            continue
        (relation,) = graph.relations
        ids = run.truth[-1]
        assert (relation.subject_id, relation.object_id) == (ids["person1"], ids["chair1"])
        assert (relation.predicate, relation.predicate_id) == ("on", 3)
        assert relation.score == pytest.approx(0.8)
        assert relation.start_ns == START + 5 * STEP
        assert relation.ongoing == (newest < 20)
        assert relation.end_ns == (START + newest * STEP + 1 if newest < 20 else START + 20 * STEP)


def test_a_short_gap_is_bridged_and_a_long_one_makes_two_spans() -> None:
    def twice(first: tuple[int, int], second: tuple[int, int]) -> tuple[tuple[int, int, bool], ...]:
        run = Run(pair())
        graph = run.steps(
            24, relations=lambda index, frames: [*between(*first)(index, frames), *between(*second)(index, frames)]
        )
        return tuple(((r.start_ns - START) // STEP, (r.end_ns - START) // STEP, r.ongoing) for r in graph.relations)

    assert twice((4, 8), (10, 16)) == ((4, 16, False),)  # 0.5 s apart, merge gap 0.6 s
    assert twice((4, 8), (11, 16)) == ((4, 8, False), (11, 16, False))  # 0.75 s apart


def test_windows_that_miss_the_relation_do_not_break_its_span() -> None:
    run = Run(pair())
    for newest in range(16):
        seen = newest not in (8, 9)
        graph = run.step(newest, relations=between(4, 99) if seen else None)
        if newest in (8, 9):
            assert [r.ongoing for r in graph.relations] == [False], "not seen in the newest frame any more"
    (relation,) = graph.relations
    assert (relation.start_ns, relation.ongoing) == (START + 4 * STEP, True)


def test_two_spans_of_one_window_may_come_in_any_order() -> None:
    def two(index: dict[str, int], frames: list[int]) -> list[RelationPrediction]:
        now = ongoing(index, frames, start=5)
        return [now, replace(now, start_frame=2, end_frame=4)]

    (relation,) = Run(pair()).step(7, relations=two).relations
    assert (relation.start_ns, relation.end_ns, relation.ongoing) == (START + 2 * STEP, START + 7 * STEP + 1, True)


def test_the_score_of_a_relation_is_its_mean_over_windows() -> None:
    run = Run(pair())
    for newest, score in enumerate((0.5, 0.7, 0.9)):
        graph = run.step(newest, relations=lambda index, frames, s=score: [ongoing(index, frames, score=s)])
    assert graph.relations[0].score == pytest.approx(0.7)


def test_other_predicates_and_the_other_direction_are_relations_of_their_own() -> None:
    def several(index: dict[str, int], frames: list[int]) -> list[RelationPrediction]:
        a = ongoing(index, frames)
        return [a, replace(a, predicate="near", predicate_id=5), replace(a, subject=a.object, object=a.subject)]

    graph = Run(pair()).steps(10, relations=several)
    assert len(graph.relations) == 3 and all(r.ongoing for r in graph.relations)
    assert [(r.start_ns - START) for r in graph.relations] == [0, 0, 0]


def test_the_best_relation_comes_first_and_equals_by_their_ids() -> None:
    said = [("near", 0.3), ("on", 0.9), ("under", 0.5), ("above", 0.5)]

    def several(index: dict[str, int], frames: list[int]) -> list[RelationPrediction]:
        a = ongoing(index, frames)
        back = replace(a, subject=a.object, object=a.subject, predicate="behind", score=0.5)
        return [back, *(replace(a, predicate=word, score=score) for word, score in said)]

    run = Run(pair())
    graph = run.step(0, relations=several)
    person, chair = run.truth[-1]["person1"], run.truth[-1]["chair1"]
    equals = sorted([(person, chair, "above"), (person, chair, "under"), (chair, person, "behind")])
    found = [(r.subject_id, r.object_id, r.predicate) for r in graph.relations]
    assert found == [(person, chair, "on"), *equals, (person, chair, "near")]


def test_an_ended_relation_of_a_better_score_comes_before_an_ongoing_one() -> None:
    def two(index: dict[str, int], frames: list[int]) -> list[RelationPrediction]:
        a = ongoing(index, frames, score=0.4)
        return [a, replace(a, predicate="touching", score=0.7, end_frame=1)]

    graph = Run(pair()).step(3, relations=two)
    assert [(r.predicate, r.ongoing) for r in graph.relations] == [("touching", False), ("on", True)]


def test_ended_relations_stay_for_the_history_and_no_longer() -> None:
    run = Run(pair(), config=TrackerConfig(relation_history_s=3.0))
    run.steps(40, relations=between(2, 10))
    for graph in run.graphs[10:]:
        assert len(graph.relations) == (graph.stamp_ns - (START + 10 * STEP) <= 3 * S)


def test_a_lost_track_takes_its_relations_along() -> None:
    run = Run([Thing("person1", seen_while(still(0), (0, 3))), Thing("chair1", still(3))])
    run.steps(40, relations=lambda index, frames: [ongoing(index, frames)] if "person1" in index else [])
    assert run.graphs[5].relations and not run.graphs[-1].relations
    assert [o.label for o in run.graphs[-1].objects] == ["chair"]


def test_a_relation_of_an_object_with_itself_is_dropped() -> None:
    run = Run(pair())
    graph = run.step(0, relations=lambda index, frames: [replace(ongoing(index, frames), object=index["person1"])])
    assert graph.relations == ()
