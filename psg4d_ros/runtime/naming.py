"""Turn 1's answer: label, alternatives and attributes of each instance of a window."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from psg4d_ros.config import InferenceConfig
from psg4d_ros.model.chain import Turn1
from psg4d_ros.model.mask_decoder import MaskOutput
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.runtime.panoptic import Segmentation
from psg4d_ros.structures import InstancePrediction, LabelScore
from psg4d_ros.vocabulary import Vocabulary


def name_instances(
    model: PSG4D,
    output: MaskOutput,
    segmentation: Segmentation,
    turn1: Turn1 | None,
    vocabulary: Vocabulary,
    config: InferenceConfig,
) -> tuple[InstancePrediction, ...]:
    """Score each instance's slot against the vocabulary; one InstancePrediction per slot of ``segmentation``, in order.

    turn1: None names from the masks alone; so is named what has no slot of the language model.
    """
    slots = segmentation.slots
    if not len(slots):
        return ()
    class_logits, attribute_logits = _score(model, output.class_embeddings[slots], slots, turn1, vocabulary)
    shown = min(config.num_alternatives + 1, len(vocabulary.class_names))
    probability, order = class_logits.float().softmax(dim=1).topk(shown, dim=1)
    attribute_prob = attribute_logits.float().sigmoid().tolist()
    presence = segmentation.presence_prob.tolist()
    return tuple(
        _instance(presence[i], names, scores, attribute_prob[i], vocabulary, config)
        for i, (names, scores) in enumerate(zip(order.tolist(), probability.tolist(), strict=True))
    )


def _score(
    model: PSG4D, embeddings: Tensor, slots: Tensor, turn1: Turn1 | None, vocabulary: Vocabulary
) -> tuple[Tensor, Tensor]:
    """Logits of classes [P, n] and attributes [P, m] of P instances."""
    rows = torch.arange(len(slots), device=slots.device)
    groups: list[tuple[Tensor, Tensor | None]] = [(rows, None)]
    if turn1 is not None:
        read = slots < len(turn1.slot_hidden)
        groups = [(rows[read], turn1.slot_hidden[slots[read]]), (rows[~read], None)]
    words = vocabulary.class_names, vocabulary.attributes
    logits = [model.chain.name_objects(hidden, embeddings[own], *words) for own, hidden in groups if len(own)]
    in_order = torch.cat([own for own, _ in groups]).argsort()
    return torch.cat([classes for classes, _ in logits])[in_order], torch.cat([a for _, a in logits])[in_order]


def _instance(
    presence: float,
    names: Sequence[int],
    scores: Sequence[float],
    attribute_prob: Sequence[float],
    vocabulary: Vocabulary,
    config: InferenceConfig,
) -> InstancePrediction:
    """names, scores: the likeliest classes as indices, best first, with their probabilities."""
    label = vocabulary.class_names[names[0]]
    true = [
        (probability, attribute)
        for probability, attribute in zip(attribute_prob, vocabulary.attributes, strict=True)
        if probability >= config.attribute_threshold
    ]
    return InstancePrediction(
        label=label,
        class_id=vocabulary.class_id(label),
        score=presence * scores[0],
        is_thing=vocabulary.is_thing(label),
        attributes=tuple(attribute for _, attribute in sorted(true, key=lambda pair: -pair[0])),
        alternatives=tuple(
            LabelScore(vocabulary.class_names[n], presence * s) for n, s in zip(names[1:], scores[1:], strict=True)
        ),
    )


def warm_phrases(model: PSG4D, vocabulary: Vocabulary) -> None:
    """Compute and keep the phrase embeddings of a vocabulary, so that no window waits for them."""
    with torch.inference_mode():
        words = (*vocabulary.class_names, *vocabulary.predicates, *vocabulary.attributes)
        model.language_model.phrase_embeddings(words)
