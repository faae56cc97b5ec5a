"""Arms and legs solved as two bones and a hinge: where a hand or a foot has to be tells how the limb bends."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from psg4d_ros.data.simulation import quaternions
from psg4d_ros.data.simulation.bodies import JOINT_INDEX, Body, Pose, blend
from psg4d_ros.structures import Float64

Hand = Literal["left", "right"]

_STRAIGHT = 0.9995  # a limb is never stretched quite out: there the direction of the elbow is undefined
_CLOSED_ELBOW = math.radians(28)  # angle between upper arm and forearm when fully bent
_CLOSED_KNEE = math.radians(22)
_MAX_WRIST = 1.4  # radians
SIDES = {"right": -1.0, "left": 1.0}  # sign of x
_ELBOW_HINGE = np.array([1.0, 0.0, 0.0])  # at rest
FIRST_PART = {"right": 5, "left": 11}  # hip; knee, ankle, shoulder, elbow and wrist follow


def _cross(a: Float64, b: Float64) -> Float64:
    """np.cross of two vectors, ten times faster."""
    ax, ay, az = a.tolist()
    bx, by, bz = b.tolist()
    return np.array([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])


def length(v: Float64) -> float:
    return math.sqrt(float(v @ v))


def _axes(direction: Float64, hinge: Float64) -> Float64:
    """float64[3, 3]: columns along ``direction``, ``hinge`` made perpendicular to it, and perpendicular to both."""
    # Plain numbers: for three of them numpy takes ten times as long.
    ax, ay, az = direction.tolist()
    n = 1.0 / math.sqrt(ax * ax + ay * ay + az * az)
    ax, ay, az = ax * n, ay * n, az * n
    hx, hy, hz = hinge.tolist()
    along = hx * ax + hy * ay + hz * az
    hx, hy, hz = hx - along * ax, hy - along * ay, hz - along * az
    n = 1.0 / math.sqrt(hx * hx + hy * hy + hz * hz)
    hx, hy, hz = hx * n, hy * n, hz * n
    return np.array([[ax, hx, ay * hz - az * hy], [ay, hy, az * hx - ax * hz], [az, hz, ax * hy - ay * hx]])


def _two_bones(
    start: Float64, target: Float64, bones: tuple[Float64, Float64], rest_hinge: Float64, pole: Float64, closed: float
) -> tuple[Float64, Float64]:
    """Rotations (entity frame) of two bones from ``start`` that bring the end of the second to ``target``.

    bones: rest vectors of both. rest_hinge: the axis the middle joint turns about at rest. pole: where the middle joint
    points to. closed: the smallest angle between the bones. What is too far or too near is met as nearly as possible.
    """
    first, second = bones
    l1, l2 = length(first), length(second)
    way = target - start
    nearest = math.sqrt(l1 * l1 + l2 * l2 - 2 * l1 * l2 * math.cos(closed))
    d = length(way)
    along = way / d if d > 1e-6 else first / l1
    d = min(max(d, nearest), _STRAIGHT * (l1 + l2))
    hinge = _cross(along, pole)
    if length(hinge) < 1e-3:  # the pole lies on the way itself: any side will do, so take the one of the rest pose
        hinge = rest_hinge
    axes = _axes(along, hinge)
    out = _cross(axes[:, 1], axes[:, 0])  # from the straight line towards the pole
    x = (d * d + l1 * l1 - l2 * l2) / (2 * d)
    y = math.sqrt(max(l1 * l1 - x * x, 0.0))
    middle = x * along + y * out
    upper = _axes(middle, axes[:, 1]) @ _axes(first, rest_hinge).T
    lower = _axes(d * along - middle, axes[:, 1]) @ _axes(second, rest_hinge).T
    return upper, lower


def trunk(body: Body, pose: Pose) -> tuple[Float64, Float64]:
    """Rotation float64[3, 3] and position float64[3] of the chest's joint."""
    local = quaternions.matrices(np.stack([pose.root_rotation, pose.joints[0], pose.joints[1]]))
    spine = local[0] @ local[1]
    rest = body.rest_joints
    position = pose.root_position + local[0] @ (rest[1] - rest[0]) + spine @ (rest[2] - rest[1])
    return spine @ local[2], position


def with_matrices(pose: Pose, rotations: dict[str, Float64]) -> Pose:
    """The pose with joints turned as rotation matrices relative to their parents say."""
    joints = pose.joints.copy()
    index = [JOINT_INDEX[name] for name in rotations]
    joints[index] = quaternions.from_matrices(np.stack(list(rotations.values())))
    return Pose(pose.root_position, pose.root_rotation, joints)


def feet(body: Body, pose: Pose) -> tuple[Float64, Float64]:
    """Where the ankles are, float64[2, 3], and how the feet are turned, float64[2, 3, 3]; right foot first."""
    positions, turned = _legs(body, pose)
    return positions[2], turned[2]


def _legs(body: Body, pose: Pose) -> tuple[list[Float64], list[Float64]]:
    """Hips, knees and ankles: positions float64[2, 3] and rotations float64[2, 3, 3] of what hangs on them."""
    rest = body.rest_joints
    turned = np.broadcast_to(quaternions.matrices(pose.root_rotation), (2, 3, 3))
    position, above = np.broadcast_to(pose.root_position, (2, 3)), np.broadcast_to(rest[0], (2, 3))
    local = quaternions.matrices(pose.joints[[[4, 10], [5, 11], [6, 12]]])
    positions, rotations = [], []
    for i in range(3):
        here = rest[[5 + i, 11 + i]]
        position = position + (turned @ (here - above)[..., None])[..., 0]
        turned = turned @ local[i]
        above = here
        positions.append(position)
        rotations.append(turned)
    return positions, rotations


def knee_sides(body: Body, pose: Pose) -> Float64:
    """float64[2, 3]: where the knees point, for ``plant_feet`` to leave them there; right leg first."""
    (hips, knees, ankles), turned = _legs(body, pose)
    # The front of the shin decides for a leg that is straight.
    sides: Float64 = knees - 0.5 * (hips + ankles) - 0.02 * turned[1][:, :, 1]
    return sides


def plant_feet(body: Body, pose: Pose, ankles: Float64, turned: Float64, *, knees: Float64 | None = None) -> Pose:
    """The pose with its legs bent so that the feet stand where ``feet`` said: the pelvis may have moved meanwhile.

    ankles: float64[2, 3]. turned: float64[2, 3, 3], rotations of the feet in the entity frame; right foot first.
    knees: float64[2, 3], directions the knees point in; None: where the toes and the pelvis point. A leg that is too
    short ends on the line towards its place.
    """
    pelvis = quaternions.matrices(pose.root_rotation)
    rest = body.rest_joints
    rotations: dict[str, Float64] = {}
    for i, side in enumerate(("right", "left")):
        k = FIRST_PART[side]
        hip = pose.root_position + pelvis @ (rest[k] - rest[0])
        bones = (rest[k + 1] - rest[k], rest[k + 2] - rest[k + 1])
        # Toes tell the side, the pelvis keeps the knee in front of the body when a foot points up or down.
        pole = -turned[i][:, 1] - 0.5 * pelvis[:, 1] + 0.3 * turned[i][:, 2] if knees is None else knees[i]
        upper, lower = _two_bones(hip, ankles[i], bones, np.array([-1.0, 0.0, 0.0]), pole, _CLOSED_KNEE)
        rotations[f"{side}_hip"] = pelvis.T @ upper
        rotations[f"{side}_knee"] = upper.T @ lower
        rotations[f"{side}_ankle"] = lower.T @ turned[i]
    return with_matrices(pose, rotations)


def place_hand(
    body: Body, pose: Pose, hand: Hand, target: Float64, *, palm: Float64 | None = None, above_m: float = 0.0
) -> Pose:
    """The pose with one arm moved so that its palm is at ``target`` (float64[3]), the trunk left alone.

    palm: the direction the palm should look in (float64[3], entity frame); met by turning the forearm as far as it
    goes. None: it looks inwards, the thumb up when the forearm is level. above_m: the wrist bends so that the fingers
    stay above this height (the floor, or what the palm is laid on). Too far a target is pointed at.
    """
    chest, position = trunk(body, pose)
    return with_matrices(pose, arm_rotations(body, hand, chest, position, target, palm, above_m))


def blend_on_feet(body: Body, a: Pose, b: Pose, w: float) -> Pose:
    """``blend`` for people on their feet: the ankles go straight from their place in ``a`` to their place in ``b``.

    Feet that stand in the same place in both stay there; blending the joints alone would sink them into the floor.
    """
    (ankles_a, turned_a), (ankles_b, turned_b) = feet(body, a), feet(body, b)
    q = quaternions.slerp(quaternions.from_matrices(turned_a), quaternions.from_matrices(turned_b), w)
    pose = blend(a, b, w)
    ankles = (1 - w) * ankles_a + w * ankles_b
    return plant_feet(body, pose, ankles, quaternions.matrices(q), knees=knee_sides(body, pose))


def arm_m(body: Body, hand: Hand) -> float:
    """From the shoulder to the palm, stretched out."""
    k, rest = FIRST_PART[hand] + 3, body.rest_joints
    return length(rest[k + 1] - rest[k]) + length(body.points[f"{hand}_hand"][1] - rest[k + 1])


def arm_rotations(
    body: Body, hand: Hand, chest: Float64, position: Float64, target: Float64, palm: Float64 | None, above_m: float
) -> dict[str, Float64]:
    """What ``place_hand`` does, for a chest's rotation and position: matrices relative to the parents by joint."""
    k, side = FIRST_PART[hand] + 3, SIDES[hand]
    rest, on_palm = body.rest_joints, body.points[f"{hand}_hand"][1]
    shoulder = position + chest @ (rest[k] - rest[2])
    local = chest.T @ (target - shoulder)
    # The elbow hangs, a little outwards; it goes out more the nearer the hand comes to the body.
    pole = chest @ np.array([side * (0.35 + 0.4 * max(0.0, -side * local[0]) / body.height_m), 0.30, -1.0])
    upper_arm, inwards = rest[k + 1] - rest[k], np.array([-side, 0.0, 0.0])

    def solved(end: Float64, forearm: Float64) -> tuple[Float64, Float64]:
        upper, lower = _two_bones(shoulder, end, (upper_arm, forearm), _ELBOW_HINGE, pole, _CLOSED_ELBOW)
        return upper, lower if palm is None else _twisted(lower, forearm, inwards, palm)

    # Forearm and hand in one line; where the fingers would go too low, the hand is lifted and the wrist put behind it.
    upper, lower = solved(target, on_palm - rest[k + 1])
    held = _fingers_lifted(lower, float(target[2]) - above_m, body.height_m)
    if held is not lower:
        upper, lower = solved(target - held @ (on_palm - rest[k + 2]), rest[k + 2] - rest[k + 1])
    return {
        f"{hand}_shoulder": chest.T @ upper,
        f"{hand}_elbow": upper.T @ lower,
        f"{hand}_wrist": lower.T @ held,
    }


def _fingers_lifted(turned: Float64, palm_m: float, height_m: float) -> Float64:
    """The hand's rotation, tilted until its fingers do not reach deeper than ``palm_m`` below the palm."""
    lowest = min(max((0.006 * height_m - palm_m) / (0.052 * height_m), -1.0), 0.3)  # of the fingers' direction
    fingers = -turned[:, 2]
    if float(fingers[2]) >= lowest:
        return turned
    axis = np.array([-fingers[1], fingers[0], 0.0])  # turning about it lowers what points along the fingers
    if length(axis) < 0.05:
        axis = turned[:, 0].copy()
        axis[2] = 0.0
    angle = min(math.asin(lowest) - math.asin(max(float(fingers[2]), -1.0)), _MAX_WRIST)
    tilted = quaternions.matrices(quaternions.rotation(axis, -angle)) @ turned
    other = quaternions.matrices(quaternions.rotation(axis, angle)) @ turned
    best: Float64 = tilted if tilted[2, 2] < other[2, 2] else other
    return best


def _twisted(lower: Float64, bone: Float64, rest_palm: Float64, palm: Float64) -> Float64:
    """The forearm's rotation, turned about the line from elbow to palm so that the palm looks towards ``palm``."""
    axis = lower @ (bone / length(bone))
    now = lower @ rest_palm
    now, want = now - (now @ axis) * axis, palm - (palm @ axis) * axis
    if length(want) < 1e-3:
        return lower
    angle = math.atan2(float(axis @ _cross(now, want)), float(now @ want))
    angle = min(max(angle, -1.7), 1.7)
    turn: Float64 = quaternions.matrices(quaternions.rotation(axis, angle)) @ lower
    return turn
