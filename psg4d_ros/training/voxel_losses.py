"""A dense loss of single voxels: the name of what each belongs to.

Slots give the encoder a gradient only where they already look; this reaches every voxel from the first step on. The
heads are scaffolding: part of neither the model nor a checkpoint.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from psg4d_ros.training.mask_losses import NOBODY
from psg4d_ros.training.scene_batch import SceneBatch

_HIDDEN = 64


class VoxelHeads(nn.Module):
    """Names of voxels, from finest and second-level features."""

    def __init__(self, fine_dim: int, mid_dim: int, classes: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, classes))
            for dim in (fine_dim, mid_dim)
        )

    def forward(self, batch: SceneBatch, labels: list[Tensor], weight: Tensor) -> Tensor:
        """Cross-entropy of names, mean over voxels of known tubes.

        labels: per window int64[T], the class of each tube or -1. weight: float32[classes].
        """
        names = []
        fine = self.heads[0], batch.fine, [t.fine for t in batch.targets]
        mid = self.heads[1], batch.mid, [t.keys for t in batch.targets]
        for head, features, tubes in (fine, mid):
            owner = torch.cat([_look_up(own, t) for own, t in zip(labels, tubes, strict=True)])
            said = head(features).float().flatten(0, 1)
            # Weights of 0 and 1 in place of a selection: its size would have to be waited for on a GPU.
            wrong = F.cross_entropy(said, owner, weight, ignore_index=NOBODY, reduction="sum")
            names.append(wrong / (weight[owner.clamp(min=0)] * (owner >= 0)).sum().clamp(min=1e-6))
        return torch.stack(names).mean()


def _look_up(labels: Tensor, tubes: Tensor) -> Tensor:
    """int64[V]: the class of each voxel's tube, NOBODY where there is none."""
    return torch.cat([labels, labels.new_full((1,), NOBODY)])[tubes]
