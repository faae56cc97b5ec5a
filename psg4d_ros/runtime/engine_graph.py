"""An engine called with torch tensors: no copy to the host, memory taken once and kept.

Inputs that have the right numbers and lie well are read where they are. All else goes through buffers on the device:
inputs of other numbers, outputs, and the working memory of the engine, which is sized by the shapes of the call. Each
buffer grows to at least twice its size, so that after a few windows nothing is allocated any more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from psg4d_ros.errors import ExportError
from psg4d_ros.runtime.tensorrt_api import Loaded

# TensorRT wants addresses that are multiples of this. What torch allocates is; a part of a tensor may not be.
_ALIGNMENT = 256
_WORK = "working memory"


class Buffers:
    """Named pieces of memory on a device; a piece stays where it is until a larger one is asked for."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pieces: dict[str, Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor of that shape in the piece of that name; what was in it is gone. May raise OutOfMemoryError."""
        needed = max(1, prod(shape) * dtype.itemsize)
        piece = self._pieces.get(name)
        if piece is None or len(piece) < needed:
            size = needed if piece is None else max(needed, 2 * len(piece))
            self._pieces.pop(name, None)
            piece = None  # given back before more is taken
            with torch.inference_mode(False):  # a tensor made in inference mode cannot be written to outside of it
                piece = self._pieces[name] = torch.empty(size, dtype=torch.uint8, device=self._device)
        return piece[: prod(shape) * dtype.itemsize].view(dtype).view(shape)


class EngineGraph:
    """Runs on torch's current stream of ``device``, the same in all calls; one call at a time.

    inputs, outputs: names, in the order in which ``__call__`` takes and gives them. Raises ExportError when the engine
    has others.
    """

    def __init__(self, engine: Loaded, inputs: Sequence[str], outputs: Sequence[str], device: torch.device) -> None:
        for kind, wanted, found in (("inputs", inputs, engine.inputs), ("outputs", outputs, engine.outputs)):
            if set(wanted) != set(found):
                raise ExportError(f"the engine has {kind} {sorted(found)}, expected {sorted(wanted)}")
        self._engine = engine
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self._device = device
        self._buffers = Buffers(device)
        # TensorRT waits for the whole device on the default stream, and says so.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def fits(self, tensors: Sequence[Tensor]) -> bool:
        """Whether the engine was built for these sizes; an empty input fits none."""
        for name, tensor in zip(self._inputs, tensors, strict=True):
            least, largest = self._engine.limits.get(name, (tuple(tensor.shape), tuple(tensor.shape)))
            if not all(low <= n <= high for low, n, high in zip(least, tensor.shape, largest, strict=True)):
                return False
        return True

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The outputs as tensors of their own, float32, for inputs on the device.

        Raises ExportError where the engine fails, torch.OutOfMemoryError where memory runs out.
        """
        with contextlib.nullcontext() if self._stream is None else torch.cuda.device(self._device):
            return self._call(tensors)

    def _call(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        context = self._engine.context
        used = []  # alive until the work is queued: later users of their memory come after it on the same stream
        for name, tensor in zip(self._inputs, tensors, strict=True):
            tensor = self._placed(name, tensor)
            used.append(tensor)
            if name in self._engine.limits:
                _demand(context.set_input_shape(name, tuple(tensor.shape)), f"{name} of {tuple(tensor.shape)}")
            _demand(context.set_tensor_address(name, tensor.data_ptr()), name)
        try:
            unclear = context.infer_shapes()
        except RuntimeError as error:
            raise ExportError(f"the engine cannot derive its output shapes: {error}") from error
        if unclear:
            raise ExportError(f"the engine does not know the shapes of {', '.join(unclear)}")
        found = []
        for name in self._outputs:
            buffer = self._buffers.take(name, tuple(context.get_tensor_shape(name)), self._engine.outputs[name])
            _demand(context.set_tensor_address(name, buffer.data_ptr()), name)
            found.append(buffer)
        size = int(context.update_device_memory_size_for_shapes())
        context.set_device_memory(self._buffers.take(_WORK, (size,), torch.uint8).data_ptr(), size)
        self._execute()
        # The buffers are overwritten by the next call, and these are kept for a whole window.
        return [buffer.to(torch.float32, copy=True) for buffer in found]

    def _placed(self, name: str, tensor: Tensor) -> Tensor:
        dtype = self._engine.inputs[name]
        if tensor.dtype == dtype and tensor.is_contiguous() and tensor.data_ptr() % _ALIGNMENT == 0:
            return tensor
        return self._buffers.take(name, tuple(tensor.shape), dtype).copy_(tensor)

    def _execute(self) -> None:
        context = self._engine.context
        if self._stream is None:
            _demand(context.execute_async_v3(0), "the inputs as a whole")
            return
        current = torch.cuda.current_stream(self._device)
        if current.cuda_stream:
            _demand(context.execute_async_v3(current.cuda_stream), "the inputs as a whole")
            return
        self._stream.wait_stream(current)
        started = context.execute_async_v3(self._stream.cuda_stream)
        current.wait_stream(self._stream)
        _demand(started, "the inputs as a whole")


def _demand(ok: bool, what: str) -> None:
    if not ok:
        raise ExportError(f"the engine refuses {what}; its reason is in the log")
