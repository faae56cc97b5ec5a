"""Passes launched as CUDA graphs against the same launched kernel by kernel: how long they take, and what they answer.

``python benchmarks/cuda_graphs.py [--checkpoint DIR] [--windows 16] [--size 168x126] [--decoding generate]``; needs the
simulator. On a CPU there are no graphs: the functions are run again on the padded buffers in their place. Then what is
compared is padding, cutting and copying, and times say nothing.

First the language model alone, on random tokens: one pass, and a second one of more tokens after it. ``difference``:
the largest of a hidden state, over their mean size. Then full windows of a simulated recording, each with one new
frame: median and 95th percentile of each stage, and whether the graphs of all windows, all relations whatever their
score, are those of the pass without CUDA graphs. All of it in the language model's usual numbers, and in float32.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from psg4d_ros.checkpoint import default_checkpoint
from psg4d_ros.config import PipelineConfig
from psg4d_ros.evaluation.bench.agreement import how_alike
from psg4d_ros.evaluation.bench.paths import Paths, wait_for
from psg4d_ros.evaluation.bench.speed import Stages
from psg4d_ros.evaluation.bench.streams import SIMULATED_INTERVAL_S, Stream, simulated_stream
from psg4d_ros.model.language_model import KeyValueCache, LanguageModel, visibility_bias
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.runtime.cuda_graphs import CapturedReading, Function, GraphCapture, Replay, Tensors
from psg4d_ros.runtime.naming import warm_phrases
from psg4d_ros.runtime.predictor import WindowPredictor
from psg4d_ros.structures import SceneGraph

TOKENS = ((81, 0), (200, 100), (401, 200), (401, 400))  # of a first pass, of a second one after it
TOKENS_ON_A_CPU = ((81, 20),)


def run_again(function: Function, inputs: Tensors) -> Replay:
    """Stands in for the capture of a graph: fixed outputs, overwritten by each run."""
    outputs = tuple(output.clone() for output in function(*inputs))

    def replay() -> Tensors:
        for fixed, new in zip(outputs, function(*inputs), strict=True):
            fixed.copy_(new)
        return outputs

    return replay


@torch.inference_mode()
def language_model_passes(lm: LanguageModel) -> None:
    """Print a table of passes of the language model alone."""
    on_gpu = lm.device.type == "cuda"
    captured = CapturedReading(lm, GraphCapture(lm.device) if on_gpu else run_again)
    forms: tuple[Callable[..., tuple[Tensor, KeyValueCache]], ...] = (lm, captured)
    generator = torch.Generator().manual_seed(0)

    def milliseconds(run: Callable[[], object]) -> float:
        times = []
        for _ in range(8 if on_gpu else 1):
            wait_for(lm.device)
            start = time.perf_counter()
            run()
            wait_for(lm.device)
            times.append(1000 * (time.perf_counter() - start))
        return statistics.median(times[-5:])

    print(f"\nlanguage model, {lm.dtype}\n| tokens | after | eager ms | graph ms | difference |\n|---|---|---|---|---|")
    for first, more in TOKENS if on_gpu else TOKENS_ON_A_CPU:
        total = first + more
        x = (torch.randn(1, total, lm.hidden_size, generator=generator) * lm.token_rms).to(lm.device)
        bias = visibility_bias(torch.ones(total, total, dtype=torch.bool, device=lm.device).tril())
        positions = torch.arange(total, device=lm.device)
        caches: list[KeyValueCache | None] = [None, None]
        for part in (slice(0, first), slice(first, total)):
            if part.start == part.stop:
                continue
            arguments = x[:, part], bias[part, : part.stop], positions[part]
            answers, taken = [], []
            for number, by in enumerate(forms):
                read = partial(by, *arguments, caches[number])
                hidden, caches[number] = read()
                answers.append(hidden.float())
                taken.append(milliseconds(read))
            difference = (answers[0] - answers[1]).abs().max() / answers[0].abs().mean()
            print(f"| {part.stop - part.start} | {part.start} | {taken[0]:.2f} | {taken[1]:.2f} | {difference:.1e} |")
    print(captured.graphs.problem or f"{captured.graphs.captures} captures")


def windows(paths: Paths, model: PSG4D, stream: Stream, *, captured: bool) -> tuple[Stages, list[SceneGraph]]:
    """Stage times of all full windows but the first, which encodes every frame, and the graphs of all."""
    inference = replace(paths.config.inference, cuda_graphs=captured)
    full = paths.config.window.num_frames
    capture = run_again if captured and model.device.type == "cpu" else None
    predictor = WindowPredictor(model, inference, trained=paths.manifest.trained, num_frames=full, capture=capture)
    warm_phrases(model, predictor.vocabulary)
    run = paths.start(predictor, stream)
    run.pipeline.warm_up()
    stages = Stages()
    graphs: list[SceneGraph] = []
    for number, frame in enumerate(stream.frames, start=1):
        window = run.push(frame)
        if window is None or number < full:
            continue
        timed = run.infer(window)
        if graphs:
            stages.add(timed)
        graphs.append(timed.graph)
    if predictor.captured is not None:
        for part in (predictor.captured.reading.graphs, predictor.captured.votes.graphs):
            print(f"{part.name}: {part.problem or f'{part.captures} captures'}")
    return stages, graphs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=None)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--size", default="168x126", help="rays of the depth camera across and down")
    parser.add_argument("--decoding", choices=("score", "generate"), default="score")
    options = parser.parse_args()
    config = PipelineConfig()
    threshold = config.inference.relation_threshold
    interval_s = min(config.window.frame_interval_s, SIMULATED_INTERVAL_S)
    window = replace(config.window, min_frames=1, frame_interval_s=interval_s)
    inference = replace(config.inference, backend="torch", decoding=options.decoding, relation_threshold=0.0)
    paths = Paths(options.checkpoint or default_checkpoint(), replace(config, window=window, inference=inference))
    device = paths.model.device
    width, height = (int(n) for n in options.size.split("x"))
    stream = simulated_stream(window.num_frames + options.windows, (width, height))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU: functions run again, no graphs"
    print(f"{name}, torch {torch.__version__}; {options.windows + 1} windows of {window.num_frames} frames, ", end="")
    print(f"{len(stream.frames[0])} points each")
    for model in {p.language_model.dtype: p for p in (paths.model, paths.plain)}.values():
        language_model_passes(model.language_model)
        print(f"\nwindows, {model.language_model.dtype}")
        (eager, plain), (graphs, ours) = (windows(paths, model, stream, captured=c) for c in (False, True))
        print("| stage | eager p50 | p95 | graphs p50 | p95 |\n|---|---|---|---|---|")
        for stage, values in eager.values.items():
            row = [np.percentile(v, p) for v in (values, graphs.values[stage]) for p in (50, 95)]
            print(f"| {stage} | " + " | ".join(f"{ms:.1f}" for ms in row) + " |")
        print(how_alike(plain, ours, threshold))


if __name__ == "__main__":
    main()
