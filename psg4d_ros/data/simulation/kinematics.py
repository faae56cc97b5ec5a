"""What a body does with a target: reach for it and look at it (entity frame, metres, radians)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from psg4d_ros.data.simulation import quaternions
from psg4d_ros.data.simulation.bodies import Body, Pose
from psg4d_ros.data.simulation.limbs import (
    FIRST_PART,
    Hand,
    arm_m,
    arm_rotations,
    feet,
    length,
    plant_feet,
    trunk,
    with_matrices,
)
from psg4d_ros.structures import Float64

Hands = Literal["left", "right", "both"]

_MAX_LEAN = 1.4  # radians, hips and back together
_MAX_SEATED_LEAN = 0.95
_MAX_CROUCH = 0.63  # of the height of the hips
_MAX_TWIST = 0.9  # radians between pelvis and shoulders
_MAX_HEAD_TURN, _MAX_HEAD_DOWN, _MAX_HEAD_UP = 1.3, 0.85, 0.8
_UP = (0.0, 0.0, 1.0)
_EFFORTS = np.linspace(0.0, 1.0, 33)


def palm_gap(body: Body, pose: Pose, hand: Hand, target: Float64) -> float:
    """Metres from the palm to ``target``: more than a centimetre after ``reach`` says that it is out of reach."""
    return length(body.hand_frame(pose, hand)[:3, 3] - target)


def reach(
    body: Body, pose: Pose, hand: Hands, target: Float64, *, spread_m: float = 0.3, palm: Float64 | None = None
) -> Pose:
    """The pose with a palm brought to ``target`` (float64[3]); with "both", palms ``spread_m`` apart around it.

    The arm alone where it is long enough; else the body also turns and leans towards the target and, standing, crouches
    for a low one, just as far as needed, the feet staying where they are. Somebody sitting leans only, somebody lying
    moves only the arm. Nearby targets give nearby poses. ``palm_gap`` tells whether it was reached. Two hands at things
    of width w hold them with spread_m = w and palms that look at each other (palm None).
    """
    pelvis = quaternions.matrices(pose.root_rotation)
    ankles, turned = feet(body, pose)
    aim = _goals(pelvis, hand, target, spread_m)
    before, _ = trunk(body, pose)
    if float(pelvis[2, 2]) > 0.5:
        standing = float(pose.root_position[2] - ankles[:, 2].max()) > 0.6 * body.leg_m
        leaned = _lean(body, pose, pelvis, aim, target, standing)
        if leaned is not pose:
            pose = plant_feet(body, leaned, ankles, turned)
    chest, position = trunk(body, pose)
    rotations: dict[str, Float64] = {}
    for name, goal in aim.items():
        rotations.update(arm_rotations(body, name, chest, position, goal, palm, 0.0))
    if len(aim) == 1:
        rotations.update(_hanging(body, pose, "left" if hand == "right" else "right", before, chest, position))
    return with_matrices(pose, rotations)


def _hanging(
    body: Body, pose: Pose, hand: Hand, before: Float64, chest: Float64, position: Float64
) -> dict[str, Float64]:
    """The arm that does not reach hangs, or holds, as it did before the chest turned; near the floor it bends."""
    shoulder, elbow = quaternions.matrices(np.stack([pose.joint(f"{hand}_shoulder"), pose.joint(f"{hand}_elbow")]))
    k, arm = FIRST_PART[hand] + 3, arm_m(body, hand)
    height_m = float((position + chest @ (body.rest_joints[k] - body.rest_joints[2]))[2])
    needed = 1.9 * min(max((1.35 * arm - height_m) / (0.6 * arm), 0.0), 1.0)
    bent = 2.0 * math.acos(min(abs(float(pose.joint(f"{hand}_elbow")[0])), 1.0))
    if needed > bent:
        elbow = elbow @ quaternions.matrices(quaternions.rotation((-1.0, 0.0, 0.0), needed - bent))
    return {f"{hand}_shoulder": chest.T @ before @ shoulder, f"{hand}_elbow": elbow}


def _goals(pelvis: Float64, hand: Hands, target: Float64, spread_m: float) -> dict[Hand, Float64]:
    if hand == "both":
        across = np.array([pelvis[0, 0], pelvis[1, 0], 0.0])  # the body's left
        half = across * (0.5 * spread_m / length(across))
        return {"right": target - half, "left": target + half}
    return {hand: target}


def _lean(body: Body, pose: Pose, pelvis: Float64, aim: dict[Hand, Float64], target: Float64, standing: bool) -> Pose:
    """The trunk turned, leant and lowered by the smallest of _EFFORTS that brings the goals within the arms' length."""
    rest = body.rest_joints
    local = quaternions.matrices(pose.joints[:2])
    heading = math.atan2(-pelvis[0, 1], pelvis[1, 1])  # of the pelvis about z, 0 looks along -y
    way = target - pose.root_position
    bearing = math.remainder(math.atan2(way[0], -way[1]) - heading, 2 * math.pi)
    # Not a switch but a ramp: a target that sinks slowly makes a body that crouches slowly.
    shoulder_m = float(rest[8, 2])
    low = min(max((0.62 * shoulder_m - target[2]) / (0.5 * shoulder_m), 0.0), 1.0) if standing else 0.0
    twist = min(max(bearing, -_MAX_TWIST), _MAX_TWIST) * (0.8 if len(aim) == 1 else 0.4)
    direction = heading + min(max(bearing, -1.2), 1.2)
    axis = np.array([math.cos(direction), math.sin(direction), 0.0])  # leaning forward turns about it
    most = _MAX_LEAN if standing else _MAX_SEATED_LEAN
    backwards = np.array([-math.sin(direction), math.cos(direction), 0.0])

    def moved(effort: Float64) -> tuple[Float64, Float64, Float64]:
        """Turns of the hips and of each half of the back (float64[..., 4], entity frame), place of the pelvis."""
        lean, turn = most * effort, twist * np.minimum(1.0, 2.5 * effort)
        crouch = _MAX_CROUCH * body.leg_m * low * effort
        hips = quaternions.multiply(quaternions.rotation(axis, 0.45 * lean), quaternions.rotation(_UP, 0.3 * turn))
        back = quaternions.multiply(quaternions.rotation(axis, 0.25 * lean), quaternions.rotation(_UP, 0.35 * turn))
        # The hips go back as the head goes forward, so that the body stays over its feet.
        shift = 0.12 * body.leg_m * np.sin(lean) + 0.16 * crouch if standing else 0.0 * lean
        return hips, back, pose.root_position + shift[..., None] * backwards - crouch[..., None] * np.array(_UP)

    hips, back, roots = moved(_EFFORTS)
    h, b = quaternions.matrices(hips), quaternions.matrices(back)
    bh = b @ h
    bbh = b @ bh
    spine = pelvis @ local[0]
    chest = spine @ local[1]
    chests = roots + h @ (pelvis @ (rest[1] - rest[0])) + bh @ (spine @ (rest[2] - rest[1]))
    missing = np.full(len(_EFFORTS), -np.inf)
    for name, goal in aim.items():
        shoulders = chests + bbh @ (chest @ (rest[FIRST_PART[name] + 3] - rest[2]))
        # Near the floor the fingers do not lengthen the arm: they lie level.
        level = 0.045 * body.height_m * min(max(1.0 - goal[2] / (0.06 * body.height_m), 0.0), 1.0)
        arm = 0.97 * arm_m(body, name) - level
        missing = np.maximum(missing, np.sqrt(((shoulders - goal) ** 2).sum(axis=1)) - arm)
    enough = np.flatnonzero(missing <= 0)
    if not len(enough):
        effort = float(_EFFORTS[missing.argmin()])
    elif enough[0] == 0:
        return pose
    else:  # between the last that is too little and the first that is enough
        i = int(enough[0])
        effort = float(_EFFORTS[i] - (_EFFORTS[i] - _EFFORTS[i - 1]) * missing[i] / (missing[i] - missing[i - 1]))
    hips, back, root = moved(np.array(effort))
    turned = quaternions.multiply(hips, pose.root_rotation)
    joints = pose.joints.copy()
    above = turned
    for k in range(2):  # spine, chest: a turn in the entity frame, said relative to what is below
        below = quaternions.conjugate(above)
        joints[k] = quaternions.multiply(quaternions.multiply(below, quaternions.multiply(back, above)), joints[k])
        above = quaternions.multiply(above, joints[k])
    return Pose(root, turned, joints)


def look_at(body: Body, pose: Pose, target: Float64) -> Pose:
    """The pose with neck and head turned so that the eyes look at ``target`` (float64[3]), as far as a neck turns."""
    chest, position = trunk(body, pose)
    eyes = position + chest @ (body.eye - body.rest_joints[2])
    x, y, z = (chest.T @ (target - eyes)).tolist()
    turn = min(max(math.atan2(x, -y), -_MAX_HEAD_TURN), _MAX_HEAD_TURN)
    tilt = min(max(-math.atan2(z, math.hypot(x, y)), -_MAX_HEAD_UP), _MAX_HEAD_DOWN)
    # First tilted and then turned, and the neck takes half of either.
    neck = quaternions.multiply(
        quaternions.rotation(_UP, 0.5 * turn), quaternions.rotation((1.0, 0.0, 0.0), 0.5 * tilt)
    )
    whole = quaternions.multiply(quaternions.rotation(_UP, turn), quaternions.rotation((1.0, 0.0, 0.0), tilt))
    return pose.with_joints(neck=neck, head=quaternions.multiply(quaternions.conjugate(neck), whole))
