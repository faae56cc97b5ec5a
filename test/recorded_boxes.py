"""The boxes' scene (box_world.py) as a sensor records it, and when two recordings are the same."""

from __future__ import annotations

import numpy as np
from box_world import box_timeline, box_truth

from psg4d_ros.data.recording import Recording
from psg4d_ros.data.simulation.capture import record, sample_steps
from psg4d_ros.data.simulation.sensors import DepthCamera, Sensor
from psg4d_ros.data.simulation.storage import SceneData

FRAMES = 8


def record_boxes(sensor: Sensor | None = None) -> SceneData:
    """Eight frames at 4 Hz."""
    relations, attributes = box_truth(FRAMES)
    sensor, rng = sensor or DepthCamera(width=64, height=48), np.random.default_rng(0)
    return record(box_timeline(), sample_steps(FRAMES, 4.0), relations, attributes, sensor, rng).data


def assert_same(a: Recording, b: Recording) -> None:
    """Two recordings are equal, to the last bit of every point and pose."""
    assert (a.objects, a.relations) == (b.objects, b.relations)
    np.testing.assert_array_equal(a.stamps_ns, b.stamps_ns)
    frames = 0
    for x, y in zip(a.open_frames(), b.open_frames(), strict=True):
        np.testing.assert_array_equal(x.T_world_sensor, y.T_world_sensor)
        np.testing.assert_array_equal(x.instance, y.instance)
        for name in ("points", "colors", "intensity", "source_index"):
            np.testing.assert_array_equal(getattr(x.frame, name), getattr(y.frame, name))
        assert (x.frame.stamp_ns, x.frame.frame_id) == (y.frame.stamp_ns, y.frame.frame_id)
        frames += 1
    assert frames == len(a.stamps_ns)
