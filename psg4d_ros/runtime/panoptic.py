"""From mask tubes to a panoptic segmentation: every voxel belongs to at most one instance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from psg4d_ros.config import InferenceConfig
from psg4d_ros.model.box_head import box_volumes
from psg4d_ros.model.features import FrameFeatures
from psg4d_ros.model.mask_decoder import MaskOutput
from psg4d_ros.structures import Float32, Float64, Int32, Int64


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The instances of a window.

    slots: int64[P] the slot behind each instance, a row of MaskOutput; of a given tube that has none, a row after the
    slots (see given.py). presence_prob: float32[P]. point_instance: per frame int32[N_f], 0 = none, i + 1 = instance i.
    boxes: float64[P, F, 6] (min xyz, max xyz) relative to Window.origin, metres, NaN where the instance has no voxel in
    the frame (a given tube: no point).
    """

    slots: torch.Tensor
    presence_prob: torch.Tensor
    point_instance: tuple[Int32, ...]
    boxes: Float64


def segment(output: MaskOutput, frames: list[FrameFeatures], config: InferenceConfig) -> Segmentation:
    """Give each voxel to the present slot with the highest presence x mask probability, then drop small instances.

    All frames at once, and what the CPU has to know is read in one go: a GPU waits for each question.
    """
    counts = [len(f.fine) for f in frames]
    presence = output.presence_logits.float().sigmoid()
    if sum(counts) == 0:
        return _nothing(frames, presence)
    slots, voxel_owner = claim_voxels(output, config)
    if len(slots) == 0:
        return _nothing(frames, presence)
    rows = len(slots) + 1
    point_owner = _points_of(voxel_owner, frames)
    sizes = _count(point_owner, torch.ones_like(point_owner), rows)
    frame_of_voxel = _repeated(range(len(frames)), counts, voxel_owner.device)
    bounds = _bounds(
        frame_of_voxel * rows + voxel_owner, torch.cat([f.fine_centers for f in frames]), len(frames) * rows
    )
    # One copy from the device for all three.
    known = torch.cat([sizes.int(), bounds.view(torch.int32).flatten(), point_owner.int()]).cpu().numpy()
    sizes_np, bounds_np, labels = np.split(known, [rows, rows + bounds.numel()])
    keep = np.flatnonzero(sizes_np[1:] >= config.min_points)
    if len(keep) < len(slots):
        renumber = np.zeros(rows, np.int32)
        renumber[keep + 1] = np.arange(1, len(keep) + 1)
        labels = renumber[labels]
        slots = slots[torch.from_numpy(keep).to(slots.device)]
    boxes = _boxes(bounds_np.view(np.float32)).reshape(len(frames), rows, 6).swapaxes(0, 1)[keep + 1]
    ends = np.cumsum([len(f.point_voxel) for f in frames])
    return Segmentation(slots, presence[slots], tuple(np.split(labels, ends[:-1])), boxes)


def claim_voxels(output: MaskOutput, config: InferenceConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """The present slots int64[P], and int64[V] whose each voxel is: 0 = nobody's, i + 1 = that of the i-th of them.

    A slot claims only voxels that its own mask holds; among claimants the more certain one wins, ties the lower slot.
    One that keeps less than ``min_kept`` of its mask is dropped where others hold the rest, and these share what it
    held. Where slots are boxes, the smallest box wins, ties the surer slot.
    """
    presence = output.presence_logits.float().sigmoid()
    slots = torch.nonzero(presence >= config.presence_threshold).flatten()
    if len(slots) == 0:
        return slots, torch.zeros(output.mask_logits.shape[1], dtype=torch.int64, device=presence.device)
    present = presence[slots]
    mask_prob = output.mask_logits[slots].float().sigmoid()
    certainty = mask_prob * present[:, None]
    if output.boxes is not None:
        certainty = _smallest_first(box_volumes(output.boxes[slots]), present)[:, None].expand_as(mask_prob)
    held = mask_prob >= config.mask_threshold
    claim = certainty.masked_fill(~held, 0.0)
    best, owner = claim.max(0)
    if output.boxes is None:
        # A slot that lost most of its mask to surer ones had found what they found: what is left to it are crumbs.
        kept = _worth_keeping(held, _count(owner, best > 0, len(slots)), present, config.min_kept)
        if len(kept) < len(slots):
            rows = torch.from_numpy(kept).to(slots.device)
            slots, claim = slots[rows], claim[rows]
            if len(slots) == 0:
                return slots, torch.zeros_like(owner)
            best, owner = claim.max(0)
    return slots, (owner + 1).masked_fill(best <= 0, 0)


def _worth_keeping(held: torch.Tensor, left: torch.Tensor, presence: torch.Tensor, min_kept: float) -> Int64:
    """The rows, ascending, that keep ``min_kept`` of their masks; and, the surest first, those that would keep as much
    of what none of the rows before them holds.

    held: bool[P, V]. left: int64[P], how many voxels each keeps. presence: float32[P].
    """
    needed = min_kept * held.sum(1)
    enough = left >= needed
    free = held & ~(held & enough[:, None]).any(0)
    # The rest is decided on the CPU: a GPU would be asked, and waited for, once for every row. Voxels are fewer than
    # 2^24, so that float32 counts them exactly.
    table = torch.stack([enough.float(), needed, free.sum(1).float(), presence]).cpu().numpy()
    kept, needed_np, available, sureness = table[0] > 0, *table[1:]
    # What is free only ever becomes less: most rows are out already, and one alone is in.
    doubtful = np.flatnonzero(~kept & (available >= needed_np))
    if len(doubtful) == 1:
        kept[doubtful] = True
    elif len(doubtful):
        masks = free[torch.from_numpy(doubtful).to(free.device)].cpu().numpy()
        untaken = np.ones(masks.shape[1], bool)
        for i in np.argsort(-sureness[doubtful], kind="stable"):
            # Several that share one object evenly must not all go: the surest of them stays.
            if np.count_nonzero(masks[i] & untaken) >= needed_np[doubtful[i]]:
                kept[doubtful[i]] = True
                untaken &= ~masks[i]
    return np.flatnonzero(kept)


def _smallest_first(volume: torch.Tensor, presence: torch.Tensor) -> torch.Tensor:
    """float32[P] above 0: the larger the sooner a box takes what it holds. volume, presence: float32[P]."""
    order = (-presence).argsort(stable=True)
    order = order[volume[order].argsort(stable=True)]
    worth = torch.empty_like(volume)
    worth[order] = 1.0 / torch.arange(1, len(order) + 1, device=volume.device)
    return worth


def _nothing(frames: list[FrameFeatures], presence: torch.Tensor) -> Segmentation:
    labels = tuple(np.zeros(len(f.point_voxel), np.int32) for f in frames)
    none = torch.zeros(0, dtype=torch.int64, device=presence.device)
    return Segmentation(none, presence[none], labels, np.zeros((0, len(frames), 6)))


def _points_of(voxel_owner: torch.Tensor, frames: list[FrameFeatures]) -> torch.Tensor:
    """int64[N]: owners of the points of all frames from those of the frames' voxels; of points without one (-1) 0."""
    voxels, points = [len(f.fine) for f in frames], [len(f.point_voxel) for f in frames]
    # Row 0 is nobody's: every point has a row to look at, also in a frame without voxels.
    owners = torch.cat([voxel_owner.new_zeros(1), voxel_owner])
    point_voxel = torch.cat([f.point_voxel for f in frames])
    first = _repeated((np.cumsum(voxels) - voxels + 1).tolist(), points, voxel_owner.device)
    return owners[(point_voxel + first).masked_fill_(point_voxel < 0, 0)]


def _repeated(values: Sequence[int], times: Sequence[int], device: torch.device) -> torch.Tensor:
    """int64[sum of times]: each value so many times."""
    table = torch.tensor([list(values), list(times)]).to(device, non_blocking=True)
    return torch.repeat_interleave(table[0], table[1], output_size=sum(times))


def _count(labels: torch.Tensor, counts: torch.Tensor, rows: int) -> torch.Tensor:
    """int64[rows]: the sum of ``counts`` [n] of each label; a bincount would make a GPU wait, twice."""
    return torch.zeros(rows, dtype=torch.int64, device=labels.device).scatter_add_(0, labels, counts.long())


def label_boxes(labels: torch.Tensor, centers: torch.Tensor, count: int) -> Float64:
    """float64[count, 6] bounds of the ``centers`` [n, 3] of labels 1..count; NaN for labels that none has."""
    return _boxes(_bounds(labels, centers, count + 1).cpu().numpy())[1:]


def _bounds(labels: torch.Tensor, centers: torch.Tensor, rows: int) -> torch.Tensor:
    """float32[rows, 6]: the least coordinates of each label, and the least of the negative ones; inf where there are
    none. One pass for both ends."""
    both = torch.cat([centers, -centers], dim=1).float()
    return torch.full((rows, 6), float("inf"), device=centers.device).scatter_reduce_(
        0, labels[:, None].expand(-1, 6), both, "amin"
    )


def _boxes(bounds: Float32) -> Float64:
    """float64[rows, 6] (min xyz, max xyz) of flat or [rows, 6] ``_bounds``; NaN where there are none."""
    boxes = bounds.reshape(-1, 6).astype(np.float64)
    boxes[:, 3:] *= -1
    boxes[~np.isfinite(boxes).all(axis=1)] = np.nan
    return boxes
