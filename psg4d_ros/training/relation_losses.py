"""Turn 2's losses: which predicates hold of a pair, and in which frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional as F

from psg4d_ros.model.chain import PairQuestion
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.model.relation_head import RelationOutput
from psg4d_ros.training.windows import WindowTruth


@dataclass(frozen=True, eq=False)
class AskedPairs:
    """The pairs of one window that are asked for. rows: int64[R], which of the truth's pairs they are."""

    truth: WindowTruth
    times_s: Tensor
    question: PairQuestion
    rows: Tensor

    def true(self) -> Tensor:
        """bool[R, n]: the predicate holds of the pair at some time in the window."""
        return self.truth.holds[self.rows].any(dim=2)


def score_pairs(model: PSG4D, asked: Sequence[AskedPairs], pair_hidden: Sequence[Tensor] | None) -> RelationOutput:
    """Scores of the judged predicates for the pairs of windows with equal numbers of frames, one window after another.

    pair_hidden: per window [R, H] from turn 2; None: the geometry network alone.
    """
    device, words = model.device, [o.label for a in asked for o in a.question.objects]
    starts = [0, *accumulate(len(a.question.objects) for a in asked)]
    pairs = torch.cat([a.question.pairs + start for a, start in zip(asked, starts, strict=False)]).to(device)
    motions = [a.question.motion for a in asked if a.question.motion is not None]
    labels = model.chain.pair_labels(words)
    return model.relation_head(
        None if pair_hidden is None else torch.cat(list(pair_hidden)),
        labels[pairs[:, 0]],
        labels[pairs[:, 1]],
        torch.cat([a.question.geometry for a in asked]).to(device),
        model.language_model.phrase_embeddings(asked[0].truth.predicates),
        torch.cat(motions).to(device) if motions else None,
        torch.cat([a.truth.frame_geometry[a.rows] for a in asked]).to(device),
        torch.cat([a.times_s.expand(len(a.rows), -1) for a in asked]).to(device),
    )


def relation_losses(
    model: PSG4D, asked: Sequence[AskedPairs], pair_hidden: Sequence[Tensor] | None
) -> tuple[Tensor, Tensor]:
    """Losses as tensors with gradient, means over windows: of the predicates, and of when they hold.

    Several predicates of a pair are true at once, so each has its own binary cross-entropy, summed over predicates,
    mean over pairs. When a relation holds is judged for true relations only, in the frames in which both objects are
    seen.
    """
    by_frames: dict[int, list[int]] = {}
    for number, one in enumerate(asked):
        by_frames.setdefault(len(one.times_s), []).append(number)
    losses = [
        _summed(model, [asked[i] for i in numbers], None if pair_hidden is None else [pair_hidden[i] for i in numbers])
        for numbers in by_frames.values()
    ]
    relation, span = torch.stack([torch.stack(pair) for pair in losses]).sum(dim=0) / len(asked)
    return relation, span


def _summed(model: PSG4D, asked: list[AskedPairs], pair_hidden: list[Tensor] | None) -> tuple[Tensor, Tensor]:
    """The losses of windows with equal numbers of frames, added up."""
    answer, device = score_pairs(model, asked, pair_hidden), model.device
    holds = [a.truth.holds[a.rows] for a in asked]
    judged = [
        (h.any(dim=2)[:, :, None] & a.truth.seen[a.rows][:, None]).float() for a, h in zip(asked, holds, strict=True)
    ]
    true = torch.cat(holds).to(device)
    rows = torch.cat([torch.full((len(h),), 1.0 / max(1, len(h))) for h in holds]).to(device)
    cells = torch.cat([j / j.sum().clamp(min=1) for j in judged]).to(device)
    wrong = F.binary_cross_entropy_with_logits(answer.logits.float(), true.any(dim=2).float(), reduction="none")
    assert answer.activity_logits is not None
    missed = F.binary_cross_entropy_with_logits(answer.activity_logits.float(), true.float(), reduction="none")
    return (wrong.sum(dim=1) * rows).sum(), (missed * cells).sum()
