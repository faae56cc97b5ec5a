"""The sliding window: which clouds are kept, when a new epoch begins, and where its voxel origin lies.

Numpy only. State: the kept frames, the newest stamps, the epoch and the origin; ``reset()`` clears all of it.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

import numpy as np

from psg4d_ros.config import WindowConfig
from psg4d_ros.structures import AlignedFrame, Float64, Window

NS_PER_S = 1_000_000_000


class Admission(Enum):
    """What becomes of a cloud, judged by its stamp alone."""

    ACCEPT = "accept"
    NEW_EPOCH = "new_epoch"
    SKIPPED = "skipped"
    LATE = "late"
    DUPLICATE = "duplicate"

    @property
    def kept(self) -> bool:
        """True when the cloud goes on to alignment and ``push``."""
        return self in (Admission.ACCEPT, Admission.NEW_EPOCH)


class SlidingWindow:
    """Up to ``num_frames`` aligned frames at least ``frame_interval_s`` apart, all of one epoch.

    ``admit`` judges a stamp before the costly alignment; ``push`` takes the aligned frame. They are separate so that a
    cloud whose transform is missing costs nothing but itself: the next cloud takes its place.
    """

    def __init__(self, config: WindowConfig) -> None:
        self._interval_ns = round(config.frame_interval_s * NS_PER_S)
        # Clocks jitter: without some tolerance a stream at exactly 1 / frame_interval_s would lose every frame that
        # comes a millisecond early, and so run at half its rate.
        self._tolerance_ns = min(max(2_000_000, self._interval_ns // 50), self._interval_ns // 2)
        self._max_gap_ns = round(config.max_gap_s * NS_PER_S)
        self._max_backward_ns = round(config.max_backward_s * NS_PER_S)
        self._min_frames = min(config.min_frames, config.num_frames)
        self._frames: deque[AlignedFrame] = deque(maxlen=config.num_frames)
        self._newest_seen_ns: int | None = None
        self._origin: Float64 | None = None
        self._core_frame: tuple[str, str] | None = None
        self._sequence = 0
        self._epoch = 0
        self._counts = {"accepted": 0, "skipped": 0, "late": 0, "duplicate": 0, "epochs": 0}

    @property
    def epoch(self) -> int:
        """Starts at 0; +1 at each clock jump, reset, or change of core frame."""
        return self._epoch

    @property
    def counts(self) -> dict[str, int]:
        """Clouds accepted, skipped, late and duplicate since construction, and epochs begun after the first."""
        return dict(self._counts)

    def admit(self, stamp_ns: int) -> Admission:
        """Judge a cloud by its stamp and count it; NEW_EPOCH clears the window at once.

        Gaps are measured against the newest cloud seen, kept or not, so a long ``frame_interval_s`` is no gap.
        """
        newest = self._newest_seen_ns
        if newest is None:
            return self._keep(stamp_ns, Admission.ACCEPT)
        step = stamp_ns - newest
        if step == 0:
            # A paused simulation repeats its stamp: nothing new was measured, and nothing jumped.
            return self._refuse(Admission.DUPLICATE, "duplicate")
        # ROS writes 0 for "no stamp". One such cloud amid good ones must not throw the epoch away; after a true restart
        # of the clock the next cloud begins the new epoch.
        if step < 0 and (-step <= self._max_backward_ns or stamp_ns <= 0):
            return self._refuse(Admission.LATE, "late")
        if step < 0 or step > self._max_gap_ns:
            self._begin_epoch()
            return self._keep(stamp_ns, Admission.NEW_EPOCH)
        self._newest_seen_ns = stamp_ns
        if self._frames and stamp_ns - self._frames[-1].stamp_ns < self._interval_ns - self._tolerance_ns:
            return self._refuse(Admission.SKIPPED, "skipped")
        return self._keep(stamp_ns, Admission.ACCEPT)

    def push(self, frame: AlignedFrame) -> Window | None:
        """Append an admitted frame; the window, or None while it holds fewer than ``min_frames``.

        A frame whose points lie in another core frame than those before (another sensor, or a floor found at last)
        begins a new epoch, because coordinates, cached features and tracks no longer compare.
        Raises ValueError for a frame that is not newer than the newest one in the window.
        """
        if self._frames and frame.stamp_ns <= self._frames[-1].stamp_ns:
            raise ValueError(
                f"frame of {frame.stamp_ns} ns pushed after {self._frames[-1].stamp_ns} ns; admit it first"
            )
        if len(frame.frame):
            core_frame = (frame.alignment, frame.graph_frame_id)
            if self._core_frame is not None and core_frame != self._core_frame:
                self._begin_epoch()
            self._core_frame = core_frame
            if self._origin is None:
                self._origin = voxel_origin(frame)
        self._newest_seen_ns = max(frame.stamp_ns, self._newest_seen_ns or frame.stamp_ns)
        self._frames.append(frame)
        if len(self._frames) < self._min_frames:
            return None
        origin = np.zeros(3) if self._origin is None else self._origin
        window = Window(frames=tuple(self._frames), epoch=self._epoch, sequence=self._sequence, origin=origin.copy())
        self._sequence += 1
        return window

    def reset(self) -> None:
        """Forget all frames and begin a new epoch; the next cloud is accepted whatever its stamp."""
        self._begin_epoch()
        self._newest_seen_ns = None

    def _begin_epoch(self) -> None:
        self._frames.clear()
        self._origin = None
        self._core_frame = None
        self._epoch += 1
        self._counts["epochs"] += 1

    def _keep(self, stamp_ns: int, admission: Admission) -> Admission:
        self._newest_seen_ns = stamp_ns
        self._counts["accepted"] += 1
        return admission

    def _refuse(self, admission: Admission, count: str) -> Admission:
        self._counts[count] += 1
        return admission


def voxel_origin(frame: AlignedFrame) -> Float64:
    """Origin of an epoch's voxel grid from its first frame with points: float64[3], core frame, metres.

    x, y: median of the points, rounded to 1 m. z: 2nd percentile of the heights, rounded to 1 cm: the floor where it is
    seen, and not the one stray reflection below it. Medians, so that a point at 1e30 m cannot move the grid.
    """
    points = frame.points.astype(np.float64)
    x, y = np.round(np.median(points[:, :2], axis=0))
    z = np.round(np.percentile(points[:, 2], 2.0), 2)
    return np.array([x, y, z]) + 0.0  # + 0.0 turns -0.0 into 0.0
