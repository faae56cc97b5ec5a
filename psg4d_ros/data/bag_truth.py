"""A bag with ground truth as a Recording: clouds beside psg4d_ros/SceneGraph messages and labelled clouds.

The bags of ``psg4d simulate --bag`` are such; so is any bag whose topics ``/ground_truth/scene_graph`` and
``/ground_truth/instances`` hold, for every cloud, a graph and a labelled cloud of the same stamp.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from psg4d_ros.cloud import frame_from_cloud
from psg4d_ros.data.bag import GROUND_TRUTH, open_bag
from psg4d_ros.data.recording import AttributeSpan, LabelledFrame, Recording, TrueObject, TrueRelation
from psg4d_ros.errors import CloudError, DatasetError, TransformError
from psg4d_ros.messages import graph_from_message, stamp_of
from psg4d_ros.structures import Int32, Int64, PointFrame, SceneGraph
from psg4d_ros.transforms import TransformBuffer

GRAPH_TOPIC = f"{GROUND_TRUTH}scene_graph"
INSTANCE_TOPIC = f"{GROUND_TRUTH}instances"


def recording_from_bag(path: Path, topic: str | None = None) -> Recording:
    """The recording of a bag with ground truth.

    topic: the cloud topic; None takes the only one beside the ground truth. Poses are those of TF between the clouds'
    frame and the graphs' frame. Raises DatasetError when the bag holds no ground truth or contradicts itself: at once
    for the graphs, at the frame in question for the clouds.
    """
    with open_bag(path) as bag:
        topic = bag.choose_cloud_topic(topic)
        if bag.topics.get(GRAPH_TOPIC) != "psg4d_ros/msg/SceneGraph" or INSTANCE_TOPIC not in bag.cloud_topics:
            raise DatasetError(
                f"{path} holds no ground truth: expected {GRAPH_TOPIC} (psg4d_ros/msg/SceneGraph) and {INSTANCE_TOPIC} "
                f"(PointCloud2), found {', '.join(bag.topics) or 'no topics'}"
            )
        graphs = []
        for record, (_, message, _) in enumerate(bag.messages([GRAPH_TOPIC])):
            try:
                graphs.append(graph_from_message(message))
            except ValueError as error:
                raise DatasetError(f"{path}: message {record} of {GRAPH_TOPIC}: {error}") from error
        clouds = bag.count(topic)
    if not graphs or len(graphs) != clouds:
        raise DatasetError(f"{path}: {len(graphs)} graphs in {GRAPH_TOPIC} for {clouds} clouds; expected one for each")
    if len({(g.epoch, g.frame_id) for g in graphs}) > 1:
        raise DatasetError(f"{path}: the graphs of {GRAPH_TOPIC} differ in epoch or frame_id; expected one of each")
    stamps = np.array([g.stamp_ns for g in graphs], dtype=np.int64)
    if (stamps[1:] <= stamps[:-1]).any():
        raise DatasetError(f"{path}: the stamps of {GRAPH_TOPIC} are not strictly increasing")
    chosen, world = topic, graphs[0].frame_id
    return Recording(
        name=path.stem if path.is_file() else path.name,
        objects=_objects(graphs),
        relations=_relations(graphs[-1], stamps),
        stamps_ns=stamps,
        open_frames=lambda: _frames(path, chosen, world, stamps),
    )


def _objects(graphs: list[SceneGraph]) -> tuple[TrueObject, ...]:
    """The last graph lists every object; an attribute's spans are the runs of graphs in which its object has it."""
    running: dict[tuple[int, str], int] = {}
    spans: dict[int, list[AttributeSpan]] = {o.track_id: [] for o in graphs[-1].objects}
    for number in range(len(graphs) + 1):
        graph = graphs[number] if number < len(graphs) else None
        now = {(o.track_id, a) for o in graph.objects for a in o.attributes} if graph is not None else set()
        for track, name in sorted(set(running) - now):
            spans.setdefault(track, []).append(AttributeSpan(name, running.pop((track, name)), number))
        for key in now - set(running):
            running[key] = number
    return tuple(
        TrueObject(
            o.track_id,
            o.label,
            o.is_thing,
            tuple(sorted(spans[o.track_id], key=lambda a: (a.name, a.start_frame))),
        )
        for o in sorted(graphs[-1].objects, key=lambda o: o.track_id)
    )


def _relations(last: SceneGraph, stamps: Int64) -> tuple[TrueRelation, ...]:
    found = []
    for r in last.relations:
        start = int(np.searchsorted(stamps, r.start_ns))
        end = len(stamps) if r.ongoing else int(np.searchsorted(stamps, r.end_ns))
        found.append(TrueRelation(r.subject_id, r.predicate, r.object_id, start, end))
    return tuple(sorted(found, key=lambda r: (r.start_frame, r.subject_id, r.object_id, r.predicate)))


def _frames(path: Path, topic: str, world: str, stamps: Int64) -> Iterator[LabelledFrame]:
    transforms = TransformBuffer()
    with open_bag(path) as bag, open_bag(path) as again:
        clouds = bag.clouds(topic, transforms=transforms, tf_wait_s=0.0)
        labels = again.clouds(INSTANCE_TOPIC)
        for number, (cloud, labelled) in enumerate(zip_longest(clouds, labels)):
            place = f"{path}: cloud {number} of {topic}"
            if cloud is None or labelled is None or number >= len(stamps):
                raise DatasetError(f"{place}: {INSTANCE_TOPIC} and {topic} differ in number of messages")
            try:
                frame = frame_from_cloud(cloud[0])
                T_world_sensor, age_ns = transforms.lookup(world, frame.frame_id, frame.stamp_ns)
            except (CloudError, TransformError) as error:
                raise DatasetError(f"{place}: {error}") from error
            if age_ns:
                raise DatasetError(f"{place}: the pose in TF is {age_ns} ns older than the cloud, expected its own")
            if not frame.stamp_ns == stamp_of(labelled[0].header.stamp) == stamps[number]:
                raise DatasetError(f"{place} has stamp {frame.stamp_ns}, its labels and graph have another")
            yield LabelledFrame(frame, T_world_sensor, _instance(frame, labelled[0], place))


def _instance(frame: PointFrame, message: Any, place: str) -> Int32:
    """int32[N]: the field ``instance`` of a labelled cloud whose points are those of ``frame``, in any order."""
    needed = {"instance": 6, "source_index": 6}  # PointField.UINT32
    fields = {f.name: f for f in message.fields}
    if any(n not in fields or fields[n].datatype != t or fields[n].count != 1 for n, t in needed.items()):
        raise DatasetError(f"{place}: {INSTANCE_TOPIC} needs the fields instance and source_index (UINT32)")
    step, number = int(message.point_step), int(message.width) * int(message.height)
    data = bytes(message.data)
    if message.is_bigendian or len(data) != number * step or any(fields[n].offset + 4 > step for n in needed):
        raise DatasetError(f"{place}: {INSTANCE_TOPIC} is not {number} little-endian points of {step} bytes")
    index, instance = (
        np.ndarray((number,), "<u4", data, fields[name].offset, (step,)) if number else np.zeros(0, "<u4")
        for name in ("source_index", "instance")
    )
    order = np.argsort(index, kind="stable")
    if not np.array_equal(index[order], frame.source_index):
        raise DatasetError(f"{place}: {INSTANCE_TOPIC} does not label exactly the cloud's finite points")
    if instance.size and int(instance.max()) >= 2**31:
        raise DatasetError(f"{place}: {INSTANCE_TOPIC} holds instance {int(instance.max())}, expected below 2^31")
    return instance[order].astype(np.int32)
