"""What the tests share: a small untrained checkpoint on disk, and the real recording."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from psg4d_ros.torch_environment import prepare_torch

# Wrong types in ROS messages show at once, in every process the tests start.
os.environ.setdefault("ROS_PYTHON_CHECK_FIELDS", "1")
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
prepare_torch()  # as the command line and the node do
# Nothing may reach for a model hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Graphs that other code exported are not found, and none of the tests' are left behind. All else in the user's
    cache, the converted language model above all, is there as ever."""
    from psg4d_ros.model.base_weights import default_cache

    usual = default_cache()
    root = tmp_path_factory.mktemp("cache")
    (root / usual.name).mkdir()
    links = [usual.parent.glob("*"), usual.glob("*")]
    for entry in (entry for found in links for entry in found if entry != usual):
        if not entry.name.startswith("graphs-"):
            (root / entry.relative_to(usual.parent)).symlink_to(entry)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root))
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """A complete checkpoint, a few channels wide, with a random language model of the real one's class."""
    import torch
    from opened import open_language_model

    from psg4d_ros.checkpoint import save_checkpoint
    from psg4d_ros.config import DecoderConfig, EncoderConfig, LanguageModelConfig, ModelConfig
    from psg4d_ros.model.language_model import tiny_language_model
    from psg4d_ros.model.psg4d import PSG4D
    from psg4d_ros.vocabulary import default_vocabulary

    folder = tmp_path_factory.mktemp("tiny")
    language_model = tiny_language_model()
    language_model.base.save_pretrained(folder / "language_model")
    language_model.tokenizer.save_pretrained(folder / "language_model")
    config = ModelConfig(
        encoder=EncoderConfig(channels=(8, 16, 16, 16)),
        language_model=LanguageModelConfig(source=str(folder / "language_model"), max_scene_tokens=64),
        decoder=DecoderConfig(num_slots=8, proposals=2, dim=32, heads=2, layers=2),
    )
    torch.manual_seed(0)
    model = PSG4D(config, default_vocabulary(), language_model)
    open_language_model(model)
    save_checkpoint(folder / "checkpoint", model, model_id="tiny", trained=False, card="# tiny\n")
    return folder / "checkpoint"


@pytest.fixture(scope="session")
def kinect_bag() -> Path:
    """The real three-frame recording that ships with the project."""
    from psg4d_ros.data.bundled import bundled_bag

    return bundled_bag()


@pytest.fixture(scope="session")
def demo(tiny_checkpoint, tmp_path_factory) -> SimpleNamespace:
    """`psg4d demo`, run once on three clouds of each recording. folder: where it ran; text: what it printed; result."""
    pytest.importorskip("embreex", reason="the simulated scene needs the extra [sim]")
    from psg4d_ros.cli import main

    folder, text = tmp_path_factory.mktemp("demo"), io.StringIO()
    eager = ["inference.presence_threshold=0", "inference.min_kept=0", "inference.relation_threshold=0"]
    settings = ["inference.threads=1", "tracker.min_windows=1", *eager]  # its weights are random
    small = ["--limit", "3", *(word for s in settings for word in ("--set", s))]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(text):
        patch.chdir(folder)
        assert main(["demo", "--checkpoint", str(tiny_checkpoint), "--json", "demo.json", "--quiet", *small]) == 0
    return SimpleNamespace(folder=folder, text=text.getvalue(), result=json.loads((folder / "demo.json").read_text()))


@pytest.fixture
def make_predictor(tiny_checkpoint):
    """Make a WindowPredictor that lets every relation through; the weights count as trained, so OK can be told."""
    import torch

    from psg4d_ros.checkpoint import load_checkpoint
    from psg4d_ros.config import InferenceConfig
    from psg4d_ros.runtime.predictor import WindowPredictor

    def make(**inference) -> WindowPredictor:
        config = InferenceConfig(**{"device": "cpu", "relation_threshold": 0.0, **inference})
        return WindowPredictor(load_checkpoint(tiny_checkpoint, torch.device("cpu")), config, trained=True)

    return make


@pytest.fixture(scope="session")
def box_scene():
    """The boxes' scene, recorded once; for what only reads it."""
    from recorded_boxes import record_boxes

    return record_boxes()


@pytest.fixture
def room():
    """Make a PointFrame of a floor with boxes on it, z up, that moves with time: room(stamp_ns, points, seed)."""
    from psg4d_ros.structures import PointFrame

    def make(stamp_ns: int, num_points: int = 3000, seed: int = 0) -> PointFrame:
        rng = np.random.default_rng(seed)
        points = rng.uniform((-2, -2, 0), (2, 2, 0.02), (num_points, 3))
        for number, start in enumerate(range(num_points // 2, num_points, num_points // 6 + 1)):
            corner = np.array([number * 0.9 - 1.2 + stamp_ns * 1e-10, 0.3 * number, 0.0])
            points[start : start + num_points // 6] = corner + rng.uniform(
                0, 0.5, points[start : start + num_points // 6].shape
            )
        colors = rng.integers(0, 256, (num_points, 3), dtype=np.uint8)
        index = np.arange(num_points, dtype=np.int64)
        return PointFrame(points.astype(np.float32), colors, None, index, stamp_ns, "base")

    return make


@pytest.fixture
def one_thread():
    """Tiny models run fastest on one thread; what a test sets is taken back."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def spy(monkeypatch):
    """Record the calls of a method: spy(owner, name) is a list that grows by one entry per call, with the arguments by
    name and the result. edit(result, arguments): what the caller gets instead."""

    def record(owner, name, edit=lambda result, arguments: result) -> list[SimpleNamespace]:
        real, calls = getattr(owner, name), []
        signature = inspect.signature(real)

        def recorded(*args, **kwargs):
            arguments = signature.bind(*args, **kwargs).arguments
            result = edit(real(*args, **kwargs), arguments)
            calls.append(SimpleNamespace(**arguments, result=result))
            return result

        monkeypatch.setattr(owner, name, recorded)
        return calls

    return record
