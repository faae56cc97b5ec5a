"""One replay as a command line asks for it: recording, model, truth, and what is to be written besides the result.

A job is plain data, so that it can be handed to another process (replay_many.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psg4d_ros.config import PipelineConfig
from psg4d_ros.evaluation.exports.run_graph import RunGraphCollector
from psg4d_ros.evaluation.exports.write import export_graph
from psg4d_ros.evaluation.prediction_bag import PredictionBag
from psg4d_ros.evaluation.replay import ReplayResult, Watcher, replay
from psg4d_ros.evaluation.replay_live import HeardPipeline
from psg4d_ros.evaluation.replay_truth import TruthJudge, find_truth
from psg4d_ros.evaluation.report.recorder import ReplayRecorder
from psg4d_ros.pipeline import ScenePipeline
from psg4d_ros.structures import SceneGraph
from psg4d_ros.transforms import TransformBuffer
from psg4d_ros.vocabulary import default_vocabulary

Progress = Callable[[Iterable[Any], int], Iterable[Any]]


@dataclass(frozen=True)
class ReplayJob:
    """What to replay, and how.

    topic, rate_hz, limit: see replay. ground_truth: see find_truth. write_bag: see PredictionBag. exports: names of
    formats (exports.FORMATS), written to ``export_dir``. timings: whether files may hold wall-clock values.
    """

    path: Path
    checkpoint: Path
    config: PipelineConfig
    topic: str | None = None
    rate_hz: float | None = None
    limit: int | None = None
    ground_truth: Path | None = None
    write_bag: Path | None = None
    exports: tuple[str, ...] = ()
    export_dir: Path = Path("out/export")
    timings: bool = True


def run_job(
    job: ReplayJob,
    progress: Progress | None = None,
    on_graph: Callable[[SceneGraph], None] | None = None,
    recorder: ReplayRecorder | None = None,
    play_live: Callable[[ReplayJob], AbstractContextManager[HeardPipeline]] | None = None,
) -> ReplayResult:
    """Do it. recorder: keeps what a report needs. play_live: gives what a node in another process makes of the
    recording, in place of a pipeline in this one; called when all else is known to be in order.

    Raises Psg4dError for a recording, model, truth or target that cannot be read or written.
    """
    truth = find_truth(job.path, job.topic, job.ground_truth)
    judge = None if truth is None else TruthJudge(truth, job.config.window, default_vocabulary())
    with ExitStack() as stack:
        watchers: list[Watcher] = []
        bag = None
        if job.write_bag is not None:
            bag = PredictionBag(job.write_bag, job.path, job.topic, limit=job.limit, timings=job.timings)
            watchers.append(stack.enter_context(bag))
        if recorder is not None:
            watchers.append(recorder)
            stack.callback(recorder.close)
            if truth is not None:
                recorder.compare_with(truth)
        collector = RunGraphCollector()
        if job.exports:
            watchers.append(collector)

        heard: list[HeardPipeline] = []

        def make_pipeline(transforms: TransformBuffer) -> ScenePipeline | HeardPipeline:
            pipeline: ScenePipeline | HeardPipeline
            if play_live is None:
                pipeline = ScenePipeline.from_checkpoint(job.checkpoint, job.config, transforms)
            else:
                pipeline = stack.enter_context(play_live(job))
                heard.append(pipeline)
            if bag is not None:
                bag.name_labels(pipeline.model_id, pipeline.vocabulary)
            return pipeline

        result = replay(
            job.path,
            make_pipeline,
            topic=job.topic,
            rate_hz=job.rate_hz,
            limit=job.limit,
            progress=progress,
            on_graph=on_graph,
            judge=judge,
            watchers=watchers,
        )
        for played in heard:
            played.complete(result)
    for name in job.exports:
        export_graph(collector.graph(), name, job.export_dir, Path(result.bag).stem)
    return result
