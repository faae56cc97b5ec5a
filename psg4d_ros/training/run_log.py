"""What a stage writes while it learns: JSON lines, and the same for TensorBoard where it is installed."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LOG_FILE = "log.jsonl"
_log = logging.getLogger(__name__)


class RunLog:
    """One line per step, ``{"step", "losses", ...}``, and per validation, ``{"step", "val"}``.

    first_step: steps done; what a run that was killed wrote beyond them is cut off.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / LOG_FILE
        kept = [line for line in read_lines(path) if line["step"] <= first_step] if first_step else []
        # Line by line to the file: a kill must not lose what was logged before the last saved state.
        self._file = path.open("w", encoding="utf-8", buffering=1)
        for line in kept:
            self._write(line)
        self._board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            _log.warning("tensorboard is not installed: no event files, only %s", path)
        else:
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step or None)

    def step(self, number: int, losses: Mapping[str, float], **values: float) -> None:
        """number: steps done with this one."""
        self._write({"step": number, "losses": dict(losses), **values})
        self._scalars("train", number, {**losses, **values})

    def validation(self, number: int, figures: Mapping[str, float]) -> None:
        if figures:
            self._write({"step": number, "val": dict(figures)})
            self._scalars("val", number, figures)

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")

    def _scalars(self, group: str, number: int, values: Mapping[str, float]) -> None:
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{group}/{name}", value, number)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; one that a kill cut short, and all after it, are left out."""
    lines = []
    if path.is_file():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break
    return lines
