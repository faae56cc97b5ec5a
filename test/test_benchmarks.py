"""The benchmarks that have no test of their own run, on a model a few channels wide; their figures say nothing then."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from psg4d_ros.cli import main

pytest.importorskip("embreex", reason="the simulator needs embreex, which has no wheel for this platform")
pytestmark = pytest.mark.usefixtures("one_thread")

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def run(monkeypatch, capsys):
    """The lines that a benchmark prints."""

    def lines(name: str, *arguments: object) -> list[str]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(BENCHMARKS / name), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return lines


def test_cuda_graphs_compares_each_stage_and_the_answers(run, tiny_checkpoint) -> None:
    lines = run("cuda_graphs.py", "--checkpoint", tiny_checkpoint, "--windows", 1, "--size", "48x36")
    stages = {line.split(" | ")[0].removeprefix("| ") for line in lines if line.startswith("| ")}
    assert {"turn1", "turn2", "masks", "total"} <= stages
    # In float32, which comes last, padding changes nothing but rounding.
    assert lines[-2] == "2 windows: 2 with the same labels, 2 with the same relations;"
    worst = float(lines[-1].rpartition(" ")[2])
    assert worst < 1e-4


def test_training_step_has_a_row_for_each_combination(run, tiny_checkpoint, tmp_path, monkeypatch) -> None:
    scenes = ["simulate", str(tmp_path / "train"), "--split", "train", "--scenes", "1", "--frames", "6"]
    assert main([*scenes, "--size", "48x36", "--workers", "1", "--quiet"]) == 0
    small = ["--steps", 1, "--frames", 2, "--batch", 1, "--set", "stage3_joint.workers=0"]
    lines = run(
        "training_step.py", "--data", tmp_path, "--checkpoint", tiny_checkpoint, *small,
        "--stage", "stage3_joint", "--language-model", 0, 1,
    )  # fmt: skip
    rows = [line for line in lines if line.startswith("| stage3_joint | 2 | 1 | ")]
    assert len(rows) == 2
