"""Poses and directions as the simulator uses them: upright entities with a yaw, fronts towards -y, joints."""

from __future__ import annotations

import numpy as np

from psg4d_ros.data.simulation.world import Joint
from psg4d_ros.structures import Float64


def up(metres: float) -> Float64:
    """float64[3]: that far upwards."""
    return np.array([0.0, 0.0, metres])


def yaw_towards(direction: Float64) -> float:
    """The yaw with which an entity's front (-y) looks along a direction (x, y)."""
    return float(np.arctan2(direction[0], -direction[1]))


def facing(yaw: float) -> Float64:
    """float64[2]: where the front of an entity with this yaw looks."""
    return np.array([np.sin(yaw), -np.cos(yaw)])


def yaw_of(T: Float64) -> float:
    """The yaw of a pose float64[4, 4]."""
    return float(np.arctan2(T[1, 0], T[0, 0]))


def placed(x: float, y: float, z: float, yaw: float) -> Float64:
    """float64[4, 4]: an upright pose."""
    T = np.eye(4)
    c, s = np.cos(yaw), np.sin(yaw)
    T[:2, :2] = [[c, -s], [s, c]]
    T[:3, 3] = x, y, z
    return T


def turned(axis: Float64, angle: float) -> Float64:
    """float64[3, 3]: the rotation by ``angle`` radians about a unit axis."""
    x, y, z = axis
    K = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    R: Float64 = np.eye(3) + np.sin(angle) * K + (1.0 - np.cos(angle)) * (K @ K)
    return R


def joint_motion(joint: Joint, fraction: float) -> Float64:
    """float64[4, 4]: how the joint moves its part, entity frame, when it is open by ``fraction``."""
    axis = np.array(joint.axis) / np.linalg.norm(joint.axis)
    T = np.eye(4)
    if joint.kind == "slide":
        T[:3, 3] = axis * joint.upper * fraction
    else:
        T[:3, :3] = turned(axis, joint.upper * fraction)
        T[:3, 3] = np.array(joint.origin) - T[:3, :3] @ np.array(joint.origin)
    return T
