"""Relations between things that move: approaching, moving away from, passing by, falling from."""

from __future__ import annotations

import numpy as np

from psg4d_ros.data.simulation.contacts import Bool
from psg4d_ros.data.simulation.predicates import CLOSING_M_S, FALL_M, MEETING_M, PASSING_M
from psg4d_ros.data.simulation.situation import Situation
from psg4d_ros.data.simulation.spans import runs
from psg4d_ros.data.simulation.world import STEP_S

_STRAIGHT = 0.7  # cosine between a motion and the way to what it leads to
_CHANGE_M = 0.5
_DRIVEN_S = 1.0  # a thing that somebody threw or kicked so long ago at most does not fall by itself


def encounters(situation: Situation) -> dict[tuple[int, str, int], Bool]:
    """bool[F] for every subject, predicate and object that occur."""
    held: dict[tuple[int, str, int], Bool] = {}
    for person in situation.world.people:
        o = person.entity_id
        for e in situation.world.entities:
            s = e.entity_id
            if s == o or not situation.speed[:, s - 1].any():
                continue
            for name, mask in _closing(situation, s, o).items():
                held[s, name, o] = mask
            if e.body is not None:
                held[s, "passing by", o] = _passing(situation, s, o)
    held.update(_falls(situation))
    return {key: mask for key, mask in held.items() if mask.any()}


def _closing(situation: Situation, s: int, o: int) -> dict[str, Bool]:
    places = [np.stack([situation.surfaces.middle(i, f)[:2] for f in range(situation.frames)]) for i in (s, o)]
    way = places[1] - places[0]
    distance = np.linalg.norm(way, axis=1)
    toward = way / np.maximum(distance, 1e-6)[:, None]
    own, other = situation.velocity[:, s - 1], situation.velocity[:, o - 1]
    along = (own * toward).sum(axis=1)
    rate = ((own - other) * toward).sum(axis=1)
    speed = situation.speed[:, s - 1]
    rooms = [[situation.room(i, f) for f in range(situation.frames)] for i in (s, o)]
    moves = (speed >= CLOSING_M_S) & (np.array(rooms[0]) == np.array(rooms[1])) & _by_itself(situation, s)
    masks = {
        "approaching": moves & (rate >= CLOSING_M_S) & (along >= _STRAIGHT * speed),
        "moving away from": moves & (rate <= -CLOSING_M_S) & (-along >= _STRAIGHT * speed),
    }
    for mask in masks.values():
        for a, b in runs(mask):
            start, end = distance[a], distance[b - 1]
            if min(start, end) > MEETING_M or abs(end - start) < _CHANGE_M:
                mask[a:b] = False
    return masks


def _by_itself(situation: Situation, s: int) -> Bool:
    """bool[F]: people move by themselves; a thing while nobody carries it, and a ball also when it rolls freely."""
    carrier = situation.carrier[:, s - 1]
    if situation.is_person(s):
        return np.ones(situation.frames, dtype=bool)
    people = np.isin(carrier, [p.entity_id for p in situation.world.people])
    if situation.world.entity(s).label == "ball":
        return np.asarray(~people, dtype=bool)
    return np.asarray(carrier == 0, dtype=bool)


def _passing(situation: Situation, s: int, o: int) -> Bool:
    way = np.stack(
        [situation.surfaces.middle(o, f)[:2] - situation.surfaces.middle(s, f)[:2] for f in range(situation.frames)]
    )
    distance = np.linalg.norm(way, axis=1)
    ahead = (way * situation.velocity[:, s - 1]).sum(axis=1)  # positive: the other is before the walker
    mask: Bool = (distance <= PASSING_M) & situation.walking[:, s - 1] & situation.still[:, o - 1]
    for a, b in runs(mask):
        leaves = b < situation.frames and distance[b] > PASSING_M
        if not (leaves and ahead[a] > 0.0 and ahead[b - 1] < 0.0):
            mask[a:b] = False
    return mask


def _falls(situation: Situation) -> dict[tuple[int, str, int], Bool]:
    timeline = situation.timeline
    held: dict[tuple[int, str, int], Bool] = {}
    for e in situation.world.entities:
        carriers, poses = timeline.carrier[e.entity_id - 1], timeline.T_world_entity[e.entity_id - 1]
        if e.body is not None or len(carriers) < 2:
            continue
        for a, b in runs(carriers == 0):
            left = int(carriers[a - 1]) if a else 0
            drop = poses[a, 2, 3] - poses[min(b, len(poses) - 1), 2, 3]
            if left == 0 or situation.is_person(left) or drop < FALL_M or _driven(situation, e.entity_id, a, b):
                continue
            span = situation.fact_span(a * STEP_S, b * STEP_S)
            if span is not None:
                held.setdefault((e.entity_id, "falling from", left), np.zeros(situation.frames, dtype=bool))
                held[e.entity_id, "falling from", left][span[0] : span[1]] = True
    return held


def _driven(situation: Situation, thing: int, a: int, b: int) -> bool:
    return any(
        f.object_id == thing and f.name in ("throwing", "kicking") and f.start_s <= b * STEP_S
        and f.end_s >= a * STEP_S - _DRIVEN_S
        for f in situation.timeline.facts
    )  # fmt: skip
