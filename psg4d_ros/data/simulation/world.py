"""What a simulated world is made of, and what happened in it over time.

make_world (furnishing.py) builds a World; perform (director.py) lets its people act and records a Timeline;
relations.py reads the truth off the timeline; render.py looks at it with a sensor. The world frame is right-handed,
metres, z up, the floor at z = 0. An entity's own frame has its origin at the middle of its base and z up; its intrinsic
front, for furniture that has one and for people, looks along -y, and y points to its back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from psg4d_ros.structures import Float32, Float64, Int32, UInt8, check_array

if TYPE_CHECKING:
    from psg4d_ros.data.simulation.bodies import Body

STEP_S = 0.05  # the clock of the simulation; sensors sample it

SurfaceKind = Literal["top", "shelf", "seat", "lying", "inside", "floor", "covered"]
RoomKind = Literal["living room", "kitchen", "bedroom", "office", "corridor"]


@dataclass(frozen=True, eq=False)
class Part:
    """A rigid piece of an entity. vertices: float32[V, 3] in the entity's frame at rest, metres. faces: int32[M, 3].

    colors: uint8[M, 3], red, green, blue of each face.
    """

    name: str
    vertices: Float32
    faces: Int32
    colors: UInt8

    def __post_init__(self) -> None:
        check_array("Part", "vertices", self.vertices, "float32", (None, 3))
        check_array("Part", "faces", self.faces, "int32", (None, 3))
        check_array("Part", "colors", self.colors, "uint8", (len(self.faces), 3))


@dataclass(frozen=True)
class Surface:
    """A horizontal rectangle that carries things, in the entity's frame.

    center: x, y, z in metres. size: full extents along x and y. clearance_m: free height above it. part: the part it
    moves with (a drawer's inside moves with the drawer). "covered": under what is built onto it for good, as
    the top of a cupboard under a worktop.
    """

    kind: SurfaceKind
    center: tuple[float, float, float]
    size: tuple[float, float]
    clearance_m: float
    part: int = 0


@dataclass(frozen=True)
class Joint:
    """How a door or drawer moves: ``part`` turns about, or slides along, ``axis`` through ``origin`` (entity frame).

    upper: radians (hinge) or metres (slide) when fully open. handle: where a hand takes it, entity frame, when closed.
    """

    kind: Literal["hinge", "slide"]
    part: int
    origin: tuple[float, float, float]
    axis: tuple[float, float, float]
    upper: float
    handle: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Entity:
    """A thing or a stuff region. entity_id >= 1 is its instance number everywhere.

    asset: which mesh it was made from, "" for what is built from boxes. color: the name of its main colour.
    size: x, y, z extents in metres at rest. movable: people can shift it. graspable: one hand or two can lift it.
    grip: where a hand holds it, entity frame. body: the articulated body of a person.
    """

    entity_id: int
    label: str
    is_thing: bool
    parts: tuple[Part, ...]
    size: tuple[float, float, float]
    color: str
    asset: str = ""
    surfaces: tuple[Surface, ...] = ()
    joints: tuple[Joint, ...] = ()
    movable: bool = False
    graspable: bool = False
    grip: tuple[float, float, float] = (0.0, 0.0, 0.0)
    body: Body | None = None


@dataclass(frozen=True)
class Room:
    """An axis-aligned room [x0, x1] x [y0, y1], metres, world frame."""

    kind: RoomKind
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class Doorway:
    """A passage between two rooms: centre on the floor, clear width, and the direction one walks through it."""

    center: tuple[float, float]
    width_m: float
    direction: tuple[float, float]
    rooms: tuple[int, int]


@dataclass(frozen=True, eq=False)
class World:
    """The scene before anything happens.

    T_world_entity: float64[E, 4, 4] in order of ``entities``. supports: entity_id -> (entity_id of what carries it,
    index of the surface there); what stands on the floor is carried by the floor's entity, what hangs by its wall (-1).
    """

    name: str
    rooms: tuple[Room, ...]
    doorways: tuple[Doorway, ...]
    entities: tuple[Entity, ...]
    T_world_entity: Float64
    supports: dict[int, tuple[int, int]]

    def __post_init__(self) -> None:
        check_array("World", "T_world_entity", self.T_world_entity, "float64", (len(self.entities), 4, 4))
        if [e.entity_id for e in self.entities] != list(range(1, len(self.entities) + 1)):
            raise ValueError(f"World.entities must be numbered 1..{len(self.entities)} in order")

    def entity(self, entity_id: int) -> Entity:
        return self.entities[entity_id - 1]

    @property
    def people(self) -> tuple[Entity, ...]:
        return tuple(e for e in self.entities if e.body is not None)


@dataclass(frozen=True)
class Fact:
    """What the activity script says holds during [start_s, end_s): a relation, or an attribute (object_id None)."""

    subject_id: int
    name: str
    object_id: int | None
    start_s: float
    end_s: float


@dataclass(frozen=True, eq=False)
class Timeline:
    """What happened: poses of all parts over time, and what the activities say of it.

    times_s: float64[T], multiples of STEP_S from 0. T_world_part: per entity float64[T, P, 4, 4], or [1, P, 4, 4] for
    one that never moves (takes rest vertices, entity frame, to the world). T_world_entity: per entity [T or 1, 4, 4].
    opened: per entity float64[T or 1, J], how far each joint is open, 0 to 1. carrier: per entity int32[T or 1], the
    entity_id that carries its weight at each time (floor, table, the person who holds it), 0 = nobody (in the air).
    """

    world: World
    times_s: Float64
    T_world_part: tuple[Float64, ...]
    T_world_entity: tuple[Float64, ...]
    opened: tuple[Float64, ...]
    carrier: tuple[Int32, ...]
    facts: tuple[Fact, ...] = field(default=())

    def index(self, entity_id: int, step: int) -> int:
        """Row of an entity's arrays at a step: 0 for one that never moves."""
        return step if len(self.T_world_entity[entity_id - 1]) > 1 else 0

    def vertices(self, entity_id: int, step: int) -> Float32:
        """float32[V, 3]: all vertices of an entity in the world frame at a step, parts one after another."""
        entity = self.world.entity(entity_id)
        poses = self.T_world_part[entity_id - 1][self.index(entity_id, step)]
        moved = [p.vertices @ T[:3, :3].T + T[:3, 3] for p, T in zip(entity.parts, poses, strict=True)]
        return np.concatenate(moved).astype(np.float32)

    def box(self, entity_id: int, step: int) -> Float32:
        """float32[2, 3]: lower and upper corner of the axis-aligned box at a step, world frame."""
        points = self.vertices(entity_id, step)
        return np.stack([points.min(axis=0), points.max(axis=0)])
