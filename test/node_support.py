"""A perception node under test, in this process, and a probe that plays the rest of the robot."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_support import Process, cloud_message, own_domain, room, ros_context, spinning, values, wait_until
from sensor_msgs.msg import PointCloud2
from visualization_msgs.msg import MarkerArray

from psg4d_ros.msg import LabelInfo, SceneGraph, SceneGraphEvent
from psg4d_ros.ros.node import PerceptionNode

TOPIC = "/perception/input/points"


class Probe:
    """Publishes clouds, collects what the node publishes, calls its services."""

    def __init__(self, context: Any, namespace: str = "", reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE):
        self.node = Node("probe", context=context, use_global_arguments=False)
        self.prefix = namespace
        topic = f"{namespace}{TOPIC}"
        self.clouds = self.node.create_publisher(PointCloud2, topic, QoSProfile(depth=200, reliability=reliability))
        self.graphs: list[SceneGraph] = self.collect(SceneGraph, "scene_graph")
        self.diagnostics: list[DiagnosticArray] = []
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self.diagnostics.append, 50)
        self.stamp_ns = 1_700_000_000 * 10**9

    def collect(self, message_type: type, name: str, qos: Any = 50) -> list[Any]:
        """A list that fills with the messages of a topic."""
        found: list[Any] = []
        self.node.create_subscription(message_type, f"{self.prefix}/{name}", found.append, qos)
        return found

    def collect_labels(self) -> list[LabelInfo]:
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        return self.collect(LabelInfo, "scene_graph/label_info", latched)

    def collect_events(self) -> list[SceneGraphEvent]:
        return self.collect(SceneGraphEvent, "scene_graph/events", 500)

    def collect_instances(self) -> list[PointCloud2]:
        return self.collect(PointCloud2, "scene_graph/instances")

    def collect_markers(self) -> list[MarkerArray]:
        return self.collect(MarkerArray, "scene_graph/markers")

    def connected(self) -> Probe:
        """Wait until the node listens to the clouds."""
        wait_until(lambda: self.clouds.get_subscription_count() > 0, "the node's subscription")
        return self

    def send(self, stamp_ns: int | None = None, points: int = 800, **layout: Any) -> int:
        """Publish a cloud, half a second after the last one unless a stamp is given; its stamp."""
        self.stamp_ns = self.stamp_ns + 500_000_000 if stamp_ns is None else stamp_ns
        self.clouds.publish(cloud_message(room(points), self.stamp_ns, **layout))
        return self.stamp_ns

    def graph_of(self, stamp_ns: int) -> SceneGraph:
        """Wait for the graph of a cloud."""

        def found() -> SceneGraph | None:
            return next((g for g in self.graphs if stamp_of(g) == stamp_ns), None)

        return wait_until(found, f"the graph of {stamp_ns} (have {[stamp_of(g) for g in self.graphs]})")

    def send_and_wait(self, **layout: Any) -> SceneGraph:
        return self.graph_of(self.send(**layout))

    def status(self, name: str, holds: Callable[[DiagnosticStatus], Any] = lambda status: True) -> DiagnosticStatus:
        """Wait for a diagnostic status, sent from now on, for which ``holds`` is true."""
        start = len(self.diagnostics)

        def found() -> DiagnosticStatus | None:
            for message in self.diagnostics[start:]:
                for status in message.status:
                    if status.name.endswith(f"perception: {name}") and holds(status):
                        return status
            return None

        try:
            return wait_until(found, f"diagnostics of {name}")
        except AssertionError as error:
            last = [(s.name, s.message, values(s)) for m in self.diagnostics[-1:] for s in m.status]
            raise AssertionError(f"{error}; the last ones were {last}") from None

    def call(self, service_type: type, name: str, **fields: Any) -> Any:
        """Call a service of the node and wait for the answer."""
        client = self.node.create_client(service_type, f"{self.prefix}/perception/{name}")
        assert client.wait_for_service(10.0), name
        future = client.call_async(service_type.Request(**fields))
        wait_until(future.done, f"an answer of {name}")
        self.node.destroy_client(client)
        return future.result()


def stamp_of(message: Any) -> int:
    """Nanoseconds of a message's header."""
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)


def make_node(context: Any, checkpoint: Path, namespace: str = "", **parameters: Any) -> PerceptionNode:
    """An unconfigured node. parameters: dots written as double underscores."""
    given = {"checkpoint": str(checkpoint), "diagnostics_period_s": 0.1, "inference.threads": 1, "window.num_frames": 2}
    given |= {name.replace("__", "."): value for name, value in parameters.items()}
    return PerceptionNode(
        context=context,
        namespace=namespace or None,
        use_global_arguments=False,
        parameter_overrides=[Parameter(name, value=value) for name, value in given.items()],
    )


def play_to_node(bag: Path, checkpoint: Path, *heard: str, **environment: str) -> tuple[dict[str, Any], str, str]:
    """Player, node and a listener as processes of their own, until the listener has said all of ``heard``.

    Returns the messages that it heard, by topic, and what the node and the player printed. All of them end with 0.
    """
    domain, python = own_domain(), sys.executable
    remaps = ["--ros-args", "-r", "~/input/points:=/points"]
    # A random model's masks overlap and change: each graph is to hold what it finds.
    eager = "inference.min_kept:=0.0", "tracker.min_windows:=1"
    for setting in ("inference.threads:=1", "use_sim_time:=true", f"checkpoint:={checkpoint}", *eager):
        remaps += ["-p", setting]
    listener = Process([python, str(Path(__file__).parent / "ros_listener.py")], domain, **environment)
    node = Process([python, "-m", "psg4d_ros.ros.node", *remaps], domain, **environment)
    processes = [listener, node]
    try:
        node.wait_for("loaded tiny")
        listener.wait_for("ready")
        arguments = [str(bag), "--publish-as", "/points", "--wait-for-subscribers", "1"]
        player = Process([python, "-m", "psg4d_ros.ros.bag_player", *arguments], domain, **environment)
        processes.append(player)
        assert player.ended(90.0) == 0, player.output
        for line in heard:
            listener.wait_for(line)
        node.signal(signal.SIGINT)
        assert node.ended() == 0, node.output
        listener.signal(signal.SIGTERM)
        assert listener.ended() == 0, listener.output
    finally:
        for process in processes:
            process.kill()
    return json.loads(listener.output.splitlines()[-1]), node.output, player.output


@contextmanager
def running(checkpoint: Path, **parameters: Any) -> Iterator[tuple[PerceptionNode, Probe]]:
    """An active node and a connected probe, each with an executor of its own."""
    with ros_context() as context:
        node = make_node(context, checkpoint, **parameters)
        assert node.trigger_configure().name == "SUCCESS"
        assert node.trigger_activate().name == "SUCCESS"
        probe = Probe(context)
        with spinning(context, node), spinning(context, probe.node):
            yield node, probe.connected()
        node.free()
        node.destroy_node()
        probe.node.destroy_node()
