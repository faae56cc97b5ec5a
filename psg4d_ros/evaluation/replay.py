"""Replay: a bag or a folder of frames through the robot's own pipeline, without DDS.

Deterministic: same recording, checkpoint and backend give the same ``graphs``, and so the same ``stability`` and
``metrics``. No wall-clock value is in these parts; timings and memory live in ``latency_ms`` and ``runtime``, and
without them the whole result is byte-identical from run to run.
"""

from __future__ import annotations

import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from psg4d_ros.config import to_dict
from psg4d_ros.data.frame_source import open_frame_source
from psg4d_ros.errors import Psg4dError
from psg4d_ros.evaluation.memory import MemoryLog
from psg4d_ros.evaluation.replay_truth import Judged, TruthJudge, truth_metrics
from psg4d_ros.evaluation.stability import stability
from psg4d_ros.pipeline import ScenePipeline
from psg4d_ros.structures import PointFrame, Relation, SceneGraph, SceneObject
from psg4d_ros.transforms import TransformBuffer

if TYPE_CHECKING:
    from psg4d_ros.evaluation.replay_live import HeardPipeline

PERCENTILES = (50, 95, 99)


@dataclass
class ReplayResult:
    """What a replay found.

    bag, topic: name of the recording and of its clouds' topic; of a folder, its name and the form of its files.
    graphs: in order of time. stage_ms: per stage, one value per window that ran it. dtype: numbers that the language
    model computed with; backend: what ran encoder and mask decoder; answers depend slightly on both. judged: the
    comparison with ground truth, where there was any; truth_error: why there is none although there was. live: losses,
    of a run through a real node.
    """

    bag: str
    topic: str
    model_id: str
    model_sha256: str
    trained: bool
    dtype: str
    config: dict[str, Any]
    graphs: list[dict[str, Any]] = field(default_factory=list)
    stage_ms: dict[str, list[float]] = field(default_factory=dict)
    frames_in: int = 0
    frames_dropped: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    counts: dict[str, int] = field(default_factory=dict)
    wall_s: float = 0.0
    device: str = ""
    backend: str = ""
    memory: MemoryLog = field(default_factory=MemoryLog)
    judged: Judged | None = None
    truth_error: str | None = None
    live: dict[str, Any] | None = None

    def objects(self) -> set[tuple[int, int]]:
        """All objects seen, as (epoch, track_id)."""
        return {(g["epoch"], o["track_id"]) for g in self.graphs for o in g["objects"]}

    def triplets(self) -> set[tuple[int, int, str, int]]:
        """All relations seen, whatever their spans, as (epoch, subject_id, predicate, object_id)."""
        return {
            (g["epoch"], r["subject_id"], r["predicate"], r["object_id"]) for g in self.graphs for r in g["relations"]
        }

    def to_json(self, *, timings: bool = True) -> dict[str, Any]:
        """The result with the keys of the command line's contract. timings=False leaves out all wall-clock values."""
        out: dict[str, Any] = {
            "bag": self.bag,
            "topic": self.topic,
            "model": {
                "id": self.model_id,
                "sha256": self.model_sha256,
                "trained": self.trained,
                "dtype": self.dtype,
                "backend": self.backend,
            },
            "config": self.config,
            "frames_in": self.frames_in,
            "frames_dropped": self.frames_dropped,
            "frames_skipped": self.counts.get("skipped", 0),
            "windows": len(self.graphs),
            "counts": dict(sorted(self.counts.items())),
            "errors": dict(sorted(self.errors.items())),
            "stability": stability(self.graphs),
        }
        if self.live is not None:
            out["live"] = self.live
        if self.judged is not None:
            out["metrics"] = truth_metrics([self.judged])
        if self.truth_error is not None:
            out["ground_truth_error"] = self.truth_error
        out["graphs"] = self.graphs
        if timings:
            out["latency_ms"] = latency(self.stage_ms)
            out["runtime"] = {
                "wall_s": round(self.wall_s, 3),
                "total_ms": [round(ms, 3) for ms in self.stage_ms.get("total", ())],
                "memory_mb": self.memory.to_json(),
                "device": self.device,
                "machine": platform.machine(),
                "cores": os.cpu_count(),
                "python": platform.python_version(),
                "torch": torch.__version__,
            }
        return out


class Watcher(Protocol):
    """Sees each cloud of a replay, in order, with what came of it."""

    def take(self, frame: PointFrame | None, graph: SceneGraph | None) -> None:
        """frame: None for a cloud that could not be read. graph: None where the window gave none."""


def replay(
    path: Path,
    make_pipeline: Callable[[TransformBuffer], ScenePipeline | HeardPipeline],
    *,
    topic: str | None = None,
    rate_hz: float | None = None,
    limit: int | None = None,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] | None = None,
    on_graph: Callable[[SceneGraph], None] | None = None,
    judge: TruthJudge | None = None,
    watchers: Sequence[Watcher] = (),
) -> ReplayResult:
    """Run a bag or a folder of frames through a pipeline made for its transforms.

    topic, rate_hz: see open_frame_source. limit: stop after that many clouds.
    make_pipeline: may also give what was heard of a pipeline in another process (replay_live.py).
    progress: wraps the iteration, as tqdm does. judge: compares with ground truth. watchers: see each cloud once it is
    replayed; what they raise ends the replay. Clouds that cannot be used, and those whose window fails with an error
    of ours, are counted with their reason, and replay goes on: what is finished is never lost. Raises DatasetError when
    the recording itself cannot be read.
    """
    transforms = TransformBuffer()
    with open_frame_source(path, topic=topic, rate_hz=rate_hz) as source:
        pipeline = make_pipeline(transforms)
        pipeline.warm_up()  # as the node does, so that the first window's times are like the others
        dtype, backend, device = _computed_in(pipeline)
        result = ReplayResult(
            bag=source.name,
            topic=source.topic,
            model_id=pipeline.model_id,
            model_sha256=pipeline.model_sha256,
            trained=pipeline.trained,
            dtype=dtype,
            config=to_dict(pipeline.config),
            device=device,
            backend=backend,
        )
        watchers = [*watchers, *([] if judge is None else [judge])]
        result.memory.take()
        start = time.perf_counter()
        wait_s = pipeline.config.coordinates.tf_timeout_s  # as long as the node waits for a transform
        frames: Iterable[Any] = source.frames(transforms, wait_s)
        for read_frame in progress(frames, len(source)) if progress else frames:
            if limit is not None and result.frames_in >= limit:
                break
            result.frames_in += 1
            frame, graph = None, None
            try:
                frame = read_frame()
                graph = pipeline.update(frame)
            except Psg4dError as error:
                result.frames_dropped += 1
                result.errors[str(error)] += 1
            if graph is not None:
                _record(result, graph)
                if on_graph is not None:
                    on_graph(graph)
            for watcher in watchers:
                watcher.take(frame, graph)
        result.wall_s = time.perf_counter() - start
        result.counts = pipeline.counts
    if judge is not None:
        result.judged, result.truth_error = judge.judged(), judge.error
    return result


def _computed_in(pipeline: ScenePipeline | HeardPipeline) -> tuple[str, str, str]:
    """Numbers of the language model, what ran encoder and mask decoder, and the device."""
    if not isinstance(pipeline, ScenePipeline):
        return pipeline.dtype, pipeline.backend, pipeline.device
    predictor = pipeline.predictor
    dtype = str(predictor.model.language_model.dtype).removeprefix("torch.")
    return dtype, predictor.backend.name, str(predictor.backend.device)


def _record(result: ReplayResult, graph: SceneGraph) -> None:
    result.graphs.append(graph_json(graph))
    result.memory.take()
    stages = {**graph.stage_ms, "total": sum(graph.stage_ms.values())}
    for stage, value in stages.items():
        result.stage_ms.setdefault(stage, []).append(value)


def graph_json(graph: SceneGraph) -> dict[str, Any]:
    """A scene graph as plain JSON values: metres, seconds as integer nanoseconds, no wall-clock value.

    Numbers are rounded to what float32 arithmetic supports, so that the text does not suggest more.
    """
    return {
        "stamp_ns": graph.stamp_ns,
        "frame_id": graph.frame_id,
        "window_ns": [graph.window_start_ns, graph.window_end_ns],
        "num_frames": graph.num_frames,
        "sequence": graph.sequence,
        "epoch": graph.epoch,
        "status": graph.status.name,
        "status_text": graph.status_text,
        "num_points": len(graph.cloud.points),
        "objects": [_object_json(o) for o in graph.objects],
        "relations": [_relation_json(r) for r in graph.relations],
    }


def _object_json(o: SceneObject) -> dict[str, Any]:
    return {
        "track_id": o.track_id,
        "label": o.label,
        "class_id": o.class_id,
        "score": _round(o.score),
        "is_thing": o.is_thing,
        "attributes": list(o.attributes),
        "alternatives": [[a.label, _round(a.score)] for a in o.alternatives],
        "position": [_round(v) for v in o.position],
        "orientation": [_round(v) for v in o.orientation],
        "size": [_round(v) for v in o.size],
        "velocity": None if o.velocity is None else [_round(v) for v in o.velocity],
        "first_seen_ns": o.first_seen_ns,
        "last_seen_ns": o.last_seen_ns,
        "num_points": o.num_points,
    }


def _relation_json(r: Relation) -> dict[str, Any]:
    return {
        "subject_id": r.subject_id,
        "predicate": r.predicate,
        "predicate_id": r.predicate_id,
        "object_id": r.object_id,
        "score": _round(r.score),
        "span_ns": [r.start_ns, r.end_ns],
        "ongoing": r.ongoing,
    }


def _round(value: float) -> float:
    return round(float(value), 5)


def latency(stage_ms: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """p50, p95 and p99 of each stage, milliseconds."""
    return {stage: _percentiles(values) for stage, values in stage_ms.items()}


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    return {f"p{p}": round(float(np.percentile(values, p)), 3) for p in PERCENTILES}
