"""The text of the two turns, as the language model reads it.

    <|im_start|>user
    The scene: [scene tokens] List its objects.<|im_end|>
    <|im_start|>assistant
    [slots]                                             <- turn 1 ends; turn 2 goes on from the text before the slots
    1. person, standing
    2. chair
    <|im_end|>
    <|im_start|>user
    How are they related?<|im_end|>
    <|im_start|>assistant
    [pairs]

Labels and attributes are encoded as plain text: a marker in a label is spelt out, never obeyed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psg4d_ros.model.language_model import LanguageModel

_HEAD = "<|im_start|>user\nThe scene:"
_TAIL = "\nList its objects.<|im_end|>\n<|im_start|>assistant\n"
_QUESTION = "<|im_end|>\n<|im_start|>user\nHow are they related?<|im_end|>\n<|im_start|>assistant\n"
# What a pair without any relation is called in generated answers; in ``score`` it is one with no predicate above the
# threshold.
NO_RELATION = "no relation"


@dataclass(frozen=True)
class DescribedObject:
    """One line of turn 1's list. slot: the slot it came from; label and attributes as words."""

    slot: int
    label: str
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prefix:
    """Token ids before and after the scene tokens."""

    head: tuple[int, ...]
    tail: tuple[int, ...]


@dataclass(frozen=True)
class ListText:
    """Token ids of turn 1's list and turn 2's question. entries: per object, the positions of its number in ``ids``."""

    ids: tuple[int, ...]
    entries: tuple[tuple[int, ...], ...]


NO_LIST = ListText((), ())


def prefix(language_model: LanguageModel) -> Prefix:
    """The text around the scene tokens."""
    return Prefix(tuple(language_model.encode_template(_HEAD)), tuple(language_model.encode_template(_TAIL)))


def list_text(language_model: LanguageModel, objects: Sequence[DescribedObject]) -> ListText:
    """Turn 1's answer for ``objects`` in their order, numbered from 1, and the question of turn 2."""
    ids: list[int] = []
    entries: list[tuple[int, ...]] = []
    for number, thing in enumerate(objects, start=1):
        head = language_model.encode(f"{number}.")
        entries.append(tuple(range(len(ids), len(ids) + len(head))))
        ids += head + answer_ids(language_model, (thing.label, *thing.attributes)) + language_model.encode("\n")
    ids += language_model.encode_template(_QUESTION)
    return ListText(tuple(ids), tuple(entries))


def answer_ids(language_model: LanguageModel, parts: Sequence[str]) -> list[int]:
    """Token ids of `` first, second, third``, part by part, as the grammar of generated answers puts them together."""
    ids: list[int] = []
    for i, part in enumerate(parts):
        ids += ([] if i == 0 else language_model.encode(",")) + language_model.encode(" " + part)
    return ids
