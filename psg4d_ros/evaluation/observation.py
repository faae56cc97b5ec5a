"""One recording, watched once: masks compared frame by frame, and what the pipeline said of it (docs/metrics.md)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from psg4d_ros.config import PipelineConfig, WindowConfig
from psg4d_ros.data.recording import LabelledFrame, Recording
from psg4d_ros.errors import ConfigError, DatasetError
from psg4d_ros.evaluation.attributes import SceneAttributes
from psg4d_ros.evaluation.box_frames import corner_frames
from psg4d_ros.evaluation.matching import SceneTruth
from psg4d_ros.evaluation.overlaps import OverlapCounter, TubeOverlaps
from psg4d_ros.evaluation.predictions import GraphCollector
from psg4d_ros.evaluation.truth import LeftOut, admitted, scene_truth, true_attributes
from psg4d_ros.evaluation.tubes import Tubes, label_boxes
from psg4d_ros.structures import Float32, Int64, SceneGraph, Window
from psg4d_ros.transforms import TransformBuffer, transform_points
from psg4d_ros.vocabulary import Vocabulary

if TYPE_CHECKING:
    from psg4d_ros.pipeline import ScenePipeline
    from psg4d_ros.runtime.given import GivenTubes

Setting = Literal["PredCls", "SGCls", "SGDet"]
WORLD_FRAME = "world_of_recording"  # no sensor's frame_id, so every frame has its pose by transform


@dataclass(frozen=True, eq=False)
class Observation:
    """What there is to judge of a recording.

    tubes: the objects that relations are said of: the true ones, or in SGDet those of the pipeline. said: all that the
    pipeline said, where one ran. frames: of the recording, evaluated or not.
    """

    truth: SceneTruth
    left_out: LeftOut
    tubes: Tubes
    overlaps: TubeOverlaps
    attributes: SceneAttributes
    said: GraphCollector | None
    frames: int


class PipelineRunner:
    """A pipeline fed with recordings: each begins a new epoch, and its poses are the transforms to the world.

    pipeline: made with evaluation_config and with ``transforms``. Of recordings of boxes, its window, language model,
    relation head and tracker run; there is nothing for the others to see.
    """

    def __init__(self, pipeline: ScenePipeline, transforms: TransformBuffer) -> None:
        from psg4d_ros.runtime.given_boxes import BoxPredictor

        self.pipeline = pipeline
        self._transforms = transforms
        self._boxes = BoxPredictor(pipeline.predictor)

    def run(
        self, recording: Recording, setting: Setting, words: Vocabulary
    ) -> Iterator[tuple[LabelledFrame, SceneGraph | None]]:
        """Each frame with its graph, None where the window does not take it. True tubes are given in PredCls, with
        labels, and in SGCls, without."""
        given = _given(recording, setting, words)
        self._transforms.clear()
        self.pipeline.reset()
        of_boxes = recording.boxes is not None
        for labelled in corner_frames(recording) if of_boxes else recording.open_frames():
            frame, T = labelled.frame, labelled.T_world_sensor
            quaternion = Rotation.from_matrix(T[:3, :3]).as_quat()
            self._transforms.set_transform(WORLD_FRAME, frame.frame_id, frame.stamp_ns, T[:3, 3], quaternion)
            if given is not None:
                given = given.with_frame(frame.stamp_ns, labelled.instance)
            window = self.pipeline.push(frame)
            graph = None
            if window is not None:
                graph = self._relate_boxes(window, given) if of_boxes else self.pipeline.infer(window, given)
            if given is not None and graph is not None:
                given = given.since(graph.window_start_ns)
            yield labelled, graph

    def _relate_boxes(self, window: Window, given: GivenTubes | None) -> SceneGraph:
        assert given is not None  # observe asks for nothing else
        pipeline = self.pipeline
        prediction = self._boxes.predict(window, given, relate=pipeline.is_relating(window))
        return pipeline.tracker.update(prediction, pipeline.model_id, pipeline.model_sha256, given.ids_of(prediction))


def evaluation_config(config: PipelineConfig) -> PipelineConfig:
    """The pipeline's settings for recordings with poses: it works in their world frame.

    Raises ConfigError unless every frame that is taken gives a graph: no graph would say the masks of those before the
    first.
    """
    if config.window.min_frames != 1:
        raise ConfigError(f"window.min_frames is {config.window.min_frames}; metrics need a graph per frame, so 1")
    return replace(config, coordinates=replace(config.coordinates, target_frame=WORLD_FRAME))


def observe(
    recording: Recording,
    setting: Setting,
    window: WindowConfig,
    words: Vocabulary,
    runner: PipelineRunner | None = None,
    *,
    boxes: bool = False,
) -> Observation:
    """Watch a recording once. runner: None takes the true tubes and labels for the predicted ones.

    window: which frames are evaluated; the pipeline's own. boxes: measure the boxes of the tubes too. Raises
    DatasetError when frames do not fit the annotation, or of boxes more is asked of the model than PredCls.
    """
    evaluated = admitted(recording.stamps_ns, window)
    if recording.boxes is not None:
        if runner is not None and setting != "PredCls":
            raise DatasetError(
                f"{recording.name} has boxes but no points, so the model can neither find objects nor name them; "
                f"the setting is {setting}, expected PredCls"
            )
        measured = recording.boxes[evaluated]
        there = np.asarray(np.isfinite(measured).all(axis=(2, 3)), dtype=np.int64)
        overlaps = TubeOverlaps.identical(there)
        said = None if runner is None else _said_of_boxes(recording, setting, words, runner)
    else:
        overlaps, measured, said = _watch(recording, setting, evaluated, words, runner, boxes)
    truth, left_out = scene_truth(recording, evaluated, overlaps.true, words)
    labels, is_thing = truth.labels, truth.is_thing
    if said is not None and setting != "PredCls":
        labels, is_thing = said.objects()
    stamps_ns = recording.stamps_ns[evaluated]
    tubes = Tubes(labels, is_thing, stamps_ns, overlaps.predicted, measured if boxes else None)
    attributes = SceneAttributes(true_attributes(recording, evaluated), {} if said is None else said.attributes)
    return Observation(truth, left_out, tubes, overlaps, attributes, said, len(recording))


def _said_of_boxes(recording: Recording, setting: Setting, words: Vocabulary, runner: PipelineRunner) -> GraphCollector:
    said = GraphCollector(words, {o.object_id: i for i, o in enumerate(recording.objects)})
    for _, graph in runner.run(recording, setting, words):
        if graph is not None:
            said.add(graph)
    return said


def _watch(
    recording: Recording,
    setting: Setting,
    evaluated: NDArray[np.bool_],
    words: Vocabulary,
    runner: PipelineRunner | None,
    boxes: bool,
) -> tuple[TubeOverlaps, Float32, GraphCollector | None]:
    """Of a recording with points: overlaps, boxes float32[F', P, 2, 3] (no frames if not asked for), what was said."""
    column = {o.object_id: i for i, o in enumerate(recording.objects)}
    given = setting != "SGDet" or runner is None
    said = None if runner is None else GraphCollector(words, column if given else None)
    counter = OverlapCounter()
    measured: list[Float32] = []
    number = -1
    for number, (labelled, graph) in enumerate(_frames(recording, setting, words, runner)):
        _check_frame(recording, number, labelled)
        if runner is not None and (graph is not None) != evaluated[number]:
            raise ValueError("the pipeline's window is not the one that frames are evaluated by")
        if not evaluated[number]:
            continue
        true = true_columns(recording, number, labelled, column)
        predicted = true
        if said is not None and graph is not None:
            seen = said.add(graph)
            predicted = true if given else seen
        counter.add(predicted, true)
        if boxes:
            points = transform_points(labelled.T_world_sensor, labelled.frame.points)
            measured.append(label_boxes(points, predicted, int(predicted.max(initial=0))))
    if number + 1 != len(recording):
        raise DatasetError(f"{recording.name} gave {number + 1} frames, its annotation has {len(recording)}")
    count = len(column) if given or said is None else len(said.objects()[0])
    stacked = np.full((len(measured), count, 2, 3), np.nan, np.float32)
    for f, frame_boxes in enumerate(measured):
        stacked[f, : len(frame_boxes)] = frame_boxes
    return counter.finish(count, len(column)), stacked, said


def _frames(
    recording: Recording, setting: Setting, words: Vocabulary, runner: PipelineRunner | None
) -> Iterator[tuple[LabelledFrame, SceneGraph | None]]:
    if runner is not None:
        return runner.run(recording, setting, words)
    return ((labelled, None) for labelled in recording.open_frames())


def _given(recording: Recording, setting: Setting, words: Vocabulary) -> GivenTubes | None:
    from psg4d_ros.runtime.given import GivenObject, GivenTubes

    if setting == "SGDet":
        return None
    if setting == "SGCls":
        return GivenTubes(tuple(GivenObject(o.object_id) for o in recording.objects))
    labelled = (GivenObject(o.object_id, words.canonical(o.label), o.is_thing) for o in recording.objects)
    return GivenTubes(tuple(labelled))


def _check_frame(recording: Recording, number: int, labelled: LabelledFrame) -> None:
    if number >= len(recording) or labelled.frame.stamp_ns != recording.stamps_ns[number]:
        expected = f"{recording.stamps_ns[number]}" if number < len(recording) else "no more frames"
        raise DatasetError(
            f"{recording.name}: frame {number} is of {labelled.frame.stamp_ns} ns, the annotation says {expected}"
        )


def true_columns(recording: Recording, number: int, labelled: LabelledFrame, column: dict[int, int]) -> Int64:
    """int64[N]: whose each point is, 0 = nobody's, i + 1 = the recording's object i."""
    ids, inverse = np.unique(labelled.instance, return_inverse=True)
    unknown = [int(i) for i in ids if i and int(i) not in column]
    if unknown:
        raise DatasetError(
            f"{recording.name}: frame {number} has points of objects {unknown[:5]}, annotated are {sorted(column)}"
        )
    numbers = np.array([column[int(i)] + 1 if i else 0 for i in ids], np.int64)
    return numbers[inverse] if len(ids) else np.zeros(0, np.int64)
