"""Candidate pairs are the nearest ones, and boxes have no holes in time."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from psg4d_ros.runtime.pairs import box_gaps, candidate_pairs, fill_boxes


def box(x: float, size: float = 1.0) -> list[float]:
    return [x, 0, 0, x + size, 1, 1]


def test_gap_of_touching_and_overlapping_boxes_is_zero():
    gaps = box_gaps(np.array([box(0), box(1), box(0.5), box(4)]))
    np.testing.assert_allclose(gaps, [[0, 0, 0, 3], [0, 0, 0, 2], [0, 0, 0, 2.5], [3, 2, 2.5, 0]])


def test_nearest_pairs_come_first_in_both_directions():
    pairs = candidate_pairs(np.array([box(0), box(5), box(1.5)]), np.array([True, True, True]), max_pairs=4)
    assert pairs.tolist() == [[0, 2], [2, 0], [1, 2], [2, 1]]


def test_two_stuff_instances_are_no_pair_but_a_thing_on_stuff_is():
    pairs = candidate_pairs(np.array([box(0), box(0), box(0)]), np.array([False, False, True]), max_pairs=100)
    assert sorted(map(tuple, pairs.tolist())) == [(0, 2), (1, 2), (2, 0), (2, 1)]


@given(count=st.integers(0, 8), limit=st.integers(0, 20))
def test_pairs_are_distinct_and_limited(count, limit):
    boxes = np.random.default_rng(count).uniform(size=(count, 6))
    boxes[:, 3:] += 1
    pairs = candidate_pairs(boxes, np.ones(count, bool), limit)
    assert len(pairs) == min(limit, count * (count - 1))
    assert len({tuple(p) for p in pairs.tolist()}) == len(pairs)
    assert (pairs[:, 0] != pairs[:, 1]).all()


def test_boxes_are_carried_forward_then_backward():
    hole = [np.nan] * 6
    boxes = np.array([[hole, box(1), hole, box(3), hole]])
    assert fill_boxes(boxes)[0, :, 0].tolist() == [1, 1, 1, 3, 3]
