"""From recordings to metrics: the oracle, its corruptions, the methods, the pipeline, and the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from box_world import box_timeline, box_truth
from scene_graphs import SECOND, graph, holds, thing
from small_recordings import KITCHEN, KITCHEN_RELATIONS, STEP_NS, Box, recording, with_boxes_only

from psg4d_ros.cli import main
from psg4d_ros.config import PipelineConfig, WindowConfig, from_dict
from psg4d_ros.data.open_dataset import open_recordings
from psg4d_ros.data.recording import Recording, TrueRelation
from psg4d_ros.errors import ConfigError, DatasetError
from psg4d_ros.evaluation.attributes import SceneAttributes
from psg4d_ros.evaluation.evaluate import Evaluation, evaluate
from psg4d_ros.evaluation.frequency import FrequencyPrior
from psg4d_ros.evaluation.matching import Relations, Scene, ScenePrediction
from psg4d_ros.evaluation.observation import PipelineRunner, evaluation_config, observe
from psg4d_ros.evaluation.overlaps import OverlapCounter, TubeOverlaps
from psg4d_ros.evaluation.predictions import GraphCollector
from psg4d_ros.evaluation.rules import relate_by_rules
from psg4d_ros.evaluation.truth import admitted, true_attributes
from psg4d_ros.structures import LabelledCloud
from psg4d_ros.transforms import TransformBuffer
from psg4d_ros.vocabulary import default_vocabulary

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
WORDS = default_vocabulary()
WINDOW = WindowConfig()
FRAMES = 12


def oracle(*recordings: Recording, setting="SGDet") -> dict:
    return evaluate(recordings, "oracle", setting, WINDOW, WORDS).to_json()


def recall(result: dict, protocol: str = "tube", labels: str = "triplet", what: str = "R", k: int = 100) -> float:
    return result["protocol"][protocol][labels]["unconstrained"][what][str(k)]


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


@pytest.fixture(scope="module")
def found():
    # A person stands at a table; then a second cup is carried past in the hand of one who walks.
    boxes = [
        Box("person", (0.0, 0.0, 0.0), (0.5, 0.4, 1.7)),
        Box("cup", (0.9, 0.2, 0.75), (0.1, 0.1, 0.1)),
        Box("table", (0.6, 0.0, 0.0), (0.8, 0.8, 0.75)),
        Box("floor", (-3, -3, -0.02), (8, 6, 0.02), is_thing=False),
        Box("person", (-2.0, -2.0, 0.0), (0.4, 0.4, 1.7), (0.15, 0, 0)),
        Box("cup", (-1.6, -1.9, 1.1), (0.1, 0.1, 0.1), (0.15, 0, 0)),
        Box("picture", (1.0, 2.9, 1.4), (0.5, 0.05, 0.4)),
        Box("wall", (-3, 2.95, 0), (8, 0.05, 2.5), is_thing=False),
    ]
    seen = observe(recording(boxes, ()), "PredCls", WINDOW, WORDS, boxes=True)
    relations, _ = relate_by_rules(seen.tubes)
    return {
        (int(s) + 1, p, int(o) + 1): (int(a), int(b))
        for s, p, o, a, b in zip(
            relations.subject, relations.predicate, relations.object, relations.start, relations.end, strict=True
        )
    }


class TestRules:
    @pytest.mark.parametrize(
        "relation",
        [
            (2, "on", 3),
            (3, "on", 4),
            (1, "standing on", 4),
            (5, "walking on", 4),
            (5, "holding", 6),
            (5, "carrying", 6),
            (7, "hanging on", 8),
        ],
    )
    def test_what_boxes_tell(self, found, relation):
        assert found[relation] == (0, FRAMES)

    @pytest.mark.parametrize("relation", [(1, "holding", 2), (2, "on", 4), (1, "walking on", 4), (6, "on", 4)])
    def test_what_they_rule_out(self, found, relation):
        assert relation not in found

    def test_they_are_a_baseline_in_the_table(self):
        result = evaluate([recording()], "rules", "PredCls", WINDOW, WORDS).to_json()
        assert recall(result) == pytest.approx(3 / 6)  # on, on, walking on; the person does not stop
        assert result["calibration"] is None


class TestCollector:
    """Graph after graph, as the tracker makes them."""

    STAMPS = np.arange(1, 9) * SECOND  # evaluated frames at 1 s, 2 s, ... 8 s

    def collect(self, *graphs, given=None):
        collector = GraphCollector(WORDS, given)
        for g in graphs:
            collector.add(g)
        prediction = collector.prediction(self.STAMPS)
        rows = prediction.relations
        spans = [(int(a), int(b)) for a, b in zip(rows.start, rows.end, strict=True)]
        pairs = list(zip(rows.subject.tolist(), rows.predicate, rows.object.tolist(), strict=True))
        return prediction, dict(zip(pairs, spans, strict=True)) if len(set(pairs)) == len(pairs) else spans

    def test_a_relation_that_goes_on_is_one_relation_with_its_last_end(self):
        both = thing(1, "cup"), thing(2, "table")
        first = graph(*both, holds(1, "on", 2, 2, 3 + 1e-9), stamp_s=3)
        second = graph(*both, replace(holds(1, "on", 2, 2, 5 + 1e-9), score=0.25), stamp_s=5)
        prediction, spans = self.collect(first, second)
        assert spans == {(0, "on", 1): (1, 5)}  # frames of 2, 3, 4 and 5 seconds
        assert prediction.score.tolist() == [0.25]

    def test_a_span_that_grew_backwards_replaces_what_it_was(self):
        both = thing(1, "cup"), thing(2, "table")
        later = graph(*both, holds(1, "on", 2, 4, 5), stamp_s=5), graph(*both, holds(1, "on", 2, 2, 6), stamp_s=6)
        assert self.collect(*later)[1] == {(0, "on", 1): (1, 5)}

    def test_spans_apart_stay_apart_also_after_the_graph_forgot_the_first(self):
        both = thing(1, "cup"), thing(2, "table")
        early = graph(*both, holds(1, "on", 2, 1, 2), stamp_s=3)
        late = graph(*both, holds(1, "on", 2, 5, 7), stamp_s=7)
        assert self.collect(early, late)[1] == [(0, 1), (4, 6)]

    def test_a_span_between_two_evaluated_frames_or_after_the_last_is_empty(self):
        both = thing(1, "cup"), thing(2, "table")
        said = graph(*both, holds(1, "on", 2, 2.2, 2.8), holds(2, "under", 1, 8.5, 9.5), stamp_s=9)
        assert self.collect(said)[1] == {(0, "on", 1): (2, 2), (1, "under", 0): (8, 8)}

    def test_a_predicate_is_one_in_any_letter_case(self):
        both = thing(1, "cup"), thing(2, "table")
        first, second = (
            graph(*both, holds(1, "ON", 2, 1, 3), stamp_s=3),
            graph(*both, holds(1, "on", 2, 1, 4), stamp_s=4),
        )
        assert self.collect(first, second)[1] == {(0, "on", 1): (0, 3)}

    def test_attributes_are_said_of_objects_in_view(self):
        collector = GraphCollector(WORDS)
        collector.add(graph(thing(1), thing(2, num_points=0)))
        collector.add(graph(thing(1, attributes=()), thing(2)))
        assert collector.attributes == {(0, 0): {"red"}, (1, 1): {"red"}}

    def test_tracks_of_another_epoch_are_other_objects(self):
        both = thing(1, "cup"), thing(2, "table")
        prediction, spans = self.collect(
            graph(*both, holds(1, "on", 2, 1, 3), stamp_s=3), graph(*both, holds(1, "on", 2, 4, 6), stamp_s=6, epoch=1)
        )
        assert prediction.labels == ("cup", "table", "cup", "table")
        assert spans == {(0, "on", 1): (0, 2), (2, "on", 3): (3, 5)}

    def test_given_objects_keep_their_place_and_the_last_name(self):
        first = graph(thing(7, "cup"), stamp_s=3)
        second = graph(thing(7, "couch"), thing(5, "table"), holds(7, "on", 5, 4, 6), stamp_s=6, epoch=1)
        prediction, spans = self.collect(first, second, given={5: 0, 6: 1, 7: 2})
        assert prediction.labels == ("table", "", "sofa")  # nobody named object 6; couch is a synonym
        assert spans == {(2, "on", 0): (3, 5)}

    def test_points_of_the_newest_frame_become_columns(self):
        cloud = LabelledCloud(
            np.zeros((4, 3), np.float32),
            np.array([2, 0, 9, 2], np.uint32),
            np.array([3, -1, 3, 3], np.int32),
            np.zeros(4, np.float32),
            np.arange(4),
        )
        collector = GraphCollector(WORDS)
        assert collector.add(graph(thing(2), thing(9), cloud=cloud)).tolist() == [1, 0, 2, 1]
        assert collector.add(graph(thing(9), thing(4), epoch=1)).tolist() == []
        assert len(collector.objects()[0]) == 4


MODEL_CONFIG = evaluation_config(
    from_dict(
        PipelineConfig,
        {
            "window": {"num_frames": 3},
            "inference": {"presence_threshold": 0.0, "relation_threshold": 0.0, "device": "cpu", "max_relations": 20},
        },
    )
)
SHORT = 4  # frames; the model is slow on a CPU


def short_recording(**changes) -> Recording:
    boxes = [replace(b, attributes=()) for b in KITCHEN]
    return recording(boxes, [TrueRelation(2, "on", 3, 0, SHORT)], frames=SHORT, **changes)


@pytest.fixture(scope="module")
def runner(tiny_checkpoint):
    from psg4d_ros.pipeline import ScenePipeline

    transforms = TransformBuffer()
    return PipelineRunner(ScenePipeline.from_checkpoint(tiny_checkpoint, MODEL_CONFIG, transforms), transforms)


def run(runner, setting, *recordings, method="model", prior=None):
    given = recordings or (short_recording(),)
    return evaluate(given, method, setting, MODEL_CONFIG.window, WORDS, runner=runner, prior=prior)


@pytest.fixture(scope="module")
def said(runner):
    """The untrained model's scene in SGDet."""
    return run(runner, "SGDet")


class TestModel:
    def test_sgdet_takes_masks_and_labels_of_the_model(self, said):
        (scene,) = said.scenes
        assert scene.overlaps.predicted.shape[0] == SHORT
        assert scene.overlaps.predicted.sum() > 0
        assert len(scene.prediction.relations) > 0
        assert json.dumps(said.to_json())

    def test_predcls_and_sgcls_give_it_the_true_tubes(self, runner):
        for setting in ("PredCls", "SGCls"):
            (scene,) = run(runner, setting).scenes
            assert scene.overlaps.shared.tolist() == TubeOverlaps.identical(scene.overlaps.true).shared.tolist()
            assert (scene.prediction.labels == scene.truth.labels) == (setting == "PredCls")
            assert len(scene.prediction.relations) > 0

    def test_a_recording_scores_alike_whatever_came_before_it(self, runner, said):
        alone = said.scenes[0]
        after = run(runner, "SGDet", short_recording(name="other", seed=5), short_recording()).scenes[1]
        assert alone.prediction.labels == after.prediction.labels
        assert alone.prediction.score.tolist() == after.prediction.score.tolist()
        assert alone.overlaps.shared.tolist() == after.overlaps.shared.tolist()

    def test_poses_count_whatever_the_sensors_frame_is_called(self, runner, said):
        (scene,) = run(runner, "SGDet", short_recording(frame_id="world")).scenes
        assert scene.overlaps.shared.tolist() == said.scenes[0].overlaps.shared.tolist()
        assert scene.prediction.score.tolist() == said.scenes[0].prediction.score.tolist()

    @pytest.mark.parametrize("method", ["frequency", "rules"])
    def test_frequency_and_rules_speak_of_the_same_tubes(self, runner, said, method):
        prior = FrequencyPrior.fit([recording()], WORDS)
        (scene,) = run(runner, "SGDet", method=method, prior=prior).scenes
        assert scene.prediction.labels == said.scenes[0].prediction.labels
        assert scene.overlaps.shared.tolist() == said.scenes[0].overlaps.shared.tolist()

    def test_the_best_hundred_are_enough(self):
        prior = FrequencyPrior.fit([recording()], WORDS)
        every = prior.relate(observe(recording(), "PredCls", WINDOW, WORDS).tubes)
        (scene,) = evaluate([recording()], "frequency", "PredCls", WINDOW, WORDS, prior=prior).scenes
        whole = replace(scene, prediction=replace(scene.prediction, relations=every[0], score=every[1]))
        results = [Evaluation("frequency", "PredCls", [s]).to_json()["protocol"] for s in (scene, whole)]
        assert results[0] == results[1]

    def test_boxes_without_points_are_refused(self, runner):
        with pytest.raises(DatasetError, match="boxes but no points"):
            run(runner, "SGDet", with_boxes_only(recording()))

    def test_a_window_that_gives_no_graph_at_first_is_refused(self):
        with pytest.raises(ConfigError, match="min_frames is 3"):
            evaluation_config(from_dict(PipelineConfig, {"window": {"min_frames": 3}}))

    def test_what_is_missing_is_said(self, runner):
        with pytest.raises(ConfigError, match="needs a pipeline"):
            evaluate([recording()], "model", "PredCls", WINDOW, WORDS)
        with pytest.raises(ConfigError, match="takes no pipeline"):
            evaluate([recording()], "oracle", "SGDet", WINDOW, WORDS, runner=runner)
        with pytest.raises(ConfigError, match="needs a prior"):
            evaluate([recording()], "frequency", "PredCls", WINDOW, WORDS)


# The command line, on scenes of the simulator


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Path:
    """A folder as `psg4d simulate --bag` writes it, with one small scene of 8 frames."""
    pytest.importorskip("embreex", reason="pip install psg4d_ros[sim]: scenes are seen by casting rays with Embree")
    from psg4d_ros.data.simulation.capture import record, sample_steps
    from psg4d_ros.data.simulation.scene_bag import write_bag
    from psg4d_ros.data.simulation.sensors import DepthCamera
    from psg4d_ros.data.simulation.storage import write_scene

    folder = tmp_path_factory.mktemp("simulated")
    steps = sample_steps(8, 4.0)
    relations, attributes = box_truth(len(steps))
    rng = np.random.default_rng(0)
    data = record(box_timeline(), steps, relations, attributes, DepthCamera(width=80, height=60), rng).data
    write_scene(folder / "room.npz", data)
    write_bag(folder / "room", data)
    return folder


def evaluated(*arguments, tmp_path: Path) -> dict:
    assert main(["eval", *map(str, arguments), "--quiet", "--json", str(tmp_path / "eval.json")]) == 0
    return json.loads((tmp_path / "eval.json").read_text())


class TestCommandLine:
    def test_the_table_and_the_keys_of_the_contract(self, simulated, tmp_path, capsys):
        result = evaluated(simulated, "--method", "oracle", tmp_path=tmp_path)
        assert (result["setting"], result["method"], result["scenes"]) == ("SGDet", "oracle", 1)
        for protocol in ("tube", "frame_hit"):
            for labels in ("predicate", "triplet"):
                entry = result["protocol"][protocol][labels]
                assert list(entry["R"]) == list(entry["mR"]) == ["20", "50", "100"]
                assert entry["R"] == entry["ceiling"]["R"]
                assert entry["unconstrained"]["R"]["100"] == entry["unconstrained"]["mR"]["100"] == 1.0
        table = capsys.readouterr().out
        for text in (
            "oracle, SGDet",
            "tube, triplet",
            "frame-hit, predicate",
            "ceiling",
            "mR@100",
            "LSTQ",
            "attributes F1",
        ):
            assert text in table

    def test_a_bag_scores_as_its_scene_file_does(self, simulated, tmp_path):
        scene, bag = (
            evaluated(path, "--method", "rules", "--setting", "PredCls", tmp_path=tmp_path)
            for path in (simulated / "room.npz", simulated / "room")
        )
        assert scene.pop("dataset") != bag.pop("dataset")
        assert scene == bag

    def test_frequency_is_fitted_on_the_training_set_that_is_named(self, simulated, tmp_path):
        result = evaluated(
            simulated, "--method", "frequency", "--setting", "PredCls", "--train", simulated, tmp_path=tmp_path
        )
        entry = result["protocol"]["tube"]["triplet"]
        assert entry["zero_shot"]["relations"] == 0  # its triplets are all seen
        assert entry["unconstrained"]["R"]["100"] > 0
        assert result["calibration"]["relations"] > 0

    def test_the_model_is_run_on_it(self, simulated, tmp_path, tiny_checkpoint, capsys):
        limits = ("inference.device=cpu", "window.num_frames=2", "window.frame_interval_s=0.7")
        options = [o for limit in limits for o in ("--set", limit)]
        result = evaluated(simulated, "--checkpoint", tiny_checkpoint, *options, tmp_path=tmp_path)
        assert result["model"]["id"] == "tiny"
        assert result["frames"] == {"evaluated": 3, "left_out": 5}  # one frame in three
        assert "untrained" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (("nowhere",), "nowhere does not exist, expected 'sim', a folder of"),
            ((__file__,), "is not 'sim', a folder of"),
            (("sim", "--split", "no such"), "expected one of train, train_scarce, val, test, test_oov"),
            (("sim", "--limit", "0"), "limit is 0, expected at least 1"),
            (("sim", "--set", "window.min_frames=2"), "min_frames is 2"),
        ],
    )
    def test_what_cannot_be_evaluated(self, arguments, text, capsys):
        assert main(["eval", *arguments, "--method", "oracle"]) == 1
        assert text in capsys.readouterr().err

    def test_a_split_of_what_has_none(self, simulated, capsys):
        assert main(["eval", str(simulated), "--split", "test", "--method", "oracle"]) == 1
        assert "is all one split" in capsys.readouterr().err


class TestDatasets:
    @pytest.mark.slow
    def test_the_simulators_splits_come_out_of_the_cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        (first,) = open_recordings("sim", "train_scarce", limit=1, seed=3)
        (file,) = tmp_path.rglob("*.npz")
        made = file.stat().st_mtime_ns
        (again,) = open_recordings("sim", "train_scarce", limit=1, seed=3)
        assert (again.name, again.relations) == (first.name, first.relations)
        assert file.stat().st_mtime_ns == made

    @pytest.mark.skipif(not (SHARED / "bimacs_zed").is_dir(), reason="the takes of bimacs_zed are not at hand")
    def test_real_boxes(self):
        recordings = open_recordings(str(SHARED / "bimacs_zed"), limit=2)
        assert len(recordings) == 2
        result = oracle(*recordings, setting="PredCls")
        for protocol in ("tube", "frame_hit"):
            entry = result["protocol"][protocol]["triplet"]
            assert entry["R"] == entry["ceiling"]["R"]
            assert entry["mR"] == entry["ceiling"]["mR"]
        assert result["true_relations"]["judged"] > 100
