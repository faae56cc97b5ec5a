"""Does memory stay flat over many updates?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from psg4d_ros.config import DecoderConfig, EncoderConfig, LanguageModelConfig, ModelConfig, PipelineConfig
from psg4d_ros.evaluation.bench.streams import wandering_boxes
from psg4d_ros.evaluation.memory import resident_mb
from psg4d_ros.model.language_model import tiny_language_model
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.pipeline import ScenePipeline
from psg4d_ros.runtime.predictor import WindowPredictor
from psg4d_ros.vocabulary import default_vocabulary

TINY_POINTS, FULL_POINTS = 500, 8000
_SAMPLES = 200
# Memory is flat when the second half of a run adds no more than this share of what the process holds.
FLAT = 0.01
# Fewer updates only show how window, cache and tracks fill up.
_FEWEST = 100
_LEVEL = (1.0, 0, 0, 0, 0, 1.0, 0, 0, 0, 0, 1.0, 0, 0, 0, 0, 1.0)


def tiny_predictor(config: PipelineConfig, device: torch.device) -> WindowPredictor:
    """A predictor with random weights, a few channels wide, and a tiny language model; the same every time."""
    size = ModelConfig(
        encoder=EncoderConfig(channels=(8, 16, 16, 16)),
        language_model=LanguageModelConfig(source="tiny", max_scene_tokens=64),
        decoder=DecoderConfig(num_slots=8, proposals=5, dim=32, heads=2, layers=2),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = PSG4D(size, default_vocabulary(), tiny_language_model()).to(device).eval()
    return WindowPredictor(model, config.inference, trained=False, num_frames=config.window.num_frames)


def measure_memory(
    config: PipelineConfig,
    predictor: WindowPredictor,
    updates: int,
    num_points: int,
    progress: Callable[[str], None] = lambda step: None,
) -> dict[str, Any]:
    """Run updates over boxes that wander without end, and note the memory of process and GPU, in MiB, on the way.

    The result's ``host`` and ``device`` (None on a CPU): ``start``, ``end``, ``peak``, ``growth_second_half`` (a line
    through the second half, over its length) and whether that is ``flat``, None for few updates. ``samples``:
    [update, host, device].
    """
    coordinates = replace(config.coordinates, target_frame="", T_gravity_sensor=_LEVEL)
    pipeline = ScenePipeline(replace(config, coordinates=coordinates), predictor, model_id="", model_sha256="")
    pipeline.warm_up()
    device = predictor.backend.device
    every = max(1, updates // _SAMPLES)
    interval_s = max(config.window.frame_interval_s, 0.01)
    frames = islice(wandering_boxes(num_points, interval_s), updates)
    samples = [_sample(0, device)]
    for number, frame in enumerate(frames, start=1):
        pipeline.update(frame)
        if number % every == 0 or number == updates:
            progress(f"memory at {num_points} points: update {number} of {updates}")
            samples.append(_sample(number, device))
    return {
        "updates": updates,
        "points": num_points,
        "host": memory_trend([(n, host) for n, host, _ in samples if host is not None]),
        "device": memory_trend([(n, on_gpu) for n, _, on_gpu in samples if on_gpu is not None]),
        "samples": samples,
    }


def memory_trend(samples: list[tuple[int, float]]) -> dict[str, Any] | None:
    """What a series of (update, MiB) says, see measure_memory; None for an empty one."""
    if not samples:
        return None
    numbers, values = (np.array(column, np.float64) for column in zip(*samples, strict=True))
    later = numbers >= numbers[-1] / 2
    growth = 0.0
    if later.sum() >= 2:
        slope = float(np.polyfit(numbers[later], values[later], 1)[0])
        growth = slope * float(np.ptp(numbers[later]))
    return {
        "start": round(float(values[0]), 1),
        "end": round(float(values[-1]), 1),
        "peak": round(float(values.max()), 1),
        "growth_second_half": round(growth, 2),
        "flat": growth <= FLAT * float(values[-1]) if numbers[-1] >= _FEWEST else None,
    }


def _sample(number: int, device: torch.device) -> tuple[int, float | None, float | None]:
    on_gpu = torch.cuda.memory_allocated(device) / 2**20 if device.type == "cuda" else None
    return number, resident_mb(), on_gpu
