"""From a PointCloud2 message to a due window: what the subscription's callback does. Free of rclpy."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from psg4d_ros.cloud import frame_from_cloud
from psg4d_ros.errors import CloudError, Psg4dError, TransformError
from psg4d_ros.structures import PointFrame, Window
from psg4d_ros.transforms import TransformLookup

from .health import Health

if TYPE_CHECKING:
    from psg4d_ros.pipeline import ScenePipeline

NS_PER_S = 1_000_000_000
# Frames that wait for their transforms at the same time: bounds memory when TF stops at a high cloud rate.
MAX_WAITING = 50


class CloudIntake:
    """Parses clouds, lets those whose transform is late wait, and pushes them into the pipeline in order.

    offer: takes a due window. now_ns: ROS time, used for clouds without a stamp. report: takes (kind, error) of what
    went wrong with one cloud; nothing is raised. jumped_back: called when stamps go back so far that a new epoch
    begins (a bag that loops without /clock), before that cloud's transform is looked up. All methods belong to the
    callback thread, and none of them blocks.
    """

    def __init__(
        self,
        pipeline: ScenePipeline,
        transforms: TransformLookup | None,
        *,
        offer: Callable[[Window], None],
        now_ns: Callable[[], int],
        report: Callable[[str, Exception], None],
        health: Health,
        jumped_back: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pipeline = pipeline
        self._transforms = transforms
        self._target = pipeline.config.coordinates.target_frame
        self._timeout_s = pipeline.config.coordinates.tf_timeout_s
        self._offer = offer
        self._now_ns = now_ns
        self._report = report
        self._health = health
        self._jumped_back = jumped_back
        self._max_backward_ns = round(pipeline.config.window.max_backward_s * NS_PER_S)
        # The window's epoch, and the newest stamp in it; as the window judges, not as clouds arrive.
        self._newest: tuple[int, int] | None = None
        self._monotonic = monotonic
        self._waiting: deque[tuple[PointFrame, float]] = deque()
        self._frame_changes = 0

    @property
    def waiting(self) -> int:
        """Frames that wait for a transform."""
        return len(self._waiting)

    def take(self, message: Any) -> None:
        """Take one cloud. Any error costs this cloud only."""
        start = time.perf_counter()
        self._health.cloud_arrived(len(message.data))
        try:
            frame = self._parse(message)
        except Exception as error:
            self._report("clouds_rejected" if isinstance(error, Psg4dError) else "errors", error)
        else:
            self._waiting.append((frame, self._monotonic() + self._timeout_s))
            self.drain()
        self._health.callback.add((time.perf_counter() - start) * 1e3)

    def drain(self) -> None:
        """Push the frames whose transform has come or whose time is up, oldest first, and none before an older one."""
        while self._waiting:
            frame, deadline = self._waiting[0]
            self._notice_jump(frame.stamp_ns)
            patient = self._monotonic() < deadline and len(self._waiting) <= MAX_WAITING
            if patient and not self._transform_ready(frame):
                return
            self._waiting.popleft()
            self._push(frame)
            if self._newest is not None:
                self._newest = (self._pipeline.window.epoch, self._newest[1])

    def forget(self) -> None:
        """Drop the frames that wait (the clock jumped, or the node stops)."""
        self._waiting.clear()

    def _notice_jump(self, stamp_ns: int) -> None:
        """Old transforms are ahead of the new ones after a jump back, and would be kept in their place."""
        epoch = self._pipeline.window.epoch
        if self._newest is None or self._newest[0] != epoch:  # a reset: any stamp may come next
            self._newest = (epoch, stamp_ns)
        elif 0 < stamp_ns < self._newest[1] - self._max_backward_ns:
            self._newest = (epoch, stamp_ns)
            self._jumped_back()
        else:
            self._newest = (epoch, max(stamp_ns, self._newest[1]))

    def _parse(self, message: Any) -> PointFrame:
        stamp = message.header.stamp
        if stamp.sec or stamp.nanosec:
            return frame_from_cloud(message)
        now_ns = self._now_ns()
        if now_ns <= 0:
            raise CloudError("the cloud's stamp is 0 and there is no /clock yet; expected the time of measurement")
        text = "the cloud's stamp is 0; its time of arrival stands in. Set header.stamp to the time of measurement"
        self._report("stamps_replaced", CloudError(text))
        return frame_from_cloud(message, stamp_ns=now_ns)

    def _transform_ready(self, frame: PointFrame) -> bool:
        if not self._target or self._transforms is None:
            return True
        try:
            _, age_ns = self._transforms.lookup(self._target, frame.frame_id, frame.stamp_ns)
        except TransformError:
            return False
        return age_ns <= 0

    def _push(self, frame: PointFrame) -> None:
        try:
            window = self._pipeline.push(frame)
        except TransformError as error:
            self._report("transforms_failed", error)
        except Exception as error:
            self._report("clouds_rejected" if isinstance(error, Psg4dError) else "errors", error)
        else:
            self._complain_of_frame_changes()
            if window is not None:
                self._offer(window)

    def _complain_of_frame_changes(self) -> None:
        changes = self._pipeline.window.counts["core_frame_changes"]
        if changes == self._frame_changes:
            return
        self._frame_changes = changes
        before, after = self._pipeline.window.frame_change or ("", "")
        text = f"clouds came in frame {before!r} and now come in {after!r}: a new epoch begins, all tracks are lost"
        remedy = "set coordinates.target_frame to a frame that both have transforms to, or give each a node of its own"
        self._report("core_frame_changes", CloudError(f"{text}; {remedy}"))
