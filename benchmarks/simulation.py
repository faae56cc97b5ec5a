"""How fast simulated scenes are made: ``python benchmarks/simulation.py [--scenes N] [--workers N] [--size WxH]``.

Two figures, both in frames per second over all workers. ``sensor``: ray casting and noise alone, for worlds and
timelines that are there. ``scenes``: everything, from the seed to the file.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from psg4d_ros.data.simulation.capture import record, sample_steps
from psg4d_ros.data.simulation.director import perform
from psg4d_ros.data.simulation.furnishing import make_world
from psg4d_ros.data.simulation.production import SimulationJob, simulate
from psg4d_ros.data.simulation.sensors import DepthCamera
from psg4d_ros.data.simulation.splits import SPLITS

FRAMES = 60


def look(index: int, size: tuple[int, int]) -> float:
    """Seconds that the sensor takes for one scene of FRAMES frames."""
    steps = sample_steps(FRAMES, 4.0)
    world = make_world(np.random.default_rng(index), name="benchmark", words=SPLITS["train"].words)
    timeline = perform(world, np.random.default_rng(index), duration_s=FRAMES / 4.0)
    camera = DepthCamera(width=size[0], height=size[1])
    start = time.perf_counter()
    record(timeline, steps, (), {}, camera, np.random.default_rng(index))
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--size", default="320x240")
    options = parser.parse_args()
    width, height = (int(n) for n in options.size.split("x"))
    print(f"{width} x {height} rays, {FRAMES} frames a scene, {options.scenes} scenes, {options.workers} workers")
    with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        seconds = list(pool.map(look, range(options.scenes), [(width, height)] * options.scenes))
    print(f"sensor: {FRAMES * options.scenes * options.workers / sum(seconds):7.1f} frames/s")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        job = SimulationJob(Path(folder) / "out", size=(width, height), frames=FRAMES)
        simulate(job, options.scenes, workers=options.workers)
        print(f"scenes: {FRAMES * options.scenes / (time.perf_counter() - start):7.1f} frames/s")


if __name__ == "__main__":
    main()
