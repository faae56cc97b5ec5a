"""Written answers of a window: the auxiliary loss that keeps ``generate`` decoding in the same weights."""

from __future__ import annotations

import torch
from torch import Tensor

from psg4d_ros.model.chain import Turn1, Turn2
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.training.answer_loss import answer_loss, object_answer, relation_answer
from psg4d_ros.training.object_losses import ObjectReading
from psg4d_ros.training.relation_losses import AskedPairs

# A few answers of a window say as much as all of them, and the pass grows with their number.
_OBJECTS, _PAIRS = 8, 12


def object_answers(model: PSG4D, reading: ObjectReading, turn1: Turn1, generator: torch.Generator) -> Tensor:
    """Loss of the names and attributes of some matched slots."""
    drawn = torch.randperm(len(reading.slots), generator=generator)[:_OBJECTS]
    slots, tubes = reading.slots[drawn], reading.tubes[drawn].tolist()
    truth, lm = reading.truth, model.language_model
    answers = [object_answer(lm, truth.labels[tube], truth.attributes[tube]) for tube in tubes]
    return answer_loss(lm, turn1.branches().select(slots), answers)


def relation_answers(model: PSG4D, asked: AskedPairs, turn2: Turn2, generator: torch.Generator) -> Tensor:
    """Loss of the answers for some pairs: of a related one, one of its predicates with its first span; of about as many
    that are not, that there is no relation."""
    holds = asked.truth.holds[asked.rows]
    related = holds.flatten(1).any(dim=1)
    order = torch.randperm(len(related), generator=generator)
    yes, no = order[related[order]][: _PAIRS // 2], order[~related[order]][: _PAIRS // 2]
    lm, frames = model.language_model, holds.shape[2]
    answers = []
    for row in yes.tolist():
        true = holds[row].any(dim=1).nonzero()[:, 0]
        predicate = int(true[torch.randint(len(true), (), generator=generator)])
        active = holds[row, predicate].int().tolist()
        start = active.index(1)
        end = active.index(0, start) if 0 in active[start:] else frames
        answers.append(relation_answer(lm, asked.truth.predicates[predicate], start, end, frames))
    answers += [relation_answer(lm, None, 0, 0, frames) for _ in no]
    return answer_loss(lm, turn2.branches().select(torch.cat([yes, no])), answers)
