"""Making many scenes: over several processes, resumable, the same bytes however many work at it."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from psg4d_ros.data.simulation.capture import sample_steps
from psg4d_ros.data.simulation.preview import write_preview
from psg4d_ros.data.simulation.scene_bag import write_bag
from psg4d_ros.data.simulation.scenes import make_scene, make_sensor, scene_settings
from psg4d_ros.data.simulation.splits import SPLITS, choose_split, scene_seed
from psg4d_ros.data.simulation.statistics import SceneSummary, summarise
from psg4d_ros.data.simulation.storage import read_scene, write_scene, write_whole
from psg4d_ros.errors import ConfigError, DatasetError, Psg4dError
from psg4d_ros.version import version

SETTINGS_FILE = "simulation.json"
_log = logging.getLogger(__name__)

Progress = Callable[[Iterable[Any], int], Iterable[Any]]


@dataclass(frozen=True)
class SimulationJob:
    """What to make. size: width and height of the sensor's image (None: the sensor's default); see scenes.make_scene.

    bag: also an mcap per scene. preview: also a picture per scene.
    """

    out: Path
    split: str = "train"
    seed: int = 0
    sensor: str = "depth"
    size: tuple[int, int] | None = None
    frames: int = 60
    rate_hz: float = 4.0
    bag: bool = False
    preview: bool = False

    def scene_name(self, index: int) -> str:
        return f"{self.split}_{index:05d}"


def simulate(
    job: SimulationJob, scenes: int | None = None, *, workers: int | None = None, progress: Progress | None = None
) -> list[SceneSummary]:
    """Make the first ``scenes`` scenes of a split in a folder; what is there already is kept.

    workers: processes, None = one per core that this process may use. progress: wraps the iteration, as tqdm does.
    Every file is written whole or not at all, so that a job which was stopped goes on when it is started again.
    Raises ConfigError for settings there are not, DatasetError when the folder holds scenes made with other settings
    or by another state of the simulator, and, after all others are made, when a scene failed.
    """
    split, number = choose_split(job.split, scenes)
    # All that could be wrong with the settings shows now, not in a worker.
    make_sensor(job.sensor, np.random.default_rng(scene_seed(split, job.seed, 0)), job.size)
    sample_steps(job.frames, job.rate_hz)
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    if workers < 1:
        raise ConfigError(f"workers is {workers}, expected at least 1")
    _claim(job)
    results: Iterable[tuple[int, SceneSummary | str]] = _results(job, number, min(workers, number))
    made: dict[int, SceneSummary] = {}
    failed: dict[int, str] = {}
    for index, result in progress(results, number) if progress else results:
        if isinstance(result, str):
            failed[index] = result
        else:
            made[index] = result
    if failed:
        first = min(failed)
        raise DatasetError(
            f"{len(failed)} of {number} scenes could not be made, the others are in {job.out}; the first is "
            f"{job.scene_name(first)}: {failed[first]}"
        )
    return [made[index] for index in sorted(made)]


def _results(job: SimulationJob, number: int, workers: int) -> Iterator[tuple[int, SceneSummary | str]]:
    if workers == 1:
        for index in range(number):
            yield index, _produce(job, index)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            futures = {pool.submit(_produce, job, index): index for index in range(number)}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise DatasetError(
                f"a worker process was killed, perhaps for want of memory; what is finished is in {job.out}. "
                f"Start again with fewer than {workers} workers"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _produce(job: SimulationJob, index: int) -> SceneSummary | str:
    """Make what is missing of one scene; why not, where that fails."""
    name = job.scene_name(index)
    file = job.out / f"{name}.npz"
    try:
        if file.exists():
            scene = read_scene(file)
        else:
            scene = make_scene(
                SPLITS[job.split],
                index,
                seed=job.seed,
                sensor=job.sensor,
                size=job.size,
                frames=job.frames,
                rate_hz=job.rate_hz,
            ).data
            write_scene(file, scene)
        if job.bag and not (job.out / name).exists():
            write_bag(job.out / name, scene)
        if job.preview and not (picture := job.out / f"{name}.png").exists():
            write_preview(picture, scene)
        return summarise(scene)
    except Exception as error:  # one scene that fails must not cost the others
        _log.warning("%s could not be made", name, exc_info=not isinstance(error, Psg4dError))
        return f"{type(error).__name__}: {error}"


@cache
def simulator_hash() -> str:
    """Of the simulator's code and assets: what another state of them makes under the same seed are other scenes."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(p for p in root.rglob("*") if p.is_file() and p.suffix != ".pyc"):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _claim(job: SimulationJob) -> None:
    """Write the settings into the folder, or raise DatasetError when what is there was made with others."""
    settings = {
        "psg4d_ros": version(),
        "simulator": simulator_hash(),
        **scene_settings(job.split, job.seed, job.sensor, job.size, job.frames, job.rate_hz),
    }
    file = job.out / SETTINGS_FILE
    try:
        job.out.mkdir(parents=True, exist_ok=True)
        if file.exists():
            found = json.loads(file.read_text(encoding="utf-8"))
        elif any(job.out.glob("*.npz")):
            raise DatasetError(f"{job.out} holds .npz files but no {SETTINGS_FILE}; choose another folder")
        else:
            found = settings
            write_whole(file, lambda stream: stream.write(json.dumps(settings, indent=1).encode() + b"\n"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file} cannot be used: {error}") from error
    if found != settings:
        known = found if isinstance(found, dict) else {}
        wrong = [f"{k} is {known.get(k)!r}, asked for {v!r}" for k, v in settings.items() if known.get(k) != v]
        raise DatasetError(
            f"{job.out} was made with other settings or by another simulator ({'; '.join(wrong)}); "
            "choose another folder"
        )
