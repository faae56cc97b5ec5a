"""Timelines written by hand: boxes and people that are put, moved, carried and said to do things at given times."""

from __future__ import annotations

import numpy as np
from box_world import block

from psg4d_ros.data.simulation.bodies import Body, Pose, make_body
from psg4d_ros.data.simulation.frames import joint_motion
from psg4d_ros.data.simulation.poses import sitting, standing
from psg4d_ros.data.simulation.world import STEP_S, Entity, Fact, Joint, Part, Room, Timeline, World

FLOOR, WALL = 1, 2
FRAMES, RATE_HZ = 24, 4  # six seconds
STEPS = np.arange(FRAMES, dtype=np.int64) * round(1 / RATE_HZ / STEP_S)
BODY: Body = make_body(np.random.default_rng(3), child=False)


def placed(x: float, y: float, z: float = 0.0, yaw: float = 0.0, tilt: float = 0.0) -> np.ndarray:
    """float64[4, 4]; yaw 0 looks along -y, yaw 90 degrees along +x; tilt about the entity's own y axis. Degrees."""
    a, b = np.radians(yaw), np.radians(tilt)
    T = np.eye(4)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    lean = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    T[:3, :3], T[:3, 3] = turn @ lean, (x, y, z)
    return T


def box(size: tuple[float, float, float], at: tuple[float, float, float] = (0.0, 0.0, 0.0), name: str = "box") -> Part:
    """``at`` is the middle of the base."""
    return block(name, np.array(size), np.array(at))


def table(width: float = 1.2, depth: float = 0.8, height: float = 0.72) -> list[Part]:
    x, y = width / 2 - 0.04, depth / 2 - 0.04
    legs = [box((0.06, 0.06, height - 0.03), (sx * x, sy * y, 0)) for sx in (-1, 1) for sy in (-1, 1)]
    return [box((width, depth, 0.03), (0, 0, height - 0.03)), *legs]


def chair(seat: float = 0.45) -> list[Part]:
    legs = [box((0.04, 0.04, seat - 0.04), (x, y, 0)) for x in (-0.2, 0.2) for y in (-0.2, 0.2)]
    return [box((0.45, 0.45, 0.04), (0, 0, seat - 0.04)), box((0.45, 0.04, 0.45), (0, 0.205, seat)), *legs]


def case(width: float, depth: float, height: float, boards: int = 0, front: bool = False) -> list[Part]:
    """A cupboard that is open at its front (-y), unless it has one, with boards in between."""
    t = 0.02
    parts = [
        box((width, depth, t)), box((width, depth, t), (0, 0, height - t)), box((width, t, height), (0, depth / 2, 0)),
        box((t, depth, height), (-width / 2, 0, 0)), box((t, depth, height), (width / 2, 0, 0)),
    ]  # fmt: skip
    parts += [box((width, depth, t), (0, 0, (i + 1) * height / (boards + 1))) for i in range(boards)]
    return [*parts, box((width, t, height), (0, -depth / 2, 0), "leaf")] if front else parts


class HandMade:
    """Put things down with ``add`` and ``person``, say what happens, then ``timeline``. Seconds, metres, degrees."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.entities: list[Entity] = []
        self.poses: list[list[tuple[float, np.ndarray]]] = []
        self.bodies: dict[int, list[tuple[float, Pose]]] = {}
        self.carriers: list[list[tuple[float, int]]] = []
        self.open: dict[int, list[tuple[float, float]]] = {}
        self.supports: dict[int, tuple[int, int]] = {}
        self.facts: list[Fact] = []
        self.add("floor", [box((8, 8, 0.1), (0, 0, -0.1))], is_thing=False, on=0)
        self.add("wall", [box((8, 0.1, 2.6), (0, 4.05, 0))], is_thing=False, on=0)

    def add(self, label, parts, at=(0.0, 0.0), yaw=0.0, tilt=0.0, on=FLOOR, surface=0, is_thing=True, **more) -> int:
        points = np.concatenate([p.vertices for p in parts])
        size = tuple(float(v) for v in np.ptp(points, axis=0))
        number = len(self.entities) + 1
        more = {"graspable": max(size) < 0.5, "movable": max(size) < 1.0, **more}
        self.entities.append(Entity(number, label, is_thing, tuple(parts), size, "gray", **more))
        self.poses.append([(0.0, placed(*at, yaw=yaw, tilt=tilt) if len(at) == 2 else placed(*at[:3], yaw, tilt))])
        self.carriers.append([(0.0, on)])
        if on:
            self.supports[number] = on, surface
        return number

    def person(self, at=(0.0, 0.0), yaw=0.0, posture="standing", on=FLOOR, seat=0.45) -> int:
        """With ``posture`` "sitting" the buttocks are at ``at``, whatever the feet are."""
        number = self.add("person", BODY.parts, at, yaw, on=on, body=BODY)
        self.bodies[number] = [(0.0, standing(BODY))]
        self.postures(number, (0.0, posture))
        if posture == "sitting":
            self.sit(number, 0.0, at, yaw, seat)
        return number

    def sit(self, person: int, t: float, at, yaw: float, seat: float = 0.45) -> None:
        pose = sitting(BODY, seat)
        back = placed(0, 0, 0, yaw)[:3, :3] @ np.append(pose.root_position[:2], 0.0)
        self.move(person, (t, at[0] - back[0], at[1] - back[1], 0.0, yaw), jump=True)
        self.bend(person, t, pose)

    def bend(self, person: int, t: float, pose: Pose) -> None:
        self.bodies[person].append((t, pose))

    def postures(self, person: int, *changes: tuple[float, str]) -> None:
        ends = [t for t, _ in changes[1:]] + [FRAMES / RATE_HZ]
        self.facts = [f for f in self.facts if f.subject_id != person or f.object_id is not None or f.name == "walking"]
        for (t, name), end in zip(changes, ends, strict=True):
            self.facts.append(Fact(person, name, None, t, end))

    def move(self, number: int, *keys: tuple[float, ...], jump: bool = False) -> None:
        """Each key (t, x, y, z, yaw); straight in between, or a jump at each t."""
        for t, x, y, z, yaw in keys:
            if jump and t > 0:
                self.poses[number - 1].append((t - 1e-3, self.poses[number - 1][-1][1]))
            self.poses[number - 1].append((t, placed(x, y, z, yaw)))

    def walk(self, person: int, start_s: float, end_s: float, goal: tuple[float, float]) -> None:
        """Straight to a place, facing the way."""
        here = self.poses[person - 1][-1][1]
        way = np.array(goal) - here[:2, 3]
        yaw = float(np.degrees(np.arctan2(way[0], -way[1])))
        self.move(person, (start_s, *here[:2, 3], 0.0, yaw), (end_s, *goal, 0.0, yaw))
        self.facts.append(Fact(person, "walking", None, start_s, end_s))

    def carry(self, number: int, t: float, by: int) -> None:
        self.carriers[number - 1].append((t, by))

    def say(self, subject: int, name: str, obj: int | None, start_s: float, end_s: float) -> None:
        self.facts.append(Fact(subject, name, obj, start_s, end_s))

    def timeline(self) -> Timeline:
        steps = round(FRAMES / RATE_HZ / STEP_S)
        times = np.arange(steps) * STEP_S
        poses, parts, opened, carriers = [], [], [], []
        for e, keys in zip(self.entities, self.poses, strict=True):
            T = np.stack([_at(keys, t) for t in times]) if len(keys) > 1 or e.body is not None else keys[-1][1][None]
            bent = self.bodies.get(e.entity_id)
            if bent is None:
                P = np.repeat(T[:, None], len(e.parts), axis=1)
            else:
                known = [(t, BODY.part_transforms(pose)) for t, pose in bent]
                P = np.stack([T[k] @ [M for t0, M in known if t0 <= t + 1e-9][-1] for k, t in enumerate(times)])
            leaf = self.open.get(e.entity_id, [(0.0, 0.0)])
            fraction = np.array([[f for t0, f in leaf if t0 <= t + 1e-9][-1] for t in times])
            by = np.array([[c for t0, c in self.carriers[e.entity_id - 1] if t0 <= t + 1e-9][-1] for t in times])
            for joint in e.joints:
                T, P = np.repeat(T, steps // len(T), axis=0), np.repeat(P, steps // len(P), axis=0)
                P[:, joint.part] = T @ np.stack([joint_motion(joint, f) for f in fraction])
            poses.append(T)
            parts.append(P)
            opened.append(np.repeat(fraction[:, None], len(e.joints), axis=1))
            carriers.append(by.astype(np.int32))
        start = np.stack([T[0] for T in poses])
        rooms = (Room("living room", -4, -4, 4, 4),)
        world = World(self.name, rooms, (), tuple(self.entities), start, self.supports)
        facts = tuple(self.facts)
        return Timeline(world, times, tuple(parts), tuple(poses), tuple(opened), tuple(carriers), facts)


def hinge(part: int, x: float, y: float) -> Joint:
    """A door that turns about the upright line at x, y by 100 degrees."""
    return Joint("hinge", part, (x, y, 0.0), (0.0, 0.0, 1.0), 1.75, (-x, y, 1.0))


def _at(keys: list[tuple[float, np.ndarray]], t: float) -> np.ndarray:
    """The pose at a time: positions straight between keys, the rotation of the key before."""
    before = [k for k in keys if k[0] <= t + 1e-9][-1]
    after = next((k for k in keys if k[0] > t + 1e-9), None)
    T = before[1].copy()
    if after is not None:
        w = (t - before[0]) / (after[0] - before[0])
        T[:3, 3] += w * (after[1][:3, 3] - T[:3, 3])
    return T
