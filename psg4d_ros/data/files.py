"""A file of a data set, whole: as bytes, text, JSON or an image; gzipped or not. What is wrong raises DatasetError."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from psg4d_ros.errors import DatasetError

_GZIP_MAGIC = b"\x1f\x8b"


def read_bytes(path: Path) -> bytes:
    """The file's bytes, unpacked if it is gzipped (told by its first bytes, not by its name)."""
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if raw[:2] == _GZIP_MAGIC else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def read_text(path: Path) -> str:
    """The file as UTF-8."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not text in UTF-8: {error}") from error


def read_json(path: Path) -> Any:
    """The file as JSON."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not JSON: {error}") from error


def read_numbers(path: Path, columns: int) -> NDArray[np.float64]:
    """float64[N, columns] from lines of numbers between blanks; empty lines do not count."""
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        try:
            rows.append([float(word) for word in words])
        except ValueError as error:
            raise DatasetError(f"{path} line {number} is {line[:80]!r}: {error}; expected numbers") from None
        if len(words) != columns:
            raise DatasetError(f"{path} line {number} has {len(words)} numbers, expected {columns}")
    return np.array(rows, dtype=np.float64).reshape(-1, columns)


def read_array(path: Path, name: str | None = None) -> NDArray[Any]:
    """The array of a .npy file, or the one called ``name`` of a .npz file. Object arrays (pickles) are refused."""
    try:
        loaded = np.load(io.BytesIO(read_bytes(path)), allow_pickle=False)
        return np.asarray(loaded if name is None else loaded[name])
    except (OSError, ValueError, EOFError, KeyError, IndexError, MemoryError, BadZipFile, zlib.error) as error:
        what = "a numpy array" if name is None else f"a numpy archive with an array {name!r}"
        raise DatasetError(f"{path} is not {what}: {error}") from error


def read_image(path: Path) -> Image.Image:
    """An image, decoded in full. The number of its pixels is checked by Pillow before memory is taken for it."""
    try:
        image = Image.open(io.BytesIO(read_bytes(path)))
        image.load()
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{path} is not a readable image: {error}") from error
    return image


def check_folder(path: Path, what: str) -> None:
    """Raise DatasetError unless ``path`` is a folder. what: what it should be, e.g. "the root of PSG4D"."""
    if not path.is_dir():
        raise DatasetError(f"{path} {'is a file' if path.exists() else 'does not exist'}, expected {what}, a folder")
