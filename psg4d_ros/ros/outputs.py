"""What the node publishes: each graph, its labelled cloud, detections, events and markers, and the label table."""

from __future__ import annotations

import array
import importlib
import importlib.util
from typing import Any

import numpy as np
from rclpy.qos import DurabilityPolicy, QoSProfile

from psg4d_ros.cloud import instance_cloud
from psg4d_ros.config import OutputConfig
from psg4d_ros.detections import DETECTIONS_TYPE, detections_message
from psg4d_ros.errors import ConfigError
from psg4d_ros.events import graph_events
from psg4d_ros.messages import event_message, graph_message, label_info_message, marker_array
from psg4d_ros.structures import SceneGraph
from psg4d_ros.vocabulary import Vocabulary


class RclpyTypes:
    """MessageTypes of rclpy: classes by their full names, and arrays in the form that rclpy copies fastest."""

    def __init__(self) -> None:
        self._known: dict[str, type] = {}

    def get(self, name: str) -> type:
        if name not in self._known:
            package, kind, short = name.split("/")
            self._known[name] = getattr(importlib.import_module(f"{package}.{kind}"), short)
        return self._known[name]

    def array(self, values: np.ndarray[Any, Any]) -> array.array[Any] | list[bool]:
        if values.dtype == bool:
            return values.tolist()  # bool[] is a list in rclpy
        code = {"u1": "B", "i1": "b", "u2": "H", "i2": "h", "u4": "I", "i4": "i", "f4": "f", "f8": "d"}
        out: array.array[Any] = array.array(code[values.dtype.str[1:]])
        if values.size:
            out.frombytes(np.ascontiguousarray(values).data.cast("B"))
        return out


def check_outputs(config: OutputConfig) -> None:
    """Raise ConfigError for an output whose messages are not installed."""
    if config.detections and importlib.util.find_spec("vision_msgs") is None:
        raise ConfigError(
            "output.detections is true, but vision_msgs is not installed: apt install ros-$ROS_DISTRO-vision-msgs, "
            "or leave output.detections at false"
        )


class GraphOutputs:
    """The publishers. ``publish`` may run in another thread than the rest; one call at a time."""

    def __init__(self, node: Any, config: OutputConfig) -> None:
        self._node = node
        self._types = RclpyTypes()
        self._previous: SceneGraph | None = None
        self._marker_ids: Any = None
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._graph = self._publisher("psg4d_ros/msg/SceneGraph", "scene_graph", 10)
        self._instances = self._publisher("sensor_msgs/msg/PointCloud2", "scene_graph/instances", 5)
        self._detections: Any = None
        if config.detections:
            self._detections = self._publisher(DETECTIONS_TYPE, "scene_graph/detections", 10)
        self._events = self._publisher("psg4d_ros/msg/SceneGraphEvent", "scene_graph/events", 100)
        self._markers = self._publisher("visualization_msgs/msg/MarkerArray", "scene_graph/markers", 10)
        self._label_info = self._publisher("psg4d_ros/msg/LabelInfo", "scene_graph/label_info", latched)

    @property
    def types(self) -> RclpyTypes:
        return self._types

    def publish(self, graph: SceneGraph) -> None:
        """Publish a graph and all that is made from it; what nobody listens to is not built.

        The cloud and the markers go first, so that who has the graph can rely on them being on their way.
        """
        if self._instances.get_subscription_count():
            self._instances.publish(instance_cloud(graph, self._types))
        if self._markers.get_subscription_count():
            message, self._marker_ids = marker_array(graph, self._types, self._marker_ids)
            self._markers.publish(message)
        if self._detections is not None and self._detections.get_subscription_count():
            self._detections.publish(detections_message(graph, self._types))
        self._graph.publish(graph_message(graph, self._types))
        events = graph_events(self._previous, graph)
        self._previous = graph
        if self._events.get_subscription_count():
            for event in events:
                self._events.publish(event_message(event, self._types))

    def publish_labels(self, model_id: str, vocabulary: Vocabulary, stamp_ns: int) -> None:
        """Publish the label table; latched, so that later subscribers get it too."""
        self._label_info.publish(label_info_message(model_id, vocabulary, stamp_ns, "", self._types))

    def close(self) -> None:
        optional = [] if self._detections is None else [self._detections]
        for publisher in (self._graph, self._instances, self._events, self._markers, self._label_info, *optional):
            self._node.destroy_lifecycle_publisher(publisher)

    def _publisher(self, type_name: str, topic: str, qos: QoSProfile | int) -> Any:
        return self._node.create_lifecycle_publisher(self._types.get(type_name), topic, qos)
