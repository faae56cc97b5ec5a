"""Exported graphs compute what torch computes, and a graph that does not is refused.

Tracing takes its time, so one export of the tiny checkpoint serves all tests that only read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import onnx
import pytest
import torch

from psg4d_ros.checkpoint import load_checkpoint
from psg4d_ros.cli import main
from psg4d_ros.errors import ConfigError, ExportError
from psg4d_ros.model.proposals import Proposals
from psg4d_ros.runtime import export
from psg4d_ros.runtime.export import OPSET, export_model, graph_problem, to_onnx
from psg4d_ros.runtime.graph_parts import graph_parts
from psg4d_ros.runtime.onnx_graph import OnnxGraph
from psg4d_ros.runtime.parity import PRECISIONS, TOLERANCE, VOXELS, cast_inputs, check_parity

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return load_checkpoint(tiny_checkpoint, torch.device("cpu"))


@pytest.fixture(scope="module")
def parts(model):
    return {part.name: part for part in graph_parts(model)}


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """The folder that `export_model` wrote, and its report."""
    folder = tmp_path_factory.mktemp("graphs")
    return folder, export_model(model, folder)


@pytest.fixture
def remember(exported, monkeypatch):
    """Trace nothing again: a part's graph is the one that was exported."""
    monkeypatch.setattr(export, "to_onnx", lambda part, precision: (exported[0] / f"{part.name}.onnx").read_bytes())


def test_every_part_agrees_with_torch_from_no_voxel_to_as_many_as_a_frame_has(exported):
    folder, report = exported
    assert set(report) == {"encoder", "mask_decoder"}
    for name, part in report.items():
        assert part.ok, part.worst
        assert part.voxels == VOXELS
        assert {0, 1, 120_000} <= set(part.voxels)
        assert 0 < part.max_abs_err < 1e-3, f"{name}: float32 is not exact, and not far off"
    assert sorted(file.name for file in folder.iterdir()) == [
        "encoder.json",
        "encoder.onnx",
        "mask_decoder.json",
        "mask_decoder.onnx",
    ]


def test_a_manifest_says_what_its_graph_was_made_from(exported, parts):
    for name, part in parts.items():
        manifest = json.loads((exported[0] / f"{name}.json").read_text())
        graph = onnx.load(exported[0] / f"{name}.onnx")
        assert manifest["opset"] == OPSET == graph.opset_import[0].version
        assert manifest["precision"] == "fp32"
        assert manifest["weights_sha256"] == part.weights_sha256()
        assert manifest["parity"]["ok"] is True
        assert graph_problem(exported[0], part, "fp32") is None
        assert "fp32" in str(graph_problem(exported[0], part, "fp16")), "another precision is another graph"


def test_a_graph_is_gathers_and_products_with_named_inputs_of_any_size(exported, parts):
    graph = onnx.load(exported[0] / "encoder.onnx").graph
    kinds = {node.op_type for node in graph.node}
    assert {"Gather", "MatMul"} <= kinds
    assert not kinds & {"Attention", "Loop", "If", "ScatterND", "ScatterElements", "NonZero"}
    for name, part in parts.items():
        graph = onnx.load(exported[0] / f"{name}.onnx").graph
        assert [value.name for value in graph.input] == list(part.inputs)
        assert [value.name for value in graph.output] == list(part.outputs)
        for value in graph.input:
            dims = value.type.tensor_type.shape.dim
            named = {axis: dim.dim_param for axis, dim in enumerate(dims) if dim.dim_param}
            assert named == part.inputs[value.name], value.name


def test_a_graph_does_not_say_where_it_was_made(exported):
    for name in ("encoder", "mask_decoder"):
        data = (exported[0] / f"{name}.onnx").read_bytes()
        assert b".py" not in data


def test_without_slot_states_the_one_decoder_graph_computes_what_torch_computes_without(exported, parts, model):
    graph, part = OnnxGraph(exported[0] / "mask_decoder.onnx"), parts["mask_decoder"]
    with_slots = part.sample(200)
    without = [torch.full_like(with_slots[0], 7.0), torch.tensor(0.0), *with_slots[2:]]
    with torch.inference_mode():
        expected = model.decoder(None, Proposals(*with_slots[2:4]), *with_slots[4:])
    torch.testing.assert_close(graph(without)[0], expected.mask_logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(graph(with_slots)[0], expected.mask_logits, atol=1e-2), "slot states do reach the masks"


def test_half_precision_agrees_within_its_own_tolerance_and_not_within_that_of_float32(parts):
    part = parts["encoder"]
    graph = OnnxGraph(to_onnx(part, "fp16"))
    assert graph(cast_inputs(part, part.sample(50), PRECISIONS["fp16"]))[0].dtype is torch.float16
    report = check_parity(part, graph, "fp16", (0, 1, 2, 1000))
    assert report.ok, report.worst
    assert 1e-4 < report.max_abs_err < 8 * TOLERANCE["fp16"]


@pytest.mark.parametrize("name", ["encoder", "mask_decoder"])
def test_parity_fails_for_weights_that_are_not_the_graphs(exported, parts, name):
    """As after training on, or an exporter that drops a layer: here one weight matrix is off by a tenth."""
    graph, part = OnnxGraph(exported[0] / f"{name}.onnx"), parts[name]
    module = {"encoder": "encoder.skip.0", "mask_decoder": "decoder.mask_query.2"}[name]
    weight = part.module.get_submodule(module).weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight *= 1.1
    try:
        report = check_parity(part, graph, "fp32", (1000,))
    finally:
        with torch.no_grad():
            weight.copy_(before)
    assert not report.ok
    assert "1000 voxels" in report.worst
    assert check_parity(part, graph, "fp32", (1000,)).ok, "and passes again for the right ones"


def test_an_output_that_is_no_number_fails(exported, parts):
    part = parts["encoder"]
    broken = onnx.load(exported[0] / "encoder.onnx")
    for tensor in broken.graph.initializer:
        if tensor.name.endswith("stem_norm.bias"):
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * float("nan"), tensor.name)
            )
    report = check_parity(part, OnnxGraph(broken.SerializeToString()), "fp32", (10,))
    assert not report.ok
    json.dumps(report.max_abs_err, allow_nan=False)


def test_one_value_that_is_no_number_fails_where_single_slots_may_differ(exported, parts):
    part, graph = parts["mask_decoder"], OnnxGraph(exported[0] / "mask_decoder.onnx")

    def spoilt(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        first, *others = graph(tensors)
        first = first.clone()
        first.view(-1)[0] = float("nan")
        return [first, *others]

    assert check_parity(part, graph, "fp32", (1000,)).ok
    assert not check_parity(part, spoilt, "fp32", (1000,)).ok


def test_where_parity_fails_nothing_is_written_and_the_command_says_so_in_one_line(
    tiny_checkpoint, remember, monkeypatch, tmp_path, capsys
):
    real = check_parity

    def strict(part, graph, precision, voxels):
        """The decoder is asked for more than float32 can give."""
        with monkeypatch.context() as patch:
            patch.setitem(TOLERANCE, "fp32", 1e-9 if part.name == "mask_decoder" else 1e-3)
            return real(part, graph, precision, (1, 50))

    monkeypatch.setattr(export, "check_parity", strict)
    out, report = tmp_path / "out", tmp_path / "report.json"
    assert main(["export", str(out), "--checkpoint", str(tiny_checkpoint), "--json", str(report)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.strip().splitlines()) == 1
    assert "mask_decoder (" in said.err
    assert "nothing written" in said.err
    assert not out.exists()
    parts = json.loads(report.read_text())["parts"]
    assert parts["encoder"]["ok"] is True
    assert parts["mask_decoder"]["ok"] is False
    assert parts["mask_decoder"]["max_abs_err"] > 0


def test_the_command_writes_the_graphs_and_the_report(tiny_checkpoint, remember, tmp_path, capsys):
    out, report = tmp_path / "new" / "out", tmp_path / "report.json"
    assert main(["export", str(out), "--checkpoint", str(tiny_checkpoint), "--json", str(report)]) == 0
    table = capsys.readouterr().out
    assert "encoder.onnx" in table
    assert "mask_decoder.onnx" in table
    assert all(part["ok"] for part in json.loads(report.read_text())["parts"].values())
    assert len(list(out.iterdir())) == 4, "no temporary file is left"


def test_what_cannot_be_written_is_an_error_of_ours(model, remember, monkeypatch, tmp_path):
    monkeypatch.setattr(
        export, "check_parity", lambda part, graph, precision, _: check_parity(part, graph, precision, (1,))
    )
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot write to"):
        export_model(model, tmp_path / "file")


def test_an_unknown_precision_is_refused_before_any_work(model, tmp_path):
    with pytest.raises(ConfigError, match="int8"):
        export_model(model, tmp_path, "int8")
