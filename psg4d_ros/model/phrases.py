"""Vectors of words and phrases, from the lower layers of the language model.

A phrase is read as "a photo of a <phrase>"; the states of its own tokens after a quarter of the layers are averaged,
and each dimension is standardised over a fixed set of words (a few dimensions are far larger than the rest). Layer,
carrier and average were chosen by how often a synonym (couch, sofa) lies nearest to its word, which
test_language_model.py checks. The words before the phrase are needed: the state of a text's first token tells of its
position more than of the word.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from psg4d_ros.errors import ConfigError

_CARRIER = "a photo of a"
_DEPTH = 8 / 30
_BATCH = 64
# Vectors are standardised over these words. Checkpoints depend on them: changing one makes every trained head wrong.
_REFERENCE = """
person, dog, chair, table, sofa, bed, door, window, lamp, book, bottle, cup, plate, knife, box, bag, shoe, ball,
phone, computer, screen, plant, tree, car, bicycle, bus, boat, floor, wall, ceiling, road, grass, water, building, on,
under, next to, behind, in front of, inside, holding, sitting on, standing on, walking to, looking at, pushing,
opening, wearing, red, white, large, open
"""


class PhraseEncoder:
    """The lower layers of a base model, without adapters, sharing its weights."""

    def __init__(self, base: Any, encode: Callable[[str], list[int]]) -> None:
        """base: a transformers causal language model. encode: text -> token ids, markers spelt out."""
        decoder = base.get_decoder()
        depth = max(1, round(len(decoder.layers) * _DEPTH))
        # Copies of the module objects around the same tensors: nothing here can change the base model or be changed by
        # adapters that are put into it, and two threads may use both.
        shared = {id(t): t for t in (*decoder.parameters(), *decoder.buffers())}
        others = {id(layer): nn.Identity() for layer in decoder.layers[depth:]}
        self._decoder = copy.deepcopy(decoder, {**shared, **others})
        self._decoder.layers = self._decoder.layers[:depth]
        self._decoder.norm = nn.Identity()
        for module in list(self._decoder.modules()):
            for name, child in list(module.named_children()):
                if hasattr(child, "adapter_a"):
                    setattr(module, name, child.base)
        self._weight = decoder.get_input_embeddings().weight
        self._kind = self._weight.device, self._weight.dtype
        self._encode = encode
        self._carrier = encode(_CARRIER)
        self._scale: tuple[Tensor, Tensor] | None = None

    def serves(self, base: Any) -> bool:
        """Whether the weights are still those of ``base``, where and in the type they were."""
        weight = base.get_decoder().get_input_embeddings().weight
        return weight is self._weight and (weight.device, weight.dtype) == self._kind

    def __call__(self, phrases: Sequence[str]) -> Tensor:
        """float32[n, H], each row of unit root mean square. Raises ConfigError for a phrase without any text."""
        if self._scale is None:
            reference = self._states(" ".join(_REFERENCE.split()).split(", "))
            self._scale = reference.mean(dim=0), reference.std(dim=0).clamp_min(1e-6)
        mean, deviation = self._scale
        standard = (self._states(phrases) - mean) / deviation
        return standard / standard.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-12)

    @torch.no_grad()
    def _states(self, phrases: Sequence[str]) -> Tensor:
        by_length: dict[int, list[tuple[int, list[int]]]] = {}
        for i, phrase in enumerate(phrases):
            if not phrase.strip():
                raise ConfigError(f"phrase {phrase!r} is empty; give a word")
            ids = self._encode(" " + phrase)
            by_length.setdefault(len(ids), []).append((i, ids))
        out: list[Tensor] = [torch.empty(0)] * len(phrases)
        device = self._weight.device
        # Phrases of one length go together, so that no padding is needed.
        for length, entries in by_length.items():
            for start in range(0, len(entries), _BATCH):
                part = entries[start : start + _BATCH]
                table = torch.tensor([self._carrier + tokens for _, tokens in part], device=device)
                hidden = self._decoder(input_ids=table, use_cache=False).last_hidden_state
                mean = hidden[:, -length:].float().mean(dim=1)
                for (i, _), row in zip(part, mean, strict=True):
                    out[i] = row
        return torch.stack(out)
