"""What hands and feet do on top of a posture: speak along, kick. What reaches for things is in kinematics.py.

Every function takes a pose (standing, sitting, or a moment of walking) and gives a pose; the rest of the body stays as
it is unless said otherwise. Entity frame, metres; phases go from 0 to 1. Sizes follow the body.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from psg4d_ros.data.simulation import quaternions
from psg4d_ros.data.simulation.bodies import Body, Pose
from psg4d_ros.data.simulation.limbs import SIDES, Hand, arm_m, feet, place_hand, plant_feet, trunk
from psg4d_ros.structures import Float64

STRIKE_PHASE = 0.55  # of kicking: the foot meets the ball


def before_chest(body: Body, pose: Pose, across: float, forward: float, up: float) -> Float64:
    """float64[3]: a point relative to the middle between the shoulders, in arm's lengths, turning with the chest.

    across: to the left. It is upright: leaning forward does not lower what is carried.
    """
    chest, position = trunk(body, pose)
    rest = body.rest_joints
    shoulders = position + chest @ (0.5 * (rest[8] + rest[14]) - rest[2])
    heading = math.atan2(-chest[0, 1], chest[1, 1])
    turn = quaternions.matrices(quaternions.rotation((0.0, 0.0, 1.0), heading))
    point: Float64 = shoulders + turn @ (arm_m(body, "right") * np.array([across, -forward, up]))
    return point


def talking(body: Body, pose: Pose, hand: Hand, phase: float) -> Pose:
    """One hand speaking along before the chest; phase: one gesture, from and back to where the hand was."""
    there = before_chest(body, pose, SIDES[hand] * (0.34 + 0.10 * math.sin(4 * math.pi * phase)), 0.52, -0.36)
    here = body.hand_frame(pose, hand)[:3, 3]
    w = min(1.0, 4.0 * phase, 4.0 * (1.0 - phase))
    return place_hand(body, pose, hand, (1 - w) * here + w * there, palm=np.array([0.0, -0.4, 1.0]))


def kicking(body: Body, pose: Pose, foot: Literal["left", "right"], phase: float) -> Pose:
    """A kick with the instep at a ball on the floor, from standing and back; the toes meet it at STRIKE_PHASE.

    There the toes are about ``strike_place`` in front; the other leg stands, its knee a little bent.
    """
    s, leg = SIDES[foot], body.leg_m
    keys = np.array([
        # phase, ankle forward and up in leg lengths, pitch of the foot (toes down), lean back of the trunk
        [0.00, 0.00, 0.00, 0.0, 0.00],
        [0.30, -0.46, 0.26, 1.0, -0.10],
        [STRIKE_PHASE, 0.36, 0.07, 0.35, 0.10],
        [0.70, 0.62, 0.36, 0.2, 0.16],
        [1.00, 0.00, 0.00, 0.0, 0.00],
    ])  # fmt: skip
    forward, up, pitch, back = (float(_smooth(phase, keys[:, 0], keys[:, k])) for k in (1, 2, 3, 4))
    ankles, turned = feet(body, pose)
    i = 0 if foot == "right" else 1
    ankles[i] += leg * np.array([-0.02 * s * min(1.0, 4 * abs(forward)), -forward, up])
    turned[i] = quaternions.matrices(quaternions.rotation((1.0, 0.0, 0.0), pitch)) @ turned[i]
    swing = min(1.0, 5.0 * phase, 5.0 * (1.0 - phase))
    shift = np.array([-0.05 * s * swing, 0.02 * swing, -0.035 * swing]) * leg  # onto the standing leg
    lean = quaternions.rotation((1.0, 0.0, 0.0), -back)
    arms = {
        f"{side}_shoulder": quaternions.multiply(
            quaternions.rotation((1.0, 0.0, 0.0), 0.8 * forward * (1.0 if side == foot else -1.0)),
            quaternions.rotation((0.0, 1.0, 0.0), -SIDES[side] * (0.10 + 0.35 * swing)),
        )
        for side in ("right", "left")
    }
    pose = Pose(pose.root_position + shift, quaternions.multiply(lean, pose.root_rotation), pose.joints)
    return plant_feet(body, pose.with_joints(**arms), ankles, turned)


def strike_place(body: Body, pose: Pose, foot: Literal["left", "right"]) -> Float64:
    """float64[3]: where the toes are at STRIKE_PHASE of ``kicking``: the near side of a ball should be there."""
    return body.joint_positions(kicking(body, pose, foot, STRIKE_PHASE))[f"{foot}_toes"]


def _smooth(at: float, knots: Float64, values: Float64) -> float:
    """Between knots with a smooth start and stop at each."""
    i = int(np.clip(np.searchsorted(knots, at, side="right") - 1, 0, len(knots) - 2))
    w = min(max((at - knots[i]) / (knots[i + 1] - knots[i]), 0.0), 1.0)
    w = w * w * (3.0 - 2.0 * w)
    return float((1 - w) * values[i] + w * values[i + 1])
