"""CAD-120: videos of daily activities with the box of the handled object and what the person does to it, over time.

One JSON file (github.com/praneeth11009, from the features of Koppula et al., converted): boxes in images, no depth. So
these are annotations to learn phrases and spans from, not recordings; docs/datasets.md says what the file holds.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from psg4d_ros.data.files import is_integer, is_number, read_json, shown
from psg4d_ros.data.phrases import normal_label
from psg4d_ros.data.recording import TrueObject, TrueRelation
from psg4d_ros.errors import DatasetError
from psg4d_ros.structures import Float32

WIDTH, HEIGHT = 640, 480
PERSON_ID, OBJECT_ID = 1, 2
_ACTIVITIES = (
    "making cereal", "taking medicine", "stacking", "unstacking", "microwaving food", "picking", "cleaning",
    "taking food", "arranging",
)  # fmt: skip
# By the object's affordance, since the sub-activity may be about another object: one that is "stationary" while the
# person moves something takes no part. None: no relation to the person.
_PREDICATES = (
    "reaching for", "moving", "pouring from", "pouring into", None, "drinking from", "opening", "putting down",
    "closing", "cleaning", "using", None, "cleaning",
)  # fmt: skip
_LABELS = {"medcinebox": "medicine box"}


@dataclass(frozen=True, eq=False)
class VideoAnnotation:
    """A video: person (PERSON_ID) and handled object (OBJECT_ID), and what the one does to the other.

    frames: int64[F], increasing: numbers in the video of the frames that are annotated; relations count these, half
    open. boxes: float32[F, 4] of the object, x1 y1 x2 y2 in pixels of a 640 x 480 image, NaN where it was not found.
    person_extent: float32[F, 4], the joints' x1 y1 x2 y2 in metres, x right and y up from the optical axis; not a box
    in the image (that would need the distance, which the file lacks), and cut at 1 m by its makers.
    """

    name: str
    activity: str
    objects: tuple[TrueObject, TrueObject]
    relations: tuple[TrueRelation, ...]
    frames: np.ndarray
    boxes: Float32
    person_extent: Float32


def read_cad120(path: Path | str) -> tuple[list[VideoAnnotation], Counter[str]]:
    """The videos of the file, sorted by name, and what was left out of them: reason -> how often.

    Raises DatasetError naming the file, video and segment for anything of another form.
    """
    path = Path(path)
    values = read_json(path)
    if not isinstance(values, dict) or not values:
        raise DatasetError(
            f"{path} holds no videos, expected {{video: {{high_level_activity, object_type, segments}}}}"
        )
    skipped: Counter[str] = Counter()
    return [_video(f"{path}: video {name!r}", name, values[name], skipped) for name in sorted(values)], skipped


def _video(place: str, name: str, record: Any, skipped: Counter[str]) -> VideoAnnotation:
    if not isinstance(record, dict) or not isinstance(record.get("segments"), list) or not record["segments"]:
        raise DatasetError(f"{place} has no list 'segments'")
    activity, kind = record.get("high_level_activity"), record.get("object_type")
    if not is_integer(activity, 0, len(_ACTIVITIES) - 1):
        raise DatasetError(f"{place}: high_level_activity is {shown(activity)}, expected 0 to {len(_ACTIVITIES) - 1}")
    number, _, label = kind.partition(":") if isinstance(kind, str) else ("", "", "")
    if not number.isdigit() or not label:
        raise DatasetError(f"{place}: object_type is {shown(kind)}, expected one such as '1:bowl'")
    frames: list[int] = []
    boxes, extents, relations = [], [], []
    for i, segment in enumerate(record["segments"]):
        where = f"{place} segment {i}"
        start, affordance, box, extent = _segment(where, segment, skipped)
        overlap = max(frames[-1] + 1 - start, 0) if frames else 0
        if overlap >= len(box):
            raise DatasetError(
                f"{where} starts at frame {start} and ends before {frames[-1] + 1}, where the last one does"
            )
        if overlap:
            skipped["a frame of a segment belongs to the one before as well"] += overlap
            start, box, extent = start + overlap, box[overlap:], extent[overlap:]
        first = len(frames)
        frames += range(start, start + len(box))
        boxes.append(box)
        extents.append(extent)
        predicate = _PREDICATES[affordance]
        if predicate is not None:
            relations.append(TrueRelation(PERSON_ID, predicate, OBJECT_ID, first, len(frames)))
    objects = (
        TrueObject(PERSON_ID, "person", True),
        TrueObject(OBJECT_ID, normal_label(_LABELS.get(label, label)), True),
    )
    found = np.concatenate(boxes), np.concatenate(extents)
    return VideoAnnotation(name, _ACTIVITIES[activity], objects, tuple(relations), np.array(frames, np.int64), *found)


def _segment(place: str, segment: Any, skipped: Counter[str]) -> tuple[int, int, Float32, Float32]:
    """First frame, affordance, and per frame the object's box and the person's extent."""
    if not isinstance(segment, dict):
        raise DatasetError(f"{place} is {shown(segment)}, expected an object")
    start, end, affordance = (segment.get(key) for key in ("start", "end", "object_affordance"))
    if not is_integer(start) or not is_integer(end, start, 10**6):
        raise DatasetError(f"{place} spans {shown(start)} to {shown(end)}, expected two frame numbers")
    if not is_integer(affordance, 0, len(_PREDICATES) - 1):
        raise DatasetError(f"{place}: object_affordance is {shown(affordance)}, expected 0 to {len(_PREDICATES) - 1}")
    scaled = _boxes(f"{place}: object_bboxes", segment.get("object_bboxes"))
    person = _boxes(f"{place}: human_bboxes", segment.get("human_bboxes"))
    length = end - start + 1
    if len(person) != length or len(scaled) not in (length, length - 1):
        raise DatasetError(f"{place} has {len(scaled)} and {len(person)} boxes, expected {length} of each")
    boxes = np.full((length, 4), np.nan, np.float32)
    boxes[: len(scaled)] = scaled * (WIDTH, HEIGHT, WIDTH, HEIGHT)
    absent = ~((boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3]))  # the file writes zeros; NaN compares false
    boxes[absent] = np.nan
    if absent.any():
        skipped["the object's box is missing or empty in a frame"] += int(absent.sum())
    y1, x1, y2, x2 = ((person * 2000.0 - 1000.0) * 1e-3).T  # the file: (millimetres + 1000 -/+ 20) / 2000, y first
    return start, affordance, boxes, np.stack([x1 + 0.02, y1 + 0.02, x2 - 0.02, y2 - 0.02], axis=1).astype(np.float32)


def _boxes(place: str, values: Any) -> np.ndarray:
    rows = values if isinstance(values, list) else [None]
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != 4 or not all(is_number(v) for v in row):
            raise DatasetError(f"{place}[{number}] is {shown(row)}, expected four finite numbers")
    return np.array(rows, np.float64).reshape(-1, 4)
