"""onnxruntime in place of torch: the same answers, from graphs that are made once, whatever happens to their cache."""

from __future__ import annotations

import logging
import re
import runpy
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from test_predictor import scene

from psg4d_ros.checkpoint import load_checkpoint
from psg4d_ros.cli import main
from psg4d_ros.config import CoordinatesConfig, InferenceConfig, PipelineConfig, WindowConfig
from psg4d_ros.errors import ConfigError, ExportError
from psg4d_ros.evaluation.replay import replay
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.pipeline import ScenePipeline
from psg4d_ros.ros.load import is_out_of_memory
from psg4d_ros.runtime import export, graph_cache, onnx_backend
from psg4d_ros.runtime.backends import TorchBackend, make_backend
from psg4d_ros.runtime.graph_cache import cached_graphs
from psg4d_ros.runtime.graph_parts import graph_parts
from psg4d_ros.runtime.onnx_backend import OnnxBackend
from psg4d_ros.runtime.onnx_graph import OnnxGraph
from psg4d_ros.runtime.parity import Parity, check_parity
from psg4d_ros.structures import AlignedFrame, Window

pytestmark = pytest.mark.usefixtures("one_thread")
# The tiny checkpoint's random weights are sure of nothing.
LENIENT = {
    "presence_threshold": 0.0,
    "min_kept": 0.0,
    "relation_threshold": 0.0,
    "max_relations": 10_000,
    "min_points": 1,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def model(tiny_checkpoint) -> PSG4D:
    return load_checkpoint(tiny_checkpoint, torch.device("cpu"))


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory) -> Path:
    """A cache that holds the tiny checkpoint's graphs; not to be changed."""
    cache = tmp_path_factory.mktemp("cache") / "psg4d_ros"
    with cached_graphs(model, cache):
        pass
    return cache


@pytest.fixture
def cache(exported, tmp_path, monkeypatch) -> Path:
    """A copy of it in the place of the user's."""
    shutil.copytree(exported, tmp_path / "psg4d_ros")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "psg4d_ros"


@pytest.fixture
def exports(exported, monkeypatch) -> list[Path]:
    """Where graphs were exported to. Instead of tracing again, which takes its time, the same graphs are put there."""
    made: list[Path] = []

    def put(model, folder, precision, voxels):
        made.append(folder)
        time.sleep(0.2)  # so that another would come in between if it could
        shutil.copytree(next(exported.glob("graphs-*-v1")), folder, dirs_exist_ok=True)

    monkeypatch.setattr(graph_cache, "export_model", put)
    return made


def scores(graph: dict) -> dict[tuple, float]:
    """The objects and relations of a graph of a replay, each with its score: where two scores are equal but for
    rounding, their order means nothing."""
    objects = {(o["track_id"], o["label"], o["num_points"]): o["score"] for o in graph["objects"]}
    relations = {(r["subject_id"], r["predicate"], r["object_id"]): r["score"] for r in graph["relations"]}
    return {**objects, **relations}


def test_a_real_recording_gives_the_same_graphs(kinect_bag, tiny_checkpoint, cache, exports):
    graphs = {}
    for backend in ("torch", "onnxruntime"):
        config = PipelineConfig(
            WindowConfig(), CoordinatesConfig(target_frame="odom"), InferenceConfig(backend=backend, **LENIENT)
        )
        result = replay(kinect_bag, lambda tf, c=config: ScenePipeline.from_checkpoint(tiny_checkpoint, c, tf))
        graphs[backend] = result.graphs
    assert exports == [], "the cache served"
    assert sum(len(graph["objects"]) for graph in graphs["torch"]) > 3
    assert any(graph["relations"] for graph in graphs["torch"])
    for ours, theirs in zip(graphs["torch"], graphs["onnxruntime"], strict=True):
        assert scores(theirs) == pytest.approx(scores(ours), abs=1e-3)


@pytest.mark.parametrize("language_model", [True, False])
def test_a_simulated_window_gives_every_point_the_same_instance(make_predictor, box_scene, cache, language_model):
    frames = []
    for labelled in box_scene.recording().open_frames():
        T = labelled.T_world_sensor
        points = (labelled.frame.points @ T[:3, :3].T + T[:3, 3]).astype(np.float32)
        frames.append(AlignedFrame(labelled.frame, points, T, "tf", "world", np.eye(4)))
    window = Window(tuple(frames), epoch=0, origin=np.zeros(3))
    ours, theirs = (
        make_predictor(backend=name, use_language_model=language_model, **LENIENT).predict(window)
        for name in ("torch", "onnxruntime")
    )
    assert len(ours.instances) > 1
    assert [i.label for i in ours.instances] == [i.label for i in theirs.instances]
    for a, b in zip(ours.point_instance, theirs.point_instance, strict=True):
        np.testing.assert_array_equal(a, b)
    said = [{(r.subject, r.predicate, r.object): r.score for r in found.relations} for found in (ours, theirs)]
    assert said[1] == pytest.approx(said[0], abs=1e-3)
    assert said[0]


def test_auto_on_a_cpu_is_onnxruntime_and_each_name_gives_its_backend(model, cache):
    assert isinstance(make_backend("auto", model), OnnxBackend)
    assert isinstance(make_backend("torch", model), TorchBackend)
    assert isinstance(make_backend("onnxruntime", model), OnnxBackend)
    with pytest.raises(ConfigError, match="expected auto, torch, onnxruntime"):
        make_backend("tflite", model)


@pytest.mark.parametrize("wrong", ["onnxruntime", "onnxscript", "parity", "import", "no file system"])
def test_auto_is_torch_where_onnxruntime_cannot_run(model, tmp_path, monkeypatch, caplog, wrong):
    """A package is missing or does not import, the graph is not what torch computes, or there is nowhere to put it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said = wrong
    if wrong == "parity":
        said = "fine is off by up to 1"
        monkeypatch.setattr(export, "check_parity", lambda *_: Parity(1.0, False, said, 1e-3, (1,)))
    elif wrong == "import":
        said = "Descriptors cannot be created directly"

        def conflict():
            raise TypeError(f"{said}.\nIf this call came from a _pb2.py file, ...")

        monkeypatch.setattr(onnx_backend, "import_onnxruntime", conflict)
    elif wrong == "no file system":
        said = "No locks available"
        monkeypatch.setattr(graph_cache, "graph_problem", lambda *_: "not there")
        monkeypatch.setattr(graph_cache, "export_model", Mock(side_effect=OSError(said)))
    else:
        monkeypatch.setitem(sys.modules, wrong, None)
    assert isinstance(make_backend("auto", model), TorchBackend)
    (record,) = (r for r in caplog.records if r.name == "psg4d_ros.runtime.backends")
    assert said in record.message
    assert "\n" not in record.message


def test_two_models_at_once_are_both_exported(tiny_checkpoint, tmp_path):
    """torch traces for the whole process."""
    models = [load_checkpoint(tiny_checkpoint, torch.device("cpu")) for _ in range(2)]
    with torch.no_grad():
        for number, one in enumerate(models):
            one.decoder.mask_bias += number
    with ThreadPoolExecutor(2) as both:
        made = list(both.map(lambda one: OnnxBackend(one, tmp_path), models))
    assert len(made) == len(list(tmp_path.glob("graphs-*-v1"))) == 2


def test_a_large_frame_is_encoded_by_torch(make_predictor, cache, monkeypatch):
    """It would take longer, and several times the memory."""
    ours, theirs = (make_predictor(backend=name, **LENIENT) for name in ("onnxruntime", "torch"))
    monkeypatch.setattr(ours.backend, "_encoder", Mock(side_effect=ExportError("asked")))
    small = scene([(0.0, -5.0, 1.0)])
    with pytest.raises(ExportError, match="asked"):
        ours.predict(small)
    monkeypatch.setattr(onnx_backend, "MOST_VOXELS", 10)
    found, expected = ours.predict(small), theirs.predict(small)
    np.testing.assert_array_equal(found.point_instance[0], expected.point_instance[0])
    assert found.instances


def test_too_little_memory_is_told_as_such():
    """The node then sheds load (ros/load.py); what onnxruntime raises is no MemoryError."""
    shape = helper.make_tensor_value_info("shape", TensorProto.INT64, [2])
    filled = helper.make_tensor_value_info("filled", TensorProto.FLOAT, [None, None])
    node = helper.make_node("ConstantOfShape", ["shape"], ["filled"])
    model = helper.make_model(
        helper.make_graph([node], "fill", [shape], [filled]), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    graph = OnnxGraph(model.SerializeToString())
    assert graph([torch.tensor([2, 3])])[0].shape == (2, 3)
    with pytest.raises(MemoryError) as told:
        graph([torch.tensor([2**24, 2**24])])
    assert is_out_of_memory(told.value)
    with pytest.raises(ExportError, match="cannot run the graph"):
        graph([torch.tensor([-2, 3])])


def test_without_onnxruntime_the_command_says_how_to_get_it(tiny_checkpoint, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    command = ["demo", "--checkpoint", str(tiny_checkpoint), "--set", "inference.backend=onnxruntime", "--quiet"]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "pip install onnxruntime" in said
    assert len(said.strip().splitlines()) == 1


def test_two_at_once_export_once_and_both_get_whole_graphs(model, tmp_path, exports):
    def load(_: int) -> OnnxBackend:
        return OnnxBackend(model, tmp_path)

    with ThreadPoolExecutor(2) as both:
        assert len(list(both.map(load, range(2)))) == 2
    assert len(exports) == 1


@pytest.mark.parametrize("harm", ["truncated", "no manifest", "another opset", "nonsense"])
def test_a_damaged_or_outdated_graph_is_made_again(model, cache, exports, harm, caplog):
    (folder,) = cache.glob("graphs-*-v1")
    graph, manifest = folder / "encoder.onnx", folder / "encoder.json"
    if harm == "truncated":
        graph.write_bytes(graph.read_bytes()[:-100])
    elif harm == "no manifest":
        manifest.unlink()
    elif harm == "another opset":
        manifest.write_text(manifest.read_text().replace('"opset": 20', '"opset": 18'))
    else:
        manifest.write_text("[]")
    with caplog.at_level(logging.WARNING):
        OnnxBackend(model)
    assert exports == [folder]
    assert "exporting again" in caplog.text
    OnnxBackend(model)
    assert len(exports) == 1, "now it is whole"


def test_other_weights_are_other_graphs(tiny_checkpoint, cache, exports):
    trained_on = load_checkpoint(tiny_checkpoint, torch.device("cpu"))
    with torch.no_grad():
        trained_on.decoder.mask_bias += 0.1
    with cached_graphs(trained_on) as folder:
        assert exports == [folder]
    assert len(list(cache.glob("graphs-*-v1"))) == 2


def test_graphs_that_can_only_be_read_serve(model, cache, exports, monkeypatch):
    """A container's image brings them, and a robot's user may not write there."""
    monkeypatch.setattr(graph_cache.fcntl, "flock", Mock(side_effect=OSError("Read-only file system")))
    with cached_graphs(model) as folder:
        assert folder.parent == cache
    assert exports == []


def test_where_the_cache_cannot_be_a_folder_graphs_are_made_for_this_run(model, tmp_path, exports, caplog):
    (tmp_path / "psg4d_ros").write_text("a file in its place, which stops root, too")
    with caplog.at_level(logging.WARNING):
        OnnxBackend(model, tmp_path / "psg4d_ros")
    assert len(exports) == 1
    assert "for this run only" in caplog.text
    assert not exports[0].exists(), "and taken away again"


def test_the_backend_of_the_documentation_agrees_with_torch(model, cache, tmp_path):
    page = Path(__file__).parent.parent / "docs" / "extending.md"
    *_, last = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "example.py").write_text(last)
    backend = runpy.run_path(str(tmp_path / "example.py"))["ReferenceBackend"](model)
    runs = {"encoder": backend._encoder, "mask_decoder": backend._decoder}
    for part in graph_parts(model):
        report = check_parity(part, runs[part.name], "fp32", (1, 200))
        assert report.ok, report.worst
