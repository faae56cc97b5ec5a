"""What can be seen of a performance: events that are read off the poses of bodies and things, never off the facts.

Each event takes what is seen, a subject and an object, and gives the steps in which it happens as bool[T].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from small_world import ADA, BEN, CUP, MORE, TABLE_TOP_M

from psg4d_ros.data.simulation.stage import HANDS
from psg4d_ros.data.simulation.world import STEP_S, Timeline

Mask = np.ndarray


class Seen:
    """What can be seen of a performance, at each step: float64[T, ...] and bool[T]; the facts are not looked at."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.steps = len(timeline.times_s)

    def poses(self, entity: int) -> np.ndarray:
        T = self.timeline.T_world_entity[entity - 1]
        return np.broadcast_to(T, (self.steps, 4, 4))

    def place(self, entity: int) -> np.ndarray:
        return self.poses(entity)[:, :2, 3]

    def middle(self, entity: int) -> np.ndarray:
        """Of a thing its middle, of a person the point between the eyes."""
        thing = self.timeline.world.entity(entity)
        if thing.body is not None:
            return self.point(entity, "eyes")
        return self.poses(entity)[:, :3, 3] + 0.5 * thing.size[2] * self.poses(entity)[:, :3, 2]

    def point(self, person: int, name: str) -> np.ndarray:
        body = self.timeline.world.entity(person).body
        assert body is not None
        index, rest = body.points[name]
        T = self.timeline.T_world_part[person - 1][:, index]
        return T[:, :3, :3] @ rest + T[:, :3, 3]

    def palms(self, person: int) -> np.ndarray:
        """float64[2, T, 3]."""
        return np.stack([self.point(person, f"{h}_hand") for h in HANDS])

    def sight(self, person: int) -> np.ndarray:
        """Where the face points."""
        body = self.timeline.world.entity(person).body
        assert body is not None
        return -self.timeline.T_world_part[person - 1][:, body.points["eyes"][0], :3, 1]

    def speed(self, track: np.ndarray) -> np.ndarray:
        """m/s of float64[..., T, D]."""
        step = np.linalg.norm(np.diff(track, axis=-2), axis=-1) / STEP_S
        return np.concatenate([np.zeros_like(step[..., :1]), step], axis=-1)

    def walks(self, person: int) -> Mask:
        return self.speed(self.place(person)) > 0.1

    def turns(self, person: int) -> np.ndarray:
        """rad/s, seen from above."""
        front = -self.poses(person)[:, :2, 1]
        return self.speed(front)

    def hands_work(self, person: int) -> Mask:
        """A hand moves though the body stays where it is."""
        T = self.poses(person)
        own = np.einsum("tji,htj->hti", T[:, :3, :3], self.palms(person) - T[:, :3, 3])
        return (self.speed(own) > 0.05).any(axis=0) & ~self.walks(person) & (self.turns(person) < 0.05)

    def moves(self, thing: int) -> Mask:
        return self.speed(self.poses(thing)[:, :3, 3]) > 0.02

    def tilt(self, thing: int) -> np.ndarray:
        return np.degrees(np.arccos(np.clip(self.poses(thing)[:, 2, 2], -1.0, 1.0)))

    def gap(self, points: np.ndarray, thing: int) -> np.ndarray:
        """Metres from float64[..., T, 3] to the box around a thing's resting shape, 0 inside."""
        vertices = np.concatenate([p.vertices for p in self.timeline.world.entity(thing).parts])
        T = self.poses(thing)
        local = np.einsum("tji,...tj->...ti", T[:, :3, :3], points - T[:, :3, 3])
        outside = np.maximum(np.maximum(vertices.min(axis=0) - local, local - vertices.max(axis=0)), 0.0)
        return np.linalg.norm(outside, axis=-1)

    def in_hand(self, person: int, thing: int) -> Mask:
        return self.gap(self.palms(person), thing).min(axis=0) < 0.03

    def looks_at(self, person: int, entity: int, degrees: float = 12.0) -> Mask:
        way = self.middle(entity) - self.point(person, "eyes")
        cosine = (way * self.sight(person)).sum(axis=1) / np.maximum(np.linalg.norm(way, axis=1), 1e-9)
        return cosine > np.cos(np.radians(degrees))

    def away(self, a: int, b: int) -> np.ndarray:
        return np.linalg.norm(self.place(a) - self.place(b), axis=1)

    def nears(self, a: int, b: int) -> np.ndarray:
        """m/s by which the distance shrinks."""
        return -np.diff(self.away(a, b), prepend=self.away(a, b)[0]) / STEP_S


def is_held(seen: Seen, who: int, what: int) -> Mask:
    return seen.moves(what) & seen.in_hand(who, what)


def is_carried(seen: Seen, who: int, what: int) -> Mask:
    return seen.walks(who) & seen.in_hand(who, what) & seen.moves(what)


def is_taken(seen: Seen, who: int, what: int) -> Mask:
    """The hand is on its way; it has nothing before, and the thing above its place afterwards."""
    lifted = seen.poses(what)[-1, 2, 3] > seen.poses(what)[0, 2, 3] + 0.05
    return seen.hands_work(who) & lifted & bool(seen.in_hand(who, what)[-1]) & ~seen.in_hand(who, what)[0]


def is_set_down(seen: Seen, who: int, what: int) -> Mask:
    """The hand is on its way; it has the thing before, and nothing afterwards."""
    left = not seen.in_hand(who, what)[-1] and bool(seen.in_hand(who, what)[0])
    return seen.hands_work(who) & left


def is_looked_at(seen: Seen, who: int, what: int) -> Mask:
    return seen.looks_at(who, what) & ~seen.looks_at(who, what)[0]


def is_talked_to(seen: Seen, who: int, whom: int) -> Mask:
    speaks = seen.hands_work(who) | seen.hands_work(whom)
    return speaks & seen.looks_at(who, whom, 25.0) & seen.looks_at(whom, who, 25.0)


def is_drunk_from(seen: Seen, who: int, what: int) -> Mask:
    """It goes up to the mouth and is upright again in the end."""
    rises = np.diff(seen.poses(what)[:, 2, 3], prepend=seen.poses(what)[0, 2, 3]) / STEP_S > 0.03
    at_mouth = seen.gap(seen.point(who, "mouth"), what) < 0.06
    return (rises | (seen.tilt(what) > 3.0)) & bool((at_mouth & (seen.tilt(what) > 30.0)).any())


def is_eaten_from(seen: Seen, who: int, what: int) -> Mask:
    """A hand goes back and forth between the dish and the mouth."""
    mouth = np.linalg.norm(seen.palms(who) - seen.point(who, "mouth"), axis=-1).min(axis=0) < 0.14
    dish = seen.gap(seen.palms(who), what).min(axis=0) < 0.06
    return (mouth | dish) & bool(dish.any()) & bool(mouth.any())


def is_read(seen: Seen, who: int, what: int) -> Mask:
    before_eyes = np.linalg.norm(seen.middle(what) - seen.point(who, "eyes"), axis=1) < 0.55
    return before_eyes & (seen.tilt(what) > 10.0) & bool(seen.looks_at(who, what, 20.0).any())


def is_typed_on(seen: Seen, who: int, what: int) -> Mask:
    return (seen.gap(seen.palms(who), what) < 0.05).all(axis=0)


def is_worked(seen: Seen, who: int, what: int) -> Mask:
    """A hand is at its front."""
    return seen.gap(seen.palms(who), what).min(axis=0) < 0.05


def is_raised(seen: Seen, who: int, what: int) -> Mask:
    """It is in the hand, higher than it is carried."""
    return seen.in_hand(who, what) & (seen.poses(what)[:, 2, 3] > seen.poses(what)[0, 2, 3] + 0.03)


def is_wiped(seen: Seen, who: int, what: int) -> Mask:
    palms = seen.palms(who)
    return ((seen.gap(palms, what) < 0.06) & (palms[..., 2] > TABLE_TOP_M - 0.01)).any(axis=0)


def is_stirred_in(seen: Seen, who: int, what: int) -> Mask:
    """A hand goes round above it."""
    palms, middle = seen.palms(who), seen.middle(what)
    above = np.linalg.norm(palms[..., :2] - middle[:, :2], axis=-1) < 0.08
    return (above & (palms[..., 2] > middle[:, 2]) & (seen.speed(palms) > 0.05)).any(axis=0)


def is_poured_into(seen: Seen, who: int, what: int) -> Mask:
    """What is held comes and tilts until its mouth is above the vessel; it is upright again in the end."""
    mouth = seen.poses(MORE)[:, :3, 3] + 0.25 * seen.poses(MORE)[:, :3, 2]
    above = (np.linalg.norm(mouth[:, :2] - seen.place(what), axis=1) < 0.06) & (mouth[:, 2] > TABLE_TOP_M + 0.09)
    tilted = seen.tilt(MORE) > 3.0
    comes = seen.hands_work(who) & (np.arange(seen.steps) < np.argmax(tilted))
    return (comes | tilted) & bool((above & (seen.tilt(MORE) > 60.0)).any())


def changes_hands(giver: int, taker: int) -> Callable[[Seen], Mask]:
    """From the first move of the cup until the giver's palm leaves it; then the taker has it."""

    def event(seen: Seen) -> Mask:
        has, moves = seen.in_hand(giver, CUP), seen.moves(CUP)
        got = bool(seen.in_hand(taker, CUP)[-1]) and bool(has[0]) and not has[-1]
        return has & np.logical_or.accumulate(moves) & got

    return event


def is_given(seen: Seen, who: int, whom: int) -> Mask:
    return changes_hands(who, whom)(seen)


def is_got(seen: Seen, who: int, whom: int) -> Mask:
    return changes_hands(whom, who)(seen)


def is_driven(seen: Seen, who: int, what: int, sign: float) -> Mask:
    way = seen.place(what) - seen.place(who)
    step = np.diff(seen.place(what), axis=0, prepend=seen.place(what)[:1])
    both = (seen.gap(seen.palms(who), what) < 0.05).all(axis=0)
    return seen.moves(what) & both & (sign * (way * step).sum(axis=1) > 0.0)


def is_pushed(seen: Seen, who: int, what: int) -> Mask:
    return is_driven(seen, who, what, 1.0)


def is_pulled(seen: Seen, who: int, what: int) -> Mask:
    return is_driven(seen, who, what, -1.0)


def drawer_goes(seen: Seen, what: int, sign: float) -> Mask:
    """The drawer comes out of (1) or goes into (-1) its case, along -y."""
    T = np.broadcast_to(seen.timeline.T_world_part[what - 1], (seen.steps, 2, 4, 4))
    out = T[:, 0, 1, 3] - T[:, 1, 1, 3]
    return sign * np.diff(out, prepend=out[0]) / STEP_S > 0.01


def is_opened(seen: Seen, who: int, what: int) -> Mask:
    return drawer_goes(seen, what, 1.0)


def is_closed(seen: Seen, who: int, what: int) -> Mask:
    return drawer_goes(seen, what, -1.0)


def is_thrown(seen: Seen, who: int, what: int) -> Mask:
    flies = ~seen.in_hand(ADA, what) & ~seen.in_hand(BEN, what)
    return seen.moves(what) & seen.in_hand(who, what) & bool(flies.any())


def is_caught(seen: Seen, who: int, what: int) -> Mask:
    """The hands are on their way and the thing is not yet between them."""
    inside = (seen.gap(seen.palms(who), what) < 0.02).all(axis=0)
    return seen.hands_work(who) & ~inside & bool(inside.any())


def is_kicked(seen: Seen, who: int, what: int) -> Mask:
    """From where it stands the foot swings until it has left what it meets."""
    toes = seen.point(who, "right_toes")
    met = np.flatnonzero(seen.gap(toes, what) < 0.05)
    if not len(met):
        return np.zeros(seen.steps, dtype=bool)
    arrives = np.flatnonzero((seen.walks(who) | (seen.turns(who) > 0.05))[: met[0]])
    steps = np.arange(seen.steps)
    return (steps > arrives.max(initial=-1)) & (steps <= met[-1] + 1)


def sinks(seen: Seen, who: int, sign: float) -> Mask:
    height = seen.timeline.T_world_part[who - 1][:, 0, 2, :] @ [0.0, 0.0, 0.9, 1.0]
    return sign * np.diff(height, prepend=height[0]) / STEP_S > 0.02


def is_sat_down_on(seen: Seen, who: int, what: int) -> Mask:
    return sinks(seen, who, -1.0) & ~seen.walks(what) & (seen.away(who, what)[-1] < 0.6) & ~_steps_about(seen, who)


def is_risen_from(seen: Seen, who: int, what: int) -> Mask:
    return sinks(seen, who, 1.0) & (seen.away(who, what)[0] < 0.6)


def _steps_about(seen: Seen, who: int) -> Mask:
    return (seen.speed(seen.place(who)) > 0.6) | (seen.turns(who) > 0.05)


def is_walked_to(seen: Seen, who: int, what: int) -> Mask:
    """It walks, and ends up there."""
    away = seen.away(who, what)
    return seen.walks(who) & (away[-1] < min(1.1, away[0] - 0.5))


def is_run_to(seen: Seen, who: int, what: int) -> Mask:
    return is_walked_to(seen, who, what) & bool((seen.speed(seen.place(who)) > 1.9).any())


def is_left(seen: Seen, who: int, what: int) -> Mask:
    """Steps away from where it stood beside it, the first metre and a half."""
    walked = np.cumsum(seen.speed(seen.place(who)) * STEP_S)
    return seen.walks(who) & (walked < 1.5) & (seen.away(who, what)[0] < 1.0)


def is_passed(seen: Seen, who: int, what: int) -> Mask:
    """It comes nearer, and goes on to where it is farther away again."""
    away = seen.away(who, what)
    passes = 0 < away.argmin() < seen.steps - 1 and away[-1] > away.min() + 0.8
    return seen.walks(who) & (away < 1.6) & passes


def is_followed(seen: Seen, who: int, whom: int) -> Mask:
    """It walks over places where the other was before."""
    mine, theirs = seen.place(who), seen.place(whom)
    apart = np.linalg.norm(mine[:, None] - theirs[None], axis=-1) < 0.1
    later = np.tril(apart, -5).any(axis=1)
    return seen.walks(who) & bool(later[seen.walks(who)].mean() > 0.5)


def is_turned_to(seen: Seen, who: int, what: int) -> Mask:
    way = seen.middle(what)[:, :2] - seen.place(who)
    front = -seen.poses(who)[:, :2, 1]
    cosine = (way * front).sum(axis=1) / np.linalg.norm(way, axis=1)
    return (seen.turns(who) > 0.1) & ~seen.walks(who) & bool(cosine[-1] > 0.999)
