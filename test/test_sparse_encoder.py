"""The sparse encoder against dense convolutions, and what the frame cache and the export rely on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from psg4d_ros.config import EncoderConfig
from psg4d_ros.errors import ConfigError
from psg4d_ros.model import sparse_encoder
from psg4d_ros.model.sparse_encoder import (
    Pairs,
    ResidualBlock,
    SparseConv,
    SparseEncoder,
    SparseUpsample,
    gather_matmul,
    pool_tokens,
)
from psg4d_ros.runtime.rulebook import build_rulebook

Tables = tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]
SMALL = EncoderConfig(channels=(8, 12, 16))
GRID = 8

voxel_sets = st.sets(st.tuples(*[st.integers(0, GRID - 1)] * 3), min_size=1, max_size=60).map(
    lambda cells: torch.tensor(sorted(cells), dtype=torch.int32)
)


@pytest.fixture(autouse=True, scope="module")
def _seeded() -> None:
    torch.manual_seed(0)


def tables(coords: Tensor, num_levels: int) -> Tables:
    """The encoder's arguments after the features."""
    levels = build_rulebook(coords, num_levels).levels
    above = levels[1:]
    return (
        [v.neighbours for v in levels],
        [v.children for v in above],
        [v.parent for v in above],
        [v.cell for v in above],
    )


def scattered(count: int, seed: int = 0, size: int = 16) -> Tensor:
    """``count`` distinct voxels in random order, negative coordinates among them."""
    flat = torch.randperm(size**3, generator=torch.Generator().manual_seed(seed))[:count]
    coords = torch.stack((flat // size**2, flat // size % size, flat % size), dim=1) - size // 2
    return coords.int()


def dense(features: Tensor, coords: Tensor, size: int) -> Tensor:
    """[1, C, size, size, size], zero where there is no voxel."""
    grid = features.new_zeros(features.shape[1], size, size, size)
    grid[:, coords[:, 0].long(), coords[:, 1].long(), coords[:, 2].long()] = features.t()
    return grid[None]


def at(grid: Tensor, coords: Tensor) -> Tensor:
    return grid[0, :, coords[:, 0].long(), coords[:, 1].long(), coords[:, 2].long()].t()


def dense_kernel(weight: Tensor, edge: int) -> Tensor:
    """[K, C_in, C_out] in table order -> [C_out, C_in, edge, edge, edge]."""
    return weight.unflatten(0, (edge, edge, edge)).permute(4, 3, 0, 1, 2)


@settings(max_examples=30, deadline=None)
@given(coords=voxel_sets)
def test_submanifold_convolution_is_a_dense_one_read_at_the_occupied_voxels(coords: Tensor) -> None:
    conv, features = SparseConv(5, 7, 27).double(), torch.randn(len(coords), 5, dtype=torch.float64)
    expected = F.conv3d(dense(features, coords, GRID), dense_kernel(conv.weight, 3), padding=1)
    got = conv(features, build_rulebook(coords, 1).levels[0].neighbours)
    torch.testing.assert_close(got, at(expected, coords))


@settings(max_examples=30, deadline=None)
@given(coords=voxel_sets)
def test_down_and_up_sampling_are_dense_stride_two_convolutions(coords: Tensor) -> None:
    coarse = build_rulebook(coords, 2).levels[1]
    down, features = SparseConv(5, 7, 8).double(), torch.randn(len(coords), 5, dtype=torch.float64)
    below = down(features, coarse.children)
    expected = F.conv3d(dense(features, coords, GRID), dense_kernel(down.weight, 2), stride=2)
    torch.testing.assert_close(below, at(expected, coarse.coords))

    up = SparseUpsample(7, 5).double()
    kernel = up.weight.unflatten(1, (2, 2, 2, 5)).permute(0, 4, 1, 2, 3)
    raised = F.conv_transpose3d(dense(below, coarse.coords, GRID // 2), kernel, stride=2)
    torch.testing.assert_close(up(below, coarse.parent, coarse.cell), at(raised, coords))


@pytest.mark.parametrize("form", [lambda table: table, Pairs.of], ids=["table", "pairs"])
@pytest.mark.parametrize("kernel", [27, 8])
def test_gradients_of_the_convolution_are_those_of_its_numbers(
    kernel: int, form: Callable[[Tensor], Tensor | Pairs]
) -> None:
    levels = build_rulebook(scattered(40, size=5), 2).levels
    neighbours, children = levels[0].neighbours, levels[1].children
    assert children is not None
    table = form(neighbours if kernel == 27 else children)
    features = torch.randn(40, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(kernel, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda f, w: gather_matmul(f, table, w, symmetric=kernel == 27), (features, weight), fast_mode=True
    )


def test_pairs_and_tables_give_the_same_numbers_and_gradients() -> None:
    """On a CPU the entries of the table are multiplied, on a GPU and in exports the table itself."""
    table, weight = build_rulebook(scattered(1000), 1).levels[0].neighbours, torch.randn(27, 4, 5, requires_grad=True)
    features = torch.randn(1000, 4, requires_grad=True)
    results = []
    for form in (table, Pairs.of(table)):
        out = gather_matmul(features, form, weight, symmetric=True)
        results.append((out, *torch.autograd.grad(out.square().sum(), (features, weight))))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def test_large_clouds_are_multiplied_in_pieces_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    coords = scattered(1000)
    table, weight = build_rulebook(coords, 1).levels[0].neighbours, torch.randn(27, 4, 4, requires_grad=True)
    features = torch.randn(1000, 4, requires_grad=True)
    results = []
    for limit in (1 << 30, 1):  # one piece; pieces of 256 rows
        monkeypatch.setattr(sparse_encoder, "_CHUNK_ELEMENTS", limit)
        for symmetric in (True, False):
            out = gather_matmul(features, table, weight, symmetric=symmetric)
            results.append((out, *torch.autograd.grad(out.square().sum(), (features, weight))))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def test_mixed_precision_training_reaches_every_weight() -> None:
    coords = scattered(300)
    encoder, features = SparseEncoder(SMALL, 11), torch.randn(300, 11)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = encoder(features, *tables(coords, 3))
    plain = encoder(features, *tables(coords, 3))
    for half, full in zip(outputs, plain, strict=True):
        assert (half.float() - full).norm() < 0.05 * full.norm()
    sum(o.float().square().sum() for o in outputs).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("count", [0, 1, 2, 500])
def test_any_number_of_voxels_is_encoded(count: int) -> None:
    config = EncoderConfig()
    arguments = tables(scattered(count), 4)
    with torch.inference_mode():
        fine, mid, coarse = SparseEncoder(config, 11)(torch.randn(count, 11), *arguments)
    voxels = [len(n) for n in arguments[0]]
    assert fine.shape == (count, 32) and mid.shape == (voxels[1], 64) and coarse.shape == (voxels[3], 128)
    assert all(torch.isfinite(x).all() for x in (fine, mid, coarse))


def test_the_default_encoder_has_about_four_million_weights() -> None:
    assert 3.5e6 < sum(p.numel() for p in SparseEncoder(EncoderConfig(), 11).parameters()) < 4.5e6


@torch.no_grad()
def test_the_order_of_the_voxels_does_not_matter() -> None:
    encoder, coords, features = SparseEncoder(SMALL, 11), scattered(400), torch.randn(400, 11)
    order = torch.randperm(400)
    fine, mid, coarse = encoder(features, *tables(coords, 3))
    shuffled = encoder(features[order], *tables(coords[order], 3))
    for got, expected in zip(shuffled, (fine[order], mid, coarse), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_moving_the_whole_cloud_by_whole_cells_changes_nothing() -> None:
    encoder, coords, features = SparseEncoder(SMALL, 11), scattered(400), torch.randn(400, 11)
    moved = coords + torch.tensor([4, -8, 12], dtype=torch.int32)  # multiples of the coarsest cell
    for got, expected in zip(encoder(features, *tables(moved, 3)), encoder(features, *tables(coords, 3)), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("training", [True, False])
def test_frames_encoded_together_are_as_if_alone(training: bool) -> None:
    """What the frame cache relies on: no statistics and no operator reach from one frame to another."""
    encoder = SparseEncoder(SMALL, 11).train(training)
    frames = [(torch.randn(n, 11), tables(scattered(n, seed=n), 3)) for n in (300, 1, 120)]
    joint: Tables = ([], [], [], [])
    for level in range(3):
        rows = torch.tensor([0] + [len(t[0][level]) for _, t in frames]).cumsum(0).tolist()
        shift = [torch.where(t[0][level] > 0, t[0][level] + r, 0) for (_, t), r in zip(frames, rows, strict=False)]
        joint[0].append(torch.cat(shift))
        if level < 2:
            above = torch.tensor([0] + [len(t[0][level + 1]) for _, t in frames]).cumsum(0).tolist()
            shift = [torch.where(t[1][level] > 0, t[1][level] + r, 0) for (_, t), r in zip(frames, rows, strict=False)]
            joint[1].append(torch.cat(shift))
            joint[2].append(torch.cat([t[2][level] + r for (_, t), r in zip(frames, above, strict=False)]))
            joint[3].append(torch.cat([t[3][level] for _, t in frames]))
    together = encoder(torch.cat([f for f, _ in frames]), *joint)
    alone = [encoder(f, *t) for f, t in frames]
    for got, expected in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(got, torch.cat(expected), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_one_exported_graph_serves_every_size() -> None:
    encoder = SparseEncoder(EncoderConfig(channels=(8, 12)), 11).eval()
    v0, v1 = torch.export.Dim("v0"), torch.export.Dim("v1")
    example = (torch.randn(50, 11), *tables(scattered(50), 2))
    program = torch.export.export(
        encoder, example, dynamic_shapes=({0: v0}, [{0: v0}, {0: v1}], [{0: v1}], [{0: v0}], [{0: v0}])
    )
    for count in (2, 700):
        features, arguments = torch.randn(count, 11), tables(scattered(count), 2)
        if len(arguments[0][1]) < 2:
            continue
        for got, expected in zip(program.module()(features, *arguments), encoder(features, *arguments), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_block_adds_to_its_input() -> None:
    block, features = ResidualBlock(8), torch.randn(30, 8).relu()
    nn.init.zeros_(block.norm2.weight)
    assert torch.equal(block(features, build_rulebook(scattered(30), 1).levels[0].neighbours), features)


def test_an_encoder_needs_two_levels() -> None:
    with pytest.raises(ConfigError, match=r"encoder\.channels is \[32\], expected at least 2"):
        SparseEncoder(EncoderConfig(channels=(32,)), 11)


def test_tokens_are_the_means_of_their_cells() -> None:
    centers = torch.tensor([[0.1, 0.1, 0.1], [-0.1, 0.1, 0.1], [0.9, 0.3, 0.5]])
    coarse = torch.tensor([[1.0, 2.0], [5.0, 5.0], [3.0, 4.0]], requires_grad=True)
    tokens, where, frame = pool_tokens(coarse, centers, cell_m=1.0)
    assert frame.tolist() == [0, 0]
    torch.testing.assert_close(tokens, torch.tensor([[5.0, 5.0], [2.0, 3.0]]))
    torch.testing.assert_close(where, torch.tensor([[-0.1, 0.1, 0.1], [0.5, 0.2, 0.3]]))
    tokens.sum().backward()
    torch.testing.assert_close(coarse.grad, torch.tensor([[0.5, 0.5], [1.0, 1.0], [0.5, 0.5]]))


def test_tokens_of_nothing_are_none_and_order_does_not_matter() -> None:
    for of_frame in (None, torch.zeros(0, dtype=torch.int64)):
        tokens, where, frame = pool_tokens(torch.zeros(0, 4), torch.zeros(0, 3), 1.0, of_frame)
        assert tokens.shape == (0, 4) and where.shape == (0, 3) and frame.shape == (0,)
    coarse, centers, order = torch.randn(200, 4), torch.randn(200, 3) * 3, torch.randperm(200)
    for got, expected in zip(
        pool_tokens(coarse[order], centers[order], 1.0), pool_tokens(coarse, centers, 1.0), strict=True
    ):
        torch.testing.assert_close(got, expected)


def test_tokens_of_several_frames_are_pooled_as_if_alone() -> None:
    """The frames lie in the same cells; the one without a voxel has no token."""
    clouds = {0: (torch.randn(150, 4), torch.randn(150, 3)), 2: (torch.randn(80, 4), torch.randn(80, 3))}
    frame = torch.cat([torch.full((len(f),), number) for number, (f, _) in clouds.items()])
    coarse, centers = (torch.cat(x) for x in zip(*clouds.values(), strict=True))
    tokens, where, of_frame = pool_tokens(coarse, centers, 1.0, frame)
    alone = {number: pool_tokens(*cloud, 1.0) for number, cloud in clouds.items()}
    assert torch.equal(tokens, torch.cat([a[0] for a in alone.values()]))
    assert torch.equal(where, torch.cat([a[1] for a in alone.values()]))
    assert of_frame.tolist() == [number for number, a in alone.items() for _ in a[0]]
