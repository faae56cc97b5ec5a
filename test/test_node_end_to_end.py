"""Three processes over DDS: a bag player, the node, and a listener. No cloud is lost, and all that comes out agrees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy: source a ROS 2 distribution, or run `make test` for the wheels")

from node_support import play_to_node
from ros_support import room

from psg4d_ros.cloud import cloud_message
from psg4d_ros.data.bag import BagWriter, bag_types

pytestmark = pytest.mark.ros
ROOT = Path(__file__).parent.parent
PROFILE = {"FASTDDS_DEFAULT_PROFILES_FILE": str(ROOT / "config" / "fastdds.xml")}
CLOUDS, RATE_HZ, CLOUD_BYTES = 40, 10, 2_000_000
KEPT = 14  # of 10 Hz at least 0.25 s apart: every third, the first and the last among them


def stamp(number: int) -> int:
    """Nanoseconds of a cloud."""
    return 1_700_000_000 * 10**9 + number * 10**9 // RATE_HZ


@pytest.fixture(scope="module")
def large_bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bag of clouds of 2 MB at 10 Hz."""
    path = tmp_path_factory.mktemp("bag") / "large"
    points = np.zeros(CLOUD_BYTES // 16, np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<f4")]))
    xyz = room(len(points) * 2 // 3)[: len(points)]
    points = points[: len(xyz)]
    with BagWriter(path) as bag:
        for number in range(CLOUDS):
            stamp_ns = stamp(number)
            for axis, name in enumerate("xyz"):
                points[name] = xyz[:, axis] + (0.02 * number if axis == 0 else 0.0)
            bag.write("/camera/points", cloud_message(points, stamp_ns, "camera_optical_frame", bag_types()), stamp_ns)
    return path


@pytest.fixture(scope="module")
def run(large_bag: Path, tiny_checkpoint: Path) -> Any:
    """What the listener heard while the player played the bag to the node, and what the two others printed."""
    said = f"graph {stamp(CLOUDS - 1)}", f"served {KEPT} of {KEPT}\n"
    return play_to_node(large_bag, tiny_checkpoint, *said, **PROFILE)


def last_status(heard: dict[str, Any], name: str) -> dict[str, Any]:
    return next(m[f"perception: {name}"] for m in reversed(heard["/diagnostics"]) if f"perception: {name}" in m)


def test_no_cloud_is_lost_at_the_node(run: Any) -> None:
    heard, _, player_output = run
    assert f"played {CLOUDS} clouds" in player_output
    status = last_status(heard, "input")
    assert int(status["clouds_received"]) == CLOUDS
    assert int(status["frames_dropped"]) == 0
    assert int(status["accepted"]) == KEPT
    assert int(status["skipped"]) == CLOUDS - KEPT
    assert status["reliability"] == "RELIABLE"
    assert "callback_ms_p50_p99_max" in status


def test_every_due_window_was_served_or_counted_as_replaced(run: Any) -> None:
    heard, _, _ = run
    status = last_status(heard, "inference")
    due, processed = int(status["windows_due"]), int(status["windows_processed"])
    assert due == KEPT
    assert processed + int(status["windows_replaced"]) == due
    assert processed == len(heard["scene_graph"])
    assert int(status["windows_failed"]) == 0
    assert status["level"] == 0


def test_graph_cloud_and_markers_of_one_stamp_agree(run: Any) -> None:
    heard, _, _ = run
    clouds = {m["stamp"]: m for m in heard["scene_graph/instances"]}
    boxes = {stamps: m for m in heard["scene_graph/markers"] for stamps in m["stamps"]}
    graphs = heard["scene_graph"]
    assert graphs[-1]["stamp"] == stamp(CLOUDS - 1)
    for graph in graphs:
        cloud, marker = clouds[graph["stamp"]], boxes[graph["stamp"]]
        assert cloud["frame"] == graph["frame"] == "camera_optical_frame"
        labelled = {track: number for track, number in cloud["points_of"].items() if track != "0"}
        assert labelled == {track: number for track, number in graph["points_of"].items() if number}
        assert marker["boxes"] == sorted(int(track) for track in graph["points_of"])
        assert sum(cloud["points_of"].values()) == cloud["points"] > 100_000
        assert cloud["largest_source_index"] < CLOUD_BYTES // 16
    names = ["x", "y", "z", "rgb", "instance", "class_id", "score", "source_index"]
    assert clouds[graphs[0]["stamp"]]["fields"] == names
    assert [graph["sequence"] for graph in graphs] == list(range(len(graphs)))


def test_events_tell_of_every_track_that_appeared(run: Any) -> None:
    heard, _, _ = run
    tracks = {int(track) for graph in heard["scene_graph"] for track in graph["points_of"]}
    appeared = [e["track"] for e in heard["scene_graph/events"] if e["type"] == 0]
    assert set(appeared) == tracks
    assert {e["stamp"] for e in heard["scene_graph/events"]} <= {g["stamp"] for g in heard["scene_graph"]}


def test_diagnostics_and_labels_name_the_model(run: Any) -> None:
    heard, node_output, _ = run
    status = last_status(heard, "model")
    assert status["model_id"] == heard["scene_graph"][0]["model_id"] == "tiny"
    assert status["trained"] == "false" and "untrained" in status["message"]
    assert int(last_status(heard, "memory")["resident_mb"]) > 0
    assert "untrained" in node_output
    assert len(heard["scene_graph/label_info"][0]) == int(status["classes"])
    assert "Traceback" not in node_output
