"""An execution context that behaves as TensorRT's does, with memory on the CPU: what it is told, and nothing else, it
reads from and writes to the addresses that it is given."""

from __future__ import annotations

import ctypes
from math import prod

import torch

from psg4d_ros.runtime.parity import PRECISIONS, cast_inputs
from psg4d_ros.runtime.tensorrt_api import Loaded

SYMBOLS = {"fine": "V0", "mid": "V1", "coarse": "V3", "mask_logits": "V", "key_mask_logits": "K"}
WORK_BYTES_PER_VOXEL = 40


class StandInContext:
    """Computes with the part's own module. executed: how often; refuses: the name of a call that fails."""

    def __init__(self, part, inputs, outputs, fixed) -> None:
        self.part, self.inputs, self.outputs = part, inputs, outputs
        self.shapes: dict[str, tuple[int, ...]] = dict(fixed)
        self.addresses: dict[str, int] = {}
        self.work = (0, 0)
        self.executed = 0
        self.refuses = ""

    def set_input_shape(self, name, shape):
        assert name in self.inputs
        assert all(type(n) is int for n in shape)
        self.shapes[name] = shape
        return self.refuses != "set_input_shape"

    def set_tensor_address(self, name, address):
        assert type(address) is int
        self.addresses[name] = address
        return self.refuses != "set_tensor_address"

    def infer_shapes(self):
        if self.refuses == "infer_shapes":
            raise RuntimeError("shapes that do not fit together")
        return [name for name in self.inputs if name not in self.shapes]

    def get_tensor_shape(self, name):
        rows = {
            symbol: self.shapes[key][axis] for key, dims in self.part.inputs.items() for axis, symbol in dims.items()
        }
        return tuple(rows.get(n, n) for n in self.outputs[name][1])

    def update_device_memory_size_for_shapes(self):
        return WORK_BYTES_PER_VOXEL * max(max(shape, default=0) for shape in self.shapes.values())

    def set_device_memory(self, address, size):
        assert size == self.update_device_memory_size_for_shapes()
        self.work = (address, size)

    def execute_async_v3(self, stream):
        if self.refuses == "execute_async_v3":
            return False
        read = [memory(self.addresses[n], self.shapes[n], dtype).clone() for n, dtype in self.inputs.items()]
        ctypes.memset(self.work[0], 0xFF, self.work[1])  # it is used for anything
        found = self.part.module([tensor.float() if tensor.is_floating_point() else tensor for tensor in read])
        for (name, (dtype, _)), tensor in zip(self.outputs.items(), found, strict=True):
            memory(self.addresses[name], self.get_tensor_shape(name), dtype).copy_(tensor)
        self.executed += 1
        return True


def memory(address: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """The tensor that lies there."""
    block = (ctypes.c_char * (prod(shape) * dtype.itemsize)).from_address(address)
    return torch.frombuffer(block, dtype=dtype).view(shape)


@torch.no_grad()
def stand_in(part, precision: str, most: int = 100_000) -> Loaded:
    """A part as if loaded from an engine of that precision, for up to ``most`` rows of everything."""
    sample = part.sample(50)
    cast = dict(zip(part.inputs, cast_inputs(part, sample, PRECISIONS[precision]), strict=True))
    inputs = {name: tensor.dtype for name, tensor in cast.items()}
    outputs = {}
    for name, tensor in zip(part.outputs, part.module(sample), strict=True):
        axis = 0 if part.name == "encoder" else 1
        shape = tuple(SYMBOLS[name] if name in SYMBOLS and a == axis else n for a, n in enumerate(tensor.shape))
        outputs[name] = (PRECISIONS[precision], shape)
    limits = {
        name: tuple(tuple(n if a in dims else m for a, m in enumerate(cast[name].shape)) for n in (1, most))
        for name, dims in part.inputs.items()
        if dims
    }
    fixed = {name: tuple(tensor.shape) for name, tensor in cast.items() if name not in limits}
    context = StandInContext(part, inputs, outputs, fixed)
    return Loaded(context, inputs, {name: dtype for name, (dtype, _) in outputs.items()}, limits)
