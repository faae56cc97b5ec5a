"""Recorded human motion (DeepMimic humanoid3d clips, assets/motions.npz) on bodies of any size, and walking from it.

A clip is fitted to a body once: scaled by the length of the legs, lifted or lowered onto the floor frame by frame, and
feet that stand are locked to the floor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from psg4d_ros.data.simulation import quaternions
from psg4d_ros.data.simulation.bodies import JOINTS, Body, Pose, blend
from psg4d_ros.data.simulation.limbs import feet, knee_sides, plant_feet
from psg4d_ros.data.simulation.poses import standing
from psg4d_ros.errors import DatasetError
from psg4d_ros.structures import Float64

RATE_HZ = 30.0
_MOTIONS = Path(__file__).resolve().parent / "assets" / "motions.npz"
_LEG_M = 0.881  # hip to sole of the recorded skeleton
_AIRBORNE = ("run", "jump")
_CYCLIC = ("walk", "run", "crawl")
# How the recorded joints after the pelvis come onto ours: chest and neck are shared out over two joints each.
_RECORDED = (
    "chest", "neck", "right_hip", "right_knee", "right_ankle", "right_shoulder", "right_elbow",
    "left_hip", "left_knee", "left_ankle", "left_shoulder", "left_elbow",
)  # fmt: skip
_STANDING_MPS = 0.35  # an ankle slower than this near the floor belongs to a foot that stands
_STANDING_M = 0.05  # and no higher than this above where it is in standing
_CLEARANCE = 0.022  # of the height of the hips
_SLOW = 0.3  # times the natural speed: below it strides only get shorter
_RUN_BETWEEN = (1.5, 2.0)  # times the natural speed of walking: from walking to running
_RUN_LATER = 0.155  # of a cycle: the right foot is under the body so much earlier in the recorded run


@dataclass(frozen=True, eq=False)
class Clip:
    """Recorded motion, not yet fitted to a body.

    root: float64[F, 3] metres, the pelvis of the recorded person; rotations: float64[F, 17, 4], pelvis and JOINTS, at
    RATE_HZ. cyclic: the last frame continues with the first, shifted. It starts at the origin along -y; getting up ends
    there.
    """

    name: str
    root: Float64
    rotations: Float64
    cyclic: bool

    @property
    def duration_s(self) -> float:
        """At the speed it was recorded."""
        return (len(self.root) - 1) / RATE_HZ

    def sample(self, body: Body, phase: float) -> Pose:
        """The pose at ``phase`` (0 start, 1 end; cyclic clips go on beyond), in the entity frame of the clip's start.

        Getting up has the entity frame of its end. The entity does not move meanwhile: the pose holds the travel.
        """
        fitted = _fitted(self, body)
        turns = math.floor(phase) if self.cyclic else 0
        at = min(max(phase - turns, 0.0), 1.0) * (len(fitted) - 1)
        i = min(int(at), len(fitted) - 2)
        pose = blend(fitted[i], fitted[i + 1], at - i)
        if not turns:
            return pose
        return pose.moved((fitted[-1].root_position - fitted[0].root_position) * [turns, turns, 0.0])


@dataclass(frozen=True, eq=False)
class _Gait:
    """One cycle on the spot. speed_mps: the natural one. mean: the pose it swings about.

    ankles: float64[F, 2, 3] and turned: float64[F, 2, 4], the feet; right foot first.
    """

    stride_m: float
    speed_mps: float
    poses: tuple[Pose, ...]
    ankles: Float64
    turned: Float64
    mean: Pose
    mean_ankles: Float64


@lru_cache(maxsize=64)
def _cycle(name: str, body: Body) -> _Gait:
    source = clip(name)
    poses = _fitted(source, body)
    stride = -float(poses[-1].root_position[1] - poses[0].root_position[1])
    phases = np.linspace(0.0, 1.0, len(poses))
    poses = tuple(p.moved(np.array([0.0, stride * f, 0.0])) for p, f in zip(poses, phases, strict=True))
    placed = [feet(body, p) for p in poses]
    ankles = np.stack([a for a, _ in placed])
    turned = quaternions.from_matrices(np.stack([t for _, t in placed]))
    middle = 0.5 * (ankles[..., 1].max() + ankles[..., 1].min())
    rest = body.rest_joints[[7, 13]]
    shift = np.array([0.0, float(rest[0, 1]) - middle, 0.0])  # the feet swing about where they are in standing
    # Feet that swing clear the floor by a little more than they did, since there are no toes that bend.
    forward = -np.gradient(np.concatenate([ankles[-2:-1], ankles, ankles[1:2]])[..., 1], 1 / RATE_HZ, axis=0)[1:-1]
    swings = np.clip((forward + stride / source.duration_s - _STANDING_MPS) / 0.8, 0.0, 1.0)
    ankles[..., 2] += _CLEARANCE * body.leg_m * swings
    poses = tuple(p.moved(shift) for p in poses)
    joints = quaternions.normalize(_aligned(np.stack([p.joints for p in poses])).mean(axis=0))
    root = quaternions.normalize(_aligned(np.stack([p.root_rotation for p in poses])).mean(axis=0))
    position = np.mean([p.root_position for p in poses], axis=0)
    mean_ankles = np.stack([ankles[..., 0].mean(axis=0), rest[:, 1], rest[:, 2]], axis=1)
    leg = body.leg_m / _LEG_M
    speed = stride / source.duration_s / math.sqrt(leg)
    return _Gait(stride, speed, poses, ankles + shift, turned, Pose(position, root, joints), mean_ankles)


def _aligned(q: Float64) -> Float64:
    """Quaternions [F, ...] with the signs of the first, so that they can be averaged."""
    return np.where((q * q[:1]).sum(axis=-1, keepdims=True) < 0, -q, q)


@lru_cache(maxsize=1)
def _arrays() -> dict[str, Float64]:
    try:
        with np.load(_MOTIONS, allow_pickle=False) as stored:
            return {name: stored[name].astype(np.float64) for name in stored.files}
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(
            f"{_MOTIONS}: cannot be read ({error}); scripts/make_simulation_motions.py makes it"
        ) from None


def clip_names() -> tuple[str, ...]:
    """walk, run, turn_left, turn_right, jump, kick, punch, crawl, getup_faceup, getup_facedown, dance_a, dance_b."""
    return tuple(name.removesuffix(".root_mm") for name in _arrays() if name.endswith(".root_mm"))


@lru_cache(maxsize=32)
def clip(name: str) -> Clip:
    """The recorded clip of that name. Raises DatasetError where there is none."""
    arrays = _arrays()
    if f"{name}.root_mm" not in arrays:
        raise DatasetError(f"no motion clip {name!r}; there are {', '.join(clip_names())}")
    recorded = quaternions.normalize(arrays[f"{name}.rotations"])
    rotations = np.tile(quaternions.IDENTITY, (len(recorded), 1 + len(JOINTS), 1))
    rotations[:, 0] = recorded[:, 0]
    for i, joint in enumerate(_RECORDED, start=1):
        rotations[:, 1 + JOINTS.index(joint)] = recorded[:, i]
    for first, second in (("spine", "chest"), ("neck", "head")):
        whole = recorded[:, 1 if second == "chest" else 2]
        half = quaternions.power(whole, 0.5)
        rotations[:, 1 + JOINTS.index(first)] = half
        rotations[:, 1 + JOINTS.index(second)] = half
    return Clip(name, arrays[f"{name}.root_mm"] / 1000.0, rotations, name in _CYCLIC)


@lru_cache(maxsize=128)
def _fitted(source: Clip, body: Body) -> tuple[Pose, ...]:
    """The clip's frames on a body, in the entity frame, feet on the floor."""
    root = source.root * (body.leg_m / _LEG_M)
    poses = [Pose(p, q[0], q[1:]) for p, q in zip(root, source.rotations, strict=True)]
    transforms = np.stack([body.part_transforms(p) for p in poses])
    low = np.min(
        [
            (transforms[:, i, 2, :3] @ p.vertices.T).min(axis=1) + transforms[:, i, 2, 3]
            for i, p in enumerate(body.parts)
        ],
        axis=0,
    )
    if source.name in _AIRBORNE:
        lift = np.full(len(low), -np.quantile(low, 0.2))
    else:
        window = np.ones(5) / 5
        lift = -np.convolve(np.pad(low, 2, mode="edge"), window, mode="valid")
    lift = np.maximum(lift, -low)
    poses = [p.moved(np.array([0.0, 0.0, z])) for p, z in zip(poses, lift, strict=True)]
    return tuple(_locked(body, poses))


def _locked(body: Body, poses: list[Pose]) -> list[Pose]:
    """Feet that hardly move near the floor do not move at all: their ankles stay where they are on average."""
    frames = [body.frames(p) for p in poses]
    legs = np.stack([positions[[[5, 6, 7], [11, 12, 13]]] for _, positions in frames])  # [F, 2, hip knee ankle, 3]
    turned = np.stack([rotations[[7, 13]] for rotations, _ in frames])
    ankles = legs[:, :, 2]
    speed = np.linalg.norm(np.gradient(ankles[..., :2], 1 / RATE_HZ, axis=0), axis=-1)
    stands = (speed < _STANDING_MPS) & (ankles[..., 2] < body.rest_joints[7, 2] + _STANDING_M)
    stands &= legs[:, :, 0, 2] > 0.5 * body.leg_m  # not while lying
    goals = ankles.copy()
    for foot in range(2):
        shift = np.zeros((len(poses), 2))
        for start, end in _runs(stands[:, foot]):
            shift[start:end] = ankles[start:end, foot, :2].mean(axis=0) - ankles[start:end, foot, :2]
        goals[:, foot, :2] += _faded(shift, stands[:, foot])
    moved = np.abs(goals - ankles).max(axis=(1, 2)) > 1e-4
    return [
        plant_feet(body, p, g, t, knees=knee_sides(body, p)) if m else p
        for p, g, t, m in zip(poses, goals, turned, moved, strict=True)
    ]


def _runs(mask: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> list[tuple[int, int]]:
    """Half-open ranges of consecutive True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _faded(shift: Float64, fixed: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Float64:
    """Between the fixed frames the shift goes linearly from the one before to the one after, or to none in the end."""
    if not fixed.any():
        return shift
    frames = np.arange(len(shift))
    known = fixed.copy()
    known[[0, -1]] = True
    return np.stack([np.interp(frames, frames[known], shift[known, k]) for k in range(shift.shape[1])], axis=1)


def stride_m(body: Body, speed: float) -> float:
    """Metres covered by one cycle (two steps) of ``walking`` at ``speed`` (m/s): phase += speed * dt / stride_m."""
    run = _running(body, speed)
    lengths = [gait.stride_m * _share(gait, speed) for gait in (_cycle("walk", body), _cycle("run", body))]
    return (1 - run) * lengths[0] + run * lengths[1]


def walking(body: Body, phase: float, speed: float) -> Pose:
    """Walking, or running where ``speed`` (m/s) asks for it, on the spot: the entity moves along -y by ``stride_m``
    per unit of ``phase`` and the feet that stand do not slip. Backwards: let the phase go down.

    Slower is done with shorter steps as much as with fewer; 0 m/s is standing.
    """
    run = _running(body, speed)
    if run == 0.0:
        pose, ankles, turned = _moment(body, _cycle("walk", body), phase, speed)
    elif run == 1.0:
        pose, ankles, turned = _moment(body, _cycle("run", body), phase - _RUN_LATER, speed)
    else:
        slow, slow_ankles, slow_turned = _moment(body, _cycle("walk", body), phase, speed)
        fast, fast_ankles, fast_turned = _moment(body, _cycle("run", body), phase - _RUN_LATER, speed)
        pose, ankles = blend(slow, fast, run), (1 - run) * slow_ankles + run * fast_ankles
        turned = quaternions.slerp(slow_turned, fast_turned, run)
    return plant_feet(body, pose, ankles, quaternions.matrices(turned))


def _running(body: Body, speed: float) -> float:
    """0: walking, 1: running."""
    first, last = _RUN_BETWEEN
    return min(max((abs(speed) / _cycle("walk", body).speed_mps - first) / (last - first), 0.0), 1.0)


def _share(gait: _Gait, speed: float) -> float:
    """How long a stride is relative to the recorded one: people change its length and its frequency alike.

    Very slowly they only take shorter steps.
    """
    relative = abs(speed) / gait.speed_mps
    if relative < _SLOW:
        return math.sqrt(_SLOW) * relative / _SLOW + 1e-3
    return min(math.sqrt(relative), 1.25) + 1e-3


def _moment(body: Body, gait: _Gait, phase: float, speed: float) -> tuple[Pose, Float64, Float64]:
    """The pose without its legs, the ankles float64[2, 3] and the rotations of the feet float64[2, 4]."""
    k = _share(gait, speed)
    at = (phase % 1.0) * (len(gait.poses) - 1)
    i = min(int(at), len(gait.poses) - 2)
    w = at - i
    pose = blend(gait.poses[i], gait.poses[i + 1], w)
    ankles = (1 - w) * gait.ankles[i] + w * gait.ankles[i + 1]
    turned = quaternions.slerp(gait.turned[i], gait.turned[i + 1], w)
    # What swings swings less, about a middle that comes nearer to standing.
    mean, mean_ankles = gait.mean, gait.mean_ankles
    still = max(0.0, 1.0 - k / math.sqrt(_SLOW))
    if still > 0.0:
        mean = blend(mean, standing(body), still)
        mean_ankles = (1 - still) * mean_ankles + still * body.rest_joints[[7, 13]]
    pose = Pose(
        mean.root_position + (pose.root_position - gait.mean.root_position) * k,
        quaternions.slerp(mean.root_rotation, pose.root_rotation, k),
        quaternions.slerp(mean.joints, pose.joints, k),
    )
    ankles = mean_ankles + (ankles - gait.mean_ankles) * [1.0 - still, k, min(1.0, math.sqrt(k)) * (1 - still)]
    return pose, ankles, quaternions.slerp(np.broadcast_to(quaternions.IDENTITY, (2, 4)), turned, k)
