"""Voxels and tables of frames, made ahead of the encoder: in another thread, while an older window is worked on."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch

from psg4d_ros.config import EncoderConfig, InferenceConfig
from psg4d_ros.runtime.rulebook import Rulebook, build_rulebook
from psg4d_ros.structures import AlignedFrame, Float64, VoxelGrid, Window
from psg4d_ros.voxelize import voxelize


@dataclass(frozen=True, eq=False)
class PreparedFrame:
    """What the encoder reads of a frame. max_points, max_voxels: the limits it was made with."""

    grid: VoxelGrid
    rulebook: Rulebook
    max_points: int
    max_voxels: int


def prepare_frame(
    frame: AlignedFrame, origin: Float64, config: EncoderConfig, limits: InferenceConfig, device: torch.device
) -> PreparedFrame:
    """Voxelise a frame and build its tables. The same wherever and whenever it is called."""
    size, points, voxels = config.voxel_size_m, limits.max_points, limits.max_voxels
    grid = voxelize(frame, origin, size, voxels, device, max_points=points)
    return PreparedFrame(grid, build_rulebook(grid.coords, len(config.channels)), points, voxels)


class FramesAhead:
    """Frames that are prepared and wait for the encoder.

    One thread calls ``make`` and another one ``take``; what they share is a dict, whose single steps are atomic. What
    is not there, ``take`` does not wait for. On a GPU frames are made in a stream of their own.
    """

    def __init__(self, config: EncoderConfig, device: torch.device) -> None:
        self._config = config
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._made: dict[tuple[int, int], PreparedFrame] = {}  # by epoch and stamp
        self._newest = (-1, -1)  # what is not newer was made before

    def __len__(self) -> int:
        return len(self._made)

    def clear(self) -> None:
        """Forget all frames."""
        self._made.clear()
        self._newest = (-1, -1)

    @torch.inference_mode()
    def make(self, window: Window, limits: InferenceConfig) -> None:
        """Prepare the frames of a window that are newer than those of the last one, and forget those that left it."""
        keys = [(window.epoch, frame.stamp_ns) for frame in window.frames]
        for key in [key for key in list(self._made) if key not in keys]:
            self._made.pop(key, None)
        for key, frame in zip(keys, window.frames, strict=True):
            if key <= self._newest:
                continue
            with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
                prepared = prepare_frame(frame, window.origin, self._config, limits, self._device)
            if self._stream is not None:
                self._stream.synchronize()
            self._made[key] = prepared
            self._newest = key

    def take(self, epoch: int, stamp_ns: int, limits: InferenceConfig) -> PreparedFrame | None:
        """A frame that is there, once; None where it is not, or was made with other limits."""
        prepared = self._made.pop((epoch, stamp_ns), None)
        if prepared is None or (prepared.max_points, prepared.max_voxels) != (limits.max_points, limits.max_voxels):
            return None
        if self._stream is not None:
            _use_here(prepared)
        return prepared


def _use_here(prepared: PreparedFrame) -> None:
    """Keep the memory from being given out again before the stream that reads it is done with it."""
    stream = torch.cuda.current_stream(prepared.grid.coords.device)
    for owner in (prepared.grid, *prepared.rulebook.levels):
        for value in vars(owner).values():
            if isinstance(value, torch.Tensor):
                value.record_stream(stream)
