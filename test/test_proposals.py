"""Object proposals: votes that agree are one object, the best come first, and their losses teach what they say."""

from __future__ import annotations

import pytest
import torch

from psg4d_ros.model.box_head import BoxHead, locality_logits
from psg4d_ros.model.proposals import ANCHOR_VALUES, ProposalHead, best_votes
from psg4d_ros.training.mask_losses import NOBODY, TubeTargets
from psg4d_ros.training.proposal_losses import voxel_truth

pytestmark = pytest.mark.usefixtures("one_thread")

CUP, TABLE = (0.0, 0.0, 0.8), (0.3, 0.0, 0.4)


def _votes(*votes: tuple[float, tuple[float, float, float], float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """score, middle and edge of each vote, and the row that stands for nothing."""
    rows = [*votes, (0.0, (0.0, 0.0, 0.0), 1.0)]
    return (
        torch.tensor([r[0] for r in rows]),
        torch.tensor([r[1] for r in rows]),
        torch.tensor([[r[2]] * 3 for r in rows]),
    )


class TestBestVotes:
    def test_the_best_vote_of_each_object_is_left(self):
        votes = _votes((0.6, CUP, 0.1), (0.9, TABLE, 1.0), (0.8, (0.02, 0, 0.8), 0.1), (0.7, (0.4, 0, 0.4), 1.0))
        assert best_votes(*votes, 2).tolist() == [1, 2]

    def test_a_cup_on_a_table_is_not_part_of_it(self):
        """Its middle lies in the table's box, but the table's does not lie in the cup's."""
        assert best_votes(*_votes((0.9, TABLE, 1.0), (0.5, CUP, 0.1)), 2).tolist() == [0, 1]

    def test_where_nothing_is_left_nothing_is_proposed(self):
        assert best_votes(*_votes((0.9, CUP, 0.1), (0.8, CUP, 0.1)), 3).tolist() == [0, 2, 2]
        assert best_votes(*_votes(), 2).tolist() == [0, 0]

    def test_windows_of_a_batch_do_not_see_each_other(self):
        one, other = _votes((0.9, CUP, 0.1), (0.8, CUP, 0.1)), _votes((0.2, CUP, 0.1), (0.8, TABLE, 0.1))
        both = best_votes(*(torch.stack(x) for x in zip(one, other, strict=True)), 2)
        assert both.tolist() == [best_votes(*one, 2).tolist(), best_votes(*other, 2).tolist()]


class TestProposalHead:
    @torch.no_grad()
    @pytest.mark.parametrize("voxels", [0, 1, 3, 200])
    def test_any_number_of_voxels_proposes_as_many_objects_as_there_are_slots_for(self, voxels: int):
        torch.manual_seed(0)
        head = ProposalHead(mid_dim=12, dim=16, count=5)
        proposals = head(torch.randn(2, voxels, 12), torch.randn(2, voxels, 4) * 3)
        assert proposals.states.shape == (2, 5, 16) and proposals.anchors.shape == (2, 5, ANCHOR_VALUES)
        assert torch.isfinite(proposals.states).all() and torch.isfinite(proposals.anchors).all()
        empty = proposals.states.abs().sum(dim=-1) == 0
        assert (empty.sum(dim=1) >= 5 - voxels).all()
        assert voxels == 0 or not empty[:, 0].any()

    @torch.no_grad()
    def test_an_anchor_is_where_and_when_its_voxel_says(self):
        torch.manual_seed(0)
        head = ProposalHead(mid_dim=12, dim=16, count=1)
        mid, place = torch.randn(1, 12), torch.tensor([[1.0, 2.0, 3.0, -0.5]])
        votes, anchor = head.vote(mid), head(mid, place).anchors[0]
        torch.testing.assert_close(anchor[:3], place[0, :3] + votes.offset[0])
        torch.testing.assert_close(anchor[3:6], votes.log_size[0].exp())
        assert anchor[6] == -0.5

    def test_order_of_voxels_does_not_matter_and_gradients_reach_the_features(self):
        torch.manual_seed(0)
        head = ProposalHead(mid_dim=12, dim=16, count=4)
        mid, places, order = torch.randn(50, 12, requires_grad=True), torch.randn(50, 4), torch.randperm(50)
        one, other = head(mid, places), head(mid[order], places[order])
        torch.testing.assert_close(one.anchors, other.anchors)
        torch.testing.assert_close(one.states, other.states)
        one.states.sum().backward()
        assert mid.grad is not None and mid.grad.abs().sum() > 0


@torch.no_grad()
def test_a_box_that_moves_passes_its_anchor_at_the_anchors_time():
    torch.manual_seed(0)
    head = BoxHead(8)
    head.layers[-1].weight.zero_()
    head.layers[-1].bias.copy_(torch.tensor([0.0, 0, 0, 0, 0, 0, 2.0, 0, 0]))  # 2 m/s along x
    box = head(torch.randn(1, 8), torch.tensor([[1.0, 0.0, 0.5, 0.4, 0.4, 1.0, -0.5]]))[0]
    torch.testing.assert_close(box, torch.tensor([2.0, 0.0, 0.5, 0.4, 0.4, 1.0, 2.0, 0.0, 0.0]))


def test_votes_for_the_middle_speak_for_a_box_and_others_against_it():
    """A box of 1 m that walks 1 m/s: at its middle now, half a metre off, half a metre off half a second ago, far."""
    walker = torch.tensor([[0.0, 0, 0, 1, 1, 1, 1.0, 0, 0]])
    votes = torch.tensor([[0.0, 0, 0, 0], [-0.5, 0, 0, 0], [-0.5, 0, 0, -0.5], [9.0, 0, 0, 0]])
    at_middle, off, before, far = locality_logits(walker, votes, torch.tensor(2.0))[0].tolist()
    assert at_middle == before == pytest.approx(2.0)
    assert off == pytest.approx(0.0) and far == pytest.approx(-6.0)


def test_truth_of_voxels_is_the_box_of_their_thing_in_their_own_frame():
    """A cup of two voxels that moved by a metre, a floor, and a voxel that nobody annotated."""
    positions = torch.tensor([[0.0, 0, 1, -0.5], [1.0, 0, 1, 0], [1.1, 0, 1, 0], [3.0, 0, 0, 0], [9.0, 9, 9, 0]])
    tubes = torch.tensor([0, 0, 0, 1, NOBODY])
    boxes = torch.full((2, 2, 6), torch.nan)
    boxes[0, 0] = torch.tensor([-0.1, -0.1, 0.9, 0.1, 0.1, 1.1])
    boxes[0, 1] = torch.tensor([0.9, -0.1, 0.9, 1.2, 0.1, 1.1])
    boxes[1, 1] = torch.tensor([2.0, -1, 0, 4.0, 1, 0.1])
    targets = TubeTargets(tubes, tubes, 2, torch.tensor([True, False]), boxes, torch.tensor([-0.5, 0.0]))
    truth = voxel_truth(positions, tubes, targets)
    assert truth.kind.tolist() == [1, 1, 1, 0, -1]
    torch.testing.assert_close(truth.middle[:3, 0], torch.tensor([0.0, 1.05, 1.05]))
    torch.testing.assert_close(truth.size[:3, 0], torch.tensor([0.2, 0.3, 0.3]))
    torch.testing.assert_close(truth.weight, torch.tensor([1 / 3, 1 / 3, 1 / 3, 0, 0]))
