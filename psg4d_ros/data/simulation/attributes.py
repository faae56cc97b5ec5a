"""The true attributes of people and things over time: the definitions of predicates.py, applied to a Timeline."""

from __future__ import annotations

import numpy as np

from psg4d_ros.data.recording import AttributeSpan
from psg4d_ros.data.simulation.contacts import Bool
from psg4d_ros.data.simulation.predicates import OPEN_SHARE, STILL_M_S
from psg4d_ros.data.simulation.situation import Situation
from psg4d_ros.data.simulation.spans import runs, steady_spans, steady_states
from psg4d_ros.data.simulation.world import STEP_S, Entity, Timeline
from psg4d_ros.structures import Int64

_SMOOTH = 2  # steps to each side


def true_attributes(timeline: Timeline, steps: Int64) -> dict[int, tuple[AttributeSpan, ...]]:
    """The attributes of every entity at the frames taken at ``steps`` (int64[F]), by entity id, sorted by name and
    start. What docs/predicates.md says; spans are in frames, half-open."""
    situation = Situation(timeline, steps)
    return {e.entity_id: _attributes(situation, e) for e in timeline.world.entities}


def _attributes(situation: Situation, entity: Entity) -> tuple[AttributeSpan, ...]:
    i, frames = entity.entity_id, situation.frames
    spans = []
    if entity.color and entity.body is None:
        spans.append((entity.color, 0, frames))
    if entity.body is not None:
        spans += steady_states([situation.posture(i, f) for f in range(frames)])
        spans += [("walking", a, b) for a, b in runs(situation.walking[:, i - 1])]
    if entity.body is not None or entity.movable or entity.graspable:
        still = situation.still[:, i - 1] if entity.body is not None else _slow(situation, i)
        spans += steady_states(["still" if s else "moving" for s in still])
    if entity.graspable:
        held = np.isin(situation.carrier[:, i - 1], [p.entity_id for p in situation.world.people])
        spans += [("held", a, b) for a, b in steady_spans(held, least=1)]
    if entity.joints:
        opened = situation.timeline.opened[i - 1]
        rows = opened[situation.steps] if len(opened) > 1 else np.repeat(opened, frames, axis=0)
        spans += steady_states(["open" if (row > OPEN_SHARE).any() else "closed" for row in rows])
    return tuple(AttributeSpan(*span) for span in sorted(spans))


def _slow(situation: Situation, i: int) -> Bool:
    """bool[F]: whether no part of a thing moves by STILL_M_S or more."""
    poses = situation.timeline.T_world_part[i - 1]
    if len(poses) == 1:
        return np.ones(situation.frames, dtype=bool)
    last = len(poses) - 1
    before, after = np.maximum(situation.steps - _SMOOTH, 0), np.minimum(situation.steps + _SMOOTH, last)
    middles = np.stack([np.append(p.vertices.mean(axis=0), 1.0) for p in situation.world.entity(i).parts])
    way = np.einsum("fpij,pj->fpi", (poses[after] - poses[before])[:, :, :3], middles)
    speed = np.linalg.norm(way, axis=-1).max(axis=1) / (np.maximum(after - before, 1) * STEP_S)
    return speed < STILL_M_S  # type: ignore[no-any-return]
