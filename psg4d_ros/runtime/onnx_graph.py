"""An ONNX graph in onnxruntime on the CPU, called with torch tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from psg4d_ros.errors import ConfigError, ExportError

# What onnxruntime's error says, which has no type of its own for it.
_OUT_OF_MEMORY = ("bad_alloc", "Failed to allocate memory")


class OnnxGraph:
    """Raises ConfigError where onnxruntime is not installed, ExportError for what it cannot load.

    source: a file, or its bytes. threads: as many as torch uses where it is not given.
    """

    def __init__(self, source: Path | bytes, threads: int | None = None) -> None:
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        # Threads that spin while they wait take the cores from torch, whose turn is next (see torch_environment.py).
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Every window has other sizes: a plan of the memory made for one fits no other, and freed memory of the largest
        # would be kept for ever.
        options.enable_mem_pattern = False
        options.enable_cpu_mem_arena = False
        try:
            self._session: Any = onnxruntime.InferenceSession(
                source if isinstance(source, bytes) else str(source), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own errors have no common base
            raise ExportError(f"onnxruntime cannot load the graph: {error}") from error
        self.inputs: tuple[str, ...] = tuple(value.name for value in self._session.get_inputs())

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The outputs for the inputs in the graph's order. Neither is copied where it is contiguous.

        Raises MemoryError where there is too little, ExportError for whatever else goes wrong.
        """
        feed = {name: tensor.contiguous().numpy() for name, tensor in zip(self.inputs, tensors, strict=True)}
        try:
            outputs = self._session.run(None, feed)
        except Exception as error:
            if any(words in str(error) for words in _OUT_OF_MEMORY):
                raise MemoryError(f"onnxruntime: {error}") from error
            raise ExportError(f"onnxruntime cannot run the graph: {error}") from error
        return [torch.from_numpy(array) for array in outputs]


def import_onnxruntime() -> Any:
    """The module; ConfigError where it is missing."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(f"onnxruntime is not installed ({error}); run: pip install onnxruntime") from error
    return onnxruntime
