"""The model on recordings of boxes: labels and boxes per frame in, relations with their spans out.

The tiny checkpoint's real parts run; where answers are to be known, its relation head is set by hand.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from given_scenes import CUP, TABLE, scene
from small_recordings import Box, recording, with_boxes_only

from psg4d_ros.config import PipelineConfig, from_dict
from psg4d_ros.data.recording import Recording, TrueRelation
from psg4d_ros.errors import DatasetError
from psg4d_ros.evaluation.box_frames import corner_frames
from psg4d_ros.evaluation.evaluate import evaluate, evaluate_dataset
from psg4d_ros.evaluation.observation import PipelineRunner, evaluation_config
from psg4d_ros.model.geometry import GEOMETRY_NAMES
from psg4d_ros.pipeline import ScenePipeline
from psg4d_ros.runtime.given import GivenObject
from psg4d_ros.runtime.given_boxes import BoxPredictor, measure_boxes
from psg4d_ros.structures import GraphStatus
from psg4d_ros.transforms import TransformBuffer, transform_points
from psg4d_ros.vocabulary import default_vocabulary

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS = default_vocabulary()
BIMACS = Path(__file__).resolve().parents[2] / "shared" / "data" / "bimacs_zed"
CONFIG = evaluation_config(
    from_dict(PipelineConfig, {"window": {"num_frames": 3}, "inference": {"device": "cpu", "threads": 1}})
)
# A cup rises from under a shelf; in frame 6 it is above it for the first time.
RISING = (
    Box("cup", (2.0, 0.0, 0.22), (0.1, 0.1, 0.1), (0.0, 0.0, 0.15)),
    Box("shelf", (2.0, 0.3, 1.0), (0.4, 0.3, 0.1)),
)
CUP_ABOVE, SHELF_ABOVE = TrueRelation(1, "above", 2, 6, 12), TrueRelation(2, "above", 1, 0, 6)


def rising(**changes) -> Recording:
    return with_boxes_only(recording(RISING, (SHELF_ABOVE, CUP_ABOVE), **changes))


@pytest.fixture
def runner(tiny_checkpoint) -> PipelineRunner:
    transforms = TransformBuffer()
    return PipelineRunner(ScenePipeline.from_checkpoint(tiny_checkpoint, CONFIG, transforms), transforms)


@pytest.fixture
def above_by_hand(runner) -> PipelineRunner:
    """The only word is "above", and it holds of a pair in the frames in which the middle of the subject is higher."""
    runner.pipeline.set_vocabulary([], ["above"], replace=True)
    head = runner.pipeline.predictor.model.relation_head
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        head.prior.bias.fill_(6.0)  # at some time it holds of every pair
        head.key.bias[0] = head.key.out_features**0.5  # so that a key reads the first number of a state as it is
        head.frame_geometry.weight[0, GEOMETRY_NAMES.index("up_subject")] = 100.0
        for layer in (head.frame_query[1], head.frame_query[3]):
            layer.weight[0, 0] = 1.0
        head.frame_prior.bias.fill_(-6.0)
    return runner


def said(runner: PipelineRunner, *recordings: Recording, setting="PredCls"):
    """(subject, predicate, object, start, end) of each relation, in frames that were evaluated; and the metrics."""
    result = evaluate(recordings, "model", setting, CONFIG.window, WORDS, runner=runner)
    rows = result.scenes[-1].prediction.relations
    spans = zip(rows.subject + 1, rows.predicate, rows.object + 1, rows.start, rows.end, strict=True)
    return sorted((int(s), p, int(o), int(a), int(b)) for s, p, o, a, b in spans), result.to_json()


class TestSpans:
    def test_boxes_in_each_frame_become_spans_over_windows(self, above_by_hand):
        spans, result = said(above_by_hand, rising())
        assert spans == [(1, "above", 2, 6, 12), (2, "above", 1, 0, 6)]
        assert result["protocol"]["tube"]["triplet"]["R"]["20"] == 1.0

    def test_the_window_takes_frames_by_its_interval(self, above_by_hand):
        spans, result = said(above_by_hand, rising(step_ns=125_000_000))
        assert result["frames"] == {"evaluated": 6, "left_out": 6}
        assert spans == [(1, "above", 2, 3, 6), (2, "above", 1, 0, 3)]

    def test_a_span_ends_where_one_of_the_two_is_gone(self, above_by_hand):
        cup, shelf = RISING
        boxes = replace(cup, seen=(0, 9)), shelf
        spans, _ = said(above_by_hand, with_boxes_only(recording(boxes, (SHELF_ABOVE,))))
        assert spans == [(1, "above", 2, 6, 9), (2, "above", 1, 0, 6)]

    def test_it_says_of_boxes_what_it_says_of_points_in_them(self, above_by_hand):
        spans, _ = said(above_by_hand, recording(RISING, (SHELF_ABOVE, CUP_ABOVE)))
        assert spans == said(above_by_hand, rising())[0]

    def test_recordings_do_not_run_into_one_another(self, above_by_hand):
        alone = said(above_by_hand, rising())[0]
        assert said(above_by_hand, with_boxes_only(recording()), rising())[0] == alone

    @pytest.mark.parametrize("of", ["boxes", "points"])
    def test_turn_2_is_asked_as_often_as_on_the_robot(self, runner, of):
        recorded = rising() if of == "boxes" else recording(RISING, (SHELF_ABOVE, CUP_ABOVE))
        inference = replace(CONFIG.inference, relations_every=5, relation_threshold=0.0)
        runner.pipeline.config = replace(CONFIG, inference=inference)
        runner.pipeline.predictor.config = inference
        for _ in range(2):  # the second recording is a new epoch
            graphs = [graph for _, graph in runner.run(recorded, "PredCls", WORDS)]
            assert [i for i, g in enumerate(graphs) if "turn2" in g.stage_ms] == [0, 5, 10]
            assert all(any(r.ongoing for r in g.relations) for g in graphs)


class TestPredictor:
    def test_turn_2_reads_the_labels_without_scene_or_slot_states(self, make_predictor, spy):
        predictor = make_predictor()
        read, asked = spy(predictor.model.chain, "turn1"), spy(predictor.model.chain, "turn2")
        boxes, (window, given) = BoxPredictor(predictor), scene(objects=(TABLE, GivenObject(40, "grail"), CUP))
        prediction = boxes.predict(window, given)
        boxes.predict(window, given)
        assert [len(call.scene_tokens) for call in read] == [0], "once: it is the same for every window"
        assert (
            [o.label for o in asked[0].objects] == [i.label for i in prediction.instances] == ["table", "cup", "grail"]
        )
        assert "slot_states" not in vars(asked[0])
        assert given.ids_of(prediction).tolist() == [0, 3, 7, 40]
        assert prediction.status is GraphStatus.OK and len(prediction.relations) > 0

    def test_the_language_model_has_a_say_unless_it_is_switched_off(self, make_predictor, spy):
        on, off = make_predictor(), make_predictor(use_language_model=False)
        asked = spy(off.model.chain, "turn2")
        window, given = scene()
        scores = [BoxPredictor(p).predict(window, given) for p in (on, off)]
        assert scores[0].relations != scores[1].relations
        assert not asked and scores[1].status is GraphStatus.DEGRADED_NO_LLM
        assert len(scores[1].relations) > 0

    def test_the_language_model_may_write_the_answers(self, make_predictor):
        window, given = scene()
        written = BoxPredictor(make_predictor(decoding="generate")).predict(window, given)
        assert len({(r.subject, r.object) for r in written.relations}) == len(written.relations), "one a pair"

    def test_without_relations_or_pairs_there_are_objects_alone(self, make_predictor):
        window, given = scene()
        off = BoxPredictor(make_predictor(relations=False)).predict(window, given)
        assert (len(off.instances), off.relations) == (3, ())
        lonely = BoxPredictor(make_predictor()).predict(*scene(places={7: 0.0}))
        assert ([i.label for i in lonely.instances], lonely.relations) == (["cup"], ())

    def test_boxes_have_no_label_of_their_own(self, make_predictor):
        window, given = scene(objects=(TABLE, GivenObject(40), CUP))
        with pytest.raises(ValueError, match="object 40 has no label"):
            BoxPredictor(make_predictor()).predict(window, given)

    def test_the_scene_is_as_wide_as_its_boxes(self):
        """The table stands at the right end of what was seen, from the viewer, the person at the left end."""
        window, given = scene(objects=(TABLE, GivenObject(40, "person"), CUP))
        inputs = measure_boxes(window, given.in_window(window), max_pairs=10)
        place = dict(
            zip(inputs.pairs[:, 0].tolist(), inputs.geometry[:, GEOMETRY_NAMES.index("subject_right")], strict=True)
        )
        assert place[0] == pytest.approx(0.83, abs=0.1)
        assert place[2] == pytest.approx(-0.83, abs=0.1)


def test_corners_are_seen_from_the_sensor_and_absent_objects_are_not():
    given = recording((RISING[0], replace(RISING[1], seen=(1, 12))), ())
    poses = [labelled.T_world_sensor for labelled in given.open_frames()]
    boxes = with_boxes_only(given)
    turned = replace(
        boxes,
        open_frames=lambda: (replace(f, T_world_sensor=T) for f, T in zip(boxes.open_frames(), poses, strict=True)),
    )
    frames = list(corner_frames(turned))
    assert [f.instance.tolist() for f in frames[:2]] == [[1, 1], [1, 1, 2, 2]]
    assert boxes.boxes is not None
    for labelled, corners in zip(frames, boxes.boxes, strict=True):
        world = transform_points(labelled.T_world_sensor, labelled.frame.points).reshape(-1, 2, 3)
        np.testing.assert_allclose(world, corners[np.isfinite(corners).all(axis=(1, 2))], atol=1e-5)


@pytest.mark.parametrize("setting", ["SGCls", "SGDet"])
def test_only_predcls_can_be_asked_of_boxes(runner, setting):
    with pytest.raises(DatasetError, match=f"boxes but no points.*the setting is {setting}, expected PredCls"):
        said(runner, rising(), setting=setting)


@pytest.mark.skipif(not BIMACS.is_dir(), reason="the takes of bimacs_zed are not at hand")
def test_real_boxes_are_asked_for_the_words_of_their_data_set(tiny_checkpoint):
    inference = {"device": "cpu", "relation_threshold": 0.0, "use_language_model": False}
    config = from_dict(PipelineConfig, {"window": {"num_frames": 2, "frame_interval_s": 2.0}, "inference": inference})
    result = evaluate_dataset(
        str(BIMACS), setting="PredCls", method="model", limit=1, checkpoint=tiny_checkpoint, config=config
    )
    assert result["model"]["predicates"] == [
        *("above", "approaching", "behind", "below", "holding", "in front of", "left of", "lifting"),
        *("moving away from", "moving with", "pouring into", "putting down", "right of", "stirring"),
    ]
    assert set(result["protocol"]["tube"]["triplet"]["by_predicate"]) <= set(result["model"]["predicates"])
    assert result["frames"]["evaluated"] == 10
    assert result["calibration"]["relations"] == 100
