"""Recipes: what a training does, in files that hold only what they change of train_all.yaml."""

import pytest

from psg4d_ros.config import to_dict
from psg4d_ros.errors import ConfigError
from psg4d_ros.model.base_weights import SMOLLM2_SHA256
from psg4d_ros.training.real_stages import window_recipe
from psg4d_ros.training.recipe import load_recipe
from psg4d_ros.version import share_directory

NAMES = sorted(p.stem.removeprefix("train_") for p in (share_directory() / "config").glob("train_*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_that_ships_can_be_read(name):
    recipe = load_recipe(name)
    assert recipe.stages()
    assert not recipe.stage2_geometry.losses.relations, "stage 2 is masks and names; relations are stage 3's"
    assert recipe.stage3_joint.losses.relations


def test_the_training_of_the_shipped_checkpoint_pins_its_language_model():
    model = load_recipe("all").model
    assert model.language_model.sha256 == SMOLLM2_SHA256
    assert model.language_model.adapter_rank == 8
    assert model.decoder.num_slots == 64
    assert list(load_recipe("all").stages()) == ["stage1_2d", "stage2_geometry", "stage3_joint"]


def test_a_recipe_is_what_it_changes_of_all(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nstage1_2d:\n  run: false\nstage2_geometry.losses.fine_samples: 100\n")
    mine, base = to_dict(load_recipe(str(file))), to_dict(load_recipe("all"))
    assert mine["name"] == "mine"
    assert mine["stage1_2d"].pop("run") is False
    assert mine["stage2_geometry"]["losses"].pop("fine_samples") == 100
    base["name"] = "mine"
    base["stage1_2d"].pop("run")
    base["stage2_geometry"]["losses"].pop("fine_samples")
    assert mine == base


def test_pairs_come_on_top():
    recipe = load_recipe("smoke", ["stage3_joint.batch=7", "stage1_2d.run=false"])
    assert recipe.stage3_joint.batch == 7
    assert list(recipe.stages()) == ["stage2_geometry", "stage3_joint"]


@pytest.mark.parametrize(
    ("name", "pairs", "message"),
    [
        ("al", [], r"there is no recipe 'al'; expected one of .*all.*smoke.*, or a YAML file"),
        ("all", ["stage2_geometry.bach=4"], r"unknown parameter 'stage2_geometry\.bach'; known here: .*batch"),
        ("all", ["stage2_geometry.batch=-1"], r"stage2_geometry\.batch is -1, expected a value in \[0, 65536\]"),
        ("all", ["stage2_geometry.losses.relations=maybe"], r"losses\.relations is 'maybe' \(str\), expected bool"),
        ("all", ["scenes.size=[320]"], r"scenes\.size is \[320\], expected width and height, or \[\]"),
        ("all", ["stage2_geometry"], r"expected KEY=VALUE, e\.g\. stage2_geometry\.batch=4"),
        ("all", [f"{s}.run=false" for s in ("stage1_2d", "stage2_geometry", "stage3_joint")], "no stage runs"),
    ],
)
def test_what_is_no_recipe_is_an_error_that_says_what_would_be_right(name, pairs, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(name, pairs)


def test_windows_are_voxelised_as_the_model_reads_them():
    recipe = load_recipe("all", ["model.encoder.voxel_size_m=0.1", "model.encoder.channels=[8, 8, 8]"])
    windows = window_recipe(recipe, recipe.stage2_geometry)
    assert (windows.voxel_size_m, windows.levels) == (0.1, 3)
