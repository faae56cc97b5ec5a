"""One window in, one WindowPrediction out: cached encoder, mask tubes, and the two turns of chained inference."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from psg4d_ros.config import InferenceConfig
from psg4d_ros.model.features import FrameFeatures
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.runtime.backends import make_backend
from psg4d_ros.runtime.frame_cache import FrameCache
from psg4d_ros.runtime.generating import Writer
from psg4d_ros.runtime.naming import name_instances, warm_phrases
from psg4d_ros.runtime.panoptic import Segmentation, segment
from psg4d_ros.runtime.relating import ask_pairs, measure_pairs, score_relations
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

log = logging.getLogger(__name__)
T = TypeVar("T")
OUT_OF_MEMORY = "language_model_out_of_memory"


class WindowPredictor:
    """Runs the model on windows. Keeps only the frame cache between calls; one call at a time.

    vocabulary: the words answers are chosen from; it and ``config`` may be exchanged between calls. counts: outcomes of
    the language model that were not an answer.
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
        self.writer = Writer(model.language_model)
        self.counts: Counter[str] = Counter()

    @torch.inference_mode()
    def predict(self, window: Window) -> WindowPrediction:
        """Instances and relations of one window. Deterministic for the same window, weights and backend."""
        # Read once: another thread may exchange them while this window is under way.
        vocabulary, config = self.vocabulary, self.config
        clock = StageClock(self.backend.device)
        frames = self.cache.features(window, clock)
        if not sum(len(f.fine) for f in frames):
            return self._finish(window, frames, None, (), (), clock)
        with clock.stage("aggregate"):
            tokens = self.model.gather(frames)
        turn1 = None
        if config.use_language_model:
            with clock.stage("turn1"):
                turn1 = self._or_none(lambda: self.model.chain.turn1(self.model.projector(tokens.tokens)))
        with clock.stage("masks"):
            output = self.backend.decode_masks(None if turn1 is None else turn1.slot_hidden, tokens)
            segmentation = segment(output, frames, config)
        with clock.stage("name"):
            instances = name_instances(self.model, output, segmentation, turn1, vocabulary, config)
            if turn1 is not None and config.decoding == "generate":
                instances = self.writer.rename(instances, segmentation, turn1, vocabulary, config, self.counts)
        relations: tuple[RelationPrediction, ...] = ()
        if config.relations and len(instances) > 1:
            with clock.stage("turn2"):
                pairs = measure_pairs(segmentation, instances, window, frames, config.max_pairs)
                turn2 = None
                if turn1 is not None:
                    t1 = turn1
                    turn2 = self._or_none(lambda: ask_pairs(self.model, output, segmentation, instances, t1, pairs))
                if turn2 is not None and config.decoding == "generate":
                    relations = self.writer.relate(turn2, pairs, vocabulary, config, self.counts)
                else:
                    relations = score_relations(self.model, instances, turn2, pairs, vocabulary, config)
        return self._finish(window, frames, segmentation, instances, relations, clock, without_llm=turn1 is None)

    def _or_none(self, step: Callable[[], T]) -> T | None:
        """The result of a step of the language model, or None (counted) when it does not fit into memory."""
        try:
            return step()
        except torch.OutOfMemoryError as error:
            self.counts[OUT_OF_MEMORY] += 1
            log.warning("the language model ran out of memory, this window goes on without it: %s", error)
        if self.backend.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _finish(
        self,
        window: Window,
        frames: list[FrameFeatures],
        segmentation: Segmentation | None,
        instances: tuple[InstancePrediction, ...],
        relations: tuple[RelationPrediction, ...],
        clock: StageClock,
        *,
        without_llm: bool = False,
    ) -> WindowPrediction:
        none = tuple(np.zeros(len(f.frame), np.int32) for f in window.frames)
        labels = none if segmentation is None else segmentation.point_instance
        status, text = self._status(window, frames, without_llm)
        return WindowPrediction(window, instances, labels, relations, status, text, clock.stage_ms)

    def _status(self, window: Window, frames: list[FrameFeatures], without_llm: bool) -> tuple[GraphStatus, str]:
        """The gravest status, and one line that names all of them and where gravity came from."""
        found: list[tuple[GraphStatus, str]] = []
        newest = window.newest
        if not len(newest.frame):
            found.append((GraphStatus.EMPTY_INPUT, "the newest cloud has no finite points"))
        if newest.stale_tf:
            found.append((GraphStatus.STALE_TF, "the newest cloud was placed with an older transform"))
        if without_llm:
            found.append(
                (GraphStatus.DEGRADED_NO_LLM, "without the language model: labels and relations from geometry")
            )
        if newest.frame.dropped or frames[-1].truncated:
            found.append((GraphStatus.DEGRADED_TRUNCATED, "the cloud was thinned to the configured size"))
        if not self.trained:
            found.append((GraphStatus.UNTRAINED, "untrained weights: labels, masks and relations mean nothing"))
        texts = [text for _, text in found] + [f"gravity from {newest.alignment}"]
        return (found[0][0] if found else GraphStatus.OK), "; ".join(texts)

    def warm_up(self, num_frames: int) -> None:
        """Run synthetic windows of one and of ``num_frames`` frames through every stage, and forget them."""
        warm_phrases(self.model, self.vocabulary)
        rng = np.random.default_rng(0)
        identity, index = np.eye(4), np.arange(4000, dtype=np.int64)
        frames = []
        for number in range(num_frames):
            points = rng.uniform((-2, -2, 0), (2, 2, 0.3), (len(index), 3)).astype(np.float32)
            frame = PointFrame(points, None, None, index, (number + 1) * 250_000_000, "warm_up")
            frames.append(AlignedFrame(frame, points, identity, "identity", "warm_up", identity))
        for count in sorted({1, num_frames}):
            # No run uses a negative epoch, so nothing cached here is taken for a frame of a run.
            self.predict(Window(tuple(frames[:count]), epoch=-2, sequence=0, origin=np.zeros(3)))
        self.cache.clear()
        self.counts.clear()
