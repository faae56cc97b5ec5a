"""Encoder and mask decoder through onnxruntime on the CPU, from graphs that are exported once per checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from psg4d_ros.errors import ConfigError
from psg4d_ros.model.features import FrameFeatures
from psg4d_ros.model.mask_decoder import MaskOutput
from psg4d_ros.model.psg4d import PSG4D, WindowTokens
from psg4d_ros.runtime.backends import TorchBackend, rulebook_centers
from psg4d_ros.runtime.graph_cache import cached_graphs
from psg4d_ros.runtime.graph_parts import decoder_inputs, decoder_outputs, encoder_inputs, slot_shape
from psg4d_ros.runtime.onnx_graph import OnnxGraph, import_onnxruntime
from psg4d_ros.runtime.rulebook import Rulebook
from psg4d_ros.structures import VoxelGrid

# The graph gathers all 27 neighbours of a voxel, torch those that exist. With so many voxels that takes as long in
# onnxruntime as in torch, with more it takes longer, and four times the memory.
MOST_VOXELS = 20_000


class OnnxBackend:
    """The model's weights as they are now; what is trained or switched later does not reach it.

    Frames of more than MOST_VOXELS voxels are encoded by torch. cache: folder for the graphs, by default the user's.
    Raises ConfigError when the model is not on the CPU or onnxruntime is missing, ExportError when the graphs do not
    agree with torch.
    """

    name = "onnxruntime"
    problem = ""

    def __init__(self, model: PSG4D, cache: Path | None = None) -> None:
        import_onnxruntime()
        if model.device.type != "cpu":
            raise ConfigError(
                f"inference.backend onnxruntime runs on the CPU, the model is on {model.device}; "
                "set inference.device to cpu, or inference.backend to torch"
            )
        self.model = model
        self.device = model.device
        self._torch = TorchBackend(model)
        self._outputs = decoder_outputs(model.decoder)
        self._slots = slot_shape(model.decoder)
        with cached_graphs(model, cache) as folder:
            self._encoder = OnnxGraph(folder / "encoder.onnx")
            self._decoder = OnnxGraph(folder / "mask_decoder.onnx")

    def encode(self, grid: VoxelGrid, rulebook: Rulebook, stamp_ns: int) -> FrameFeatures:
        if len(grid.features) > MOST_VOXELS:
            return self._torch.encode(grid, rulebook, stamp_ns)
        fine, mid, coarse = self._encoder(encoder_inputs(grid.features, rulebook))
        return self.model.frame_features(grid, rulebook_centers(grid, rulebook), fine, mid, coarse, stamp_ns)

    def decode_masks(self, slot_hidden: torch.Tensor | None, tokens: WindowTokens) -> MaskOutput:
        tensors = self._decoder(decoder_inputs(slot_hidden, tokens, self._slots))
        fields: dict[str, Any] = dict(zip(self._outputs, tensors, strict=True))
        return MaskOutput(boxes=fields.pop("boxes", None), **fields)
