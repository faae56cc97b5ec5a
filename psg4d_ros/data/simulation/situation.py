"""Who is what, carried by whom, in which posture and how fast, at the frames of a recording."""

from __future__ import annotations

import numpy as np

from psg4d_ros.data.simulation.contacts import Surfaces
from psg4d_ros.data.simulation.predicates import STILL_M_S, Kind
from psg4d_ros.data.simulation.spans import steady_states
from psg4d_ros.data.simulation.world import STEP_S, Timeline
from psg4d_ros.structures import Float64, Int64

_SMOOTH = 4  # steps to each side over which velocities are taken: a stride's sway is not a change of direction


class Situation:
    """What the decisions about all predicates have in common. steps: int64[F].

    carrier: int64[F, E], 0 = nobody. walking: bool[F, E]. velocity: float64[F, E, 2], of an entity's origin over the
    floor, m/s. still: bool[F, E].
    """

    def __init__(self, timeline: Timeline, steps: Int64) -> None:
        self.timeline, self.world, self.steps = timeline, timeline.world, steps
        self.surfaces = Surfaces(timeline, steps)
        self.times_s: Float64 = timeline.times_s[steps]
        self.frames = len(steps)
        self.interval_s = float(np.diff(self.times_s).mean()) if self.frames > 1 else 0.0
        entities = self.world.entities
        shape = (self.frames, len(entities))
        self.carrier = np.stack([np.broadcast_to(c[steps] if len(c) > 1 else c, shape[0]) for c in timeline.carrier], 1)
        self.velocity = np.zeros((*shape, 2))
        last = len(timeline.times_s) - 1
        before, after = np.maximum(steps - _SMOOTH, 0), np.minimum(steps + _SMOOTH, last)
        for i, poses in enumerate(timeline.T_world_entity):
            if len(poses) > 1:
                way = poses[after, :2, 3] - poses[before, :2, 3]
                self.velocity[:, i] = way / (np.maximum(after - before, 1) * STEP_S)[:, None]
        self.speed: Float64 = np.linalg.norm(self.velocity, axis=-1)
        self.still = self.speed < STILL_M_S
        self.walking = np.zeros(shape, dtype=bool)
        self._postures: dict[int, list[tuple[float, float, str]]] = {}
        for fact in timeline.facts:
            if fact.object_id is None and fact.name == "walking":
                inside = (self.times_s >= fact.start_s - 1e-6) & (self.times_s < fact.end_s - 1e-6)
                self.walking[inside, fact.subject_id - 1] = True
            elif fact.object_id is None and fact.name in ("standing", "sitting", "lying"):
                self._postures.setdefault(fact.subject_id, []).append((fact.start_s, fact.end_s, fact.name))
        for person in self.world.people:
            column = self.walking[:, person.entity_id - 1]
            for walks, a, b in steady_states(column.tolist()):
                column[a:b] = walks
        self.rugs = tuple(e.entity_id for e in entities if e.label == "carpet")

    def is_person(self, entity_id: int) -> bool:
        return self.world.entity(entity_id).body is not None

    def kind(self, entity_id: int) -> Kind:
        e = self.world.entity(entity_id)
        return "person" if e.body is not None else "thing" if e.is_thing else "stuff"

    def posture(self, person: int, frame: int) -> str:
        """ "standing", "sitting" or "lying", as the script has it; standing where it says nothing."""
        t = self.times_s[frame]
        for start, end, name in self._postures.get(person, ()):
            if start - 1e-6 <= t < end - 1e-6:
                return name
        return "standing"

    def hangs(self, entity_id: int, carrier: int) -> bool:
        """Whether the carrier holds it from the side or from above: a wall, a ceiling, or as the world was built."""
        if carrier == 0:
            return False
        parent, surface = self.world.supports.get(entity_id, (0, 0))
        return self.world.entity(carrier).label in ("wall", "ceiling") or (
            parent == carrier
            and surface == -1
            and (self.world.entity(carrier).label not in ("floor", "ground", "carpet"))
        )

    def fact_span(self, start_s: float, end_s: float) -> tuple[int, int] | None:
        """The frames within [start_s, end_s), or the one nearest to its middle; None before and after the recording."""
        a, b = (int(np.searchsorted(self.times_s, t - 1e-6)) for t in (start_s, end_s))
        if a < b:
            return a, b
        if end_s <= self.times_s[0] or start_s > self.times_s[-1]:
            return None
        nearest = int(np.abs(self.times_s - 0.5 * (start_s + end_s)).argmin())
        return nearest, nearest + 1

    def arrangement(self, a: int, b: int, frame: int) -> tuple[int, int, int, int]:
        """Stands for where both are: what was found for it once holds whenever it comes again."""
        poses = self.surfaces.poses[frame]
        return a, int(poses[a - 1]), b, int(poses[b - 1])

    def front(self, entity_id: int, frame: int) -> Float64:
        """float64[2]: the unit direction over the floor in which an entity's front looks."""
        T = self.surfaces.frame_of(entity_id, frame)
        front = -T[:2, 1]
        unit: Float64 = front / max(float(np.linalg.norm(front)), 1e-9)
        return unit

    def room(self, entity_id: int, frame: int) -> int:
        """The number of the room an entity's middle is in, -1 for none."""
        x, y = self.surfaces.middle(entity_id, frame)[:2]
        return next((n for n, r in enumerate(self.world.rooms) if r.x0 <= x <= r.x1 and r.y0 <= y <= r.y1), -1)
