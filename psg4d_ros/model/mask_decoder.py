"""Mask decoder: one mask tube per slot over the voxels of all frames of a window.

Queries, moved by the language model's slot states, look at scene tokens and second-level voxels through masked
cross-attention, and each ends in a mask over the finest voxels, a presence score and an embedding to be named by. The
first queries are learned and free to be anything, floors and walls above all; the last start from object proposals and
take in what votes for their place (see proposals.py).
Windows of equal sizes go through in one call: [*, N, C] below stands for any leading batch dimensions, none included.
No step depends on data in Python, and any number of tokens, keys and voxels (0 included) runs through the same graph.
With ``config.boxes`` (an ablation) queries end in boxes instead, and what lies in its box is a slot's "mask".
After the ideas of "Learning 4D Panoptic Scene Graph Generation from Rich 2D Visual Scene" (2025) and of
"Masked-attention Mask Transformer for Universal Image Segmentation" (2022).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from psg4d_ros.config import DecoderConfig
from psg4d_ros.errors import ConfigError
from psg4d_ros.model.box_head import ROOM_ANCHOR, BoxHead, box_logits, locality_logits
from psg4d_ros.model.position import FourierPosition
from psg4d_ros.model.proposals import Choose, ProposalHead, Proposals, of_slots

# How much of the language model's slot state enters a query before training.
_INITIAL_GATE = 0.1
# Few slots are present and few voxels belong to each, so an untrained model starts below one half in both.
_INITIAL_PRESENCE_LOGIT = -0.5
_INITIAL_MASK_LOGIT = -1.0
_INITIAL_MASK_SCALE = 1.5
# A voxel that votes for a point one half size off its box's middle is in doubt.
_INITIAL_SHARPNESS = 2.0
_VOTE_HIDDEN = 64
# What a voxel gives to its slot's class is its mask probability to this power. With the probability itself, the 40,000
# voxels of a room that a mask rejects at 0.02 each outweigh the 20 of the cup that it holds; so, they weigh 0.006.
_POOL_POWER = 4
# Added to the attention scores of masked keys: zero after the softmax, and finite in half precision.
_MASKED = -1e4


class LayerOutput(NamedTuple):
    """What one decoder layer says; all layers are supervised in training.

    mask_logits [*, Q, V] over the finest voxels. key_mask_logits [*, Q, K] over the second-level keys: they steer the
    next layer's attention, which passes no gradient, so they need a loss of their own. presence_logits [*, Q].
    class_embeddings [*, Q, phrase_dim]. boxes float32[*, Q, 9], see box_head.py, where the decoder makes boxes: then
    the masks are what lies in them.
    """

    mask_logits: Tensor
    key_mask_logits: Tensor
    presence_logits: Tensor
    class_embeddings: Tensor
    boxes: Tensor | None = None


class MaskOutput(NamedTuple):
    """Result of the mask decoder; the fields of LayerOutput are those of the last layer.

    slot_states [*, Q, dim]: final query states. aux: outputs of the earlier layers, first = before any layer; filled
    while the module is in training mode, else empty.
    """

    mask_logits: Tensor
    presence_logits: Tensor
    slot_states: Tensor
    class_embeddings: Tensor
    key_mask_logits: Tensor
    aux: tuple[LayerOutput, ...] = ()
    boxes: Tensor | None = None

    def last(self) -> LayerOutput:
        """The last layer's."""
        return LayerOutput(
            self.mask_logits, self.key_mask_logits, self.presence_logits, self.class_embeddings, self.boxes
        )


class Attention(nn.Module):
    """Multi-head attention of queries [*, Q, D] over N >= 1 keys [*, N, D], written out to export as plain products."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """query [*, Q, D], key and value [*, N, D], bias [*, Q, N] added to the scores of every head -> [*, Q, D]."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(-3, -2)
            for layer, x in ((self.query, query), (self.key, key), (self.value, value))
        )
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        if bias is not None:
            scores = scores + bias.unsqueeze(-3)
        mixed: Tensor = scores.softmax(dim=-1) @ v
        return self.out(mixed.transpose(-3, -2).flatten(-2))


class _Region(NamedTuple):
    """What slots claim: boxes float32[*, Q, 9]; mask queries [*, Q, dim], None where boxes stand in place of masks."""

    boxes: Tensor
    queries: Tensor | None


class _Ground(NamedTuple):
    """Voxels as regions are compared with them: positions float32[*, V, 4], mask features [*, V, dim] (None where boxes
    stand in place of masks), votes float32[*, V, 4] middle and time."""

    positions: Tensor
    features: Tensor | None
    votes: Tensor


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward; each normalised after its residual."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.cross = Attention(dim, heads)
        self.cross_norm = nn.LayerNorm(dim)
        self.itself = Attention(dim, heads)
        self.itself_norm = nn.LayerNorm(dim)
        self.feed = nn.Sequential(nn.Linear(dim, 4 * dim), nn.ReLU(), nn.Linear(4 * dim, dim))
        self.feed_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, place: Tensor, keys: Tensor, bias: Tensor) -> Tensor:
        """x [*, Q, D] query states, place [*, Q, D] their positions; keys [*, N, D]; bias [*, Q, N] -> [*, Q, D]."""
        x = self.cross_norm(x + self.cross(x + place, keys, keys, bias))
        x = self.itself_norm(x + self.itself(x + place, x + place, x))
        return self.feed_norm(x + self.feed(x))


class MaskDecoder(nn.Module):
    """See the module's text. Raises ConfigError when ``config.heads`` does not divide ``config.dim``, or there are more
    proposals than slots.

    fine_dim, mid_dim, token_dim: channels of the encoder's outputs. slot_dim: width of the language model's hidden
    states. phrase_dim: width of the phrase embeddings that slots are named with.
    """

    anchors: Tensor

    def __init__(
        self, config: DecoderConfig, fine_dim: int, mid_dim: int, token_dim: int, slot_dim: int, phrase_dim: int
    ) -> None:
        super().__init__()
        dim = config.dim
        if dim % config.heads:
            raise ConfigError(f"decoder.dim is {dim}, expected a multiple of decoder.heads = {config.heads}")
        if config.proposals > config.num_slots:
            raise ConfigError(
                f"decoder.proposals is {config.proposals}, more than decoder.num_slots = {config.num_slots}"
            )
        self.config = config
        self.position = FourierPosition()
        self.proposal_head = ProposalHead(mid_dim, dim, config.proposals)
        # One row for each query that is free, and one that all those share which start from proposals.
        free = config.num_slots - config.proposals
        self.queries = nn.Parameter(torch.randn(free + 1, dim))
        self.places = nn.Parameter(torch.randn(free + 1, dim))
        self.slot_in = nn.Sequential(nn.LayerNorm(slot_dim), nn.Linear(slot_dim, dim))
        self.slot_gate = nn.Parameter(torch.tensor(_INITIAL_GATE))
        self.token_norm = nn.LayerNorm(token_dim)
        self.token_in = nn.Linear(token_dim + FourierPosition.size, dim)
        self.mid_norm = nn.LayerNorm(mid_dim)
        self.mid_in = nn.Linear(mid_dim + FourierPosition.size, dim)
        # A key that is always there: attention stays defined in an empty scene, and a query can look at nothing.
        self.sink = nn.Parameter(torch.randn(1, dim))
        self.key_norm = nn.LayerNorm(dim)
        self.fine_norm = nn.LayerNorm(fine_dim)
        self.mask_features = _mlp(fine_dim + FourierPosition.size, dim, dim)
        self.key_mask_features = _mlp(dim, dim, dim)
        self.layers = nn.ModuleList(DecoderLayer(dim, config.heads) for _ in range(config.layers))
        self.query_norm = nn.LayerNorm(dim)
        self.mask_query = _mlp(dim, dim, dim)
        self.mask_scale = nn.Parameter(torch.tensor(_INITIAL_MASK_SCALE))
        self.mask_bias = nn.Parameter(torch.tensor(_INITIAL_MASK_LOGIT))
        self.vote = _mlp(fine_dim, _VOTE_HIDDEN, 3)
        self.sharpness = nn.Parameter(torch.tensor(_INITIAL_SHARPNESS))
        self.box_head = BoxHead(dim)
        anchors = torch.tensor(ROOM_ANCHOR).expand(free, -1)
        self.register_buffer("anchors", anchors.clone(), persistent=False)
        self.presence = nn.Linear(dim, 1)
        nn.init.constant_(self.presence.bias, _INITIAL_PRESENCE_LOGIT)
        self.class_out = _mlp(dim + fine_dim + mid_dim, 2 * dim, phrase_dim)

    def propose(self, mid: Tensor, mid_positions: Tensor, choose: Choose | None = None) -> Proposals:
        """The objects that the last slots start from. mid, mid_positions: as ``forward`` takes them. choose: see
        ProposalHead."""
        proposals: Proposals = self.proposal_head(mid, mid_positions, choose)
        return proposals

    def fine_offsets(self, fine: Tensor) -> Tensor:
        """float32[*, V, 3]: from finest voxels [*, V, fine_dim] to the middles of their objects, metres."""
        offsets: Tensor = self.vote(self.fine_norm(fine)).float()
        return offsets

    def forward(
        self,
        slot_hidden: Tensor | None,
        proposals: Proposals,
        tokens: Tensor,
        token_positions: Tensor,
        mid: Tensor,
        mid_positions: Tensor,
        fine: Tensor,
        fine_positions: Tensor,
    ) -> MaskOutput:
        """Decode one window, or several of equal S, K and V.

        slot_hidden [*, Q, slot_dim], or None to run without the language model; without ``config.reads_slots`` it is
        not looked at. proposals: those of ``propose``. tokens [*, S, token_dim], mid [*, K, mid_dim] (keys) and fine
        [*, V, fine_dim], each with positions float32[*, ., 4]: x, y, z metres in the core frame's axes and t seconds
        relative to the newest frame.
        """
        dtype, batch = self.queries.dtype, fine.shape[:-2]
        key_offsets = self.proposal_head.vote(mid).offset
        tokens, mid, fine = self.token_norm(tokens), self.mid_norm(mid), self.fine_norm(fine)
        token_keys = self.token_in(torch.cat((tokens, self.position(token_positions, dtype)), dim=-1))
        mid_keys = self.mid_in(torch.cat((mid, self.position(mid_positions, dtype)), dim=-1))
        keys = self.key_norm(torch.cat((self.sink.expand(*batch, 1, -1), token_keys, mid_keys), dim=-2))
        own = (
            None
            if self.config.boxes
            else self.mask_features(torch.cat((fine, self.position(fine_positions, dtype)), -1))
        )
        fine_ground = _ground(fine_positions, own, self.vote(fine))
        own = None if self.config.boxes else self.key_mask_features(mid_keys)
        key_ground = _ground(mid_positions, own, key_offsets)
        always_open = keys.new_zeros(self.config.num_slots, 1).expand(*batch, -1, 1 + tokens.shape[-2])
        anchors = torch.cat((self.anchors.float().expand(*batch, -1, -1), proposals.anchors), dim=-2)

        free = proposals.states.new_zeros(*batch, len(self.anchors), self.config.dim)
        started = torch.cat((free, proposals.states), dim=-2)
        x, places = (of_slots(rows, self.config.num_slots) + started for rows in (self.queries, self.places))
        if slot_hidden is not None and self.config.reads_slots:
            x = x + self.slot_gate * self.slot_in(slot_hidden)
        aux: list[LayerOutput] = []
        for layer in self.layers:
            state = self.query_norm(x)
            region = self._region(state, anchors)
            key_logits = self._region_logits(region, key_ground)
            if self.training:
                masks = self._region_logits(region, fine_ground)
                aux.append(self._outputs(state, masks, key_logits, fine, mid, region))
            # Scene tokens and the sink carry the whole scene and stay open; voxels outside the slot's mask are closed.
            bias = torch.cat((always_open, _attention_bias(key_logits.detach())), dim=-1)
            x = layer(x, places, keys, bias)
        state = self.query_norm(x)
        region = self._region(state, anchors)
        key_logits = self._region_logits(region, key_ground)
        last = self._outputs(state, self._region_logits(region, fine_ground), key_logits, fine, mid, region)
        return MaskOutput(
            last.mask_logits, last.presence_logits, state, last.class_embeddings, key_logits, tuple(aux), last.boxes
        )

    def embed_regions(self, states: Tensor, fine: Tensor, fine_share: Tensor, mid: Tensor, mid_share: Tensor) -> Tensor:
        """Class embeddings [*, P, phrase_dim] of regions from elsewhere, made as ``forward`` makes its slots'.

        states [*, P, dim]: in place of query states. fine [*, V, fine_dim], mid [*, K, mid_dim]: features as
        ``forward`` takes them. fine_share [*, P, V], mid_share [*, P, K]: float32, how much of each belongs to each
        region; features are averaged with these weights as they are.
        """
        return self._embed(states, fine_share, self.fine_norm(fine), mid_share, self.mid_norm(mid))

    def _embed(self, state: Tensor, fine_share: Tensor, fine: Tensor, mid_share: Tensor, mid: Tensor) -> Tensor:
        # The mask says where the object is and the pooled features what is there: class evidence from its own voxels.
        embeddings: Tensor = self.class_out(torch.cat((state, _pool(fine_share, fine), _pool(mid_share, mid)), dim=-1))
        return embeddings

    def _region(self, state: Tensor, anchors: Tensor) -> _Region:
        """Mask queries are scaled so that products with unit mask features are logits of a few units, in any
        precision."""
        boxes = self.box_head(state, anchors)
        if self.config.boxes:
            return _Region(boxes, None)
        return _Region(boxes, _unit(self.mask_query(state)) * (self.mask_scale / math.sqrt(state.shape[-1])))

    def _region_logits(self, region: _Region, ground: _Ground) -> Tensor:
        """[*, Q, V]: what each slot takes of the voxels."""
        if region.queries is None or ground.features is None:
            return box_logits(region.boxes, ground.positions)
        logits = region.queries @ ground.features.transpose(-2, -1) + self.mask_bias
        free = len(self.anchors)
        near = locality_logits(region.boxes[..., free:, :], ground.votes, self.sharpness.float()).to(logits.dtype)
        return torch.cat((logits[..., :free, :], logits[..., free:, :] + near), dim=-2)

    def _outputs(
        self,
        state: Tensor,
        mask_logits: Tensor,
        key_logits: Tensor,
        fine: Tensor,
        mid: Tensor,
        region: _Region | None = None,
    ) -> LayerOutput:
        fine_share, mid_share = (logits.float().sigmoid() ** _POOL_POWER for logits in (mask_logits, key_logits))
        embeddings = self._embed(state, fine_share, fine, mid_share, mid)
        boxes = region.boxes if region is not None and self.config.boxes else None
        return LayerOutput(mask_logits, key_logits, self.presence(state)[..., 0], embeddings, boxes)


def _mlp(in_dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, out_dim))


def _ground(positions: Tensor, features: Tensor | None, offset: Tensor) -> _Ground:
    votes = torch.cat((positions[..., :3] + offset.float(), positions[..., 3:]), dim=-1)
    return _Ground(positions, None if features is None else _unit(features), votes)


def _unit(x: Tensor) -> Tensor:
    """Rows with mean 0 and variance 1: bounds the mask logits, so that half precision cannot overflow."""
    return F.layer_norm(x, (x.shape[-1],))


def _attention_bias(key_logits: Tensor) -> Tensor:
    """[*, Q, K] 0 where the slot's mask holds the key (probability above 1/2), else closed; an empty mask opens all."""
    held = key_logits > 0
    empty = held.float().sum(dim=-1, keepdim=True) == 0
    return torch.where(held | empty, 0.0, _MASKED).to(key_logits.dtype)


def _pool(share: Tensor, features: Tensor) -> Tensor:
    """Mean of features [*, V, C] weighted by float32[*, Q, V] -> [*, Q, C]; zeros for none. In float32: V is large."""
    mean = (share @ features.float()) / (share.sum(dim=-1, keepdim=True) + 1e-6)
    return mean.to(features.dtype)
