"""Instances that are one object, first and later: a mask decoder may give what moves one slot for the first frames of a
window and another one for the rest.

Seen by itself each is a good mask, and neither is the object: the tracker could follow only one of them, and relations
would be asked twice and answered by halves. So what ends where another of the same label begins is joined to it, before
anybody is asked for relations.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from psg4d_ros.runtime.panoptic import Segmentation
from psg4d_ros.structures import Float64, InstancePrediction, Window
from psg4d_ros.transforms import NS_PER_S

# A frame in which an instance has less than this share of its most points is not one that it lives in: masks fade.
MIN_SHARE = 0.3
# Two that share more frames than this (by the points of the one with fewer there) are side by side, not one after the
# other.
MAX_SHARED = 0.25
# How far from where the one would be by its motion the other may begin, and no further than the larger one is long.
REACH_M = 0.5
# The longest gap between them: speeds of what is partly seen are too rough to follow for longer.
MAX_GAP_S = 1.0


def join_in_time(
    segmentation: Segmentation, instances: tuple[InstancePrediction, ...], window: Window
) -> tuple[Segmentation, tuple[InstancePrediction, ...]]:
    """Things of one label of which one ends where and before the other begins become one instance: that of the surer
    slot, with the points of both. Of several that could follow, the nearest does."""
    count = len(instances)
    points = np.stack([np.bincount(p, minlength=count + 1)[1:] for p in segmentation.point_instance], axis=1)
    following = _following(points, segmentation.boxes, instances, window)
    if not following:
        return segmentation, instances
    first = np.arange(count)  # of the chain that each is part of
    for earlier, later in following.items():
        first[first == first[later]] = first[earlier]
    chains = [np.flatnonzero(first == i) for i in np.unique(first)]
    keep = np.array([max(chain, key=lambda i: instances[i].score) for chain in chains])
    number = np.zeros(count + 1, np.int32)
    for i, chain in enumerate(chains):
        number[chain + 1] = i + 1
    boxes = np.stack([_union(segmentation.boxes[chain]) for chain in chains])
    rows = torch.from_numpy(keep).to(segmentation.slots.device)
    joined = replace(
        segmentation,
        slots=segmentation.slots[rows],
        presence_prob=segmentation.presence_prob[rows],
        point_instance=tuple(number[p] for p in segmentation.point_instance),
        boxes=boxes,
    )
    return joined, tuple(instances[i] for i in keep)


def _following(
    points: NDArray[np.int64], boxes: Float64, instances: tuple[InstancePrediction, ...], window: Window
) -> dict[int, int]:
    """earlier instance -> the one that goes on from it. points: int64[P, F]. boxes: float64[P, F, 6]."""
    times_s = np.array([(f.stamp_ns - window.newest.stamp_ns) / NS_PER_S for f in window.frames])
    lives = (points > 0) & (points >= MIN_SHARE * points.max(axis=1, keepdims=True)) & np.isfinite(boxes[:, :, 0])
    centers = (boxes[:, :, :3] + boxes[:, :, 3:]) / 2
    things = [i for i, instance in enumerate(instances) if instance.is_thing and lives[i].any()]
    ends = {i: np.flatnonzero(lives[i])[[0, -1]] for i in things}
    velocity = {i: _velocity(times_s[lives[i]], centers[i, lives[i]]) for i in things}
    extent = boxes[:, :, 3:] - boxes[:, :, :3]
    length = {i: float(np.linalg.norm(extent[i, lives[i]], axis=1).max()) for i in things}
    found: list[tuple[float, int, int]] = []
    for a in things:
        for b in things:
            last, begin = int(ends[a][1]), int(ends[b][0])
            if last >= begin or instances[a].label != instances[b].label:
                continue
            if np.minimum(points[a], points[b]).sum() > MAX_SHARED * min(points[a].sum(), points[b].sum()):
                continue
            gap_s = times_s[begin] - times_s[last]
            step = centers[b, begin] - centers[a, last]
            # Either one's motion may be known, from two frames or more, or both.
            expected = [v * gap_s for v in (velocity[a], velocity[b]) if v is not None] or [np.zeros(3)]
            apart = min(float(np.linalg.norm(step - e)) for e in expected)
            if gap_s <= MAX_GAP_S and apart <= min(REACH_M, max(length[a], length[b])):
                found.append((apart, a, b))
    following: dict[int, int] = {}
    for _, a, b in sorted(found):
        if a not in following and b not in following.values():
            following[a] = b
    return following


def _velocity(times_s: Float64, centers: Float64) -> Float64 | None:
    """float64[3], m/s, of centers float64[n, 3] in order; None for one."""
    if len(times_s) < 2:
        return None
    velocity: Float64 = (centers[-1] - centers[0]) / (times_s[-1] - times_s[0])
    return velocity


def _union(boxes: Float64) -> Float64:
    """float64[F, 6] around float64[n, F, 6]; NaN where all are."""
    low, high = np.fmin.reduce(boxes[:, :, :3], axis=0), np.fmax.reduce(boxes[:, :, 3:], axis=0)
    return np.concatenate([low, high], axis=1)
