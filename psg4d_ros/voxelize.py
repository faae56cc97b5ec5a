"""Points of one frame to occupied voxels with features (torch, CPU or GPU).

All sums run over fixed-point integers: integer addition is exact in any order, so the grid does not depend on the order
of the points, on the device, or on how its threads interleave; a replay gives the same bits each time.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from psg4d_ros.structures import AlignedFrame, Float32, Float64, VoxelGrid

FEATURE_NAMES = (
    "offset_x",
    "offset_y",
    "offset_z",
    "height_m",
    "red",
    "green",
    "blue",
    "has_color",
    "intensity",
    "has_intensity",
    "log_points",
)

KEY_BITS = 21
# One less than the key's range on either side, so that neighbours one voxel away still have keys of their own.
MAX_COORD = (1 << (KEY_BITS - 1)) - 2
_FIXED = 1 << 24


def pack_keys(coords: Tensor) -> Tensor:
    """int[V, 3] voxel indices within +-MAX_COORD to int64[V] keys, in the same (lexicographic) order."""
    c = coords.long() + (1 << (KEY_BITS - 1))
    return (c[:, 0] << (2 * KEY_BITS)) | (c[:, 1] << KEY_BITS) | c[:, 2]


def unpack_keys(keys: Tensor) -> Tensor:
    """Inverse of ``pack_keys``: int64[V] to int32[V, 3]."""
    mask = (1 << KEY_BITS) - 1
    c = torch.stack([keys >> (2 * KEY_BITS), (keys >> KEY_BITS) & mask, keys & mask], dim=1)
    return (c - (1 << (KEY_BITS - 1))).int()


def voxelize(
    frame: AlignedFrame,
    origin: Float64,
    voxel_size_m: float,
    max_voxels: int,
    device: torch.device | str,
    max_points: int | None = None,
) -> VoxelGrid:
    """The occupied voxels of ``frame`` on a grid through ``origin`` (float64[3], core frame, metres).

    Features, float32[V, 11], see FEATURE_NAMES: the voxel's mean point, relative to its centre, in voxel edges (3); its
    height above ``origin`` in metres; mean colour in 0..1 (3) and whether there is any; mean intensity, see
    ``squash_intensity``, and whether there is any; log(1 + number of points). Everything but the height is local to the
    voxel, so features cached for a frame stay valid as the window moves.

    More than ``max_points`` points: so many of them are used, evenly spaced in message order, and only they reach the
    device. More than ``max_voxels`` voxels: those nearest to the sensor are kept, because they are the best measured; a
    cut by grid order would remove one side of the scene. Points beyond MAX_COORD voxels from the origin are cut too.
    Each of these sets ``truncated``, and ``point_voxel`` is -1 for the points.
    """
    device = torch.device(device)
    total_points = len(frame.points)
    truncated = max_points is not None and total_points > max_points
    used = np.arange(total_points, dtype=np.int64)
    if truncated:
        used = np.arange(max_points, dtype=np.int64) * total_points // max_points  # type: ignore[arg-type, operator]
    rows = torch.from_numpy(used).to(device)
    scaled = torch.from_numpy(frame.points[used] if truncated else frame.points).to(device).double()
    scaled = (scaled - torch.from_numpy(np.asarray(origin, dtype=np.float64)).to(device)) / voxel_size_m
    cell = scaled.floor()
    inside = (cell.abs() <= MAX_COORD).all(dim=1)  # False for NaN and Inf too
    if not bool(inside.all()):
        truncated = True
        rows, scaled, cell = rows[inside], scaled[inside], cell[inside]

    keys, voxel_of_row, count = torch.unique(pack_keys(cell), sorted=True, return_inverse=True, return_counts=True)
    coords = unpack_keys(keys)
    sensor = (torch.from_numpy(frame.T_core_sensor[:3, 3] - origin) / voxel_size_m).to(device)
    if len(keys) > max_voxels:
        truncated = True
        distance = (coords.double() + 0.5 - sensor).square().sum(dim=1)
        kept = distance.argsort(stable=True)[:max_voxels].sort().values
        new_index = torch.full((len(keys),), -1, dtype=torch.int64, device=device)
        new_index[kept] = torch.arange(len(kept), device=device)
        voxel_of_row, coords, count = new_index[voxel_of_row], coords[kept], count[kept]
        seen = voxel_of_row >= 0
        rows, scaled, cell, voxel_of_row = rows[seen], scaled[seen], cell[seen], voxel_of_row[seen]

    point_voxel = torch.full((len(frame.points),), -1, dtype=torch.int64, device=device)
    point_voxel[rows] = voxel_of_row

    def mean(values: Tensor) -> Tensor:
        """Mean over each voxel's points: int[N, C] -> float64[V, C]."""
        total = torch.zeros((len(coords), values.shape[1]), dtype=torch.int64, device=device)
        return total.index_add_(0, voxel_of_row, values.long()).double().div(count[:, None])

    inner = mean(_fixed(scaled - cell)) / _FIXED
    centers = ((coords.double() + inner) * voxel_size_m).float()
    features = torch.zeros((len(coords), len(FEATURE_NAMES)), dtype=torch.float32, device=device)
    features[:, 0:3] = inner - 0.5
    features[:, 3] = centers[:, 2]
    if frame.frame.colors is not None:
        features[:, 4:7] = mean(torch.from_numpy(frame.frame.colors).to(device)[rows]) / 255.0
        features[:, 7] = 1.0
    if frame.frame.intensity is not None:
        intensity = torch.from_numpy(squash_intensity(frame.frame.intensity)).to(device)[rows, None]
        features[:, 8:9] = mean(_fixed(intensity.double())) / _FIXED
        features[:, 9] = 1.0
    features[:, 10] = torch.log1p(count.double())
    return VoxelGrid(coords, features, centers, point_voxel, voxel_size_m, truncated)


def squash_intensity(intensity: Float32) -> Float32:
    """Intensity of one frame to 0..1 as x / (x + median): float32[N] to float32[N].

    Sensors report 0..1, 0..255 or 0..65535, with a long tail from retro-reflectors. Dividing by the median of the
    positive values takes the unit out, and the curve, near-logarithmic around the median, bounds the tail.
    NaN and negative values count as 0.
    """
    raw = intensity.astype(np.float64)
    positive = np.where(np.isnan(raw), 0.0, raw).clip(0.0, float(np.finfo(np.float32).max))
    lit = positive[positive > 0]
    if not lit.size:
        return np.zeros(len(intensity), np.float32)
    squashed: Float32 = (positive / (positive + np.median(lit))).astype(np.float32)
    return squashed


def _fixed(values: Tensor) -> Tensor:
    """float64 in 0..1 to fixed-point int64."""
    return (values * _FIXED).round_().long()
