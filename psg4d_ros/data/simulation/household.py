"""Bedding, books, bags, pictures, lamps: what no model covers well; and the table of all small built things."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from psg4d_ros.data.simulation.assets import Design, built
from psg4d_ros.data.simulation.crockery import bottle, bowl, can, carton, cup, pan, plate, pot, vase
from psg4d_ros.data.simulation.electronics import (
    computer,
    keyboard,
    monitor,
    mouse,
    phone,
    remote_control,
    speaker,
    television,
)
from psg4d_ros.data.simulation.shapes import (
    DARK,
    MAIN,
    METAL,
    SECOND,
    WHITE,
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


def pillow(rng: Rng, held_out: bool) -> Design:
    u = rng.uniform
    size = (u(0.4, 0.5), u(0.4, 0.5), u(0.11, 0.15)) if not held_out else (u(0.6, 0.7), u(0.32, 0.4), u(0.12, 0.16))
    return built("pillow", cushion(size, roundness=0.55))


def blanket(rng: Rng, held_out: bool) -> Design:
    """A folded blanket: soft layers."""
    u = rng.uniform
    w, d, layers = u(0.5, 0.75), u(0.35, 0.5), 2 if held_out else int(rng.integers(3, 5))
    high = u(0.025, 0.035)
    pieces = [
        moved(cushion((w * u(0.96, 1), d * u(0.96, 1), high * 1.2), roundness=0.3), 0, 0, i * high)
        for i in range(layers)
    ]
    return built("blanket", *pieces)


def towel(rng: Rng, held_out: bool) -> Design:
    u = rng.uniform
    w, d, high = u(0.22, 0.31), u(0.18, 0.28), u(0.018, 0.025)  # one hand wipes with it
    count = 2 if held_out else int(rng.integers(3, 5))
    pieces = [moved(cushion((w, d, high * 1.15), roundness=0.25), 0, 0, i * high) for i in range(count)]
    return built("towel", *pieces)


def book(rng: Rng, held_out: bool) -> Design:
    """A closed book lying on its side; its width is along x."""
    u = rng.uniform
    w, d, h = u(0.13, 0.22), u(0.19, 0.29), u(0.015, 0.05)
    c = 0.003
    x = w / 2
    spine = cushion((0.02, d, h), roundness=0.2) if held_out else box((-x, -d / 2, 0), (-x + c, d / 2, h))
    return built(
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
        return built(
            "box",
            box((-x, -y, 0), (x, y, h * 0.8)),
            box((-x - 0.01, -y - 0.01, h * 0.8), (x + 0.01, y + 0.01, h), SECOND),
        )
    if u() < 0.6:
        return built(
            "box", *sides, box((-x, -y, h), (x, y, h + t)), box((-0.03, -y, h + t), (0.03, y, h + t + 0.002), SECOND)
        )
    made = built("box", *sides)
    inside = Surface("inside", (0.0, 0.0, t), (w - 0.04, d - 0.04), h - t)
    return Design("box", "built/open box", made.shapes, (inside,))


def ball(rng: Rng, held_out: bool) -> Design:
    r = rng.uniform(0.1, 0.13) if not held_out else rng.uniform(0.06, 0.08)
    a = np.linspace(-np.pi / 2, np.pi / 2, 11)
    bands = [MAIN, SECOND] * 6 if held_out else [MAIN] * 11
    return built("ball", lathe([(r * np.cos(i), r + r * np.sin(i)) for i in a], bands, sides=18))


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
    return built("suitcase", *pieces, grip=(0.0, 0.0, top + 0.08))


def bag(rng: Rng, held_out: bool) -> Design:
    """A carrier bag with two handles."""
    w, d, h = rng.uniform(0.28, 0.38), rng.uniform(0.1, 0.15), rng.uniform(0.3, 0.38)
    pieces = [cushion((w, d, h), roundness=0.2)] if held_out else [box((-w / 2, -d / 2, 0), (w / 2, d / 2, h))]
    for y in (-0.3 * d, 0.3 * d):
        corners = [(-0.2 * w, y, h - 0.01), (-0.15 * w, y, h + 0.12), (0.15 * w, y, h + 0.12), (0.2 * w, y, h - 0.01)]
        pieces += [bar(a, b, 0.006, SECOND, 6) for a, b in pairwise(corners)]
    return built("bag", *pieces, grip=(0.0, 0.0, h + 0.12))


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
    return built("backpack", *pieces[: 4 if held_out else None], grip=(0.0, 0.03, h + (0.0 if held_out else 0.03)))


def basket(rng: Rng, held_out: bool) -> Design:
    r, h = rng.uniform(0.16, 0.24), rng.uniform(0.2, 0.35)
    rings = [(0, 0), (0.8 * r, 0)] + [
        ((0.8 + 0.2 * z) * r + (0.006 if i % 2 else 0), z * h) for i, z in enumerate(np.linspace(0.05, 1, 9))
    ]
    rings += [(r - 0.012, h), (0.8 * r - 0.01, 0.01), (0, 0.01)]
    made = built("basket", lathe(rings, sides=8 if held_out else 18))
    side = 0.8 * r * 1.2
    return Design("basket", "built/basket", made.shapes, (Surface("inside", (0.0, 0.0, 0.01), (side, side), h - 0.02),))


def trash_can(rng: Rng, held_out: bool) -> Design:
    r, h = rng.uniform(0.12, 0.17), rng.uniform(0.28, 0.45)
    profile = [(0, 0), (0.8 * r, 0), (r, h), (r - 0.006, h), (0.8 * r - 0.006, 0.01), (0, 0.01)]
    return built("trash can", lathe(profile, sides=6 if held_out else 18))


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
    return built("picture", *pieces)


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
    return built("picture", (tilted, frame.faces, frame.tones), stay)


def mirror(rng: Rng, held_out: bool) -> Design:
    w, h = rng.uniform(0.4, 0.7), rng.uniform(0.7, 1.4)
    if held_out:
        v, f, t = lathe(
            [(0, 0), (w / 2, 0), (w / 2, 0.03), (w / 2 - 0.03, 0.03), (w / 2 - 0.03, 0.02), (0, 0.02)],
            [MAIN] * 4 + [METAL] * 2,
            sides=28,
        )
        return built("mirror", (np.column_stack([v[:, 0], 0.015 - v[:, 2], v[:, 1] + w / 2]), f, t))
    return built(
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
    return built("clock", face, *hands)


def curtain(rng: Rng, held_out: bool, width: float = 0.6, height: float = 2.2) -> Design:
    folds = max(2, round(width / (0.11 if not held_out else 0.2)))
    cloth = drape(width, height, 0.07, folds)
    rod = bar((-width / 2 - 0.05, 0, height + 0.01), (width / 2 + 0.05, 0, height + 0.01), 0.012, METAL)
    return built("curtain", cloth, rod)


def floor_lamp(rng: Rng, held_out: bool) -> Design:
    h, r = rng.uniform(1.4, 1.7), rng.uniform(0.14, 0.2)
    shade = lathe(
        [(r, h - 0.28), (r * (1.0 if held_out else 0.6), h), (r * 0.6 - 0.004, h - 0.002), (r - 0.005, h - 0.28)], MAIN
    )
    return built(
        "lamp",
        lathe([(0, 0), (0.13, 0), (0.13, 0.02), (0, 0.03)], SECOND),
        bar((0, 0, 0.02), (0, 0, h - 0.1), 0.012, SECOND),
        shade,
    )


def ceiling_lamp(rng: Rng, held_out: bool) -> Design:
    """Hangs down from z = 0 at its top: the base is the shade's rim."""
    r, drop = rng.uniform(0.16, 0.25), rng.uniform(0.3, 0.42)
    low = lathe([(r, 0), (0.3 * r if not held_out else r, 0.18), (0.02, 0.2), (0.02, 0.19), (r - 0.006, 0.0)])
    return built(
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
    return built("faucet", *pieces)


def robot(rng: Rng, held_out: bool) -> Design:
    """A cleaning robot."""
    r = rng.uniform(0.15, 0.18)
    profile = [(0, 0.012), (r * 0.95, 0.012), (r, 0.03), (r, 0.08), (r * 0.95, 0.09), (0, 0.09)]
    top = lathe([(0.06, 0.085), (0.06, 0.11), (0, 0.112)], SECOND, (0, 0.02 if not held_out else -0.05))
    return built(
        "robot",
        lathe(profile, [DARK, DARK, MAIN, MAIN, MAIN], sides=24),
        top,
        *[bar((x, 0, 0.03), (x + 0.02, 0, 0.03), 0.03, DARK) for x in (-0.11, 0.09)],
    )


def wall_sign(rng: Rng, held_out: bool) -> Design:
    w, h = rng.uniform(0.25, 0.45), rng.uniform(0.15, 0.25)
    return built(
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


# What has no model, or too few: chosen beside the models of the library; twice where it should come more often.
SMALL: dict[str, tuple[Callable[[Rng, bool], Design], ...]] = {
    "backpack": (backpack, backpack),
    "bag": (bag, bag),
    "ball": (ball, ball),
    "basket": (basket, basket),
    "blanket": (blanket,),
    "book": (book, book, book),
    "bottle": (bottle, bottle),
    "bowl": (bowl, bowl),
    "box": (cardboard_box, cardboard_box),
    "can": (can,),
    "cart": (serving_cart, serving_cart),
    "carton": (carton,),
    "computer": (computer, computer),
    "cup": (cup, cup),
    "faucet": (faucet,),
    "keyboard": (keyboard,),
    "monitor": (monitor,),
    "mouse": (mouse,),
    "pan": (pan,),
    "phone": (phone, phone),
    "picture": (standing_picture,),
    "pillow": (pillow,),
    "plate": (plate, plate),
    "pot": (pot, pot),
    "remote control": (remote_control,),
    "robot": (robot,),
    "speaker": (speaker, speaker),
    "suitcase": (suitcase,),
    "television": (television,),
    "towel": (towel,),
    "trash can": (trash_can, trash_can),
    "vase": (vase, vase),
}
