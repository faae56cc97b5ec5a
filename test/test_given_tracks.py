"""A pipeline with given tubes: tracks are the given objects, and relations become spans over windows as ever."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from given_scenes import CUP, PERSON, PLACES, STEP, TABLE, frame_of

from psg4d_ros.config import InferenceConfig, PipelineConfig, WindowConfig
from psg4d_ros.pipeline import ScenePipeline
from psg4d_ros.runtime.given import GivenObject, GivenTubes

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def make_pipeline(tiny_checkpoint):
    """Make a pipeline with windows of 4 frames in which every pair of objects is "blocking" at all times."""

    def pipeline(**inference) -> ScenePipeline:
        config = PipelineConfig(
            window=WindowConfig(num_frames=4),
            inference=InferenceConfig(**{"device": "cpu", "relation_threshold": 0.0, **inference}),
        )
        made = ScenePipeline.from_checkpoint(tiny_checkpoint, config)
        made.set_vocabulary([], ["blocking"], replace=True)
        return made

    return pipeline


def run(pipeline: ScenePipeline, steps, given: GivenTubes):
    """The documented loop over a recording."""
    graphs = []
    for frame, owner in steps:
        given = given.with_frame(frame.stamp_ns, owner)
        graph = pipeline.update(frame, given)
        graphs.append(graph)
        given = given.since(graph.window_start_ns)
        assert len(given.point_object) <= 4, "a long recording's frames do not pile up"
    return graphs


def test_track_ids_are_the_object_ids_and_every_point_carries_its_own(make_pipeline):
    steps = [frame_of(n, PLACES) for n in range(6)]
    graphs = run(make_pipeline(), steps, GivenTubes((TABLE, PERSON, CUP)))
    for graph, (_, owner) in zip(graphs, steps, strict=True):
        np.testing.assert_array_equal(graph.cloud.track_id, owner)
        assert [(o.track_id, o.label) for o in graph.objects] == [(3, "table"), (7, "cup"), (40, "person")]
        assert {r.subject_id for r in graph.relations} == {3, 7, 40}


def test_spans_are_merged_over_windows(make_pipeline):
    graphs = run(make_pipeline(), [frame_of(n, PLACES) for n in range(8)], GivenTubes((TABLE, PERSON, CUP)))
    last = graphs[-1]
    assert last.window_start_ns == 5 * STEP
    spans = {(r.subject_id, r.object_id): (r.start_ns, r.ongoing) for r in last.relations}
    assert spans == {(s, o): (STEP, True) for s in (3, 7, 40) for o in (3, 7, 40) if s != o}
    assert len(last.relations) == 6, "one span each, though five windows saw it"


def test_two_objects_that_change_places_keep_their_ids(make_pipeline):
    """Association by masks or motion could not know."""
    changed = {40: 2.0, 3: -2.0, 7: 0.0}
    steps = [frame_of(n, PLACES if n < 3 else changed) for n in range(6)]
    for graph, (_, owner) in zip(run(make_pipeline(), steps, GivenTubes((TABLE, PERSON, CUP))), steps, strict=True):
        np.testing.assert_array_equal(graph.cloud.track_id, owner)
        assert {o.track_id: o.label for o in graph.objects} == {3: "table", 7: "cup", 40: "person"}


def test_an_object_that_comes_back_after_its_track_was_lost_has_its_id_again(make_pipeline):
    absent = {40: -2.0, 3: 2.0}
    steps = [frame_of(n, absent if 2 <= n < 15 else PLACES) for n in range(17)]  # away for 3.25 s
    graphs = run(make_pipeline(), steps, GivenTubes((TABLE, PERSON, CUP)))
    seen = [[o.track_id for o in g.objects] for g in graphs]
    assert seen[1] == seen[16] == [3, 7, 40]
    assert seen[14] == [3, 40]
    again = next(r for r in graphs[16].relations if (r.subject_id, r.object_id) == (7, 3))
    assert again.start_ns == 16 * STEP


def test_a_new_name_brings_its_kind(make_pipeline, monkeypatch):
    """SGCls may name a tube a wall at first and a chair later: the graph's object is what it is called."""
    pipeline = make_pipeline()
    say = iter([0, 0, 1, 1, 1, 1, 1, 1])  # wall, then chair
    pipeline.set_vocabulary(["wall", "chair"], [], replace=True)
    names = pipeline.vocabulary.class_names
    logits = {0: [9.0 if n == "wall" else -9.0 for n in names], 1: [9.0 if n == "chair" else -9.0 for n in names]}

    real = pipeline.predictor.model.chain.name_objects

    def name(*arguments):
        _, attributes = real(*arguments)
        return torch.tensor([logits[current]] * len(attributes)), attributes

    monkeypatch.setattr(pipeline.predictor.model.chain, "name_objects", name)
    found, given = [], GivenTubes((GivenObject(3), GivenObject(7), GivenObject(40)))
    for number in range(8):
        frame, owner = frame_of(number, PLACES)
        given, current = given.with_frame(frame.stamp_ns, owner), next(say)
        found.append(pipeline.update(frame, given).objects)
    assert {(o.label, o.is_thing) for o in found[0]} == {("wall", False)}
    assert {(o.label, o.is_thing) for o in found[-1]} == {("chair", True)}


def test_a_run_may_go_on_with_tubes_of_its_own(make_pipeline):
    """What was given is a track like any other; a new one takes a number that nobody has."""
    pipeline = make_pipeline(presence_threshold=0.0, mask_threshold=0.0, min_points=1)
    run(pipeline, [frame_of(n, PLACES) for n in range(2)], GivenTubes((TABLE, PERSON, CUP)))
    graph = pipeline.update(frame_of(2, {1: -2.0, 2: 8.0})[0])
    ids = [o.track_id for o in graph.objects]
    assert ids == sorted(set(ids))
    assert {i for i in ids if i not in (3, 7, 40)} <= set(range(41, 60))
