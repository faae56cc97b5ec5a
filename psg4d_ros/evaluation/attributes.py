"""Attributes of objects over time: F1 of what is said of each visible object in each frame (docs/metrics.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psg4d_ros.evaluation.matching import Scene
from psg4d_ros.evaluation.panoptic import frame_matches

ObjectAttributes = dict[tuple[int, int], frozenset[str]]  # (frame, object) -> what holds there; absent: nothing


@dataclass(frozen=True)
class SceneAttributes:
    """Attributes by evaluated frame and object of a scene: what is true and what was said."""

    true: ObjectAttributes
    predicted: ObjectAttributes


def attribute_metrics(scenes: Sequence[Scene], attributes: Sequence[SceneAttributes]) -> dict[str, Any]:
    """F1 over all (frame, visible true object, attribute), as JSON values; None where there are no attributes.

    What is said of a true object is said of the predicted one whose mask has an IoU above 0.5 with its own in that
    frame; where there is none, nothing is said. Attributes that the truth never uses do not count.
    """
    right: Counter[str] = Counter()
    said: Counter[str] = Counter()
    true: Counter[str] = Counter()
    for scene, table in zip(scenes, attributes, strict=True):
        found = frame_matches(scene)
        for f, t in zip(*scene.overlaps.true.nonzero(), strict=True):
            holds = table.true.get((int(f), int(t)), frozenset())
            p = int(found[f, t])
            claimed = table.predicted.get((int(f), p), frozenset()) if p >= 0 else frozenset()
            right.update(holds & claimed)
            said.update(claimed)
            true.update(holds)
    names = sorted(true)
    by_attribute = {name: {"count": true[name], "F1": _f1(right[name], said[name], true[name])} for name in names}
    return {
        "F1": _f1(*(sum(c[name] for name in names) for c in (right, said, true))) if names else None,
        "mean_F1": sum(v["F1"] for v in by_attribute.values()) / len(names) if names else None,
        "by_attribute": by_attribute,
    }


def _f1(right: int, said: int, true: int) -> float:
    return 2 * right / (said + true)
