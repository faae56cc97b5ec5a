"""Neighbour tables of sparse convolution, built outside the network (torch, CPU or GPU).

A sparse convolution is then a gather by table and a matrix product, which export to ONNX. In every table 0 stands for
"nothing there" (a zero row put in front of the features) and i + 1 for row i.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from psg4d_ros.voxelize import KEY_BITS, MAX_COORD, pack_keys, unpack_keys

# (dx, dy, dz) of the 27 neighbours, z fastest: (-1, -1, -1), (-1, -1, 0), ... (1, 1, 1); entry 13 is the voxel itself.
OFFSETS = tuple((dx, dy, dz) for dx in (-1, 0, 1) for dy in (-1, 0, 1) for dz in (-1, 0, 1))
# Up to this many cells a dense look-up table serves, which is faster than a sorted search; beyond, it takes too much.
DENSE_CELLS = 8_000_000


@dataclass(frozen=True, eq=False)
class Level:
    """One level of the pyramid, V voxels.

    coords: int32[V, 3]. neighbours: int64[V, 27], see OFFSETS. None on level 0, and from level 1 on, for the V_below
    voxels of the level below: children: int64[V, 8] those inside each voxel, by cell = 4 dx + 2 dy + dz; parent:
    int64[V_below] row of the voxel that holds each (every voxel has one, so 0 is row 0); cell: int64[V_below] in 0..7.
    """

    coords: Tensor
    neighbours: Tensor
    children: Tensor | None = None
    parent: Tensor | None = None
    cell: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Rulebook:
    """Levels from fine to coarse; voxels of level l + 1 are twice as large as those of level l."""

    levels: tuple[Level, ...]


def build_rulebook(coords: Tensor, num_levels: int) -> Rulebook:
    """Tables of ``num_levels`` levels over unique voxels ``coords`` (int32[V, 3], any order, V >= 0).

    Level 0 keeps the order of ``coords``; coarser levels are floor(coords / 2), sorted lexicographically.
    Raises ValueError for another shape, for coordinates beyond +-MAX_COORD and for duplicates.
    """
    if coords.ndim != 2 or coords.shape[1] != 3:
        raise ValueError(f"coords has shape {tuple(coords.shape)}, expected [V, 3]")
    if num_levels < 1:
        raise ValueError(f"num_levels is {num_levels}, expected at least 1")
    if len(coords) and int(coords.abs().max()) > MAX_COORD:
        raise ValueError(f"coords reach {int(coords.abs().max())}, expected at most {MAX_COORD}")
    levels = [Level(coords.int(), neighbour_table(coords))]
    for _ in range(1, num_levels):
        fine = levels[-1].coords.long()
        keys, parent = torch.unique(pack_keys(fine >> 1), sorted=True, return_inverse=True)  # >> 1 floors, also below 0
        bits = fine & 1
        cell = 4 * bits[:, 0] + 2 * bits[:, 1] + bits[:, 2]
        children = torch.zeros((len(keys), 8), dtype=torch.int64, device=coords.device)
        children[parent, cell] = torch.arange(1, len(fine) + 1, device=coords.device)
        coarse = unpack_keys(keys)
        levels.append(Level(coarse, neighbour_table(coarse), children, parent, cell))
    return Rulebook(tuple(levels))


def neighbour_table(coords: Tensor, dense_cells: int = DENSE_CELLS) -> Tensor:
    """int64[V, 27] rows (+ 1) of each voxel's neighbours, 0 where there is none; ValueError on duplicates.

    ``dense_cells``: the largest bounding box, in cells, that is searched by a dense table.
    """
    if not len(coords):
        return torch.zeros((0, 27), dtype=torch.int64, device=coords.device)
    coords = coords.long()
    low = coords.amin(dim=0)
    extent = (coords.amax(dim=0) - low + 3).tolist()  # one empty cell on either side
    if extent[0] * extent[1] * extent[2] <= dense_cells:
        return _dense_search(coords - low + 1, extent)
    return _sorted_search(pack_keys(coords))


def _steps(stride_x: int, stride_y: int, device: torch.device) -> Tensor:
    """int64[27]: what each offset adds to a linear index or key."""
    return torch.tensor([dx * stride_x + dy * stride_y + dz for dx, dy, dz in OFFSETS], device=device)


def _dense_search(coords: Tensor, extent: list[int]) -> Tensor:
    stride_x, stride_y = extent[1] * extent[2], extent[2]
    index = coords[:, 0] * stride_x + coords[:, 1] * stride_y + coords[:, 2]
    rows = torch.arange(1, len(coords) + 1, dtype=torch.int32, device=coords.device)
    table = torch.zeros(extent[0] * stride_x, dtype=torch.int32, device=coords.device)
    table[index] = rows
    _refuse_duplicates(bool((table[index] != rows).any()))
    return table[index[:, None] + _steps(stride_x, stride_y, coords.device)].long()


def _sorted_search(keys: Tensor) -> Tensor:
    ordered, row = keys.sort()
    _refuse_duplicates(bool((ordered[1:] == ordered[:-1]).any()))
    table = torch.zeros((len(keys), 27), dtype=torch.int64, device=keys.device)
    table[:, 13] = torch.arange(1, len(keys) + 1, device=keys.device)
    steps = _steps(1 << (2 * KEY_BITS), 1 << KEY_BITS, keys.device)
    for k in range(13):  # being a neighbour is mutual: half of the offsets gives the other half
        wanted = ordered + steps[k]
        place = torch.searchsorted(ordered, wanted).clamp_(max=len(ordered) - 1)
        found = (ordered[place] == wanted).nonzero()[:, 0]
        here, there = row[found], row[place[found]]
        table[here, k] = there + 1
        table[there, 26 - k] = here + 1
    return table


def _refuse_duplicates(found: bool) -> None:
    if found:
        raise ValueError("coords holds the same voxel twice; voxels must be unique")
