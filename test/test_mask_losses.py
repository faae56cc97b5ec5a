"""Losses of the mask decoder: what is matched with what, and which way the gradient pulls."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from tube_truth import tubes_of

from psg4d_ros.model.mask_decoder import LayerOutput, MaskOutput
from psg4d_ros.training.mask_losses import NOBODY, TubeTargets, mask_losses, match, sample_voxels


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_small_object_is_sampled_whole_beside_a_large_one():
    """Of 10,000 wall voxels and a cup of six, a sample of 200 holds the whole cup."""
    labels = torch.cat([torch.zeros(10_000, dtype=torch.int64), torch.ones(6, dtype=torch.int64)])
    labels = labels[torch.randperm(len(labels), generator=_generator(1))]
    rows = sample_voxels(labels, 200, 2, _generator())
    assert (labels[rows] == 1).sum() == 6
    assert 150 <= len(rows) <= 200
    assert torch.equal(rows, torch.unique(rows))


def test_unlabelled_voxels_come_in_by_the_even_half_only():
    labels = torch.full((5_000,), NOBODY, dtype=torch.int64)
    labels[:100] = 0
    rows = sample_voxels(labels, 400, 1, _generator())
    assert (labels[rows] == 0).sum() == 100
    assert (labels[rows] == NOBODY).sum() >= 190


def test_few_voxels_are_taken_as_they_are():
    assert torch.equal(sample_voxels(torch.tensor([0, NOBODY, 1]), 10, 2, _generator()), torch.arange(3))


def _matched(logits, presence, masks, log_probs=None):
    """The assignment of one window. masks: [T, S] 0 or 1, of which no two hold the same voxel."""
    labels = torch.where(masks.any(dim=0), masks.argmax(dim=0), NOBODY)
    named = None if log_probs is None else [log_probs]
    return match(logits[None], presence[None], [tubes_of(labels, len(masks))], named)[0]


def test_the_assignment_is_the_cheapest_of_all_permutations():
    """Against brute force over all one-to-one matchings, with the cost written out term by term."""
    torch.manual_seed(3)
    logits, presence = torch.randn(5, 40) * 2, torch.randn(5)
    masks = F.one_hot(torch.randint(4, (40,)), 4).T[:3].float()
    log_probs = torch.log_softmax(torch.randn(5, 3), dim=1)

    def cost(slot: int, tube: int) -> float:
        bce = F.binary_cross_entropy_with_logits(logits[slot], masks[tube])
        prob = logits[slot].sigmoid()
        dice = 1 - (2 * (prob * masks[tube]).sum() + 1) / (prob.sum() + masks[tube].sum() + 1)
        return float(5 * bce + 5 * dice - 2 * presence[slot].sigmoid() - 2 * log_probs[slot, tube].exp())

    found = _matched(logits, presence, masks, log_probs)
    best = min(itertools.permutations(range(5), 3), key=lambda p: sum(cost(s, t) for t, s in enumerate(p)))
    assert dict(zip(found.tubes.tolist(), found.slots.tolist(), strict=True)) == dict(enumerate(best))


def test_more_tubes_than_slots_leaves_the_worst_out():
    logits = torch.full((1, 4), -8.0)
    logits[0, 2:] = 8.0
    masks = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    found = _matched(logits, torch.zeros(1), masks)
    assert found.tubes.tolist() == [1]


def test_a_slot_that_is_not_a_number_stops_nothing():
    logits = torch.zeros(2, 4)
    logits[0] = float("nan")
    found = _matched(logits, torch.zeros(2), torch.ones(1, 4))
    assert found.slots.tolist() == [1]


def _output(mask_logits: torch.Tensor, presence: torch.Tensor, layers: int = 1) -> MaskOutput:
    mask_logits, presence = mask_logits[None], presence[None]
    embeddings = torch.zeros(1, presence.shape[1], 3)
    aux = tuple(LayerOutput(mask_logits, mask_logits, presence, embeddings) for _ in range(layers))
    return MaskOutput(mask_logits, presence, embeddings, embeddings, mask_logits, aux)


def _targets() -> list[TubeTargets]:
    return [tubes_of(torch.tensor([0, 0, 0, 1, 1, NOBODY]), 2)]


def test_perfect_masks_cost_nothing_and_wrong_ones_a_lot():
    truth = (_targets()[0].fine[None] == torch.tensor([[1], [0], [9]])).float()
    perfect = mask_losses(_output(truth * 40 - 20, torch.tensor([20.0, 20.0, -20.0])), _targets())
    inverted = mask_losses(_output(20 - truth * 40, torch.tensor([-20.0, -20.0, 20.0])), _targets())
    assert float(perfect.total()) < 1e-3
    assert float(inverted.total()) > 10
    assert dict(zip(*(x.tolist() for x in perfect.assignments[0]), strict=True)) == {0: 1, 1: 0}


def test_descent_on_the_losses_finds_the_tubes():
    """Free logits, pulled by the gradient alone, become the true masks; the spare slot becomes absent."""
    torch.manual_seed(0)
    logits = torch.randn(3, 6, requires_grad=True)
    presence = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([logits, presence], lr=0.3)
    for _ in range(80):
        losses = mask_losses(_output(logits, presence), _targets())
        optimizer.zero_grad()
        losses.total().backward()
        optimizer.step()
    slots, tubes = losses.assignments[0]
    found = logits.detach()[slots] > 0
    assert torch.equal(found, _targets()[0].fine[None] == tubes[:, None])
    spare = ({0, 1, 2} - set(slots.tolist())).pop()
    assert (presence[slots] > 0).all()
    assert presence[spare] < 0


def test_key_masks_get_a_gradient_of_their_own():
    """They steer attention, which passes none."""
    keys = torch.randn(1, 3, 6, requires_grad=True)
    fine = torch.randn(1, 3, 6, requires_grad=True)
    out = MaskOutput(fine, torch.zeros(1, 3), torch.zeros(1, 3, 3), torch.zeros(1, 3, 3), keys, ())
    mask_losses(out, _targets()).total().backward()
    assert keys.grad is not None and float(keys.grad.abs().sum()) > 0


@pytest.mark.parametrize("voxels", [0, 5])
def test_a_window_without_objects_teaches_absence(voxels: int):
    presence = torch.zeros(3, requires_grad=True)
    nothing = torch.full((voxels,), NOBODY, dtype=torch.int64)
    logits = torch.zeros(3, voxels, requires_grad=True)
    losses = mask_losses(_output(logits, presence), [tubes_of(nothing, 0)])
    losses.total().backward()
    assert np.isfinite(losses.total().item())
    assert presence.grad is not None and (presence.grad > 0).all()  # descent lowers presence


def test_presence_says_how_well_the_mask_agrees_with_its_tube():
    """A mask that holds one of a tube's two voxels, and nothing else: an IoU of one half."""
    labels = torch.tensor([0, 0, NOBODY, NOBODY])
    logits = torch.tensor([[9.0, -9.0, -9.0, -9.0]])

    def pull(presence: float) -> float:
        value = torch.tensor([presence], requires_grad=True)
        mask_losses(_output(logits, value), [tubes_of(labels, 1)]).presence.backward()
        return float(value.grad)

    assert pull(0.0) == pytest.approx(0.0, abs=1e-6)
    assert pull(1.0) > 0 > pull(-1.0)


def test_windows_side_by_side_lose_what_each_loses_alone():
    """Three windows of different numbers of tubes, none of them in the last, and with more tubes than slots."""
    torch.manual_seed(5)
    labels = [torch.randint(NOBODY, 2, (40,)), torch.randint(NOBODY, 6, (40,)), torch.full((40,), NOBODY)]
    targets = [tubes_of(own, count) for own, count in zip(labels, (2, 6, 0), strict=True)]
    masks, keys, presence = torch.randn(3, 4, 40) * 3, torch.randn(3, 4, 40) * 3, torch.randn(3, 4)
    names = [torch.log_softmax(torch.randn(4, t.count), dim=1) for t in targets]

    def output(rows: slice) -> MaskOutput:
        states = torch.zeros(3, 4, 2)[rows]
        early = LayerOutput(keys[rows], masks[rows], presence[rows], states)
        return MaskOutput(masks[rows], presence[rows], states, states, keys[rows], (early,))

    together = mask_losses(output(slice(None)), targets, names)
    alone = [mask_losses(output(slice(b, b + 1)), targets[b : b + 1], names[b : b + 1]) for b in range(3)]
    for name in ("bce", "dice", "presence"):
        mean = torch.stack([getattr(one, name) for one in alone]).mean()
        torch.testing.assert_close(getattr(together, name), mean)
    for found, one in zip(together.assignments, alone, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(found, one.assignments[0], strict=True))
    assert [len(found.slots) for found in together.assignments] == [2, 4, 0]
