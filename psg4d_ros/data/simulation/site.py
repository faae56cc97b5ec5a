"""A world under construction: things are chosen, tried for room, and put down one after another."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from psg4d_ros.data.simulation.assets import Design, entity, mesh_library
from psg4d_ros.data.simulation.bodies import make_body
from psg4d_ros.data.simulation.classes import RULES, WordSplit
from psg4d_ros.data.simulation.floor_space import FloorSpace, Footprint, overlap
from psg4d_ros.data.simulation.household import SMALL
from psg4d_ros.data.simulation.rooms import FloorPlan
from psg4d_ros.data.simulation.world import Entity, Room, Surface, World
from psg4d_ros.structures import Float64

# What is put down square to its table.
_SQUARE = {"laptop", "monitor", "television", "picture", "clock", "speaker", "computer", "book", "pillow"}

_LEAN_RAD = (0.12, 0.3)
_SOFT = {"pillow", "blanket", "towel", "bag", "backpack"}


def pose(x: float, y: float, z: float, yaw: float) -> Float64:
    """float64[4, 4]: turned by yaw about z, then moved."""
    T = np.eye(4)
    c, s = np.cos(yaw), np.sin(yaw)
    T[:2, :2] = (c, -s), (s, c)
    T[:3, 3] = x, y, z
    return T


def footprint(design: Design, x: float, y: float, yaw: float, z: float = 0.0) -> Footprint:
    """The box that a design takes when its origin is at x, y, z."""
    (lx, ly, lz), (hx, hy, hz) = design.low, design.high
    mx, my = (lx + hx) / 2, (ly + hy) / 2
    c, s = np.cos(yaw), np.sin(yaw)
    return Footprint(
        float(x + c * mx - s * my), float(y + s * mx + c * my), (hx - lx) / 2, (hy - ly) / 2, yaw, z + lz, z + hz
    )


@dataclass
class Host:
    """A surface that small things can be put on. place: one of classes.HOSTS."""

    index: int
    surface: int
    place: str
    taken: list[Footprint] = field(default_factory=list)


class Site:
    """Things so far. Indices count from 0; entity ids are one more."""

    def __init__(self, rng: np.random.Generator, words: WordSplit, plan: FloorPlan) -> None:
        self.rng, self.words, self.plan = rng, words, plan
        self.space = FloorSpace(plan)
        self.entities: list[Entity] = []
        self.designs: list[Design | None] = []
        self.poses: list[Float64] = []
        self.supports: dict[int, tuple[int, int]] = {}
        self.hosts: list[Host] = []
        self.floor = self.add(plan.floor, np.eye(4), None)
        self.wall = self.add(plan.walls, np.eye(4), None)
        self.ceiling = self.add(plan.ceiling, np.eye(4), None)

    @property
    def held_out(self) -> bool:
        """Whether built things take the forms that only tests have; with all models, half of them."""
        return self.words.assets == "heldout" or (self.words.assets == "all" and self.rng.random() < 0.5)

    def allowed(self, label: str) -> bool:
        return label in self.words.labels

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def optional(self, probability: float) -> bool:
        """As chance(), but less likely where many rooms have to share what a scene holds."""
        return self.chance(probability * (1.0, 0.85, 0.6, 0.45)[len(self.plan.rooms) - 1])

    def pick(self, label: str, low: float = 0.0, high: float = 9.0, longest: float = 9.0) -> Design | None:
        """A model of a label whose height is in [low, high] and footprint at most ``longest``, or None."""
        if not self.allowed(label):
            return None
        meshes = [
            d
            for d in mesh_library().meshes(label, self.words.assets)
            if low <= d.size[2] <= high and max(d.size[:2]) <= longest
        ]
        built = SMALL.get(label, ())
        total = len(meshes) + len(built)
        if not total:
            return None
        k = int(self.rng.integers(total))
        if k < len(meshes):
            design = meshes[k].scaled(float(self.rng.uniform(*RULES[label].scale)))
        else:
            design = built[k - len(meshes)](self.rng, self.held_out)
        return design if low <= design.size[2] <= high * 1.06 and max(design.size[:2]) <= longest * 1.06 else None

    def add(
        self,
        design: Design,
        T: Float64,
        support: tuple[int, int] | None,
        like: int | None = None,
        paint: int | None = None,
    ) -> int:
        """Puts a thing into the world. support: (index, surface) of its carrier.

        like: it is the same as that one, down to its paint. paint: things with the same number have one colour.
        """
        index = len(self.entities)
        if like is None:
            made = entity(design, index + 1, self.rng if paint is None else np.random.default_rng(paint))
        else:
            made = replace(self.entities[like], entity_id=index + 1)
        if support is not None and support[1] < 0:  # what hangs stays where it is
            made = replace(made, movable=False, graspable=False)
        self.entities.append(made)
        self.designs.append(design)
        self.poses.append(T)
        if support is not None:
            self.supports[index + 1] = support[0] + 1, support[1]
        return index

    def stand(
        self,
        design: Design,
        room: int,
        x: float,
        y: float,
        yaw: float,
        front_m: float = 0.0,
        reach: bool = False,
        like: int | None = None,
    ) -> int | None:
        """Stands a thing on the floor where it fits. front_m: free depth kept before its front; reach: one must be able
        to walk to its front.
        """
        box = footprint(design, x, y, yaw)
        clear = None
        if front_m:
            cx, cy = box.ahead(front_m / 2)
            clear = Footprint(cx, cy, box.half_x, front_m / 2, yaw)
        area = self.plan.rooms[room]
        if not self.space.fits(box, area, clear):
            return None
        goals = (box.ahead(0.4),) if reach else ()
        if not self.space.reachable((box,), goals):
            return None
        self.space.take(box, clear, goals)
        return self.add(design, pose(x, y, 0.0, yaw), (self.floor, room), like)

    def against_wall(
        self,
        design: Design | None,
        room: int,
        front_m: float = 0.0,
        gap: float = 0.045,
        sides: tuple[int, ...] = (),
        tries: int = 14,
    ) -> int | None:
        """Stands a thing with its back to a wall. sides: 0 north, 1 east, 2 south, 3 west; any when empty.

        None, also for no design: nothing was placed.
        """
        if design is None:
            return None
        area = self.plan.rooms[room]
        for _ in range(tries):
            side = int(self.rng.choice(sides)) if sides else int(self.rng.integers(4))
            x, y, yaw = self.beside_wall(design, area, side, float(self.rng.random()), gap)
            index = self.stand(design, room, x, y, yaw, front_m, reach=front_m > 0)
            if index is not None:
                return index
        return None

    @staticmethod
    def beside_wall(design: Design, area: Room, side: int, share: float, gap: float) -> tuple[float, float, float]:
        """x, y, yaw with the back ``gap`` from a wall; share: 0 to 1 along it."""
        yaw = (0.0, -np.pi / 2, np.pi, np.pi / 2)[side]
        depth, half = design.high[1] + gap, design.size[0] / 2 + 0.02
        middle = (design.low[0] + design.high[0]) / 2
        if side in (0, 2):
            x = area.x0 + half + share * max(area.x1 - area.x0 - 2 * half, 0.0)
            return (x - middle * np.cos(yaw), area.y1 - depth if side == 0 else area.y0 + depth, yaw)
        y = area.y0 + half + share * max(area.y1 - area.y0 - 2 * half, 0.0)
        return (area.x1 - depth if side == 1 else area.x0 + depth, y - middle * np.sin(yaw), yaw)

    def anywhere(self, room: int, design: Design, tries: int = 8) -> int | None:
        """Stands a thing on free floor, often near a wall."""
        area = self.plan.rooms[room]
        for _ in range(tries):
            if self.chance(0.5):
                index = self.against_wall(design, room, gap=float(self.rng.uniform(0.03, 0.25)), tries=1)
            else:
                x, y = float(self.rng.uniform(area.x0, area.x1)), float(self.rng.uniform(area.y0, area.y1))
                index = self.stand(design, room, x, y, float(self.rng.uniform(-np.pi, np.pi)))
            if index is not None:
                return index
        return None

    def hang(
        self, design: Design, room: int, z: float, above: int | None = None, tries: int = 10, side: int | None = None
    ) -> int | None:
        """Hangs a thing on a wall, at random or centred above (behind) the thing ``above`` that stands against it."""
        area = self.plan.rooms[room]
        for _ in range(tries):
            if above is None:
                chosen = int(self.rng.integers(4)) if side is None else side
                x, y, yaw = self.beside_wall(design, area, chosen, float(self.rng.random()), 0.002)
            else:
                T = self.poses[above]
                yaw = float(np.arctan2(T[1, 0], T[0, 0]))
                chosen = round(-yaw / (np.pi / 2)) % 4
                x, y, yaw = self.beside_wall(design, area, chosen, 0.5, 0.002)
                x, y = (T[0, 3], y) if chosen in (0, 2) else (x, T[1, 3])
            box = footprint(design, x, y, yaw, z)
            if box.high < self.plan.height_m - 0.05 and self.space.fits(box, area):
                self.space.solids.append(box)
                if box.low < 1.7:
                    self.space.take(box)
                return self.add(design, pose(x, y, z, yaw), (self.wall, -1))
        return None

    def lean(self, design: Design | None, room: int, tries: int = 10) -> int | None:
        """Stands a thing on the floor with its upper edge against a wall, tilted as what would slide otherwise is.

        None, also for no design: nothing was placed.
        """
        if design is None:
            return None
        area = self.plan.rooms[room]
        angle = float(self.rng.uniform(*_LEAN_RAD))
        tilt = np.eye(4)
        tilt[1:3, 1:3] = (np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))
        tilt[2, 3] = -min(float((s.vertices @ tilt[2, :3]).min()) for s in design.shapes)
        shapes = tuple(replace(s, vertices=s.vertices @ tilt[:3, :3].T + tilt[:3, 3]) for s in design.shapes)
        leaning = replace(design, shapes=shapes, surfaces=(), grip=None)
        points = np.concatenate([s.vertices for s in shapes])
        if points[points[:, 1].argmax(), 2] < 0.6 * leaning.high[2]:
            return None  # its back is too round: it would touch the wall with its lower half
        for _ in range(tries):
            x, y, yaw = self.beside_wall(leaning, area, int(self.rng.integers(4)), float(self.rng.random()), 0.004)
            box = footprint(leaning, x, y, yaw)
            if self.space.fits(box, area) and self.space.reachable((box,), ()):
                self.space.take(box)
                index = self.add(design, pose(x, y, 0.0, yaw) @ tilt, (self.floor, room))
                # It stays as it is: people would hold it as tilted as it stood.
                self.entities[index] = replace(self.entities[index], movable=False, graspable=False)
                return index
        return None

    def host(self, index: int, place: str, kinds: tuple[str, ...]) -> None:
        """Offers a thing's surfaces of some kinds to small things."""
        for i, surface in enumerate(self.entities[index].surfaces):
            if surface.kind in kinds:
                self.hosts.append(Host(index, i, place))

    def store(self, index: int | None, top: str, inside: str) -> None:
        """Offers a cupboard's top, its insides and its open shelves to small things; None: it found no room."""
        if index is not None:
            self.host(index, top, ("top",))
            self.host(index, inside, ("inside",))
            self.host(index, "shelf", ("shelf",))

    def put(self, design: Design, host: Host, x: float, y: float, yaw: float, like: int | None = None) -> int | None:
        """Puts a thing on a surface, at x, y from the surface's middle in the frame of what carries it."""
        surface: Surface = self.entities[host.index].surfaces[host.surface]
        box = footprint(design, x, y, yaw)
        box = replace(box, half_x=box.half_x + 0.005, half_y=box.half_y + 0.005)
        corners = np.abs(box.corners)
        if (corners > np.array(surface.size) / 2 - 0.004).any() or design.size[2] > surface.clearance_m - 0.01:
            return None
        if any(overlap(box, other) for other in host.taken):
            return None
        sx, sy, sz = surface.center
        T_host = self.poses[host.index]
        z = self._rest_height(host, box, design.label) if surface.kind in ("seat", "lying") else sz
        T = T_host @ pose(sx + x, sy + y, z, yaw)
        if surface.kind == "top" and not self._free_above(design, T, host):
            return None
        host.taken.append(box)
        return self.add(design, T, (host.index, host.surface), like)

    def _free_above(self, design: Design, T: Float64, host: Host) -> bool:
        """Whether what stands on a top would run into a thing on the wall, a sloping lamp or a curtain."""
        yaw = float(np.arctan2(T[1, 0], T[0, 0]))
        box = footprint(design, T[0, 3], T[1, 3], yaw, T[2, 3] + 0.001)
        return not any(overlap(box, other) for other in self.space.solids if other.high > box.low + 0.02)

    def _rest_height(self, host: Host, box: Footprint, label: str) -> float:
        """Where something comes to rest on an uneven cushion: on its highest point, soft things nearly so."""
        design = self.designs[host.index]
        assert design is not None
        surface = self.entities[host.index].surfaces[host.surface]
        local = replace(box, x=box.x + surface.center[0], y=box.y + surface.center[1])
        u = np.linspace(-0.98, 0.98, 9)
        points = np.array([(a, b) for a in u for b in u]) * (box.half_x, box.half_y)
        points = points @ local.axes + (local.x, local.y)
        corners = np.concatenate([s.vertices[s.faces] for s in design.shapes])
        near = (corners[..., 2].max(axis=1) > surface.center[2] - 0.1) & (
            np.abs(corners[..., :2].mean(axis=1) - (local.x, local.y)) < 0.8
        ).all(axis=1)
        a, b, c = corners[near].transpose(1, 0, 2)
        det = (b[:, 1] - c[:, 1]) * (a[:, 0] - c[:, 0]) + (c[:, 0] - b[:, 0]) * (a[:, 1] - c[:, 1])
        flat = np.abs(det) > 1e-9
        a, b, c, det = a[flat], b[flat], c[flat], det[flat]
        dx, dy = points[:, :1] - c[:, 0], points[:, 1:] - c[:, 1]
        w1 = ((b[:, 1] - c[:, 1]) * dx + (c[:, 0] - b[:, 0]) * dy) / det
        w2 = ((c[:, 1] - a[:, 1]) * dx + (a[:, 0] - c[:, 0]) * dy) / det
        w3 = 1 - w1 - w2
        z = np.where((w1 >= 0) & (w2 >= 0) & (w3 >= 0), w1 * a[:, 2] + w2 * b[:, 2] + w3 * c[:, 2], -1.0).max(axis=1)
        share = 0.8 if label in _SOFT else 1.0
        return float(max(np.quantile(z, share), surface.center[2] - 0.05))

    def scatter(self, label: str, host: Host, tries: int = 8) -> int | None:
        """Puts a thing of a label somewhere on a surface, where one fits."""
        surface = self.entities[host.index].surfaces[host.surface]
        design = self.pick(label, high=surface.clearance_m - 0.01)
        if design is None:
            return None
        aligned = label in _SQUARE
        for _ in range(tries):
            yaw = float(self.rng.normal(0, 0.15) if aligned or self.chance(0.4) else self.rng.uniform(-np.pi, np.pi))
            c, s = abs(np.cos(yaw)), abs(np.sin(yaw))
            w, d, _ = design.size
            room = (np.array(surface.size) - (w * c + d * s, w * s + d * c)) / 2 - 0.01
            if (room <= 0).any():
                continue
            x, y = (self.rng.uniform(-1, 1, 2) * room).tolist()
            index = self.put(design, host, x, y, yaw)
            if index is not None:
                return index
        return None

    def add_person(self, x: float, y: float, room: int) -> int:
        """A person who stands at x, y and looks somewhere."""
        body = make_body(self.rng)
        vertices = np.concatenate([p.vertices for p in body.parts])
        w, d, h = (vertices.max(axis=0) - vertices.min(axis=0)).tolist()
        index = len(self.entities)
        self.entities.append(Entity(index + 1, "person", True, body.parts, (w, d, h), body.clothing, body=body))
        self.designs.append(None)
        self.poses.append(pose(x, y, 0.0, float(self.rng.uniform(-np.pi, np.pi))))
        self.supports[index + 1] = self.floor + 1, room
        return index

    def world(self, name: str) -> World:
        return World(
            name,
            self.plan.rooms,
            self.plan.doorways,
            tuple(self.entities),
            np.stack(self.poses),
            dict(self.supports),
        )
