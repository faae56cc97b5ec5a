"""What all activities are made of. An activity is a generator that sets what an actor does next and yields per step."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager

import numpy as np

from psg4d_ros.data.simulation.frames import yaw_towards
from psg4d_ros.data.simulation.navigation import smooth_step
from psg4d_ros.data.simulation.stage import Actor, Stage
from psg4d_ros.data.simulation.world import STEP_S

Activity = Generator[None, None, None]
_NECK_TURN = 1.2  # radians


class Impossible(Exception):
    """An activity cannot be done as things stand; the director lets the person do something else."""


def wait(seconds: float) -> Activity:
    """Do nothing new for a while."""
    for _ in range(max(round(seconds / STEP_S), 1)):
        yield


def together(*parts: Activity) -> Activity:
    """Several activities at the same time, until the last has ended; when one is impossible all of them end."""
    running = list(parts)
    try:
        while running:
            for part in list(running):
                try:
                    next(part)
                except StopIteration:
                    running.remove(part)
            if running:
                yield
    finally:
        for part in running:
            part.close()


def ramp(seconds: float) -> Iterator[float]:
    """Weights that rise smoothly to 1, one per step."""
    steps = max(round(seconds / STEP_S), 1)
    for k in range(1, steps + 1):
        yield smooth_step(k / steps)


def angle_between(a: float, b: float) -> float:
    """From yaw ``a`` to yaw ``b``, -pi to pi."""
    return float((b - a + np.pi) % (2 * np.pi) - np.pi)


def in_view(stage: Stage, actor: Actor, target: int) -> bool:
    """Whether the head turns as far as to something without the feet."""
    way = stage.middle(target)[:2] - actor.place
    return actor.posture != "lying" and abs(angle_between(actor.yaw, yaw_towards(way))) < _NECK_TURN


@contextmanager
def attempt(stage: Stage, actor: Actor, name: str, target: int) -> Iterator[None]:
    """A fact for as long as the block runs, withdrawn when that ends as Impossible: a failed grab picks nothing up."""
    with stage.fact(actor.entity_id, name, target):
        try:
            yield
        except Impossible:
            stage.withdraw(actor.entity_id, name, target)
            raise


@contextmanager
def attending(stage: Stage, actor: Actor, target: int, name: str = "looking at") -> Iterator[None]:
    """Somebody looks at something on purpose for as long as the block runs."""
    before = actor.gaze
    actor.gaze = target
    try:
        with stage.fact(actor.entity_id, name, target):
            yield
    finally:
        actor.gaze = before
