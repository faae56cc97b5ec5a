"""PointCloud2 messages for tests, built from their parts, so that any part can be wrong."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

DATATYPES = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}
XYZ = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4")])
STAMP_NS = 1_700_000_000_250_000_000


def fields_of(dtype: np.dtype) -> list[SimpleNamespace]:
    """PointFields of a structured dtype."""
    out = []
    for name in dtype.names:
        kind, offset = dtype.fields[name][:2]
        out.append(
            SimpleNamespace(
                name=name,
                offset=offset,
                datatype=DATATYPES[kind.base.str[1:]],
                count=int(np.prod(kind.shape, dtype=int)),
            )
        )
    return out


def cloud(points: np.ndarray, *, row_padding: int = 0, big_endian: bool = False, **changes: Any) -> SimpleNamespace:
    """A message of the structured array ``points`` [N] or [height, width]; ``changes`` replace its parts.

    row_padding: bytes of rubbish behind each row. big_endian: how the dtype of ``points`` is to be announced.
    """
    grid = points if points.ndim == 2 else points[None, :]
    height, width = grid.shape
    step = points.dtype.itemsize
    rows = np.full((height, width * step + row_padding), 0xA5, dtype=np.uint8)
    rows[:, : width * step] = np.frombuffer(grid.tobytes(), np.uint8).reshape(height, width * step)
    parts: dict[str, Any] = {
        "header": SimpleNamespace(
            stamp=SimpleNamespace(sec=STAMP_NS // 10**9, nanosec=STAMP_NS % 10**9), frame_id="lidar"
        ),
        "height": height,
        "width": width,
        "fields": fields_of(points.dtype),
        "is_bigendian": big_endian,
        "point_step": step,
        "row_step": rows.shape[1],
        "data": rows.reshape(-1),
        "is_dense": True,
    }
    parts.update(changes)
    return SimpleNamespace(**parts)


def xyz(points: Any, dtype: np.dtype = XYZ) -> np.ndarray:
    """A structured array whose x, y, z are the rows of ``points``; other fields are 0."""
    points = np.asarray(points, dtype=np.float64).reshape(-1, 3)
    out = np.zeros(len(points), dtype)
    for axis, name in enumerate("xyz"):
        with np.errstate(invalid="ignore", over="ignore"):
            out[name] = points[:, axis]
    return out
