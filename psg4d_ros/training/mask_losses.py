"""Losses of the mask decoder: slots are matched to the true tubes one to one, then pulled towards them.

Every decoder layer is supervised, and so are the key masks that steer the next layer's attention. Masks are compared on
a sample of voxels: half of it spread over the window, half of it over the objects in equal shares, so that a cup of six
voxels weighs in as a wall of six thousand does. After "Masked-attention Mask Transformer for Universal Image
Segmentation" (2022), which draws its points by uncertainty instead.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """Matched slots and tubes of a window: int64[M] each, M = min(slots, tubes), on the CPU."""

    slots: Tensor
    tubes: Tensor


class Matches(NamedTuple):
    """Assignments of B windows side by side, M = the most of any. slots, tubes: int64[B, M], 0 beyond a window's own.
    real: float32[B, M], 1 for a match, 0 beyond. share: float32[B, M], 1 / number of matches, so that sums over M are
    means; 0 beyond."""

    slots: Tensor
    tubes: Tensor
    real: Tensor
    share: Tensor

    @classmethod
    def of(cls, assignments: Sequence[Assignment], device: torch.device) -> Matches:
        most = max(len(a.slots) for a in assignments)
        table = torch.zeros(4, len(assignments), most, dtype=torch.float64)  # one transfer
        for row, a in enumerate(assignments):
            count = len(a.slots)
            table[0, row, :count], table[1, row, :count] = a.slots.double(), a.tubes.double()
            table[2, row, :count], table[3, row, :count] = 1.0, 1.0 / max(1, count)
        slots, tubes, real, share = table.to(device)
        return cls(slots.long(), tubes.long(), real.float(), share.float())

    def pick(self, rows: Tensor) -> Tensor:
        """[B, M, *] of the matched slots. rows: [B, Q, *]."""
        index = self.slots.view(*self.slots.shape, *(1 for _ in rows.shape[2:]))
        return torch.take_along_dim(rows, index, dim=1)

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the windows of their means over matches, zero for a window without. values: [B, M]."""
        return (values * self.share).sum() / len(self.share)


@dataclass(frozen=True, eq=False)
class MaskLosses:
    """Means over windows of means over what they look at, as tensors with gradient; ``assignments`` are those of the
    last layer, one per window."""

    bce: Tensor
    dice: Tensor
    presence: Tensor
    assignments: tuple[Assignment, ...]

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


def match(
    mask_logits: Tensor,
    presence_logits: Tensor,
    targets: Sequence[TubeTargets],
    class_log_probs: Sequence[Tensor] | None,
) -> list[Assignment]:
    """Match slots to tubes at the least cost (Hungarian), window by window.

    mask_logits: [B, Q, S] on the voxels of ``targets.fine``. presence_logits: [B, Q]. class_log_probs: per window
    [Q, T], the log-probability that each slot gives to each tube's true label, or None.
    """
    with torch.no_grad():
        most = max(t.count for t in targets)
        masks = _one_hot(torch.stack([t.fine for t in targets]), most).transpose(1, 2)  # [B, S, T]
        logits = mask_logits.float()
        positive = F.softplus(-logits)  # BCE of a voxel that should be in the mask; out of it: positive + logits
        bce = (positive @ masks + (positive + logits) @ (1 - masks)) / max(1, masks.shape[1])
        prob = logits.sigmoid()
        dice = 1 - (2 * prob @ masks + 1) / (prob.sum(2, keepdim=True) + masks.sum(1, keepdim=True) + 1)
        cost = BCE_WEIGHT * bce + DICE_WEIGHT * dice - PRESENCE_WEIGHT * presence_logits.float().sigmoid()[..., None]
        if class_log_probs is not None:
            named = [F.pad(p.float().exp(), (0, most - p.shape[1])) for p in class_log_probs]
            cost = cost - CLASS_WEIGHT * torch.stack(named)
        return [cheapest(own[:, : t.count]) for own, t in zip(cost.cpu(), targets, strict=True)]


def cheapest(cost: Tensor) -> Assignment:
    """The matching of slots and tubes at the least cost, float[Q, T]."""
    # A slot gone wild must not stop the run: its cost is as high as can be.
    slots, tubes = linear_sum_assignment(torch.nan_to_num(cost, nan=1e6, posinf=1e6, neginf=-1e6).cpu().numpy())
    return Assignment(torch.from_numpy(slots), torch.from_numpy(tubes))


def mask_losses(
    output: MaskOutput, targets: Sequence[TubeTargets], class_log_probs: Sequence[Tensor] | None = None
) -> MaskLosses:
    """Losses of all layers of B windows, averaged over layers. class_log_probs: of the last layer, see ``match``.

    output: with B in front, of the voxels and keys that ``targets`` name, in their order; windows have equally many. A
    window without tubes still teaches: all slots are to be absent.
    """
    fine, keys = (torch.stack(labels) for labels in ([t.fine for t in targets], [t.keys for t in targets]))
    last = output.last()
    bce, dice, presence = [], [], []
    for layer in (*output.aux, last):
        assignments = match(
            layer.mask_logits, layer.presence_logits, targets, class_log_probs if layer is last else None
        )
        found = Matches.of(assignments, fine.device)
        for logits, labels in ((layer.mask_logits, fine), (layer.key_mask_logits, keys)):
            b, d = _compare(found.pick(logits), _held(labels, found.tubes))
            bce.append(found.mean(b))
            dice.append(found.mean(d))
        quality = _iou(found.pick(layer.mask_logits), _held(fine, found.tubes))
        presence.append(presence_loss(layer.presence_logits, found, quality))
    return MaskLosses(
        torch.stack(bce).mean(), torch.stack(dice).mean(), torch.stack(presence).mean(), tuple(assignments)
    )


def _one_hot(labels: Tensor, count: int) -> Tensor:
    """float32[B, T, S] of int64[B, S] labels."""
    return (labels[:, None] == torch.arange(count, device=labels.device)[:, None]).float()


def _held(labels: Tensor, tubes: Tensor) -> Tensor:
    """float32[B, M, S]: whether each voxel is of that tube. labels: int64[B, S]. tubes: int64[B, M]."""
    return (labels[:, None] == tubes[..., None]).float()


def _compare(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """BCE, mean over the voxels, and Dice loss [B, M] of pairs, [B, M, S] each; where there are no voxels, zeros."""
    logits = logits.float()
    bce = F.binary_cross_entropy_with_logits(logits, masks, reduction="none").sum(2) / max(1, logits.shape[2])
    prob = logits.sigmoid()
    return bce, 1 - (2 * (prob * masks).sum(2) + 1) / (prob.sum(2) + masks.sum(2) + 1)


def _iou(logits: Tensor, masks: Tensor) -> Tensor:
    """float32[B, M] without gradient, of pairs [B, M, S]: how well what a mask holds agrees with the truth."""
    with torch.no_grad():
        held = (logits > 0).float()
        both = (held * masks).sum(2)
        return both / (held.sum(2) + masks.sum(2) - both).clamp(min=1)


def presence_loss(logits: Tensor, found: Matches, quality: Tensor | None = None) -> Tensor:
    """Binary cross-entropy over all slots [B, Q], mean over windows; an empty one counts EMPTY_SLOT_WEIGHT.

    quality: float32[B, M] of the matched slots, the IoU of each with its tube, which is what its presence is to say: of
    two slots on one object the better one is to be kept, and a poor mask to be left out. None: all are right.
    """
    empty = torch.zeros_like(logits, dtype=torch.float32)
    target = empty.scatter_add(1, found.slots, found.real if quality is None else quality * found.real)
    weight = EMPTY_SLOT_WEIGHT + (1 - EMPTY_SLOT_WEIGHT) * empty.scatter_add(1, found.slots, found.real)
    losses = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    return ((losses * weight).sum(1) / weight.sum(1)).mean()
