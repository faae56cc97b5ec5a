"""In which numbers is the language model fastest on a CPU, and do the answers stay?

``python benchmarks/language_model_numbers.py --dataset DIR [--checkpoint DIR] [--windows N] [--threads N]``; DIR: a
folder of ``psg4d simulate DIR --split val``. Windows of as many frames as the node's; turn 2 is asked about the true
pairs, under the true names, so that all rows answer the same questions.

``int8``: the frozen linear layers as products of 8-bit integers, weights scaled by output channel, inputs by token
as they come; all else in bfloat16. Turns: median of a pass; every window goes through all rows before the next one, so
that a machine that grows slower or faster does so for all. ``labels``, ``attributes``, ``relations``: of those that
float32 gives (best name of each slot that is present, attributes above one half, relations above 0.3) how many a row
has too, and how many it adds; then the largest change of the probability of a relation that both were asked for, and
how right the answers are.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from psg4d_ros.checkpoint import default_checkpoint, load_checkpoint
from psg4d_ros.config import InferenceConfig, WindowConfig
from psg4d_ros.data.open_dataset import open_recordings
from psg4d_ros.model.language_model import KeyValueCache, LanguageModel
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.torch_environment import prepare_torch
from psg4d_ros.training.window_scores import ReadWindow, read_windows, window_scores
from psg4d_ros.training.windows import TrainingWindow, WindowDataset, WindowRecipe

Said = tuple[int, int, int]
NUMBERS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.bfloat16}


class IntegerLinear(nn.Module):
    """y = x W^T by 8-bit integers: W scaled by row (output channel), x by row (token), sums in int32."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        weight = base.weight.detach().float()
        self.scale = weight.abs().amax(dim=1).clamp_min(1e-12) / 127.0
        self.integers = (weight / self.scale[:, None]).round().to(torch.int8).t()

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2).float()
        scale = rows.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127.0
        sums = torch._int_mm((rows / scale).round().to(torch.int8), self.integers)
        return (sums.float() * scale * self.scale).to(x.dtype).view(*x.shape[:-1], -1)


@dataclass(frozen=True)
class Answers:
    """What a language model says of the windows. turn_ms: median of each turn's passes. labels, attributes, relations:
    as (window, slot or true pair, word); probabilities: float32[n] of the predicates, by (window, true pair)."""

    turn_ms: tuple[float, float]
    labels: frozenset[Said]
    attributes: frozenset[Said]
    relations: frozenset[Said]
    probabilities: dict[tuple[int, int], Tensor]
    scores: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=default_checkpoint(), metavar="DIR")
    parser.add_argument("--dataset", required=True, metavar="DIR")
    parser.add_argument("--windows", type=int, default=24, metavar="N")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="0: leave as is")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    prepare_torch()
    if options.threads:
        torch.set_num_threads(options.threads)
    models = {name: load_checkpoint(options.checkpoint, torch.device("cpu"), of) for name, of in NUMBERS.items()}
    as_integers(models["int8"].language_model, words_of(models["int8"]))
    windows = read(options, models["float32"])
    in_turns(models, windows[:1])
    answers = in_turns(models, windows)
    print("| numbers | turn 1, ms | turn 2, ms | labels | attributes | relations | largest change ", end="")
    print("| class, top 1 | relations, AP |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, said in answers.items():
        first, second = said.turn_ms
        print(f"| {name} | {first:.0f} | {second:.0f} | {row(answers['float32'], said)} |")


def read(options: argparse.Namespace, model: PSG4D) -> list[TrainingWindow]:
    encoder, frames = model.config.encoder, WindowConfig().num_frames
    recipe = WindowRecipe(frames=frames, voxel_size_m=encoder.voxel_size_m, levels=len(encoder.channels), augment=False)
    dataset = WindowDataset(open_recordings(options.dataset), recipe, options.seed)
    return [dataset[i] for i in range(options.windows)]


def words_of(model: PSG4D) -> tuple[str, ...]:
    return tuple(c.name for c in model.vocabulary.classes)


def as_integers(language_model: LanguageModel, phrases: Sequence[str]) -> None:
    """Replace the frozen linear layers, in place. phrases: whose vectors are made before, by the layers as they are."""
    language_model.phrase_embeddings(phrases)
    for module in list(language_model.base.get_decoder().layers.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, IntegerLinear(child))


@torch.no_grad()
def in_turns(models: dict[str, PSG4D], windows: Sequence[TrainingWindow]) -> dict[str, Answers]:
    """What each model says of the windows."""
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in models}
    remove = [timed(model.language_model, times[name]) for name, model in models.items()]
    reads: dict[str, list[ReadWindow]] = {name: [] for name in models}
    for window in windows:
        for name, model in models.items():
            reads[name] += read_windows(model, [window], words_of(model), language_model=True)
    for end in remove:
        end()
    return {name: answers_of(reads[name], times[name]) for name in models}


def answers_of(reads: Sequence[ReadWindow], times: tuple[list[float], list[float]]) -> Answers:
    labels: set[Said] = set()
    attributes: set[Said] = set()
    relations: set[Said] = set()
    probabilities: dict[tuple[int, int], Tensor] = {}
    for number, one in enumerate(reads):
        best = one.scores.class_logits[one.slots].argmax(dim=1).tolist()
        labels |= {(number, slot, word) for slot, word in zip(one.slots.tolist(), best, strict=True)}
        attributes |= above(number, one.slots, one.scores.attribute_logits[one.slots].sigmoid(), 0.5)
        if one.answer is not None:
            said = one.answer.logits.sigmoid()
            relations |= above(number, one.asked.rows, said, InferenceConfig().relation_threshold)
            probabilities |= {(number, pair): of for pair, of in zip(one.asked.rows.tolist(), said, strict=True)}
    turn_ms = float(np.median(times[0])), float(np.median(times[1] or [np.nan]))
    return Answers(
        turn_ms, frozenset(labels), frozenset(attributes), frozenset(relations), probabilities, window_scores(reads)
    )


def above(window: int, rows: Tensor, probabilities: Tensor, threshold: float) -> set[Said]:
    """rows: int64[R], what the rows of probabilities float32[R, n] are about."""
    return {(window, int(rows[i]), word) for i, word in (probabilities > threshold).nonzero().tolist()}


def timed(module: nn.Module, times: tuple[list[float], list[float]]) -> Callable[[], None]:
    """Note the milliseconds of each pass, by turn: the second goes on from the first one's cache. Returns what ends
    it."""
    started: list[float] = []
    before = module.register_forward_pre_hook(lambda *_: started.append(time.perf_counter()))

    def note(_: nn.Module, arguments: tuple[Any, ...], __: Any) -> None:
        goes_on = any(isinstance(a, KeyValueCache) for a in arguments)
        times[goes_on].append(1000 * (time.perf_counter() - started.pop()))

    after = module.register_forward_hook(note)

    def remove() -> None:
        before.remove()
        after.remove()

    return remove


def row(reference: Answers, answers: Answers) -> str:
    cells = []
    for wanted, said in (
        (reference.labels, answers.labels),
        (reference.attributes, answers.attributes),
        (reference.relations, answers.relations),
    ):
        cells.append(f"{len(wanted & said)} of {len(wanted)}, {len(said - wanted)} more")
    both = reference.probabilities.keys() & answers.probabilities.keys()
    changes = [float((reference.probabilities[pair] - answers.probabilities[pair]).abs().max()) for pair in both]
    cells.append(f"{max(changes, default=0.0):.4f}")
    cells += [f"{100 * answers.scores[key]:.1f}" for key in ("class_top1", "relation_ap")]
    return " | ".join(cells)


if __name__ == "__main__":
    main()
