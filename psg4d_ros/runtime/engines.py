"""TensorRT engines, built from exported graphs and kept beside them.

Beside NAME.onnx lies NAME.<library>-<capability>.engine and, of the same stem, a .json that says what it was built
from. An engine that was cut short, altered, built from another graph, by another version, for another GPU or for other
sizes is built anew. Files appear whole; of two processes that want the same engine one builds and the other waits.
"""

from __future__ import annotations

import fcntl
import json
import logging
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from psg4d_ros.config import ModelConfig
from psg4d_ros.errors import ExportError
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.runtime.backends import SizeLimits
from psg4d_ros.runtime.devices import choose_device
from psg4d_ros.runtime.export import write_whole
from psg4d_ros.runtime.graph_parts import GraphPart, graph_parts
from psg4d_ros.runtime.tensorrt_api import AHEAD_OF_TIME, Range, TensorRT, find_tensorrt

log = logging.getLogger(__name__)

# What a frame of a room has at the finest level, and how much fewer voxels each coarser level has. Engines are tuned
# for this; they run with anything in their ranges.
_USUAL_VOXELS, _FEWER = 20_000, 4
_VOXELS_PER_TOKEN = 200
# A tensor holds at most so many elements; kernels count them in 32 bits.
_MOST_ELEMENTS = 2**31 - 1
_NEIGHBOURS = 27


@dataclass(frozen=True)
class Engine:
    """A valid engine. manifest: what the file beside it says; cache: where compiled kernels are kept for it."""

    data: bytes
    path: Path
    manifest: dict[str, Any]

    @property
    def cache(self) -> Path:
        return self.path.with_suffix(".cache")

    def summary(self) -> str:
        """One line for people."""
        said = self.manifest
        size = said["engine_bytes"] / 2**20
        return f"{self.path.name}: {size:.1f} MiB, {said['library']} {said['version']}, {said['target']}, not run"


def dimension_ranges(part: GraphPart, model: ModelConfig, limits: SizeLimits) -> dict[str, Range]:
    """(least, usual, largest) of each dynamic dimension of a part, by name. Never 0: torch takes what is empty."""
    names = sorted({name for dims in part.inputs.values() for name in dims.values()})
    usual = _USUAL_VOXELS * limits.num_frames
    if part.name == "encoder":
        # A level can have as many voxels as the one below it: when no two of them share a cell.
        most = min(limits.max_voxels, _MOST_ELEMENTS // (_NEIGHBOURS * max(model.encoder.channels)))
        sizes = {name: (_USUAL_VOXELS // _FEWER ** int(name[1:]), most) for name in names}
    else:
        most = min(limits.max_voxels * limits.num_frames, _MOST_ELEMENTS // (4 * model.decoder.dim))
        sizes = {
            "S": (usual // _VOXELS_PER_TOKEN, model.language_model.max_scene_tokens),
            "K": (usual // _FEWER, model.decoder.max_keys),
            "V": (usual, most),
        }
    return {name: (1, min(max(1, sizes[name][0]), sizes[name][1]), sizes[name][1]) for name in names}


def build_engines(
    tensorrt: TensorRT, model: PSG4D, folder: Path, precision: str, limits: SizeLimits, device: torch.device
) -> dict[str, Engine]:
    """The engines of the graphs in ``folder``, by part, built where they are not there yet; none is loaded.

    precision: of the graphs. device: what they are to run on; without a GPU they are built ahead of time. Raises
    ConfigError where that is not possible, ExportError when a graph is missing or cannot be built.
    """
    target = tensorrt.target(device)
    return {
        part.name: ready_engine(tensorrt, folder, part, precision, dimension_ranges(part, model.config, limits), target)
        for part in graph_parts(model)
    }


def engines_beside(model: PSG4D, folder: Path, precision: str) -> list[Engine]:
    """Build for this machine's GPU, or ahead of time where there is none, with the sizes of the default configuration.

    Raises what ``find_tensorrt`` and ``build_engines`` raise.
    """
    device = choose_device("auto")
    return list(build_engines(find_tensorrt(device), model, folder, precision, SizeLimits(), device).values())


def ready_engine(
    tensorrt: TensorRT, folder: Path, part: GraphPart, precision: str, ranges: dict[str, Range], target: str
) -> Engine:
    """The engine of NAME.onnx in ``folder``, taken from there or built: that is all, it is not loaded.

    precision: of the graph. ranges: see ``dimension_ranges``. target: see ``TensorRT.target``. Raises ExportError when
    the graph is missing or cannot be built, or the folder cannot be written.
    """
    capability = "aot" if target == AHEAD_OF_TIME else target.split()[0]
    path = folder / f"{part.name}.{tensorrt.name}-{capability}.engine"
    try:
        with (folder / f"{path.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # let go of when the file closes, or the process dies
            onnx = (folder / f"{part.name}.onnx").read_bytes()
            identity = {
                "part": part.name,
                "onnx_sha256": sha256(onnx).hexdigest(),
                "library": tensorrt.name,
                "version": tensorrt.version,
                "target": target,
                "precision": precision,
                "shapes": {name: list(values) for name, values in ranges.items()},
            }
            found = _read(path, identity)
            if isinstance(found, Engine):
                return found
            if path.exists():
                log.warning("%s is unusable (%s); building it again", path, found)
            log.info("building %s with %s %s (once)", path.name, tensorrt.name, tensorrt.version)
            return _build(tensorrt, path, onnx, part, ranges, identity)
    except OSError as error:
        raise ExportError(f"cannot build {path}: {error}") from error


def _read(path: Path, identity: dict[str, Any]) -> Engine | str:
    """The engine, or why it is none."""
    try:
        manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        for key, value in identity.items():
            if manifest[key] != value:
                return f"its manifest has {key} {manifest[key]!r}, expected {value!r}"
        data = path.read_bytes()
        if sha256(data).hexdigest() != manifest["engine_sha256"]:
            return "it does not match its SHA-256"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return Engine(data, path, manifest)


def _build(
    tensorrt: TensorRT, path: Path, onnx: bytes, part: GraphPart, ranges: dict[str, Range], identity: dict[str, Any]
) -> Engine:
    dynamic = {
        name: {axis: ranges[dimension] for axis, dimension in dims.items()}
        for name, dims in part.inputs.items()
        if dims
    }
    # Both parts of a model profit from one timing cache; it says by itself what it is good for.
    timings = path.with_name(f"{tensorrt.name}.timings")
    before = timings.read_bytes() if timings.is_file() else b""
    start = time.perf_counter()
    data, after = tensorrt.build(onnx, dynamic, before)
    manifest = {
        **identity,
        "engine_sha256": sha256(data).hexdigest(),
        "engine_bytes": len(data),
        "build_s": round(time.perf_counter() - start, 2),
    }
    engine = Engine(data, path, manifest)
    engine.cache.unlink(missing_ok=True)  # of the engine before
    # The manifest of the old engine with the new engine would not match it, nor would the reverse: both are told.
    write_whole(path, data)
    write_whole(path.with_suffix(".json"), (json.dumps(manifest, indent=2) + "\n").encode())
    if after:
        write_whole(timings, after)
    return engine
