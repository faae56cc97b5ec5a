"""Frames side by side for the encoder: the voxels and tables of several frames as one cloud whose parts never meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from psg4d_ros.runtime.backends import rulebook_centers
from psg4d_ros.runtime.rulebook import Rulebook
from psg4d_ros.structures import VoxelGrid

_ALIGNMENT = 64  # bytes, a cache line


@dataclass(frozen=True, eq=False)
class SparseInput:
    """What SparseEncoder.forward takes, over F frames; L levels, V_l voxels on level l, frame after frame.

    features: float32[V_0, C_in]. neighbours: per level [V_l, 27]; children: per pair of levels [V_{l+1}, 8]; parent,
    cell: per pair of levels [V_l]; entries as in Rulebook, shifted so that frames stay apart. centers: per level
    float32[V_l, 3], as FrameFeatures has them. frame: per level [V_l], the number of the frame that each row is of.
    num_frames: F; frames may be empty. Tables and ``frame`` are int32 as ``of`` makes them, since they go from process
    to process, and int64 after ``join``, as the encoder wants them.
    """

    features: Tensor
    neighbours: list[Tensor]
    children: list[Tensor]
    parent: list[Tensor]
    cell: list[Tensor]
    centers: list[Tensor]
    frame: list[Tensor]
    num_frames: int

    @classmethod
    def of(cls, grid: VoxelGrid, rulebook: Rulebook) -> SparseInput:
        """One frame."""
        below = rulebook.levels[1:]
        centers = rulebook_centers(grid, rulebook)
        return cls(
            grid.features,
            [level.neighbours.int() for level in rulebook.levels],
            [_table(level.children).int() for level in below],
            [_table(level.parent).int() for level in below],
            [_table(level.cell).int() for level in below],
            centers,
            [torch.zeros(len(c), dtype=torch.int32, device=c.device) for c in centers],
            1,
        )

    @classmethod
    def join(cls, inputs: Sequence[SparseInput], dtype: torch.dtype = torch.int64) -> SparseInput:
        """Several inputs with the same number of levels (at least one input), on one device, one after another."""
        levels = range(len(inputs[0].centers))
        # For each level, the row at which each input begins; and the number of its first frame.
        starts = [_starts(len(i.centers[level]) for i in inputs) for level in levels]
        first = _starts(i.num_frames for i in inputs)

        def shifted(tables: list[Tensor], shifts: list[int]) -> Tensor:
            return torch.cat([t.to(dtype) + by for t, by in zip(tables, shifts, strict=True)])

        def linked(tables: list[Tensor], shifts: list[int]) -> Tensor:
            """As ``shifted``, but entry 0 is no row and stays 0."""
            return torch.cat([torch.add(t.to(dtype), t > 0, alpha=by) for t, by in zip(tables, shifts, strict=True)])

        return cls(
            torch.cat([i.features for i in inputs]),
            [linked([i.neighbours[level] for i in inputs], starts[level]) for level in levels],
            [linked([i.children[level] for i in inputs], starts[level]) for level in levels[:-1]],
            [shifted([i.parent[level] for i in inputs], starts[level + 1]) for level in levels[:-1]],
            [torch.cat([i.cell[level].to(dtype) for i in inputs]) for level in levels[:-1]],
            [torch.cat([i.centers[level] for i in inputs]) for level in levels],
            [shifted([i.frame[level] for i in inputs], first) for level in levels],
            sum(i.num_frames for i in inputs),
        )

    def to(self, device: torch.device | str) -> SparseInput:
        """The same on a device."""
        tensors = [t.to(device, non_blocking=True) for t in self.tensors()]
        return SparseInput.from_tensors(tensors, self.num_frames)

    def tensors(self) -> list[Tensor]:
        """All tensors in a row, what ``from_tensors`` takes."""
        return [
            self.features,
            *self.neighbours,
            *self.centers,
            *self.frame,
            *self.children,
            *self.parent,
            *self.cell,
        ]

    @classmethod
    def from_tensors(cls, tensors: list[Tensor], num_frames: int) -> SparseInput:
        """The reverse of ``tensors``."""
        levels = (len(tensors) + 2) // 6  # there are 1 + 3 L + 3 (L - 1)
        rest = tensors[1:]
        ends = list(accumulate([levels] * 3 + [levels - 1] * 3))
        pieces = [rest[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        neighbours, centers, frame, children, parent, cell = pieces
        return cls(tensors[0], neighbours, children, parent, cell, centers, frame, num_frames)


def pack(tensors: Sequence[Tensor]) -> tuple[Tensor, list[tuple[str, tuple[int, ...]]]]:
    """CPU tensors as one uint8 tensor and a layout, dtype and shape of each.

    Every tensor that goes to another process costs a file descriptor there, and a transfer of its own: one for a whole
    window is enough.
    """
    sizes = [_padded(t.numel() * t.element_size()) for t in tensors]
    buffer = torch.zeros(sum(sizes), dtype=torch.uint8)
    for place, tensor in zip(buffer.split(sizes), tensors, strict=True):
        count = tensor.numel() * tensor.element_size()
        if count:
            place[:count] = tensor.contiguous().view(-1).view(torch.uint8)
    return buffer, [(str(t.dtype).removeprefix("torch."), tuple(t.shape)) for t in tensors]


def unpack(buffer: Tensor, layout: list[tuple[str, tuple[int, ...]]]) -> list[Tensor]:
    """The tensors that ``pack`` packed, as views of the buffer."""
    out, start = [], 0
    for name, shape in layout:
        dtype: torch.dtype = getattr(torch, name)
        count = torch.Size(shape).numel() * dtype.itemsize
        out.append(buffer[start : start + count].view(dtype).view(shape))
        start += _padded(count)
    return out


def _padded(count: int) -> int:
    return -(-count // _ALIGNMENT) * _ALIGNMENT


def _starts(counts: Any) -> list[int]:
    return [0, *accumulate(counts)][:-1]


def _table(table: Tensor | None) -> Tensor:
    assert table is not None  # levels from 1 on have them
    return table
