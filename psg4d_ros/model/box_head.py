"""Where slots are: one axis-aligned box per slot that moves in a straight line over the window.

A box is float32[9]: centre at the newest frame x y z (metres, in the positions of ``window_positions``), size x y z
(metres), velocity x y z (metres per second). It starts from an anchor: a proposal's (see proposals.py) or, for a slot
without one, the room. Masks take in what votes for a box's middle; in an ablation, boxes stand in place of masks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

BOX_VALUES = 9
# Over this distance from its sides, metres, a voxel goes from out of a box to in it; the side itself is one half.
_SOFT_M = 0.05
# The anchor of a slot without a proposal holds most of a room's middle, so that its attention starts open.
ROOM_ANCHOR = (0.0, 0.0, 1.0, 3.0, 3.0, 3.0, 0.0)
# Votes within a box's half size (at least this, metres) around its middle speak for its mask, those beyond against it;
# in units of logits: at the middle, and the most that is taken off.
MIN_RADIUS_M = 0.15
_AT_MIDDLE, _FAR_AWAY = 2.0, -6.0
_MIN_SIZE_M, _MAX_SIZE_M = 0.01, 100.0


class BoxHead(nn.Module):
    """Query states [*, Q, dim] and anchors float32[*, Q, 7] -> boxes float32[*, Q, 9]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, BOX_VALUES)
        )
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight *= 0.1
            last.bias.zero_()

    def forward(self, states: Tensor, anchors: Tensor) -> Tensor:
        """anchors: middle, size and time of a box (see Proposals); the state says how it differs and moves."""
        shift, scale, velocity = self.layers(states).float().split(3, dim=-1)
        middle, size, time = anchors.split((3, 3, 1), dim=-1)
        center = middle + shift * size - velocity * time
        size = (size.log() + scale).clamp(math.log(_MIN_SIZE_M), math.log(_MAX_SIZE_M)).exp()
        return torch.cat([center, size, velocity], dim=-1)


def boxes_at(boxes: Tensor, times_s: Tensor) -> Tensor:
    """float32[*, Q, F, 6] (min xyz, max xyz) of boxes [*, Q, 9] at times float32[F], seconds <= 0."""
    center, size, velocity = boxes[..., None, :].split(3, dim=-1)
    center = center + velocity * times_s[:, None]
    return torch.cat([center - size / 2, center + size / 2], dim=-1)


def box_logits(boxes: Tensor, positions: Tensor) -> Tensor:
    """float32[*, Q, V]: whether each voxel lies in each box at its time; above 0 inside, below 0 outside.

    boxes: [*, Q, 9]. positions: float32[*, V, 4], x y z t. It stands where a mask's logits would.
    """
    time = positions[..., None, :, 3]
    inside: Tensor | None = None
    for axis in range(3):
        center = boxes[..., axis, None] + boxes[..., axis + 6, None] * time
        depth = boxes[..., axis + 3, None] / 2 - (positions[..., None, :, axis] - center).abs()
        inside = depth if inside is None else torch.minimum(inside, depth)
    assert inside is not None
    return inside / _SOFT_M


def locality_logits(boxes: Tensor, votes: Tensor, sharpness: Tensor) -> Tensor:
    """float32[*, Q, V]: whether each voxel votes for the middle of each box at its time.

    boxes: [*, Q, 9]. votes: float32[*, V, 4], the middle x y z that each voxel votes for, and its time. sharpness: how
    fast it falls with the square of the distance in half sizes.
    """
    time = votes[..., None, :, 3]
    far: Tensor | None = None
    for axis in range(3):
        center = boxes[..., axis, None] + boxes[..., axis + 6, None] * time
        per_m = (boxes[..., axis + 3, None] / 2).clamp(min=MIN_RADIUS_M).reciprocal()
        off = ((votes[..., None, :, axis] - center) * per_m).square()
        far = off if far is None else far + off
    assert far is not None
    return (_AT_MIDDLE - sharpness * far).clamp(min=_FAR_AWAY)


def box_volumes(boxes: Tensor) -> Tensor:
    """float32[*, Q], cubic metres, of boxes [*, Q, 9]."""
    return boxes[..., 3:6].prod(dim=-1)
