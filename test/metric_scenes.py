"""Small scenes for the metrics' tests: points of frames written down by hand or drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from psg4d_ros.evaluation.matching import Relations, Scene, ScenePrediction, SceneTruth
from psg4d_ros.evaluation.overlaps import OverlapCounter

Row = tuple[int, str, int, int, int]  # subject, predicate, object, start, end


@dataclass(frozen=True)
class Points:
    """Whose each point is: true and predicted, [F][N], 0 = nobody's, i + 1 = object i."""

    true: np.ndarray
    predicted: np.ndarray


def scene(
    points: Points,
    true_labels: Sequence[str],
    truth: Sequence[Row],
    predicted_labels: Sequence[str],
    said: Sequence[Row],
    score: Sequence[float] | None = None,
    *,
    stuff: Sequence[str] = (),
    name: str = "scene",
) -> Scene:
    """A scene; without scores, the first relation said is the surest."""
    counter = OverlapCounter()
    for predicted, true in zip(points.predicted, points.true, strict=True):
        counter.add(np.asarray(predicted), np.asarray(true))
    if score is None:
        score = [1.0 / (i + 1) for i in range(len(said))]
    return Scene(
        SceneTruth(name, tuple(true_labels), tuple(s not in stuff for s in true_labels), Relations.from_rows(truth)),
        ScenePrediction(
            tuple(predicted_labels),
            tuple(s not in stuff for s in predicted_labels),
            Relations.from_rows(said),
            np.array(score, np.float64),
        ),
        counter.finish(len(predicted_labels), len(true_labels)),
    )


def text(*rows: str) -> np.ndarray:
    """Frames of labelled points from text: one string per frame, "." = nobody's, "a" = object 0, "b" = object 1 ..."""
    return np.array([[0 if c == "." else ord(c) - ord("a") + 1 for c in row.replace(" ", "")] for row in rows])


@dataclass(frozen=True)
class Drawn:
    """A random scene and the points it was made of."""

    points: Points
    scene: Scene


PREDICATES = ("on", "holding", "near")
LABELS = ("cup", "table", "person")


@st.composite
def drawn_scenes(draw: st.DrawFn, *, frames: int = 5, points: int = 16, objects: int = 3, relations: int = 6) -> Drawn:
    """Scenes whose predicted masks are often right, so that many relations are found and many are not."""
    seed = draw(st.integers(0, 2**32 - 1))
    wrong = draw(st.sampled_from((0.0, 0.1, 0.4)))
    rng = np.random.default_rng(seed)
    num_frames, num_true = int(rng.integers(1, frames + 1)), int(rng.integers(2, objects + 1))
    num_predicted = int(rng.integers(2, objects + 2))
    true = rng.integers(0, num_true + 1, (num_frames, points))
    random = rng.integers(0, num_predicted + 1, true.shape)
    predicted = np.where(rng.random(true.shape) < wrong, random, np.minimum(true, num_predicted))

    def rows(count: int, among: int) -> list[Row]:
        out = []
        for _ in range(count):
            subject, object_ = rng.choice(among, 2, replace=False).tolist()
            start = int(rng.integers(0, num_frames))
            end = int(rng.integers(start + 1, num_frames + 1))
            out.append((subject, str(rng.choice(PREDICATES)), object_, start, end))
        return out

    truth = rows(draw(st.integers(0, relations)), num_true)
    said = rows(draw(st.integers(0, relations)), num_predicted)
    if num_predicted >= num_true:
        said += [truth[i] for i in rng.permutation(len(truth))[: len(truth) // 2 + 1]]
    true_labels = [str(v) for v in rng.choice(LABELS, num_true)]
    predicted_labels = (true_labels + ["cup"] * num_predicted)[:num_predicted]
    score = rng.integers(0, 4, len(said)) / 4 if draw(st.booleans()) else rng.permutation(len(said)) / (len(said) + 1)
    drawn = Points(true, predicted)
    return Drawn(drawn, scene(drawn, true_labels, truth, predicted_labels, said, score.tolist()))
