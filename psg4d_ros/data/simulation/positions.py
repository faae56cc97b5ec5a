"""Relations of place, by gravity and by the fronts that things have: next to, in front of, under, above, facing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from psg4d_ros.data.simulation.contacts import (
    Bool,
    contains,
    distance_to_outline,
    entry_along,
    meets_segment,
    outline_gap,
)
from psg4d_ros.data.simulation.predicates import (
    ABOVE_M,
    AT_TABLE_M,
    FACED,
    FACING_M,
    FRONT_M,
    FRONT_ON_TOP_M,
    NEXT_TO_M,
    SCREEN_M,
    SCREENS,
    SEATS,
    TABLES,
    UNDER_SHARE,
    WITH_FRONT,
)
from psg4d_ros.data.simulation.situation import Situation
from psg4d_ros.structures import Float64

Held = Mapping[tuple[int, str, int], Bool]
_FLOOR = -1  # the level of everything that stands on the floor or on a rug
_EQUAL = 1.25  # outlines whose areas differ by less than this factor are of equal size
_SAME_HEIGHT = 0.5  # share of the lower of two things that must lie at the height of the other
_BESIDE_M = 0.25
_FURNITURE_M2 = 0.15  # what stands on less is not furniture
_OVERLOOKED_M = 1.1  # what is lower than this does not hide what is behind it
_ELBOW_M = 0.5  # half the width before and behind a person
_AIM_RAD = np.radians([0.0, -7.0, 7.0])
_TRUNK_FRONT_M = 0.12
_BETTER = (
    "under",
    "in front of",
    "behind",
    "sitting at",
    "touching",
    "leaning against",
    "covering",
    "sitting down on",
    "standing up from",
)


def positions(situation: Situation, held: Held) -> dict[tuple[int, str, int], Bool]:
    """bool[F] for every subject, predicate and object that occur. held: what is decided already."""
    return _Positions(situation, held).decide()


class _Positions:
    def __init__(self, situation: Situation, held: Held) -> None:
        self.situation, self.surfaces, self.world = situation, situation.surfaces, situation.world
        self.given = held
        self.held: dict[tuple[int, str, int], Bool] = {}
        self.known: dict[tuple[object, ...], bool] = {}
        entities = self.world.entities
        self.ids = [e.entity_id for e in entities]
        self.levels = np.zeros((situation.frames, len(entities)), dtype=np.int64)
        for e in entities:
            for f in range(situation.frames):
                self.levels[f, e.entity_id - 1] = self._level(e.entity_id, f)

    def _level(self, i: int, frame: int) -> int:
        """What an entity stands on, _FLOOR for floor and rugs; 0 for what hangs, is held or is in the air."""
        carrier = int(self.situation.carrier[frame, i - 1])
        if carrier == 0 or self.situation.is_person(carrier) or self.situation.hangs(i, carrier):
            return 0
        return _FLOOR if self.world.entity(carrier).label in ("floor", "ground", "carpet") else carrier

    def decide(self) -> dict[tuple[int, str, int], Bool]:
        moving = self.surfaces.moves
        still_pairs = [0] if self.situation.frames else []
        for a in self.ids:
            for b in self.ids:
                if a == b or self.situation.kind(a) == "stuff":
                    continue
                static = not moving[a - 1] and not moving[b - 1]
                frames = still_pairs if static else list(range(self.situation.frames))
                for f in frames:
                    for name in self._of_pair(a, b, f):
                        self._add(a, name, b, slice(None) if static else f)
        for a in self.ids:
            for f in range(self.situation.frames):
                for name, b in self._looking(a, f):
                    self._add(a, name, b, f)
        self._only_best_above()
        for a in self.ids:
            for b in self.ids[a:]:
                self._next_to(a, b)
        return self.held

    def _add(self, a: int, name: str, b: int, frames: int | slice) -> None:
        key = (a, name, b)
        self.held.setdefault(key, np.zeros(self.situation.frames, dtype=bool))[frames] = True

    def _is(self, a: int, name: str, b: int, frame: int) -> bool:
        return any(key in found and found[key][frame] for found in (self.held, self.given) for key in [(a, name, b)])

    # Pairs

    def _of_pair(self, a: int, b: int, f: int) -> list[str]:
        out: list[str] = []
        if self.surfaces.boxes_gap(a, b, f) > max(FRONT_M, ABOVE_M):
            return out
        if self._once("under", self._is_under, a, b, f):
            out.append("under")
        if self._once("above", self._is_above, a, b, f):
            out.append("above")
        side = self._side(a, b, f)
        if side:
            out.append(side)
        return out

    def _once(self, name: str, find: Callable[[int, int, int], bool], a: int, b: int, f: int) -> bool:
        key = (name, *self.situation.arrangement(a, b, f), int(self.levels[f, a - 1]), int(self.levels[f, b - 1]))
        if key not in self.known:
            self.known[key] = find(a, b, f)
        return self.known[key]

    def _is_under(self, a: int, b: int, f: int) -> bool:
        level = self.levels[f, a - 1]
        if level == 0 or level != self.levels[f, b - 1] or self.situation.is_person(a) or self.situation.is_person(b):
            return False
        (low_a, high_a), (low_b, high_b) = self.surfaces.boxes[f, a - 1], self.surfaces.boxes[f, b - 1]
        if (low_a[:2] >= high_b[:2]).any() or (high_a[:2] <= low_b[:2]).any() or low_a[2] >= high_b[2]:
            return False
        carrier = int(self.situation.carrier[f, a - 1])
        return self.surfaces.share_below(a, b, carrier, f) >= UNDER_SHARE

    def _is_above(self, a: int, b: int, f: int) -> bool:
        label = self.world.entity(a).label
        carrier = int(self.situation.carrier[f, a - 1])
        if not self.situation.hangs(a, carrier) or self.world.entity(carrier).label not in ("wall", "ceiling"):
            return False
        if label in ("door", "curtain") or self.levels[f, b - 1] != _FLOOR or self.situation.kind(b) != "thing":
            return False
        if self.world.entity(b).graspable or area(self.surfaces.outline(b, f)) < _FURNITURE_M2:
            return False
        gap = self.surfaces.boxes[f, a - 1, 0, 2] - self.surfaces.boxes[f, b - 1, 1, 2]
        return -0.02 <= gap <= ABOVE_M and self._over(a, b, f) >= 0.5

    def _over(self, a: int, b: int, f: int) -> float:
        """Share of a, seen from above, that is over b or within _BESIDE_M of it."""
        away = distance_to_outline(self.surfaces.outline(b, f), self.surfaces.points(a, f)[:, :2])
        return float((away <= _BESIDE_M).mean())

    def _only_best_above(self) -> None:
        """Of several pieces of furniture below one thing, the one most of it is over, then the highest."""
        best: dict[int, tuple[float, float, int]] = {}
        keys = [key for key in self.held if key[1] == "above"]
        for a, _, b in keys:
            rank = (round(self._over(a, b, 0), 1), float(self.surfaces.boxes[0, b - 1, 1, 2]), -b)
            best[a] = max(best.get(a, rank), rank)
        for a, name, b in keys:
            if best[a][2] != -b:
                del self.held[a, name, b]

    def _side(self, a: int, b: int, f: int) -> str:
        """in front of, behind or nothing: a seen from b."""
        person_a, person_b = self.situation.is_person(a), self.situation.is_person(b)
        if not (person_a if person_b else self.world.entity(b).label in WITH_FRONT):
            return ""
        if not (self.situation.still[f, a - 1] and self.situation.still[f, b - 1]):
            return ""
        level_a = _FLOOR if person_a and self._upright(a, f) else self.levels[f, a - 1]
        level_b = _FLOOR if person_b and self._upright(b, f) else self.levels[f, b - 1]
        if level_a == 0 or level_a != level_b or int(self.situation.carrier[f, a - 1]) == b:
            return ""
        if level_a != _FLOOR and not self._at_one_height(a, b, f):
            return ""  # on different boards
        outline_a, outline_b = self.surfaces.outline(a, f), self.surfaces.outline(b, f)
        if not person_a and area(outline_a) > _EQUAL * area(outline_b):
            return ""
        front = self.situation.front(b, f)
        across = np.array([-front[1], front[0]])
        middle = outline_b.mean(axis=0) if person_b else self.surfaces.middle(b, f)[:2]
        offset = self.surfaces.middle(a, f)[:2] - middle
        half_width = np.abs((outline_b - middle) @ across).max()
        if abs(offset @ across) > (max(half_width, _ELBOW_M) if person_b else half_width):
            return ""
        name = "in front of" if offset @ front > 0 else "behind"
        way = front if name == "in front of" else -front
        face = ((outline_b - middle) @ way).max()
        gap = ((outline_a - middle) @ way).min() - face
        limit = FRONT_M if level_a == _FLOOR else FRONT_ON_TOP_M
        if offset @ way <= face or gap > limit or self._between(a, b, f, level_a):
            return ""
        if level_a == _FLOOR and self.situation.room(a, f) != self.situation.room(b, f):
            return ""
        return name

    def _upright(self, person: int, f: int) -> bool:
        return self.situation.posture(person, f) != "lying"

    def _between(self, a: int, b: int, f: int, level: int) -> bool:
        """Whether a thing of the same level stands on the shortest line between two outlines."""
        gap, p, q = outline_gap(self.surfaces.outline(a, f), self.surfaces.outline(b, f))
        if gap == 0.0:
            return False
        seats = {int(self.situation.carrier[f, i - 1]) for i in (a, b)}
        for c in self.ids:
            if c in (a, b) or c in seats or self.levels[f, c - 1] != level or self.situation.is_person(c):
                continue
            if self.world.entity(c).is_thing and meets_segment(self.surfaces.outline(c, f), p, q):
                return True
        return False

    # Fronts

    def _looking(self, a: int, f: int) -> list[tuple[str, int]]:
        e, situation = self.world.entity(a), self.situation
        posture = situation.posture(a, f) if e.body is not None else ""
        if not situation.still[f, a - 1] or not (posture in ("standing", "sitting") or e.label in SEATS | SCREENS):
            return []
        out = []
        if posture == "sitting":
            table = next((b for d, b in self._ahead(a, f, TABLES) if d - _TRUNK_FRONT_M <= AT_TABLE_M), 0)
            if table:
                out.append(("sitting at", table))
        first = True
        for distance, b in self._ahead(a, f, SEATS if e.label in SCREENS else FACED):
            label = self.world.entity(b).label
            far = label in SCREENS or e.label in SCREENS or (e.label in SEATS and label in SEATS)
            wanted = first or label in SCREENS or (e.body is not None and situation.is_person(b))
            if wanted and distance <= (SCREEN_M if far else FACING_M):
                out.append(("facing", b))
            first = False
            if self.surfaces.boxes[f, b - 1, 1, 2] > _OVERLOOKED_M and not situation.is_person(b):
                break
        return out

    def _ahead(self, a: int, f: int, labels: frozenset[str]) -> list[tuple[float, int]]:
        """What with one of the labels, or for a person also which person, lies ahead in the same room: metres, id."""
        front = self.situation.front(a, f)
        middle = self.surfaces.middle(a, f)[:2]
        person = self.situation.is_person(a)
        outline = self.surfaces.outline(a, f)
        own = 0.0 if person else float(((outline - middle) @ front).max())
        room, carrier = self.situation.room(a, f), int(self.situation.carrier[f, a - 1])
        found = []
        for b in self.ids:
            e = self.world.entity(b)
            if b in (a, carrier) or not (e.label in labels or (person and e.body is not None)):
                continue
            if self.levels[f, b - 1] == 0 and e.label not in SCREENS | {"sink", "mirror"}:
                continue
            if int(self.situation.carrier[f, b - 1]) == a or self.situation.room(b, f) != room:
                continue
            if self.surfaces.boxes_gap(a, b, f) > SCREEN_M:
                continue
            if contains(self.surfaces.outline(b, f), middle[None])[0]:
                continue  # about to sit down there
            aim = [entry_along(self.surfaces.outline(b, f), middle, _turned(front, angle)) for angle in _AIM_RAD]
            distance = min(aim) - own
            if np.isfinite(distance):
                found.append((max(distance, 0.0), b))
        return sorted(found)

    # Beside each other

    def _next_to(self, a: int, b: int) -> None:
        moving = self.surfaces.moves
        if "stuff" in (self.situation.kind(a), self.situation.kind(b)):
            return
        both_things = not self.situation.is_person(a) and not self.situation.is_person(b)
        if both_things and self.world.entity(a).label == self.world.entity(b).label:
            return
        static = not moving[a - 1] and not moving[b - 1]
        for f in [0] if static else range(self.situation.frames):
            if not (self.situation.still[f, a - 1] and self.situation.still[f, b - 1]):
                continue
            if self.levels[f, a - 1] == 0 or self.levels[f, a - 1] != self.levels[f, b - 1]:
                continue
            if self.surfaces.boxes_gap(a, b, f) > NEXT_TO_M or not self._once("next to", self._beside, a, b, f):
                continue
            if any(self._is(x, name, y, f) for name in _BETTER for x, y in ((a, b), (b, a))):
                continue
            for x, y in self._smaller_first(a, b, f):
                self._add(x, "next to", y, slice(None) if static else f)

    def _beside(self, a: int, b: int, f: int) -> bool:
        if not self._at_one_height(a, b, f):
            return False
        first, second = self.surfaces.outline(a, f), self.surfaces.outline(b, f)
        people = self.situation.is_person(a) or self.situation.is_person(b)
        limit = NEXT_TO_M if people else min(NEXT_TO_M, 0.5 * min(_length(first), _length(second)))
        gap, _, _ = outline_gap(first, second)
        if gap > limit or contains(second, first).all() or contains(first, second).all():
            return False
        if self.levels[f, a - 1] == _FLOOR and self.situation.room(a, f) != self.situation.room(b, f):
            return False
        return not self._between(a, b, f, int(self.levels[f, a - 1]))

    def _at_one_height(self, a: int, b: int, f: int) -> bool:
        boxes = self.surfaces.boxes[f, [a - 1, b - 1]]
        shared = boxes[:, 1, 2].min() - boxes[:, 0, 2].max()
        return bool(shared >= _SAME_HEIGHT * (boxes[:, 1, 2] - boxes[:, 0, 2]).min())

    def _smaller_first(self, a: int, b: int, f: int) -> list[tuple[int, int]]:
        person_a, person_b = self.situation.is_person(a), self.situation.is_person(b)
        if person_a != person_b:
            return [(a, b) if person_a else (b, a)]
        size_a, size_b = (area(self.surfaces.outline(i, f)) for i in (a, b))
        if person_a or max(size_a, size_b) <= _EQUAL * min(size_a, size_b):
            return [(a, b), (b, a)]
        return [(a, b) if size_a < size_b else (b, a)]


def area(outline: Float64) -> float:
    """Square metres of a convex outline."""
    x, y = outline[:, 0], outline[:, 1]
    return 0.5 * abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1)))


def _length(outline: Float64) -> float:
    return float(np.linalg.norm(outline[:, None] - outline[None], axis=-1).max())


def _turned(direction: Float64, angle: float) -> Float64:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([c * direction[0] - s * direction[1], s * direction[0] + c * direction[1]])
