"""True tubes of a window of which only the voxels matter."""

from __future__ import annotations

import torch

from psg4d_ros.training.mask_losses import TubeTargets


def tubes_of(labels: torch.Tensor, count: int) -> TubeTargets:
    """labels: int64[V] of finest and of second-level voxels alike."""
    things = torch.ones(count, dtype=torch.bool)
    return TubeTargets(labels, labels, count, things, torch.zeros(count, 1, 6), torch.zeros(1))
