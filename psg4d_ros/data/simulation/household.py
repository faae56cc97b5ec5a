"""Small and soft things that no model of the library covers well: bedding, books, screens, crockery, pictures."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from psg4d_ros.data.simulation.assets import Design
from psg4d_ros.data.simulation.shapes import (
    DARK,
    MAIN,
    METAL,
    SECOND,
    WHITE,
    Piece,
    bar,
    box,
    cushion,
    drape,
    lathe,
    moved,
    shape,
)
from psg4d_ros.data.simulation.world import Surface

Rng = np.random.Generator


def _design(label: str, *pieces: Piece, grip: tuple[float, float, float] | None = None) -> Design:
    return Design(label, f"built/{label}", (shape("body", *pieces),), grip=grip)


def pillow(rng: Rng, held_out: bool) -> Design:
    u = rng.uniform
    size = (u(0.4, 0.5), u(0.4, 0.5), u(0.11, 0.15)) if not held_out else (u(0.6, 0.7), u(0.32, 0.4), u(0.12, 0.16))
    return _design("pillow", cushion(size, roundness=0.55))


def blanket(rng: Rng, held_out: bool) -> Design:
    """A folded blanket: soft layers."""
    u = rng.uniform
    w, d, layers = u(0.5, 0.75), u(0.35, 0.5), 2 if held_out else int(rng.integers(3, 5))
    high = u(0.025, 0.035)
    pieces = [
        moved(cushion((w * u(0.96, 1), d * u(0.96, 1), high * 1.2), roundness=0.3), 0, 0, i * high)
        for i in range(layers)
    ]
    return _design("blanket", *pieces)


def towel(rng: Rng, held_out: bool) -> Design:
    u = rng.uniform
    w, d, high = u(0.25, 0.35), u(0.18, 0.28), u(0.018, 0.025)
    count = 2 if held_out else int(rng.integers(3, 5))
    pieces = [moved(cushion((w, d, high * 1.15), roundness=0.25), 0, 0, i * high) for i in range(count)]
    return _design("towel", *pieces)


def book(rng: Rng, held_out: bool) -> Design:
    """A closed book lying on its side; its width is along x."""
    u = rng.uniform
    w, d, h = u(0.13, 0.22), u(0.19, 0.29), u(0.015, 0.05)
    c = 0.003
    x = w / 2
    spine = cushion((0.02, d, h), roundness=0.2) if held_out else box((-x, -d / 2, 0), (-x + c, d / 2, h))
    return _design(
        "book",
        box((-x, -d / 2, 0), (x, d / 2, c)),
        box((-x, -d / 2, h - c), (x, d / 2, h)),
        moved(spine, -x, 0, 0) if held_out else spine,
        box((-x + c, -d / 2 + c, c), (x - c, d / 2 - c, h - c), WHITE),
    )


def standing_book(rng: Rng, held_out: bool) -> Design:
    """A book upright with its spine to the front, as in a shelf."""
    lying = book(rng, held_out).shapes[0]
    x, y, z = (lying.vertices - lying.vertices.min(axis=0)).T
    upright = np.column_stack([z - z.max() / 2, x - x.max() / 2, y])
    return Design("book", "built/book", (shape("body", (upright, lying.faces, lying.tones)),))


def cardboard_box(rng: Rng, held_out: bool) -> Design:
    """An open box, or one with its flaps shut."""
    u = rng.uniform
    w, d, h, t = u(0.25, 0.5), u(0.2, 0.4), u(0.18, 0.35), 0.006
    x, y = w / 2, d / 2
    sides = [
        box((-x, -y, 0), (x, y, t)),
        box((-x, -y, t), (-x + t, y, h)),
        box((x - t, -y, t), (x, y, h)),
        box((-x + t, -y, t), (x - t, -y + t, h)),
        box((-x + t, y - t, t), (x - t, y, h)),
    ]
    if held_out:
        return _design(
            "box",
            box((-x, -y, 0), (x, y, h * 0.8)),
            box((-x - 0.01, -y - 0.01, h * 0.8), (x + 0.01, y + 0.01, h), SECOND),
        )
    if u() < 0.6:
        return _design(
            "box", *sides, box((-x, -y, h), (x, y, h + t)), box((-0.03, -y, h + t), (0.03, y, h + t + 0.002), SECOND)
        )
    made = _design("box", *sides)
    inside = Surface("inside", (0.0, 0.0, t), (w - 0.04, d - 0.04), h - t)
    return Design("box", "built/open box", made.shapes, (inside,))


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
    return _design("cup", wall, *ring)


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
    return _design("bowl", lathe(profile, sides=20))


def plate(rng: Rng, held_out: bool) -> Design:
    r = rng.uniform(0.1, 0.14)
    if held_out:
        x = 0.8 * r
        return _design(
            "plate",
            box((-x, -x, 0), (x, x, 0.008)),
            box((-x * 0.8, -x * 0.8, 0.008), (x * 0.8, x * 0.8, 0.009), SECOND),
        )
    profile = [(0, 0), (0.6 * r, 0), (r, 0.018), (r, 0.022), (0.62 * r, 0.006), (0, 0.006)]
    return _design("plate", lathe(profile, sides=24))


def can(rng: Rng, held_out: bool) -> Design:
    r, h = (0.033, 0.115) if not held_out else (0.045, 0.09)
    profile = [(0, 0.003), (r * 0.8, 0), (r, 0.008), (r, h - 0.01), (r * 0.85, h), (r * 0.8, h - 0.004), (0, h - 0.004)]
    return _design("can", lathe(profile, [METAL, METAL, MAIN, METAL, METAL, METAL]))


def carton(rng: Rng, held_out: bool) -> Design:
    w, h = (0.07, 0.2) if not held_out else (0.06, 0.13)
    x = w / 2
    vertices = np.array([(-x, -x, h), (x, -x, h), (x, x, h), (-x, x, h), (-x, 0, h + 0.04), (x, 0, h + 0.04)], float)
    roof = (
        vertices,
        np.array([(0, 1, 5), (0, 5, 4), (3, 4, 5), (3, 5, 2), (0, 4, 3), (1, 2, 5)], np.int32),
        np.full(6, SECOND, np.uint8),
    )
    return _design(
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
    return _design("bottle", lathe(profile, [MAIN] * 4 + [SECOND] * 4), grip=(0.0, 0.0, 0.45 * h))


def pan(rng: Rng, held_out: bool) -> Design:
    r, h = rng.uniform(0.1, 0.14), 0.08 if held_out else 0.045
    body = lathe([(0, 0), (0.85 * r, 0), (r, h), (r - 0.004, h), (0.85 * r - 0.003, 0.005), (0, 0.005)], sides=22)
    long = rng.uniform(0.16, 0.2)
    return _design(
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
    return _design("pot", *pieces)


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
    return _design("vase", lathe(profile))


def keyboard(rng: Rng, held_out: bool) -> Design:
    w, d = (0.43, 0.13) if not held_out else (0.29, 0.12)
    keys = [
        box((-w / 2 + 0.01, y, 0.018), (w / 2 - 0.01, y + 0.016, 0.023), SECOND)
        for y in np.arange(-d / 2 + 0.01, d / 2 - 0.02, 0.021)
    ]
    return _design("keyboard", box((-w / 2, -d / 2, 0), (w / 2, d / 2, 0.018)), *keys)


def mouse(rng: Rng, held_out: bool) -> Design:
    return _design("mouse", cushion((0.06, 0.105 if not held_out else 0.085, 0.036), roundness=0.7))


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
    return _design(label, *pieces)


def monitor(rng: Rng, held_out: bool) -> Design:
    w = rng.uniform(0.48, 0.62)
    return _screen("monitor", w, w * rng.uniform(0.56, 0.64), rng.uniform(0.08, 0.14), 0.24, held_out)


def television(rng: Rng, held_out: bool) -> Design:
    w = rng.uniform(0.8, 1.25)
    return _screen("television", w, w * 0.57, 0.06, 0.4, held_out)


def wall_television(rng: Rng, held_out: bool) -> Design:
    w = rng.uniform(0.9, 1.3)
    h, t = w * 0.57, 0.05
    return _design(
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
    return _design("computer", box((-w / 2, -d / 2, 0), (w / 2, d / 2, h)), *(slots[:1] if held_out else slots))


def speaker(rng: Rng, held_out: bool) -> Design:
    w, d, h = rng.uniform(0.14, 0.2), rng.uniform(0.16, 0.22), rng.uniform(0.22, 0.32)
    if held_out:
        return _design(
            "speaker", lathe([(0, 0), (0.07, 0), (0.08, 0.05), (0.08, h), (0, h)], [MAIN, SECOND, MAIN, DARK, DARK])
        )
    cones = []
    for z, r in ((0.33 * h, 0.4 * w), (0.75 * h, 0.22 * w)):
        v, f, t = lathe([(r, 0), (r * 0.9, 0.006), (0.3 * r, -0.01), (0, 0.0)], DARK)
        cones.append((np.column_stack([v[:, 0], -d / 2 - v[:, 2], z + v[:, 1]]), f, t))
    return _design("speaker", box((-w / 2, -d / 2, 0), (w / 2, d / 2, h)), *cones)


def remote_control(rng: Rng, held_out: bool) -> Design:
    w, d = (0.045, 0.17) if not held_out else (0.05, 0.12)
    keys = [
        box((x - 0.005, y - 0.004, 0.02), (x + 0.005, y + 0.004, 0.023), SECOND)
        for x in (-0.013, 0, 0.013)
        for y in np.arange(-0.3 * d, 0.4 * d, 0.02)
    ]
    return _design("remote control", box((-w / 2, -d / 2, 0), (w / 2, d / 2, 0.02)), *keys)


def phone(rng: Rng, held_out: bool) -> Design:
    w, d = 0.072, 0.15
    return _design(
        "phone",
        box((-w / 2, -d / 2, 0), (w / 2, d / 2, 0.009)),
        box(
            (-w / 2 + 0.003, -d / 2 + 0.006, 0.009),
            (w / 2 - 0.003, d / 2 - 0.006, 0.0095),
            DARK if not held_out else WHITE,
        ),
    )


def ball(rng: Rng, held_out: bool) -> Design:
    r = rng.uniform(0.1, 0.13) if not held_out else rng.uniform(0.06, 0.08)
    a = np.linspace(-np.pi / 2, np.pi / 2, 11)
    bands = [MAIN, SECOND] * 6 if held_out else [MAIN] * 11
    return _design("ball", lathe([(r * np.cos(i), r + r * np.sin(i)) for i in a], bands, sides=18))


def suitcase(rng: Rng, held_out: bool) -> Design:
    """Upright on its wheels."""
    w, d, h = rng.uniform(0.38, 0.48), rng.uniform(0.22, 0.28), rng.uniform(0.52, 0.7)
    pieces = [moved(cushion((w, d, h), roundness=0.15), 0, 0, 0.04)]
    if not held_out:
        pieces += [
            box((x - 0.01, -d / 2 - 0.004, 0.1), (x + 0.01, -d / 2 + 0.01, h - 0.04), SECOND)
            for x in np.linspace(-0.35 * w, 0.35 * w, 5)
        ]
    pieces += [
        lathe([(0, 0), (0.02, 0), (0.02, 0.045), (0, 0.045)], DARK, (sx * 0.4 * w, sy * 0.3 * d))
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]
    top = h + 0.04
    pieces += [bar((x, 0.0, top - 0.02), (x, 0.0, top + 0.08), 0.008) for x in (-0.08, 0.08)]
    pieces.append(bar((-0.09, 0.0, top + 0.08), (0.09, 0.0, top + 0.08), 0.012, DARK))
    return _design("suitcase", *pieces, grip=(0.0, 0.0, top + 0.08))


def bag(rng: Rng, held_out: bool) -> Design:
    """A carrier bag with two handles."""
    w, d, h = rng.uniform(0.28, 0.38), rng.uniform(0.1, 0.15), rng.uniform(0.3, 0.38)
    pieces = [cushion((w, d, h), roundness=0.2)] if held_out else [box((-w / 2, -d / 2, 0), (w / 2, d / 2, h))]
    for y in (-0.3 * d, 0.3 * d):
        corners = [(-0.2 * w, y, h - 0.01), (-0.15 * w, y, h + 0.12), (0.15 * w, y, h + 0.12), (0.2 * w, y, h - 0.01)]
        pieces += [bar(a, b, 0.006, SECOND, 6) for a, b in pairwise(corners)]
    return _design("bag", *pieces, grip=(0.0, 0.0, h + 0.12))


def backpack(rng: Rng, held_out: bool) -> Design:
    w, d, h = rng.uniform(0.28, 0.34), rng.uniform(0.16, 0.22), rng.uniform(0.4, 0.48)
    pieces = [
        cushion((w, d, h), roundness=0.35),
        moved(cushion((0.75 * w, 0.1, 0.45 * h), SECOND, 0.35), 0, -d / 2 - 0.01, 0.04),
    ]
    pieces += [bar((x, d / 2 - 0.01, 0.15 * h), (x, d / 2 + 0.03, 0.5 * h), 0.012, DARK) for x in (-0.08, 0.08)]
    pieces += [bar((x, d / 2 + 0.03, 0.5 * h), (x, d / 2 - 0.01, 0.9 * h), 0.012, DARK) for x in (-0.08, 0.08)]
    pieces.append(bar((-0.04, 0.03, h + 0.03), (0.04, 0.03, h + 0.03), 0.01, DARK))
    pieces += [bar((x, 0.03, h - 0.03), (x, 0.03, h + 0.03), 0.008, DARK) for x in (-0.04, 0.04)]
    return _design("backpack", *pieces[: 4 if held_out else None], grip=(0.0, 0.03, h + (0.0 if held_out else 0.03)))


def basket(rng: Rng, held_out: bool) -> Design:
    r, h = rng.uniform(0.16, 0.24), rng.uniform(0.2, 0.35)
    rings = [(0, 0), (0.8 * r, 0)] + [
        ((0.8 + 0.2 * z) * r + (0.006 if i % 2 else 0), z * h) for i, z in enumerate(np.linspace(0.05, 1, 9))
    ]
    rings += [(r - 0.012, h), (0.8 * r - 0.01, 0.01), (0, 0.01)]
    made = _design("basket", lathe(rings, sides=8 if held_out else 18))
    side = 0.8 * r * 1.2
    return Design("basket", "built/basket", made.shapes, (Surface("inside", (0.0, 0.0, 0.01), (side, side), h - 0.02),))


def trash_can(rng: Rng, held_out: bool) -> Design:
    r, h = rng.uniform(0.12, 0.17), rng.uniform(0.28, 0.45)
    profile = [(0, 0), (0.8 * r, 0), (r, h), (r - 0.006, h), (0.8 * r - 0.006, 0.01), (0, 0.01)]
    return _design("trash can", lathe(profile, sides=6 if held_out else 18))


def picture_on_wall(rng: Rng, held_out: bool) -> Design:
    """A framed picture; its back at y = 0.015."""
    w, h = rng.uniform(0.3, 0.9), rng.uniform(0.3, 0.7)
    t = 0.05 if held_out else rng.uniform(0.015, 0.035)
    pieces = [
        box((-w / 2, -0.015, 0), (w / 2, 0.015, t)),
        box((-w / 2, -0.015, h - t), (w / 2, 0.015, h)),
        box((-w / 2, -0.015, t), (-w / 2 + t, 0.015, h - t)),
        box((w / 2 - t, -0.015, t), (w / 2, 0.015, h - t)),
        box((-w / 2 + t, -0.005, t), (w / 2 - t, 0.015, h - t), WHITE),
    ]
    x = np.sort(rng.uniform(-w / 2 + t + 0.02, w / 2 - t - 0.02, 4))
    z = np.sort(rng.uniform(t + 0.02, h - t - 0.02, 4))
    pieces.append(box((x[0], -0.007, z[0]), (x[2], -0.005, z[2]), SECOND))
    pieces.append(box((x[1], -0.009, z[1]), (x[3], -0.007, z[3]), MAIN))
    return _design("picture", *pieces)


def standing_picture(rng: Rng, held_out: bool) -> Design:
    """A small frame that leans back on its stay."""
    w, h, t = rng.uniform(0.12, 0.2), rng.uniform(0.15, 0.22), 0.015
    lean = 0.2
    frame = shape(
        "frame",
        box((-w / 2, -0.008, 0), (w / 2, 0.0, h)),
        box((-w / 2 + t, -0.01, t), (w / 2 - t, -0.008, h - t), WHITE if not held_out else SECOND),
    )
    tilted = frame.vertices.copy()
    tilted[:, 1] += lean * frame.vertices[:, 2] - 0.05
    stay = bar((0, 0.045, 0.0), (0, lean * 0.7 * h - 0.05, 0.7 * h), 0.005, MAIN)
    return _design("picture", (tilted, frame.faces, frame.tones), stay)


def mirror(rng: Rng, held_out: bool) -> Design:
    w, h = rng.uniform(0.4, 0.7), rng.uniform(0.7, 1.4)
    if held_out:
        v, f, t = lathe(
            [(0, 0), (w / 2, 0), (w / 2, 0.03), (w / 2 - 0.03, 0.03), (w / 2 - 0.03, 0.02), (0, 0.02)],
            [MAIN] * 4 + [METAL] * 2,
            sides=28,
        )
        return _design("mirror", (np.column_stack([v[:, 0], 0.015 - v[:, 2], v[:, 1] + w / 2]), f, t))
    return _design(
        "mirror",
        box((-w / 2, -0.015, 0), (w / 2, 0.015, h)),
        box((-w / 2 + 0.03, -0.018, 0.03), (w / 2 - 0.03, -0.015, h - 0.03), METAL),
    )


def wall_clock(rng: Rng, held_out: bool) -> Design:
    r = rng.uniform(0.12, 0.18)
    sides = 4 if held_out else 24
    v, f, t = lathe(
        [(0, 0), (r, 0), (r, 0.04), (r - 0.015, 0.04), (r - 0.015, 0.03), (0, 0.03)],
        [MAIN] * 4 + [WHITE] * 2,
        sides=sides,
    )
    face = (np.column_stack([v[:, 0], 0.02 - v[:, 2], v[:, 1] + r]), f, t)
    hands = [
        bar((0, -0.013, r), (long * np.sin(a), -0.013, r + long * np.cos(a)), 0.004, DARK)
        for long, a in ((0.5 * r, rng.uniform(0, 6.28)), (0.75 * r, rng.uniform(0, 6.28)))
    ]
    return _design("clock", face, *hands)


def curtain(rng: Rng, held_out: bool, width: float = 0.6, height: float = 2.2) -> Design:
    folds = max(2, round(width / (0.11 if not held_out else 0.2)))
    cloth = drape(width, height, 0.07, folds)
    rod = bar((-width / 2 - 0.05, 0, height + 0.01), (width / 2 + 0.05, 0, height + 0.01), 0.012, METAL)
    return _design("curtain", cloth, rod)


def floor_lamp(rng: Rng, held_out: bool) -> Design:
    h, r = rng.uniform(1.4, 1.7), rng.uniform(0.14, 0.2)
    shade = lathe(
        [(r, h - 0.28), (r * (1.0 if held_out else 0.6), h), (r * 0.6 - 0.004, h - 0.002), (r - 0.005, h - 0.28)], MAIN
    )
    return _design(
        "lamp",
        lathe([(0, 0), (0.13, 0), (0.13, 0.02), (0, 0.03)], SECOND),
        bar((0, 0, 0.02), (0, 0, h - 0.1), 0.012, SECOND),
        shade,
    )


def ceiling_lamp(rng: Rng, held_out: bool) -> Design:
    """Hangs down from z = 0 at its top: the base is the shade's rim."""
    r, drop = rng.uniform(0.16, 0.25), rng.uniform(0.35, 0.6)
    low = lathe([(r, 0), (0.3 * r if not held_out else r, 0.18), (0.02, 0.2), (0.02, 0.19), (r - 0.006, 0.0)])
    return _design(
        "lamp",
        low,
        bar((0, 0, 0.18), (0, 0, drop), 0.006, DARK),
        lathe([(0, drop), (0.05, drop), (0.05, drop - 0.02), (0, drop - 0.03)], WHITE),
    )


def faucet(rng: Rng, held_out: bool) -> Design:
    h, reach = rng.uniform(0.18, 0.28), rng.uniform(0.14, 0.18)
    pieces = [lathe([(0, 0), (0.025, 0), (0.022, 0.04), (0, 0.04)], METAL), bar((0, 0, 0.02), (0, 0, h), 0.012)]
    pieces += [
        bar((0, 0, h), (0, -reach, h - (0.0 if held_out else 0.02)), 0.011),
        bar((0, -reach, h), (0, -reach, h - 0.05), 0.012),
    ]
    pieces.append(bar((0.02, 0, 0.05), (0.09, 0, 0.07), 0.008))
    return _design("faucet", *pieces)


def robot(rng: Rng, held_out: bool) -> Design:
    """A cleaning robot."""
    r = rng.uniform(0.15, 0.18)
    profile = [(0, 0.012), (r * 0.95, 0.012), (r, 0.03), (r, 0.08), (r * 0.95, 0.09), (0, 0.09)]
    top = lathe([(0.06, 0.085), (0.06, 0.11), (0, 0.112)], SECOND, (0, 0.02 if not held_out else -0.05))
    return _design(
        "robot",
        lathe(profile, [DARK, DARK, MAIN, MAIN, MAIN], sides=24),
        top,
        *[bar((x, 0, 0.03), (x + 0.02, 0, 0.03), 0.03, DARK) for x in (-0.11, 0.09)],
    )


def wall_sign(rng: Rng, held_out: bool) -> Design:
    w, h = rng.uniform(0.25, 0.45), rng.uniform(0.15, 0.25)
    return _design(
        "sign",
        box((-w / 2, -0.012, 0), (w / 2, 0.012, h)),
        box((-0.3 * w, -0.014, 0.3 * h), (0.3 * w, -0.012, 0.7 * h), WHITE if not held_out else DARK),
    )


def serving_cart(rng: Rng, held_out: bool) -> Design:
    w, d, h = 0.7, 0.42, rng.uniform(0.75, 0.85)
    legs = [
        bar((sx * (w / 2 - 0.02), sy * (d / 2 - 0.02), 0.0), (sx * (w / 2 - 0.02), sy * (d / 2 - 0.02), h), 0.012)
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]
    boards = [box((-w / 2, -d / 2, z), (w / 2, d / 2, z + 0.02)) for z in (0.18, h - 0.05)]
    grip = bar((-w / 2 - 0.06, -0.15, h), (-w / 2 - 0.06, 0.15, h), 0.012)
    arms = [bar((-w / 2, y, h - 0.03), (-w / 2 - 0.06, y, h), 0.01) for y in (-0.15, 0.15)]
    tops = tuple(
        Surface("top" if z > 0.5 else "shelf", (0.0, 0.0, z + 0.02), (w - 0.06, d - 0.06), free)
        for z, free in ((h - 0.05, 2.0), (0.18, h - 0.3))
    )
    return Design(
        "cart", "built/cart", (shape("body", *legs, *boards, grip, *arms),), tops, grip=(-w / 2 - 0.06, 0.0, h)
    )


# What has no model, or too few: chosen beside the models of the library.
SMALL: dict[str, tuple[Callable[[Rng, bool], Design], ...]] = {
    "pillow": (pillow,), "blanket": (blanket,), "towel": (towel,), "book": (book, book, book), "box": (cardboard_box, cardboard_box),
    "cup": (cup, cup), "bowl": (bowl, bowl), "plate": (plate, plate), "can": (can,), "carton": (carton,),
    "bottle": (bottle, bottle), "pan": (pan,), "pot": (pot, pot), "vase": (vase, vase), "keyboard": (keyboard,), "mouse": (mouse,),
    "monitor": (monitor,), "television": (television,), "computer": (computer, computer), "speaker": (speaker, speaker),
    "remote control": (remote_control,), "phone": (phone, phone), "ball": (ball, ball), "suitcase": (suitcase,), "bag": (bag, bag),
    "backpack": (backpack, backpack), "basket": (basket, basket), "trash can": (trash_can, trash_can), "faucet": (faucet,), "robot": (robot,),
    "picture": (standing_picture,), "cart": (serving_cart, serving_cart),
}  # fmt: skip
