"""From what holds at each frame to spans: what wavers for a single frame does not begin or end anything."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import groupby
from typing import TypeVar

import numpy as np

from psg4d_ros.data.simulation.contacts import Bool

_State = TypeVar("_State", bound=Hashable)


def runs(mask: Bool) -> list[tuple[int, int]]:
    """The spans [start, end) in which bool[T] is true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def steady_spans(mask: Bool, least: int = 2) -> list[tuple[int, int]]:
    """The spans [start, end) in which bool[F] is true: gaps of one frame are closed, then what is shorter than
    ``least`` frames is dropped, unless it is the whole recording.

    >>> steady_spans(np.array([1, 1, 0, 1, 0, 0, 1, 0], bool))
    [(0, 4)]
    """
    closed = mask.copy()
    closed[1:-1] |= mask[:-2] & mask[2:]
    return [(a, b) for a, b in runs(closed) if b - a >= min(least, len(mask))]


def steady_states(states: Sequence[_State]) -> list[tuple[_State, int, int]]:
    """(state, start, end) of consecutive frames, of which each has exactly one state. A state that lasts for a single
    frame gives way to the one before it, the first one to the one after it.

    >>> steady_states("aabaccd")
    [('a', 0, 4), ('c', 4, 7)]
    """
    kept: list[_State] = []
    for state, group in groupby(states):
        length = len(list(group))
        kept += [state] if length > 1 or not kept else [kept[-1]]
        kept += [state] * (length - 1)
    if len(kept) > 1 and kept[0] != kept[1]:
        kept[0] = kept[1]
    out: list[tuple[_State, int, int]] = []
    for state, group in groupby(kept):
        start = out[-1][2] if out else 0
        out.append((state, start, start + len(list(group))))
    return out
