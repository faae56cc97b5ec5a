"""Fourier encoding of (x, y, z, t), shared by the temporal aggregator and the mask decoder."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# Wavelengths double from half a metre (half a chair) to 32 m (a hall), and from half a second to 32 s.
_SHORTEST = 0.5
_OCTAVES = 7


class FourierPosition(nn.Module):
    """Sines and cosines of x, y, z and t at doubling wavelengths.

    positions float32[*, 4] (metres, seconds) -> [*, ``size``] of ``dtype``, any leading dimensions.
    Angles are computed in float32 whatever the precision of the model: half precision cannot hold that of a far point.
    """

    size = 2 * 4 * _OCTAVES
    octaves: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Powers of two, so that converting the model to half precision leaves them exact.
        self.register_buffer("octaves", 2.0 ** -torch.arange(_OCTAVES), persistent=False)

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Tensor:
        scaled = positions.float() * (2 * math.pi / _SHORTEST)
        angles = (scaled[..., None] * self.octaves.float()).flatten(-2)
        return torch.cat((angles.sin(), angles.cos()), dim=-1).to(dtype)
