"""Sparse convolution by spconv's CUDA kernels: a third form of the same tables, for training on a GPU.

The weights, and so the checkpoints, are those of the other forms. spconv multiplies pair by pair (its "native"
algorithm), which leaves out the empty entries of a table; it has no form that exports, so that trained weights always
run without it. It computes in float32 here, also under autocast: it has no bfloat16, and gradients in float16 would
need a loss scale that nothing else in the training needs.

Which distribution owns the module matters. Plain ``spconv`` is a build for CPUs whose threads add into the same rows at
the same time, and its results are silently wrong; only the wheels ``spconv-cuNNN`` are taken, and they are tried on a
small table first, because they are built for a CUDA version and architectures of their own.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from psg4d_ros.errors import ConfigError

SWITCH = "PSG4D_SPCONV"  # environment: "auto", the default, or "off"
INSTALL = "pip install spconv-cu120==2.3.6 (Python up to 3.11) or spconv-cu126==2.3.8 cumm-cu126==0.7.11 (above)"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SpconvPairs:
    """A table as spconv wants it: which input row meets which output row, offset by offset.

    pairs: int32[2, K, P] input and output rows, P = the most pairs of any offset; beyond an offset's count they mean
    nothing. counts: int32[K], on the CPU, where spconv reads them. num_outputs: V_out.
    Within an offset no row comes twice, on either side: that is what lets a GPU add without collisions.
    """

    pairs: Tensor
    counts: Tensor
    num_outputs: int

    @classmethod
    def of(cls, table: Tensor) -> SpconvPairs:
        """table: int64[V_out, K], entry 0 = nothing, i + 1 = row i; no row twice in a column (as the rulebook's)."""
        by_offset = table.t()
        offset, outputs = by_offset.nonzero(as_tuple=True)
        counts = torch.bincount(offset, minlength=len(by_offset))
        counts_on_cpu = counts.to("cpu", torch.int32)
        place = torch.arange(len(offset), device=table.device) - (counts.cumsum(0) - counts)[offset]
        most = int(counts_on_cpu.max()) if len(offset) else 0
        pairs = torch.full((2, len(by_offset), most), -1, dtype=torch.int32, device=table.device)
        pairs[0, offset, place] = (by_offset[offset, outputs] - 1).int()
        pairs[1, offset, place] = outputs.int()
        return cls(pairs, counts_on_cpu, len(table))


def convolve(features: Tensor, table: SpconvPairs, weight: Tensor, *, symmetric: bool) -> Tensor:
    """out[i] = sum over k of features[table[i, k] - 1] @ weight[k], with gradients.

    features [V_in, C_in]; weight [K, C_in, C_out]; returns [V_out, C_out] in the dtype of the features. symmetric: as
    for ``sparse_encoder.gather_matmul``; spconv then multiplies the middle of the kernel without a gather.
    """
    dtype = torch.promote_types(features.dtype, torch.float32)
    out: Tensor = _Convolution.apply(features.to(dtype), table, weight.to(dtype), symmetric)  # type: ignore[no-untyped-call]
    return out.to(features.dtype)


class _Convolution(torch.autograd.Function):
    """Not spconv's own Function, which turns everything into float16 under any autocast."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, table: SpconvPairs, weight: Tensor, symmetric: bool) -> Tensor:
        kernel = weight.permute(2, 0, 1).contiguous()  # spconv: [C_out, K, C_in]
        ctx.save_for_backward(features, kernel)
        ctx.table, ctx.symmetric = table, symmetric
        if not table.pairs.shape[2]:
            return features.new_zeros(table.num_outputs, len(kernel))
        with _called_from(features) as ops:
            out: Tensor = ops.indice_conv(
                features, kernel, table.pairs, table.counts, table.num_outputs, subm=symmetric, algo=ops.ConvAlgo.Native
            )
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, None]:
        features, kernel = ctx.saved_tensors
        table = ctx.table
        if not table.pairs.shape[2]:
            return torch.zeros_like(features), None, torch.zeros_like(kernel).permute(1, 2, 0), None
        with _called_from(features) as ops:
            grad_features, grad_kernel = ops.indice_conv_backward(
                features, kernel, grad, table.pairs, table.counts, subm=ctx.symmetric, algo=ops.ConvAlgo.Native
            )
        return grad_features, None, grad_kernel.permute(1, 2, 0), None


@contextlib.contextmanager
def _called_from(features: Tensor) -> Iterator[Any]:
    """spconv's operators. They launch on the current device, and autocast must not reach the products within."""
    ops = _import_ops()
    with torch.autocast(features.device.type, enabled=False), torch.cuda.device_of(features):
        yield ops


@functools.cache
def _import_ops() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports with deprecated names of torch and Python
        import spconv.pytorch.ops as ops
    return ops


@functools.cache
def serves(device: torch.device) -> bool:
    """Whether spconv convolves on this device; on a GPU where it does not, the log says why, once."""
    problem = obstacle(device)
    if problem and device.type == "cuda":
        _log.warning("sparse convolutions train in the pure-torch form: %s", problem)
    return not problem


def obstacle(device: torch.device) -> str:
    """Why spconv does not convolve on this device, "" when it does. Raises ConfigError for a wrong PSG4D_SPCONV."""
    switch = os.environ.get(SWITCH, "auto")
    if switch not in ("auto", "off"):
        raise ConfigError(f"{SWITCH} is {switch!r}, expected 'auto' or 'off'")
    if switch == "off":
        return f"{SWITCH} is off"
    try:
        wheel = installed_wheel()
    except ConfigError as error:
        return str(error)
    if device.type != "cuda":
        return f"{wheel} is for GPUs; on a {device.type.upper()} the pure-torch form is used"
    try:
        worst = worst_error(device)
    except Exception as error:  # whatever a binary made for another CUDA, driver or numpy fails with
        return f"{wheel} does not run here ({type(error).__name__}: {error}); {SWITCH}=off skips the attempt"
    if not worst < 0.01:  # also for NaN; TF32 is good to 0.001, a wrong row is off by about 1
        return f"{wheel} convolves wrongly on {device} (relative error {worst:.2g}); {SWITCH}=off skips the attempt"
    return ""


def installed_wheel(search: Sequence[str] | None = None) -> str:
    """Name and version of the distribution that owns the module ``spconv``; nothing is imported.

    search: folders of installed packages, None = those of this Python. Raises ConfigError where there is none, plain
    ``spconv``, or more than one: they overwrite each other.
    """
    installed = metadata.distributions(path=list(sys.path if search is None else search))
    names = {re.sub(r"[-_.]+", "-", d.name).lower(): d.version for d in installed if d.name}
    owners = {name: version for name, version in names.items() if re.fullmatch(r"spconv(-cu\d+)?", name)}
    if not owners:
        raise ConfigError(f"spconv is not installed: {INSTALL}")
    if len(owners) > 1:
        found = ", ".join(sorted(owners))
        raise ConfigError(f"{found} are all installed and overwrite each other: uninstall all, then {INSTALL}")
    ((name, version),) = owners.items()
    if name == "spconv":
        problem = f"spconv {version} is the build for CPUs, whose threads race and give wrong sums"
        raise ConfigError(f"{problem}: pip uninstall spconv, then {INSTALL}")
    return f"{name} {version}"


def worst_error(device: torch.device) -> float:
    """spconv on a small table: the worst relative error of outputs and gradients against a plain product."""
    rows = torch.arange(40)[:, None] + torch.arange(-13, 14)  # voxels in a line; offset k leads 13 - k back
    table = torch.where((rows >= 0) & (rows < 40), rows + 1, 0).to(device)
    chance = torch.Generator().manual_seed(0)
    # Numbers of channels that no network has: spconv remembers per number which kernel was fast, here on 40 rows.
    features = torch.randn(40, 13, generator=chance).to(device).requires_grad_()
    weight = torch.randn(27, 13, 21, generator=chance).to(device).requires_grad_()
    cotangent = torch.randn(40, 21, generator=chance).to(device)
    worst = 0.0
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        expected = torch.cat((features.new_zeros(1, 13), features))[table].flatten(1) @ weight.flatten(0, 1)
        wanted = (expected, *torch.autograd.grad(expected, (features, weight), cotangent))
        for symmetric in (False, True):
            out = convolve(features, SpconvPairs.of(table), weight, symmetric=symmetric)
            got = (out, *torch.autograd.grad(out, (features, weight), cotangent))
            errors = [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(got, wanted, strict=True)]
            worst = max(worst, *errors)
    return worst
