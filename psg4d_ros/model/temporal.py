"""Temporal aggregator: scene tokens of all frames of a window attend to each other, knowing place and time of each.

It is a residual that starts at zero: at first a window's tokens are its frames' tokens, so parts taught on single
images go on as they did, and time enters only as far as training finds it useful.
After the idea of "Learning 4D Panoptic Scene Graph Generation from Rich 2D Visual Scene" (2025).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from psg4d_ros.errors import ConfigError
from psg4d_ros.model.position import FourierPosition


class TemporalLayer(nn.Module):
    """Self-attention and a feed-forward network, both pre-normalised, both added through a zero-initialised matrix."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.where = nn.Linear(FourierPosition.size, dim)
        self.query_key = nn.Linear(dim, 2 * dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.feed_norm = nn.LayerNorm(dim)
        self.feed = nn.Linear(dim, 4 * dim)
        self.feed_out = nn.Linear(4 * dim, dim)
        for last in (self.out, self.feed_out):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, tokens: Tensor, code: Tensor) -> Tensor:
        """tokens [B, S, C], code [B, S, FourierPosition.size] -> [B, S, C]."""
        x = self.norm(tokens)
        located = x + self.where(code)
        query, key = self.query_key(located).chunk(2, dim=-1)
        query, key, value = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (query, key, self.value(located))
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.out(mixed.transpose(1, 2).flatten(2))
        return tokens + self.feed_out(F.gelu(self.feed(self.feed_norm(tokens))))


class TemporalAggregator(nn.Module):
    """Attention over the scene tokens of a window. Raises ConfigError when ``heads`` does not divide ``dim``."""

    def __init__(self, dim: int, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigError(
                f"temporal aggregator of width {dim} with {heads} heads: the width must be a multiple of them"
            )
        self.position = FourierPosition()
        self.layers = nn.ModuleList(TemporalLayer(dim, heads) for _ in range(layers))

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """tokens [*, S, C]; positions float32[*, S, 4]: x, y, z metres, t seconds relative to the newest frame (<= 0).

        Leading dimensions count windows, which stay apart. Returns [*, S, C], equal to ``tokens`` at initialisation.
        The order of the tokens does not matter.
        """
        code = self.position(positions, tokens.dtype)[None].flatten(0, -3)
        x = tokens[None].flatten(0, -3)  # one batch dimension: what the fast attention kernels take
        for layer in self.layers:
            x = layer(x, code)
        return x.reshape(tokens.shape)


def select_tokens(tokens: Tensor, positions: Tensor, max_tokens: int) -> tuple[Tensor, Tensor]:
    """At most ``max_tokens`` rows of tokens [S, C] and positions [S, 4], in their order.

    What goes is a pseudo-random choice that depends on S alone: the same for the same window, and spread over all
    frames and places, where a cut in sorted order would remove the newest frames or one side of the scene.
    """
    count = tokens.shape[0]
    if count <= max_tokens:
        return tokens, positions
    order = torch.randperm(count, generator=torch.Generator().manual_seed(count))
    kept = order[:max_tokens].sort().values.to(tokens.device)
    return tokens[kept], positions[kept]
