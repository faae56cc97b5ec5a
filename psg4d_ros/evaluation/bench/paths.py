"""The paths that are measured side by side: models loaded once, a pipeline per path and recording."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from psg4d_ros.checkpoint import load_checkpoint, manifest_sha256, read_manifest
from psg4d_ros.config import PipelineConfig
from psg4d_ros.evaluation.bench.naive import naive_predictor
from psg4d_ros.evaluation.bench.plain import plain_predictor
from psg4d_ros.evaluation.bench.streams import Stream
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.pipeline import ScenePipeline
from psg4d_ros.runtime.devices import choose_device, language_model_dtype
from psg4d_ros.runtime.given import GivenTubes
from psg4d_ros.runtime.predictor import WindowPredictor
from psg4d_ros.structures import PointFrame, SceneGraph, Window

Kind = Literal["ours", "ours in float32", "plain", "naive"]


@dataclass(frozen=True)
class Timed:
    """A graph and how long it took: wall_ms from the window on; stage_ms as the predictor says."""

    graph: SceneGraph
    wall_ms: float

    @property
    def stage_ms(self) -> dict[str, float]:
        return self.graph.stage_ms


class PathRun:
    """One path on its way through one recording."""

    def __init__(self, pipeline: ScenePipeline) -> None:
        self.pipeline = pipeline
        self._device = pipeline.predictor.backend.device

    def push(self, frame: PointFrame) -> Window | None:
        """See ScenePipeline."""
        return self.pipeline.push(frame)

    def infer(self, window: Window, given: GivenTubes | None = None) -> Timed:
        """See ScenePipeline; a GPU's work is waited for."""
        wait_for(self._device)
        start = time.perf_counter()
        graph = self.pipeline.infer(window, given)
        wait_for(self._device)
        return Timed(graph, (time.perf_counter() - start) * 1000.0)


class Paths:
    """Models of one checkpoint and how to run them.

    config: the pipeline's settings for all paths. model: the one that ours and the naive path run. plain: the same
    weights loaded a second time, its language model in float32. Raises CheckpointError or ConfigError.
    """

    def __init__(self, checkpoint: Path, config: PipelineConfig) -> None:
        device = choose_device(config.inference.device)
        self.config = config
        self.model: PSG4D = load_checkpoint(
            checkpoint, device, language_model_dtype(config.inference.language_model_dtype)
        )
        self.plain: PSG4D = load_checkpoint(checkpoint, device, torch.float32)
        self.manifest = read_manifest(checkpoint)
        self.sha256 = manifest_sha256(checkpoint)

    def with_config(self, config: PipelineConfig) -> Paths:
        """The same models with other settings."""
        other = copy.copy(self)
        other.config = config
        return other

    def predictor(self, kind: Kind, decoding: str = "score") -> WindowPredictor:
        """A new predictor of a path; predictors of one kind share a model."""
        config = replace(self.config.inference, decoding=decoding)
        trained = self.manifest.trained
        if kind == "plain":
            return plain_predictor(self.plain, config, trained=trained)
        if kind == "naive":
            return naive_predictor(self.model, config, trained=trained)
        model = self.model if kind == "ours" else self.plain
        # Backends that reserve memory for a window give way to another one where it is larger.
        return WindowPredictor(model, config, trained=trained, num_frames=self.config.window.num_frames)

    def start(self, predictor: WindowPredictor, stream: Stream) -> PathRun:
        """A predictor at the start of a recording; it forgets what it saw before."""
        predictor.cache.clear()
        return PathRun(
            ScenePipeline(
                stream.configure(self.config),
                predictor,
                model_id=self.manifest.model_id,
                model_sha256=self.sha256,
                transforms=stream.transforms,
            )
        )


def wait_for(device: torch.device) -> None:
    """Until the GPU has done all that it was given; nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
