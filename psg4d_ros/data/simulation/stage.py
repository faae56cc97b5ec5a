"""The state of a world while people act in it, on a clock of STEP_S, and the record of it.

Activities set what an actor does next (where it stands, how its body is bent, what its hands reach for); ``tick`` turns
that into poses: the body first, then what its hands hold, then what stands on anything that moved.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from psg4d_ros.data.simulation.bodies import Body, Pose
from psg4d_ros.data.simulation.frames import facing, joint_motion, placed, turned, yaw_of
from psg4d_ros.data.simulation.kinematics import Hands, look_at, reach
from psg4d_ros.data.simulation.limbs import Hand, blend_on_feet
from psg4d_ros.data.simulation.navigation import FloorMap, is_fixed, is_structure
from psg4d_ros.data.simulation.poses import standing
from psg4d_ros.data.simulation.world import STEP_S, Entity, Fact, Surface, Timeline, World
from psg4d_ros.structures import Float64, Int32, Int64

HANDS: tuple[Hand, Hand] = ("right", "left")
_GAZE_RATE = 0.18  # share of the way to what is looked at that the gaze goes in a step


@dataclass(eq=False)
class Reach:
    """What a hand, or "both", does: the palm goes to ``target()`` (entity frame of the person), by ``weight`` from 0
    to 1. palm: where the palm looks (entity frame; None: inwards). spread_m: between the palms of both hands.
    """

    target: Callable[[], Float64]
    weight: float = 1.0
    palm: Float64 | None = None
    spread_m: float = 0.3


@dataclass(eq=False)
class Hold:
    """A thing in one hand or both. offset, rotation: of the thing from the palms (their middle), yaw frame of the
    person. tilt: radians about the person's lateral axis, positive tips the thing's top to the person.
    """

    person: int
    hands: tuple[Hand, ...]
    offset: Float64
    rotation: Float64
    tilt: float = 0.0


@dataclass(eq=False)
class Actor:
    """A person on the stage. place: x, y on the floor; height_m: z of the entity frame; base: how the body is bent
    before hands reach and the head turns. seat: what it sits or lies on; way_out: where it stands
    up to. near: what it last dealt with. phase: of its
    steps. gaze: the entity or the point (world frame) that is looked at. points: Body.joint_positions of the last step.
    posed, wanted: what that step was made from.
    """

    entity_id: int
    body: Body
    place: Float64
    yaw: float
    base: Pose
    height_m: float = 0.0
    posture: str = "standing"
    seat: int | None = None
    way_out: Float64 | None = None
    reaching: dict[Hands, Reach] = field(default_factory=dict)
    holding: dict[Hand, int] = field(default_factory=dict)
    near: int | None = None
    phase: float = 0.0
    gaze: int | Float64 | None = None
    gaze_point: Float64 | None = None
    posed: Pose | None = None
    wanted: Float64 | None = None
    points: dict[str, Float64] = field(default_factory=dict)

    @property
    def T_world_entity(self) -> Float64:
        return placed(self.place[0], self.place[1], self.height_m, self.yaw)

    @property
    def forward(self) -> Float64:
        return facing(self.yaw)

    def to_world(self, point: Float64) -> Float64:
        T = self.T_world_entity
        return T[:3, :3] @ point + T[:3, 3]

    def to_entity(self, point: Float64) -> Float64:
        T = self.T_world_entity
        return T[:3, :3].T @ (np.asarray(point) - T[:3, 3])

    def free_hand(self) -> Hand | None:
        return next((h for h in HANDS if h not in self.holding), None)


class Stage:
    """See the top of the file. step: the step of the clock that is being prepared. flights: what moves by itself."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.step = 0
        self.floor = FloorMap(world)
        self.T_world_entity = [T.copy() for T in world.T_world_entity]
        self.opened = [np.zeros(len(e.joints)) for e in world.entities]
        self.supports = dict(world.supports)
        self.carrier = np.zeros(len(world.entities), dtype=np.int32)
        for child, (parent, _) in self.supports.items():
            self.carrier[child - 1] = parent
        self.holds: dict[int, Hold] = {}
        self.flights: list[Iterator[None]] = []
        self.facts: list[Fact] = []
        self._since: dict[tuple[int, str, int | None], int] = {}
        self._children: dict[int, set[int]] = defaultdict(set)
        for child, (parent, _) in self.supports.items():
            self._children[parent].add(child)
        self.parts = [self._part_poses(e) for e in world.entities]
        self._footprints: dict[int, Int64] = {}
        self._tops: dict[int, tuple[Int64, Float64]] = {}
        self._changed = set(range(1, len(world.entities) + 1))
        self._log: dict[int, list[tuple[int, Float64, Float64, Float64, int]]] = defaultdict(list)
        self.actors: dict[int, Actor] = {}
        for person in world.people:
            assert person.body is not None
            T = self.T_world_entity[person.entity_id - 1]
            self.actors[person.entity_id] = Actor(
                person.entity_id, person.body, T[:2, 3].copy(), yaw_of(T), standing(person.body)
            )
            self.begin(person.entity_id, "standing")
            self._update_body(self.actors[person.entity_id])

    # What is where

    @property
    def now(self) -> float:
        return self.step * STEP_S

    def entity(self, entity_id: int) -> Entity:
        return self.world.entity(entity_id)

    def pose(self, entity_id: int) -> Float64:
        """float64[4, 4]: T_world_entity."""
        T: Float64 = self.T_world_entity[entity_id - 1]
        return T

    def point(self, entity_id: int, local: Float64 | tuple[float, ...], part: int = 0) -> Float64:
        """float64[3]: a point that moves with a part, given at rest in the entity frame, in the world frame."""
        T = self.parts[entity_id - 1][part]
        moved: Float64 = T[:3, :3] @ np.asarray(local, dtype=np.float64) + T[:3, 3]
        return moved

    def middle(self, entity_id: int) -> Float64:
        """float64[3]: what one looks at: the head of a person, else the middle of a thing."""
        if entity_id in self.actors:
            actor = self.actors[entity_id]
            return actor.to_world(actor.points["eyes"])
        return self.point(entity_id, (0.0, 0.0, self.entity(entity_id).size[2] / 2))

    def surface(self, entity_id: int, index: int) -> tuple[Surface, Float64]:
        """A surface and float64[4, 4], the pose of the part that it belongs to."""
        surface = self.entity(entity_id).surfaces[index]
        return surface, self.parts[entity_id - 1][surface.part]

    def floor_below(self, place: Float64) -> int:
        """The entity_id of the floor at x, y: what carries whoever stands there."""
        floors = [e for e in self.world.entities if e.label == "floor"]
        for e in floors:
            local = np.abs(np.asarray(place)[:2] - self.pose(e.entity_id)[:2, 3])
            if (local <= np.array(e.size[:2]) / 2 + 0.05).all():
                return e.entity_id
        return floors[0].entity_id if floors else 0

    def room_surface(self, place: Float64) -> int:
        """Which of the floor's surfaces x, y is on."""
        floor = self.floor_below(place)
        for index, surface in enumerate(self.entity(floor).surfaces if floor else ()):
            away = np.abs(np.asarray(place)[:2] - self.pose(floor)[:2, 3] - surface.center[:2])
            if (away <= np.array(surface.size) / 2).all():
                return index
        return -1

    def on(self, entity_id: int, index: int | None = None) -> list[int]:
        """What stands on an entity (or on one of its surfaces)."""
        return sorted(c for c in self._children[entity_id] if index is None or self.supports[c][1] == index)

    def clearance(self, actor: Actor | None = None, ignore: frozenset[int] = frozenset()) -> Float64:
        """FloorMap.clearance as things stand now; the actor is not in its own way, nor is what it or ``ignore`` holds
        or names."""
        footprints = []
        for e in self.world.entities:
            if (
                is_fixed(e)
                or is_structure(e)
                or e.body is not None
                or e.entity_id in ignore
                or e.entity_id in self.holds
            ):
                continue
            parent = self.carrier[e.entity_id - 1]
            if parent and self.entity(int(parent)).is_thing:
                continue  # within the footprint of what carries it
            if e.entity_id not in self._footprints:
                self._footprints[e.entity_id] = self.floor.footprint(e, self.parts[e.entity_id - 1])
            footprints.append(self._footprints[e.entity_id])
        others = [a.place for a in self.actors.values() if a is not actor and a.entity_id not in ignore]
        return self.floor.clearance(footprints, others)

    def heights(self, ignore: frozenset[int] = frozenset()) -> tuple[Float64, Int32]:
        """FloorMap.heights as things stand now, without people and what they hold."""
        tops = {}
        for e in self.world.entities:
            if (
                is_fixed(e)
                or is_structure(e)
                or e.body is not None
                or e.entity_id in ignore
                or e.entity_id in self.holds
            ):
                continue
            if e.entity_id not in self._tops:
                self._tops[e.entity_id] = self.floor.tops(e, self.parts[e.entity_id - 1])
            tops[e.entity_id] = self._tops[e.entity_id]
        return self.floor.heights(tops)

    def points_near(self, place: Float64, radius_m: float, ignore: frozenset[int] = frozenset()) -> Float64:
        """float64[K, 3]: points on things around a place (x, y), people and what they hold left out."""
        found = [np.zeros((0, 3))]
        for e in self.world.entities:
            skip = e.body is not None or is_structure(e) or e.entity_id in ignore or e.entity_id in self.holds
            away = float(np.linalg.norm(self.pose(e.entity_id)[:2, 3] - place))
            if not skip and away < radius_m + 0.5 * float(np.hypot(e.size[0], e.size[1])) and e.size[2] > 0.03:
                points = self.floor.surface(e, self.parts[e.entity_id - 1])
                found.append(points[np.linalg.norm(points[:, :2] - place, axis=1) < radius_m])
        return np.concatenate(found)

    # What happens

    def begin(self, subject: int, name: str, obj: int | None = None) -> None:
        """A fact starts to hold, if it does not already."""
        self._since.setdefault((subject, name, obj), self.step)

    def end(self, subject: int, name: str, obj: int | None = None) -> None:
        """A fact ceases to hold; one that never held for a step leaves no trace."""
        start = self._since.pop((subject, name, obj), None)
        if start is not None and self.step > start:
            self.facts.append(Fact(subject, name, obj, start * STEP_S, self.step * STEP_S))

    def withdraw(self, subject: int, name: str, obj: int | None = None) -> None:
        """What seemed to begin has turned out to be something else: it leaves no trace."""
        self._since.pop((subject, name, obj), None)

    @contextmanager
    def fact(self, subject: int, name: str, obj: int | None = None) -> Iterator[None]:
        """A fact that holds as long as the block runs."""
        self.begin(subject, name, obj)
        try:
            yield
        finally:
            self.end(subject, name, obj)

    def set_posture(self, actor: Actor, posture: str) -> None:
        if posture != actor.posture:
            self.end(actor.entity_id, actor.posture)
            actor.posture = posture
            self.begin(actor.entity_id, posture)

    def move(self, entity_id: int, T: Float64) -> None:
        """Put an entity somewhere; what stands on it goes along."""
        self.T_world_entity[entity_id - 1] = T
        self._update_parts(entity_id)

    def open(self, entity_id: int, joint: int, fraction: float) -> None:
        """Open a joint by a fraction from 0 to 1; what lies in a drawer goes along."""
        self.opened[entity_id - 1][joint] = fraction
        self._update_parts(entity_id)

    def carry(self, entity_id: int, parent: int, surface: int = -1) -> None:
        """From now on ``parent`` (0: nobody) carries an entity."""
        old = self.supports.pop(entity_id, None)
        if old is not None:
            self._children[old[0]].discard(entity_id)
        if parent:
            self.supports[entity_id] = parent, surface
            self._children[parent].add(entity_id)
        self.carrier[entity_id - 1] = parent
        self._changed.add(entity_id)

    def grasp(self, actor: Actor, thing: int, hands: tuple[Hand, ...]) -> None:
        """The hands close around a thing where it is; from now on it moves with them."""
        palms = self.palms(actor, hands)
        R = placed(0.0, 0.0, 0.0, actor.yaw)[:3, :3]
        T = self.pose(thing)
        self.holds[thing] = Hold(actor.entity_id, hands, R.T @ (T[:3, 3] - palms), R.T @ T[:3, :3])
        for hand in hands:
            actor.holding[hand] = thing
        self.carry(thing, actor.entity_id)
        self.begin(actor.entity_id, "holding", thing)
        self.begin(thing, "held")

    def release(self, thing: int, parent: int = 0, surface: int = -1) -> None:
        """The hands open."""
        hold = self.holds.pop(thing)
        actor = self.actors[hold.person]
        for hand in hold.hands:
            del actor.holding[hand]
        self.carry(thing, parent, surface)
        self.end(hold.person, "holding", thing)
        self.end(thing, "held")

    def palms(self, actor: Actor, hands: tuple[Hand, ...]) -> Float64:
        """float64[3]: the palm, or the middle between both, world frame."""
        points: Float64 = np.mean([actor.points[f"{hand}_hand"] for hand in hands], axis=0)
        return actor.to_world(points)

    def settle(self, actor: Actor) -> None:
        """Bring somebody into the pose that is asked for at once, outside the clock (before a scene begins)."""
        self._update_body(actor)

    # The clock

    def tick(self) -> None:
        """Finish a step: pose everybody and what they hold, and write down what changed."""
        for actor in self.actors.values():
            self._update_body(actor)
        for thing, hold in self.holds.items():
            self._update_held(thing, hold)
        for entity_id in self._changed:
            i = entity_id - 1
            row = (self.step, self.parts[i], self.T_world_entity[i], self.opened[i].copy(), int(self.carrier[i]))
            self._log[entity_id].append(row)
            self._footprints.pop(entity_id, None)
            self._tops.pop(entity_id, None)
        self._changed.clear()
        self.step += 1

    def finish(self) -> Timeline:
        """What happened in the steps until now."""
        for subject, name, obj in list(self._since):
            self.end(subject, name, obj)
        parts, entities, opened, carrier = [], [], [], []
        for e in self.world.entities:
            log = self._log[e.entity_id]
            steps = np.array([row[0] for row in log])
            rows = np.searchsorted(steps, np.arange(self.step), side="right") - 1 if len(log) > 1 else np.array([0])
            parts.append(np.stack([row[1] for row in log])[rows])
            entities.append(np.stack([row[2] for row in log])[rows])
            opened.append(np.stack([row[3] for row in log])[rows])
            carrier.append(np.array([row[4] for row in log], dtype=np.int32)[rows])
        facts = tuple(sorted(self.facts, key=lambda f: (f.start_s, f.subject_id, f.name, f.object_id or 0)))
        times = np.arange(self.step, dtype=np.float64) * np.float64(STEP_S)
        return Timeline(self.world, times, tuple(parts), tuple(entities), tuple(opened), tuple(carrier), facts)

    def _part_poses(self, entity: Entity) -> Float64:
        poses = np.repeat(self.T_world_entity[entity.entity_id - 1][None], len(entity.parts), axis=0)
        for joint, fraction in zip(entity.joints, self.opened[entity.entity_id - 1], strict=True):
            poses[joint.part] = poses[joint.part] @ joint_motion(joint, float(fraction))
        return poses

    def _update_parts(self, entity_id: int) -> None:
        entity, old = self.entity(entity_id), self.parts[entity_id - 1]
        self.parts[entity_id - 1] = new = self._part_poses(entity)
        self._changed.add(entity_id)
        for child in self.on(entity_id):
            index = self.supports[child][1]
            part = entity.surfaces[index].part if 0 <= index < len(entity.surfaces) else 0
            if child not in self.actors and not np.array_equal(old[part], new[part]):
                self.move(child, new[part] @ np.linalg.inv(old[part]) @ self.pose(child))

    def _update_body(self, actor: Actor) -> None:
        goals = [(hand, wish, wish.target()) for hand, wish in actor.reaching.items() if wish.weight > 0.0]
        seen = self._look(actor)
        wanted = np.concatenate(
            [actor.place, [actor.yaw, actor.height_m], seen, *([w.weight, *goal] for _, w, goal in goals)]
        )
        if actor.base is actor.posed and actor.wanted is not None and np.array_equal(wanted, actor.wanted):
            return
        actor.posed, actor.wanted = actor.base, wanted
        pose = actor.base
        for hand, wish, goal in goals:
            reached = reach(actor.body, pose, hand, goal, spread_m=wish.spread_m, palm=wish.palm)
            pose = reached if wish.weight >= 1.0 else blend_on_feet(actor.body, pose, reached, wish.weight)
        if actor.posture != "lying":
            pose = look_at(actor.body, pose, actor.to_entity(seen))
        actor.points = actor.body.joint_positions(pose)
        T = actor.T_world_entity
        self.parts[actor.entity_id - 1] = T @ actor.body.part_transforms(pose)
        self.T_world_entity[actor.entity_id - 1] = T
        self._changed.add(actor.entity_id)

    def _look(self, actor: Actor) -> Float64:
        """float64[3]: where the eyes are directed in this step, world frame; they follow what is looked at."""
        if isinstance(actor.gaze, int):
            goal = self.middle(actor.gaze)
        elif actor.gaze is not None:
            goal = actor.gaze
        else:
            goal = actor.to_world(actor.body.eye) + np.append(actor.forward * 3.0, -0.3)
        if actor.gaze_point is None or np.abs(goal - actor.gaze_point).max() < 1e-3:
            actor.gaze_point = goal
        actor.gaze_point = actor.gaze_point + _GAZE_RATE * (goal - actor.gaze_point)
        return actor.gaze_point

    def _update_held(self, thing: int, hold: Hold) -> None:
        actor = self.actors[hold.person]
        R = placed(0.0, 0.0, 0.0, actor.yaw)[:3, :3] @ turned(np.array([1.0, 0.0, 0.0]), -hold.tilt)
        T = np.eye(4)
        T[:3, :3] = R @ hold.rotation
        T[:3, 3] = self.palms(actor, hold.hands) + R @ hold.offset
        if not np.allclose(T, self.pose(thing), atol=1e-9):
            self.move(thing, T)
