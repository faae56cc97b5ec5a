"""Which part of what is true about a world is truth about what the sensor saw of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from psg4d_ros.data.recording import AttributeSpan, TrueObject, TrueRelation
from psg4d_ros.structures import Int64

MIN_POINTS = 30  # an object with fewer points in the whole scene was not seen

_Span = tuple[tuple[Any, ...], int, int]  # what holds, in the frames [start, end)


def visible_truth(
    objects: Sequence[TrueObject], relations: Iterable[TrueRelation], counts: Int64
) -> tuple[tuple[TrueObject, ...], tuple[TrueRelation, ...]]:
    """The part of the truth that is about what was seen.

    counts: int64[F, E + 1], points of each object_id in each frame. An object belongs to the truth when it has at least
    MIN_POINTS points in the whole scene, and exists from the first frame that shows it to the end of the scene: what
    leaves the view is still there. Spans of attributes and relations are cut to where their objects exist. A relation
    is dropped when no frame of what is left of its span shows both. Spans of one fact that touch or overlap become one.
    Sorted: objects by id, attributes by name and start, relations by start, subject, object and predicate.
    """
    visible = counts > 0
    first = {o.object_id: int(visible[:, o.object_id].argmax()) for o in objects}
    seen = [o for o in sorted(objects, key=lambda o: o.object_id) if counts[:, o.object_id].sum() >= MIN_POINTS]
    ids = {o.object_id for o in seen}
    kept = []
    for o in seen:
        spans = [((a.name,), max(a.start_frame, first[o.object_id]), a.end_frame) for a in o.attributes]
        attributes = tuple(AttributeSpan(name, start, end) for (name,), start, end in _merged(spans))
        kept.append(replace(o, attributes=attributes))
    candidates = [
        (
            (r.subject_id, r.predicate, r.object_id),
            max(r.start_frame, first[r.subject_id], first[r.object_id]),
            r.end_frame,
        )
        for r in relations
        if r.subject_id in ids and r.object_id in ids
    ]
    found = [
        TrueRelation(subject, predicate, reference, start, end)
        for (subject, predicate, reference), start, end in _merged(candidates)
        if (visible[start:end, subject] & visible[start:end, reference]).any()
    ]
    found.sort(key=lambda r: (r.start_frame, r.subject_id, r.object_id, r.predicate))
    return tuple(kept), tuple(found)


def _merged(spans: Iterable[_Span]) -> list[_Span]:
    """Spans of one key that touch or overlap joined, empty ones left out; sorted by key and start."""
    out: list[_Span] = []
    for key, group in groupby(sorted(s for s in spans if s[1] < s[2]), key=lambda s: s[0]):
        start, end = -1, -1
        for _, s, e in group:
            if s > end:
                if end > start:
                    out.append((key, start, end))
                start, end = s, e
            end = max(end, e)
        out.append((key, start, end))
    return out
