"""A recording's annotation beside what the pipeline says of it, frame by frame."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psg4d_ros.data.recording import Recording, TrueObject
from psg4d_ros.errors import DatasetError
from psg4d_ros.evaluation.matching import MIN_IOU
from psg4d_ros.evaluation.observation import true_columns
from psg4d_ros.evaluation.overlaps import OverlapCounter, TubeOverlaps, iou
from psg4d_ros.evaluation.tubes import label_boxes
from psg4d_ros.structures import Float32, Int64, PointFrame
from psg4d_ros.vocabulary import Vocabulary


class TruthLayer:
    """Follows a replay through the annotation of the same recording. Object numbers are positions in its objects."""

    def __init__(self, recording: Recording, words: Vocabulary) -> None:
        self.recording = recording
        self._words = words
        self._column = {o.object_id: i for i, o in enumerate(recording.objects)}
        self._open = recording.open_frames()
        self._frames = enumerate(self._open)
        self._overlaps = OverlapCounter()
        self._numbers: list[int] = []  # of the recording's frames that gave a graph

    def add(self, frame: PointFrame, predicted: Int64) -> Int64:
        """int64[N]: whose each point of a graph's newest frame truly is, 0 = nobody's, i + 1 = object i.

        predicted: int64[N], what the graph says, numbered alike. Raises DatasetError when the annotation has no frame
        of this time, or one of other points.
        """
        for number, labelled in self._frames:
            if labelled.frame.stamp_ns < frame.stamp_ns:
                continue
            same = np.array_equal(labelled.frame.source_index, frame.source_index)
            if labelled.frame.stamp_ns > frame.stamp_ns or not same:
                break
            true = true_columns(self.recording, number, labelled, self._column)
            self._overlaps.add(predicted, true)
            self._numbers.append(number)
            return true
        raise DatasetError(
            f"{self.recording.name}: the annotation has no frame of {frame.stamp_ns} ns with {len(frame)} points"
        )

    def close(self) -> None:
        """Close the annotation's file, as far as one is open."""
        if isinstance(self._open, Generator):
            self._open.close()

    def objects(self, points: Float32, true: Int64) -> list[dict[str, Any]]:
        """The true objects that have points in the frame added last. points: float32[N, 3], in which boxes are said."""
        number = self._numbers[-1]
        out: list[dict[str, Any]] = []
        counts = np.bincount(true, minlength=len(self._column) + 1)[1:]
        for i, (low, high) in enumerate(label_boxes(points, true, len(self._column)).astype(np.float64)):
            if np.isfinite(low).all():
                out.append(
                    {
                        "object": i,
                        "position": (low + high) / 2,
                        "size": high - low,
                        "attributes": _attributes(self.recording.objects[i], number),
                        "num_points": int(counts[i]),
                    }
                )
        return out

    def relations(self) -> list[tuple[int, str, int, int, int]]:
        """The true relations of the frame added last: subject, predicate, object, start and end as frame numbers."""
        return [r for r in self.spans() if r[3] <= self._numbers[-1] < r[4]]

    def spans(self) -> list[tuple[int, str, int, int, int]]:
        """All true relations: subject, predicate, object, start and end as numbers of the recording's frames."""
        column, predicate = self._column, self._words.canonical_predicate
        return [
            (column[r.subject_id], predicate(r.predicate), column[r.object_id], r.start_frame, r.end_frame)
            for r in self.recording.relations
        ]

    def overlaps(self, num_predicted: int) -> TubeOverlaps:
        """Of the frames added so far."""
        return self._overlaps.finish(num_predicted, len(self._column))


def same_objects(overlaps: TubeOverlaps) -> dict[int, int]:
    """Predicted object -> true object of which it is mostly: volume IoU over all frames of at least MIN_IOU."""
    shared = overlaps.shared_in_all()
    value: NDArray[np.float64] = iou(shared, overlaps.predicted.sum(axis=0)[:, None], overlaps.true.sum(axis=0)[None])
    value = np.where(value >= MIN_IOU, value, 0.0)
    out: dict[int, int] = {}
    for p in np.argsort(-value.max(axis=1, initial=0.0), kind="stable").tolist():
        t = int(value[p].argmax()) if value.shape[1] else 0
        if value.shape[1] and value[p, t] > 0 and t not in out.values():
            out[p] = t
    return out


def _attributes(item: TrueObject, frame: int) -> list[str]:
    return [a.name for a in item.attributes if a.start_frame <= frame < a.end_frame]
