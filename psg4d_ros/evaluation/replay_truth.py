"""Replay against ground truth: the graphs that replay gives, judged cloud by cloud (docs/replay.md).

The same protocols as ``psg4d eval``, on what the robot's pipeline says with the robot's settings: transforms come from
the bag, and a cloud that is dropped is a frame in which nothing was found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from psg4d_ros.config import WindowConfig
from psg4d_ros.data.bag import open_bag
from psg4d_ros.data.bag_truth import GRAPH_TOPIC, recording_from_bag
from psg4d_ros.data.open_dataset import open_recordings
from psg4d_ros.data.recording import LabelledFrame, Recording
from psg4d_ros.errors import DatasetError
from psg4d_ros.evaluation.attributes import SceneAttributes
from psg4d_ros.evaluation.evaluate import Evaluation
from psg4d_ros.evaluation.matching import Scene
from psg4d_ros.evaluation.metrics import PROTOCOLS, find
from psg4d_ros.evaluation.observation import true_columns
from psg4d_ros.evaluation.overlaps import OverlapCounter
from psg4d_ros.evaluation.panoptic import panoptic_metrics
from psg4d_ros.evaluation.predictions import GraphCollector
from psg4d_ros.evaluation.truth import LeftOut, admitted, scene_truth, true_attributes
from psg4d_ros.structures import PointFrame, SceneGraph
from psg4d_ros.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Judged:
    """A replayed scene with its truth. frames, evaluated: of the clouds that were replayed."""

    scene: Scene
    attributes: SceneAttributes
    left_out: LeftOut
    frames: int
    evaluated: int


def find_truth(path: Path, topic: str | None, given: Path | None) -> Recording | None:
    """The ground truth of a recording: ``given``, or what is in the bag itself; None where there is none.

    given: anything that open_recordings reads; of several recordings in it the one named as ``path`` is. Raises
    DatasetError when ``given`` holds no such, or no points.
    """
    if given is None:
        return recording_from_bag(path, topic) if _holds_truth(path) else None
    recordings = open_recordings(str(given))
    named = recordings if len(recordings) == 1 else [r for r in recordings if r.name == path.stem]
    if len(named) != 1:
        raise DatasetError(
            f"{given} holds {len(recordings)} recordings, {len(named)} of them named {path.stem!r}; expected one"
        )
    (recording,) = named
    if recording.boxes is not None:
        raise DatasetError(f"{given} says where boxes are, not which points are whose; replay needs labelled points")
    return recording


def _holds_truth(path: Path) -> bool:
    if path.is_dir() and not (path / "metadata.yaml").is_file():
        return False  # a folder of frames
    with open_bag(path) as bag:
        return GRAPH_TOPIC in bag.topics


class TruthJudge:
    """Takes each cloud of a replay with its graph, and compares the labelled points with the truth's.

    window: the pipeline's, which says which frames are judged. Truth that turns out not to fit the clouds ends the
    judging, not the replay: ``error`` then says why, and there are no metrics.
    """

    def __init__(self, recording: Recording, window: WindowConfig, words: Vocabulary) -> None:
        self.error: str | None = None
        self._recording = recording
        self._words = words
        self._column = {o.object_id: i for i, o in enumerate(recording.objects)}
        self._taken = admitted(recording.stamps_ns, window)
        self._truth: Iterator[LabelledFrame] = recording.open_frames()
        self._said = GraphCollector(words)
        self._overlaps = OverlapCounter()
        self._frames = 0

    def take(self, frame: PointFrame | None, graph: SceneGraph | None) -> None:
        """The next cloud, None where it could not be read, and its graph, None where there is none."""
        if self.error is not None:
            return
        try:
            self._compare(frame, graph)
        except DatasetError as error:
            self.error = str(error)
        self._frames += 1

    def judged(self) -> Judged | None:
        """What came of it; None when ``error`` says why not, or without any cloud."""
        if self.error is not None or not self._frames:
            return None
        recording = first_frames(self._recording, self._frames)
        evaluated = self._taken[: self._frames]
        said = self._said
        labels, _ = said.objects()
        overlaps = self._overlaps.finish(len(labels), len(self._column))
        truth, left_out = scene_truth(recording, evaluated, overlaps.true, self._words)
        prediction = said.prediction(recording.stamps_ns[evaluated])
        attributes = SceneAttributes(true_attributes(recording, evaluated), said.attributes)
        scene = Scene(truth, prediction, overlaps)
        return Judged(scene, attributes, left_out, self._frames, int(evaluated.sum()))

    def _compare(self, frame: PointFrame | None, graph: SceneGraph | None) -> None:
        recording, number = self._recording, self._frames
        labelled = next(self._truth, None)
        if labelled is None or number >= len(recording):
            raise DatasetError(f"ground truth of {recording.name} ends after {number} clouds, there are more")
        if frame is not None and frame.stamp_ns != labelled.frame.stamp_ns:
            raise DatasetError(
                f"ground truth of {recording.name}: frame {number} is of {labelled.frame.stamp_ns} ns, "
                f"the cloud of {frame.stamp_ns} ns; expected a labelled frame for each cloud"
            )
        true = true_columns(recording, number, labelled, self._column)
        if graph is not None:
            if not np.array_equal(graph.cloud.source_index, labelled.frame.source_index):
                raise DatasetError(f"ground truth of {recording.name}: frame {number} labels other points than seen")
            self._taken[number] = True  # the window went by what arrived
            self._overlaps.add(self._said.add(graph), true)
        elif self._taken[number]:
            self._said.skip()
            self._overlaps.add(np.zeros_like(true), true)


def first_frames(recording: Recording, count: int) -> Recording:
    """The first ``count`` frames of a recording; spans end with them."""
    if count == len(recording):
        return recording
    relations = (replace(r, end_frame=min(r.end_frame, count)) for r in recording.relations if r.start_frame < count)
    objects = (
        replace(
            o,
            attributes=tuple(
                replace(a, end_frame=min(a.end_frame, count)) for a in o.attributes if a.start_frame < count
            ),
        )
        for o in recording.objects
    )
    return replace(
        recording,
        objects=tuple(objects),
        relations=tuple(relations),
        stamps_ns=recording.stamps_ns[:count],
        open_frames=lambda: islice(recording.open_frames(), count),
        select_frames=None,
    )


def truth_metrics(scenes: list[Judged]) -> dict[str, Any]:
    """All metrics of `psg4d eval` (method model, SGDet) over scenes, pooled, as JSON values; and, for comparisons,
    which rank found each true relation of each scene (``scenes``, see found_at)."""
    evaluation = Evaluation(
        "model",
        "SGDet",
        scenes=[j.scene for j in scenes],
        attributes=[j.attributes for j in scenes],
        frames=sum(j.frames for j in scenes),
        evaluated=sum(j.evaluated for j in scenes),
        unseen=sum(j.left_out.unseen for j in scenes),
        repeated=sum(j.left_out.repeated for j in scenes),
    )
    return {**evaluation.to_json(), "by_scene": [found_at(j.scene) for j in scenes]}


def found_at(scene: Scene) -> dict[str, Any]:
    """For each true relation of a scene the rank (1 and up) of the prediction that found it, None if none did.

    So R@K is the share of ranks up to K: all recalls of any resampling of scenes or relations follow from it. Of the
    masks, the scene's own panoptic metrics are there.
    """
    predicates = scene.truth.relations.predicate
    masks = panoptic_metrics([scene])
    out: dict[str, Any] = {
        "name": scene.truth.name,
        "predicates": list(predicates),
        "panoptic": {name: masks[name] for name in ("PQ", "LSTQ", "tube_IoU", "id_switches")},
    }
    for protocol in PROTOCOLS:
        for name, labels in (("predicate", False), ("triplet", True)):
            ranks: list[int | None] = [None] * len(predicates)
            for rank, relation in enumerate(find(scene, protocol, labels=labels).found.tolist(), start=1):
                if relation >= 0:
                    ranks[relation] = rank
            out[f"{protocol}.{name}"] = ranks
    return out
