"""How it is when a scene begins: some people sit, lie or hold something, some doors and drawers are open."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from psg4d_ros.data.simulation.acting import Impossible
from psg4d_ros.data.simulation.activities import start_lying, start_seated
from psg4d_ros.data.simulation.doors import swept
from psg4d_ros.data.simulation.handling import start_holding
from psg4d_ros.data.simulation.repertoire import TOOLS, USEFUL, around
from psg4d_ros.data.simulation.stage import Stage
from psg4d_ros.data.simulation.world import Entity

_SEATED, _LYING, _HOLDING, _DOOR_OPEN, _FRONT_OPEN = 0.3, 0.5, 0.5, 0.6, 0.06
_BALLGAME = 0.6  # share of scenes with company in which a ball is what somebody holds first


def set_scene(stage: Stage, rng: np.random.Generator) -> None:
    """Change the stage before the first step."""
    _open_some(stage, rng)
    ballgame = len(stage.actors) > 1 and rng.random() < _BALLGAME
    for actor in stage.actors.values():
        # Somebody with a ball wants it caught: the others keep their hands free.
        game = any(stage.entity(thing).label == "ball" for thing in stage.holds)
        what, holds = rng.random(), rng.random() < _HOLDING and not game
        near = around(stage, actor, rng, 6.0)
        beds = [e.entity_id for e in near if _has(e, "lying")]
        if what < _LYING and beds:
            _first(partial(start_lying, stage, actor), beds)
        elif what > 1.0 - _SEATED:
            stays = bool(rng.random() < 0.2)
            seats = [e.entity_id for e in near if _has(e, "seat")]
            _first(partial(start_seated, stage, actor, for_good=stays), seats)
        stage.settle(actor)
        if holds and actor.posture != "lying":
            small = [e.entity_id for e in near if e.graspable and not stage.on(e.entity_id) and max(e.size) < 0.35]
            balls = [e for e in small if stage.entity(e).label == "ball" and ballgame]
            tools = [e for e in small if stage.entity(e).label in TOOLS]
            useful = [e for e in small if stage.entity(e).label in USEFUL]
            _first(partial(start_holding, stage, actor), balls + tools + useful + small)
            stage.settle(actor)


def _has(entity: Entity, kind: str) -> bool:
    return any(s.kind == kind for s in entity.surfaces)


def _first(begin: Callable[[int], None], choices: Iterable[int]) -> None:
    """Do it with the first choice that allows it."""
    for entity_id in choices:
        try:
            begin(entity_id)
            return
        except Impossible:
            continue


def _open_some(stage: Stage, rng: np.random.Generator) -> None:
    """Doors between rooms often stand open, fronts of furniture now and then, where nothing is in their way."""
    inner = {
        e.entity_id
        for e in stage.world.entities
        for d in stage.world.doorways
        if e.label == "door" and np.linalg.norm(stage.pose(e.entity_id)[:2, 3] - d.center) < 0.3
    }
    for e in stage.world.entities:
        for joint in range(len(e.joints)):
            share = _DOOR_OPEN if e.entity_id in inner else 0.0 if e.label in ("door", "window") else _FRONT_OPEN
            if rng.random() >= share:
                continue
            clearance = stage.clearance(None, frozenset({e.entity_id}))
            leaf = swept(stage, e.entity_id, joint)
            if clearance[tuple(stage.floor.cells(leaf).T)].min() > 0.03 or e.label != "door":
                stage.open(e.entity_id, joint, 1.0 if e.label == "door" else float(rng.uniform(0.5, 1.0)))
