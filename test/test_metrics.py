"""Hand-worked cases of recall over scenes, ceilings, masks, attributes, scores, and of the frequency prior."""

from __future__ import annotations

import numpy as np
import pytest
from metric_scenes import Points, scene, text
from small_recordings import KITCHEN, recording

from psg4d_ros.data.recording import TrueRelation
from psg4d_ros.evaluation.attributes import SceneAttributes, attribute_metrics
from psg4d_ros.evaluation.calibration import calibration, calibration_metrics
from psg4d_ros.evaluation.frequency import BACK_OFF, FrequencyPrior
from psg4d_ros.evaluation.metrics import SceneFinds, ceiling_table, find, recall_table, relation_metrics
from psg4d_ros.evaluation.panoptic import panoptic_metrics
from psg4d_ros.evaluation.tubes import Tubes
from psg4d_ros.vocabulary import default_vocabulary

STILL = text(*["aaaa bbbb"] * 4)
SAME = Points(STILL, STILL)
LABELS = ["cup", "table"]
WORDS = default_vocabulary()


class TestRecall:
    def test_pooled_recall_weighs_relations_and_recall_per_scene_weighs_scenes(self):
        many = SceneFinds(np.array([0]), ("on",) * 9)  # one of nine
        one = SceneFinds(np.array([0]), ("on",))
        table = recall_table([many, one], [20])
        assert table.R[20] == pytest.approx(2 / 10)
        assert table.R_per_scene[20] == pytest.approx((1 / 9 + 1) / 2)

    def test_mean_recall_gives_rare_predicates_the_same_weight(self):
        finds = SceneFinds(np.array([0, 1, 2, 3]), ("on", "on", "on", "on", "holding"))
        table = recall_table([finds], [20])
        assert table.R[20] == 0.8
        assert table.mR[20] == 0.5  # on: 4 of 4, holding: 0 of 1
        assert table.by_predicate == {
            "on": {"count": 4, "R": {"20": 1.0}},
            "holding": {"count": 1, "R": {"20": 0.0}},
        }

    def test_mean_recall_per_scene_averages_a_predicate_over_the_scenes_that_have_it(self):
        # on: 1/2 in the first scene, 1 in the second: 3/4. holding: 1 in the first. (3/4 + 1) / 2.
        first, second = SceneFinds(np.array([0, 2]), ("on", "on", "holding")), SceneFinds(np.array([0]), ("on",))
        table = recall_table([first, second], [20])
        assert table.mR_per_scene[20] == 0.875
        assert table.mR[20] == pytest.approx((2 / 3 + 1) / 2)

    def test_scenes_without_truth_do_not_count(self):
        finds = SceneFinds(np.array([0]), ("on",))
        alone, beside = recall_table([finds], [1]), recall_table([finds, SceneFinds(np.array([-1]), ())], [1])
        assert alone == beside

    def test_without_any_truth_there_is_no_recall(self):
        table = recall_table([SceneFinds(np.array([-1, -1]), ())], [20])
        assert table.R == table.mR == table.R_per_scene == table.mR_per_scene == {20: None}

    def test_nothing_said_finds_nothing(self):
        quiet = scene(SAME, LABELS, [(0, "on", 1, 0, 4)], LABELS, [])
        assert recall_table([find(quiet, "tube", labels=True)]).R == {20: 0.0, 50: 0.0, 100: 0.0}

    def test_only_the_k_best_count(self):
        wrong = [(1, "on", 0, i, 4) for i in range(4)]
        drawn = scene(SAME, LABELS, [(0, "on", 1, 0, 4)], LABELS, [*wrong, (0, "on", 1, 0, 4)])
        table = recall_table([find(drawn, "tube", labels=True)], [4, 5])
        assert table.R == {4: 0.0, 5: 1.0}

    def test_the_graph_constraint_lets_a_pair_have_one_predicate_per_start(self):
        truth = [(0, "on", 1, 0, 4), (0, "touching", 1, 0, 4), (0, "touching", 1, 2, 4)]
        drawn = scene(SAME, LABELS, truth, LABELS, truth)
        result = relation_metrics([drawn])["tube"]["triplet"]
        assert result["R"]["20"] == pytest.approx(2 / 3)
        assert result["ceiling"]["R"]["20"] == pytest.approx(2 / 3)
        assert result["unconstrained"]["R"]["20"] == result["unconstrained"]["ceiling"]["R"]["20"] == 1.0

    def test_zero_shot_counts_the_triplets_that_training_lacks(self):
        truth = [(0, "on", 1, 0, 4), (1, "under", 0, 0, 4)]
        drawn = scene(SAME, LABELS, truth, LABELS, truth[:1])
        result = relation_metrics([drawn], seen={("table", "under", "cup")})["tube"]["triplet"]
        assert result["R"]["20"] == 0.5
        assert (result["zero_shot"]["R"]["20"], result["zero_shot"]["relations"]) == (1.0, 1)


class TestCeiling:
    def test_k_over_n(self):
        truth = [(0, "on", 1, i, 4) for i in range(4)]
        table = ceiling_table([scene(SAME, LABELS, truth, LABELS, [])], [1, 3, 20])
        assert table.R == {1: 0.25, 3: 0.75, 20: 1.0}

    def test_mean_recall_is_greatest_when_rare_predicates_come_first(self):
        truth = [(0, "on", 1, 0, 4), (0, "on", 1, 1, 4), (0, "holding", 1, 2, 4)]
        table = ceiling_table([scene(SAME, LABELS, truth, LABELS, [])], [1, 2])
        assert table.mR == {1: 0.5, 2: 0.75}
        assert [table.R[1], table.R[2]] == pytest.approx([1 / 3, 2 / 3])


class TestMasks:
    def test_panoptic_quality(self):
        # cup: IoU 3/4 in frame 0, missed in frame 1 where something else is called a cup.
        # table: 1 in both. PQ(cup) = 0.75 / (1 + 0.5 + 0.5); PQ(table) = 1.
        true = text("aaaa bb ..", "aaaa bb ..")
        predicted = text("aaa. bb ..", "ccaa bb ..")  # c: a second "cup" on half of the first one
        drawn = scene(Points(true, predicted), LABELS, [], ["cup", "table", "cup"], [])
        result = panoptic_metrics([drawn])
        # Frame 1: two predicted cups of two points each, both IoU 0.5, which is not above 0.5: one missed, two false.
        assert result["by_class"]["cup"]["PQ"] == pytest.approx(0.75 / (1 + (2 + 1) / 2))
        assert result["by_class"]["table"]["PQ"] == 1.0
        assert result["PQ"] == pytest.approx((0.3 + 1) / 2)
        assert result["PQ_stuff"] is None

    def test_points_that_nobody_annotated_are_left_out(self):
        drawn = scene(Points(text("aa.."), text("aabb")), ["cup"], [], ["cup", "table"], [])
        result = panoptic_metrics([drawn])
        assert result["PQ"] == result["LSTQ"] == 1.0

    def test_stuff_of_one_label_is_one_segment(self):
        drawn = scene(Points(text("aabb"), text("aaaa")), ["wall", "wall"], [], ["wall"], [], stuff=["wall"])
        assert panoptic_metrics([drawn])["PQ_stuff"] == 1.0

    def test_a_right_mask_under_a_wrong_label_is_missed(self):
        drawn = scene(SAME, LABELS, [], ["glass", "table"], [])
        result = panoptic_metrics([drawn])
        assert (result["PQ"], result["S_assoc"]) == (0.5, 1.0)

    def test_association_of_a_track_that_breaks_in_two(self):
        # One cup of 4 points over 4 frames; tracked as one id for three frames, as another for the last.
        true, predicted = text(*["aaaa"] * 4), text("aaaa", "aaaa", "aaaa", "bbbb")
        drawn = scene(Points(true, predicted), ["cup"], [], ["cup", "cup"], [])
        result = panoptic_metrics([drawn])
        assert result["S_assoc"] == pytest.approx((12 * 0.75 + 4 * 0.25) / 16)
        assert result["S_cls"] == 1.0
        assert result["LSTQ"] == pytest.approx(np.sqrt(0.625))
        assert (result["id_switches"], result["matched_thing_frames"]) == (1, 4)
        assert result["tube_IoU"] == 0.75

    def test_each_change_of_id_is_a_switch_also_back_and_over_a_gap(self):
        true, predicted = text(*["aaaa"] * 5), text("aaaa", "bbbb", "....", "bbbb", "aaaa")
        result = panoptic_metrics([scene(Points(true, predicted), ["cup"], [], ["cup", "cup"], [])])
        assert (result["id_switches"], result["matched_thing_frames"]) == (2, 4)

    def test_nothing_true_and_nothing_said(self):
        empty = scene(Points(text("...."), text("....")), [], [], [], [])
        result = panoptic_metrics([empty])
        assert result["PQ"] is result["LSTQ"] is result["tube_IoU"] is None
        quiet = scene(Points(text("aaaa"), text("....")), ["cup"], [], [], [])
        assert panoptic_metrics([quiet])["PQ"] == panoptic_metrics([quiet])["LSTQ"] == 0.0


class TestAttributes:
    def test_f1_over_frames_and_visible_objects(self):
        # The cup is red in both frames and held in the second; said: red and open, then nothing as its mask is lost.
        predicted = text("aaaa bbbb", ".... bbbb")
        drawn = scene(Points(STILL[:2], predicted), LABELS, [], LABELS, [])
        true = {(0, 0): frozenset({"red"}), (1, 0): frozenset({"red", "held"})}
        said = {(0, 0): frozenset({"red", "held", "upright"}), (1, 0): frozenset({"red"})}
        result = attribute_metrics([drawn], [SceneAttributes(true, said)])
        # right: red once. said of true words: red, held. true: red twice, held once. upright is not annotated.
        assert result["F1"] == pytest.approx(2 * 1 / (2 + 3))
        assert result["by_attribute"]["red"] == {"count": 2, "F1": pytest.approx(2 / 3)}
        assert result["mean_F1"] == pytest.approx((2 / 3 + 0) / 2)

    def test_without_annotated_attributes_there_is_no_score(self):
        drawn = scene(SAME, LABELS, [], LABELS, [])
        assert attribute_metrics([drawn], [SceneAttributes({}, {(0, 0): frozenset({"red"})})])["F1"] is None


class TestCalibration:
    def test_bins(self):
        result = calibration(np.array([0.95, 0.95, 0.15, 1.0]), np.array([1.0, 0.0, 0.0, 1.0]))
        assert result["ECE"] == pytest.approx((3 * abs(2 / 3 - 2.9 / 3) + 1 * 0.15) / 4)
        assert [(b["from"], b["count"]) for b in result["bins"]] == [(0.1, 1), (0.9, 3)]

    def test_a_second_prediction_of_the_same_relation_is_wrong(self):
        truth = [(0, "on", 1, 0, 4)]
        drawn = scene(SAME, LABELS, truth, LABELS, truth * 2, [0.9, 0.8])
        result = calibration_metrics([drawn])
        assert result["relations"] == 2
        assert result["Brier"] == pytest.approx((0.01 + 0.64) / 2)

    def test_nothing_said(self):
        assert calibration_metrics([scene(SAME, LABELS, [], LABELS, [])]) is None

    def test_scores_that_are_no_probabilities(self):
        with pytest.raises(ValueError, match=r"expected probabilities in \[0, 1\]"):
            calibration(np.array([1.5]), np.array([1.0]))


class TestFrequencyPrior:
    PRIOR = FrequencyPrior.fit(
        [recording(relations=[TrueRelation(2, "on", 3, 0, 4), TrueRelation(2, "on", 3, 6, 8)])], WORDS
    )

    def test_probabilities_by_hand(self):
        # Four objects, twelve ordered pairs, one of them "on". Cup: three pairs as subject, one on; table: three as
        # object, one on. Backing off with weight 3: all = 1/12; cup alone = (1 + 3/12) / (3 + 3); table the same.
        assert BACK_OFF == 3.0
        alone = (1 + 3 / 12) / 6
        assert self.PRIOR.probabilities("cup", "table")["on"] == pytest.approx((1 + 3 * alone) / (1 + 3))
        nothing = (0 + 3 / 12) / 6
        assert self.PRIOR.probabilities("table", "cup")["on"] == pytest.approx((0 + 3 * nothing) / (1 + 3))

    def test_a_new_pair_of_known_labels_backs_off_to_what_either_says(self):
        # Cups are on something in one of three pairs, a floor is what something is on in none of three.
        cup, floor = (1 + 3 / 12) / 6, (0 + 3 / 12) / 6
        assert self.PRIOR.probabilities("cup", "floor")["on"] == pytest.approx((0 + 3 * (cup + floor) / 2) / (1 + 3))

    def test_labels_never_seen_back_off_to_all_pairs(self):
        assert self.PRIOR.probabilities("guitar", "piano")["on"] == pytest.approx(1 / 12)

    def test_synonyms_count_as_one_label(self):
        renamed = [b if b.label != "cup" else b.__class__("mug", b.corner, b.size) for b in KITCHEN]
        prior = FrequencyPrior.fit([recording(renamed, [TrueRelation(2, "on", 3, 0, 4)])], WORDS)
        assert prior.probabilities("cup", "table") == self.PRIOR.probabilities("cup", "table")

    def test_spans_are_the_common_lifetime(self):
        points = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 1, 1]])  # third: never with the first
        tubes = Tubes(("cup", "table", "person"), (True,) * 3, np.arange(5), points)
        relations, score = self.PRIOR.relate(tubes)
        spans = {
            (s, o): (a, b)
            for s, o, a, b in zip(
                relations.subject.tolist(),
                relations.object.tolist(),
                relations.start.tolist(),
                relations.end.tolist(),
                strict=True,
            )
        }
        assert spans == {(0, 1): (2, 4), (1, 0): (2, 4), (1, 2): (4, 5), (2, 1): (4, 5)}
        assert score.max() == score[relations.predicate.index("on")]

    def test_an_unfitted_prior_says_nothing(self):
        tubes = Tubes(("cup", "table"), (True, True), np.arange(1), np.ones((1, 2), np.int64))
        assert len(FrequencyPrior().relate(tubes)[0]) == 0
