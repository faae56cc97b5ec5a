"""How many points predicted and true objects share, frame by frame: all that the metrics need of the masks.

Numpy only, and streaming: a frame's labels are counted and forgotten, so that clouds never pile up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psg4d_ros.structures import Float64, Int64, check_array


@dataclass(frozen=True, eq=False)
class TubeOverlaps:
    """P predicted and T true mask tubes over F frames.

    predicted: int64[F, P], true: int64[F, T]: points of each object in each frame. shared: int64[S, 4], the overlaps
    that are not zero, as rows (frame, predicted object, true object, points), no two of the same masks.
    """

    predicted: Int64
    true: Int64
    shared: Int64

    def __post_init__(self) -> None:
        check_array("TubeOverlaps", "predicted", self.predicted, np.int64, (None, None))
        check_array("TubeOverlaps", "true", self.true, np.int64, (len(self.predicted), None))
        check_array("TubeOverlaps", "shared", self.shared, np.int64, (None, 4))

    @classmethod
    def identical(cls, true: Int64) -> TubeOverlaps:
        """The true tubes given as the predicted ones. true: int64[F, T] points; 1 for a box that is there."""
        frame, column = np.nonzero(true)
        return cls(true, true, np.stack([frame, column, column, true[frame, column]], axis=1).astype(np.int64))

    def frame_iou(self) -> Float64:
        """float64[S]: for each row of ``shared``, IoU of the two masks in its frame."""
        f, p, t, points = self.shared.T
        return iou(points, self.predicted[f, p], self.true[f, t])

    def shared_in_all(self) -> Int64:
        """int64[P, T]: points that two tubes share, all frames together."""
        out = np.zeros((self.predicted.shape[1], self.true.shape[1]), np.int64)
        _, p, t, points = self.shared.T
        np.add.at(out, (p, t), points)
        return out

    def shared_within(self, p: Int64, t: Int64, start: Int64, end: Int64) -> Int64:
        """int64[M]: points that M pairs of a predicted and a true tube share, each pair in its frames [start, end)."""
        frames, objects = self.true.shape
        f, shared_p, shared_t, points = self.shared.T
        place = (shared_p * objects + shared_t) * frames + f  # a pair's frames lie in a row
        order = np.argsort(place)
        total = np.concatenate([[0], np.cumsum(points[order])])
        first = (p * objects + t) * frames
        begin, stop = np.searchsorted(place[order], (first + start, first + end))
        out: Int64 = total[stop] - total[begin]
        return out


class OverlapCounter:
    """Counts frames of labelled points one after another."""

    def __init__(self) -> None:
        self._frames: list[tuple[Int64, Int64, Int64]] = []  # predicted object, true object (-1 = none), points

    def add(self, predicted: NDArray[Any], true: NDArray[Any]) -> None:
        """Count a frame. predicted, true: integers [N], whose each point is: 0 = nobody's, i + 1 = object i."""
        if predicted.shape != true.shape:
            raise ValueError(f"{predicted.shape} points labelled in the prediction, {true.shape} in the truth")
        columns = int(true.max(initial=0)) + 1
        counts = np.bincount(predicted.astype(np.int64) * columns + true)
        cells = np.flatnonzero(counts)
        self._frames.append((cells // columns - 1, cells % columns - 1, counts[cells]))

    def finish(self, num_predicted: int, num_true: int) -> TubeOverlaps:
        """The overlaps of all frames counted so far."""
        predicted = np.zeros((len(self._frames), num_predicted), np.int64)
        true = np.zeros((len(self._frames), num_true), np.int64)
        shared = [np.zeros((0, 4), np.int64)]
        for f, (p, t, points) in enumerate(self._frames):
            np.add.at(predicted[f], p[p >= 0], points[p >= 0])
            np.add.at(true[f], t[t >= 0], points[t >= 0])
            both = (p >= 0) & (t >= 0)
            shared.append(np.stack([np.full(both.sum(), f), p[both], t[both], points[both]], axis=1))
        return TubeOverlaps(predicted, true, np.concatenate(shared).astype(np.int64))


def iou(intersection: NDArray[Any], a: NDArray[Any], b: NDArray[Any]) -> Float64:
    """float64: intersection over union of sets of ``a`` and ``b`` members; 0 where both are empty."""
    union = a + b - intersection
    out: Float64 = np.divide(intersection, union, out=np.zeros(np.shape(union)), where=union > 0)
    return out
