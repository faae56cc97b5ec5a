"""A sensor looks at a timeline: what it measures frame by frame, and what is true of what it saw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from psg4d_ros.data.recording import AttributeSpan, TrueObject, TrueRelation
from psg4d_ros.data.simulation.noise import lost_share, measure_depth, measure_lidar
from psg4d_ros.data.simulation.render import Renderer, turned
from psg4d_ros.data.simulation.sensors import DepthCamera, Sensor
from psg4d_ros.data.simulation.storage import SceneData, sensor_pose
from psg4d_ros.data.simulation.viewpoints import choose_path
from psg4d_ros.data.simulation.visible_truth import visible_truth
from psg4d_ros.data.simulation.world import STEP_S, Timeline
from psg4d_ros.errors import ConfigError
from psg4d_ros.structures import Int64

_START_NS = 1_700_000_000 * 10**9  # stamp of every scene's first frame


@dataclass(frozen=True, eq=False)
class SimulatedScene:
    """A scene with all there is to know about it. steps: int64[F], the timeline's step of each frame."""

    timeline: Timeline
    steps: Int64
    data: SceneData


def sample_steps(frames: int, rate_hz: float) -> Int64:
    """int64[frames]: steps of the simulation's clock at ``rate_hz``. Raises ConfigError where the clock has none."""
    stride = 1.0 / (rate_hz * STEP_S) if rate_hz > 0 else 0.0
    if stride < 1 or abs(stride - round(stride)) > 1e-9:
        rates = ", ".join(f"{1 / (STEP_S * n):g}" for n in (1, 2, 4, 5, 10, 20))
        raise ConfigError(f"rate is {rate_hz:g} Hz, expected a whole fraction of {1 / STEP_S:g} Hz such as {rates}")
    if frames < 1:
        raise ConfigError(f"frames is {frames}, expected at least 1")
    return np.arange(frames, dtype=np.int64) * round(stride)


def record(
    timeline: Timeline,
    steps: Int64,
    relations: Iterable[TrueRelation],
    attributes: Mapping[int, tuple[AttributeSpan, ...]],
    sensor: Sensor,
    rng: np.random.Generator,
) -> SimulatedScene:
    """Look at a timeline with a sensor on a path of its own choice, and keep of the truth what the sensor could see.

    relations, attributes: the truth about all entities, spans in frames (positions in ``steps``). See visible_truth.
    """
    path_rng, noise_rng = rng.spawn(2)
    renderer = Renderer(timeline, steps)
    poses = choose_path(renderer, timeline, steps, sensor, path_rng)
    lost = lost_share(timeline.world)
    exposure = noise_rng.uniform(0.8, 1.15)
    scans = []
    for number, step in enumerate(steps):
        T = sensor_pose(sensor, poses[number])
        hits = renderer.cast(T[:3, 3], turned(T[:3, :3], sensor.directions()), int(step))
        if isinstance(sensor, DepthCamera):
            scans.append(measure_depth(sensor, hits, lost, exposure, noise_rng))
        else:
            scans.append(measure_lidar(sensor, hits, lost, noise_rng))
    entities = timeline.world.entities
    counts = np.stack([np.bincount(s.instance.reshape(-1), minlength=len(entities) + 1) for s in scans])
    objects = [TrueObject(e.entity_id, e.label, e.is_thing, attributes.get(e.entity_id, ())) for e in entities]
    seen, kept = visible_truth(objects, relations, counts)
    known = np.zeros(len(entities) + 1, np.uint16)
    known[[o.object_id for o in seen]] = [o.object_id for o in seen]
    scans = [replace(s, instance=known[s.instance]) for s in scans]  # points of what was dropped are nobody's
    data = SceneData(
        name=timeline.world.name,
        sensor=sensor,
        stamps_ns=_START_NS + np.round(steps * STEP_S * 1e9).astype(np.int64),
        mount_poses=poses,
        objects=seen,
        relations=kept,
        open_scans=lambda: iter(scans),
    )
    return SimulatedScene(timeline, steps, data)
