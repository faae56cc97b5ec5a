"""Coordinate transforms, and how a cloud comes into the core frame: metric, gravity-aligned, z up (numpy only)."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from psg4d_ros.config import CoordinatesConfig
from psg4d_ros.errors import ConfigError, TransformError
from psg4d_ros.floor import MIN_FLOOR_POINTS, camera_floor_transform, floor_transform
from psg4d_ros.structures import AlignedFrame, Float32, Float64, PointFrame

NS_PER_S = 1_000_000_000
OPTICAL_SUFFIX = "_optical_frame"
# Optical convention (REP 103: x right, y down, z forward) to body convention (x forward, y left, z up).
R_BODY_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


class TransformLookup(Protocol):
    """Where transforms between named coordinate frames come from (the buffer below, or tf2_ros behind the node)."""

    def lookup(self, target: str, source: str, stamp_ns: int) -> tuple[Float64, int]:
        """T_target_source float64[4, 4] at ``stamp_ns``, and its age in nanoseconds.

        The age says how much older than ``stamp_ns`` the newest usable transform is: 0 when it is exact, interpolated
        or static. Raises TransformError where no chain of transforms exists, or none that early.
        """


@dataclass
class _Edge:
    """History of one frame's pose in its parent, in stamp order."""

    parent: str
    static: bool
    stamps: list[int] = field(default_factory=list)
    poses: list[tuple[Float64, Float64]] = field(default_factory=list)  # translation, unit quaternion x y z w


class TransformBuffer:
    """A tree of named frames with a bounded history, filled from /tf and /tf_static messages. Thread-safe.

    cache_s: seconds of history kept per frame. jump_s: a transform this much older than its frame's newest means that
    the clock jumped back (a bag that loops), and clears that frame's history.
    """

    def __init__(self, cache_s: float = 30.0, jump_s: float = 1.0) -> None:
        self._cache_ns = round(cache_s * NS_PER_S)
        self._jump_ns = round(jump_s * NS_PER_S)
        self._edges: dict[str, _Edge] = {}
        self._lock = threading.Lock()

    def set_transform(
        self,
        parent: str,
        child: str,
        stamp_ns: int,
        translation: Sequence[float] | Float64,
        quaternion_xyzw: Sequence[float] | Float64,
        static: bool = False,
    ) -> None:
        """Store the pose of ``child`` in ``parent``: translation in metres, rotation as a unit quaternion x, y, z, w.

        Raises TransformError for empty or equal names, values that are not finite, or a quaternion whose length is not
        1 within 0.01 (an all-zero one is the usual sign of a message that nobody filled in).
        """
        parent, child = parent.lstrip("/"), child.lstrip("/")
        if not parent or not child or parent == child:
            raise TransformError(
                f"transform from {child!r} to {parent!r}: expected two different, non-empty frame names"
            )
        t, q = np.asarray(translation, dtype=np.float64), np.asarray(quaternion_xyzw, dtype=np.float64)
        if t.shape != (3,) or q.shape != (4,) or not (np.isfinite(t).all() and np.isfinite(q).all()):
            raise TransformError(f"transform {parent} <- {child} is {t}, {q}; expected 3 and 4 finite numbers")
        norm = float(np.linalg.norm(q))
        if abs(norm - 1.0) > 0.01:
            raise TransformError(f"transform {parent} <- {child} has a quaternion of length {norm:.3g}, expected 1")
        pose = (t, q / norm)
        with self._lock:
            edge = self._edges.get(child)
            if edge is None or static or edge.static or edge.parent != parent:
                self._edges[child] = _Edge(parent, static, [stamp_ns], [pose])
                return
            if edge.stamps[-1] - stamp_ns > self._jump_ns:
                edge.stamps.clear()
                edge.poses.clear()
            i = bisect_left(edge.stamps, stamp_ns)
            if i < len(edge.stamps) and edge.stamps[i] == stamp_ns:
                edge.poses[i] = pose
                return
            edge.stamps.insert(i, stamp_ns)
            edge.poses.insert(i, pose)
            old = bisect_left(edge.stamps, edge.stamps[-1] - self._cache_ns)
            del edge.stamps[:old], edge.poses[:old]

    def add(self, message: Any, static: bool) -> None:
        """Take a geometry_msgs/TransformStamped, of any ROS library's classes; otherwise as set_transform."""
        stamp, move, turn = message.header.stamp, message.transform.translation, message.transform.rotation
        self.set_transform(
            message.header.frame_id,
            message.child_frame_id,
            stamp.sec * NS_PER_S + stamp.nanosec,
            (move.x, move.y, move.z),
            (turn.x, turn.y, turn.z, turn.w),
            static=static,
        )

    def lookup(self, target: str, source: str, stamp_ns: int) -> tuple[Float64, int]:
        """See TransformLookup. Between two stamps: linear in translation, slerp in rotation; past the newest: held."""
        target, source = target.lstrip("/"), source.lstrip("/")
        if target == source:
            return np.eye(4), 0
        with self._lock:
            up, down = self._ancestors(source), self._ancestors(target)
            common = next((name for name in up if name in down), None)
            if common is None:
                raise TransformError(self._no_chain(target, source))
            T_common_source, age_up = self._chain(up[: up.index(common)], stamp_ns, target, source)
            T_common_target, age_down = self._chain(down[: down.index(common)], stamp_ns, target, source)
        return invert_rigid(T_common_target) @ T_common_source, max(age_up, age_down)

    def clear(self) -> None:
        """Forget all frames, static ones too."""
        with self._lock:
            self._edges.clear()

    def _ancestors(self, name: str) -> list[str]:
        """``name`` and its ancestors up to the root."""
        chain = [name]
        while (edge := self._edges.get(chain[-1])) is not None:
            if edge.parent in chain:
                raise TransformError(f"transforms form a loop: {' <- '.join([*chain, edge.parent])}; expected a tree")
            chain.append(edge.parent)
        return chain

    def _chain(self, names: list[str], stamp_ns: int, target: str, source: str) -> tuple[Float64, int]:
        T, age = np.eye(4), 0
        for name in names:
            edge = self._edges[name]
            pose, behind = _pose_at(edge, stamp_ns)
            if pose is None:
                raise TransformError(
                    f"no transform {target} <- {source} at {stamp_ns / NS_PER_S:.3f} s: {edge.parent} <- {name} is "
                    f"known from {edge.stamps[0] / NS_PER_S:.3f} s on"
                )
            T, age = rigid(*pose) @ T, max(age, behind)
        return T, age

    def _no_chain(self, target: str, source: str) -> str:
        known = set(self._edges) | {edge.parent for edge in self._edges.values()}
        missing = [name for name in (target, source) if name not in known]
        what = f"frame {' and '.join(map(repr, missing))} unknown" if missing else "the two are not connected"
        return f"no transform {target} <- {source}: {what}; known frames: {', '.join(sorted(known)) or 'none'}"


def _pose_at(edge: _Edge, stamp_ns: int) -> tuple[tuple[Float64, Float64] | None, int]:
    """(translation, quaternion) at a stamp, or None before the history; and how much older it is than the stamp."""
    if edge.static or stamp_ns >= edge.stamps[-1]:
        return edge.poses[-1], 0 if edge.static else stamp_ns - edge.stamps[-1]
    after = bisect_right(edge.stamps, stamp_ns)
    if after == 0:
        return None, 0
    (t0, q0), (t1, q1) = edge.poses[after - 1], edge.poses[after]
    s = (stamp_ns - edge.stamps[after - 1]) / (edge.stamps[after] - edge.stamps[after - 1])
    return (t0 + s * (t1 - t0), slerp(q0, q1, s)), 0


def slerp(q0: Float64, q1: Float64, s: float) -> Float64:
    """The unit quaternion at fraction ``s`` of the shorter arc from q0 to q1 (float64[4] each, x y z w)."""
    dot = float(q0 @ q1)
    if dot < 0.0:
        q1, dot = -q1, -dot
    if dot > 0.9995:  # the arc is nearly straight, and sin(angle) nearly 0
        q = q0 + s * (q1 - q0)
    else:
        angle = np.arccos(dot)
        q = (np.sin((1 - s) * angle) * q0 + np.sin(s * angle) * q1) / np.sin(angle)
    return np.asarray(q / np.linalg.norm(q), dtype=np.float64)


def rigid(translation: Float64, quaternion_xyzw: Float64) -> Float64:
    """float64[4, 4] from a translation and a unit quaternion."""
    x, y, z, w = quaternion_xyzw
    T = np.eye(4)
    T[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    T[:3, 3] = translation
    return T


def invert_rigid(T: Float64) -> Float64:
    """Inverse of a rigid float64[4, 4]."""
    out = np.eye(4)
    out[:3, :3] = T[:3, :3].T
    out[:3, 3] = -T[:3, :3].T @ T[:3, 3]
    return out


def transform_points(T_target_source: Float64, points: Float32) -> Float32:
    """float32[N, 3] points of ``source`` in ``target``; computed in float64, clipped to stay finite in float32."""
    # By coordinate and not with `@`: this runs in a subscription's callback, and BLAS would start its threads for it,
    # which on a loaded machine can take far longer than the multiplication itself.
    source = points.T.astype(np.float64)
    limit = np.finfo(np.float32).max
    out = np.empty(points.shape, np.float32)
    for axis, (a, b, c, offset) in enumerate(T_target_source[:3]):
        moved = a * source[0]
        moved += b * source[1]
        moved += c * source[2]
        moved += offset
        out[:, axis] = np.clip(moved, -limit, limit, out=moved)
    return out


def check_rigid(T: Float64, what: str) -> None:
    """Raise TransformError unless ``T`` is a float64[4, 4] rotation and translation (within 1e-3)."""
    if T.shape != (4, 4) or not np.isfinite(T).all() or np.abs(T[3] - (0, 0, 0, 1)).max() > 1e-6:
        raise TransformError(f"{what} is {T.tolist()}, expected a finite 4x4 matrix whose last row is 0 0 0 1")
    R = T[:3, :3]
    if np.abs(R @ R.T - np.eye(3)).max() > 1e-3 or np.linalg.det(R) < 0:
        raise TransformError(f"{what} has rotation {R.tolist()}, expected orthonormal columns and determinant +1")


class GravityAligner:
    """Moves clouds into the core frame by the best source there is.

    In this order: TF to ``target_frame``; the parameter ``T_gravity_sensor``; the floor, if the epoch's first cloud
    with enough points shows it (beyond doubt, where the frame_id ends in ``_optical_frame``); else, for such a
    frame_id, the optical convention, which takes the camera for level, and for others identity.
    Raises ConfigError when ``T_gravity_sensor`` is not a rigid transform, or ``target_frame`` is set without a source
    of transforms.
    """

    def __init__(self, config: CoordinatesConfig, transforms: TransformLookup | None = None) -> None:
        self._target = config.target_frame.lstrip("/")
        self._max_age_ns = round(config.tf_max_age_s * NS_PER_S)
        self._transforms = transforms
        self._parameter = _parameter(config.T_gravity_sensor)
        if self._target and transforms is None:
            raise ConfigError(f"target_frame is {self._target!r}, but there are no transforms here; leave it empty")
        self._estimates: dict[str, tuple[Float64, str]] = {}

    def reset(self) -> None:
        """Begin a new epoch: the next cloud with enough points fixes the floor anew."""
        self._estimates.clear()

    def align(self, frame: PointFrame) -> AlignedFrame:
        """The frame's points in the core frame. Raises TransformError when TF has none, or only too old a one."""
        if self._target:
            return self._align_by_tf(frame)
        T_core_sensor, alignment = self._estimate(frame)
        return AlignedFrame(
            frame=frame,
            points=transform_points(T_core_sensor, frame.points),
            T_core_sensor=T_core_sensor,
            alignment=alignment,
            graph_frame_id=frame.frame_id,
            T_graph_core=invert_rigid(T_core_sensor),
        )

    def _align_by_tf(self, frame: PointFrame) -> AlignedFrame:
        assert self._transforms is not None
        T_core_sensor, age_ns = self._transforms.lookup(self._target, frame.frame_id, frame.stamp_ns)
        what = f"transform {self._target} <- {frame.frame_id}"
        if age_ns > self._max_age_ns:
            raise TransformError(
                f"{what} is {age_ns / NS_PER_S:.3f} s older than the cloud, expected at most tf_max_age_s = "
                f"{self._max_age_ns / NS_PER_S:.3f} s"
            )
        check_rigid(T_core_sensor, what)
        return AlignedFrame(
            frame=frame,
            points=transform_points(T_core_sensor, frame.points),
            T_core_sensor=T_core_sensor,
            alignment="tf",
            graph_frame_id=self._target,
            T_graph_core=np.eye(4),
            stale_tf=age_ns > 0,
        )

    def _estimate(self, frame: PointFrame) -> tuple[Float64, str]:
        if self._parameter is not None:
            return self._parameter, "parameter"
        known = self._estimates.get(frame.frame_id)
        if known is not None:
            return known
        optical = frame.frame_id.endswith(OPTICAL_SUFFIX)
        T, source = np.eye(4), "identity"
        if optical:
            T[:3, :3], source = R_BODY_OPTICAL, "optical"
        if len(frame) < MIN_FLOOR_POINTS:
            return T, source
        # One answer for the epoch, also where it is no: features of frames are kept, and hold in one core frame only.
        T_floor = camera_floor_transform(frame.points) if optical else floor_transform(frame.points)
        estimate = (T, source) if T_floor is None else (T_floor, "floor")
        self._estimates[frame.frame_id] = estimate
        return estimate


def _parameter(values: tuple[float, ...]) -> Float64 | None:
    if not values:
        return None
    if len(values) != 16:
        raise ConfigError(f"T_gravity_sensor has {len(values)} numbers, expected 16 (row-major 4x4) or none")
    T = np.array(values, dtype=np.float64).reshape(4, 4)
    try:
        check_rigid(T, "T_gravity_sensor")
    except TransformError as error:
        raise ConfigError(str(error)) from error
    return T
