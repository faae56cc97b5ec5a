"""Postures and gestures of a body, in the entity frame (metres, radians; front -y, floor z = 0).

Standing, sitting and crouching have the feet about the origin, so that sitting down does not move the entity; lying has
the middle of the body above it.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from psg4d_ros.data.simulation import quaternions
from psg4d_ros.data.simulation.bodies import JOINTS, Body, Pose, blend
from psg4d_ros.data.simulation.limbs import Hand, blend_on_feet, feet, place_hand, plant_feet
from psg4d_ros.structures import Float64

LyingOn = Literal["back", "left side", "right side", "front"]
_X, _Y, _Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
_SINK_M = 0.012  # how far soft flesh and cushions give way


def resting(body: Body) -> Pose:
    """The rest pose, without any rotation."""
    identity = np.tile(quaternions.IDENTITY, (len(JOINTS), 1))
    return Pose(body.rest_joints[0].copy(), quaternions.IDENTITY.copy(), identity)


def standing(body: Body) -> Pose:
    """Upright and at ease, arms hanging a little away from the body."""
    pose = resting(body)
    return pose.with_joints(
        right_shoulder=quaternions.rotation(_Y, 0.10), left_shoulder=quaternions.rotation(_Y, -0.10),
        right_elbow=quaternions.rotation(_X, -0.22), left_elbow=quaternions.rotation(_X, -0.22),
    )  # fmt: skip


def sitting(body: Body, seat_height_m: float) -> Pose:
    """Upright on a seat, hands on the thighs, feet on the floor before it at the origin, or hanging if it is high.

    The pelvis is behind the feet; ``Pose.root_position`` tells where the middle of the seat has to be.
    """
    rest = body.rest_joints
    thigh = float(np.linalg.norm(rest[6] - rest[5]))
    shin = float(rest[6, 2] - rest[7, 2])
    hip_z = seat_height_m - float(body.points["seat"][1][2] - rest[0, 2]) - _SINK_M
    # The underside of the thighs is level, so the knees are lower than the hips by what a thigh gets thinner.
    lowest_knee = seat_height_m + 0.036 * body.height_m
    knee_z = max(float(rest[6, 2]), lowest_knee)
    back = math.sqrt(max(thigh * thigh - (knee_z - hip_z) ** 2, 0.0))
    root = quaternions.rotation(_X, -0.08)
    pose = Pose(np.array([0.0, back, hip_z]), root, resting(body).joints)
    pose = pose.with_joints(spine=quaternions.rotation(_X, 0.05), chest=quaternions.rotation(_X, 0.06))
    ankles = rest[[7, 13]].copy()
    ankles[:, 0] *= 1.25
    ankles[:, 1] = 0.01
    ankles[:, 2] = knee_z - shin + 0.002
    pose = plant_feet(body, pose, ankles, np.stack([_turned_out(-0.10), _turned_out(0.10)]))
    return hands_on_thighs(body, pose)


def hands_on_thighs(body: Body, pose: Pose) -> Pose:
    """A sitting pose with both palms laid on the thighs."""
    places = body.joint_positions(pose)
    for hand in ("right", "left"):
        hip, knee = places[f"{hand}_hip"], places[f"{hand}_knee"]
        on_top = 0.4 * hip + 0.6 * knee + [0.0, 0.0, 0.046 * body.height_m]
        pose = place_hand(body, pose, _hand(hand), on_top, palm=np.array([0.0, 0.0, -1.0]))
    return pose


def lying(body: Body, surface_height_m: float, on: LyingOn = "back") -> Pose:
    """Stretched out on a surface, the head towards +y, the middle of the body above the origin."""
    root = quaternions.rotation(_X, -math.pi / 2)
    pose = standing(body)
    if on == "back":
        pose = pose.with_joints(
            right_shoulder=quaternions.rotation(_Y, 0.22), left_shoulder=quaternions.rotation(_Y, -0.22),
            right_elbow=quaternions.rotation(_X, -0.10), left_elbow=quaternions.rotation(_X, -0.10),
            right_ankle=quaternions.rotation(_X, 0.45), left_ankle=quaternions.rotation(_X, 0.45),
            right_hip=quaternions.rotation(_Y, 0.06), left_hip=quaternions.rotation(_Y, -0.06),
            neck=quaternions.rotation(_X, 0.06),
        )  # fmt: skip
    elif on == "front":
        root = quaternions.multiply(quaternions.rotation(_Y, math.pi), root)
        pose = pose.with_joints(
            right_shoulder=quaternions.rotation(_Y, 0.30), left_shoulder=quaternions.rotation(_Y, -0.30),
            right_ankle=quaternions.rotation(_X, 1.2), left_ankle=quaternions.rotation(_X, 1.2),
            neck=quaternions.rotation(_Z, 0.6), head=quaternions.rotation(_Z, 0.6),
        )  # fmt: skip
    else:
        low, high = ("right", "left") if on == "right side" else ("left", "right")
        side = 1.0 if on == "right side" else -1.0
        root = quaternions.multiply(quaternions.rotation(_Y, -side * math.pi / 2), root)
        pose = pose.with_joints(**{
            f"{low}_hip": quaternions.rotation(_X, -0.6), f"{high}_hip": quaternions.rotation(_X, -0.9),
            f"{low}_knee": quaternions.rotation(_X, 1.0), f"{high}_knee": quaternions.rotation(_X, 1.3),
            f"{low}_shoulder": quaternions.rotation(_X, -1.2), f"{high}_shoulder": quaternions.rotation(_X, -0.7),
            f"{low}_elbow": quaternions.rotation(_X, -1.3), f"{high}_elbow": quaternions.rotation(_X, -0.9),
            "spine": quaternions.rotation(_X, 0.12), "neck": quaternions.rotation(_X, 0.15),
            "head": quaternions.rotation(_Y, side * 0.25),
        })  # fmt: skip
    pose = Pose(np.zeros(3), root, pose.joints)
    up = surface_height_m - _SINK_M - _lowest(body, pose)
    pose = pose.moved(np.array([0.0, body.leg_m - 0.5 * body.height_m, up]))
    if on in ("back", "front"):
        return pose
    # The upper hand lies down before the chest.
    front = -1.0 if on == "right side" else 1.0
    place = body.joint_positions(pose)["chest"] + np.array([front * 0.19, 0.02, 0.0]) * body.height_m
    place[2] = surface_height_m + 0.02
    return place_hand(
        body,
        pose,
        "left" if on == "right side" else "right",
        place,
        palm=np.array([0.0, 0.0, -1.0]),
        above_m=surface_height_m,
    )


def bending(body: Body, angle: float) -> Pose:
    """Standing with the trunk bent forward by ``angle`` radians (0 to 1.6), arms hanging, hips moved back."""
    pose = standing(body)
    ankles, turned = feet(body, pose)
    root = quaternions.rotation(_X, 0.5 * angle)
    shift = np.array([0.0, 0.16 * body.leg_m * math.sin(angle), -0.04 * body.leg_m * math.sin(angle)])
    pose = Pose(pose.root_position + shift, root, pose.joints).with_joints(
        spine=quaternions.rotation(_X, 0.25 * angle), chest=quaternions.rotation(_X, 0.25 * angle),
        right_shoulder=quaternions.rotation(_X, -0.95 * angle), left_shoulder=quaternions.rotation(_X, -0.95 * angle),
    )  # fmt: skip
    return plant_feet(body, pose, ankles, turned)


def crouching(body: Body, depth: float = 1.0) -> Pose:
    """On bent knees, feet flat, arms forward for balance; depth 0 is standing and 1 the thighs below level."""
    pose = standing(body)
    ankles, turned = feet(body, pose)
    ankles[:, 0] *= 1.0 + 0.35 * depth
    turned = np.stack([_turned_out(-0.25 * depth), _turned_out(0.25 * depth)]) @ turned
    down = 0.58 * depth * body.leg_m
    lean = 0.75 * depth
    pose = Pose(
        pose.root_position + np.array([0.0, 0.24 * down, -down]), quaternions.rotation(_X, 0.5 * lean), pose.joints
    )
    pose = pose.with_joints(spine=quaternions.rotation(_X, 0.3 * lean), chest=quaternions.rotation(_X, 0.2 * lean))
    arms = quaternions.rotation(_X, -1.5 * lean)
    return plant_feet(body, pose.with_joints(right_shoulder=arms, left_shoulder=arms), ankles, turned)


def transition(body: Body, a: Pose, b: Pose, w: float) -> Pose:
    """From pose ``a`` (w = 0) to ``b`` (w = 1) with a smooth start and stop; feet that stand in both stay planted."""
    s = w * w * (3.0 - 2.0 * w)
    highest = max(feet(body, a)[0][:, 2].max(), feet(body, b)[0][:, 2].max())
    if highest > float(body.rest_joints[7, 2]) + 0.04:
        return blend(a, b, s)
    return blend_on_feet(body, a, b, s)


def _turned_out(angle: float) -> Float64:
    return quaternions.matrices(quaternions.rotation(_Z, angle))


def _hand(name: str) -> Hand:
    return "right" if name == "right" else "left"


def _lowest(body: Body, pose: Pose) -> float:
    """Height of the lowest vertex of the posed body."""
    transforms = body.part_transforms(pose)
    return min(float((p.vertices @ T[2, :3]).min() + T[2, 3]) for p, T in zip(body.parts, transforms, strict=True))
