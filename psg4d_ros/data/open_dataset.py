"""Any labelled dataset as recordings, by name or path: the one place that tells the forms apart."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from psg4d_ros.data.recording import Recording
from psg4d_ros.errors import DatasetError

SIMULATED = "sim"  # the name under which the simulator's own splits are known
_FORMS = (
    f"{SIMULATED!r}, a folder of `psg4d simulate`, one of its scene files, a bag with ground truth, "
    "or the root of PSG4D or of bimacs takes"
)
Progress = Callable[[Iterable[Any], int], Iterable[Any]]


def open_recordings(
    dataset: str,
    split: str | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Recording]:
    """Recordings of a dataset, in its order; their clouds are read only when somebody goes through them.

    dataset: "sim" for the simulator's splits, which are made on first use and kept in the user's cache, or a path.
    split: of "sim" (default: test) and of PSG4D (default: all videos); other paths have none. limit: the first so many.
    seed: of "sim". progress: wraps the making of its scenes, as tqdm does. Raises DatasetError for what is none of
    these, and where a limit or split makes no sense.
    """
    if limit is not None and limit < 1:
        raise DatasetError(f"limit is {limit}, expected at least 1 recording")
    if dataset == SIMULATED:
        return _simulated(split or "test", limit, seed, progress)
    path = Path(dataset)
    recordings = _at(path, split)
    if not recordings:
        raise DatasetError(f"{path} holds no recordings{f' in split {split!r}' if split else ''}")
    return recordings[:limit]


def _at(path: Path, split: str | None) -> list[Recording]:
    from psg4d_ros.data.bag_truth import recording_from_bag
    from psg4d_ros.data.bimacs import open_bimacs
    from psg4d_ros.data.psg4d_dataset import open_psg4d
    from psg4d_ros.data.simulation.storage import open_folder, open_scene

    if not path.exists():
        raise DatasetError(f"{path} does not exist, expected {_FORMS}")
    if path.is_dir() and not _is_bag(path) and not any(path.glob("*.npz")) and not any(path.glob("*_take*.json*")):
        return open_psg4d(path, split)
    if split is not None:
        raise DatasetError(f"{path} is all one split, but split {split!r} is asked for; leave it out")
    if _is_bag(path):
        return [recording_from_bag(path)]
    if path.suffix == ".npz":
        return [open_scene(path)]
    if path.is_file():
        raise DatasetError(f"{path} is not {_FORMS}")
    return open_folder(path) if any(path.glob("*.npz")) else open_bimacs(path)


def _is_bag(path: Path) -> bool:
    return (path / "metadata.yaml").is_file() if path.is_dir() else path.suffix in (".mcap", ".db3", ".bag")


def _simulated(split: str, limit: int | None, seed: int, progress: Progress | None) -> list[Recording]:
    """Scenes of a split, with the simulator's default settings, out of the cache as far as they are there."""
    from psg4d_ros.data.simulation.production import SimulationJob, simulate, simulator_hash
    from psg4d_ros.data.simulation.splits import choose_split
    from psg4d_ros.data.simulation.storage import open_scene

    _, scenes = choose_split(split, limit)
    job = SimulationJob(_cache() / f"{split}-seed{seed}-{simulator_hash()}", split=split, seed=seed)
    simulate(job, scenes, progress=progress)
    return [open_scene(job.out / f"{job.scene_name(index)}.npz") for index in range(scenes)]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "psg4d_ros" / "simulated"
