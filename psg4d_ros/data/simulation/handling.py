"""Things in hands: picking up, carrying, putting down, handing over. Palms lie on what they hold, and what is let go of
stands on something."""

from __future__ import annotations

import numpy as np

from psg4d_ros.data.simulation.acting import Activity, Impossible, angle_between, attempt, together, wait
from psg4d_ros.data.simulation.doors import turn_about
from psg4d_ros.data.simulation.frames import facing, placed, up, yaw_of, yaw_towards
from psg4d_ros.data.simulation.limbs import Hand
from psg4d_ros.data.simulation.locomotion import beside, go, turn_to
from psg4d_ros.data.simulation.reaching import (
    REACHED_M,
    at_world,
    before_chest,
    draw,
    from_the_front,
    gap,
    grip,
    hand_key,
    hands_for,
    let_go,
    open_to,
    reach_out,
    stance,
    within_reach,
)
from psg4d_ros.data.simulation.stage import HANDS, Actor, Reach, Stage
from psg4d_ros.structures import Float64

_LIFT_M = 0.06
_DROP_M = 0.08


def resting_on(stage: Stage, thing: int) -> tuple[frozenset[int], Float64 | None]:
    """What a thing stands on, with all that is below, and from which side it can be reached (None: any)."""
    owners, front = {thing}, None
    below = thing
    while below in stage.supports:
        below, index = stage.supports[below]
        entity = stage.entity(below)
        if not entity.is_thing and entity.label != "counter":
            break
        owners.add(below)
        drawer = 0 <= index < len(entity.surfaces) and entity.surfaces[index].part > 0
        if from_the_front(stage, below, index) or (drawer and entity.joints):
            front = facing(yaw_of(stage.pose(below)))
    return frozenset(owners), front


def pick_up(stage: Stage, actor: Actor, thing: int, *, approach: bool = True) -> Activity:
    """Go to where a thing can be reached, take it and draw it to the body."""
    if thing in stage.holds or not stage.entity(thing).graspable or stage.on(thing):
        raise Impossible(f"{thing} cannot be taken")
    hands = hands_for(stage, actor, thing)
    middle = stage.middle(thing)
    owners, front = resting_on(stage, thing)
    parent, index = stage.supports.get(thing, (0, -1))
    if parent and not open_to(stage, parent, index, middle):
        raise Impossible(f"{thing} is shut in")
    enclosed = from_the_front(stage, parent, index)
    if actor.posture == "standing" and approach:
        place, yaw = stance(stage, actor, middle, hands, owners=owners, front=front)
        yield from go(stage, actor, place, target=thing)
        yield from turn_about(actor, yaw)
    elif not within_reach(actor, actor.place, actor.yaw, hands, middle):
        raise Impossible(f"{thing} is out of reach")
    target, palm, spread = grip(stage, thing, hands, actor.place, actor.yaw)
    actor.gaze = middle
    with attempt(stage, actor, "picking up", thing):
        yield from reach_out(stage, actor, hands, at_world(actor, target), 0.8, palm, spread)
        yield
        target, _, spread = grip(stage, thing, hands, actor.place, actor.yaw)  # it may have been moved meanwhile
        if gap(actor, hands, target, spread) > REACHED_M or thing in stage.holds:
            actor.gaze = None
            yield from let_go(stage, actor, hands)
            raise Impossible(f"{thing} is out of reach")
        out = 0.16 * front if enclosed and front is not None else np.zeros(2)
        lifted = target + np.append(out, 0.02 if enclosed else _LIFT_M)
        stage.grasp(actor, thing, hands)
        yield from draw(stage, actor, hands, at_world(actor, lifted), 0.35)
        yield from draw(stage, actor, hands, before_chest(actor, hands, depth(stage, actor, thing)), 0.6)
    actor.gaze = None
    actor.near = next(iter(owners - {thing}), None)


def depth(stage: Stage, actor: Actor, thing: int) -> float:
    """How far a thing reaches along the person's front, metres."""
    entity, T = stage.entity(thing), stage.pose(thing)
    points = np.concatenate([p.vertices for p in entity.parts]) @ T[:3, :3].T
    along = points[:, :2] @ actor.forward
    return float(along.max() - along.min())


def free_spots(
    stage: Stage, thing: int, parent: int, index: int, rng: np.random.Generator, count: int = 12
) -> list[Float64]:
    """Places float64[3] (world frame) on a surface with room for a thing, in random order."""
    surface, T = stage.surface(parent, index)
    size = stage.entity(thing).size
    half_size = 0.5 * max(size[:2])
    if size[2] + _DROP_M > surface.clearance_m and surface.kind != "top":
        return []
    half = np.array(surface.size) / 2 - 0.9 * half_size
    if (half < 0.0).any():
        return []
    taken = []
    for other in stage.on(parent):
        if other != thing and other not in stage.actors:
            points = stage.floor.surface(stage.entity(other), stage.parts[other - 1])
            taken.append((points.min(axis=0) - half_size - 0.01, points.max(axis=0) + half_size + 0.01))
    out = []
    for _ in range(6 * count):
        local = np.append(rng.uniform(-half, half), 0.0) + surface.center
        spot = T[:3, :3] @ local + T[:3, 3]
        top = spot + up(size[2])
        if all((spot > high).any() or (top < low).any() for low, high in taken):
            out.append(spot)
            if len(out) == count:
                break
    return out


def put_down(stage: Stage, actor: Actor, thing: int, parent: int, index: int, rng: np.random.Generator) -> Activity:
    """Put what one holds onto (or into) something, where there is room."""
    hold = stage.holds.get(thing)
    if hold is None or hold.person != actor.entity_id:
        raise Impossible(f"does not hold {thing}")
    surface, _ = stage.surface(parent, index)
    enclosed = from_the_front(stage, parent, index)
    drawer = surface.part > 0 and bool(stage.entity(parent).joints)
    front = facing(yaw_of(stage.pose(parent))) if enclosed or drawer else None
    owners = frozenset({parent, thing, *stage.on(parent)})
    hands = hold.hands
    spots = [s for s in free_spots(stage, thing, parent, index, rng) if open_to(stage, parent, index, s)]
    if not spots:
        raise Impossible(f"no room on {parent}")
    spots.sort(key=lambda s: float(np.linalg.norm(s[:2] - actor.place)))
    for spot in spots:
        if actor.posture != "standing":
            target = _palms_for(spot, hold.offset, actor.yaw)
            if within_reach(actor, actor.place, actor.yaw, hands, target):
                place, yaw = actor.place, actor.yaw
                break
            continue
        try:
            place, yaw = stance(stage, actor, spot - up(hold.offset[2]), hands, owners=owners, front=front)
        except Impossible:
            continue
        if within_reach(actor, place, yaw, hands, _palms_for(spot, hold.offset, yaw)):
            break
    else:
        raise Impossible(f"nowhere to stand to put something on {parent}")
    if actor.posture == "standing":
        yield from go(stage, actor, place, target=parent)
        yield from turn_about(actor, yaw)
    actor.gaze = spot
    target = _palms_for(spot, hold.offset, actor.yaw)
    out = 0.2 * facing(yaw_of(stage.pose(parent))) if enclosed else np.zeros(2)
    with attempt(stage, actor, "putting down", thing):
        above = target + np.append(out, 0.02 if enclosed else _DROP_M)
        yield from draw(stage, actor, hands, at_world(actor, above), 0.7)
        yield from draw(stage, actor, hands, at_world(actor, target), 0.4)
        yield
        missed = spot - stage.pose(thing)[:3, 3]
        if np.linalg.norm(missed) > 0.03:
            yield from draw(stage, actor, hands, before_chest(actor, hands, depth(stage, actor, thing)), 0.5)
            actor.gaze = None
            raise Impossible("the hand does not get there")
        stage.release(thing, parent, index)
        T = stage.pose(thing).copy()
        T[2, 3] = spot[2]
        stage.move(thing, _level(T))
        yield from let_go(stage, actor, hands, 0.5)
    actor.gaze = None
    actor.near = parent


def _palms_for(spot: Float64, offset: Float64, yaw: float) -> Float64:
    """Where palms are when the thing that they hold by ``offset`` is at a spot, world frame."""
    target: Float64 = spot - placed(0.0, 0.0, 0.0, yaw)[:3, :3] @ offset
    return target


def _level(T: Float64) -> Float64:
    """The same pose with the axis that is nearly upright made exactly so."""
    out = T.copy()
    z = int(np.abs(T[2, :3]).argmax())
    up = np.array([0.0, 0.0, np.sign(T[2, z])])
    x = (z + 1) % 3
    side = T[:3, x] - (T[:3, x] @ up) * up
    side /= np.linalg.norm(side)
    out[:3, z], out[:3, x] = up, side
    out[:3, (z + 2) % 3] = np.cross(up, side)
    return out


def start_holding(stage: Stage, actor: Actor, thing: int) -> None:
    """Somebody already holds something when the scene begins."""
    hands = hands_for(stage, actor, thing)
    entity = stage.entity(thing)
    T = placed(actor.place[0], actor.place[1], 1.0, actor.yaw)
    stage.move(thing, T)
    target, palm, spread = grip(stage, thing, hands, actor.place, actor.yaw)
    actor.reaching[hand_key(hands)] = Reach(before_chest(actor, hands, entity.size[1]), 1.0, palm, spread)
    stage.settle(actor)
    T[:3, 3] += stage.palms(actor, hands) - target
    stage.move(thing, T)
    stage.grasp(actor, thing, hands)


def hand_over(stage: Stage, giver: Actor, taker: Actor, thing: int) -> Activity:
    """Give somebody what one holds."""
    hold = stage.holds.get(thing)
    free = tuple(h for h in HANDS if h not in taker.holding)
    if hold is None or hold.person != giver.entity_id or len(free) < len(hold.hands):
        raise Impossible(f"{thing} cannot be handed over")
    seated = taker.posture != "standing"
    if taker.posture == "lying":
        raise Impossible("the taker lies")
    place = beside(stage, giver, taker.entity_id, 0.85 if seated else 0.7, in_front=seated)
    yield from go(stage, giver, place, target=taker.entity_id)
    yield from together(_turn_if_standing(stage, giver, taker), _turn_if_standing(stage, taker, giver))
    giver.gaze = taker.gaze = thing
    mine = hold.hands
    others: tuple[Hand, ...] = HANDS if len(mine) == 2 else free[:1]
    with (
        attempt(stage, giver, "giving to", taker.entity_id),
        attempt(stage, taker, "taking from", giver.entity_id),
    ):
        shoulder = giver.to_world(giver.points["right_shoulder"])
        meet = 0.5 * (giver.place + taker.to_world(taker.points["chest"])[:2])
        low = min(shoulder[2], taker.to_world(taker.points["right_shoulder"])[2])
        yield from draw(stage, giver, mine, at_world(giver, np.append(meet, low - 0.22)), 0.7)
        target, palm, spread = grip(stage, thing, others, taker.place, taker.yaw)
        yield from reach_out(stage, taker, others, at_world(taker, target), 0.7, palm, spread)
        yield
        if gap(taker, others, target, spread) > REACHED_M:
            yield from together(
                let_go(stage, taker, others),
                draw(stage, giver, mine, before_chest(giver, mine, depth(stage, giver, thing)), 0.5),
            )
            giver.gaze = taker.gaze = None
            raise Impossible("too far away to hand over")
        yield from wait(0.15)
        stage.release(thing)
        stage.grasp(taker, thing, others)
    yield from together(
        let_go(stage, giver, mine),
        draw(stage, taker, others, before_chest(taker, others, depth(stage, taker, thing)), 0.7),
    )
    giver.gaze = taker.gaze = None
    giver.near, taker.near = taker.entity_id, giver.entity_id


def _turn_if_standing(stage: Stage, actor: Actor, other: Actor) -> Activity:
    if actor.posture == "standing":
        yield from turn_to(stage, actor, other.entity_id)
    elif abs(angle_between(actor.yaw, yaw_towards(other.place - actor.place))) > 1.2:
        raise Impossible("sits with the back to it")
    yield
