"""How the cost of an update grows with frames, points, objects, pairs and words, one at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from psg4d_ros.config import PipelineConfig
from psg4d_ros.evaluation.bench.paths import PathRun, Paths
from psg4d_ros.evaluation.bench.plan import Growth
from psg4d_ros.evaluation.bench.speed import Stages
from psg4d_ros.evaluation.bench.streams import Stream
from psg4d_ros.runtime.given import GivenObject, GivenTubes
from psg4d_ros.runtime.naming import warm_phrases
from psg4d_ros.structures import PointFrame
from psg4d_ros.vocabulary import Vocabulary

# While objects or pairs are varied, the other stays at this.
FIXED_OBJECTS, FIXED_PAIRS = 20, 16
GIVEN_LABEL = "box"


@dataclass(frozen=True)
class Case:
    """One point of a curve. window: frames. objects: given tubes in place of those the model finds, so that there are
    as many; None: the model's. words: of the vocabulary; None: the checkpoint's."""

    value: int
    stream: Stream
    config: PipelineConfig
    objects: int | None = None
    words: int | None = None


def cases(growth: Growth, stream: Stream, config: PipelineConfig) -> dict[str, list[Case]]:
    """What is measured: by the name of what is varied."""

    def pairs(number: int) -> PipelineConfig:
        return replace(config, inference=replace(config.inference, max_pairs=number))

    def frames(number: int) -> PipelineConfig:
        return replace(config, window=replace(config.window, num_frames=number))

    fixed = pairs(FIXED_PAIRS)
    return {
        "frames": [Case(n, stream, frames(n)) for n in growth.frames],
        "points": [Case(n, stream.thinned(n), config) for n in growth.points],
        "objects": [Case(n, stream, fixed, objects=n) for n in growth.objects],
        "pairs": [Case(n, stream, pairs(n), objects=FIXED_OBJECTS) for n in growth.pairs],
        "words": [Case(n, stream, fixed, objects=FIXED_OBJECTS, words=n) for n in growth.words],
    }


def measure_growth(
    paths: Paths, growth: Growth, stream: Stream, progress: Callable[[str], None]
) -> dict[str, list[dict[str, Any]]]:
    """Median stage times in milliseconds at each value; the values of a curve take turns.

    stream: at least as many frames as the largest window and ``growth.repeats`` + 1 more. A window finds all of its
    frames but the newest in the cache.
    """
    out: dict[str, list[dict[str, Any]]] = {}
    for name, points in cases(growth, stream, paths.config).items():
        curves = [(case, _Curve(paths, case, growth.repeats)) for case in points]
        for repeat in range(growth.repeats):
            progress(f"growth with {name}: {repeat + 1} of {growth.repeats}")
            for _, curve in curves:
                curve.measure()
        out[name] = [
            {"value": case.value, "stage_ms": {k: round(v, 3) for k, v in curve.stages.p50().items()}, **curve.sizes()}
            for case, curve in curves
        ]
    return out


class _Curve:
    """A pipeline that has seen all but the last frames of its recording."""

    def __init__(self, paths: Paths, case: Case, repeats: int) -> None:
        self.stages = Stages()
        self._case = case
        own = paths.with_config(case.config)
        predictor = own.predictor("ours")
        if case.words is not None:
            predictor.vocabulary = made_up_words(predictor.vocabulary, case.words)
        warm_phrases(predictor.model, predictor.vocabulary)
        self._run: PathRun = own.start(predictor, case.stream)
        self._given = None if case.objects is None else slices(case.stream.frames, case.objects)
        self._objects: list[int] = []
        frames = case.stream.frames
        before = len(frames) - repeats - 1
        for frame in frames[:before]:
            self._run.push(frame)
        self._left = iter(frames[before:])
        self._step()  # fills the cache

    def measure(self) -> None:
        """Time one more window."""
        timed = self._step()
        if timed is not None:
            self.stages.add(timed)
            self._objects.append(len(timed.graph.objects))

    def sizes(self) -> dict[str, float]:
        """What the windows held."""
        return {"objects": float(np.mean(self._objects)) if self._objects else 0.0}

    def _step(self) -> Any:
        window = self._run.push(next(self._left))
        return None if window is None else self._run.infer(window, self._given)


def slices(frames: Iterable[PointFrame], number: int) -> GivenTubes:
    """Given tubes that cut each frame into ``number`` slices of as many points each, from one side to the other."""
    owners = {}
    for frame in frames:
        rank = np.empty(len(frame), np.int64)
        rank[np.argsort(frame.points[:, 0], kind="stable")] = np.arange(len(frame))
        owners[frame.stamp_ns] = (1 + rank * number // max(1, len(frame))).astype(np.int32)
    return GivenTubes(tuple(GivenObject(i + 1, GIVEN_LABEL) for i in range(number)), owners)


def made_up_words(vocabulary: Vocabulary, number: int) -> Vocabulary:
    """``number`` class names and a quarter as many predicates, none of which is known."""
    letters = ("".join(pair) for pair in itertools.product("bcdfghklmnprstvz", "aeiou"))
    words = ["".join(parts) for parts in itertools.islice(itertools.product(list(letters), repeat=2), number)]
    predicates = [f"{word} to" for word in words[: max(1, number // 4)]]
    return vocabulary.with_words(words, predicates, replace=True)
