"""Screens, computers, speakers and what one holds in the hand to use them."""

from __future__ import annotations

import numpy as np

from psg4d_ros.data.simulation.assets import Design, built
from psg4d_ros.data.simulation.shapes import (
    DARK,
    MAIN,
    SECOND,
    WHITE,
    bar,
    box,
    cushion,
    lathe,
)

Rng = np.random.Generator


def keyboard(rng: Rng, held_out: bool) -> Design:
    w, d = (0.43, 0.13) if not held_out else (0.29, 0.12)
    keys = [
        box((-w / 2 + 0.01, y, 0.018), (w / 2 - 0.01, y + 0.016, 0.023), SECOND)
        for y in np.arange(-d / 2 + 0.01, d / 2 - 0.02, 0.021)
    ]
    return built("keyboard", box((-w / 2, -d / 2, 0), (w / 2, d / 2, 0.018)), *keys)


def mouse(rng: Rng, held_out: bool) -> Design:
    return built("mouse", cushion((0.06, 0.105 if not held_out else 0.085, 0.036), roundness=0.7))


def _screen(label: str, w: float, h: float, lift: float, foot: float, held_out: bool) -> Design:
    edge = 0.012
    pieces = [
        box((-w / 2, -0.012, lift), (w / 2, 0.03, lift + h)),
        box((-w / 2 + edge, -0.015, lift + edge), (w / 2 - edge, -0.012, lift + h - edge), DARK),
    ]
    if not held_out:
        pieces += [
            box((-foot / 2, -0.1, 0), (foot / 2, 0.1, 0.012)),
            box((-0.03, 0.0, 0.012), (0.03, 0.025, lift + 0.05)),
        ]
    else:
        pieces += [
            bar((side * w * 0.3, y, 0.008), (side * w * 0.3, 0.01, lift + 0.01), 0.008)
            for side in (-1, 1)
            for y in (-0.1, 0.1)
        ]
    return built(label, *pieces)


def monitor(rng: Rng, held_out: bool) -> Design:
    w = rng.uniform(0.48, 0.62)
    return _screen("monitor", w, w * rng.uniform(0.56, 0.64), rng.uniform(0.08, 0.14), 0.24, held_out)


def television(rng: Rng, held_out: bool) -> Design:
    w = rng.uniform(0.8, 1.25)
    return _screen("television", w, w * 0.57, 0.06, 0.4, held_out)


def wall_television(rng: Rng, held_out: bool) -> Design:
    w = rng.uniform(0.9, 1.3)
    h, t = w * 0.57, 0.05
    return built(
        "television",
        box((-w / 2, -t / 2, 0), (w / 2, t / 2, h)),
        box((-w / 2 + 0.01, -t / 2 - 0.003, 0.01), (w / 2 - 0.01, -t / 2, h - 0.01), DARK),
    )


def computer(rng: Rng, held_out: bool) -> Design:
    """A tower."""
    w, d, h = (rng.uniform(0.17, 0.21), rng.uniform(0.38, 0.46), rng.uniform(0.36, 0.46))
    slots = [
        box((-w / 2 + 0.015, -d / 2 - 0.003, z), (w / 2 - 0.015, -d / 2, z + 0.03), SECOND)
        for z in (h - 0.06, h - 0.1, 0.08)
    ]
    return built("computer", box((-w / 2, -d / 2, 0), (w / 2, d / 2, h)), *(slots[:1] if held_out else slots))


def speaker(rng: Rng, held_out: bool) -> Design:
    w, d, h = rng.uniform(0.14, 0.2), rng.uniform(0.16, 0.22), rng.uniform(0.22, 0.32)
    if held_out:
        return built(
            "speaker", lathe([(0, 0), (0.07, 0), (0.08, 0.05), (0.08, h), (0, h)], [MAIN, SECOND, MAIN, DARK, DARK])
        )
    cones = []
    for z, r in ((0.33 * h, 0.4 * w), (0.75 * h, 0.22 * w)):
        v, f, t = lathe([(r, 0), (r * 0.9, 0.006), (0.3 * r, -0.01), (0, 0.0)], DARK)
        cones.append((np.column_stack([v[:, 0], -d / 2 - v[:, 2], z + v[:, 1]]), f, t))
    return built("speaker", box((-w / 2, -d / 2, 0), (w / 2, d / 2, h)), *cones)


def remote_control(rng: Rng, held_out: bool) -> Design:
    w, d = (0.045, 0.17) if not held_out else (0.05, 0.12)
    keys = [
        box((x - 0.005, y - 0.004, 0.02), (x + 0.005, y + 0.004, 0.023), SECOND)
        for x in (-0.013, 0, 0.013)
        for y in np.arange(-0.3 * d, 0.4 * d, 0.02)
    ]
    return built("remote control", box((-w / 2, -d / 2, 0), (w / 2, d / 2, 0.02)), *keys)


def phone(rng: Rng, held_out: bool) -> Design:
    w, d = 0.072, 0.15
    return built(
        "phone",
        box((-w / 2, -d / 2, 0), (w / 2, d / 2, 0.009)),
        box(
            (-w / 2 + 0.003, -d / 2 + 0.006, 0.009),
            (w / 2 - 0.003, d / 2 - 0.006, 0.0095),
            DARK if not held_out else WHITE,
        ),
    )
