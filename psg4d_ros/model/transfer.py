"""Small tensors that go to a device together: a copy each would cost a GPU more than what is in them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Parts start at multiples of this many bytes, which suits every type.
_ALIGNED = 16


def move_together(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """The tensors on ``device``, those that lie on the CPU copied in one go; the CPU does not wait for it.

    They share memory with each other, not with what was given, and carry no gradients back to it.
    """
    here = [t for t in tensors if t.device.type == "cpu"]
    starts = [0]
    for t in here:
        starts.append(starts[-1] + -(-t.nbytes // _ALIGNED) * _ALIGNED)
    packed = torch.empty(starts[-1], dtype=torch.uint8)

    def cut(buffer: Tensor) -> list[Tensor]:
        of_type = {dtype: buffer.view(dtype) for dtype in {t.dtype for t in here}}
        first = [start // t.itemsize for start, t in zip(starts, here, strict=False)]
        return [of_type[t.dtype][i : i + t.numel()].view(t.shape) for i, t in zip(first, here, strict=True)]

    with torch.no_grad():
        for part, t in zip(cut(packed), here, strict=True):
            part.copy_(t)
    # Pageable memory is read before the call returns, so that the buffer may go.
    moved = iter(cut(packed.to(device, non_blocking=True)))
    return [next(moved) if t.device.type == "cpu" else t.to(device) for t in tensors]
