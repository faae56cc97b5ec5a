"""Engines are given the right memory, and another backend takes what they do not do.

Engines cannot be executed everywhere the tests run: on the CPU, TensorRT's execution context is a stand-in that reads
and writes the memory it is told of (engine_stand_in.py). The test marked gpu runs the real thing.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from engine_stand_in import WORK_BYTES_PER_VOXEL, stand_in
from given_scenes import scene

from psg4d_ros.checkpoint import default_checkpoint, load_checkpoint
from psg4d_ros.errors import ConfigError, ExportError
from psg4d_ros.runtime.backends import SizeLimits, TorchBackend
from psg4d_ros.runtime.engine_graph import Buffers, EngineGraph
from psg4d_ros.runtime.engines import Engine
from psg4d_ros.runtime.graph_parts import graph_parts
from psg4d_ros.runtime.parity import cast_inputs
from psg4d_ros.runtime.rulebook import build_rulebook
from psg4d_ros.runtime.tensorrt_api import find_tensorrt
from psg4d_ros.runtime.tensorrt_backend import TensorRTBackend, load_engine

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
LIMITS = SizeLimits(max_voxels=120_000, num_frames=8)


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint):
    return load_checkpoint(tiny_checkpoint, CPU)


@pytest.fixture(scope="module")
def parts(tiny):
    return {part.name: part for part in graph_parts(tiny)}


@pytest.fixture
def engine(parts):
    """Make an engine of a part with a stand-in context: engine(name, precision)."""

    def make(name: str, precision: str = "fp32", most: int = 100_000) -> SimpleNamespace:
        part, loaded = parts[name], stand_in(parts[name], precision, most)
        graph = EngineGraph(loaded, tuple(part.inputs), part.outputs, CPU)
        return SimpleNamespace(part=part, graph=graph, context=loaded.context)

    return make


@pytest.fixture
def serving(tiny, engine):
    """A backend whose engines serve, and their contexts by part."""
    backend = TensorRTBackend(tiny, TorchBackend(tiny), LIMITS)
    engines = {name: engine(name, most=2000) for name in ("encoder", "mask_decoder")}
    backend.serve({name: made.graph for name, made in engines.items()})
    return backend, {name: made.context for name, made in engines.items()}


def aligned(tensor: torch.Tensor, offset: int = 0) -> torch.Tensor:
    """The tensor in memory of its own, which begins ``offset`` bytes behind a multiple of 256."""
    size = tensor.numel() * tensor.element_size()
    block = torch.empty(size + 512, dtype=torch.uint8)
    start = -block.data_ptr() % 256 + offset
    return block[start : start + size].view(tensor.dtype).view(tensor.shape).copy_(tensor)


@torch.no_grad()
@pytest.mark.parametrize("name", ["encoder", "mask_decoder"])
@pytest.mark.parametrize(("precision", "error"), [("fp32", 0.0), ("fp16", 1e-2)])
def test_what_goes_in_and_comes_out_through_memory_is_what_torch_computes(engine, name, precision, error):
    made = engine(name, precision)
    for voxels in (300, 40, 301, 1):  # larger, smaller, odd (without slot states), and the least
        tensors = made.part.sample(voxels)
        found = made.graph(tensors)
        for tensor, expected in zip(found, made.part.module(tensors), strict=True):
            assert tensor.dtype == torch.float32, "what follows computes in it"
            assert tensor.shape == expected.shape
            assert (tensor - expected).abs().max() <= error * max(1.0, float(expected.abs().max()))
    assert made.context.executed == 4


@torch.no_grad()
def test_inputs_that_lie_well_are_read_where_they_are_and_others_are_copied(engine):
    made = engine("encoder", "fp16")
    features, *tables = cast_inputs(made.part, made.part.sample(60), torch.float16)
    tables = [aligned(table) for table in tables]
    tables[0] = aligned(tables[0], 64)
    tables[1] = aligned(tables[1].t().contiguous()).t()
    made.graph([aligned(features.float()), *tables])
    names = list(made.part.inputs)[1:]
    elsewhere = [n for n, t in zip(names, tables, strict=True) if made.context.addresses[n] != t.data_ptr()]
    assert elsewhere == names[:2], "one that is not aligned, and one that is not contiguous"
    assert made.context.inputs["features"] == torch.float16
    made.graph([aligned(features), *tables])
    address = made.context.addresses["features"]
    assert address % 256 == 0


@torch.no_grad()
def test_outputs_are_kept_by_whoever_got_them(engine):
    made = engine("encoder")
    first = made.graph(made.part.sample(80))
    before = [tensor.clone() for tensor in first]
    made.graph(made.part.sample(81))
    assert all(torch.equal(a, b) for a, b in zip(first, before, strict=True))


@torch.no_grad()
def test_working_memory_follows_the_sizes_of_the_call_and_stays_where_it_is(engine):
    made = engine("encoder")
    made.graph(made.part.sample(200))
    address, size = made.context.work
    assert size == 200 * WORK_BYTES_PER_VOXEL
    made.graph(made.part.sample(100))
    assert made.context.work == (address, 100 * WORK_BYTES_PER_VOXEL)


def test_buffers_grow_to_twice_their_size_and_never_shrink():
    buffers = Buffers(CPU)
    first = buffers.take("a", (10, 4), torch.float32)
    assert first.shape == (10, 4)
    assert buffers.take("a", (2, 3), torch.int64).data_ptr() == first.data_ptr()
    grown = buffers.take("a", (41,), torch.float32)
    assert grown.untyped_storage().nbytes() == 2 * 10 * 4 * 4
    assert buffers.take("a", (80,), torch.float32).data_ptr() == grown.data_ptr()
    assert buffers.take("a", (1000,), torch.float32).untyped_storage().nbytes() == 4000
    assert buffers.take("b", (), torch.float16).shape == ()
    assert buffers.take("b", (0, 5), torch.float16).shape == (0, 5)


def test_buffers_made_in_inference_mode_can_be_written_to_outside_of_it():
    buffers = Buffers(CPU)
    with torch.inference_mode():
        buffers.take("a", (3,), torch.float32)
    again = buffers.take("a", (3,), torch.float32).copy_(torch.ones(3))
    assert again.tolist() == [1.0, 1.0, 1.0] and not again.is_inference()


def test_an_engine_with_other_tensors_is_refused(parts):
    encoder = parts["encoder"]
    loaded = stand_in(encoder, "fp32")
    with pytest.raises(ExportError, match=r"the engine has inputs \['cell_0'.*expected \['features'\]"):
        EngineGraph(loaded, ["features"], encoder.outputs, CPU)
    with pytest.raises(ExportError, match=r"the engine has outputs"):
        EngineGraph(loaded, tuple(encoder.inputs), ["fine"], CPU)


@pytest.mark.parametrize("call", ["set_input_shape", "set_tensor_address", "infer_shapes", "execute_async_v3"])
def test_what_the_context_refuses_is_an_error_of_ours(engine, call):
    made = engine("encoder")
    made.context.refuses = call
    with pytest.raises(ExportError, match="the engine"):
        made.graph(made.part.sample(20))


def grid_of(window, tiny):
    """The newest frame as voxels, and their tables."""
    from psg4d_ros.voxelize import voxelize

    config = tiny.config.encoder
    grid = voxelize(window.newest, window.origin, config.voxel_size_m, 100_000, CPU, max_points=100_000)
    return grid, build_rulebook(grid.coords, len(config.channels))


@torch.no_grad()
def test_engines_give_what_the_torch_backend_gives(serving, tiny):
    backend, contexts = serving
    reference = TorchBackend(tiny)
    window, _ = scene()
    frames = [(made.encode(*grid_of(window, tiny), 7)) for made in (backend, reference)]
    for field in ("fine", "mid", "tokens", "fine_centers", "token_centers"):
        torch.testing.assert_close(getattr(frames[0], field), getattr(frames[1], field))
    tokens = tiny.gather([frames[1]])
    states = torch.randn(8, tiny.language_model.hidden_size, generator=torch.Generator().manual_seed(0))
    for slot_hidden in (None, states):
        ours, theirs = (made.decode_masks(slot_hidden, tokens) for made in (backend, reference))
        for field in ("mask_logits", "presence_logits", "slot_states", "class_embeddings", "key_mask_logits"):
            torch.testing.assert_close(getattr(ours, field), getattr(theirs, field), msg=field)
    assert (contexts["encoder"].executed, contexts["mask_decoder"].executed) == (1, 2)
    assert (backend.name, backend.problem) == ("tensorrt", "")


@torch.no_grad()
def test_nothing_is_launched_for_no_voxels_or_for_more_than_the_engine_takes(serving, tiny):
    backend, contexts = serving
    window, _ = scene()
    grid, _ = grid_of(window, tiny)
    empty = replace(
        grid,
        coords=grid.coords[:0],
        features=grid.features[:0],
        centers=grid.centers[:0],
        point_voxel=torch.full_like(grid.point_voxel, -1),
    )
    frame = backend.encode(empty, build_rulebook(empty.coords, 4), 7)
    assert len(frame.fine) == len(frame.tokens) == 0
    many = build_rulebook(torch.cartesian_prod(torch.arange(2001), torch.zeros(1).long(), torch.zeros(1).long()), 4)
    large = replace(
        grid,
        coords=many.levels[0].coords,
        features=torch.zeros(2001, grid.features.shape[1]),
        centers=torch.zeros(2001, 3),
    )
    assert len(backend.encode(large, many, 7).fine) == 2001
    assert contexts["encoder"].executed == 0
    assert backend.problem == "", "an engine that does not fit one frame is none that failed"


@torch.no_grad()
def test_when_an_engine_fails_the_window_is_still_served_and_the_reason_stays(serving, tiny):
    backend, contexts = serving
    contexts["encoder"].refuses = "execute_async_v3"
    window, _ = scene()
    grid, rulebook = grid_of(window, tiny)
    frame = backend.encode(grid, rulebook, 7)
    torch.testing.assert_close(frame.fine, TorchBackend(tiny).encode(grid, rulebook, 7).fine)
    assert backend.name == "torch"
    assert backend.problem.startswith("TensorRT is not used, torch runs in its place: the encoder's engine failed")


def test_without_a_gpu_another_backend_serves_and_every_graph_says_so(make_predictor):
    window, _ = scene()
    ours, theirs = (
        make_predictor(backend=name, presence_threshold=0.0, mask_threshold=0.0) for name in ("tensorrt", "auto")
    )
    found, expected = ours.predict(window), theirs.predict(window)
    said = f"TensorRT is not used, {theirs.backend.name} runs in its place: there is no GPU"
    assert said in found.status_text
    assert found.status == expected.status, "nothing is missing from the graph"
    assert found.instances == expected.instances != ()
    assert found.relations == expected.relations
    assert ours.backend.name == theirs.backend.name


def test_with_engines_labels_and_relations_are_those_of_torch(make_predictor, engine):
    window, _ = scene()
    ours, theirs = (
        make_predictor(backend=name, presence_threshold=0.0, mask_threshold=0.0) for name in ("tensorrt", "torch")
    )
    ours.backend.serve({name: engine(name).graph for name in ("encoder", "mask_decoder")})
    found, expected = ours.predict(window), theirs.predict(window)
    assert [i.label for i in found.instances] == [i.label for i in expected.instances]
    assert [(r.predicate, r.subject, r.object) for r in found.relations] == [
        (r.predicate, r.subject, r.object) for r in expected.relations
    ]
    assert expected.instances
    assert "TensorRT" not in found.status_text


def test_an_engine_serves_only_after_it_has_shown_that_it_computes_what_torch_does(parts, tmp_path):
    part = parts["encoder"]
    engine = Engine(b"engine", tmp_path / "encoder.tensorrt_rtx-aot.engine", {})

    def library(loaded, compiled=b"kernels"):
        given = []
        cache = SimpleNamespace(serialize=lambda: compiled)
        cold = replace(loaded, runtime_cache=cache, warm=False)

        def load(data, runtime_cache):
            given.append(runtime_cache)
            return replace(cold, warm=runtime_cache == compiled)

        return SimpleNamespace(load=load, given=given)

    good = library(stand_in(part, "fp32"))
    graph = load_engine(good, engine, part, "fp32", LIMITS, CPU)
    assert isinstance(graph, EngineGraph)
    assert engine.cache.read_bytes() == b"kernels"
    load_engine(good, engine, part, "fp32", LIMITS, CPU)
    assert good.given == [b"", b"kernels"], "the next start compiles nothing"

    wrong = stand_in(part, "fp32")
    wrong.context.part = replace(part, module=lambda tensors: [x + 1 for x in part.module(tensors)])
    with pytest.raises(ExportError, match="the engine of encoder does not compute what torch does: fine with"):
        load_engine(library(wrong), engine, part, "fp32", LIMITS, CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: engines can be built here, but not executed")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_real_engines_agree_with_torch_on_the_gpu(precision, tmp_path):
    """The constructor compares both parts with torch on samples before it lets them serve."""
    device = torch.device("cuda")
    try:
        tensorrt = find_tensorrt(device)
    except ConfigError as error:
        pytest.skip(str(error))
    model = load_checkpoint(default_checkpoint(), device)
    backend = TensorRTBackend(model, TorchBackend(model), LIMITS, precision=precision, cache=tmp_path)
    if tensorrt.name == "tensorrt_rtx" and "unsupported" in backend.problem.lower():
        pytest.skip(backend.problem)
    assert backend.problem == ""
    assert backend.name == "tensorrt"
    again = TensorRTBackend(model, TorchBackend(model), LIMITS, precision=precision, cache=tmp_path)
    assert again.problem == "", "what was built is loaded"
