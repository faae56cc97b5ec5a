"""Furniture with doors and drawers that open, built from panels: cupboards, fridges, ovens, room doors, windows.

Each function returns a Design with its front towards -y. ``held_out`` gives the forms that only test scenes have.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from psg4d_ros.data.simulation.assets import Design
from psg4d_ros.data.simulation.shapes import DARK, MAIN, METAL, SECOND, WHITE, Piece, Shape, bar, box, lathe, shape
from psg4d_ros.data.simulation.world import Joint, Surface

Front = Literal["doors", "drawers", "open", "flap", "plain"]


@dataclass(frozen=True)
class Row:
    """One storey of a case, from the floor up. count: doors side by side, drawers on top of each other, or inner
    shelves of an open row; shelves: inner shelves behind doors.
    """

    front: Front
    height: float
    count: int = 1
    shelves: int = 0


@dataclass
class _Case:
    """The panels of a case under construction."""

    width: float
    depth: float
    thickness: float
    handle: str
    open_top: bool = False
    fixed: list[Piece] = field(default_factory=list)
    leaves: list[Shape] = field(default_factory=list)
    surfaces: list[Surface] = field(default_factory=list)
    joints: list[Joint] = field(default_factory=list)

    def grip(self, x: float, z: float, upright: bool) -> tuple[list[Piece], tuple[float, float, float]]:
        """A handle on the front at x, z, and where a hand takes it."""
        y = -self.depth / 2
        if self.handle == "knob":
            return [lathe([(0, 0.0), (0.013, 0), (0.016, 0.015), (0, 0.02)], METAL)], (x, y - 0.02, z)
        length = {"bar": 0.07, "long": 0.16, "ledge": 0.05}[self.handle]
        a = (x, y - 0.028, z - length) if upright else (x - length, y - 0.028, z)
        b = (x, y - 0.028, z + length) if upright else (x + length, y - 0.028, z)
        if self.handle == "ledge":
            low = (a[0] - 0.008, y - 0.03, a[2] - 0.008)
            return [box(low, (b[0] + 0.008, y, b[2] + 0.008), DARK)], (x, y - 0.02, z)
        posts = [bar((p[0], y, p[2]), p, 0.005) for p in (a, b)]
        return [bar(a, b, 0.007), *posts], (x, y - 0.028, z)

    def row(self, row: Row, z0: float) -> None:
        w, d, t = self.width, self.depth, self.thickness
        z1, inner = z0 + row.height, w - 2 * t
        y0, y1 = -d / 2 + 0.02, d / 2  # the fronts close before the case
        part = len(self.leaves) + 1
        if row.front == "plain":
            self.fixed.append(box((-w / 2, -d / 2, z0), (w / 2, y1, z1), MAIN))
            return
        lid = [box((-w / 2 + t, y0, z1 - t), (w / 2 - t, y1 - t, z1))]
        self.fixed += [
            *lid[: 0 if self.open_top else 1],
            box((-w / 2, y0, z0), (-w / 2 + t, y1, z1)),
            box((w / 2 - t, y0, z0), (w / 2, y1, z1)),
            box((-w / 2 + t, y1 - t, z0), (w / 2 - t, y1, z1)),
            box((-w / 2 + t, y0, z0), (w / 2 - t, y1 - t, z0 + t)),
        ]
        if row.front == "drawers":
            self._drawers(row, z0, part)
            return
        boards = row.count - 1 if row.front == "open" else row.shelves
        floors = np.linspace(z0 + t, z1, boards + 2)[:-1]
        for i, z in enumerate(floors):
            if i:
                self.fixed.append(box((-w / 2 + t, y0 + 0.02, z - t), (w / 2 - t, y1 - t, z), MAIN))
            free = (floors[i + 1] - t if i < boards else z1 - t) - z
            kind: Literal["shelf", "inside"] = "shelf" if row.front == "open" else "inside"
            depth = y1 - t - y0 - 0.03
            self.surfaces.append(Surface(kind, (0.0, y1 - t - depth / 2, float(z)), (inner, depth), float(free)))
        if row.front == "doors":
            self._doors(row, z0, part)
        elif row.front == "flap":
            pieces = [box((-w / 2, -d / 2, z0), (w / 2, -d / 2 + 0.02, z1))]
            pieces.append(box((-w / 2 + 0.08, -d / 2 - 0.002, z0 + 0.1), (w / 2 - 0.08, -d / 2, z1 - 0.12), DARK))
            more, at = self.grip(0.0, z1 - 0.05, upright=False)
            self.leaves.append(shape("flap", *pieces, *_at(more, at, self.handle)))
            self.joints.append(Joint("hinge", part, (0.0, -d / 2, z0), (1.0, 0.0, 0.0), 1.5, at))

    def _doors(self, row: Row, z0: float, part: int) -> None:
        w, d = self.width, self.depth
        leaf = w / row.count
        for i in range(row.count):
            left = row.count == 1 or i % 2 == 0
            x0, x1 = -w / 2 + i * leaf, -w / 2 + (i + 1) * leaf
            panel = box((x0 + 0.002, -d / 2, z0 + 0.002), (x1 - 0.002, -d / 2 + 0.018, z0 + row.height - 0.002))
            frame = box(
                (x0 + 0.06, -d / 2 - 0.004, z0 + 0.06), (x1 - 0.06, -d / 2, z0 + max(row.height - 0.06, 0.07)), SECOND
            )
            x = x1 - 0.045 if left else x0 + 0.045
            z = z0 + min(0.5 * row.height, max(1.0 - z0, 0.2)) if row.height > 0.9 else z0 + 0.6 * row.height
            more, at = self.grip(x, z, upright=True)
            inset = [frame] if self.handle in ("knob", "ledge") and leaf > 0.25 else []
            self.leaves.append(shape(f"door {part + i}", panel, *inset, *_at(more, at, self.handle)))
            axis = (0.0, 0.0, -1.0) if left else (0.0, 0.0, 1.0)
            self.joints.append(Joint("hinge", part + i, (x0 if left else x1, -d / 2, z0), axis, 1.75, at))

    def _drawers(self, row: Row, z0: float, part: int) -> None:
        w, d, t = self.width, self.depth, self.thickness
        high = row.height / row.count
        for i in range(row.count):
            z = z0 + i * high
            x, back = w / 2 - t - 0.006, d / 2 - t - 0.02
            low, top = z + t + 0.008, z + high - t - 0.01
            pieces = [
                box((-w / 2, -d / 2, z + 0.002), (w / 2, -d / 2 + 0.018, z + high - 0.002)),
                box((-x, -d / 2 + 0.018, low), (x, back, low + 0.008), WHITE),
                box((-x, -d / 2 + 0.018, low), (-x + 0.01, back, top), WHITE),
                box((x - 0.01, -d / 2 + 0.018, low), (x, back, top), WHITE),
                box((-x, back - 0.01, low), (x, back, top), WHITE),
            ]
            more, at = self.grip(0.0, z + 0.55 * high, upright=False)
            self.leaves.append(shape(f"drawer {part + i}", *pieces, *_at(more, at, self.handle)))
            inside = back + d / 2 - 0.04
            self.surfaces.append(
                Surface(
                    "inside",
                    (0.0, -d / 2 + 0.022 + inside / 2, low + 0.008),
                    (2 * x - 0.03, inside),
                    high - 2 * t - 0.02,
                    part + i,
                )
            )
            self.joints.append(Joint("slide", part + i, (0.0, -d / 2, z), (0.0, -1.0, 0.0), 0.75 * (inside + 0.02), at))
            if i:
                self.fixed.append(box((-w / 2 + t, -d / 2 + 0.02, z - 0.006), (w / 2 - t, -d / 2 + 0.05, z + 0.006)))


def _at(pieces: list[Piece], at: tuple[float, float, float], handle: str) -> list[Piece]:
    """A knob is turned out of its own axis, and moved to where it sits; bars are made in place."""
    if handle != "knob":
        return pieces
    (v, f, t), *_ = pieces
    turned = np.column_stack([v[:, 0], -v[:, 2], v[:, 1]]) + np.array([at[0], at[1] + 0.02, at[2]])
    return [(turned, f, t)]


def case(
    label: str,
    asset: str,
    size: tuple[float, float, float],
    rows: tuple[Row, ...],
    handle: str,
    foot: float = 0.06,
    legs: bool = False,
    wall: float = 0.018,
    top: bool = True,
    open_top: bool = False,
) -> Design:
    """A case of given width, depth and height; the rows' heights are shares of what is left above the foot.

    top: offers its top as a surface. open_top: has no upper board, so that a basin can hang in it.
    """
    w, d, h = size
    built = _Case(w, d, wall, handle, open_top)
    if foot and legs:
        at = [(sx * (w / 2 - 0.04), sy * (d / 2 - 0.05)) for sx in (-1, 1) for sy in (-1, 1)]
        built.fixed += [bar((x, y, 0), (x, y, foot), 0.015, SECOND) for x, y in at]
    elif foot:
        built.fixed.append(box((-w / 2 + 0.01, -d / 2 + 0.05, 0), (w / 2 - 0.01, d / 2, foot), SECOND))
    share = (h - foot) / sum(r.height for r in rows)
    z = foot
    for row in rows:
        scaled = Row(row.front, row.height * share, row.count, row.shelves)
        built.row(scaled, z)
        z += scaled.height
    if top and h < 1.5:
        built.surfaces.append(Surface("top", (0.0, 0.01, h), (w, d - 0.02), 2.0))
    return Design(
        label, asset, (shape("case", *built.fixed), *built.leaves), tuple(built.surfaces), tuple(built.joints)
    )


def _handle(rng: np.random.Generator, held_out: bool) -> str:
    return "ledge" if held_out else ("bar", "long", "knob")[rng.integers(3)]


def cabinet(rng: np.random.Generator, held_out: bool, form: str = "") -> Design:
    """A cupboard.

    form: "" (any), "low" (under a television), "side" (waist-high), "tall", "base" (of a kitchen), "sink" (under one),
    "upper" (on its wall), "night" (beside a bed).
    """
    form = form or ("side", "side", "low", "tall")[rng.integers(4)]
    u = rng.uniform
    handle, legs = _handle(rng, held_out), bool(rng.random() < 0.5)
    doors = 2
    if form == "low":
        size, doors = (u(1.1, 1.6), u(0.38, 0.45), u(0.42, 0.55)), int(rng.integers(2, 4))
        rows: tuple[Row, ...] = (Row("doors", 1.0, doors),) if u() < 0.6 else (Row("doors", 2, 2), Row("open", 1, 1))
    elif form == "base":
        size, rows, legs = (0.6, 0.58, 0.86), (Row("doors", 3, 1 + int(u() < 0.5), 1), Row("drawers", 1, 1)), False
        rows = rows if u() < 0.6 else rows[:1]
    elif form == "sink":
        made = case(
            "cabinet",
            "built/base cabinet",
            (0.6, 0.58, 0.86),
            (Row("doors", 1, 2),),
            handle,
            0.08,
            open_top=True,
            top=False,
        )
        below = tuple(Surface(f.kind, f.center, f.size, 0.5) for f in made.surfaces)  # the basin hangs above
        return Design("cabinet", made.asset, made.shapes, below, made.joints)
    elif form == "upper":
        size = (u(0.55, 0.9), 0.33, u(0.6, 0.75))
        return case("cabinet", "built/upper cabinet", size, (Row("doors", 1, 2, 1),), handle, foot=0.0, top=False)
    elif form == "night":
        size, rows = (u(0.4, 0.52), u(0.36, 0.42), u(0.42, 0.55)), (Row("doors", 2, 1), Row("drawers", 1, 1))
    elif form == "tall":
        size, rows = (u(0.7, 1.0), u(0.36, 0.42), u(1.5, 1.9)), (Row("doors", 2, 2, 2), Row("open", 1, 1))
        rows = rows if u() < 0.5 else (Row("doors", 1, 2, 3),)
    else:
        size = (u(0.8, 1.2), u(0.38, 0.46), u(0.75, 0.95))
        rows = (Row("doors", 2, 2, 1), Row("drawers", 1, 1)) if u() < 0.5 else (Row("doors", 1, 2, 1),)
    return case("cabinet", f"built/{form} cabinet", size, rows, handle, 0.08 if form == "base" else 0.1, legs)


def drawer(rng: np.random.Generator, held_out: bool, form: str = "") -> Design:
    """A chest of drawers; "night": beside a bed, "office": under a desk."""
    u = rng.uniform
    size, count = (u(0.7, 1.1), u(0.42, 0.5), u(0.75, 1.05)), int(rng.integers(3, 5))
    if form == "night":
        size, count = (u(0.4, 0.52), u(0.36, 0.42), u(0.45, 0.55)), 2
    elif form == "office":
        size, count = (0.42, 0.5, u(0.55, 0.62)), 3
    return case("drawer", "built/drawers", size, (Row("drawers", 1, count),), _handle(rng, held_out), 0.06, u() < 0.4)


def wardrobe(rng: np.random.Generator, held_out: bool) -> Design:
    u = rng.uniform
    count = int(rng.integers(2, 4))
    size = (0.5 * count + u(-0.05, 0.05), u(0.55, 0.62), u(1.9, 2.15))
    rows = (Row("drawers", 1, 1), Row("doors", 4, count, 1)) if u() < 0.4 else (Row("doors", 1, count, 1),)
    return case("wardrobe", "built/wardrobe", size, rows, _handle(rng, held_out), 0.06)


def shelf(rng: np.random.Generator, held_out: bool) -> Design:
    u = rng.uniform
    height = u(1.1, 2.0)
    count = round(height / 0.36)
    rows: tuple[Row, ...] = (Row("open", 1, count),)
    if held_out:
        rows = (Row("doors", 1.2, 2), Row("open", count, count))
    return case("shelf", "built/shelf", (u(0.6, 1.1), u(0.27, 0.34), height), rows, "knob", 0.04)


def refrigerator(rng: np.random.Generator, held_out: bool) -> Design:
    u = rng.uniform
    size = (u(0.56, 0.68), u(0.6, 0.66), u(1.5, 1.85))
    rows = ((Row("doors", 1.1, 1, 1), Row("doors", 2.2, 1, 3)), (Row("doors", 2.2, 1, 3), Row("doors", 1, 1, 0)))
    chosen = (Row("doors", 1, 2, 3),) if held_out else rows[rng.integers(2)]
    return case("refrigerator", "built/refrigerator", size, chosen, "long" if not held_out else "bar", 0.04, wall=0.045)


def stove(rng: np.random.Generator, held_out: bool) -> Design:
    """An oven with its flap and four rings on top."""
    made = case(
        "stove", "built/stove", (0.6, 0.6, 0.88), (Row("plain", 1), Row("flap", 4.5, 1, 1), Row("plain", 1)),
        "long", 0.05, wall=0.03,
    )  # fmt: skip
    rings = [
        lathe([(0.0, 0.885), (r, 0.885), (r, 0.88)], DARK, (x, y))
        for x in (-0.14, 0.14)
        for y, r in ((-0.11, 0.07 + 0.02 * (x > 0)), (0.15, 0.09))
    ]
    knobs = [bar((x, -0.3, 0.83), (x, -0.33, 0.83), 0.018, DARK) for x in np.linspace(-0.2, 0.2, 3 if held_out else 5)]
    body = shape("case", (made.shapes[0].vertices, made.shapes[0].faces, made.shapes[0].tones), *rings, *knobs)
    top = Surface("top", (0.0, 0.01, 0.885), (0.56, 0.5), 2.0)
    inside = tuple(s for s in made.surfaces if s.kind == "inside")
    return Design("stove", made.asset, (body, *made.shapes[1:]), (*inside, top), made.joints)


def dishwasher(rng: np.random.Generator, held_out: bool) -> Design:
    rows = (Row("flap", 6, 1, 1), Row("plain", 0.8))
    return case("dishwasher", "built/dishwasher", (0.6, 0.58, 0.86), rows, "bar" if held_out else "long", 0.08)


def microwave(rng: np.random.Generator, held_out: bool) -> Design:
    u = rng.uniform
    size = (u(0.44, 0.52), u(0.32, 0.38), u(0.26, 0.3))
    made = case("microwave", "built/microwave", size, (Row("doors", 1, 1),), "bar", 0.01, wall=0.03)
    w, d, h = size
    panel = box((-w / 2 + 0.05, -d / 2 - 0.002, 0.06), (w / 2 - 0.12, -d / 2, h - 0.05), DARK)
    leaf = made.shapes[1]
    door = shape(leaf.name, (leaf.vertices, leaf.faces, leaf.tones), panel)
    return Design("microwave", made.asset, (made.shapes[0], door), made.surfaces, made.joints)


def room_door(rng: np.random.Generator, held_out: bool, width: float, thickness: float, left: bool) -> Design:
    """A door in its frame, in the middle of a wall of ``thickness``; it opens towards -y, its front.

    left: hinges at -x.
    """
    height, side = 2.03, -1.0 if left else 1.0
    y = -thickness / 2
    w = width / 2
    frame = [
        box((-w - 0.05, y - 0.012, 0), (-w, -y + 0.012, height + 0.05), SECOND),
        box((w, y - 0.012, 0), (w + 0.05, -y + 0.012, height + 0.05), SECOND),
        box((-w, y - 0.012, height), (w, -y + 0.012, height + 0.05), SECOND),
    ]
    leaf = [box((-w + 0.003, y, 0.008), (w - 0.003, y + 0.04, height - 0.003))]
    bays = int(rng.integers(1, 4)) if not held_out else 5
    for i in range(bays):
        z0, z1 = 0.15 + i * 1.75 / bays, 0.15 + (i + 1) * 1.75 / bays - 0.08
        leaf.append(box((-w + 0.13, y - 0.005, z0), (w - 0.13, y, z1), SECOND if held_out else MAIN))
    x = -side * (w - 0.07)
    for front, sign in ((y, -1), (y + 0.04, 1)):
        leaf.append(bar((x, front, 1.02), (x, front + sign * 0.05, 1.02), 0.01))
        leaf.append(bar((x, front + sign * 0.05, 1.02), (x + side * 0.12, front + sign * 0.05, 1.02), 0.01))
    hinge = Joint("hinge", 1, (side * w, y, 0.0), (0.0, 0.0, side), 1.55, (x + side * 0.06, y - 0.05, 1.02))
    return Design("door", "built/door", (shape("frame", *frame), shape("leaf", *leaf)), (), (hinge,))


def window(rng: np.random.Generator, held_out: bool, width: float, height: float, thickness: float) -> Design:
    """A window's frame and bars in a wall of ``thickness``, without panes: sensors look through glass."""
    y, w = thickness / 2, width / 2
    bars = [
        box((-w, -y, 0), (-w + 0.05, y, height)),
        box((w - 0.05, -y, 0), (w, y, height)),
        box((-w + 0.05, -y, 0), (w - 0.05, y, 0.05)),
        box((-w + 0.05, -y, height - 0.05), (w - 0.05, y, height)),
        box((-w - 0.03, -y - 0.03, -0.03), (w + 0.03, -y, 0.0), SECOND),
    ]
    for x in np.linspace(-w, w, int(rng.integers(2, 4)) + 1 if not held_out else 5)[1:-1]:
        bars.append(box((x - 0.035, -0.03, 0.05), (x + 0.035, 0.03, height - 0.05)))
    if held_out or rng.random() < 0.4:
        z = height * rng.uniform(0.55, 0.75)
        bars.append(box((-w + 0.05, -0.03, z - 0.03), (w - 0.05, 0.03, z + 0.03)))
    return Design("window", "built/window", (shape("frame", *bars),))
