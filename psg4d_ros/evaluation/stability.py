"""How steady a run's graphs are, without knowing the truth: id switches, label flicker, relation churn, coverage.

Everything is computed from ``graphs`` as replay writes them, so a saved result can be judged again. Most of these
compare a window with the one before it in the same epoch. Steady is not right: a model that says the same wrong thing
all the time has the best values. They show what changed between two runs over one recording (docs/replay.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from psg4d_ros.structures import Float64

MEASURES = ("coverage", "label_flicker", "relation_churn", "id_switches")
SAME_PLACE_IOU = 0.5  # a new track whose box overlaps that of a vanished one as much is taken for the same object

Graph = Mapping[str, Any]  # of replay's JSON, see replay.graph_json
Series = dict[str, list[float | None]]


def window_series(graphs: Sequence[Graph]) -> Series:
    """One value per window for each measure, None where a window has nothing to compare.

    coverage: share of the newest frame's points that belong to an object. label_flicker: share of the tracks that the
    window before knew too whose label is another now. relation_churn: of the ongoing relations between such tracks, in
    this window or the one before, the share that is not in both. id_switches: new tracks in the place of vanished ones.
    """
    out: Series = {name: [] for name in MEASURES}
    epoch: _Epoch | None = None
    for graph in graphs:
        if epoch is None or epoch.number != graph["epoch"]:
            epoch = _Epoch(graph["epoch"])
        assigned = sum(o["num_points"] for o in graph["objects"])
        out["coverage"].append(assigned / graph["num_points"] if graph["num_points"] else None)
        for name, value in epoch.add(graph).items():
            out[name].append(value)
    return out


def stability(*runs: Sequence[Graph]) -> dict[str, Any]:
    """The measures of one or more runs as JSON values: means over the windows that have a value (None without any), the
    least coverage, and the number of id switches."""
    series = [window_series(graphs) for graphs in runs]
    known = {name: np.array([v for s in series for v in s[name] if v is not None]) for name in MEASURES}
    out: dict[str, Any] = {name: round(float(v.mean()), 5) if v.size else None for name, v in known.items()}
    out["coverage_min"] = round(float(known["coverage"].min()), 5) if known["coverage"].size else None
    out["id_switches"] = int(known["id_switches"].sum())
    return out


class _Epoch:
    """What is known of the tracks of one epoch; ids compare only inside it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._before: Graph | None = None
        self._boxes: dict[int, Float64] = {}  # float64[2, 3] lower and upper corner, when it last had points

    def add(self, graph: Graph) -> dict[str, float | None]:
        before, self._before = self._before, graph
        switches = self._switches(graph)
        if before is None:
            return {"label_flicker": None, "relation_churn": None, "id_switches": 0.0}
        labels, old = ({o["track_id"]: o["label"] for o in g["objects"]} for g in (graph, before))
        both = labels.keys() & old.keys()
        changed = sum(labels[t] != old[t] for t in both)
        now, then = (_ongoing(g, both) for g in (graph, before))
        union = now | then
        return {
            "label_flicker": changed / len(both) if both else None,
            "relation_churn": 1.0 - len(now & then) / len(union) if union else None,
            "id_switches": float(switches),
        }

    def _switches(self, graph: Graph) -> int:
        seen = {o["track_id"]: _box(o) for o in graph["objects"] if o["num_points"]}
        gone = [box for track, box in self._boxes.items() if track not in seen]
        switches = 0
        for track in sorted(seen.keys() - self._boxes.keys()):
            overlaps = [_iou(seen[track], box) for box in gone]
            if overlaps and max(overlaps) >= SAME_PLACE_IOU:
                gone.pop(int(np.argmax(overlaps)))  # one vanished object comes back as one
                switches += 1
        self._boxes |= seen
        return switches


def _ongoing(graph: Graph, tracks: set[int]) -> set[tuple[int, str, int]]:
    return {
        (r["subject_id"], r["predicate"], r["object_id"])
        for r in graph["relations"]
        if r["ongoing"] and r["subject_id"] in tracks and r["object_id"] in tracks
    }


def _box(o: Mapping[str, Any]) -> Float64:
    middle, half = np.array(o["position"]), np.array(o["size"]) / 2
    return np.stack([middle - half, middle + half])


def _iou(a: Float64, b: Float64) -> float:
    """Volume IoU of axis-aligned boxes; flat ones are given a millimetre, so that two floors can be the same."""
    both = np.clip(np.minimum(a[1], b[1]) - np.maximum(a[0], b[0]) + 1e-3, 0, None).prod()
    volumes = [(box[1] - box[0] + 1e-3).prod() for box in (a, b)]
    return float(both / (volumes[0] + volumes[1] - both))
