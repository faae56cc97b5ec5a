"""Floors: how long a stage must take, from the work it does and what the machine can do, both measured in the run.

The machine: bytes per second of copying and reading a tensor that fits no cache, and operations per second of a large
square matrix product in the numbers that the model uses. The work of a stage: the operations of all its matrix products
(torch's own counter), and the bytes that its layers must move at the least: each layer's weights, inputs and outputs
once, and the language model's cache. The floor is the longer of the two times. Nothing that is done between layers
counts, nor what Python costs, so a floor is out of reach by design.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from psg4d_ros.evaluation.bench.paths import Paths, wait_for
from psg4d_ros.evaluation.bench.streams import Stream
from psg4d_ros.model.language_model import KeyValueCache
from psg4d_ros.runtime.predictor import WindowPredictor

_TRIES = 7
_MATRIX = {"cpu": 1024, "cuda": 8192}
# Which stage each pass of a part is, in the order of an update that encodes one new frame.
_STAGES = {"encoder": ("encode",), "decoder": ("masks",), "language_model": ("turn1", "turn2")}


@dataclass(frozen=True)
class Rates:
    """What the machine can do. bytes_per_s: of memory. operations_per_s: by the name of the numbers."""

    bytes_per_s: float
    operations_per_s: dict[str, float]

    def to_json(self) -> dict[str, float]:
        """In units of 10^9."""
        rates = {f"matrix_{name}_gflops": rate for name, rate in self.operations_per_s.items()}
        return {k: round(v / 1e9, 2) for k, v in {"memory_gb_per_s": self.bytes_per_s, **rates}.items()}


@dataclass
class Work:
    """What one pass of a part does: floating-point operations, bytes, and the numbers it computes with."""

    part: str
    dtype: str
    operations: int = 0
    bytes: int = 0

    def floor_ms(self, rates: Rates) -> float:
        """The least time for it."""
        return 1e3 * max(self.operations / rates.operations_per_s[self.dtype], self.bytes / rates.bytes_per_s)


def measure_rates(device: torch.device, dtypes: Sequence[torch.dtype], probe_mb: int) -> Rates:
    """The best of several tries each, with torch's threads as they are set. probe_mb: size of the tensor, MiB."""
    source = torch.ones(probe_mb * 2**18, device=device)
    target = torch.empty_like(source)
    copying = 2 * source.nbytes / _best_s(device, lambda: target.copy_(source))
    reading = source.nbytes / _best_s(device, lambda: source.sum())
    size, rates = _MATRIX[device.type], dict[str, float]()
    for dtype in dtypes:
        a, b = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
        rates[_name(dtype)] = 2 * size**3 / _best_s(device, lambda a=a, b=b: a @ b)  # type: ignore[misc]
    return Rates(max(copying, reading), rates)


def count_work(paths: Paths, stream: Stream) -> list[Work]:
    """The passes of one update of our path, counted on eager torch: a full window that finds all but one frame cached.

    The recording must hold one frame more than a window.
    """
    eager = WindowPredictor(
        paths.model, replace(paths.config.inference, backend="torch", cuda_graphs=False), trained=True
    )
    run = paths.start(eager, stream)
    full = paths.config.window.num_frames
    windows = [w for frame in stream.frames[: full + 1] if (w := run.push(frame)) is not None]
    run.infer(windows[-2])
    model = paths.model
    parts = {"encoder": model.encoder, "decoder": model.decoder, "language_model": model.language_model}
    with counting(parts) as works:
        run.infer(windows[-1])
    return works


@contextmanager
def counting(parts: dict[str, nn.Module]) -> Iterator[list[Work]]:
    """``with counting({"encoder": module}) as works``: one Work per pass of a part, in order."""
    works: list[Work] = []
    handles = []
    open_works: list[Work] = []

    def opens(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            work = Work(name, _name(next(module.parameters()).dtype), -counter.get_total_flops())
            open_works.append(work)

        return hook

    def closes(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        work = open_works.pop()
        work.operations += counter.get_total_flops()
        caches = [r for r in result if isinstance(r, KeyValueCache)] if isinstance(result, tuple) else []
        work.bytes += moved_bytes(caches)
        works.append(work)

    def moves(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        if open_works:
            weights = list(module.parameters(recurse=False))
            open_works[-1].bytes += moved_bytes((args, kwargs, result, weights))

    for name, part in parts.items():
        handles.append(part.register_forward_pre_hook(opens(name), with_kwargs=True))
        handles.append(part.register_forward_hook(closes, with_kwargs=True))
        layers = [m for m in part.modules() if next(m.children(), None) is None]
        handles += [m.register_forward_hook(moves, with_kwargs=True) for m in layers]
    counter = FlopCounterMode(display=False, custom_mapping=_ATTENTION)
    try:
        with counter:
            yield works
    finally:
        for handle in handles:
            handle.remove()


def moved_bytes(value: Any) -> int:
    """Bytes of all tensors in nested sequences, mappings and dataclasses."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, dict):
        return sum(moved_bytes(v) for v in value.values())
    if isinstance(value, (list, tuple)):
        return sum(moved_bytes(v) for v in value)
    if is_dataclass(value):
        return sum(moved_bytes(getattr(value, f.name)) for f in fields(value))
    return 0


def floors_ms(works: Sequence[Work], rates: Rates) -> dict[str, float]:
    """Milliseconds per stage that has a floor."""
    out: dict[str, float] = {}
    for part, stages in _STAGES.items():
        passes = [w for w in works if w.part == part]
        for stage, work in zip(stages, passes, strict=False):
            out[stage] = work.floor_ms(rates)
    return out


def _best_s(device: torch.device, do: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(_TRIES):
        wait_for(device)
        start = time.perf_counter()
        do()
        wait_for(device)
        best = min(best, time.perf_counter() - start)
    return best


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _attention_operations(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Of shapes [B, heads, tokens, width]: scores, then the mix of values."""
    batch, heads, tokens, width = query
    return int(2 * batch * heads * tokens * key[2] * (width + value[3]))


# torch counts the attention kernels of GPUs by itself; this is the CPU's.
_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_operations}
