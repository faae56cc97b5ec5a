"""What people do with their bodies and with each other: sit, lie, look, talk, read, type, use, play."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from psg4d_ros.data.simulation.acting import (
    Activity,
    Impossible,
    angle_between,
    attending,
    in_view,
    ramp,
    together,
    wait,
)
from psg4d_ros.data.simulation.bodies import Pose, blend
from psg4d_ros.data.simulation.doors import turn_about
from psg4d_ros.data.simulation.frames import facing, placed, yaw_of, yaw_towards
from psg4d_ros.data.simulation.gestures import talking
from psg4d_ros.data.simulation.locomotion import beside, go, turn_to
from psg4d_ros.data.simulation.navigation import smooth_step
from psg4d_ros.data.simulation.poses import lying, sitting, standing, transition
from psg4d_ros.data.simulation.stage import Actor, Stage
from psg4d_ros.data.simulation.world import STEP_S, Surface
from psg4d_ros.structures import Float64

_THIGH_SHARE = 0.62  # of the distance from feet to pelvis that lies on a seat, at most
_TAKES_WEIGHT = 0.85  # of the way down
_BODY_CLEAR_M = 0.07  # about the radius of a thigh or shin


def seat_places(stage: Stage, actor: Actor, seat: int, index: int) -> list[tuple[Float64, float]]:
    """Where the feet go and which yaw somebody has who sits on a seat: one place on a chair, several on a sofa."""
    surface, T = stage.surface(seat, index)
    height = float(T[2, 3]) + surface.center[2]
    pose = sitting(actor.body, height - actor.height_m)
    width, depth = surface.size
    back = float(pose.root_position[1])
    # The pelvis is as far back as it fits, but the knees are never behind the front edge.
    behind = min(depth - 0.14 * actor.body.height_m / 1.75, back * _THIGH_SHARE)
    front = surface.center[1] - depth / 2
    seats = max(int(width / 0.6), 1)
    out = []
    for k in range(seats):
        x = surface.center[0] + (k + 0.5) / seats * width - width / 2
        feet = T[:3, :3] @ np.array([x, front + behind - back, 0.0]) + T[:3, 3]
        out.append((feet[:2], yaw_of(T)))
    return out


def pelvis_on(stage: Stage, actor: Actor, place: Float64, yaw: float, height_m: float) -> Float64:
    """float64[3]: where the pelvis of somebody is who sits with the feet at ``place``, world frame."""
    T = placed(place[0], place[1], 0.0, yaw)
    return T[:3, :3] @ sitting(actor.body, height_m).root_position + T[:3, 3]


def seat_is_free(stage: Stage, actor: Actor, seat: int, index: int, place: Float64, yaw: float) -> bool:
    """Nobody and nothing is where somebody would sit."""
    surface, T = stage.surface(seat, index)
    pelvis = pelvis_on(stage, actor, place, yaw, float(T[2, 3]) + surface.center[2])[:2]
    for other in stage.actors.values():
        at = other.to_world(other.points["pelvis"])[:2]
        if other is not actor and np.linalg.norm(at - pelvis) < 0.55:
            return False
    for thing in stage.on(seat):
        entity = stage.entity(thing)
        if entity.body is None:
            apart = float(np.linalg.norm(stage.pose(thing)[:2, 3] - pelvis))
            if apart < 0.22 + 0.5 * max(entity.size[:2]):
                return False
    return True


@dataclass(frozen=True, eq=False)
class Seating:
    """How somebody sits on a seat. place, yaw: of the entity frame when seated. enter: where one stands before; at a
    table that is beside the chair. pose: seated, entity frame.
    """

    surface: int
    place: Float64
    yaw: float
    enter: Float64 | None
    pose: Pose


def find_seat(stage: Stage, actor: Actor, seat: int) -> Seating:
    """The nearest way to sit on something. Raises Impossible when it is taken or the body does not fit."""
    clearance = stage.clearance(actor)
    found: list[tuple[float, Seating]] = []
    for index, surface in enumerate(stage.entity(seat).surfaces):
        if surface.kind != "seat" or not 0.2 < surface.center[2] < 0.62 * actor.body.leg_m + 0.35:
            continue
        height = float(stage.surface(seat, index)[1][2, 3]) + surface.center[2]
        pose = sitting(actor.body, height)
        for place, yaw in seat_places(stage, actor, seat, index):
            if not seat_is_free(stage, actor, seat, index, place, yaw):
                continue
            if not _fits(stage, actor, pose, place, yaw, seat):
                continue
            enter = _entrance(stage, clearance, seat, index, place, yaw)
            cost = float(np.linalg.norm(place - actor.place)) + (3.0 if enter is None else 0.0)
            found.append((cost, Seating(index, place, yaw, enter, pose)))
    if not found:
        raise Impossible(f"nobody can sit on {seat} now")
    return min(found, key=lambda f: f[0])[1]


def _fits(stage: Stage, actor: Actor, pose: Pose, place: Float64, yaw: float, seat: int) -> bool:
    """Whether the body in a pose keeps clear of everything but its seat."""
    joints = actor.body.joint_positions(pose)
    names = (
        "pelvis",
        "chest",
        "head",
        "right_knee",
        "left_knee",
        "right_ankle",
        "left_ankle",
        "right_toes",
        "left_toes",
    )
    points = [joints[n] for n in names]
    for side in ("right", "left"):
        points += [0.5 * (joints[f"{side}_knee"] + joints[f"{side}_ankle"])]
        points += [0.5 * (joints[f"{side}_knee"] + joints[f"{side}_hip"])]
    T = placed(place[0], place[1], actor.height_m, yaw)
    body = np.stack(points) @ T[:3, :3].T + T[:3, 3]
    around = stage.points_near(place, 0.9, frozenset({seat, *stage.on(seat)}))
    if not len(around):
        return True
    distance, _ = cKDTree(around).query(body)
    return bool(np.min(distance) > _BODY_CLEAR_M)


def _entrance(stage: Stage, clearance: Float64, seat: int, index: int, place: Float64, yaw: float) -> Float64 | None:
    """Where to stand before sitting down: before the seat if the floor is free, else beside it; None: nowhere."""
    ahead = stage.floor.at(clearance, place + 0.12 * facing(yaw))
    if stage.floor.at(clearance, place) >= 0.07 and ahead >= 0.12:
        return place
    surface, T = stage.surface(seat, index)
    entity = stage.entity(seat)
    vertices = np.concatenate([p.vertices for p in entity.parts])
    beside_seat = np.abs(vertices[:, 0] - surface.center[0]) > 0.35 * surface.size[0]
    front_half = vertices[:, 1] < surface.center[1] + 0.1 * surface.size[1]
    if (beside_seat & front_half & (vertices[:, 2] > surface.center[2] + 0.1)).any():
        return None  # the arms of the chair are in the way
    left, back = T[:2, 0], T[:2, 1]
    for behind in (0.1, 0.2, 0.3, 0.4, 0.5):
        for side in (1.0, -1.0):
            enter: Float64 = place + side * left * (0.5 * entity.size[0] + 0.26) + back * behind
            if stage.floor.at(clearance, enter) >= 0.2:
                return enter
    return None


def sit_down(stage: Stage, actor: Actor, seat: int) -> Activity:
    """Go to a seat and sit down on it; on a chair at a table from the side."""
    seating = find_seat(stage, actor, seat)
    if seating.enter is None:
        raise Impossible(f"nobody gets onto {seat}")
    yield from go(stage, actor, seating.enter, target=seat)
    yield from turn_about(actor, seating.yaw)
    with stage.fact(actor.entity_id, "sitting down on", seat):
        yield from _lower(stage, actor, seat, seating)


def _lower(stage: Stage, actor: Actor, seat: int, seating: Seating) -> Activity:
    upright, start = standing(actor.body), actor.place
    sideways = float(np.linalg.norm(seating.place - start))
    steps = round((1.2 + sideways) / STEP_S)
    for k in range(1, steps + 1):
        actor.base = transition(actor.body, upright, seating.pose, k / steps)
        actor.place = start + (seating.place - start) * smooth_step(1.15 * k / steps)
        if k >= _TAKES_WEIGHT * steps:
            _sits(stage, actor, seat, seating)
        yield
    actor.base, actor.place = seating.pose, seating.place


def _sits(stage: Stage, actor: Actor, seat: int, seating: Seating) -> None:
    if actor.posture != "sitting":
        stage.set_posture(actor, "sitting")
        stage.carry(actor.entity_id, seat, seating.surface)
        actor.seat = actor.near = seat
        actor.way_out = seating.enter


def _stands(stage: Stage, actor: Actor) -> None:
    if actor.posture != "standing":
        stage.set_posture(actor, "standing")
        stage.carry(actor.entity_id, stage.floor_below(actor.place), stage.room_surface(actor.place))
        actor.seat = None


def start_seated(stage: Stage, actor: Actor, seat: int, *, for_good: bool = True) -> None:
    """Somebody already sits when the scene begins. Raises Impossible when the seat is not free.

    for_good: also where one cannot get out again, between chair and table.
    """
    seating = find_seat(stage, actor, seat)
    if seating.enter is None and not for_good:
        raise Impossible(f"nobody gets out of {seat}")
    actor.place, actor.yaw, actor.base = seating.place, seating.yaw, seating.pose
    _sits(stage, actor, seat, seating)


def stand_up(stage: Stage, actor: Actor) -> Activity:
    """Rise from what one sits on, to where one came from."""
    seat, out, start = actor.seat, actor.way_out, actor.place
    if actor.posture != "sitting" or seat is None or out is None:
        raise Impossible("does not sit, or does not get out")
    if any(np.linalg.norm(o.place - out) < 0.5 for o in stage.actors.values() if o is not actor):
        raise Impossible("somebody stands in the way")
    seated, upright = actor.base, standing(actor.body)
    with stage.fact(actor.entity_id, "standing up from", seat):
        steps = round((1.1 + float(np.linalg.norm(out - start))) / STEP_S)
        for k in range(1, steps + 1):
            actor.base = transition(actor.body, seated, upright, k / steps)
            actor.place = start + (out - start) * smooth_step(1.15 * k / steps - 0.15)
            if k > (1 - _TAKES_WEIGHT) * steps:
                _stands(stage, actor)
            yield
    actor.base, actor.place = upright, out
    actor.near = seat


def lying_place(stage: Stage, actor: Actor, bed: int) -> tuple[int, Surface, Float64, float, Float64, float]:
    """For lying down: surface, where the feet go to sit down on the edge first and with which yaw, and the place and
    yaw of the entity frame when the person lies. Raises Impossible when no side of the bed is free."""
    clearance = stage.clearance(actor)
    for index, surface in enumerate(stage.entity(bed).surfaces):
        if surface.kind != "lying" or max(surface.size) < actor.body.height_m * 0.97:
            continue
        surface, T = stage.surface(bed, index)
        along_x = surface.size[0] > surface.size[1]
        yaw_lying = yaw_of(T) + (np.pi / 2 if along_x else 0.0)  # the head towards the back of a bed
        height = float(T[2, 3]) + surface.center[2]
        back = float(sitting(actor.body, height).root_position[1])
        sides = ((0.0, -1.0),) if along_x else ((-1.0, 0.0), (1.0, 0.0))
        found = []
        for side in sides:
            half = surface.size[1] / 2 if along_x else surface.size[0] / 2
            out = np.array(side)
            edge = np.array(surface.center[:2]) + out * half
            feet = edge + out * (back - 0.3)
            lane = np.array(surface.center[:2]) + out * max(half - 0.55, 0.0)
            feet_w = (T[:3, :3] @ np.append(feet, 0.0) + T[:3, 3])[:2]
            lane_w = (T[:3, :3] @ np.append(lane, 0.0) + T[:3, 3])[:2]
            yaw = yaw_towards(T[:2, :2] @ out)
            free = stage.floor.at(clearance, feet_w + 0.15 * facing(yaw))
            taken = any(
                np.linalg.norm(o.to_world(o.points["pelvis"])[:2] - lane_w) < 0.6
                for o in stage.actors.values()
                if o is not actor
            )
            on_lane = [
                t for t in stage.on(bed)
                if stage.entity(t).body is None and stage.entity(t).label not in ("pillow", "blanket")
                and abs((stage.pose(t)[:2, 3] - lane_w) @ facing(yaw)) < 0.22 + 0.4 * max(stage.entity(t).size[:2])
            ]  # fmt: skip
            if free >= 0.15 and stage.floor.at(clearance, feet_w) >= 0.04 and not taken and not on_lane:
                found.append((free, index, surface, feet_w, yaw, lane_w, yaw_lying))
        if found:
            return max(found, key=lambda f: f[0])[1:]
    raise Impossible(f"nobody can lie down on {bed} now")


def lie_down(stage: Stage, actor: Actor, bed: int) -> Activity:
    """Go to a bed or sofa, sit down on its edge and lie down."""
    index, surface, feet, yaw, lane, yaw_lying = lying_place(stage, actor, bed)
    yield from go(stage, actor, feet, target=bed)
    yield from turn_about(actor, yaw)
    height = float(stage.surface(bed, index)[1][2, 3]) + surface.center[2]
    edge = Seating(index, feet, yaw, feet, sitting(actor.body, height))
    with stage.fact(actor.entity_id, "sitting down on", bed):
        yield from _lower(stage, actor, bed, edge)
    yield from wait(0.3)
    yield from _between_seat_and_bed(actor, edge.pose, lying(actor.body, height), lane, yaw_lying, 1.8)
    stage.set_posture(actor, "lying")


def start_lying(stage: Stage, actor: Actor, bed: int) -> None:
    """Somebody already lies when the scene begins. Raises Impossible when the bed is not free."""
    index, surface, feet, yaw, lane, yaw_lying = lying_place(stage, actor, bed)
    height = float(stage.surface(bed, index)[1][2, 3]) + surface.center[2]
    actor.place, actor.yaw, actor.base = lane, yaw_lying, lying(actor.body, height)
    _sits(stage, actor, bed, Seating(index, feet, yaw, feet, actor.base))
    stage.set_posture(actor, "lying")


def get_up(stage: Stage, actor: Actor) -> Activity:
    """From lying to sitting on the edge and standing."""
    bed = actor.seat
    if actor.posture != "lying" or bed is None:
        raise Impossible("does not lie")
    index, surface, feet, yaw, _, _ = lying_place(stage, actor, bed)
    height = float(stage.surface(bed, index)[1][2, 3]) + surface.center[2]
    seated = sitting(actor.body, height)
    stage.set_posture(actor, "sitting")
    actor.way_out = feet
    yield from _between_seat_and_bed(actor, actor.base, seated, feet, yaw, 1.6)
    yield from wait(0.3)
    yield from stand_up(stage, actor)


def _between_seat_and_bed(actor: Actor, a: Pose, b: Pose, place: Float64, yaw: float, seconds: float) -> Activity:
    """The pelvis goes straight from where it is to where it will be while the body turns and stretches or bends."""
    from_yaw, angle = actor.yaw, angle_between(actor.yaw, yaw)
    start = actor.to_world(a.root_position)
    T = placed(place[0], place[1], actor.height_m, yaw)
    end = T[:3, :3] @ b.root_position + T[:3, 3]
    for w in ramp(seconds):
        pose = blend(a, b, w)
        actor.yaw = from_yaw + angle * w
        pelvis = (1 - w) * start + w * end
        R = placed(0.0, 0.0, 0.0, actor.yaw)[:3, :3]
        actor.place = (pelvis - R @ (pose.root_position * [1.0, 1.0, 0.0]))[:2]
        actor.base = pose.moved(np.array([0.0, 0.0, pelvis[2] - actor.height_m - pose.root_position[2]]))
        yield
    actor.place, actor.yaw, actor.base = place, yaw, b


def look(stage: Stage, actor: Actor, target: int, seconds: float) -> Activity:
    """Look at something, and turn to it first if the neck alone does not get there."""
    way = stage.middle(target)[:2] - actor.place
    off = abs(angle_between(actor.yaw, yaw_towards(way)))
    if actor.posture == "standing" and off > 0.8:
        yield from turn_to(stage, actor, target)
    elif off > 1.2 or actor.posture == "lying":
        raise Impossible("cannot turn to it")
    with attending(stage, actor, target):
        yield from wait(seconds)


def converse(stage: Stage, a: Actor, b: Actor, seconds: float) -> Activity:
    """Two turn to each other, look at each other and talk."""
    yield from together(_face(stage, a, b), _face(stage, b, a))
    if not (in_view(stage, a, b.entity_id) and in_view(stage, b, a.entity_id)):
        raise Impossible("one sits with the back to the other")
    with (
        stage.fact(a.entity_id, "talking to", b.entity_id),
        stage.fact(b.entity_id, "talking to", a.entity_id),
        attending(stage, a, b.entity_id),
        attending(stage, b, a.entity_id),
    ):
        yield from _speak(a, b, seconds)
    a.near, b.near = b.entity_id, a.entity_id


def _speak(a: Actor, b: Actor, seconds: float) -> Activity:
    """One after the other, with a hand that speaks along if it is free."""
    bases = {a.entity_id: a.base, b.entity_id: b.base}
    turn_steps = 24
    for k in range(round(seconds / STEP_S)):
        speaker = (a, b)[(k // turn_steps) % 2]
        hand = speaker.free_hand()
        for actor in (a, b):
            actor.base = bases[actor.entity_id]
        if hand is not None and speaker.posture != "lying":
            speaker.base = talking(speaker.body, speaker.base, hand, (k % turn_steps) / turn_steps)
        yield
    for actor in (a, b):
        actor.base = bases[actor.entity_id]


def _face(stage: Stage, actor: Actor, other: Actor) -> Activity:
    if actor.posture == "standing":
        yield from turn_to(stage, actor, other.entity_id)
    yield


def walk_up_and_talk(stage: Stage, actor: Actor, other: Actor, seconds: float) -> Activity:
    """Walk up to somebody and have a conversation."""
    sits = other.posture != "standing"
    place = beside(stage, actor, other.entity_id, 1.0 if sits else 0.85, in_front=sits)
    yield from go(stage, actor, place, target=other.entity_id)
    yield from converse(stage, actor, other, seconds)
