"""Frame cache: each frame is voxelised and encoded once, however many windows it is part of."""

from __future__ import annotations

from psg4d_ros.config import EncoderConfig, InferenceConfig
from psg4d_ros.model.features import FrameFeatures
from psg4d_ros.runtime.backends import Backend
from psg4d_ros.runtime.frames_ahead import FramesAhead, prepare_frame
from psg4d_ros.runtime.stages import StageClock
from psg4d_ros.structures import AlignedFrame, Window


class FrameCache:
    """Encoded frames of the newest window. Valid inside one epoch, since an epoch fixes the voxel origin.

    ahead: may be given windows by another thread before they come here, so that their frames are voxelised already.
    """

    def __init__(self, backend: Backend, config: EncoderConfig) -> None:
        self.backend = backend
        self.config = config
        self.ahead = FramesAhead(config, backend.device)
        self._epoch = -1
        self._features: dict[int, FrameFeatures] = {}
        self.encoded = 0  # frames encoded since the cache was last cleared

    def __len__(self) -> int:
        return len(self._features)

    def clear(self) -> None:
        """Forget all frames."""
        self._features.clear()
        self.ahead.clear()
        self.encoded = 0

    def features(self, window: Window, limits: InferenceConfig, clock: StageClock) -> list[FrameFeatures]:
        """Features of the window's frames, oldest first; encodes only those not seen before, within ``limits``."""
        if window.epoch != self._epoch:
            self._features.clear()
            self.encoded = 0
            self._epoch = window.epoch
        kept = {f.stamp_ns: self._features.get(f.stamp_ns) for f in window.frames}
        features = [kept[f.stamp_ns] or self._encode(f, window, limits, clock) for f in window.frames]
        # Frames that left the window are let go here, so memory is bounded by one window.
        self._features = {f.stamp_ns: feature for f, feature in zip(window.frames, features, strict=True)}
        return features

    def _encode(self, frame: AlignedFrame, window: Window, limits: InferenceConfig, clock: StageClock) -> FrameFeatures:
        prepared = self.ahead.take(window.epoch, frame.stamp_ns, limits)
        if prepared is None:
            with clock.stage("voxelize"):
                prepared = prepare_frame(frame, window.origin, self.config, limits, self.backend.device)
        with clock.stage("encode"):
            features = self.backend.encode(prepared.grid, prepared.rulebook, frame.stamp_ns)
        self.encoded += 1
        return features
