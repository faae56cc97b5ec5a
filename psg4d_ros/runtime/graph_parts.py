"""The parts of a model that become graphs, and inputs to try them with.

Encoder and mask decoder are called with a flat list of tensors, in the order of their graphs' inputs. What a window
needs besides (proposals, aggregator, projector, language model) stays in torch.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from psg4d_ros.config import to_dict
from psg4d_ros.model.mask_decoder import MaskDecoder, MaskOutput
from psg4d_ros.model.proposals import Proposals
from psg4d_ros.model.psg4d import PSG4D, WindowTokens
from psg4d_ros.model.sparse_encoder import SparseEncoder
from psg4d_ros.runtime.rulebook import Rulebook, build_rulebook

PARTS = ("encoder", "mask_decoder")
# In samples: so many finest voxels come to one second-level voxel, and to one scene token.
_VOXELS_PER_KEY, _VOXELS_PER_TOKEN = 4, 200


@dataclass(frozen=True, eq=False)
class GraphPart:
    """One part, on the CPU, in float32 and evaluation mode.

    module: list of tensors in, tuple of tensors out. inputs: name -> its dynamic dimensions, number -> name.
    sample: inputs of about a given number of voxels, all floating-point numbers exact in half precision where they are
    features; the same for the same number.
    """

    name: str
    module: nn.Module
    inputs: dict[str, dict[int, str]]
    outputs: tuple[str, ...]
    sample: Callable[[int], list[Tensor]]

    def weights_sha256(self) -> str:
        """Names the weights and the configuration they belong to: what decides about the graph besides the code."""
        digest = hashlib.sha256(self.name.encode())
        for child in self.module.children():
            digest.update(json.dumps(to_dict(child.config), sort_keys=True).encode())
        for name, tensor in sorted(self.module.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()


def graph_parts(model: PSG4D) -> tuple[GraphPart, ...]:
    """Encoder and mask decoder, as copies: the model stays as it is."""
    encoder, decoder = copy.deepcopy(model.encoder), copy.deepcopy(model.decoder)
    return _encoder_part(encoder.float().cpu().eval()), _decoder_part(decoder.float().cpu().eval())


class EncoderGraph(nn.Module):
    """The sparse encoder over ``encoder_inputs``."""

    def __init__(self, encoder: SparseEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, tensors: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        levels, below = self.encoder.num_levels, self.encoder.num_levels - 1
        features, *tables = tensors
        neighbours, tables = tables[:levels], tables[levels:]
        return self.encoder(features, neighbours, tables[:below], tables[below : 2 * below], tables[2 * below :])


class DecoderGraph(nn.Module):
    """The mask decoder over ``decoder_inputs``, with and without slot states in one graph.

    Slot states enter through a learned gate. Without the language model the gate is shut: what comes through is exactly
    zero, as if nothing had been added. A second graph would have held the same weights once more, on the disk, in
    memory and in every engine.
    """

    def __init__(self, decoder: MaskDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, tensors: list[Tensor]) -> tuple[Tensor, ...]:
        slot_hidden, with_slots, states, anchors, *window = tensors
        gate = {"slot_gate": self.decoder.slot_gate * with_slots}
        out: MaskOutput = torch.func.functional_call(
            self.decoder, gate, (slot_hidden, Proposals(states, anchors), *window)
        )
        tensors = [getattr(out, name) for name in decoder_outputs(self.decoder)]
        return tuple(tensors)


def encoder_inputs(features: Tensor, rulebook: Rulebook) -> list[Tensor]:
    """Features [V_0, C]; then, finest first, all levels' neighbours, children, parents and cells (see Level)."""
    levels, below = rulebook.levels, rulebook.levels[1:]
    tables = [level.neighbours for level in levels]
    for name in ("children", "parent", "cell"):
        tables += [getattr(level, name) for level in below]
    return [features, *tables]


def decoder_inputs(slot_hidden: Tensor | None, window: WindowTokens, slot_shape: tuple[int, int]) -> list[Tensor]:
    """Slot states [Q, H] (zeros where there are none), a number that is 1 with and 0 without them, proposals, window.

    slot_shape: (Q, H).
    """
    w = window
    slots = w.tokens.new_zeros(slot_shape) if slot_hidden is None else slot_hidden
    switch = slots.new_tensor(0.0 if slot_hidden is None else 1.0)
    places = (w.tokens, w.positions, w.mid, w.mid_positions, w.fine, w.fine_positions)
    return [slots, switch, w.proposals.states, w.proposals.anchors, *places]


def decoder_outputs(decoder: MaskDecoder) -> tuple[str, ...]:
    """Fields of MaskOutput that the graph of this decoder has."""
    names = ("mask_logits", "presence_logits", "slot_states", "class_embeddings", "key_mask_logits")
    return (*names, "boxes") if decoder.config.boxes else names


def slot_shape(decoder: MaskDecoder) -> tuple[int, int]:
    """(Q, H) of the slot states that a decoder reads."""
    norm = decoder.slot_in[0]
    assert isinstance(norm, nn.LayerNorm)
    return decoder.config.num_slots, norm.normalized_shape[0]


def _encoder_part(encoder: SparseEncoder) -> GraphPart:
    levels = encoder.num_levels
    inputs = {"features": {0: "V0"}}
    inputs |= {f"neighbours_{level}": {0: f"V{level}"} for level in range(levels)}
    inputs |= {f"children_{level}": {0: f"V{level}"} for level in range(1, levels)}
    inputs |= {f"{name}_{level}": {0: f"V{level}"} for name in ("parent", "cell") for level in range(levels - 1)}
    channels = encoder.stem.weight.shape[1]

    def sample(voxels: int) -> list[Tensor]:
        features = _normal(torch.Generator().manual_seed(voxels), voxels, channels)
        return encoder_inputs(features, build_rulebook(_surface(voxels), levels))

    return GraphPart("encoder", EncoderGraph(encoder), inputs, ("fine", "mid", "coarse"), sample)


def _decoder_part(decoder: MaskDecoder) -> GraphPart:
    inputs: dict[str, dict[int, str]] = {name: {} for name in ("slot_hidden", "with_slots", "states", "anchors")}
    for name, rows in (("tokens", "S"), ("mid", "K"), ("fine", "V")):
        inputs |= {name: {0: rows}, f"{name}_positions": {0: rows}}

    def sample(voxels: int) -> list[Tensor]:
        """An odd number of voxels comes without slot states."""
        generator = torch.Generator().manual_seed(voxels)
        places: list[Tensor] = []
        keys = min(-(-voxels // _VOXELS_PER_KEY), decoder.config.max_keys)
        rows = {"token": -(-voxels // _VOXELS_PER_TOKEN), "mid": keys, "fine": voxels}
        for name, count in rows.items():
            norm = getattr(decoder, f"{name}_norm")
            places += [_normal(generator, count, norm.normalized_shape[0]), _positions(generator, count)]
        with torch.no_grad():
            proposals = decoder.propose(places[2], places[3])
        states = proposals.states.half().float()
        slots = _normal(generator, *slot_shape(decoder))
        return [slots, torch.tensor(1.0 - voxels % 2), states, proposals.anchors, *places]

    return GraphPart("mask_decoder", DecoderGraph(decoder), inputs, decoder_outputs(decoder), sample)


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator).half().float()


def _positions(generator: torch.Generator, count: int) -> Tensor:
    """float32[count, 4] in a room of 8 x 8 x 2.5 m, over the last 2 s."""
    room = torch.tensor([8.0, 8.0, 2.5, -2.0])
    return (torch.rand(count, 4, generator=generator) - torch.tensor([0.5, 0.5, 0.0, 0.0])) * room


def _surface(voxels: int) -> Tensor:
    """int32[voxels, 3]: rolling ground; every voxel has neighbours on all sides and levels, and there are steps."""
    side = max(1, round(voxels**0.5))
    row = torch.arange(voxels)
    x, y = row // side - side // 2, row % side - side // 2
    return torch.stack([x, y, (3 * (x / 9).sin() + 3 * (y / 7).cos()).round().long()], dim=1).int()
