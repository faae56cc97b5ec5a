"""Result files, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

from psg4d_ros.errors import Psg4dError


def check_writable(path: Path) -> None:
    """Raise Psg4dError, as write_json will, when ``path`` cannot be written; for before a long run.

    Makes the folder, and leaves what is at ``path`` as it is.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError("it is a folder, expected the name of a file")
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-"):
            pass
    except OSError as error:
        raise Psg4dError(f"cannot write {path}: {error}") from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all; see write_text."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all: to a temporary file beside ``path``, then renamed over it.

    Raises Psg4dError when the file cannot be written; nothing is left behind then.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=f".{path.name}-", delete=False, encoding="utf-8"
        ) as file:
            temporary = Path(file.name)
            file.write(text)
        temporary.chmod(0o644)  # temporary files are private; a result is as readable as any other file
        temporary.replace(path)
    except OSError as error:
        raise Psg4dError(f"cannot write {path}: {error}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):  # what counts was said above
                temporary.unlink(missing_ok=True)
