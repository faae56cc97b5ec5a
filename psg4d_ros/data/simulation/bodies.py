"""People: an articulated body of seventeen rigid parts, and the poses it can take.

The rest pose is standing upright with the arms hanging: front towards -y, right side towards -x, the origin on the
floor between the feet. All joint frames are parallel to the entity frame there, so that a pose without rotations is the
rest pose.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from psg4d_ros.data.simulation import quaternions
from psg4d_ros.data.simulation.body_shapes import (
    Color,
    Shape,
    face_centers,
    joined,
    limb,
    loft,
    painted,
    part,
)
from psg4d_ros.data.simulation.world import Part
from psg4d_ros.structures import Float64, check_array

# Every joint after the one it hangs on. Part i + 1 of a body moves with joint i; part 0 is the pelvis.
JOINTS = (
    "spine", "chest", "neck", "head",
    "right_hip", "right_knee", "right_ankle", "right_shoulder", "right_elbow", "right_wrist",
    "left_hip", "left_knee", "left_ankle", "left_shoulder", "left_elbow", "left_wrist",
)  # fmt: skip
# Parts by number: 0 the pelvis, then one per joint. Parents likewise.
_PARENTS = np.array([-1, 0, 1, 2, 3, 0, 5, 6, 2, 8, 9, 0, 11, 12, 2, 14, 15])
_LEVELS = [np.array(level) for level in ([1, 5, 11], [2, 6, 12], [3, 7, 8, 13, 14], [4, 9, 15], [10, 16])]
ADULT_M = 1.5  # people this tall and above have the proportions of adults
JOINT_INDEX = {name: i for i, name in enumerate(JOINTS)}


@dataclass(frozen=True, eq=False)
class Pose:
    """How a body is bent, in the entity frame.

    root_position: float64[3], where the pelvis joint (between the hips) is, metres. root_rotation: float64[4], unit
    quaternion w, x, y, z of the pelvis. joints: float64[16, 4], rotation of each of JOINTS relative to its parent.
    """

    root_position: Float64
    root_rotation: Float64
    joints: Float64

    def __post_init__(self) -> None:
        check_array("Pose", "root_position", self.root_position, "float64", (3,))
        check_array("Pose", "root_rotation", self.root_rotation, "float64", (4,))
        check_array("Pose", "joints", self.joints, "float64", (len(JOINTS), 4))

    def joint(self, name: str) -> Float64:
        """float64[4]: the rotation of one joint."""
        rotation: Float64 = self.joints[JOINT_INDEX[name]]
        return rotation

    def with_joints(self, **rotations: Float64) -> Pose:
        """A copy in which the named joints have other rotations (unit quaternions)."""
        joints = self.joints.copy()
        for name, rotation in rotations.items():
            joints[JOINT_INDEX[name]] = rotation
        return Pose(self.root_position, self.root_rotation, joints)

    def moved(self, offset: Float64) -> Pose:
        """A copy shifted by ``offset`` (float64[3], metres, entity frame)."""
        return Pose(self.root_position + offset, self.root_rotation, self.joints)


@dataclass(frozen=True, eq=False)
class Body:
    """A person's body. parts: rest vertices in the entity frame; part 0 is the pelvis, part i + 1 moves with JOINTS[i].

    rest_joints: float64[17, 3], where each part's joint is at rest (0: the pelvis). points: named points that move with
    a part: (index of the part, float64[3] at rest); palms lie on the skin of the hand, soles on the floor.
    clothing: the name of the main colour of what the person wears above the waist.
    """

    parts: tuple[Part, ...]
    height_m: float
    rest_joints: Float64
    points: dict[str, tuple[int, Float64]] = field(repr=False)
    clothing: str = ""
    child: bool = False

    @property
    def eye(self) -> Float64:
        """float64[3]: the point between the eyes at rest, entity frame."""
        return self.points["eyes"][1]

    @property
    def leg_m(self) -> float:
        """Height of the hip joints above the floor, standing."""
        return float(self.rest_joints[0, 2])

    @cached_property
    def _offsets(self) -> Float64:
        """float64[17, 3]: each joint relative to its parent's at rest."""
        offsets = self.rest_joints.copy()
        offsets[1:] -= self.rest_joints[_PARENTS[1:]]
        return offsets

    def frames(self, pose: Pose) -> tuple[Float64, Float64]:
        """Rotations float64[17, 3, 3] and positions float64[17, 3] of the parts' joints in the entity frame."""
        local = quaternions.matrices(np.concatenate([pose.root_rotation[None], pose.joints]))
        offsets = self._offsets
        turned, positions = np.empty((17, 3, 3)), np.empty((17, 3))
        turned[0], positions[0] = local[0], pose.root_position
        for level in _LEVELS:
            above = _PARENTS[level]
            parents = turned[above]
            turned[level] = parents @ local[level]
            positions[level] = positions[above] + (parents @ offsets[level][..., None])[..., 0]
        return turned, positions

    def part_transforms(self, pose: Pose) -> Float64:
        """float64[17, 4, 4]: takes each part's rest vertices to the posed ones, entity frame to entity frame."""
        turned, positions = self.frames(pose)
        result = np.zeros((17, 4, 4))
        result[:, :3, :3] = turned
        result[:, :3, 3] = positions - (turned @ self.rest_joints[..., None])[..., 0]
        result[:, 3, 3] = 1.0
        return result

    def joint_positions(self, pose: Pose) -> dict[str, Float64]:
        """Where the joints and named points are, float64[3] each, metres, entity frame.

        "pelvis", every name in JOINTS, and the points "eyes", "mouth", "left_hand", "right_hand" (palms), "left_foot",
        "right_foot" (middle of the sole), "left_toes", "right_toes", "left_heel", "right_heel", "seat" (between the
        buttocks, where one sits) and "head_top".
        """
        turned, positions = self.frames(pose)
        result = {"pelvis": positions[0]}
        result.update(zip(JOINTS, positions[1:], strict=True))
        for name, (index, rest) in self.points.items():
            result[name] = positions[index] + turned[index] @ (rest - self.rest_joints[index])
        return result

    def hand_frame(self, pose: Pose, hand: str) -> Float64:
        """float64[4, 4]: T_entity_hand, the frame that a held thing moves with; hand is "left" or "right".

        Origin in the palm. With the hand hanging at rest its axes are those of the entity: -z along the fingers, -y
        towards the thumb, and the palm looks inwards (to -x for the left hand, to +x for the right).
        """
        turned, positions = self.frames(pose)
        index, rest = self.points[f"{hand}_hand"]
        result = np.eye(4)
        result[:3, :3] = turned[index]
        result[:3, 3] = positions[index] + turned[index] @ (rest - self.rest_joints[index])
        return result


def blend(a: Pose, b: Pose, w: float) -> Pose:
    """From pose ``a`` (w = 0) to ``b`` (w = 1): every joint turns the shorter way, the pelvis moves straight."""
    rotation = quaternions.slerp(
        np.concatenate([a.root_rotation[None], a.joints]), np.concatenate([b.root_rotation[None], b.joints]), w
    )
    return Pose((1 - w) * a.root_position + w * b.root_position, rotation[0], rotation[1:])


_SKIN: tuple[Color, ...] = ((236, 200, 174), (224, 178, 144), (196, 146, 110), (150, 104, 74), (104, 70, 50))
_HAIR: tuple[Color, ...] = ((28, 24, 22), (70, 46, 30), (112, 76, 44), (190, 152, 92), (150, 148, 146), (140, 62, 34))
# By the names of the colour attributes of the vocabulary.
_TOPS: dict[str, Color] = {
    "red": (176, 44, 44), "blue": (52, 84, 160), "green": (62, 122, 74), "yellow": (218, 184, 74),
    "white": (226, 224, 218), "black": (42, 42, 46), "gray": (128, 130, 134), "brown": (116, 84, 58),
    "orange": (214, 122, 52), "purple": (112, 70, 130), "pink": (214, 140, 160),
}  # fmt: skip
_TROUSERS: tuple[Color, ...] = ((44, 56, 92), (36, 36, 40), (104, 92, 74), (128, 122, 112), (70, 74, 60), (86, 60, 46))
_SHOES: tuple[Color, ...] = ((32, 30, 30), (90, 62, 42), (206, 204, 198), (128, 40, 40), (60, 66, 84))


def make_body(rng: np.random.Generator, *, child: bool | None = None) -> Body:
    """A person with random height, build and clothes. child: 1.0-1.4 m instead of 1.5-1.95 m; None: one in six."""
    if child is None:
        child = bool(rng.random() < 1 / 6)
    height = float(rng.uniform(1.0, 1.4)) if child else float(np.clip(rng.normal(1.70, 0.10), 1.5, 1.95))
    build = float(np.clip(rng.normal(1.04 if child else 1.0, 0.08), 0.86, 1.2))  # girth, relative to height
    hips_over_shoulders = float(rng.uniform(-1.0, 1.0))  # 1: broad hips, -1: broad shoulders
    joints = _joints(height, hips_over_shoulders)
    shapes = _shapes(height, build, hips_over_shoulders, joints)

    skin = np.array(_SKIN[rng.integers(len(_SKIN))], dtype=np.float64)
    hair = np.array(_HAIR[rng.integers(len(_HAIR))], dtype=np.float64)
    clothing = str(rng.choice(list(_TOPS)))
    top = np.array(_TOPS[clothing], dtype=np.float64)
    trousers = np.array(_TROUSERS[rng.integers(len(_TROUSERS))], dtype=np.float64)
    shoes = np.array(_SHOES[rng.integers(len(_SHOES))], dtype=np.float64)
    long_sleeves, long_trousers = bool(rng.random() < 0.55), bool(rng.random() < (0.5 if child else 0.8))

    worn = {
        "pelvis": trousers, "spine": top, "chest": top, "neck": skin, "hip": trousers,
        "knee": trousers if long_trousers else skin, "ankle": shoes, "shoulder": top,
        "elbow": top if long_sleeves else skin, "wrist": skin,
    }  # fmt: skip
    parts = []
    for name, shape in shapes.items():
        if name == "head":
            parts.append(painted(name, shape, _head_colors(shape, joints, skin, hair, rng), rng))
        else:
            color = worn[name.removeprefix("left_").removeprefix("right_")]
            parts.append(part(name, shape, (int(color[0]), int(color[1]), int(color[2])), rng))
    return Body(tuple(parts), height, joints, _points(height, joints, shapes), clothing, child)


def _head_m(height: float) -> float:
    """Chin to crown: a child's head is large for its height."""
    return 0.145 + 0.046 * height


def _joints(height: float, hips: float) -> Float64:
    """float64[17, 3]: joints at rest, after the body segments measured by Drillis and Contini (1966)."""
    leg = height * float(np.interp(height, [1.0, ADULT_M], [0.49, 0.525]))
    knee, ankle = leg * 0.54, 0.022 + 0.034 * height
    chin = height - _head_m(height)
    shoulder = chin - 0.055 * height
    torso = shoulder - leg
    upper, lower = 0.172 * height, 0.150 * height
    elbow = shoulder - upper
    x_hip, x_shoulder = (0.052 + 0.003 * hips) * height, (0.112 - 0.004 * hips) * height
    middle = [
        (0, 0, leg), (0, 0.004, leg + 0.20 * torso), (0, 0.008, leg + 0.52 * torso),
        (0, 0.014, shoulder + 0.020 * height), (0, 0.008, chin + 0.15 * _head_m(height)),
    ]  # fmt: skip

    def side(x: float) -> list[tuple[float, float, float]]:
        legs = [(x * x_hip, 0.0, leg), (x * x_hip, 0.0, knee), (x * x_hip, 0.012 * height, ankle)]
        arms = [(x * x_shoulder, 0.0, shoulder), (x * x_shoulder, 0.0, elbow), (x * x_shoulder, 0.0, elbow - lower)]
        return legs + arms

    return np.array(middle + side(-1.0) + side(1.0), dtype=np.float64)


def _shapes(height: float, build: float, hips: float, joints: Float64) -> dict[str, Shape]:
    """The skin of every part, by the name of its joint."""
    h, g = height, height * build
    up = np.array([0.0, 0.0, height])
    pelvis, spine, chest, neck, head = joints[:5]
    shoulder, x_shoulder = float(joints[8, 2]), float(joints[14, 0])
    hip_x = (0.094 + 0.006 * hips) * g
    # A level slice of the trunk: height of its middle, half width, half depth.
    crotch = pelvis[2] - 0.045 * h
    result = {
        "pelvis": loft(
            [(0, 0.004, spine[2] + 0.010 * h), (0, 0.006, pelvis[2] + 0.02 * h), (0, 0.010, crotch + 0.02 * h)],
            [(0.080 * g, 0.060 * g), (hip_x, 0.070 * g), (hip_x * 0.92, 0.060 * g)], 12, "z",
        ),
        "spine": loft(
            [(0, 0.006, chest[2] + 0.02 * h), (0, 0.004, spine[2] + 0.015 * h), (0, 0.004, spine[2] - 0.01 * h)],
            [(0.084 * g, 0.062 * g), (0.078 * g, 0.058 * g), (0.082 * g, 0.060 * g)], 12, "z",
        ),
        "chest": loft(
            [
                (0, 0.014, shoulder + 0.030 * h), (0, 0.012, shoulder + 0.014 * h), (0, 0.008, shoulder - 0.012 * h),
                (0, 0.0, shoulder - 0.06 * h), (0, 0.004, chest[2] + 0.01 * h), (0, 0.004, chest[2] - 0.03 * h),
            ],
            [
                (0.036 * g, 0.034 * g), (x_shoulder * 0.66, 0.044 * g), (x_shoulder * 0.98, 0.054 * g),
                (x_shoulder * 0.90, 0.070 * g), (0.084 * g, 0.064 * g), (0.076 * g, 0.056 * g),
            ], 12, "z",
        ),
        "neck": limb(head + 0.01 * up, neck - 0.015 * up, [0.034 * h, 0.033 * h, 0.036 * h]),
        "head": _head(h, head),
    }  # fmt: skip
    for name, first in (("right", 5), ("left", 11)):
        hip, knee, ankle, arm, elbow, wrist = joints[first : first + 6]
        result[f"{name}_hip"] = limb(hip - 0.012 * up, knee, [0.050 * g, 0.049 * g, 0.042 * g, 0.034 * g], flatten=1.05)
        result[f"{name}_knee"] = limb(
            knee, ankle + 0.012 * up, [0.031 * g, 0.034 * g, 0.027 * g, 0.022 * g], flatten=1.1
        )
        result[f"{name}_ankle"] = _foot(h, ankle)
        result[f"{name}_shoulder"] = limb(arm - 0.014 * up, elbow, [0.028 * g, 0.028 * g, 0.025 * g, 0.022 * g])
        result[f"{name}_elbow"] = limb(elbow, wrist, [0.023 * g, 0.024 * g, 0.019 * g, 0.015 * g])
        result[f"{name}_wrist"] = _hand(h, wrist, 1.0 if name == "right" else -1.0)
    # One sits on flesh that gives way.
    skin = result["pelvis"].vertices
    skin[:, 2] = np.maximum(skin[:, 2], pelvis[2] - 0.057 * h)
    return {name: result[name] for name in ("pelvis", *JOINTS)}


def _head(height: float, joint: Float64) -> Shape:
    size = _head_m(height)
    chin = height - size
    levels = [0.90, 0.72, 0.50, 0.30, 0.12]
    width, depth = [0.235, 0.325, 0.335, 0.285, 0.19], [0.27, 0.385, 0.40, 0.345, 0.22]
    back = [0.01, 0.02, 0.01, -0.03, -0.08]
    centers = [
        (0, joint[1] + b * size - 0.02 * size, chin + level * size) for b, level in zip(back, levels, strict=True)
    ]
    skull = loft(centers, [(w * size, d * size) for w, d in zip(width, depth, strict=True)], 12, "z")
    skull.vertices[:, 2] = np.minimum(skull.vertices[:, 2], height)
    front = centers[3][1] - 0.33 * size
    nose = loft(
        [(0, front, chin + 0.50 * size), (0, front - 0.045 * size, chin + 0.36 * size)],
        [(0.022 * size, 0.03 * size), (0.045 * size, 0.03 * size)], 5, "z",
    )  # fmt: skip
    return joined([skull, nose])


def _head_colors(shape: Shape, joints: Float64, skin: Float64, hair: Float64, rng: np.random.Generator) -> Float64:
    """float64[M, 3]: a cap of hair down to the forehead and, for some, down to the neck; dark eyes; lips."""
    centers = face_centers(shape)
    low, high = shape.vertices[:, 2].min(), shape.vertices[:, 2].max()
    level = (centers[:, 2] - low) / (high - low)
    forward = (joints[4, 1] - centers[:, 1]) / (high - low)
    hairline = rng.uniform(0.72, 0.80)
    nape = rng.choice([0.12, 0.35, 0.5])
    colors = np.tile(skin, (len(centers), 1))
    colors[(level > hairline) | ((forward < 0.06) & (level > nape))] = hair
    return colors


def _foot(height: float, ankle: Float64) -> Shape:
    x, y, z = ankle
    length, half = 0.150 * height, 0.027 * height
    heel, toes = y + 0.035 * height, y + 0.035 * height - length
    top = [0.020 * height, z + 0.010 * height, 0.045 * height, 0.028 * height, 0.014 * height]
    ys = [heel, y - 0.005 * height, y - 0.045 * height, y - 0.08 * height, toes]
    wide = [0.7, 0.8, 0.95, 1.0, 0.6]
    shape = loft(
        [(x, v, 0.5 * t) for v, t in zip(ys, top, strict=True)],
        [(half * w, 0.5 * t) for w, t in zip(wide, top, strict=True)], 8, "y",
    )  # fmt: skip
    # The sole is flat: everything in the lower half of a ring goes down to the floor.
    vertices = shape.vertices
    under = vertices[:, 2] < 0.007 * height
    vertices[under, 2] = 0.0
    return shape


def _hand(height: float, wrist: Float64, inwards: float) -> Shape:
    """A slightly bent mitten with a thumb. inwards: the sign of x towards the thigh."""
    h = height
    palm = [(0.0, 0.006), (0.0, -0.02), (0.004, -0.05), (0.010, -0.075), (0.020, -0.095)]
    fingers = loft(
        [(wrist[0] + inwards * x * h, wrist[1], wrist[2] + z * h) for x, z in palm],
        [(0.011 * h, 0.016 * h), (0.012 * h, 0.022 * h), (0.011 * h, 0.025 * h), (0.009 * h, 0.022 * h),
         (0.007 * h, 0.016 * h)], 8, "z",
    )  # fmt: skip
    start = wrist + np.array([inwards * 0.006 * h, -0.018 * h, -0.022 * h])
    end = wrist + np.array([inwards * 0.018 * h, -0.036 * h, -0.060 * h])
    return joined([fingers, limb(start, end, [0.010 * h, 0.007 * h], segments=6)])


def _points(height: float, joints: Float64, shapes: dict[str, Shape]) -> dict[str, tuple[int, Float64]]:
    size, h = _head_m(height), height
    chin = height - size
    face = float(shapes["head"].vertices[:, 1].min())
    points = {
        "eyes": (4, np.array([0.0, face + 0.05 * size, chin + 0.50 * size])),
        "mouth": (4, np.array([0.0, face + 0.04 * size, chin + 0.20 * size])),
        "head_top": (4, np.array([0.0, joints[4, 1], height])),
        "seat": (0, np.array([0.0, 0.010, shapes["pelvis"].vertices[:, 2].min()])),
    }
    for name, ankle, wrist, inwards in (("right", 7, 10, 1.0), ("left", 13, 16, -1.0)):
        foot = shapes[f"{name}_ankle"].vertices
        x = float(joints[ankle, 0])
        points[f"{name}_heel"] = (ankle, np.array([x, foot[:, 1].max() - 0.01 * h, 0.0]))
        points[f"{name}_toes"] = (ankle, np.array([x, foot[:, 1].min() + 0.02 * h, 0.0]))
        points[f"{name}_foot"] = (ankle, np.array([x, 0.5 * (foot[:, 1].max() + foot[:, 1].min()), 0.0]))
        palm = joints[wrist] + np.array([inwards * 0.016 * h, -0.002 * h, -0.052 * h])
        points[f"{name}_hand"] = (wrist, palm)
    return points
