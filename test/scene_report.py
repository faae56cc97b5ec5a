"""A cup on a table, seen a few times, as the report's recorder sees a replay."""

from __future__ import annotations

from typing import Any

import numpy as np

from psg4d_ros.data.recording import LabelledFrame, Recording, TrueObject, TrueRelation
from psg4d_ros.evaluation.replay import ReplayResult
from psg4d_ros.evaluation.report.payload import ReportSection
from psg4d_ros.evaluation.report.recorder import ReplayRecorder
from psg4d_ros.structures import GraphStatus, LabelledCloud, PointFrame, Relation, SceneGraph, SceneObject

STEP_NS = 250_000_000
START_NS = 1_700_000_000_000_000_000
NASTY = "</script><img src=x onerror=alert(1)><!-- &amp;"


def graph(
    number: int,
    *,
    points: int = 300,
    label: str = "cup",
    predicate: str = "on",
    objects: bool = True,
    colors: bool = True,
    stage_ms: float = 5.0,
) -> tuple[PointFrame, SceneGraph]:
    """The frame and the graph of one time step: a third of the points each on the cup, the table and elsewhere."""
    rng = np.random.default_rng(number)
    n = points // 3
    places = np.concatenate([
        rng.uniform((0.4, 0.4, 0.7), (0.6, 0.6, 0.9), (n, 3)),
        rng.uniform((0, 0, 0.65), (1, 1, 0.7), (n, 3)),
        rng.uniform((-1, -1, 0), (2, 2, 0.05), (n, 3)),
    ]).astype(np.float32)  # fmt: skip
    stamp = START_NS + number * STEP_NS
    tint = rng.integers(0, 256, places.shape, dtype=np.uint8) if colors else None
    index = np.arange(len(places), dtype=np.int64)
    frame = PointFrame(places, tint, None, index, stamp, "camera")
    owner = np.repeat(np.array([3, 8, 0], np.uint32), n) if objects else np.zeros(3 * n, np.uint32)
    cloud = LabelledCloud(places, owner, np.full(3 * n, -1, np.int32), np.ones(3 * n, np.float32), index)
    things = (_object(3, label, (0.5, 0.5, 0.8), 0.2, n, stamp), _object(8, "table", (0.5, 0.5, 0.68), 1.0, n, stamp))
    relation = Relation(3, predicate, -1, 8, 0.75, START_NS, stamp + STEP_NS, True)
    said = SceneGraph(
        stamp, "world", START_NS, stamp, 1, number, 0, "tiny", "0" * 64, GraphStatus.OK, "",
        things if objects else (), (relation,) if objects else (), cloud, {"encode": stage_ms, "turn1": 2 * stage_ms},
    )  # fmt: skip
    return frame, said


def _object(track: int, label: str, position: Any, size: float, points: int, stamp: int) -> SceneObject:
    place, extent = np.array(position, np.float64), np.array([size, size, 0.2])
    upright = np.array([0.0, 0.0, 0.0, 1.0])
    return SceneObject(track, label, -1, 0.9, True, ("red",), (), place, upright, extent, None, START_NS, stamp, points)


def recorded(frames: int, *, truth: Recording | None = None, **options: Any) -> ReplayRecorder:
    """What a recorder holds after a replay of so many clouds. options: see graph."""
    recorder = ReplayRecorder()
    if truth is not None:
        recorder.compare_with(truth)
    for number in range(frames):
        recorder.take(*graph(number, **options))
    return recorder


def section(recorder: ReplayRecorder, title: str = "Table", note: str = "", *, timings: bool = True) -> ReportSection:
    """A tab of a report, with a result that has what the recorder saw."""
    result = ReplayResult("table.mcap", "/points", "tiny", "0" * 64, True, "float32", {"window": {"num_frames": 8}})
    result.frames_in = len(recorder.stamps_ns)
    for frame in recorder.frames:
        result.graphs.append(frame.graph)
        for stage, ms in {**frame.stage_ms, "total": sum(frame.stage_ms.values())}.items():
            result.stage_ms.setdefault(stage, []).append(ms)
    return ReportSection(title, result, recorder, note, timings=timings)


def truth(frames: int) -> Recording:
    """The annotation: the cup is on the table in the first half and next to it in the second."""
    seen = [graph(number) for number in range(frames)]
    instance = np.repeat(np.array([1, 2, 0], np.int32), 100)
    half = frames // 2
    return Recording(
        "table",
        (TrueObject(1, "cup", True), TrueObject(2, "table", True)),
        (TrueRelation(1, "on", 2, 0, half), TrueRelation(1, "next to", 2, half, frames)),
        np.array([frame.stamp_ns for frame, _ in seen], np.int64),
        lambda: (LabelledFrame(frame, np.eye(4), instance) for frame, _ in seen),
    )
