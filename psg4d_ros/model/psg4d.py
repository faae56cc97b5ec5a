"""The 4D-LLM as one module: sparse encoder -> aggregator -> projector -> language model -> mask decoder -> relations.

After the idea of "Learning 4D Panoptic Scene Graph Generation from Rich 2D Visual Scene" (CVPR 2025), which has no
public code; the parts are our own, and docs/design.md gives their reasons.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from psg4d_ros.config import ModelConfig, switched
from psg4d_ros.model.chain import SceneChain
from psg4d_ros.model.features import FrameFeatures
from psg4d_ros.model.geometry import DEPTH_COLUMNS, GEOMETRY_NAMES, MOTION_NAMES
from psg4d_ros.model.language_model import LanguageModel
from psg4d_ros.model.mask_decoder import MaskDecoder, MaskOutput
from psg4d_ros.model.projector import Projector
from psg4d_ros.model.proposals import Choose, Proposals
from psg4d_ros.model.relation_head import RelationHead
from psg4d_ros.model.sparse_encoder import SparseEncoder, pool_tokens
from psg4d_ros.model.temporal import TemporalAggregator, select_tokens
from psg4d_ros.structures import VoxelGrid
from psg4d_ros.vocabulary import Vocabulary
from psg4d_ros.voxelize import FEATURE_NAMES


@dataclass(frozen=True, eq=False)
class WindowTokens:
    """The cached features of F frames, side by side.

    Positions are those of ``window_positions``.

    tokens: [S, C] aggregated scene tokens, positions [S, 4]. mid: [K, C_mid] second-level voxels, mid_positions [K, 4].
    fine: [V, C_fine] finest voxels of all frames in order, fine_positions [V, 4]. Tokens and second-level voxels are
    what is attended to, sampled to a number that the configuration fixes; masks cover all voxels. proposals: the
    objects that slots start from.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    mid: torch.Tensor
    mid_positions: torch.Tensor
    fine: torch.Tensor
    fine_positions: torch.Tensor
    proposals: Proposals


def window_positions(centers: torch.Tensor, times_s: torch.Tensor, middle: torch.Tensor) -> torch.Tensor:
    """float32[N, 4] (x, y, z, t) of rows of a window, in inference and in training.

    centers: float32[N, 3] relative to Window.origin. times_s: float32[N] seconds <= 0 relative to the newest frame.
    middle: float32[3], the mean centre of the window's finest voxels. x and y are metres across from it, so that a
    robot which drives far stays within what training saw; z stays as it is, since height has a meaning.
    """
    return torch.cat([centers[:, :2] - middle[:2], centers[:, 2:], times_s[:, None]], dim=1)


class PSG4D(nn.Module):
    """All trained parts, and the language model they talk to."""

    def __init__(self, config: ModelConfig, vocabulary: Vocabulary, language_model: LanguageModel) -> None:
        super().__init__()
        self.config = config
        self.vocabulary = vocabulary
        channels, hidden = config.encoder.channels, language_model.hidden_size
        self.encoder = SparseEncoder(config.encoder, len(FEATURE_NAMES))
        self.temporal = TemporalAggregator(channels[-1])
        self.projector = Projector(channels[-1], hidden, language_model.token_rms)
        self.decoder = MaskDecoder(config.decoder, channels[0], channels[1], channels[-1], hidden, hidden)
        self.chain = SceneChain(
            language_model,
            num_slots=config.decoder.num_slots,
            num_proposals=config.decoder.proposals,
            num_geometry=len(GEOMETRY_NAMES),
            num_motion=len(MOTION_NAMES),
            slot_state_dim=config.decoder.dim,
            chained=config.chained,
        )
        self.relation_head = RelationHead(hidden, len(GEOMETRY_NAMES), len(MOTION_NAMES))
        self._start_without_depth()

    @torch.no_grad()
    def _start_without_depth(self) -> None:
        """Images teach nothing about depth: its weights start at zero, so that what they teach holds in space too."""
        for first in (self.chain.pair_embedding.geometry[0], self.relation_head.geometry[0]):
            assert isinstance(first, nn.Linear)
            before = first.in_features - len(GEOMETRY_NAMES)
            first.weight[:, [before + column for column in DEPTH_COLUMNS]] = 0.0

    @property
    def device(self) -> torch.device:
        return next(self.encoder.parameters()).device

    @property
    def language_model(self) -> LanguageModel:
        return self.chain.language_model

    def switch(self, wanted: ModelConfig) -> None:
        """Turn on the ablations of ``wanted``, in place; the shape stays, and so does what is ablated already."""
        config = switched(self.config, wanted)
        self.config, self.decoder.config, self.chain.chained = config, config.decoder, config.chained

    def trained_state(self) -> dict[str, torch.Tensor]:
        """The tensors a checkpoint holds: everything but the base language model's."""
        base = {f"chain.language_model.{name}" for name in self.language_model.base_state_names()}
        return {name: tensor for name, tensor in self.state_dict().items() if name not in base}

    def frame_features(
        self,
        grid: VoxelGrid,
        centers: list[torch.Tensor],
        fine: torch.Tensor,
        mid: torch.Tensor,
        coarse: torch.Tensor,
        stamp_ns: int,
    ) -> FrameFeatures:
        """What is cached of a frame. centers: per level float32[V_l, 3]; fine, mid, coarse: the encoder's outputs."""
        tokens, token_centers, _ = pool_tokens(coarse, centers[-1], self.config.encoder.token_cell_m)
        return FrameFeatures(
            fine=fine,
            fine_centers=centers[0],
            point_voxel=grid.point_voxel,
            mid=mid,
            mid_centers=centers[1],
            tokens=tokens,
            token_centers=token_centers,
            stamp_ns=stamp_ns,
            truncated=grid.truncated,
        )

    def gather(self, frames: list[FrameFeatures], choose: Choose | None = None) -> WindowTokens:
        """Put F frames, not all of them empty, side by side, cap their number, and let tokens attend over time.

        choose: see ProposalHead.
        """
        newest = frames[-1].stamp_ns
        middle = torch.cat([f.fine_centers for f in frames]).mean(dim=0)

        def positions(centers: list[torch.Tensor]) -> torch.Tensor:
            ages = [(f.stamp_ns - newest) * 1e-9 for f in frames]
            times = [c.new_full((len(c),), age) for c, age in zip(centers, ages, strict=True)]
            return window_positions(torch.cat(centers), torch.cat(times), middle)

        tokens = torch.cat([f.tokens for f in frames])
        token_positions = positions([f.token_centers for f in frames])
        tokens, token_positions = select_tokens(tokens, token_positions, self.config.language_model.max_scene_tokens)
        mid = torch.cat([f.mid for f in frames])
        mid_positions = positions([f.mid_centers for f in frames])
        mid, mid_positions = select_tokens(mid, mid_positions, self.config.decoder.max_keys)
        fine = torch.cat([f.fine for f in frames])
        fine_positions = positions([f.fine_centers for f in frames])
        tokens = self.temporal(tokens, token_positions)
        proposals = self.decoder.propose(mid, mid_positions, choose)
        return WindowTokens(tokens, token_positions, mid, mid_positions, fine, fine_positions, proposals)

    def decode_masks(self, slot_hidden: torch.Tensor | None, window: WindowTokens) -> MaskOutput:
        """One mask tube per slot over all fine voxels of the window. slot_hidden: [Q, H] or None."""
        w = window
        return self.decoder(
            slot_hidden, w.proposals, w.tokens, w.positions, w.mid, w.mid_positions, w.fine, w.fine_positions
        )
