"""What somebody could do next, given how it sits or stands, what it holds and what is around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from psg4d_ros.data.simulation.acting import Activity, Impossible
from psg4d_ros.data.simulation.activities import (
    get_up,
    lie_down,
    look,
    sit_down,
    stand_up,
    start_lying,
    start_seated,
    walk_up_and_talk,
)
from psg4d_ros.data.simulation.handling import hand_over, pick_up, put_down, start_holding
from psg4d_ros.data.simulation.locomotion import walk_to
from psg4d_ros.data.simulation.stage import Actor, Stage
from psg4d_ros.data.simulation.world import Entity

NEAR_M = 4.0


@dataclass(frozen=True)
class Proposal:
    """An activity that somebody may begin. people: whom it takes; weight: how likely it is to be chosen."""

    name: str
    weight: float
    people: tuple[int, ...]
    begin: Callable[[], Activity]


def _has(entity: Entity, kind: str) -> bool:
    return any(s.kind == kind for s in entity.surfaces)


def set_scene(stage: Stage, rng: np.random.Generator) -> None:
    """How it is when the scene begins: some sit, some lie, some hold something."""
    for actor in stage.actors.values():
        what = rng.random()
        around = _around(stage, actor, rng, 6.0)
        try:
            if what < 0.3:
                start_seated(stage, actor, next(e.entity_id for e in around if _has(e, "seat")))
            elif what < 0.38:
                start_lying(stage, actor, next(e.entity_id for e in around if _has(e, "lying")))
            stage.settle(actor)
            if rng.random() < 0.3:
                small = [e for e in around if e.graspable and not stage.on(e.entity_id) and max(e.size) < 0.35]
                if small and actor.posture != "lying":
                    start_holding(stage, actor, small[0].entity_id)
        except (Impossible, StopIteration):
            pass
        stage.settle(actor)


def _around(stage: Stage, actor: Actor, rng: np.random.Generator, within_m: float = NEAR_M) -> list[Entity]:
    """Entities near a person, in random order, the nearer the likelier first."""
    scored = []
    for e in stage.world.entities:
        if e.is_thing and e.body is None and e.entity_id not in stage.holds:
            away = float(np.linalg.norm(stage.middle(e.entity_id)[:2] - actor.place))
            if away < within_m:
                scored.append((rng.exponential() * (0.5 + away), e))
    return [e for _, e in sorted(scored, key=lambda s: s[0])]


def proposals(stage: Stage, actor: Actor, free: list[Actor], rng: np.random.Generator) -> list[Proposal]:
    """What a person could begin now; whether it succeeds shows when it is tried."""
    me = actor.entity_id
    out: list[Proposal] = []

    def add(name: str, weight: float, begin: Callable[[], Activity], *others: Actor) -> None:
        out.append(Proposal(name, weight, (me, *(o.entity_id for o in others)), begin))

    around = _around(stage, actor, rng)
    held = sorted(set(actor.holding.values()))
    if actor.posture == "lying":
        add("get up", 1.0, lambda: get_up(stage, actor))
        return out
    for e in around[:3]:
        add("look at", 0.4, lambda e=e: look(stage, actor, e.entity_id, float(rng.uniform(1.2, 2.5))))
    if actor.posture == "sitting":
        add("stand up", 1.0, lambda: stand_up(stage, actor))
    else:
        for e in around[:3]:
            add("walk to", 0.5, lambda e=e: walk_to(stage, actor, e.entity_id))
        for e in [e for e in around if _has(e, "seat")][:2]:
            add("sit down", 1.2, lambda e=e: sit_down(stage, actor, e.entity_id))
        if not held:
            for e in [e for e in around if _has(e, "lying")][:1]:
                add("lie down", 0.6, lambda e=e: lie_down(stage, actor, e.entity_id))
        for other in free:
            if other.posture != "lying":
                add("talk", 1.2, lambda o=other: walk_up_and_talk(stage, actor, o, float(rng.uniform(2.0, 4.0))), other)
    for thing in held:
        places = [(e, i) for e in around for i, s in enumerate(e.surfaces) if s.kind in ("top", "shelf")]
        for e, i in places[:3]:
            add("put down", 1.0, lambda t=thing, e=e, i=i: put_down(stage, actor, t, e.entity_id, i, rng))
        for other in free:
            if actor.posture == "standing" and other.posture != "lying":
                add("hand over", 1.5, lambda t=thing, o=other: hand_over(stage, actor, o, t), other)
    if len(actor.holding) == 0:
        for e in [e for e in around if e.graspable and not stage.on(e.entity_id)][:3]:
            add("pick up", 1.5, lambda e=e: pick_up(stage, actor, e.entity_id))
    return out
