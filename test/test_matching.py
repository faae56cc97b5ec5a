"""Hand-worked cases of the two protocols: which prediction finds which true relation, and why."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from metric_scenes import Points, scene, text

from psg4d_ros.evaluation import calibration, matching, metrics
from psg4d_ros.evaluation.matching import (
    Relations,
    ScenePrediction,
    judged,
    match,
    overlap_values,
    rank,
)
from psg4d_ros.evaluation.overlaps import OverlapCounter, TubeOverlaps

# Two objects of four points each, seen alike in four frames.
STILL = text(*["aaaa bbbb"] * 4)
LABELS = ["cup", "table"]


def values(drawn, protocol, labels=True):
    ranked = np.arange(len(drawn.prediction.relations))
    return overlap_values(drawn, ranked, protocol, labels=labels).round(4).tolist()


class TestOverlaps:
    def test_points_are_counted_per_frame(self):
        counter = OverlapCounter()
        counter.add(np.array([1, 1, 2, 0]), np.array([1, 2, 2, 2]))
        counter.add(np.array([0, 0, 2, 2]), np.array([0, 1, 0, 0]))
        overlaps = counter.finish(2, 2)
        assert overlaps.predicted.tolist() == [[2, 1], [0, 2]]
        assert overlaps.true.tolist() == [[1, 3], [1, 0]]
        assert overlaps.shared.tolist() == [[0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 1]]  # frame, predicted, true, points
        assert overlaps.shared_in_all().tolist() == [[1, 1], [0, 1]]

    def test_frames_and_objects_may_be_empty(self):
        counter = OverlapCounter()
        counter.add(np.zeros(0, np.int32), np.zeros(0, np.int32))
        overlaps = counter.finish(0, 3)
        assert overlaps.true.tolist() == [[0, 0, 0]]
        assert overlaps.shared_in_all().shape == (0, 3)

    def test_true_tubes_as_predicted_ones_cover_themselves_only(self):
        boxes = np.array([[1, 1], [0, 1], [0, 0]])  # two annotated boxes; the first leaves, then the second
        overlaps = TubeOverlaps.identical(boxes)
        assert overlaps.shared_in_all().tolist() == [[1, 0], [0, 2]]
        assert overlaps.frame_iou().tolist() == [1.0, 1.0, 1.0]

    def test_shared_points_within_frames(self):
        counter = OverlapCounter()
        for points in (1, 2, 3):
            counter.add(np.full(points, 2), np.full(points, 1))
        overlaps = counter.finish(2, 2)
        starts, ends = np.array([0, 1, 0, 2, 0]), np.array([3, 2, 0, 3, 3])
        pairs = np.array([1, 1, 1, 1, 0]), np.array([0, 0, 0, 0, 1])
        assert overlaps.shared_within(*pairs, starts, ends).tolist() == [6, 2, 0, 3, 0]

    def test_label_arrays_of_different_clouds_are_refused(self):
        with pytest.raises(ValueError, match=r"\(4,\) points.*\(3,\)"):
            OverlapCounter().add(np.zeros(4, int), np.zeros(3, int))


class TestTubeProtocol:
    @pytest.mark.parametrize(
        ("said", "overlap"),
        [
            ((0, 4), 1.0),
            ((0, 3), 0.75),  # 3 frames of 4: 12 points shared, 12 + 16 - 12 together
            ((0, 2), 0.5),  # just admissible
            ((0, 1), 0.0),
            ((2, 4), 0.5),
        ],
    )
    def test_wrong_spans_cost(self, said, overlap):
        drawn = scene(Points(STILL, STILL), LABELS, [(0, "on", 1, 0, 4)], LABELS, [(0, "on", 1, *said)])
        assert values(drawn, "tube") == [[overlap]]

    def test_a_span_that_is_too_long_costs_as_much_as_one_that_is_too_short(self):
        drawn = scene(Points(STILL, STILL), LABELS, [(0, "on", 1, 1, 3)], LABELS, [(0, "on", 1, 0, 4)])
        assert values(drawn, "tube") == [[0.5]]

    def test_spans_that_do_not_meet_share_nothing(self):
        drawn = scene(Points(STILL, STILL), LABELS, [(0, "on", 1, 0, 2)], LABELS, [(0, "on", 1, 2, 4)])
        assert values(drawn, "tube") == [[0.0]]

    def test_the_worse_of_the_two_tubes_counts(self):
        # The subject is exact; of the object's four points three are found, and one point too many: 3 / (4 + 4 - 3).
        true, predicted = text("aaaa bbbb c"), text("aaaa bbb. b")
        truth = [(0, "on", 1, 0, 1)]
        drawn = scene(Points(true, predicted), [*LABELS, "floor"], truth, LABELS, truth)
        assert values(drawn, "tube") == [[0.6]]

    def test_volumes_are_summed_over_frames_before_they_are_divided(self):
        # Frame 0: 8 of 8 points of the subject. Frame 1: none of 2. 8 / 10, although the frames' mean IoU is 0.5.
        true, predicted = text("aaaaaaaa b", "aa...... b"), text("aaaaaaaa b", "........ b")
        drawn = scene(Points(true, predicted), LABELS, [(0, "on", 1, 0, 2)], LABELS, [(0, "on", 1, 0, 2)])
        assert values(drawn, "tube") == [[0.8]]

    def test_predicate_and_for_triplets_both_labels_must_be_equal(self):
        said = [(0, "on", 1, 0, 4), (0, "near", 1, 0, 4), (1, "on", 0, 0, 4)]
        drawn = scene(Points(STILL, STILL), LABELS, [(0, "on", 1, 0, 4)], ["mug", "table"], said)
        assert values(drawn, "tube", labels=False) == [[1.0], [0.0], [0.0]]
        assert values(drawn, "tube", labels=True) == [[0.0], [0.0], [0.0]]

    def test_each_true_span_is_a_relation_of_its_own(self):
        # Picked up twice; said once for the whole time: the prediction covers 2 of 4 frames of neither well enough.
        truth = [(0, "holding", 1, 0, 1), (0, "holding", 1, 3, 4)]
        once = scene(Points(STILL, STILL), LABELS, truth, LABELS, [(0, "holding", 1, 0, 4)])
        assert values(once, "tube") == [[0.0, 0.0]]
        twice = scene(Points(STILL, STILL), LABELS, truth, LABELS, truth)
        assert match(overlap_values(twice, np.arange(2), "tube", labels=True)).tolist() == [0, 1]


class TestFrameHitProtocol:
    def test_the_share_of_the_true_frames_that_are_hit(self):
        # The subject's mask is right in frames 0 and 1, has IoU 2/4 in frame 2 and 1/4 in frame 3: three hits of four.
        predicted = text("aaaa bbbb", "aaaa bbbb", "aa.. bbbb", "a... bbbb")
        drawn = scene(Points(STILL, predicted), LABELS, [(0, "on", 1, 0, 4)], LABELS, [(0, "on", 1, 0, 4)])
        assert values(drawn, "frame_hit") == [[0.75]]
        # By volume the subject's tube has 11 of 16 points.
        assert values(drawn, "tube") == [[0.6875]]

    def test_hits_lie_in_both_spans(self):
        drawn = scene(Points(STILL, STILL), LABELS, [(0, "on", 1, 0, 4)], LABELS, [(0, "on", 1, 1, 3)])
        assert values(drawn, "frame_hit") == [[0.5]]

    def test_frames_said_beyond_the_true_span_cost_nothing_here(self):
        drawn = scene(Points(STILL, STILL), LABELS, [(0, "on", 1, 1, 2)], LABELS, [(0, "on", 1, 0, 4)])
        assert values(drawn, "frame_hit") == [[1.0]]
        assert values(drawn, "tube") == [[0.0]]

    def test_frames_that_do_not_show_both_objects_are_no_true_frames(self):
        # The subject is hidden in frames 2 and 3: of two true frames both are hit.
        true = text("aaaa bbbb", "aaaa bbbb", ".... bbbb", ".... bbbb")
        drawn = scene(Points(true, true), LABELS, [(0, "on", 1, 0, 4)], LABELS, [(0, "on", 1, 0, 2)])
        assert values(drawn, "frame_hit") == [[1.0]]

    def test_a_large_object_seen_seldom_does_not_outweigh_the_other_frames(self):
        # One frame with ten points of the subject is right, three with one point each are wrong.
        true = text("aaaaaaaaaa b", "a......... b", "a......... b", "a......... b")
        predicted = text("aaaaaaaaaa b", ".......... b", ".......... b", ".......... b")
        drawn = scene(Points(true, predicted), LABELS, [(0, "on", 1, 0, 4)], LABELS, [(0, "on", 1, 0, 4)])
        assert values(drawn, "frame_hit") == [[0.0]]
        assert values(drawn, "tube") == [[0.7692]]  # 10 / 13


class TestMatching:
    def test_of_two_predictions_for_one_relation_only_the_first_counts(self):
        assert match(np.array([[0.6], [1.0]])).tolist() == [0, -1]

    def test_the_best_covered_is_taken_and_of_equals_the_first(self):
        assert match(np.array([[0.5, 0.9, 0.9]])).tolist() == [1]

    def test_what_a_better_prediction_took_is_gone(self):
        assert match(np.array([[0.9, 0.5], [0.8, 0.0], [0.7, 0.6]])).tolist() == [0, -1, 1]

    @pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
    def test_nothing_said_or_nothing_true(self, shape):
        assert match(np.zeros(shape)).tolist() == [-1] * shape[0]


class TestRank:
    ROWS = Relations.from_rows([(0, "on", 1, 0, 4), (0, "near", 1, 0, 4), (0, "near", 1, 2, 4), (1, "near", 0, 0, 4)])

    def test_one_predicate_per_pair_and_start_frame(self):
        score = np.array([0.9, 0.8, 0.7, 0.6])
        assert rank(self.ROWS, score, 100, graph_constraint=True).tolist() == [0, 2, 3]
        assert rank(self.ROWS, score, 100, graph_constraint=False).tolist() == [0, 1, 2, 3]

    def test_the_constraint_is_applied_before_the_best_are_counted(self):
        score = np.array([0.9, 0.8, 0.7, 0.6])
        assert rank(self.ROWS, score, 2, graph_constraint=True).tolist() == [0, 2]

    def test_of_equal_scores_the_lower_index_is_first(self):
        assert rank(self.ROWS, np.full(4, 0.5), 3, graph_constraint=False).tolist() == [0, 1, 2]
        assert rank(self.ROWS, np.full(4, 0.5), 3, graph_constraint=True).tolist() == [0, 2, 3]


def test_a_relation_is_judged_when_some_frame_of_its_span_shows_both():
    tubes = np.array([[4, 0], [0, 4], [4, 4]])
    truth = Relations.from_rows([(0, "on", 1, 0, 2), (0, "on", 1, 0, 3), (0, "on", 1, 2, 3), (0, "on", 1, 1, 1)])
    assert judged(truth, tubes).tolist() == [False, True, True, False]


class TestWrongValues:
    def test_scores_that_cannot_be_ranked(self):
        with pytest.raises(ValueError, match="NaN"):
            ScenePrediction(("cup", "cup"), (True, True), Relations.from_rows([(0, "on", 1, 0, 1)]), np.array([np.nan]))

    def test_spans_that_end_before_they_start(self):
        with pytest.raises(ValueError, match="before it starts"):
            Relations.from_rows([(0, "on", 1, 3, 2)])

    def test_relations_of_unknown_objects(self):
        with pytest.raises(ValueError, match=r"objects outside 0\.\.1"):
            scene(Points(STILL, STILL), LABELS, [], LABELS, [(0, "on", 2, 0, 4)])

    def test_relations_after_the_last_frame(self):
        with pytest.raises(ValueError, match="after the last of 4 frames"):
            scene(Points(STILL, STILL), LABELS, [], LABELS, [(0, "on", 1, 0, 5)])


@pytest.mark.parametrize("module", [matching, metrics, calibration])
def test_examples_in_docstrings(module):
    result = doctest.testmod(module)
    assert result.attempted and not result.failed


def test_examples_in_the_documentation():
    page = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"
    result = doctest.testfile(str(page), module_relative=False)
    assert result.attempted and not result.failed


def test_matching_and_metrics_do_not_import_torch():
    code = "import sys, psg4d_ros.evaluation.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
