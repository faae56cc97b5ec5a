"""Dense losses of single voxels: what it belongs to, and where the middle of that is.

Slots give the encoder a gradient only where they already look; these reach every voxel from the first step on. The
heads are scaffolding: part of neither the model nor a checkpoint.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from psg4d_ros.training.scene_batch import SceneBatch

_HIDDEN = 64


class VoxelHeads(nn.Module):
    """Names of voxels and offsets to the middles of their tubes, from finest and second-level features."""

    def __init__(self, fine_dim: int, mid_dim: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, classes + 3))
            for dim in (fine_dim, mid_dim)
        )

    def forward(self, batch: SceneBatch, labels: list[Tensor], weight: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy of names and mean distance (metres) of offsets, means over voxels of known tubes.

        labels: per window int64[T], the class of each tube or -1. weight: float32[classes].
        """
        names, offsets = [], []
        fine = self.heads[0], batch.fine, batch.fine_positions, [t.fine for t in batch.targets]
        mid = self.heads[1], batch.mid, batch.mid_positions, [t.keys for t in batch.targets]
        for head, features, positions, tubes in (fine, mid):
            owner = torch.stack([_look_up(own, t) for own, t in zip(labels, tubes, strict=True)])
            toward = torch.stack([_to_middle(p, t) for p, t in zip(positions, tubes, strict=True)])
            said = head(features).float()
            known, named = torch.stack(tubes) >= 0, owner >= 0
            wrong = F.cross_entropy(said[..., : self.classes][named], owner[named], weight, reduction="sum")
            names.append(wrong / weight[owner[named]].sum().clamp(min=1e-6))
            off = F.smooth_l1_loss(said[..., self.classes :][known], toward[known], beta=0.2, reduction="sum")
            offsets.append(off / known.sum().clamp(min=1))
        return torch.stack(names).mean(), torch.stack(offsets).mean()


def _look_up(labels: Tensor, tubes: Tensor) -> Tensor:
    """int64[V]: the class of each voxel's tube, -1 where there is none."""
    return torch.cat([labels, labels.new_full((1,), -1)])[tubes]


def _to_middle(positions: Tensor, tubes: Tensor) -> Tensor:
    """float32[V, 3] from each voxel to the mean position of its tube; zeros where it has none."""
    count = int(tubes.max()) + 1 if len(tubes) else 0
    if count <= 0:
        return positions.new_zeros(len(positions), 3)
    known = tubes >= 0
    sums = positions.new_zeros(count, 4).index_add_(
        0, tubes[known], torch.cat([positions[known, :3], positions.new_ones(int(known.sum()), 1)], dim=1)
    )
    middles = sums[:, :3] / sums[:, 3:].clamp(min=1)
    return torch.where(known[:, None], middles[tubes.clamp(min=0)] - positions[:, :3], 0.0)
