"""Backends against each other on the same windows, in turns: how long each stage takes, and what they answer.

``python benchmarks/backends.py [--checkpoint DIR] [--windows 16] [--size 168x126] [--backends torch onnxruntime]``;
needs the simulator. Full windows of a simulated recording, each with one new frame. Every window goes through all
backends before the next one, each time another one first, so that a machine that grows slower or faster does so for
all. Median and 95th percentile of each stage in milliseconds; then, backend by backend, in how many
windows labels and relations are those of the first one, and how far scores are apart. The language model's numbers are
the usual ones; ``--float32`` takes them out of the comparison of answers.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from psg4d_ros.checkpoint import default_checkpoint
from psg4d_ros.config import PipelineConfig
from psg4d_ros.evaluation.bench.agreement import how_alike
from psg4d_ros.evaluation.bench.paths import PathRun, Paths
from psg4d_ros.evaluation.bench.speed import Stages
from psg4d_ros.evaluation.bench.streams import SIMULATED_INTERVAL_S, Stream, simulated_stream
from psg4d_ros.runtime.naming import warm_phrases
from psg4d_ros.structures import SceneGraph
from psg4d_ros.torch_environment import prepare_torch

BACKENDS = ("torch", "onnxruntime", "tensorrt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=None, metavar="DIR")
    parser.add_argument("--backends", nargs="+", default=["torch", "onnxruntime"], choices=BACKENDS)
    parser.add_argument("--windows", type=int, default=16, metavar="N")
    parser.add_argument("--size", default="168x126", help="rays of the depth camera across and down")
    parser.add_argument("--float32", action="store_true", help="the language model in float32")
    options = parser.parse_args()
    prepare_torch()
    config = PipelineConfig()
    interval_s = min(config.window.frame_interval_s, SIMULATED_INTERVAL_S)
    window = replace(config.window, min_frames=1, frame_interval_s=interval_s)
    numbers = "float32" if options.float32 else config.inference.language_model_dtype
    inference = replace(config.inference, language_model_dtype=numbers)
    paths = Paths(options.checkpoint or default_checkpoint(), replace(config, window=window, inference=inference))
    width, height = (int(n) for n in options.size.split("x"))
    stream = simulated_stream(window.num_frames + options.windows, (width, height))
    print(f"{paths.model.device}, {torch.get_num_threads()} threads, language model in ", end="")
    print(f"{str(paths.model.language_model.dtype).removeprefix('torch.')}; {options.windows} windows of ", end="")
    print(f"{window.num_frames} frames, {len(stream.frames[0])} points each\n")
    stages, graphs = in_turns(
        {name: start(paths, stream, name) for name in options.backends}, stream, window.num_frames
    )
    first, *others = options.backends
    print("| stage | " + " | ".join(f"{name} p50 | p95" for name in options.backends) + " |")
    print("|---|" + "---|---|" * len(options.backends))
    for stage in stages[first].values:
        row = [np.percentile(stages[name].values[stage], p) for name in options.backends for p in (50, 95)]
        print(f"| {stage} | " + " | ".join(f"{ms:.1f}" for ms in row) + " |")
    for name in others:
        print(f"\n{name} against {first}:")
        print(how_alike(graphs[first], graphs[name], inference.relation_threshold))


def start(paths: Paths, stream: Stream, backend: str) -> PathRun:
    config = paths.config
    chosen = paths.with_config(replace(config, inference=replace(config.inference, backend=backend)))
    predictor = chosen.predictor("ours")
    if predictor.backend.name != backend:
        raise SystemExit(f"{backend}: {predictor.backend.problem or predictor.backend.name}")
    warm_phrases(paths.model, predictor.vocabulary)
    run = chosen.start(predictor, stream)
    run.pipeline.warm_up()
    return run


def in_turns(
    runs: dict[str, PathRun], stream: Stream, full: int
) -> tuple[dict[str, Stages], dict[str, list[SceneGraph]]]:
    """Stage times and graphs of all full windows but the first, which encodes every frame."""
    stages: dict[str, Stages] = {name: Stages() for name in runs}
    graphs: dict[str, list[SceneGraph]] = {name: [] for name in runs}
    order = list(runs)
    for number, frame in enumerate(stream.frames, start=1):
        windows = {name: run.push(frame) for name, run in runs.items()}
        order.append(order.pop(0))
        for name in order:
            window = windows[name]
            if window is None or number < full:
                continue
            timed = runs[name].infer(window)
            if number > full:
                stages[name].add(timed)
                graphs[name].append(timed.graph)
    return stages, graphs


if __name__ == "__main__":
    main()
