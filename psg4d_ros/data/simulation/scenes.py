"""One simulated scene from its seed: a world, what happens in it, and what a sensor saw of that."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from psg4d_ros.data.simulation.attributes import true_attributes
from psg4d_ros.data.simulation.capture import SimulatedScene, record, sample_steps
from psg4d_ros.data.simulation.director import perform
from psg4d_ros.data.simulation.furnishing import make_world
from psg4d_ros.data.simulation.relations import true_relations
from psg4d_ros.data.simulation.sensors import DepthCamera, Sensor, SpinningLidar
from psg4d_ros.data.simulation.splits import Split, scene_seed
from psg4d_ros.data.simulation.world import STEP_S
from psg4d_ros.errors import ConfigError

SENSORS = ("depth", "lidar", "mixed")
_MAX_SIZE = 2048


def make_sensor(choice: str, rng: np.random.Generator, size: tuple[int, int] | None = None) -> Sensor:
    """A sensor as they differ from robot to robot: "depth", "lidar", or "mixed" (either). size: width and height of the
    camera's image, or columns and rings of the LiDAR. Raises ConfigError for another choice."""
    if choice not in SENSORS:
        raise ConfigError(f"sensor is {choice!r}, expected one of {', '.join(SENSORS)}")
    if size is not None and not (min(size) >= 1 and max(size) <= _MAX_SIZE):
        raise ConfigError(f"size is {size[0]}x{size[1]}, expected 1x1 to {_MAX_SIZE}x{_MAX_SIZE}")
    lidar = rng.random() < 0.5 if choice == "mixed" else choice == "lidar"
    noise, fov = round(rng.uniform(0.6, 1.3), 3), round(rng.uniform(60.0, 85.0), 1)
    if lidar:
        columns, rings = size or (600, 32)
        return SpinningLidar(rings=rings, columns=columns, noise=noise)
    width, height = size or (160, 120)
    return DepthCamera(width=width, height=height, fov_deg=fov, noise=noise)


def make_scene(
    split: Split,
    index: int,
    *,
    seed: int = 0,
    sensor: str = "depth",
    size: tuple[int, int] | None = None,
    frames: int = 60,
    rate_hz: float = 4.0,
) -> SimulatedScene:
    """Scene ``index`` of a split: the same from the same numbers, whatever else is made.

    Raises ConfigError for settings that there are not.
    """
    steps = sample_steps(frames, rate_hz)
    streams = [np.random.default_rng(s) for s in scene_seed(split, seed, index).spawn(4)]
    world_rng, action_rng, sensor_rng, record_rng = streams
    chosen = make_sensor(sensor, sensor_rng, size)
    world = make_world(world_rng, name=f"{split.name}_{index:05d}", words=split.words)
    timeline = perform(world, action_rng, duration_s=float(steps[-1] + 1) * STEP_S)
    relations, attributes = true_relations(timeline, steps), true_attributes(timeline, steps)
    scene = record(timeline, steps, relations, attributes, chosen, record_rng)
    settings = scene_settings(split.name, seed, sensor, size, frames, rate_hz)
    return replace(scene, data=replace(scene.data, settings={**settings, "index": index}))


def scene_settings(
    split: str, seed: int, sensor: str, size: tuple[int, int] | None, frames: int, rate_hz: float
) -> dict[str, Any]:
    """What scenes of one folder have in common, as JSON values."""
    return {
        "split": split,
        "seed": seed,
        "sensor": sensor,
        "size": None if size is None else list(size),
        "frames": frames,
        "rate_hz": rate_hz,
    }
