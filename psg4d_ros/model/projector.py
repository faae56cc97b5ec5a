"""From scene tokens to the language model's embedding space."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Projector(nn.Module):
    """Two-layer network whose output has the scale of the language model's own token embeddings.

    A frozen or lightly adapted language model never saw larger inputs: with the scale fixed (and learned from there),
    scene tokens are neither ignored nor do they drown the text. token_rms: root mean square of its embedding table.
    """

    def __init__(self, in_dim: int, lm_dim: int, token_rms: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(in_dim)
        self.hidden = nn.Linear(in_dim, lm_dim)
        self.out = nn.Linear(lm_dim, lm_dim)
        self.scale = nn.Parameter(torch.full((lm_dim,), float(token_rms)))

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [S, in_dim] -> [S, lm_dim] with root mean square ``token_rms`` per token at initialisation."""
        x = self.out(F.gelu(self.hidden(self.norm(tokens))))
        return F.rms_norm(x, (x.shape[-1],), eps=1e-6) * self.scale
