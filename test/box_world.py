"""A small room built by hand from boxes, with a moving box in it: what the tests of sensors and files look at."""

from __future__ import annotations

import numpy as np

from psg4d_ros.data.recording import AttributeSpan, TrueRelation
from psg4d_ros.data.simulation.world import STEP_S, Entity, Part, Room, Timeline, World

FLOOR, WALL, TABLE, CUP, BOX, HIDDEN = 1, 2, 3, 4, 5, 6
COLORS = {FLOOR: (140, 110, 80), WALL: (220, 220, 210), TABLE: (120, 70, 30), CUP: (200, 30, 30), BOX: (30, 60, 200)}
_CUBE = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (0.0, 1.0)])
_SIDES = [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4],
          [1, 5, 7], [1, 7, 3]]  # fmt: skip


def block(name: str, size, at=(0.0, 0.0, 0.0), color=(128, 128, 128)) -> Part:
    vertices = (_CUBE * size + at).astype(np.float32)
    return Part(name, vertices, np.array(_SIDES, np.int32), np.tile(np.uint8(color), (len(_SIDES), 1)))


def entity(entity_id: int, label: str, parts, is_thing=True) -> Entity:
    points = np.concatenate([p.vertices for p in parts])
    size = tuple(float(v) for v in np.ptp(points, axis=0))
    return Entity(entity_id, label, is_thing, tuple(parts), size, "gray")


def box_world() -> World:
    """A 5 x 4 m room: walls, a table with a cup, a box on the floor, and a cup shut in a box where nobody sees it."""
    c = COLORS
    walls = [
        block("west", (0.1, 4.2, 2.6), (-2.55, 0, 0), c[WALL]),
        block("east", (0.1, 4.2, 2.6), (2.55, 0, 0), c[WALL]),
        block("south", (5.2, 0.1, 2.6), (0, -2.05, 0), c[WALL]),
        block("north", (5.2, 0.1, 2.6), (0, 2.05, 0), c[WALL]),
        block("top", (5.2, 4.2, 0.1), (0, 0, 2.6), c[WALL]),
    ]
    legs = [block("leg", (0.06, 0.06, 0.7), (x, y, 0), c[TABLE]) for x in (-0.55, 0.55) for y in (-0.35, 0.35)]
    entities = (
        entity(FLOOR, "floor", [block("floor", (5.2, 4.2, 0.1), (0, 0, -0.1), c[FLOOR])], is_thing=False),
        entity(WALL, "wall", walls, is_thing=False),
        entity(TABLE, "table", [block("top", (1.2, 0.8, 0.05), (0, 0, 0.7), c[TABLE]), *legs]),
        entity(CUP, "cup", [block("cup", (0.12, 0.12, 0.15), color=c[CUP])]),
        entity(BOX, "box", [block("box", (0.5, 0.5, 0.4), color=c[BOX])]),
        entity(HIDDEN, "cup", [block("cup", (0.05, 0.05, 0.05))]),
    )
    places = np.tile(np.eye(4), (len(entities), 1, 1))
    places[CUP - 1, :3, 3] = (0.2, 0.1, 0.75)
    places[BOX - 1, :3, 3] = (-1.5, -1.2, 0.0)
    places[HIDDEN - 1, :3, 3] = (0.0, 0.0, -0.08)  # inside the floor slab
    rooms = (Room("living room", -2.5, -2.0, 2.5, 2.0),)
    supports = {TABLE: (FLOOR, 0), CUP: (TABLE, 0), BOX: (FLOOR, 0), HIDDEN: (FLOOR, 0)}
    return World("box_world", rooms, (), entities, places, supports)


def box_timeline(seconds: float = 3.0) -> Timeline:
    """The box slides along the south wall, 1 m in 3 s; nothing else moves."""
    world = box_world()
    times = np.arange(round(seconds / STEP_S) + 1) * STEP_S
    entity_poses = [T[None] for T in world.T_world_entity]
    moving = np.tile(world.T_world_entity[BOX - 1], (len(times), 1, 1))
    moving[:, 0, 3] += times / 3.0
    entity_poses[BOX - 1] = moving
    parts = [np.repeat(T[:, None], len(e.parts), axis=1) for T, e in zip(entity_poses, world.entities, strict=True)]
    carrier = tuple(np.array([world.supports.get(e.entity_id, (0, 0))[0]], np.int32) for e in world.entities)
    opened = tuple(np.zeros((1, 0)) for _ in world.entities)
    return Timeline(world, times, tuple(parts), tuple(entity_poses), opened, carrier)


def box_truth(frames: int) -> tuple[tuple[TrueRelation, ...], dict[int, tuple[AttributeSpan, ...]]]:
    """What holds in box_timeline, over ``frames`` frames, the invisible cup included."""
    relations = (
        TrueRelation(CUP, "on", TABLE, 0, frames),
        TrueRelation(TABLE, "on", FLOOR, 0, frames),
        TrueRelation(BOX, "approaching", TABLE, 2, frames - 1),
        TrueRelation(HIDDEN, "inside", FLOOR, 0, frames),
    )
    attributes = {
        CUP: (AttributeSpan("red", 0, frames), AttributeSpan("still", 0, frames)),
        BOX: (AttributeSpan("moving", 1, frames), AttributeSpan("still", 0, 1)),
    }
    return relations, attributes
