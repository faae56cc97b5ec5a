"""The values that flow through the system, frozen and validated.

PointFrame -> AlignedFrame -> Window -> (VoxelGrid per frame) -> WindowPrediction -> SceneGraph.

Arrays are numpy and never written to after construction; VoxelGrid alone holds torch tensors.
``T_target_source`` is a float64[4, 4] rigid transform that takes points of ``source`` to ``target``.
Stamps are integer nanoseconds; spans are half-open ``[start, end)``.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

if TYPE_CHECKING:
    import torch

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
UInt8 = NDArray[np.uint8]
UInt32 = NDArray[np.uint32]


def check_array(owner: str, name: str, value: Any, dtype: DTypeLike, shape: tuple[int | None, ...]) -> None:
    """Raise ValueError unless ``value`` is an array of ``dtype`` and ``shape`` (None = any length)."""
    if not isinstance(value, np.ndarray) or value.dtype != dtype:
        found = getattr(value, "dtype", type(value).__name__)
        raise ValueError(f"{owner}.{name} is {found}, expected a numpy array of {np.dtype(dtype)}")
    # Compared only when the numbers of dimensions agree, so both have the same length.
    if value.ndim != len(shape) or any(n is not None and n != m for n, m in zip(shape, value.shape, strict=True)):
        want = tuple("any" if n is None else n for n in shape)
        raise ValueError(f"{owner}.{name} has shape {value.shape}, expected {want}")


@dataclass(frozen=True, eq=False)
class PointFrame:
    """The cloud of one time step, as the sensor gave it, without its non-finite points.

    points: float32[N, 3] finite, metres, in the coordinate frame ``frame_id``.
    colors: uint8[N, 3] red, green, blue, or None. intensity: float32[N] in the sensor's unit, or None.
    source_index: int64[N], strictly increasing: the index of each point in the message it came from.
    stamp_ns: time of the measurement. Raises ValueError when arrays disagree.
    """

    points: Float32
    colors: UInt8 | None
    intensity: Float32 | None
    source_index: Int64
    stamp_ns: int
    frame_id: str

    def __post_init__(self) -> None:
        check_array("PointFrame", "points", self.points, np.float32, (None, 3))
        n = len(self.points)
        check_array("PointFrame", "source_index", self.source_index, np.int64, (n,))
        if self.colors is not None:
            check_array("PointFrame", "colors", self.colors, np.uint8, (n, 3))
        if self.intensity is not None:
            check_array("PointFrame", "intensity", self.intensity, np.float32, (n,))
        if not np.isfinite(self.points).all():
            raise ValueError("PointFrame.points holds NaN or Inf; drop those points first")

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True, eq=False)
class AlignedFrame:
    """A PointFrame moved into the core frame: metric, gravity-aligned, z up.

    points: float32[N, 3] the frame's points in the core frame. T_core_sensor: the transform used.
    alignment: where it came from: "tf", "parameter", "optical", "floor" or "identity".
    graph_frame_id: the frame graphs of this epoch are published in: the target frame when ``alignment``
    is "tf", else the sensor's own frame_id. T_graph_core takes core coordinates to that frame.
    stale_tf: the transform was extrapolated from an older one, because the right one was not there.
    """

    frame: PointFrame
    points: Float32
    T_core_sensor: Float64
    alignment: str
    graph_frame_id: str
    T_graph_core: Float64
    stale_tf: bool = False

    def __post_init__(self) -> None:
        check_array("AlignedFrame", "points", self.points, np.float32, (len(self.frame), 3))
        check_array("AlignedFrame", "T_core_sensor", self.T_core_sensor, np.float64, (4, 4))
        check_array("AlignedFrame", "T_graph_core", self.T_graph_core, np.float64, (4, 4))

    @property
    def stamp_ns(self) -> int:
        return self.frame.stamp_ns


@dataclass(frozen=True, eq=False)
class Window:
    """F consecutive frames of one epoch, oldest first.

    epoch: +1 on reset, on clock jumps and when the core frame or the origin changes; cached features, tracks and ids
    are valid inside one epoch only. origin: float64[3], core frame, metres: the epoch's voxel origin; its z is the
    estimated floor height, so a voxel's height above it means height above the floor.
    """

    frames: tuple[AlignedFrame, ...]
    epoch: int
    origin: Float64

    def __post_init__(self) -> None:
        if not self.frames:
            raise ValueError("Window.frames is empty; a window holds at least one frame")
        stamps = [f.stamp_ns for f in self.frames]
        if any(later <= earlier for earlier, later in itertools.pairwise(stamps)):
            raise ValueError(f"Window.frames must be in strictly increasing stamp order, got {stamps}")
        check_array("Window", "origin", self.origin, np.float64, (3,))

    @property
    def newest(self) -> AlignedFrame:
        return self.frames[-1]


@dataclass(frozen=True, eq=False)
class VoxelGrid:
    """The occupied voxels of one frame (torch tensors, all on one device).

    coords: int32[V, 3] voxel indices (x, y, z) relative to the epoch's origin, lexicographically sorted, unique.
    features: float32[V, C_in] encoder input, see voxelize.FEATURE_NAMES. centers: float32[V, 3] mean point of each
    voxel in the core frame, metres, relative to ``Window.origin``. point_voxel: int64[N] voxel of each point, or -1 for
    points that were left out. truncated: a cap on points, voxels or extent left something out.
    """

    coords: torch.Tensor
    features: torch.Tensor
    centers: torch.Tensor
    point_voxel: torch.Tensor
    voxel_size_m: float
    truncated: bool = False


@dataclass(frozen=True)
class LabelScore:
    """One candidate label and its probability."""

    label: str
    score: float


@dataclass(frozen=True)
class InstancePrediction:
    """An instance as the model names it within one window.

    class_id: index in the checkpoint's vocabulary, or -1 for a word added at run time or free text.
    score: probability that the instance is there, times that of its label, in [0, 1].
    """

    label: str
    class_id: int
    score: float
    is_thing: bool
    attributes: tuple[str, ...] = ()
    alternatives: tuple[LabelScore, ...] = ()


@dataclass(frozen=True)
class RelationPrediction:
    """A relation within one window; ``subject`` and ``object`` index the window's instances.

    The span is [start_frame, end_frame) in frame positions of the window.
    """

    subject: int
    predicate: str
    predicate_id: int
    object: int
    score: float
    start_frame: int
    end_frame: int

    def __post_init__(self) -> None:
        if not 0 <= self.start_frame < self.end_frame:
            raise ValueError(f"relation span [{self.start_frame}, {self.end_frame}) is empty or negative")


@dataclass(frozen=True, eq=False)
class WindowPrediction:
    """All the model says of one window, before tracking.

    point_instance: per frame, int32[N_f]: 0 = no instance, i + 1 = ``instances[i]``. relations: None where nobody asked
    for them; that is not the same as none.
    stage_ms: wall time of each stage in milliseconds, in order of execution.
    """

    window: Window
    instances: tuple[InstancePrediction, ...]
    point_instance: tuple[Int32, ...]
    relations: tuple[RelationPrediction, ...] | None
    status: GraphStatus
    status_text: str
    stage_ms: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.point_instance) != len(self.window.frames):
            raise ValueError(f"{len(self.point_instance)} frames labelled, window holds {len(self.window.frames)}")
        for labels, frame in zip(self.point_instance, self.window.frames, strict=True):
            check_array("WindowPrediction", "point_instance", labels, np.int32, (len(frame.frame),))
            if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) <= len(self.instances):
                raise ValueError(
                    f"point_instance spans {labels.min()}..{labels.max()}, instances: {len(self.instances)}"
                )


class GraphStatus(IntEnum):
    """Values of SceneGraph.status (the message holds the same numbers)."""

    OK = 0
    DEGRADED_NO_LLM = 1
    DEGRADED_TRUNCATED = 2
    EMPTY_INPUT = 3
    STALE_TF = 4
    UNTRAINED = 5


@dataclass(frozen=True, eq=False)
class SceneObject:
    """A tracked object. Pose, size and velocity are in the graph's coordinate frame.

    track_id >= 1, stable within one epoch. position: float64[3] metres, centre of the box. orientation: float64[4]
    quaternion x, y, z, w. size: float64[3] metres, full extents along the box's axes. velocity: float64[3] m/s or None
    when unknown. num_points: points of the newest frame that belong to it.
    """

    track_id: int
    label: str
    class_id: int
    score: float
    is_thing: bool
    attributes: tuple[str, ...]
    alternatives: tuple[LabelScore, ...]
    position: Float64
    orientation: Float64
    size: Float64
    velocity: Float64 | None
    first_seen_ns: int
    last_seen_ns: int
    num_points: int


@dataclass(frozen=True)
class Relation:
    """A relation between two tracks over the span [start_ns, end_ns); ``ongoing`` = still true in the newest frame."""

    subject_id: int
    predicate: str
    predicate_id: int
    object_id: int
    score: float
    start_ns: int
    end_ns: int
    ongoing: bool


@dataclass(frozen=True, eq=False)
class LabelledCloud:
    """The newest frame's finite points with what the graph says of each.

    points: float32[N, 3] in the graph's coordinate frame, metres. track_id: uint32[N], 0 = unassigned.
    class_id: int32[N], -1 where unassigned. score: float32[N], 0 where unassigned.
    source_index: int64[N], index of each point in the input cloud.
    """

    points: Float32
    track_id: UInt32
    class_id: Int32
    score: Float32
    source_index: Int64

    def __post_init__(self) -> None:
        check_array("LabelledCloud", "points", self.points, np.float32, (None, 3))
        n = len(self.points)
        check_array("LabelledCloud", "track_id", self.track_id, np.uint32, (n,))
        check_array("LabelledCloud", "class_id", self.class_id, np.int32, (n,))
        check_array("LabelledCloud", "score", self.score, np.float32, (n,))
        check_array("LabelledCloud", "source_index", self.source_index, np.int64, (n,))


@dataclass(frozen=True, eq=False)
class SceneGraph:
    """A 4D panoptic scene graph: tracked objects, relations with time spans, and the newest frame's labelled points.

    frame_id: coordinate frame of all positions. stamp_ns: newest frame. The window covers
    [window_start_ns, window_end_ns] (first and newest stamp). ids compare only inside one ``epoch``.
    """

    stamp_ns: int
    frame_id: str
    window_start_ns: int
    window_end_ns: int
    num_frames: int
    sequence: int
    epoch: int
    model_id: str
    model_sha256: str
    status: GraphStatus
    status_text: str
    objects: tuple[SceneObject, ...]
    relations: tuple[Relation, ...]
    cloud: LabelledCloud
    stage_ms: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ids = [o.track_id for o in self.objects]
        if len(set(ids)) != len(ids) or any(i < 1 for i in ids):
            raise ValueError(f"SceneGraph.objects must have distinct track ids >= 1, got {ids}")
        known = set(ids)
        for r in self.relations:
            if r.subject_id not in known or r.object_id not in known:
                raise ValueError(
                    f"relation {r.predicate!r} names tracks {r.subject_id}, {r.object_id} not in the graph"
                )
