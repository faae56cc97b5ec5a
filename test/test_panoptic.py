"""Mask tubes become a panoptic segmentation: each point belongs to at most one instance."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from psg4d_ros.config import InferenceConfig
from psg4d_ros.model.features import FrameFeatures
from psg4d_ros.model.mask_decoder import MaskOutput
from psg4d_ros.runtime.panoptic import claim_voxels, segment

SURE, NO = 8.0, -8.0


def frame(voxels: int, point_voxel: list[int], x: float = 0.0, stamp_ns: int = 0) -> FrameFeatures:
    """A frame whose voxel i lies at (x + i, 0, 0)."""
    centers = torch.zeros(voxels, 3)
    centers[:, 0] = x + torch.arange(voxels)
    none = torch.zeros(0, 4), torch.zeros(0, 3)
    return FrameFeatures(
        torch.zeros(voxels, 4), centers, torch.tensor(point_voxel, dtype=torch.int64), *none, *none, stamp_ns, False
    )


def output(masks: list[list[float]], presence: list[float]) -> MaskOutput:
    slots = len(presence)
    empty = torch.zeros(slots, 1)
    return MaskOutput(torch.tensor(masks), torch.tensor(presence), empty, empty, empty)


def config(**changes) -> InferenceConfig:
    return InferenceConfig(**{"min_points": 1, **changes})


def test_points_follow_their_voxels_and_voxels_their_surest_slot():
    masks = [[SURE, SURE, NO, NO], [NO, 1.0, SURE, NO]]
    found = segment(output(masks, [2.0, 2.0]), [frame(4, [0, 0, 1, 2, 3, -1])], config())
    assert found.slots.tolist() == [0, 1]
    assert found.point_instance[0].tolist() == [1, 1, 1, 2, 0, 0]


def test_a_slot_that_is_not_present_claims_nothing():
    found = segment(output([[SURE], [SURE]], [NO, 1.0]), [frame(1, [0])], config())
    assert found.slots.tolist() == [1]
    assert found.point_instance[0].tolist() == [1]


def test_a_slot_that_surer_ones_leave_little_is_dropped_and_leaves_them_all():
    """The second slot found the first one's object again and a voxel more; the third one is another object."""
    masks = [[SURE, SURE, SURE, NO, NO], [1.0, 1.0, 1.0, 1.0, NO], [NO, NO, NO, 0.5, SURE]]
    voxels = [frame(5, [0, 1, 2, 3, 4])]
    found = segment(output(masks, [3.0, 2.0, 1.0]), voxels, config(min_kept=0.5))
    assert found.slots.tolist() == [0, 2]
    assert found.point_instance[0].tolist() == [1, 1, 1, 2, 2]
    crumbs = segment(output(masks, [3.0, 2.0, 1.0]), voxels, config(min_kept=0.0))
    assert crumbs.point_instance[0].tolist() == [1, 1, 1, 2, 3]


def test_of_slots_that_share_one_object_evenly_the_surest_stays():
    """Each of three is surest of a third of the object; none keeps half of its mask."""
    masks = [[SURE, 1.0, 1.0], [1.0, SURE, 1.0], [1.0, 1.0, SURE]]
    found = segment(output(masks, [2.0, 2.1, 2.0]), [frame(3, [0, 1, 2])], config(min_kept=0.5))
    assert found.slots.tolist() == [1]
    assert found.point_instance[0].tolist() == [1, 1, 1]


def slots_in_order_of_sureness(
    held: np.ndarray, certainty: np.ndarray, sureness: np.ndarray, least: float
) -> list[int]:
    """One slot after another, as the rule is told: rows that stay, of masks bool[P, V]."""
    claim = np.where(held, certainty, 0.0)
    owner, best = claim.argmax(0), claim.max(0)
    size = held.sum(1)
    stays = [bool(((owner == i) & (best > 0)).sum() >= least * size[i]) for i in range(len(held))]
    taken = held[stays].any(0)
    for i in np.argsort(-sureness, kind="stable"):
        if not stays[i] and (held[i] & ~taken).sum() >= least * size[i]:
            stays[i], taken = True, taken | held[i]
    return np.flatnonzero(stays).tolist()


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10_000), slots=st.integers(1, 9), voxels=st.integers(1, 12), least=st.sampled_from([0.5, 1.0])
)
def test_dropped_slots_are_asked_one_after_another_whether_enough_is_left_to_them(seed, slots, voxels, least):
    """Masks that hold half of all voxels each: most are dropped, and who comes back depends on who came before."""
    rng = np.random.default_rng(seed)
    masks = rng.choice([-1.0, 1.0, 2.0], (slots, voxels)).astype(np.float32)
    said = output(masks.tolist(), rng.choice([0.5, 1.0, 2.0], slots).tolist())
    sureness = said.presence_logits.sigmoid()
    certainty = (said.mask_logits.sigmoid() * sureness[:, None]).numpy()
    expected = slots_in_order_of_sureness(masks > 0, certainty, sureness.numpy(), least)
    assert claim_voxels(said, config(min_kept=least))[0].tolist() == expected


def test_small_instances_are_dropped_and_the_rest_renumbered():
    masks = [[SURE, NO, NO], [NO, SURE, SURE]]
    found = segment(output(masks, [3.0, 1.0]), [frame(3, [0, 1, 1, 2])], config(min_points=2))
    assert found.slots.tolist() == [1]
    assert found.point_instance[0].tolist() == [0, 1, 1, 1]


def test_a_tube_runs_through_all_frames_and_its_boxes_follow():
    masks = [[SURE, SURE, NO, SURE]]
    frames = [frame(2, [0, 1], x=0.0), frame(2, [1, 0, 1], x=10.0, stamp_ns=1)]
    found = segment(output(masks, [1.0]), frames, config())
    assert [labels.tolist() for labels in found.point_instance] == [[1, 1], [1, 0, 1]]
    np.testing.assert_allclose(found.boxes[0], [[0, 0, 0, 1, 0, 0], [11, 0, 0, 11, 0, 0]])


def test_a_frame_without_the_instance_has_no_box():
    frames = [frame(1, [0]), frame(1, [0], stamp_ns=1)]
    found = segment(output([[SURE, NO]], [1.0]), frames, config())
    assert np.isfinite(found.boxes[0, 0]).all()
    assert np.isnan(found.boxes[0, 1]).all()


@pytest.mark.parametrize("frames", [[frame(0, [])], [frame(0, [-1, -1])], [frame(0, []), frame(0, [])]])
def test_windows_without_voxels_have_no_instances(frames):
    found = segment(output([[]], [SURE]), frames, config())
    assert len(found.slots) == 0
    assert [len(p) for p in found.point_instance] == [len(f.point_voxel) for f in frames]


def test_an_empty_frame_between_full_ones():
    frames = [frame(1, [0]), frame(0, []), frame(1, [0], stamp_ns=2)]
    found = segment(output([[SURE, SURE]], [1.0]), frames, config())
    assert [p.tolist() for p in found.point_instance] == [[1], [], [1]]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), slots=st.integers(1, 6), min_points=st.integers(1, 5))
def test_every_instance_is_present_large_enough_and_numbered_without_gaps(seed, slots, min_points):
    rng = np.random.default_rng(seed)
    frames = [frame(int(v), rng.integers(-1, v, 20).tolist(), stamp_ns=i) for i, v in enumerate(rng.integers(1, 6, 3))]
    voxels = sum(len(f.fine) for f in frames)
    masks = rng.normal(0, 3, (slots, voxels)).astype(np.float32).tolist()
    found = segment(output(masks, rng.normal(0, 2, slots).tolist()), frames, config(min_points=min_points))
    labels = np.concatenate(found.point_instance)
    assert set(labels.tolist()) - {0} == set(range(1, len(found.slots) + 1))
    for number in range(1, len(found.slots) + 1):
        assert (labels == number).sum() >= min_points
    assert (found.presence_prob >= InferenceConfig().presence_threshold).all()


def test_of_boxes_the_smallest_takes_what_it_holds_and_then_the_surest():
    """Voxel 0 lies in all boxes, 1 in the two large ones, 2 in the room alone, 3 in none."""
    room, table, same_table, cup = (torch.tensor([0.0, 0, 0, size, 1, 1, 0, 0, 0]) for size in (9.0, 2.0, 2.0, 0.1))
    masks = [[1.0, 1.0, 1.0, NO], [SURE, SURE, NO, NO], [SURE, SURE, NO, NO], [0.1, NO, NO, NO]]
    said = output(masks, [SURE, 1.0, 2.0, 0.0])._replace(boxes=torch.stack([room, table, same_table, cup]))
    found = segment(said, [frame(4, [0, 1, 2, 3])], config())
    assert found.slots[torch.tensor(found.point_instance[0][:3]) - 1].tolist() == [3, 2, 0]
    assert found.point_instance[0][3] == 0
