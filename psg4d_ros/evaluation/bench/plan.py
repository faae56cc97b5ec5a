"""How much a run of the benchmarks measures."""

from __future__ import annotations

from dataclasses import dataclass

# What is measured, in this order: are the graphs right; stages, ratios and floors; how times grow; is memory flat?
PARTS = ("graphs", "speed", "growth", "memory")


@dataclass(frozen=True)
class Growth:
    """The values at which one thing is varied while the others stay; repeats: windows measured at each."""

    frames: tuple[int, ...]
    points: tuple[int, ...]
    objects: tuple[int, ...]
    pairs: tuple[int, ...]
    words: tuple[int, ...]
    repeats: int


@dataclass(frozen=True)
class Plan:
    """Sizes of a run.

    image: width and height of the simulated depth camera, its points before the invalid ones are left out. pairs: most
    pairs that turn 2 is asked about. compared: windows of the simulated recording whose graphs are compared (of the
    bundled one: all). windows: those whose stages are timed, after the window is full. slow_windows: of those, how many
    the plain and the naive path run, too. tiny_updates, full_updates: of the memory measurements. probe_mb: tensor that
    memory bandwidth is measured with.
    """

    image: tuple[int, int]
    pairs: int
    compared: int
    windows: int
    slow_windows: int
    growth: Growth
    tiny_updates: int
    full_updates: int
    probe_mb: int


# 104 x 78 rays give about 7,800 points: the "8 frames x 8k points" of the budgets.
FULL = Plan(
    image=(104, 78),
    pairs=64,
    compared=4,
    windows=60,
    slow_windows=3,
    growth=Growth(
        frames=(1, 2, 4, 8, 16, 32),
        points=(500, 2000, 4000, 7500),
        objects=(2, 5, 10, 20, 40),
        pairs=(4, 16, 64, 256),
        words=(20, 100, 500, 1000),
        repeats=8,
    ),
    tiny_updates=10_000,
    full_updates=200,
    probe_mb=256,
)
QUICK = Plan(
    image=(104, 78),
    pairs=6,
    compared=2,
    windows=5,
    slow_windows=1,
    growth=Growth(
        frames=(1, 4, 16), points=(500, 2000, 7500), objects=(2, 10, 40), pairs=(4, 64), words=(20, 500), repeats=2
    ),
    tiny_updates=200,
    full_updates=5,
    probe_mb=64,
)
