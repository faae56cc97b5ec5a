"""A room built by hand in which people can do everything, and where palms and things are in a timeline of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from psg4d_ros.data.simulation.acting import Activity
from psg4d_ros.data.simulation.bodies import make_body
from psg4d_ros.data.simulation.director import Cue, perform_script
from psg4d_ros.data.simulation.frames import placed
from psg4d_ros.data.simulation.stage import Stage
from psg4d_ros.data.simulation.world import STEP_S, Entity, Joint, Part, Room, Surface, Timeline, World

FLOOR, TABLE, CHAIR, BED, CHEST, CUP, BALL, BOX, ADA, BEN = range(1, 11)
CAL, MORE = 11, 12
TABLE_TOP_M = 0.74

Block = tuple[tuple[float, float, float], tuple[float, float, float]]


def part(name: str, *blocks: Block) -> Part:
    """A rigid piece made of axis-aligned blocks, each given by its lower and upper corner."""
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=float)
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.array([t for a, b, c, d in sides for t in ((a, b, c), (a, c, d))])
    vertices = [np.array(low) + corners * (np.array(high) - np.array(low)) for low, high in blocks]
    return Part(
        name,
        np.concatenate(vertices).astype(np.float32),
        np.concatenate([faces + 8 * i for i in range(len(blocks))]).astype(np.int32),
        np.full((12 * len(blocks), 3), 128, np.uint8),
    )


def legs(x: float, y: float, top: float) -> list[Block]:
    return [((a - 0.02, b - 0.02, 0.0), (a + 0.02, b + 0.02, top)) for a in (-x, x) for b in (-y, y)]


def small_world(*more: tuple[str, tuple[float, float, float], tuple[float, float]], bystander: bool = False) -> World:
    """One room with a table (cup on it), a chair, a bed, a chest with a drawer, a ball, a box and two people.

    bystander: a third person, CAL, in a corner, to whom nothing is done. more: label, size, and place x, y on the table
    of further small things, which are MORE, MORE + 1, ... beside a bystander.
    """
    rng = np.random.default_rng(4)
    entities: list[Entity] = []
    poses, supports = [], {}

    def add(
        label: str, parts: tuple[Part, ...], T: np.ndarray, on: tuple[int, int] | None = None, **rest: object
    ) -> None:
        vertices = np.concatenate([p.vertices for p in parts])
        size = tuple(float(x) for x in np.ptp(vertices, axis=0))
        number = len(entities) + 1
        entities.append(Entity(number, label, label != "floor", parts, size, "gray", **rest))  # type: ignore[arg-type]
        poses.append(T)
        if on is not None:
            supports[number] = on

    floor = Surface("floor", (0.0, 0.0, 0.0), (6.0, 6.0), 2.5)
    add("floor", (part("floor", ((-3, -3, -0.05), (3, 3, 0))),), placed(0, 0, 0, 0), surfaces=(floor,))
    top = Surface("top", (0.0, 0.0, TABLE_TOP_M), (1.2, 0.8), 2.0)
    table = part("table", ((-0.6, -0.4, 0.70), (0.6, 0.4, TABLE_TOP_M)), *legs(0.55, 0.35, 0.7))
    add("table", (table,), placed(0, 1, 0, 0), (FLOOR, 0), surfaces=(top,))
    seat = Surface("seat", (0.0, -0.02, 0.45), (0.44, 0.40), 2.0)
    chair = part(
        "chair",
        ((-0.22, -0.22, 0.42), (0.22, 0.22, 0.45)),
        ((-0.22, 0.18, 0.45), (0.22, 0.22, 0.9)),
        *legs(0.2, 0.2, 0.42),
    )
    add("chair", (chair,), placed(-1.6, -1, 0, 1.0), (FLOOR, 0), movable=True, surfaces=(seat,))
    mattress = Surface("lying", (0.0, 0.0, 0.45), (1.4, 2.0), 2.0)
    add(
        "bed",
        (part("bed", ((-0.7, -1, 0), (0.7, 1, 0.45))),),
        placed(2.0, -1.6, 0, 0),
        (FLOOR, 0),
        surfaces=(mattress,),
    )
    case = part(
        "case",
        ((-0.5, 0.2, 0), (0.5, 0.25, 1)),
        ((-0.5, -0.2, 0.95), (0.5, 0.25, 1)),
        ((-0.5, -0.2, 0), (-0.45, 0.2, 0.95)),
        ((0.45, -0.2, 0), (0.5, 0.2, 0.95)),
    )
    drawer = part("drawer", ((-0.44, -0.22, 0.55), (0.44, -0.2, 0.93)), ((-0.43, -0.2, 0.56), (0.43, 0.18, 0.58)))
    slide = Joint("slide", 1, (0.0, -0.2, 0.6), (0.0, -1.0, 0.0), 0.3, (0.0, -0.24, 0.75))
    inside = Surface("inside", (0.0, 0.0, 0.58), (0.8, 0.36), 0.35, 1)
    add("drawer", (case, drawer), placed(-2.0, 2.6, 0, 0), (FLOOR, 0), joints=(slide,), surfaces=(inside,))
    cup = part("cup", ((-0.035, -0.035, 0), (0.035, 0.035, 0.09)))
    add("cup", (cup,), placed(0.2, 0.8, TABLE_TOP_M, 0), (TABLE, 0), graspable=True, grip=(0, 0, 0.045))
    ball = part("ball", ((-0.1, -0.1, 0), (0.1, 0.1, 0.2)))
    add("ball", (ball,), placed(0, -1, 0, 0), (FLOOR, 0), graspable=True)
    box = part("box", ((-0.2, -0.15, 0), (0.2, 0.15, 0.25)))
    add("box", (box,), placed(0.6, -2.2, 0, 0.4), (FLOOR, 0), graspable=True)
    people = [(-1.0, -0.2, 0.3), (1.0, -0.2, 2.0), *([(2.5, 2.5, 0.0)] if bystander else [])]
    for x, y, yaw in people:
        body = make_body(rng, child=False)
        add("person", body.parts, placed(x, y, 0, yaw), (FLOOR, 0), body=body)
    for label, (x, y, z), (at_x, at_y) in more:
        block = part(label, ((-x / 2, -y / 2, 0.0), (x / 2, y / 2, z)))
        add(label, (block,), placed(at_x, at_y, TABLE_TOP_M, 0.0), (TABLE, 0), graspable=True)
    room = Room("living room", -3.0, -3.0, 3.0, 3.0)
    return World("small", (room,), (), tuple(entities), np.stack(poses), supports)


def play(world: World, seconds: float, plan: Callable[[Stage], Activity], *people: int) -> Timeline:
    return perform_script(world, [Cue(0.0, people or (ADA,), plan)], duration_s=seconds)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def spans(timeline: Timeline, name: str, subject: int = ADA, obj: int | None = None) -> list[tuple[int, int]]:
    """Steps [start, end) of each fact."""
    return [
        (round(f.start_s / STEP_S), round(f.end_s / STEP_S))
        for f in timeline.facts
        if f.name == name and f.subject_id == subject and (obj is None or f.object_id == obj)
    ]


def palm(timeline: Timeline, person: int, hand: str, step: int) -> np.ndarray:
    body = timeline.world.entity(person).body
    assert body is not None
    index, rest = body.points[f"{hand}_hand"]
    T = timeline.T_world_part[person - 1][step, index]
    return T[:3, :3] @ rest + T[:3, 3]


def gap_to_box(timeline: Timeline, point: np.ndarray, thing: int, step: int) -> float:
    """Metres from a point to the surface of a thing that is one block."""
    T = timeline.T_world_entity[thing - 1][timeline.index(thing, step)]
    local = T[:3, :3].T @ (point - T[:3, 3])
    vertices = timeline.world.entity(thing).parts[0].vertices
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    outside = float(np.linalg.norm(np.maximum(np.maximum(low - local, local - high), 0.0)))
    return outside if outside else float(np.minimum(local - low, high - local).min())
