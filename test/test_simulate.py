"""`psg4d simulate`: the same bytes by any number of processes, jobs that resume, settings that are refused, splits."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recorded_boxes import assert_same

pytest.importorskip("embreex", reason="the simulator needs embreex, which has no wheel for this platform")

from PIL import Image

from psg4d_ros.cli import main
from psg4d_ros.data.bag_truth import recording_from_bag
from psg4d_ros.data.simulation.furnishing import make_world
from psg4d_ros.data.simulation.production import SimulationJob, simulate, simulator_hash
from psg4d_ros.data.simulation.scenes import make_sensor
from psg4d_ros.data.simulation.sensors import DepthCamera
from psg4d_ros.data.simulation.splits import SPLITS, scene_seed
from psg4d_ros.data.simulation.storage import open_folder
from psg4d_ros.errors import ConfigError, DatasetError

SMALL = {"size": (48, 36), "frames": 4}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Two scenes of the test split, with bags and previews, by two processes."""
    out = tmp_path_factory.mktemp("simulated") / "test"
    arguments = ["simulate", str(out), "--split", "test", "--scenes", "2", "--frames", "4", "--size", "48x36"]
    arguments += ["--bag", "--preview", "--workers", "2", "--json", str(out.parent / "result.json"), "--quiet"]
    assert main(arguments) == 0
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_command_makes_scenes_bags_previews_and_numbers(made, capsys):
    assert sorted(p.name for p in made.iterdir()) == [
        "simulation.json", "test_00000", "test_00000.npz", "test_00000.png", "test_00001", "test_00001.npz",
        "test_00001.png",
    ]  # fmt: skip
    recordings = open_folder(made)
    values = json.loads((made.parent / "result.json").read_text())
    assert (values["scenes"], values["frames"]) == (2, 8)
    assert values["objects"] == sum(len(r.objects) for r in recordings) > 0
    assert values["relations"] == sum(len(r.relations) for r in recordings)
    assert sum(entry["count"] for entry in values["predicates"].values()) == values["relations"]
    for recording in recordings:
        assert recording.name.startswith("test_0000")
        assert_same(recording, recording_from_bag(made / recording.name))
        with Image.open(made / f"{recording.name}.png") as sheet:
            assert sheet.width == 1560


def test_the_command_makes_scenes_with_classes_that_training_never_shows(tmp_path):
    out = tmp_path / "new"
    small = ["--scenes", "1", "--frames", "2", "--size", "48x36", "--workers", "1", "--quiet"]
    assert main(["simulate", str(out), "--split", "test_oov", "--seed", "2", *small]) == 0  # not every scene shows one
    assert sorted(p.name for p in out.iterdir()) == ["simulation.json", "test_oov_00000.npz"]
    assert json.loads((out / "simulation.json").read_text())["split"] == "test_oov"
    (recording,) = open_folder(out)
    assert {o.label for o in recording.objects} - SPLITS["train"].words.labels


def test_one_process_makes_the_same_bytes_as_two(made, tmp_path):
    job = SimulationJob(tmp_path / "again", split="test", bag=True, preview=True, **SMALL)
    simulate(job, 2, workers=1)
    assert contents(tmp_path / "again") == contents(made)


def test_a_job_that_was_stopped_goes_on_and_keeps_what_is_there(made, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(made, out)
    missing = ["test_00001.npz", "test_00000.png", "test_00000"]
    (out / missing[0]).unlink(), (out / missing[1]).unlink(), shutil.rmtree(out / missing[2])
    kept = out / "test_00000.npz"
    before = kept.stat().st_mtime_ns
    summaries = simulate(SimulationJob(out, split="test", bag=True, preview=True, **SMALL), 2, workers=1)
    assert [s.name for s in summaries] == ["test_00000", "test_00001"]
    assert contents(out) == contents(made)
    assert kept.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"split": "val"}, {"sensor": "lidar"}, {"frames": 5}, {"rate_hz": 2.0}]
)
def test_a_folder_made_with_other_settings_is_refused(made, change):
    with pytest.raises(DatasetError, match=next(iter(change))):
        simulate(replace(SimulationJob(made, split="test", **SMALL), **change), 1)


def test_scenes_of_another_simulator_are_not_mixed_with_ours(made, tmp_path):
    settings = json.loads((made / "simulation.json").read_text())
    (tmp_path / "simulation.json").write_text(json.dumps({**settings, "simulator": "0123456789ab"}))
    with pytest.raises(DatasetError, match="simulator is '0123456789ab'"):
        simulate(SimulationJob(tmp_path, split="test", **SMALL), 1)


def test_a_folder_of_other_files_is_refused(tmp_path):
    file = tmp_path / "scene.npz"
    file.touch()
    with pytest.raises(DatasetError, match=r"no simulation\.json"):
        simulate(SimulationJob(file.parent, split="test", **SMALL), 1)
    (file.parent / "simulation.json").write_text("[1]")
    with pytest.raises(DatasetError, match="other settings"):
        simulate(SimulationJob(file.parent, split="test", **SMALL), 1)


@pytest.mark.parametrize(
    "settings, scenes, reason",
    [
        ({"split": "tests"}, None, "train_scarce"),
        ({"split": "train_scarce"}, 61, "1 to 60"),
        ({}, 0, "at least 1"),
        ({"seed": -1}, 1, "seed"),
        ({"sensor": "sonar"}, 1, "mixed"),
        ({"frames": 0}, 1, "frames"),
        ({"rate_hz": 3.0}, 1, "4"),
        ({"size": (0, 5)}, 1, "size"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_made(tmp_path, settings, scenes, reason):
    with pytest.raises(ConfigError, match=reason):
        simulate(SimulationJob(tmp_path / "out", **settings), scenes)
    assert not (tmp_path / "out").exists()


def test_a_scene_that_fails_costs_no_other_and_is_reported(made, tmp_path):
    (tmp_path / "test_00000.npz").mkdir()  # where the first scene's file should go
    shutil.copy(made / "simulation.json", tmp_path)
    with pytest.raises(DatasetError, match=r"1 of 2 scenes could not be made.*test_00000"):
        simulate(SimulationJob(tmp_path, split="test", **SMALL), 2, workers=1)
    assert (tmp_path / "test_00001.npz").exists()


def test_evaluation_on_simulated_scenes_says_which_could_not_be_made(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "psg4d_ros" / "simulated" / f"test-seed0-{simulator_hash()}"
    (folder / "test_00000.npz").mkdir(parents=True)  # where the scene's file should go
    settings = {**json.loads((made / "simulation.json").read_text()), "size": None, "frames": 60}
    (folder / "simulation.json").write_text(json.dumps(settings))
    assert main(["eval", "sim", "--limit", "1", "--method", "oracle"]) == 1
    assert "1 of 1 scenes could not be made" in (told := capsys.readouterr().err) and "test_00000" in told


def test_wrong_usage_is_told(tmp_path, capsys):
    assert main(["simulate", str(tmp_path / "out"), "--split", "nothing"]) == 1
    assert "train_scarce" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main(["simulate", str(tmp_path / "out"), "--size", "wide"])
    assert end.value.code == 2


# --- splits


def test_scarce_training_data_is_the_beginning_of_the_training_data():
    for index in (0, 59):
        a, b = (scene_seed(SPLITS[name], 7, index).generate_state(4) for name in ("train", "train_scarce"))
        np.testing.assert_array_equal(a, b)


def test_no_scene_of_one_split_occurs_in_another():
    states = {
        tuple(scene_seed(SPLITS[name], seed, index).generate_state(4).tolist())
        for name in ("train", "val", "test", "test_oov")
        for seed in (0, 1, 2)
        for index in range(20)
    }
    assert len(states) == 4 * 3 * 20


def test_sensors_differ_from_scene_to_scene():
    rngs = [np.random.default_rng(n) for n in range(30)]
    sensors = [make_sensor("mixed", rng) for rng in rngs]
    assert {s.kind for s in sensors} == {"depth", "lidar"}
    assert len({s.fov_deg for s in sensors if isinstance(s, DepthCamera)}) > 5
    assert make_sensor("depth", np.random.default_rng(0), (320, 240)).shape == (240, 320)


def test_unseen_classes_occur_only_where_they_should():
    training = SPLITS["train"].words.labels
    assert training == SPLITS["test"].words.labels
    words = SPLITS["test_oov"].words
    labels = {e.label for n in range(8) for e in make_world(np.random.default_rng(n), name="w", words=words).entities}
    assert labels - training
