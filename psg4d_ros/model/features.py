"""What the geometry model hands from frame to window: the cached features of one frame."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class FrameFeatures:
    """Encoder output of one frame; valid for a whole epoch, since the encoder sees only voxel-local offsets and height.

    fine [V_0, C_0] with fine_centers float32[V_0, 3]; point_voxel int64[N]: row in ``fine`` of each point, -1 for
    points cut by the voxel cap. mid [V_1, C_1] with mid_centers float32[V_1, 3]. tokens [T, C_L], pooled per cell, with
    token_centers float32[T, 3]. Centres are in the core frame, metres, relative to ``Window.origin``. stamp_ns: time of
    the frame. truncated: the voxel cap cut something off. Raises ValueError when features and centres disagree.
    """

    fine: Tensor
    fine_centers: Tensor
    point_voxel: Tensor
    mid: Tensor
    mid_centers: Tensor
    tokens: Tensor
    token_centers: Tensor
    stamp_ns: int
    truncated: bool

    def __post_init__(self) -> None:
        pairs = {
            "fine": (self.fine, self.fine_centers),
            "mid": (self.mid, self.mid_centers),
            "token": (self.tokens, self.token_centers),
        }
        for name, (features, centers) in pairs.items():
            if centers.shape != (features.shape[0], 3):
                found = f"features {tuple(features.shape)} and centers {tuple(centers.shape)}"
                raise ValueError(f"FrameFeatures: {name} has {found}, expected centers [{features.shape[0]}, 3]")
