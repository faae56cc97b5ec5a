"""Where things may stand: nothing in each other, doors and cupboards free to open, and every place within reach."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, label

from psg4d_ros.data.simulation.rooms import FloorPlan
from psg4d_ros.data.simulation.world import Room
from psg4d_ros.structures import Float64

Bool = NDArray[np.bool_]
CELL_M = 0.1
WALK_RADIUS_M = 0.3  # on this grid: a passage is at least about 0.7 m wide


@dataclass(frozen=True)
class Footprint:
    """An upright box: middle, half extents in its own axes, its turn about z, and the heights it spans."""

    x: float
    y: float
    half_x: float
    half_y: float
    yaw: float
    low: float = 0.0
    high: float = 2.0

    @property
    def axes(self) -> Float64:
        """float64[2, 2]: its unit axes as rows."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return np.array([[c, s], [-s, c]])

    @property
    def corners(self) -> Float64:
        """float64[4, 2]."""
        signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], float)
        return np.array([self.x, self.y]) + (signs * (self.half_x, self.half_y)) @ self.axes

    def ahead(self, distance: float) -> tuple[float, float]:
        """The point ``distance`` before its front (it looks along its own -y)."""
        d = distance + self.half_y
        return self.x + d * float(np.sin(self.yaw)), self.y - d * float(np.cos(self.yaw))


def overlap(a: Footprint, b: Footprint) -> bool:
    """Whether two upright boxes share space (separating axes)."""
    if a.high <= b.low + 1e-6 or b.high <= a.low + 1e-6:
        return False
    reach = a.half_x + a.half_y + b.half_x + b.half_y
    if abs(a.x - b.x) > reach or abs(a.y - b.y) > reach:
        return False
    ca, cb = a.corners, b.corners
    for axis in (*a.axes, *b.axes):
        pa, pb = ca @ axis, cb @ axis
        if pa.max() <= pb.min() + 1e-4 or pb.max() <= pa.min() + 1e-4:
            return False
    return True


class FloorSpace:
    """What of the floor is taken, and whether one can still walk everywhere."""

    def __init__(self, plan: FloorPlan) -> None:
        self.rooms = plan.rooms
        self.solids: list[Footprint] = []
        self.clears: list[Footprint] = []
        self.goals: list[tuple[float, float]] = []
        self.doors = [o.center for o in plan.openings if o.kind != "window"]
        low = np.array([min(r.x0 for r in plan.rooms), min(r.y0 for r in plan.rooms)])
        high = np.array([max(r.x1 for r in plan.rooms), max(r.y1 for r in plan.rooms)])
        self.origin = low - CELL_M
        shape = np.ceil((high - low) / CELL_M).astype(int) + 2
        grid = np.stack(np.meshgrid(*(np.arange(n) + 0.5 for n in shape), indexing="ij"), axis=-1)
        self._centers = self.origin + grid * CELL_M
        self.blocked = np.ones(tuple(shape), bool)
        for r in plan.rooms:
            middle, half = ((r.x0 + r.x1) / 2, (r.y0 + r.y1) / 2), ((r.x1 - r.x0) / 2, (r.y1 - r.y0) / 2)
            self.blocked &= ~self._cells(Footprint(*middle, *half, 0.0))
        for d in plan.doorways:
            half = (d.width_m / 2, 0.25) if abs(d.direction[0]) < 0.5 else (0.25, d.width_m / 2)
            self.blocked &= ~self._cells(Footprint(*d.center, *half, 0.0))
            for sign in (-0.5, 0.5):
                self.goals.append((d.center[0] + sign * d.direction[0], d.center[1] + sign * d.direction[1]))

    def _cells(self, box: Footprint) -> Bool:
        local = (self._centers - (box.x, box.y)) @ box.axes.T
        inside: Bool = (np.abs(local[..., 0]) <= box.half_x) & (np.abs(local[..., 1]) <= box.half_y)
        return inside

    def fits(self, box: Footprint, room: Room, clear: Footprint | None = None) -> bool:
        """Whether a box is inside its room and free of other things, and its ``clear`` space is too."""
        if not _inside(box, room, 1e-3):
            return False
        if any(overlap(box, other) for other in self.solids) or any(overlap(box, other) for other in self.clears):
            return False
        return clear is None or (_inside(clear, room, 0.02) and not any(overlap(clear, other) for other in self.solids))

    def walkable(self, extra: tuple[Footprint, ...] = (), radius_m: float = WALK_RADIUS_M) -> Bool:
        """bool[X, Y]: cells where a person's middle can be."""
        blocked = self.blocked.copy()
        for box in extra:
            if box.low < 1.8:
                blocked |= self._cells(box)
        free: Bool = distance_transform_edt(~blocked) * CELL_M > radius_m
        return free

    def reachable(self, extra: tuple[Footprint, ...] = (), goals: tuple[tuple[float, float], ...] = ()) -> bool:
        """Whether all goals so far and the new ones can be walked to from each other with ``extra`` in the way."""
        regions, _ = label(self.walkable(extra))
        seen: set[int] | None = None
        for goal in (*self.goals, *goals):
            i, j = ((np.array(goal) - self.origin) / CELL_M).astype(int)
            near = regions[max(i - 2, 0) : i + 3, max(j - 2, 0) : j + 3]
            here = set(near[near > 0].tolist())
            seen = here if seen is None else seen & here
            if not seen:
                return False
        return True

    def take(self, box: Footprint, clear: Footprint | None = None, goals: tuple[tuple[float, float], ...] = ()) -> None:
        """Enters a thing that was found to fit."""
        self.solids.append(box)
        if box.low < 1.8:
            self.blocked |= self._cells(box)
        if clear is not None:
            self.clears.append(clear)
        self.goals += goals

    def free_places(self, rng: np.random.Generator, count: int, apart_m: float = 0.9) -> list[tuple[float, float]]:
        """Random places to stand, away from things and from each other; fewer where there is no room."""
        free = np.argwhere(self.walkable(radius_m=0.35))
        found: list[tuple[float, float]] = []
        for k in rng.permutation(len(free)):
            if len(found) == count:
                break
            x, y = (self.origin + (free[k] + 0.5) * CELL_M).tolist()
            in_door = any((x - a) ** 2 + (y - b) ** 2 < 0.6**2 for a, b in self.doors)
            if not in_door and all((x - a) ** 2 + (y - b) ** 2 > apart_m**2 for a, b in found):
                found.append((x, y))
        return found


def _inside(box: Footprint, room: Room, slack_m: float) -> bool:
    c = box.corners
    low, high = (room.x0 - slack_m, room.y0 - slack_m), (room.x1 + slack_m, room.y1 + slack_m)
    return bool((c >= low).all() and (c <= high).all())
