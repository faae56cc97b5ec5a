"""Losses of the votes that slots start from: which voxels are part of a thing, where its middle is, and its size.

They reach every voxel from the first step on, where slots give the encoder a gradient only where they already look.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from psg4d_ros.model.box_head import MIN_RADIUS_M
from psg4d_ros.model.mask_decoder import MaskDecoder
from psg4d_ros.training.mask_losses import TubeTargets
from psg4d_ros.training.scene_batch import SceneBatch

# Offsets count in half sizes of their object, as masks read them.
_OFFSET_BETA, _SIZE_BETA = 0.5, 0.25


class ProposalLosses(NamedTuple):
    """Means over things in equal shares, as tensors with gradient. objectness: cross-entropy, half of it of voxels of
    things, half of those of stuff. offset: smooth L1 in half sizes, of finest and second-level voxels. size: smooth L1
    of logarithms."""

    objectness: Tensor
    offset: Tensor
    size: Tensor


class VoxelTruth(NamedTuple):
    """Of V voxels: kind int64[V], 1 = of a thing, 0 = of stuff, -1 = not known. middle, size: float32[V, 3], metres, of
    the thing's box in the voxel's frame. weight: float32[V], adds up to 1 over each thing, 0 elsewhere."""

    kind: Tensor
    middle: Tensor
    size: Tensor
    weight: Tensor


def voxel_truth(positions: Tensor, tubes: Tensor, targets: TubeTargets) -> VoxelTruth:
    """positions: float32[V, 4], x y z t. tubes: int64[V], index of the tube or NOBODY."""
    boxes, times_s = targets.boxes, targets.times_s
    nobody = boxes.new_zeros(1, len(times_s), 6)
    frame = torch.searchsorted(times_s, positions[:, 3].contiguous()).clamp(max=len(times_s) - 1)
    own = torch.cat([boxes.nan_to_num(0.0), nobody])[tubes, frame]
    is_thing = torch.cat([targets.is_thing, targets.is_thing.new_zeros(1)])[tubes]
    counts = torch.bincount(tubes + 1, minlength=targets.count + 1).roll(-1)  # NOBODY's last
    kind = torch.where(tubes >= 0, is_thing.long(), -1)
    weight = is_thing / counts[tubes].clamp(min=1)
    return VoxelTruth(kind, (own[:, :3] + own[:, 3:]) / 2, own[:, 3:] - own[:, :3], weight)


def proposal_losses(decoder: MaskDecoder, batch: SceneBatch) -> ProposalLosses:
    """Losses of a batch of windows."""
    votes = decoder.proposal_head.vote(batch.mid)
    coarse = _join(batch.mid_positions, [t.keys for t in batch.targets], batch.targets)
    fine = _join(batch.fine_positions, [t.fine for t in batch.targets], batch.targets)
    surely = F.binary_cross_entropy_with_logits(
        votes.objectness.float().flatten(), (coarse.kind == 1).float(), reduction="none"
    )
    of_stuff = (coarse.kind == 0).float()
    objectness = 0.5 * (_mean(surely, coarse.weight) + _mean(surely, of_stuff))
    offsets = []
    for truth, positions, said in (
        (coarse, batch.mid_positions, votes.offset),
        (fine, batch.fine_positions, decoder.fine_offsets(batch.fine)),
    ):
        radius = (truth.size / 2).clamp(min=MIN_RADIUS_M)
        off = (positions[..., :3] + said).flatten(0, 1) - truth.middle
        losses = F.smooth_l1_loss(off / radius, torch.zeros_like(off), beta=_OFFSET_BETA, reduction="none")
        offsets.append(_mean(losses.sum(dim=1), truth.weight))
    size = F.smooth_l1_loss(
        votes.log_size.flatten(0, 1), coarse.size.clamp(min=1e-2).log(), beta=_SIZE_BETA, reduction="none"
    )
    return ProposalLosses(objectness, torch.stack(offsets).mean(), _mean(size.sum(dim=1), coarse.weight))


def _join(positions: Tensor, tubes: list[Tensor], targets: tuple[TubeTargets, ...]) -> VoxelTruth:
    parts = [voxel_truth(*of) for of in zip(positions, tubes, targets, strict=True)]
    return VoxelTruth(*(torch.cat(field) for field in zip(*parts, strict=True)))


def _mean(losses: Tensor, weight: Tensor) -> Tensor:
    return (losses * weight).sum() / weight.sum().clamp(min=1e-6)
