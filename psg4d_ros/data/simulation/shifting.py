"""Things that people move without lifting them: drawers and doors of furniture, chairs and carts that are pushed or
pulled, balls that are thrown, caught, kicked and pushed off tables."""

from __future__ import annotations

import numpy as np

from psg4d_ros.data.simulation.acting import Activity, Impossible, attending, ramp, together, wait
from psg4d_ros.data.simulation.clips import stride_m, walking
from psg4d_ros.data.simulation.doors import handle_at, move_joint, standing_places, turn_about
from psg4d_ros.data.simulation.frames import facing, placed, yaw_of, yaw_towards
from psg4d_ros.data.simulation.free_motion import fly, free_flight, launch_velocity
from psg4d_ros.data.simulation.gestures import STRIKE_PHASE, kicking, strike_place
from psg4d_ros.data.simulation.handling import depth, resting_on
from psg4d_ros.data.simulation.locomotion import go, turn_to
from psg4d_ros.data.simulation.navigation import BODY_RADIUS_M
from psg4d_ros.data.simulation.poses import standing
from psg4d_ros.data.simulation.reaching import (
    REACHED_M,
    at_world,
    before_chest,
    draw,
    gap,
    hand_key,
    let_go,
    reach_out,
    stance,
    within_reach,
)
from psg4d_ros.data.simulation.stage import HANDS, Actor, Stage
from psg4d_ros.data.simulation.world import STEP_S
from psg4d_ros.structures import Float64

_PUSH_M_S = 0.5
_FOLLOWED_THROUGH = 0.7  # of kicking: the foot has left the ball and comes back


def operate(stage: Stage, actor: Actor, entity_id: int, joint: int, end: float) -> Activity:
    """Open or close a door, drawer or flap of a piece of furniture, or a room door."""
    start = float(stage.opened[entity_id - 1][joint])
    if actor.posture != "standing" or abs(end - start) < 0.05:
        raise Impossible("nothing to open or close")
    front = facing(yaw_of(stage.pose(entity_id)))
    side = front if stage.entity(entity_id).label != "door" else None
    places = standing_places(stage, actor, entity_id, joint, start, end, side)
    yield from go(stage, actor, places[0], target=entity_id)
    handle = handle_at(stage, entity_id, joint, start)
    yield from turn_about(actor, yaw_towards(handle[:2] - actor.place))
    with attending(stage, actor, entity_id):
        yield from move_joint(stage, actor, entity_id, joint, end, places, 1.3)
    actor.near = entity_id


def shift(stage: Stage, actor: Actor, thing: int, distance_m: float, *, pull: bool = False) -> Activity:
    """Push something that stands on the floor away from oneself, or pull it along, with both hands."""
    entity = stage.entity(thing)
    if actor.holding or actor.posture != "standing" or not (entity.movable or entity.graspable):
        raise Impossible("cannot shift it")
    if any(a.seat == thing for a in stage.actors.values()):
        raise Impossible("somebody sits on it")
    place, direction, height, reach_m = _push_from(stage, actor, thing, distance_m, pull)
    yield from go(stage, actor, place, target=thing)
    yaw = yaw_towards(-direction if pull else direction)
    yield from turn_about(actor, yaw)
    hold = actor.place + (facing(yaw) * reach_m)
    middle = stage.middle(thing)[:2]
    across = np.array([-direction[1], direction[0]])
    spread = min(0.36, 0.7 * _extent(stage, thing, across, height)[1] * 2)
    grips = np.append(hold, height)
    yield from reach_out(stage, actor, HANDS, at_world(actor, grips), 0.6, None, max(spread, 0.12))
    yield
    if gap(actor, HANDS, grips, max(spread, 0.12)) > 0.05:
        yield from let_go(stage, actor, HANDS)
        raise Impossible("out of reach")
    begin, start = actor.place.copy(), stage.pose(thing).copy()
    wish = actor.reaching["both"]
    with (
        stage.fact(actor.entity_id, "pulling" if pull else "pushing", thing),
        stage.fact(actor.entity_id, "walking"),
        attending(stage, actor, thing),
    ):
        done, speed = 0.0, 0.0
        while done < distance_m - 1e-6:
            speed = min(speed + 1.0 * STEP_S, _PUSH_M_S, np.sqrt(2 * 1.0 * (distance_m - done)) + 0.02)
            if _in_the_way(stage, actor, actor.place + direction * 0.4, middle + direction * done):
                break
            done = min(done + speed * STEP_S, distance_m)
            actor.place = begin + direction * done
            actor.phase += (-1.0 if pull else 1.0) * speed * STEP_S / stride_m(actor.body, max(speed, 0.1))
            actor.base = walking(actor.body, actor.phase, speed)
            wish.target = at_world(actor, grips + np.append(direction * done, 0.0))
            T = start.copy()
            T[:2, 3] += direction * done
            stage.move(thing, T)
            yield
    actor.base = standing(actor.body)
    yield from let_go(stage, actor, HANDS)
    actor.near = thing


def _in_the_way(stage: Stage, actor: Actor, *places: Float64) -> bool:
    return any(
        float(np.linalg.norm(other.place - place)) < 0.6
        for place in places
        for other in stage.actors.values()
        if other is not actor
    )


def _extent(stage: Stage, thing: int, direction: Float64, height: float) -> tuple[float, float]:
    """How far a thing reaches along a direction from its middle, at a height and at all."""
    entity, T = stage.entity(thing), stage.pose(thing)
    points = np.concatenate([p.vertices for p in entity.parts]) @ T[:3, :3].T + T[:3, 3]
    along = (points[:, :2] - stage.middle(thing)[:2]) @ direction
    near = np.abs(points[:, 2] - height) < 0.08
    return float(along[near].max()) if near.any() else float(along.max()), float(along.max())


def _push_from(
    stage: Stage, actor: Actor, thing: int, distance_m: float, pull: bool
) -> tuple[Float64, Float64, float, float]:
    """Where to stand, which way (x, y) it goes, the height of the hands and how far before the body they are."""
    entity, T = stage.entity(thing), stage.pose(thing)
    middle = stage.middle(thing)[:2]
    tall = actor.body.height_m / 1.75
    height = T[2, 3] + min(0.93 * entity.size[2], 1.0 * tall)
    if height < 0.3:
        raise Impossible("too low to push")
    without = stage.clearance(actor, frozenset({thing}))
    clearance = stage.clearance(actor)
    radius = 0.5 * float(min(entity.size[:2]))
    found = []
    sides = [facing(yaw_of(T) + k * np.pi / 2) for k in range(4)]
    for k, away in enumerate(sides):  # from the thing to the person; 0 is its front
        if entity.label == "chair" and k != 2:
            continue  # chairs are taken by the back
        out, widest = _extent(stage, thing, away, height)
        reach_m = (0.34 if pull else 0.38) * tall + max(widest - out, 0.0)
        if reach_m > 0.6:
            continue
        place = middle + away * (out + reach_m)
        direction = away if pull else -away
        if stage.floor.at(clearance, place) < BODY_RADIUS_M - 0.04:
            continue
        ahead = [middle + direction * d for d in np.arange(0.05, distance_m + 0.01, 0.05)]
        path = [place + direction * d for d in np.arange(0.0, distance_m + 0.01, 0.05)] if pull else []
        wide = 0.5 * float(np.hypot(*entity.size[:2])) if entity.size[0] * entity.size[1] < 0.5 else 0.6
        # It may start beside a table, but it must not come nearer to anything.
        needed = min(max(wide, radius) + 0.02, stage.floor.at(without, middle) + 0.01)
        if min(stage.floor.at(without, p) for p in ahead) < needed:
            continue
        if path and min(stage.floor.at(without, p) for p in path) < BODY_RADIUS_M:
            continue
        found.append((float(np.linalg.norm(place - actor.place)), place, direction, height, reach_m))
    if not found:
        raise Impossible(f"no room to shift {thing}")
    return min(found, key=lambda f: f[0])[1:]


def throw(
    stage: Stage, actor: Actor, thing: int, goal: Float64, rng: np.random.Generator, catcher: Actor | None = None
) -> Activity:
    """Throw what one holds to a place (float64[3], world), or to somebody who catches it."""
    hold = stage.holds.get(thing)
    if hold is None or hold.person != actor.entity_id or actor.posture == "lying":
        raise Impossible(f"does not hold {thing}")
    if actor.posture == "standing":
        yield from turn_about(actor, yaw_towards(goal[:2] - actor.place))
    hands = hold.hands
    tall = actor.body.height_m
    chest = actor.body.joint_positions(actor.base)["chest"]
    side = 0.0 if len(hands) == 2 else (-0.1 if hands[0] == "right" else 0.1) * tall
    low = chest + np.array([side, -0.1 * tall, -0.1 * tall])
    out = chest + np.array([side, -0.27 * tall, 0.1 * tall])
    start = actor.to_world(out)
    away = float(np.linalg.norm(goal - start))
    seconds = round(float(np.clip(away / 4.5, 0.5, 1.1)) / STEP_S) * STEP_S
    heights, _ = stage.heights(frozenset({thing}))
    velocity = launch_velocity(start, goal, seconds)
    track = free_flight(start, velocity, np.linspace(0.1, 0.9, 12) * seconds)
    if any(stage.floor.at(heights, p) > p[2] - 0.15 for p in track):
        raise Impossible("something stands in the way of the throw")
    actor.gaze = goal
    with stage.fact(actor.entity_id, "throwing", thing):
        yield from draw(stage, actor, hands, lambda: low, 0.45)
        for w in np.linspace(0.25, 1.0, 4):
            actor.reaching[hand_key(hands)].target = lambda w=w: (1 - w) * low + w * out  # type: ignore[misc]
            yield
        stage.release(thing)
        start = stage.pose(thing)[:3, 3] + stage.pose(thing)[:3, 2] * 0.5 * stage.entity(thing).size[2]
        stage.flights.append(fly(stage, thing, launch_velocity(start, goal, seconds), rng))
        yield
    actor.near = thing
    if catcher is None:
        yield from let_go(stage, actor, hands)
        yield from wait(seconds)
    else:
        yield from together(let_go(stage, actor, hands), _catch(stage, catcher, thing, goal, seconds))
    actor.gaze = None


def _catch(stage: Stage, catcher: Actor, thing: int, goal: Float64, seconds: float) -> Activity:
    """Hold out the hands where something will arrive in ``seconds``, and close them around it."""
    entity = stage.entity(thing)
    spread = float(min(entity.size[0], entity.size[1])) + 0.005
    steps = round(seconds / STEP_S) - 1
    with attending(stage, catcher, thing):
        with stage.fact(catcher.entity_id, "catching", thing):
            there, until_s = at_world(catcher, goal), (steps - 2) * STEP_S
            yield from reach_out(stage, catcher, HANDS, there, until_s, None, spread + 0.14)
            wish = catcher.reaching["both"]
            for share in (0.5, 0.0):
                wish.spread_m = spread + 0.14 * share
                yield
            middle = stage.pose(thing)[:3, 3] + stage.pose(thing)[:3, 2] * 0.5 * entity.size[2]
            caught = gap(catcher, HANDS, middle, spread) < REACHED_M and thing not in stage.holds
            if caught:
                stage.grasp(catcher, thing, HANDS)
            else:
                stage.withdraw(catcher.entity_id, "catching", thing)
        if caught:
            yield from draw(stage, catcher, HANDS, before_chest(catcher, HANDS, depth(stage, catcher, thing)), 0.4)
    if not caught:
        yield from let_go(stage, catcher, HANDS)
    catcher.near = thing


def throw_and_catch(stage: Stage, actor: Actor, thing: int, catcher: Actor, rng: np.random.Generator) -> Activity:
    """Throw something to somebody who stands a few steps away and catches it."""
    away = float(np.linalg.norm(catcher.place - actor.place))
    if not 1.3 < away < 4.5 or catcher.posture != "standing" or catcher.holding:
        raise Impossible("not the place for a throw")
    yield from together(turn_to(stage, actor, catcher.entity_id), turn_to(stage, catcher, actor.entity_id))
    tall = catcher.body.height_m
    goal = catcher.to_world(np.array([0.0, -0.26 * tall, 0.68 * tall]))
    yield from throw(stage, actor, thing, goal, rng, catcher)


def _kick_from(stage: Stage, actor: Actor, ball: int, rng: np.random.Generator) -> tuple[Float64, float, float]:
    """Where to stand and which way to face for a kick, and how far the ball can roll."""
    at, radius = stage.pose(ball)[:2, 3], stage.entity(ball).size[2] / 2
    toes = strike_place(actor.body, standing(actor.body), "right") - [0.0, radius, 0.0]  # the ball's middle
    clearance = stage.clearance(actor, frozenset({ball}))
    found = []
    for yaw in rng.uniform(-np.pi, np.pi) + np.linspace(0.0, 2 * np.pi, 16, endpoint=False):
        place = at - (placed(0.0, 0.0, 0.0, yaw)[:3, :3] @ toes)[:2]
        free = [stage.floor.at(clearance, at + d * facing(yaw)) > radius + 0.03 for d in np.arange(0.1, 3.6, 0.1)]
        run = 0.1 * float(free.index(False) if False in free else len(free))
        if stage.floor.at(clearance, place) >= BODY_RADIUS_M - 0.05 and run > 0.5:
            found.append((run, place, float(yaw)))
    if not found:
        raise Impossible("no room to kick")
    run, place, yaw = max(found, key=lambda f: f[0])
    return place, yaw, run


def kick(stage: Stage, actor: Actor, ball: int, rng: np.random.Generator) -> Activity:
    """Go behind a ball on the floor and kick it to where there is room."""
    if actor.posture != "standing" or ball in stage.holds:
        raise Impossible("cannot kick it")
    place, yaw, away = _kick_from(stage, actor, ball, rng)
    body, upright, way = actor.body, standing(actor.body), facing(yaw)
    yield from go(stage, actor, place, target=ball)
    yield from turn_about(actor, yaw)
    actor.place = place
    steps = round(1.0 / STEP_S)
    flown = False
    with stage.fact(actor.entity_id, "kicking", ball), attending(stage, actor, ball):
        for k in range(1, steps + 1):
            actor.base = kicking(body, upright, "right", k / steps)
            if k / steps > STRIKE_PHASE and not flown:  # the foot was at the ball in the step before
                speed = float(np.clip(np.sqrt(2 * 0.7 * away) + 0.3, 1.2, 4.0))
                push = np.append(way * speed, 1.0 if rng.random() < 0.4 else 0.0)
                stage.flights.append(fly(stage, ball, push, rng))
                flown = True
            if k / steps > _FOLLOWED_THROUGH:
                stage.end(actor.entity_id, "kicking", ball)
            yield
    actor.base = upright
    actor.near = ball


def push_off(stage: Stage, actor: Actor, thing: int, rng: np.random.Generator) -> Activity:
    """Push something over the edge of what it stands on; it falls."""
    hand = actor.free_hand()
    parent, index = stage.supports.get(thing, (0, -1))
    if hand is None or actor.posture != "standing" or index < 0 or not stage.entity(parent).is_thing:
        raise Impossible("nothing to push off")
    surface, T = stage.surface(parent, index)
    if surface.kind != "top" or T[2, 3] + surface.center[2] < 0.3:
        raise Impossible("not on a table")
    entity = stage.entity(thing)
    local = T[:3, :3].T @ (stage.pose(thing)[:3, 3] - T[:3, 3]) - np.array(surface.center)
    free = stage.clearance(actor)
    found = []
    for axis, sign in ((0, -1.0), (0, 1.0), (1, -1.0), (1, 1.0)):
        out = np.zeros(3)
        out[axis] = sign
        room = surface.size[axis] / 2 - sign * local[axis]
        direction = (T[:3, :3] @ out)[:2]
        landing = stage.pose(thing)[:2, 3] + direction * (room + 0.3)
        across = np.array([-direction[1], direction[0]])
        ways = {t: stage.pose(t)[:2, 3] - stage.pose(thing)[:2, 3] for t in stage.on(parent) if t != thing}
        others = [t for t, way in ways.items() if abs(way @ across) < 0.15 and way @ direction > 0.0]
        if room < 0.45 and stage.floor.at(free, landing) > 0.15 and not others:
            found.append((room, direction))
    if not found:
        raise Impossible("too far from the edge")
    room, direction = min(found, key=lambda f: f[0])
    half = 0.5 * min(entity.size[:2])
    grip_at = stage.middle(thing) - np.append(direction * half, 0.0)
    owners, _ = resting_on(stage, thing)
    place, yaw = stance(stage, actor, grip_at, (hand,), owners=owners)
    if not within_reach(actor, place, yaw, (hand,), grip_at + np.append(direction * room, 0.0)):
        raise Impossible("the edge is out of reach")
    yield from go(stage, actor, place, target=thing)
    yield from turn_about(actor, yaw)
    start = stage.pose(thing).copy()
    yield from reach_out(stage, actor, (hand,), at_world(actor, grip_at), 0.7, np.append(direction, 0.0))
    wish = actor.reaching[hand]
    with stage.fact(actor.entity_id, "pushing", thing), attending(stage, actor, thing):
        for w in ramp(0.4 + room):
            moved = np.append(direction * (room + 0.01) * w, 0.0)
            wish.target = at_world(actor, grip_at + moved)
            pose = start.copy()
            pose[:3, 3] += moved
            stage.move(thing, pose)
            yield
        stage.flights.append(fly(stage, thing, np.append(direction * 0.5, 0.0), rng))
        yield
    actor.gaze = thing
    yield from let_go(stage, actor, (hand,))
    actor.gaze = None
    actor.near = parent
