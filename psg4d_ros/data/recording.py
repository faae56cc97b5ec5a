"""A labelled recording: what simulated scenes, bags with ground truth and real data sets have in common.

Training and evaluation see this and nothing else. Frames stream: a recording holds its annotation in memory, its clouds
only while somebody looks at them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from psg4d_ros.errors import DatasetError
from psg4d_ros.structures import Float32, Float64, Int32, Int64, PointFrame, check_array


@dataclass(frozen=True)
class AttributeSpan:
    """An attribute that an object has in the frames [start_frame, end_frame)."""

    name: str
    start_frame: int
    end_frame: int


@dataclass(frozen=True)
class TrueObject:
    """An annotated object. object_id: 1 and up, the number its points carry in LabelledFrame.instance."""

    object_id: int
    label: str
    is_thing: bool
    attributes: tuple[AttributeSpan, ...] = ()


@dataclass(frozen=True)
class TrueRelation:
    """An annotated relation, one per span [start_frame, end_frame); ids are those of TrueObject."""

    subject_id: int
    predicate: str
    object_id: int
    start_frame: int
    end_frame: int


@dataclass(frozen=True, eq=False)
class LabelledFrame:
    """One frame and whose each point is.

    instance: int32[N] object_id of each point of ``frame``, 0 = nobody's.
    T_world_sensor: float64[4, 4] pose of the sensor in the recording's gravity-aligned world frame (z up).
    image_width: columns of the camera's image, where ``source_index`` counts its pixels row by row; None: no camera.
    """

    frame: PointFrame
    T_world_sensor: Float64
    instance: Int32
    image_width: int | None = None

    def __post_init__(self) -> None:
        check_array("LabelledFrame", "T_world_sensor", self.T_world_sensor, "float64", (4, 4))
        check_array("LabelledFrame", "instance", self.instance, "int32", (len(self.frame),))


@dataclass(frozen=True, eq=False)
class Recording:
    """A scene with ground truth.

    stamps_ns: int64[F], strictly increasing. open_frames: starts a new pass over the F frames, in order of time.
    boxes: float32[F, O, 2, 3], lower and upper corner of each object's box in the world frame (metres), NaN where the
    object is absent; for data sets that annotate boxes instead of points (their frames hold no points). None: boxes
    follow from the points. select_frames: see ``frames``, for sources that need not make every frame for it.
    Raises DatasetError when objects, relations and frames do not fit together.
    """

    name: str
    objects: tuple[TrueObject, ...]
    relations: tuple[TrueRelation, ...]
    stamps_ns: Int64
    open_frames: Callable[[], Iterator[LabelledFrame]]
    boxes: Float32 | None = None
    select_frames: Callable[[Sequence[int]], Iterator[LabelledFrame]] | None = None

    def __post_init__(self) -> None:
        frames = len(self.stamps_ns)
        ids = [o.object_id for o in self.objects]
        if len(set(ids)) != len(ids) or any(i < 1 for i in ids):
            raise DatasetError(f"{self.name}: object ids must be distinct and at least 1, got {ids}")
        if frames and (self.stamps_ns[1:] <= self.stamps_ns[:-1]).any():
            raise DatasetError(f"{self.name}: stamps are not strictly increasing")
        if self.boxes is not None:
            check_array("Recording", "boxes", self.boxes, "float32", (frames, len(ids), 2, 3))
        known = set(ids)
        for r in self.relations:
            place = f"{self.name}: relation ({r.subject_id}, {r.predicate!r}, {r.object_id})"
            if r.subject_id not in known or r.object_id not in known:
                raise DatasetError(f"{place} names an object that is not annotated; objects: {sorted(known)}")
            if not 0 <= r.start_frame < r.end_frame <= frames:
                raise DatasetError(f"{place} spans [{r.start_frame}, {r.end_frame}), expected within [0, {frames})")
        for o in self.objects:
            for a in o.attributes:
                if not 0 <= a.start_frame < a.end_frame <= frames:
                    raise DatasetError(
                        f"{self.name}: attribute {a.name!r} of object {o.object_id} spans "
                        f"[{a.start_frame}, {a.end_frame}), expected within [0, {frames})"
                    )

    def __len__(self) -> int:
        return len(self.stamps_ns)

    def frames(self, numbers: Sequence[int]) -> list[LabelledFrame]:
        """The frames of these numbers (0 to F - 1, ascending), with no more work than the source's form demands."""
        if self.select_frames is not None:
            return list(self.select_frames(numbers))
        wanted = set(numbers)
        started = islice(self.open_frames(), max(wanted, default=-1) + 1)
        return [labelled for number, labelled in enumerate(started) if number in wanted]
