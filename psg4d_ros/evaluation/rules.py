"""Relations by rules on boxes: what can be had without learning, for comparison (docs/metrics.md).

The rules see labels and boxes of the given tubes over time, nothing else. They know where things rest, who sits or
walks, what moves along with whom; where an object's front is, or what a person means to do, boxes do not tell.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psg4d_ros.evaluation.matching import Relations
from psg4d_ros.evaluation.tubes import Tubes
from psg4d_ros.structures import Float64

Bool = NDArray[np.bool_]

PERSON = frozenset({"person"})
GROUND = frozenset({"floor", "carpet", "ground", "grass", "road", "sidewalk"})
UPRIGHT = frozenset({"wall", "ceiling"})
HUNG = frozenset({"picture", "clock", "mirror", "lamp", "curtain", "towel", "television"})
BUILT_IN = frozenset({"window", "door", "heater", "sink", "faucet", "shower", "shelf", "cabinet", "fan"})
TALL = frozenset({"door", "window", "curtain"})  # they may reach down to the floor
PLUMBING = frozenset({"sink", "faucet"})
SEATS = frozenset({"chair", "stool", "sofa", "bench", "bed", "toilet"})
TABLES = frozenset({"table", "desk", "counter"})
CONTAINERS = frozenset({"box", "basket", "bag", "bowl", "pot", "pan", "cabinet", "drawer", "wardrobe", "refrigerator"})
WITH_DOORS = frozenset({"cabinet", "drawer", "wardrobe", "refrigerator", "door", "microwave", "stove", "dishwasher"})
COVERS = frozenset({"blanket", "towel"})

REST_M = 0.08  # boxes of what is seen from one side are not exact
HIDDEN_M = 0.25  # of the foot of a thing that rests on something, behind what stands before it
STAYS_M = 0.25  # a thing that moves less than this all the time did not move; what is seen of it changes
HAND_M = 0.12
NEAR_M = 0.5
MOVING_M_S = 0.2
CLOSING_M_S = 0.25
SMALL_M = 0.6
MEET_M = 1.5
MIN_FRAMES = 2
MAX_GAP_FRAMES = 2  # bridged


@dataclass(frozen=True, eq=False)
class _Geometry:
    """Boxes of N objects over F frames, and what follows from them; pairs are [F, subject, object].

    there: bool[F, N], between first and last sight, to the end for what stays where it is. moved: bool[N], what does
    not. speed: float64[F, N] m/s. gap: horizontal distance of two boxes. rise: height of the subject's bottom over the
    object's top. inside: share of the subject's ground area that lies within the object's. closing: m/s at which two
    centres come closer.
    """

    there: Bool
    moved: Bool
    low: Float64
    high: Float64
    speed: Float64
    gap: Float64
    rise: Float64
    inside: Float64
    closing: Float64

    @property
    def size(self) -> Float64:
        return self.high - self.low


def relate_by_rules(tubes: Tubes) -> tuple[Relations, Float64]:
    """Relations between the objects of tubes with boxes; a score says how far its rule can be trusted, no more."""
    if tubes.boxes is None:
        raise ValueError("the rules need boxes; Tubes.boxes is None")
    if not len(tubes.stamps_ns) or not tubes.labels:
        return Relations.from_rows([]), np.zeros(0)
    rows: list[tuple[int, str, int, int, int]] = []
    score: list[float] = []
    for predicate, trust, holds in _rules(tubes, _measure(tubes)):
        found = _spans(holds)
        rows += [(s, predicate, o, start, end) for s, o, start, end in found]
        score += [trust] * len(found)
    return Relations.from_rows(rows), np.array(score, np.float64)


def _rules(tubes: Tubes, g: _Geometry) -> list[tuple[str, float, Bool]]:
    """(predicate, trust, bool[F, N, N] where it holds)."""

    def are(words: Collection[str]) -> Bool:
        return np.array([label in words for label in tubes.labels])

    person, ground, upright = are(PERSON), are(GROUND), are(UPRIGHT)
    thing = np.array(tubes.is_thing) & ~person
    pair = g.there[:, :, None] & g.there[:, None, :] & ~np.eye(len(person), dtype=bool)
    largest = g.size.max(axis=2)
    small = (largest < SMALL_M) & thing
    larger = largest[:, :, None] < largest[:, None, :]
    still = g.speed < MOVING_M_S

    # What carries a thing: the surface nearest below it, else the box it is in.
    rests = pair & (thing & ~are(BUILT_IN))[None, :, None] & (thing | are(TABLES))[None, None, :]
    rests &= (g.rise > -REST_M) & (g.rise < HIDDEN_M) & (g.inside > 0.5)
    rests = _nearest(rests, np.abs(g.rise))
    free = ~_some(rests)
    within = pair & (thing & ~are(BUILT_IN))[None, :, None] & thing[None, None, :] & free[:, :, None] & larger
    within &= (g.inside > 0.7) & (g.rise < 0) & (g.high[:, :, None, 2] <= g.high[:, None, :, 2] + REST_M)
    within = _nearest(within, np.broadcast_to(largest[:, None, :], within.shape))
    free &= ~_some(within)
    mounted = pair & upright[None, None, :] & free[:, :, None] & (g.gap < HAND_M)
    mounted &= are(HUNG | BUILT_IN)[None, :, None] & ((g.low[..., 2] > 0.3) | are(TALL))[:, :, None]
    mounted |= pair & are(PLUMBING)[None, :, None] & are(TABLES)[None, None, :] & (g.inside > 0.5)
    mounted = _nearest(mounted, g.gap - g.inside * ~upright)
    # What stands on the floor often hides its own feet. A carpet is the floor of what stands within it.
    below_it = pair & ground[None, None, :] & (g.rise > -HIDDEN_M)
    best_ground = np.where(g.inside > 0.5, -g.high[:, None, :, 2], 10.0 + ~are(("floor",)))
    floor = below_it & (thing & ~small)[:, :, None] & (free & ~_some(mounted))[:, :, None]
    floor |= below_it & small[:, :, None] & free[:, :, None] & (g.rise < HIDDEN_M)
    floor = _nearest(floor, best_ground)
    free &= ~_some(floor)

    flat = np.maximum(g.size[..., 0], g.size[..., 1]) > 1.2 * g.size[..., 2]
    on_seat = pair & person[None, :, None] & are(SEATS)[None, None, :] & (g.gap <= 0)
    on_seat &= (g.size[..., 2] < 1.45)[:, :, None] & (g.rise < 0.2) & (g.inside > 0.3)
    on_seat = _nearest(on_seat, -g.inside)
    on_feet = person & ~_some(on_seat)
    near_ground = pair & ground[None, None, :]
    stands = _nearest(near_ground & (on_feet & still)[:, :, None], best_ground)
    walks = _nearest(near_ground & (on_feet & ~still)[:, :, None], best_ground)
    walking = (person & ~still & on_feet)[:, :, None]

    held = pair & person[None, :, None] & (small & g.moved)[:, None, :] & free[:, None, :] & (g.gap < HAND_M)
    held &= (g.low[:, None, :, 2] > g.low[:, :, None, 2] + 0.3) & (g.high[:, None, :, 2] < g.high[:, :, None, 2] + 0.5)
    pushed = pair & person[None, :, None] & (thing & ~still & ~small & g.moved)[:, None, :] & (g.gap < 0.3) & walking

    beside = pair & thing[None, None, :] & (thing[None, :] | person[None, :])[:, :, None] & larger & still[:, :, None]
    beside &= (g.gap > 0) & (g.gap < NEAR_M) & (g.gap < largest[:, None, :] / 2)
    beside &= np.abs(g.low[:, :, None, 2] - g.low[:, None, :, 2]) < REST_M
    over = pair & (are(HUNG) & ~ground)[None, :, None] & thing[None, None, :] & (g.inside > 0.5)
    over &= (g.rise > 0) & (g.rise < MEET_M) & _some(floor)[:, None, :]
    below = pair & thing[None, :, None] & are(TABLES)[None, None, :] & (g.inside > 0.5) & _some(floor)[:, :, None]
    below &= g.high[:, :, None, 2] < g.high[:, None, :, 2]
    to_thing = pair & thing[None, None, :]
    people = pair & person[None, :, None] & person[None, None, :]
    growing = np.gradient(g.size[..., 0] * g.size[..., 1], axis=0) if len(g.size) > 1 else np.zeros(g.there.shape)
    at_door = pair & person[None, :, None] & are(WITH_DOORS)[None, None, :] & (g.gap < 0.4) & still[:, :, None]
    return [
        ("on", 0.9, rests),
        ("on", 0.8, floor),
        ("on", 0.4, within & ~are(CONTAINERS)[None, None, :]),
        ("inside", 0.6, within & are(CONTAINERS)[None, None, :]),
        ("sitting on", 0.8, on_seat & ~flat[:, :, None]),
        ("lying on", 0.7, on_seat & flat[:, :, None]),
        ("standing on", 0.8, stands),
        ("walking on", 0.8, walks),
        ("hanging on", 0.7, mounted & are(HUNG)[None, :, None]),
        ("attached to", 0.7, mounted & are(BUILT_IN)[None, :, None]),
        ("holding", 0.6, held),
        ("carrying", 0.5, held & walking),
        ("pushing", 0.4, pushed),
        ("sitting at", 0.5, pair & _some(on_seat)[:, :, None] & are(TABLES)[None, None, :] & (g.gap < 0.45)),
        ("next to", 0.3, beside & ~rests & ~within),
        ("above", 0.4, over),
        ("under", 0.4, below),
        ("covering", 0.4, rests & are(COVERS)[None, :, None]),
        ("approaching", 0.4, people & walking & (g.closing > CLOSING_M_S)),
        ("moving away from", 0.4, people & walking & (g.closing < -CLOSING_M_S)),
        ("talking to", 0.25, people & still[:, :, None] & still[:, None, :] & (g.gap < MEET_M)),
        ("walking to", 0.3, _goals(to_thing, walking[:, :, 0], g.gap)),
        ("walking away from", 0.3, _goals(to_thing[::-1], walking[::-1, :, 0], g.gap[::-1])[::-1]),
        ("opening", 0.3, at_door & (growing > 0.02)[:, None, :]),
        ("closing", 0.3, at_door & (growing < -0.02)[:, None, :]),
        ("looking at", 0.15, held),
    ]


def _measure(tubes: Tubes) -> _Geometry:
    assert tubes.boxes is not None
    boxes = tubes.boxes.astype(np.float64)
    first, end = tubes.lifetimes()
    at = np.arange(len(boxes))[:, None]
    known: Bool = np.logical_and.reduce(np.isfinite(boxes), axis=(2, 3))
    boxes, moved = _settled(_held(boxes), known, tubes)
    stays = ~moved & ~np.array([label in PERSON for label in tubes.labels])
    there = (at >= first) & (at < np.where(stays, len(boxes), end)) & (known.sum(axis=0) > 0)
    low, high = boxes[:, :, 0], boxes[:, :, 1]
    center = (low + high) / 2
    seconds = (tubes.stamps_ns - tubes.stamps_ns[0]) * 1e-9
    velocity = np.gradient(_smooth(center), seconds, axis=0) if len(boxes) > 1 else np.zeros_like(center)
    apart = np.maximum(low[:, :, None] - high[:, None], low[:, None] - high[:, :, None])[..., :2]
    gap = np.linalg.norm(apart.clip(0.0), axis=3)
    shared = (-apart).clip(0.0)
    size = np.maximum(high - low, 1e-3)
    inside = np.minimum(shared / size[:, :, None, :2], 1.0).prod(axis=3)
    distance = np.linalg.norm((center[:, :, None] - center[:, None])[..., :2], axis=3)
    closing = -np.gradient(_smooth(distance), seconds, axis=0) if len(boxes) > 1 else np.zeros_like(distance)
    return _Geometry(
        there=there,
        moved=moved,
        low=low,
        high=high,
        speed=np.linalg.norm(velocity[..., :2], axis=2),
        gap=gap,
        rise=low[:, :, None, 2] - high[:, None, :, 2],
        inside=inside,
        closing=closing,
    )


def _held(boxes: Float64) -> Float64:
    """Boxes with the last one seen standing in where an object is hidden, and the first one before it is seen."""
    known = np.isfinite(boxes).all(axis=(2, 3))
    at = np.where(known, np.arange(len(boxes))[:, None], -1)
    last = np.maximum.accumulate(at, axis=0)
    source = np.where(last >= 0, last, known.argmax(axis=0))
    return np.nan_to_num(np.take_along_axis(boxes, source[:, :, None, None], axis=0))


def _settled(boxes: Float64, known: Bool, tubes: Tubes) -> tuple[Float64, Bool]:
    """Boxes in which what stays in one place has one box, from all that was ever seen of it; and bool[N] what does not.

    Persons keep the boxes they have.
    """
    out, moved = boxes.copy(), np.zeros(boxes.shape[1], bool)
    for i in np.flatnonzero(known.any(axis=0)):
        seen = boxes[known[:, i], i]
        center = seen.mean(axis=1)
        third = max(len(center) // 3, 1)
        away = np.linalg.norm(np.median(center[:third], axis=0) - np.median(center[-third:], axis=0))
        spread = np.linalg.norm(np.percentile(center, 90, axis=0) - np.percentile(center, 10, axis=0))
        extent = float(np.linalg.norm(np.percentile(seen[:, 1] - seen[:, 0], 90, axis=0)))
        moved[i] = tubes.is_thing[i] and (away > STAYS_M or spread > max(STAYS_M, extent / 2))
        if not moved[i] and tubes.labels[i] not in PERSON:
            out[:, i, 0], out[:, i, 1] = np.percentile(seen[:, 0], 10, axis=0), np.percentile(seen[:, 1], 90, axis=0)
    return out, moved


def _smooth(values: Float64) -> Float64:
    """Mean over five frames: what is seen of an object changes from frame to frame."""
    padded = np.concatenate([values[:1], values[:1], values, values[-1:], values[-1:]])
    out: Float64 = np.mean([padded[i : i + len(values)] for i in range(5)], axis=0)
    return out


def _goals(candidates: Bool, walking: Bool, gap: Float64) -> Bool:
    """bool[F, N, N]: over each walk of a person, the thing that is nearest, within 1 m, where the walk ends."""
    out = np.zeros_like(candidates)
    for person in np.flatnonzero(walking.any(axis=0)):
        edges = np.diff(np.concatenate([[0], walking[:, person].astype(np.int8), [0]]))
        for start, end in zip(np.flatnonzero(edges > 0), np.flatnonzero(edges < 0), strict=True):
            near = np.where(candidates[end - 1, person], gap[end - 1, person], np.inf)
            if near.min() < 1.0:
                out[start:end, person, near.argmin()] = True
    return out


def _some(holds: Bool) -> Bool:
    """bool[F, N]: subjects for which it holds with some object."""
    out: Bool = np.logical_or.reduce(holds, axis=2)
    return out


def _nearest(holds: Bool, cost: Float64) -> Bool:
    """Of the objects that a subject's rule names, only the one of least cost."""
    best = np.where(holds, cost, np.inf).argmin(axis=2)
    only = np.zeros_like(holds)
    np.put_along_axis(only, best[:, :, None], True, axis=2)
    return only & holds


def _spans(holds: Bool) -> list[tuple[int, int, int, int]]:
    """(subject, object, start, end) of each stretch of at least MIN_FRAMES; gaps of MAX_GAP_FRAMES are bridged."""
    edge = np.zeros((1, *holds.shape[1:]), np.int8)
    steps = np.diff(np.concatenate([edge, holds.astype(np.int8), edge]), axis=0)
    out = []
    for s, o in np.argwhere(holds.any(axis=0)).tolist():
        starts, ends = np.flatnonzero(steps[:, s, o] > 0), np.flatnonzero(steps[:, s, o] < 0)
        apart: Bool = np.greater(starts[1:] - ends[:-1], MAX_GAP_FRAMES)
        starts, ends = starts[np.append(True, apart)], ends[np.append(apart, True)]
        out += [(s, o, a, b) for a, b in zip(starts.tolist(), ends.tolist(), strict=True) if b - a >= MIN_FRAMES]
    return out
