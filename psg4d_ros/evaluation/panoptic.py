"""How good the masks are, whatever the relations: panoptic quality, LSTQ and id switches (docs/metrics.md).

Points that belong to no true object are left out of all of these, as is usual: nobody said what they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from psg4d_ros.evaluation.matching import Scene
from psg4d_ros.evaluation.overlaps import iou
from psg4d_ros.structures import Int64

MIN_MATCH_IOU = 0.5  # a segment is matched above this, so that no segment has two matches


@dataclass
class _ClassSums:
    """Of one class over all frames and scenes. Segments: true positives and their IoU, false ones; and points."""

    is_thing: bool
    matched: int = 0
    matched_iou: float = 0.0
    false: int = 0
    missed: int = 0
    points_both: int = 0
    points_predicted: int = 0
    points_true: int = 0


@dataclass
class _TubeSums:
    """Over the true things of all scenes, one entry each."""

    association: list[float] = field(default_factory=list)
    best_iou: list[float] = field(default_factory=list)
    switches: int = 0
    matched_frames: int = 0


def panoptic_metrics(scenes: Sequence[Scene]) -> dict[str, Any]:
    """Panoptic quality per frame, LSTQ and id switches over scenes, as JSON values; None where nothing can be measured.

    Means over classes are over those that occur in the truth.
    """
    classes: dict[str, _ClassSums] = {}
    for scene in scenes:
        points = scene.overlaps.true.sum(axis=0)
        for label, is_thing, seen in zip(scene.truth.labels, scene.truth.is_thing, points, strict=True):
            if seen:
                classes.setdefault(label, _ClassSums(is_thing))
    tubes = _TubeSums()
    for scene in scenes:
        _add_segments(scene, classes)
        _add_points(scene, classes)
        _add_tubes(scene, tubes)
    things = [c for c in classes.values() if c.is_thing]
    stuff = [c for c in classes.values() if not c.is_thing]
    s_cls = _average([c.points_both / (c.points_true + c.points_predicted - c.points_both) for c in classes.values()])
    s_assoc = _average(tubes.association)
    return {
        "PQ": _average([_quality(c) for c in classes.values()]),
        "PQ_things": _average([_quality(c) for c in things]),
        "PQ_stuff": _average([_quality(c) for c in stuff]),
        "SQ": _average([c.matched_iou / c.matched for c in classes.values() if c.matched]),
        "RQ": _average([_recognition(c) for c in classes.values()]),
        "LSTQ": None if s_cls is None or s_assoc is None else float(np.sqrt(s_cls * s_assoc)),
        "S_assoc": s_assoc,
        "S_cls": s_cls,
        "tube_IoU": _average(tubes.best_iou),
        "id_switches": tubes.switches,
        "matched_thing_frames": tubes.matched_frames,
        "by_class": {
            name: {"PQ": _quality(c), "segments": c.matched + c.missed} for name, c in sorted(classes.items())
        },
    }


def frame_matches(scene: Scene) -> Int64:
    """int64[F, T]: the predicted object whose mask has an IoU above 0.5 with each true object's in a frame, or -1.

    There is at most one: masks of a frame do not overlap each other. Labels play no part.
    """
    out = np.full(scene.overlaps.true.shape, -1, np.int64)
    f, p, t, _ = scene.overlaps.shared[scene.overlaps.frame_iou() > MIN_MATCH_IOU].T
    out[f, t] = p
    return out


def _quality(c: _ClassSums) -> float:
    return c.matched_iou / (c.matched + (c.false + c.missed) / 2)


def _recognition(c: _ClassSums) -> float:
    return c.matched / (c.matched + (c.false + c.missed) / 2)


def _average(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _segments(labels: tuple[str, ...], is_thing: tuple[bool, ...]) -> tuple[Int64, list[str]]:
    """int64[N] which segment each object is part of, and the segments' labels: stuff of one label is one segment."""
    keys = [(label, i if thing else -1) for i, (label, thing) in enumerate(zip(labels, is_thing, strict=True))]
    number = {key: n for n, key in enumerate(dict.fromkeys(keys))}
    return np.array([number[key] for key in keys], np.int64), [label for label, _ in number]


def _add_segments(scene: Scene, classes: dict[str, _ClassSums]) -> None:
    """Count each frame's segments: matched ones (same label, IoU above 0.5), missed ones and false ones."""
    of_predicted, predicted_label = _segments(scene.prediction.labels, scene.prediction.is_thing)
    of_true, true_label = _segments(scene.truth.labels, scene.truth.is_thing)
    frames = len(scene.overlaps.true)
    predicted, annotated = (np.zeros((frames, len(predicted_label)), np.int64) for _ in range(2))
    true = np.zeros((frames, len(true_label)), np.int64)
    np.add.at(predicted.T, of_predicted, scene.overlaps.predicted.T)
    np.add.at(true.T, of_true, scene.overlaps.true.T)
    f, p, t, points = scene.overlaps.shared.T
    place = (f * len(predicted_label) + of_predicted[p]) * len(true_label) + of_true[t]
    _, first, cell = np.unique(place, return_index=True, return_inverse=True)
    both = np.zeros(len(first), np.int64)
    np.add.at(both, cell, points)
    f, p, t = f[first], of_predicted[p[first]], of_true[t[first]]
    np.add.at(annotated, (f, p), both)

    same = np.array(predicted_label, str)[p] == np.array(true_label, str)[t]
    overlap = iou(both, annotated[f, p], true[f, t])
    matched = same & (overlap > MIN_MATCH_IOU)
    f, p, t, overlap = f[matched], p[matched], t[matched], overlap[matched]
    missed = true > 0
    missed[f, t] = False
    # A segment that lies mostly where nothing is annotated may well be right: it is no false one.
    false = (predicted > 0) & (annotated >= predicted / 2)
    false[f, p] = False
    for segment, value in zip(t, overlap, strict=True):
        sums = classes[true_label[segment]]
        sums.matched += 1
        sums.matched_iou += float(value)
    for label, count in zip(true_label, missed.sum(axis=0), strict=True):
        if count:
            classes[label].missed += int(count)
    for label, count in zip(predicted_label, false.sum(axis=0), strict=True):
        if label in classes:
            classes[label].false += int(count)


def _add_points(scene: Scene, classes: dict[str, _ClassSums]) -> None:
    both = scene.overlaps.shared_in_all()
    for p, label in enumerate(scene.prediction.labels):
        if label in classes:
            classes[label].points_predicted += int(both[p].sum())
            classes[label].points_both += int(both[p, [t == label for t in scene.truth.labels]].sum())
    for label, points in zip(scene.truth.labels, scene.overlaps.true.sum(axis=0), strict=True):
        if points:
            classes[label].points_true += int(points)


def _add_tubes(scene: Scene, sums: _TubeSums) -> None:
    both = scene.overlaps.shared_in_all()
    true = scene.overlaps.true.sum(axis=0)
    overlap = iou(both, both.sum(axis=1)[:, None], true[None])
    found = frame_matches(scene)
    for t in np.flatnonzero(np.array(scene.truth.is_thing, bool) & (true > 0)):
        sums.association.append(float((both[:, t] * overlap[:, t]).sum() / true[t]))
        sums.best_iou.append(float(overlap[:, t].max(initial=0.0)))
        ids = found[found[:, t] >= 0, t]
        sums.matched_frames += len(ids)
        sums.switches += int((ids[1:] != ids[:-1]).sum())
