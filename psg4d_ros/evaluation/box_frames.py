"""Recordings of boxes as the pipeline takes frames: each box is seen as its two corners."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from psg4d_ros.data.recording import LabelledFrame, Recording
from psg4d_ros.transforms import invert_rigid, transform_points


def corner_frames(recording: Recording) -> Iterator[LabelledFrame]:
    """The frames of a recording of boxes (Recording.boxes), with the lower and upper corner of each box as points.

    So sliding window, given tubes and tracker treat boxes as they treat clouds.
    """
    assert recording.boxes is not None
    ids = np.array([o.object_id for o in recording.objects], np.int32)
    for labelled, boxes in zip(recording.open_frames(), recording.boxes, strict=True):
        there = np.isfinite(boxes).all(axis=(1, 2))
        corners = boxes[there].reshape(-1, 3)
        points = transform_points(invert_rigid(labelled.T_world_sensor), corners)
        index = np.arange(len(points), dtype=np.int64)
        frame = replace(labelled.frame, points=points, colors=None, intensity=None, source_index=index)
        yield replace(labelled, frame=frame, instance=np.repeat(ids[there], 2))
