"""Turn 1's losses: which slot is which tube, its mask, its name and its attributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from psg4d_ros.model.chain import DescribedObject, PairQuestion
from psg4d_ros.model.mask_decoder import LayerOutput, MaskOutput
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.training.box_losses import BoxLosses, box_losses
from psg4d_ros.training.mask_losses import MaskLosses, TubeTargets, mask_losses
from psg4d_ros.training.windows import WindowTruth


@dataclass(frozen=True, eq=False)
class NameScores:
    """Slots against words: class_logits [Q, n] over ``words``, attribute_logits [Q, a] over ``attributes``."""

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

    shapes: how masks, or boxes, differ from the tubes. slots, tubes: int64[M], matched, by ascending slot, as inference
    lists objects. slot_states: [Q, d]. scores: the best there are of this step, for words of the model's own.
    """

    truth: WindowTruth
    shapes: MaskLosses | BoxLosses
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
        sure, order = self.scores.attribute_logits[self.slots].float().sort(dim=1, descending=True, stable=True)
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
        place[self.tubes.cpu()] = torch.arange(len(self.tubes))
        pairs = place[self.truth.pairs]
        rows = (pairs >= 0).all(dim=1).nonzero()[:, 0]
        states = self.slot_states[self.slots]
        question = PairQuestion(
            self.described(own_words), pairs[rows], self.truth.geometry[rows], self.truth.motion[rows], states
        )
        return question, rows


def read_objects(output: MaskOutput, targets: TubeTargets, truth: WindowTruth, scores: NameScores) -> ObjectReading:
    """Match slots and tubes of one window. output: without the batch's dimension."""
    with torch.no_grad():
        wanted = class_targets(scores.words, truth).to(output.mask_logits.device)
        log_probs = scores.class_logits.float().log_softmax(dim=1)
        log_probs = torch.cat([log_probs, log_probs.new_full((len(log_probs), 1), -20.0)], dim=1)[:, wanted]
    shapes: MaskLosses | BoxLosses
    if output.boxes is None:
        shapes = mask_losses(output, targets, log_probs)
    else:
        shapes = box_losses(output, targets, log_probs)
    order = shapes.assignment.slots.argsort()
    slots, tubes = shapes.assignment.slots[order], shapes.assignment.tubes[order]
    return ObjectReading(truth, shapes, slots, tubes, output.slot_states, scores)


def class_targets(words: Sequence[str], truth: WindowTruth) -> Tensor:
    """int64[T]: each tube's label among ``words``; -1 for one that is not there."""
    index = {word: i for i, word in enumerate(words)}
    return torch.tensor([index.get(label, -1) for label in truth.labels], dtype=torch.int64)


def class_loss(reading: ObjectReading, scores: NameScores, weight: Tensor) -> Tensor:
    """Cross-entropy of the matched slots' names. weight: float32[n] of the words."""
    target = class_targets(scores.words, reading.truth).to(weight.device)[reading.tubes]
    known = target >= 0
    if not bool(known.any()):
        return scores.class_logits.float().sum() * 0.0
    return F.cross_entropy(scores.class_logits[reading.slots[known]].float(), target[known], weight=weight)


def attribute_loss(reading: ObjectReading, scores: NameScores) -> Tensor:
    """Binary cross-entropy over the attributes that are judged, of the matched slots."""
    truth = reading.truth
    judged = torch.tensor([a in truth.known_attributes for a in scores.attributes])
    true = torch.tensor([[a in own for a in scores.attributes] for own in truth.attributes], dtype=torch.float32)
    if not len(reading.tubes) or not bool(judged.any()):
        return scores.attribute_logits.float().sum() * 0.0
    device = scores.attribute_logits.device
    logits = scores.attribute_logits[reading.slots][:, judged.to(device)].float()
    return F.binary_cross_entropy_with_logits(logits, true.to(device)[reading.tubes][:, judged.to(device)])


def of_window(output: MaskOutput, number: int) -> MaskOutput:
    """The decoder's output of one window of a batch."""

    def own(layer: LayerOutput) -> LayerOutput:
        masks, keys, presence, embeddings, boxes = layer
        one = None if boxes is None else boxes[number]
        return LayerOutput(masks[number], keys[number], presence[number], embeddings[number], one)

    last = own(output.last())
    return MaskOutput(
        last.mask_logits,
        last.presence_logits,
        output.slot_states[number],
        last.class_embeddings,
        last.key_mask_logits,
        tuple(own(layer) for layer in output.aux),
        last.boxes,
    )
