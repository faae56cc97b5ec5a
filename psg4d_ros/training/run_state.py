"""What a stopped stage goes on from: a folder of safetensors and JSON, there whole or not at all."""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from psg4d_ros.errors import CheckpointError

TENSORS, VALUES = "tensors.safetensors", "state.json"
_log = logging.getLogger(__name__)


@dataclass
class Progress:
    """Where a stage stands. steps, seconds, progress: of the schedule. micro_batch: as it is now; halved: whether for
    want of memory. validated: how many validations are done, validation_s: how long one takes. seed: of the data."""

    seed: int
    batch: int
    micro_batch: int
    halved: bool
    step: int
    steps: int | None
    seconds: float | None
    progress: float
    elapsed_s: float
    validated: int
    validation_s: float
    losses: dict[str, float]
    val: dict[str, float]


def save_state(folder: Path, progress: Progress, tensors: dict[str, Tensor]) -> None:
    """Write the state of a step, then remove those of earlier steps."""
    final = folder / f"state-{progress.step:09d}"
    temporary = folder / f".{final.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file({n: t.detach().to("cpu").contiguous() for n, t in tensors.items()}, temporary / TENSORS)
    (temporary / VALUES).write_text(json.dumps(asdict(progress)) + "\n", encoding="utf-8")
    for path in (temporary / TENSORS, temporary / VALUES, temporary):
        _to_disk(path)
    older = [p for p in _states(folder) if p != final]
    shutil.rmtree(final, ignore_errors=True)  # only where the same step is saved twice
    temporary.rename(final)
    for path in older:
        shutil.rmtree(path, ignore_errors=True)


def load_state(folder: Path) -> tuple[Progress, dict[str, Tensor]] | None:
    """The newest state that is whole; None where there is none.

    Raises CheckpointError when the newest was written by another release.
    """
    for path in reversed(_states(folder)):
        try:
            values: dict[str, Any] = json.loads((path / VALUES).read_text(encoding="utf-8"))
            tensors = load_file(path / TENSORS)
        except (OSError, ValueError, SafetensorError) as error:
            _log.warning("%s is not whole and is passed over: %s", path, error)
            continue
        try:
            return Progress(**values), tensors
        except TypeError as error:
            raise CheckpointError(f"{path / VALUES} is not a state of this release: {error}; start anew") from error
    return None


def remove_states(folder: Path) -> None:
    """Once a stage is done, its weights are all that is needed."""
    for path in [*_states(folder), *folder.glob(".state-*")]:
        shutil.rmtree(path, ignore_errors=True)


def _states(folder: Path) -> list[Path]:
    return sorted(folder.glob("state-*"))


def _to_disk(path: Path) -> None:
    """Wait until a file or folder has reached the disk, so that the rename that follows never shows an empty one."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
