"""Chained inference with ``score`` decoding: objects first (turn 1), then their relations (turn 2), one pass each.

Turn 1 reads instruction, scene tokens and slots. Scene tokens are a set: they see each other and share one position, so
their order does not matter. Slots see the text before them and each other, at one position. Turn 2 extends turn 1's
cache (without the slots) by the list of described objects and one token per candidate pair. A pair sees the text before
it and itself, and all pairs share one position, so that adding, removing or reordering pairs changes no other pair's
state. Windows of a batch go through a pass side by side and do not see each other.

Without chaining (an ablation) there is a single turn: pairs stand where slots stand, after the text with the scene, and
nothing of the objects' names, attributes or numbers enters; slots and pairs answer the same prompt.
After the idea of "Learning 4D Panoptic Scene Graph Generation from Rich 2D Visual Scene" (2025); one token per pair is
ours.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from psg4d_ros.model.label_head import LabelHead
from psg4d_ros.model.language_model import KeyValueCache, LanguageModel, visibility_bias
from psg4d_ros.model.projector import Projector
from psg4d_ros.model.prompt import NO_LIST, DescribedObject, ListText, list_text, prefix
from psg4d_ros.model.proposals import of_slots
from psg4d_ros.model.transfer import move_together

__all__ = ["Branches", "DescribedObject", "PairQuestion", "Read", "SceneChain", "Turn1", "Turn2"]

# A pass of the language model with all its arguments, see LanguageModel.forward.
Read = Callable[[Tensor, Tensor, Tensor, KeyValueCache | None], tuple[Tensor, KeyValueCache]]


@dataclass(frozen=True, eq=False)
class Branches:
    """Points from which answers may be continued word by word, side by side (see generate.py).

    hidden: [n, H], the state that predicts each branch's first token. visible: bool[n, K], which of the cache's K
    tokens a branch sees. positions: int64[n], the position of its first token.
    """

    hidden: Tensor
    cache: KeyValueCache
    visible: Tensor
    positions: Tensor

    def select(self, rows: Tensor) -> Branches:
        """Some of the branches, int64[m], in that order; the cache is shared."""
        rows = rows.to(self.hidden.device)
        return Branches(self.hidden[rows], self.cache, self.visible[rows], self.positions[rows])


@dataclass(frozen=True, eq=False)
class Turn1:
    """slot_hidden: [Q, H]. cache: the text with the scene (prefix_length tokens), then the Q slots, which stand at
    ``position``."""

    slot_hidden: Tensor
    cache: KeyValueCache
    prefix_length: int
    position: int

    def branches(self) -> Branches:
        """One branch per slot: it goes on from the text with the scene and its own slot."""
        count, device = len(self.slot_hidden), self.slot_hidden.device
        visible = torch.ones(count, self.prefix_length, dtype=torch.bool, device=device)
        visible = torch.cat([visible, torch.eye(count, dtype=torch.bool, device=device)], dim=1)
        positions = torch.full((count,), self.position + 1, device=device)
        return Branches(self.slot_hidden, self.cache, visible, positions)


@dataclass(frozen=True, eq=False)
class PairQuestion:
    """What turn 2 asks of one scene: P described objects and R candidate pairs of them.

    pairs: int64[R, 2] (subject, object), indices into ``objects``. geometry: float32[R, G], see geometry.py. What only
    4D has: motion float32[R, M] and slot_states [P, d], or None.
    """

    objects: Sequence[DescribedObject]
    pairs: Tensor
    geometry: Tensor
    motion: Tensor | None = None
    slot_states: Tensor | None = None

    def __post_init__(self) -> None:
        rows, known = len(self.pairs), len(self.objects)
        if self.pairs.dim() != 2 or self.pairs.shape[1] != 2:
            raise ValueError(f"pairs has shape {tuple(self.pairs.shape)}, expected (R, 2)")
        for name, value, want in (
            ("geometry", self.geometry, rows),
            ("motion", self.motion, rows),
            ("slot_states", self.slot_states, known),
        ):
            if value is not None and len(value) != want:
                raise ValueError(f"{name} has {len(value)} rows, expected {want}")
        # Indices on the CPU are checked here; on a GPU the check would stall it, and indexing checks by itself.
        if self.pairs.device.type == "cpu" and rows and not 0 <= int(self.pairs.min()) <= int(self.pairs.max()) < known:
            raise ValueError(f"pairs name object {int(self.pairs.max())}, there are {known}")


@dataclass(frozen=True, eq=False)
class Turn2:
    """pair_hidden: [R, H], the pairs of all questions in order. cache: K tokens, padding among them where windows of a
    batch differ; the pairs are its last R, each at its own entry of ``positions`` int64[R] and seeing ``visible``
    bool[R, K], itself included."""

    pair_hidden: Tensor
    cache: KeyValueCache
    visible: Tensor
    positions: Tensor

    def branches(self) -> Branches:
        """One branch per pair: it goes on from the list and its own pair."""
        return Branches(self.pair_hidden, self.cache, self.visible, self.positions + 1)


class PairEmbedding(nn.Module):
    """One input token per pair: the two labels' phrase embeddings and relative geometry, the same in 2D and 4D.

    What only 4D has enters through gates that start at zero, so that stage 1's part is carried over unchanged.
    """

    def __init__(
        self, hidden_size: int, num_geometry: int, num_motion: int, slot_state_dim: int, token_rms: float
    ) -> None:
        super().__init__()
        self.subject = nn.Linear(hidden_size, hidden_size, bias=False)
        self.object = nn.Linear(hidden_size, hidden_size, bias=False)
        self.geometry = nn.Sequential(nn.Linear(num_geometry, 256), nn.GELU(), nn.Linear(256, hidden_size))
        self.motion = nn.Linear(num_motion, hidden_size)
        self.states = nn.Linear(2 * slot_state_dim, hidden_size)
        self.motion_gate = nn.Parameter(torch.zeros(()))
        self.state_gate = nn.Parameter(torch.zeros(()))
        # Tokens of the scale the language model was trained on.
        self.norm = nn.RMSNorm(hidden_size, eps=1e-6)
        nn.init.constant_(self.norm.weight, token_rms)

    def forward(self, question: PairQuestion, phrases: Tensor) -> Tensor:
        """phrases: float32[P, H] of the objects' labels, see ``SceneChain.pair_labels``. Returns [R, H]."""
        subject, object_ = question.pairs.to(phrases.device).unbind(dim=1)
        x = self.subject(phrases[subject]) + self.object(phrases[object_])
        x = x + self.geometry(question.geometry.to(phrases))
        if question.motion is not None:
            x = x + self.motion_gate * self.motion(question.motion.to(phrases))
        if question.slot_states is not None:
            states = question.slot_states.to(phrases)
            x = x + self.state_gate * self.states(torch.cat([states[subject], states[object_]], dim=1))
        return self.norm(x.float())


class SceneChain(nn.Module):
    """The language model's part of a scene graph, with everything that feeds it but the scene tokens."""

    def __init__(
        self,
        language_model: LanguageModel,
        num_slots: int,
        num_geometry: int,
        num_motion: int,
        slot_state_dim: int,
        num_proposals: int = 0,
        chained: bool = True,
    ) -> None:
        super().__init__()
        self.chained = chained
        hidden, rms = language_model.hidden_size, language_model.token_rms
        self.language_model = language_model
        self._other_read: Read | None = None
        self.num_slots = num_slots
        # One row for each slot that is free, and one that all slots share which stand for proposals.
        self.slots = nn.Parameter(torch.randn(num_slots - num_proposals + 1, hidden) * rms)
        self.pair_embedding = PairEmbedding(hidden, num_geometry, num_motion, slot_state_dim, rms)
        # Marks each list entry with its slot's state, so that a pair finds its own two among objects of one label.
        self.entry_state = nn.Linear(slot_state_dim, hidden)
        self.entry_gate = nn.Parameter(torch.zeros(()))
        self.label_head = LabelHead(hidden)
        # Tells a slot which object it stands for.
        self.proposal_in = Projector(slot_state_dim, hidden, rms)

    def reading_with(self, read: Read) -> SceneChain:
        """The same chain, weights and all, whose passes of the language model go through ``read``; this one stays."""
        other = copy.copy(self)
        other._other_read = read
        return other

    def _read(
        self, inputs: Tensor, bias: Tensor, positions: Tensor, cache: KeyValueCache | None = None
    ) -> tuple[Tensor, KeyValueCache]:
        read = self.language_model if self._other_read is None else self._other_read
        answer: tuple[Tensor, KeyValueCache] = read(inputs, bias, positions, cache)
        return answer

    def slot_tokens(self) -> Tensor:
        """float32[Q, H]: what is read of each slot, before what its proposal says."""
        return of_slots(self.slots, self.num_slots)

    def turn1(self, scene_tokens: Tensor, proposals: Tensor | None = None) -> Turn1:
        """Read instruction, scene tokens [S, H] (S may be 0) and the slots; one pass.

        proposals: [P, d], states of the proposals that the last P slots stand for (see proposals.py).
        """
        return self.turn1_batch(scene_tokens[None], None if proposals is None else proposals[None])[0]

    def turn1_batch(self, scene_tokens: Tensor, proposals: Tensor | None = None) -> list[Turn1]:
        """Turn 1 of B windows with S scene tokens each, [B, S, H], and their proposals [B, P, d], in one pass. Their
        caches are views of one."""
        lm, device = self.language_model, scene_tokens.device
        text, windows = prefix(lm), len(scene_tokens)
        head, scene, tail, slots = len(text.head), scene_tokens.shape[1], len(text.tail), self.num_slots
        before = head + scene + tail
        position = head + 1 + tail
        lm.check_length(position + 1)
        around = [x.expand(windows, -1, -1) for x in (lm.embed(text.head), lm.embed(text.tail), self.slot_tokens())]
        if proposals is not None:
            known = self.proposal_in(proposals)
            around[2] = around[2] + pad(known, (0, 0, slots - known.shape[1], 0))
        x = torch.cat([around[0], scene_tokens.float(), *around[1:]], dim=1)
        visible = torch.ones(before + slots, before + slots, dtype=torch.bool, device=device).tril()
        visible[head : head + scene, head : head + scene] = True
        visible[before:, before:] = True
        positions = torch.cat(
            [
                torch.arange(head),
                torch.full((scene,), head),
                torch.arange(head + 1, position),
                torch.full((slots,), position),
            ]
        ).to(device)
        hidden, cache = self._read(x, visibility_bias(visible), positions)
        return [Turn1(hidden[i, before:], _window(cache, i), before, position) for i in range(windows)]

    def name_objects(
        self,
        slot_hidden: Tensor | None,
        class_embeddings: Tensor,
        class_phrases: Sequence[str],
        attribute_phrases: Sequence[str] = (),
    ) -> tuple[Tensor, Tensor]:
        """Class logits [*, P, classes] (softmax), attribute logits [*, P, attributes] (sigmoid each); see LabelHead."""
        classes = self.language_model.phrase_embeddings(class_phrases)
        attributes = self.language_model.phrase_embeddings(attribute_phrases)
        return self.label_head(slot_hidden, class_embeddings, classes, attributes)

    def pair_labels(self, labels: Sequence[str]) -> Tensor:
        """float32[P, H]: what pairs and the geometry network read of the objects' labels, their phrase embeddings; in a
        single turn, in which labels are not known yet, zeros."""
        phrases = self.language_model.phrase_embeddings(labels)
        return phrases if self.chained else torch.zeros_like(phrases)

    def turn2(
        self,
        turn1: Turn1,
        objects: Sequence[DescribedObject],
        pairs: Tensor,
        geometry: Tensor,
        motion: Tensor | None = None,
        slot_states: Tensor | None = None,
    ) -> Turn2:
        """Read the list of objects and ask for R pairs, in one pass; turn1 stays as it is. Arguments: PairQuestion."""
        return self.turn2_batch([turn1], [PairQuestion(objects, pairs, geometry, motion, slot_states)])[0]

    def turn2_batch(self, turn1s: Sequence[Turn1], questions: Sequence[PairQuestion]) -> list[Turn2]:
        """Turn 2 of several windows, one question each, in one pass.

        Raises ValueError when the texts with the scenes differ in length, or there are not as many as questions.
        """
        return self._ask(turn1s, [[question] for question in questions])

    def turn2_packed(self, turn1: Turn1, questions: Sequence[PairQuestion]) -> Turn2:
        """Turn 2 for several lists after one text, in one pass; no question sees another's list or pairs.

        Serves training on images: all of a batch share the text without a scene.
        """
        return self._ask([turn1], [questions])[0]

    def _ask(self, turn1s: Sequence[Turn1], packs: Sequence[Sequence[PairQuestion]]) -> list[Turn2]:
        """One pass over windows side by side, each with its questions: all their lists, then all their pairs.

        Lists and pairs are padded to the longest. No token sees the padding; what it sees itself is of no account.
        """
        before, lm, device = _common_length(turn1s, packs), self.language_model, turn1s[0].slot_hidden.device
        start = turn1s[0].position
        texts = [[list_text(lm, q.objects) if self.chained else NO_LIST for q in pack] for pack in packs]
        lm.check_length(start + max((len(t.ids) for pack in texts for t in pack), default=0) + 1)
        words = max(sum(len(t.ids) for t in pack) for pack in texts)
        counts = [sum(len(q.pairs) for q in pack) for pack in packs]
        rows = max(counts)
        if rows == 0:
            empty = torch.zeros(0, before, dtype=torch.bool, device=device)
            nowhere = empty.new_zeros(0, dtype=torch.int64)
            return [Turn2(t.slot_hidden[:0], t.cache.crop(before), empty, nowhere) for t in turn1s]
        # Built on the CPU, moved in one go.
        visible = torch.zeros(len(packs), words + rows, before + words + rows, dtype=torch.bool)
        visible[:, :, :before] = True
        visible[:, :, before:] = torch.eye(words + rows, dtype=torch.bool)
        positions = torch.full((len(packs), words + rows), start)
        parts = [visible, positions]
        for sees, where, pack, pack_texts in zip(visible, positions, packs, texts, strict=True):
            word, row = 0, words
            for question, text in zip(pack, pack_texts, strict=True):
                length, count = len(text.ids), len(question.pairs)
                own = slice(before + word, before + word + length)
                sees[word : word + length, own] = torch.ones(length, length, dtype=torch.bool).tril()
                sees[row : row + count, own] = True
                where[word : word + length] = torch.arange(start, start + length)
                where[row : row + count] = start + length
                parts += [*as_tensors(text), question.pairs, question.geometry]
                parts += [] if question.motion is None else [question.motion]
                word, row = word + length, row + count
        moved = iter(move_together(parts, device))
        visible, positions = next(moved), next(moved)
        inputs: list[Tensor] = []
        for pack in packs:
            lists: list[Tensor] = []
            pairs: list[Tensor] = []
            for question in pack:
                lists.append(self._list_inputs(question.slot_states, next(moved), next(moved), next(moved)))
                asked = replace(question, pairs=next(moved), geometry=next(moved))
                if question.motion is not None:
                    asked = replace(asked, motion=next(moved))
                pairs.append(self.pair_embedding(asked, self.pair_labels([o.label for o in question.objects])))
            inputs.append(torch.cat([_padded(lists, words), _padded(pairs, rows)]))
        past = _side_by_side([t.cache.crop(before) for t in turn1s])
        hidden, cache = self._read(torch.stack(inputs), visibility_bias(visible)[:, None], positions, past)
        answers = []
        for i, count in enumerate(counts):
            end = words + count
            answers.append(
                Turn2(
                    hidden[i, words:end],
                    _window(cache, i).crop(before + end),
                    visible[i, words:end, : before + end],
                    positions[i, words:end],
                )
            )
        return answers

    def _list_inputs(self, slot_states: Tensor | None, ids: Tensor, where: Tensor, whose: Tensor) -> Tensor:
        """[L, H] of a list (see ``as_tensors``) of P objects. slot_states: [P, d], or None."""
        x = self.language_model.embed(ids)
        if slot_states is None or not len(where):
            return x
        marks = self.entry_gate * self.entry_state(slot_states.to(x))
        return x.index_add(0, where, marks[whose].to(x.dtype))


def as_tensors(text: ListText) -> tuple[Tensor, Tensor, Tensor]:
    """int64[L] token ids; int64[E] which of them are entries' numbers, and of which object each."""
    where = [i for entry in text.entries for i in entry]
    whose = [k for k, entry in enumerate(text.entries) for _ in entry]
    ids, where_, whose_ = (torch.tensor(x, dtype=torch.int64) for x in (text.ids, where, whose))
    return ids, where_, whose_


def _common_length(turn1s: Sequence[Turn1], packs: Sequence[Sequence[PairQuestion]]) -> int:
    """Number of tokens before the slots, the same for all windows."""
    lengths = {t.prefix_length for t in turn1s}
    if len(turn1s) != len(packs) or len(lengths) != 1:
        raise ValueError(
            f"{len(turn1s)} windows of {sorted(lengths)} tokens and {len(packs)} questions, expected one question for "
            "each window and windows with equal numbers of scene tokens"
        )
    return lengths.pop()


def _window(cache: KeyValueCache, index: int) -> KeyValueCache:
    """One window's part of a batch's cache (views, nothing is copied)."""
    if len(cache.layers[0][0]) == 1:
        return cache
    return KeyValueCache(tuple((k[index : index + 1], v[index : index + 1]) for k, v in cache.layers))


def _side_by_side(caches: Sequence[KeyValueCache]) -> KeyValueCache:
    if len(caches) == 1:
        return caches[0]
    layers = zip(*(cache.layers for cache in caches), strict=True)
    return KeyValueCache(tuple((torch.cat([k for k, _ in x]), torch.cat([v for _, v in x])) for x in layers))


def _padded(parts: Sequence[Tensor], length: int) -> Tensor:
    """[length, H]: the parts one after another, then zeros."""
    x = torch.cat(list(parts))
    return pad(x, (0, 0, 0, length - len(x)))
