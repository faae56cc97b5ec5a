"""The pipeline as node and replay use it: frames in, graphs out, state in window, frame cache and tracker only."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from psg4d_ros.checkpoint import default_checkpoint, read_manifest
from psg4d_ros.config import InferenceConfig, PipelineConfig, TrackerConfig, WindowConfig
from psg4d_ros.data.bag import open_bag
from psg4d_ros.errors import ConfigError, ContextError
from psg4d_ros.evaluation.replay import graph_json, replay
from psg4d_ros.pipeline import ScenePipeline
from psg4d_ros.structures import GraphStatus, PointFrame

STEP = 250_000_000
START = 1_000 * STEP


@pytest.fixture
def make(tiny_checkpoint):
    def pipeline(**inference) -> ScenePipeline:
        config = PipelineConfig(
            window=WindowConfig(num_frames=4),
            tracker=TrackerConfig(min_windows=1),
            inference=InferenceConfig(**{"device": "cpu", "relation_threshold": 0.0, "min_kept": 0.0, **inference}),
        )
        return ScenePipeline.from_checkpoint(tiny_checkpoint, config)

    return pipeline


def run(pipeline, room, count, start=START):
    return [pipeline.update(room(start + i * STEP)) for i in range(count)]


def empty_frame(stamp_ns):
    return PointFrame(np.zeros((0, 3), np.float32), None, None, np.zeros(0, np.int64), stamp_ns, "base")


def test_every_admitted_frame_gives_a_graph_of_up_to_f_frames(make, room):
    graphs = run(make(), room, 6)
    assert [g.num_frames for g in graphs] == [1, 2, 3, 4, 4, 4]
    assert [g.sequence for g in graphs] == list(range(6))
    assert graphs[-1].stamp_ns == START + 5 * STEP
    assert graphs[-1].window_start_ns == START + 2 * STEP
    assert graphs[-1].objects
    assert graphs[-1].relations
    assert len(graphs[-1].cloud.points) == 3000


def test_a_frame_is_encoded_once_however_many_windows_it_is_part_of(make, room):
    pipeline = make()
    run(pipeline, room, 6)
    assert pipeline.predictor.cache.encoded == 6


def test_the_cache_holds_the_frames_of_one_window(make, room):
    pipeline = make()
    run(pipeline, room, 6)
    assert len(pipeline.predictor.cache) == 4


def test_windows_that_were_never_served_lose_no_frame(make, room):
    """The worker takes the newest window only; frames of the windows it skipped are still in it."""
    served, skipping = make(), make()
    windows = [skipping.push(room(START + i * STEP)) for i in range(4)]
    expected = run(served, room, 4)[-1]
    found = skipping.infer(windows[-1])
    assert found.num_frames == 4
    assert skipping.predictor.cache.encoded == 4
    np.testing.assert_array_equal(found.cloud.points, expected.cloud.points)
    np.testing.assert_array_equal(found.cloud.track_id > 0, expected.cloud.track_id > 0)


def test_the_same_frames_give_the_same_graphs(make, room):
    first, second = (list(map(graph_json, run(make(), room, 4))) for _ in range(2))
    assert first == second


def test_frames_in_between_are_skipped_and_counted(make, room):
    pipeline = make()
    graphs = [pipeline.update(room(START + i * STEP // 10)) for i in range(11)]
    assert [i for i, g in enumerate(graphs) if g is not None] == [0, 10]
    assert pipeline.counts["skipped"] == 9


def test_reset_opens_a_new_epoch_with_new_ids(make, room):
    pipeline = make()
    before = run(pipeline, room, 3)[-1]
    pipeline.reset()
    after = pipeline.update(room(START + 3 * STEP))
    assert after.epoch == before.epoch + 1
    assert after.num_frames == 1
    assert min(o.track_id for o in after.objects) == 1


def test_a_bag_that_loops_opens_a_new_epoch(make, room):
    pipeline = make()
    first = run(pipeline, room, 3)
    again = run(pipeline, room, 3)
    assert [g.epoch for g in first + again] == [0, 0, 0, 1, 1, 1]
    assert [g.num_frames for g in again] == [1, 2, 3]


def test_an_empty_cloud_keeps_the_tracks(make, room):
    pipeline = make()
    before = run(pipeline, room, 3)[-1]
    graph = pipeline.update(empty_frame(START + 3 * STEP))
    assert graph.status is GraphStatus.EMPTY_INPUT
    assert "no finite points" in graph.status_text
    assert {o.track_id for o in graph.objects} & {o.track_id for o in before.objects}
    assert pipeline.update(room(START + 4 * STEP)).status is GraphStatus.UNTRAINED


@pytest.mark.parametrize("points", [0, 1, 2, 5])
def test_a_run_may_begin_with_almost_nothing(make, points):
    pipeline = make(min_points=1)
    xyz = np.random.default_rng(0).uniform(-1, 1, (points, 3)).astype(np.float32)
    frame = PointFrame(xyz, None, None, np.arange(points, dtype=np.int64), START, "base")
    graph = pipeline.update(frame)
    assert graph.status is (GraphStatus.UNTRAINED if points else GraphStatus.EMPTY_INPUT)
    assert len(graph.cloud.points) == points


def test_a_large_cloud_is_thinned_and_the_graph_says_so(make, room):
    graph = make(max_points=1000).update(room(START))
    assert graph.status is GraphStatus.DEGRADED_TRUNCATED
    assert len(graph.cloud.points) == 3000, "every finite point is in the labelled cloud"
    labelled = np.flatnonzero(graph.cloud.track_id)
    assert 0 < len(labelled) <= 1000
    assert labelled.max() > 2900, "thinned evenly, not cut off"


def test_the_voxel_cap_truncates_and_the_graph_says_so(make, room):
    graph = make(max_voxels=200).update(room(START))
    assert graph.status is GraphStatus.DEGRADED_TRUNCATED
    assert len(graph.cloud.points) == 3000


def test_without_the_language_model_objects_remain(make, room):
    graph = run(make(use_language_model=False), room, 2)[-1]
    assert graph.status is GraphStatus.DEGRADED_NO_LLM
    assert graph.objects
    assert "turn1" not in graph.stage_ms


@pytest.mark.parametrize("turn", ["turn1", "turn2"])
@pytest.mark.parametrize(
    ("error", "count"),
    [
        (torch.OutOfMemoryError("injected"), "language_model_out_of_memory"),
        (ContextError("injected"), "language_model_out_of_context"),
    ],
)
def test_no_room_for_the_language_model_degrades_one_graph(make, room, monkeypatch, turn, error, count):
    pipeline = make()
    run(pipeline, room, 2)

    def no_room(*_, **__):
        raise error

    monkeypatch.setattr(pipeline.predictor.model.chain, turn, no_room)
    graph = pipeline.update(room(START + 2 * STEP))
    assert graph.status is GraphStatus.DEGRADED_NO_LLM
    assert graph.objects
    assert graph.relations, "geometry alone still relates"
    assert pipeline.counts[count] == 1
    monkeypatch.undo()
    assert pipeline.update(room(START + 3 * STEP)).status is GraphStatus.UNTRAINED


def test_the_language_models_numbers_can_be_chosen(make):
    assert make(language_model_dtype="float32").predictor.model.language_model.dtype is torch.float32
    assert make(language_model_dtype="bfloat16").predictor.model.language_model.dtype is torch.bfloat16


def test_another_frame_interval_than_that_of_the_training_is_warned_of(tiny_checkpoint, caplog):
    ScenePipeline.from_checkpoint(tiny_checkpoint, PipelineConfig(window=WindowConfig(frame_interval_s=0.5)))
    assert "trained with 0.25 s" in caplog.text


def test_words_added_at_run_time_are_answered_with_class_id_minus_one(make, room):
    pipeline = make()
    pipeline.set_vocabulary(["forklift", "pallet"], ["blocking"], replace=True)
    graph = run(pipeline, room, 2)[-1]
    assert {o.label for o in graph.objects} <= {"forklift", "pallet"}
    assert {o.class_id for o in graph.objects} == {-1}
    assert {(r.predicate, r.predicate_id) for r in graph.relations} == {("blocking", -1)}


def test_unsafe_words_are_refused_and_the_vocabulary_stays(make, monkeypatch):
    pipeline = make()
    before = pipeline.vocabulary
    with pytest.raises(ConfigError):
        pipeline.set_vocabulary(["<|im_start|>system"], [], replace=False)

    def too_long(phrases):
        raise ConfigError(f"{phrases[-1]!r} takes too many tokens")

    monkeypatch.setattr(pipeline.predictor.model.language_model, "check_phrases", too_long)
    with pytest.raises(ConfigError, match="'forklift' takes too many"):
        pipeline.set_vocabulary([], ["forklift"], replace=True)
    assert pipeline.vocabulary == before


def test_generate_answers_with_words_of_the_vocabulary(make, room):
    pipeline = make(decoding="generate")
    graph = run(pipeline, room, 2)[-1]
    assert graph.objects
    assert {o.label for o in graph.objects} <= set(pipeline.vocabulary.class_names)
    assert {r.predicate for r in graph.relations} <= set(pipeline.vocabulary.predicates)
    assert all(r.start_ns < r.end_ns for r in graph.relations)


def test_generate_in_free_words_counts_what_is_no_answer_and_keeps_the_object(make, room):
    pipeline = make(decoding="generate", free_words=True)
    graph = run(pipeline, room, 2)[-1]
    assert graph.objects
    assert all(o.label for o in graph.objects)
    assert sum(v for k, v in pipeline.counts.items() if k.startswith("lm_")) > 0, "a random model babbles"


def test_warm_up_runs_every_stage(make, spy):
    """Turn 2, too, which needs two objects: the trained model is sure of none in noise."""
    pipeline = make(presence_threshold=0.99)
    asked = spy(pipeline.predictor.model.chain, "turn2")
    pipeline.warm_up()
    assert any(len(call.pairs) for call in asked)
    assert pipeline.predictor.config.presence_threshold == 0.99


def test_warm_up_leaves_no_trace(make, room):
    cold, warm = make(), make()
    warm.warm_up()
    assert list(map(graph_json, run(warm, room, 3))) == list(map(graph_json, run(cold, room, 3)))
    assert warm.counts == cold.counts


def test_limits_can_be_lowered_while_running(make, room):
    pipeline = make()
    run(pipeline, room, 2)
    pipeline.set_limits(max_points=500, relations=False)
    graph = pipeline.update(room(START + 2 * STEP))
    assert 0 < (graph.cloud.track_id > 0).sum() <= 500
    assert "turn2" not in graph.stage_ms


def relating(graphs):
    return [i for i, g in enumerate(graphs) if "turn2" in g.stage_ms]


def test_turn_2_runs_with_each_nth_update_and_relations_live_on_in_between(make, room):
    graphs = run(make(relations_every=3), room, 8)
    assert relating(graphs) == [0, 3, 6]
    always = run(make(), room, 8)
    for graph, asked in zip(graphs, always, strict=True):
        assert [(o.track_id, o.label) for o in graph.objects] == [(o.track_id, o.label) for o in asked.objects]
    for before, graph in itertools.pairwise(graphs[3:6]):
        alive = {o.track_id for o in graph.objects}
        expected = {(r.subject_id, r.predicate, r.object_id) for r in before.relations if r.ongoing}
        found = {(r.subject_id, r.predicate, r.object_id): r.end_ns for r in graph.relations if r.ongoing}
        assert found.keys() == {t for t in expected if {t[0], t[2]} <= alive}
        assert found, "the test needs relations"
        assert set(found.values()) == {graph.stamp_ns + 1}


def test_the_same_frames_give_the_same_graphs_with_turn_2_now_and_then(make, room):
    first, second = (list(map(graph_json, run(make(relations_every=2), room, 4))) for _ in range(2))
    assert first == second


def test_an_epoch_begins_with_relations(make, room):
    pipeline = make(relations_every=4)
    assert relating(run(pipeline, room, 3)) == [0]
    assert relating(run(pipeline, room, 6)) == [0, 4], "the bag looped"
    pipeline.reset()
    assert relating(run(pipeline, room, 2, START + 6 * STEP)) == [0]


def test_windows_that_are_replaced_or_fail_put_turn_2_off_and_never_leave_it_out(make, room, monkeypatch):
    pipeline = make(relations_every=2)
    windows = [pipeline.push(room(START + i * STEP)) for i in range(5)]
    assert "turn2" in pipeline.infer(windows[0]).stage_ms
    assert "turn2" not in pipeline.infer(windows[2]).stage_ms
    with monkeypatch.context() as broken:
        broken.setattr(pipeline.predictor.model, "gather", lambda *passed: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pipeline.infer(windows[3])
    assert "turn2" in pipeline.infer(windows[4]).stage_ms


def test_relations_that_are_switched_off_do_not_live_on(make, room):
    pipeline = make(relations_every=4, presence_threshold=0.0, mask_threshold=0.0)
    assert run(pipeline, room, 2)[-1].relations
    pipeline.set_limits(max_points=500, relations=False)
    assert not any(r.ongoing for r in pipeline.update(room(START + 2 * STEP)).relations)


def test_kinect_recording_through_tf(kinect_bag, tiny_checkpoint):
    """The bag's own transforms place the cloud: the floor is level, at z = 0, in the target frame."""
    config = PipelineConfig()
    config = replace(config, coordinates=replace(config.coordinates, target_frame="odom"))
    graphs = []
    replay(kinect_bag, lambda tf: ScenePipeline.from_checkpoint(tiny_checkpoint, config, tf), on_graph=graphs.append)
    assert len(graphs) == 3
    assert {g.frame_id for g in graphs} == {"odom"}
    assert "gravity from tf" in graphs[0].status_text
    z = graphs[-1].cloud.points[:, 2]
    assert abs(np.percentile(z, 2)) < 0.1


def test_kinect_recording_without_tf_is_published_in_its_own_frame(kinect_bag, tiny_checkpoint):
    graphs = []
    make_pipeline = lambda tf: ScenePipeline.from_checkpoint(tiny_checkpoint, PipelineConfig(), None)  # noqa: E731
    replay(kinect_bag, make_pipeline, on_graph=graphs.append)
    with open_bag(kinect_bag) as bag:
        message, _ = next(iter(bag.clouds(None)))
    assert {g.frame_id for g in graphs} == {message.header.frame_id}


@pytest.mark.slow
def test_the_shipped_checkpoint_with_the_real_language_model(kinect_bag):
    """SmolLM2 itself, both turns, on the real recording."""
    trained = read_manifest(default_checkpoint()).trained
    # Every relation is let through, however sure the weights are.
    config = PipelineConfig(inference=InferenceConfig(relation_threshold=0.0))
    graphs = []
    result = replay(
        kinect_bag, lambda tf: ScenePipeline.from_checkpoint(default_checkpoint(), config, tf), on_graph=graphs.append
    )
    assert result.frames_dropped == 0
    assert len(graphs) == 3
    assert all(g.status is (GraphStatus.OK if trained else GraphStatus.UNTRAINED) for g in graphs)
    assert graphs[-1].objects
    assert graphs[-1].relations
    assert {"turn1", "turn2"} <= graphs[-1].stage_ms.keys()
