"""Encoder and mask decoder as TensorRT engines, and another backend in their place for as long as they cannot run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from psg4d_ros.errors import ExportError, Psg4dError
from psg4d_ros.model.features import FrameFeatures
from psg4d_ros.model.mask_decoder import MaskOutput
from psg4d_ros.model.psg4d import PSG4D, WindowTokens
from psg4d_ros.runtime.backends import Backend, SizeLimits, rulebook_centers
from psg4d_ros.runtime.engine_graph import EngineGraph
from psg4d_ros.runtime.engines import Engine, build_engines
from psg4d_ros.runtime.export import write_whole
from psg4d_ros.runtime.graph_cache import cached_graphs
from psg4d_ros.runtime.graph_parts import GraphPart, decoder_inputs, decoder_outputs, encoder_inputs, graph_parts
from psg4d_ros.runtime.graph_parts import slot_shape as slots_of
from psg4d_ros.runtime.parity import check_parity
from psg4d_ros.runtime.rulebook import Rulebook
from psg4d_ros.runtime.tensorrt_api import TensorRT, find_tensorrt
from psg4d_ros.structures import VoxelGrid

log = logging.getLogger(__name__)

# Engines are tried on samples of so many voxels before they serve.
_TRIED_VOXELS = (1, 2000, 5001)


class TensorRTBackend:
    """The model's weights as they are now; what is trained or switched later does not reach the engines.

    fallback: serves what the engines do not: everything until they are ready, or for good where they cannot run (see
    ``problem``), and single frames and windows that are empty or larger than ``limits``. wait: the constructor returns
    when the engines are ready or have failed; otherwise they are built in a thread of their own. cache: folder for
    graphs and engines, by default the user's.
    """

    def __init__(
        self,
        model: PSG4D,
        fallback: Backend,
        limits: SizeLimits,
        *,
        precision: str = "fp16",
        wait: bool = True,
        cache: Path | None = None,
    ) -> None:
        self.model = model
        self.device = model.device
        self._fallback = fallback
        self._graphs: dict[str, EngineGraph] = {}
        self._outputs = decoder_outputs(model.decoder)
        self._slots = slots_of(model.decoder)
        self._problem = f"TensorRT engines are being built, {fallback.name} runs in their place"
        if self.device.type != "cuda":
            self._give_up("there is no GPU (inference.device is cpu)")
            return
        if wait:
            self._prepare(limits, precision, cache)
            return
        try:
            # Here, since torch exports for the whole process: who runs windows meanwhile would be traced, too.
            with cached_graphs(model, cache, precision):
                pass
        except Psg4dError as error:
            self._give_up(str(error))
            return
        threading.Thread(
            target=self._prepare, args=(limits, precision, cache), name="tensorrt-engines", daemon=True
        ).start()

    @property
    def name(self) -> str:
        """Of what serves at the moment."""
        return "tensorrt" if self._graphs else self._fallback.name

    @property
    def problem(self) -> str:
        """Why the engines do not serve; empty when they do."""
        return self._problem

    def serve(self, graphs: dict[str, EngineGraph]) -> None:
        """From now on these engines serve, by part."""
        self._graphs, self._problem = graphs, ""

    def encode(self, grid: VoxelGrid, rulebook: Rulebook, stamp_ns: int) -> FrameFeatures:
        outputs = self._run("encoder", encoder_inputs(grid.features, rulebook))
        if outputs is None:
            return self._fallback.encode(grid, rulebook, stamp_ns)
        fine, mid, coarse = outputs
        return self.model.frame_features(grid, rulebook_centers(grid, rulebook), fine, mid, coarse, stamp_ns)

    def decode_masks(self, slot_hidden: Tensor | None, tokens: WindowTokens) -> MaskOutput:
        outputs = self._run("mask_decoder", decoder_inputs(slot_hidden, tokens, self._slots))
        if outputs is None:
            return self._fallback.decode_masks(slot_hidden, tokens)
        fields: dict[str, Any] = dict(zip(self._outputs, outputs, strict=True))
        return MaskOutput(boxes=fields.pop("boxes", None), **fields)

    def _run(self, part: str, inputs: Sequence[Tensor]) -> list[Tensor] | None:
        """The outputs of a part's engine; None where the fallback is to serve."""
        graph = self._graphs.get(part)
        if graph is None or not graph.fits(inputs):
            return None
        try:
            return graph(inputs)
        except Psg4dError as error:
            self._give_up(f"the {part}'s engine failed: {error}")
            return None

    def _give_up(self, reason: str) -> None:
        self._graphs = {}
        self._problem = f"TensorRT is not used, {self._fallback.name} runs in its place: {reason}"
        log.warning(self._problem)

    def _prepare(self, limits: SizeLimits, precision: str, cache: Path | None) -> None:
        try:
            with torch.cuda.device(self.device), torch.inference_mode():
                tensorrt = find_tensorrt(self.device)
                with cached_graphs(self.model, cache, precision) as folder:
                    engines = build_engines(tensorrt, self.model, folder, precision, limits, self.device)
                    graphs = {
                        part.name: load_engine(tensorrt, engines[part.name], part, precision, limits, self.device)
                        for part in graph_parts(self.model)
                    }
                torch.cuda.synchronize(self.device)
        except Exception as error:  # of CUDA, of the library: whatever it is, the fallback goes on
            text = str(error) if isinstance(error, Psg4dError) else f"{type(error).__name__}: {error}"
            self._give_up(text)
        else:
            self.serve(graphs)
            log.info("%s %s runs encoder and mask decoder in %s", tensorrt.name, tensorrt.version, precision)


def load_engine(
    tensorrt: TensorRT, engine: Engine, part: GraphPart, precision: str, limits: SizeLimits, device: torch.device
) -> EngineGraph:
    """An engine on its GPU, after it has shown on samples that it computes what torch does.

    Keeps what was compiled for the next start. Raises ExportError where the engine does not run or does not agree.
    """
    kept = engine.cache.read_bytes() if engine.cache.is_file() else b""
    loaded = tensorrt.load(engine.data, kept)
    graph = EngineGraph(loaded, tuple(part.inputs), part.outputs, device)

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        return [tensor.cpu() for tensor in graph([tensor.to(device) for tensor in tensors])]

    sizes = tuple(voxels for voxels in _TRIED_VOXELS if voxels <= limits.max_voxels)
    report = check_parity(part, run, precision, sizes)
    if not report.ok:
        raise ExportError(f"the engine of {part.name} does not compute what torch does: {report.worst}")
    if not loaded.warm and (compiled := loaded.serialize_cache()):
        try:
            write_whole(engine.cache, compiled)
        except OSError as error:  # only the next start is slower
            log.warning("cannot keep what was compiled in %s: %s", engine.cache, error)
    return graph
