"""Learning to write answers: the texts that ``generate`` is to produce, and how unlikely the model finds them.

The texts are token for token those that the grammars of generated answers allow, so what is taught can be said.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from psg4d_ros.model.chain import Branches
from psg4d_ros.model.generate import answer_log_probs
from psg4d_ros.model.grammar import MAX_ATTRIBUTES, span_text
from psg4d_ros.model.language_model import LanguageModel
from psg4d_ros.model.prompt import NO_RELATION, answer_ids


def object_answer(language_model: LanguageModel, label: str, attributes: Sequence[str] = ()) -> list[int]:
    """Token ids of one slot's answer, without the end: `` chair, red``.

    Of the attributes the first MAX_ATTRIBUTES different ones are said: an answer holds no more, and none twice.
    """
    return answer_ids(language_model, (label, *list(dict.fromkeys(attributes))[:MAX_ATTRIBUTES]))


def relation_answer(
    language_model: LanguageModel, predicate: str | None, start: int, end: int, num_frames: int
) -> list[int]:
    """Token ids of one pair's answer, without the end: `` sitting on, frames 7 to 2``.

    Frames [start, end) of a window of ``num_frames``; predicate None: there is no relation, and the frames do not
    matter. Raises ValueError for frames that the window does not have.
    """
    if predicate is None:
        return answer_ids(language_model, (NO_RELATION,))
    if not 0 <= start < end <= num_frames:
        raise ValueError(f"frames [{start}, {end}) of a window of {num_frames}, expected 0 <= start < end <= frames")
    return answer_ids(language_model, (predicate, span_text(start, end, num_frames)))


def answer_loss(language_model: LanguageModel, branches: Branches, answers: Sequence[Sequence[int]]) -> Tensor:
    """Cross-entropy of one answer per branch and of its end: the mean over an answer's tokens, then over branches.

    So a long answer weighs no more than a short one. Teacher-forced, in one pass: each branch reads what it sees and
    its own answer. float32[] with gradient; zero where there are no branches.
    """
    log_probs = answer_log_probs(language_model, branches, answers)
    if not log_probs:
        return branches.hidden.float().sum()
    return -torch.stack([p.mean() for p in log_probs]).mean()
