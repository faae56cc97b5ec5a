"""Recordings built in memory: boxes of points that move, with annotations, for tests of evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from psg4d_ros.data.recording import AttributeSpan, LabelledFrame, Recording, TrueObject, TrueRelation
from psg4d_ros.structures import PointFrame

STEP_NS = 250_000_000
START_NS = 1_000_000_000
POINTS = 80


@dataclass(frozen=True)
class Box:
    """A box of points. corner: lower corner at frame 0, metres. step: how far it moves per frame."""

    label: str
    corner: tuple[float, float, float]
    size: tuple[float, float, float]
    step: tuple[float, float, float] = (0.0, 0.0, 0.0)
    is_thing: bool = True
    seen: tuple[int, int] = (0, 10_000)
    attributes: tuple[AttributeSpan, ...] = ()


# A cup on a table, a person who walks up to them, on a floor.
KITCHEN = (
    Box("person", (-2.0, 0.0, 0.0), (0.4, 0.4, 1.7), (0.1, 0.0, 0.0), attributes=(AttributeSpan("walking", 0, 12),)),
    Box(
        "cup", (0.3, 0.2, 0.75), (0.1, 0.1, 0.1), attributes=(AttributeSpan("red", 0, 12), AttributeSpan("still", 0, 6))
    ),
    Box("table", (0.0, 0.0, 0.0), (0.8, 0.8, 0.75)),
    Box("floor", (-3.0, -2.0, -0.02), (6.0, 4.0, 0.02), is_thing=False),
)
KITCHEN_RELATIONS = (
    TrueRelation(2, "on", 3, 0, 12),
    TrueRelation(3, "on", 4, 0, 12),
    TrueRelation(1, "walking on", 4, 0, 8),
    TrueRelation(1, "standing on", 4, 8, 12),
    TrueRelation(1, "looking at", 2, 4, 12),
    TrueRelation(1, "holding", 2, 9, 12),
)


def recording(
    boxes: Sequence[Box] = KITCHEN,
    relations: Sequence[TrueRelation] = KITCHEN_RELATIONS,
    *,
    frames: int = 12,
    name: str = "kitchen",
    step_ns: int = STEP_NS,
    frame_id: str = "lidar",
    seed: int = 0,
) -> Recording:
    """A recording of ``frames`` frames from a sensor that turns a little from frame to frame."""

    def open_frames() -> Iterator[LabelledFrame]:
        rng = np.random.default_rng(seed)
        for f in range(frames):
            points, instance = [np.zeros((0, 3))], [np.zeros(0, np.int32)]
            for i, box in enumerate(boxes):
                if box.seen[0] <= f < box.seen[1]:
                    corner = np.array(box.corner) + f * np.array(box.step)
                    points.append(corner + rng.random((POINTS, 3)) * box.size)
                    instance.append(np.full(POINTS, i + 1, np.int32))
            world, owner = np.concatenate(points), np.concatenate(instance)
            T = np.eye(4)
            turn = 0.05 * f
            T[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
            T[:3, 3] = (0.1 * f, -1.0, 0.5)
            sensor = ((world - T[:3, 3]) @ T[:3, :3]).astype(np.float32)
            index = np.arange(len(sensor), dtype=np.int64)
            stamp = START_NS + f * step_ns
            yield LabelledFrame(PointFrame(sensor, None, None, index, stamp, frame_id), T, owner)

    objects = tuple(TrueObject(i + 1, b.label, b.is_thing, b.attributes) for i, b in enumerate(boxes))
    stamps = START_NS + np.arange(frames, dtype=np.int64) * step_ns
    return Recording(name, objects, tuple(relations), stamps, open_frames)


def with_boxes_only(given: Recording) -> Recording:
    """The same annotation with boxes in place of points."""
    boxes = np.full((len(given), len(given.objects), 2, 3), np.nan, np.float32)
    empty = []
    for f, labelled in enumerate(given.open_frames()):
        T = labelled.T_world_sensor
        world = labelled.frame.points @ T[:3, :3].T + T[:3, 3]
        for o in range(len(given.objects)):
            mine = world[labelled.instance == o + 1]
            if len(mine):
                boxes[f, o] = mine.min(axis=0), mine.max(axis=0)
        nothing = PointFrame(
            np.zeros((0, 3), np.float32), None, None, np.zeros(0, np.int64), labelled.frame.stamp_ns, "world"
        )
        empty.append(LabelledFrame(nothing, np.eye(4), np.zeros(0, np.int32)))
    return replace(given, boxes=boxes, open_frames=lambda: iter(empty))
