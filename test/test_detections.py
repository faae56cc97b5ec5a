"""Detections in the words of vision_msgs: in bags, and from the node where that package is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from message_classes import KINDS, message_classes
from scene_graphs import graph, holds, thing

from psg4d_ros.data.bag import BagWriter, bag_types, deserialize, open_bag, serialize
from psg4d_ros.detections import DETECTIONS_TYPE, detections_message
from psg4d_ros.structures import LabelScore

HAVE_VISION_MSGS = importlib.util.find_spec("vision_msgs") is not None


@pytest.fixture(params=KINDS)
def types(request: pytest.FixtureRequest) -> Any:
    if request.param == "rclpy" and not HAVE_VISION_MSGS:
        pytest.skip("vision_msgs is not installed (there is no wheel of it; apt install ros-$ROS_DISTRO-vision-msgs)")
    return message_classes(request.param)


def test_each_thing_in_sight_is_a_detection(types: Any) -> None:
    cup = thing(3, "cup", alternatives=(LabelScore("bowl", 0.25), LabelScore("cup", 0.5)), score=0.5)
    said = graph(cup, thing(4, "floor", is_thing=False), thing(5, "table", num_points=0), holds(3, "on", 4))
    message = detections_message(said, types)
    (detection,) = message.detections
    assert detection.id == "3"
    assert [(r.hypothesis.class_id, r.hypothesis.score) for r in detection.results] == [("cup", 0.5), ("bowl", 0.25)]
    center, size = detection.bbox.center, detection.bbox.size
    assert (center.position.x, center.position.y, center.position.z) == tuple(cup.position)
    assert (size.x, size.y, size.z) == tuple(cup.size)
    assert detection.results[0].pose.pose.position == center.position
    assert len(detection.results[0].pose.covariance) == 36
    assert message.header.frame_id == detection.header.frame_id == said.frame_id


def test_they_survive_a_bag(tmp_path: Path) -> None:
    message = detections_message(graph(thing(1), thing(2)), bag_types())
    again = deserialize(serialize(message), DETECTIONS_TYPE)
    assert [d.id for d in again.detections] == ["1", "2"]
    np.testing.assert_array_equal(again.detections[0].results[0].pose.covariance, np.zeros(36))
    with BagWriter(tmp_path / "a.mcap") as bag:
        bag.write("/scene_graph/detections", message, 1)
    with open_bag(tmp_path / "a.mcap") as bag:
        assert bag.topics == {"/scene_graph/detections": DETECTIONS_TYPE}


@pytest.mark.ros
@pytest.mark.skipif(HAVE_VISION_MSGS, reason="vision_msgs is installed: there is nothing to complain of")
def test_a_node_that_is_asked_for_them_without_vision_msgs_says_so_and_does_not_start(
    tiny_checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rclpy", reason="needs rclpy: source a ROS 2 distribution, or run `make test` for the wheels")
    from node_support import make_node
    from ros_support import ros_context

    with ros_context() as context:
        node = make_node(context, tiny_checkpoint, output__detections=True)
        assert node.trigger_configure().name == "FAILURE"
        node.destroy_node()
    assert "vision_msgs is not installed: apt install ros-$ROS_DISTRO-vision-msgs" in capfd.readouterr().err


@pytest.mark.ros
@pytest.mark.skipif(
    not HAVE_VISION_MSGS, reason="vision_msgs is not installed (apt install ros-$ROS_DISTRO-vision-msgs)"
)
def test_a_node_that_is_asked_for_them_publishes_them_with_each_graph(tiny_checkpoint: Path) -> None:
    from node_support import running, stamp_of
    from ros_support import wait_until
    from vision_msgs.msg import Detection3DArray

    free = {"inference__presence_threshold": 0.0, "inference__mask_threshold": 0.0, "tracker__min_windows": 1}
    with running(tiny_checkpoint, output__detections=True, **free) as (_, probe):
        heard = probe.collect(Detection3DArray, "scene_graph/detections")
        wait_until(lambda: probe.node.count_publishers("/scene_graph/detections"), "the publisher")

        def both() -> Any:
            said = probe.send_and_wait()
            return [(m, said) for m in heard if stamp_of(m) == stamp_of(said)]

        message, said = wait_until(both, "detections of the same cloud")[0]
    seen = [o for o in said.objects if o.is_thing and o.num_points]
    assert [d.id for d in message.detections] == [str(o.track_id) for o in seen]
    assert [d.bbox.center for d in message.detections] == [o.pose for o in seen]
