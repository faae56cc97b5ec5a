"""Where people can stand and how they get from one place to another.

A FloorMap is a grid over the rooms. Furniture is entered with points sampled on its triangles between ankle and head
height, so that a table blocks with its top and a lamp with its shade. Paths are the shortest on that grid, with a
preference for keeping away from obstacles, then straightened and rounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import distance_transform_edt
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from psg4d_ros.data.simulation.world import Entity, Part, World
from psg4d_ros.structures import Float64, Int32, Int64

CELL_M = 0.05
BODY_RADIUS_M = 0.25  # half the width of a person's shoulders and a little
PERSON_RADIUS_M = 0.22  # what a person takes of others' floor
ANKLE_M, HEAD_M = 0.04, 1.9
_STRIDE = 2  # paths are sought on every second cell
_COMFORT_M = 0.5  # nearer to obstacles than this, a way counts as longer than it is


def surface_points(part: Part, spacing_m: float = CELL_M * 0.9) -> Float64:
    """float64[K, 3]: points on a part's triangles, no farther apart than the spacing; entity frame."""
    corners = part.vertices[part.faces].astype(np.float64)
    edges = np.abs(corners - np.roll(corners, 1, axis=1)).sum(axis=2)  # at least the length
    divisions = np.clip(np.ceil(edges.max(axis=1) / spacing_m), 1, 200).astype(int)
    out = [part.vertices.astype(np.float64)]
    for n in np.unique(divisions[divisions > 1]):  # the corners of small triangles are enough
        u, v = np.meshgrid(np.arange(n + 1), np.arange(n + 1))
        weights = np.stack([u.ravel(), v.ravel(), n - u.ravel() - v.ravel()], axis=1) / n
        weights = weights[weights[:, 2] >= 0.0]
        out.append((weights @ corners[divisions == n]).reshape(-1, 3))
    points = np.concatenate(out)
    grid = np.floor((points - points.min(axis=0)) / (0.5 * spacing_m)).astype(np.int64)
    extent = grid.max(axis=0) + 1
    _, first = np.unique((grid[:, 0] * extent[1] + grid[:, 1]) * extent[2] + grid[:, 2], return_index=True)
    thinned: Float64 = points[first]
    return thinned


def smooth_step(x: float) -> float:
    """0 at 0, 1 at 1, level at both ends."""
    x = min(max(x, 0.0), 1.0)
    return x * x * (3.0 - 2.0 * x)


class FloorMap:
    """The grid over a world's rooms; cell [i, j] is centred at origin + (i + 0.5, j + 0.5) * CELL_M, world frame."""

    def __init__(self, world: World) -> None:
        lower = np.array([min(r.x0 for r in world.rooms), min(r.y0 for r in world.rooms)])
        upper = np.array([max(r.x1 for r in world.rooms), max(r.y1 for r in world.rooms)])
        self.origin = lower - 4 * CELL_M
        nx, ny = np.ceil((upper - lower) / CELL_M).astype(int) + 8
        self.shape = (int(nx), int(ny))
        self.inside = np.zeros(self.shape, dtype=bool)
        for room in world.rooms:
            self.inside[self._box((room.x0, room.y0), (room.x1, room.y1))] = True
        for doorway in world.doorways:
            along = np.abs(np.array(doorway.direction))
            half = along * 0.2 + (1.0 - along) * doorway.width_m / 2
            self.inside[self._box(np.array(doorway.center) - half, np.array(doorway.center) + half)] = True
        self._points: dict[int, list[Float64]] = {}
        self.ceiling_m = max((float(e.size[2]) for e in world.entities if e.label == "wall"), default=2.5)
        # What never moves is entered once.
        self._fixed = ~self.inside
        self._fixed_heights = np.where(self.inside, 0.0, self.ceiling_m)
        self._fixed_owner = np.zeros(self.shape, dtype=np.int32)
        for entity, T in zip(world.entities, world.T_world_entity, strict=True):
            if is_fixed(entity) and self._indoors(T[:2, 3]):
                poses = np.repeat(T[None], len(entity.parts), axis=0)
                self._fixed[tuple(self.footprint(entity, poses).T)] = True
                _raise(self._fixed_heights, self._fixed_owner, entity.entity_id, *self.tops(entity, poses))

    def _indoors(self, place: Float64) -> bool:
        return bool(((place >= self.origin) & (place <= self.origin + np.array(self.shape) * CELL_M)).all())

    def _box(self, lower: ArrayLike, upper: ArrayLike) -> tuple[slice, slice]:
        i0, j0 = np.rint((np.asarray(lower) - self.origin) / CELL_M).astype(int)
        i1, j1 = np.rint((np.asarray(upper) - self.origin) / CELL_M).astype(int)
        return slice(i0, i1), slice(j0, j1)

    def cells(self, points: Float64) -> Int64:
        """int64[K, 2]: the cells that hold points [K, 2 or 3], world frame; outside points go to the border."""
        ij = np.floor((np.asarray(points)[..., :2] - self.origin) / CELL_M).astype(np.int64)
        return np.clip(ij, 0, np.array(self.shape) - 1)

    def centers(self, cells: Int64) -> Float64:
        """float64[K, 2]: the middles of cells, world frame."""
        return self.origin + (np.asarray(cells) + 0.5) * CELL_M

    def surface(self, entity: Entity, T_world_part: Float64) -> Float64:
        """float64[K, 3]: points on an entity whose parts have these poses (float64[P, 4, 4]), world frame."""
        if entity.entity_id not in self._points:
            self._points[entity.entity_id] = [surface_points(p) for p in entity.parts]
        local = self._points[entity.entity_id]
        # Written out: matrix products of this size wait longer for their threads than they take.
        moved = [
            np.stack([T[k, 0] * p[:, 0] + T[k, 1] * p[:, 1] + T[k, 2] * p[:, 2] + T[k, 3] for k in range(3)], axis=1)
            for p, T in zip(local, T_world_part, strict=True)
        ]
        return np.concatenate(moved)

    def footprint(self, entity: Entity, T_world_part: Float64) -> Int64:
        """int64[K, 2]: cells that an entity takes between ankle and head height, with its parts at float64[P, 4, 4]."""
        points = self.surface(entity, T_world_part)
        taken = np.zeros(self.shape, dtype=bool)
        taken[tuple(self.cells(points[(points[:, 2] > ANKLE_M) & (points[:, 2] < HEAD_M)]).T)] = True
        return np.argwhere(taken)

    def tops(self, entity: Entity, T_world_part: Float64) -> tuple[Int64, Float64]:
        """Cells int64[K, 2] below an entity and how high it reaches in each, float64[K] metres."""
        points = self.surface(entity, T_world_part)
        points = points[np.argsort(points[:, 2])]
        top = np.full(self.shape, -np.inf)
        top[tuple(self.cells(points).T)] = points[:, 2]  # of several the last stays, the highest
        cells = np.argwhere(top > -np.inf)
        return cells, top[tuple(cells.T)]

    def heights(self, tops: Mapping[int, tuple[Int64, Float64]]) -> tuple[Float64, Int32]:
        """How high the world reaches in every cell (metres), and whose surface that is (0: the floor or a wall).

        tops: by entity_id, of what can move, see ``tops``.
        """
        heights, owner = self._fixed_heights.copy(), self._fixed_owner.copy()
        for entity_id, (cells, high) in tops.items():
            _raise(heights, owner, entity_id, cells, high)
        return heights, owner

    def clearance(self, footprints: Iterable[Int64], people: Iterable[Float64]) -> Float64:
        """float64[X, Y]: metres from each cell to the nearest obstacle.

        footprints: cells of what can move and stands on the floor. people: x, y of each person to keep away from.
        """
        blocked = self._fixed.copy()
        for cells in footprints:
            blocked[tuple(cells.T)] = True
        distance: Float64 = distance_transform_edt(~blocked) * CELL_M
        for place in people:
            i0, j0 = self.cells(place)
            reach = round(1.2 / CELL_M)
            i, j = slice(max(i0 - reach, 0), i0 + reach + 1), slice(max(j0 - reach, 0), j0 + reach + 1)
            ii, jj = np.mgrid[i, j][:, : self.shape[0], : self.shape[1]]
            ii, jj = np.minimum(ii, self.shape[0] - 1), np.minimum(jj, self.shape[1] - 1)
            away = np.hypot(ii - i0, jj - j0) * CELL_M - PERSON_RADIUS_M
            distance[ii, jj] = np.minimum(distance[ii, jj], np.maximum(away, 0.0))
        return distance

    def at(self, grid: Float64, place: Float64) -> float:
        """The value of a grid at x, y."""
        i, j = self.cells(np.asarray(place))
        return float(grid[i, j])

    def straight(self, start: Float64, goal: Float64, clearance: Float64, radius_m: float = BODY_RADIUS_M) -> bool:
        """Whether one can walk in a straight line."""
        steps = max(int(np.ceil(np.linalg.norm(np.subtract(goal, start)) / (CELL_M * 0.7))), 1)
        line = np.linspace(start, goal, steps + 1)
        return bool((clearance[tuple(self.cells(line).T)] >= radius_m).all())

    def nearest_free(
        self, place: Float64, clearance: Float64, within_m: float, radius_m: float = BODY_RADIUS_M
    ) -> Float64 | None:
        """The nearest cell's middle where one can stand, or None."""
        i0, j0 = self.cells(np.asarray(place))
        reach = int(np.ceil(within_m / CELL_M))
        i, j = max(i0 - reach, 0), max(j0 - reach, 0)
        free = np.argwhere(clearance[i : i0 + reach + 1, j : j0 + reach + 1] >= radius_m)
        if not len(free):
            return None
        places = self.centers(free + np.array([i, j]))
        distance = np.linalg.norm(places - np.asarray(place)[:2], axis=1)
        best = int(distance.argmin())
        return places[best] if distance[best] <= within_m else None

    def path(self, start: Float64, goal: Float64, clearance: Float64, margin_m: float = 0.6) -> Float64 | None:
        """float64[W, 2]: a way from start to goal, points 5 cm apart, or None.

        Where start or goal is too near to furniture (a place in front of a chair), the way begins or ends with a
        straight step of at most ``margin_m`` from or to the nearest free place.
        """
        start, goal = np.asarray(start, dtype=np.float64)[:2], np.asarray(goal, dtype=np.float64)[:2]
        if np.linalg.norm(goal - start) < CELL_M:
            return np.stack([start, goal])
        if self.straight(start, goal, clearance):
            return _resample(np.stack([start, goal]))
        first = self.nearest_free(start, clearance, margin_m)
        last = self.nearest_free(goal, clearance, margin_m)
        if first is None or last is None:
            return None
        between = self._grid_path(first, last, clearance)
        if between is None:
            return None
        return self._round(np.concatenate([start[None], self._straighten(between, clearance), goal[None]]), clearance)

    def _grid_path(self, start: Float64, goal: Float64, clearance: Float64) -> Float64 | None:
        grid = clearance[::_STRIDE, ::_STRIDE]
        free = grid >= BODY_RADIUS_M
        ends = []
        for place in (start, goal):  # the coarse node next to the place, from which one can walk to it
            near = self.cells(place) // _STRIDE
            around = [near + np.array([di, dj]) for di in (-1, 0, 1) for dj in (-1, 0, 1)]
            around = [n for n in around if (n >= 0).all() and (n < free.shape).all() and free[tuple(n)]]
            if not around:
                return None
            ends.append(min(around, key=lambda n: float(np.linalg.norm(self.centers(n * _STRIDE) - place))))
        number = np.arange(grid.size).reshape(grid.shape)
        cost = 1.0 + 2.0 * np.maximum(_COMFORT_M - grid, 0.0) / _COMFORT_M
        rows, cols, weights = [], [], []
        for di, dj in ((1, 0), (0, 1), (1, 1), (1, -1)):
            a = (slice(0, grid.shape[0] - di), slice(max(-dj, 0), grid.shape[1] - max(dj, 0)))
            b = (slice(di, None), slice(max(dj, 0), grid.shape[1] + min(dj, 0)))
            both = free[a] & free[b]
            rows.append(number[a][both])
            cols.append(number[b][both])
            weights.append(np.hypot(di, dj) * (cost[a][both] + cost[b][both]) / 2)
        graph = csr_matrix(
            (np.concatenate(weights), (np.concatenate(rows), np.concatenate(cols))), shape=(grid.size, grid.size)
        )
        first, last = (int(number[tuple(end)]) for end in ends)
        distance, before = dijkstra(graph, directed=False, indices=np.array(last), return_predecessors=True)
        if not np.isfinite(distance[first]):
            return None
        nodes = [first]
        while nodes[-1] != last:
            nodes.append(int(before[nodes[-1]]))
        cells = np.stack(np.unravel_index(nodes, grid.shape), axis=1) * _STRIDE
        return np.concatenate([start[None], self.centers(cells), goal[None]])

    def _straighten(self, path: Float64, clearance: Float64) -> Float64:
        """Leave out corners that one can walk past; with more room than needed where there is room."""
        out, i = [path[0]], 0
        while i < len(path) - 1:
            j = len(path) - 1
            while j > i + 1 and not self.straight(path[i], path[j], clearance, BODY_RADIUS_M + 0.05):
                j -= max((j - i) // 8, 1)
            i = j
            out.append(path[i])
        return np.stack(out)

    def _round(self, corners: Float64, clearance: Float64) -> Float64:
        path = _resample(corners)
        for half in (6, 4, 2):
            padded = np.concatenate([np.repeat(path[:1], half, 0), path, np.repeat(path[-1:], half, 0)])
            kernel = np.ones(2 * half + 1) / (2 * half + 1)
            rounded = np.stack([np.convolve(padded[:, k], kernel, mode="valid") for k in (0, 1)], axis=1)
            before = clearance[tuple(self.cells(path).T)]
            after = clearance[tuple(self.cells(rounded).T)]
            if (after >= np.minimum(before, BODY_RADIUS_M) - 0.02).all():
                return _resample(np.concatenate([path[:1], rounded, path[-1:]]))
        return path


def _raise(heights: Float64, owner: Int32, entity_id: int, cells: Int64, high: Float64) -> None:
    i, j = cells.T
    higher = high > heights[i, j]
    heights[i[higher], j[higher]] = high[higher]
    owner[i[higher], j[higher]] = entity_id


def _resample(path: Float64, spacing_m: float = CELL_M) -> Float64:
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    count = max(int(np.ceil(length[-1] / spacing_m)), 1)
    at = np.linspace(0.0, length[-1], count + 1)
    return np.stack([np.interp(at, length, path[:, k]) for k in (0, 1)], axis=1)


def is_fixed(entity: Entity) -> bool:
    """Whether an entity stands where it is, whatever people do (furniture that neither opens nor shifts)."""
    return not (entity.movable or entity.graspable or entity.joints or entity.body or is_structure(entity))


def is_structure(entity: Entity) -> bool:
    """Floors, walls and ceilings: the rooms themselves say where these are."""
    return entity.label in ("floor", "wall", "ceiling")
