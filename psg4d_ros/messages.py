"""SceneGraph <-> ROS messages, without rclpy and without rosbags.

Messages are built from whatever classes the caller has: rclpy's generated ones in the node, rosbags' in replay and bag
writing. Every field is given by keyword and every scalar is a Python number, which is what both kinds accept and what
rclpy's field checks (ROS_PYTHON_CHECK_FIELDS=1) demand.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from enum import IntEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from psg4d_ros.events import GraphEvent
from psg4d_ros.structures import GraphStatus, LabelledCloud, LabelScore, Relation, SceneGraph, SceneObject
from psg4d_ros.vocabulary import Vocabulary

NS_PER_S = 1_000_000_000

MarkerId = tuple[str, int]  # namespace and id: what RViz keeps a marker under


class MessageTypes(Protocol):
    """Where message classes come from."""

    def get(self, name: str) -> Any:
        """The class of a message by its full name, e.g. ``psg4d_ros/msg/SceneGraph``."""

    def array(self, values: NDArray[Any]) -> Any:
        """``values`` (one-dimensional, numbers or bool) in the form that these classes hold numeric sequences in."""


def time_parts(stamp_ns: int) -> tuple[int, int]:
    """Seconds and nanoseconds of a stamp, as builtin_interfaces/Time holds them; the second is in [0, 1e9)."""
    sec, nanosec = divmod(int(stamp_ns), NS_PER_S)
    return sec, nanosec


def time_message(stamp_ns: int, types: MessageTypes) -> Any:
    """builtin_interfaces/Time of a stamp."""
    sec, nanosec = time_parts(stamp_ns)
    return types.get("builtin_interfaces/msg/Time")(sec=sec, nanosec=nanosec)


def stamp_of(time: Any) -> int:
    """Nanoseconds of a builtin_interfaces/Time."""
    return int(time.sec) * NS_PER_S + int(time.nanosec)


def header_message(stamp_ns: int, frame_id: str, types: MessageTypes) -> Any:
    """std_msgs/Header."""
    return types.get("std_msgs/msg/Header")(stamp=time_message(stamp_ns, types), frame_id=frame_id)


def graph_message(graph: SceneGraph, types: MessageTypes) -> Any:
    """psg4d_ros/SceneGraph. The labelled points go into a message of their own, see cloud.instance_cloud."""
    return types.get("psg4d_ros/msg/SceneGraph")(
        header=header_message(graph.stamp_ns, graph.frame_id, types),
        window_start=time_message(graph.window_start_ns, types),
        window_end=time_message(graph.window_end_ns, types),
        num_frames=int(graph.num_frames),
        sequence=int(graph.sequence),
        epoch=int(graph.epoch),
        model_id=graph.model_id,
        model_sha256=graph.model_sha256,
        status=int(graph.status),
        status_text=graph.status_text,
        objects=[_object_message(o, types) for o in graph.objects],
        relations=[_relation_message(r, types) for r in graph.relations],
        stage_names=list(graph.stage_ms),
        stage_ms=types.array(np.fromiter(graph.stage_ms.values(), dtype=np.float32)),
    )


def graph_from_message(message: Any) -> SceneGraph:
    """The reverse of graph_message, for messages of either kind; ``cloud`` is empty, since the message holds no points.

    Scores and times of stages come back in float32's precision. Raises ValueError for a graph that contradicts itself
    (repeated track ids, relations between unknown tracks, an unknown status).
    """
    return SceneGraph(
        stamp_ns=stamp_of(message.header.stamp),
        frame_id=str(message.header.frame_id),
        window_start_ns=stamp_of(message.window_start),
        window_end_ns=stamp_of(message.window_end),
        num_frames=int(message.num_frames),
        sequence=int(message.sequence),
        epoch=int(message.epoch),
        model_id=str(message.model_id),
        model_sha256=str(message.model_sha256),
        status=GraphStatus(int(message.status)),
        status_text=str(message.status_text),
        objects=tuple(_object_from(o) for o in message.objects),
        relations=tuple(_relation_from(r) for r in message.relations),
        cloud=_NO_POINTS,
        stage_ms={str(n): float(ms) for n, ms in zip(message.stage_names, message.stage_ms, strict=True)},
    )


_NO_POINTS = LabelledCloud(
    points=np.zeros((0, 3), np.float32),
    track_id=np.zeros(0, np.uint32),
    class_id=np.zeros(0, np.int32),
    score=np.zeros(0, np.float32),
    source_index=np.zeros(0, np.int64),
)


def event_message(event: GraphEvent, types: MessageTypes) -> Any:
    """psg4d_ros/SceneGraphEvent."""
    relation = event.relation or Relation(0, "", 0, 0, 0.0, 0, 0, False)  # the message's default values
    return types.get("psg4d_ros/msg/SceneGraphEvent")(
        header=header_message(event.stamp_ns, event.frame_id, types),
        type=int(event.type),
        object=_object_message(event.object, types),
        relation=_relation_message(relation, types),
        epoch=int(event.epoch),
    )


def label_info_message(model_id: str, vocabulary: Vocabulary, stamp_ns: int, frame_id: str, types: MessageTypes) -> Any:
    """psg4d_ros/LabelInfo: the table that class_id and predicate_id point into.

    Ids index the checkpoint's vocabulary. Words added at run time have id -1 and no row; a word of the checkpoint that
    is not looked for at present keeps its row, with an empty name.
    """
    classes = {i: c for i, c in zip(vocabulary.class_ids, vocabulary.classes, strict=True) if i >= 0}
    predicates = {i: p for i, p in zip(vocabulary.predicate_ids, vocabulary.predicates, strict=True) if i >= 0}
    class_rows = [classes.get(i) for i in range(max(classes, default=-1) + 1)]
    return types.get("psg4d_ros/msg/LabelInfo")(
        header=header_message(stamp_ns, frame_id, types),
        model_id=model_id,
        class_names=["" if c is None else c.name for c in class_rows],
        class_is_thing=types.array(np.array([c is not None and c.is_thing for c in class_rows], dtype=bool)),
        predicate_names=[predicates.get(i, "") for i in range(max(predicates, default=-1) + 1)],
    )


def _object_message(o: SceneObject, types: MessageTypes) -> Any:
    velocity = np.zeros(3) if o.velocity is None else o.velocity
    return types.get("psg4d_ros/msg/SceneObject")(
        track_id=int(o.track_id),
        label=o.label,
        class_id=int(o.class_id),
        score=float(o.score),
        is_thing=bool(o.is_thing),
        attributes=list(o.attributes),
        alternative_labels=[a.label for a in o.alternatives],
        alternative_scores=types.array(np.array([a.score for a in o.alternatives], dtype=np.float32)),
        pose=pose_message(o.position, o.orientation, types),
        size=xyz_message("geometry_msgs/msg/Vector3", o.size, types),
        velocity=xyz_message("geometry_msgs/msg/Vector3", velocity, types),
        velocity_valid=o.velocity is not None,
        first_seen=time_message(o.first_seen_ns, types),
        last_seen=time_message(o.last_seen_ns, types),
        num_points=int(o.num_points),
    )


def _object_from(message: Any) -> SceneObject:
    position, orientation, velocity = message.pose.position, message.pose.orientation, message.velocity
    return SceneObject(
        track_id=int(message.track_id),
        label=str(message.label),
        class_id=int(message.class_id),
        score=float(message.score),
        is_thing=bool(message.is_thing),
        attributes=tuple(str(a) for a in message.attributes),
        alternatives=tuple(
            LabelScore(str(label), float(score))
            for label, score in zip(message.alternative_labels, message.alternative_scores, strict=True)
        ),
        position=np.array([position.x, position.y, position.z], dtype=np.float64),
        orientation=np.array([orientation.x, orientation.y, orientation.z, orientation.w], dtype=np.float64),
        size=np.array([message.size.x, message.size.y, message.size.z], dtype=np.float64),
        velocity=np.array([velocity.x, velocity.y, velocity.z], dtype=np.float64) if message.velocity_valid else None,
        first_seen_ns=stamp_of(message.first_seen),
        last_seen_ns=stamp_of(message.last_seen),
        num_points=int(message.num_points),
    )


def _relation_message(r: Relation, types: MessageTypes) -> Any:
    return types.get("psg4d_ros/msg/Relation")(
        subject_id=int(r.subject_id),
        predicate=r.predicate,
        predicate_id=int(r.predicate_id),
        object_id=int(r.object_id),
        score=float(r.score),
        start=time_message(r.start_ns, types),
        end=time_message(r.end_ns, types),
        ongoing=bool(r.ongoing),
    )


def _relation_from(message: Any) -> Relation:
    return Relation(
        subject_id=int(message.subject_id),
        predicate=str(message.predicate),
        predicate_id=int(message.predicate_id),
        object_id=int(message.object_id),
        score=float(message.score),
        start_ns=stamp_of(message.start),
        end_ns=stamp_of(message.end),
        ongoing=bool(message.ongoing),
    )


def xyz_message(name: str, values: Sequence[float] | NDArray[np.float64], types: MessageTypes) -> Any:
    """A message of three numbers, by the full name of its type."""
    return types.get(name)(x=float(values[0]), y=float(values[1]), z=float(values[2]))


def pose_message(
    position: Sequence[float] | NDArray[np.float64],
    quaternion_xyzw: Sequence[float] | NDArray[np.float64],
    types: MessageTypes,
) -> Any:
    """geometry_msgs/Pose."""
    x, y, z, w = (float(v) for v in quaternion_xyzw)
    return types.get("geometry_msgs/msg/Pose")(
        position=xyz_message("geometry_msgs/msg/Point", position, types),
        orientation=types.get("geometry_msgs/msg/Quaternion")(x=x, y=y, z=z, w=w),
    )


def track_color(track_id: NDArray[Any] | int) -> NDArray[np.uint8]:
    """Colour of each track, uint8[..., 3] red, green, blue for ids of shape [...]; id 0 (unassigned) is grey.

    Stable: it depends on the id alone. Hues follow the golden ratio, so that ids close to each other lie far apart.
    """
    ids = np.asarray(track_id, dtype=np.float64)
    hue = (ids * 0.6180339887498949) % 1.0
    value = 1.0 - 0.22 * (ids // 7 % 3)  # ids whose hues come near each other again differ in brightness
    saturation = 0.9 - 0.35 * (ids // 21 % 2)
    # HSV to RGB: each channel is a trapezoid of the hue, shifted by a third of a turn
    sector = (hue[..., None] * 6.0 + np.array([5.0, 3.0, 1.0])) % 6.0
    ramp = np.clip(np.minimum(sector, 4.0 - sector), 0.0, 1.0)
    rgb = value[..., None] * (1.0 - saturation[..., None] * ramp)
    rgb = np.where(ids[..., None] > 0, rgb, 0.45)
    return np.asarray(np.rint(rgb * 255.0), dtype=np.uint8)


class _Shape(IntEnum):
    """Marker.type."""

    ARROW = 0
    CUBE = 1
    TEXT = 9


class _Action(IntEnum):
    """Marker.action."""

    ADD = 0
    DELETE = 2
    DELETEALL = 3


def marker_array(
    graph: SceneGraph, types: MessageTypes, previous_ids: AbstractSet[MarkerId] | None
) -> tuple[Any, frozenset[MarkerId]]:
    """visualization_msgs/MarkerArray of a graph for RViz, and the ids it shows, to be handed in with the next graph.

    Namespaces: ``boxes`` and ``labels`` (id = track_id), ``relations`` and ``predicates`` (arrows and words of ongoing
    relations). Ids of ``previous_ids`` that are not shown any more are deleted; None (the first call) clears whatever
    an earlier run left in the viewer.
    """
    header = header_message(graph.stamp_ns, graph.frame_id, types)

    def marker(
        ns: str,
        number: int,
        shape: _Shape = _Shape.CUBE,
        action: _Action = _Action.ADD,
        position: Sequence[float] | NDArray[np.float64] = (0.0, 0.0, 0.0),
        orientation: Sequence[float] | NDArray[np.float64] = (0.0, 0.0, 0.0, 1.0),
        scale: Sequence[float] | NDArray[np.float64] = (0.0, 0.0, 0.0),
        color: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
        text: str = "",
        points: Sequence[NDArray[np.float64]] = (),
    ) -> Any:
        r, g, b, a = (float(c) for c in color)
        no_bytes = types.array(np.zeros(0, dtype=np.uint8))
        return types.get("visualization_msgs/msg/Marker")(
            header=header,
            ns=ns,
            id=number,
            type=int(shape),
            action=int(action),
            pose=pose_message(position, orientation, types),
            scale=xyz_message("geometry_msgs/msg/Vector3", scale, types),
            color=types.get("std_msgs/msg/ColorRGBA")(r=r, g=g, b=b, a=a),
            lifetime=types.get("builtin_interfaces/msg/Duration")(sec=0, nanosec=0),
            frame_locked=False,
            points=[xyz_message("geometry_msgs/msg/Point", p, types) for p in points],
            colors=[],
            texture_resource="",
            texture=types.get("sensor_msgs/msg/CompressedImage")(header=header, format="", data=no_bytes),
            uv_coordinates=[],
            text=text,
            mesh_resource="",
            mesh_file=types.get("visualization_msgs/msg/MeshFile")(filename="", data=no_bytes),
            mesh_use_embedded_materials=False,
        )

    markers = []
    for o in graph.objects:
        color = track_color(o.track_id) / 255.0
        number = _marker_id(o.track_id)
        # Stuff (floor, wall) spans the room: drawn fainter, so that the things in it can be seen.
        box = (*color, 0.35 if o.is_thing else 0.10)
        markers.append(
            marker("boxes", number, _Shape.CUBE, _Action.ADD, o.position, o.orientation, np.maximum(o.size, 0.01), box)
        )
        top = o.position + np.array([0.0, 0.0, 0.5 * float(o.size[2]) + 0.1])
        text = f"{o.label} {o.track_id} ({o.score:.2f})"
        markers.append(
            marker("labels", number, _Shape.TEXT, position=top, scale=(0.0, 0.0, 0.12), color=(1, 1, 1, 1), text=text)
        )
    places = {o.track_id: o.position for o in graph.objects}
    between: dict[tuple[int, int], int] = {}
    for number, r in enumerate(r for r in graph.relations if r.ongoing):
        start, end = places[r.subject_id], places[r.object_id]
        arrow = (*(track_color(r.subject_id) / 255.0), 0.9)
        markers.append(
            marker("relations", number, _Shape.ARROW, scale=(0.02, 0.05, 0.08), color=arrow, points=(start, end))
        )
        # Several relations of one pair would print over each other: each next one stands a line higher.
        pair = (min(r.subject_id, r.object_id), max(r.subject_id, r.object_id))
        line = between[pair] = between.get(pair, 0) + 1
        middle = 0.5 * (start + end) + np.array([0.0, 0.0, 0.1 * line])
        markers.append(
            marker("predicates", number, _Shape.TEXT, position=middle, scale=(0, 0, 0.1), color=arrow, text=r.predicate)
        )
    shown = frozenset((m.ns, m.id) for m in markers)
    stale = [marker(ns, n, action=_Action.DELETE) for ns, n in sorted((previous_ids or frozenset()) - shown)]
    clear = [marker("", 0, action=_Action.DELETEALL)] if previous_ids is None else []
    return types.get("visualization_msgs/msg/MarkerArray")(markers=[*clear, *stale, *markers]), shown


def _marker_id(track_id: int) -> int:
    """A track id as Marker.id holds it (int32)."""
    return int(track_id) & 0x7FFFFFFF
