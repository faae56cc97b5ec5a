"""Plays a bag's clouds, its transforms and the clock: what `ros2 bag play` does, without rosbag2 installed."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import PointCloud2

from psg4d_ros.data.bag import TF_TYPE, Bag, open_bag

from .process import run

NODE_NAME = "bag_player"
CLOCK_PERIOD_S = 0.02
NS_PER_S = 1_000_000_000


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line, without the part after --ros-args."""
    parser = argparse.ArgumentParser(prog=NODE_NAME, description=__doc__)
    parser.add_argument("bag", type=Path, help="rosbag2 folder, or one .mcap or .db3 file")
    parser.add_argument("--topic", help="cloud topic of the bag (default: the only one)")
    parser.add_argument("--publish-as", help="publish the clouds under this topic (default: as in the bag)")
    parser.add_argument("--rate", type=float, default=1.0, help="speed: 2.0 plays twice as fast (default: 1.0)")
    parser.add_argument("--loop", action="store_true", help="start again at the end, until stopped")
    parser.add_argument("--best-effort", action="store_true", help="offer the clouds BEST_EFFORT, as sensors often do")
    parser.add_argument(
        "--wait-for-subscribers", type=int, default=0, metavar="N", help="begin when N nodes listen to the clouds"
    )
    options = parser.parse_args(arguments)
    if options.rate <= 0:
        parser.error(f"--rate is {options.rate}, expected more than 0")
    if options.bag.suffix == ".bag":
        parser.error(f"{options.bag} is a ROS 1 bag; convert it with rosbags-convert first")
    return options


class BagPlayer:
    """Publishes the serialised messages of a bag at the times of their recording, and the bag's time on /clock.

    limit: ends after that many clouds. before_cloud: called with each one's bytes just before they are published.
    """

    def __init__(
        self,
        node: Any,
        bag: Bag,
        options: argparse.Namespace,
        *,
        limit: int | None = None,
        before_cloud: Callable[[bytes], None] = lambda raw: None,
    ) -> None:
        self._node = node
        self._bag = bag
        self._rate = options.rate
        self._limit = limit
        self._before_cloud = before_cloud
        topic = bag.choose_cloud_topic(options.topic)
        offered = ReliabilityPolicy.BEST_EFFORT if options.best_effort else ReliabilityPolicy.RELIABLE
        self.clouds = node.create_publisher(
            PointCloud2, options.publish_as or topic, QoSProfile(depth=10, reliability=offered)
        )
        self._clock = node.create_publisher(Clock, "/clock", 10)
        self._publishers: dict[str, Any] = {topic: self.clouds, **self._transform_publishers()}
        self.published = 0

    def play(self) -> None:
        """Play the bag once. The clock runs on between messages; it jumps back when this is called again."""
        start = first_ns = last_ns = None
        for topic, _, raw, recorded_ns in self._bag.raw_messages(list(self._publishers)):
            if start is None or first_ns is None:
                start, first_ns = time.monotonic(), recorded_ns
            self._wait_until(start, first_ns, recorded_ns)
            self._tick(recorded_ns)
            publisher = self._publishers[topic]
            if publisher is self.clouds:
                self._before_cloud(raw)
                self.published += 1
            publisher.publish(raw)
            last_ns = recorded_ns
            if self.published == self._limit:
                break
        if start is not None and first_ns is not None and last_ns is not None:
            # One more clock period, so that a looping bag does not put two clouds at the same moment.
            self._wait_until(start, first_ns, last_ns + round(CLOCK_PERIOD_S * self._rate * NS_PER_S))

    def wait_for_subscribers(self, number: int) -> None:
        """Wait until so many subscriptions to the clouds are there."""
        if self.clouds.get_subscription_count() < number:
            self._node.get_logger().info(f"waiting for {number} subscriber(s) of {self.clouds.topic_name}")
        while self.clouds.get_subscription_count() < number:
            self._pause(0.05)

    def finish(self) -> None:
        """Wait until the last clouds have arrived everywhere, at most 5 s."""
        self.clouds.wait_for_all_acked(rclpy.duration.Duration(seconds=5))
        self._node.get_logger().info(f"played {self.published} clouds")

    def _transform_publishers(self) -> dict[str, Any]:
        topics = [topic for topic, kind in self._bag.topics.items() if kind == TF_TYPE]
        if not topics:
            return {}
        if importlib.util.find_spec("tf2_msgs") is None:
            self._node.get_logger().warning(
                f"{', '.join(topics)} of the bag not published: tf2_msgs is not installed (it comes with tf2_ros)"
            )
            return {}
        message_type = importlib.import_module("tf2_msgs.msg").TFMessage
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        return {
            topic: self._node.create_publisher(
                message_type, topic, latched if topic.endswith("tf_static") else QoSProfile(depth=100)
            )
            for topic in topics
        }

    def _wait_until(self, start: float, first_ns: int, stamp_ns: int) -> None:
        """Sleep until the bag's time is ``stamp_ns``, while the clock ticks."""
        end = start + (stamp_ns - first_ns) / NS_PER_S / self._rate
        while (now := time.monotonic()) < end:
            self._tick(first_ns + round((now - start) * self._rate * NS_PER_S))
            self._pause(min(CLOCK_PERIOD_S, end - now))

    def _tick(self, stamp_ns: int) -> None:
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(stamp_ns, NS_PER_S)
        self._clock.publish(message)

    def _pause(self, seconds: float) -> None:
        time.sleep(seconds)
        if not self._node.context.ok():
            raise ExternalShutdownException


def main(args: list[str] | None = None) -> int:
    """Play until the end, SIGINT or SIGTERM. Exit status: 0, 1 for a bag that cannot be played, 2 for wrong usage."""
    arguments = sys.argv if args is None else [NODE_NAME, *args]
    options = parse(remove_ros_args(arguments)[1:])

    def body() -> int:
        node = rclpy.create_node(NODE_NAME)
        with open_bag(options.bag) as bag:
            player = BagPlayer(node, bag, options)
            player.wait_for_subscribers(options.wait_for_subscribers)
            player.play()
            while options.loop:
                player.play()
            player.finish()
        return 0

    status = run(NODE_NAME, arguments, body)
    rclpy.try_shutdown()
    return status


if __name__ == "__main__":
    sys.exit(main())
