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
from psg4d_ros.structures import Float64, Int64

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
    if not scene.prediction.labels:
        return np.full(scene.overlaps.true.shape, -1, np.int64)
    overlap = scene.overlaps.frame_iou()
    return np.where(overlap.max(axis=1) > MIN_MATCH_IOU, overlap.argmax(axis=1), -1).astype(np.int64)


def _quality(c: _ClassSums) -> float:
    return c.matched_iou / (c.matched + (c.false + c.missed) / 2)


def _recognition(c: _ClassSums) -> float:
    return c.matched / (c.matched + (c.false + c.missed) / 2)


def _average(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _segments(labels: tuple[str, ...], is_thing: tuple[bool, ...]) -> tuple[list[str], Float64]:
    """Labels of the segments, and float64[N, S] which object is part of which: stuff of one label is one segment."""
    keys: list[tuple[str, int]] = [
        (label, i if thing else -1) for i, (label, thing) in enumerate(zip(labels, is_thing, strict=True))
    ]
    unique = list(dict.fromkeys(keys))
    member = np.zeros((len(keys), len(unique)))
    for i, key in enumerate(keys):
        member[i, unique.index(key)] = 1.0
    return [label for label, _ in unique], member


def _add_segments(scene: Scene, classes: dict[str, _ClassSums]) -> None:
    """Count each frame's segments: matched ones (same label, IoU above 0.5), missed ones and false ones."""
    predicted_label, of_predicted = _segments(scene.prediction.labels, scene.prediction.is_thing)
    true_label, of_true = _segments(scene.truth.labels, scene.truth.is_thing)
    both = of_predicted.T @ scene.overlaps.intersection() @ of_true  # [F, segments, segments]
    predicted, true = scene.overlaps.predicted @ of_predicted, scene.overlaps.true @ of_true
    annotated = both.sum(axis=2)
    same = np.array([[p == t for t in true_label] for p in predicted_label], bool).reshape(both.shape[1:])
    overlap = iou(both, annotated[:, :, None], true[:, None, :])
    matched = (overlap > MIN_MATCH_IOU) & same
    for f, p, t in zip(*np.nonzero(matched), strict=True):
        sums = classes[true_label[t]]
        sums.matched += 1
        sums.matched_iou += float(overlap[f, p, t])
    for t, n in enumerate(((true > 0) & ~matched.any(axis=1)).sum(axis=0)):
        if n:
            classes[true_label[t]].missed += int(n)
    # A segment that lies mostly where nothing is annotated may well be right: it is no false one.
    false = (predicted > 0) & (annotated >= predicted / 2) & ~matched.any(axis=2)
    for p, n in enumerate(false.sum(axis=0)):
        if n and predicted_label[p] in classes:
            classes[predicted_label[p]].false += int(n)


def _add_points(scene: Scene, classes: dict[str, _ClassSums]) -> None:
    both = scene.overlaps.intersection().sum(axis=0)  # [P, T]
    for p, label in enumerate(scene.prediction.labels):
        if label in classes:
            classes[label].points_predicted += int(both[p].sum())
            classes[label].points_both += int(both[p, [t == label for t in scene.truth.labels]].sum())
    for label, points in zip(scene.truth.labels, scene.overlaps.true.sum(axis=0), strict=True):
        if points:
            classes[label].points_true += int(points)


def _add_tubes(scene: Scene, sums: _TubeSums) -> None:
    both = scene.overlaps.intersection().sum(axis=0)  # [P, T]
    true = scene.overlaps.true.sum(axis=0)
    overlap = iou(both, both.sum(axis=1)[:, None], true[None])
    found = frame_matches(scene)
    for t in np.flatnonzero(np.array(scene.truth.is_thing, bool) & (true > 0)):
        sums.association.append(float((both[:, t] * overlap[:, t]).sum() / true[t]))
        sums.best_iou.append(float(overlap[:, t].max(initial=0.0)))
        ids = found[found[:, t] >= 0, t]
        sums.matched_frames += len(ids)
        sums.switches += int((ids[1:] != ids[:-1]).sum())
