"""Dense losses of voxels: what they ask for, and that they reach the features."""

from __future__ import annotations

import math

import pytest
import torch
from tube_truth import tubes_of

from psg4d_ros.model.proposals import Proposals
from psg4d_ros.training.mask_losses import NOBODY
from psg4d_ros.training.scene_batch import SceneBatch
from psg4d_ros.training.voxel_losses import VoxelHeads

pytestmark = pytest.mark.usefixtures("one_thread")

# Two voxels of a cup 0.2 m apart, one of a table, one that nobody annotated.
PLACES = torch.tensor([[[0.0, 0, 1, 0], [0.2, 0, 1, 0], [3, 0, 0, 0], [9, 9, 9, 0]]])
TUBES = torch.tensor([0, 0, 1, NOBODY])
CUP, TABLE = 0, 1


def _batch(features: torch.Tensor) -> SceneBatch:
    nothing = torch.zeros(1, 0, 4)
    proposals = Proposals(nothing, nothing)
    return SceneBatch(nothing, nothing, features, PLACES, features, PLACES, proposals, (tubes_of(TUBES, 2),))


def _heads(classes: int = 2) -> VoxelHeads:
    torch.manual_seed(0)
    return VoxelHeads(4, 4, classes)


def test_a_head_that_says_nothing_costs_the_logarithm_of_the_classes():
    heads = _heads()
    for head in heads.heads:
        torch.nn.init.zeros_(head[-1].weight)
        torch.nn.init.zeros_(head[-1].bias)
    name = heads(_batch(torch.zeros(1, 4, 4)), [torch.tensor([CUP, TABLE])], torch.ones(2))
    assert name.item() == pytest.approx(math.log(2))


def test_rare_classes_weigh_more_and_unknown_ones_nothing():
    features = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(1))
    heads = _heads()
    labels = [torch.tensor([CUP, -1])]
    only_cup = heads(_batch(features), labels, torch.ones(2))
    heavier = heads(_batch(features), labels, torch.tensor([5.0, 1.0]))
    assert heavier.item() == pytest.approx(only_cup.item())  # a mean over cups alone, whatever a cup weighs
    both = [
        heads(_batch(features), [torch.tensor([CUP, TABLE])], w).item()
        for w in (torch.ones(2), torch.tensor([5.0, 1.0]))
    ]
    assert both[0] != pytest.approx(both[1])


def test_what_nobody_annotated_gets_no_gradient_and_everything_else_does():
    features = torch.randn(1, 4, 4, requires_grad=True, generator=torch.Generator().manual_seed(2))
    name = _heads()(_batch(features), [torch.tensor([CUP, TABLE])], torch.ones(2))
    name.backward()
    reached = features.grad.abs().sum(dim=2)[0]
    assert (reached[:3] > 0).all()
    assert reached[3] == 0


def test_a_window_without_objects_costs_nothing():
    empty = torch.full((4,), NOBODY)
    none = torch.zeros(1, 4, 4)
    batch = SceneBatch(*[none] * 6, Proposals(none, none), (tubes_of(empty, 0),))
    name = _heads()(batch, [torch.zeros(0, dtype=torch.int64)], torch.ones(2))
    assert name.item() == 0.0
