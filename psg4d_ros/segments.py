"""Where the instances of a window are and how they move: what the tracker knows of them besides their masks (numpy)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psg4d_ros.structures import Float64, Int64, WindowPrediction
from psg4d_ros.transforms import NS_PER_S


@dataclass(eq=False)
class Segment:
    """An instance's points in the window's frames, measured. Core frame, metres, seconds, nanoseconds.

    first_ns, last_ns: stamps of the oldest and newest frame with points. entry, exit: float64[3] mean point in each of
    them. box: float64[2, 3] low and high corner in the newest. velocity: float64[3], None if seen in one frame.
    """

    first_ns: int
    last_ns: int
    entry: Float64
    exit: Float64
    box: Float64
    velocity: Float64 | None


def measure(prediction: WindowPrediction) -> list[Segment | None]:
    """Each instance's segment, or None for an instance without a point."""
    frames, count = prediction.window.frames, len(prediction.instances)
    points = np.zeros((count, len(frames)), dtype=np.int64)
    centers = np.zeros((count, len(frames), 3))
    for f, (frame, labels) in enumerate(zip(frames, prediction.point_instance, strict=True)):
        number = np.bincount(labels, minlength=count + 1)[1:]
        for axis in range(3):
            total = np.bincount(labels, weights=frame.points[:, axis], minlength=count + 1)[1:]
            centers[:, f, axis] = total / np.maximum(number, 1)
        points[:, f] = number
    seconds = np.array([(f.stamp_ns - frames[-1].stamp_ns) / NS_PER_S for f in frames])
    grouped: dict[int, tuple[Int64, Int64]] = {}  # frame -> its points in order of instance, and where each begins
    segments: list[Segment | None] = []
    for i in range(count):
        at = np.flatnonzero(points[i])
        if not at.size:
            segments.append(None)
            continue
        first, last = int(at[0]), int(at[-1])
        if last not in grouped:
            labels = prediction.point_instance[last]
            order = np.argsort(labels, kind="stable")
            grouped[last] = order, np.searchsorted(labels[order], np.arange(1, count + 2))
        order, begin = grouped[last]
        mine = frames[last].points[order[begin[i] : begin[i + 1]]].astype(np.float64)
        box = np.percentile(mine, (1.0, 99.0), axis=0)  # a stray point must not stretch it
        velocity = _slope(seconds[at], centers[i, at]) if at.size >= 2 else None
        segments.append(
            Segment(
                first_ns=frames[first].stamp_ns,
                last_ns=frames[last].stamp_ns,
                entry=centers[i, first],
                exit=centers[i, last],
                box=box,
                velocity=velocity,
            )
        )
    return segments


def _slope(seconds: Float64, centers: Float64) -> Float64:
    """Least-squares velocity float64[3] of centres float64[n, 3] at float64[n] seconds, n >= 2."""
    t = seconds - seconds.mean()
    slope: Float64 = (t[:, None] * (centers - centers.mean(axis=0))).sum(axis=0) / (t * t).sum()
    return slope


def box_iou(a: Float64, b: Float64) -> Float64:
    """IoU float64[n] of axis-aligned boxes float64[n, 2, 3] (low and high corners)."""
    extent = np.minimum(a[:, 1], b[:, 1]) - np.maximum(a[:, 0], b[:, 0])
    overlap = extent.clip(0.0).prod(axis=1)
    union = (a[:, 1] - a[:, 0]).prod(axis=1) + (b[:, 1] - b[:, 0]).prod(axis=1) - overlap
    iou: Float64 = overlap / np.maximum(union, 1e-12)
    return iou
