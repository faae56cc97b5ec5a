"""Candidate pairs for turn 2, and the boxes their geometry is measured on."""

from __future__ import annotations

import numpy as np

from psg4d_ros.structures import Float64, Int64


def fill_boxes(boxes: Float64) -> Float64:
    """Boxes over time without gaps: unseen frames take the last box seen before, else the first one after.

    boxes: float64[P, F, 6] (min xyz, max xyz) with NaN where unseen; every instance is seen at least once.
    """
    instances, num_frames, _ = boxes.shape
    seen = np.isfinite(boxes[:, :, 0])
    frame = np.arange(num_frames)
    latest = np.maximum.accumulate(np.where(seen, frame, -1), axis=1)
    first = np.argmax(seen, axis=1)
    source = np.where(latest >= 0, latest, first[:, None])
    return boxes[np.arange(instances)[:, None], source]


def box_gaps(boxes: Float64) -> Float64:
    """Euclidean gap between each two boxes, metres, 0 where they touch. boxes: float64[P, 6] -> float64[P, P]."""
    low, high = boxes[:, None, :3], boxes[:, None, 3:]
    apart = np.maximum(low - high.transpose(1, 0, 2), low.transpose(1, 0, 2) - high)
    return np.asarray(np.linalg.norm(np.maximum(apart, 0.0), axis=2), np.float64)


def candidate_pairs(boxes: Float64, is_thing: np.ndarray, max_pairs: int) -> Int64:
    """Ordered pairs (subject, object), nearest first; ties keep the lower indices. int64[R, 2].

    boxes: float64[P, 6] newest boxes. is_thing: bool[P]. Pairs of two stuff instances are left out: nobody asks what
    a wall does to a ceiling.
    """
    subject, object_ = np.nonzero(is_thing[:, None] | is_thing[None, :])
    distinct = subject != object_
    subject, object_ = subject[distinct], object_[distinct]
    nearest = np.argsort(box_gaps(boxes)[subject, object_], kind="stable")[:max_pairs]
    return np.stack([subject[nearest], object_[nearest]], axis=1).astype(np.int64)
