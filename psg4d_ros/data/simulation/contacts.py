"""Where the surfaces of all entities are, and which of them touch, carry, cover or surround each other.

Everything here works on the true triangles, not on boxes; boxes only say which triangles need not be looked at.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError

from psg4d_ros.data.simulation.world import Entity, Timeline
from psg4d_ros.structures import Float32, Float64, Int64

Bool = NDArray[np.bool_]

_SAMPLES = 240  # points on an entity's surface that stand for it where a share is asked for
_TRUNK_M = 0.13  # half the width of a trunk, for each metre of a person's height
HANDS = ("left_wrist", "right_wrist")  # the parts of a body that are its hands


class Surfaces:
    """The surfaces of all entities at the frames of a recording. What is asked for twice is computed once.

    steps: int64[F]. poses: int64[F, E] number of each entity's distinct arrangements of parts, so that what was found
    for one holds for all frames with the same. boxes: float64[F, E, 2, 3], world frame. moves: bool[E].
    """

    def __init__(self, timeline: Timeline, steps: Int64) -> None:
        self.timeline, self.world, self.steps = timeline, timeline.world, steps
        entities = self.world.entities
        self.poses = np.zeros((len(steps), len(entities)), dtype=np.int64)
        self.boxes = np.empty((len(steps), len(entities), 2, 3))
        self._first: list[Int64] = []
        self._points: dict[tuple[int, int], Float64] = {}
        self._triangles: dict[tuple[int, int], Float64] = {}
        self._middles: dict[tuple[int, int], Float64] = {}
        self._outlines: dict[tuple[int, int], Float64] = {}
        self._samples = {e.entity_id: _sample(e) for e in entities}
        for i in range(len(entities)):
            first = np.zeros(1, dtype=np.int64)
            if len(timeline.T_world_part[i]) > 1:
                rows = np.round(timeline.T_world_part[i][steps][:, :, :3], 4).reshape(len(steps), -1)
                _, first, self.poses[:, i] = np.unique(rows, axis=0, return_index=True, return_inverse=True)
            self._first.append(first)
            boxes = np.stack([timeline.box(i + 1, int(steps[f])) for f in first])
            self.boxes[:, i] = boxes[self.poses[:, i]]
        self.moves = np.array([len(first) > 1 for first in self._first])
        low, high = self.boxes[:, :, 0], self.boxes[:, :, 1]
        apart = np.maximum(low[:, :, None] - high[:, None], low[:, None] - high[:, :, None])
        self._gaps = np.linalg.norm(np.maximum(apart, 0.0), axis=-1)

    def _step(self, entity_id: int, frame: int) -> int:
        return int(self.steps[self._first[entity_id - 1][self.poses[frame, entity_id - 1]]])

    def _key(self, entity_id: int, frame: int) -> tuple[int, int]:
        return entity_id, int(self.poses[frame, entity_id - 1])

    def transforms(self, entity_id: int, frame: int) -> Float64:
        """float64[P, 4, 4]: T_world_part."""
        poses = self.timeline.T_world_part[entity_id - 1]
        return poses[self.timeline.index(entity_id, self._step(entity_id, frame))]  # type: ignore[no-any-return]

    def frame_of(self, entity_id: int, frame: int) -> Float64:
        """float64[4, 4]: T_world_entity."""
        poses = self.timeline.T_world_entity[entity_id - 1]
        return poses[self.timeline.index(entity_id, int(self.steps[frame]))]  # type: ignore[no-any-return]

    def triangles(self, entity_id: int, frame: int) -> Float64:
        """float64[M, 3, 3], world frame."""
        key = self._key(entity_id, frame)
        if key not in self._triangles:
            parts = zip(self.world.entity(entity_id).parts, self.transforms(entity_id, frame), strict=True)
            self._triangles[key] = np.concatenate([_moved(p.vertices, T)[p.faces] for p, T in parts])
        return self._triangles[key]

    def points(self, entity_id: int, frame: int) -> Float64:
        """float64[K, 3]: points spread evenly over the surface, world frame."""
        key = self._key(entity_id, frame)
        if key not in self._points:
            owners, rest = self._samples[entity_id]
            T = self.transforms(entity_id, frame)[owners]
            self._points[key] = np.einsum("kij,kj->ki", T[:, :3, :3], rest) + T[:, :3, 3]
        return self._points[key]

    def hand(self, person: int, part: str, frame: int) -> Float64:
        """float64[V, 3]: the vertices of one part of a body, world frame; none where the body has no such part."""
        for p, T in zip(self.world.entity(person).parts, self.transforms(person, frame), strict=True):
            if p.name == part:
                return _moved(p.vertices, T)
        return np.empty((0, 3))

    def outline(self, entity_id: int, frame: int) -> Float64:
        """float64[n, 2]: the convex outline seen from above, anticlockwise.

        Of a person upright, the trunk's; of what can be opened, as if it were closed: a door that swings open does not
        bring a cupboard nearer to anything.
        """
        key = self._key(entity_id, frame)
        if key not in self._outlines:
            body = self.world.entity(entity_id).body
            if body is None:
                self._outlines[key] = _hull(self._closed(entity_id, frame)[:, :2])
            else:
                low, high = self.boxes[frame, entity_id - 1]
                if max(high[:2] - low[:2]) > 0.75 * body.height_m:  # lies
                    self._outlines[key] = _hull(self.triangles(entity_id, frame).reshape(-1, 3)[:, :2])
                else:
                    angle = np.arange(8) * (np.pi / 4)
                    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
                    middle = self.middle(entity_id, frame)[:2]
                    self._outlines[key] = middle + _TRUNK_M * body.height_m * circle
        return self._outlines[key]

    def middle(self, entity_id: int, frame: int) -> Float64:
        """float64[3]: the middle of the (closed) box; of a person, that of the pelvis, which is the first part."""
        key = self._key(entity_id, frame)
        if key not in self._middles:
            entity = self.world.entity(entity_id)
            if entity.body is None:
                points = self._closed(entity_id, frame)
                self._middles[key] = (points.min(axis=0) + points.max(axis=0)) / 2
            else:
                pelvis = entity.parts[0].vertices.mean(axis=0, keepdims=True)
                self._middles[key] = _moved(pelvis, self.transforms(entity_id, frame)[0])[0]
        return self._middles[key]

    def _closed(self, entity_id: int, frame: int) -> Float64:
        """float64[V, 3]: all vertices, world frame, with every door and drawer shut."""
        rest = np.concatenate([p.vertices for p in self.world.entity(entity_id).parts])
        return _moved(rest, self.frame_of(entity_id, frame))

    def boxes_gap(self, a: int, b: int, frame: int) -> float:
        """Metres between two boxes, 0 where they overlap: what is farther apart does not touch."""
        return float(self._gaps[frame, a - 1, b - 1])

    def touch(self, a: int, b: int, frame: int, limit_m: float) -> bool:
        """Whether the surfaces of two entities are within ``limit_m``.

        From the corners and surface points of each to the triangles of the other, so that both a cup on a table and a
        table over a cup are exact.
        """
        if self.boxes_gap(a, b, frame) > limit_m:
            return False
        for x, y in ((a, b), (b, a)):
            parts = zip(self.world.entity(x).parts, self.transforms(x, frame), strict=True)
            points = np.concatenate([self.points(x, frame), *(_moved(p.vertices, T) for p, T in parts)])
            if gap_to(points, self.triangles(y, frame), limit_m) < np.inf:
                return True
        return False

    def share_below(self, a: int, b: int, carrier: int, frame: int) -> float:
        """Share of a's surface points that have a triangle of b straight above, and none of their carrier's between.

        Of those points that are lower than the top of b: the back of a chair may stand out from under the table.
        """
        points = self.points(a, frame)
        points = points[points[:, 2] < self.boxes[frame, b - 1, 1, 2]]
        if len(points) == 0:
            return 0.0
        nearest = []
        for i in (b, carrier):
            over = heights(points[:, :2], self.triangles(i, frame)) - points[:, 2:3]
            nearest.append(np.where(over > 0.0, over, np.inf).min(axis=1, initial=np.inf))
        return float((np.isfinite(nearest[0]) & (nearest[0] < nearest[1])).mean())

    def share_surrounded(self, a: int, b: int, frame: int) -> float:
        """Share of all directions around a's middle that meet b."""
        middle = self.points(a, frame).mean(axis=0)
        return float(rays_hit(middle, _SPHERE, self.triangles(b, frame)).mean())


def gap_to(points: Float64, triangles: Float64, limit_m: float) -> float:
    """Smallest distance from points float64[N, 3] to triangles float64[M, 3, 3]; inf where more than ``limit_m``."""
    low, high = points.min(axis=0) - limit_m, points.max(axis=0) + limit_m
    near = ((triangles.min(axis=1) <= high) & (triangles.max(axis=1) >= low)).all(axis=1)
    triangles = triangles[near]
    if len(triangles) == 0:
        return np.inf
    low, high = triangles.min(axis=(0, 1)) - limit_m, triangles.max(axis=(0, 1)) + limit_m
    points = points[((points >= low) & (points <= high)).all(axis=1)]
    best = np.inf
    for start in range(0, len(points), 64):
        best = min(best, float(_distances(points[start : start + 64], triangles).min()))
    return best if best <= limit_m else np.inf


def _distances(points: Float64, triangles: Float64) -> Float64:
    """float64[N, M]: from each point to each triangle, the nearest of its inside and its three edges."""
    a = triangles[None, :, 0]
    p = points[:, None]
    ab, ac = triangles[None, :, 1] - a, triangles[None, :, 2] - a
    normal = np.cross(ab, ac)
    area = np.maximum((normal**2).sum(axis=-1), 1e-18)
    ap = p - a
    height = (ap * normal).sum(axis=-1)
    v = (np.cross(ap, ac) * normal).sum(axis=-1) / area
    w = (np.cross(ab, ap) * normal).sum(axis=-1) / area
    inside = (v >= 0) & (w >= 0) & (v + w <= 1)
    best = np.where(inside, height**2 / area, np.inf)
    for i in range(3):
        start, edge = triangles[None, :, i], triangles[None, :, (i + 1) % 3] - triangles[None, :, i]
        along = ((p - start) * edge).sum(axis=-1) / np.maximum((edge**2).sum(axis=-1), 1e-18)
        foot = start + np.clip(along, 0.0, 1.0)[..., None] * edge
        best = np.minimum(best, ((p - foot) ** 2).sum(axis=-1))
    return np.sqrt(best)


def heights(places: Float64, triangles: Float64) -> Float64:
    """float64[N, M]: at which z the vertical line through places float64[N, 2] meets each triangle, NaN where not."""
    a, b, c = triangles[None, :, 0], triangles[None, :, 1], triangles[None, :, 2]
    p = places[:, None]
    area = (b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (c[..., 0] - a[..., 0])
    with np.errstate(divide="ignore", invalid="ignore"):
        v = (
            (p[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1]) - (p[..., 1] - a[..., 1]) * (c[..., 0] - a[..., 0])
        ) / area
        w = (
            (b[..., 0] - a[..., 0]) * (p[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (p[..., 0] - a[..., 0])
        ) / area
        z = a[..., 2] + v * (b[..., 2] - a[..., 2]) + w * (c[..., 2] - a[..., 2])
        inside = (np.abs(area) > 1e-12) & (v >= 0) & (w >= 0) & (v + w <= 1)
    return np.where(inside, z, np.nan)


def rays_hit(origin: Float64, directions: Float64, triangles: Float64) -> Bool:
    """bool[D]: whether rays from float64[3] along float64[D, 3] meet any triangle (Moeller and Trumbore 1997)."""
    a = triangles[:, 0]
    ab, ac = triangles[:, 1] - a, triangles[:, 2] - a
    p = np.cross(directions[:, None], ac[None])
    det = (ab * p).sum(axis=-1)
    t = origin - a
    q = np.cross(t, ab)
    with np.errstate(divide="ignore", invalid="ignore"):
        u = (t * p).sum(axis=-1) / det
        v = directions @ q.T / det
        far = (ac * q).sum(axis=-1) / det
        hit = (np.abs(det) > 1e-12) & (u >= 0) & (v >= 0) & (u + v <= 1) & (far > 0)
    met: Bool = np.asarray(hit.any(axis=1), dtype=bool)
    return met


def outline_gap(a: Float64, b: Float64) -> tuple[float, Float64, Float64]:
    """Metres between two convex outlines, 0 where they overlap, and the nearest point of each (float64[2])."""
    if not _separated(a, b) and not _separated(b, a):
        middle = (a.mean(axis=0) + b.mean(axis=0)) / 2
        return 0.0, middle, middle
    d1, p1, q1 = _to_edges(a, b)
    d2, p2, q2 = _to_edges(b, a)
    return (d1, p1, q1) if d1 <= d2 else (d2, q2, p2)


def contains(outline: Float64, points: Float64) -> Bool:
    """bool[N]: whether points float64[N, 2] lie in a convex outline."""
    edges = np.roll(outline, -1, axis=0) - outline
    to = points[:, None] - outline[None]
    left = edges[None, :, 0] * to[..., 1] - edges[None, :, 1] * to[..., 0]
    within: Bool = np.asarray((left >= 0).all(axis=1), dtype=bool)
    return within


def distance_to_outline(outline: Float64, points: Float64) -> Float64:
    """float64[N]: from points float64[N, 2] to a convex outline, 0 inside."""
    edges = np.roll(outline, -1, axis=0) - outline
    to = points[:, None] - outline[None]
    along = np.clip((to * edges).sum(axis=-1) / np.maximum((edges**2).sum(axis=-1), 1e-18), 0.0, 1.0)
    away = np.linalg.norm(to - along[..., None] * edges[None], axis=-1).min(axis=1)
    return np.where(contains(outline, points), 0.0, away)


def meets_segment(outline: Float64, start: Float64, end: Float64) -> bool:
    """Whether the straight line between two points float64[2] goes through a convex outline."""
    return entry_along(outline, start, end - start) <= 1.0


def entry_along(outline: Float64, start: Float64, direction: Float64) -> float:
    """How many ``direction``s from ``start`` a ray enters a convex outline; 0 from within, inf where it misses."""
    edges = np.roll(outline, -1, axis=0) - outline
    inward = np.stack([-edges[:, 1], edges[:, 0]], axis=1)
    depth = ((start - outline) * inward).sum(axis=1)  # positive: inside of that edge
    rate = inward @ direction
    if ((depth < 0) & (rate <= 1e-12)).any():
        return np.inf
    enters, leaves = rate > 1e-12, rate < -1e-12
    low = float((-depth[enters] / rate[enters]).max(initial=0.0))
    high = float((-depth[leaves] / rate[leaves]).min(initial=np.inf))
    return low if low <= high else np.inf


def _separated(a: Float64, b: Float64) -> bool:
    """Whether the line through some edge of outline a has all of b on its outside."""
    edges = np.roll(a, -1, axis=0) - a
    to = b[None] - a[:, None]
    return bool((edges[:, None, 0] * to[..., 1] - edges[:, None, 1] * to[..., 0] < 0).all(axis=1).any())


def _to_edges(points: Float64, outline: Float64) -> tuple[float, Float64, Float64]:
    edges = np.roll(outline, -1, axis=0) - outline
    to = points[:, None] - outline[None]
    along = np.clip((to * edges).sum(axis=-1) / np.maximum((edges**2).sum(axis=-1), 1e-18), 0.0, 1.0)
    feet = outline[None] + along[..., None] * edges[None]
    distance = np.linalg.norm(points[:, None] - feet, axis=-1)
    i, j = np.unravel_index(int(distance.argmin()), distance.shape)
    return float(distance[i, j]), points[i], feet[i, j]


def _moved(vertices: Float32 | Float64, T: Float64) -> Float64:
    moved: Float64 = vertices.astype(np.float64) @ T[:3, :3].T + T[:3, 3]
    return moved


def _hull(points: Float64) -> Float64:
    try:
        hull: Float64 = points[ConvexHull(points).vertices]
        return hull
    except QhullError:  # all on one line, as a sheet that stands upright: a sliver around it
        low, high = points.min(axis=0) - 1e-3, points.max(axis=0) + 1e-3
        return np.array([low, [high[0], low[1]], high, [low[0], high[1]]])


def _sample(entity: Entity) -> tuple[Int64, Float64]:
    """Parts int64[K] and rest positions float64[K, 3] of points spread evenly over the surface, the same every time."""
    corners = [p.vertices.astype(np.float64)[p.faces] for p in entity.parts]
    owners = np.repeat(np.arange(len(corners)), [len(c) for c in corners])
    triangles = np.concatenate(corners)
    ab, ac = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    area = np.linalg.norm(np.cross(ab, ac), axis=1)
    total = np.cumsum(area)
    n = np.arange(_SAMPLES)
    chosen = np.searchsorted(total, (n + 0.5) / _SAMPLES * total[-1])
    # An additive recurrence of the plastic number: even in the square, without random numbers.
    u, v = (0.5 + n * 0.7548776662466927) % 1.0, (0.5 + n * 0.5698402909980532) % 1.0
    fold = u + v > 1.0
    u, v = np.where(fold, 1.0 - u, u), np.where(fold, 1.0 - v, v)
    return owners[chosen], triangles[chosen, 0] + u[:, None] * ab[chosen] + v[:, None] * ac[chosen]


def _fibonacci_sphere(count: int) -> Float64:
    k = np.arange(count) + 0.5
    z = 1.0 - 2.0 * k / count
    angle = np.pi * (1.0 + 5.0**0.5) * k
    r = np.sqrt(1.0 - z**2)
    return np.stack([r * np.cos(angle), r * np.sin(angle), z], axis=1)


_SPHERE = _fibonacci_sphere(64)
