"""What is measured of candidate pairs, and which answers become relations."""

import numpy as np
import pytest
import torch

from psg4d_ros.model.features import FrameFeatures
from psg4d_ros.model.geometry import GEOMETRY_NAMES
from psg4d_ros.model.relation_head import RelationOutput
from psg4d_ros.runtime.panoptic import Segmentation
from psg4d_ros.runtime.relating import measure_pairs, shortlist
from psg4d_ros.structures import AlignedFrame, InstancePrediction, PointFrame, Window
from psg4d_ros.vocabulary import default_vocabulary

STEP = 250_000_000
HIDDEN = [np.nan] * 6


def window_of(count: int) -> Window:
    frames = []
    for number in range(count):
        frame = PointFrame(
            np.zeros((1, 3), np.float32), None, None, np.zeros(1, np.int64), (number + 1) * STEP, "sensor"
        )
        eye = np.eye(4)
        frames.append(AlignedFrame(frame, frame.points, eye, "identity", "sensor", eye))
    return Window(tuple(frames), epoch=0, origin=np.zeros(3))


def measure(boxes: list[list[list[float]]], is_thing: list[bool], max_pairs: int = 10):
    """boxes: per instance and frame (min xyz, max xyz)."""
    window = window_of(len(boxes[0]))
    corners = torch.tensor([[-5.0, -5, 0], [5, 5, 3]])
    none = torch.zeros(0, 4), torch.zeros(0, 3)
    frames = [
        FrameFeatures(torch.zeros(2, 4), corners, torch.zeros(1, dtype=torch.int64), *none, *none, f.stamp_ns, False)
        for f in window.frames
    ]
    labels = tuple(np.zeros(1, np.int32) for _ in frames)
    slots = torch.arange(len(boxes))
    segmentation = Segmentation(slots, torch.ones(len(boxes)), labels, np.array(boxes))
    instances = tuple(InstancePrediction("chair", 0, 1.0, thing) for thing in is_thing)
    return measure_pairs(segmentation, instances, window, frames, max_pairs)


def cube(x: float, z: float = 0.0) -> list[float]:
    return [x, 1.0, z, x + 1, 2.0, z + 1]


def feature(inputs, pair: int, name: str) -> float:
    return float(inputs.geometry[pair, GEOMETRY_NAMES.index(name)])


def test_nearest_pairs_first_and_stuff_is_never_a_subject():
    inputs = measure([[cube(0)], [cube(1.1)], [cube(4)]], [True, False, True], max_pairs=3)
    assert inputs.pairs.tolist() == [[0, 1], [2, 1], [0, 2]]


def test_a_box_above_another_is_measured_as_above():
    inputs = measure([[cube(0, z=1.0)], [cube(0)]], [True, False])
    assert feature(inputs, 0, "up_subject") > 0
    assert feature(inputs, 0, "contact") == pytest.approx(1.0)


def test_an_instance_out_of_sight_is_measured_where_it_was_last():
    inputs = measure([[cube(0), cube(0), HIDDEN], [cube(3), cube(1), cube(1)]], [True, True])
    assert inputs.seen.tolist() == [[True, True, False]] * 2
    assert np.isfinite(inputs.geometry).all()
    assert np.abs(inputs.per_frame[:, 2]).max() == 0, "nothing is measured in a frame where one is not seen"
    assert inputs.times_s.tolist() == [-0.5, -0.25, 0.0]
    assert feature(inputs, 0, "contact") == pytest.approx(1.0), "the newest box of each counts"


def test_two_that_are_never_seen_together_have_no_motion_but_a_place():
    inputs = measure([[cube(0), HIDDEN], [HIDDEN, cube(2)]], [True, True])
    assert not inputs.seen.any()
    assert np.abs(inputs.motion).max() == 0
    assert np.isfinite(inputs.geometry).all()


def test_turn_2_is_asked_about_the_pairs_that_geometry_expects_most_of(make_predictor, monkeypatch):
    """Of the 6 ordered pairs of three in a row a head that knows one rule, "higher: above", wants a far one, too."""
    model, words = make_predictor().model, default_vocabulary()
    up = GEOMETRY_NAMES.index("up_subject")

    def rule(hidden, subjects, objects, geometry, predicates, *rest):
        return RelationOutput(geometry[:, [up]].expand(-1, len(predicates)), None)

    monkeypatch.setattr(model.relation_head, "forward", rule)
    candidates = measure([[cube(0, z=2.0)], [cube(1.1)], [cube(4)]], [True] * 3)
    assert [0, 2] not in candidates.pairs.tolist()[:2], "not among the nearest two"
    chairs = tuple(InstancePrediction("chair", 0, 1.0, True) for _ in range(3))
    best = shortlist(model, chairs, candidates, words, 2)
    assert sorted(best.pairs.tolist()) == [[0, 1], [0, 2]]
    rows = [candidates.pairs.tolist().index(pair) for pair in best.pairs.tolist()]
    for name in ("geometry", "per_frame", "motion", "seen"):
        np.testing.assert_array_equal(getattr(best, name), getattr(candidates, name)[rows])
    assert len(shortlist(model, chairs, candidates, words, 10).pairs) == 6
