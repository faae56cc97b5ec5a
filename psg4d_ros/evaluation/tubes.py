"""Objects over time as relation methods see them: labels, sizes and boxes, and nothing of the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psg4d_ros.structures import Float32, Int64, check_array

TRIM_PERCENT = 2.0  # of a mask's points at each side, so that a stray point does not stretch its box
MIN_BOX_POINTS = 5


@dataclass(frozen=True, eq=False)
class Tubes:
    """N objects over F evaluated frames.

    stamps_ns: int64[F]. points: int64[F, N] of each object in each frame, 1 for an annotated box. boxes: float32[F, N,
    2, 3], lower and upper corner in the world frame (metres, z up), NaN where the object is not seen; None when nobody
    asked for them.
    """

    labels: tuple[str, ...]
    is_thing: tuple[bool, ...]
    stamps_ns: Int64
    points: Int64
    boxes: Float32 | None = None

    def __post_init__(self) -> None:
        frames, count = len(self.stamps_ns), len(self.labels)
        check_array("Tubes", "points", self.points, np.int64, (frames, count))
        if self.boxes is not None:
            check_array("Tubes", "boxes", self.boxes, np.float32, (frames, count, 2, 3))

    def lifetimes(self) -> tuple[Int64, Int64]:
        """int64[N] first frame of each object, and int64[N] the one after its last; (0, 0) for one never seen."""
        seen = self.points > 0
        ever = seen.any(axis=0)
        first = np.where(ever, seen.argmax(axis=0), 0) if len(seen) else np.zeros(seen.shape[1])
        end = np.where(ever, len(seen) - seen[::-1].argmax(axis=0), 0) if len(seen) else np.zeros(seen.shape[1])
        return first.astype(np.int64), end.astype(np.int64)


def label_boxes(points: NDArray[Any], labels: NDArray[Any], count: int) -> Float32:
    """float32[count, 2, 3]: boxes around the points of objects 1..count; NaN for those of fewer than MIN_BOX_POINTS.

    points: float[N, 3]. labels: integers [N], 0 = nobody's.
    """
    boxes = np.full((count, 2, 3), np.nan, np.float32)
    order = np.argsort(labels, kind="stable")
    begin = np.searchsorted(labels[order], np.arange(1, count + 2))
    for i in np.flatnonzero(np.diff(begin) >= MIN_BOX_POINTS):
        mine = np.sort(points[order[begin[i] : begin[i + 1]]], axis=0)
        trim = int(len(mine) * TRIM_PERCENT / 100)
        boxes[i] = mine[trim], mine[len(mine) - 1 - trim]
    return boxes
