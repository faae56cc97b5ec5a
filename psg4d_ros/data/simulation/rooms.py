"""Floor plans of one to four rooms: walls, openings for doors and windows, and what lies outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from psg4d_ros.data.simulation.assets import Design
from psg4d_ros.data.simulation.shapes import Piece, Shape, box, shape
from psg4d_ros.data.simulation.world import Doorway, Room, RoomKind, Surface

WALL_M = 0.12
DOOR_HEIGHT_M = 2.08
Cell = tuple[float, float, float, float]  # x0, y0, x1, y1 along the middles of the walls


@dataclass(frozen=True)
class Opening:
    """A hole in a wall. axis: along which the wall runs (0: x, 1: y). center: its middle, at the middle of the wall.

    low, high: z in metres. room: the room its front looks into; other: the room behind, -1 = outside.
    inward: unit vector from the wall into ``room``.
    """

    kind: Literal["door", "passage", "window"]
    axis: int
    center: tuple[float, float]
    width: float
    low: float
    high: float
    room: int
    other: int
    inward: tuple[float, float]


@dataclass(frozen=True)
class FloorPlan:
    rooms: tuple[Room, ...]
    doorways: tuple[Doorway, ...]
    openings: tuple[Opening, ...]
    cells: tuple[Cell, ...]
    walls: Design
    floor: Design
    ceiling: Design
    height_m: float

    def room_at(self, x: float, y: float) -> int:
        """The number of the room that a place is in; the first where it is in none, as in a doorway."""
        return next((i for i, r in enumerate(self.rooms) if r.x0 <= x <= r.x1 and r.y0 <= y <= r.y1), 0)


@dataclass(frozen=True)
class _Segment:
    """A stretch of wall along ``axis`` at ``at``; sides: the rooms on its lower and upper side (-1 = outside)."""

    axis: int
    at: float
    low: float
    high: float
    sides: tuple[int, int]


def make_plan(rng: np.random.Generator, rooms: int) -> FloorPlan:
    """A random plan of ``rooms`` rooms, all of which can be reached from each other."""
    cells, kinds = _layout(rng, rooms)
    if rng.random() < 0.5:  # turned by a quarter
        cells = [(y0, x0, y1, x1) for x0, y0, x1, y1 in cells]
    middle = (max(c[2] for c in cells) / 2, max(c[3] for c in cells) / 2)
    cells = [(c[0] - middle[0], c[1] - middle[1], c[2] - middle[0], c[3] - middle[1]) for c in cells]
    height = float(rng.uniform(2.45, 2.9))
    segments = _segments(cells)
    openings = _apart([*_doors(rng, segments, kinds), *_windows(rng, segments, kinds)])
    half = WALL_M / 2
    plan_rooms = tuple(
        Room(kind, x0 + half, y0 + half, x1 - half, y1 - half)
        for kind, (x0, y0, x1, y1) in zip(kinds, cells, strict=True)
    )
    doorways = tuple(
        Doorway(o.center, o.width, (-o.inward[0], -o.inward[1]), (o.room, o.other))
        for o in openings
        if o.kind != "window" and o.other >= 0
    )
    return FloorPlan(
        plan_rooms,
        doorways,
        tuple(openings),
        tuple(cells),
        _walls(segments, openings, height),
        _floor(plan_rooms, cells, height),
        _ceiling(cells, height),
        height,
    )


def _layout(rng: np.random.Generator, rooms: int) -> tuple[list[Cell], list[RoomKind]]:
    """Cells of a plan, and what each is used for."""
    u = rng.uniform
    kinds: list[RoomKind] = ["living room", "kitchen", "bedroom", "office"]
    order = [kinds[i] for i in rng.permutation(4)]
    hall = u(1.6, 2.0)
    if rooms == 1:
        if u() < 0.1:
            return [(0, 0, u(4.0, 6.0), u(2.0, 2.4))], ["corridor"]
        return [(0, 0, u(3.8, 5.6), u(3.4, 5.0))], order[:1]
    if rooms == 2:
        w = u(3.6, 4.8)
        if u() < 0.35:
            return [(0, 0, w, hall), (0, hall, w, hall + u(3.3, 4.4))], ["corridor", order[0]]
        d = u(3.6, 4.8)
        return [(0, 0, w, d), (w, 0, w + u(3.3, 4.6), d)], order[:2]
    if rooms == 3:
        a, b, d = u(3.4, 4.6), u(3.3, 4.4), u(3.4, 4.4)
        if u() < 0.5:
            return [(0, 0, a + b, hall), (0, hall, a, hall + d), (a, hall, a + b, hall + d)], ["corridor", *order[:2]]
        c = u(3.3, 3.9)
        return [(0, 0, a, c + d), (a, 0, a + b, c), (a, c, a + b, c + d)], order[:3]
    a, b, c, d = u(3.4, 4.4), u(3.4, 4.4), u(3.3, 4.2), u(3.3, 4.2)
    if u() < 0.5:
        top = hall + c
        cells = [(0, 0, a + b + c, hall), (0, hall, a, top), (a, hall, a + b, top), (a + b, hall, a + b + c, top)]
        return cells, ["corridor", *order[:3]]
    return [(0, 0, a, c), (a, 0, a + b, c), (0, c, a, c + d), (a, c, a + b, c + d)], order


def _segments(cells: Sequence[Cell]) -> list[_Segment]:
    """Every stretch of wall once: between two cells, or between a cell and the outside."""
    out = []
    for axis in (0, 1):
        across = 1 - axis
        for at in sorted({round(c[across + k], 6) for c in cells for k in (0, 2)}):
            ends = sorted(
                {
                    round(c[axis + k], 6)
                    for c in cells
                    if at in (round(c[across], 6), round(c[across + 2], 6))
                    for k in (0, 2)
                }
            )
            for low, high in pairwise(ends):
                middle = (low + high) / 2
                below = _cell_at(cells, axis, middle, at - 0.01)
                above = _cell_at(cells, axis, middle, at + 0.01)
                if below != above:
                    out.append(_Segment(axis, at, low, high, (below, above)))
    return out


def _cell_at(cells: Sequence[Cell], axis: int, along: float, across: float) -> int:
    x, y = (along, across) if axis == 0 else (across, along)
    return next((i for i, (x0, y0, x1, y1) in enumerate(cells) if x0 < x < x1 and y0 < y < y1), -1)


def _opening(
    kind: Literal["door", "passage", "window"],
    s: _Segment,
    along: float,
    width: float,
    low: float,
    high: float,
    front: int,
) -> Opening:
    """front: which of the segment's sides the opening's front looks into."""
    sign = -1.0 if front == 0 else 1.0
    inward = (0.0, sign) if s.axis == 0 else (sign, 0.0)
    center = (along, s.at) if s.axis == 0 else (s.at, along)
    return Opening(kind, s.axis, center, width, low, high, s.sides[front], s.sides[1 - front], inward)


def _doors(rng: np.random.Generator, segments: Sequence[_Segment], kinds: Sequence[RoomKind]) -> list[Opening]:
    """Openings that join all rooms, a few more, and often a front door."""
    out: list[Opening] = []
    joined = list(range(len(kinds)))
    inner = [s for s in segments if min(s.sides) >= 0 and s.high - s.low > 1.4]
    inner.sort(key=lambda s: "corridor" not in (kinds[s.sides[0]], kinds[s.sides[1]]))  # corridors first
    for s in inner:
        a, b = s.sides
        if joined[a] == joined[b] and (rng.random() < 0.75 or "corridor" in kinds):
            continue
        joined = [joined[a] if j == joined[b] else j for j in joined]
        width = float(rng.uniform(0.84, 0.95))
        # It opens into the larger room: never into a corridor.
        front = 1 if kinds[a] == "corridor" else 0 if kinds[b] == "corridor" else int(rng.integers(2))
        kind: Literal["door", "passage"] = "passage" if rng.random() < 0.15 else "door"
        out.append(_opening(kind, s, _along(rng, s, width, corner=0.6), width, 0.0, DOOR_HEIGHT_M, front))
    outer = [s for s in segments if min(s.sides) < 0 and s.high - s.low > 1.6]
    if rng.random() < (0.95 if len(kinds) == 1 else 0.5):
        first = [s for s in outer if "corridor" in [kinds[i] for i in s.sides if i >= 0]] or outer
        s = first[rng.integers(len(first))]
        width = float(rng.uniform(0.84, 0.95))
        out.append(
            _opening(
                "door", s, _along(rng, s, width, corner=0.7), width, 0.0, DOOR_HEIGHT_M, 0 if s.sides[0] >= 0 else 1
            )
        )
    return out


def _along(rng: np.random.Generator, s: _Segment, width: float, corner: float) -> float:
    """Where on a segment: with probability ``corner`` near one of its ends."""
    low, high = s.low + WALL_M / 2 + width / 2 + 0.12, s.high - WALL_M / 2 - width / 2 - 0.12
    if high <= low:
        return (s.low + s.high) / 2
    if rng.random() < corner:
        return low if rng.random() < 0.5 else high
    return float(rng.uniform(low, high))


def _windows(rng: np.random.Generator, segments: Sequence[_Segment], kinds: Sequence[RoomKind]) -> list[Opening]:
    out = []
    for room, kind in enumerate(kinds):
        outer = [s for s in segments if room in s.sides and min(s.sides) < 0 and s.high - s.low > 2.0]
        order = rng.permutation(len(outer))[: int(rng.integers(0, 2 if kind == "corridor" else 3))]
        for i in order:
            s = outer[i]
            width, low = float(rng.uniform(0.9, 1.6)), float(rng.choice([0.12, 0.9, 0.95, 1.05]))
            high = float(min(low + rng.uniform(1.0, 1.3), 2.15)) if low > 0.5 else 2.1
            middle = (s.low + s.high) / 2 + float(rng.uniform(-0.2, 0.2)) * (s.high - s.low - width - 0.4)
            out.append(_opening("window", s, middle, width, low, high, 0 if s.sides[0] >= 0 else 1))
    return out


def _apart(openings: Sequence[Opening]) -> list[Opening]:
    """Without those that come too close to an earlier one in the same wall."""
    kept: list[Opening] = []
    for o in openings:
        same = [k for k in kept if k.axis == o.axis and abs(k.center[1 - o.axis] - o.center[1 - o.axis]) < 1e-6]
        if all(abs(k.center[o.axis] - o.center[o.axis]) > (k.width + o.width) / 2 + 0.2 for k in same):
            kept.append(o)
    return kept


def _walls(segments: Sequence[_Segment], openings: Sequence[Opening], height: float) -> Design:
    """One part per stretch of wall, with its holes."""
    shapes: list[Shape] = []
    for n, s in enumerate(segments):
        here = [o for o in openings if o.axis == s.axis and abs(o.center[1 - s.axis] - s.at) < 1e-6]
        holes = sorted((o for o in here if s.low < o.center[s.axis] < s.high), key=lambda o: o.center[s.axis])
        extend = WALL_M / 2 if min(s.sides) < 0 else 0.0
        edge, pieces = s.low - extend, []
        for o in holes:
            a, b = o.center[s.axis] - o.width / 2, o.center[s.axis] + o.width / 2
            pieces += [_block(s, edge, a, 0.0, height), _block(s, a, b, o.high, height)]
            if o.low > 0:
                pieces.append(_block(s, a, b, 0.0, o.low))
            edge = b
        pieces.append(_block(s, edge, s.high + extend, 0.0, height))
        shapes.append(shape(f"wall {n}", *pieces))
    return Design("wall", "", tuple(shapes))


def _block(s: _Segment, a: float, b: float, z0: float, z1: float) -> Piece:
    low, high = [0.0, 0.0, z0], [0.0, 0.0, z1]
    low[s.axis], high[s.axis] = a, b
    low[1 - s.axis], high[1 - s.axis] = s.at - WALL_M / 2, s.at + WALL_M / 2
    return box(low, high)


def _floor(rooms: Sequence[Room], cells: Sequence[Cell], height: float) -> Design:
    """One part and one surface per room."""
    shapes, surfaces = [], []
    for i, (room, (x0, y0, x1, y1)) in enumerate(zip(rooms, cells, strict=True)):
        shapes.append(shape(f"floor {i}", box((x0, y0, -0.05), (x1, y1, 0.0))))
        center = ((room.x0 + room.x1) / 2, (room.y0 + room.y1) / 2, 0.0)
        surfaces.append(Surface("floor", center, (room.x1 - room.x0, room.y1 - room.y0), height, i))
    return Design("floor", "", tuple(shapes), tuple(surfaces))


def _ceiling(cells: Sequence[Cell], height: float) -> Design:
    return Design(
        "ceiling",
        "",
        tuple(
            shape(f"ceiling {i}", box((x0, y0, height), (x1, y1, height + 0.05)))
            for i, (x0, y0, x1, y1) in enumerate(cells)
        ),
    )
