"""A folder of bags: the same numbers however they are run, and a bag that fails costs nothing but itself."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("embreex", reason="the simulator needs embreex, which has no wheel for this platform")

from recorded_boxes import record_boxes

from psg4d_ros.cli import main
from psg4d_ros.config import CoordinatesConfig, InferenceConfig, PipelineConfig, WindowConfig
from psg4d_ros.data.simulation.scene_bag import write_bag
from psg4d_ros.data.simulation.sensors import DepthCamera
from psg4d_ros.errors import ConfigError, DatasetError, Psg4dError
from psg4d_ros.evaluation.replay_job import ReplayJob, run_job
from psg4d_ros.evaluation.replay_many import bags_in, jobs_for, replay_many

CONFIG = PipelineConfig(
    window=WindowConfig(num_frames=2),
    coordinates=CoordinatesConfig(target_frame="world"),
    inference=InferenceConfig(device="cpu", presence_threshold=0.0, mask_threshold=0.0, relation_threshold=0.0),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A room as four sensors see it, in two folders and two files; one of the files is cut off."""
    path = tmp_path_factory.mktemp("bags")
    for number, name in enumerate(("a", "b.mcap", "c.mcap", "d")):
        write_bag(path / name, record_boxes(DepthCamera(width=48 + 4 * number, height=36)))
    content = (path / "b.mcap").read_bytes()
    (path / "b.mcap").write_bytes(content[: len(content) // 2])
    (path / "notes.txt").write_text("not a bag")
    return path


@pytest.fixture
def jobs(folder, tiny_checkpoint, one_thread) -> list[ReplayJob]:
    return jobs_for(bags_in(folder), ReplayJob(folder, tiny_checkpoint, CONFIG, limit=2, timings=False))


class Deadly:
    """A job that takes its process down with it."""

    path = Path("deadly")

    def __reduce__(self) -> Any:
        return os._exit, (9,)


def test_what_counts_as_a_bag(folder, kinect_bag, tmp_path):
    assert [b.name for b in bags_in(folder)] == ["a", "b.mcap", "c.mcap", "d"]
    assert bags_in(kinect_bag) == []  # it is a bag itself
    assert bags_in(tmp_path) == [] and bags_in(folder / "c.mcap") == []


def test_processes_give_the_numbers_of_one_by_one(folder, jobs):
    alone = {job.path.name: run_job(job).to_json(timings=False) for job in jobs if job.path.name != "b.mcap"}
    many = replay_many(folder, [*jobs, Deadly()], workers=2)
    result = many.to_json(timings=False)
    assert {b["bag"]: b for b in result["bags"]} == alone
    assert [f["bag"] for f in result["failed"]] == ["b.mcap", "deadly"]
    assert "not a readable bag" in many.failed["b.mcap"] or "cannot be read" in many.failed["b.mcap"]
    assert "process died" in many.failed["deadly"]
    assert (result["frames_in"], result["windows"]) == (6, 6)
    assert result["metrics"]["scenes"] == 3
    assert len({str(r["graphs"]) for r in alone.values()}) == 3, "each bag gives graphs of its own"
    coverage = [r["stability"]["coverage"] for r in alone.values()]
    assert min(coverage) <= result["stability"]["coverage"] <= max(coverage)


def test_the_command_writes_the_good_results_and_ends_with_1(folder, tiny_checkpoint, tmp_path, capsys):
    settings = [
        o
        for s in ("window.num_frames=2", "inference.device=cpu", "inference.presence_threshold=0")
        for o in ("--set", s)
    ]
    arguments = ["replay", folder, "--checkpoint", tiny_checkpoint, *settings, "--quiet", "--limit", "1"]
    arguments += ["--json", tmp_path / "out.json", "--markdown", tmp_path / "out.md", "--write-bag", tmp_path / "said"]
    assert main([*map(str, arguments)]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("psg4d replay: b.mcap failed: ") and len(captured.err.strip().splitlines()) == 1
    assert "b.mcap" in captured.out and "FAILED" in captured.out and "all" in captured.out
    result = json.loads((tmp_path / "out.json").read_text())
    assert [b["bag"] for b in result["bags"]] == ["a", "c.mcap", "d"]
    assert {"p50", "p95", "p99"} == set(result["latency_ms"]["total"])
    assert "## Bags that failed" in (tmp_path / "out.md").read_text()
    assert sorted(f.name for f in (tmp_path / "said").iterdir()) == ["a.mcap", "c.mcap", "d.mcap"]


def test_ray_gives_the_numbers_of_one_by_one(folder, jobs):
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'psg4d_ros[ray]')")
    one_by_one = replay_many(folder, jobs)
    on_ray = replay_many(folder, jobs, workers=2, ray=True)
    assert on_ray.to_json(timings=False) == one_by_one.to_json(timings=False)
    assert list(on_ray.failed) == ["b.mcap"]


def test_where_ray_is_missing_it_says_how_to_get_it(folder, jobs, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'psg4d_ros\[ray\]'"):
        replay_many(folder, jobs, ray=True)


def test_what_makes_no_sense_is_refused(folder, jobs, tmp_path, tiny_checkpoint):
    with pytest.raises(ConfigError, match="workers is 0"):
        replay_many(folder, jobs, workers=0)
    with pytest.raises(Psg4dError, match="none of the 1 bags"):
        replay_many(folder, [job for job in jobs if job.path.name == "b.mcap"])
    twice = [tmp_path / "room", tmp_path / "room.mcap"]
    with pytest.raises(DatasetError, match="several bags are named room"):
        jobs_for(twice, ReplayJob(tmp_path, tiny_checkpoint, CONFIG, write_bag=tmp_path / "said"))
