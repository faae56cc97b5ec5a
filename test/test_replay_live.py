"""`psg4d replay --live`: a bag through DDS and a real node in another process, and what a subscriber hears of it."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("embreex", reason="the simulator needs embreex, which has no wheel for this platform")

from recorded_boxes import FRAMES

from psg4d_ros.cli import main
from psg4d_ros.cloud import instance_cloud, labelled_cloud
from psg4d_ros.config import PipelineConfig
from psg4d_ros.data.bag import BagWriter, bag_types, open_bag
from psg4d_ros.data.simulation.scene_bag import true_graphs, write_bag
from psg4d_ros.errors import CloudError
from psg4d_ros.evaluation.replay_job import ReplayJob, run_job
from psg4d_ros.evaluation.replay_live import GRAPHS, INSTANCES, Heard, HeardPipeline
from psg4d_ros.messages import graph_message, stamp_of

FREE = ("presence_threshold=0.0", "mask_threshold=0.0", "relation_threshold=0.0", "device=cpu", "threads=1")
SETTINGS = [o for f in FREE for o in ("--set", f"inference.{f}")] + ["--set", "window.num_frames=2", "--quiet"]


@pytest.fixture(scope="module")
def bag(box_scene, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bag") / "room"
    write_bag(path, box_scene)
    return path


@pytest.fixture
def own_ros(monkeypatch) -> int:
    """A ROS domain that nobody else uses."""
    pytest.importorskip("rclpy", reason="needs rclpy: source a ROS 2 distribution, or run `make test` for the wheels")
    from ros_support import own_domain

    domain = own_domain()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    return domain


@pytest.mark.ros
@pytest.mark.usefixtures("own_ros")
def test_every_cloud_is_answered_or_counted_and_the_graphs_are_judged(bag, tiny_checkpoint, tmp_path, capsys):
    out, page = tmp_path / "out.json", tmp_path / "out.md"
    arguments = ["replay", str(bag), "--checkpoint", str(tiny_checkpoint), *SETTINGS, "--live", "--rate", "2"]
    files = ["--json", str(out), "--markdown", str(page), "--report", str(tmp_path), "--write-bag", str(tmp_path / "b")]
    assert main([*arguments, *files]) == 0
    result = json.loads(out.read_text())
    live = result["live"]
    assert (live["rate"], live["clouds_sent"], result["frames_in"]) == (2.0, FRAMES, FRAMES)
    assert live["clouds_lost"] == live["graphs_lost"] == 0  # both ways are reliable
    assert live["graphs_received"] == result["windows"] > 0
    assert live["graphs_received"] + live["windows_replaced"] == live["windows_due"] == FRAMES
    assert 0 < live["callback_ms"]["p50"] <= live["callback_ms"]["p99"] <= live["callback_ms"]["max"]
    assert result["frames_dropped"] == live["windows_replaced"] == sum(result["errors"].values())
    assert result["counts"]["clouds_received"] == result["counts"]["accepted"] == FRAMES
    # Ground truth is judged as without DDS, and what came without a graph is a frame in which nothing was found.
    assert result["metrics"]["frames"] == {"evaluated": FRAMES, "left_out": 0}
    assert result["model"]["id"] == "tiny" and result["runtime"]["device"] == "cpu"
    latency = result["latency_ms"]
    assert 0 < latency["end_to_end"]["p50"] <= latency["end_to_end"]["p99"]
    assert {"total", "turn1"} <= latency.keys()
    assert result["runtime"]["memory_mb"]["peak"] > 0
    table = capsys.readouterr().out
    assert f"live at 2x: {FRAMES} clouds sent, 0 lost" in table and "end_to_end" in table
    assert "## Live" in page.read_text() and "end_to_end" in page.read_text()
    assert "clouds_sent" in (tmp_path / "report.html").read_text()
    with open_bag(tmp_path / "b") as said:
        assert said.count("/scene_graph") == live["graphs_received"]


@pytest.mark.ros
@pytest.mark.usefixtures("own_ros")
def test_a_node_that_cannot_start_ends_the_replay_with_a_line(bag, tiny_checkpoint, capfd):
    arguments = ["replay", str(bag), "--checkpoint", str(tiny_checkpoint), "--live", "--quiet"]
    assert main([*arguments, "--set", "inference.device=cuda:99"]) == 1
    told = capfd.readouterr().err
    assert "cuda:99" in told  # the node's own log
    assert "psg4d replay: the perception node ended with 1 before the bag was played" in told


@pytest.mark.ros
def test_a_node_that_is_there_already_is_not_taken_for_ours(own_ros, bag, tiny_checkpoint, capsys):
    from rclpy.node import Node
    from ros_support import ros_context

    from psg4d_ros.msg import SceneGraph

    with ros_context(own_ros) as context:
        other = Node("other", context=context, use_global_arguments=False)
        other.create_publisher(SceneGraph, "/scene_graph", 10)
        assert main(["replay", str(bag), "--checkpoint", str(tiny_checkpoint), "--live", "--quiet"]) == 1
    assert "somebody else publishes /scene_graph in ROS domain" in capsys.readouterr().err


def test_without_ros_it_says_what_is_missing(bag, tiny_checkpoint, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rclpy", None)
    monkeypatch.delitem(sys.modules, "psg4d_ros.ros.live_player", raising=False)
    assert main(["replay", str(bag), "--checkpoint", str(tiny_checkpoint), "--live", "--quiet"]) == 1
    told = capsys.readouterr().err
    assert "--live needs ROS 2" in told and "source your ROS 2 installation" in told


def test_what_live_cannot_play_is_refused(tmp_path, tiny_checkpoint, capsys):
    with pytest.raises(SystemExit) as end:
        (tmp_path / "a.mcap").touch()
        main(["replay", str(tmp_path), "--live"])
    assert end.value.code == 2
    assert "--live is of one recording" in capsys.readouterr().err


def test_live_plays_bags_and_no_folders_of_frames(tmp_path, tiny_checkpoint, capsys):
    (tmp_path / "000000.bin").write_bytes(bytes(16))
    assert main(["replay", str(tmp_path), "--checkpoint", str(tiny_checkpoint), "--live", "--quiet"]) == 1
    assert f"--live plays a ROS 2 bag, {tmp_path} is a folder of frames" in capsys.readouterr().err


class TestHeard:
    """What was heard, as a replay sees it: graphs by stamp, losses counted."""

    @pytest.fixture
    def heard(self, box_scene, tmp_path, tiny_checkpoint) -> Any:
        """Of eight clouds: graph 1 came without its points, graph 2 not at all, and points 3 without their graph."""
        graphs, types = list(true_graphs(box_scene)), bag_types()
        with BagWriter(tmp_path / "heard.mcap") as writer:
            for n, graph in enumerate(graphs):
                arrived = graph.stamp_ns + 100_000_000 + n * 10_000_000
                if n not in (1, 2):
                    writer.write(INSTANCES, instance_cloud(graph, types), arrived)
                if n not in (2, 3):
                    writer.write(GRAPHS, graph_message(graph, types), arrived)
        inference = {"backend": "torch on cpu", "windows_due": "8", "windows_processed": "7", "windows_replaced": "1"}
        statuses = {
            "input": {"clouds_received": "8", "accepted": "8", "transforms_failed": "0", "publishers": "1"},
            "inference": {**inference, "windows_forgotten": "0"},
            "model": {"model_id": "tiny", "model_sha256": "0" * 64, "trained": "false"},
        }
        published = {graph.stamp_ns: [graph.stamp_ns] for graph in graphs}
        told = Heard(tmp_path / "heard.mcap", published, 8, statuses, [100.0, 120.0], 1.0, 2.0)
        with HeardPipeline(told, PipelineConfig(), tiny_checkpoint) as pipeline:
            yield pipeline

    def test_each_frame_gets_its_own_graph_with_its_points(self, heard, box_scene):
        frames = [f.frame for f in box_scene.recording().open_frames()]
        said = [heard.update(frame) for frame in frames]
        assert [n for n, graph in enumerate(said) if graph is None] == [1, 2, 3]
        for n, (frame, graph) in enumerate(zip(frames, said, strict=True)):
            if graph is not None:
                assert graph.stamp_ns == frame.stamp_ns
                np.testing.assert_array_equal(graph.cloud.source_index, frame.source_index)
                assert heard.end_to_end_ms[n if n == 0 else n - 3] == pytest.approx(100.0 + 10.0 * n)

    def test_losses_are_told_apart_and_cost_what_was_to_be_seen(self, heard, bag, tiny_checkpoint):
        result = run_job(ReplayJob(bag, tiny_checkpoint, PipelineConfig()), play_live=lambda job: nullcontext(heard))
        panoptic = result.to_json()["metrics"]["panoptic"]
        assert panoptic["PQ"] == pytest.approx(5 / 6.5)  # the truth in five of eight frames: TP 5, FN 3
        assert dict(result.errors) == {
            "a newer cloud came while the node was busy": 1,
            "graphs lost on the way to the subscriber": 1,
            "labelled points lost on the way to the subscriber": 1,
        }
        assert result.frames_dropped == 3
        assert result.memory.to_json()["peak"] == 120.0

    def test_labelled_points_come_back_as_they_were(self, box_scene):
        graph = next(true_graphs(box_scene))
        stamp_ns, cloud = labelled_cloud(instance_cloud(graph, bag_types()))
        assert stamp_ns == graph.stamp_ns
        for name in ("points", "track_id", "class_id", "score", "source_index"):
            np.testing.assert_array_equal(getattr(cloud, name), getattr(graph.cloud, name))

    def test_another_cloud_is_not_taken_for_one(self, bag):
        with open_bag(bag) as opened:
            cloud, _ = next(opened.clouds("/points"))
        assert stamp_of(cloud.header.stamp) > 0
        with pytest.raises(CloudError, match="is not labelled"):
            labelled_cloud(cloud)
