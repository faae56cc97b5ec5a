"""From mask tubes to a panoptic segmentation: every voxel belongs to at most one instance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from psg4d_ros.config import InferenceConfig
from psg4d_ros.model.box_head import box_volumes
from psg4d_ros.model.features import FrameFeatures
from psg4d_ros.model.mask_decoder import MaskOutput
from psg4d_ros.structures import Float64, Int32


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
    """Give each voxel to the present slot with the highest presence x mask probability, then drop small instances."""
    counts = [len(f.fine) for f in frames]
    presence = output.presence_logits.float().sigmoid()
    if sum(counts) == 0:
        return _nothing(frames, presence)
    slots, voxel_owner = claim_voxels(output, config)
    if len(slots) == 0:
        return _nothing(frames, presence)
    per_frame = voxel_owner.split(counts)
    point_owner = [_points_of(labels, f.point_voxel) for labels, f in zip(per_frame, frames, strict=True)]
    sizes = torch.stack([torch.bincount(p, minlength=len(slots) + 1) for p in point_owner]).sum(0)
    keep = torch.nonzero(sizes[1:] >= config.min_points).flatten()
    renumber = torch.zeros(len(slots) + 1, dtype=torch.int64, device=slots.device)
    renumber[keep + 1] = torch.arange(1, len(keep) + 1, device=slots.device)
    boxes = np.stack(
        [label_boxes(renumber[labels], f.fine_centers, len(keep)) for labels, f in zip(per_frame, frames, strict=True)],
        axis=1,
    )
    labels = tuple(renumber[p].to("cpu", torch.int32).numpy() for p in point_owner)
    return Segmentation(slots[keep], presence[slots[keep]], labels, boxes)


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
    mask_prob = output.mask_logits[slots].float().sigmoid()
    certainty = mask_prob * presence[slots, None]
    if output.boxes is not None:
        certainty = _smallest_first(box_volumes(output.boxes[slots]), presence[slots])[:, None].expand_as(mask_prob)
    held = mask_prob >= config.mask_threshold
    claim = torch.where(held, certainty, torch.zeros(()).to(mask_prob))
    best, owner = claim.max(0)
    if output.boxes is None:
        # A slot that lost most of its mask to surer ones had found what they found: what is left to it are crumbs.
        left = torch.bincount(owner[best > 0], minlength=len(slots))
        kept = left >= config.min_kept * held.sum(1)
        taken = held[kept].any(0)
        for slot in presence[slots].argsort(descending=True, stable=True).tolist():
            # Several that share one object evenly must not all go: the surest of them stays.
            if not kept[slot] and (held[slot] & ~taken).sum() >= config.min_kept * held[slot].sum():
                kept[slot], taken = True, taken | held[slot]
        slots, claim = slots[kept], claim[kept]
        if len(slots) == 0:
            return slots, torch.zeros_like(owner)
        best, owner = claim.max(0)
    return slots, torch.where(best > 0, owner + 1, torch.zeros_like(owner))


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


def _points_of(voxel_labels: torch.Tensor, point_voxel: torch.Tensor) -> torch.Tensor:
    """Labels of points from those of their voxels; points without a voxel (-1) get 0."""
    if len(voxel_labels) == 0:
        return torch.zeros_like(point_voxel)
    return torch.where(point_voxel >= 0, voxel_labels[point_voxel.clamp(min=0)], torch.zeros_like(point_voxel))


def label_boxes(labels: torch.Tensor, centers: torch.Tensor, count: int) -> Float64:
    """float64[count, 6] bounds of the ``centers`` [n, 3] of labels 1..count; NaN for labels that none has."""
    index = labels[:, None].expand(-1, 3)
    bounds = [
        torch.full((count + 1, 3), fill, device=centers.device).scatter_reduce(0, index, centers.float(), reduce)
        for fill, reduce in ((float("inf"), "amin"), (float("-inf"), "amax"))
    ]
    boxes = torch.cat(bounds, dim=1)[1:].double().cpu().numpy()
    boxes[~np.isfinite(boxes).all(axis=1)] = np.nan
    return boxes
