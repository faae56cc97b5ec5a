"""Losses of slots that are boxes (an ablation): L1 and generalised IoU in place of BCE and Dice.

Slots are matched to the true tubes one to one, as masks are, then pulled towards them; every decoder layer is
supervised. A tube's true boxes, one per frame, bound its voxels. After "End-to-End Object Detection with Transformers"
(2020) and "Generalized Intersection over Union" (2019), in space and over time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from psg4d_ros.model.box_head import boxes_at
from psg4d_ros.model.mask_decoder import LayerOutput, MaskOutput
from psg4d_ros.training.mask_losses import (
    CLASS_WEIGHT,
    PRESENCE_WEIGHT,
    Assignment,
    Matches,
    TubeTargets,
    cheapest,
    presence_loss,
)

BOX_WEIGHT, GIOU_WEIGHT = 5.0, 2.0  # of metres, mean over the six sides; of 1 - GIoU

_NOWHERE = 1e3


@dataclass(frozen=True, eq=False)
class BoxLosses:
    """Means over windows of means over what they look at, as tensors with gradient; ``assignments`` are those of the
    last layer, one per window."""

    box: Tensor
    giou: Tensor
    presence: Tensor
    assignments: tuple[Assignment, ...]

    def weighted(self) -> dict[str, Tensor]:
        """By name, as they are descended."""
        return {
            "box": BOX_WEIGHT * self.box,
            "giou": GIOU_WEIGHT * self.giou,
            "presence": PRESENCE_WEIGHT * self.presence,
        }


def tube_boxes(positions: Tensor, tubes: Tensor, times_s: Tensor, count: int, margin_m: float) -> Tensor:
    """float32[T, F, 6] (min xyz, max xyz): bounds of each tube's voxels in each frame, widened by ``margin_m`` on every
    side; NaN where it has none.

    positions: float32[V, 4], x y z t. tubes: int64[V], index of the tube or NOBODY. times_s: float32[F], ascending,
    the frames' times, which are the voxels'.
    """
    held = tubes >= 0
    frame = torch.searchsorted(times_s, positions[held, 3].contiguous())
    index = (tubes[held] * len(times_s) + frame)[:, None].expand(-1, 3)
    corners = positions[held, :3]
    bounds = [
        positions.new_full((count * len(times_s), 3), fill).scatter_reduce(0, index, corners, reduce) + margin
        for fill, reduce, margin in ((float("inf"), "amin", -margin_m), (float("-inf"), "amax", margin_m))
    ]
    boxes = torch.cat(bounds, dim=1)
    boxes[~boxes.isfinite().all(dim=1)] = float("nan")
    return boxes.view(count, len(times_s), 6)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """[*] in (-1, 1] of boxes [*, 6] (min xyz, max xyz) with a volume."""
    common = (torch.minimum(a[..., 3:], b[..., 3:]) - torch.maximum(a[..., :3], b[..., :3])).clamp(min=0)
    around = torch.maximum(a[..., 3:], b[..., 3:]) - torch.minimum(a[..., :3], b[..., :3])
    both, hull = common.prod(dim=-1), around.prod(dim=-1)
    union = (a[..., 3:] - a[..., :3]).prod(dim=-1) + (b[..., 3:] - b[..., :3]).prod(dim=-1) - both
    return both / union - (hull - union) / hull


def box_losses(
    output: MaskOutput, targets: Sequence[TubeTargets], class_log_probs: Sequence[Tensor] | None = None
) -> BoxLosses:
    """Losses of all layers of B windows, averaged over layers. class_log_probs: per window [Q, T] of the last layer,
    the log-probability that each slot gives to each tube's true label, or None.

    output: with boxes, and with B in front.
    """
    last = output.last()
    box, giou, presence = [], [], []
    for layer in (*output.aux, last):
        assignments = []
        for number, truth in enumerate(targets):
            said = _boxes(layer, number, truth.times_s)
            named = class_log_probs[number] if class_log_probs is not None and layer is last else None
            slots, tubes = _assign(said, layer.presence_logits[number], truth.boxes, named)
            off, overlap, seen = _compare(said[slots], truth.boxes[tubes])
            frames = seen.sum().clamp(min=1)
            box.append(off.sum() / frames)
            giou.append(((1 - overlap) * seen).sum() / frames)
            assignments.append(Assignment(slots, tubes))
        presence.append(presence_loss(layer.presence_logits, Matches.of(assignments, layer.presence_logits.device)))
    return BoxLosses(
        torch.stack(box).mean(), torch.stack(giou).mean(), torch.stack(presence).mean(), tuple(assignments)
    )


def _boxes(layer: LayerOutput, window: int, times_s: Tensor) -> Tensor:
    assert layer.boxes is not None
    return boxes_at(layer.boxes[window].float(), times_s)


def _compare(said: Tensor, true: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean distance of the sides in metres, generalised IoU, and whether the tube is seen, each [*, F]; of boxes
    [*, F, 6]. Both are 0 where it is not seen."""
    seen = true.isfinite().all(dim=-1)
    # NaN times 0 is NaN, in gradients too: where there is nothing to compare with, boxes are compared with themselves.
    true = torch.where(seen[..., None], true, said.detach())
    return (said - true).abs().mean(dim=-1) * seen, generalized_iou(said, true) * seen, seen


def _assign(said: Tensor, presence_logits: Tensor, true: Tensor, class_log_probs: Tensor | None) -> Assignment:
    """Match slots to tubes at the least cost. said: [Q, F, 6]. true: [T, F, 6]. class_log_probs: [Q, T] or None."""
    with torch.no_grad():
        every = said[:, None].expand(-1, len(true), -1, -1)
        off, overlap, seen = _compare(every, true[None].expand_as(every))
        cost = (BOX_WEIGHT * off - GIOU_WEIGHT * overlap).sum(dim=-1) / seen.sum(dim=-1).clamp(min=1)
        # A tube without a voxel has no box: it takes a slot that no other needs.
        cost = torch.where(seen.any(dim=-1), cost, _NOWHERE)
        cost = cost - PRESENCE_WEIGHT * presence_logits.float().sigmoid()[:, None]
        if class_log_probs is not None:
            cost = cost - CLASS_WEIGHT * class_log_probs.float().exp()
        return cheapest(cost)
