"""Boxes in place of masks: where a box is over time, what lies in it, and which way its losses pull."""

from __future__ import annotations

import torch

from psg4d_ros.model.box_head import BOX_VALUES, ROOM_ANCHOR, BoxHead, box_logits, box_volumes, boxes_at
from psg4d_ros.model.mask_decoder import MaskOutput
from psg4d_ros.training.box_losses import box_losses, generalized_iou, tube_boxes
from psg4d_ros.training.mask_losses import NOBODY, TubeTargets

TIMES = torch.tensor([-0.5, 0.0])
# Half a metre wide, 1 m long, 2 m high; it walks 2 m/s along x and is at x = 1 now.
WALKER = torch.tensor([[1.0, 0.0, 1.0, 0.5, 1.0, 2.0, 2.0, 0.0, 0.0]])


def test_a_box_moves_in_a_straight_line():
    before, now = boxes_at(WALKER, TIMES)[0]
    torch.testing.assert_close(before, torch.tensor([-0.25, -0.5, 0.0, 0.25, 0.5, 2.0]))
    torch.testing.assert_close(now, torch.tensor([0.75, -0.5, 0.0, 1.25, 0.5, 2.0]))
    assert box_volumes(WALKER).tolist() == [1.0]


def test_a_voxel_is_in_the_box_where_the_box_is_at_its_time():
    places = torch.tensor([[1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 1.0, -0.5], [0.0, 0.0, 1.0, -0.5], [1.0, 0.0, 2.1, 0.0]])
    assert (box_logits(WALKER, places)[0] > 0).tolist() == [True, False, True, False]
    on_a_side = torch.tensor([[1.25, 0.0, 1.0, 0.0]])
    assert box_logits(WALKER, on_a_side).item() == 0.0


def test_an_untrained_head_says_boxes_much_like_their_anchors_whatever_the_state():
    torch.manual_seed(0)
    room = torch.tensor(ROOM_ANCHOR).expand(2, 6, -1)
    boxes = BoxHead(32)(torch.randn(2, 6, 32), room)
    assert boxes.shape == (2, 6, BOX_VALUES)
    assert boxes[..., 3:6].min() > 2 and boxes[..., 3:6].max() < 4
    wild = BoxHead(32)(torch.full((1, 32), 1e4), room[0, :1])
    assert torch.isfinite(wild).all(), "its size is bounded"


def test_generalised_iou_of_hand_worked_boxes():
    """Unit cubes: the same; half over the other, in a hull of 1.5; a metre apart, in a hull of 3."""
    cube = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    others = torch.stack([cube, cube + torch.tensor([0.5, 0, 0] * 2), cube + torch.tensor([2.0, 0, 0] * 2)])
    found = generalized_iou(cube.expand(3, 6), others)
    torch.testing.assert_close(found, torch.tensor([1.0, 1 / 3, -1 / 3]))


def test_true_boxes_bound_the_voxels_of_each_tube_in_each_frame():
    places = torch.tensor([[0.0, 0, 0, -0.5], [1.0, 2, 3, -0.5], [5.0, 5, 5, 0.0], [9.0, 9, 9, 0.0]])
    boxes = tube_boxes(places, torch.tensor([0, 0, 1, NOBODY]), TIMES, 2, margin_m=0.5)
    assert boxes.shape == (2, 2, 6)
    assert boxes[0, 0].tolist() == [-0.5, -0.5, -0.5, 1.5, 2.5, 3.5]
    assert boxes[1, 1].tolist() == [4.5, 4.5, 4.5, 5.5, 5.5, 5.5]
    assert boxes[0, 1].isnan().all() and boxes[1, 0].isnan().all()


def said(boxes: torch.Tensor) -> MaskOutput:
    none = torch.zeros(1, len(boxes), 0)
    return MaskOutput(none, torch.zeros(1, len(boxes)), none, none, none, (), boxes[None])


def truth() -> TubeTargets:
    """The walker, seen in both frames; a cup far away, seen in the last; and one that is nowhere seen."""
    nowhere = torch.full((2, 6), torch.nan)
    cup = torch.stack([nowhere[0], torch.tensor([5.0, 5.0, 0.7, 5.1, 5.1, 0.8])])
    none = torch.zeros(0, dtype=torch.int64)
    boxes = torch.stack([boxes_at(WALKER, TIMES)[0], cup, nowhere])
    return TubeTargets(none, none, 3, torch.ones(3, dtype=torch.bool), boxes, TIMES)


def test_slots_take_the_tubes_that_their_boxes_are():
    cup = torch.tensor([[5.05, 5.05, 0.75, 0.1, 0.1, 0.1, 0.0, 0.0, 0.0]])
    losses = box_losses(said(torch.cat([cup, WALKER * 3, WALKER])), [truth()])
    of = dict(zip(losses.assignments[0].tubes.tolist(), losses.assignments[0].slots.tolist(), strict=True))
    assert (of[0], of[1]) == (2, 0)
    torch.testing.assert_close(losses.box, torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(losses.giou, torch.tensor(0.0), atol=1e-4, rtol=0)
    assert set(losses.weighted()) == {"box", "giou", "presence"}


def test_gradients_pull_a_box_to_its_tube():
    """Each row is off in one value; the other slots are far away, where no tube needs them."""

    def pull(value: int, off: float) -> float:
        boxes = WALKER.repeat(3, 1)
        boxes[1:, :3] += 50.0
        boxes[0, value] += off
        boxes.requires_grad_()
        losses = box_losses(said(boxes), [truth()])
        (losses.box + losses.giou).backward()
        assert torch.isfinite(boxes.grad).all()
        return float(boxes.grad[0, value])

    assert pull(0, 0.1) > 0 > pull(0, -0.1), "place"
    assert pull(3, 0.2) > 0 > pull(3, -0.2), "width"
    assert pull(6, 0.4) > 0 > pull(6, -0.4), "speed"


def test_an_empty_window_still_teaches_presence():
    none = torch.zeros(0, dtype=torch.int64)
    boxes = WALKER.clone().requires_grad_()
    losses = box_losses(said(boxes), [TubeTargets(none, none, 0, none.bool(), torch.zeros(0, 2, 6), TIMES)])
    assert losses.box == losses.giou == 0.0 and losses.presence > 0
