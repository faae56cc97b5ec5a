"""Hands on their way: to a point, to a thing's grip, back to the body."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from psg4d_ros.data.simulation.acting import Activity, Impossible, ramp
from psg4d_ros.data.simulation.frames import placed, yaw_towards
from psg4d_ros.data.simulation.kinematics import Hands, palm_gap, reach
from psg4d_ros.data.simulation.limbs import Hand
from psg4d_ros.data.simulation.navigation import BODY_RADIUS_M
from psg4d_ros.data.simulation.poses import standing
from psg4d_ros.data.simulation.stage import HANDS, Actor, Reach, Stage
from psg4d_ros.data.simulation.world import Joint
from psg4d_ros.structures import Float64

REACHED_M = 0.02  # farther from its target a palm does not touch it
TWO_HANDED_M = 0.3  # what is wider takes both hands
_SLENDER_M = 0.1  # one hand reaches around it, however long it is
_FLAT_M = 0.07  # what is lower is taken from above


def hand_key(hands: tuple[Hand, ...]) -> Hands:
    return "both" if len(hands) == 2 else hands[0]


def at_world(actor: Actor, point: Float64) -> Callable[[], Float64]:
    """A target that stays where it is in the world while the person moves."""
    return lambda: actor.to_entity(point)


def before_chest(actor: Actor, hands: tuple[Hand, ...], depth_m: float = 0.1) -> Callable[[], Float64]:
    """Where hands are that carry something, relative to the shoulders; depth_m: of the thing, along the front."""

    def target() -> Float64:
        places = actor.body.joint_positions(actor.base)
        tall = actor.body.height_m
        shoulders: Float64 = np.mean([places[f"{h}_shoulder"] for h in hands], axis=0)
        if len(hands) == 2:
            offset = np.array([0.0, -0.1 * tall - 0.5 * depth_m, -0.2 * tall])
        else:
            offset = np.array([0.03 if hands[0] == "right" else -0.03, -0.18 * tall, -0.2 * tall])
        point: Float64 = shoulders + offset
        return point

    return target


def between(a: Callable[[], Float64], b: Callable[[], Float64], w: float) -> Callable[[], Float64]:
    return lambda: (1.0 - w) * a() + w * b()


def gap(actor: Actor, hands: tuple[Hand, ...], target: Float64, spread_m: float) -> float:
    """Metres that the farthest palm is away from where it should be (target: world frame)."""
    goal = actor.to_entity(target)
    if len(hands) == 1:
        return float(np.linalg.norm(actor.points[f"{hands[0]}_hand"] - goal))
    half = np.array([0.5 * spread_m, 0.0, 0.0])
    return max(
        float(np.linalg.norm(actor.points["left_hand"] - goal - half)),
        float(np.linalg.norm(actor.points["right_hand"] - goal + half)),
    )


def reach_out(
    stage: Stage,
    actor: Actor,
    hands: tuple[Hand, ...],
    target: Callable[[], Float64],
    seconds: float = 0.7,
    palm: Float64 | None = None,
    spread_m: float = 0.3,
) -> Activity:
    """Bring empty hands to a target."""
    wish = Reach(target, 0.0, palm, spread_m)
    actor.reaching[hand_key(hands)] = wish
    for w in ramp(seconds):
        wish.weight = w
        yield


def draw(
    stage: Stage, actor: Actor, hands: tuple[Hand, ...], target: Callable[[], Float64], seconds: float
) -> Activity:
    """Move hands that are somewhere to somewhere else."""
    wish = actor.reaching[hand_key(hands)]
    before = wish.target
    for w in ramp(seconds):
        wish.target = between(before, target, w)
        yield
    wish.target = target


def let_go(stage: Stage, actor: Actor, hands: tuple[Hand, ...], seconds: float = 0.5) -> Activity:
    """Take empty hands back to the body."""
    wish = actor.reaching.get(hand_key(hands))
    if wish is None:
        return
    start = wish.weight
    for w in ramp(seconds):
        wish.weight = start * (1.0 - w)
        yield
    actor.reaching.pop(hand_key(hands), None)


def hands_for(stage: Stage, actor: Actor, thing: int) -> tuple[Hand, ...]:
    """The free hands that lift a thing. Raises Impossible when there are not enough."""
    entity = stage.entity(thing)
    free = tuple(h for h in HANDS if h not in actor.holding)
    big = max(entity.size[:2]) > TWO_HANDED_M and max(entity.size) > 0.32 and min(entity.size[:2]) > _SLENDER_M
    if not free or (big and len(free) < 2):
        raise Impossible("no hand is free")
    return HANDS if big else free[:1]


def from_the_front(stage: Stage, parent: int, index: int) -> bool:
    """Whether what is on a surface is reached from the front only: boards of a shelf, cupboards, not open drawers."""
    surfaces = stage.entity(parent).surfaces if parent else ()
    if not 0 <= index < len(surfaces) or surfaces[index].part:
        return False
    return surfaces[index].kind == "shelf" or (surfaces[index].kind == "inside" and bool(stage.entity(parent).joints))


def open_to(stage: Stage, parent: int, index: int, point: Float64) -> bool:
    """Whether a hand gets to a point (world frame) on a surface: no closed drawer or door is in between."""
    entity = stage.entity(parent)
    surface = entity.surfaces[index] if 0 <= index < len(entity.surfaces) else None
    if surface is None or surface.kind != "inside" or not entity.joints:
        return True
    return any(
        stage.opened[parent - 1][j] > 0.6 and (surface.part in (0, joint.part))
        for j, joint in covering_joints(stage, parent, index, point)
    )


def covering_joints(stage: Stage, parent: int, index: int, point: Float64) -> list[tuple[int, Joint]]:
    """The doors, flaps or drawers that must be open to get to a point (world frame) on a surface."""
    entity = stage.entity(parent)
    surface = entity.surfaces[index]
    if surface.kind != "inside":
        return []
    if surface.part:
        return [(j, joint) for j, joint in enumerate(entity.joints) if joint.part == surface.part]
    T = stage.pose(parent)
    x, _, z = T[:3, :3].T @ (point - T[:3, 3])
    out = []
    for j, joint in enumerate(entity.joints):
        vertices = entity.parts[joint.part].vertices
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        if joint.kind == "hinge" and low[0] <= x <= high[0] and low[2] - 0.02 <= z <= high[2]:
            out.append((j, joint))
    return out


def grip(
    stage: Stage, thing: int, hands: tuple[Hand, ...], place: Float64, yaw: float
) -> tuple[Float64, Float64 | None, float]:
    """Where palms take a thing when somebody stands at ``place`` with ``yaw``.

    Returns the target float64[3] (world), where the palm looks float64[3] (entity frame of the person; None: inwards)
    and the spread of two hands (metres). Palms lie on the thing's surface, on the side of the hand, from the front in a
    shelf, or on top of what is flat.
    """
    entity, T = stage.entity(thing), stage.pose(thing)
    points = np.concatenate([p.vertices for p in entity.parts]) @ T[:3, :3].T + T[:3, 3]
    R = placed(0.0, 0.0, 0.0, yaw)[:3, :3]
    local = points @ R  # seen from the person: x to its left, -y forward
    if len(hands) == 2:
        low, high = local.min(axis=0), local.max(axis=0)
        middle = 0.5 * (low + high)
        middle[2] = low[2] + 0.45 * (high[2] - low[2])
        surface = stage.floor.surface(entity, stage.parts[thing - 1]) @ R
        # Palms lie on the sides, level with the middle, or lower where a thing has nothing to hold there.
        for share, band in ((0.45, 0.03), (0.45, 0.06), (0.2, 0.03), (0.05, 0.03), (0.05, 0.06)):
            middle[2] = points[:, 2].min() + share * entity.size[2]
            sides = surface[(np.abs(surface[:, 1:] - middle[1:]) < band).all(axis=1)]
            if len(sides) > 3 and np.ptp(sides[:, 0]) > 0.6 * (high[0] - low[0]):
                low, high = sides.min(axis=0), sides.max(axis=0)
                middle[0] = 0.5 * (low + high)[0]
                break
        return R @ middle, None, float(high[0] - low[0]) + 0.005
    at = entity.grip if any(entity.grip) else (0.0, 0.0, entity.size[2] / 2)
    center = (T[:3, :3] @ np.array(at) + T[:3, 3]) @ R
    side = -1.0 if hands[0] == "right" else 1.0
    high = float(points[:, 2].max() - points[:, 2].min())
    carrier, index = stage.supports.get(thing, (0, -1))
    enclosed = from_the_front(stage, carrier, index)
    if high < _FLAT_M and not (enclosed and stage.entity(carrier).surfaces[index].clearance_m < 0.25):
        away = np.array([0.0, 0.0, 1.0])
        near = local[np.linalg.norm(local[:, :2] - center[:2], axis=1) < 0.04]
    else:
        away = np.array([0.0, 1.0, 0.0]) if enclosed else np.array([0.8 * side, 0.6, 0.0])
        near = local[np.abs(local[:, 2] - center[2]) < 0.04]
    along = (near - center) @ away if len(near) else (local - center) @ away
    out = float(np.clip(along.max(), 0.0, 0.25))
    surface = stage.floor.surface(entity, stage.parts[thing - 1])
    wanted = R @ (center + away * out)
    nearest: Float64 = surface[int(np.linalg.norm(surface - wanted, axis=1).argmin())]
    return nearest, -away, 0.0


def within_reach(actor: Actor, place: Float64, yaw: float, hands: tuple[Hand, ...], point: Float64) -> bool:
    """Whether palms get to a point (world frame) from where the person would stand, or from where it sits."""
    T = placed(place[0], place[1], actor.height_m, yaw)
    target = T[:3, :3].T @ (point - T[:3, 3])
    base = standing(actor.body) if actor.posture == "standing" else actor.base
    pose = reach(actor.body, base, hands[0], target)
    return palm_gap(actor.body, pose, hands[0], target) < REACHED_M


def stance(
    stage: Stage,
    actor: Actor,
    point: Float64,
    hands: tuple[Hand, ...],
    *,
    owners: frozenset[int] = frozenset(),
    front: Float64 | None = None,
    nearest_m: float = 0.3,
) -> tuple[Float64, float]:
    """Where to stand (x, y, and the yaw) to reach a point (world frame). Raises Impossible when there is no such place.

    owners: what may be as high as it likes between person and point. front: only from this direction (x, y).
    """
    clearance = stage.clearance(actor)
    heights, owner = stage.heights()
    tall = actor.body.height_m / 1.75
    found = []
    for radius in np.arange(nearest_m, 0.85, 0.08) * max(tall, 0.75):
        for angle in np.linspace(0.0, 2 * np.pi, 24, endpoint=False):
            away = np.array([np.sin(angle), -np.cos(angle)])
            if front is not None and away @ front < 0.85:
                continue
            place = point[:2] + radius * away
            if stage.floor.at(clearance, place) < BODY_RADIUS_M - 0.01:
                continue
            line = stage.floor.cells(np.linspace(place, point[:2], 12))
            tops, whose = heights[tuple(line.T)], owner[tuple(line.T)]
            if ((tops > point[2] + 0.12) & ~np.isin(whose, list(owners))).any():
                continue
            cost = abs(radius - 0.45) + 0.2 * float(np.linalg.norm(place - actor.place))
            found.append((cost, place, yaw_towards(-away)))
    for _, place, yaw in sorted(found, key=lambda f: f[0])[:10]:
        if within_reach(actor, place, yaw, hands, point):
            return place, yaw
    raise Impossible(f"nowhere to stand to reach {np.round(point, 2)}")
