"""How people get about: turning, walking, running, following. Activities are generators, one yield per step."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack

import numpy as np

from psg4d_ros.data.simulation.acting import Activity, Impossible, angle_between, wait
from psg4d_ros.data.simulation.clips import stride_m, walking
from psg4d_ros.data.simulation.doors import closed_door_on, closed_doors, open_door, turn_about
from psg4d_ros.data.simulation.frames import facing, yaw_towards
from psg4d_ros.data.simulation.navigation import BODY_RADIUS_M, CELL_M
from psg4d_ros.data.simulation.poses import standing
from psg4d_ros.data.simulation.stage import Actor, Stage
from psg4d_ros.data.simulation.world import STEP_S
from psg4d_ros.structures import Float64

RUN_M_S = 2.6
PERSONAL_M = 0.44  # nearer than this nobody walks towards another
_ACCELERATION_M_S2 = 3.0
_LEAVING_M = 1.5  # for how long one who walks away is still leaving
_STILL_THERE_M = 2.0  # what is farther away than this has been left, or has left, before


def turn_to(stage: Stage, actor: Actor, target: int) -> Activity:
    """Turn on the spot until the front points to something."""
    way = stage.middle(target)[:2] - actor.place
    if actor.posture != "standing" or np.linalg.norm(way) < 0.1:
        return
    with stage.fact(actor.entity_id, "turning to", target):
        yield from turn_about(actor, yaw_towards(way))


def go(
    stage: Stage,
    actor: Actor,
    goal: Float64,
    *,
    target: int | None = None,
    run: bool = False,
    speed_m_s: float = 1.15,
    past: int | None = None,
    through_doors: bool = True,
) -> Activity:
    """Walk to x, y, around everything and everybody, through doors that are opened on the way.

    target: what one walks to; past: what one walks past. What the person last dealt with is what it walks away from.
    Raises Impossible when there is no way.
    """
    goal = np.asarray(goal, dtype=np.float64)[:2]
    if actor.posture != "standing":
        raise Impossible("does not stand")
    if float(np.linalg.norm(goal - actor.place)) < CELL_M:
        return
    speed = (RUN_M_S if run else speed_m_s) * (0.75 + 0.25 * min(actor.body.height_m / 1.7, 1.1))
    left = actor.near if actor.near not in (target, past) else None
    actor.gaze = None
    for attempt in range(6):
        path = stage.floor.path(
            actor.place, goal, stage.clearance(actor, closed_doors(stage) if through_doors else frozenset())
        )
        if path is None:
            if attempt < 3 and attempt:
                yield from wait(0.5)  # somebody stands in the way
                continue
            raise Impossible(f"no way to {goal}")
        door = closed_door_on(stage, path) if through_doors else None
        if door is not None:
            yield from open_door(stage, actor, door, path, go)
            continue
        meanwhile = [("carrying", thing) for thing in sorted(set(actor.holding.values()))]
        if target is not None:
            meanwhile.append(("running to" if run else "walking to", target))
        leaving = left if left is not None and _leads_away(stage, actor, path, left) else None
        if (yield from _along(stage, actor, path, speed, meanwhile, leaving, past)):
            actor.near = target
            return
    raise Impossible(f"somebody blocks the way to {goal}")


def _along(
    stage: Stage,
    actor: Actor,
    path: Float64,
    top_speed: float,
    meanwhile: list[tuple[str, int]],
    leaving: int | None,
    past: int | None,
) -> Generator[None, None, bool]:
    """Walk along a path; returns whether the end was reached (False: somebody is in the way).

    meanwhile: predicates and objects of the walking alone, not of turning on the spot before it.
    """
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    ahead = np.minimum(np.arange(len(path)) + 3, len(path) - 1)
    behind = np.maximum(np.arange(len(path)) - 3, 0)
    yaws = np.unwrap([yaw_towards(d) for d in path[ahead] - path[behind]])
    if abs(angle_between(actor.yaw, float(yaws[0]))) > 0.9 and length[-1] > 0.25:
        yield from turn_about(actor, float(yaws[0]))
    upright = standing(actor.body)
    done, speed, blocked = 0.0, 0.0, 0
    patience = 8 + 6 * (actor.entity_id % 3)
    me = actor.entity_id
    with stage.fact(me, "walking"), ExitStack() as walk, ExitStack() as facts:
        for name, thing in meanwhile:
            walk.enter_context(stage.fact(me, name, thing))
        if leaving is not None:
            facts.enter_context(stage.fact(me, "walking away from", leaving))
        while done < length[-1] - 1e-6:
            left = length[-1] - done
            heading = float(np.interp(done, length, yaws))
            in_way = _somebody_ahead(stage, actor, min(left, 0.3) * facing(heading))
            braking = np.sqrt(2 * _ACCELERATION_M_S2 * left)
            wanted = 0.0 if in_way else min(top_speed, braking)
            speed += float(np.clip(wanted - speed, -3 * _ACCELERATION_M_S2 * STEP_S, _ACCELERATION_M_S2 * STEP_S))
            speed = max(speed, 0.0 if in_way else 0.15)
            blocked = blocked + 1 if in_way else 0
            if blocked > patience:
                actor.base = upright
                return False
            done = min(done + speed * STEP_S, float(length[-1]))
            actor.place = np.array([np.interp(done, length, path[:, k]) for k in (0, 1)])
            turning = angle_between(actor.yaw, float(np.interp(done, length, yaws)))
            actor.yaw += float(np.clip(turning, -5.0 * STEP_S, 5.0 * STEP_S))
            actor.phase += speed * STEP_S / stride_m(actor.body, max(speed, 0.1))
            actor.base = walking(actor.body, actor.phase, speed)
            if leaving is not None and done > _LEAVING_M:
                facts.close()
                leaving = None
            if past is not None:
                _note_passing(stage, me, past, actor.place)
            yield
        if past is not None:
            stage.end(me, "walking past", past)
    actor.base = upright
    return True


def _leads_away(stage: Stage, actor: Actor, path: Float64, thing: int) -> bool:
    """Whether the beginning of a path leads away from something that is still where one dealt with it: not thrown or
    walked off, and not in one's own hands."""
    if thing in actor.holding.values():
        return False
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    end = path[min(int(np.searchsorted(length, _LEAVING_M)), len(path) - 1)]
    middle = stage.middle(thing)[:2]
    before, after = np.linalg.norm(actor.place - middle), np.linalg.norm(end - middle)
    return bool(before < _STILL_THERE_M and after > before)


def _note_passing(stage: Stage, me: int, past: int, place: Float64) -> None:
    if np.linalg.norm(stage.middle(past)[:2] - place) < 1.6:
        stage.begin(me, "walking past", past)
    else:
        stage.end(me, "walking past", past)


def _somebody_ahead(stage: Stage, actor: Actor, step: Float64) -> bool:
    soon = actor.place + step
    return any(
        float(np.linalg.norm(other.place - soon)) < min(PERSONAL_M, float(np.linalg.norm(other.place - actor.place)))
        for other in stage.actors.values()
        if other is not actor
    )


def beside(stage: Stage, actor: Actor, target: int, distance_m: float = 0.8, *, in_front: bool = False) -> Float64:
    """A free place x, y near a person or thing, from which it can be seen. Raises Impossible when there is none.

    in_front: only places that the target's front looks at.
    """
    clearance = stage.clearance(actor)
    middle = stage.middle(target)[:2]
    entity = stage.entity(target)
    if target in stage.actors:
        front = stage.actors[target].forward
        middle = stage.actors[target].to_world(stage.actors[target].points["pelvis"])[:2]
        reach = distance_m
    else:
        front = facing(float(np.arctan2(stage.pose(target)[1, 0], stage.pose(target)[0, 0])))
        reach = distance_m + 0.35 * min(entity.size[:2])
    towards = yaw_towards(actor.place - middle)
    best, best_cost = None, np.inf
    for radius in (reach, reach + 0.2, reach + 0.45, reach + 0.7):
        for offset in np.linspace(-np.pi, np.pi, 24, endpoint=False):
            direction = facing(towards + offset)
            if in_front and direction @ front < 0.8:
                continue
            place = middle + radius * direction
            if stage.floor.at(clearance, place) < BODY_RADIUS_M or not _same_room(stage, place, middle):
                continue
            cost = abs(offset) + 3.0 * (radius - reach) + 0.3 * float(np.linalg.norm(place - actor.place))
            if cost < best_cost:
                best, best_cost = place, cost
        if best is not None:
            return best
    raise Impossible(f"no place beside {target}")


def _same_room(stage: Stage, a: Float64, b: Float64) -> bool:
    return any(
        r.x0 - 0.1 <= min(a[0], b[0]) and max(a[0], b[0]) <= r.x1 + 0.1
        and r.y0 - 0.1 <= min(a[1], b[1]) and max(a[1], b[1]) <= r.y1 + 0.1
        for r in stage.world.rooms
    )  # fmt: skip


def walk_to(stage: Stage, actor: Actor, target: int, *, run: bool = False, in_front: bool = False) -> Activity:
    """Walk up to a person or thing and turn to it."""
    distance = 0.9 if target in stage.actors else 0.45
    yield from go(stage, actor, beside(stage, actor, target, distance, in_front=in_front), target=target, run=run)
    yield from turn_to(stage, actor, target)


def walk_past(stage: Stage, actor: Actor, target: int, goal: Float64) -> Activity:
    """Walk to a place on the other side of something, by it."""
    yield from go(stage, actor, goal, past=target)


def follow(stage: Stage, actor: Actor, leader: Actor, seconds: float, gap_m: float = 1.0) -> Activity:
    """Go where another goes, behind it, on its trail."""
    trail = [leader.place.copy()]
    upright = standing(actor.body)
    first = stage.floor.path(actor.place, leader.place, stage.clearance(actor, frozenset({leader.entity_id})))
    if first is None or actor.posture != "standing":
        raise Impossible("no way to the one to follow")
    trail = list(first)
    at, speed, idle = 0.0, 0.0, 0
    me = actor.entity_id
    with ExitStack() as facts:
        facts.enter_context(stage.fact(me, "following", leader.entity_id))
        for _ in range(round(seconds / STEP_S)):
            if np.linalg.norm(leader.place - trail[-1]) > 0.03:
                trail.append(leader.place.copy())
            points = np.stack(trail)
            length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
            room = float(length[-1]) - at - gap_m
            others = [o for o in stage.actors.values() if o is not leader]
            clear = not any(o is not actor and np.linalg.norm(o.place - actor.place) < PERSONAL_M for o in others)
            wanted = float(np.clip(room * 1.5, 0.0, 1.6)) if clear else 0.0
            speed += float(np.clip(wanted - speed, -0.5, _ACCELERATION_M_S2 * STEP_S))
            moving = speed > 0.12
            if moving:
                stage.begin(me, "walking")
                at += speed * STEP_S
                actor.place = np.array([np.interp(at, length, points[:, k]) for k in (0, 1)])
                on = np.array([np.interp(at + 0.25, length, points[:, k]) for k in (0, 1)]) - actor.place
                if np.linalg.norm(on) > 0.05:
                    angle = angle_between(actor.yaw, yaw_towards(on))
                    actor.yaw += float(np.clip(angle, -4.0 * STEP_S, 4.0 * STEP_S))
                actor.phase += speed * STEP_S / stride_m(actor.body, speed)
                idle = 0
            else:
                stage.end(me, "walking")
                idle += 1
            actor.base = walking(actor.body, actor.phase, speed) if speed > 0.02 else upright
            if idle > 25:
                break
            yield
    stage.end(me, "walking")
    actor.base = upright
    actor.near = leader.entity_id
