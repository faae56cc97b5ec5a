"""What RViz and Foxglove are told to show is what the node publishes: topic, type, and a QoS that fits."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from psg4d_ros.cloud import instance_cloud
from psg4d_ros.data.bag import bag_types
from psg4d_ros.messages import marker_array

CONFIG = Path(__file__).parent.parent / "config"
CLOUD, MARKERS = "sensor_msgs/msg/PointCloud2", "visualization_msgs/msg/MarkerArray"
INPUT = "/points"  # the default of cloud_topic in launch/perception.launch.py: heard by the node, not published


def displays() -> list[dict[str, Any]]:
    """All of RViz' displays that have a topic."""
    view = yaml.safe_load((CONFIG / "perception.rviz").read_text())
    return [d for d in view["Visualization Manager"]["Displays"] if "Topic" in d]


def panels() -> dict[str, dict[str, Any]]:
    return dict(json.loads((CONFIG / "perception.foxglove.json").read_text())["configById"])


def foxglove_topics() -> dict[str, str]:
    """Topic -> the type that its panel draws; "" where the panel takes any."""
    kinds = {"/scene_graph/instances": CLOUD, INPUT: CLOUD, "/scene_graph/markers": MARKERS}
    found = {topic: kinds[topic] for topic in panels()["3D!scene"]["topics"]}
    for name, panel in panels().items():
        if name.startswith("RawMessages!"):
            found[re.split(r"[.\[{]", panel["topicPath"])[0]] = ""
    return found | {panels()["DiagnosticSummary!node"]["topicToRender"]: "diagnostic_msgs/msg/DiagnosticArray"}


def leaves(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    else:
        assert set(tree) == {"direction", "first", "second", "splitPercentage"}
        yield from leaves(tree["first"])
        yield from leaves(tree["second"])


def test_rviz_shows_points_by_track_boxes_labels_and_relations() -> None:
    by_class = {d["Class"].split("/")[1]: d for d in displays() if d["Enabled"]}
    assert by_class["PointCloud2"]["Topic"]["Value"] == "/scene_graph/instances"
    assert by_class["PointCloud2"]["Color Transformer"] == "RGB8"  # reads the field rgb, which is by track
    assert by_class["MarkerArray"]["Topic"]["Value"] == "/scene_graph/markers"
    assert by_class["MarkerArray"]["Namespaces"] == dict.fromkeys(("boxes", "labels", "relations", "predicates"), True)


def test_the_namespaces_and_the_colour_field_are_those_of_the_messages() -> None:
    from scene_graphs import graph, holds, thing

    said = graph(thing(1), thing(2), holds(1, "on", 2))
    markers, _ = marker_array(said, bag_types(), frozenset())
    (shown,) = (d["Namespaces"] for d in displays() if "Namespaces" in d)
    assert {m.ns for m in markers.markers} == set(shown)
    assert "rgb" in {f.name for f in instance_cloud(said, bag_types()).fields}
    assert panels()["3D!scene"]["topics"]["/scene_graph/instances"]["colorField"] == "rgb"


def test_the_foxglove_layout_has_a_place_for_each_panel() -> None:
    layout = json.loads((CONFIG / "perception.foxglove.json").read_text())
    assert set(layout) == {"configById", "globalVariables", "userNodes", "playbackConfig", "layout"}
    assert sorted(leaves(layout["layout"])) == sorted(layout["configById"])


@pytest.mark.ros
def test_every_topic_is_one_of_the_node_with_that_type_and_a_qos_that_fits(tiny_checkpoint) -> None:
    pytest.importorskip("rclpy", reason="needs rclpy: source a ROS 2 distribution, or run `make test` for the wheels")
    from node_support import running
    from rclpy.qos import DurabilityPolicy, QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible

    with running(tiny_checkpoint) as (_, probe):
        topics = [d["Topic"]["Value"] for d in displays()] + list(foxglove_topics())
        offered = {t: probe.node.get_publishers_info_by_topic(t) for t in topics if t != INPUT}
        publishers = {topic: [info.node_name for info in infos] for topic, infos in offered.items()}
        assert publishers == {topic: ["perception"] for topic in offered}
        for topic, kind in foxglove_topics().items():
            if kind and topic != INPUT:
                assert offered[topic][0].topic_type == kind
        for display in displays():
            topic = display["Topic"]
            kind = {"PointCloud2": CLOUD, "MarkerArray": MARKERS}[display["Class"].split("/")[1]]
            if topic["Value"] == INPUT:
                assert kind == CLOUD
                continue
            (publisher,) = offered[topic["Value"]]
            assert publisher.topic_type == kind
            asked = QoSProfile(
                depth=topic["Depth"],
                reliability=ReliabilityPolicy[topic["Reliability Policy"].upper().replace(" ", "_")],
                durability=DurabilityPolicy[topic["Durability Policy"].upper().replace(" ", "_")],
            )
            assert qos_check_compatible(publisher.qos_profile, asked)[0] != QoSCompatibility.ERROR, topic
