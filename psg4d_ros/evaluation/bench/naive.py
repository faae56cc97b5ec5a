"""The naive path: the paper's literal reading, with what every library offers and nothing more.

Every window is encoded anew, frame by frame. The language model is asked about one slot, then about one pair at a time,
each time with the whole text, by transformers' own ``generate``, word by word. Answers are held to the grammar
of ours, so that they are as long and can be read; attention is plain causal. It is there to be compared in speed, its
answers are not expected to be ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from psg4d_ros.config import InferenceConfig
from psg4d_ros.evaluation.bench.plain import (
    ForgetfulPredictor,
    LoneWriter,
    ReadingChain,
    ReadTurn1,
    single_questions,
    text_of_nothing,
    written,
)
from psg4d_ros.model.chain import Turn1, Turn2
from psg4d_ros.model.generate import Answer
from psg4d_ros.model.grammar import Grammar
from psg4d_ros.model.language_model import LanguageModel
from psg4d_ros.model.prompt import DescribedObject, prefix
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.runtime.predictor import WindowPredictor

# Longer answers than any grammar here allows, so that only the grammar ends them.
MAX_WORDS = 128


def naive_predictor(model: PSG4D, config: InferenceConfig, *, trained: bool) -> WindowPredictor:
    """The naive path over a model, in the model's own numbers; it always generates."""
    config = replace(config, decoding="generate")
    writer = NaiveWriter(model.language_model)
    return ForgetfulPredictor(model, config, trained=trained, chain=NaiveChain(model.chain), writer=writer)


@dataclass(frozen=True, eq=False)
class UnaskedPairs(Turn2):
    """The texts [L, H] of all pairs; nothing was asked yet, so the other fields are empty."""

    texts: tuple[Tensor, ...]


class NaiveChain(ReadingChain):
    """Only puts the texts of turn 2 together: ``generate`` reads them."""

    def turn2(
        self,
        turn1: Turn1,
        objects: Sequence[DescribedObject],
        pairs: Tensor,
        geometry: Tensor,
        motion: Tensor | None = None,
        slot_states: Tensor | None = None,
    ) -> UnaskedPairs:
        """See SceneChain."""
        assert isinstance(turn1, ReadTurn1)
        questions = single_questions(objects, pairs, geometry, motion, slot_states)
        texts = tuple(self.pair_text(turn1.scene, question).inputs for question in questions)
        nothing = text_of_nothing(turn1.slot_hidden)
        return UnaskedPairs(nothing.inputs, turn1.cache.crop(0), nothing.visible, nothing.positions, texts)


class NaiveWriter(LoneWriter):
    """transformers' ``generate``, one answer after the other."""

    def object_answer(self, turn1: Turn1, slot: int, grammar: Grammar) -> Answer:
        """See LoneWriter."""
        assert isinstance(turn1, ReadTurn1)
        lm = self.language_model
        around = prefix(lm)
        asked = turn1.slot_inputs[slot : slot + 1]
        return generate(lm, torch.cat([lm.embed(around.head), turn1.scene, lm.embed(around.tail), asked]), grammar)

    def relation_answer(self, turn2: Turn2, row: int, grammar: Grammar) -> Answer:
        """See LoneWriter."""
        assert isinstance(turn2, UnaskedPairs)
        return generate(self.language_model, turn2.texts[row], grammar)


@torch.no_grad()
def generate(language_model: LanguageModel, text: Tensor, grammar: Grammar) -> Answer:
    """transformers' greedy ``generate`` after a text float32[L, H], held to a grammar. The answer's score is 1."""
    lm = language_model
    rules = _Rules(grammar, lm.end_id)
    model: Any = lm.base
    ids = model.generate(
        inputs_embeds=text[None].to(lm.dtype),
        attention_mask=torch.ones(1, len(text), dtype=torch.int64, device=text.device),
        max_new_tokens=MAX_WORDS,
        do_sample=False,
        eos_token_id=lm.end_id,
        pad_token_id=lm.end_id,
        prefix_allowed_tokens_fn=rules,
    )
    return written(lm, grammar, [i for i in ids[0].tolist() if i != lm.end_id], 0.0)


class _Rules:
    """What ``generate`` may write next."""

    def __init__(self, grammar: Grammar, end_id: int) -> None:
        self._grammar = grammar
        self._state = grammar.start()
        self._end = end_id
        self._read = 0

    def __call__(self, batch: int, ids: Tensor) -> list[int]:
        for token in ids.tolist()[self._read :]:
            self._state = self._grammar.advance(self._state, token)
            self._read += 1
        return sorted(self._grammar.allowed(self._state)) or [self._end]
