"""Which predicted relation found which true one: the tube protocol and the frame-hit protocol (docs/metrics.md).

Numpy only. Spans are in evaluated frames, half-open; objects are positions in the scene's list of objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from psg4d_ros.evaluation.overlaps import TubeOverlaps, iou
from psg4d_ros.structures import Float64, Int64, check_array

Protocol = Literal["tube", "frame_hit"]
MIN_IOU = 0.5  # of tubes, of masks in a frame, and of hit frames with true ones


@dataclass(frozen=True, eq=False)
class Relations:
    """n relations as columns. subject, object: int64[n]; predicate: n names; start, end: int64[n] of [start, end).

    A span may be empty: none of the frames it was said of is evaluated. Such a prediction takes its rank and finds
    nothing. Raises ValueError when columns differ in length, or a span ends before it starts.
    """

    subject: Int64
    predicate: tuple[str, ...]
    object: Int64
    start: Int64
    end: Int64

    def __post_init__(self) -> None:
        for name in ("subject", "object", "start", "end"):
            check_array("Relations", name, getattr(self, name), np.int64, (len(self.predicate),))
        if (self.end < self.start).any() or (self.start < 0).any():
            raise ValueError("Relations hold a span that is negative or ends before it starts")

    @classmethod
    def from_rows(cls, rows: Sequence[tuple[int, str, int, int, int]]) -> Relations:
        """From (subject, predicate, object, start, end) one by one."""
        subject, object_, start, end = (np.array([r[i] for r in rows], np.int64) for i in (0, 2, 3, 4))
        return cls(subject, tuple(r[1] for r in rows), object_, start, end)

    def __len__(self) -> int:
        return len(self.predicate)

    def take(self, rows: NDArray[np.integer]) -> Relations:
        """The given rows, in the given order."""
        names = tuple(self.predicate[i] for i in rows)
        return Relations(self.subject[rows], names, self.object[rows], self.start[rows], self.end[rows])


@dataclass(frozen=True, eq=False)
class SceneTruth:
    """What is to be found in a scene. labels, is_thing: of its T objects. relations: one per span."""

    name: str
    labels: tuple[str, ...]
    is_thing: tuple[bool, ...]
    relations: Relations


@dataclass(frozen=True, eq=False)
class ScenePrediction:
    """What was said of a scene. labels, is_thing: of its P objects. score: float64[R] of each relation.

    Raises ValueError for scores that are not finite: they could not be ranked.
    """

    labels: tuple[str, ...]
    is_thing: tuple[bool, ...]
    relations: Relations
    score: Float64

    def __post_init__(self) -> None:
        check_array("ScenePrediction", "score", self.score, np.float64, (len(self.relations),))
        if not np.isfinite(self.score).all():
            raise ValueError("ScenePrediction.score holds NaN or Inf, expected numbers to rank by")


@dataclass(frozen=True, eq=False)
class Scene:
    """Truth, prediction and the overlaps of their masks: all that the metrics look at."""

    truth: SceneTruth
    prediction: ScenePrediction
    overlaps: TubeOverlaps

    def __post_init__(self) -> None:
        for what, labels, relations, tubes in (
            ("predicted", self.prediction.labels, self.prediction.relations, self.overlaps.predicted),
            ("true", self.truth.labels, self.truth.relations, self.overlaps.true),
        ):
            if len(labels) != tubes.shape[1]:
                raise ValueError(f"{self.truth.name}: {len(labels)} {what} objects, but {tubes.shape[1]} tubes")
            ids = np.concatenate([relations.subject, relations.object])
            if ids.size and not 0 <= ids.min() <= ids.max() < len(labels):
                raise ValueError(f"{self.truth.name}: {what} relations name objects outside 0..{len(labels) - 1}")
            if len(relations) and relations.end.max() > len(tubes):
                raise ValueError(f"{self.truth.name}: a {what} relation ends after the last of {len(tubes)} frames")


def rank(relations: Relations, score: Float64, k: int, *, graph_constraint: bool) -> Int64:
    """int64[<= k]: the best relations, best first; equal scores in the order given.

    graph_constraint: of the relations of one pair (subject, object) that start in the same frame, only the best counts.

    >>> said = [(0, "on", 1, 0, 4), (0, "near", 1, 0, 9), (0, "near", 1, 4, 9), (1, "near", 0, 0, 9)]
    >>> score = np.array([0.5, 0.7, 0.7, 0.9])
    >>> rank(Relations.from_rows(said), score, 10, graph_constraint=False).tolist()
    [3, 1, 2, 0]
    >>> rank(Relations.from_rows(said), score, 10, graph_constraint=True).tolist()
    [3, 1, 2]
    """
    order = np.argsort(-score, kind="stable")
    if graph_constraint and len(order):
        keys = np.stack([relations.subject, relations.object, relations.start])[:, order]
        _, first = np.unique(keys, axis=1, return_index=True)
        order = order[np.sort(first)]
    return order[:k].astype(np.int64)


def judged(truth: Relations, tubes: Int64) -> NDArray[np.bool_]:
    """bool[n]: true relations that can be judged: in some frame of the span both objects have a point.

    tubes: int64[F, T] points of the true objects. What no sensor saw has no mask that a prediction could overlap.
    """
    out: NDArray[np.bool_] = np.logical_or.reduce(_seen_together(truth, tubes), axis=0)
    return out


def overlap_values(scene: Scene, ranked: Int64, protocol: Protocol, *, labels: bool) -> Float64:
    """float64[R, n]: how well each ranked prediction covers each true relation; 0 where it is not admissible.

    Admissible: predicates equal, with ``labels`` both labels equal too, and an overlap of at least MIN_IOU: in the tube
    protocol the lesser of the subjects' and the objects' volume IoU, in the frame-hit protocol the share of the true
    frames that are hit.
    """
    predicted, true = scene.prediction.relations.take(ranked), scene.truth.relations
    same = _equal(predicted.predicate, true.predicate)
    if labels:
        alike = _equal(scene.prediction.labels, scene.truth.labels)
        same &= alike[np.ix_(predicted.subject, true.subject)] & alike[np.ix_(predicted.object, true.object)]
    rows, columns = np.nonzero(same)
    values = np.zeros(same.shape)
    measure = _volume_overlap if protocol == "tube" else _hit_share
    found = measure(scene.overlaps, predicted.take(rows), true.take(columns))
    values[rows, columns] = np.where(found >= MIN_IOU, found, 0.0)
    return values


def match(values: Float64) -> Int64:
    """int64[R]: the true relation each prediction finds, -1 for none; no two find the same one.

    values: float64[R, n] as overlap_values gives them, predictions in order of rank. Each takes, among the true
    relations that are left, the one it covers best (of equal ones the first).

    >>> match(np.array([[0.6, 0.9], [0.0, 0.8], [0.7, 0.7]])).tolist()
    [1, -1, 0]
    """
    found = np.full(len(values), -1, np.int64)
    free = np.ones(values.shape[1], bool)
    for i in np.flatnonzero(values.any(axis=1)):
        left = np.where(free, values[i], 0.0)
        best = int(left.argmax())
        if left[best] > 0.0:
            found[i], free[best] = best, False
    return found


def _volume_overlap(overlaps: TubeOverlaps, predicted: Relations, true: Relations) -> Float64:
    """float64[M]: for M pairs of a predicted and a true relation, the lesser volume IoU of subjects and objects.

    Volume IoU: points shared in the frames of both spans, over those of the predicted tube within its span and of the
    true tube within its span, together.
    """
    start = np.maximum(predicted.start, true.start)
    end = np.maximum(np.minimum(predicted.end, true.end), start)
    of_predicted, of_true = (
        np.concatenate([np.zeros_like(tubes, shape=(1, tubes.shape[1])), tubes.cumsum(axis=0)])
        for tubes in (overlaps.predicted, overlaps.true)
    )

    def volume_iou(p: Int64, t: Int64) -> Float64:
        both = overlaps.shared_within(p, t, start, end)
        a = of_predicted[predicted.end, p] - of_predicted[predicted.start, p]
        b = of_true[true.end, t] - of_true[true.start, t]
        return iou(both, a, b)

    out: Float64 = np.minimum(volume_iou(predicted.subject, true.subject), volume_iou(predicted.object, true.object))
    return out


def _hit_share(overlaps: TubeOverlaps, predicted: Relations, true: Relations) -> Float64:
    """float64[M]: for M pairs of a predicted and a true relation, the share of the true frames that are hit.

    True frames: those of the true span where both true objects have a point. Hit: those of them in the predicted span
    where both masks have an IoU of at least MIN_IOU. Hits are true frames, so this is the IoU of the two sets.
    """
    frames, objects = overlaps.true.shape
    good = np.zeros((frames, overlaps.predicted.shape[1], objects), bool)
    f, p, t, _ = overlaps.shared[overlaps.frame_iou() >= MIN_IOU].T
    good[f, p, t] = True
    true_frames = _seen_together(true, overlaps.true)
    hits = true_frames & _inside(predicted, frames)
    hits &= good[:, predicted.subject, true.subject] & good[:, predicted.object, true.object]
    count = true_frames.sum(axis=0)
    out: Float64 = np.divide(hits.sum(axis=0), count, out=np.zeros(len(count)), where=count > 0)
    return out


def _seen_together(relations: Relations, tubes: Int64) -> NDArray[np.bool_]:
    """bool[F, n]: frames of each relation's span in which both its objects have a point."""
    seen: NDArray[np.bool_] = (tubes[:, relations.subject] > 0) & (tubes[:, relations.object] > 0)
    return seen & _inside(relations, len(tubes))


def _inside(relations: Relations, frames: int) -> NDArray[np.bool_]:
    """bool[F, n]: frames within each relation's span."""
    at = np.arange(frames)[:, None]
    return (at >= relations.start) & (at < relations.end)


def _equal(names: Sequence[str], others: Sequence[str]) -> NDArray[np.bool_]:
    """bool[n, m]: which names are equal."""
    out: NDArray[np.bool_] = np.array(names, str)[:, None] == np.array(others, str)
    return out
