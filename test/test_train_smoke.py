"""`psg4d train smoke`: the whole training, tiny, from nothing to a checkpoint that gives scene graphs."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from psg4d_ros.checkpoint import read_manifest, verify
from psg4d_ros.cli import main
from psg4d_ros.data.simulation.storage import scene_files
from psg4d_ros.training.recipe import load_recipe
from psg4d_ros.training.run import RunOptions, train
from psg4d_ros.training.run_log import LOG_FILE, read_lines
from psg4d_ros.training.run_state import load_state

STAGES = ("stage1_2d", "stage2_geometry", "stage3_joint")
LABELS, PREDICATES = ("person", "chair", "table", "lamp"), ("left of", "right of")

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Images in VRD's form, in which boxes say the relation."""
    folder = tmp_path_factory.mktemp("images")
    rng, records = np.random.default_rng(0), []
    for number in range(60):
        corners = rng.integers(0, 100, (3, 2))
        boxes = np.concatenate([corners, corners + rng.integers(10, 60, (3, 2))], axis=1)
        pairs = [(0, 1), (1, 2)]
        triplets = [[s, o, int(boxes[s, 0] > boxes[o, 0])] for s, o in pairs]
        classes = rng.integers(0, len(LABELS), 3).tolist()
        records.append({"img": f"{number}.jpg", "boxes_xyxy": boxes.tolist(), "classes": classes, "triplets": triplets})
    (folder / "vrd").mkdir()
    (folder / "vrd" / "vrd_train.json").write_text(json.dumps(records))
    (folder / "vrd" / "vocab.json").write_text(json.dumps({"objects": LABELS, "predicates": PREDICATES}))
    return folder


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    """The run folder of a training from nothing."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    arguments = ["--out", str(out), "--images", str(images), "--json", str(out.with_suffix(".json")), "--quiet"]
    assert main(["train", "smoke", *arguments]) == 0
    return out


def test_losses_of_every_stage_fall(trained):
    for stage in STAGES:
        lines = [line["losses"] for line in read_lines(trained / stage / LOG_FILE) if "losses" in line]
        always = set.intersection(*(set(line) for line in lines)) - {"loss"}
        totals = [sum(line[name] for name in always) for line in lines]
        third = len(totals) // 3
        assert sum(totals[-third:]) < sum(totals[:third]), stage


def test_the_result_says_what_was_done(trained):
    result = json.loads(trained.with_suffix(".json").read_text())
    assert result["stage"] == "stage3_joint"
    assert result["steps"] == result["stages"]["stage3_joint"]["steps"] == 16
    assert list(result["stages"]) == list(STAGES)
    assert {"bce", "dice", "presence", "class", "relation", "loss"} <= set(result["losses"])
    assert {"thing_recall", "precision", "relation_ap"} <= set(result["val"])
    assert any(name.startswith("alone_") for name in result["stages"]["stage1_2d"]["val"])


def test_the_checkpoint_is_whole_and_says_how_it_came_to_be(trained):
    manifest = verify(trained / "checkpoint")
    assert manifest.trained
    training = manifest.training
    assert list(training["stages"]) == list(STAGES)
    assert training["seed"] == 0
    assert training["scenes"]["train"] == 3
    assert training["recipe"]["stage2_geometry"]["losses"]["relations"] is False
    assert set(training["calibration"]) == {
        f"{head}_{value}" for head in ("presence", "attribute", "relation") for value in ("scale", "shift")
    } | {"class_scale"}
    card = (trained / "checkpoint" / "MODEL_CARD.md").read_text()
    assert "3 simulated scenes" in card
    assert "thing_recall" in card


def test_the_checkpoint_gives_scene_graphs_of_a_real_recording(trained, kinect_bag, tmp_path):
    out = tmp_path / "replay.json"
    arguments = ["--checkpoint", str(trained / "checkpoint"), "--json", str(out), "--quiet"]
    arguments += ["--set", "inference.presence_threshold=0.0", "--set", "inference.relation_threshold=0.0"]
    assert main(["replay", str(kinect_bag), *arguments]) == 0
    graphs = json.loads(out.read_text())["graphs"]
    assert len(graphs) == 3
    assert graphs[-1]["status"] == "OK"
    assert graphs[-1]["objects"]


def test_a_training_that_is_killed_ends_with_the_same_weights(trained, images, tmp_path):
    out = tmp_path / "killed"
    arguments = ["train", "smoke", "--out", str(out), "--images", str(images), "--data", str(trained / "scenes")]
    process = subprocess.Popen(
        [sys.executable, "-m", "psg4d_ros.cli", *arguments, "--quiet"], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    while process.poll() is None and load_state(out / "stage3_joint") is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was still running"
    assert not (out / "checkpoint").exists()
    finished = (out / "stage2_geometry" / LOG_FILE).stat().st_mtime_ns
    assert main([*arguments, "--resume", "--quiet"]) == 0
    assert (out / "stage2_geometry" / LOG_FILE).stat().st_mtime_ns == finished, "what is done is not repeated"
    weights = {name: digest for name, digest in read_manifest(out / "checkpoint").files.items() if "weights" in name}
    assert weights
    assert weights.items() <= read_manifest(trained / "checkpoint").files.items()


def test_a_finished_training_only_says_its_result_again(trained, images, tmp_path):
    before = (trained / "checkpoint" / "manifest.json").stat().st_mtime_ns
    out = tmp_path / "again.json"
    arguments = ["--out", str(trained), "--images", str(images), "--json", str(out), "--quiet"]
    assert main(["train", "smoke", *arguments, "--resume"]) == 0
    assert (trained / "checkpoint" / "manifest.json").stat().st_mtime_ns == before
    assert json.loads(out.read_text()) == json.loads(trained.with_suffix(".json").read_text())


def test_training_goes_on_from_a_checkpoint(trained, tmp_path):
    """With its weights and in its shape; stage 1 is left out without images."""
    out = tmp_path / "further"
    arguments = ["--out", str(out), "--data", str(trained / "scenes"), "--steps", "1", "--quiet"]
    start = ["--resume", str(trained / "checkpoint"), "--set", "stage3_joint.run=false"]
    assert main(["train", "smoke", *arguments, *start, "--set", "model.decoder.num_slots=5"]) == 0
    manifest, first = read_manifest(out / "checkpoint"), read_manifest(trained / "checkpoint")
    assert list(manifest.training["stages"]) == ["stage2_geometry"]
    assert manifest.files["config.json"] == first.files["config.json"]
    assert manifest.training["start"] and manifest.training["before"] == first.training
    card = (out / "checkpoint" / "MODEL_CARD.md").read_text()
    assert [card.count(f"- `{name}`: ") for name in STAGES] == [1, 2, 1], "all that it ever learnt from"
    assert not list(out.glob("scenes")), "no scenes are made where they are given"
    assert len(scene_files(trained / "scenes" / "train")) == 3


def test_minutes_are_shared_out_among_the_stages_and_kept(trained, images, tmp_path):
    """By a clock on which each look costs a second."""
    ticks = itertools.count()
    pairs = [f"{stage}.steps=0" for stage in STAGES]
    shares = ["stage1_2d.share=1", "stage2_geometry.share=2", "stage3_joint.share=1"]
    recipe = load_recipe("smoke", [*pairs, *shares, "save_every_s=1000"])
    options = RunOptions(tmp_path, minutes=2.0, images=images, data=trained / "scenes", quiet=True)
    result = train(recipe, options, clock=lambda: float(next(ticks)))
    minutes = [stage["minutes"] for stage in result["stages"].values()]
    assert 1.7 < result["minutes"] <= 2.0
    assert minutes[1] > 1.5 * max(minutes[0], minutes[2])
    assert min(minutes) > 0.2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "holds a run; --resume goes on with it, or choose another folder"),
        (["--resume", "--seed", "1"], "was started with other settings: seed is 0, asked for 1"),
        (["--resume", "--set", "stage2_geometry.batch=4"], "recipe.stage2_geometry.batch is 2, asked for 4"),
    ],
)
def test_a_run_goes_on_only_as_it_was_started(trained, images, capsys, arguments, message):
    common = ["train", "smoke", "--out", str(trained), "--images", str(images), "--quiet"]
    assert main([*common, *arguments]) == 1
    assert message in capsys.readouterr().err


def test_what_is_missing_is_said_before_anything_is_made(tmp_path, capsys):
    out = tmp_path / "none"
    assert main(["train", "all", "--out", str(out)]) == 1
    assert "neither minutes nor steps are given; give --minutes or --steps" in capsys.readouterr().err
    assert main(["train", "all", "--out", str(out), "--minutes", "1", "--set", "stage1_2d.required=true"]) == 1
    assert "stage 1 needs the 2D data sets; name their folder with --images or PSG4D_IMAGES" in capsys.readouterr().err
    assert not out.exists()
