"""A checkpoint is verified before anything of it is used, and written whole or not at all."""

import json
import pickle
import shutil

import pytest
import torch

from psg4d_ros import checkpoint as checkpoint_module
from psg4d_ros.checkpoint import (
    MAX_SHARD_BYTES,
    default_checkpoint,
    load_checkpoint,
    manifest_sha256,
    read_manifest,
    save_checkpoint,
    verify,
)
from psg4d_ros.errors import CheckpointError
from psg4d_ros.model.base_weights import file_sha256
from psg4d_ros.training.report import lineage

CPU = torch.device("cpu")


@pytest.fixture
def copy(tiny_checkpoint, tmp_path):
    return shutil.copytree(tiny_checkpoint, tmp_path / "copy")


def relist(folder, name):
    """Put the file's present hash into the manifest, as somebody would who altered it on purpose."""
    values = json.loads((folder / "manifest.json").read_text())
    values["files"][name] = file_sha256(folder / name)
    (folder / "manifest.json").write_text(json.dumps(values))


def test_the_shipped_checkpoint_is_whole_and_small_and_says_what_it_was_trained_on():
    manifest = verify(default_checkpoint())
    stages = {name for run in lineage(manifest.training) for name in run.get("stages", {})}
    assert stages == ({"stage1_2d", "stage2_geometry", "stage3_joint"} if manifest.trained else set())
    assert manifest.trained or "untrained" in (default_checkpoint() / "MODEL_CARD.md").read_text()
    sizes = [p.stat().st_size for p in default_checkpoint().iterdir()]
    assert max(sizes) <= MAX_SHARD_BYTES
    assert sum(sizes) <= 24 * 2**20
    assert len(manifest.base_model["sha256"]) == 64, "the base language model is pinned"


def test_loading_gives_back_what_was_saved(tiny_checkpoint, tmp_path):
    model = load_checkpoint(tiny_checkpoint, CPU)
    save_checkpoint(tmp_path / "again", model, model_id="tiny", trained=False, card="# tiny\n")
    assert read_manifest(tmp_path / "again").files == read_manifest(tiny_checkpoint).files
    assert not model.training


def test_base_language_model_is_not_part_of_the_checkpoint(tiny_checkpoint):
    model = load_checkpoint(tiny_checkpoint, CPU)
    stored = model.trained_state()
    assert not any("embed_tokens" in name for name in stored)
    assert any(name.startswith("encoder.") for name in stored)


def test_weights_are_split_into_files_of_at_most_16_mib(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_module, "MAX_SHARD_BYTES", 30_000)
    model = load_checkpoint(tiny_checkpoint, CPU)
    save_checkpoint(tmp_path / "split", model, model_id="tiny", trained=False, card="")
    parts = list((tmp_path / "split").glob("*.safetensors"))
    assert len(parts) > 2
    again = load_checkpoint(tmp_path / "split", CPU).trained_state()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.trained_state().items())


def test_one_flipped_bit_is_found(copy):
    weights = copy / "weights-00.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"weights-00\.safetensors has SHA-256 .* the manifest says"):
        load_checkpoint(copy, CPU)


@pytest.mark.parametrize("name", ["weights-00.safetensors", "config.json", "vocabulary.json"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load_checkpoint(copy, CPU)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was opened",))


@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin", "state.pkl"])
def test_a_pickle_in_the_folder_is_refused_unopened(copy, name):
    (copy / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="pickled code"):
        load_checkpoint(copy, CPU)


def test_a_pickle_under_a_safe_name_is_refused_unopened(copy):
    (copy / "weights-00.safetensors").write_bytes(pickle.dumps(Bomb()))
    relist(copy, "weights-00.safetensors")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_checkpoint(copy, CPU)


def test_truncated_weights_are_refused_even_if_listed(copy):
    weights = copy / "weights-00.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    relist(copy, weights.name)
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_checkpoint(copy, CPU)


def test_a_file_outside_the_folder_is_refused(copy):
    values = json.loads((copy / "manifest.json").read_text())
    values["files"]["../secret"] = "0" * 64
    (copy / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="plain file names"):
        verify(copy)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "does not have the manifest's fields"),
        ('{"model_id": "x"}', "does not have the manifest's fields"),
        ('{"model_id": "x", "trained": true, "files": [], "base_model": {}}', "expected a table"),
        (
            '{"model_id": "x", "trained": "false", "files": {}, "base_model": {}}',
            "trained is 'false', expected true or",
        ),
        ('{"model_id": "x", "trained": true, "files": {}, "base_model": {}}', "does not list config.json"),
        ('{"model_id": "x", "trained": true, "files": {}, "base_model": {}, "format_version": 9}', "release reads 1"),
    ],
)
def test_a_damaged_manifest_says_what_is_wrong(copy, text, says):
    (copy / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=says):
        verify(copy)


def test_a_folder_that_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="is not a folder"):
        verify(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"has no manifest\.json"):
        verify(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be used"),
        ('{"encoder": {"channels": [32, 0, 96]}}', r"channels\[1\] is 0, expected a value in"),
        ('{"encoder": {"colour": 1}}', "unknown parameter"),
        ("{}", "the manifest pins"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_a_checkpoint_error(copy, text, says):
    (copy / "config.json").write_text(text)
    relist(copy, "config.json")
    with pytest.raises(CheckpointError, match=says):
        load_checkpoint(copy, CPU)


def test_weights_of_another_shape_are_refused(copy):
    config = json.loads((copy / "config.json").read_text())
    config["decoder"]["num_slots"] = 9
    (copy / "config.json").write_text(json.dumps(config))
    relist(copy, "config.json")
    with pytest.raises(CheckpointError, match=r"has shape .* config\.json asks for"):
        load_checkpoint(copy, CPU)


def test_an_interrupted_save_leaves_the_old_checkpoint(copy, monkeypatch):
    model = load_checkpoint(copy, CPU)
    before = manifest_sha256(copy)

    def stop(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_module, "file_sha256", stop)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(copy, model, model_id="new", trained=True, card="")
    monkeypatch.undo()
    assert manifest_sha256(copy) == before
    verify(copy)
    assert [p.name for p in copy.parent.iterdir()] == [copy.name], "no debris"
