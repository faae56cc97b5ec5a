"""What each part of the method is worth: the same checkpoint trained on without it, on scarce data, and evaluated.

``python benchmarks/ablations.py --checkpoint RUN/stage2_geometry/checkpoint --out DIR --minutes N --seeds 0 1``

Every config/train_ablation_*.yaml trains on from the checkpoint, which stands after stage 2, with each seed, on the
same 60 scenes (train_scarce). Stage 3 lasts equally long in all; boxes have a stage 2 before it. Then `psg4d eval`
measures them, and switches that need no training are measured on the full model's weights. The table shows the mean
over the seeds and, after a plus-minus sign, how far the farthest seed is from it.

Of the minutes, six tenths are training; in the rest as many rows are evaluated as there is time for, and what is left
out is said. Everything is kept in --out, and the same command goes on where it was stopped. ``--processes N`` trains
and evaluates so many at a time: one GPU serves several, since what they wait for is Python.
``--without-language-model`` trains and evaluates every row by the path around it, which a CPU can do in an hour.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from psg4d_ros.config_files import pipeline_config
from psg4d_ros.data.simulation.production import SimulationJob, simulate
from psg4d_ros.evaluation.evaluate import evaluate_dataset
from psg4d_ros.evaluation.result_files import write_json
from psg4d_ros.torch_environment import prepare_torch
from psg4d_ros.training.recipe import Recipe, load_recipe
from psg4d_ros.training.run import CHECKPOINT, RunOptions, train

TRAINING_SHARE = 0.6
WITHOUT_MODEL = ("inference.use_language_model=false",)
TRAINED_WITHOUT = tuple(f"{stage}.losses.language_model_share=0" for stage in ("stage2_geometry", "stage3_joint"))


@dataclass(frozen=True)
class Row:
    """recipe: whose weights. settings: of the pipeline. paper: predicate R@20 that the paper reports, percent."""

    name: str
    recipe: str
    settings: tuple[str, ...] = ()
    paper: float | None = None


ROWS = (
    Row("full", "full", paper=38.7),
    Row("no 2D transfer", "no_transfer", paper=28.9),
    Row("no chaining (single turn)", "single_turn", paper=33.5),
    Row("no mask decoder (boxes)", "boxes", paper=35.1),
    Row("pipeline", "pipeline", paper=24.3),
    Row("no language model", "no_language_model", WITHOUT_MODEL),
    Row("full, language model off", "full", WITHOUT_MODEL),
    Row("full, generate", "full", ("inference.decoding=generate",)),
)
COLUMNS = (
    ("pred R@20", ("protocol", "tube", "predicate", "R", "20")),
    ("pred mR@20", ("protocol", "tube", "predicate", "mR", "20")),
    ("trip R@20", ("protocol", "tube", "triplet", "R", "20")),
    ("trip R@50", ("protocol", "tube", "triplet", "R", "50")),
    ("trip mR@50", ("protocol", "tube", "triplet", "mR", "50")),
    ("PQ", ("panoptic", "PQ")),
)


def units(recipe: Recipe) -> float:
    """How long a recipe trains, in lengths of its stage 3."""
    return sum(stage.share for stage in recipe.stages().values()) / recipe.stage3_joint.share


def make_scenes(recipe: Recipe, folder: Path) -> None:
    """The scenes that all recipes learn from, so that none pays for them."""
    s = recipe.scenes
    size = (s.size[0], s.size[1]) if s.size else None
    for split, number in (("train", s.number), ("val", s.validation)):
        simulate(SimulationJob(folder / split, split, 0, s.sensor, size, s.frames, s.rate_hz), number)


def train_all(recipes: dict[str, Recipe], options: argparse.Namespace, pool: Executor) -> None:
    """One run folder per recipe and seed; finished ones stay as they are."""
    data = options.data or options.out / "scenes"
    if options.data is None:
        make_scenes(next(iter(recipes.values())), data)
    total = sum(units(recipe) for recipe in recipes.values()) * len(options.seeds) / options.processes
    runs = []
    # The longest first, so that none of several processes is left with it at the end.
    for name in sorted(recipes, key=lambda name: -units(recipes[name])):
        for seed in options.seeds:
            minutes = None
            if options.minutes is not None:
                minutes = TRAINING_SHARE * options.minutes * units(recipes[name]) / total
            run = RunOptions(
                out=options.out / f"{name}-{seed}",
                minutes=minutes,
                steps=options.steps,
                seed=seed,
                start=options.checkpoint,
                data=data,
                resume=True,
            )
            runs.append(pool.submit(train, recipes[name], run))
    for done in runs:
        done.result()


def evaluate_all(rows: Sequence[Row], options: argparse.Namespace, pool: Executor) -> dict[tuple[str, str, int], Path]:
    """Files with results, by row, setting and seed, as many as there is time for."""
    minutes = float("inf") if options.minutes is None else (1 - TRAINING_SHARE) * options.minutes
    end = time.time() + 60.0 * minutes
    jobs = {
        (row.name, setting, seed): pool.submit(evaluate_row, row, seed, setting, options, end)
        for setting in options.settings
        for seed in options.seeds
        for row in rows
    }
    return {key: file for key, job in jobs.items() if (file := job.result()) is not None}


def evaluate_row(row: Row, seed: int, setting: str, options: argparse.Namespace, end: float) -> Path | None:
    """The file with the result of ``psg4d eval``; None when it is not there yet and the time is past ``end``."""
    file: Path = options.out / "eval" / f"{row.name.replace(' ', '_')}-{seed}-{setting}.json"
    if not file.is_file():
        if time.time() > end:
            return None
        result = evaluate_dataset(
            options.dataset,
            split=options.split if options.dataset == "sim" else None,
            setting=setting,  # type: ignore[arg-type]
            limit=options.limit,
            checkpoint=options.out / f"{row.recipe}-{seed}" / CHECKPOINT,
            # Weights that are run once are not worth the time of an export.
            config=pipeline_config(
                None,
                ("inference.backend=torch", *row.settings, *(WITHOUT_MODEL if options.without_language_model else ())),
            ),
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, result)
    return file


def value(result: dict[str, Any], path: Sequence[str]) -> float:
    """A figure in percent; NaN where there is none (masks in PredCls)."""
    found: Any = result
    for key in path:
        found = None if found is None else found[key]
    return float("nan") if found is None else 100 * float(found)


def table(results: dict[tuple[str, str], list[dict[str, Any]]], rows: Sequence[Row], settings: Sequence[str]) -> str:
    """Markdown, one table per setting. results: by row and setting, one per seed."""
    lines = []
    for setting in settings:
        lines += [f"\n{setting}, percent\n", f"| | seeds | {' | '.join(name for name, _ in COLUMNS)} | paper |"]
        lines.append("|---" * (len(COLUMNS) + 3) + "|")
        for row in rows:
            found = results.get((row.name, setting), [])
            cells = [_cell([value(r, path) for r in found]) for _, path in COLUMNS]
            paper = "" if row.paper is None else f"{row.paper}"
            lines.append(f"| {row.name} | {len(found)} | {' | '.join(cells)} | {paper} |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    if not values or not np.isfinite(values).all():
        return "-"
    mean = float(np.mean(values))
    return f"{mean:.1f} ± {max(abs(v - mean) for v in values):.1f}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="of the end of a stage 2")
    parser.add_argument("--out", type=Path, default=Path("out/ablations"), metavar="DIR")
    parser.add_argument("--minutes", type=float, help="for everything but the making of scenes")
    parser.add_argument("--steps", type=int, help="of every stage, in place of minutes or at most")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--data", type=Path, metavar="DIR", help="scenes in train/ and val/ (default: made in --out)")
    parser.add_argument("--dataset", default="sim", help="what is evaluated on (default: sim)")
    parser.add_argument("--split", default="test", help="of sim")
    parser.add_argument("--limit", type=int, default=12, help="scenes that are evaluated")
    parser.add_argument("--settings", nargs="+", default=["SGDet", "PredCls"], choices=["SGDet", "SGCls", "PredCls"])
    names = [row.name for row in ROWS]
    parser.add_argument("--rows", nargs="+", default=names, choices=names, metavar="ROW", help="of the table")
    parser.add_argument("--processes", type=int, default=1, help="trainings and evaluations at a time")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of every recipe")
    parser.add_argument("--without-language-model", action="store_true", help="every row, in training and evaluation")
    options = parser.parse_args(arguments)
    rows = [row for row in ROWS if row.name in options.rows]
    changes = (*options.set, *(TRAINED_WITHOUT if options.without_language_model else ()))
    recipes = {name: load_recipe(f"ablation_{name}", changes) for name in dict.fromkeys(r.recipe for r in rows)}
    options.out.mkdir(parents=True, exist_ok=True)
    prepare_torch()
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    threads = max(1, len(os.sched_getaffinity(0)) // options.processes)
    with ProcessPoolExecutor(options.processes, context, torch.set_num_threads, (threads,)) as pool:
        train_all(recipes, options, pool)
        files = evaluate_all(rows, options, pool)
    results: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for (name, setting, _), file in files.items():
        results.setdefault((name, setting), []).append(json.loads(file.read_text(encoding="utf-8")))
    print(table(results, rows, options.settings))
    left_out = len(rows) * len(options.seeds) * len(options.settings) - len(files)
    if left_out:
        print(f"{left_out} evaluations are left out, the time is up; the same command goes on", file=sys.stderr)


if __name__ == "__main__":
    main()
