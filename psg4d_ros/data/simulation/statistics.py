"""What simulated scenes hold, in numbers: the figures of ``psg4d simulate`` and of docs/data.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from psg4d_ros.data.simulation.storage import SceneData


@dataclass(frozen=True)
class SceneSummary:
    """The numbers of one scene. predicates: spans of each. span_s: how long each of them is, seconds.
    triplets: distinct (subject, predicate, object)."""

    name: str
    sensor: str
    frames: int
    points: int
    labels: Counter[str] = field(default_factory=Counter)
    predicates: Counter[str] = field(default_factory=Counter)
    attributes: Counter[str] = field(default_factory=Counter)
    span_s: tuple[float, ...] = ()
    triplets: int = 0


def summarise(scene: SceneData) -> SceneSummary:
    """Count what a scene holds; reads its scans once."""
    frame_s = float(np.diff(scene.stamps_ns).mean()) / 1e9 if len(scene.stamps_ns) > 1 else 0.0
    return SceneSummary(
        name=scene.name,
        sensor=scene.sensor.kind,
        frames=len(scene.stamps_ns),
        points=sum(int(np.count_nonzero(scan.ranges)) for scan in scene.open_scans()),
        labels=Counter(o.label for o in scene.objects),
        predicates=Counter(r.predicate for r in scene.relations),
        attributes=Counter(a.name for o in scene.objects for a in o.attributes),
        span_s=tuple(round((r.end_frame - r.start_frame) * frame_s, 3) for r in scene.relations),
        triplets=len({(r.subject_id, r.predicate, r.object_id) for r in scene.relations}),
    )


def totals(scenes: Sequence[SceneSummary]) -> dict[str, Any]:
    """Sums over scenes as JSON values; ``relations`` are counted one per span, ``triplets`` without regard to spans."""
    labels = sum((s.labels for s in scenes), Counter[str]())
    predicates = sum((s.predicates for s in scenes), Counter[str]())
    attributes = sum((s.attributes for s in scenes), Counter[str]())
    spans = [s for scene in scenes for s in scene.span_s] or [0.0]
    return {
        "scenes": len(scenes),
        "frames": sum(s.frames for s in scenes),
        "points": sum(s.points for s in scenes),
        "objects": labels.total(),
        "relations": predicates.total(),
        "triplets": sum(s.triplets for s in scenes),
        "span_s": {"median": round(float(np.median(spans)), 2), "p90": round(float(np.quantile(spans, 0.9)), 2)},
        "sensors": dict(sorted(Counter(s.sensor for s in scenes).items())),
        "predicates": {name: {"count": n} for name, n in _by_count(predicates)},
        "classes": {name: {"count": n} for name, n in _by_count(labels)},
        "attributes": {name: {"count": n} for name, n in _by_count(attributes)},
        "per_scene": {
            "objects": _spread([s.labels.total() for s in scenes]),
            "classes": _spread([len(s.labels) for s in scenes]),
            "relations": _spread([s.predicates.total() for s in scenes]),
            "predicates": _spread([len(s.predicates) for s in scenes]),
            "points_per_frame": _spread([round(s.points / s.frames) for s in scenes]),
        },
    }


def statistics_table(values: dict[str, Any]) -> str:
    """``totals`` as Markdown: a table per scene, then how often each predicate, class and attribute occurs."""
    names = {
        "objects": "objects",
        "classes": "classes",
        "relations": "relations (one per span)",
        "predicates": "predicates",
        "points_per_frame": "points per frame",
    }
    lines = [
        f"{values['scenes']} scenes, {values['frames']} frames, {values['points']:,} points, "
        f"{values['objects']} objects, {values['relations']} relations of {len(values['predicates'])} predicates; "
        f"a span lasts {values['span_s']['median']:g} s (median), 90 % at most {values['span_s']['p90']:g} s",
        "",
        "| per scene | fewest | mean | most |",
        "|---|---|---|---|",
        *(
            f"| {names[key]} | {spread['min']} | {spread['mean']:.1f} | {spread['max']} |"
            for key, spread in values["per_scene"].items()
        ),
    ]
    for key in ("predicates", "classes", "attributes"):
        counts = ", ".join(f"{name} {entry['count']}" for name, entry in values[key].items())
        lines += ["", f"**{key.capitalize()}** ({len(values[key])}): {counts}"]
    return "\n".join(lines)


def _by_count(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _spread(numbers: Sequence[int]) -> dict[str, float]:
    if not numbers:
        return {"min": 0, "mean": 0.0, "max": 0}
    return {"min": min(numbers), "mean": round(sum(numbers) / len(numbers), 2), "max": max(numbers)}
