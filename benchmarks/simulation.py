"""How fast simulated scenes are made: ``python benchmarks/simulation.py [--scenes N] [--frames N] [--workers N]
[--size WxH]``.

``sensor``: choice of a viewpoint, ray casting and noise, for worlds and timelines that are there; in frames per second
over all workers, and in frames per second of one core's time, which other load on the machine disturbs less.
``scenes``: everything, from the seed to the file, over all workers.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

import numpy as np

from psg4d_ros.data.simulation.capture import record, sample_steps
from psg4d_ros.data.simulation.director import perform
from psg4d_ros.data.simulation.furnishing import make_world
from psg4d_ros.data.simulation.production import SimulationJob, simulate
from psg4d_ros.data.simulation.sensors import DepthCamera
from psg4d_ros.data.simulation.splits import SPLITS


def look(index: int, size: tuple[int, int], frames: int) -> tuple[float, float]:
    """Seconds that the sensor takes for one scene of so many frames: by the clock, and of the processor's time."""
    steps = sample_steps(frames, 4.0)
    world = make_world(np.random.default_rng(index), name="benchmark", words=SPLITS["train"].words)
    timeline = perform(world, np.random.default_rng(index), duration_s=frames / 4.0)
    camera = DepthCamera(width=size[0], height=size[1])
    start, start_cpu = time.perf_counter(), time.process_time()
    record(timeline, steps, (), {}, camera, np.random.default_rng(index))
    return time.perf_counter() - start, time.process_time() - start_cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--frames", type=int, default=60, help="per scene")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--size", default="320x240")
    options = parser.parse_args()
    width, height = (int(n) for n in options.size.split("x"))
    print(
        f"{width} x {height} rays, {options.frames} frames a scene, {options.scenes} scenes, {options.workers} workers"
    )
    with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        seconds = list(pool.map(look, range(options.scenes), repeat((width, height)), repeat(options.frames)))
    frames, clock, cpu = options.frames * options.scenes, sum(s for s, _ in seconds), sum(c for _, c in seconds)
    print(f"sensor: {frames * options.workers / clock:7.1f} frames/s, {frames / cpu:.1f} per second of one core's time")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        job = SimulationJob(Path(folder) / "out", size=(width, height), frames=options.frames)
        simulate(job, options.scenes, workers=options.workers)
        print(f"scenes: {frames / (time.perf_counter() - start):7.1f} frames/s")


if __name__ == "__main__":
    main()
