"""A model's encoder and mask decoder as ONNX files, each checked against torch before it is written.

A sparse convolution is Gather + MatMul in the graph, with the tables of ``runtime.rulebook`` as inputs. Beside every
graph NAME.onnx lies NAME.json, which says what it was made from and how far it is from torch.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import os
import tempfile
import threading
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from psg4d_ros.errors import ConfigError, ExportError
from psg4d_ros.model.base_weights import file_sha256
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.runtime.graph_parts import GraphPart, graph_parts
from psg4d_ros.runtime.onnx_graph import OnnxGraph, import_onnxruntime
from psg4d_ros.runtime.parity import PRECISIONS, VOXELS, Parity, cast_inputs, check_parity
from psg4d_ros.version import version

# The newest that all takers read: from 23 on the exporter emits Attention, which TensorRT's builder fails on.
OPSET = 20
# The sizes a graph is traced with: neither 0 nor 1, which the tracer would take for constants.
_TRACED_VOXELS = 600
# torch traces for the whole process: two models at once would spoil each other's graphs.
_tracing = threading.Lock()


class ParityError(ExportError):
    """A graph does not compute what torch does. parts: the reports of all parts that were tried, by name."""

    def __init__(self, message: str, parts: dict[str, Parity]) -> None:
        super().__init__(message)
        self.parts = parts


def export_model(
    model: PSG4D, folder: Path, precision: str = "fp32", voxels: tuple[int, ...] = VOXELS
) -> dict[str, Parity]:
    """Write NAME.onnx and NAME.json of all parts into ``folder``; the parity reports by name.

    precision: fp32 or fp16, of weights and features; positions stay float32. voxels: the sizes of input that graph and
    torch are compared at. Nothing is written unless every part agrees with torch, and each file appears whole. Raises
    ParityError where one does not, ExportError when a graph cannot be made or written, ConfigError for another
    precision or where a package is missing.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
    onnxruntime = import_onnxruntime()
    graphs: dict[str, bytes] = {}
    reports: dict[str, Parity] = {}
    parts = graph_parts(model)
    for part in parts:
        graphs[part.name] = to_onnx(part, precision)
        reports[part.name] = check_parity(part, OnnxGraph(graphs[part.name]), precision, voxels)
    if bad := [f"{name} ({report.worst})" for name, report in reports.items() if not report.ok]:
        raise ParityError(f"onnxruntime does not compute what torch does: {'; '.join(bad)}; nothing written", reports)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for part in parts:
            manifest = {
                "part": part.name,
                **graph_identity(part, precision),
                "onnx_sha256": sha256(graphs[part.name]).hexdigest(),
                "torch": str(torch.__version__),
                "onnxruntime": onnxruntime.__version__,
                "parity": asdict(reports[part.name]),
            }
            write_whole(folder / f"{part.name}.onnx", graphs[part.name])
            write_whole(folder / f"{part.name}.json", (json.dumps(manifest, indent=2) + "\n").encode())
    except OSError as error:
        raise ExportError(f"cannot write to {folder}: {error}") from error
    return reports


def export_table(parts: dict[str, Parity], folder: Path) -> str:
    """A line for each graph in ``folder``, for people."""
    lines = [f"{'graph':<18} {'MiB':>6} {'max error':>10}  furthest from its tolerance"]
    for name, report in parts.items():
        path = folder / f"{name}.onnx"
        lines.append(f"{path.name:<18} {path.stat().st_size / 2**20:6.1f} {report.max_abs_err:10.2g}  {report.worst}")
    return "\n".join([*lines, f"torch and onnxruntime agree; written to {folder}"])


def graph_identity(part: GraphPart, precision: str) -> dict[str, Any]:
    """What a graph is made from; a graph whose manifest says otherwise is another's, or outdated."""
    return {
        "weights_sha256": part.weights_sha256(),
        "psg4d_ros": version(),
        "opset": OPSET,
        "precision": precision,
    }


def graph_problem(folder: Path, part: GraphPart, precision: str) -> str | None:
    """Why NAME.onnx in ``folder`` is not the graph of this part, or None when it is, to the byte."""
    try:
        manifest = json.loads((folder / f"{part.name}.json").read_text(encoding="utf-8"))
        for key, value in graph_identity(part, precision).items():
            if manifest[key] != value:
                return f"{part.name}.json has {key} {manifest[key]!r}, expected {value!r}"
        if file_sha256(folder / f"{part.name}.onnx") != manifest["onnx_sha256"]:
            return f"{part.name}.onnx does not match its SHA-256"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def to_onnx(part: GraphPart, precision: str) -> bytes:
    """The graph of a part, weights included. Raises ConfigError where a package is missing, else ExportError."""
    try:
        import onnx
        import onnxscript  # noqa: F401  what torch.onnx exports with
    except ImportError as error:
        raise ConfigError(f"export needs onnx and onnxscript ({error}); run: pip install onnx onnxscript") from error
    dtype = PRECISIONS[precision]
    tensors: list[Tensor] = cast_inputs(part, part.sample(_TRACED_VOXELS), dtype)
    dimension = {name: torch.export.Dim(name, min=0) for dims in part.inputs.values() for name in dims.values()}
    shapes = [{axis: dimension[name] for axis, name in dims.items()} for dims in part.inputs.values()]
    module = copy.deepcopy(part.module).to(dtype)
    try:
        with _tracing, _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                (tensors,),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=(shapes,),
                input_names=list(part.inputs),
                output_names=list(part.outputs),
                external_data=False,
                verbose=False,
            )
        assert program is not None
        proto = program.model_proto
        _forget_origin(proto)
        onnx.checker.check_model(proto)
    except Exception as error:  # tracer, translator and checker each raise their own
        first = (str(error).splitlines() or [""])[0]  # of a report of many lines
        raise ExportError(f"{part.name} cannot be exported: {type(error).__name__}: {first}") from error
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def _forget_origin(proto: Any) -> None:
    """Take out where in the code each node came from: the same weights give the same bytes wherever it is installed."""
    for thing in (*proto.graph.node, *proto.graph.value_info, *proto.graph.initializer, proto.graph, proto):
        thing.ClearField("metadata_props")
        thing.ClearField("doc_string")
    for value in (*proto.graph.input, *proto.graph.output):
        value.ClearField("metadata_props")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of packages that nobody needs and of names it gave itself."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.onnx._internal.exporter._registration")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all: whoever reads it meanwhile sees the old one. Raises OSError."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
