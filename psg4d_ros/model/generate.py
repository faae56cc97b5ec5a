"""``generate`` decoding: the language model writes its answers, all slots (or pairs) of a window side by side.

The branches share one cache and one sequence: each new token sees the text before the branches and its own branch only,
so nothing is copied per branch and each step is one pass, however many branches there are. Tokens that the grammar
forces are fed without being asked for. So the number of passes is that of the decisions in the longest answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from psg4d_ros.errors import ConfigError
from psg4d_ros.model.chain import Branches, Read, Turn1, Turn2
from psg4d_ros.model.grammar import (
    ATTRIBUTE,
    LABEL,
    PREDICATE,
    SPAN,
    TEXT,
    Fields,
    Grammar,
    State,
    read_span,
)
from psg4d_ros.model.language_model import KeyValueCache, LanguageModel, visibility_bias
from psg4d_ros.model.prompt import NO_RELATION
from psg4d_ros.vocabulary import sanitize_phrase

OK = "ok"
# Outcomes that are counted, never raised. An answer that repeats itself or was cut at its cap is used as far as it
# goes.
EMPTY, OVERLONG, REPEATING, UNPARSABLE = "lm_empty", "lm_overlong", "lm_repeating", "lm_unparsable"


@dataclass(frozen=True)
class Answer:
    """What one branch wrote. fields: the parts in order, as (name, text). score: probability of the choices made, among
    what the grammar allowed. num_tokens: without the end marker. capped: a cap ended it, not the model. free: it may
    hold words of the model's own, besides those of closed lists."""

    text: str
    fields: Fields
    score: float
    num_tokens: int
    capped: bool
    free: bool = False


@dataclass(frozen=True)
class GeneratedObject:
    """label: "" when the answer gives none (outcome says why). outcome: "ok" or the counter it belongs to."""

    label: str
    attributes: tuple[str, ...]
    answer: Answer
    outcome: str


@dataclass(frozen=True)
class GeneratedRelation:
    """predicate: None for no relation or none to be read. Frames [start, end) of the window."""

    predicate: str | None
    start: int
    end: int
    answer: Answer
    outcome: str


def generate_objects(
    language_model: LanguageModel, turn1: Turn1, slots: Sequence[int], grammar: Grammar, read: Read | None = None
) -> list[GeneratedObject]:
    """Turn 1's answers for the given slots (indices), in their order. read: see generate."""
    branches = turn1.branches().select(torch.as_tensor(slots, dtype=torch.int64))
    return [read_object(answer) for answer in generate(language_model, branches, grammar, read)]


def generate_relations(
    language_model: LanguageModel, turn2: Turn2, grammar: Grammar, num_frames: int, read: Read | None = None
) -> list[GeneratedRelation]:
    """Turn 2's answers, one per pair of ``turn2`` in its order. read: see generate."""
    return [read_relation(a, num_frames) for a in generate(language_model, turn2.branches(), grammar, read)]


def count_outcomes(results: Iterable[GeneratedObject | GeneratedRelation]) -> Counter[str]:
    """How often each outcome other than "ok" occurred."""
    return Counter(r.outcome for r in results if r.outcome != OK)


@torch.no_grad()
def generate(
    language_model: LanguageModel, branches: Branches, grammar: Grammar, read: Read | None = None
) -> list[Answer]:
    """The likeliest answer of each branch, token by token (greedy), constrained to the grammar. Always ends.

    read: does the passes in the language model's place, see SceneChain.reading_with. ``branches`` is not changed. Ties
    go to the lower token id, so the same input gives the same answers.
    """
    writers = [_Writer(grammar) for _ in branches.hidden]
    states = dict(enumerate(branches.hidden))
    growing = _Growing(language_model, branches, read)
    live = [i for i, w in enumerate(writers) if not w.ended]
    while live:
        new = {i: chunk for i in live if (chunk := writers[i].take_unfed())}
        if new:
            said = growing.feed(list(new), list(new.values()))
            states.update((i, hidden[-1]) for i, hidden in said.items())
        logits = language_model.token_logits(torch.stack([states[i] for i in live]))
        mask = grammar.mask([writers[i].allowed for i in live]).to(logits.device)
        log_probs = logits.masked_fill(~mask, float("-inf")).log_softmax(dim=1)
        best, tokens = log_probs.max(dim=1)
        for i, token, log_prob in zip(live, tokens.tolist(), best.tolist(), strict=True):
            writers[i].write(token, log_prob)
        live = [i for i in live if not writers[i].ended]
    return [w.answer(language_model) for w in writers]


def answer_log_probs(
    language_model: LanguageModel, branches: Branches, answers: Sequence[Sequence[int]]
) -> list[Tensor]:
    """Log-probability of each token of given answers and of the end after them, float32[len + 1] per branch; one pass.

    This is the autoregressive loss (negated), with gradients; no grammar is applied.
    """
    count = len(branches.hidden)
    if len(answers) != count:
        raise ValueError(f"{len(answers)} answers for {count} branches")
    told = [i for i in range(count) if len(answers[i])]
    hidden = _Growing(language_model, branches).feed(told, [answers[i] for i in told]) if told else {}
    states = [torch.cat([branches.hidden[i : i + 1], *([hidden[i]] if i in hidden else [])]) for i in range(count)]
    targets = [[*ids, language_model.end_id] for ids in answers]
    lengths = [len(ids) for ids in targets]
    if not lengths:
        return []
    logits = language_model.token_logits(torch.cat(states))
    said = torch.tensor([token for ids in targets for token in ids], device=logits.device)
    return list(logits.log_softmax(dim=1).gather(1, said[:, None])[:, 0].split(lengths))


def read_object(answer: Answer) -> GeneratedObject:
    """Label and attributes of an answer; text that was not constrained is read as far as it makes sense."""
    values = dict(answer.fields)
    if TEXT in values:
        parts = [p.strip() for p in values[TEXT].splitlines()[0].split(",")] if values[TEXT].strip() else [""]
        label, attributes = parts[0], [p for p in parts[1:] if p]
    else:
        label, attributes = values.get(LABEL, ""), [text for name, text in answer.fields if name == ATTRIBUTE]
    outcome = OVERLONG if answer.capped else OK
    label, repeated = _without_repeats(label) if answer.free else (label, False)
    kept = tuple(dict.fromkeys(attributes))
    if repeated or len(kept) != len(attributes):
        outcome = REPEATING
    if not label:
        return GeneratedObject("", (), answer, EMPTY)
    try:
        return GeneratedObject(sanitize_phrase(label), tuple(sanitize_phrase(a) for a in kept), answer, outcome)
    except ConfigError:
        return GeneratedObject("", (), answer, UNPARSABLE)


def read_relation(answer: Answer, num_frames: int) -> GeneratedRelation:
    """Predicate and span of an answer; a predicate without a readable span holds over the whole window."""
    values = dict(answer.fields)
    if TEXT in values:
        head, _, tail = (values[TEXT].splitlines() or [""])[0].partition(",")
        predicate, span = head.strip(), read_span(tail, num_frames)
    else:
        predicate, span = values.get(PREDICATE, ""), read_span(values.get(SPAN, ""), num_frames)
    outcome = OVERLONG if answer.capped else OK
    predicate, repeated = _without_repeats(predicate) if answer.free else (predicate, False)
    if repeated:
        outcome = REPEATING
    if not predicate:
        return GeneratedRelation(None, 0, num_frames, answer, EMPTY)
    if predicate == NO_RELATION:
        return GeneratedRelation(None, 0, num_frames, answer, outcome)
    try:
        predicate = sanitize_phrase(predicate)
    except ConfigError:
        return GeneratedRelation(None, 0, num_frames, answer, UNPARSABLE)
    if span is None:
        return GeneratedRelation(predicate, 0, num_frames, answer, UNPARSABLE if outcome == OK else outcome)
    return GeneratedRelation(predicate, *span, answer, outcome)


def _without_repeats(phrase: str) -> tuple[str, bool]:
    """A phrase cut at the first word that follows itself ("chair chair chair" -> "chair"), and whether one did.

    For free words only: a phrase of a closed list is meant as it is ("chow chow").
    """
    words = phrase.split()
    again = next((i for i in range(1, len(words)) if words[i] == words[i - 1]), None)
    return (" ".join(words[:again]), again is not None)


class _Writer:
    """One branch's answer so far."""

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self.ended = False
        self._end = grammar.language_model.end_id
        self._state: State = grammar.start()
        self._ids: list[int] = []
        self._fed = 0
        self._log_prob = 0.0
        self.allowed: frozenset[int] = frozenset()
        self._run_forced()

    def write(self, token: int, log_prob: float) -> None:
        """Append the token chosen and all that follow from it without a choice."""
        self._log_prob += log_prob
        self._append(token)
        self._run_forced()

    def take_unfed(self) -> list[int]:
        """Tokens written since the last call."""
        new = self._ids[self._fed :]
        self._fed = len(self._ids)
        return new

    def _append(self, token: int) -> None:
        if token == self._end:
            self.ended = True
        else:
            self._ids.append(token)
            self._state = self.grammar.advance(self._state, token)

    def _run_forced(self) -> None:
        while not self.ended:
            self.allowed = self.grammar.allowed(self._state)
            if len(self.allowed) > 1:
                return
            # Nothing allowed at all cannot come about in the grammars here; it would be an empty answer, not a hang.
            self._append(next(iter(self.allowed), self._end))

    def answer(self, language_model: LanguageModel) -> Answer:
        fields = self._state.endings[0] if self._state.endings else ()
        text = language_model.decode(self._ids).strip()
        score = float(torch.tensor(self._log_prob).exp())
        return Answer(text, fields, score, len(self._ids), self._state.capped, self.grammar.free)


class _Growing:
    """The cache that branches share, and which of its tokens belong to which branch."""

    def __init__(self, language_model: LanguageModel, branches: Branches, read: Read | None = None) -> None:
        self._language_model = language_model
        self._read: Read = language_model if read is None else read
        self._cache: KeyValueCache = branches.cache
        self._base = branches.visible.cpu()
        self._owners = torch.empty(0, dtype=torch.int64)
        self._positions: list[int] = branches.positions.tolist()

    def feed(self, live: Sequence[int], chunks: Sequence[Sequence[int]]) -> dict[int, Tensor]:
        """Read a chunk of tokens for each live branch, all in one pass; branch -> the states of its chunk, [len, H]."""
        ids = [token for chunk in chunks for token in chunk]
        owner = torch.tensor([i for i, chunk in zip(live, chunks, strict=True) for _ in chunk])
        positions = [self._positions[i] + k for i, chunk in zip(live, chunks, strict=True) for k in range(len(chunk))]
        self._language_model.check_length(max(positions) + 1)
        among = (owner[:, None] == owner[None]).tril()
        visible = torch.cat([self._base[owner], owner[:, None] == self._owners[None], among], dim=1)
        device = self._language_model.device
        x = self._language_model.embed(ids)[None]
        hidden, self._cache = self._read(
            x, visibility_bias(visible.to(device)), torch.tensor(positions, device=device), self._cache
        )
        self._owners = torch.cat([self._owners, owner])
        for i, chunk in zip(live, chunks, strict=True):
            self._positions[i] += len(chunk)
        return dict(zip(live, hidden[0].split([len(chunk) for chunk in chunks]), strict=True))
