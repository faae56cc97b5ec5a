#!/usr/bin/env python3
"""Tell me when something is put on the table: a subscriber of /scene_graph.

python3 examples/put_on_table.py          # beside `ros2 launch psg4d_ros perception.launch.py`
"""

from contextlib import suppress

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node

from psg4d_ros.msg import SceneGraph


class PutOnTable(Node):
    def __init__(self) -> None:
        super().__init__("put_on_table")
        self.before: tuple[int, set[tuple[int, int]]] | None = None  # epoch, and what lay on tables: (thing, table)
        self.create_subscription(SceneGraph, "scene_graph", self.look, 10)

    def look(self, graph: SceneGraph) -> None:
        label = {o.track_id: o.label for o in graph.objects}
        relations = [r for r in graph.relations if r.ongoing and r.predicate == "on"]
        now = {(r.subject_id, r.object_id) for r in relations if "table" in label[r.object_id]}
        # Ids compare only inside one epoch; what lies there when we begin to look was not put there now.
        if self.before is not None and self.before[0] == graph.epoch:
            for thing, table in sorted(now - self.before[1]):
                stamp = graph.header.stamp.sec + graph.header.stamp.nanosec * 1e-9
                self.get_logger().info(f"{label[thing]} {thing} was put on {label[table]} {table} at {stamp:.2f} s")
        self.before = graph.epoch, now


def main() -> None:
    rclpy.init()
    with suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(PutOnTable())


if __name__ == "__main__":
    main()
