"""What people do with things besides carrying them: drink, eat, read, type, use, stir, pour, clean, play."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import numpy as np

from psg4d_ros.data.simulation.acting import (
    Activity,
    Impossible,
    angle_between,
    attempt,
    attending,
    in_view,
    ramp,
    wait,
)
from psg4d_ros.data.simulation.doors import turn_about
from psg4d_ros.data.simulation.frames import facing, placed, turned, up, yaw_of, yaw_towards
from psg4d_ros.data.simulation.handling import depth, resting_on
from psg4d_ros.data.simulation.limbs import Hand
from psg4d_ros.data.simulation.locomotion import go
from psg4d_ros.data.simulation.reaching import (
    REACHED_M,
    at_world,
    before_chest,
    draw,
    hand_key,
    let_go,
    reach_out,
    stance,
    within_reach,
)
from psg4d_ros.data.simulation.stage import HANDS, Actor, Hold, Stage
from psg4d_ros.data.simulation.world import STEP_S
from psg4d_ros.structures import Float64

_X = np.array([1.0, 0.0, 0.0])
_KEYS_TO_SCREEN_M = 1.2  # a keyboard works the screen that stands before it


def _hold(stage: Stage, actor: Actor, thing: int) -> Hold:
    hold = stage.holds.get(thing)
    if hold is None or hold.person != actor.entity_id or actor.posture == "lying":
        raise Impossible(f"does not hold {thing}")
    return hold


def _tip_to(actor: Actor, hold: Hold, rim: Float64, goal: Callable[[], Float64]) -> Callable[[], Float64]:
    """A target for the palms that brings a point of the held thing (``rim``, at rest in the yaw frame relative to its
    origin) to ``goal`` (entity frame), whatever the tilt."""
    return lambda: goal() - turned(_X, -hold.tilt) @ (hold.offset + rim)


def _back_to_chest(stage: Stage, actor: Actor, thing: int, hold: Hold) -> Activity:
    yield from draw(stage, actor, hold.hands, before_chest(actor, hold.hands, depth(stage, actor, thing)), 0.5)


def _tilt(hold: Hold, angle: float, seconds: float) -> Activity:
    start = hold.tilt
    for w in ramp(seconds):
        hold.tilt = start + (angle - start) * w
        yield


def drink(stage: Stage, actor: Actor, vessel: int, sips: int = 2) -> Activity:
    """Raise a held vessel to the mouth, tip it and take it down again."""
    hold = _hold(stage, actor, vessel)
    height = stage.entity(vessel).size[2]
    rim = np.array([0.0, 0.4 * min(stage.entity(vessel).size[:2]), height])

    def mouth() -> Float64:
        return actor.body.joint_positions(actor.base)["mouth"] + [0.0, -0.025, -0.005]

    with stage.fact(actor.entity_id, "drinking from", vessel):
        yield from draw(stage, actor, hold.hands, _tip_to(actor, hold, rim, mouth), 0.7)
        for _ in range(sips):
            yield from _tilt(hold, 0.75, 0.45)
            yield from wait(0.5)
            yield from _tilt(hold, 0.15, 0.3)
        yield from _tilt(hold, 0.0, 0.2)
    yield from _back_to_chest(stage, actor, vessel, hold)


def read(stage: Stage, actor: Actor, book: int, seconds: float) -> Activity:
    """Hold a book before the face and read in it."""
    hold = _hold(stage, actor, book)

    def before_face() -> Float64:
        places = actor.body.joint_positions(actor.base)
        return places["eyes"] * [0.6, 1.0, 1.0] + [0.0, -0.2 * actor.body.height_m, -0.14 * actor.body.height_m]

    with stage.fact(actor.entity_id, "reading", book), attending(stage, actor, book):
        yield from draw(stage, actor, hold.hands, before_face, 0.7)
        yield from _tilt(hold, -0.6, 0.3)
        yield from wait(seconds)
        yield from _tilt(hold, 0.0, 0.3)
    yield from _back_to_chest(stage, actor, book, hold)


def use_held(
    stage: Stage, actor: Actor, thing: int, screen: int | None, seconds: float, name: str = "using"
) -> Activity:
    """Use a phone, remote control, camera or toy that one holds; screen: what is looked at meanwhile, if not itself."""
    hold = _hold(stage, actor, thing)
    tall = actor.body.height_m
    side = -0.05 if hold.hands[0] == "right" else 0.05

    def raised(shift: Float64) -> Float64:
        chest = actor.body.joint_positions(actor.base)["chest"]
        point: Float64 = chest + np.array([side, -0.2 * tall, 0.06 * tall]) + shift
        return point

    steps = round(seconds / STEP_S)
    screen = _in_view(stage, actor, screen)
    with stage.fact(actor.entity_id, name, thing), attending(stage, actor, screen or thing):
        yield from draw(stage, actor, hold.hands, lambda: raised(np.zeros(3)), 0.5)
        wish = actor.reaching[hand_key(hold.hands)]
        lively = 0.05 if name == "playing with" else 0.004
        for k in range(steps):
            shift = (
                lively * np.array([np.sin(0.35 * k), 0.4 * np.sin(0.21 * k), np.sin(0.27 * k + 1.0)]) * min(k / 8, 1)
            )
            wish.target = lambda shift=shift: raised(shift)  # type: ignore[misc]
            yield
    yield from _back_to_chest(stage, actor, thing, hold)


def _in_view(stage: Stage, actor: Actor, target: int | None) -> int | None:
    """Something to look at while the hands work, if the head turns as far as that."""
    return target if target is not None and in_view(stage, actor, target) else None


def _free(actor: Actor) -> Hand:
    hand = actor.free_hand()
    if hand is None:
        raise Impossible("no hand is free")
    return hand


def _tools(stage: Stage, actor: Actor) -> dict[Hand, int]:
    """What can be worked with: things held in one hand, by hand."""
    return {hand: thing for hand, thing in actor.holding.items() if stage.holds[thing].hands == (hand,)}


def _come_within_reach(stage: Stage, actor: Actor, thing: int, hands: tuple[Hand, ...], point: Float64) -> Activity:
    """Go to where hands reach a point of something, and face it."""
    if actor.posture == "standing":
        owners, front = resting_on(stage, thing)
        place, yaw = stance(stage, actor, point, hands, owners=owners, front=front)
        yield from go(stage, actor, place, target=thing)
        yield from turn_about(actor, yaw)
    elif actor.posture == "lying" or not within_reach(actor, actor.place, actor.yaw, hands, point):
        raise Impossible(f"{thing} is out of reach")
    elif abs(angle_between(actor.yaw, yaw_towards(point[:2] - actor.place))) > 1.3:
        raise Impossible(f"{thing} is behind the back")


def _top(stage: Stage, thing: int) -> Float64:
    return stage.point(thing, (0.0, 0.0, stage.entity(thing).size[2]))


def eat(stage: Stage, actor: Actor, dish: int, bites: int = 2) -> Activity:
    """Eat out of a dish that stands within reach, with what one holds (a spoon, a fork) or with the fingers."""
    with_fork = [h for h, tool in _tools(stage, actor).items() if stage.entity(tool).label in ("fork", "spoon")]
    hand = with_fork[0] if with_fork else _free(actor)
    point = _top(stage, dish) + up(0.03)
    yield from _come_within_reach(stage, actor, dish, (hand,), point)

    def mouth() -> Float64:
        out = -0.02 if hand == "right" else 0.02
        return actor.body.joint_positions(actor.base)["mouth"] + [out, -0.07, -0.03]

    with stage.fact(actor.entity_id, "eating", dish), attending(stage, actor, dish):
        if with_fork:
            yield from draw(stage, actor, (hand,), at_world(actor, point), 0.6)
        else:
            yield from reach_out(stage, actor, (hand,), at_world(actor, point), 0.6)
        for _ in range(bites):
            yield from draw(stage, actor, (hand,), mouth, 0.55)
            yield from wait(0.35)
            yield from draw(stage, actor, (hand,), at_world(actor, point), 0.55)
            yield from wait(0.25)
    yield from _finish(stage, actor, hand)
    actor.near = dish


def _finish(stage: Stage, actor: Actor, hand: Hand) -> Activity:
    """A hand that holds something goes back before the chest, an empty one to the body."""
    if hand in actor.holding:
        yield from _back_to_chest(stage, actor, actor.holding[hand], stage.holds[actor.holding[hand]])
    else:
        yield from let_go(stage, actor, (hand,))


def work_at(
    stage: Stage,
    actor: Actor,
    thing: int,
    name: str,
    seconds: float,
    *,
    circle_m: float = 0.0,
    above_m: float = 0.0,
    watched: int | None = None,
) -> Activity:
    """Move a hand about on or above something: stir in it, wipe it, press its buttons.

    circle_m: radius of the movement. above_m: height over the thing's top. watched: what is looked at meanwhile.
    """
    tools = _tools(stage, actor) if name in ("stirring", "cleaning") else {}
    hand = next(iter(tools), None) or _free(actor)
    point = _work_point(stage, actor, thing, name) + up(above_m)
    yield from _come_within_reach(stage, actor, thing, (hand,), point)
    steps = round(seconds / STEP_S)
    rate = 0.35 if name == "stirring" else 0.22
    palm = np.array([0.0, 0.0, -1.0]) if name in ("cleaning", "using") and hand not in actor.holding else None
    with attempt(stage, actor, name, thing), attending(stage, actor, _in_view(stage, actor, watched) or thing):
        if hand in actor.holding:
            yield from draw(stage, actor, (hand,), at_world(actor, point), 0.7)
        else:
            yield from reach_out(stage, actor, (hand,), at_world(actor, point), 0.7, palm)
        yield
        _check(actor, hand, point)
        wish = actor.reaching[hand]
        for k in range(steps):
            r = circle_m * min(k / 10, (steps - k) / 10, 1.0)
            at = point + np.array([r * np.cos(rate * k), r * np.sin(rate * k), 0.0])
            if name == "using":
                at[2] += 0.01 * np.sin(0.5 * k)
            wish.target = at_world(actor, at)
            yield
    yield from _finish(stage, actor, hand)
    actor.near = thing


def _check(actor: Actor, hand: Hand, point: Float64) -> None:
    if np.linalg.norm(actor.points[f"{hand}_hand"] - actor.to_entity(point)) > 2 * REACHED_M:
        raise Impossible("the hand does not get there")


def _work_point(stage: Stage, actor: Actor, thing: int, name: str) -> Float64:
    """Where a hand works: the front of an appliance, a place on a table before the person, the middle of a pot."""
    entity = stage.entity(thing)
    if name == "using" and entity.size[2] > 0.2:
        front = -0.5 * entity.size[1] - 0.01
        height = min(max(0.85 * entity.size[2], 0.0), 1.2 * actor.body.height_m / 1.75)
        return stage.point(thing, (0.12 * entity.size[0], front, height))
    if name == "cleaning":
        surface, T = stage.surface(thing, next(i for i, s in enumerate(entity.surfaces) if s.kind == "top"))
        local = T[:3, :3].T @ (np.append(actor.place, 0.0) - T[:3, 3])
        half = np.array(surface.size) / 2 - 0.22
        x, y = np.clip(local[:2] - surface.center[:2], -np.maximum(half, 0.0), np.maximum(half, 0.0))
        spot = T[:3, :3] @ np.array([surface.center[0] + x, surface.center[1] + y, surface.center[2]]) + T[:3, 3]
        towel = next((stage.entity(t) for t in set(actor.holding.values())), None)
        wiped: Float64 = spot + up(0.012 + (towel.size[2] if towel else 0.0))
        return wiped
    return _top(stage, thing)


def pour(stage: Stage, actor: Actor, source: int, vessel: int) -> Activity:
    """Pour out of a held bottle, can or carton into a vessel that stands within reach."""
    hold = _hold(stage, actor, source)
    height = stage.entity(source).size[2]
    over = _top(stage, vessel) + up(0.04)
    yield from _come_within_reach(stage, actor, vessel, hold.hands, over + up(0.1))
    rim = np.array([0.0, 0.0, height])
    with (
        stage.fact(actor.entity_id, "pouring into", vessel),
        stage.fact(actor.entity_id, "using", source),
        attending(stage, actor, vessel),
    ):
        yield from draw(stage, actor, hold.hands, _tip_to(actor, hold, rim, at_world(actor, over)), 0.8)
        yield from _tilt(hold, -1.7, 0.6)
        yield from wait(1.0)
        yield from _tilt(hold, 0.0, 0.5)
    yield from _back_to_chest(stage, actor, source, hold)
    actor.near = vessel


def type_on(stage: Stage, actor: Actor, keyboard: int, screen: int | None, seconds: float) -> Activity:
    """Type with both hands on a keyboard or laptop within reach."""
    if actor.holding:
        raise Impossible("the hands are full")
    entity = stage.entity(keyboard)
    laptop = entity.label == "laptop"
    depth_m = -0.25 * entity.size[1] if laptop else 0.0
    keys = stage.point(keyboard, (0.0, depth_m, 0.025 if laptop else entity.size[2] + 0.01))
    spread = min(0.22, 0.6 * entity.size[0])
    front = facing(yaw_of(stage.pose(keyboard)))
    if actor.posture == "standing":
        owners, _ = resting_on(stage, keyboard)
        place, yaw = stance(stage, actor, keys, HANDS, owners=owners, front=front)
        yield from go(stage, actor, place, target=keyboard)
        yield from turn_about(actor, yaw)
    elif not within_reach(actor, actor.place, actor.yaw, HANDS, keys):
        raise Impossible("the keys are out of reach")
    screen = _in_view(stage, actor, screen)
    if screen is not None and np.linalg.norm(stage.middle(screen)[:2] - keys[:2]) > _KEYS_TO_SCREEN_M:
        screen = None
    steps = round(seconds / STEP_S)
    down = np.array([0.0, 0.0, -1.0])
    with ExitStack() as facts:
        facts.enter_context(stage.fact(actor.entity_id, "typing on", keyboard))
        if screen is not None:
            facts.enter_context(stage.fact(actor.entity_id, "using", screen))
        facts.enter_context(attending(stage, actor, screen or keyboard))
        yield from reach_out(stage, actor, HANDS, at_world(actor, keys), 0.6, down, spread)
        wish = actor.reaching["both"]
        side = placed(0.0, 0.0, 0.0, actor.yaw)[:3, 0]
        for k in range(steps):
            shift = 0.03 * np.sin(0.4 * k) * side + up(0.006 * np.sin(1.9 * k))
            wish.target = at_world(actor, keys + shift * min(k / 6, 1.0))
            yield
    yield from let_go(stage, actor, HANDS)
    actor.near = keyboard
