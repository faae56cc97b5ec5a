"""The true relations of what happened in a world: the definitions of predicates.py, applied to a Timeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from psg4d_ros.data.recording import TrueRelation
from psg4d_ros.data.simulation.contacts import HANDS, Bool, gap_to, heights
from psg4d_ros.data.simulation.encounters import encounters
from psg4d_ros.data.simulation.positions import positions
from psg4d_ros.data.simulation.predicates import (
    ACTIVITY,
    CONTACT_M,
    CONTAINERS,
    COVERED_SHARE,
    COVERS,
    ENCLOSED_SHARE,
    FIXTURES,
    LASTING_S,
    LEAN_DEG,
    PREDICATES,
    TOUCH_M,
    WALL_CONTACT_M,
)
from psg4d_ros.data.simulation.situation import Situation
from psg4d_ros.data.simulation.spans import steady_spans, steady_states
from psg4d_ros.data.simulation.world import Timeline
from psg4d_ros.structures import Float64, Int64

Held = dict[tuple[int, str, int], Bool]  # subject, predicate, object -> bool[F]
_Found = TypeVar("_Found")
_FROM_SCRIPT = frozenset(p.name for p in ACTIVITY)
_WALKING = frozenset(("walking to", "walking away from", "walking past", "running to", "carrying"))
# With these the hands are busy: what they brush meanwhile they do not touch in the sense of the word.
_BY_HAND = frozenset((
    "picking up", "putting down", "pushing", "pulling", "opening", "closing", "throwing", "catching", "giving to",
    "taking from", "drinking from", "eating", "reading", "typing on", "using", "playing with", "cleaning", "stirring",
    "pouring into", "sitting down on", "standing up from",
))  # fmt: skip
_HIGH = 0.5  # what leans touches with what is above this share of its height
_BEFORE_WINDOW_M = 0.3
_RUGS = ("carpet",)


def true_relations(timeline: Timeline, steps: Int64) -> tuple[TrueRelation, ...]:
    """All relations that hold at the frames taken at ``steps`` (int64[F], strictly increasing), with their spans.

    Spans are in frames, half-open; ids are entity ids; sorted by start, subject, object, predicate. They mean what
    docs/predicates.md says, seen by a sensor or not. Raises ValueError for a fact that is not a word of the table, or
    whose subject or object is of a kind that its predicate does not admit.
    """
    situation = Situation(timeline, steps)
    spans = _script_spans(situation)
    doing: Held = {}
    for (s, name, o), found in spans.items():
        doing[s, name, o] = _mask(found, len(steps))
        if name in _WALKING:
            doing[s, name, o] &= situation.walking[:, s - 1]
            spans[s, name, o] = steady_spans(doing[s, name, o], least=1)
    carried = _people_carried(situation)
    held: Held = {**_things_carried(situation), **_leaning(situation), **_covering(situation)}
    held.update(encounters(situation))
    held.update(_touching(situation, doing))
    places = positions(situation, {**held, **doing})
    for key, mask in held.items():
        spans[key] = steady_spans(mask, least=1 if key[1] == "falling from" else 2)
    lasting = max(2, int(np.ceil(LASTING_S / max(situation.interval_s, 1e-6))))
    for key, mask in places.items():
        spans[key] = steady_spans(mask, least=lasting)
    relations = [TrueRelation(s, name, o, a, b) for (s, name, o), found in spans.items() for a, b in found]
    relations += carried
    return tuple(sorted(relations, key=lambda r: (r.start_frame, r.subject_id, r.object_id, r.predicate)))


def _script_spans(situation: Situation) -> dict[tuple[int, str, int], list[tuple[int, int]]]:
    found: dict[tuple[int, str, int], list[tuple[int, int]]] = {}
    for fact in situation.timeline.facts:
        if fact.object_id is None:
            continue
        predicate = PREDICATES.get(fact.name)
        if predicate is None:
            raise ValueError(
                f"{situation.world.name}: the script says {fact.name!r}, which predicates.py does not define"
            )
        kinds = situation.kind(fact.subject_id), situation.kind(fact.object_id)
        if kinds[0] not in predicate.subjects or kinds[1] not in predicate.objects:
            raise ValueError(
                f"{situation.world.name}: the script says {fact.name!r} of a {kinds[0]} and a {kinds[1]}, expected "
                f"{' or '.join(predicate.subjects)} and {' or '.join(predicate.objects)}"
            )
        span = situation.fact_span(fact.start_s, fact.end_s)
        if fact.name in _FROM_SCRIPT and span is not None:  # what geometry decides, geometry decides alone
            found.setdefault((fact.subject_id, fact.name, fact.object_id), []).append(span)
    return {key: _joined(spans) for key, spans in found.items()}


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for a, b in sorted(spans):
        if out and a <= out[-1][1]:
            out[-1] = out[-1][0], max(b, out[-1][1])
        else:
            out.append((a, b))
    return out


def _mask(spans: Iterable[tuple[int, int]], frames: int) -> Bool:
    mask = np.zeros(frames, dtype=bool)
    for a, b in spans:
        mask[a:b] = True
    return mask


@dataclass
class _Marks:
    """Relations under construction, and what was found for arrangements that came before."""

    frames: int
    held: Held = field(default_factory=dict)
    known: dict[tuple[object, ...], object] = field(default_factory=dict)

    def add(self, subject: int, predicate: str, obj: int, frame: int) -> None:
        self.held.setdefault((subject, predicate, obj), np.zeros(self.frames, dtype=bool))[frame] = True

    def once(
        self, find: Callable[[Situation, int, int, int], _Found], s: Situation, a: int, b: int, frame: int
    ) -> _Found:
        """What ``find`` says of a and b, asked again only when one of them has moved."""
        key = find, *s.arrangement(a, b, frame)
        if key not in self.known:
            self.known[key] = find(s, a, b, frame)
        return self.known[key]  # type: ignore[return-value]


def _people_carried(situation: Situation) -> list[TrueRelation]:
    """standing on, walking on, sitting on, lying on: exactly one for each person at any frame but in the air."""
    marks = _Marks(situation.frames)
    how = {"sitting": "sitting on", "lying": "lying on"}
    out = []
    for person in situation.world.people:
        i = person.entity_id
        states = []
        for f in range(situation.frames):
            carrier = int(situation.carrier[f, i - 1])
            upright = "walking on" if situation.walking[f, i - 1] else "standing on"
            predicate = how.get(situation.posture(i, f), upright)
            states.append((predicate, _under_foot(situation, marks, i, carrier, f) if carrier else 0))
        out += [TrueRelation(i, name, o, a, b) for (name, o), a, b in steady_states(states) if o]
    return out


def _things_carried(situation: Situation) -> Held:
    """on, inside, hanging on, attached to."""
    marks = _Marks(situation.frames)
    for e in situation.world.entities:
        i = e.entity_id
        for f in range(situation.frames):
            carrier = int(situation.carrier[f, i - 1])
            if e.body is not None or carrier in (0, i) or situation.is_person(carrier):
                continue
            below = _under_foot(situation, marks, i, carrier, f)
            predicate = marks.once(_how_carried, situation, i, below, f)
            if predicate is not None:
                marks.add(i, predicate, below, f)
    return marks.held


def _under_foot(situation: Situation, marks: _Marks, i: int, carrier: int, frame: int) -> int:
    """What carries directly: the rug, if a thing whose weight the floor carries stands on one."""
    if situation.kind(carrier) != "stuff" or situation.world.entity(i).label in _RUGS:
        return carrier
    for rug in situation.rugs:
        if situation.surfaces.boxes_gap(i, rug, frame) > CONTACT_M:
            continue
        if marks.once(_stands_over, situation, i, rug, frame):
            return rug
    return carrier


def _stands_over(situation: Situation, i: int, rug: int, frame: int) -> bool:
    """Whether at least half of what i stands on the ground with (a walker's middle) lies over the rug."""
    if situation.is_person(i):
        places = situation.surfaces.middle(i, frame)[None, :2]
    else:
        corners = situation.surfaces.triangles(i, frame).reshape(-1, 3)
        places = np.unique(np.round(corners[corners[:, 2] < corners[:, 2].min() + 0.02, :2], 3), axis=0)
    over = ~np.isnan(heights(places, situation.surfaces.triangles(rug, frame))).all(axis=1)
    return float(over.mean()) >= 0.5


def _how_carried(situation: Situation, i: int, carrier: int, frame: int) -> str | None:
    e, by, surfaces = situation.world.entity(i), situation.world.entity(carrier), situation.surfaces
    if situation.hangs(i, carrier):
        if not surfaces.touch(i, carrier, frame, WALL_CONTACT_M):
            return None
        return "attached to" if e.label in FIXTURES else "hanging on"
    if not surfaces.touch(i, carrier, frame, CONTACT_M):
        return None
    if by.label in CONTAINERS and surfaces.share_surrounded(i, carrier, frame) >= ENCLOSED_SHARE:
        return "inside"
    return "on"


def _leaning(situation: Situation) -> Held:
    marks = _Marks(situation.frames)
    for e in situation.world.entities:
        i = e.entity_id
        if situation.kind(i) != "thing":
            continue
        for f in range(situation.frames):
            up = situation.surfaces.frame_of(i, f)[2, 2]
            tilt = float(np.degrees(np.arccos(np.clip(up, -1.0, 1.0))))
            carrier = int(situation.carrier[f, i - 1])
            if not LEAN_DEG[0] <= tilt <= LEAN_DEG[1] or carrier == 0 or situation.is_person(carrier):
                continue
            for other in situation.world.entities:
                o = other.entity_id
                if o in (i, carrier) or other.body is not None or situation.surfaces.boxes_gap(i, o, f) > CONTACT_M:
                    continue
                if marks.once(_touches_high, situation, i, o, f):
                    marks.add(i, "leaning against", o, f)
    return marks.held


def _touches_high(situation: Situation, i: int, other: int, frame: int) -> bool:
    surfaces = situation.surfaces
    points = np.concatenate([surfaces.points(i, frame), surfaces.triangles(i, frame).reshape(-1, 3)])
    low, high = surfaces.boxes[frame, i - 1, :, 2]
    upper = points[points[:, 2] > low + _HIGH * (high - low)]
    return gap_to(upper, surfaces.triangles(other, frame), CONTACT_M) <= CONTACT_M


def _covering(situation: Situation) -> Held:
    marks = _Marks(situation.frames)
    for e in situation.world.entities:
        if e.label not in COVERS:
            continue
        i = e.entity_id
        for f in range(situation.frames):
            carrier = int(situation.carrier[f, i - 1])
            for other in situation.world.entities:
                o = other.entity_id
                window = other.label == "window" and situation.hangs(i, carrier)
                if not (window or o == carrier) or situation.kind(o) != "thing":
                    continue
                if marks.once(_hides_window if window else _hides_top, situation, i, o, f):
                    marks.add(i, "covering", o, f)
    return marks.held


def _hides_top(situation: Situation, cloth: int, o: int, frame: int) -> bool:
    surfaces = situation.surfaces
    own, under = surfaces.triangles(cloth, frame), surfaces.triangles(o, frame)
    low, high = surfaces.boxes[frame, o - 1, :, :2]
    grid = np.stack(np.meshgrid(*[np.linspace(a, b, 16) for a, b in zip(low, high, strict=True)]), axis=-1).reshape(
        -1, 2
    )
    top = ~np.isnan(heights(grid, under)).all(axis=1)
    if not top.any():
        return False
    return float((~np.isnan(heights(grid[top], own)).all(axis=1)).mean()) >= COVERED_SHARE


def _hides_window(situation: Situation, cloth: int, o: int, frame: int) -> bool:
    low, high = situation.surfaces.boxes[frame, cloth - 1]
    reach = np.array([_BEFORE_WINDOW_M, _BEFORE_WINDOW_M, 0.0])
    thin = int((high - low)[:2].argmin())  # the way through the cloth
    reach[1 - thin] = 0.0
    points = situation.surfaces.points(o, frame)
    return float(((points >= low - reach) & (points <= high + reach)).all(axis=1).mean()) >= COVERED_SHARE


def _touching(situation: Situation, doing: Held) -> Held:
    """Hands that rest on things and people while they have nothing else to do."""
    marks = _Marks(situation.frames)
    for person in situation.world.people:
        p = person.entity_id
        idle: Bool = situation.still[:, p - 1] & ~situation.walking[:, p - 1]
        for (s, name, _), mask in doing.items():
            if s == p and name in _BY_HAND:
                idle &= ~mask
        for f in np.flatnonzero(idle).tolist():
            hands = [situation.surfaces.hand(p, name, f) for name in HANDS]
            for other in situation.world.entities:
                o = other.entity_id
                if o == p or situation.kind(o) == "stuff" or p == situation.carrier[f, o - 1]:
                    continue
                if o == situation.carrier[f, p - 1] or situation.surfaces.boxes_gap(p, o, f) > TOUCH_M:
                    continue
                if any(_hand_on(situation, hand, o, f) for hand in hands if len(hand)):
                    marks.add(p, "touching", o, f)
    return marks.held


def _hand_on(situation: Situation, hand: Float64, o: int, frame: int) -> bool:
    return gap_to(hand, situation.surfaces.triangles(o, frame), TOUCH_M) <= TOUCH_M
