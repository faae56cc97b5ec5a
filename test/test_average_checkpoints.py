"""The mean of checkpoints: of weights, of those that started from one, with the runs of all of them in its manifest."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from psg4d_ros.checkpoint import load_checkpoint, manifest_sha256, read_manifest, save_checkpoint
from psg4d_ros.errors import CheckpointError
from psg4d_ros.training.report import lineage
from psg4d_ros.vocabulary import default_vocabulary

SCRIPT = Path(__file__).parent.parent / "scripts" / "average_checkpoints.py"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def average():
    spec = importlib.util.spec_from_file_location("average_checkpoints", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.average


def _tuned(start: Path, folder: Path, step: float, minutes: float, **changes: object) -> Path:
    """A checkpoint as if trained on from ``start``: each weight is moved by ``step``."""
    model = load_checkpoint(start, CPU)
    for name, value in changes.items():
        setattr(model, name, value)
    moved = {k: v + step for k, v in model.trained_state().items() if v.is_floating_point()}
    model.load_state_dict(moved, strict=False)
    stages = {"stage3_joint": {"stage": "stage3_joint"}}
    training = {
        "start": manifest_sha256(start),
        "seed": 3,
        "minutes": minutes,
        "stages": stages,
        "before": read_manifest(start).training,
    }
    save_checkpoint(folder, model, model_id="tuned", trained=True, card="# tuned", training=training)
    return folder


def test_each_checkpoint_has_an_equal_share(average, tiny_checkpoint, tmp_path):
    tuned = [_tuned(tiny_checkpoint, tmp_path / f"{step}", step, 20.0 * step) for step in (0.5, 1.0)]
    average(tiny_checkpoint, tuned, tmp_path / "mean")
    before, after = (load_checkpoint(f, CPU).trained_state() for f in (tiny_checkpoint, tmp_path / "mean"))
    for name, value in before.items():
        torch.testing.assert_close(after[name], value + 0.5, atol=4e-3, rtol=0)  # stored in half precision
    manifest = read_manifest(tmp_path / "mean")
    assert manifest.model_id == read_manifest(tiny_checkpoint).model_id
    mean, *runs = lineage(manifest.training)
    assert [run["minutes"] for run in runs] == [20.0, 10.0], "the last one first"
    assert all("stage3_joint" in run["stages"] for run in runs) and "stages" not in mean


def test_what_did_not_start_there_is_refused(average, tiny_checkpoint, tmp_path):
    one = _tuned(tiny_checkpoint, tmp_path / "one", 0.1, 1.0)
    further = _tuned(one, tmp_path / "further", 0.1, 1.0)
    with pytest.raises(CheckpointError, match="was not trained on from"):
        average(tiny_checkpoint, [one, further], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_other_words_are_refused(average, tiny_checkpoint, tmp_path):
    more = _tuned(tiny_checkpoint, tmp_path / "more", 0.1, 1.0, vocabulary=default_vocabulary().with_words(["anvil"]))
    with pytest.raises(CheckpointError, match="vocabulary"):
        average(tiny_checkpoint, [more], tmp_path / "mean")
