"""Sparse U-Net over the voxels of one frame, as Gather + MatMul over tables that are built outside.

The tables come from ``runtime.rulebook``: entry 0 means "no voxel there", entry i + 1 means row i. A convolution
gathers ``table.shape[1]`` rows per voxel and multiplies once by the flattened kernel, so the whole encoder is made of
operators that ONNX, onnxruntime and TensorRT know, and any number of voxels, 0 included, runs through the same graph.

Normalisation is LayerNorm over the channels of each voxel. One frame at a time is a batch of one cloud whose size,
density and sensor vary: statistics over a batch of voxels would differ between training and the robot, between
simulated and real sensors, and between a big and a small cloud. LayerNorm looks at one voxel only, so frames stay
independent of each other (what makes the frame cache exact) and training and inference compute the same thing.

After the ideas of "Learning 4D Panoptic Scene Graph Generation from Rich 2D Visual Scene" (2025) and of "3D Semantic
Segmentation with Submanifold Sparse Convolutional Networks" (2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from psg4d_ros.config import EncoderConfig
from psg4d_ros.errors import ConfigError
from psg4d_ros.model import spconv_kernel, triton_kernel
from psg4d_ros.model.spconv_kernel import SpconvPairs
from psg4d_ros.model.triton_kernel import Columns

# Gathered rows are multiplied in pieces of this many elements, which bounds memory.
_CHUNK_ELEMENTS = 1 << 27


@dataclass(frozen=True, eq=False)
class Pairs:
    """A table as a list of its entries, for CPUs: most of a surface's 27 neighbours are empty, and are left out here.

    inputs, outputs: int64[P] rows, offset by offset (within one, no output row comes twice). counts: pairs per offset.
    num_outputs: V_out.
    """

    inputs: Tensor
    outputs: Tensor
    counts: tuple[int, ...]
    num_outputs: int

    @classmethod
    def of(cls, table: Tensor) -> Pairs:
        """table: int64[V_out, K], entry 0 = nothing, i + 1 = row i."""
        by_offset = table.t()
        offset, outputs = by_offset.nonzero(as_tuple=True)
        counts = torch.bincount(offset, minlength=len(by_offset)).tolist()
        return cls(by_offset[offset, outputs] - 1, outputs, tuple(counts), len(table))

    def split(self) -> list[tuple[int, Tensor, Tensor]]:
        """(offset, input rows, output rows) of every offset that has any."""
        pieces = zip(self.inputs.split(self.counts), self.outputs.split(self.counts), strict=True)
        return [(k, i, o) for k, (i, o) in enumerate(pieces) if len(i)]


# The forms of one table; all take the same weights.
Table: TypeAlias = Tensor | Pairs | Columns | SpconvPairs


def prepare(table: Tensor) -> Table:
    """The form of a table that multiplies fastest where it lies: pairs on a CPU; on a GPU what the fused kernel reads,
    or where that does not serve and gradients are wanted what spconv reads, else the table itself. An exported graph
    always holds the table itself."""
    if torch.compiler.is_compiling():
        return table
    if table.device.type == "cpu":
        return Pairs.of(table)
    if triton_kernel.serves(table.device):
        return Columns.of(table)
    if torch.is_grad_enabled() and spconv_kernel.serves(table.device):
        return SpconvPairs.of(table)
    return table


def gather_matmul(features: Tensor, table: Table, weight: Tensor, *, symmetric: bool = False) -> Tensor:
    """Sparse convolution: out[i] = sum over k of features[table[i, k] - 1] @ weight[k], where entry 0 adds nothing.

    features [V_in, C_in]; table int64[V_out, K], entries 0..V_in, or another form of it; weight [K, C_in, C_out].
    Returns [V_out, C_out].
    symmetric: the table is that of a submanifold convolution (table[i, k] = j + 1 exactly when table[j, K - 1 - k] =
    i + 1); then the backward pass is a gather too, faster than a scatter and the same bits every time on a GPU.
    """
    if isinstance(table, SpconvPairs):  # in float32 also under autocast
        return spconv_kernel.convolve(features, table, weight, symmetric=symmetric)
    if torch.is_autocast_enabled(features.device.type):
        dtype = torch.get_autocast_dtype(features.device.type)
        features, weight = features.to(dtype), weight.to(dtype)
    if isinstance(table, Columns):
        return triton_kernel.convolve(features, table, weight, symmetric=symmetric)
    if isinstance(table, Pairs):
        product: Tensor = _PairsMatMul.apply(features, table, weight)  # type: ignore[no-untyped-call]
        return product
    padded = torch.cat((features.new_zeros(1, features.shape[1]), features))
    if torch.compiler.is_compiling():  # one piece: the exported graph has no loop
        return padded.index_select(0, table.reshape(-1)).reshape(
            -1, weight.shape[0] * weight.shape[1]
        ) @ weight.flatten(0, 1)
    if torch.is_grad_enabled() and (padded.requires_grad or weight.requires_grad):
        out: Tensor = _GatherMatMul.apply(padded, table, weight, symmetric)  # type: ignore[no-untyped-call]
        return out
    return _gather_matmul(padded, table, weight)


class _PairsMatMul(torch.autograd.Function):
    """gather_matmul over Pairs: one small product per offset. Summed in float32, in the order of the offsets."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, pairs: Pairs, weight: Tensor) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.pairs = pairs
        out = _sums(pairs.num_outputs, weight.shape[2], features)
        for k, inputs, outputs in pairs.split():
            out.index_add_(0, outputs, (features.index_select(0, inputs) @ weight[k]).to(out.dtype))
        return out.to(features.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        features, weight = ctx.saved_tensors
        grad_features = _sums(len(features), features.shape[1], features) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[2] else None
        for k, inputs, outputs in ctx.pairs.split():
            piece = grad.index_select(0, outputs)
            if grad_features is not None:
                grad_features.index_add_(0, inputs, (piece @ weight[k].t()).to(grad_features.dtype))
            if grad_weight is not None:
                grad_weight[k] = features.index_select(0, inputs).t() @ piece
        return None if grad_features is None else grad_features.to(features.dtype), None, grad_weight


def _sums(rows: int, columns: int, like: Tensor) -> Tensor:
    """Zeros to add up in: sums of many products are not formed in half precision."""
    dtype = torch.float32 if like.dtype in (torch.float16, torch.bfloat16) else like.dtype
    return like.new_zeros(rows, columns, dtype=dtype)


def _gather_matmul(padded: Tensor, table: Tensor, weight: Tensor) -> Tensor:
    kernel = weight.flatten(0, 1)
    rows = max(256, _CHUNK_ELEMENTS // max(1, kernel.shape[0]))
    out = padded.new_empty(table.shape[0], kernel.shape[1])
    for start in range(0, table.shape[0], rows):
        piece = table[start : start + rows]
        torch.mm(
            padded.index_select(0, piece.reshape(-1)).view(-1, kernel.shape[0]), kernel, out=out[start : start + rows]
        )
    return out


class _GatherMatMul(torch.autograd.Function):
    """gather_matmul that keeps no gathered rows (27 times the features) from the forward for the backward pass."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, table: Tensor, weight: Tensor, symmetric: bool) -> Tensor:
        ctx.save_for_backward(padded, table, weight)
        ctx.symmetric = symmetric
        return _gather_matmul(padded, table, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        padded, table, weight = ctx.saved_tensors
        grad = grad.contiguous()
        rows = max(256, _CHUNK_ELEMENTS // (weight.shape[0] * weight.shape[1]))
        pieces = [slice(start, start + rows) for start in range(0, table.shape[0], rows)]
        grad_padded = grad_weight = None
        if ctx.needs_input_grad[0] and ctx.symmetric:
            zero = grad.new_zeros(1, grad.shape[1])
            back = _gather_matmul(torch.cat((zero, grad)), table.flip(1), weight.transpose(1, 2))
            grad_padded = torch.cat((back.new_zeros(1, back.shape[1]), back))
        elif ctx.needs_input_grad[0]:
            grad_padded = torch.zeros_like(padded)
            for piece in pieces:
                back = (grad[piece] @ weight.flatten(0, 1).t()).view(-1, padded.shape[1])
                grad_padded.index_add_(0, table[piece].reshape(-1), back)
        if ctx.needs_input_grad[2]:
            total = torch.zeros_like(
                weight.flatten(0, 1), dtype=torch.float32
            )  # sums of many rows: not in half precision
            for piece in pieces:
                total += padded.index_select(0, table[piece].reshape(-1)).view(-1, total.shape[0]).t() @ grad[piece]
            grad_weight = total.view_as(weight).to(weight.dtype)
        return grad_padded, None, grad_weight, None


class SparseConv(nn.Module):
    """Submanifold 3x3x3 convolution (kernel 27, sites stay) or k2s2 down-sampling (kernel 8, by the children table).

    ``weight`` is [kernel, C_in, C_out] in the tables' order (z fastest).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(kernel, in_channels, out_channels))
        nn.init.normal_(self.weight, std=(2.0 / (kernel * in_channels)) ** 0.5)

    def forward(self, features: Tensor, table: Table) -> Tensor:
        return gather_matmul(features, table, self.weight, symmetric=self.weight.shape[0] == 27)


class SparseUpsample(nn.Module):
    """Inverse of the k2s2 down-sampling: a fine voxel takes its parent's features through the kernel of its cell."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.weight = nn.Parameter(torch.empty(in_channels, 8 * out_channels))
        nn.init.normal_(self.weight, std=(2.0 / in_channels) ** 0.5)

    def forward(self, coarse: Tensor, parent: Tensor, cell: Tensor) -> Tensor:
        """coarse [V_l, C_in]; parent, cell int64[V_{l-1}], cell 0..7. Returns [V_{l-1}, C_out]."""
        return (coarse @ self.weight).reshape(-1, self.out_channels).index_select(0, parent * 8 + cell)


class ResidualBlock(nn.Module):
    """Two submanifold convolutions with a residual connection; channels stay."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = SparseConv(channels, channels, 27)
        self.norm1 = nn.LayerNorm(channels)
        self.conv2 = SparseConv(channels, channels, 27)
        self.norm2 = nn.LayerNorm(channels)

    def forward(self, features: Tensor, neighbours: Table) -> Tensor:
        inner = F.relu(self.norm1(self.conv1(features, neighbours)))
        return F.relu(features + self.norm2(self.conv2(inner, neighbours)))


class SparseEncoder(nn.Module):
    """U-Net: residual blocks down to the coarsest level and back up with skip connections.

    Level 0 is the finest (``EncoderConfig.voxel_size_m``); each level doubles the voxel. Several frames may be encoded
    in one call by concatenating their rows and shifting their tables: no operator looks across tables.
    """

    def __init__(self, config: EncoderConfig, in_channels: int) -> None:
        super().__init__()
        channels = config.channels
        if len(channels) < 2:
            raise ConfigError(f"encoder.channels is {list(channels)}, expected at least 2 levels")
        self.config = config
        self.stem = SparseConv(in_channels, channels[0], 27)
        self.stem_norm = nn.LayerNorm(channels[0])
        self.down_blocks = nn.ModuleList(_blocks(c, config.blocks) for c in channels)
        self.down = nn.ModuleList(SparseConv(a, b, 8) for a, b in pairwise(channels))
        self.down_norms = nn.ModuleList(nn.LayerNorm(c) for c in channels[1:])
        self.up_blocks = nn.ModuleList(_blocks(c, config.blocks) for c in channels)
        self.up = nn.ModuleList(SparseUpsample(b, a) for a, b in pairwise(channels))
        self.skip = nn.ModuleList(nn.Linear(c, c, bias=False) for c in channels[:-1])
        self.up_norms = nn.ModuleList(nn.LayerNorm(c) for c in channels[:-1])

    @property
    def num_levels(self) -> int:
        return len(self.config.channels)

    def forward(
        self,
        features: Tensor,
        neighbours: list[Tensor],
        children: list[Tensor],
        parent: list[Tensor],
        cell: list[Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encode the voxels of one frame.

        features [V_0, C_in]. neighbours: per level int64[V_l, 27]. For each pair of levels (l, l + 1): children
        int64[V_{l+1}, 8] rows of level l; parent int64[V_l] rows of level l + 1; cell int64[V_l] in 0..7.
        Returns fine [V_0, C_0], mid [V_1, C_1] (both from the way up) and coarse [V_L, C_L] of the coarsest level.
        """
        last = self.num_levels - 1
        near = [prepare(table) for table in neighbours]  # once for all convolutions of a level
        x = F.relu(self.stem_norm(self.stem(features, near[0])))
        skips: list[Tensor] = []
        for level, blocks in enumerate(self.down_blocks):
            if level > 0:
                x = F.relu(self.down_norms[level - 1](self.down[level - 1](x, prepare(children[level - 1]))))
            x = _run(blocks, x, near[level])
            skips.append(x)
        outputs: list[Tensor] = []
        for level in range(last, -1, -1):
            if level < last:
                raised = self.up[level](x, parent[level], cell[level])
                x = F.relu(self.up_norms[level](raised + self.skip[level](skips[level])))
            x = _run(self.up_blocks[level], x, near[level])
            outputs.append(x)
        return outputs[-1], outputs[-2], outputs[0]


def _blocks(channels: int, count: int) -> nn.ModuleList:
    return nn.ModuleList(ResidualBlock(channels) for _ in range(count))


def _run(blocks: nn.Module, features: Tensor, neighbours: Table) -> Tensor:
    for block in blocks.children():
        features = block(features, neighbours)
    return features


def pool_tokens(
    coarse: Tensor, centers: Tensor, cell_m: float, frame: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Scene tokens: the mean of the coarse voxels of each cubic cell of each frame.

    coarse [V, C]; centers float32[V, 3] metres; frame int64[V], the frame that each voxel is of, None = all of frame 0.
    Returns tokens [T, C], their centres float32[T, 3] and frames int64[T], in lexicographic order of frame and cell, so
    that the result depends neither on the order of the voxels nor on the device.
    """
    if frame is None:
        frame = torch.zeros(len(centers), dtype=torch.int64, device=centers.device)
    if coarse.shape[0] == 0:
        return coarse, centers, frame
    cells = torch.floor(centers / cell_m).to(torch.int64)
    found, group = torch.unique(torch.cat((frame[:, None], cells), dim=1), dim=0, return_inverse=True)
    order = torch.argsort(group, stable=True)  # summing sorted runs is deterministic; scattered adds on a GPU are not
    lengths = torch.bincount(group)
    tokens = torch.segment_reduce(coarse[order].float(), "mean", lengths=lengths, axis=0)
    where = torch.segment_reduce(centers[order], "mean", lengths=lengths, axis=0)
    return tokens.to(coarse.dtype), where, found[:, 0]
