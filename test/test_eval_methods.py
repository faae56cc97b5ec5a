"""What is said of a recording and by whom: rules on boxes, graphs that are collected, the pipeline."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from eval_support import FRAMES, WINDOW, WORDS, recall
from scene_graphs import SECOND, graph, holds, thing
from small_recordings import KITCHEN, Box, recording, with_boxes_only

from psg4d_ros.config import PipelineConfig, from_dict
from psg4d_ros.data.recording import Recording, TrueRelation
from psg4d_ros.errors import ConfigError, DatasetError
from psg4d_ros.evaluation.evaluate import Evaluation, evaluate
from psg4d_ros.evaluation.frequency import FrequencyPrior
from psg4d_ros.evaluation.observation import PipelineRunner, evaluation_config, observe
from psg4d_ros.evaluation.overlaps import TubeOverlaps
from psg4d_ros.evaluation.predictions import GraphCollector
from psg4d_ros.evaluation.rules import relate_by_rules
from psg4d_ros.structures import LabelledCloud
from psg4d_ros.transforms import TransformBuffer


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
        _, spans = self.collect(first, second)
        assert spans == {(0, "on", 1): (1, 5)}  # frames of 2, 3, 4 and 5 seconds

    def test_a_relation_is_no_surer_than_its_objects(self):
        cup, table = replace(thing(1, "cup"), score=0.5), replace(thing(2, "table"), score=0.8)
        said = graph(cup, table, replace(holds(1, "on", 2, 2, 3), score=0.25), stamp_s=3)
        assert self.collect(said)[0].score.tolist() == pytest.approx([0.25 * 0.5 * 0.8])

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
            "tracker": {"min_windows": 1},
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
