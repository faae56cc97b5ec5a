"""From recordings to metrics: the oracle, its corruptions, frames, and recordings that are odd."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from eval_support import FRAMES, WINDOW, WORDS, oracle, recall
from small_recordings import KITCHEN, KITCHEN_RELATIONS, STEP_NS, recording, with_boxes_only

from psg4d_ros.data.recording import TrueRelation
from psg4d_ros.errors import DatasetError
from psg4d_ros.evaluation.attributes import SceneAttributes
from psg4d_ros.evaluation.evaluate import Evaluation, evaluate
from psg4d_ros.evaluation.frequency import FrequencyPrior
from psg4d_ros.evaluation.matching import Relations, Scene, ScenePrediction
from psg4d_ros.evaluation.observation import observe
from psg4d_ros.evaluation.overlaps import OverlapCounter
from psg4d_ros.evaluation.truth import admitted, true_attributes


class TestOracle:
    @pytest.mark.parametrize("setting", ["PredCls", "SGCls", "SGDet"])
    @pytest.mark.parametrize("make", [recording, lambda: with_boxes_only(recording())])
    def test_reaches_one_in_every_metric_where_k_covers_the_scene(self, make, setting):
        result = oracle(
            make(), recording([b for b in KITCHEN if b.label != "cup"], KITCHEN_RELATIONS[:0]), setting=setting
        )
        for protocol in ("tube", "frame_hit"):
            for labels in ("predicate", "triplet"):
                entry = result["protocol"][protocol][labels]["unconstrained"]
                for what in ("R", "mR", "R_per_scene", "mR_per_scene"):
                    assert set(entry[what].values()) == {1.0}
        assert result["attributes"]["F1"] == 1.0
        if setting != "PredCls":
            assert result["panoptic"]["PQ"] == result["panoptic"]["LSTQ"] == result["panoptic"]["tube_IoU"] == 1.0
            assert result["panoptic"]["id_switches"] == 0

    def test_reaches_its_ceiling_where_k_does_not_cover_the_scene(self):
        many = [
            TrueRelation(s, f"does {p}", o, 0, 12) for s in (1, 2, 3) for o in (1, 2, 3) if s != o for p in range(20)
        ]
        few = [TrueRelation(1, "does 0", 2, 0, 12), TrueRelation(1, "seldom", 2, 1, 12)]
        result = oracle(recording(relations=many), recording(relations=few))
        for labels in ("predicate", "triplet"):
            for protocol in ("tube", "frame_hit"):
                for entry in (
                    result["protocol"][protocol][labels],
                    result["protocol"][protocol][labels]["unconstrained"],
                ):
                    for what in ("R", "mR", "R_per_scene", "mR_per_scene"):
                        assert entry[what] == entry["ceiling"][what]
        assert recall(result, k=20) == pytest.approx(22 / 122)
        assert recall(result, k=100) == pytest.approx(102 / 122)

    def test_scenes_without_relations_are_left_out_and_counted(self):
        result = oracle(recording(), recording(relations=()))
        assert (result["scenes"], result["scenes_without_relations"]) == (2, 1)
        assert result["protocol"] == oracle(recording())["protocol"]

    def test_relations_that_no_frame_shows_are_left_out_and_counted(self):
        # The cup comes into view in frame 6; until then nothing about it can be seen.
        boxes = [replace(b, seen=(6, 12)) if b.label == "cup" else b for b in KITCHEN]
        relations = [TrueRelation(2, "on", 3, 0, 6), TrueRelation(2, "on", 3, 8, 12), TrueRelation(2, "on", 3, 8, 12)]
        result = oracle(recording(boxes, relations))
        assert result["true_relations"] == {"judged": 1, "unseen": 1, "repeated": 1}
        assert recall(result) == 1.0


# Corruptions: the truth, spoilt in one way, and what docs/metrics.md says of it


def spoilt(
    labels: Callable[[int, np.ndarray], np.ndarray] = lambda frame, instance: instance,
    names: Callable[[str], str] = lambda name: name,
    span: Callable[[int, int], tuple[int, int]] = lambda start, end: (start, end),
    subject: Callable[[int], int] = lambda i: i,
) -> dict:
    """The kitchen's truth said back after a change to the points' labels, the names, the spans or the subjects."""
    seen = observe(recording(), "SGDet", WINDOW, WORDS)
    counter = OverlapCounter()
    for f, labelled in enumerate(recording().open_frames()):
        counter.add(labels(f, labelled.instance.copy()), labelled.instance)
    count = 1 + max(subject(3), *(int(p.max(initial=0)) - 1 for p in (labels(f, np.arange(5)) for f in range(FRAMES))))
    count = max(count, 4)
    true = seen.truth.relations
    rows = [
        (subject(int(s)), p, subject(int(o)), *span(int(a), int(b)))
        for s, p, o, a, b in zip(true.subject, true.predicate, true.object, true.start, true.end, strict=True)
    ]
    predicted = tuple(names(seen.truth.labels[i % 4]) for i in range(count))
    things = tuple(seen.truth.is_thing[i % 4] for i in range(count))
    said = ScenePrediction(predicted, things, Relations.from_rows(rows), np.linspace(1, 0.5, len(rows)))
    attributes = true_attributes(recording(), np.ones(FRAMES, bool))
    scene = Scene(seen.truth, said, counter.finish(count, 4))
    return Evaluation("oracle", "SGDet", [scene], [SceneAttributes(attributes, attributes)], FRAMES, FRAMES).to_json()


def eroded(share: float):
    def change(frame, instance):
        for i in range(1, 5):
            mine = np.flatnonzero(instance == i)
            instance[mine[round(share * len(mine)) :]] = 0
        return instance

    return change


class TestCorruptions:
    def test_nothing_spoilt(self):
        result = spoilt()
        assert (
            recall(result)
            == recall(result, "frame_hit")
            == result["panoptic"]["PQ"]
            == result["panoptic"]["LSTQ"]
            == 1.0
        )

    def test_dropped_objects_take_their_relations_along(self):
        result = spoilt(labels=lambda f, instance: np.where(instance == 2, 0, instance))  # no cup
        for protocol in ("tube", "frame_hit"):
            assert recall(result, protocol) == pytest.approx(3 / 6)
        masks = result["panoptic"]
        assert masks["PQ"] == pytest.approx(3 / 4)
        assert masks["tube_IoU"] == masks["S_assoc"] == pytest.approx(2 / 3)  # of three things
        assert result["attributes"]["by_attribute"]["red"]["F1"] == 0.0
        assert result["attributes"]["by_attribute"]["walking"]["F1"] == 1.0

    def test_swapped_labels_cost_triplets_and_classes_only(self):
        swap = {"cup": "table", "table": "cup"}
        result = spoilt(names=lambda name: swap.get(name, name))
        for protocol in ("tube", "frame_hit"):
            assert recall(result, protocol, "predicate") == 1.0
            assert recall(result, protocol, "triplet") == pytest.approx(2 / 6)  # those of person and floor
        masks = result["panoptic"]
        assert (masks["PQ"], masks["S_cls"], masks["S_assoc"]) == (0.5, 0.5, 1.0)
        assert result["attributes"]["F1"] == 1.0

    @pytest.mark.parametrize(
        ("shift", "tube", "frame_hit"), [(0, 6, 6), (1, 6, 6), (2, 5, 5), (3, 3, 4), (4, 3, 4), (6, 2, 2), (7, 0, 0)]
    )
    def test_shifted_spans_are_lost_from_a_third_and_from_a_half_of_their_length(self, shift, tube, frame_hit):
        # "walking on", frames [0, 8), can move by all of it: 2 frames leave 6 of 10, 3 leave 5 of 11; as hits 4 of 8
        # are enough. What ends with the recording becomes shorter instead: 12 frames stand 6, 8 stand 4.
        result = spoilt(span=lambda start, end: (min(start + shift, FRAMES), min(end + shift, FRAMES)))
        assert recall(result, "tube") == pytest.approx(tube / 6)
        assert recall(result, "frame_hit") == pytest.approx(frame_hit / 6)
        assert result["panoptic"]["LSTQ"] == 1.0

    @pytest.mark.parametrize(("share", "found"), [(0.75, 1.0), (0.5, 1.0), (0.45, 0.0)])
    def test_eroded_masks(self, share, found):
        result = spoilt(labels=eroded(share))
        assert recall(result, "tube") == recall(result, "frame_hit") == found
        assert result["panoptic"]["PQ"] == pytest.approx(share if share > 0.5 else 0.0)
        assert result["panoptic"]["tube_IoU"] == pytest.approx(share)
        assert result["attributes"]["F1"] == (1.0 if share > 0.5 else 0.0)

    def test_ids_that_break_halfway(self):
        result = spoilt(labels=lambda f, instance: np.where((instance > 0) & (f >= 6), instance + 4, instance))
        masks = result["panoptic"]
        assert masks["PQ"] == masks["S_cls"] == 1.0
        assert masks["S_assoc"] == masks["tube_IoU"] == 0.5
        assert masks["id_switches"] == 3  # one for each thing
        # The relations of the whole time keep half their volume, that of [0, 8) 6 of 8 frames, that of [4, 12) 2 of 8.
        assert recall(result, "tube") == pytest.approx(3 / 6)


def test_truth_is_named_in_the_vocabularys_words():
    boxes = [replace(b, label="MUG" if b.label == "cup" else b.label) for b in KITCHEN]
    relations = [TrueRelation(2, "On", 3, 0, 12), TrueRelation(2, "on", 3, 0, 12)]
    seen = observe(recording(boxes, relations), "SGDet", WINDOW, WORDS)
    assert seen.truth.labels == ("person", "cup", "table", "floor")
    assert (seen.truth.relations.predicate, seen.left_out.repeated) == (("on",), 1)


class TestFrames:
    def test_only_frames_that_the_window_takes_are_evaluated(self):
        result = oracle(recording(step_ns=STEP_NS // 2))
        assert result["frames"] == {"evaluated": 6, "left_out": 6}
        assert recall(result) == 1.0

    def test_spans_count_evaluated_frames(self):
        fast = recording(
            relations=[TrueRelation(2, "on", 3, 3, 9), TrueRelation(2, "on", 3, 1, 2)], step_ns=STEP_NS // 2
        )
        seen = observe(fast, "SGDet", WINDOW, WORDS)
        rows = seen.truth.relations
        assert [(int(a), int(b)) for a, b in zip(rows.start, rows.end, strict=True)] == [(2, 5)]  # frames 4, 6, 8
        assert seen.left_out.unseen == 1  # frame 1 alone is not evaluated

    def test_frames_are_judged_by_the_window_itself(self):
        stamps = np.array([0, 100, 250, 499, 501, 5000, 5100], np.int64) * 1_000_000 + 1
        assert admitted(stamps, WINDOW).tolist() == [True, False, True, True, False, True, False]

    def test_frames_that_do_not_fit_the_annotation(self):
        good = recording([replace(b, attributes=()) for b in KITCHEN], ())
        short = replace(good, stamps_ns=good.stamps_ns[:-1])
        with pytest.raises(DatasetError, match=r"kitchen: frame 11 .* no more frames"):
            oracle(short)
        with pytest.raises(DatasetError, match="gave 12 frames, its annotation has 13"):
            oracle(replace(good, stamps_ns=np.append(good.stamps_ns, good.stamps_ns[-1] + STEP_NS)))
        with pytest.raises(DatasetError, match=r"frame 0 has points of objects \[4\], annotated are \[1, 2, 3\]"):
            oracle(replace(good, objects=good.objects[:3]))


PLAIN = [replace(b, attributes=()) for b in KITCHEN]  # for recordings too short for the attributes' spans


@pytest.mark.parametrize("method", ["oracle", "frequency", "rules"])
@pytest.mark.parametrize(
    ("odd", "judged", "unseen"),
    [
        (recording(PLAIN, (), frames=0), 0, 0),
        (recording([], ()), 0, 0),
        (recording([replace(b, seen=(0, 0)) for b in KITCHEN]), 0, 6),
        (recording(PLAIN, [TrueRelation(2, "on", 3, 0, 1)], frames=1), 1, 0),
        (recording(PLAIN, [TrueRelation(2, "on", 3, 0, 2)], frames=2), 1, 0),
        (recording([replace(b, label="no such word") for b in KITCHEN]), 6, 0),
        (recording(relations=[TrueRelation(2, "touching", 2, 0, 12)]), 1, 0),
    ],
    ids=["no frames", "no objects", "nothing in view", "one frame", "two frames", "unknown labels", "with itself"],
)
def test_odd_recordings_have_a_result(odd, judged, unseen, method):
    prior = FrequencyPrior.fit([recording()], WORDS)
    result = evaluate([odd, odd], method, "PredCls", WINDOW, WORDS, prior=prior).to_json(seen=set())
    json.dumps(result, allow_nan=False)
    assert result["true_relations"] == {"judged": 2 * judged, "unseen": 2 * unseen, "repeated": 0}
    values = {recall(result, protocol, what=what) for protocol in ("tube", "frame_hit") for what in ("R", "mR")}
    if not judged:
        assert values == {None}
    elif method == "oracle":
        assert values == {1.0}
    else:
        assert all(0.0 <= v <= 1.0 for v in values)
