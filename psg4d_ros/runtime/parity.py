"""Whether a graph computes what torch does: the trained module as it runs, in float32, against an exported graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from psg4d_ros.errors import ExportError
from psg4d_ros.runtime.graph_parts import GraphPart

# What runs a graph: inputs in the graph's order to its outputs, on the CPU.
RunGraph = Callable[[Sequence[Tensor]], list[Tensor]]
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16}
# An empty cloud, a single voxel, few, a small and an odd number (without slot states), and the most that a frame has.
VOXELS = (0, 1, 2, 1000, 5001, 120_000)
# How far a value may be off, as a part of the largest value of its output (at least of 1). Measured on random weights:
# 2e-6 in fp32, 5e-3 in fp16.
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2}
# The share of an output's values that must be within it. A key whose mask logit is zero but for rounding may be seen by
# a slot in one run and not in the other: the decoder's attention is cut hard there. So a slot may differ.
_SHARE = {"encoder": 1.0, "mask_decoder": 0.95}


@dataclass(frozen=True)
class Parity:
    """How far a graph is from torch. max_abs_err: over all outputs and sizes; worst: where the output furthest beyond
    its tolerance was, and by how much. tolerance: see TOLERANCE. voxels: the sizes tried."""

    max_abs_err: float
    ok: bool
    worst: str
    tolerance: float
    voxels: tuple[int, ...]


def cast_inputs(part: GraphPart, tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Inputs of ``sample`` as the graph of that precision takes them: positions, in metres, stay float32."""
    exact = {"anchors", *(name for name in part.inputs if name.endswith("positions"))}
    return [
        tensor.to(dtype) if tensor.is_floating_point() and name not in exact else tensor
        for name, tensor in zip(part.inputs, tensors, strict=True)
    ]


@torch.inference_mode()
def check_parity(part: GraphPart, graph: RunGraph, precision: str, voxels: tuple[int, ...] = VOXELS) -> Parity:
    """Run both on samples of so many voxels. Raises ExportError when the graph does not run at all."""
    tolerance, share = TOLERANCE[precision], _SHARE[part.name]
    largest, least_share, worst = 0.0, 2.0, ""
    for count in voxels:
        tensors = part.sample(count)
        expected = part.module(tensors)
        try:
            found = graph(cast_inputs(part, tensors, PRECISIONS[precision]))
        except Exception as error:  # each runtime raises its own
            raise ExportError(f"{part.name} does not run with {count} voxels: {error}") from error
        for name, a, b in zip(part.outputs, expected, found, strict=True):
            if a.shape != b.shape:
                raise ExportError(
                    f"{part.name} gives {name} of shape {tuple(b.shape)} with {count} voxels, expected {tuple(a.shape)}"
                )
            if not a.numel():
                continue
            # What is no number is off by as much as can be said.
            off = (a.float() - b.float()).abs().nan_to_num(nan=torch.inf).clamp(max=torch.finfo(torch.float32).max)
            limit = tolerance * max(1.0, float(a.abs().max()))
            within, most = float((off <= limit).float().mean()), float(off.max())
            if bool((a.isfinite() & ~b.isfinite()).any()):
                within = 0.0  # that is no slot that looks elsewhere
            largest = max(largest, most)
            if within < least_share:
                least_share = within
                worst = f"{name} with {count} voxels is off by up to {most:.3g}, {within:.2%} within {limit:.3g}"
    return Parity(largest, least_share >= share, worst, tolerance, voxels)
