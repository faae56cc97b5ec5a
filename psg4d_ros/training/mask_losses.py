"""Losses of the mask decoder: slots are matched to the true tubes one to one, then pulled towards them.

Every decoder layer is supervised, and so are the key masks that steer the next layer's attention. Masks are compared on
a sample of voxels: half of it spread over the window, half of it over the objects in equal shares, so that a cup of six
voxels weighs in as a wall of six thousand does. After "Masked-attention Mask Transformer for Universal Image
Segmentation" (2022), which draws its points by uncertainty instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from psg4d_ros.model.mask_decoder import MaskOutput

BCE_WEIGHT, DICE_WEIGHT, PRESENCE_WEIGHT, CLASS_WEIGHT = 5.0, 5.0, 2.0, 2.0
# Most slots are empty: what they say must not drown what the others say.
EMPTY_SLOT_WEIGHT = 0.1
NOBODY = -1  # in label arrays: a voxel that no annotated object claims, e.g. a point without a label


@dataclass(frozen=True, eq=False)
class TubeTargets:
    """The true tubes of a window, T of them.

    fine: int64[V] index of the tube of each finest voxel (of those that are compared), or NOBODY. keys: int64[K] the
    same for the second-level keys. is_thing: bool[T]. boxes: float32[T, F, 6], see ``box_losses.tube_boxes``. times_s:
    float32[F] of the frames.
    """

    fine: Tensor
    keys: Tensor
    count: int
    is_thing: Tensor
    boxes: Tensor
    times_s: Tensor


class Assignment(NamedTuple):
    """Matched slots and tubes: int64[M] each, M = min(slots, tubes)."""

    slots: Tensor
    tubes: Tensor


@dataclass(frozen=True, eq=False)
class MaskLosses:
    """Means over what they look at, as tensors with gradient; ``assignment`` is that of the last layer."""

    bce: Tensor
    dice: Tensor
    presence: Tensor
    assignment: Assignment

    def weighted(self) -> dict[str, Tensor]:
        """By name, as they are descended."""
        return {
            "bce": BCE_WEIGHT * self.bce,
            "dice": DICE_WEIGHT * self.dice,
            "presence": PRESENCE_WEIGHT * self.presence,
        }

    def total(self) -> Tensor:
        return torch.stack(list(self.weighted().values())).sum()


def sample_voxels(labels: Tensor, count: int, tubes: int, generator: torch.Generator) -> Tensor:
    """int64[<= count] rows of ``labels`` (int64[V], tube or NOBODY), sorted; all of them where V <= count.

    Half is drawn evenly from all voxels, the rest from the tubes in equal shares (small tubes whole).
    """
    total = len(labels)
    if total <= count:
        return torch.arange(total, device=labels.device)
    order = torch.randperm(total, generator=generator).to(labels.device)
    chosen = [order[: count // 2]]
    if tubes:
        # Rank of each voxel within its own tube, in an order that starts with those not drawn yet.
        order = order.flip(0)
        shuffled = labels[order]
        by_tube = torch.argsort(shuffled, stable=True)
        sizes = torch.bincount(shuffled + 1, minlength=tubes + 1)
        starts = torch.cumsum(sizes, 0) - sizes
        rank = torch.arange(total, device=labels.device) - torch.repeat_interleave(starts, sizes)
        share = max(1, (count - count // 2) // tubes)
        chosen.append(order[by_tube[(rank < share) & (shuffled[by_tube] != NOBODY)]])
    return torch.unique(torch.cat(chosen))


def assign(mask_logits: Tensor, presence_logits: Tensor, masks: Tensor, class_log_probs: Tensor | None) -> Assignment:
    """Match slots to tubes at the least cost (Hungarian).

    mask_logits: [Q, S] on sampled voxels. masks: [T, S] 0 or 1. class_log_probs: [Q, T], the log-probability that each
    slot gives to each tube's true label, or None.
    """
    with torch.no_grad():
        logits, masks = mask_logits.float(), masks.float()
        positive = F.softplus(-logits)  # BCE of a voxel that should be in the mask; out of it: positive + logits
        bce = (positive @ masks.T + (positive + logits) @ (1 - masks).T) / max(1, masks.shape[1])
        prob = logits.sigmoid()
        dice = 1 - (2 * prob @ masks.T + 1) / (prob.sum(1, keepdim=True) + masks.sum(1) + 1)
        cost = BCE_WEIGHT * bce + DICE_WEIGHT * dice - PRESENCE_WEIGHT * presence_logits.float().sigmoid()[:, None]
        if class_log_probs is not None:
            cost = cost - CLASS_WEIGHT * class_log_probs.float().exp()
        return cheapest(cost)


def cheapest(cost: Tensor) -> Assignment:
    """The matching of slots and tubes at the least cost, float[Q, T]."""
    # A slot gone wild must not stop the run: its cost is as high as can be.
    slots, tubes = linear_sum_assignment(torch.nan_to_num(cost, nan=1e6, posinf=1e6, neginf=-1e6).cpu().numpy())
    return Assignment(torch.from_numpy(slots).to(cost.device), torch.from_numpy(tubes).to(cost.device))


def mask_losses(output: MaskOutput, targets: TubeTargets, class_log_probs: Tensor | None = None) -> MaskLosses:
    """Losses of all layers, averaged over layers. class_log_probs: [Q, T] of the last layer, see ``assign``.

    output: of the voxels and keys that ``targets`` names, in their order. A window without tubes still teaches: all
    slots are to be absent.
    """
    fine = _one_hot(targets.fine, targets.count)
    keys = _one_hot(targets.keys, targets.count)
    last = output.last()
    bce, dice, presence = [], [], []
    for layer in (*output.aux, last):
        assignment = assign(layer.mask_logits, layer.presence_logits, fine, class_log_probs if layer is last else None)
        for logits, masks in ((layer.mask_logits, fine), (layer.key_mask_logits, keys)):
            b, d = _compare(logits[assignment.slots], masks[assignment.tubes])
            bce.append(b)
            dice.append(d)
        quality = _iou(layer.mask_logits[assignment.slots], fine[assignment.tubes])
        presence.append(presence_loss(layer.presence_logits, assignment.slots, quality))
    return MaskLosses(torch.stack(bce).mean(), torch.stack(dice).mean(), torch.stack(presence).mean(), assignment)


def _one_hot(labels: Tensor, count: int) -> Tensor:
    """float32[T, S] of int64[S] labels."""
    return (labels[None] == torch.arange(count, device=labels.device)[:, None]).float()


def _compare(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Mean BCE and Dice loss of M pairs, [M, S] each; zeros (with gradient) where there is nothing to compare."""
    logits = logits.float()
    if not logits.numel():
        return logits.sum(), logits.sum()
    bce = F.binary_cross_entropy_with_logits(logits, masks)
    prob = logits.sigmoid()
    dice = 1 - (2 * (prob * masks).sum(1) + 1) / (prob.sum(1) + masks.sum(1) + 1)
    return bce, dice.mean()


def _iou(logits: Tensor, masks: Tensor) -> Tensor:
    """float32[M] without gradient, of M pairs [M, S]: how well what a mask holds agrees with the truth."""
    with torch.no_grad():
        held = (logits > 0).float()
        both = (held * masks).sum(1)
        return both / (held.sum(1) + masks.sum(1) - both).clamp(min=1)


def presence_loss(logits: Tensor, matched: Tensor, quality: Tensor | None = None) -> Tensor:
    """Binary cross-entropy over all slots; an empty one counts EMPTY_SLOT_WEIGHT.

    quality: float32[M] of the matched slots, the IoU of each with its tube, which is what its presence is to say: of
    two slots on one object the better one is to be kept, and a poor mask to be left out. None: all are right.
    """
    target = torch.zeros_like(logits, dtype=torch.float32)
    target[matched] = 1.0 if quality is None else quality
    weight = torch.full_like(target, EMPTY_SLOT_WEIGHT)
    weight[matched] = 1.0
    losses = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    return (losses * weight).sum() / weight.sum()
