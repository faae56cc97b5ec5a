"""One window in, one WindowPrediction out: cached encoder, mask tubes, and the two turns of chained inference."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch

from psg4d_ros.config import InferenceConfig, WindowConfig
from psg4d_ros.errors import ContextError
from psg4d_ros.model.chain import SceneChain, Turn1
from psg4d_ros.model.features import FrameFeatures
from psg4d_ros.model.mask_decoder import MaskOutput
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.runtime.backends import SizeLimits, make_backend
from psg4d_ros.runtime.cuda_graphs import Capture, CapturedParts, GraphCapture, captured_parts
from psg4d_ros.runtime.frame_cache import FrameCache
from psg4d_ros.runtime.generating import Writer
from psg4d_ros.runtime.given import GivenTubes, segment_tubes
from psg4d_ros.runtime.joining import join_in_time
from psg4d_ros.runtime.naming import name_instances, warm_phrases
from psg4d_ros.runtime.panoptic import Segmentation, segment
from psg4d_ros.runtime.relating import CANDIDATES, ask_pairs, measure_pairs, score_relations, shortlist
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
OUT_OF_MEMORY, OUT_OF_CONTEXT = "language_model_out_of_memory", "language_model_out_of_context"
GRAVEST_FIRST = (
    GraphStatus.EMPTY_INPUT,
    GraphStatus.STALE_TF,
    GraphStatus.DEGRADED_NO_LLM,
    GraphStatus.DEGRADED_TRUNCATED,
    GraphStatus.UNTRAINED,
)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What is known of a window once its masks are decoded."""

    window: Window
    frames: list[FrameFeatures]
    output: MaskOutput
    segmentation: Segmentation
    turn1: Turn1 | None


class WindowPredictor:
    """Runs the model on windows. Keeps only the frame cache between calls; one call at a time.

    vocabulary: the words answers are chosen from; it and ``config`` may be exchanged between calls. counts: outcomes of
    the language model that were not an answer; and of given tubes, how many there were and how many had no slot.
    num_frames: of a full window; backends that reserve memory do so for it, longer ones run elsewhere.
    """

    def __init__(
        self,
        model: PSG4D,
        config: InferenceConfig,
        *,
        trained: bool,
        num_frames: int = WindowConfig.num_frames,
        capture: Capture | None = None,
    ) -> None:
        """capture: what captures graphs; by default CUDA does on a GPU, where ``config.cuda_graphs``."""
        if config.threads:
            torch.set_num_threads(config.threads)
        self.model = model
        self.config = config
        self.trained = trained
        self.vocabulary: Vocabulary = model.vocabulary
        self.backend = make_backend(
            config.backend,
            model,
            SizeLimits(config.max_voxels, num_frames),
            precision=config.engine_precision,
            wait=config.wait_for_engines,
        )
        self.cache = FrameCache(self.backend, model.config.encoder)
        self.captured: CapturedParts | None = None
        if capture is None and config.cuda_graphs and model.device.type == "cuda":
            capture = GraphCapture(model.device)
        if capture is not None:
            self.captured = captured_parts(model, capture)
        self.writer = Writer(model.language_model, None if self.captured is None else self.captured.reading)
        self.counts: Counter[str] = Counter()

    @torch.inference_mode()
    def predict(self, window: Window, given: GivenTubes | None = None, *, relate: bool = True) -> WindowPrediction:
        """Instances and relations of one window. Deterministic for the same window, weights and backend.

        relate: False leaves turn 2 out, and relations are None; where ``config.relations`` is off there are none.

        given: the tubes are these, and their labels where it has any; presence and size do not matter then. With all
        labels this is PredCls, without labels SGCls; instances are in the order of object ids (``given.ids_of``).
        Raises ValueError when it does not fit the window.
        A language model that runs out of memory or context costs this window the language model's part, no more.
        """
        # Read once: another thread may exchange them while this window is under way.
        vocabulary, config = self.vocabulary, self.config
        unasked = config.relations and not relate
        tubes = None if given is None else given.in_window(window)
        clock = StageClock(self.backend.device)
        newest = window.newest
        notes: list[tuple[GraphStatus, str]] = []
        if not len(newest.frame):
            notes.append((GraphStatus.EMPTY_INPUT, "the newest cloud has no finite points"))
        if newest.stale_tf:
            notes.append((GraphStatus.STALE_TF, "the newest cloud was placed with an older transform"))
        frames = self.cache.features(window, config, clock)
        if frames[-1].truncated:
            notes.append((GraphStatus.DEGRADED_TRUNCATED, "the cloud was thinned to the configured size"))
        if not sum(len(f.fine) for f in frames):
            return self._finish(window, None, (), None if unasked else (), notes, clock)
        with clock.stage("aggregate"):
            tokens = self.model.gather(frames, None if self.captured is None else self.captured.votes)

        failures: list[str] = []

        def ask(step: Callable[[], T]) -> T | None:
            """The result of a step of the language model; None, counted, when there is no room for it."""
            return self._or_none(step, failures)

        turn1: Turn1 | None = None
        if config.use_language_model:
            with clock.stage("turn1"):
                scene, proposed = tokens.tokens, tokens.proposals.states
                turn1 = ask(lambda: self._chain().turn1(self.model.projector(scene), proposed))
        else:
            failures.append("switched off")
        with clock.stage("masks"):
            output = self.backend.decode_masks(None if turn1 is None else turn1.slot_hidden, tokens)
            if tubes is None:
                segmentation = segment(output, frames, config)
            else:
                output, segmentation = segment_tubes(self.model, output, frames, window, tubes, config)
                without = int((segmentation.slots >= len(output.mask_logits)).sum())
                self.counts.update(given_tubes=len(tubes.objects), given_tubes_without_slot=without)
        with clock.stage("name"):
            instances = name_instances(self.model, output, segmentation, turn1, vocabulary, config)
            if turn1 is not None and config.decoding == "generate":
                slots, t1, scored = segmentation, turn1, instances
                written = ask(lambda: self.writer.rename(scored, slots, t1, vocabulary, config, self.counts))
                instances = scored if written is None else written
            if tubes is None:
                segmentation, instances = join_in_time(segmentation, instances, window)
            else:
                instances = tubes.named(instances, vocabulary)
        relations: tuple[RelationPrediction, ...] | None = None if unasked else ()
        if config.relations and relate and len(instances) > 1:
            with clock.stage("turn2"):
                seen = _Seen(window, frames, output, segmentation, turn1)
                relations = self._relate(seen, instances, vocabulary, config, ask)
        if failures:
            text = f"without the language model ({failures[0]}): labels or relations come from geometry"
            notes.append((GraphStatus.DEGRADED_NO_LLM, text))
        return self._finish(window, segmentation, instances, relations, notes, clock)

    def _relate(
        self,
        seen: _Seen,
        instances: tuple[InstancePrediction, ...],
        vocabulary: Vocabulary,
        config: InferenceConfig,
        ask: Callable[[Callable[[], Any]], Any],
    ) -> tuple[RelationPrediction, ...]:
        most = CANDIDATES * config.max_pairs
        candidates = measure_pairs(seen.segmentation, instances, seen.window, seen.frames, most)
        pairs = shortlist(self.model, instances, candidates, vocabulary, config.max_pairs)
        turn1, turn2 = seen.turn1, None
        if turn1 is not None:
            turn2 = ask(lambda: ask_pairs(self._chain(), seen.output, seen.segmentation, instances, turn1, pairs))
        if turn2 is not None and config.decoding == "generate":
            written = ask(lambda: self.writer.relate(turn2, pairs, vocabulary, config, self.counts))
            if written is not None:
                return tuple(written)
        return score_relations(self.model, instances, turn2, pairs, vocabulary, config)

    def _chain(self) -> SceneChain:
        chain = self.model.chain
        return chain if self.captured is None else chain.reading_with(self.captured.reading)

    def _or_none(self, step: Callable[[], T], failures: list[str]) -> T | None:
        try:
            return step()
        except (torch.OutOfMemoryError, ContextError) as error:
            memory = isinstance(error, torch.OutOfMemoryError)
            self.counts[OUT_OF_MEMORY if memory else OUT_OF_CONTEXT] += 1
            failures.append("out of memory" if memory else str(error))
            log.warning("this window goes on without the language model: %s", error)
        if self.backend.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _finish(
        self,
        window: Window,
        segmentation: Segmentation | None,
        instances: tuple[InstancePrediction, ...],
        relations: tuple[RelationPrediction, ...] | None,
        notes: list[tuple[GraphStatus, str]],
        clock: StageClock,
    ) -> WindowPrediction:
        """status: the gravest of ``notes``; status_text: all of them, what is wrong with the backend, and where
        gravity came from."""
        if not self.trained:
            notes.append((GraphStatus.UNTRAINED, "untrained weights: labels, masks and relations mean nothing"))
        status = min((s for s, _ in notes), key=GRAVEST_FIRST.index, default=GraphStatus.OK)
        texts = [text for _, text in notes]
        if self.backend.problem:  # slower, but nothing is missing: no status of its own
            texts.append(self.backend.problem)
        text = "; ".join([*texts, f"gravity from {window.newest.alignment}"])
        none = tuple(np.zeros(len(f.frame), np.int32) for f in window.frames)
        labels = none if segmentation is None else segmentation.point_instance
        return WindowPrediction(window, instances, labels, relations, status, text, clock.stage_ms)

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
        config = self.config
        # Noise is no object that the model is sure of, and without two there is no turn 2.
        self.config = replace(config, presence_threshold=0.0, mask_threshold=0.0, min_kept=0.0)
        try:
            for count in sorted({1, num_frames}):
                # No run uses a negative epoch, so nothing cached here is taken for a frame of a run.
                self.predict(Window(tuple(frames[:count]), epoch=-2, origin=np.zeros(3)))
        finally:
            self.config = config
        self.cache.clear()
        self.counts.clear()
        if self.captured is not None:
            self.captured.warm_up(self.model, self.config)
