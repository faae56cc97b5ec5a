"""From a recording's annotation to what a scene's predictions are compared with, in evaluated frames.

Evaluated frames are those that the sliding window admits; the others are part of neither truth nor prediction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psg4d_ros.config import WindowConfig
from psg4d_ros.data.recording import Recording
from psg4d_ros.evaluation.attributes import ObjectAttributes
from psg4d_ros.evaluation.matching import Relations, SceneTruth, judged
from psg4d_ros.evaluation.metrics import Triplet
from psg4d_ros.structures import AlignedFrame, Int64, PointFrame
from psg4d_ros.vocabulary import Vocabulary
from psg4d_ros.window import SlidingWindow


@dataclass(frozen=True)
class LeftOut:
    """True relations of a scene that are not judged, by reason; all of them are counted in the result.

    unseen: no evaluated frame of the span shows both objects. repeated: the same triplet of the same objects over the
    same evaluated frames is given twice.
    """

    unseen: int = 0
    repeated: int = 0


def admitted(stamps_ns: Int64, config: WindowConfig) -> NDArray[np.bool_]:
    """bool[F]: which frames the sliding window takes, judged by the window itself."""
    window = SlidingWindow(config)
    nothing, identity = np.zeros((0, 3), np.float32), np.eye(4)
    kept = np.zeros(len(stamps_ns), bool)
    for i, stamp in enumerate(stamps_ns.tolist()):
        kept[i] = window.admit(stamp).kept
        if kept[i]:
            frame = PointFrame(nothing, None, None, np.zeros(0, np.int64), stamp, "")
            window.push(AlignedFrame(frame, nothing, identity, "identity", "", identity))
    return kept


def scene_truth(
    recording: Recording, evaluated: NDArray[np.bool_], tubes: Int64, words: Vocabulary
) -> tuple[SceneTruth, LeftOut]:
    """The truth about a recording. evaluated: bool[F] of its frames. tubes: int64[F', T], points of each of its objects
    in the evaluated frames. words: labels and predicates are named as its classes and predicates are, so that synonyms
    are equal."""
    column = {o.object_id: i for i, o in enumerate(recording.objects)}
    before = np.concatenate([[0], np.cumsum(evaluated)])
    rows = [
        (
            column[r.subject_id],
            words.canonical_predicate(r.predicate),
            column[r.object_id],
            int(before[r.start_frame]),
            int(before[r.end_frame]),
        )
        for r in recording.relations
    ]
    seen = judged(Relations.from_rows(rows), tubes)
    kept = [row for row, judge in zip(rows, seen, strict=True) if judge]
    unique = list(dict.fromkeys(kept))
    truth = SceneTruth(
        name=recording.name,
        labels=tuple(words.canonical(o.label) for o in recording.objects),
        is_thing=tuple(o.is_thing for o in recording.objects),
        relations=Relations.from_rows(unique),
    )
    return truth, LeftOut(unseen=len(rows) - len(kept), repeated=len(kept) - len(unique))


def true_attributes(recording: Recording, evaluated: NDArray[np.bool_]) -> ObjectAttributes:
    """Attributes by evaluated frame and position of the object."""
    before = np.concatenate([[0], np.cumsum(evaluated)])
    out: dict[tuple[int, int], set[str]] = {}
    for column, item in enumerate(recording.objects):
        for span in item.attributes:
            for frame in range(int(before[span.start_frame]), int(before[span.end_frame])):
                out.setdefault((frame, column), set()).add(span.name)
    return {key: frozenset(names) for key, names in out.items()}


def triplets(recording: Recording, words: Vocabulary) -> set[Triplet]:
    """The labels of each relation's subject, predicate and object: what counts as seen in training."""
    label = {o.object_id: words.canonical(o.label) for o in recording.objects}
    return {
        (label[r.subject_id], words.canonical_predicate(r.predicate), label[r.object_id]) for r in recording.relations
    }
