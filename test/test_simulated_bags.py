"""Simulated scenes as bags: what is in them, what is refused, and that replay and the node take them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from box_world import BOX
from recorded_boxes import FRAMES

pytest.importorskip("embreex", reason="the simulator needs embreex, which has no wheel for this platform")


from psg4d_ros.config import CoordinatesConfig, InferenceConfig, PipelineConfig
from psg4d_ros.data.bag import open_bag
from psg4d_ros.data.bag_truth import GRAPH_TOPIC, INSTANCE_TOPIC, recording_from_bag
from psg4d_ros.data.simulation.scene_bag import true_graphs, write_bag
from psg4d_ros.errors import DatasetError
from psg4d_ros.evaluation.replay import replay
from psg4d_ros.messages import graph_from_message
from psg4d_ros.pipeline import ScenePipeline


@pytest.fixture(scope="module")
def bag(box_scene, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bag") / "scene"
    write_bag(path, box_scene)
    return path


def test_ground_truth_graphs_tell_nothing_of_the_future(box_scene):
    """ "approaching" holds in frames [2, 7): it appears in graph 2, is ongoing to 6, and has its end from 7 on."""
    stamps = box_scene.stamps_ns.tolist()
    graphs = list(true_graphs(box_scene))
    found = [[r for r in g.relations if r.predicate == "approaching"] for g in graphs]
    assert [len(f) for f in found] == [0, 0, 1, 1, 1, 1, 1, 1]
    assert [f[0].ongoing for f in found[2:]] == [True] * 5 + [False]
    assert [f[0].end_ns for f in found[2:]] == [s + 1 for s in stamps[2:7]] + [stamps[7]]
    assert all(r.start_ns <= g.stamp_ns for g in graphs for r in g.relations)
    assert all(o.first_seen_ns <= o.last_seen_ns <= g.stamp_ns for g in graphs for o in g.objects)
    box = [next(o for o in g.objects if o.track_id == BOX) for g in graphs]
    assert [o.attributes for o in box] == [("still",)] + [("moving",)] * (FRAMES - 1)
    assert box[-1].position[0] - box[0].position[0] == pytest.approx(7 * 0.25 / 3, abs=0.05)  # 1 m in 3 s


def test_labelled_clouds_and_graphs_of_a_bag_agree(bag):
    with open_bag(bag) as opened:
        graphs = [graph_from_message(m) for _, m, _ in opened.messages([GRAPH_TOPIC])]
        clouds = [m for _, m, _ in opened.messages([INSTANCE_TOPIC])]
        assert opened.choose_cloud_topic() == "/points"
    for graph, cloud in zip(graphs, clouds, strict=True):
        dtype = np.dtype(
            [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<f4"), ("instance", "<u4"), ("class_id", "<i4"),
             ("score", "<f4"), ("source_index", "<u4")]
        )  # fmt: skip
        points = np.frombuffer(bytes(cloud.data), dtype)
        assert cloud.header.frame_id == graph.frame_id == "world"
        counts = dict(zip(*np.unique(points["instance"], return_counts=True), strict=True))
        assert {o.track_id: o.num_points for o in graph.objects if o.num_points} == {
            int(k): int(n) for k, n in counts.items() if k
        }
        floor = points[points["instance"] == 1]
        assert abs(float(np.median(floor["z"]))) < 0.03  # in the world frame, where the floor is at 0


def test_a_bag_without_ground_truth_is_refused(kinect_bag):
    with pytest.raises(DatasetError, match="no ground truth"):
        recording_from_bag(kinect_bag)


def copied(bag: Path, out: Path, change) -> Path:
    """A copy of a bag in which ``change(topic, number, message)`` gives each message, None leaves it out."""
    from psg4d_ros.data.bag import BagWriter

    seen: dict[str, int] = {}
    with open_bag(bag) as opened, BagWriter(out) as writer:
        for topic, message, stamp_ns in opened.messages():
            number = seen[topic] = seen.get(topic, -1) + 1
            changed = change(topic, number, message)
            if changed is not None:
                writer.write(topic, changed, stamp_ns)
    return out


@pytest.mark.parametrize(
    "topic, number, change, reason",
    [
        (GRAPH_TOPIC, 3, lambda m: None, "one for each"),
        (GRAPH_TOPIC, 3, lambda m: replace(m, epoch=1), "epoch"),
        (GRAPH_TOPIC, 3, lambda m: replace(m, objects=m.objects[1:]), "not in the graph|not annotated"),
        (INSTANCE_TOPIC, 3, lambda m: None, "has stamp|differ in number"),
        (INSTANCE_TOPIC, 3, lambda m: replace(m, width=m.width - 1), "little-endian points"),
        (INSTANCE_TOPIC, 3, lambda m: replace(m, fields=m.fields[:3]), "needs the fields"),
        (
            INSTANCE_TOPIC,
            3,
            lambda m: replace(m, width=1, row_step=m.point_step, data=m.data[: m.point_step]),
            "exactly",
        ),
        ("/tf", 3, lambda m: None, "older than the cloud"),
        ("/points", 3, lambda m: replace(m, row_step=1), "row_step"),
    ],
)
def test_ground_truth_that_contradicts_itself_is_refused_with_its_place(bag, tmp_path, topic, number, change, reason):
    out = copied(bag, tmp_path / "bag", lambda t, n, m: change(m) if (t, n) == (topic, number) else m)
    with pytest.raises(DatasetError, match=reason):
        list(recording_from_bag(out).open_frames())


def test_replay_reads_a_simulated_bag(bag, box_scene, tiny_checkpoint):
    config = PipelineConfig(
        inference=InferenceConfig(device="cpu"), coordinates=CoordinatesConfig(target_frame="world")
    )
    result = replay(bag, lambda tf: ScenePipeline.from_checkpoint(tiny_checkpoint, config, tf))
    assert (result.frames_in, result.frames_dropped, dict(result.errors)) == (FRAMES, 0, {})
    assert result.topic == "/points"
    assert [g["stamp_ns"] for g in result.graphs] == box_scene.stamps_ns.tolist()
    assert {g["frame_id"] for g in result.graphs} == {"world"}


@pytest.mark.ros
@pytest.mark.slow
def test_a_simulated_bag_plays_through_the_node(bag, box_scene, tiny_checkpoint):
    """Player, node and listener as processes of their own: the last cloud's graph and labelled points come out."""
    pytest.importorskip("rclpy", reason="needs rclpy: source a ROS 2 distribution, or run `make test` for the wheels")
    from node_support import play_to_node

    heard, _, player = play_to_node(bag, tiny_checkpoint, f"graph {int(box_scene.stamps_ns[-1])}")
    assert f"played {FRAMES} clouds" in player
    last = heard["scene_graph/instances"][-1]
    assert last["stamp"] == int(box_scene.stamps_ns[-1])
    assert last["frame"] == "camera_optical_frame"
    *_, final = box_scene.recording().open_frames()
    assert last["points"] == len(final.frame)
