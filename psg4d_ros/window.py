"""The sliding window: which clouds are kept, when a new epoch begins, and where its voxel origin lies.

Numpy only. State: the kept frames, the newest stamps, the epoch and the origin; ``reset()`` clears all of it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from enum import Enum
from typing import NamedTuple

import numpy as np

from psg4d_ros.config import WindowConfig
from psg4d_ros.structures import AlignedFrame, Float64, Window

NS_PER_S = 1_000_000_000
# Fewer points than this say little of where the floor is: the origin they give is provisional.
MIN_ORIGIN_POINTS = 200


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


class _Placement(NamedTuple):
    """How a frame lies in the core frame, and graphs in their own: fields of AlignedFrame by their names."""

    alignment: str
    graph_frame_id: str
    T_core_sensor: Float64
    T_graph_core: Float64


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
        self._origin_settled = False
        self._placement: _Placement | None = None  # of the epoch's newest frame with points
        self._frame_change: tuple[str, str] | None = None
        self._epoch = 0
        self._counts = dict.fromkeys(("accepted", "skipped", "late", "duplicate", "epochs", "core_frame_changes"), 0)

    @property
    def epoch(self) -> int:
        """Starts at 0; +1 at each clock jump, reset, change of core frame, or first origin that can be relied on."""
        return self._epoch

    @property
    def counts(self) -> dict[str, int]:
        """Since construction: clouds that came into the window, and those that were skipped, late and duplicate.

        epochs: those begun after the first; core_frame_changes: those of them begun because the clouds before came in
        another coordinate frame.
        """
        return dict(self._counts)

    @property
    def frame_change(self) -> tuple[str, str] | None:
        """The coordinate frames before and after the last of the ``core_frame_changes``, or None before the first."""
        return self._frame_change

    def admit(self, stamp_ns: int) -> Admission:
        """Judge a cloud by its stamp, and count it if it is refused (``push`` counts the others).

        NEW_EPOCH clears the window at once. Gaps are measured against the newest cloud seen, kept or not, so a long
        ``frame_interval_s`` is no gap.
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
        """Append an admitted frame and count it; the window, or None while it holds fewer than ``min_frames``.

        A frame whose points lie in another core frame than those before (another sensor, or a floor found at last)
        begins a new epoch, because coordinates, cached features and tracks no longer compare. So does the first frame
        of MIN_ORIGIN_POINTS points when it moves an origin that fewer points gave. A frame without points says nothing
        of coordinates, whatever its frame_id: it takes on those of the epoch.
        Raises ValueError for a frame that is not newer than the newest one in the window.
        """
        if self._frames and frame.stamp_ns <= self._frames[-1].stamp_ns:
            raise ValueError(
                f"frame of {frame.stamp_ns} ns pushed after {self._frames[-1].stamp_ns} ns; admit it first"
            )
        if len(frame.frame):
            self._place(frame)
        elif self._placement is not None:
            frame = replace(frame, **self._placement._asdict())
        self._newest_seen_ns = max(frame.stamp_ns, self._newest_seen_ns or frame.stamp_ns)
        self._frames.append(frame)
        self._counts["accepted"] += 1
        if len(self._frames) < self._min_frames:
            return None
        origin = np.zeros(3) if self._origin is None else self._origin
        return Window(frames=tuple(self._frames), epoch=self._epoch, origin=origin.copy())

    def reset(self) -> None:
        """Forget all frames and begin a new epoch; the next cloud is accepted whatever its stamp."""
        self._begin_epoch()
        self._newest_seen_ns = None

    def _begin_epoch(self) -> None:
        self._frames.clear()
        self._origin = None
        self._origin_settled = False
        self._placement = None
        self._epoch += 1
        self._counts["epochs"] += 1

    def _place(self, frame: AlignedFrame) -> None:
        """Begin a new epoch where coordinates no longer compare; set origin and placement where they are new."""
        before = self._placement
        if before is not None and (frame.alignment, frame.graph_frame_id) != (before.alignment, before.graph_frame_id):
            if frame.graph_frame_id != before.graph_frame_id:
                self._counts["core_frame_changes"] += 1
                self._frame_change = (before.graph_frame_id, frame.graph_frame_id)
            self._begin_epoch()
        enough = len(frame.frame) >= MIN_ORIGIN_POINTS
        if self._origin is None or (enough and not self._origin_settled):
            origin = voxel_origin(frame)
            if self._origin is not None and not np.array_equal(origin, self._origin):
                self._begin_epoch()
            self._origin, self._origin_settled = origin, enough
        self._placement = _Placement(frame.alignment, frame.graph_frame_id, frame.T_core_sensor, frame.T_graph_core)

    def _keep(self, stamp_ns: int, admission: Admission) -> Admission:
        self._newest_seen_ns = stamp_ns
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
