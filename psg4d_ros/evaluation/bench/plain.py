"""The plain path, which says whether the fast one is right: every window anew, pairs and answers one at a time.

Nothing is kept from window to window or from turn to turn, nothing is batched, and answers are written word by word,
a pass for each. A pair is asked in one pass over its whole text, without a cache; the text is put together here a
second time, on purpose.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from psg4d_ros.config import InferenceConfig
from psg4d_ros.model.chain import Branches, PairQuestion, SceneChain, Turn1, Turn2, as_tensors
from psg4d_ros.model.generate import Answer, count_outcomes, read_object, read_relation
from psg4d_ros.model.grammar import Grammar, object_grammar, relation_grammar
from psg4d_ros.model.language_model import LanguageModel, visibility_bias
from psg4d_ros.model.prompt import NO_LIST, DescribedObject, list_text, prefix
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.runtime.generating import Writer
from psg4d_ros.runtime.given import GivenTubes
from psg4d_ros.runtime.panoptic import Segmentation
from psg4d_ros.runtime.predictor import WindowPredictor
from psg4d_ros.runtime.relating import PairInputs
from psg4d_ros.structures import InstancePrediction, RelationPrediction, Window, WindowPrediction
from psg4d_ros.vocabulary import Vocabulary


class ForgetfulPredictor(WindowPredictor):
    """Encodes every frame of every window. chain and writer take the place of the model's own; weights are shared."""

    def __init__(
        self, model: PSG4D, config: InferenceConfig, *, trained: bool, chain: SceneChain, writer: Writer
    ) -> None:
        config = replace(config, backend="torch", cuda_graphs=False)
        super().__init__(_with_chain(model, chain), config, trained=trained)
        self.writer = writer

    def predict(self, window: Window, given: GivenTubes | None = None, *, relate: bool = True) -> WindowPrediction:
        """See WindowPredictor; nothing is known of the windows before."""
        self.cache.clear()
        return super().predict(window, given, relate=relate)


def plain_predictor(model: PSG4D, config: InferenceConfig, *, trained: bool) -> WindowPredictor:
    """The plain path over a model, whose language model should be in float32."""
    writer = PlainWriter(model.language_model)
    return ForgetfulPredictor(model, config, trained=trained, chain=PlainChain(model.chain), writer=writer)


@dataclass(frozen=True, eq=False)
class ReadTurn1(Turn1):
    """Turn 1 with what it read. scene: [S, H], as the language model takes it. slot_inputs: [Q, H]."""

    scene: Tensor
    slot_inputs: Tensor


@dataclass(frozen=True, eq=False)
class Text:
    """What one pass reads: inputs float32[L, H], visible bool[L, L], positions int64[L]."""

    inputs: Tensor
    visible: Tensor
    positions: Tensor


@dataclass(frozen=True, eq=False)
class LonePairs(Turn2):
    """Each pair's turn 2, as if it were the only pair; the fields of a shared pass are empty, but for pair_hidden."""

    alone: tuple[Turn2, ...]


class ReadingChain(SceneChain):
    """A chain over the weights of another one that keeps what it reads."""

    def __init__(self, chain: SceneChain) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(chain.__dict__)

    def turn1(self, scene_tokens: Tensor, proposals: Tensor | None = None) -> ReadTurn1:
        """See SceneChain."""
        inputs = self.slot_tokens()
        if proposals is not None:
            known = self.proposal_in(proposals)
            inputs = inputs + pad(known, (0, 0, len(inputs) - len(known), 0))
        read = super().turn1(scene_tokens, proposals)
        return ReadTurn1(**vars(read), scene=scene_tokens.float(), slot_inputs=inputs)

    def pair_text(self, scene: Tensor, question: PairQuestion) -> Text:
        """The whole text of turn 2 for a question of one pair, which comes last."""
        lm, device = self.language_model, scene.device
        around = prefix(lm)
        text = list_text(lm, question.objects) if self.chained else NO_LIST
        pair = self.pair_embedding(question, self.pair_labels([o.label for o in question.objects]))
        listed = self._list_inputs(question.slot_states, *(x.to(device) for x in as_tensors(text)))
        inputs = torch.cat([lm.embed(around.head), scene, lm.embed(around.tail), listed, pair])
        head, tokens = len(around.head), len(scene)
        visible = torch.ones(len(inputs), len(inputs), dtype=torch.bool, device=device).tril()
        visible[head : head + tokens, head : head + tokens] = True
        after = torch.arange(head + 1, head + 1 + len(inputs) - head - tokens)
        positions = torch.cat([torch.arange(head), torch.full((tokens,), head), after])
        return Text(inputs, visible, positions.to(device))


class PlainChain(ReadingChain):
    """Reads the whole text for each pair, without a cache."""

    def turn2(
        self,
        turn1: Turn1,
        objects: Sequence[DescribedObject],
        pairs: Tensor,
        geometry: Tensor,
        motion: Tensor | None = None,
        slot_states: Tensor | None = None,
    ) -> LonePairs:
        """See SceneChain; a pass per pair."""
        assert isinstance(turn1, ReadTurn1)
        alone = []
        for question in single_questions(objects, pairs, geometry, motion, slot_states):
            text = self.pair_text(turn1.scene, question)
            hidden, cache = self.language_model(text.inputs[None], visibility_bias(text.visible), text.positions)
            alone.append(Turn2(hidden[0, -1:], cache, text.visible[-1:], text.positions[-1:]))
        states = torch.cat([turn1.slot_hidden[:0], *(t.pair_hidden for t in alone)])
        nothing = text_of_nothing(states)
        return LonePairs(states, turn1.cache.crop(0), nothing.visible, nothing.positions, tuple(alone))


def single_questions(
    objects: Sequence[DescribedObject],
    pairs: Tensor,
    geometry: Tensor,
    motion: Tensor | None,
    slot_states: Tensor | None,
) -> list[PairQuestion]:
    """One question per pair, with the arguments of SceneChain.turn2."""
    rows = [slice(i, i + 1) for i in range(len(pairs))]
    return [
        PairQuestion(objects, pairs[i], geometry[i], None if motion is None else motion[i], slot_states) for i in rows
    ]


def text_of_nothing(like: Tensor) -> Text:
    """A text without tokens. like: [*, H]."""
    empty = torch.zeros(0, 0, dtype=torch.bool, device=like.device)
    return Text(like[:0], empty, torch.zeros(0, dtype=torch.int64, device=like.device))


class LoneWriter(Writer, ABC):
    """Writes one answer after the other. Children say how one is written."""

    @abstractmethod
    def object_answer(self, turn1: Turn1, slot: int, grammar: Grammar) -> Answer:
        """What is said of one slot."""

    @abstractmethod
    def relation_answer(self, turn2: Turn2, row: int, grammar: Grammar) -> Answer:
        """What is said of one pair."""

    def rename(
        self,
        scored: tuple[InstancePrediction, ...],
        segmentation: Segmentation,
        turn1: Turn1,
        vocabulary: Vocabulary,
        config: InferenceConfig,
        counts: Counter[str],
    ) -> tuple[InstancePrediction, ...]:
        """See Writer."""
        labels = None if config.free_words else vocabulary.class_names
        grammar = object_grammar(self.language_model, labels, vocabulary.attributes)
        renamed = []
        for i, slot in enumerate(segmentation.slots.tolist()):
            said = scored[i]
            if slot < len(turn1.slot_hidden):
                answer = read_object(self.object_answer(turn1, slot, grammar))
                counts.update(count_outcomes([answer]))
                if answer.label:
                    label = vocabulary.canonical(answer.label)
                    score = float(segmentation.presence_prob[i]) * answer.answer.score
                    named = (label, vocabulary.class_id(label), score, vocabulary.is_thing(label))
                    said = InstancePrediction(*named, answer.attributes, said.alternatives)
            renamed.append(said)
        return tuple(renamed)

    def relate(
        self, turn2: Turn2, inputs: PairInputs, vocabulary: Vocabulary, config: InferenceConfig, counts: Counter[str]
    ) -> tuple[RelationPrediction, ...]:
        """See Writer."""
        predicates, frames = None if config.free_words else vocabulary.predicates, len(inputs.times_s)
        grammar = relation_grammar(self.language_model, predicates, frames)
        found = []
        for row, (subject, object_) in enumerate(inputs.pairs.tolist()):
            answer = read_relation(self.relation_answer(turn2, row, grammar), frames)
            counts.update(count_outcomes([answer]))
            word, score = answer.predicate, answer.answer.score
            if word is not None and score >= config.relation_threshold:
                which = vocabulary.predicate_id(word)
                found.append(RelationPrediction(subject, word, which, object_, score, answer.start, answer.end))
        return tuple(sorted(found, key=lambda r: -r.score)[: config.max_relations])


class PlainWriter(LoneWriter):
    """A pass for each word, also for those that the grammar forces."""

    def object_answer(self, turn1: Turn1, slot: int, grammar: Grammar) -> Answer:
        """See LoneWriter."""
        return write_words(self.language_model, turn1.branches().select(torch.tensor([slot])), grammar)

    def relation_answer(self, turn2: Turn2, row: int, grammar: Grammar) -> Answer:
        """See LoneWriter."""
        assert isinstance(turn2, LonePairs)
        return write_words(self.language_model, turn2.alone[row].branches(), grammar)


@torch.no_grad()
def write_words(language_model: LanguageModel, branch: Branches, grammar: Grammar) -> Answer:
    """The likeliest answer of a single branch under the grammar, word by word (greedy)."""
    lm = language_model
    hidden, cache, sees, position = branch.hidden[0], branch.cache, branch.visible, int(branch.positions[0])
    state, log_prob, ids = grammar.start(), 0.0, list[int]()
    while True:
        allowed = grammar.allowed(state)
        if len(allowed) > 1:
            mask = grammar.mask([allowed])[0].to(hidden.device)
            best, index = lm.token_logits(hidden).masked_fill(~mask, float("-inf")).log_softmax(dim=0).max(dim=0)
            token, log_prob = int(index), log_prob + float(best)
        else:
            token = next(iter(allowed), lm.end_id)
        if token == lm.end_id:
            return written(lm, grammar, ids, log_prob)
        ids.append(token)
        state = grammar.advance(state, token)
        sees = torch.cat([sees, sees.new_ones(1, 1)], dim=1)
        where = torch.tensor([position], device=hidden.device)
        out, cache = lm(lm.embed([token])[None], visibility_bias(sees), where, cache)
        hidden, position = out[0, -1], position + 1


def written(language_model: LanguageModel, grammar: Grammar, ids: Sequence[int], log_prob: float) -> Answer:
    """The answer of these tokens, without the end marker."""
    state = grammar.start()
    for token in ids:
        state = grammar.advance(state, token)
    fields = state.endings[0] if state.endings else ()
    text = language_model.decode(ids).strip()
    score = float(torch.tensor(log_prob).exp())
    return Answer(text, fields, score, len(ids), state.capped, grammar.free)


def _with_chain(model: PSG4D, chain: SceneChain) -> PSG4D:
    """The same model, weights and all, with another chain."""
    other = copy.copy(model)
    other.__dict__["_modules"] = dict(model._modules)
    other.chain = chain
    return other
