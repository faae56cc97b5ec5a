"""What changed between two scene graphs, and which part of a graph a question asks for."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from enum import IntEnum

from psg4d_ros.errors import ConfigError
from psg4d_ros.structures import Relation, SceneGraph, SceneObject
from psg4d_ros.vocabulary import Vocabulary

_Key = tuple[int, str, int]


class EventType(IntEnum):
    """Values of SceneGraphEvent.type (the message holds the same numbers)."""

    OBJECT_APPEARED = 0
    OBJECT_LOST = 1
    RELATION_STARTED = 2
    RELATION_ENDED = 3


@dataclass(frozen=True, eq=False)
class GraphEvent:
    """One change. stamp_ns, frame_id: those of the graph that shows it first.

    object: the object concerned, in its last known state; for relations their subject. relation: None for events about
    objects. epoch: the one in which the ids hold, so after a change of epoch the former one for what was lost.
    """

    type: EventType
    stamp_ns: int
    frame_id: str
    epoch: int
    object: SceneObject
    relation: Relation | None = None


def graph_events(previous: SceneGraph | None, current: SceneGraph) -> tuple[GraphEvent, ...]:
    """Changes from ``previous`` (None: nothing was there) to ``current``.

    Order: relations ended, objects lost, objects appeared, relations started; so that who applies them one after the
    other to a list of objects and ongoing relations never holds a relation without its objects, and ends up with
    ``current``. A relation that began and ended between two graphs gives both of its events. After a change of epoch
    everything of the former one is lost, and everything of the new one appears.
    """
    if previous is not None and previous.epoch != current.epoch:
        return (*_changes(previous, None, current, previous.epoch), *_changes(None, current, current, current.epoch))
    return tuple(_changes(previous, current, current, current.epoch))


def _changes(before: SceneGraph | None, after: SceneGraph | None, shown: SceneGraph, epoch: int) -> list[GraphEvent]:
    old = {o.track_id: o for o in before.objects} if before else {}
    new = {o.track_id: o for o in after.objects} if after else {}

    def event(type: EventType, subject: SceneObject, relation: Relation | None = None) -> GraphEvent:
        return GraphEvent(type, shown.stamp_ns, shown.frame_id, epoch, subject, relation)

    started, ended, both = _relation_changes(before.relations if before else (), after.relations if after else ())
    lost = [event(EventType.OBJECT_LOST, o) for i, o in old.items() if i not in new]
    appeared = [event(EventType.OBJECT_APPEARED, o) for i, o in new.items() if i not in old]
    ends = [event(EventType.RELATION_ENDED, new.get(r.subject_id) or old[r.subject_id], r) for r in ended]
    passed = [
        event(type, new[r.subject_id], r)
        for r in both
        for type in (EventType.RELATION_STARTED, EventType.RELATION_ENDED)
    ]
    starts = [event(EventType.RELATION_STARTED, new[r.subject_id], r) for r in started]
    return [*ends, *lost, *appeared, *passed, *starts]


def _relation_changes(
    before: tuple[Relation, ...], after: tuple[Relation, ...]
) -> tuple[list[Relation], list[Relation], list[Relation]]:
    """Relations started, ended, and both at once.

    Two spans of one subject, predicate and object are the same relation when they overlap: the tracker may still move
    either end of a span it has told of.
    """
    known: dict[_Key, list[Relation]] = defaultdict(list)
    for r in before:
        known[_key(r)].append(r)
    was = {_key(r): r for r in before if r.ongoing}
    now = {_key(r): r for r in after if r.ongoing}
    going_on = {key for key, r in was.items() if key in now and _overlap(r, now[key])}
    started = [r for key, r in now.items() if key not in going_on]
    ended = []
    for key, r in was.items():
        if key in going_on:
            continue
        # The record with its true end; without one its track was lost, or the tracker thought better of it.
        closed = (a for a in after if _key(a) == key and not a.ongoing and _overlap(a, r))
        ended.append(next(closed, replace(r, ongoing=False)))
    both = [
        r
        for r in after
        if not r.ongoing and _key(r) not in going_on and not any(_overlap(r, p) for p in known[_key(r)])
    ]
    return started, ended, both


def _overlap(a: Relation, b: Relation) -> bool:
    return a.start_ns < b.end_ns and b.start_ns < a.end_ns


def _key(r: Relation) -> _Key:
    return r.subject_id, r.predicate, r.object_id


def query(
    graph: SceneGraph,
    vocabulary: Vocabulary,
    *,
    subject_label: str = "",
    subject_id: int = 0,
    predicate: str = "",
    object_label: str = "",
    object_id: int = 0,
    since_ns: int = 0,
    until_ns: int = 0,
) -> SceneGraph:
    """The part of ``graph`` that meets all conditions given; "" and 0 match anything. Header and status stay.

    Labels and predicates match in any letter case, labels through the vocabulary's synonyms too. Time: what still held
    or was still seen at or after ``since_ns``, and had begun or been seen before ``until_ns``, so that [since, until)
    is half-open as the relations' own spans are. Relations must meet every condition and bring their two objects along.
    Objects on their own count where the question asks for one side only (or for neither) and names no predicate: "where
    is the chair" is answered whether or not the chair takes part in a relation.

    Raises ConfigError when the times or ids cannot be met by anything: a negative number, or since not before until.
    """
    for name, value in (
        ("subject_id", subject_id), ("object_id", object_id), ("since", since_ns), ("until", until_ns)
    ):  # fmt: skip
        if value < 0:
            raise ConfigError(f"{name} is {value}, expected 0 (any) or a positive number")
    if since_ns and until_ns and since_ns >= until_ns:
        raise ConfigError(f"since ({since_ns} ns) is not before until ({until_ns} ns): no time lies between them")

    def side(label: str, track_id: int) -> dict[int, SceneObject]:
        wanted = vocabulary.canonical(label).casefold()
        return {
            o.track_id: o
            for o in graph.objects
            if (not track_id or o.track_id == track_id)
            and (not wanted or vocabulary.canonical(o.label).casefold() == wanted)
        }

    subjects, objects = side(subject_label, subject_id), side(object_label, object_id)
    phrase = vocabulary.canonical_predicate(predicate).casefold()
    relations = tuple(
        r
        for r in graph.relations
        if r.subject_id in subjects
        and r.object_id in objects
        and (not phrase or vocabulary.canonical_predicate(r.predicate).casefold() == phrase)
        and r.end_ns > since_ns
        and (not until_ns or r.start_ns < until_ns)
    )
    keep = {i for r in relations for i in (r.subject_id, r.object_id)}
    asks_subject, asks_object = bool(subject_label.strip() or subject_id), bool(object_label.strip() or object_id)
    if not phrase and not (asks_subject and asks_object):
        alone = objects if asks_object else subjects
        keep |= {
            i for i, o in alone.items() if o.last_seen_ns >= since_ns and (not until_ns or o.first_seen_ns < until_ns)
        }
    return replace(graph, objects=tuple(o for o in graph.objects if o.track_id in keep), relations=relations)
