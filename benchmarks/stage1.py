"""Relations in images, objects given, on held-out images of VRD: the head of stage 1 against what is simpler.

``python benchmarks/stage1.py --images DIR [--steps N] [--minutes M] [--seeds 0 1 2]``; DIR holds vrd and, where they
are at hand, vcoco and hicodet (docs/datasets.md).

All methods answer the same pairs in one protocol (evaluation/image_relations.py), one predicate a pair: first of the
annotated pairs ("given"), then of every pair ("all"). ``frequency``: how often two labels stand in a relation, with
back-off. ``geometry MLP``, ``labels + geometry MLP``: closed vocabulary, trained on VRD. ``head, VRD``: phrase
embeddings and geometry, no language model. ``head, all sets``: the same on all data sets there are. With --minutes also
stage 1 as the recipe has it: ``stage 1`` with the adapted language model, ``stage 1, no LM`` the same weights without.
``--checkpoint DIR`` judges the weights of a stage 1 that is there, the same way.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from psg4d_ros.checkpoint import load_checkpoint, read_manifest
from psg4d_ros.data.scene_graph_2d import SceneGraph2D
from psg4d_ros.evaluation.frequency import FrequencyPrior
from psg4d_ros.evaluation.image_relations import ImageScores, Pair, image_recall
from psg4d_ros.model.geometry import GEOMETRY_NAMES
from psg4d_ros.model.language_model import LanguageModel
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.training.images import (
    UNKNOWN_LABEL,
    ImageDataset,
    ImageItem,
    ImageRecipe,
    ImageSource,
    annotated_pairs,
    question_item,
    read_image_sources,
)
from psg4d_ros.training.recipe import load_recipe
from psg4d_ros.training.report import lineage
from psg4d_ros.training.stage import Stage, StageModule, StageRecipe, sized
from psg4d_ros.training.stage1 import Stage1Losses, image_scores
from psg4d_ros.training.trainer import train_stage
from psg4d_ros.vocabulary import default_vocabulary

BATCH = 64
COLUMNS = ("R@50", "R@100", "zero_shot_R@50", "mR@50")


class Mlp(nn.Module):
    """Predicates of a closed list and "none" from geometry, and from learnt vectors of the labels."""

    def __init__(self, source: ImageSource, labels: bool) -> None:
        super().__init__()
        words = {o.label for graph in source.graphs for o in graph.objects}
        self.number = {word: i for i, word in enumerate((UNKNOWN_LABEL, *sorted(words)))}
        self.words = nn.Embedding(len(self.number), 64) if labels else None
        wide = len(GEOMETRY_NAMES) + (128 if labels else 0)
        self.layers = nn.Sequential(
            nn.Linear(wide, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, len(source.predicates) + 1)
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.parameters()), "lr": 3e-3}]

    def logits(self, items: Sequence[ImageItem]) -> Tensor:
        """float32[R, n + 1], "none" last."""
        x = [torch.cat([item.geometry for item in items])]
        if self.words is not None:
            ids = [torch.tensor([self.number.get(w, 0) for w in item.labels])[item.pairs] for item in items]
            x.append(self.words(torch.cat(ids)).flatten(1))
        return self.layers(torch.cat(x, dim=1))

    def forward(
        self, items: Sequence[ImageItem], generator: torch.Generator, of_step: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        holds = torch.cat([item.holds for item in items])
        target = torch.cat([holds, ~holds.any(dim=1, keepdim=True)], dim=1).float()
        return {"relation": nn.functional.cross_entropy(self.logits(items), target / target.sum(dim=1, keepdim=True))}

    @torch.no_grad()
    def scores(self, graphs: Sequence[SceneGraph2D], pairs: Sequence[Sequence[Pair]]) -> list[np.ndarray]:
        items = [question_item(g, p, ()) for g, p in zip(graphs, pairs, strict=True)]
        table = self.logits(items).softmax(dim=1)[:, :-1].numpy()
        return np.split(table, np.cumsum([len(p) for p in pairs])[:-1])


def frequency_scores(source: ImageSource) -> ImageScores:
    """The frequency prior, fitted on the images of ``source``."""
    prior = FrequencyPrior()
    for graph in source.graphs:
        prior.count_pairs({i: o.label for i, o in enumerate(graph.objects)}, annotated_pairs(graph))

    def scores(graphs: Sequence[SceneGraph2D], pairs: Sequence[Sequence[Pair]]) -> list[np.ndarray]:
        out = []
        for graph, asked in zip(graphs, pairs, strict=True):
            known = [prior.probabilities(graph.objects[s].label, graph.objects[o].label) for s, o in asked]
            out.append(np.array([[k[p] for p in source.predicates] for k in known]).reshape(len(asked), -1))
        return out

    return scores


class Bench:
    def __init__(self, options: argparse.Namespace) -> None:
        self.recipe = load_recipe("all", options.set)
        self.sources = read_image_sources(options.images)
        if self.sources.held_out is None:
            raise SystemExit(f"{options.images} has no vrd")
        self.graphs, self.words = self.sources.held_out.graphs[: options.limit], self.sources.held_out.predicates
        self.vrd, self.seen = self.sources.training[0], self.sources.triplets()
        self.accelerator = Accelerator(mixed_precision="bf16" if torch.cuda.is_available() else "no")
        for s in self.sources.training:
            print(f"{s.name}: {len(s.graphs)} images, {len(s.predicates)} predicates")
        print(f"held out: {len(self.graphs)} images, {sum(len(g.relations) for g in self.graphs)} relations")
        print("| seed | method | steps | s | " + " | ".join(f"{k}, given / all" for k in COLUMNS) + " |")

    def model(self, seed: int) -> PSG4D:
        """As the recipe has it; its parts for space stay as they are."""
        torch.manual_seed(seed)
        config = self.recipe.model
        lm = LanguageModel.load(config.language_model, self.accelerator.device)
        return PSG4D(config, default_vocabulary(), lm).to(self.accelerator.device)

    def train(
        self, name: str, module: StageModule, items: Any, seed: int, recipe: StageRecipe, minutes: float | None = None
    ) -> tuple[int, float]:
        recipe = sized(recipe, self.accelerator.device, len(os.sched_getaffinity(0)))
        seconds = None if minutes is None else 60 * minutes
        with tempfile.TemporaryDirectory() as folder:
            stage = Stage(name, recipe, module, items)
            result = train_stage(stage, Path(folder), self.accelerator, seed=seed, seconds=seconds, quiet=False)
        return result.steps, result.elapsed_s

    def report(self, seed: int, name: str, scores: ImageScores, steps: int, seconds: float) -> None:
        given, every = (
            image_recall(self.graphs, self.words, scores, self.seen, all_pairs=everything)
            for everything in (False, True)
        )
        cells = (f"{100 * given.get(k, math.nan):.1f} / {100 * every.get(k, math.nan):.1f}" for k in COLUMNS)
        print(f"| {seed} | {name} | {steps} | {seconds:.0f} | " + " | ".join(cells) + " |", flush=True)

    def run(self, seed: int, steps: int, minutes: float) -> None:
        simple = StageRecipe(steps=steps, batch=BATCH, micro_batch=BATCH, workers=0)
        data = ImageDataset([self.vrd], ImageRecipe(), seed)
        own = [data[i] for i in range(steps * BATCH)]
        for name, labels in (("geometry MLP", False), ("labels + geometry MLP", True)):
            torch.manual_seed(seed)
            mlp = Mlp(self.vrd, labels)
            self.report(seed, name, mlp.scores, *self.train(name, mlp, own, seed, simple))
        alone = replace(self.recipe.stage1_2d.losses, language_model_share=0.0)
        everything = ImageDataset(self.sources.training, ImageRecipe(), seed)
        for name, items, factor in (("head, VRD", own, 1), ("head, all sets", everything, 2)):
            model = self.model(seed)
            longer = replace(simple, steps=factor * steps)  # as many of VRD's images: half of all are
            took = self.train(name, Stage1Losses(model, alone), items, seed, longer)
            self.report(seed, name, image_scores(model, self.words, language_model=False), *took)
        if minutes:
            model, stage = self.model(seed), self.recipe.stage1_2d
            items = ImageDataset(self.sources.training, stage.images, seed)
            took = self.train("stage 1", Stage1Losses(model, stage.losses), items, seed, stage, minutes)
            self.both_ways(seed, model, *took)

    def both_ways(self, seed: int, model: PSG4D, steps: int, seconds: float) -> None:
        """With and without the language model."""
        for name, with_model in (("stage 1", True), ("stage 1, no LM", False)):
            self.report(seed, name, image_scores(model, self.words, language_model=with_model), steps, seconds)

    def trained(self, folder: Path) -> None:
        training = read_manifest(folder).training
        runs = (run.get("stages", run) for run in lineage(training))
        values = next(stages["stage1_2d"] for stages in runs if "stage1_2d" in stages)
        model = load_checkpoint(folder, self.accelerator.device)
        self.both_ways(training["seed"], model, values["steps"], 60 * values["minutes"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--images", type=Path, default=os.environ.get("PSG4D_IMAGES"), required="PSG4D_IMAGES" not in os.environ
    )
    parser.add_argument("--steps", type=int, default=700, help=f"steps of {BATCH} images without a language model")
    parser.add_argument("--minutes", type=float, default=0.0, help="of stage 1 with the language model; 0: without it")
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="weights to judge too; --seeds: train nothing")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--limit", type=int, help="held-out images that are asked; all by default")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the recipe")
    options = parser.parse_args()
    bench = Bench(options)
    start = time.perf_counter()
    frequency = frequency_scores(bench.vrd)
    bench.report(0, "frequency", frequency, 0, time.perf_counter() - start)
    for seed in options.seeds:
        bench.run(seed, options.steps, options.minutes)
    if options.checkpoint:
        bench.trained(options.checkpoint)


if __name__ == "__main__":
    main()
