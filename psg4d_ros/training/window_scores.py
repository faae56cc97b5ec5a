"""Scores of single windows, for learning curves: quick, and close to what `psg4d eval` measures of whole recordings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from psg4d_ros.config import InferenceConfig
from psg4d_ros.model.mask_decoder import MaskOutput
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.model.relation_head import RelationOutput
from psg4d_ros.runtime.panoptic import claim_voxels
from psg4d_ros.structures import Float64, Int64
from psg4d_ros.training.object_losses import NameScores, ObjectReading, read_objects, score_names
from psg4d_ros.training.relation_losses import AskedPairs, score_pairs
from psg4d_ros.training.scene_batch import encode_windows
from psg4d_ros.training.windows import TrainingWindow

_MIN_IOU = 0.5


@dataclass(frozen=True, eq=False)
class ReadWindow:
    """What the model says of one window, all voxels of it, beside the truth.

    fine_tube: int64[V] tube of each voxel, -1 = unknown. slots: int64[P] that are present; owner: int64[V], 0 = none,
    i + 1 = slots[i]. scores: of all slots. asked, answer: pairs of matched tubes under their true names; None where
    there is no pair.
    """

    window: TrainingWindow
    output: MaskOutput
    fine_tube: Tensor
    slots: Tensor
    owner: Tensor
    scores: NameScores
    reading: ObjectReading
    asked: AskedPairs
    answer: RelationOutput | None

    def overlaps(self) -> tuple[Float64, Int64]:
        """float64[P, T] IoU over voxels of predicted and true tubes, and int64[P] known voxels of the predicted."""
        known = (self.fine_tube >= 0).cpu().numpy()
        true, found = self.fine_tube.cpu().numpy()[known], self.owner.cpu().numpy()[known]
        both = np.zeros((len(self.slots) + 1, len(self.window.truth.labels)))
        np.add.at(both, (found, true), 1)
        union = both.sum(axis=1, keepdims=True) + both.sum(axis=0) - both
        return (both / np.maximum(union, 1))[1:], both[1:].sum(axis=1).astype(np.int64)

    def best_slots(self) -> tuple[Tensor, Tensor]:
        """Of each of the T tubes the slot, present or not, whose own mask covers it best: float32[T] IoU over known
        voxels, and int64[T] the slot."""
        known = self.fine_tube >= 0
        held = (self.output.mask_logits > 0)[:, known].float()
        own = (self.fine_tube[known] == torch.arange(len(self.window.truth), device=known.device)[:, None]).float()
        both = own @ held.T
        iou = both / (held.sum(dim=1) + own.sum(dim=1, keepdim=True) - both).clamp(min=1)
        best = iou.max(dim=1)
        return best.values, best.indices


@torch.no_grad()
def read_windows(
    model: PSG4D,
    windows: Iterable[TrainingWindow],
    words: tuple[str, ...],
    *,
    language_model: bool,
    config: InferenceConfig | None = None,
) -> Iterator[ReadWindow]:
    """Run the model on windows in evaluation mode. language_model: with it, or by the path around it. config: which
    slots become instances; None takes the defaults."""
    was_training = model.training
    model.eval()
    config, generator = config or InferenceConfig(), torch.Generator().manual_seed(0)
    for window in windows:
        batch = encode_windows(model, [window], fine_samples=None, key_samples=None, generator=generator)
        proposed = batch.proposals.states[0]
        turn1 = model.chain.turn1(model.projector(batch.tokens[0]), proposed) if language_model else None
        hidden = None if turn1 is None else turn1.slot_hidden
        batched = batch.decode(model, None if hidden is None else hidden[None])
        named = score_names(model, None if hidden is None else hidden[None], batched.class_embeddings, words)
        _, (reading,) = read_objects(batched, batch.targets, [window.truth], named)
        output, scores = _only_window(batched), named.of_window(0)
        slots, owner = claim_voxels(output, config)
        question, rows = reading.question(own_words=False)
        asked = AskedPairs(window.truth, window.times_s, question, rows)
        answer = None
        if len(rows):
            turn2 = None if turn1 is None else model.chain.turn2_batch([turn1], [question])[0]
            answer = score_pairs(model, [asked], None if turn2 is None else [turn2.pair_hidden])
        yield ReadWindow(window, output, batch.targets[0].fine, slots, owner, scores, reading, asked, answer)
    model.train(was_training)


def _only_window(output: MaskOutput) -> MaskOutput:
    """Without the dimension of the batch, which is of one window; in evaluation mode there are no earlier layers."""
    masks, presence, states, embeddings, keys, _, boxes = output
    return MaskOutput(masks[0], presence[0], states[0], embeddings[0], keys[0], (), None if boxes is None else boxes[0])


def window_scores(windows: Iterable[ReadWindow]) -> dict[str, float]:
    """Means over all tubes of the windows, as fractions.

    thing_recall, stuff_recall: tubes found with an IoU over voxels above one half. precision: predicted tubes that are
    one of these. class_top1, class_top3: of things found, named right. attribute_f1: of matched tubes. relation_ap:
    average precision of predicates of the pairs of matched tubes, under the true names.
    """
    counts: Counter[str] = Counter()
    relation_scores, relation_truth = [], []
    for read in windows:
        _count_tubes(counts, read)
        _count_attributes(counts, read)
        if read.answer is not None:
            relation_scores.append(read.answer.logits.float().cpu().flatten())
            relation_truth.append(read.asked.true().flatten())
    ratios = {
        "thing_recall": ("things_found", "things"),
        "stuff_recall": ("stuff_found", "stuff"),
        "precision": ("predicted_right", "predicted"),
        "class_top1": ("top1", "named"),
        "class_top3": ("top3", "named"),
    }
    out = {name: counts[a] / counts[b] if counts[b] else 0.0 for name, (a, b) in ratios.items()}
    wrong = counts["attribute_false"] + counts["attribute_missed"]
    right = 2 * counts["attribute_right"]
    out["attribute_f1"] = right / (right + wrong) if right + wrong else 0.0
    if relation_scores:
        out["relation_ap"] = average_precision(torch.cat(relation_scores), torch.cat(relation_truth))
    return out


def average_precision(scores: Tensor, true: Tensor) -> float:
    """Mean precision at the places of the true ones, best first. scores: float[n], true: bool[n]; 0 without any."""
    if not bool(true.any()):
        return 0.0
    ordered = true[scores.argsort(descending=True, stable=True)].double()
    precision = ordered.cumsum(0) / torch.arange(1, len(ordered) + 1)
    return float(precision[ordered > 0].mean())


def _count_tubes(counts: Counter[str], read: ReadWindow) -> None:
    truth, words = read.window.truth, read.scores.words
    iou, sizes = read.overlaps()
    counts["predicted"] += int((sizes > 0).sum())
    for tube, is_thing in enumerate(truth.is_thing.tolist()):
        kind = "things" if is_thing else "stuff"
        counts[kind] += 1
        slot = int(iou[:, tube].argmax()) if len(iou) else -1
        if slot < 0 or iou[slot, tube] <= _MIN_IOU:
            continue
        counts[f"{kind}_found"] += 1
        counts["predicted_right"] += 1  # above one half each slot has one tube, and each tube one slot
        if is_thing and truth.labels[tube] in words:
            counts["named"] += 1
            logits = read.scores.class_logits[read.slots[slot]]
            best = [words[i] for i in logits.topk(min(3, len(words))).indices.tolist()]
            counts["top1"] += best[0] == truth.labels[tube]
            counts["top3"] += truth.labels[tube] in best


def _count_attributes(counts: Counter[str], read: ReadWindow) -> None:
    truth, reading = read.window.truth, read.reading
    for slot, tube in zip(reading.slots.tolist(), reading.tubes.tolist(), strict=True):
        likely = (read.scores.attribute_logits[slot] > 0).tolist()
        said = {a for a, yes in zip(read.scores.attributes, likely, strict=True) if yes and a in truth.known_attributes}
        true = set(truth.attributes[tube])
        counts["attribute_right"] += len(true & said)
        counts["attribute_false"] += len(said - true)
        counts["attribute_missed"] += len(true - said)
