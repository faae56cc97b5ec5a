"""Our path, the plain and the naive one in turn on the same windows: stage times and ratios."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from psg4d_ros.evaluation.bench.paths import PathRun, Paths, Timed
from psg4d_ros.evaluation.bench.streams import Stream
from psg4d_ros.runtime.naming import warm_phrases
from psg4d_ros.structures import Window

PERCENTILES = (50, 95, 99)
TOTAL = "total"


@dataclass
class Stages:
    """Milliseconds of each stage, one value per window; of the ``total``, too."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, timed: Timed) -> None:
        """The times of one window. Stages that it did not run have no value."""
        for stage, value in {**timed.stage_ms, TOTAL: timed.wall_ms}.items():
            self.values.setdefault(stage, []).append(value)

    def p50(self) -> dict[str, float]:
        """The median of each stage."""
        return {stage: float(np.median(values)) for stage, values in self.values.items()}

    def to_json(self) -> dict[str, dict[str, float]]:
        """Percentiles of each stage."""
        return {
            stage: {f"p{p}": round(float(np.percentile(values, p)), 3) for p in PERCENTILES}
            for stage, values in self.values.items()
        }


@dataclass
class Speed:
    """stages: per path. ratios: per path and slow one, its time over that of ours on the same windows."""

    stages: dict[str, Stages] = field(default_factory=dict)
    ratios: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    windows: int = 0
    objects: list[int] = field(default_factory=list)

    def ratio(self, slow: str, ours: str = "ours") -> float:
        """Median over the windows that both ran."""
        return round(float(np.median(self.ratios[slow, ours])), 3)

    def to_json(self) -> dict[str, Any]:
        """Stage times of every path, and on how much they were measured."""
        slow = sorted({len(values) for values in self.ratios.values()})
        return {
            "windows": self.windows,
            "slow_windows": slow[-1] if slow else 0,
            "objects": float(np.mean(self.objects)) if self.objects else 0.0,
            "stage_ms": {name: stages.to_json() for name, stages in self.stages.items()},
        }


def measure_speed(
    paths: Paths, stream: Stream, windows: int, slow_windows: int, progress: Callable[[str], None]
) -> Speed:
    """Time full windows of a recording.

    Each window goes through all paths one after the other, in an order that turns from window to window, so that what
    else the machine does hits all alike. The slow paths, plain and naive, run ``slow_windows`` of them. The first full
    window is not counted: it encodes all frames, ours every later one encodes one.
    """
    ours = {
        "ours": paths.start(paths.predictor("ours"), stream),
        "ours, generate": paths.start(paths.predictor("ours", "generate"), stream),
    }
    slow = {
        "plain": paths.start(paths.predictor("plain"), stream),
        "naive": paths.start(paths.predictor("naive"), stream),
    }
    on_gpu = paths.model.device.type == "cuda"
    for run in (*ours.values(), *slow.values()):
        predictor = run.pipeline.predictor
        warm_phrases(predictor.model, predictor.vocabulary)
        # What a CPU warms up is little, and a window of the slow paths is long.
        if on_gpu or run in ours.values():
            run.pipeline.warm_up()
    full = paths.config.window.num_frames
    every = max(1, windows // max(1, slow_windows))
    speed = Speed()
    for number, frame in enumerate(stream.frames, start=1):
        taken = {name: (run, run.push(frame)) for name, run in {**ours, **slow}.items()}
        if number < full:
            continue
        if number == full:  # every frame of it is encoded; later windows find all but one
            _run({name: taken[name] for name in ours})
            continue
        if speed.windows == windows:
            break
        chosen = dict(taken) if speed.windows % every == 0 else {name: taken[name] for name in ours}
        names = list(chosen)
        turn = speed.windows % len(names)
        progress(f"speed: window {speed.windows + 1} of {windows}")
        timed = _run({name: chosen[name] for name in names[turn:] + names[:turn]})
        for name, result in timed.items():
            speed.stages.setdefault(name, Stages()).add(result)
            if name in slow:
                for fast in ours:
                    speed.ratios.setdefault((name, fast), []).append(result.wall_ms / timed[fast].wall_ms)
        speed.objects.append(len(timed["ours"].graph.objects))
        speed.windows += 1
    return speed


def _run(taken: Mapping[str, tuple[PathRun, Window | None]]) -> dict[str, Timed]:
    return {name: run.infer(window) for name, (run, window) in taken.items() if window is not None}
