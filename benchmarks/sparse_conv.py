"""The forms of sparse convolution against each other: one forward and backward pass of the default encoder.

``python benchmarks/sparse_conv.py [--voxels 8000] [--rounds 7] [--device cpu|cuda]``. The voxels are those of the walls
and the floor of a room, 5 cm wide. ``table``: gather and one product, the form that exports. ``pairs``: the entries of
the table only, the form on CPUs. ``spconv``: where one of its wheels is installed. Medians, the building of the form
from the table included, and the ratio to ``table``. On a CPU one thread's processor time, which other load on the
machine disturbs less; on a GPU time by the clock, and under bfloat16 autocast, as in training.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from torch import Tensor

from psg4d_ros.config import EncoderConfig
from psg4d_ros.errors import ConfigError
from psg4d_ros.model import sparse_encoder
from psg4d_ros.model.sparse_encoder import Pairs, SparseEncoder
from psg4d_ros.model.spconv_kernel import SpconvPairs, installed_wheel
from psg4d_ros.runtime.rulebook import build_rulebook
from psg4d_ros.voxelize import FEATURE_NAMES

VOXEL_M = 0.05
ROOM_M = 4.0


def room(count: int, rng: np.random.Generator) -> Tensor:
    """int32[count, 3]: voxels on the sides of a cube, the nearest to one of its corners, without holes."""
    cells = round(ROOM_M / VOXEL_M)
    grid = np.stack(np.meshgrid(*[np.arange(cells)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    sides = grid[(grid == 0).any(axis=1)]
    nearest = sides[np.argsort(np.linalg.norm(sides, axis=1), kind="stable")[:count]]
    if len(nearest) < count:
        raise SystemExit(f"--voxels {count}: a room has {len(sides)}")
    return torch.from_numpy(rng.permutation(nearest)).int()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--voxels", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    forms = {"table": lambda table: table, "pairs": Pairs.of, "spconv": SpconvPairs.of}
    try:
        print(installed_wheel())
    except ConfigError as error:
        print(f"without spconv: {error}")
        del forms["spconv"]

    config, on_gpu = EncoderConfig(), options.device == "cuda"
    coords = room(options.voxels, np.random.default_rng(0)).to(options.device)
    levels = build_rulebook(coords, len(config.channels)).levels
    features = torch.randn(len(coords), len(FEATURE_NAMES), device=options.device)
    arguments = (
        [v.neighbours for v in levels],
        *([getattr(v, n) for v in levels[1:]] for n in ("children", "parent", "cell")),
    )
    encoder = SparseEncoder(config, len(FEATURE_NAMES)).to(options.device)

    def seconds(form: str) -> float:
        sparse_encoder.prepare = forms[form]
        clock = time.perf_counter if on_gpu else time.process_time
        if on_gpu:
            torch.cuda.synchronize()
        start = clock()
        with torch.autocast(options.device, torch.bfloat16, enabled=on_gpu):
            outputs = encoder(features, *arguments)
        sum(o.float().square().mean() for o in outputs).backward()
        if on_gpu:
            torch.cuda.synchronize()
        return clock() - start

    taken: dict[str, list[float]] = {form: [] for form in forms}
    for number in range(options.rounds + 1):
        for form, times in taken.items():
            value = seconds(form)
            if number:  # the first is for warming up, and for spconv's choice of kernels
                times.append(value)
    per_voxel = (arguments[0][0] > 0).float().sum(dim=1).mean().item()
    print(f"{options.device}: {len(coords)} voxels, {per_voxel:.1f} neighbours each, forward and backward:")
    for form, times in taken.items():
        ratio = statistics.median(taken["table"]) / statistics.median(times)
        print(f"  {form:<7} {1000 * statistics.median(times):8.1f} ms  {ratio:5.2f} x as fast as table")


if __name__ == "__main__":
    main()
