"""A process that listens to everything the node publishes, and prints it as JSON when it is told to end."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import PointCloud2
from visualization_msgs.msg import MarkerArray

from psg4d_ros.msg import LabelInfo, SceneGraph, SceneGraphEvent


def stamp_of(header: Any) -> int:
    return int(header.stamp.sec) * 10**9 + int(header.stamp.nanosec)


def graph(m: SceneGraph) -> dict[str, Any]:
    return {
        "stamp": stamp_of(m.header),
        "frame": m.header.frame_id,
        "epoch": m.epoch,
        "sequence": m.sequence,
        "status_text": m.status_text,
        "model_id": m.model_id,
        "points_of": {o.track_id: o.num_points for o in m.objects},
        "relations": [[r.subject_id, r.predicate, r.object_id] for r in m.relations],
    }


def instances(m: PointCloud2) -> dict[str, Any]:
    formats = {5: "<i4", 6: "<u4", 7: "<f4"}
    dtype = np.dtype(
        {
            "names": [f.name for f in m.fields],
            "formats": [formats[f.datatype] for f in m.fields],
            "offsets": [f.offset for f in m.fields],
            "itemsize": m.point_step,
        }
    )
    points = np.frombuffer(m.data, dtype)
    ids, counts = np.unique(points["instance"], return_counts=True)
    return {
        "stamp": stamp_of(m.header),
        "frame": m.header.frame_id,
        "fields": [f.name for f in m.fields],
        "points": len(points),
        "points_of": dict(zip(ids.tolist(), counts.tolist(), strict=True)),
        "largest_source_index": int(points["source_index"].max(initial=0)),
    }


def markers(m: MarkerArray) -> dict[str, Any]:
    shown = [marker for marker in m.markers if marker.action == marker.ADD]
    return {
        "stamps": sorted({stamp_of(marker.header) for marker in m.markers}),
        "boxes": sorted(marker.id for marker in shown if marker.ns == "boxes"),
        "arrows": sum(marker.ns == "relations" for marker in shown),
    }


def event(m: SceneGraphEvent) -> dict[str, Any]:
    return {"stamp": stamp_of(m.header), "type": m.type, "track": m.object.track_id}


def diagnostics(m: DiagnosticArray) -> dict[str, Any]:
    return {
        s.name: {"level": s.level[0], "message": s.message} | {pair.key: pair.value for pair in s.values}
        for s in m.status
    }


def tell(topic: str, summary: Any) -> None:
    """Lines that a test can wait for."""
    if topic == "scene_graph":
        print(f"graph {summary['stamp']}", flush=True)  # noqa: T201
    for name, status in summary.items() if topic == "/diagnostics" else ():
        if name.endswith("inference") and "windows_due" in status:
            served = int(status["windows_processed"]) + int(status["windows_replaced"])
            print(f"served {served} of {status['windows_due']}", flush=True)  # noqa: T201


def main() -> None:
    rclpy.init()
    node = rclpy.create_node("listener")
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    found: dict[str, list[Any]] = {}
    for topic, kind, summary, qos in (
        ("scene_graph", SceneGraph, graph, 50),
        ("scene_graph/instances", PointCloud2, instances, 50),
        ("scene_graph/markers", MarkerArray, markers, 50),
        ("scene_graph/events", SceneGraphEvent, event, 500),
        ("scene_graph/label_info", LabelInfo, lambda m: list(m.class_names), latched),
        ("/diagnostics", DiagnosticArray, diagnostics, 50),
    ):
        found[topic] = []

        def keep(message: Any, kept: list[Any] = found[topic], summary: Any = summary, name: str = topic) -> None:
            kept.append(summary(message))
            tell(name, kept[-1])

        node.create_subscription(kind, topic, keep, qos)
    waiting = True
    try:
        while True:
            rclpy.spin_once(node, timeout_sec=0.2)
            if waiting and all(node.count_publishers(topic) for topic in found):
                waiting = False
                print("ready", flush=True)  # noqa: T201
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
