"""Fewer points that show the same: clouds for a page, at most so many points a frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psg4d_ros.structures import Float32, Float64, Int64, UInt8

FIRST_CELL_M, LAST_CELL_M = 0.01, 1.0
KEPT_OF_EACH = 150  # points of an object that come before all others: the small ones stay visible
STEPS = 65535  # of a coordinate


@dataclass(frozen=True, eq=False)
class ThinCloud:
    """A frame's points for the page, in an order in which every beginning is a fair sample of the whole.

    position: uint16[n, 3]; a point lies at ``low_m + position * step_m`` (float64[3] metres, float metres). predicted,
    true: uint16[n], 0 = nobody's, i + 1 = object i; true is None without ground truth. color: uint8[n, 3] or None.
    """

    position: NDArray[np.uint16]
    low_m: Float64
    step_m: float
    predicted: NDArray[np.uint16]
    true: NDArray[np.uint16] | None
    color: UInt8 | None

    def __len__(self) -> int:
        return len(self.position)


def thin_cloud(
    points: Float32,
    predicted: Int64,
    true: Int64 | None,
    color: UInt8 | None,
    most: int,
    generator: np.random.Generator,
) -> ThinCloud:
    """At most ``most`` of the points, spread evenly over space. points: float32[N, 3] finite, metres; predicted, true,
    color: of each, as ThinCloud has them. Strays far outside of all others are left out."""
    chosen = _ordered(points, predicted, most, generator)
    kept = points[chosen].astype(np.float64)
    low = kept.min(axis=0) if len(kept) else np.zeros(3)
    step = max(float(np.ptp(kept, axis=0).max(initial=0.0)) / STEPS, 1e-6) if len(kept) else 1e-6
    return ThinCloud(
        position=np.rint((kept - low) / step).astype(np.uint16),
        low_m=low,
        step_m=step,
        predicted=_small(predicted[chosen]),
        true=None if true is None else _small(true[chosen]),
        color=None if color is None else color[chosen],
    )


def _small(labels: Int64) -> NDArray[np.uint16]:
    return np.where(labels <= STEPS, labels, 0).astype(np.uint16)


def _ordered(points: Float32, labels: Int64, most: int, generator: np.random.Generator) -> NDArray[Any]:
    """Indices of the points that stay, those of a fair sample first."""
    index = np.flatnonzero(_near(points))
    index = index[generator.permutation(len(index))]
    first = _first_of_each(labels[index])
    few, rest = index[first], index[~first]
    cell = FIRST_CELL_M
    while len(few) + len(rest) > most and cell < LAST_CELL_M:
        _, kept = np.unique(_cells(points[rest], cell), return_index=True)
        coarser = rest[np.sort(kept)]  # np.unique takes the first of a cell: a random point of it
        if len(few) + len(coarser) < most // 2:
            break
        rest, cell = coarser, cell * 1.5
    return np.concatenate([few, rest])[:most]


def _first_of_each(labels: Int64) -> NDArray[np.bool_]:
    """bool[n]: among the first KEPT_OF_EACH points of an object."""
    order = np.argsort(labels, kind="stable")
    begins = np.flatnonzero(np.diff(labels[order], prepend=-1))
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(begins, np.diff(begins, append=len(order)))
    return np.asarray((rank < KEPT_OF_EACH) & (labels > 0))


def _near(points: Float32) -> NDArray[np.bool_]:
    """bool[N]: not outside of thrice the room that nearly all points take."""
    if not len(points):
        return np.zeros(0, bool)
    low, high = np.percentile(points.astype(np.float64), (0.5, 99.5), axis=0)
    room = np.maximum(high - low, 1.0)
    return np.asarray(((points >= low - room) & (points <= high + room)).all(axis=1))


def _cells(points: Float32, cell_m: float) -> Int64:
    """int64[N]: equal for points of the same cell."""
    cells = np.floor((points - points.min(axis=0)) / cell_m).astype(np.int64)
    sizes = cells.max(axis=0) + 1
    return np.asarray((cells[:, 0] * sizes[1] + cells[:, 1]) * sizes[2] + cells[:, 2], dtype=np.int64)
