"""Lets the people of a world act: every person does one thing after the other, alone or together, on one clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from psg4d_ros.data.simulation.acting import Activity, Impossible, in_view
from psg4d_ros.data.simulation.locomotion import turn_to
from psg4d_ros.data.simulation.poses import standing
from psg4d_ros.data.simulation.repertoire import SELDOM, Proposal, Repertoire
from psg4d_ros.data.simulation.set_scene import set_scene
from psg4d_ros.data.simulation.stage import Actor, Stage
from psg4d_ros.data.simulation.world import STEP_S, Timeline, World

_ATTEMPTS = 12  # proposals that a person tries before it pauses
_PATIENCE_S = 6.0  # for how long it waits for somebody else
_WANTED, _EAGER = 5, 16.0  # of what is seldom possible a scene prefers some, which differ from scene to scene


@dataclass(eq=False)
class _Running:
    activity: Activity
    people: tuple[int, ...]


@dataclass(eq=False)
class _Promise:
    """Something for several people that begins when all of them have finished what they do, or never."""

    proposal: Proposal
    until_s: float
    meanwhile: _Running


class Director:
    """Runs activities on a stage. promised: what somebody waits for others to take part in; wanted: what this scene
    shows rather than anything else, where it is possible."""

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        self.stage = Stage(world)
        self.rng = rng
        self.running: list[_Running] = []
        self.done: Counter[str] = Counter()
        self.promised: list[_Promise] = []
        self.tastes: dict[tuple[int, str], float] = {}
        self.wanted = frozenset(rng.choice(SELDOM, size=_WANTED, replace=False).tolist())

    def busy(self, person: int) -> bool:
        return any(person in r.people for r in self.running)

    def liking(self, actor: Actor, proposal: Proposal) -> float:
        """How likely somebody does something: everybody has its own tastes, and what a scene is to show and has not
        shown yet comes before what has been done."""
        key = actor.entity_id, proposal.name
        if key not in self.tastes:
            self.tastes[key] = float(self.rng.lognormal(0.0, 0.8))
        done = self.done[proposal.name]
        wanted = _EAGER if proposal.purpose in self.wanted and not done else 1.0
        return proposal.weight * self.tastes[key] * wanted / (1.0 + 2.0 * done)

    def start(self, activity: Activity, people: tuple[int, ...]) -> bool:
        """Begin an activity with the step that is being prepared; False when it turns out to be impossible."""
        running = _Running(activity, people)
        self.running.append(running)
        return self._advance(running)

    def step(self, *, strict: bool = False) -> None:
        """Advance what goes on by a step; the clock ticks afterwards (``Stage.tick``).

        strict: raise Impossible where something turns out to be so.
        """
        for running in list(self.running):
            self._advance(running, strict)
        for flight in list(self.stage.flights):
            if next(flight, "landed") == "landed":
                self.stage.flights.remove(flight)

    def _advance(self, running: _Running, strict: bool = False) -> bool:
        """One step of an activity; False when it turned out to be impossible."""
        try:
            next(running.activity)
        except StopIteration:
            self.running.remove(running)
        except Impossible:
            self.running.remove(running)
            if strict:
                raise
            for person in running.people:
                compose(self.stage, self.stage.actors[person])
            return False
        return True

    def finish(self) -> Timeline:
        for running in self.running:
            running.activity.close()
        return self.stage.finish()


def compose(stage: Stage, actor: Actor) -> None:
    """After something broken off: empty hands come down, the body is as its posture says."""
    actor.gaze = None
    for hands in list(actor.reaching):
        if not any(h in actor.holding for h in (("left", "right") if hands == "both" else (hands,))):
            del actor.reaching[hands]
    if actor.posture == "standing":
        actor.base = standing(actor.body)


def perform(world: World, rng: np.random.Generator, *, duration_s: float) -> Timeline:
    """What the people of a world do during ``duration_s``: a Timeline of round(duration_s / STEP_S) steps.

    Activities that turn out to be impossible (no way, out of reach, no room) are left out. Deterministic by ``rng``.
    """
    director = Director(world, rng)
    stage = director.stage
    set_scene(stage, rng)
    rested = {person: float(rng.uniform(0.3, 2.0)) if rng.random() < 0.3 else 0.0 for person in stage.actors}
    for _ in range(round(duration_s / STEP_S)):
        director.step()
        _keep_promises(director)
        for person, actor in stage.actors.items():
            waits = any(person in p.proposal.people for p in director.promised)
            if waits or director.busy(person) or stage.now < rested[person]:
                continue
            if not _something_new(director, actor):
                rested[person] = stage.now + float(rng.uniform(0.4, 1.0))
        stage.tick()
    return director.finish()


def _keep_promises(director: Director) -> None:
    for promise in list(director.promised):
        people = promise.proposal.people
        others = [r for r in director.running if r is not promise.meanwhile and set(r.people) & set(people)]
        if others and director.stage.now <= promise.until_s:
            continue
        director.promised.remove(promise)
        promise.meanwhile.activity.close()
        if promise.meanwhile in director.running:
            director.running.remove(promise.meanwhile)
        if not others and director.start(promise.proposal.activity, people):
            director.done[promise.proposal.name] += 1


def _something_new(director: Director, actor: Actor) -> bool:
    """Pick an activity that the person can begin now, or that it waits for somebody else to take part in."""
    stage, rng = director.stage, director.rng
    taken = {p for promise in director.promised for p in promise.proposal.people}
    others = [a for p, a in stage.actors.items() if a is not actor and p not in taken]
    choices = Repertoire(stage, actor, others, rng).found
    for _ in range(_ATTEMPTS):
        if not choices:
            break
        weights = np.array([director.liking(actor, c) for c in choices])
        choice = choices.pop(int(rng.choice(len(choices), p=weights / weights.sum())))
        if any(director.busy(p) for p in choice.people):
            partner = next(p for p in choice.people if p != actor.entity_id)
            director.start(_watch(stage, actor, partner), (actor.entity_id,))
            until_s = stage.now + _PATIENCE_S
            director.promised.append(_Promise(choice, until_s, director.running[-1]))
            return True
        if director.start(choice.activity, choice.people):
            director.done[choice.name] += 1
            return True
        choices = [c for c in choices if c.name != choice.name or rng.random() < 0.5]
    return False


def _watch(stage: Stage, actor: Actor, partner: int) -> Activity:
    """Look at somebody until it has time, as far as the head turns, and turn after it."""
    try:
        for _ in range(round(2 * _PATIENCE_S / STEP_S)):
            if in_view(stage, actor, partner):
                actor.gaze = partner
                stage.begin(actor.entity_id, "looking at", partner)
            else:
                actor.gaze = None
                stage.end(actor.entity_id, "looking at", partner)
                yield from turn_to(stage, actor, partner)
            yield
    finally:
        actor.gaze = None
        stage.end(actor.entity_id, "looking at", partner)


@dataclass(frozen=True)
class Cue:
    """At ``start_s`` the people begin an activity; what they still do then is broken off."""

    start_s: float
    people: tuple[int, ...]
    begin: Callable[[Stage], Activity]


def perform_script(
    world: World, script: Sequence[Cue], *, duration_s: float, prepare: Callable[[Stage], None] | None = None
) -> Timeline:
    """Exactly these activities at these times, for scenes whose course is known. Raises Impossible where one is not
    possible. prepare: sets the stage before the first step (who sits, what is held or open).
    """
    director = Director(world, np.random.default_rng(0))
    stage = director.stage
    if prepare is not None:
        prepare(stage)
    waiting = sorted(script, key=lambda cue: cue.start_s)
    for _ in range(round(duration_s / STEP_S)):
        while waiting and waiting[0].start_s <= stage.now + 1e-9:
            cue = waiting.pop(0)
            for running in [r for r in director.running if set(r.people) & set(cue.people)]:
                running.activity.close()
                director.running.remove(running)
            director.running.append(_Running(cue.begin(stage), cue.people))
        director.step(strict=True)
        stage.tick()
    return director.finish()
