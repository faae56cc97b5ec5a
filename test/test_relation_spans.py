"""Relations over windows: one span per stretch of time, gaps, scores, history, and tracks that are lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from tracking_world import EAGER, START, STEP, Run, S, Thing, between, ongoing, pair, seen_while, still

from psg4d_ros.events import graph_events
from psg4d_ros.structures import RelationPrediction, SceneGraph


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


def test_windows_that_could_see_a_relation_and_do_not_say_it_count_against_it() -> None:
    """However sure the one that imagines it is: what many windows agree on comes first."""

    def said(index: dict[str, int], frames: list[int]) -> list[RelationPrediction]:
        steady = ongoing(index, frames, score=0.6)
        imagined = replace(steady, predicate="under", predicate_id=4, score=0.9)
        return [steady, imagined] if frames[-1] == 8 else [steady]

    graph = Run(pair()).steps(10, relations=said)
    assert [(r.predicate, r.score) for r in graph.relations] == [
        ("on", pytest.approx(0.6)),
        ("under", pytest.approx(0.9 / 9)),
    ]
    graph = Run(pair()).steps(30, relations=said)
    assert graph.relations[1].score == pytest.approx(0.9 / 15), "15 windows hold a frame that it was said of, no more"


def test_a_window_that_says_it_twice_is_one_window() -> None:
    """Two stretches that are one span: no surer than one stretch of the surer score."""

    def twice(index: dict[str, int], frames: list[int]) -> list[RelationPrediction]:
        now = ongoing(index, frames, start=4, score=0.5)
        return [replace(now, start_frame=0, end_frame=3, score=0.9), now]

    (relation,) = Run(pair()).step(7, relations=twice).relations
    assert relation.score == pytest.approx(0.9)


def test_windows_that_nobody_asked_do_not_count_against_a_relation() -> None:
    run = Run(pair())
    asked_now_and_then(run, 3, 10, between(0, 99))
    assert run.graphs[-1].relations[0].score == pytest.approx(0.8)


def test_a_relation_becomes_surer_with_the_windows_that_say_it() -> None:
    run = Run(pair(), config=replace(EAGER, relation_prior_windows=2.0))
    run.steps(10, relations=lambda index, frames: [ongoing(index, frames, score=0.9)])
    assert [g.relations[0].score for g in run.graphs] == pytest.approx([0.9 * n / (n + 2) for n in range(1, 11)])


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
    run = Run(pair(), config=replace(EAGER, relation_history_s=3.0))
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


def asked_now_and_then(run: Run, every: int, stop: int, relations: Callable[..., list[RelationPrediction]]) -> None:
    """Windows up to ``stop``, of which each ``every``-th is asked for relations, the first among them."""
    for newest in range(stop):
        prediction = run.predict(newest, relations=relations)
        if newest % every:
            prediction = replace(prediction, relations=None)
        run.graphs.append(run.tracker.update(prediction, "tiny", "00ff"))


def spans(graph: SceneGraph) -> list[tuple[float, float, bool]]:
    """(start, end, ongoing) in frames; the nanosecond after the newest frame counts as the frame."""
    return [((r.start_ns - START) / STEP, (r.end_ns - START) // STEP, r.ongoing) for r in graph.relations]


def test_windows_that_are_not_asked_leave_a_relation_as_it_is() -> None:
    run = Run(pair())
    asked_now_and_then(run, 4, 24, between(5, 18))
    for newest, graph in enumerate(run.graphs):
        if newest < 8:
            assert graph.relations == (), "began at 5, and is first asked about at 8"
        else:
            assert spans(graph) == [(5, newest, True) if newest < 20 else (5, 18, False)]
            assert graph.relations[0].score == pytest.approx(0.8)


def test_nothing_starts_or_ends_while_nobody_asks() -> None:
    run = Run(pair())
    asked_now_and_then(run, 4, 24, between(0, 18))
    changed = [i for i in range(1, 24) if graph_events(run.graphs[i - 1], run.graphs[i])]
    assert changed == [20]


@pytest.mark.parametrize("every", [4, 20])
def test_what_is_said_again_was_never_interrupted_however_long_nobody_asked(every: int) -> None:
    """With 20, the windows of 8 frames that are asked have no frame in common."""
    run = Run(pair())
    asked_now_and_then(run, every, 45, between(0, 99))
    assert [spans(graph) for graph in run.graphs] == [[(0, newest, True)] for newest in range(45)]
    assert run.graphs[-1].relations[0].score == pytest.approx(0.8)


def test_what_is_not_said_again_ended_where_it_was_last_seen() -> None:
    run = Run(pair())
    asked_now_and_then(run, 4, 13, lambda index, frames: [ongoing(index, frames)] if frames[-1] < 12 else [])
    assert spans(run.graphs[11]) == [(0, 11, True)]
    assert spans(run.graphs[12]) == [(0, 8, False)]


def test_an_assumption_does_not_bridge_what_the_next_asked_window_sees() -> None:
    run = Run(pair())
    asked_now_and_then(run, 9, 10, lambda index, frames: [ongoing(index, frames, start=7 if frames[-1] == 9 else 0)])
    assert spans(run.graphs[8]) == [(0, 8, True)]
    assert sorted(spans(run.graphs[9])) == [(0, 0, False), (7, 9, True)]


def test_an_object_that_a_window_misses_keeps_its_relations_while_it_is_waited_for() -> None:
    run = Run(pair())
    run.steps(8, relations=between(0, 99))
    missed = replace(run.predict(8, missed=("chair1",)), relations=None)
    assert spans(run.tracker.update(missed, "tiny", "00ff")) == [(0, 8, True)]


def test_a_track_that_is_lost_while_nobody_asks_takes_its_relations_along() -> None:
    run = Run([Thing("person1", seen_while(still(0), (0, 3))), Thing("chair1", still(3))])
    asked_now_and_then(run, 100, 40, lambda index, frames: [ongoing(index, frames)] if "person1" in index else [])
    assert spans(run.graphs[12]) == [(0, 12, True)]
    assert not run.graphs[-1].relations
    assert [o.label for o in run.graphs[-1].objects] == ["chair"]
