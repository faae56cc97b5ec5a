"""TensorRT engines are really built from both graphs, without a GPU, and a file that is none is never taken for one."""

from __future__ import annotations

import ast
import functools
import json
import logging
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from onnx import TensorProto, helper
from tensorrt_names import NAMES, RTX_NAMES

from psg4d_ros.checkpoint import load_checkpoint
from psg4d_ros.cli import main
from psg4d_ros.config import ModelConfig, from_dict
from psg4d_ros.environment import check_environment
from psg4d_ros.errors import ConfigError, ExportError
from psg4d_ros.model.mask_decoder import MaskDecoder
from psg4d_ros.model.sparse_encoder import SparseEncoder
from psg4d_ros.runtime import engine_graph, export, tensorrt_api
from psg4d_ros.runtime.backends import SizeLimits
from psg4d_ros.runtime.engines import build_engines, dimension_ranges, ready_engine
from psg4d_ros.runtime.export import to_onnx
from psg4d_ros.runtime.graph_parts import graph_parts
from psg4d_ros.runtime.parity import check_parity
from psg4d_ros.runtime.tensorrt_api import AHEAD_OF_TIME, find_tensorrt
from psg4d_ros.voxelize import FEATURE_NAMES

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
LIMITS = SizeLimits(max_voxels=120_000, num_frames=8)
PARTS = ("encoder", "mask_decoder")
PRECISIONS = ("fp32", "fp16")


@pytest.fixture(scope="module")
def rtx():
    """The module of TensorRT-RTX, for tests that build."""
    return pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install tensorrt-rtx-cu13")


@pytest.fixture(scope="module")
def tensorrt(rtx):
    found = find_tensorrt(CPU)
    assert found.name == "tensorrt_rtx", "without a GPU only this one builds"
    return found


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint):
    return load_checkpoint(tiny_checkpoint, CPU)


@pytest.fixture(scope="module")
def traced(tiny):
    """The tiny checkpoint's graphs, traced when they are first asked for: traced(name, precision)."""
    parts = {part.name: part for part in graph_parts(tiny)}
    return functools.cache(lambda name, precision: to_onnx(parts[name], precision))


@pytest.fixture(scope="module")
def encoder(tiny):
    return graph_parts(tiny)[0]


@pytest.fixture(scope="module")
def built(tensorrt, tiny, traced, encoder, tmp_path_factory):
    """The tiny encoder's engine."""
    folder = tmp_path_factory.mktemp("engine")
    (folder / "encoder.onnx").write_bytes(traced("encoder", "fp32"))
    ranges = dimension_ranges(encoder, tiny.config, LIMITS)
    return ready_engine(tensorrt, folder, encoder, "fp32", ranges, AHEAD_OF_TIME)


@pytest.fixture
def shelf(tensorrt, tiny, traced, encoder, built, tmp_path, monkeypatch):
    """A folder with the encoder's graph, where an engine is asked for; building costs nothing and is counted."""
    (tmp_path / "encoder.onnx").write_bytes(traced("encoder", "fp32"))
    ranges = dimension_ranges(encoder, tiny.config, LIMITS)
    calls = []

    def build(onnx, dynamic, timing_cache):
        calls.append(dynamic)
        return built.data, b""

    def ask(precision="fp32", part=encoder, ranges=ranges, target=AHEAD_OF_TIME):
        return ready_engine(tensorrt, tmp_path, part, precision, ranges, target)

    monkeypatch.setattr(tensorrt, "build", build)
    return SimpleNamespace(ask=ask, calls=calls, folder=tmp_path, ranges=ranges)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_both_graphs_of_a_small_model_are_built_without_a_gpu(rtx, tensorrt, tiny, traced, precision, tmp_path):
    for name in PARTS:
        (tmp_path / f"{name}.onnx").write_bytes(traced(name, precision))
    engines = build_engines(tensorrt, tiny, tmp_path, precision, LIMITS, CPU)
    assert tuple(engines) == PARTS
    for name, engine in engines.items():
        assert len(engine.data) > 10_000
        assert engine.path.read_bytes() == engine.data
        assert engine.path.name == f"{name}.tensorrt_rtx-aot.engine"
        assert engine.manifest["target"] == AHEAD_OF_TIME
        assert (engine.manifest["library"], engine.manifest["version"]) == ("tensorrt_rtx", rtx.__version__)
        assert json.loads(engine.path.with_suffix(".json").read_text()) == engine.manifest


@pytest.fixture(scope="module")
def shipped():
    """Encoder and mask decoder as in the checkpoint that ships, with any weights."""
    file = Path(__file__).resolve().parents[1] / "models" / "psg4d-small" / "config.json"
    config = from_dict(ModelConfig, json.loads(file.read_text()))
    channels, hidden = config.encoder.channels, 576
    torch.manual_seed(0)
    decoder = MaskDecoder(config.decoder, channels[0], channels[1], channels[-1], hidden, hidden)
    return SimpleNamespace(encoder=SparseEncoder(config.encoder, len(FEATURE_NAMES)), decoder=decoder, config=config)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", PARTS)
def test_the_graphs_of_the_shipped_architecture_are_built_without_a_gpu(tensorrt, shipped, name, precision, tmp_path):
    part = next(part for part in graph_parts(shipped) if part.name == name)
    (tmp_path / f"{name}.onnx").write_bytes(to_onnx(part, precision))
    ranges = dimension_ranges(part, shipped.config, LIMITS)
    engine = ready_engine(tensorrt, tmp_path, part, precision, ranges, AHEAD_OF_TIME)
    weights = sum(p.numel() for p in part.module.parameters()) * (4 if precision == "fp32" else 2)
    assert len(engine.data) > 0.9 * weights, "the weights are in it"


def test_ranges_come_from_the_limits_of_the_pipeline_and_of_the_model(tiny):
    encoder, decoder = graph_parts(tiny)
    voxels = dimension_ranges(encoder, tiny.config, SizeLimits(max_voxels=50_000, num_frames=4))
    assert voxels == {
        "V0": (1, 20_000, 50_000), "V1": (1, 5_000, 50_000), "V2": (1, 1_250, 50_000), "V3": (1, 312, 50_000)
    }  # fmt: skip
    window = dimension_ranges(decoder, tiny.config, SizeLimits(max_voxels=50_000, num_frames=4))
    assert window["V"] == (1, 80_000, 200_000)
    assert window["S"] == (1, 64, tiny.config.language_model.max_scene_tokens)
    assert window["K"] == (1, 20_000, tiny.config.decoder.max_keys)
    small = dimension_ranges(encoder, tiny.config, SizeLimits(max_voxels=100, num_frames=1))
    assert set(small.values()) == {(1, 100, 100)}


def test_no_tensor_of_an_engine_has_more_elements_than_32_bits_count(tiny):
    encoder, decoder = graph_parts(tiny)
    huge = SizeLimits(max_voxels=2_000_000, num_frames=64)
    wide = replace(tiny.config, encoder=replace(tiny.config.encoder, channels=(32, 64, 96, 128)))
    assert dimension_ranges(encoder, wide, huge)["V0"][2] * 27 * 128 < 2**31
    assert dimension_ranges(decoder, tiny.config, huge)["V"][2] * tiny.config.decoder.dim < 2**31


def test_an_engine_is_built_once_and_then_taken_as_it_is(shelf):
    first, second = shelf.ask(), shelf.ask()
    assert len(shelf.calls) == 1
    assert first.data == second.data
    assert first.manifest == second.manifest


def cut(shelf):
    path = next(shelf.folder.glob("*.engine"))
    path.write_bytes(path.read_bytes()[:-1000])


def emptied(shelf):
    next(shelf.folder.glob("*.engine")).write_bytes(b"")


def altered(shelf):
    path = next(shelf.folder.glob("*.engine"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def without_manifest(shelf):
    next(shelf.folder.glob("*.json")).unlink()


def with_a_cut_manifest(shelf):
    path = next(shelf.folder.glob("*.json"))
    path.write_text(path.read_text()[:40])


def with_a_list_as_manifest(shelf):
    next(shelf.folder.glob("*.json")).write_text("[]")


def of(**other):
    def change(shelf):
        path = next(shelf.folder.glob("*.json"))
        path.write_text(json.dumps({**json.loads(path.read_text()), **other}))

    return change


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (cut, "does not match its SHA-256"),
        (emptied, "does not match its SHA-256"),
        (altered, "does not match its SHA-256"),
        (without_manifest, "FileNotFoundError"),
        (with_a_cut_manifest, "JSONDecodeError"),
        (with_a_list_as_manifest, "TypeError"),
        (of(version="1.0.0.1"), "has version '1.0.0.1'"),
        (of(library="tensorrt"), "has library 'tensorrt'"),
        (of(target="8.9 NVIDIA GeForce RTX 4090"), "has target '8.9 NVIDIA GeForce RTX 4090'"),
        (of(part="mask_decoder"), "has part 'mask_decoder'"),
        (of(precision="fp16"), "has precision 'fp16'"),
        (of(shapes={"V0": [1, 2, 3]}), "has shapes"),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value),
)
def test_a_truncated_foreign_or_outdated_engine_is_built_again_and_the_reason_is_logged(shelf, damage, says, caplog):
    good = shelf.ask()
    damage(shelf)
    with caplog.at_level(logging.WARNING):
        again = shelf.ask()
    assert len(shelf.calls) == 2
    assert again.data == good.data == again.path.read_bytes()
    (record,) = caplog.records
    assert "building it again" in record.getMessage()
    assert says in record.getMessage()
    assert shelf.ask().manifest == again.manifest
    assert len(shelf.calls) == 2, "what was repaired is whole"


def test_an_engine_of_another_graph_is_outdated(shelf):
    shelf.ask()
    with (shelf.folder / "encoder.onnx").open("ab") as file:
        file.write(b"\0")
    shelf.ask()
    assert len(shelf.calls) == 2


def test_engines_for_several_gpus_lie_side_by_side(shelf):
    for target in ("8.9 NVIDIA GeForce RTX 4090", "9.0 NVIDIA H100", "8.9 NVIDIA GeForce RTX 4090"):
        shelf.ask(target=target)
    assert len(shelf.calls) == 2
    assert len(list(shelf.folder.glob("*.engine"))) == 2


def test_what_was_compiled_for_an_engine_goes_with_it(shelf):
    engine = shelf.ask()
    engine.cache.write_bytes(b"kernels")
    assert shelf.ask().cache.is_file()
    cut(shelf)
    assert not shelf.ask().cache.is_file()


def test_what_was_timed_for_one_engine_is_handed_to_the_next_build(tiny, encoder, tmp_path):
    """By ``tensorrt``, which builds on GPUs alone: in its place stands what takes and gives a timing cache as it
    does."""
    taken = []

    def build(onnx, dynamic, timing_cache):
        taken.append(timing_cache)
        return b"engine of " + onnx, timing_cache + b"timed;"

    library = SimpleNamespace(name="tensorrt", version="10.13.0", build=build)
    ranges = dimension_ranges(encoder, tiny.config, LIMITS)
    for graph in (b"one", b"one", b"another"):
        (tmp_path / "encoder.onnx").write_bytes(graph)
        assert ready_engine(library, tmp_path, encoder, "fp32", ranges, "9.0 H100").data == b"engine of " + graph
    assert taken == [b"", b"timed;"], "the second time it was there"
    assert (tmp_path / "tensorrt.timings").read_bytes() == b"timed;timed;"


def test_a_build_that_was_killed_leaves_nothing_that_is_taken_for_an_engine(shelf, tensorrt, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tensorrt, "build", killed)
        with pytest.raises(KeyboardInterrupt):
            shelf.ask()
    assert not list(shelf.folder.glob("*.engine"))
    shelf.ask()
    assert len(shelf.calls) == 1


def test_two_builders_at_once_build_once_and_get_the_same_engine(tensorrt, tiny, traced, encoder, tmp_path, caplog):
    """The lock is on an open file, so that it holds between threads as between processes. The build is a real one."""
    (tmp_path / "encoder.onnx").write_bytes(traced("encoder", "fp32"))
    ranges = dimension_ranges(encoder, tiny.config, LIMITS)
    start, engines = threading.Barrier(3), []

    def work():
        start.wait()
        engines.append(ready_engine(tensorrt, tmp_path, encoder, "fp32", ranges, AHEAD_OF_TIME))

    threads = [threading.Thread(target=work) for _ in range(3)]
    with caplog.at_level(logging.INFO, "psg4d_ros.runtime.engines"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len({engine.data for engine in engines}) == 1
    assert sum("building" in record.getMessage() for record in caplog.records) == 1
    assert not list(tmp_path.glob(".*")), "no temporary file stays behind"


def test_what_cannot_be_built_is_an_error_in_the_librarys_own_words(tensorrt, traced, encoder, tmp_path):
    with pytest.raises(ExportError, match=r"encoder\.tensorrt_rtx-aot\.engine.*No such file"):
        ready_engine(tensorrt, tmp_path, encoder, "fp32", {}, AHEAD_OF_TIME)
    unknown = helper.make_node("NoSuchOperator", ["x"], ["y"])
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    model = helper.make_model(helper.make_graph([unknown], "strange", tensors[:1], tensors[1:]))
    with pytest.raises(ExportError, match=r"tensorrt_rtx 1\S+ cannot read the graph: .*NoSuchOperator"):
        tensorrt.build(model.SerializeToString(), {})
    onnx = traced("encoder", "fp32")
    contradictory = {name: {0: (1, 5, 10)} for name in encoder.inputs} | {"parent_0": {0: (20, 30, 40)}}
    with pytest.raises(ExportError, match=r"tensorrt_rtx 1\S+ cannot build the graph: \S"):
        tensorrt.build(onnx, contradictory)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which may run it")
def test_an_engine_that_cannot_run_here_is_refused_with_the_reason(tensorrt, built):
    with pytest.raises(ExportError, match=r"tensorrt_rtx 1\S+ cannot .*(CUDA|cuda)"):
        tensorrt.load(built.data)


def test_where_no_tensorrt_is_installed_the_error_says_what_to_install(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(tensorrt_api.importlib, "import_module", absent)
    tensorrt_api._opened.cache_clear()
    try:
        with pytest.raises(ConfigError, match=r"no TensorRT: .*pip install tensorrt-rtx-cu13"):
            find_tensorrt(CPU)
        with pytest.raises(ConfigError, match=r"tensorrt does not import.*tensorrt_rtx does not import"):
            find_tensorrt(torch.device("cuda"))
        (item,) = (item for item in check_environment() if item.name == "TensorRT")
    finally:
        tensorrt_api._opened.cache_clear()
    assert not item.ok
    assert item.optional
    assert "pip install tensorrt-rtx-cu13" in item.remedy


def test_a_tensorrt_too_old_for_its_memory_to_be_ours_is_refused(monkeypatch):
    old = SimpleNamespace(__name__="tensorrt", __version__="8.6.1")
    monkeypatch.setattr(tensorrt_api.importlib, "import_module", lambda name: old)
    with pytest.raises(ConfigError, match=r"tensorrt is 8\.6\.1, 10\.1 or newer is needed"):
        tensorrt_api._opened.__wrapped__("tensorrt")


def test_check_names_the_tensorrt_that_was_found(rtx):
    (item,) = (item for item in check_environment() if item.name == "TensorRT")
    assert item.ok
    assert rtx.__version__ in item.found


# Which variable of the code holds what.
HOLDS = {
    "trt": "", "module": "", "builder": "Builder", "network": "INetworkDefinition", "parser": "OnnxParser",
    "config": "IBuilderConfig", "profile": "IOptimizationProfile", "kept": "ITimingCache", "runtime": "Runtime",
    "loaded": "ICudaEngine", "settings": "IRuntimeConfig", "cache": "IRuntimeCache", "context": "IExecutionContext",
}  # fmt: skip


def used_names():
    """(class, attribute) of every use of the library in the adapter and where engines are run."""
    found = {("ITensor", "name"), ("ITensor", "shape"), ("IRuntimeCache", "serialize")}
    for module in (tensorrt_api, engine_graph):
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if not isinstance(node, ast.Attribute):
                continue
            chain = ast.unparse(node).split(".")
            if (
                chain[0] in HOLDS
                and not any(part.startswith("__") for part in chain[:-1])
                and all(part.isidentifier() for part in chain)
            ):
                owner = ".".join(filter(None, [HOLDS[chain[0]], *chain[1:-1]]))
                found.add((owner, chain[-1]))
    return found


def test_every_name_that_is_used_exists_in_the_real_tensorrt_rtx(rtx):
    used = used_names()
    assert len(used) > 50
    for owner, name in used:
        thing = rtx
        for step in filter(None, owner.split(".")):
            thing = getattr(thing, step)
        assert hasattr(thing, name), f"{owner}.{name}"


def test_every_name_that_is_used_exists_in_tensorrt_or_is_only_asked_of_tensorrt_rtx():
    recorded = {(owner, name) for table in (NAMES, RTX_NAMES) for owner, names in table.items() for name in names}
    assert used_names() == recorded, "test/tensorrt_names.py is to be brought up to date from the documentation"


def test_export_builds_engines_and_its_json_tells_of_them(rtx, tiny_checkpoint, traced, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "to_onnx", lambda part, precision: traced(part.name, precision))
    monkeypatch.setattr(export, "check_parity", lambda part, run, p, _: check_parity(part, run, p, (1, 50)))
    out, report = tmp_path / "out", tmp_path / "report.json"
    arguments = ["export", out, "--checkpoint", tiny_checkpoint, "--precision", "fp16", "--engines", "--json", report]
    assert main([str(argument) for argument in arguments]) == 0
    said = capsys.readouterr().out
    for name, part in json.loads(report.read_text())["parts"].items():
        assert part["ok"]
        assert part["engine"]["file"] == f"{name}.tensorrt_rtx-aot.engine"
        assert part["engine"]["precision"] == "fp16"
        assert (out / part["engine"]["file"]).stat().st_size == part["engine"]["engine_bytes"]
        assert f"{part['engine']['file']}: " in said
    assert "not run" in said
