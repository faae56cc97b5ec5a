"""Replay: a bag through the pipeline, where one bad cloud costs that cloud alone."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from psg4d_ros.cloud import cloud_message
from psg4d_ros.config import CoordinatesConfig, InferenceConfig, PipelineConfig
from psg4d_ros.data.bag import BagWriter, bag_types
from psg4d_ros.errors import ConfigError, Psg4dError
from psg4d_ros.evaluation.replay import replay as replay_recording
from psg4d_ros.evaluation.result_files import check_writable, write_json
from psg4d_ros.messages import header_message
from psg4d_ros.pipeline import ScenePipeline

STEP = 300_000_000
XYZ = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4")])


def cloud(stamp_ns: int, seed: int = 0):
    points = np.zeros(400, XYZ)
    rng = np.random.default_rng(seed)
    for name, high in (("x", 2.0), ("y", 2.0), ("z", 0.3)):
        points[name] = rng.uniform(0, high, len(points))
    return cloud_message(points, stamp_ns, "base", bag_types())


def transform(stamp_ns: int, parent: str, child: str):
    types = bag_types()
    stamped = types.get("geometry_msgs/msg/TransformStamped")(
        header=header_message(stamp_ns, parent, types),
        child_frame_id=child,
        transform=types.get("geometry_msgs/msg/Transform")(
            translation=types.get("geometry_msgs/msg/Vector3")(0.0, 0.0, 0.0),
            rotation=types.get("geometry_msgs/msg/Quaternion")(0.0, 0.0, 0.0, 1.0),
        ),
    )
    return types.get("tf2_msgs/msg/TFMessage")(transforms=[stamped])


@pytest.fixture
def bag(tmp_path):
    def write(messages, storage="mcap"):
        path = tmp_path / f"bag_{storage}"
        with BagWriter(path, storage) as writer:
            for number, message in enumerate(messages, start=1):
                writer.write("/points", message, number * STEP)
        return path

    return write


@pytest.fixture
def replay(tiny_checkpoint):
    def run(path, config=None, **options):
        # Random weights are sure of nothing: objects are shown whatever their score.
        config = config or PipelineConfig(
            inference=InferenceConfig(device="cpu", presence_threshold=0.0, mask_threshold=0.0)
        )
        return replay_recording(path, lambda tf: ScenePipeline.from_checkpoint(tiny_checkpoint, config, tf), **options)

    return run


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_both_storages_give_the_same_graphs(bag, replay, storage):
    result = replay(bag([cloud(n * STEP) for n in (1, 2, 3)], storage))
    assert [g["num_frames"] for g in result.graphs] == [1, 2, 3]
    assert [g["stamp_ns"] for g in result.graphs] == [STEP, 2 * STEP, 3 * STEP]
    assert result.graphs[-1]["objects"]


def test_a_bad_cloud_is_counted_with_its_reason_and_replay_goes_on(bag, replay):
    broken = replace(cloud(2 * STEP), row_step=7)
    result = replay(bag([cloud(STEP), broken, cloud(3 * STEP)]))
    assert (result.frames_in, result.frames_dropped, len(result.graphs)) == (3, 1, 2)
    assert "row_step" in next(iter(result.errors))
    assert result.to_json()["errors"] == dict(result.errors)


def test_clouds_without_a_stamp_take_the_time_of_recording(bag, replay):
    result = replay(bag([cloud(0), cloud(0), cloud(0)]))
    assert [g["stamp_ns"] for g in result.graphs] == [STEP, 2 * STEP, 3 * STEP]


def test_a_transform_that_the_bag_lacks_is_named(bag, replay):
    config = PipelineConfig(coordinates=CoordinatesConfig(target_frame="map"))
    result = replay(bag([cloud(STEP), cloud(2 * STEP)]), config)
    assert (result.frames_dropped, len(result.graphs)) == (2, 0)
    reason = next(iter(result.errors))
    assert "map" in reason
    assert "base" in reason


@pytest.mark.parametrize("wait_s, graphs", [(0.1, 0), (0.5, 1)])
def test_a_late_transform_is_waited_for_as_long_as_the_node_waits(replay, tmp_path, wait_s, graphs):
    config = PipelineConfig(
        inference=InferenceConfig(device="cpu"),
        coordinates=CoordinatesConfig(target_frame="map", tf_timeout_s=wait_s),
    )
    with BagWriter(tmp_path / "bag") as writer:
        writer.write("/points", cloud(STEP), STEP)
        writer.write("/tf", transform(STEP, "map", "base"), STEP + 300_000_000)
        writer.write("/tf", transform(10 * STEP, "map", "base"), 10 * STEP)
    result = replay(tmp_path / "bag", config)
    assert (len(result.graphs), result.frames_dropped) == (graphs, 1 - graphs)


@pytest.mark.parametrize("error", [ConfigError, Psg4dError])
def test_an_error_in_one_window_leaves_the_graphs_of_the_others(bag, replay, monkeypatch, error):
    infer = ScenePipeline.infer

    def failing(self, window, given=None):
        if window.newest.stamp_ns == 2 * STEP:
            raise error("no room for this window")
        return infer(self, window, given)

    monkeypatch.setattr(ScenePipeline, "infer", failing)
    result = replay(bag([cloud(n * STEP) for n in (1, 2, 3)]))
    assert [g["stamp_ns"] for g in result.graphs] == [STEP, 3 * STEP]
    assert (result.frames_dropped, dict(result.errors)) == (1, {"no room for this window": 1})


def test_what_answers_depend_on_is_recorded(bag, replay):
    config = PipelineConfig(inference=InferenceConfig(device="cpu", language_model_dtype="float32"))
    values = replay(bag([cloud(STEP)]), config).to_json()
    assert values["model"]["dtype"] == "float32"
    assert values["runtime"]["torch"] == torch.__version__


def test_limit_stops_early(bag, replay):
    assert replay(bag([cloud(n * STEP) for n in (1, 2, 3)]), limit=2).frames_in == 2


def test_wall_clock_values_are_kept_apart(bag, replay):
    result = replay(bag([cloud(STEP)]))
    assert {"latency_ms", "runtime"} == result.to_json().keys() - result.to_json(timings=False).keys()


def test_an_unknown_topic_is_refused(bag, replay):
    with pytest.raises(Psg4dError, match="/other"):
        replay(bag([cloud(STEP)]), topic="/other")


def test_an_unknown_device_is_refused_before_anything_is_loaded(bag, replay):
    with pytest.raises(ConfigError, match="warp"):
        replay(bag([cloud(STEP)]), PipelineConfig(inference=InferenceConfig(device="warp")))


def test_results_are_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "result.json"
    write_json(file, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(file, {"a": float("nan")})
    assert file.read_text() == '{\n "a": 1\n}\n'
    with pytest.raises(Psg4dError, match="cannot write"):
        write_json(file / "below", {})
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize("step", ["chmod", "replace"])
def test_a_result_that_cannot_be_written_leaves_nothing_behind(tmp_path, monkeypatch, step):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, step, full)
    monkeypatch.setattr(os, step, full)
    with pytest.raises(Psg4dError, match="No space left"):
        write_json(tmp_path / "result.json", {"a": 1})
    assert not list(tmp_path.iterdir())


def test_an_unwritable_target_is_known_before_the_run(tmp_path):
    file = tmp_path / "new" / "result.json"
    check_writable(file)
    assert file.parent.is_dir() and not list(file.parent.iterdir())
    file.write_text("old")
    check_writable(file)
    assert file.read_text() == "old" and [p.name for p in file.parent.iterdir()] == ["result.json"]
    for bad in (file / "below", file.parent, Path("/proc/result.json")):
        with pytest.raises(Psg4dError, match="cannot write"):
            check_writable(bad)
