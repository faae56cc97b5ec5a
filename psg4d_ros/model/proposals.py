"""Object proposals: each second-level voxel votes for the object it is part of; the best votes start slots.

A vote is the middle and the size of what is seen of the object in the voxel's own frame, and how sure it is that the
voxel is part of a thing at all. Votes for one object agree, so that after removing those that say what a better one
said, one is left for each. Learned from every voxel at once, votes are good long before slots that have to find
objects by attention alone. After the ideas of "Deep Hough Voting for 3D Object Detection in Point Clouds" (2019) and of
the query selection of "DINO: DETR with Improved DeNoising Anchor Boxes" (2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from psg4d_ros.model.position import FourierPosition

# Chooses rows of votes as ``best_votes`` does, with its arguments.
Choose = Callable[[Tensor, Tensor, Tensor, int], Tensor]
ANCHOR_VALUES = 7
_HIDDEN = 64
_MIN_SIZE_M, _MAX_SIZE_M = 0.05, 20.0
_INITIAL_SIZE_M = 0.5
# A voxel near the middle of its object knows the object best: others count less, by their distance in half sizes.
_FAR_WEIGHT = 0.5


class Votes(NamedTuple):
    """objectness [*, K] logit of "part of a thing"; offset float32[*, K, 3] metres from the voxel to the middle of its
    object, log_size float32[*, K, 3] of the object's size in metres, both as seen in the voxel's frame."""

    objectness: Tensor
    offset: Tensor
    log_size: Tensor


class Proposals(NamedTuple):
    """S objects that may be there. states [*, S, dim] features; anchors float32[*, S, 7]: middle x y z and size x y z,
    metres, at the time t, seconds, in the frame of ``window_positions``. Where fewer are found, states of 0."""

    states: Tensor
    anchors: Tensor


class ProposalHead(nn.Module):
    """Votes of second-level voxels [*, K, mid_dim], and the ``count`` best of them as Proposals of width ``dim``."""

    def __init__(self, mid_dim: int, dim: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.position = FourierPosition()
        self.votes = nn.Sequential(
            nn.LayerNorm(mid_dim), nn.Linear(mid_dim, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, 1 + 3 + 3)
        )
        last = self.votes[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight[1:] *= 0.1
            last.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 0.0, *[math.log(_INITIAL_SIZE_M)] * 3]))
        self.norm = nn.LayerNorm(mid_dim)
        self.state = nn.Sequential(
            nn.Linear(mid_dim + FourierPosition.size + 4, dim), nn.ReLU(), nn.Linear(dim, dim), nn.LayerNorm(dim)
        )

    def vote(self, mid: Tensor) -> Votes:
        objectness, offset, log_size = self.votes(mid).split((1, 3, 3), dim=-1)
        log_size = log_size.float().clamp(math.log(_MIN_SIZE_M), math.log(_MAX_SIZE_M))
        return Votes(objectness[..., 0], offset.float(), log_size)

    def forward(self, mid: Tensor, positions: Tensor, choose: Choose | None = None) -> Proposals:
        """mid [*, K, mid_dim] with positions float32[*, K, 4] (x, y, z, t); any K. choose: in place of best_votes."""
        votes = self.vote(mid)
        middle, size = positions[..., :3] + votes.offset, votes.log_size.exp()
        # One row more, which stands for "no other object" and can be chosen again and again.
        nothing = positions.new_zeros(*positions.shape[:-2], 1, 1)
        middle, size, time = (
            torch.cat([x, nothing.expand(*nothing.shape[:-1], x.shape[-1]) + fill], dim=-2)
            for x, fill in ((middle, 0.0), (size, 1.0), (positions[..., 3:], 0.0))
        )
        with torch.no_grad():
            far = (votes.offset / (0.5 * size[..., :-1, :])).norm(dim=-1)
            score = votes.objectness.float().sigmoid() * torch.exp(-_FAR_WEIGHT * far)
            rows = (choose or best_votes)(torch.cat([score, nothing[..., 0]], dim=-1), middle, size, self.count)
        row = rows[..., None]
        objectness = torch.cat([votes.objectness, nothing[..., 0].to(votes.objectness)], dim=-1)[..., None]
        features = torch.cat([self.norm(mid), nothing.to(mid).expand(*nothing.shape[:-1], mid.shape[-1])], dim=-2)
        chosen = [torch.take_along_dim(x, row, dim=-2) for x in (middle.detach(), time, size.detach(), objectness)]
        place = self.position(torch.cat(chosen[:2], dim=-1), mid.dtype)
        shape = torch.cat([chosen[2].log().to(mid.dtype), chosen[3].to(mid.dtype)], dim=-1)
        states = self.state(torch.cat([torch.take_along_dim(features, row, dim=-2), place, shape], dim=-1))
        found = (row < mid.shape[-2]).to(states.dtype)
        return Proposals(states * found, torch.cat([chosen[0], chosen[2], chosen[1]], dim=-1).float())


def of_slots(rows: Tensor, number: int) -> Tensor:
    """[number, d]: a row for each slot. rows: those of the slots that are free, and last the one that all others share:
    a proposal says itself what sets it apart, so their number can be any."""
    return torch.cat([rows[:-1], rows[-1:].expand(number - len(rows) + 1, -1)])


def best_votes(score: Tensor, middle: Tensor, size: Tensor, count: int) -> Tensor:
    """int64[*, count]: rows of the best votes, best first, each for another object than those before it.

    score: [*, K + 1]; the last row, of score 0, stands for nothing. middle, size: [*, K + 1, 3]. Two votes are for one
    object when the middle of each lies in the smaller one's box, whatever their frames.
    """
    rows = [score.argmax(dim=-1, keepdim=True)[..., :0]]
    number = torch.arange(score.shape[-1], device=score.device)
    real = number < score.shape[-1] - 1
    for _ in range(count):
        best = score.argmax(dim=-1, keepdim=True)
        rows.append(best)
        center, extent = (torch.take_along_dim(x, best[..., None], dim=-2) for x in (middle, size))
        same = ((middle - center).abs() < 0.5 * torch.minimum(size, extent)).all(dim=-1) | (number == best)
        score = torch.where(same & real, -1.0, score)
    return torch.cat(rows, dim=-1)
