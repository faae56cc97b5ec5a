"""Answers in words: the language model writes labels and relations, and what it writes becomes predictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from psg4d_ros.config import InferenceConfig
from psg4d_ros.model.chain import Read, Turn1, Turn2
from psg4d_ros.model.generate import GeneratedObject, count_outcomes, generate_objects, generate_relations
from psg4d_ros.model.grammar import Grammar, object_grammar, relation_grammar
from psg4d_ros.model.language_model import LanguageModel
from psg4d_ros.runtime.panoptic import Segmentation
from psg4d_ros.runtime.relating import PairInputs
from psg4d_ros.structures import InstancePrediction, RelationPrediction
from psg4d_ros.vocabulary import Vocabulary

# Grammars kept: one for objects and one per window length for relations, of the newest vocabularies.
MAX_GRAMMARS = 64


class Writer:
    """Lets the language model write; ``config.free_words``: in words of its own instead of the vocabulary's."""

    def __init__(self, language_model: LanguageModel, read: Read | None = None) -> None:
        """read: does the passes in the language model's place, see SceneChain.reading_with."""
        self.language_model = language_model
        self._read = read
        # A grammar holds the tokens of every word it allows: made once per vocabulary, not once per window.
        self._grammars: dict[tuple[object, ...], Grammar] = {}

    def rename(
        self,
        scored: tuple[InstancePrediction, ...],
        segmentation: Segmentation,
        turn1: Turn1,
        vocabulary: Vocabulary,
        config: InferenceConfig,
        counts: Counter[str],
    ) -> tuple[InstancePrediction, ...]:
        """The instances with the labels and attributes that the model writes for their slots.

        scored: what scoring says of them; it stands where an answer gives no label, and where there is no slot to write
        about. Answers without a label are counted.
        """
        labels = None if config.free_words else vocabulary.class_names
        attributes = vocabulary.attributes
        grammar = self._grammar((labels, attributes), lambda: object_grammar(self.language_model, labels, attributes))
        slots = segmentation.slots.tolist()
        known = [i for i, slot in enumerate(slots) if slot < len(turn1.slot_hidden)]
        written = generate_objects(self.language_model, turn1, [slots[i] for i in known], grammar, self._read)
        counts.update(count_outcomes(written))
        presence = segmentation.presence_prob.tolist()
        renamed = list(scored)
        for i, answer in zip(known, written, strict=True):
            renamed[i] = _renamed(scored[i], answer, presence[i], vocabulary)
        return tuple(renamed)

    def relate(
        self, turn2: Turn2, inputs: PairInputs, vocabulary: Vocabulary, config: InferenceConfig, counts: Counter[str]
    ) -> tuple[RelationPrediction, ...]:
        """The relation that the model writes for each pair, if any, above the threshold; best first."""
        predicates = None if config.free_words else vocabulary.predicates
        num_frames = len(inputs.times_s)
        grammar = self._grammar(
            (predicates, num_frames), lambda: relation_grammar(self.language_model, predicates, num_frames)
        )
        written = generate_relations(self.language_model, turn2, grammar, num_frames, self._read)
        counts.update(count_outcomes(written))
        found = [
            RelationPrediction(
                subject=int(subject),
                predicate=answer.predicate,
                predicate_id=vocabulary.predicate_id(answer.predicate),
                object=int(object_),
                score=answer.answer.score,
                start_frame=answer.start,
                end_frame=answer.end,
            )
            for (subject, object_), answer in zip(inputs.pairs.tolist(), written, strict=True)
            if answer.predicate is not None and answer.answer.score >= config.relation_threshold
        ]
        return tuple(sorted(found, key=lambda r: -r.score)[: config.max_relations])

    def _grammar(self, key: tuple[object, ...], make: Callable[[], Grammar]) -> Grammar:
        if key not in self._grammars:
            if len(self._grammars) >= MAX_GRAMMARS:
                self._grammars.clear()
            self._grammars[key] = make()
        return self._grammars[key]


def _renamed(
    scored: InstancePrediction, answer: GeneratedObject, presence: float, vocabulary: Vocabulary
) -> InstancePrediction:
    if not answer.label:
        return scored
    label = vocabulary.canonical(answer.label)
    return replace(
        scored,
        label=label,
        class_id=vocabulary.class_id(label),
        is_thing=vocabulary.is_thing(label),
        score=presence * answer.answer.score,
        attributes=answer.attributes,
    )
