"""Where the sensor stands or goes: to where it sees what people do, and never into furniture, walls or people.

Three kinds of path: fixed (a tripod, or a mount high up in a corner), robot (a straight drive over free floor at low
height) and hand-held (a person who stands, sways and keeps the action in view). Candidates are rated by what a coarse
image from them shows.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.spatial.transform import Rotation

from psg4d_ros.data.simulation.render import Renderer
from psg4d_ros.data.simulation.sensors import DepthCamera, Sensor
from psg4d_ros.data.simulation.world import STEP_S, Timeline
from psg4d_ros.structures import Float32, Float64, Int64

PathKind = Literal["fixed", "robot", "handheld"]

_WALL_M = 0.35  # distance kept from walls
_CLEAR_M = 0.25  # nothing nearer than this in any direction
_TOGETHER_M = 2.5  # people this near to each other are kept in view together
_PERSON_M = 0.6  # horizontal distance kept from people
_CANDIDATES = 28
_TURNS_DEG = (0.0, -10.0, 10.0, -20.0, 20.0)  # people need not be in the middle of the picture
_DRIVES = 5  # of a robot
_WELL_SEEN = 0.025  # a person who takes this share of the picture is seen well enough
_FILLS = 0.2  # one thing or person that takes more of the picture than this hides the others
_NEAR_M = 0.8  # what is nearer than this hides the rest
_WORTH = 0.04  # of one object more in the picture, in people
_COARSE = 21, 28  # rows and columns of the picture by which a camera's view is rated
_EDGE = np.pad(np.zeros((_COARSE[0] - 2, _COARSE[1] - 2), bool), 1, constant_values=True).ravel()
_LOOKS = 5  # times at which a candidate is rated
_GAZE_S = 1.5  # the action is followed this smoothly
# Lowest and highest place, metres, by whether it is a camera. Rings of a LiDAR that hangs high miss the floor.
_HEIGHTS: dict[bool, dict[PathKind, tuple[float, float]]] = {
    True: {"fixed": (1.2, 2.2), "robot": (0.5, 1.3), "handheld": (1.35, 1.75)},
    False: {"fixed": (0.8, 1.5), "robot": (0.4, 1.0)},
}
_MAX_SPEED = 0.5  # of a robot, m/s
_CEILING_M = 2.35  # no sensor higher than this


@dataclass(frozen=True, eq=False)
class _Action:
    """What there is to see. target: float64[F, 3] where the action is: a person chosen to be followed, and who is near.
    people: float64[F, N, 3] middles of the people's bodies. blocks: float64[M, 2, 3] boxes of things, at all looks."""

    target: Float64
    people: Float64
    blocks: Float64


@dataclass(frozen=True, eq=False)
class _View:
    """positions: float64[F, 3]. turn: radians by which the camera looks to the left of the action."""

    positions: Float64
    turn: float


def choose_path(
    renderer: Renderer, timeline: Timeline, steps: Int64, sensor: Sensor, rng: np.random.Generator
) -> Float64:
    """float64[F, 7]: pose of the sensor's mount (x forward, y left, z up) in the world at each of ``steps``.

    x, y, z in metres, then a unit quaternion x, y, z, w. Deterministic by ``rng``.
    """
    camera = isinstance(sensor, DepthCamera)
    kind: PathKind = rng.choice(["fixed", "robot", "handheld"] if camera else ["fixed", "robot"])
    action = _watch(timeline, steps, rng)
    corners = camera and kind == "fixed"
    places = _candidates(renderer, timeline, action, _HEIGHTS[camera][kind], corners, int(steps[0]), rng)

    follows = kind != "fixed"

    def best(views: list[_View]) -> _View:
        return views[int(_ratings(renderer, timeline, steps, action, views, camera, follows).argmax())]

    view = best([_View(np.repeat(place[None], len(steps), axis=0), 0.0) for place in places])
    if camera:
        view = best([_View(view.positions, float(turn)) for turn in np.radians(_TURNS_DEG)])
    start = view.positions[0]
    if kind == "handheld" and start[2] > _HEIGHTS[camera][kind][1]:
        kind = "fixed"  # there was no room to stand: high in a corner
    seconds: Float64 = np.asarray(steps * STEP_S, dtype=np.float64)
    if kind == "robot":
        drives = [_drive(renderer, start, action, seconds, rng) for _ in range(_DRIVES)]
        positions = best([_View(drive, view.turn) for drive in drives]).positions
    elif kind == "handheld":
        positions = start + _sway(seconds, (0.05, 0.05, 0.03), rng)
    else:
        positions = view.positions
    if not camera:
        yaw = _sway(seconds, (0.15, 0.0, 0.0), rng)[:, 0] if kind == "robot" else np.zeros(len(steps))
        rotation = Rotation.from_rotvec(np.outer(yaw + rng.uniform(-np.pi, np.pi), (0.0, 0.0, 1.0)))
    else:
        # A mount looks at the middle of all that will happen; who drives or holds a camera follows it.
        target = action.target if follows else np.repeat(action.target.mean(axis=0)[None], len(steps), axis=0)
        shake = np.radians(_sway(seconds, (1.5, 1.2, 2.0), rng)) if kind == "handheld" else np.zeros((len(steps), 3))
        rotation = _looking(target - positions, view.turn) * Rotation.from_euler("xyz", shake)
    return np.concatenate([positions, _unit(rotation.as_quat())], axis=1)


def _unit(quaternions: Float64) -> Float64:
    """Quaternions whose length is 1 to the last bit that it can be: a reader may divide by it again and again."""
    for _ in range(4):
        quaternions = np.stack([q / np.linalg.norm(q) for q in quaternions])
    return quaternions


def _watch(timeline: Timeline, steps: Int64, rng: np.random.Generator) -> _Action:
    world = timeline.world
    looks = steps[_looks(steps)].tolist()
    blocks = [timeline.box(e.entity_id, t) for e in world.entities if e.is_thing and e.body is None for t in looks]
    people = np.zeros((len(steps), len(world.people), 3))
    for number, person in enumerate(world.people):
        for frame, step in enumerate(steps):
            row = timeline.index(person.entity_id, int(step))
            parts = timeline.T_world_part[person.entity_id - 1][row]
            middles = [T[:3, :3] @ p.vertices.mean(axis=0) + T[:3, 3] for p, T in zip(person.parts, parts, strict=True)]
            people[frame, number] = np.mean(middles, axis=0)
    if world.people:
        lead = people[:, [rng.integers(people.shape[1])]]
        near = np.linalg.norm(people - lead, axis=-1) < _TOGETHER_M
        target = (people * near[..., None]).sum(axis=1) / near.sum(axis=1)[:, None]
    else:
        room = world.rooms[0]
        target = np.tile([(room.x0 + room.x1) / 2, (room.y0 + room.y1) / 2, 0.7], (len(steps), 1))
    rate = 1.0 / (STEP_S * max(int(steps[1] - steps[0]) if len(steps) > 1 else 1, 1))
    width = max(round(_GAZE_S * rate), 1)
    padded = np.pad(target, ((width // 2, width - 1 - width // 2), (0, 0)), mode="edge")
    smooth = np.stack([np.convolve(padded[:, axis], np.ones(width) / width, mode="valid") for axis in range(3)], axis=1)
    return _Action(smooth, people, np.array(blocks, dtype=np.float64).reshape(-1, 2, 3))


def _looks(steps: Int64) -> Int64:
    """The frames at which candidates are rated."""
    return np.unique(np.linspace(0, len(steps) - 1, _LOOKS).round().astype(np.int64))


def _ratings(
    renderer: Renderer,
    timeline: Timeline,
    steps: Int64,
    action: _Action,
    views: list[_View],
    camera: bool,
    follows: bool,
) -> Float64:
    """float64[len(views)]: what a coarse picture from each view shows of people and of other objects.

    follows: the camera follows the action, and does not look at the middle of all of it.
    """
    entities = timeline.world.entities
    people = [p.entity_id for p in timeline.world.people]
    things = [e.entity_id for e in entities if e.is_thing]
    pixels = np.zeros((len(views), len(entities) + 1))
    ratings = np.zeros(len(views))
    looks = _looks(steps)
    for look in looks:
        target = action.target[look] if follows else action.target.mean(axis=0)
        for number, view in enumerate(views):
            place = view.positions[look]
            directions = _coarse_view(target - place, view.turn) if camera else _coarse_ring()
            hits = renderer.cast(place, directions, int(steps[look]))
            seen = np.bincount(hits.entity, minlength=len(entities) + 1)
            pixels[number] += seen
            share = seen / len(directions)
            shown = np.minimum(share[people] / _WELL_SEEN, 1.0)
            if camera:  # whom the edge of the picture cuts is half shown
                shown = shown * np.where(np.isin(people, hits.entity[_EDGE]), 0.5, 1.0)
            near = (hits.distance * np.linalg.norm(directions, axis=1) < _NEAR_M).mean()
            filled = max(share[things].max(initial=0.0) - _FILLS, 0.0)
            ratings[number] += (shown.sum() / max(len(people), 1) - 1.5 * near - 3.0 * filled) / len(looks)
    pixels[:, 0] = 0.0
    rated: Float64 = ratings + _WORTH * (pixels > 2 * len(looks)).sum(axis=1)
    return rated


def _candidates(
    renderer: Renderer,
    timeline: Timeline,
    action: _Action,
    heights: tuple[float, float],
    corners: bool,
    step: int,
    rng: np.random.Generator,
) -> list[Float64]:
    """Free places, most of them in the rooms of the action. corners: also high in the corners, as where there is no
    free floor."""
    rooms = timeline.world.rooms
    x, y = action.target[:, 0], action.target[:, 1]
    shares = np.array([((r.x0 <= x) & (x <= r.x1) & (r.y0 <= y) & (y <= r.y1)).mean() for r in rooms])
    weights, inside = shares + 0.1, shares > 0
    places: list[Float64] = []
    for _ in range(20 * _CANDIDATES):
        room = rooms[rng.choice(len(rooms), p=weights / weights.sum())]
        low, high = (room.x0 + _WALL_M, room.y0 + _WALL_M), (room.x1 - _WALL_M, room.y1 - _WALL_M)
        if high[0] <= low[0] or high[1] <= low[1]:
            continue
        place = np.array([*rng.uniform(low, high), rng.uniform(*heights)])
        if _is_free(renderer, action, place[None], step):
            places.append(place)
        if len(places) == _CANDIDATES:
            break
    if corners or not places:
        for room, wanted in zip(rooms, inside, strict=True):
            if wanted or not inside.any():
                sides = (room.x0 + _WALL_M, room.x1 - _WALL_M), (room.y0 + _WALL_M, room.y1 - _WALL_M)
                places += [np.array([*corner, _CEILING_M - 0.1]) for corner in itertools.product(*sides)]
        free = [p for p in places if _is_clear(renderer, p, step)]
        places = free or places
    return places


def _is_free(renderer: Renderer, action: _Action, positions: Float64, step: int) -> bool:
    """Whether the column from the floor up to each position is free of things, and of people in all frames.

    positions: float64[1, 3] (for all frames) or float64[F, 3].
    """
    lower, upper = action.blocks[:, 0] - _CLEAR_M, action.blocks[:, 1] + _CLEAR_M
    at = positions[:, None]
    over = (at[..., :2] > lower[:, :2]).all(axis=-1) & (at[..., :2] < upper[:, :2]).all(axis=-1)
    if (over & (lower[:, 2] < at[..., 2])).any():
        return False
    apart = np.linalg.norm(action.people[..., :2] - at[..., :2], axis=-1)
    return not (apart < _PERSON_M).any() and all(
        _is_clear(renderer, p, step) for p in positions[:: max(len(positions) // 8, 1)]
    )


def _is_clear(renderer: Renderer, place: Float64, step: int) -> bool:
    """Whether nothing is near in any direction."""
    hits = renderer.cast(place, _SPHERE, step)
    return bool(hits.distance.min() > _CLEAR_M)


def _drive(renderer: Renderer, start: Float64, action: _Action, seconds: Float64, rng: np.random.Generator) -> Float64:
    """float64[F, 3]: from ``start`` to another free place in a straight line, slow at both ends; or nowhere."""
    duration = max(float(seconds[-1]), STEP_S)
    s = seconds / duration
    ease = s * s * (3 - 2 * s)
    for _ in range(24):
        length, heading = rng.uniform(0.6, min(3.0, _MAX_SPEED * duration / 1.5 + 0.6)), rng.uniform(-np.pi, np.pi)
        length = min(length, _MAX_SPEED * duration / 1.5)
        end = start + np.array([np.cos(heading), np.sin(heading), 0.0]) * length
        positions = start + ease[:, None] * (end - start)
        if not _is_free(renderer, action, positions, 0):
            continue
        return positions
    return np.repeat(start[None], len(seconds), axis=0)


def _sway(seconds: Float64, amplitude: tuple[float, float, float], rng: np.random.Generator) -> Float64:
    """float64[F, 3]: smooth movement about 0, a few slow waves per axis."""
    out = np.zeros((len(seconds), 3))
    for axis, size in enumerate(amplitude):
        for frequency in rng.uniform((0.05, 0.15, 0.4), (0.12, 0.35, 0.8)):
            out[:, axis] += (
                size / 3 / max(frequency / 0.3, 0.5) * np.sin(2 * np.pi * (frequency * seconds + rng.uniform()))
            )
    return out


def _looking(towards: Float64, turn: float) -> Rotation:
    """Body axes (x forward, y left, z up) that look along float64[F, 3] or ``turn`` to the left of it, not rolled."""
    yaw = np.arctan2(towards[:, 1], towards[:, 0]) + turn
    pitch = np.arctan2(towards[:, 2], np.linalg.norm(towards[:, :2], axis=1))
    return Rotation.from_euler("ZY", np.stack([yaw, -pitch], axis=1))


def _coarse_view(towards: Float64, turn: float) -> Float32:
    """float32[N, 3]: rays of a small picture, 70 by 55 degrees, in the direction ``towards`` turned by ``turn``."""
    y, z = np.meshgrid(np.linspace(0.7, -0.7, _COARSE[1]), np.linspace(0.52, -0.52, _COARSE[0]))
    rays = np.stack([np.ones(y.size), y.ravel(), z.ravel()], axis=1)
    return np.asarray(_looking(towards[None], turn)[0].apply(rays), dtype=np.float32)


def _coarse_ring() -> Float32:
    """float32[N, 3]: rays all around, from 30 degrees down to 15 up."""
    azimuth, elevation = np.meshgrid(
        np.linspace(-np.pi, np.pi, 90, endpoint=False), np.radians(np.linspace(-30, 15, 9))
    )
    a, e = azimuth.ravel(), elevation.ravel()
    return np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], axis=1).astype(np.float32)


def _sphere(number: int) -> Float32:
    """float32[N, 3]: directions spread evenly (Fibonacci lattice)."""
    z = 1 - 2 * (np.arange(number) + 0.5) / number
    angle = np.pi * (1 + 5**0.5) * np.arange(number)
    r = np.sqrt(1 - z * z)
    return np.stack([r * np.cos(angle), r * np.sin(angle), z], axis=1).astype(np.float32)


_SPHERE = _sphere(120)
