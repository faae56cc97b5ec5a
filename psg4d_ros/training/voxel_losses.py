"""Dense losses of single voxels: what it belongs to, and where the middle of that is.

Slots give the encoder a gradient only where they already look; these reach every voxel from the first step on. The
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
        counts = [t.count for t in batch.targets]
        fine = self.heads[0], batch.fine, batch.fine_positions, [t.fine for t in batch.targets]
        mid = self.heads[1], batch.mid, batch.mid_positions, [t.keys for t in batch.targets]
        for head, features, positions, tubes in (fine, mid):
            owner = torch.cat([_look_up(own, t) for own, t in zip(labels, tubes, strict=True)])
            toward = torch.cat([_to_middle(*of) for of in zip(positions, tubes, counts, strict=True)])
            said = head(features).float().flatten(0, 1)
            # Weights of 0 and 1 in place of a selection: its size would have to be waited for on a GPU.
            wrong = F.cross_entropy(said[:, : self.classes], owner, weight, ignore_index=NOBODY, reduction="sum")
            names.append(wrong / (weight[owner.clamp(min=0)] * (owner >= 0)).sum().clamp(min=1e-6))
            known = torch.cat(tubes) >= 0
            off = F.smooth_l1_loss(said[:, self.classes :], toward, beta=0.2, reduction="none").sum(dim=1)
            offsets.append((off * known).sum() / known.sum().clamp(min=1))
        return torch.stack(names).mean(), torch.stack(offsets).mean()


def _look_up(labels: Tensor, tubes: Tensor) -> Tensor:
    """int64[V]: the class of each voxel's tube, NOBODY where there is none."""
    return torch.cat([labels, labels.new_full((1,), NOBODY)])[tubes]


def _to_middle(positions: Tensor, tubes: Tensor, count: int) -> Tensor:
    """float32[V, 3] from each voxel to the mean position of its tube, of ``count``; of no use where it has none."""
    known = (tubes >= 0).to(positions.dtype)[:, None]
    owner = tubes.clamp(min=0)
    sums = positions.new_zeros(max(1, count), 4)
    sums = sums.index_add(0, owner, torch.cat([positions[:, :3], torch.ones_like(known)], dim=1) * known)
    return (sums[:, :3] / sums[:, 3:].clamp(min=1))[owner] - positions[:, :3]
