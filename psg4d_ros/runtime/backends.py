"""What runs the encoder and the mask decoder. ``torch`` is the reference; others must agree with it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

import torch

from psg4d_ros.config import InferenceConfig, WindowConfig
from psg4d_ros.errors import ConfigError
from psg4d_ros.model.features import FrameFeatures
from psg4d_ros.model.mask_decoder import MaskOutput
from psg4d_ros.model.psg4d import PSG4D, WindowTokens
from psg4d_ros.runtime.rulebook import Rulebook
from psg4d_ros.structures import VoxelGrid

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SizeLimits:
    """The largest sizes that memory is reserved for. max_voxels: of a frame; num_frames: of a window."""

    max_voxels: int = InferenceConfig.max_voxels
    num_frames: int = WindowConfig.num_frames


_USUAL_LIMITS = SizeLimits()


class Backend(Protocol):
    """Runs the two parts of the model that are exported; the language model always runs through transformers."""

    device: torch.device

    @property
    def name(self) -> str:
        """Of what does the work."""
        ...

    @property
    def problem(self) -> str:
        """Why it is not what was asked for; empty when it is."""
        ...

    def encode(self, grid: VoxelGrid, rulebook: Rulebook, stamp_ns: int) -> FrameFeatures:
        """Sparse encoder over one frame."""
        ...

    def decode_masks(self, slot_hidden: torch.Tensor | None, tokens: WindowTokens) -> MaskOutput:
        """Mask decoder over one window. slot_hidden: [Q, H], or None without the language model."""
        ...


class TorchBackend:
    """Eager torch, on any device."""

    name = "torch"
    problem = ""

    def __init__(self, model: PSG4D) -> None:
        self.model = model
        self.device = model.device

    def encode(self, grid: VoxelGrid, rulebook: Rulebook, stamp_ns: int) -> FrameFeatures:
        below = rulebook.levels[1:]
        fine, mid, coarse = self.model.encoder(
            grid.features,
            [level.neighbours for level in rulebook.levels],
            [level.children for level in below],
            [level.parent for level in below],
            [level.cell for level in below],
        )
        return self.model.frame_features(grid, rulebook_centers(grid, rulebook), fine, mid, coarse, stamp_ns)

    def decode_masks(self, slot_hidden: torch.Tensor | None, tokens: WindowTokens) -> MaskOutput:
        return self.model.decode_masks(slot_hidden, tokens)


def rulebook_centers(grid: VoxelGrid, rulebook: Rulebook) -> list[torch.Tensor]:
    """Centre of each voxel per level, float32[V_l, 3], metres relative to the epoch's origin.

    Level 0 has the mean point of each voxel; coarser levels have the middle of the cell.
    """
    centers = [grid.centers]
    for number, level in enumerate(rulebook.levels[1:], start=1):
        centers.append((level.coords.to(grid.centers.dtype) + 0.5) * (grid.voxel_size_m * 2**number))
    return centers


def make_backend(
    name: str, model: PSG4D, limits: SizeLimits = _USUAL_LIMITS, *, precision: str = "fp16", wait: bool = True
) -> Backend:
    """The backend of that name. ``auto``: torch on a GPU; on a CPU onnxruntime, and torch where that cannot run.

    limits, precision and wait are about engines, see TensorRTBackend. Raises ConfigError for an unknown name, and, for
    ``onnxruntime`` by name, what OnnxBackend raises.
    """
    if name == "auto":
        return _usual(model)
    if name == "torch":
        return TorchBackend(model)
    if name == "onnxruntime":
        from psg4d_ros.runtime.onnx_backend import OnnxBackend

        return OnnxBackend(model)
    if name == "tensorrt":
        from psg4d_ros.runtime.tensorrt_backend import TensorRTBackend

        fallback = make_backend("auto", model)
        return TensorRTBackend(model, fallback, limits, precision=precision, wait=wait)
    raise ConfigError(f"inference.backend is {name!r}, expected auto, torch, onnxruntime or tensorrt")


def _usual(model: PSG4D) -> Backend:
    if model.device.type == "cpu":
        try:
            from psg4d_ros.runtime.onnx_backend import OnnxBackend

            return OnnxBackend(model)
        except Exception as error:  # a package that is missing or does not import, a cache, a graph: torch needs none
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            log.warning("encoder and mask decoder run on torch, not on onnxruntime, which is faster: %s", reason)
    return TorchBackend(model)
