"""How long a training step takes, and how much of it a GPU works: ``python benchmarks/training_step.py --data DIR``.

DIR holds simulated scenes in ``train`` (``psg4d simulate DIR/train --split train --scenes 5``, or ``scenes`` of a run
folder). ``--stage``, ``--frames``, ``--batch`` and ``--language-model`` take several values; each combination is a row.
``--set`` as for ``psg4d train``. Windows are made before the clock starts.

``forward``, ``backward``, ``optimiser``: medians over ``--steps`` steps after two that do not count, each waited for on
a GPU. ``longest``: the longest whole step. On a GPU also the sum of its kernels' times, and how many kernels were
launched, in one further step under torch's profiler; ``--profile`` prints what took longest in it, on the GPU and on
the CPU. ``--cudnn-attention`` leaves cuDNN's attention on, and ``PSG4D_TRITON=off`` the fused convolution out.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.profiler import ProfilerActivity, profile

from psg4d_ros.checkpoint import default_checkpoint, load_checkpoint
from psg4d_ros.evaluation.bench.paths import wait_for
from psg4d_ros.training.items import iterate
from psg4d_ros.training.launch import accelerator
from psg4d_ros.training.optimization import Optimization
from psg4d_ros.training.real_stages import Sources, make_stage
from psg4d_ros.training.recipe import load_recipe
from psg4d_ros.training.stage import Stage

SCENES = 5
NOT_COUNTED = 2  # kernels are compiled and memory is reserved
ROWS = 14


class Steps:
    """Steps of a stage as ``psg4d train`` makes them, without the schedule."""

    def __init__(self, stage: Stage, accelerated: Accelerator) -> None:
        self.stage, self.accelerated = stage, accelerated
        self.optimization = Optimization(stage.module, stage.recipe)

    def take(self, number: int, windows: list[Any]) -> list[float]:
        """Milliseconds of forward pass, backward pass and optimiser."""
        device = self.accelerated.device
        marks = [time.perf_counter()]

        def mark() -> None:
            wait_for(device)
            marks.append(time.perf_counter())

        with self.accelerated.autocast():
            losses = self.stage.module(windows, torch.Generator().manual_seed(number))
        mark()
        torch.stack(list(losses.values())).sum().backward()
        mark()
        self.optimization.clip()
        self.optimization.step(number, 0.01)
        self.optimization.zero()
        mark()
        return [1000 * (end - start) for start, end in itertools.pairwise(marks)]


def profiled(steps: Steps, number: int, windows: list[Any]) -> tuple[float, int, str]:
    """Milliseconds of kernels, launches, and tables of what took longest, of one step on a GPU."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        steps.take(number, windows)
    events = recorded.key_averages()
    on_gpu = [e for e in events if e.device_type.name == "CUDA" and not getattr(e, "is_user_annotation", False)]
    launches = sum(e.count for e in events if "LaunchKernel" in e.key)
    tables = (
        events.table(sort_by=key, row_limit=ROWS, max_name_column_width=50)
        for key in ("self_cuda_time_total", "self_cpu_time_total")
    )
    return sum(e.self_device_time_total for e in on_gpu) / 1000, launches, "\n".join(tables)


def row(options: argparse.Namespace, accelerated: Accelerator, case: tuple[str, int, int, float]) -> None:
    """Measure and print one combination."""
    name, frames, batch, share = case
    device = accelerated.device
    on_gpu = device.type == "cuda"
    settings = {"batch": batch, "micro_batch": batch, "windows.frames": frames, "losses.language_model_share": share}
    recipe = load_recipe("all", [*(f"{name}.{key}={value}" for key, value in settings.items()), *options.set])
    model = load_checkpoint(options.checkpoint or default_checkpoint(), device)
    recipe = replace(recipe, model=model.config, scenes=replace(recipe.scenes, number=SCENES))
    sources = Sources(recipe, None, options.data / "train", options.data / "val")
    stage = make_stage(name, model, sources, 0, len(os.sched_getaffinity(0)))
    stage.module.train()
    windows = iterate(stage.items, 0, batch, range(batch), stage.recipe.workers)
    batches = [list(itertools.islice(windows, batch)) for _ in range(NOT_COUNTED + options.steps + 1)]
    del windows  # its processes end, and leave the cores to the steps
    steps = Steps(stage, accelerated)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    taken = torch.tensor([steps.take(number, items) for number, items in enumerate(batches[:-1])])[NOT_COUNTED:]
    columns = [name, frames, batch, share, *(f"{ms:.0f}" for ms in [*taken.median(dim=0).values, taken.sum(1).max()])]
    tables = ""
    if on_gpu:
        memory = torch.cuda.max_memory_allocated() / 2**30
        kernels_ms, launches, tables = profiled(steps, len(batches), batches[-1])
        columns += [f"{kernels_ms:.0f}", launches, f"{memory:.1f}"]
    print("| " + " | ".join(map(str, columns)) + " |", flush=True)
    if options.profile and tables:
        print(tables)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, default=None)
    parser.add_argument("--stage", nargs="+", choices=("stage2_geometry", "stage3_joint"), default=["stage2_geometry"])
    parser.add_argument("--frames", nargs="+", type=int, default=[4])
    parser.add_argument("--batch", nargs="+", type=int, default=[8], help="windows of a step")
    parser.add_argument("--language-model", nargs="+", type=float, default=[0.0], help="share of steps that run it")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--cudnn-attention", action="store_true")
    options = parser.parse_args()
    accelerated = accelerator()
    if options.cudnn_attention:
        torch.backends.cuda.enable_cudnn_sdp(True)
    on_gpu = accelerated.device.type == "cuda"
    print(f"{torch.cuda.get_device_name() if on_gpu else 'CPU'}, torch {torch.__version__}; milliseconds")
    titles = ["stage", "frames", "windows", "language model", "forward", "backward", "optimiser", "longest"]
    titles += ["kernels", "launches", "GiB"] if on_gpu else []
    print("| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|")
    for case in itertools.product(options.stage, options.frames, options.batch, options.language_model):
        row(options, accelerated, case)


if __name__ == "__main__":
    main()
