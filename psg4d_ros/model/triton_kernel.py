"""Sparse convolution by a fused Triton kernel: the form of the tables on a GPU, for inference and for training.

The pure-torch form writes the 27 gathered rows of every voxel to memory and reads them again. Here a program of the GPU
gathers the rows of its block of voxels straight into the matrix product, and what reaches memory is the result. The
backward pass is the same program on another table and kernel, and a second one for the weights; no sum depends on the
order in which programs finish, so that two runs give the same bits.

Triton comes with torch for CUDA and compiles for the GPU that is there, once per number of channels and kind of numbers
(kept in its cache folder). It is tried on small tables first; exported graphs and CPUs do without it.
"""

from __future__ import annotations

import functools
import logging
import math
import os
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from psg4d_ros.errors import ConfigError

SWITCH = "PSG4D_TRITON"  # environment: "auto", the default, or "off"
# The largest relative error that the trial lets pass: rounding of the result, where sums are in float32. TF32, which is
# good to 0.001, does not pass for float32.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.01}
_PROGRAMS = 256  # fewer than half as many leave a large GPU idle: the sum over the offsets is then shared out
_MOST_SHARES = 8
_ROWS_PER_SUM = 512  # the least worth a partial sum of the weights' gradient
_MOST_SUMS = 64
_SUM_ELEMENTS = 1 << 23  # bounds the memory of all partial sums
_log = logging.getLogger(__name__)


class Blocks(NamedTuple):
    """How a product is cut: rows x columns of the result by one program, depth input channels at a time.

    warps, stages: threads / 32 of a program, and how far loads run ahead. skip: see ``triton_programs.convolve``.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    skip: bool


@dataclass(frozen=True, eq=False)
class Columns:
    """A table as the kernel reads it. entries: int32[K, V_out], 0 = nothing, i + 1 = row i.

    Within an offset no input row comes twice, as in the rulebook's tables: the gradient relies on it.
    """

    entries: Tensor

    @classmethod
    def of(cls, table: Tensor) -> Columns:
        """table: int64[V_out, K]."""
        return cls(table.t().to(torch.int32, memory_format=torch.contiguous_format))


def convolve(features: Tensor, table: Columns, weight: Tensor, *, symmetric: bool) -> Tensor:
    """out[i] = sum over k of features[table[i, k] - 1] @ weight[k], with gradients; sums are formed in float32.

    features [V_in, C_in] and weight [K, C_in, C_out], both float32, bfloat16 or float16; returns [V_out, C_out] in
    their dtype. symmetric: as for ``sparse_encoder.gather_matmul``; saves the backward pass a table.
    """
    out: Tensor = _Convolution.apply(features, table.entries, weight, symmetric)  # type: ignore[no-untyped-call]
    return out


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, entries: Tensor, weight: Tensor, symmetric: bool) -> Tensor:
        ctx.save_for_backward(features, entries, weight)
        ctx.symmetric = symmetric
        return _convolve(features, entries, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        features, entries, weight = ctx.saved_tensors
        grad_features = grad_weight = None
        if ctx.needs_input_grad[0]:
            back = weight.transpose(1, 2)
            if ctx.symmetric:  # j is neighbour k of i exactly when i is neighbour K - 1 - k of j
                grad_features = _convolve(grad, entries, back.flip(0))
            else:
                grad_features = _convolve(grad, _inverse(entries, len(features)), back)
        if ctx.needs_input_grad[2]:
            grad_weight = _weight_gradient(features, entries, grad, weight)
        return grad_features, None, grad_weight, None


def _inverse(entries: Tensor, num_inputs: int) -> Tensor:
    """int32[K, V_in]: per offset the output row (+ 1) that each input row goes to, 0 where to none."""
    rows = torch.arange(1, entries.shape[1] + 1, dtype=torch.int32, device=entries.device)
    padded = entries.new_zeros(len(entries), num_inputs + 1)  # column 0: what came from empty entries
    return padded.scatter_(1, entries.long(), rows.expand_as(entries))[:, 1:].contiguous()


def _convolve(features: Tensor, entries: Tensor, weight: Tensor) -> Tensor:
    (offsets, rows), (_, c_in, c_out) = entries.shape, weight.shape
    if not rows or not len(features):
        return features.new_zeros(rows, c_out)
    blocks = _blocks(c_in, c_out, features.dtype)
    steps = offsets * _ceil_div(c_in, blocks.depth)
    grid = _ceil_div(rows, blocks.rows), _ceil_div(c_out, blocks.columns)
    steps_each = _ceil_div(steps, min(_MOST_SHARES, max(1, _PROGRAMS // (grid[0] * grid[1]))))
    shares = _ceil_div(steps, steps_each)
    out = features.new_empty(shares, rows, c_out, dtype=features.dtype if shares == 1 else torch.float32)
    with torch.cuda.device_of(features):  # Triton launches on the current device
        _programs().convolve[(*grid, shares)](
            features.contiguous(),
            entries,
            weight.contiguous(),
            out,
            rows,
            steps_each,
            K=offsets,
            C_IN=c_in,
            C_OUT=c_out,
            ROWS=blocks.rows,
            COLUMNS=blocks.columns,
            DEPTH=blocks.depth,
            SKIP=blocks.skip,
            num_warps=blocks.warps,
            num_stages=blocks.stages,
        )
    return out[0] if shares == 1 else out.sum(0).to(features.dtype)


def _weight_gradient(features: Tensor, entries: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
    rows = entries.shape[1]
    if not rows or not len(features):
        return torch.zeros_like(weight)
    offsets, c_in, c_out = weight.shape
    blocks = _weight_blocks(c_in, c_out, features.dtype)
    most = min(_MOST_SUMS, max(1, _SUM_ELEMENTS // weight.numel()))
    rows_each = _ceil_div(rows, min(most, _ceil_div(rows, _ROWS_PER_SUM)))
    sums = weight.new_empty(_ceil_div(rows, rows_each), *weight.shape, dtype=torch.float32)
    with torch.cuda.device_of(features):
        _programs().weight_sums[(offsets, len(sums), _ceil_div(c_in, blocks.depth) * _ceil_div(c_out, blocks.columns))](
            features.contiguous(),
            entries,
            grad.contiguous(),
            sums,
            rows,
            rows_each,
            K=offsets,
            C_IN=c_in,
            C_OUT=c_out,
            ROWS=blocks.rows,
            BLOCK_IN=blocks.depth,
            BLOCK_OUT=blocks.columns,
            SKIP=blocks.skip,
            num_warps=blocks.warps,
            num_stages=blocks.stages,
        )
    return sums.sum(0).to(weight.dtype)


def _blocks(c_in: int, c_out: int, dtype: torch.dtype) -> Blocks:
    """By the number of channels only: sizes that vary with the frame choose nothing that has to be compiled."""
    if dtype == torch.float32:  # multiplied without tensor cores: products count, and empty ones are left out
        return Blocks(64, _fitting(c_out, 64), _fitting(c_in, 32), warps=4, stages=3, skip=True)
    return Blocks(64, _fitting(c_out, 64), _fitting(c_in, 64), warps=4, stages=3, skip=False)


def _weight_blocks(c_in: int, c_out: int, dtype: torch.dtype) -> Blocks:
    """``rows`` are added up at a time, ``depth`` x ``columns`` is the part of the weights that a program makes."""
    if dtype == torch.float32:
        return Blocks(32, _fitting(c_out, 64), _fitting(c_in, 64), warps=4, stages=3, skip=True)
    return Blocks(64, _fitting(c_out, 64), _fitting(c_in, 64), warps=4, stages=3, skip=False)


def _fitting(channels: int, most: int) -> int:
    """The largest power of two, 16 to ``most``, of which the channels (as multiples of 16) are a multiple."""
    size = 16
    while size < most and _ceil_div(channels, 16) * 16 % (2 * size) == 0:
        size *= 2
    return size


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


@functools.cache
def _programs() -> Any:
    from psg4d_ros.model import triton_programs  # imports triton, which not every torch brings

    return triton_programs


@functools.cache
def serves(device: torch.device) -> bool:
    """Whether the kernel convolves on this device; on a GPU where it does not, the log says why, once."""
    problem = obstacle(device)
    if problem and device.type == "cuda":
        _log.warning("sparse convolutions do without the fused kernel: %s", problem)
    return not problem


def obstacle(device: torch.device) -> str:
    """Why the kernel does not convolve on this device, "" when it does. Raises ConfigError for a wrong PSG4D_TRITON."""
    switch = os.environ.get(SWITCH, "auto")
    if switch not in ("auto", "off"):
        raise ConfigError(f"{SWITCH} is {switch!r}, expected 'auto' or 'off'")
    if switch == "off":
        return f"{SWITCH} is off"
    if device.type != "cuda":
        return f"the fused kernel is for GPUs; on a {device.type.upper()} the pure-torch form is used"
    try:
        _programs()
    except ImportError as error:
        return f"triton, which comes with torch for CUDA, is missing ({error})"
    for dtype, tolerance in TOLERANCE.items():
        name = str(dtype).removeprefix("torch.")
        try:
            worst = worst_error(device, dtype)
        except Exception as error:  # whatever a compiler, its C compiler, a driver or an old GPU fails with
            return f"triton does not run {name} here ({type(error).__name__}: {error}); {SWITCH}=off skips the attempt"
        if worst > tolerance:  # a wrong row is off by about 1
            wrong = f"triton convolves wrongly in {name} on {device} (relative error {worst:.2g})"
            return f"{wrong}; {SWITCH}=off skips the attempt"
    return ""


def worst_error(device: torch.device, dtype: torch.dtype, rows: int = 20_000) -> float:
    """The worst relative error of outputs and gradients against plain products in float64; NaN counts as infinite.

    rows: voxels of the largest of the tables; by default so many that no sum is shared out, others being small.
    """
    chance = torch.Generator().manual_seed(0)
    worst = 0.0
    # Callers are in inference mode or under autocast, where nothing here would get a gradient, or be exact.
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        cases = [(_line(rows), rows, 10, 32), (_line(70), 70, 96, 96), (_cells(70, chance), 560, 32, 64)]
        for table, num_inputs, c_in, c_out in cases:
            shapes = (num_inputs, c_in), (table.shape[1], c_in, c_out), (len(table), c_out)
            drawn = [torch.randn(shape, generator=chance).to(device, dtype) for shape in shapes]
            leaves, cotangent, table = [t.requires_grad_() for t in drawn[:2]], drawn[2], table.to(device)
            out = convolve(leaves[0], Columns.of(table), leaves[1], symmetric=table.shape[1] == 27)
            got = (out, *torch.autograd.grad(out, leaves, cotangent))
            features, weight = exact = [t.detach().double().requires_grad_() for t in leaves]
            padded = torch.cat((features.new_zeros(1, c_in), features))
            expected = padded[table].flatten(1) @ weight.flatten(0, 1)
            wanted = (expected, *torch.autograd.grad(expected, exact, cotangent.double()))
            errors = [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(got, wanted, strict=True)]
            worst = max(worst, *(float("inf") if math.isnan(error) else error for error in errors))
    return worst


def _line(count: int) -> Tensor:
    """int64[count, 27]: voxels in a line; offset k leads k - 13 on."""
    rows = torch.arange(count)[:, None] + torch.arange(-13, 14)
    return torch.where((rows >= 0) & (rows < count), rows + 1, 0)


def _cells(count: int, chance: torch.Generator) -> Tensor:
    """int64[count, 8]: half of the 8 * count finer voxels are there."""
    rows = torch.arange(1, 8 * count + 1).view(count, 8)
    return torch.where(torch.rand(count, 8, generator=chance) < 0.5, rows, 0)
