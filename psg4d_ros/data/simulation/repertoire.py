"""What somebody could do next, given how it sits or stands, what it holds and what is around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psg4d_ros.data.simulation.acting import Activity, Impossible, together, wait
from psg4d_ros.data.simulation.activities import converse, get_up, lie_down, look, sit_down, stand_up, walk_up_and_talk
from psg4d_ros.data.simulation.handling import hand_over, pick_up, put_down
from psg4d_ros.data.simulation.locomotion import beside, follow, go, walk_past, walk_to
from psg4d_ros.data.simulation.reaching import covering_joints, open_to
from psg4d_ros.data.simulation.shifting import kick, operate, push_off, shift, throw, throw_and_catch
from psg4d_ros.data.simulation.stage import Actor, Stage
from psg4d_ros.data.simulation.tasks import drink, eat, pour, read, type_on, use_held, work_at
from psg4d_ros.data.simulation.world import Entity
from psg4d_ros.structures import Float64

NEAR_M = 4.5
SEATED_REACH_M = 1.3
_DRINKS = frozenset({"cup", "glass", "bottle", "can", "carton"})
_POURS = frozenset({"bottle", "can", "carton"})
_FILLED = frozenset({"cup", "glass", "bowl", "pot"})
_DISHES = frozenset({"bowl", "plate"})
_STIRRED = frozenset({"pot", "pan", "bowl", "cup"})
_SPOONS = frozenset({"spoon", "fork", "whisk"})
_PRESSED = frozenset({"phone", "remote control", "camera"})
_TOYS = frozenset({"toy", "ball"})
_THROWN = frozenset({"ball", "pillow", "toy", "hat"})
_OPERATED = frozenset(
    {"stove", "microwave", "washing machine", "dishwasher", "sink", "computer", "fan", "speaker", "piano", "television"}
)
_SHIFTED = frozenset({"chair", "stool", "box", "cart", "trash can", "suitcase", "basket", "bench"})
_SWEPT = frozenset({"ball", "book", "can", "toy", "box", "bottle", "cup", "remote control", "pillow", "carton"})
# What people seldom get to do by chance, because all that it needs has to be there.
SELDOM = ("throw", "pour", "stir", "clean", "push off", "eat", "read", "type", "pull", "close")
TOOLS = frozenset({"ball", "towel", "spoon", "fork", "bottle", "carton", "book"})  # what most of it is done with
USEFUL = _DRINKS | _SPOONS | _PRESSED | _TOYS | _THROWN | {"book", "towel"}  # something can be done with these in hand


@dataclass(frozen=True)
class Proposal:
    """An activity that somebody may begin. people: whom it takes; weight: how likely it is to be chosen."""

    name: str
    weight: float
    people: tuple[int, ...]
    activity: Activity

    @property
    def purpose(self) -> str:
        """What it is done for: something may have to be fetched first."""
        return self.name.removeprefix("take and ").removeprefix("take to ")


@dataclass(frozen=True)
class _Use:
    """Something to do with a thing in hand; others: who takes part."""

    name: str
    weight: float
    activity: Activity
    others: tuple[Actor, ...] = ()


def _one_after_the_other(*parts: Activity) -> Activity:
    for part in parts:
        yield from part


class Repertoire:
    """The proposals for one person at one moment."""

    def __init__(self, stage: Stage, actor: Actor, free: list[Actor], rng: np.random.Generator) -> None:
        self.stage, self.actor, self.rng = stage, actor, rng
        self.free = [o for o in free if o.posture != "lying"]
        self.around = around(stage, actor, rng, NEAR_M if actor.posture == "standing" else SEATED_REACH_M)
        self.found: list[Proposal] = []
        if actor.posture == "lying":
            self.add("rest", 8.0, wait(self.seconds(4.0, 9.0)))
            self.add("get up", 1.0, get_up(stage, actor))
            return
        for e in self.around[:3]:
            self.add("look at", 0.25, look(stage, actor, e.entity_id, float(rng.uniform(1.2, 2.5))))
        if actor.posture == "sitting":
            if actor.way_out is not None:
                self.add("stand up", 1.2, stand_up(stage, actor))
            for other in self.free:
                seconds = self.seconds(2.0, 4.0)
                if other.posture == "standing":
                    self.add("talk", 0.7, walk_up_and_talk(stage, other, actor, seconds), other)
                elif np.linalg.norm(other.place - actor.place) < 2.2:
                    self.add("talk", 1.0, converse(stage, actor, other, seconds), other)
        else:
            self._get_about()
        for thing in sorted(set(actor.holding.values())):
            self._with_held(thing)
        if actor.free_hand() is not None:
            self._with_free_hand()

    def add(self, name: str, weight: float, activity: Activity, *others: Actor) -> None:
        people = (self.actor.entity_id, *(o.entity_id for o in others))
        self.found.append(Proposal(name, weight, people, activity))

    def near(self, labels: frozenset[str] | str, count: int = 1) -> list[Entity]:
        """Entities of some classes, the likeliest first."""
        wanted = frozenset({labels}) if isinstance(labels, str) else labels
        return [e for e in self.around if e.label in wanted][:count]

    def with_surface(self, *kinds: str, count: int = 1) -> list[Entity]:
        return [e for e in self.around if any(s.kind in kinds for s in e.surfaces)][:count]

    def seconds(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def _get_about(self) -> None:
        stage, actor = self.stage, self.actor
        for e in self.around[:2]:
            self.add("walk to", 0.25, walk_to(stage, actor, e.entity_id))
        for e in self.with_surface("seat", count=3):
            self.add("sit down", 1.0, sit_down(stage, actor, e.entity_id))
        if not actor.holding:
            for e in self.with_surface("lying"):
                self.add("lie down", 8.0, lie_down(stage, actor, e.entity_id))
        for other in self.free:
            self.add("talk", 0.7, walk_up_and_talk(stage, actor, other, self.seconds(2.0, 4.0)), other)
            if other.posture == "standing":
                self.add("follow", 1.1, self._lead(actor, other), other)
        for other in stage.actors.values():
            if other is not actor:
                self.add("run to", 0.4, walk_to(stage, actor, other.entity_id, run=True))
                self.add("walk past", 0.9, self._past(other.entity_id))
        for e in self.around[3:5]:
            self.add("walk past", 0.2, self._past(e.entity_id))
            self.add("run to", 0.2, walk_to(stage, actor, e.entity_id, run=True))

    def _lead(self, leader: Actor, follower: Actor) -> Activity:
        goal = self._far_place(leader.place)
        yield from together(go(self.stage, leader, goal), follow(self.stage, follower, leader, self.seconds(5.0, 8.0)))

    def _far_place(self, start: Float64) -> Float64:
        clearance = self.stage.clearance()
        cells = np.argwhere(clearance > 0.4)
        if not len(cells):
            raise Impossible("no free floor")
        places = self.stage.floor.centers(cells[self.rng.choice(len(cells), size=min(20, len(cells)))])
        away = np.linalg.norm(places - start, axis=1)
        best: Float64 = places[int(np.argmin(np.abs(away - 3.5)))]
        return best

    def _past(self, target: int) -> Activity:
        """To a place beyond something, on a straight line that comes near it."""
        stage, actor = self.stage, self.actor
        middle = stage.middle(target)[:2]
        way = middle - actor.place
        away = float(np.linalg.norm(way))
        if away < 1.2:
            raise Impossible("too near to walk past")
        goal = stage.floor.nearest_free(actor.place + way * (1.0 + 1.3 / away), stage.clearance(actor), 0.6)
        if goal is None:
            raise Impossible("no room beyond it")
        yield from walk_past(stage, actor, target, goal)

    def _with_held(self, thing: int) -> None:
        stage, actor = self.stage, self.actor
        for e in self.with_surface("top", "shelf", "inside", count=4):
            for index in self._places(e):
                self.add("put down", 0.7, self._stow(thing, e.entity_id, index))
        if self.rng.random() < 0.3:
            floor = stage.floor_below(actor.place)
            self.add(
                "put on floor", 0.3, put_down(stage, actor, thing, floor, stage.room_surface(actor.place), self.rng)
            )
        for use in self._uses(thing):
            self.add(use.name, use.weight, use.activity, *use.others)

    def _uses(self, thing: int) -> list[_Use]:
        """What a thing in hand is good for."""
        stage, actor, seconds = self.stage, self.actor, self.seconds
        label = stage.entity(thing).label
        out: list[_Use] = []
        for other in self.free:
            if actor.posture == "standing":
                out.append(_Use("hand over", 2.0, hand_over(stage, actor, other, thing), (other,)))
            if label in _THROWN and other.posture == "standing" and not other.holding:
                out.append(_Use("throw", 10.0, self._throw_to(thing, other), (other,)))
        if label in _THROWN:
            out.append(_Use("throw away", 1.5, self._throw_away(thing)))
        if label in _DRINKS:
            out.append(_Use("drink", 3.0, drink(stage, actor, thing, int(self.rng.integers(1, 4)))))
        if label in _POURS:
            for e in self.near(_FILLED, 2):
                out.append(_Use("pour", 6.0, pour(stage, actor, thing, e.entity_id)))
        if label == "book":
            out.append(_Use("read", 3.0, read(stage, actor, thing, seconds(2.0, 4.0))))
        if label in _PRESSED:
            screen = next((e.entity_id for e in self.near("television")), None) if label == "remote control" else None
            out.append(_Use("use", 2.5, use_held(stage, actor, thing, screen, seconds(1.5, 3.0))))
        if label in _TOYS:
            play = "playing with"
            out.append(_Use("play", 1.5, use_held(stage, actor, thing, None, seconds(1.5, 3.0), play)))
        if label in _SPOONS:
            for e in self.near(_STIRRED, 2):
                out.append(_Use("stir", 5.0, self._work(e, "stirring", 0.03, 0.05)))
            for e in self.near(_DISHES, 2):
                out.append(_Use("eat", 3.0, eat(stage, actor, e.entity_id)))
        if label == "towel":
            for e in self._tables():
                out.append(_Use("clean", 6.0, self._work(e, "cleaning", 0.12, 0.0)))
        return out

    def _work(self, e: Entity, name: str, circle_m: float, above_m: float) -> Activity:
        seconds = self.seconds(1.5, 3.0)
        return work_at(self.stage, self.actor, e.entity_id, name, seconds, circle_m=circle_m, above_m=above_m)

    def _fetch_and_use(self, thing: int) -> None:
        """Something to take in order to do something with it."""
        uses = self._uses(thing)
        if uses:
            weights = np.array([u.weight for u in uses])
            use = uses[int(self.rng.choice(len(uses), p=weights / weights.sum()))]
            # Vessels are everywhere: what can be done with few things only would hardly ever be seen.
            weight = 1.0 if use.name in ("drink", "hand over") else max(use.weight, 3.0)
            if use.others:  # who need not wait while it is fetched
                self.add(f"take to {use.name}", weight, self._fetch(thing))
            else:
                self.add(f"take and {use.name}", weight, _one_after_the_other(self._fetch(thing), use.activity))

    def _tables(self) -> list[Entity]:
        wanted = ("table", "desk", "counter", "cabinet")
        return [e for e in self.around if e.label in wanted and any(s.kind == "top" for s in e.surfaces)][:2]

    def _on_table(self, e: Entity) -> bool:
        parent, index = self.stage.supports.get(e.entity_id, (0, -1))
        return index >= 0 and self.stage.entity(parent).is_thing and self.stage.surface(parent, index)[0].kind == "top"

    def _places(self, parent: Entity) -> list[int]:
        """Surfaces of a thing that something may be put on; one of each kind is enough."""
        order = self.rng.permutation(len(parent.surfaces))
        chosen: dict[str, int] = {}
        for i in order:
            chosen.setdefault(parent.surfaces[i].kind, int(i))
        return [i for kind, i in chosen.items() if kind in ("top", "shelf", "inside")]

    def _stow(self, thing: int, parent: int, index: int) -> Activity:
        """Put something down; a cupboard is opened first."""
        stage, actor = self.stage, self.actor
        surface, T = stage.surface(parent, index)
        point = T[:3, :3] @ np.array(surface.center) + T[:3, 3]
        if not open_to(stage, parent, index, point) and covering_joints(stage, parent, index, point):
            joint = covering_joints(stage, parent, index, point)[0][0]
            yield from operate(stage, actor, parent, joint, 1.0)
        yield from put_down(stage, actor, thing, parent, index, self.rng)

    def _fetch(self, thing: int) -> Activity:
        """Take something; out of a cupboard or drawer that is opened first and sometimes closed again."""
        stage, actor = self.stage, self.actor
        parent, index = stage.supports.get(thing, (0, -1))
        joint = None
        middle = stage.middle(thing)
        if parent and not open_to(stage, parent, index, middle):
            covering = covering_joints(stage, parent, index, middle)
            if not covering:
                raise Impossible("shut in")
            joint = covering[0][0]
            yield from operate(stage, actor, parent, joint, 1.0)
        yield from pick_up(stage, actor, thing)
        if joint is not None and actor.free_hand() is not None and self.rng.random() < 0.7:
            yield from operate(stage, actor, parent, joint, 0.0)

    def _throw_to(self, thing: int, catcher: Actor) -> Activity:
        """Throw something to somebody, from a few steps away."""
        stage, actor = self.stage, self.actor
        if actor.posture == "standing" and not 1.5 < np.linalg.norm(catcher.place - actor.place) < 4.0:
            yield from go(stage, actor, beside(stage, actor, catcher.entity_id, 1.9), target=catcher.entity_id)
        yield from throw_and_catch(stage, actor, thing, catcher, self.rng)

    def _throw_away(self, thing: int) -> Activity:
        place = self._far_place(self.actor.place)
        yield from throw(self.stage, self.actor, thing, np.append(place, 0.1), self.rng)

    def _with_free_hand(self) -> None:
        stage, actor = self.stage, self.actor
        if not actor.holding:
            small = [e for e in self.around if e.graspable and not stage.on(e.entity_id)]
            for e in small[:2]:
                self.add("pick up", 0.7, self._fetch(e.entity_id))
            for e in sorted((e for e in small if e.label in USEFUL), key=lambda e: e.label not in TOOLS)[:8]:
                self._fetch_and_use(e.entity_id)
            for e in self.near(frozenset({"keyboard", "laptop"}), 2):
                screen = next((m.entity_id for m in self.near("monitor")), None) if e.label == "keyboard" else None
                self.add("type", 4.0, type_on(stage, actor, e.entity_id, screen, self.seconds(2.0, 4.0)))
            for e in self.near(_DISHES):
                self.add("eat", 0.6, eat(stage, actor, e.entity_id))
        elif len(actor.holding) == 1 and next(iter(actor.holding.values())):
            holds = stage.entity(next(iter(actor.holding.values()))).label
            for e in self.near(_DRINKS if holds in _POURS else frozenset()):
                self.add("pick up", 0.3, self._fetch(e.entity_id))
        for e in self.near(_OPERATED, 2):
            self.add("use", 1.2, work_at(stage, actor, e.entity_id, "using", self.seconds(1.5, 3.0)))
        if actor.posture != "standing":
            return
        for e in [e for e in self.around if e.joints][:4]:
            joint = int(self.rng.integers(len(e.joints)))
            closed = stage.opened[e.entity_id - 1][joint] < 0.5
            weight = 0.8 if e.label != "door" else 0.4
            self.add("open" if closed else "close", weight, operate(stage, actor, e.entity_id, joint, float(closed)))
        for e in self.near("ball"):
            if stage.carrier[e.entity_id - 1] == stage.floor_below(actor.place):
                self.add("kick", 10.0, kick(stage, actor, e.entity_id, self.rng))
        for e in [e for e in self.near(_SWEPT, 99) if self._on_table(e)][:4]:
            self.add("push off", 1.0, push_off(stage, actor, e.entity_id, self.rng))
        if not actor.holding:
            for e in self.near(_SHIFTED, 3):
                pull = bool(self.rng.random() < 0.45)
                distance = self.seconds(0.35, 0.9)
                self.add("pull" if pull else "push", 2.0, shift(stage, actor, e.entity_id, distance, pull=pull))


def around(stage: Stage, actor: Actor, rng: np.random.Generator, within_m: float = NEAR_M) -> list[Entity]:
    """Entities near a person, in random order, the nearer the likelier first."""
    scored = []
    for e in stage.world.entities:
        if e.body is None and e.entity_id not in stage.holds and (e.is_thing or e.label == "counter"):
            away = float(np.linalg.norm(stage.middle(e.entity_id)[:2] - actor.place))
            if away < within_m:
                scored.append((rng.exponential() * (0.6 + away), e))
    return [e for _, e in sorted(scored, key=lambda s: s[0])]
