"""A file of a data set, whole: as bytes, text, JSON or an image; gzipped or not. What is wrong raises DatasetError."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from psg4d_ros.errors import DatasetError

# A file that is read whole holds no more than this, packed or unpacked: gzip and zip turn a megabyte into a gigabyte.
MAX_BYTES = 2 << 30
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 24
# What the data sets hold. Pillow knows many more forms, one of which (EPS) starts another program.
_IMAGE_FORMATS = ("PNG", "JPEG", "BMP")


def read_bytes(path: Path) -> bytes:
    """The file's bytes, unpacked if it is gzipped (told by its first bytes, not by its name); at most MAX_BYTES."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP_MAGIC
        parts, size = [], 0
        with gzip.open(path) if packed else path.open("rb") as file:
            while part := file.read(_CHUNK_BYTES):
                parts.append(part)
                size += len(part)
                if size > MAX_BYTES:
                    raise DatasetError(f"{path} holds more than {MAX_BYTES} bytes{' unpacked' if packed else ''}")
    except (OSError, EOFError, zlib.error, ValueError) as error:  # ValueError: no file can have such a name
        raise DatasetError(f"{path} cannot be read: {error}") from error
    return b"".join(parts)


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
    raw = read_bytes(path)
    try:
        if name is not None:
            with zipfile.ZipFile(io.BytesIO(raw)) as archive:
                member = archive.getinfo(f"{name}.npy")
                if member.file_size > MAX_BYTES:
                    raise ValueError(f"the array has {member.file_size} bytes, expected at most {MAX_BYTES}")
                raw = archive.read(member)
        return np.asarray(np.lib.format.read_array(io.BytesIO(raw), allow_pickle=False))
    except Exception as error:  # of damaged bytes the decoders raise nearly anything
        what = "a numpy array" if name is None else f"a numpy archive with an array {name!r}"
        raise DatasetError(f"{path} is not {what}: {error}") from error


def read_image(path: Path) -> Image.Image:
    """A PNG, JPEG or BMP image, decoded in full. Pillow checks the number of its pixels before it takes memory."""
    raw = read_bytes(path)
    try:
        image = Image.open(io.BytesIO(raw), formats=_IMAGE_FORMATS)
        image.load()
    except Exception as error:  # of damaged bytes the decoders raise nearly anything
        raise DatasetError(f"{path} is not a readable image: {error}") from error
    return image


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value out of JSON is a number to calculate with: finite, no boolean, at most 1e12 either way."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e12 <= value <= 1e12


def is_integer(value: Any, low: int = 0, high: int = 2**31 - 1) -> TypeGuard[int]:
    """Whether a value out of JSON is a whole number from ``low`` to ``high``, and no boolean."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def shown(value: Any) -> str:
    """A value out of a file as an error message quotes it: its beginning, so that the rest stays readable."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def check_folder(path: Path, what: str) -> None:
    """Raise DatasetError unless ``path`` is a folder. what: what it should be, e.g. "the root of PSG4D"."""
    if not path.is_dir():
        raise DatasetError(f"{path} {'is a file' if path.exists() else 'does not exist'}, expected {what}, a folder")
    try:
        next(path.iterdir(), None)
    except OSError as error:
        raise DatasetError(f"{path} cannot be looked into: {error}") from error
