"""What a generated answer may look like, token by token, so that every answer parses.

    object:    " chair" (", red")* END                          relation: " sitting on" ", frames 7 to 2" END | " no
    relation" END

A grammar is a small automaton over token ids. Words come from a closed list (a trie of their tokens) or are free:
lower-case words up to a cap. Several readings of the tokens so far may be open at once (a label may hold a comma, one
label may begin another), so a state is a set of readings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from psg4d_ros.errors import ConfigError
from psg4d_ros.model.language_model import LanguageModel
from psg4d_ros.model.prompt import NO_RELATION, answer_ids

LABEL, ATTRIBUTE, PREDICATE, SPAN, TEXT = "label", "attribute", "predicate", "span", "text"
# Answers end by themselves at these sizes, whatever the model would like to say.
MAX_FREE_WORDS, MAX_FREE_TOKENS, MAX_TEXT_TOKENS = 5, 12, 48
MAX_ATTRIBUTES = 3

# Entries of the two tables that a grammar keeps.
_MAX_KEPT = 2000

Fields = tuple[tuple[str, str], ...]


class Choice:
    """One of a closed list of strings, as a trie over their tokens. A string is chosen at most once per answer."""

    def __init__(self, options: Mapping[str, Sequence[int]]) -> None:
        """options: each string and its token ids (at least one)."""
        self.children: list[dict[int, int]] = [{}]
        self.ends: list[str | None] = [None]
        self.below: list[set[str]] = [set()]
        for text, ids in options.items():
            if not ids:
                raise ConfigError(f"the phrase {text!r} has no tokens; give a word")
            node = 0
            self.below[0].add(text)
            for token in ids:
                if token not in self.children[node]:
                    self.children[node][token] = len(self.children)
                    self.children.append({})
                    self.ends.append(None)
                    self.below.append(set())
                node = self.children[node][token]
                self.below[node].add(text)
            self.ends[node] = text

    def next(self, node: int, used: frozenset[str]) -> frozenset[int]:
        """Tokens that still lead to an unused string."""
        return frozenset(token for token, child in self.children[node].items() if not self.below[child] <= used)


class FreeWords:
    """One to MAX_FREE_WORDS lower-case words of at most MAX_FREE_TOKENS tokens."""

    def __init__(self, language_model: LanguageModel) -> None:
        tokens = language_model.tokenizer.convert_ids_to_tokens(range(language_model.vocabulary_size))
        # Byte-level tokenizers write a leading blank as this letter.
        starts = [i for i, t in enumerate(tokens) if t is not None and re.fullmatch("Ġ[a-z]*", t)]
        self.bare = frozenset(i for i in starts if tokens[i] == "Ġ")
        self.starts = frozenset(starts)
        self.inside = frozenset(i for i, t in enumerate(tokens) if t is not None and re.fullmatch("[a-z]+", t))
        self.both = self.starts | self.inside

    def next(self, ids: tuple[int, ...]) -> frozenset[int]:
        """Tokens that may follow."""
        if len(ids) >= MAX_FREE_TOKENS:
            return frozenset()
        if not ids:
            return self.starts
        if ids[-1] in self.bare:
            return self.inside
        # A lone blank at the end would leave no room for the word that it begins.
        more = self.words(ids) < MAX_FREE_WORDS and len(ids) < MAX_FREE_TOKENS - 1
        return self.both if more else self.inside

    def words(self, ids: tuple[int, ...]) -> int:
        return sum(i in self.starts for i in ids)

    def complete(self, ids: tuple[int, ...]) -> bool:
        return bool(ids) and ids[-1] not in self.bare

    def capped(self, ids: tuple[int, ...]) -> bool:
        return len(ids) >= MAX_FREE_TOKENS or self.words(ids) >= MAX_FREE_WORDS


class AnyText:
    """Whatever the model likes to say, up to MAX_TEXT_TOKENS: the unconstrained baseline."""

    def __init__(self, language_model: LanguageModel) -> None:
        special = set(language_model.tokenizer.all_special_ids)
        self.tokens = frozenset(i for i in range(language_model.vocabulary_size) if i not in special)

    def next(self, ids: tuple[int, ...]) -> frozenset[int]:
        return self.tokens if len(ids) < MAX_TEXT_TOKENS else frozenset()

    def complete(self, ids: tuple[int, ...]) -> bool:
        return True

    def capped(self, ids: tuple[int, ...]) -> bool:
        return len(ids) >= MAX_TEXT_TOKENS


@dataclass(frozen=True, eq=False)
class Edge:
    """A part of the answer: what it may be, the field it fills, the stage after it."""

    part: Choice | FreeWords | AnyText
    name: str
    to: int


@dataclass(frozen=True, eq=False)
class Stage:
    """A place between parts. final: the answer may end here."""

    edges: tuple[Edge, ...] = ()
    final: bool = False


@dataclass(frozen=True)
class _Reading:
    """One way to read the tokens so far: inside ``edge``, at a node of its trie or after free tokens ``ids``."""

    edge: Edge
    node: int
    ids: tuple[int, ...]
    fields: Fields


@dataclass(frozen=True)
class State:
    """All readings of the tokens so far; ``endings``: the fields of those that may end here. capped: a free part was
    ended by its cap, not by the model."""

    readings: tuple[_Reading, ...]
    endings: tuple[Fields, ...] = ()
    capped: bool = False


@dataclass(frozen=True, eq=False)
class Grammar:
    """stages[0] is the start. Every path ends: parts are finite or capped, and stages only lead forward."""

    stages: tuple[Stage, ...]
    language_model: LanguageModel = field(repr=False)
    _unions: dict[tuple[frozenset[int], ...], frozenset[int]] = field(default_factory=dict, repr=False)
    _indices: dict[frozenset[int], Tensor] = field(default_factory=dict, repr=False)

    @property
    def free(self) -> bool:
        """Whether answers may hold words of the model's own, besides those of closed lists."""
        return any(not isinstance(edge.part, Choice) for stage in self.stages for edge in stage.edges)

    @property
    def _end(self) -> frozenset[int]:
        return frozenset((self.language_model.end_id,))

    def start(self) -> State:
        return self._begun(0, ())

    def allowed(self, state: State) -> frozenset[int]:
        """Token ids that may come next; END among them where the answer may end."""
        parts = dict.fromkeys(self._next(reading) for reading in state.readings)
        if state.endings:
            parts[self._end] = None
        if len(parts) == 1:
            return next(iter(parts))
        # Free words are sets of tens of thousands of tokens: each union is made once.
        key = tuple(parts)
        if key not in self._unions:
            if len(self._unions) >= _MAX_KEPT:
                self._unions.clear()
            self._unions[key] = frozenset().union(*parts)
        return self._unions[key]

    def mask(self, allowed: Sequence[frozenset[int]]) -> Tensor:
        """bool[n, vocabulary] with True at the allowed token ids of each row."""
        mask = torch.zeros(len(allowed), self.language_model.vocabulary_size, dtype=torch.bool)
        for row, ids in zip(mask, allowed, strict=True):
            if ids not in self._indices:
                if len(self._indices) >= _MAX_KEPT:
                    self._indices.clear()
                self._indices[ids] = torch.tensor(sorted(ids), dtype=torch.int64)
            row[self._indices[ids]] = True
        return mask

    def advance(self, state: State, token: int) -> State:
        """The state after one of the allowed tokens other than END."""
        readings: list[_Reading] = []
        endings: list[Fields] = []
        capped = state.capped
        for reading in state.readings:
            if token not in self._next(reading):
                continue
            part, ids = reading.edge.part, (*reading.ids, token)
            if isinstance(part, Choice):
                node = part.children[reading.node][token]
                step = _Reading(reading.edge, node, ids, reading.fields)
                text = part.ends[node]
                done = text is not None and text not in _used(reading)
            else:
                step = _Reading(reading.edge, 0, ids, reading.fields)
                done = part.complete(ids)
                text = self.language_model.decode(ids).strip() if done else None
                capped = capped or part.capped(ids)
            readings.append(step)
            if done and text is not None:
                fields = (*reading.fields, (reading.edge.name, text))
                after = self._begun(reading.edge.to, fields)
                readings += after.readings
                endings += after.endings
        return State(tuple(readings), tuple(endings), capped)

    def _begun(self, stage: int, fields: Fields) -> State:
        """The readings that begin at a stage. Free text may be empty, and then the next stage begins here too."""
        out: list[_Reading] = []
        endings = [fields] if self.stages[stage].final else []
        for edge in self.stages[stage].edges:
            out.append(_Reading(edge, 0, (), fields))
            if isinstance(edge.part, AnyText):
                after = self._begun(edge.to, (*fields, (edge.name, "")))
                out += after.readings
                endings += after.endings
        return State(tuple(out), tuple(endings))

    @staticmethod
    def _next(reading: _Reading) -> frozenset[int]:
        part = reading.edge.part
        if isinstance(part, Choice):
            return part.next(reading.node, _used(reading))
        return part.next(reading.ids)


def _used(reading: _Reading) -> frozenset[str]:
    """What the field being read was given already: no attribute is named twice."""
    return frozenset(text for name, text in reading.fields if name == reading.edge.name)


def object_grammar(
    language_model: LanguageModel,
    labels: Sequence[str] | None,
    attributes: Sequence[str] = (),
    max_attributes: int = MAX_ATTRIBUTES,
) -> Grammar:
    """One object: a label of the list (None: free words), then up to ``max_attributes`` different attributes."""
    lm = language_model
    if labels is not None and not labels:
        raise ConfigError("there are no labels to choose from; give at least one, or None for free words")
    label = FreeWords(lm) if labels is None else Choice({w: answer_ids(lm, [w]) for w in labels})
    tail = Choice({w: _continued(lm, w) for w in attributes})
    count = min(max_attributes, len(attributes))
    stages = [Stage((Edge(label, LABEL, 1),))]
    stages += [Stage((Edge(tail, ATTRIBUTE, i + 2),), final=True) for i in range(count)]
    return Grammar((*stages, Stage(final=True)), lm)


def relation_grammar(language_model: LanguageModel, predicates: Sequence[str] | None, num_frames: int) -> Grammar:
    """One relation: a predicate of the list (None: free words) and its frames, or that there is none."""
    lm = language_model
    none = Edge(Choice({NO_RELATION: answer_ids(lm, [NO_RELATION])}), PREDICATE, 2)
    predicate: Choice | FreeWords
    predicate = FreeWords(lm) if predicates is None else Choice({w: answer_ids(lm, [w]) for w in predicates})
    texts = (span_text(start, end, num_frames) for start, end in _all_spans(num_frames))
    spans = Choice({text: _continued(lm, text) for text in texts})
    stages = (Stage((none, Edge(predicate, PREDICATE, 1))), Stage((Edge(spans, SPAN, 2),)), Stage(final=True))
    return Grammar(stages, lm)


def text_grammar(language_model: LanguageModel) -> Grammar:
    """Any text: what the model says when nothing constrains it."""
    lm = language_model
    return Grammar((Stage((Edge(AnyText(lm), TEXT, 1),)), Stage(final=True)), lm)


def span_text(start: int, end: int, num_frames: int) -> str:
    """Frames [start, end) of a window of ``num_frames`` as the language model writes them.

    The newest frame is number 1, the one before it number 2, both ends included: "frames 3 to 1" are the newest three,
    however many there are. So what is learnt on short windows says the same in longer ones.
    """
    return f"frames {num_frames - start} to {num_frames - end + 1}"


def read_span(text: str, num_frames: int) -> tuple[int, int] | None:
    """The reverse of span_text; None when the text is no span of a window with ``num_frames`` frames."""
    match = re.fullmatch(r"frames (\d{1,4}) to (\d{1,4})", text.strip())
    if match is None:
        return None
    start, end = num_frames - int(match[1]), num_frames - int(match[2]) + 1
    return (start, end) if 0 <= start < end <= num_frames else None


def _all_spans(num_frames: int) -> list[tuple[int, int]]:
    if num_frames < 1:
        raise ConfigError(f"num_frames is {num_frames}, expected at least 1")
    return [(start, end) for start in range(num_frames) for end in range(start + 1, num_frames + 1)]


def _continued(language_model: LanguageModel, word: str) -> list[int]:
    """Tokens of ``, word``, as answer_ids writes every part after the first."""
    return language_model.encode(",") + language_model.encode(" " + word)
