"""Many bags, one after another, in several processes, or on a Ray cluster: the same numbers in each way.

Each bag is a job of its own (replay_job.py). A bag that fails, whatever the reason, is reported with it; the others are
replayed as if it were not there.
"""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from psg4d_ros.errors import ConfigError, DatasetError, Psg4dError
from psg4d_ros.evaluation.replay import ReplayResult, latency
from psg4d_ros.evaluation.replay_job import Progress, ReplayJob, run_job
from psg4d_ros.evaluation.replay_truth import truth_metrics
from psg4d_ros.evaluation.stability import stability

_SUFFIXES = (".mcap", ".db3", ".bag")
_log = logging.getLogger(__name__)


@dataclass
class ManyResults:
    """Results by bag, in the order of the bags' names; and the bags that failed, with their reasons."""

    folder: str
    results: list[ReplayResult] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def to_json(self, *, timings: bool = True) -> dict[str, Any]:
        """The whole, with each bag's result under ``bags``. Counts are sums; stability and latency are over the windows
        of all bags, metrics over their scenes."""
        results = self.results
        stage_ms: dict[str, list[float]] = {}
        for result in results:
            for stage, values in result.stage_ms.items():
                stage_ms.setdefault(stage, []).extend(values)
        out: dict[str, Any] = {
            "folder": self.folder,
            "failed": [{"bag": bag, "error": error} for bag, error in self.failed.items()],
            "frames_in": sum(r.frames_in for r in results),
            "frames_dropped": sum(r.frames_dropped for r in results),
            "frames_skipped": sum(r.counts.get("skipped", 0) for r in results),
            "windows": sum(len(r.graphs) for r in results),
            "stability": stability(*(r.graphs for r in results)),
        }
        judged = [r.judged for r in results if r.judged is not None]
        if judged:
            out["metrics"] = truth_metrics(judged)
        if timings:
            out["latency_ms"] = latency(stage_ms)
        out["bags"] = [r.to_json(timings=timings) for r in results]
        return out


def bags_in(path: Path) -> list[Path]:
    """The bags in a folder, by name; none when ``path`` is itself a bag, or a folder of frames.

    A bag is a folder with metadata.yaml, or a file that ends in .mcap, .db3 or .bag; whether it can be read is seen
    when it is replayed.
    """
    if not path.is_dir() or (path / "metadata.yaml").is_file():
        return []
    return sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES or (p / "metadata.yaml").is_file())


def jobs_for(bags: Sequence[Path], pattern: ReplayJob) -> list[ReplayJob]:
    """``pattern`` for each bag; its write_bag is a folder then, in which each bag has a file of its name.

    Raises DatasetError when two bags would write the same files.
    """
    stems = [bag.stem for bag in bags]
    twice = sorted({s for s in stems if stems.count(s) > 1})
    if twice and (pattern.write_bag or pattern.exports):
        raise DatasetError(f"several bags are named {twice[0]}; give them names of their own, or leave their files out")
    out = pattern.write_bag
    return [replace(pattern, path=bag, write_bag=None if out is None else out / f"{bag.stem}.mcap") for bag in bags]


def replay_many(
    folder: Path, jobs: Sequence[ReplayJob], *, workers: int = 1, ray: bool = False, progress: Progress | None = None
) -> ManyResults:
    """Run jobs, ``workers`` at a time, each in a process of its own if more than one, or ``ray``: on a Ray cluster.

    Which cluster: that of RAY_ADDRESS, else a local one of ``workers`` processes. A job that is to run on a GPU
    (inference.device: cuda) asks Ray for one. Raises ConfigError when Ray is not there, and Psg4dError when not a
    single bag could be replayed.
    """
    if workers < 1:
        raise ConfigError(f"workers is {workers}, expected at least 1")
    threads = torch.get_num_threads()  # how sums are split over threads may show in their last digit
    if ray:
        outcomes: Iterator[ReplayResult | str] = _on_ray(jobs, workers, threads)
    elif workers > 1:
        outcomes = _in_processes(jobs, workers, threads)
    else:
        outcomes = (_attempt(job, threads) for job in jobs)
    many = ManyResults(folder.name)
    watched: Iterable[ReplayResult | str] = outcomes if progress is None else progress(outcomes, len(jobs))
    for job, outcome in zip(jobs, watched, strict=True):
        if isinstance(outcome, str):
            many.failed[job.path.name] = outcome
        else:
            many.results.append(outcome)
    if not many.results:
        raise Psg4dError(
            f"none of the {len(jobs)} bags in {folder} could be replayed: {next(iter(many.failed.values()))}"
        )
    return many


def _attempt(job: ReplayJob, threads: int) -> ReplayResult | str:
    """The result, or why there is none. Also catches what is no error of ours: one bag must not cost the others."""
    torch.set_num_threads(threads)
    try:
        return run_job(job)
    except Psg4dError as error:
        return str(error)
    except Exception as error:
        _log.exception("%s", job.path)
        return f"{type(error).__name__}: {error}"


def _in_processes(jobs: Sequence[ReplayJob], workers: int, threads: int) -> Iterator[ReplayResult | str]:
    with ThreadPoolExecutor(workers) as waiting:
        yield from waiting.map(lambda job: _in_own_process(job, threads), jobs)


def _in_own_process(job: ReplayJob, threads: int) -> ReplayResult | str:
    """A process per bag, so that one that is killed, for want of memory or by a fault in a library, is the only one."""
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_attempt, job, threads).result()
        except BrokenProcessPool:
            return f"{job.path}: its process died (out of memory?)"


def _on_ray(jobs: Sequence[ReplayJob], workers: int, threads: int) -> Iterator[ReplayResult | str]:
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError("--ray needs Ray, which is not installed; pip install 'psg4d_ros[ray]'") from error
    started = not ray.is_initialized()
    if started:
        local = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **local)
    try:
        references = []
        for job in jobs:
            gpus = int(job.config.inference.device.startswith("cuda"))
            remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_attempt)
            references.append(remote.remote(job, threads))
        for job, reference in zip(jobs, references, strict=True):
            try:
                yield ray.get(reference)
            except ray.exceptions.RayError as error:
                yield f"{job.path}: {str(error).splitlines()[0]}"
    finally:
        if started:
            ray.shutdown()
