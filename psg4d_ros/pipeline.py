"""The whole system on one screen: a frame goes in, a scene graph comes out.

Node, replay and tests all call ``ScenePipeline``. State lives in three places only, the sliding window, the frame
cache and the tracker, and ``reset()`` clears all three (the last two when they meet a window of the new epoch).
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

from psg4d_ros.checkpoint import load_checkpoint, manifest_sha256, read_manifest
from psg4d_ros.config import PipelineConfig
from psg4d_ros.runtime.devices import choose_device, language_model_dtype
from psg4d_ros.runtime.given import GivenTubes
from psg4d_ros.runtime.predictor import WindowPredictor
from psg4d_ros.structures import PointFrame, SceneGraph, Window, WindowPrediction
from psg4d_ros.torch_environment import prepare_torch
from psg4d_ros.tracker import Tracker
from psg4d_ros.transforms import GravityAligner, TransformLookup
from psg4d_ros.vocabulary import Vocabulary
from psg4d_ros.window import Admission, SlidingWindow

log = logging.getLogger(__name__)


class ScenePipeline:
    """Frames to scene graphs.

    ``push`` is cheap and belongs in the subscription callback; ``infer`` does the work and may run in another thread
    (one at a time). ``prepare`` may come between the two in a third, while an older window is inferred. ``update`` is
    push and infer in a row. All of them raise only Psg4dError on bad input.
    """

    def __init__(
        self,
        config: PipelineConfig,
        predictor: WindowPredictor,
        *,
        model_id: str,
        model_sha256: str,
        transforms: TransformLookup | None = None,
    ) -> None:
        self.config = config
        self.model_id = model_id
        self.model_sha256 = model_sha256
        self.predictor = predictor
        self.window = SlidingWindow(config.window)
        self.aligner = GravityAligner(config.coordinates, transforms)
        self.tracker = Tracker(config.tracker)

    @classmethod
    def from_checkpoint(
        cls, folder: Path, config: PipelineConfig, transforms: TransformLookup | None = None
    ) -> ScenePipeline:
        """Load a verified checkpoint. Raises CheckpointError or ConfigError, never starts half-loaded."""
        prepare_torch()  # command line and node did; in a program of one's own it at least bounds the memory
        device = choose_device(config.inference.device)
        model = load_checkpoint(folder, device, language_model_dtype(config.inference.language_model_dtype))
        trained_s, used_s = model.config.frame_interval_s, config.window.frame_interval_s
        if not math.isclose(trained_s, used_s):
            log.warning("window.frame_interval_s is %g s, the model was trained with %g s", used_s, trained_s)
        manifest = read_manifest(folder)
        predictor = WindowPredictor(
            model, config.inference, trained=manifest.trained, num_frames=config.window.num_frames
        )
        sha256 = manifest_sha256(folder)
        return cls(config, predictor, model_id=manifest.model_id, model_sha256=sha256, transforms=transforms)

    def push(self, frame: PointFrame) -> Window | None:
        """Take a frame into the window; the window that is now due, or None when the frame was not admitted.

        Raises TransformError when the frame's transform is missing (the frame is then not part of any window).
        """
        admission = self.window.admit(frame.stamp_ns)
        if not admission.kept:
            return None
        if admission is Admission.NEW_EPOCH:
            self.aligner.reset()
        return self.window.push(self.aligner.align(frame))

    def prepare(self, window: Window) -> None:
        """Voxelise the window's new frames, so that ``infer`` finds them done; its graph is the same with and without.

        Windows must come in order, but need not be all of those that are due.
        """
        self.predictor.cache.ahead.make(window, self.predictor.config)

    def infer(self, window: Window, given: GivenTubes | None = None) -> SceneGraph:
        """Predict and track one window.

        given: evaluation's true tubes, of every frame of the window. Track ids are then the given object ids, nothing
        is associated, and relations are merged over windows as ever. Raises ValueError when they do not fit the window.
        """
        return self.track(self.predict(window, given), given)

    def predict(self, window: Window, given: GivenTubes | None = None) -> WindowPrediction:
        """What the model says of one window; the first half of ``infer``."""
        return self.predictor.predict(window, given, relate=self.is_relating(window))

    def track(self, prediction: WindowPrediction, given: GivenTubes | None = None) -> SceneGraph:
        """The graph after a window that was predicted; the second half."""
        ids = None if given is None else given.ids_of(prediction)
        return self.tracker.update(prediction, self.model_id, self.model_sha256, ids)

    def is_relating(self, window: Window) -> bool:
        """Whether turn 2 is due: with an epoch's first update, and then with each ``inference.relations_every``-th.

        Counted are graphs, so a window that was replaced by a newer one, or failed, puts turn 2 off and never leaves it
        out.
        """
        return self.tracker.updates_in(window.epoch) % self.config.inference.relations_every == 0

    def update(self, frame: PointFrame, given: GivenTubes | None = None) -> SceneGraph | None:
        """Take a frame; its scene graph, or None when the frame was not admitted or the window is not due yet.

        given: see ``infer``; GivenTubes shows how to run a recording.
        """
        window = self.push(frame)
        return None if window is None else self.infer(window, given)

    def warm_up(self) -> None:
        """Run one synthetic window through every stage, so that the first real one is as fast as the rest."""
        self.predictor.warm_up(self.config.window.num_frames)

    def reset(self) -> None:
        """Forget all frames; the next window opens a new epoch, where cache and tracker start anew."""
        self.window.reset()
        self.aligner.reset()

    def set_limits(self, *, max_points: int, relations: bool) -> None:
        """Use other limits from the next frame and window on: how a node does less when memory runs out."""
        inference = replace(self.config.inference, max_points=max_points, relations=relations)
        self.config = replace(self.config, inference=inference)
        self.predictor.config = inference

    def set_vocabulary(self, class_names: list[str], predicate_names: list[str], replace: bool) -> None:
        """Use other words from the next window on. Raises ConfigError for words that are unsafe or too long."""
        vocabulary = self.predictor.vocabulary.with_words(class_names, predicate_names, replace)
        self.predictor.model.language_model.check_phrases((*vocabulary.class_names, *vocabulary.predicates))
        self.predictor.vocabulary = vocabulary

    @property
    def vocabulary(self) -> Vocabulary:
        return self.predictor.vocabulary

    @property
    def trained(self) -> bool:
        return self.predictor.trained

    @property
    def counts(self) -> dict[str, int]:
        """Frames accepted, skipped, late, duplicate; epochs; outcomes of the language model."""
        return {**self.window.counts, **self.predictor.counts}
