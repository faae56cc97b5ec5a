"""The clouds that the paths are run on: the bundled recording, and simulated scenes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from psg4d_ros.config import PipelineConfig
from psg4d_ros.data.bundled import bundled_bag
from psg4d_ros.data.frame_source import open_frame_source
from psg4d_ros.data.recording import LabelledFrame
from psg4d_ros.data.simulation.scenes import make_scene
from psg4d_ros.data.simulation.splits import choose_split
from psg4d_ros.structures import PointFrame
from psg4d_ros.transforms import TransformBuffer

BUNDLED_FRAME = "odom"  # a level frame that the bundled recording brings a transform to
WORLD_FRAME = "world_of_recording"
SIMULATED_INTERVAL_S = 0.25


@dataclass(frozen=True, eq=False)
class Stream:
    """A recording in memory. frames: in order of time. transforms: to ``target_frame``, which is gravity-aligned."""

    name: str
    frames: tuple[PointFrame, ...]
    transforms: TransformBuffer
    target_frame: str

    def configure(self, config: PipelineConfig) -> PipelineConfig:
        """``config`` with the coordinates of this recording."""
        return replace(config, coordinates=replace(config.coordinates, target_frame=self.target_frame))

    def thinned(self, num_points: int) -> Stream:
        """The same with at most ``num_points`` points a frame, evenly spaced in their order."""
        return replace(self, frames=tuple(_thinned(f, num_points) for f in self.frames))


def bundled_stream() -> Stream:
    """The real three-frame recording. Raises DatasetError where it was not installed."""
    transforms = TransformBuffer()
    with open_frame_source(bundled_bag()) as source:
        frames = tuple(read() for read in source.frames(transforms, 1.0))
        return Stream(f"{source.name} (recorded)", frames, transforms, BUNDLED_FRAME)


def simulated_stream(num_frames: int, image: tuple[int, int], seed: int = 0) -> Stream:
    """One scene of the simulator's test split, a depth camera of ``image`` rays, a frame each SIMULATED_INTERVAL_S.

    Raises Psg4dError where the simulator's ray caster is not installed.
    """
    split, _ = choose_split("test", 1)
    scene = make_scene(split, 0, seed=seed, size=image, frames=num_frames, rate_hz=1.0 / SIMULATED_INTERVAL_S)
    return posed_stream("simulated", scene.data.recording().open_frames())


def posed_stream(name: str, frames: Iterable[LabelledFrame]) -> Stream:
    """Frames that bring the poses of their sensor."""
    # A recording longer than a robot's memory of transforms: all of it is kept.
    transforms = TransformBuffer(cache_s=1e6)
    clouds = []
    for labelled in frames:
        T, frame = labelled.T_world_sensor, labelled.frame
        quaternion = Rotation.from_matrix(T[:3, :3]).as_quat()
        transforms.set_transform(WORLD_FRAME, frame.frame_id, frame.stamp_ns, T[:3, 3], quaternion)
        clouds.append(frame)
    return Stream(name, tuple(clouds), transforms, WORLD_FRAME)


def wandering_boxes(num_points: int, interval_s: float = SIMULATED_INTERVAL_S) -> Iterator[PointFrame]:
    """Boxes that wander over a floor without end, for long runs: cheap to make. In a frame that is level, z up."""
    rng = np.random.default_rng(0)
    index = np.arange(num_points, dtype=np.int64)
    for number in itertools.count():
        points = rng.uniform((-2, -2, 0), (2, 2, 0.02), (num_points, 3)).astype(np.float32)
        for box in range(4):
            inside = slice(num_points * (4 + box) // 8, num_points * (5 + box) // 8)
            angle = 0.05 * number * (1 + 0.3 * box) + 1.5 * box
            corner = np.array([1.3 * np.cos(angle), 1.3 * np.sin(angle), 0.0])
            points[inside] = corner + rng.uniform(0, 0.5, points[inside].shape)
        yield PointFrame(points, None, None, index, round((1 + number * interval_s) * 1e9), "level")


def _thinned(frame: PointFrame, num_points: int) -> PointFrame:
    total = len(frame)
    if total <= num_points:
        return frame
    kept = np.arange(num_points, dtype=np.int64) * total // num_points
    return PointFrame(
        frame.points[kept],
        None if frame.colors is None else frame.colors[kept],
        None if frame.intensity is None else frame.intensity[kept],
        frame.source_index[kept],
        frame.stamp_ns,
        frame.frame_id,
    )
