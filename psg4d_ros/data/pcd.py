"""Reading PCD files (Point Cloud Library, format 0.7): ascii, binary and binary_compressed, plain or gzipped.

Format: https://pointclouds.org/documentation/tutorials/pcd_file_format.html. Nothing of a file is executed; every size
that a header claims is checked against the bytes that are there before memory is taken for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from psg4d_ros.data.files import read_bytes
from psg4d_ros.errors import DatasetError

_MAX_HEADER_LINES = 64
_DTYPES = {
    ("F", 4): "<f4", ("F", 8): "<f8",
    ("I", 1): "<i1", ("I", 2): "<i2", ("I", 4): "<i4", ("I", 8): "<i8",
    ("U", 1): "<u1", ("U", 2): "<u2", ("U", 4): "<u4", ("U", 8): "<u8",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class PcdCloud:
    """The content of one PCD file.

    points: structured array [width * height], one field per PCD field, little-endian; organised clouds (height > 1) are
    row-major. viewpoint: float64[7], sensor position x y z in metres and orientation quaternion w x y z. x, y, z are in
    metres in the sensor's frame.
    """

    points: NDArray[np.void]
    width: int
    height: int
    viewpoint: NDArray[np.float64]


def read_pcd(path: Path | str) -> PcdCloud:
    """Read one PCD file, gzipped or not. Raises DatasetError, naming the file and what of it is not PCD."""
    path = Path(path)
    raw = read_bytes(path)
    try:
        return _parse(raw)
    except ValueError as error:
        raise DatasetError(f"{path} is not a valid PCD file: {error}") from error


def lzf_decompress(data: bytes, size: int) -> bytes:
    """Decompress one LZF block (the compression of binary_compressed) into exactly ``size`` bytes.

    Format: a control byte below 32 starts a literal run of control + 1 bytes; any other is a back reference of length
    (control >> 5) + 2 (7 in the three bits: plus the next byte) and distance ((control & 31) << 8 | next byte) + 1.
    Raises ValueError for a block that does not fit.
    """
    out = bytearray()
    position, end = 0, len(data)
    while position < end:
        control = data[position]
        position += 1
        if control < 32:
            out += data[position : position + control + 1]
            if position + control + 1 > end:
                raise ValueError("compressed data ends inside a literal run")
            position += control + 1
        else:
            length = control >> 5
            needed = 2 if length == 7 else 1
            if position + needed > end:
                raise ValueError("compressed data ends inside a back reference")
            if length == 7:
                length += data[position]
                position += 1
            length += 2
            start = len(out) - ((control & 31) << 8) - data[position] - 1
            position += 1
            if start < 0:
                raise ValueError("compressed data refers to bytes before its start")
            distance = len(out) - start
            if distance >= length:
                out += out[start : start + length]
            else:  # the reference overlaps what it writes: the pattern repeats
                pattern = bytes(out[start:])
                out += (pattern * (length // distance + 1))[:length]
        if len(out) > size:
            raise ValueError(f"compressed data holds more than the {size} bytes announced")
    if len(out) != size:
        raise ValueError(f"compressed data holds {len(out)} bytes, {size} were announced")
    return bytes(out)


def _parse(raw: bytes) -> PcdCloud:
    header, body = _split_header(raw)
    names = _words(header, "FIELDS")
    sizes = _integers(header, "SIZE")
    kinds = _words(header, "TYPE")
    counts = _integers(header, "COUNT") if "COUNT" in header else [1] * len(names)
    if not len(names) == len(sizes) == len(kinds) == len(counts):
        raise ValueError(
            f"FIELDS, SIZE, TYPE and COUNT have {len(names)}, {len(sizes)}, {len(kinds)} and {len(counts)} entries"
        )
    columns = []
    for index, (name, kind, size, count) in enumerate(zip(names, kinds, sizes, counts, strict=True)):
        if (kind, size) not in _DTYPES:
            raise ValueError(f"field {name!r} has TYPE {kind} with SIZE {size}, expected F 4/8, I 1/2/4/8 or U 1/2/4/8")
        if not 1 <= count <= 65536:
            raise ValueError(f"field {name!r} has COUNT {count}, expected 1 to 65536")
        # "_" marks padding and may occur several times; a structured dtype needs distinct names
        unique = f"_{index}" if name == "_" else name
        columns.append((unique, _DTYPES[kind, size], (count,)) if count > 1 else (unique, _DTYPES[kind, size]))
    if len({column[0] for column in columns}) != len(columns):
        raise ValueError(f"FIELDS names a field twice: {' '.join(names)}")
    dtype = np.dtype(columns)
    (width,), (height,) = _integers(header, "WIDTH", 1), _integers(header, "HEIGHT", 1)
    number = _integers(header, "POINTS", 1)[0] if "POINTS" in header else width * height
    if width < 0 or height < 0 or number != width * height:
        raise ValueError(f"POINTS is {number}, WIDTH x HEIGHT is {width} x {height}")
    viewpoint = np.array([0, 0, 0, 1, 0, 0, 0], dtype=np.float64)
    if "VIEWPOINT" in header:
        viewpoint = np.array([float(word) for word in _words(header, "VIEWPOINT")], dtype=np.float64)
        if viewpoint.shape != (7,) or not np.isfinite(viewpoint).all():
            raise ValueError(f"VIEWPOINT is {header['VIEWPOINT']!r}, expected 7 numbers")
    encoding = header["DATA"]
    readers = {"ascii": _read_ascii, "binary": _read_binary, "binary_compressed": _read_compressed}
    if encoding not in readers:
        raise ValueError(f"DATA is {encoding!r}, expected ascii, binary or binary_compressed")
    return PcdCloud(readers[encoding](body, dtype, number), width, height, viewpoint)


def _split_header(raw: bytes) -> tuple[dict[str, str], bytes]:
    header: dict[str, str] = {}
    start = 0
    for _ in range(_MAX_HEADER_LINES):
        end = raw.find(b"\n", start)
        if end < 0:
            break
        line = raw[start:end].decode("ascii", errors="replace").strip()
        start = end + 1
        if not line or line.startswith("#"):
            continue
        key, _, value = line.partition(" ")
        header[key.upper()] = value.strip()
        if key.upper() == "DATA":
            return header, raw[start:]
    raise ValueError("no line DATA in its header")


def _words(header: dict[str, str], key: str) -> list[str]:
    if key not in header:
        raise ValueError(f"no line {key} in its header")
    return header[key].split()


def _integers(header: dict[str, str], key: str, number: int | None = None) -> list[int]:
    words = _words(header, key)
    if number is not None and len(words) != number:
        raise ValueError(f"{key} is {header[key]!r}, expected {number} integer(s)")
    try:
        return [int(word) for word in words]
    except ValueError:
        raise ValueError(f"{key} is {header[key]!r}, expected integers") from None


def _read_ascii(body: bytes, dtype: np.dtype[np.void], number: int) -> NDArray[np.void]:
    rows = [line.split() for line in body.decode("ascii", errors="replace").splitlines() if line.strip()]
    if len(rows) != number:
        raise ValueError(f"{len(rows)} lines of data, POINTS is {number}")
    width = sum(dtype[name].shape[0] if dtype[name].shape else 1 for name in dtype.names or ())
    for line, row in enumerate(rows, start=1):
        if len(row) != width:
            raise ValueError(f"line {line} of the data has {len(row)} values, the fields have {width}")
    points = np.zeros(number, dtype)
    column = 0
    for name in dtype.names or ():
        kind = dtype[name]
        width = kind.shape[0] if kind.shape else 1
        convert = float if kind.base.kind == "f" else int
        try:
            values = [[convert(word) for word in row[column : column + width]] for row in rows]
            if number:
                points[name] = np.array(values, dtype=kind.base).reshape((number, *kind.shape))
        except (ValueError, OverflowError) as error:
            raise ValueError(f"a value of field {name!r} is not a {kind.base.name}: {error}") from None
        column += width
    return points


def _read_binary(body: bytes, dtype: np.dtype[np.void], number: int) -> NDArray[np.void]:
    needed = number * dtype.itemsize
    if len(body) < needed:
        raise ValueError(f"{len(body)} bytes of data, {number} points of {dtype.itemsize} bytes need {needed}")
    return np.frombuffer(body, dtype, number)


def _read_compressed(body: bytes, dtype: np.dtype[np.void], number: int) -> NDArray[np.void]:
    """binary_compressed holds two uint32 sizes and one LZF block, field after field instead of point after point."""
    if len(body) < 8:
        raise ValueError("data ends before the two sizes of the compressed block")
    packed, unpacked = (int(size) for size in np.frombuffer(body, "<u4", 2))
    needed = number * dtype.itemsize
    if unpacked != needed:
        raise ValueError(
            f"{unpacked} bytes after decompression, {number} points of {dtype.itemsize} bytes need {needed}"
        )
    if len(body) < 8 + packed:
        raise ValueError(f"{len(body) - 8} bytes of compressed data, {packed} were announced")
    block = lzf_decompress(body[8 : 8 + packed], unpacked)
    points = np.zeros(number, dtype)
    offset = 0
    for name in dtype.names or ():
        kind = dtype[name]
        values = np.frombuffer(block, kind.base, number * (kind.shape[0] if kind.shape else 1), offset)
        points[name] = values.reshape((number, *kind.shape))
        offset += values.nbytes
    return points
