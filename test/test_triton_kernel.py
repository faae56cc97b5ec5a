"""The fused kernel: the same numbers and gradients as the table form, and when it is chosen.

It runs on a GPU, and on a CPU in Triton's interpreter, which does not know bfloat16:
``pip install triton`` and ``TRITON_INTERPRET=1 pytest test/test_triton_kernel.py``.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import os
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from psg4d_ros.config import EncoderConfig
from psg4d_ros.errors import ConfigError
from psg4d_ros.model import sparse_encoder, triton_kernel
from psg4d_ros.model.sparse_encoder import Pairs, SparseEncoder, gather_matmul, prepare
from psg4d_ros.model.triton_kernel import SWITCH, Columns, obstacle, serves, worst_error
from psg4d_ros.runtime.rulebook import build_rulebook

CHANNELS = EncoderConfig().channels


def why_not_interpreted() -> str:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if os.environ.get("TRITON_INTERPRET") != "1":
        return "Triton runs on a CPU with TRITON_INTERPRET=1 only"
    if np.lib.NumpyVersion(np.__version__) >= "2.4.0":
        return "Triton's interpreter reads loop bounds in a way that numpy 2.4 refuses"
    return ""


interpreted_only = pytest.mark.skipif(bool(why_not_interpreted()), reason=why_not_interpreted())
interpreted = pytest.param("cpu", marks=interpreted_only)
gpu = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
        pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed"),
    ],
)
devices = pytest.mark.parametrize("device", [interpreted, gpu])


def scattered(count: int, size: int) -> Tensor:
    """``count`` distinct voxels of a cube of ``size``, in random order."""
    flat = torch.randperm(size**3, generator=torch.Generator().manual_seed(0))[:count]
    return torch.stack((flat // size**2, flat // size % size, flat % size), dim=1).int()


def convolution_tables(count: int = 80, size: int = 6) -> dict[int, Tensor]:
    """By kernel size: the table of a submanifold convolution, and that of the down-sampling."""
    levels = build_rulebook(scattered(count, size), 2).levels
    assert levels[1].children is not None
    return {27: levels[0].neighbours, 8: levels[1].children}


def results(
    form: Tensor | Pairs | Columns, features: Tensor, weight: Tensor, cotangent: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, gradient of the features, gradient of the weight."""
    out = gather_matmul(features, form, weight, symmetric=len(weight) == 27)
    return (out, *torch.autograd.grad(out, (features, weight), cotangent))


def relative(got: Tensor, expected: Tensor) -> float:
    return ((got.float() - expected.float()).norm() / expected.float().norm()).item()


@pytest.mark.parametrize("kernel", [27, 8])
def test_its_entries_are_the_columns_of_the_table(kernel: int) -> None:
    table = convolution_tables()[kernel]
    entries = Columns.of(table).entries
    assert entries.dtype == torch.int32 and entries.is_contiguous() and torch.equal(entries.long(), table.t())


def test_the_inverse_of_the_children_says_where_each_voxel_goes() -> None:
    """The table of the gradient of a down-sampling."""
    children = convolution_tables()[8]
    inverse = triton_kernel._inverse(Columns.of(children).entries, 80)
    for row, below in enumerate(children.tolist()):
        for k, child in enumerate(below):
            assert not child or inverse[k, child - 1] == row + 1
    assert inverse.count_nonzero() == children.count_nonzero() == 80


@devices
@pytest.mark.parametrize(
    ("kernel", "c_in", "c_out"),
    [(27, 11, CHANNELS[0]), *((27, c, c) for c in CHANNELS), *((8, a, b) for a, b in pairwise(CHANNELS))],
)
def test_numbers_and_gradients_are_those_of_the_table(kernel: int, c_in: int, c_out: int, device: str) -> None:
    """For every convolution of the default encoder."""
    table, chance = convolution_tables()[kernel].to(device), torch.Generator().manual_seed(1)
    features = torch.randn(80, c_in, generator=chance).to(device).requires_grad_()
    weight = torch.randn(kernel, c_in, c_out, generator=chance).to(device).requires_grad_()
    cotangent = torch.randn(len(table), c_out, generator=chance).to(device)
    got = results(Columns.of(table), features, weight, cotangent)
    for a, b in zip(got, results(table, features, weight, cotangent), strict=True):
        assert a.dtype == torch.float32 and a.shape == b.shape and relative(a, b) < 1e-5


@devices
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("shares", [1, 8])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_only_the_result_is_rounded(
    dtype: torch.dtype, shares: int, skip: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not the sum over the offsets is shared out, and empty offsets are skipped."""
    if (device, dtype) == ("cpu", torch.bfloat16):
        pytest.skip("Triton's interpreter does not know bfloat16")
    blocks = triton_kernel._blocks(10, 32, dtype)._replace(rows=32, skip=skip)
    monkeypatch.setattr(triton_kernel, "_blocks", lambda *_: blocks)
    monkeypatch.setattr(triton_kernel, "_weight_blocks", lambda *_: blocks)
    monkeypatch.setattr(triton_kernel, "_MOST_SHARES", shares)
    monkeypatch.setattr(triton_kernel, "_ROWS_PER_SUM", 30)
    table, chance = convolution_tables()[27].to(device), torch.Generator().manual_seed(2)
    features = torch.randn(80, 10, generator=chance).to(device, dtype).requires_grad_()
    weight = torch.randn(27, 10, 32, generator=chance).to(device, dtype).requires_grad_()
    cotangent = torch.randn(80, 32, generator=chance).to(device, dtype)
    exact = [t.detach().float().requires_grad_() for t in (features, weight)]
    got = results(Columns.of(table), features, weight, cotangent)
    for a, b in zip(got, results(Pairs.of(table), *exact, cotangent.float()), strict=True):
        assert a.dtype == dtype and relative(a, b) < torch.finfo(dtype).eps


@devices
@pytest.mark.parametrize("voxels", [0, 1])
def test_clouds_without_neighbours_pass_through(voxels: int, device: str) -> None:
    table = build_rulebook(torch.zeros((voxels, 3), dtype=torch.int32), 1).levels[0].neighbours.to(device)
    features = torch.randn(voxels, 3, device=device, requires_grad=True)
    weight = torch.randn(27, 3, 4, device=device, requires_grad=True)
    out = gather_matmul(features, Columns.of(table), weight, symmetric=True)
    out.sum().backward()
    torch.testing.assert_close(out, features @ weight[13])
    assert features.grad is not None and features.grad.shape == features.shape
    assert weight.grad is not None and bool(weight.grad.any()) == bool(voxels)


@devices
def test_rows_that_a_table_does_not_name_get_no_gradient(device: str) -> None:
    """And what is infinite in them reaches nothing."""
    table = torch.tensor([[1, 0, 0, 0, 0, 0, 0, 3]], device=device)
    features = torch.tensor([[1.0], [torch.inf], [2.0]], device=device, requires_grad=True)
    weight = torch.ones(8, 1, 1, device=device, requires_grad=True)
    out, grad_features, grad_weight = results(Columns.of(table), features, weight, torch.ones(1, 1, device=device))
    assert out.tolist() == [[3.0]] and grad_features.flatten().tolist() == [1.0, 0.0, 1.0]
    assert grad_weight.flatten().tolist() == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0]


@devices
def test_under_autocast_it_computes_in_half_precision(device: str) -> None:
    dtype = torch.float16 if device == "cpu" else torch.bfloat16
    table = convolution_tables()[27].to(device)
    features, weight = torch.randn(80, 16, device=device, requires_grad=True), torch.randn(27, 16, 16, device=device)
    weight.requires_grad_()
    with torch.autocast(device, dtype):
        out = gather_matmul(features, Columns.of(table), weight, symmetric=True)
        out.sum().backward()
    assert out.dtype == dtype and relative(out, gather_matmul(features, table, weight)) < 0.02
    assert features.grad is not None and weight.grad is not None
    assert features.grad.dtype == weight.grad.dtype == torch.float32


@devices
def test_an_encoder_learns_the_same_through_it(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward of a whole encoder; on a GPU it is what ``prepare`` chooses."""
    torch.manual_seed(0)
    plain = SparseEncoder(EncoderConfig(channels=(8, 24), blocks=1), 11).to(device)
    fused = copy.deepcopy(plain)
    levels = build_rulebook(scattered(40, 5).to(device), 2).levels
    tables = [[v.neighbours for v in levels], *([getattr(levels[1], n)] for n in ("children", "parent", "cell"))]
    features = torch.randn(40, 11).to(device)
    outputs = []
    for model, form in ((fused, Columns.of if device == "cpu" else prepare), (plain, lambda table: table)):
        monkeypatch.setattr(sparse_encoder, "prepare", form)
        outputs.append(model(features, *tables))
        sum(o.square().mean() for o in outputs[-1]).backward()
    for got, wanted in zip(*outputs, strict=True):
        assert relative(got, wanted) < 1e-5
    for (name, got), wanted in zip(fused.named_parameters(), plain.parameters(), strict=True):
        assert got.grad is not None and wanted.grad is not None and relative(got.grad, wanted.grad) < 1e-4, name


@devices
def test_the_trial_before_its_use_passes_also_where_nothing_else_gets_gradients(device: str) -> None:
    rows = 20_000 if device == "cuda" else 40
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16):
        assert worst_error(torch.device(device), torch.float32, rows) < 1e-5


@pytest.mark.parametrize("device", [gpu])
def test_on_a_gpu_two_runs_give_the_same_bits(device: str) -> None:
    table = convolution_tables(3000, 20)[8].to(device)
    features = torch.randn(3000, 32, device=device, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(8, 32, 64, device=device, dtype=torch.bfloat16, requires_grad=True)
    cotangent = torch.randn(len(table), 64, device=device, dtype=torch.bfloat16)
    first, second = (results(Columns.of(table), features, weight, cotangent) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# -- when it is chosen -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", [gpu])
def test_on_a_gpu_it_infers_and_trains(device: str) -> None:
    table = convolution_tables()[27].to(device)
    assert obstacle(torch.device(device)) == ""
    assert isinstance(prepare(table), Columns)
    with torch.inference_mode():
        assert isinstance(prepare(table), Columns)


def test_on_a_cpu_pairs_multiply_and_elsewhere_the_table() -> None:
    table = convolution_tables()[27]
    assert isinstance(prepare(table), Pairs)
    on_another_device = table.to("meta")
    assert prepare(on_another_device) is on_another_device


def test_without_triton_one_warning_says_so_and_the_next_form_serves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "psg4d_ros.model.triton_programs", raising=False)
    monkeypatch.delattr("psg4d_ros.model.triton_programs", raising=False)
    for cached in (triton_kernel._programs, serves):
        cached.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert not serves(torch.device("cuda")) and not serves(torch.device("cuda"))
        (record,) = caplog.records
        assert "do without the fused kernel: triton, which comes with torch for CUDA, is missing" in record.message
    finally:
        for cached in (triton_kernel._programs, serves):
            cached.cache_clear()


@interpreted_only
def test_a_kernel_that_is_wrong_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here: one that adds up the wrong neighbours."""
    right = triton_kernel._convolve
    monkeypatch.setattr(
        triton_kernel, "_convolve", lambda features, entries, weight: right(features, entries.flip(0), weight)
    )
    assert worst_error(torch.device("cpu"), torch.float32, rows=40) > 0.1


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "off")
    assert obstacle(torch.device("cuda")) == "PSG4D_TRITON is off"
    monkeypatch.setenv(SWITCH, "no")
    with pytest.raises(ConfigError, match=r"PSG4D_TRITON is 'no', expected 'auto' or 'off'"):
        obstacle(torch.device("cuda"))
