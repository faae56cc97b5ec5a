"""Rows of the relation timeline: who did what to whom, when, and what the truth says of the same two objects."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from psg4d_ros.evaluation.report.recorder import ReplayRecorder
from psg4d_ros.evaluation.report.truth_layer import same_objects

MOST_ROWS = 400


@dataclass
class TimelineRow:
    """One triple. subject, object: numbers of predicted objects, or of true ones where ``missed``.

    predicted: spans as (start s, end s, score); true: spans as (start s, end s). Seconds after the first graph.
    """

    subject: int
    predicate: str
    object: int
    missed: bool = False
    predicted: list[tuple[float, float, float]] = field(default_factory=list)
    true: list[tuple[float, float]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return dict(self.__dict__)


def timeline_rows(recorder: ReplayRecorder) -> list[TimelineRow]:
    """All relations that were said, with those of the truth beside them, and the true ones that were not said.

    At most MOST_ROWS: those that were said with the highest score, and the true ones.
    """
    stamps = np.array(recorder.stamps_ns, np.int64)
    if not len(stamps):
        return []
    seconds = (stamps - stamps[0]) * 1e-9
    seconds = np.append(seconds, seconds[-1] + last_step_s(recorder.stamps_ns))
    rows: dict[tuple[bool, int, str, int], TimelineRow] = {}
    relations, score = recorder.said.relations(stamps)
    columns = zip(
        relations.subject.tolist(), relations.predicate, relations.object.tolist(),
        relations.start.tolist(), relations.end.tolist(), score.tolist(), strict=True,
    )  # fmt: skip
    for s, p, o, start, end, sure in columns:
        row = rows.setdefault((False, s, p, o), TimelineRow(s, p, o))
        row.predicted.append((float(seconds[start]), float(seconds[max(end, start + 1)]), sure))
    kept = sorted(rows.values(), key=lambda r: -max(s for *_, s in r.predicted))[:MOST_ROWS]
    rows = {(False, r.subject, r.predicate, r.object): r for r in kept}
    if recorder.truth is not None:
        true_of = same_objects(recorder.truth.overlaps(len(recorder.tracks)))
        predicted_of = {t: p for p, t in true_of.items()}
        times = (recorder.truth.recording.stamps_ns - stamps[0]) * 1e-9
        times = np.append(times, times[-1] + last_step_s(recorder.truth.recording.stamps_ns.tolist()))
        for s, p, o, first, after in recorder.truth.spans():
            said = (False, predicted_of.get(s, -1), p, predicted_of.get(o, -1))
            row = rows[said] if said in rows else rows.setdefault((True, s, p, o), TimelineRow(s, p, o, missed=True))
            start, end = max(float(times[first]), 0.0), min(float(times[after]), float(seconds[-1]))
            if end > start:
                row.true.append((start, end))
    return sorted(
        (r for r in rows.values() if r.predicted or r.true),
        key=lambda r: (min(t[0] for t in (*r.predicted, *r.true)), r.missed, r.subject, r.object, r.predicate),
    )


def last_step_s(stamps_ns: list[int]) -> float:
    """How long the last frame counts: as long as the one before it, or a quarter of a second."""
    return (stamps_ns[-1] - stamps_ns[-2]) * 1e-9 if len(stamps_ns) > 1 else 0.25
