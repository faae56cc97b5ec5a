"""Turn 1's losses: which slot is which tube, its mask, its name and its attributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from psg4d_ros.model.chain import DescribedObject, PairQuestion
from psg4d_ros.model.mask_decoder import MaskOutput
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.training.box_losses import BoxLosses, box_losses
from psg4d_ros.training.mask_losses import Assignment, MaskLosses, Matches, TubeTargets, mask_losses
from psg4d_ros.training.windows import WindowTruth


@dataclass(frozen=True, eq=False)
class NameScores:
    """Slots against words: class_logits [*, Q, n] over ``words``, attribute_logits [*, Q, a] over ``attributes``."""

    words: tuple[str, ...]
    attributes: tuple[str, ...]
    class_logits: Tensor
    attribute_logits: Tensor

    def of_window(self, number: int) -> NameScores:
        """Of one window of a batch."""
        return NameScores(self.words, self.attributes, self.class_logits[number], self.attribute_logits[number])


def score_names(model: PSG4D, hidden: Tensor | None, embeddings: Tensor, words: Sequence[str]) -> NameScores:
    """hidden: [*, Q, H] slot states of the language model, or None. embeddings: [*, Q, H] from the mask decoder."""
    attributes = model.vocabulary.attributes
    return NameScores(tuple(words), attributes, *model.chain.name_objects(hidden, embeddings, tuple(words), attributes))


@dataclass(frozen=True, eq=False)
class ObjectReading:
    """A window whose tubes have found their slots.

    slots, tubes: int64[M], matched, by ascending slot, as inference lists objects; on the CPU. slot_states: [Q, d].
    scores: the best there are of this step, for words of the model's own; on the CPU, without gradient.
    """

    truth: WindowTruth
    slots: Tensor
    tubes: Tensor
    slot_states: Tensor
    scores: NameScores

    def described(self, own_words: bool) -> list[DescribedObject]:
        """The list that turn 2 reads: the true names and attributes, or those that the model would give, likeliest
        attribute first as at inference."""
        tubes, slots = self.tubes.tolist(), self.slots.tolist()
        if not own_words:
            return [
                DescribedObject(slot, self.truth.labels[tube], self.truth.attributes[tube])
                for slot, tube in zip(slots, tubes, strict=True)
            ]
        best = self.scores.class_logits[self.slots].argmax(dim=1).tolist()
        sure, order = self.scores.attribute_logits[self.slots].sort(dim=1, descending=True, stable=True)
        return [
            DescribedObject(
                slot,
                self.scores.words[name],
                tuple(self.scores.attributes[i] for logit, i in zip(logits, ranks, strict=True) if logit > 0),
            )
            for slot, name, logits, ranks in zip(slots, best, sure.tolist(), order.tolist(), strict=True)
        ]

    def question(self, own_words: bool) -> tuple[PairQuestion, Tensor]:
        """What turn 2 is asked, and int64[R]: which of the truth's pairs these are; none without two slots is."""
        place = torch.full((len(self.truth.labels),), -1, dtype=torch.int64)
        place[self.tubes] = torch.arange(len(self.tubes))
        pairs = place[self.truth.pairs]
        rows = (pairs >= 0).all(dim=1).nonzero()[:, 0]
        states = self.slot_states[self.slots]
        question = PairQuestion(
            self.described(own_words), pairs[rows], self.truth.geometry[rows], self.truth.motion[rows], states
        )
        return question, rows


def read_objects(
    output: MaskOutput, targets: Sequence[TubeTargets], truths: Sequence[WindowTruth], scores: NameScores
) -> tuple[MaskLosses | BoxLosses, list[ObjectReading]]:
    """Match slots and tubes of B windows: how masks, or boxes, differ from the tubes, and a reading for each window."""
    with torch.no_grad():
        log_probs = F.pad(scores.class_logits.float().log_softmax(dim=-1), (0, 1), value=-20.0)  # last: no such word
        wanted = [class_targets(scores.words, truth) for truth in truths]
        of_tubes = [own[:, names.to(own.device)] for own, names in zip(log_probs, wanted, strict=True)]
        said = NameScores(
            scores.words, scores.attributes, scores.class_logits.float().cpu(), scores.attribute_logits.float().cpu()
        )
    losses = (mask_losses if output.boxes is None else box_losses)(output, targets, of_tubes)
    readings = []
    for number, (truth, (slots, tubes)) in enumerate(zip(truths, losses.assignments, strict=True)):
        order = slots.argsort()
        readings.append(
            ObjectReading(truth, slots[order], tubes[order], output.slot_states[number], said.of_window(number))
        )
    return losses, readings


def class_targets(words: Sequence[str], truth: WindowTruth) -> Tensor:
    """int64[T]: each tube's label among ``words``; -1 for one that is not there."""
    index = {word: i for i, word in enumerate(words)}
    return torch.tensor([index.get(label, -1) for label in truth.labels], dtype=torch.int64)


def name_losses(readings: Sequence[ObjectReading], scores: NameScores, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the matched slots' names, and binary cross-entropy of their attributes that are judged.

    Means over the windows of means over what each has to say. weight: float32[n] of the words. scores: of B windows.
    """
    device = weight.device
    found = Matches.of([Assignment(r.slots, r.tubes) for r in readings], device)
    names = torch.full(found.slots.shape, -1)
    true = torch.zeros(*found.slots.shape, len(scores.attributes))
    judged = torch.zeros(len(readings), 1, len(scores.attributes))
    for row, reading in enumerate(readings):
        truth, count = reading.truth, len(reading.tubes)
        names[row, :count] = class_targets(scores.words, truth)[reading.tubes]
        own = [[a in words for a in scores.attributes] for words in truth.attributes]
        true[row, :count] = torch.tensor(own, dtype=torch.float32).view(-1, len(scores.attributes))[reading.tubes]
        judged[row, 0] = torch.tensor([a in truth.known_attributes for a in scores.attributes])
    names, true, judged = names.to(device), true.to(device), judged.to(device) * found.real[..., None]
    said = found.pick(scores.class_logits).float()
    wrong = F.cross_entropy(said.flatten(0, 1), names.flatten(), weight, ignore_index=-1, reduction="none")
    counts = weight[names.clamp(min=0)] * (names >= 0)
    asked = found.pick(scores.attribute_logits).float()
    missed = F.binary_cross_entropy_with_logits(asked, true, reduction="none") * judged
    return _share(wrong.view_as(counts), counts), _share(missed.flatten(1), judged.flatten(1))


def _share(losses: Tensor, weights: Tensor) -> Tensor:
    """Mean over windows of their weighted means; a window without weights counts zero. Both [B, n]."""
    return (losses.sum(1) / weights.sum(1).clamp(min=1e-6)).mean()
