"""What a report needs of a replay, kept while it runs: thinned clouds and graphs, so that memory stays bounded."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from psg4d_ros.data.recording import Recording
from psg4d_ros.evaluation.predictions import GraphCollector
from psg4d_ros.evaluation.replay import graph_json
from psg4d_ros.evaluation.report.thinning import ThinCloud, thin_cloud
from psg4d_ros.evaluation.report.truth_layer import TruthLayer
from psg4d_ros.structures import Float32, Float64, PointFrame, SceneGraph
from psg4d_ros.vocabulary import default_vocabulary

MOST_FRAMES = 120
MOST_POINTS = 60_000  # a frame
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class RecordedFrame:
    """One graph with its cloud. graph: as graph_json gives it. objects: track_id -> number of the object in the report.

    true_objects, true_relations: see TruthLayer; none without ground truth. up: float64[3], away from the ground. eye:
    float64[3] metres, where the sensor was; None where its points do not say. Both in the graph's coordinates.
    """

    graph: dict[str, Any]
    objects: dict[int, int]
    cloud: ThinCloud
    stage_ms: dict[str, float]
    up: Float64
    eye: Float64 | None
    true_objects: list[dict[str, Any]] = field(default_factory=list)
    true_relations: list[tuple[int, str, int, int, int]] = field(default_factory=list)


class ReplayRecorder:
    """Sees each cloud of a replay and keeps what the report shows of it.

    Of long recordings every second, fourth ... graph stays in ``frames``;
    ``said`` and ``stamps_ns`` know all of them. A recorder never ends a replay: after an error it takes nothing more,
    and ``error`` says what happened.
    """

    def __init__(self) -> None:
        self.said = GraphCollector(default_vocabulary())
        self.truth: TruthLayer | None = None
        self.frames: list[RecordedFrame] = []
        self.stamps_ns: list[int] = []
        self.error: Exception | None = None
        self._numbers: dict[tuple[int, int], int] = {}
        self._every = 1

    def compare_with(self, recording: Recording) -> None:
        """Show the annotation of the same recording, too; before the first cloud."""
        self.truth = TruthLayer(recording, default_vocabulary())

    def take(self, frame: PointFrame | None, graph: SceneGraph | None) -> None:
        """The next cloud and its graph, None where there is none."""
        if frame is None or graph is None or self.error is not None:
            return
        try:
            self._add(frame, graph)
        except Exception as error:  # whatever it is, the replay is worth more than its report
            log.debug("the report takes no more graphs", exc_info=True)
            self.error = error

    def close(self) -> None:
        """Take nothing more: the annotation's file is closed. What was taken stays."""
        if self.truth is not None:
            self.truth.close()

    @property
    def tracks(self) -> list[tuple[int, int]]:
        """(epoch, track_id) of all objects, in the order of their numbers."""
        return list(self._numbers)

    def _add(self, frame: PointFrame, graph: SceneGraph) -> None:
        predicted = self.said.add(graph)
        for o in graph.objects:  # numbered as they appear: as GraphCollector does
            self._numbers.setdefault((graph.epoch, o.track_id), len(self._numbers))
        true = None if self.truth is None else self.truth.add(frame, predicted)
        number = len(self.stamps_ns)
        self.stamps_ns.append(graph.stamp_ns)
        if number % self._every:
            return
        generator = np.random.default_rng(number)  # the same points in every report of the same replay
        points = graph.cloud.points
        self.frames.append(
            RecordedFrame(
                graph=graph_json(graph),
                objects={o.track_id: self._numbers[graph.epoch, o.track_id] for o in graph.objects},
                cloud=thin_cloud(points, predicted, true, frame.colors, MOST_POINTS, generator),
                stage_ms=dict(graph.stage_ms),
                up=_up(graph),
                eye=_eye(frame.points, points),
                true_objects=[] if self.truth is None or true is None else self.truth.objects(points, true),
                true_relations=[] if self.truth is None else self.truth.relations(),
            )
        )
        if len(self.frames) > MOST_FRAMES:
            self.frames = self.frames[::2]
            self._every *= 2


def _up(graph: SceneGraph) -> Float64:
    """float64[3]: away from the ground. Boxes stand upright; without any, the frame's convention counts."""
    if graph.objects:
        return np.asarray(Rotation.from_quat(graph.objects[0].orientation).as_matrix()[:, 2], dtype=np.float64)
    return np.array([0.0, -1.0, 0.0] if graph.frame_id.endswith("_optical_frame") else [0.0, 0.0, 1.0])


def _eye(seen: Float32, placed: Float32) -> Float64 | None:
    """float64[3]: the sensor's origin, from points in its own coordinates and the same points where the graph has them.

    float32[N, 3] each, metres. None for points that lie in a plane or are too few.
    """
    some = np.linspace(0, len(seen) - 1, min(len(seen), 500)).astype(np.int64)
    known = np.column_stack([seen[some].astype(np.float64), np.ones(len(some))])
    transform, _, rank, _ = np.linalg.lstsq(known, placed[some].astype(np.float64), rcond=1e-6)
    return np.asarray(transform[3], dtype=np.float64) if rank == 4 else None
