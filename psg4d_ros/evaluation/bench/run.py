"""One run of the benchmarks: what is measured, in which order, and the result with its keys."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from psg4d_ros.config import PipelineConfig
from psg4d_ros.evaluation.bench.agreement import Agreement, compare_graphs
from psg4d_ros.evaluation.bench.floors import count_work, floors_ms, measure_rates
from psg4d_ros.evaluation.bench.growth import measure_growth
from psg4d_ros.evaluation.bench.memory import FULL_POINTS, TINY_POINTS, measure_memory, tiny_predictor
from psg4d_ros.evaluation.bench.paths import Paths
from psg4d_ros.evaluation.bench.plan import PARTS, Plan
from psg4d_ros.evaluation.bench.speed import measure_speed
from psg4d_ros.evaluation.bench.streams import SIMULATED_INTERVAL_S, Stream, bundled_stream, simulated_stream

# Of the cores that others kept busy when the run began: beyond it, times say little.
BUSY = 0.3


def bench(
    checkpoint: Path,
    config: PipelineConfig,
    plan: Plan,
    *,
    parts: Collection[str] = PARTS,
    progress: Callable[[str], None] = lambda step: None,
) -> dict[str, Any]:
    """Measure, and return plain values with the keys of the command line's contract.

    parts: which of PARTS; the result has no keys of the others. progress: told of each step. Raises Psg4dError where
    checkpoint, bundled recording or simulator are missing.
    """
    machine = _machine()
    paths = Paths(checkpoint, _sized(config, plan))
    paths = paths.with_config(_answering(paths))
    needed = {
        "graphs": plan.compared,
        "speed": paths.config.window.num_frames + plan.windows,
        "growth": max(plan.growth.frames) + plan.growth.repeats + 1,
    }
    wanted = max((frames for part, frames in needed.items() if part in parts), default=0)
    simulated = simulated_stream(wanted, plan.image) if wanted else None
    backend = paths.predictor("ours").backend
    result: dict[str, Any] = {
        "model": {"id": paths.manifest.model_id, "sha256": paths.sha256, "trained": paths.manifest.trained},
        "backend": backend.name,
        "backend_problem": backend.problem,
        "device": str(paths.model.device),
        "dtype": str(paths.model.language_model.dtype).removeprefix("torch."),
        "machine": machine,
        "window_frames": paths.config.window.num_frames,
        "max_pairs": paths.config.inference.max_pairs,
    }
    if simulated is not None:
        if "graphs" in parts:
            agreements = compare_graphs(paths, [(bundled_stream(), None), (simulated, plan.compared)], progress)
            result |= _agreement_json(agreements)
            # An engine may be built, and fail on its first window: then another backend was compared.
            failed = [a.backend_problem for a in agreements if a.backend_problem]
            result["backend_problem"] = backend.problem or next(iter(failed), "")
        if "speed" in parts:
            result |= _speed(paths, plan, simulated, progress)
        if "growth" in parts:
            result["growth"] = measure_growth(paths, plan.growth, simulated, progress)
    if "memory" in parts:
        result["memory"] = _memory(paths, plan, progress)
    return result


def _speed(paths: Paths, plan: Plan, simulated: Stream, progress: Callable[[str], None]) -> dict[str, Any]:
    device, dtypes = paths.model.device, {torch.float32, paths.model.language_model.dtype}
    rates = measure_rates(device, sorted(dtypes, key=str), plan.probe_mb)
    speed = measure_speed(paths, simulated, plan.windows, plan.slow_windows, progress)
    works = count_work(paths, simulated)
    stages, floors = speed.stages["ours"].p50(), floors_ms(works, rates)
    return {
        "ratio_to_naive": speed.ratio("naive"),
        "ratio_to_naive_generate": speed.ratio("naive", "ours, generate"),
        "ratio_to_plain": speed.ratio("plain"),
        "stage_ms": speed.stages["ours"].to_json(),
        "speed": speed.to_json(),
        "rates": rates.to_json(),
        "work": [vars(work) for work in works],
        "floor_ms": {stage: round(ms, 4) for stage, ms in floors.items()},
        "ratio_to_floor": {stage: round(stages[stage] / ms, 2) for stage, ms in floors.items() if stage in stages},
    }


def _memory(paths: Paths, plan: Plan, progress: Callable[[str], None]) -> dict[str, Any]:
    # The memory of an update that finds and relates something, so thresholds are open.
    inference = replace(paths.config.inference, presence_threshold=0.0, relation_threshold=0.0)
    busy = replace(paths.config, inference=inference)
    tiny = tiny_predictor(busy, paths.model.device)
    return {
        "tiny": measure_memory(busy, tiny, plan.tiny_updates, TINY_POINTS, progress),
        "full": measure_memory(paths.config, paths.predictor("ours"), plan.full_updates, FULL_POINTS, progress),
    }


def _sized(config: PipelineConfig, plan: Plan) -> PipelineConfig:
    """With the plan's pairs, and with a window that takes every frame and gives a graph for each."""
    window, inference = config.window, config.inference
    interval_s = min(window.frame_interval_s, SIMULATED_INTERVAL_S)
    return replace(
        config,
        window=replace(window, min_frames=1, frame_interval_s=interval_s),
        inference=replace(inference, max_pairs=min(plan.pairs, inference.max_pairs)),
    )


def _answering(paths: Paths) -> PipelineConfig:
    """Random weights are sure of nothing, and no relation would pass the threshold: then the best ones are shown."""
    if paths.manifest.trained:
        return paths.config
    return replace(paths.config, inference=replace(paths.config.inference, relation_threshold=0.0))


def _agreement_json(agreements: list[Agreement]) -> dict[str, Any]:
    return {
        "same_graphs": all(a.same for a in agreements),
        "same_graphs_float32": all(a.same for a in agreements if a.numbers == "float32"),
        "max_score_difference": max(a.max_score_difference for a in agreements),
        "agreement": [a.to_json() for a in agreements],
    }


def _machine() -> dict[str, Any]:
    """What ran it, and how busy it was before: a share of the cores, None where the system does not say."""
    cores = os.cpu_count() or 1
    try:
        load: float | None = round(os.getloadavg()[0] / cores, 2)
    except OSError:
        load = None
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cores": cores,
        "threads": torch.get_num_threads(),
        "load": load,
        "busy": load is not None and load > BUSY,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
