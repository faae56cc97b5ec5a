"""The bag player: what it publishes is what the bag holds, at the bag's times."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy: source a ROS 2 distribution, or run `make test` for the wheels")

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_support import room, ros_context, spinning, wait_until
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import PointCloud2

from psg4d_ros.cloud import cloud_message, frame_from_cloud
from psg4d_ros.data.bag import BagWriter, bag_types, open_bag
from psg4d_ros.errors import DatasetError
from psg4d_ros.ros.bag_player import BagPlayer, parse

pytestmark = pytest.mark.ros
START_NS = 1_700_000_000 * 10**9
CLOUDS, PERIOD_NS = 5, 100_000_000


@pytest.fixture(scope="module")
def bag_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five clouds at 10 Hz and a static transform."""
    path = tmp_path_factory.mktemp("bag") / "small"
    types = bag_types()
    points = np.zeros(300, np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4")]))
    get = types.get
    with BagWriter(path) as bag:
        header = get("std_msgs/msg/Header")(
            stamp=get("builtin_interfaces/msg/Time")(sec=1_700_000_000, nanosec=0), frame_id="odom"
        )
        move = get("geometry_msgs/msg/Transform")(
            translation=get("geometry_msgs/msg/Vector3")(x=0.0, y=0.0, z=1.0),
            rotation=get("geometry_msgs/msg/Quaternion")(x=0.0, y=0.0, z=0.0, w=1.0),
        )
        stamped = get("geometry_msgs/msg/TransformStamped")(header=header, child_frame_id="camera", transform=move)
        bag.write("/tf_static", get("tf2_msgs/msg/TFMessage")(transforms=[stamped]), START_NS)
        for number in range(CLOUDS):
            for axis, name in enumerate("xyz"):
                points[name] = room(200, seed=number)[:300, axis]
            stamp_ns = START_NS + number * PERIOD_NS
            bag.write("/camera/points", cloud_message(points, stamp_ns, "camera", types), stamp_ns)
    return path


class Ear:
    """Hears the clouds and the clock."""

    def __init__(self, context: Any, topic: str) -> None:
        self.node = Node("ear", context=context, use_global_arguments=False)
        self.clouds: list[PointCloud2] = []
        self.clock: list[int] = []
        self.node.create_subscription(PointCloud2, topic, self.clouds.append, QoSProfile(depth=50))
        self.node.create_subscription(Clock, "/clock", lambda m: self.clock.append(_ns(m.clock)), 500)


def _ns(stamp: Any) -> int:
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


@pytest.fixture
def context() -> Any:
    with ros_context() as context:
        yield context


def test_the_clouds_of_the_bag_come_out_unchanged_with_the_clock(context: Any, bag_path: Path) -> None:
    node, ear = Node("player", context=context, use_global_arguments=False), Ear(context, "/points")
    with open_bag(bag_path) as bag, spinning(context, ear.node):
        player = BagPlayer(node, bag, parse([str(bag_path), "--publish-as", "/points", "--rate", "2"]))
        player.wait_for_subscribers(1)
        player.play()
        wait_until(lambda: len(ear.clouds) == CLOUDS, "all clouds")
        for message, (original, _) in zip(ear.clouds, bag.clouds(), strict=True):
            heard, recorded = frame_from_cloud(message), frame_from_cloud(original)
            assert heard.stamp_ns == recorded.stamp_ns
            assert heard.frame_id == "camera"
            np.testing.assert_array_equal(heard.points, recorded.points)
        wait_until(lambda: ear.clock and ear.clock[-1] >= START_NS + (CLOUDS - 1) * PERIOD_NS, "the end of the clock")
    assert ear.clock == sorted(ear.clock)
    assert ear.clock[0] >= START_NS
    # Between the clouds the clock goes on.
    assert len(set(ear.clock)) > 2 * CLOUDS


def test_a_second_round_starts_again_and_the_clock_jumps_back(context: Any, bag_path: Path) -> None:
    node, ear = Node("player", context=context, use_global_arguments=False), Ear(context, "/camera/points")
    with open_bag(bag_path) as bag, spinning(context, ear.node):
        player = BagPlayer(node, bag, parse([str(bag_path), "--rate", "10", "--loop"]))
        player.wait_for_subscribers(1)
        player.play()
        player.play()
        wait_until(lambda: len(ear.clouds) == 2 * CLOUDS, "two rounds")
    stamps = [_ns(m.header.stamp) for m in ear.clouds]
    assert stamps[:CLOUDS] == stamps[CLOUDS:]
    backward = [later < earlier for earlier, later in zip(ear.clock, ear.clock[1:], strict=False)]
    assert sum(backward) == 1


def test_clouds_can_be_offered_best_effort(context: Any, bag_path: Path) -> None:
    node = Node("player", context=context, use_global_arguments=False)
    with open_bag(bag_path) as bag:
        player = BagPlayer(node, bag, parse([str(bag_path), "--best-effort"]))
        assert player.clouds.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT


def test_a_topic_that_holds_no_clouds_is_refused(context: Any, bag_path: Path) -> None:
    node = Node("player", context=context, use_global_arguments=False)
    with open_bag(bag_path) as bag, pytest.raises(DatasetError, match="/camera/points"):
        BagPlayer(node, bag, parse([str(bag_path), "--topic", "/tf_static"]))


def test_transforms_are_published_where_that_is_possible_and_told_where_not(
    context: Any, bag_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    node = Node("player", context=context, use_global_arguments=False)
    with open_bag(bag_path) as bag:
        BagPlayer(node, bag, parse([str(bag_path)]))
        if importlib.util.find_spec("tf2_msgs") is None:
            assert "/tf_static of the bag not published: tf2_msgs is not installed" in capfd.readouterr().err
            return
        from tf2_msgs.msg import TFMessage

        heard: list[TFMessage] = []
        ear = Ear(context, "/camera/points")
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        ear.node.create_subscription(TFMessage, "/tf_static", heard.append, latched)
        with spinning(context, ear.node):
            BagPlayer(node, bag, parse([str(bag_path), "--rate", "10"])).play()
            wait_until(lambda: heard, "the static transform")
        assert heard[0].transforms[0].child_frame_id == "camera"


@pytest.mark.parametrize("arguments", [["x", "--rate", "0"], ["recording.bag"], []])
def test_wrong_usage_ends_with_status_two(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(arguments)
    assert end.value.code == 2
