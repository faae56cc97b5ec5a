"""Replay: a bag through the pipeline, where one bad cloud costs that cloud alone."""

from dataclasses import replace

import numpy as np
import pytest

from psg4d_ros.cloud import cloud_message
from psg4d_ros.config import CoordinatesConfig, InferenceConfig, PipelineConfig
from psg4d_ros.data.bag import BagWriter, bag_types
from psg4d_ros.errors import ConfigError, Psg4dError
from psg4d_ros.evaluation.replay import replay_bag, write_json
from psg4d_ros.pipeline import ScenePipeline

STEP = 300_000_000
XYZ = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4")])


def cloud(stamp_ns: int, seed: int = 0):
    points = np.zeros(400, XYZ)
    rng = np.random.default_rng(seed)
    for name, high in (("x", 2.0), ("y", 2.0), ("z", 0.3)):
        points[name] = rng.uniform(0, high, len(points))
    return cloud_message(points, stamp_ns, "base", bag_types())


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
        config = config or PipelineConfig(inference=InferenceConfig(device="cpu"))
        return replay_bag(path, lambda tf: ScenePipeline.from_checkpoint(tiny_checkpoint, config, tf), **options)

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
