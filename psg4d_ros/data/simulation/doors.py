"""Doors, drawers and flaps that a hand opens and closes: the hand stays on the handle, the body makes room."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from psg4d_ros.data.simulation.acting import Activity, Impossible, angle_between
from psg4d_ros.data.simulation.clips import walking
from psg4d_ros.data.simulation.frames import joint_motion, yaw_towards
from psg4d_ros.data.simulation.navigation import BODY_RADIUS_M, smooth_step
from psg4d_ros.data.simulation.poses import standing
from psg4d_ros.data.simulation.reaching import let_go, reach_out, within_reach
from psg4d_ros.data.simulation.stage import Actor, Stage
from psg4d_ros.data.simulation.world import STEP_S
from psg4d_ros.structures import Float64

Walk = Callable[..., Activity]
PASSABLE = 0.7  # a door that is open this far lets people through
_HELD_UNTIL = 0.75  # of the way; then it swings on by itself
_LEAF_CLEAR_M = 0.27
_KEYS = np.linspace(0.0, 1.0, 6)


def closed_doors(stage: Stage) -> frozenset[int]:
    """Room doors that nobody gets through before they are opened."""
    return frozenset(
        e.entity_id
        for e in stage.world.entities
        if e.label == "door" and e.joints and stage.opened[e.entity_id - 1].max() < PASSABLE
    )


def closed_door_on(stage: Stage, path: Float64) -> int | None:
    """The first closed door that a path float64[W, 2] leads through."""
    found = []
    for door in closed_doors(stage):
        away = np.linalg.norm(path - stage.pose(door)[:2, 3], axis=1)
        if away.min() < 0.4:
            found.append((int(away.argmin()), door))
    return min(found)[1] if found else None


def handle_at(stage: Stage, entity_id: int, joint: int, fraction: float) -> Float64:
    """float64[3]: where the handle is when the joint is open by a fraction, world frame."""
    j = stage.entity(entity_id).joints[joint]
    T = stage.pose(entity_id) @ joint_motion(j, fraction)
    moved: Float64 = T[:3, :3] @ np.array(j.handle) + T[:3, 3]
    return moved


def _leaf(stage: Stage, entity_id: int, joint: int, fraction: float) -> Float64:
    """float64[K, 2]: the moving part's outline from above."""
    j = stage.entity(entity_id).joints[joint]
    T = stage.pose(entity_id) @ joint_motion(j, fraction)
    vertices = stage.entity(entity_id).parts[j.part].vertices.astype(np.float64)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    along = np.linspace(0.0, 1.0, 9)[:, None]
    local = np.concatenate(
        [
            low + (high - low) * np.array([1.0, 0.0, 0.0]) * along,
            high - (high - low) * np.array([1.0, 0.0, 0.0]) * along,
        ]
    )
    return (local @ T[:3, :3].T + T[:3, 3])[:, :2]


def swept(stage: Stage, entity_id: int, joint: int) -> Float64:
    """float64[K, 2]: points that the moving part passes over, world frame."""
    return np.concatenate([_leaf(stage, entity_id, joint, f) for f in np.linspace(0.15, 1.0, 9)])


def standing_places(
    stage: Stage, actor: Actor, entity_id: int, joint: int, start: float, end: float, side: Float64 | None
) -> Float64:
    """float64[6, 2]: where to stand while the joint goes from ``start`` to ``end``, at six moments on the way.

    Either one place from which the handle can be reached all the time, or places that go along with the handle. side:
    the first must lie on this side (x, y) of the handle. Raises Impossible when there are none.
    """
    fractions = start + (end - start) * _KEYS
    handles = np.stack([handle_at(stage, entity_id, joint, f) for f in fractions])
    leaves = [_leaf(stage, entity_id, joint, f) for f in fractions]
    held = np.abs(fractions - start) <= _HELD_UNTIL * abs(end - start) + 1e-9
    clearance = stage.clearance(actor, frozenset({entity_id}))
    now = stage.clearance(actor)  # with the leaf where it is
    radii, angles = (0.4, 0.5, 0.6, 0.7), np.linspace(-np.pi, np.pi, 24, endpoint=False)
    heights, _ = stage.heights(frozenset({entity_id}))
    found = []
    for radius in radii:
        for angle in angles:
            first = handles[0, :2] + radius * np.array([np.sin(angle), -np.cos(angle)])
            if side is not None and (first - handles[0, :2]) @ side < 0.3 * radius:
                continue
            if (
                stage.floor.at(now, first) < BODY_RADIUS_M - 0.02
                or stage.floor.at(clearance, first) < BODY_RADIUS_M - 0.02
            ):
                continue
            line = stage.floor.cells(np.linspace(first, handles[0, :2], 8))
            if (heights[tuple(line.T)] > handles[0, 2] + 0.1).any():
                continue
            for turn in (None, 0.0, 1.0, -1.0, 0.5, -0.5):
                places = _places(first, handles, held, turn)
                cost = _cost(stage, places, handles, leaves, held, clearance)
                if cost is not None:
                    found.append((cost + 0.3 * float(np.linalg.norm(first - actor.place)), places))
    for _, places in sorted(found, key=lambda f: f[0])[:12]:
        hands = actor.free_hand()
        if hands is not None and all(
            within_reach(actor, p, yaw_towards(h[:2] - p), (hands,), h)
            for p, h, k in zip(places, handles, held, strict=True)
            if k
        ):
            return places
    raise Impossible(f"nowhere to stand to open {entity_id}")


def _places(first: Float64, handles: Float64, held: np.ndarray, turn: float | None) -> Float64:
    """One place (turn None), or places at the same distance from the handle, turned about it on the way."""
    if turn is None:
        return np.repeat(first[None], len(handles), axis=0)
    offset = first - handles[0, :2]
    out = []
    last = handles[held][-1]
    for k, handle in enumerate(handles):
        share = min(k / max(int(held.sum()) - 1, 1), 1.0)
        angle = turn * share * np.pi / 2
        c, s = np.cos(angle), np.sin(angle)
        at = handle if held[k] else last
        out.append(at[:2] + np.array([c * offset[0] - s * offset[1], s * offset[0] + c * offset[1]]))
    return np.stack(out)


def _cost(
    stage: Stage, places: Float64, handles: Float64, leaves: list[Float64], held: np.ndarray, clearance: Float64
) -> float | None:
    free = min(stage.floor.at(clearance, p) for p in places)
    if free < BODY_RADIUS_M - 0.03:
        return None
    apart = min(float(np.linalg.norm(leaf - p, axis=1).min()) for p, leaf in zip(places, leaves, strict=True))
    if apart < _LEAF_CLEAR_M:
        return None
    away = np.linalg.norm(places - handles[:, :2], axis=1)[held]
    if away.max() > 0.8:
        return None
    moved = float(np.linalg.norm(np.diff(places, axis=0), axis=1).sum())
    return moved * 0.5 - min(free, 0.5) - 0.5 * min(apart, 0.5)


def move_joint(
    stage: Stage, actor: Actor, entity_id: int, joint: int, end: float, places: Float64, seconds: float
) -> Activity:
    """Take the handle and open or close; the person already stands at the first of ``places``."""
    free = actor.free_hand()
    if free is None:
        raise Impossible("no hand is free")
    start = float(stage.opened[entity_id - 1][joint])
    name = "opening" if end > start else "closing"
    current = start
    yield from reach_out(
        stage, actor, (free,), lambda: actor.to_entity(handle_at(stage, entity_id, joint, current)), 0.6
    )
    hands = (free,)
    upright = standing(actor.body)
    walked = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(places, axis=0), axis=1))])
    steps = max(round(seconds / STEP_S), 2)
    with stage.fact(actor.entity_id, name, entity_id):
        for k in range(1, steps + 1):
            w = smooth_step(k / steps)
            if _somebody_near(stage, actor, _leaf(stage, entity_id, joint, start + (end - start) * w)):
                break
            current = start + (end - start) * w
            stage.open(entity_id, joint, current)
            place = np.array([np.interp(w, _KEYS, places[:, i]) for i in (0, 1)])
            step = float(np.linalg.norm(place - actor.place))
            actor.place = place
            if w <= _HELD_UNTIL:
                handle = handle_at(stage, entity_id, joint, current)
                angle = angle_between(actor.yaw, yaw_towards(handle[:2] - place))
                actor.yaw += float(np.clip(angle, -3.0 * STEP_S, 3.0 * STEP_S))
            if walked[-1] > 0.05:
                actor.phase += 0.9 * step
                actor.base = walking(actor.body, actor.phase, step / STEP_S)
            wish = actor.reaching.get(free)
            if wish is not None and w > _HELD_UNTIL:
                point = actor.to_world(actor.points[f"{free}_hand"])
                wish.target = lambda point=point: actor.to_entity(point)  # type: ignore[misc]
                wish.weight = max(wish.weight - 0.15, 0.0)
            yield
    actor.base = upright
    yield from let_go(stage, actor, hands, 0.4)


def _somebody_near(stage: Stage, actor: Actor, leaf: Float64) -> bool:
    return any(
        float(np.linalg.norm(leaf - other.place, axis=1).min()) < 0.3
        for other in stage.actors.values()
        if other is not actor
    )


def open_door(stage: Stage, actor: Actor, door: int, path: Float64, go: Walk) -> Activity:
    """Open a room door that a path leads through, from the side that the person comes from."""
    entity = stage.entity(door)
    free = actor.free_hand()
    if free is None:
        raise Impossible("no hand is free for the door")
    T = stage.pose(door)
    normal = T[:2, 1]
    side = normal if (actor.place - T[:2, 3]) @ normal > 0 else -normal
    start = float(stage.opened[door - 1][0])
    places = None
    for end in (1.0, 0.85):
        try:
            places = standing_places(stage, actor, door, 0, start, end, side)
            break
        except Impossible:
            continue
    if places is None or not entity.joints:
        raise Impossible("nowhere to stand to open the door")
    yield from go(stage, actor, places[0], through_doors=False)
    handle = handle_at(stage, door, 0, start)
    actor.gaze = handle
    yield from turn_about(actor, yaw_towards(handle[:2] - actor.place))
    yield from move_joint(stage, actor, door, 0, end, places, 1.8)
    actor.gaze = None
    if stage.opened[door - 1][0] < PASSABLE:
        raise Impossible("the door does not open: somebody stands behind it")


def turn_about(actor: Actor, yaw: float) -> Activity:
    """Turn on the spot."""
    start, angle = actor.yaw, angle_between(actor.yaw, yaw)
    if abs(angle) < 0.02:
        return
    upright = standing(actor.body)
    steps = max(round(abs(angle) / 3.0 / STEP_S), 2)
    for k in range(1, steps + 1):
        actor.yaw = start + angle * smooth_step(k / steps)
        actor.base = walking(actor.body, actor.phase + k / steps * max(round(abs(angle) / 1.2), 1), 0.25)
        yield
    actor.base = upright
