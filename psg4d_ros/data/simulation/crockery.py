"""Crockery, pots and packed food, turned and built."""

from __future__ import annotations

import numpy as np

from psg4d_ros.data.simulation.assets import Design, built
from psg4d_ros.data.simulation.shapes import (
    DARK,
    MAIN,
    METAL,
    SECOND,
    bar,
    box,
    lathe,
)

Rng = np.random.Generator


def cup(rng: Rng, held_out: bool) -> Design:
    u = rng.uniform
    r, h = u(0.035, 0.045), u(0.08, 0.11)
    low = r * (u(0.9, 1.0) if not held_out else 0.6)
    wall = lathe([(0, 0), (low, 0), (r, h), (r - 0.004, h), (low - 0.004, 0.006), (0, 0.006)])
    ring = [
        bar(
            (r + 0.025 * np.sin(a) - 0.004, 0, h / 2 - h * 0.3 * np.cos(a)),
            (r + 0.025 * np.sin(b) - 0.004, 0, h / 2 - h * 0.3 * np.cos(b)),
            0.005,
            MAIN,
            6,
        )
        for a, b in zip(np.linspace(0, np.pi, 6)[:-1], np.linspace(0, np.pi, 6)[1:], strict=True)
    ]
    return built("cup", wall, *ring)


def bowl(rng: Rng, held_out: bool) -> Design:
    r, h = rng.uniform(0.07, 0.12), rng.uniform(0.05, 0.08)
    mid = 0.95 if held_out else 0.8
    profile = [
        (0, 0),
        (0.45 * r, 0),
        (mid * r, 0.5 * h),
        (r, h),
        (r - 0.005, h),
        (mid * r - 0.006, 0.55 * h),
        (0, 0.01),
    ]
    return built("bowl", lathe(profile, sides=20))


def plate(rng: Rng, held_out: bool) -> Design:
    r = rng.uniform(0.1, 0.14)
    if held_out:
        x = 0.8 * r
        return built(
            "plate",
            box((-x, -x, 0), (x, x, 0.008)),
            box((-x * 0.8, -x * 0.8, 0.008), (x * 0.8, x * 0.8, 0.009), SECOND),
        )
    profile = [(0, 0), (0.6 * r, 0), (r, 0.018), (r, 0.022), (0.62 * r, 0.006), (0, 0.006)]
    return built("plate", lathe(profile, sides=24))


def can(rng: Rng, held_out: bool) -> Design:
    r, h = (0.033, 0.115) if not held_out else (0.045, 0.09)
    profile = [(0, 0.003), (r * 0.8, 0), (r, 0.008), (r, h - 0.01), (r * 0.85, h), (r * 0.8, h - 0.004), (0, h - 0.004)]
    return built("can", lathe(profile, [METAL, METAL, MAIN, METAL, METAL, METAL]))


def carton(rng: Rng, held_out: bool) -> Design:
    w, h = (0.07, 0.2) if not held_out else (0.06, 0.13)
    x = w / 2
    vertices = np.array([(-x, -x, h), (x, -x, h), (x, x, h), (-x, x, h), (-x, 0, h + 0.04), (x, 0, h + 0.04)], float)
    roof = (
        vertices,
        np.array([(0, 1, 5), (0, 5, 4), (3, 4, 5), (3, 5, 2), (0, 4, 3), (1, 2, 5)], np.int32),
        np.full(6, SECOND, np.uint8),
    )
    return built(
        "carton", box((-x, -x, 0), (x, x, h)), roof, box((-x, -0.002, h + 0.04), (x, 0.002, h + 0.055), SECOND)
    )


def bottle(rng: Rng, held_out: bool) -> Design:
    r, h = rng.uniform(0.03, 0.042), rng.uniform(0.2, 0.3)
    neck = 0.75 if held_out else 0.6
    profile = [
        (0, 0),
        (r, 0),
        (r, neck * h),
        (0.013, (neck + 0.15) * h),
        (0.013, h - 0.02),
        (0.015, h - 0.02),
        (0.015, h),
        (0, h),
    ]
    return built("bottle", lathe(profile, [MAIN] * 4 + [SECOND] * 4), grip=(0.0, 0.0, 0.45 * h))


def pan(rng: Rng, held_out: bool) -> Design:
    r, h = rng.uniform(0.1, 0.14), 0.08 if held_out else 0.045
    body = lathe([(0, 0), (0.85 * r, 0), (r, h), (r - 0.004, h), (0.85 * r - 0.003, 0.005), (0, 0.005)], sides=22)
    long = rng.uniform(0.16, 0.2)
    return built(
        "pan",
        body,
        bar((r - 0.005, 0, 0.8 * h), (r + long, 0, 0.8 * h + 0.02), 0.009, DARK),
        grip=(r + 0.6 * long, 0.0, 0.8 * h),
    )


def pot(rng: Rng, held_out: bool) -> Design:
    r, h = rng.uniform(0.09, 0.13), rng.uniform(0.1, 0.15)
    pieces = [lathe([(0, 0), (r, 0), (r, h), (r - 0.004, h), (r - 0.004, 0.006), (0, 0.006)], sides=22)]
    for side in (-1, 1):
        pieces.append(
            box(
                (side * (r + 0.015) - 0.018, -0.035, h * 0.75),
                (side * (r + 0.015) + 0.018, 0.035, h * 0.75 + 0.012),
                DARK,
            )
        )
    if held_out or rng.random() < 0.5:
        pieces.append(lathe([(0, h + 0.025), (0.6 * r, h + 0.018), (r, h + 0.002), (0, h)], SECOND, sides=22))
        pieces.append(lathe([(0, h + 0.02), (0.015, h + 0.02), (0.02, h + 0.04), (0, h + 0.045)], DARK))
    return built("pot", *pieces)


def vase(rng: Rng, held_out: bool) -> Design:
    h, r = rng.uniform(0.16, 0.35), rng.uniform(0.045, 0.08)
    a, b = (0.9, 0.4) if held_out else (rng.uniform(1.0, 1.3), rng.uniform(0.4, 0.8))
    profile = [
        (0, 0),
        (0.6 * r, 0),
        (a * r, 0.35 * h),
        (r, 0.6 * h),
        (b * r * 0.8, 0.85 * h),
        (b * r, h),
        (b * r - 0.004, h),
        (0.5 * r, 0.3 * h),
        (0, 0.02),
    ]
    return built("vase", lathe(profile))
