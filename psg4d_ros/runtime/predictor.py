"""One window in, one WindowPrediction out: cached encoder, mask tubes, and the two turns of chained inference."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import torch

from psg4d_ros.config import InferenceConfig
from psg4d_ros.model.features import FrameFeatures
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.runtime.backends import make_backend
from psg4d_ros.runtime.frame_cache import FrameCache
from psg4d_ros.runtime.naming import Namer
from psg4d_ros.runtime.panoptic import segment
from psg4d_ros.runtime.relating import Relater
from psg4d_ros.runtime.stages import StageClock
from psg4d_ros.structures import (
    AlignedFrame,
    GraphStatus,
    InstancePrediction,
    PointFrame,
    RelationPrediction,
    Window,
    WindowPrediction,
)
from psg4d_ros.vocabulary import Vocabulary


class WindowPredictor:
    """Runs the model on windows. Keeps only the frame cache between calls; one call at a time.

    vocabulary: the words answers are chosen from; may be exchanged between calls.
    """

    def __init__(self, model: PSG4D, config: InferenceConfig, *, trained: bool) -> None:
        if config.threads:
            torch.set_num_threads(config.threads)
        self.model = model
        self.config = config
        self.trained = trained
        self.vocabulary: Vocabulary = model.vocabulary
        self.backend = make_backend(config.backend, model)
        self.cache = FrameCache(self.backend, model.config.encoder, config.max_voxels)
        self.namer = Namer(model, config)
        self.relater = Relater(model, config)
        self.counts: Counter[str] = Counter()

    @torch.inference_mode()
    def predict(self, window: Window) -> WindowPrediction:
        """Instances and relations of one window. Deterministic for the same window, weights and backend."""
        clock = StageClock(self.backend.device)
        vocabulary = self.vocabulary  # read once: another thread may exchange it
        frames = self.cache.features(window, clock)
        if not sum(len(f.fine) for f in frames):
            return self._finish(window, frames, (), None, (), clock)
        with clock.stage("aggregate"):
            tokens = self.model.gather(frames)
        turn1 = None
        if self.config.use_language_model:
            with clock.stage("turn1"):
                turn1 = self.model.chain.turn1(self.model.projector(tokens.tokens))
        with clock.stage("masks"):
            output = self.backend.decode_masks(turn1.slot_hidden if turn1 else None, tokens)
            segmentation = segment(output, frames, self.config)
        with clock.stage("name"):
            instances = self.namer.name(output, segmentation, turn1, vocabulary, self.counts)
        relations: tuple[RelationPrediction, ...] = ()
        if self.config.relations and turn1 is not None and len(instances) > 1:
            with clock.stage("turn2"):
                relations = self.relater.relate(output, segmentation, instances, turn1, vocabulary, frames, self.counts)
        return self._finish(window, frames, instances, segmentation.point_instance, relations, clock)

    def _finish(
        self,
        window: Window,
        frames: list[FrameFeatures],
        instances: tuple[InstancePrediction, ...],
        point_instance: tuple[np.ndarray, ...] | None,
        relations: tuple[RelationPrediction, ...],
        clock: StageClock,
    ) -> WindowPrediction:
        if point_instance is None:
            point_instance = tuple(np.zeros(len(f.frame), np.int32) for f in window.frames)
        status, text = self._status(window, frames)
        return WindowPrediction(window, instances, point_instance, relations, status, text, clock.stage_ms)

    def _status(self, window: Window, frames: list[FrameFeatures]) -> tuple[GraphStatus, str]:
        """The gravest status, and one line that names all of them and where gravity came from."""
        found: list[tuple[GraphStatus, str]] = []
        newest = window.newest
        if not len(newest.frame):
            found.append((GraphStatus.EMPTY_INPUT, "the newest cloud has no finite points"))
        if newest.stale_tf:
            found.append((GraphStatus.STALE_TF, "the newest cloud was placed with an older transform"))
        if not self.config.use_language_model:
            found.append((GraphStatus.DEGRADED_NO_LLM, "running without the language model: no relations"))
        if newest.frame.dropped or frames[-1].truncated:
            found.append((GraphStatus.DEGRADED_TRUNCATED, "the cloud was thinned to the configured size"))
        if not self.trained:
            found.append((GraphStatus.UNTRAINED, "untrained weights: labels, masks and relations mean nothing"))
        texts = [text for _, text in found] + [f"gravity from {newest.alignment}"]
        return (found[0][0] if found else GraphStatus.OK), "; ".join(texts)

    def warm_up(self, num_frames: int) -> None:
        """Run a synthetic room through every stage, phrase embeddings included, and forget it."""
        rng = np.random.default_rng(0)
        identity = np.eye(4)
        frames = []
        for number in range(num_frames):
            points = rng.uniform((-2, -2, 0), (2, 2, 0.3), (4000, 3)).astype(np.float32)
            frame = PointFrame(points, None, None, np.arange(4000, dtype=np.int64), number + 1, "warm_up")
            frames.append(AlignedFrame(frame, points, identity, "identity", "warm_up", identity))
        for stop in itertools.chain({1, num_frames}):
            self.predict(Window(tuple(frames[:stop]), epoch=-2, sequence=0, origin=np.zeros(3)))
        self.cache.clear()
        self.counts.clear()
