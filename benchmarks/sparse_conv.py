"""The forms of sparse convolution against each other, and against memory: one pass of the default encoder.

``python benchmarks/sparse_conv.py [--voxels 8000] [--rounds 7] [--device cpu|cuda] [--no-grad] [--graph]
[--probe-mb 512]``. The voxels are those of the walls and the floor of a room, 5 cm wide, in the order in which frames
bring them. ``table``: gather and one product, the form that exports. ``pairs``: the entries of the table only, the form
on CPUs. ``triton``: the fused kernel, on a GPU. ``spconv``: where one of its wheels is installed. Medians, the building
of the form from the table included, and ratios.

Forward and backward pass, or with --no-grad the forward pass alone. On a CPU one thread's processor time, which other
load on the machine disturbs less; on a GPU time by the clock, and under bfloat16 autocast, as in training. A small pass
on a GPU takes as long as the host needs to start its kernels: --graph records the forward pass as a CUDA graph, where
the form allows it, and holds weights and features in bfloat16.

Floor: inputs, outputs, weights and tables (4 bytes an entry) of each layer once, and again with the gradients in a
backward pass, at the speed at which the machine copies or reads memory, measured with --probe-mb of it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from psg4d_ros.config import EncoderConfig
from psg4d_ros.errors import ConfigError
from psg4d_ros.evaluation.bench.floors import measure_rates
from psg4d_ros.model import sparse_encoder, triton_kernel
from psg4d_ros.model.sparse_encoder import Pairs, SparseEncoder
from psg4d_ros.model.spconv_kernel import SpconvPairs, installed_wheel
from psg4d_ros.model.triton_kernel import Columns
from psg4d_ros.runtime.rulebook import build_rulebook
from psg4d_ros.voxelize import FEATURE_NAMES

VOXEL_M = 0.05
ROOM_M = 4.0


def room(count: int) -> Tensor:
    """int32[count, 3]: voxels on the sides of a cube, the nearest to one of its corners, lexicographically ordered."""
    cells = round(ROOM_M / VOXEL_M)
    grid = np.stack(np.meshgrid(*[np.arange(cells)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    sides = grid[(grid == 0).any(axis=1)]
    if len(sides) < count:
        raise SystemExit(f"--voxels {count}: a room has {len(sides)}")
    nearest = np.argsort(np.linalg.norm(sides, axis=1), kind="stable")[:count]
    return torch.from_numpy(sides[np.sort(nearest)]).int()


def least_bytes(encoder: SparseEncoder, run: Callable[[], object], backward: bool) -> int:
    """What the layers must read and write at the least in one pass."""
    total = 0

    def size(value: Tensor) -> int:
        return value.numel() * (4 if value.dtype == torch.int64 else value.element_size())

    def count(layer: nn.Module, arguments: tuple[Any, ...], result: Tensor) -> None:
        nonlocal total
        read = size(arguments[0]) + sum(size(p) for p in layer.parameters())
        once = read + size(result) + sum(size(t) for t in arguments[1:])
        total += once + (once + read if backward else 0)  # backward: the same, and gradients of what was read

    layers = [m for m in encoder.modules() if next(m.children(), None) is None]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    run()
    for hook in hooks:
        hook.remove()
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--voxels", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--probe-mb", type=int, default=512, help="what is copied and read to measure the memory, MiB")
    parser.add_argument("--no-grad", action="store_true", help="the forward pass alone")
    parser.add_argument("--graph", action="store_true", help="the forward pass alone, as a CUDA graph")
    options = parser.parse_args()
    device, on_gpu = torch.device(options.device), options.device == "cuda"
    if options.graph and not on_gpu:
        parser.error("--graph needs --device cuda")
    backward = not (options.no_grad or options.graph)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    forms = {"table": lambda table: table}
    if not options.graph:  # these read sizes on the host
        forms |= {"pairs": Pairs.of, "spconv": SpconvPairs.of}
        try:
            print(installed_wheel())
        except ConfigError as error:
            print(f"without spconv: {error}")
            del forms["spconv"]
    problem = triton_kernel.obstacle(device)
    if problem:
        print(f"without triton: {problem}")
    else:
        forms["triton"] = Columns.of

    config = EncoderConfig()
    coords = room(options.voxels).to(device)
    levels = build_rulebook(coords, len(config.channels)).levels
    features = torch.randn(len(coords), len(FEATURE_NAMES), device=device)
    arguments = (
        [v.neighbours for v in levels],
        *([getattr(v, n) for v in levels[1:]] for n in ("children", "parent", "cell")),
    )
    encoder = SparseEncoder(config, len(FEATURE_NAMES)).to(device)
    if options.graph:
        encoder, features = encoder.bfloat16(), features.bfloat16()

    def run() -> None:
        autocast = torch.autocast(options.device, torch.bfloat16, enabled=on_gpu and not options.graph)
        with torch.set_grad_enabled(backward), autocast:
            outputs = encoder(features, *arguments)
        if backward:
            sum(o.float().square().mean() for o in outputs).backward()

    def recorded() -> Callable[[], None]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # what is compiled and allocated once must be there before the recording
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return graph.replay

    def seconds(do: Callable[[], None]) -> float:
        clock = time.perf_counter if on_gpu else time.process_time
        if on_gpu:
            torch.cuda.synchronize()
        start = clock()
        do()
        if on_gpu:
            torch.cuda.synchronize()
        return clock() - start

    sparse_encoder.prepare = forms["table"]
    moved = least_bytes(encoder, run, backward)
    floor_s = moved / measure_rates(device, (), options.probe_mb).bytes_per_s
    passes: dict[str, Callable[[], None]] = {}
    for form in forms:
        sparse_encoder.prepare = forms[form]
        passes[form] = recorded() if options.graph else run
    taken: dict[str, list[float]] = {form: [] for form in forms}
    for number in range(options.rounds + 1):
        for form, times in taken.items():
            sparse_encoder.prepare = forms[form]
            value = seconds(passes[form])
            if number:  # the first is for warming up, and for spconv's choice of kernels
                times.append(value)
    per_voxel = (arguments[0][0] > 0).float().sum(dim=1).mean().item()
    work = "forward and backward" if backward else "forward as a CUDA graph" if options.graph else "forward"
    print(f"{options.device}: {len(coords)} voxels, {per_voxel:.1f} neighbours each, {work}:")
    for form, times in taken.items():
        median = statistics.median(times)
        ratio = statistics.median(taken["table"]) / median
        print(
            f"  {form:<7} {1000 * median:8.2f} ms  {ratio:5.2f} x as fast as table  {median / floor_s:7.1f} x the floor"
        )
    print(f"  floor   {1000 * floor_s:8.2f} ms  {moved / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
