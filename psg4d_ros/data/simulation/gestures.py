"""What hands and feet do on top of a posture: hold, drink, read, type, wave, push, throw, kick.

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

RELEASE_PHASE = 0.62  # of throwing: the thing leaves the hand
STRIKE_PHASE = 0.55  # of kicking: the foot meets the ball
_DOWN = np.array([0.0, 0.0, -1.0])


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


def holding(body: Body, pose: Pose, hand: Hand, *, lifted: float = 0.0) -> Pose:
    """A thing carried in one hand: forearm level in front of the hip; lifted 1: in front of the face."""
    return place_hand(body, pose, hand, before_chest(body, pose, 0.26 * SIDES[hand], 0.56, -0.52 + 0.55 * lifted))


def holding_both(body: Body, pose: Pose, width_m: float, *, lifted: float = 0.0) -> Pose:
    """A thing of that width carried between both palms in front of the belly; lifted 1: in front of the face."""
    middle = before_chest(body, pose, 0.0, 0.60, -0.46 + 0.5 * lifted)
    for hand in _BOTH:
        pose = place_hand(body, pose, hand, middle + _across(body, pose) * (0.5 * width_m * SIDES[hand]))
    return pose


def drinking(body: Body, pose: Pose, hand: Hand, w: float) -> Pose:
    """From ``holding`` (w = 0) to a cup at the mouth (w = 1), the head tilting back a little at the end."""
    tilt = 0.22 * max(0.0, w - 0.6) / 0.4
    head = quaternions.multiply(pose.joint("head"), quaternions.rotation((1.0, 0.0, 0.0), -tilt))
    pose = pose.with_joints(head=head)
    turned, positions = body.frames(pose)
    index, mouth = body.points["mouth"]
    # The palm is beside the cup, and the rim at the lips.
    before = np.array([0.025 * SIDES[hand], -0.040, -0.030]) * body.height_m
    lips = positions[index] + turned[index] @ (mouth - body.rest_joints[index] + before)
    start = body.hand_frame(holding(body, pose, hand), hand)[:3, 3]
    out = before_chest(body, pose, 0.2 * SIDES[hand], 0.6, -0.2)  # the way bends outwards round the chest
    return place_hand(body, pose, hand, _curve(start, out, lips, w))


def reading(body: Body, pose: Pose, width_m: float = 0.25) -> Pose:
    """A book or a sheet held open in both hands before the chest, palms up and in, the head bent over it."""
    middle = before_chest(body, pose, 0.0, 0.58, -0.34)
    for hand in _BOTH:
        place = middle + _across(body, pose) * (0.5 * width_m * SIDES[hand])
        pose = place_hand(body, pose, hand, place)
    nod = quaternions.rotation((1.0, 0.0, 0.0), 0.24)
    return pose.with_joints(neck=nod, head=nod)


def typing(body: Body, pose: Pose, keys: Float64, phase: float) -> Pose:
    """Both palms just over a keyboard or a table top at ``keys`` (float64[3]), tapping; phase: one tap of either."""
    for k, hand in enumerate(_BOTH):
        lift = 0.012 * (1.0 + math.sin(2 * math.pi * (phase + 0.5 * k)))
        place = keys + _across(body, pose) * (0.055 * SIDES[hand]) + [0.0, 0.0, 0.012 + lift]
        pose = place_hand(body, pose, hand, place, palm=_DOWN, above_m=float(keys[2]))
    return pose


def hands_on(body: Body, pose: Pose, place: Float64, spread_m: float = 0.34) -> Pose:
    """Both palms laid on a level surface, ``spread_m`` apart around ``place`` (float64[3])."""
    for hand in _BOTH:
        beside = place + _across(body, pose) * (0.5 * spread_m * SIDES[hand])
        pose = place_hand(body, pose, hand, beside, palm=_DOWN, above_m=float(place[2]))
    return pose


def phoning(body: Body, pose: Pose, hand: Hand) -> Pose:
    """A telephone held to the ear."""
    turned, positions = body.frames(pose)
    size = body.height_m
    ear = body.rest_joints[4] + np.array([0.052 * SIDES[hand], -0.006, 0.035]) * size
    return place_hand(body, pose, hand, positions[4] + turned[4] @ (ear - body.rest_joints[4]))


def waving(body: Body, pose: Pose, hand: Hand, phase: float) -> Pose:
    """The hand beside the head, palm to the front, moving from side to side; phase: one wave."""
    place = before_chest(body, pose, SIDES[hand] * (0.62 + 0.14 * math.sin(2 * math.pi * phase)), 0.28, 0.48)
    return place_hand(body, pose, hand, place, palm=np.array([0.0, -1.0, 0.0]))


def talking(body: Body, pose: Pose, hand: Hand, phase: float) -> Pose:
    """One hand speaking along before the chest; phase: one gesture, from and back to where the hand was."""
    there = before_chest(body, pose, SIDES[hand] * (0.34 + 0.10 * math.sin(4 * math.pi * phase)), 0.52, -0.36)
    here = body.hand_frame(pose, hand)[:3, 3]
    w = min(1.0, 4.0 * phase, 4.0 * (1.0 - phase))
    return place_hand(body, pose, hand, (1 - w) * here + w * there, palm=np.array([0.0, -0.4, 1.0]))


def pushing(body: Body, pose: Pose, handles: Float64) -> Pose:
    """Leaning into something that both palms push at ``handles`` (float64[2, 3], right and left)."""
    ankles, turned = feet(body, pose)
    lean = quaternions.rotation((1.0, 0.0, 0.0), 0.12)
    pose = Pose(pose.root_position, quaternions.multiply(lean, pose.root_rotation), pose.joints)
    pose = pose.with_joints(spine=quaternions.multiply(lean, pose.joint("spine")))
    pose = plant_feet(body, pose, ankles, turned)
    for hand, place in zip(_BOTH, handles, strict=True):
        pose = place_hand(body, pose, hand, place, palm=np.array([0.0, -1.0, 0.2]))
    return pose


def throwing(body: Body, pose: Pose, hand: Hand, phase: float) -> Pose:
    """An overarm throw forward from ``holding``: back over the shoulder, forward, let go at RELEASE_PHASE, down."""
    s = SIDES[hand]
    # phase, turn of the shoulders to the throwing side, palm: across, forward, up in arm's lengths
    keys = np.array([
        [0.00, 0.0, 0.26 * s, 0.56, -0.52],
        [0.38, 0.7, 0.60 * s, -0.30, 0.40],
        [RELEASE_PHASE, -0.15, 0.25 * s, 0.72, 0.42],
        [0.78, -0.5, -0.05 * s, 0.75, -0.40],
        [1.00, -0.1, 0.20 * s, 0.35, -0.85],
    ])  # fmt: skip
    turn, across, forward, up = (float(_smooth(phase, keys[:, 0], keys[:, k])) for k in (1, 2, 3, 4))
    half = quaternions.rotation((0.0, 0.0, 1.0), 0.5 * s * turn)
    bent = quaternions.rotation((1.0, 0.0, 0.0), -0.20 * turn)
    pose = pose.with_joints(
        spine=quaternions.multiply(half, pose.joint("spine")),
        chest=quaternions.multiply(half, quaternions.multiply(bent, pose.joint("chest"))),
    )
    return place_hand(body, pose, hand, before_chest(body, pose, across, forward, up), palm=np.array([0.0, -1.0, 0.0]))


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


_BOTH: tuple[Hand, Hand] = ("right", "left")


def _across(body: Body, pose: Pose) -> Float64:
    """float64[3]: level, from the right shoulder to the left."""
    chest, _ = trunk(body, pose)
    left = np.array([chest[0, 0], chest[1, 0], 0.0])
    return left / math.hypot(left[0], left[1])


def _curve(start: Float64, middle: Float64, end: Float64, w: float) -> Float64:
    """A quadratic Bézier curve."""
    point: Float64 = (1 - w) ** 2 * start + 2 * w * (1 - w) * middle + w * w * end
    return point


def _smooth(at: float, knots: Float64, values: Float64) -> float:
    """Between knots with a smooth start and stop at each."""
    i = int(np.clip(np.searchsorted(knots, at, side="right") - 1, 0, len(knots) - 2))
    w = min(max((at - knots[i]) / (knots[i + 1] - knots[i]), 0.0), 1.0)
    w = w * w * (3.0 - 2.0 * w)
    return float((1 - w) * values[i] + w * values[i + 1])
