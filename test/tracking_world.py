"""A small world of moving cubes, cut into overlapping windows as the sliding window does, for the tracker's tests.

A perfect or deliberately faulty model labels its points, with instances in another order in each window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from psg4d_ros.config import TrackerConfig
from psg4d_ros.structures import (
    AlignedFrame,
    Float64,
    GraphStatus,
    InstancePrediction,
    PointFrame,
    RelationPrediction,
    SceneGraph,
    Window,
    WindowPrediction,
)
from psg4d_ros.tracker import Tracker

S = 1_000_000_000
STEP = S // 4
START = 100 * S
POINTS = 60
# A track is told of at once, and a relation is as sure as the windows that could see it.
EAGER = TrackerConfig(min_windows=1, relation_prior_windows=0.0)

Path = Callable[[float], tuple[float, float, float] | None]


@dataclass(frozen=True)
class Thing:
    """An object of the test world: where its centre is at t seconds, or None while it is out of sight."""

    name: str
    path: Path
    size: float = 0.4
    is_thing: bool = True
    class_id: int = 0


def still(x: float, y: float = 0.0, z: float = 0.5) -> Path:
    return lambda t: (x, y, z)


def walk(x0: float, speed: float, y: float = 0.0) -> Path:
    return lambda t: (x0 + speed * t, y, 0.5)


def seen_while(path: Path, *spans: tuple[float, float]) -> Path:
    return lambda t: path(t) if any(a <= t < b for a, b in spans) else None


def frame_of(
    world: Sequence[Thing], index: int, T_core_sensor: Float64 | None = None, interval_ns: int = STEP
) -> tuple[AlignedFrame, np.ndarray]:
    """One frame of the world, and which thing each point belongs to (1-based; 0: clutter)."""
    rng = np.random.default_rng(index)
    points, owner = [rng.uniform(-20, -10, (30, 3))], [np.zeros(30, np.int64)]
    for k, thing in enumerate(world):
        centre = thing.path(index * interval_ns / S)
        if centre is not None:
            points.append(np.array(centre) + rng.uniform(-0.5, 0.5, (POINTS, 3)) * thing.size)
            owner.append(np.full(POINTS, k + 1))
    core = np.concatenate(points).astype(np.float32)
    T = np.eye(4) if T_core_sensor is None else T_core_sensor
    sensor = ((core - T[:3, 3]) @ T[:3, :3]).astype(np.float32)
    frame = PointFrame(sensor, None, None, np.arange(len(core)), START + index * interval_ns, "lidar")
    back = np.linalg.inv(T)
    return AlignedFrame(frame, core, T, "parameter", "lidar", back), np.concatenate(owner)


@dataclass
class Run:
    """Feeds windows of a world to a tracker and keeps the graphs."""

    world: Sequence[Thing]
    num_frames: int = 8
    config: TrackerConfig = EAGER
    T_core_sensor: Float64 | None = None
    interval_ns: int = STEP

    def __post_init__(self) -> None:
        self.tracker = Tracker(self.config)
        self.graphs: list[SceneGraph] = []
        self.truth: list[dict[str, int]] = []  # per graph: the track that owns most of each visible thing's points

    def predict(
        self,
        newest: int,
        epoch: int = 0,
        merge: tuple[str, ...] = (),
        relations: Callable[[dict[str, int], list[int]], Sequence[RelationPrediction]] | None = None,
        rename: dict[str, str] | None = None,
        missed: tuple[str, ...] = (),
        edit: Callable[[InstancePrediction], InstancePrediction] = lambda i: i,
    ) -> WindowPrediction:
        indices = list(range(max(0, newest - self.num_frames + 1), newest + 1))
        frames, owners = zip(
            *(frame_of(self.world, i, self.T_core_sensor, self.interval_ns) for i in indices), strict=True
        )
        present = [k for k in range(len(self.world)) if any((o == k + 1).any() for o in owners)]
        present = [k for k in present if self.world[k].name not in missed]
        np.random.default_rng(newest).shuffle(present)  # slots come in any order
        slot = np.zeros(len(self.world) + 1, np.int32)
        instances: list[InstancePrediction] = []
        merged = 0
        for k in present:
            thing = self.world[k]
            if thing.name in merge and merged:
                slot[k + 1] = merged
                continue
            label = (rename or {}).get(thing.name, thing.name.rstrip("0123456789"))
            instances.append(edit(InstancePrediction(label, thing.class_id, 0.9, thing.is_thing)))
            slot[k + 1] = len(instances)
            merged = len(instances) if thing.name in merge else merged
        index = {self.world[k].name: int(slot[k + 1]) - 1 for k in present}
        return WindowPrediction(
            window=Window(tuple(frames), epoch, np.zeros(3)),
            instances=tuple(instances),
            point_instance=tuple(slot[o] for o in owners),
            relations=tuple(relations(index, indices)) if relations else (),
            status=GraphStatus.OK,
            status_text="",
        )

    def step(self, newest: int, **options: object) -> SceneGraph:
        prediction = self.predict(newest, **options)  # type: ignore[arg-type]
        graph = self.tracker.update(prediction, "tiny", "00ff")
        _, owner = frame_of(self.world, newest, self.T_core_sensor, self.interval_ns)
        found = {}
        for k, thing in enumerate(self.world):
            ids = graph.cloud.track_id[owner == k + 1]
            if ids.size:
                found[thing.name] = int(np.bincount(ids).argmax())
        self.graphs.append(graph)
        self.truth.append(found)
        return graph

    def steps(self, stop: int, start: int = 0, **options: object) -> SceneGraph:
        for newest in range(start, stop):
            graph = self.step(newest, **options)
        return graph

    def ids_of(self, name: str) -> list[int]:
        """The distinct ids that a thing had, in order of appearance."""
        return list(dict.fromkeys(found[name] for found in self.truth if name in found))


def ongoing(index: dict[str, int], frames: list[int], start: int = 0, score: float = 0.8) -> RelationPrediction:
    """person1 on chair1 from the absolute frame ``start`` up to the newest."""
    return RelationPrediction(index["person1"], "on", 3, index["chair1"], score, max(0, start - frames[0]), len(frames))


def between(start: int, stop: int) -> Callable[[dict[str, int], list[int]], list[RelationPrediction]]:
    """A model that sees the relation exactly in the absolute frames [start, stop) of each window."""

    def relations(index: dict[str, int], frames: list[int]) -> list[RelationPrediction]:
        inside = [i for i, frame in enumerate(frames) if start <= frame < stop]
        if not inside:
            return []
        return [RelationPrediction(index["person1"], "on", 3, index["chair1"], 0.8, inside[0], inside[-1] + 1)]

    return relations


def pair() -> list[Thing]:
    return [Thing("person1", still(0)), Thing("chair1", still(3))]
