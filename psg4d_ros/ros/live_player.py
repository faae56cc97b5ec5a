"""Plays a bag to a perception node in another process, and keeps what the node says: ``psg4d replay --live``.

The topics are those of a robot, so that RViz or Foxglove can look on; a node that is there already is an error, since
its graphs would be taken for ours.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import struct
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from sensor_msgs.msg import PointCloud2

from psg4d_ros.config import PipelineConfig, to_dict
from psg4d_ros.data.bag import CLOUD_TYPE, Bag, BagWriter, open_bag
from psg4d_ros.errors import ConfigError, DatasetError, Psg4dError
from psg4d_ros.evaluation.replay_live import GRAPHS, INSTANCES, Heard
from psg4d_ros.msg import SceneGraph
from psg4d_ros.processes import end_with_parent
from psg4d_ros.version import share_directory

from .bag_player import BagPlayer

GRAPH_TYPE = "psg4d_ros/msg/SceneGraph"
# Names of ours, by which others on the same topics are told.
NODE, PLAYER, SUBSCRIBER = "psg4d_replay_perception", "psg4d_replay_player", "psg4d_replay_subscriber"
DIAGNOSTICS_PERIOD_S = 0.25
# Participants of DDS announce themselves every three seconds: by then, others on our topics are known.
ANNOUNCEMENT_S = 3.5
# What we have matched, the other side has matched within this time.
MATCHED_S = 0.5
# A node whose diagnostics stop for so long, on a machine however busy, does not work any more. An inference may take as
# long as it likes, and a process that has ended is noticed at once.
SILENCE_S = 120.0
# What is still on its way when the node has said its last count arrives within this time, or is lost.
LAST_GRAPHS_S = 2.0
EXIT_PATIENCE_S = 10.0


@dataclass(frozen=True)
class LivePlay:
    """What to play, and to which node. rate: times as fast as recorded. limit: that many clouds. topic: of the clouds.

    on_cloud: called after each one.
    """

    bag: Path
    checkpoint: Path
    config: PipelineConfig
    topic: str | None = None
    limit: int | None = None
    rate: float = 1.0
    on_cloud: Callable[[], Any] = lambda: None


@contextmanager
def play_to_node(play: LivePlay) -> Iterator[Heard]:
    """Start a node, play the bag to it, wait until it has answered, end it.

    The messages that were heard are there until the block ends.

    Raises DatasetError for a bag that cannot be played, ConfigError for topics that somebody else uses, and Psg4dError
    when the node does not start or does not last.
    """
    if play.bag.suffix == ".bag":
        raise DatasetError(f"{play.bag} is a ROS 1 bag; convert it with rosbags-convert first, or leave out --live")
    if play.rate <= 0:
        raise ConfigError(f"the rate is {play.rate}, expected more than 0")
    with tempfile.TemporaryDirectory(prefix="psg4d-live-") as folder, open_bag(play.bag) as bag, _surroundings():
        topic = bag.choose_cloud_topic(play.topic)
        context = rclpy.Context()
        # Signals end us by KeyboardInterrupt, as everywhere on the command line.
        rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
        try:
            yield _play(replace(play, topic=topic), bag, Path(folder), context)
        finally:
            rclpy.try_shutdown(context=context)


def _play(play: LivePlay, bag: Bag, folder: Path, context: Any) -> Heard:
    published: dict[int, list[int]] = defaultdict(list)

    def before_cloud(raw: bytes) -> None:
        published[_stamp_ns(raw)].append(time.time_ns())
        play.on_cloud()

    speaker = Node(PLAYER, context=context, use_global_arguments=False)
    ours = (GRAPHS, INSTANCES, "/clock", str(play.topic))
    announced = time.monotonic() + ANNOUNCEMENT_S
    options = argparse.Namespace(topic=play.topic, publish_as=None, best_effort=False, rate=play.rate)
    player = BagPlayer(speaker, bag, options, limit=play.limit, before_cloud=before_cloud)
    messages = folder / "heard.mcap"
    with BagWriter(messages) as writer, _node_process(play, folder) as process:
        ear = _Ear(context, writer)
        with _spinning(context, ear):

            def ready() -> bool:
                _refuse_company(ear.node, ours)
                heard = all(ear.node.count_publishers(topic) for topic in (GRAPHS, INSTANCES))
                return heard and ear.state == "active" and player.clouds.get_subscription_count() > 0

            _until(ready, ear, process)
            time.sleep(max(MATCHED_S, announced - time.monotonic()))
            _refuse_company(ear.node, ours)
            start = time.monotonic()
            player.play()
            wall_s = time.monotonic() - start
            player.finish()
            _until_idle(ear, process)
    return Heard(messages, dict(published), player.published, ear.statuses, ear.resident_mb, play.rate, wall_s)


class _Ear:
    """Hears the node. Graphs and labelled clouds go into a bag as the bytes they came as, at their time of arrival."""

    def __init__(self, context: Any, writer: BagWriter) -> None:
        self.node = Node(SUBSCRIBER, context=context, use_global_arguments=False)
        self.error: Exception | None = None
        self.graphs = 0
        self.new_report = threading.Event()
        self.last_report = time.monotonic()
        self.statuses: dict[str, dict[str, str]] = {}
        self.resident_mb: list[float] = []

        def keep_graph(raw: bytes, info: Any) -> None:
            writer.write_raw(GRAPHS, GRAPH_TYPE, raw, _arrival_ns(info))
            self.graphs += 1

        def keep_points(raw: bytes, info: Any) -> None:
            writer.write_raw(INSTANCES, CLOUD_TYPE, raw, _arrival_ns(info))

        self.node.create_subscription(SceneGraph, GRAPHS, keep_graph, QoSProfile(depth=100), raw=True)
        self.node.create_subscription(PointCloud2, INSTANCES, keep_points, QoSProfile(depth=20), raw=True)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._look, 50)

    @property
    def state(self) -> str:
        return self.statuses.get("input", {}).get("lifecycle_state", "")

    def _look(self, message: Any) -> None:
        for status in message.status:
            node, _, name = status.name.partition(": ")
            if node == NODE:
                self.statuses[name] = {pair.key: pair.value for pair in status.values}
        if self.state == "active" and "resident_mb" in self.statuses.get("memory", {}):
            self.resident_mb.append(float(self.statuses["memory"]["resident_mb"]))
        self.last_report = time.monotonic()
        self.new_report.set()


def _arrival_ns(info: Any) -> int:
    """When the middleware got it, by the system's clock; not every one says."""
    return int(info["received_timestamp"]) or time.time_ns()


def _stamp_ns(raw: bytes) -> int:
    """header.stamp of a serialised PointCloud2: the first field, after four bytes that tell the byte order."""
    sec, nanosec = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
    return int(sec) * 1_000_000_000 + int(nanosec)


def _until(condition: Callable[[], Any], ear: _Ear, process: Any) -> None:
    """Wait for something that the node does, as long as it lives: how long a model loads is not known."""
    while not condition():
        if ear.error is not None:
            raise ear.error
        if process.exitcode is not None:
            raise Psg4dError(
                f"the perception node ended with {process.exitcode} before the bag was played; its log says why"
            )
        time.sleep(0.02)


def _until_idle(ear: _Ear, process: Any) -> None:
    """Wait until the node has nothing more to do: no work under way, and the same counts in two reports in a row."""
    before: Any = None
    while True:
        ear.new_report.clear()
        _until(lambda: ear.new_report.is_set() or time.monotonic() - ear.last_report > SILENCE_S, ear, process)
        if not ear.new_report.is_set():
            raise Psg4dError(f"the perception node has said nothing for {SILENCE_S:.0f} s; its log may say why")
        source, inference = ear.statuses["input"], ear.statuses["inference"]
        counts = [source["clouds_received"], *(inference[f"windows_{n}"] for n in ("due", "processed", "replaced"))]
        resting = source["waiting_for_transform"] == "0" and inference["under_way_s"] == "0.0"
        if resting and counts == before:
            break
        before = counts if resting else None
    end = time.monotonic() + LAST_GRAPHS_S
    while ear.graphs < int(ear.statuses["inference"]["windows_processed"]) and time.monotonic() < end:
        time.sleep(0.02)


def _refuse_company(node: Any, topics: tuple[str, ...]) -> None:
    taken = [t for t in topics if any(i.node_name not in (NODE, PLAYER) for i in node.get_publishers_info_by_topic(t))]
    if taken:
        raise ConfigError(
            f"somebody else publishes {', '.join(taken)} in ROS domain {node.context.get_domain_id()}; stop that node "
            "or player, or give the replay a domain of its own, as with ROS_DOMAIN_ID=77"
        )


@contextmanager
def _surroundings() -> Iterator[None]:
    """Settings of Fast DDS and discovery for both processes: large clouds get through, other machines hear nothing."""
    wanted = {
        "FASTDDS_DEFAULT_PROFILES_FILE": str(share_directory() / "config" / "fastdds.xml"),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    added = [name for name in wanted if name not in os.environ]
    os.environ.update({name: wanted[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


@contextmanager
def _node_process(play: LivePlay, folder: Path) -> Iterator[Any]:
    """The node, in a process that ends with the block."""
    parameters = {
        **to_dict(play.config),
        "checkpoint": str(play.checkpoint.absolute()),
        "diagnostics_period_s": DIAGNOSTICS_PERIOD_S,
        "use_sim_time": True,
    }
    file = folder / "parameters.yaml"
    file.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}), encoding="utf-8")
    arguments = ["--ros-args", "--params-file", str(file), "-r", f"~/input/points:={play.topic}"]
    arguments += ["-r", f"__node:={NODE}"]
    process = multiprocessing.get_context("spawn").Process(target=_run_node, args=(arguments,), name="perception")
    process.start()
    try:
        yield process
    finally:
        process.terminate()
        process.join(EXIT_PATIENCE_S)
        if process.exitcode is None:
            process.kill()
            process.join()


def _run_node(arguments: list[str]) -> None:
    end_with_parent()
    from .node import main

    sys.exit(main(arguments))


@contextmanager
def _spinning(context: Any, ear: _Ear) -> Iterator[None]:
    executor: Any = SingleThreadedExecutor(context=context)
    done: Any = Future()
    executor.add_node(ear.node)

    def spin() -> None:
        try:
            executor.spin_until_future_complete(done)
        except ExternalShutdownException:
            pass
        except Exception as error:  # as of a full disk
            ear.error = error

    thread = threading.Thread(target=spin, name="subscriber", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set_result(None)  # not by a shutdown of the executor, which frees what the thread still works with
        thread.join()
        executor.shutdown()
