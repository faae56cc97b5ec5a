"""Turn 2's losses: which predicates hold of a pair, and in which frames."""

from __future__ import annotations

from dataclasses import dataclass

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


def score_pairs(model: PSG4D, asked: AskedPairs, pair_hidden: Tensor | None) -> RelationOutput:
    """Scores of the judged predicates. pair_hidden: [R, H] from turn 2; None: the geometry network alone."""
    truth, question, rows = asked.truth, asked.question, asked.rows
    device = model.device
    labels = model.chain.pair_labels([o.label for o in question.objects])
    pairs = question.pairs.to(device)
    return model.relation_head(
        pair_hidden,
        labels[pairs[:, 0]],
        labels[pairs[:, 1]],
        question.geometry.to(device),
        model.language_model.phrase_embeddings(truth.predicates),
        None if question.motion is None else question.motion.to(device),
        truth.frame_geometry[rows].to(device),
        asked.times_s.to(device),
    )


def relation_losses(model: PSG4D, asked: AskedPairs, pair_hidden: Tensor | None) -> tuple[Tensor, Tensor]:
    """Losses of one window, as tensors with gradient: of the predicates, and of when they hold.

    Several predicates of a pair are true at once, so each has its own binary cross-entropy, summed over predicates,
    mean over pairs. When a relation holds is judged for true relations only, in the frames in which both objects are
    seen.
    """
    answer = score_pairs(model, asked, pair_hidden)
    truth, rows, device = asked.truth, asked.rows, model.device
    holds = truth.holds[rows].to(device)
    true = holds.any(dim=2)
    relation = F.binary_cross_entropy_with_logits(answer.logits.float(), true.float(), reduction="sum")
    seen = truth.seen[rows].to(device)[:, None].expand_as(holds) & true[:, :, None]
    assert answer.activity_logits is not None
    active = answer.activity_logits.float()[seen]
    span = F.binary_cross_entropy_with_logits(active, holds[seen].float(), reduction="sum")
    return relation / max(1, len(rows)), span / max(1, int(seen.sum()))
