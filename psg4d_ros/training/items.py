"""The items of a stage in the order of its steps, made ahead by other processes where there are some."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from psg4d_ros.training.stage import Items

_AHEAD = 2  # items that each process makes in advance


class _Order(Sampler[int]):
    """Indices of one process's share of each step's batch, without end."""

    def __init__(self, first_step: int, batch: int, places: range) -> None:
        self.first_step, self.batch, self.places = first_step, batch, places

    def __iter__(self) -> Iterator[int]:
        step = self.first_step
        while True:
            yield from (step * self.batch + place for place in self.places)
            step += 1


class _Indexed(Dataset[Any]):
    def __init__(self, items: Items) -> None:
        self.items = items

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def iterate(items: Items, first_step: int, batch: int, places: range, workers: int) -> Iterator[Any]:
    """Item ``step * batch + place`` for each place of each step from ``first_step`` on, without end.

    workers: processes that make items ahead; 0 makes each when it is asked for. The items are the same.
    """
    loader: DataLoader[Any] = DataLoader(
        _Indexed(items),
        batch_size=None,
        sampler=_Order(first_step, batch, places),
        num_workers=workers,
        prefetch_factor=_AHEAD if workers else None,
        collate_fn=_as_is,
        generator=torch.Generator(),  # else it draws from the global one
    )
    return iter(loader)


def _as_is(item: Any) -> Any:
    return item
