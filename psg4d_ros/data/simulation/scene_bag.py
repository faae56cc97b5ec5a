"""A simulated scene as a rosbag2 (mcap): clouds, transforms and ground truth, as a robot with perfect knowledge would
have recorded them.

- ``/points``: sensor_msgs/PointCloud2, organised, NaN where nothing came back.
- ``/tf``, ``/tf_static``: world -> mount of the sensor -> sensor.
- ``/ground_truth/scene_graph``: psg4d_ros/SceneGraph per cloud, in the frame ``world``. Causal: the objects seen so far
  and the relations that have started, with the end of those that have ended. Track ids are the object ids of the truth.
- ``/ground_truth/instances``: the labelled points of each cloud, see cloud.instance_cloud.

bag_truth.py reads it back.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from psg4d_ros.cloud import cloud_message, instance_cloud
from psg4d_ros.data.bag import BagWriter, bag_types
from psg4d_ros.data.bag_truth import GRAPH_TOPIC, INSTANCE_TOPIC
from psg4d_ros.data.simulation.sensors import Scan, Sensor, scan_points
from psg4d_ros.data.simulation.storage import WORLD_FRAME_ID, SceneData, scan_frame
from psg4d_ros.messages import graph_message, header_message
from psg4d_ros.structures import Float32, Float64, GraphStatus, Int32, LabelledCloud, Relation, SceneGraph, SceneObject
from psg4d_ros.transforms import transform_points
from psg4d_ros.vocabulary import Vocabulary, default_vocabulary

CLOUD_TOPIC = "/points"


def write_bag(path: Path, scene: SceneData, *, overwrite: bool = False) -> None:
    """Write a scene as a rosbag2 folder, whole or not at all. Raises DatasetError as BagWriter does."""
    types, sensor = bag_types(), scene.sensor
    with BagWriter(path, overwrite=overwrite) as bag:
        start = int(scene.stamps_ns[0])
        mount = _transform(
            start, sensor.mount_frame_id, sensor.frame_id, np.array((0.0, 0.0, 0.0, *sensor.mount_quaternion))
        )
        bag.write("/tf_static", mount, start)
        for number, (scan, graph) in enumerate(zip(scene.open_scans(), true_graphs(scene), strict=True)):
            stamp = int(scene.stamps_ns[number])
            bag.write("/tf", _transform(stamp, WORLD_FRAME_ID, sensor.mount_frame_id, scene.mount_poses[number]), stamp)
            bag.write(CLOUD_TOPIC, cloud_message(_cloud(sensor, scan), stamp, sensor.frame_id, types), stamp)
            bag.write(GRAPH_TOPIC, graph_message(graph, types), stamp)
            bag.write(INSTANCE_TOPIC, instance_cloud(graph, types), stamp)


def true_graphs(scene: SceneData) -> Iterator[SceneGraph]:
    """The ground truth as a SceneGraph per frame, in the world frame; see the head of this file for what it holds."""
    vocabulary = default_vocabulary()
    stamps = scene.stamps_ns
    states: dict[int, _State] = {}
    for number, scan in enumerate(scene.open_scans()):
        stamp = int(stamps[number])
        frame, instance = scan_frame(scene.sensor, scan, stamp)
        points = transform_points(scene.T_world_sensor(number), frame.points)
        _observe(states, points, instance, stamp)
        labels = np.zeros(int(instance.max(initial=0)) + 1, np.int32)
        for o in scene.objects:
            if o.object_id < len(labels):
                labels[o.object_id] = vocabulary.class_id(o.label)
        nobody = instance == 0
        cloud = LabelledCloud(
            points=points,
            track_id=instance.astype(np.uint32),
            class_id=np.where(nobody, -1, labels[instance]).astype(np.int32),
            score=np.where(nobody, 0, 1).astype(np.float32),
            source_index=frame.source_index,
        )
        yield SceneGraph(
            stamp_ns=stamp,
            frame_id=WORLD_FRAME_ID,
            window_start_ns=int(stamps[0]),
            window_end_ns=stamp,
            num_frames=number + 1,
            sequence=number,
            epoch=0,
            model_id="ground truth",
            model_sha256="",
            status=GraphStatus.OK,
            status_text=scene.name,
            objects=_objects(scene, states, number, vocabulary),
            relations=_relations(scene, number, vocabulary),
            cloud=cloud,
        )


class _State:
    """What has been seen of one object so far."""

    def __init__(self, stamp: int) -> None:
        self.first = self.last = stamp
        self.lower = self.upper = np.zeros(3)
        self.num_points = 0


def _observe(states: dict[int, _State], points: Float32, instance: Int32, stamp: int) -> None:
    for state in states.values():
        state.num_points = 0
    order = np.argsort(instance, kind="stable")
    ids, starts = np.unique(instance[order], return_index=True)
    for object_id, part in zip(ids.tolist(), np.split(points[order], starts[1:]), strict=True):
        if object_id:
            state = states.setdefault(object_id, _State(stamp))
            state.last, state.num_points = stamp, len(part)
            state.lower, state.upper = part.min(axis=0).astype(np.float64), part.max(axis=0).astype(np.float64)


def _objects(
    scene: SceneData, states: dict[int, _State], number: int, vocabulary: Vocabulary
) -> tuple[SceneObject, ...]:
    return tuple(
        SceneObject(
            track_id=o.object_id,
            label=o.label,
            class_id=vocabulary.class_id(o.label),
            score=1.0,
            is_thing=o.is_thing,
            attributes=tuple(a.name for a in o.attributes if a.start_frame <= number < a.end_frame),
            alternatives=(),
            position=(state.lower + state.upper) / 2,
            orientation=np.array([0.0, 0.0, 0.0, 1.0]),
            size=state.upper - state.lower,
            velocity=None,
            first_seen_ns=state.first,
            last_seen_ns=state.last,
            num_points=state.num_points,
        )
        for o in scene.objects
        if (state := states.get(o.object_id)) is not None
    )


def _relations(scene: SceneData, number: int, vocabulary: Vocabulary) -> tuple[Relation, ...]:
    stamps = scene.stamps_ns
    return tuple(
        Relation(
            subject_id=r.subject_id,
            predicate=r.predicate,
            predicate_id=vocabulary.predicate_id(r.predicate),
            object_id=r.object_id,
            score=1.0,
            start_ns=int(stamps[r.start_frame]),
            end_ns=int(stamps[r.end_frame]) if r.end_frame <= number else int(stamps[number]) + 1,
            ongoing=number < r.end_frame,
        )
        for r in scene.relations
        if r.start_frame <= number
    )


def _cloud(sensor: Sensor, scan: Scan) -> Any:
    """The organised cloud of a scan: structured array [H, W]."""
    fields = [("x", "<f4"), ("y", "<f4"), ("z", "<f4")]
    second = ("rgb", "<f4") if scan.colors is not None else ("intensity", "<f4")
    out = np.zeros(scan.ranges.shape, np.dtype([*fields, second]))
    points = scan_points(sensor, scan.ranges).reshape(*scan.ranges.shape, 3)
    for axis, name in enumerate("xyz"):
        out[name] = points[..., axis]
    if scan.colors is not None:
        r, g, b = np.moveaxis(scan.colors.astype(np.uint32), -1, 0)
        out["rgb"] = ((r << 16) | (g << 8) | b).view(np.float32)
    else:
        out["intensity"] = scan.intensity
    return out


def _transform(stamp_ns: int, parent: str, child: str, pose: Float64) -> Any:
    """tf2_msgs/TFMessage of one transform; pose: float64[7], translation and quaternion x, y, z, w."""
    types = bag_types()
    x, y, z, qx, qy, qz, qw = pose.tolist()
    transform = types.get("geometry_msgs/msg/Transform")(
        translation=types.get("geometry_msgs/msg/Vector3")(x=x, y=y, z=z),
        rotation=types.get("geometry_msgs/msg/Quaternion")(x=qx, y=qy, z=qz, w=qw),
    )
    stamped = types.get("geometry_msgs/msg/TransformStamped")(
        header=header_message(stamp_ns, parent, types), child_frame_id=child, transform=transform
    )
    return types.get("tf2_msgs/msg/TFMessage")(transforms=[stamped])
