"""Rulebooks against a brute-force dictionary: neighbours, children, parents and cells of every voxel."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from psg4d_ros.runtime.rulebook import OFFSETS, build_rulebook, neighbour_table
from psg4d_ros.voxelize import MAX_COORD, pack_keys, unpack_keys

small = st.tuples(*[st.integers(-5, 5)] * 3)
wide = st.tuples(*[st.integers(-MAX_COORD, MAX_COORD)] * 3)


def voxels(of: st.SearchStrategy[tuple[int, ...]]) -> st.SearchStrategy[Tensor]:
    return st.lists(of, unique=True, max_size=80).map(lambda rows: torch.tensor(rows, dtype=torch.int32).reshape(-1, 3))


def brute_neighbours(coords: Tensor) -> Tensor:
    row = {tuple(c): i + 1 for i, c in enumerate(coords.tolist())}
    table = [[row.get((x + dx, y + dy, z + dz), 0) for dx, dy, dz in OFFSETS] for x, y, z in coords.tolist()]
    return torch.tensor(table, dtype=torch.int64).reshape(-1, 27)


def test_offsets_run_z_fastest_with_the_voxel_itself_in_the_middle() -> None:
    assert OFFSETS[0] == (-1, -1, -1) and OFFSETS[1] == (-1, -1, 0) and OFFSETS[26] == (1, 1, 1)
    assert OFFSETS[13] == (0, 0, 0) and len(set(OFFSETS)) == 27


@given(voxels(small))
def test_both_searches_find_the_neighbours_that_a_dictionary_finds(coords: Tensor) -> None:
    expected = brute_neighbours(coords)
    assert torch.equal(neighbour_table(coords), expected)
    assert torch.equal(neighbour_table(coords, dense_cells=0), expected)


@given(voxels(wide))
def test_voxels_at_the_edge_of_the_range_do_not_alias(coords: Tensor) -> None:
    assert torch.equal(neighbour_table(coords, dense_cells=0), brute_neighbours(coords))


def test_opposite_corners_of_the_range_are_no_neighbours() -> None:
    corners = torch.tensor(list(itertools.product((-MAX_COORD, MAX_COORD), repeat=3)), dtype=torch.int32)
    table = neighbour_table(corners)
    assert torch.equal(table[:, 13], torch.arange(1, 9)) and int((table > 0).sum()) == 8


@settings(deadline=None)
@given(voxels(st.one_of(small, wide)))
def test_children_parents_and_cells_agree_with_floor_division(coords: Tensor) -> None:
    rulebook = build_rulebook(coords, 4)
    assert len(rulebook.levels) == 4 and torch.equal(rulebook.levels[0].coords, coords)
    for fine, coarse in itertools.pairwise(rulebook.levels):
        assert coarse.children is not None and coarse.parent is not None and coarse.cell is not None
        halves = np.floor_divide(fine.coords.numpy(), 2)
        assert {tuple(c) for c in coarse.coords.tolist()} == {tuple(c) for c in halves.tolist()}
        assert coarse.coords.tolist() == sorted(coarse.coords.tolist())
        assert torch.equal(coarse.coords[coarse.parent], torch.from_numpy(halves))
        remainder = fine.coords - 2 * torch.from_numpy(halves)
        assert torch.equal(coarse.cell, (remainder @ torch.tensor([4, 2, 1], dtype=torch.int32)).long())
        back = coarse.children[coarse.parent, coarse.cell]  # every voxel is the child that its parent lists
        assert torch.equal(back, torch.arange(1, len(fine.coords) + 1))
        assert int((coarse.children > 0).sum()) == len(fine.coords)
        assert torch.equal(coarse.neighbours, brute_neighbours(coarse.coords))


@given(voxels(small), st.randoms(use_true_random=False))
def test_a_permutation_of_the_voxels_only_renumbers_the_rows(coords: Tensor, random: object) -> None:
    order = torch.tensor(random.sample(range(len(coords)), len(coords)), dtype=torch.int64)  # type: ignore[attr-defined]
    plain, shuffled = build_rulebook(coords, 2), build_rulebook(coords[order], 2)
    renumber = torch.zeros(len(coords) + 1, dtype=torch.int64)  # row + 1 in the plain order -> in the shuffled one
    renumber[order + 1] = torch.arange(1, len(coords) + 1)
    assert torch.equal(renumber[plain.levels[0].neighbours][order], shuffled.levels[0].neighbours)
    assert torch.equal(plain.levels[1].coords, shuffled.levels[1].coords)
    assert plain.levels[1].children is not None and shuffled.levels[1].children is not None
    assert torch.equal(renumber[plain.levels[1].children], shuffled.levels[1].children)


@pytest.mark.parametrize("count", [0, 1])
def test_no_voxel_and_one_voxel(count: int) -> None:
    rulebook = build_rulebook(torch.full((count, 3), -7, dtype=torch.int32), 3)
    for level in rulebook.levels:
        assert level.coords.shape == (count, 3) and level.coords.dtype == torch.int32
        assert level.neighbours.shape == (count, 27) and level.neighbours.dtype == torch.int64
        assert level.neighbours[:, 13].tolist() == [1] * count and int(level.neighbours.sum()) == count
    children = rulebook.levels[2].children
    assert children is not None and children.shape == (count, 8)


def test_a_sparse_convolution_by_table_equals_the_dense_one() -> None:
    """Meaning of the tables: gather + matrix product is a 3x3x3 convolution read at the occupied voxels."""
    generator = torch.Generator().manual_seed(0)
    dense = torch.rand((1, 4, 6, 5, 7), generator=generator)
    occupied = torch.rand((6, 5, 7), generator=generator) > 0.6
    dense = dense * occupied
    weight = torch.rand((3, 4, 3, 3, 3), generator=generator)
    expected = torch.nn.functional.conv3d(dense, weight, padding=1)[0]
    coords = occupied.nonzero().int()
    x, y, z = coords.long().T
    rows = torch.cat([torch.zeros(1, 4), dense[0][:, x, y, z].T])
    table = build_rulebook(coords - 3, 1).levels[0].neighbours
    flat = weight.reshape(3, 4, 27).permute(2, 1, 0).reshape(27 * 4, 3)
    torch.testing.assert_close(rows[table].reshape(len(coords), -1) @ flat, expected[:, x, y, z].T)


@given(voxels(wide))
def test_keys_keep_coordinates_and_their_order(coords: Tensor) -> None:
    keys = pack_keys(coords)
    assert torch.equal(unpack_keys(keys), coords)
    order = keys.argsort()
    assert coords[order].tolist() == sorted(coords.tolist())


@pytest.mark.parametrize("dense_cells", [0, 1000])
def test_duplicates_are_refused(dense_cells: int) -> None:
    with pytest.raises(ValueError, match="twice"):
        neighbour_table(torch.tensor([[1, 2, 3], [0, 0, 0], [1, 2, 3]]), dense_cells)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        build_rulebook(torch.zeros((3, 4), dtype=torch.int32), 1)
    with pytest.raises(ValueError, match="num_levels"):
        build_rulebook(torch.zeros((1, 3), dtype=torch.int32), 0)
    with pytest.raises(ValueError, match="at most"):
        build_rulebook(torch.tensor([[0, 0, MAX_COORD + 1]], dtype=torch.int32), 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_and_cpu_build_the_same_tables() -> None:
    coords = torch.unique(torch.randint(-40, 40, (20_000, 3), generator=torch.Generator().manual_seed(0)), dim=0).int()
    for here, there in zip(build_rulebook(coords, 4).levels, build_rulebook(coords.cuda(), 4).levels, strict=True):
        for name in ("coords", "neighbours", "children", "parent", "cell"):
            a, b = getattr(here, name), getattr(there, name)
            assert (a is None and b is None) or torch.equal(a, b.cpu()), name
