"""Things that move by themselves: thrown, kicked, pushed over an edge. They fly, bounce, roll out and come to rest."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from psg4d_ros.data.simulation.frames import turned
from psg4d_ros.data.simulation.navigation import PERSON_RADIUS_M
from psg4d_ros.data.simulation.stage import Stage
from psg4d_ros.data.simulation.world import STEP_S, Entity
from psg4d_ros.structures import Float64, Int32

GRAVITY_M_S2 = 9.81
_SUBSTEPS = 4
_STEP_OVER_M = 0.03  # a rug's edge does not stop a ball
_STILL_M_S = 0.08


def launch_velocity(start: Float64, goal: Float64, seconds: float) -> Float64:
    """float64[3]: the velocity at ``start`` with which something thrown is at ``goal`` after that time."""
    velocity: Float64 = (goal - start) / seconds
    velocity[2] += 0.5 * GRAVITY_M_S2 * seconds
    return velocity


def free_flight(start: Float64, velocity: Float64, seconds: Float64) -> Float64:
    """float64[K, 3]: where something thrown is at each of float64[K] times."""
    t = np.asarray(seconds)[:, None]
    out: Float64 = start + velocity * t - 0.5 * GRAVITY_M_S2 * t**2 * np.array([0.0, 0.0, 1.0])
    return out


def fly(stage: Stage, thing: int, velocity: Float64, rng: np.random.Generator) -> Iterator[None]:
    """Let a thing go with a velocity (float64[3], m/s): it moves until it rests or a hand catches it.

    It bounces off floor, walls and furniture; a ball rolls on, other things slide a little. Nobody carries it (carrier
    0) while it is in the air; on its way over a surface that surface does.
    """
    entity = stage.entity(thing)
    ball = entity.label == "ball"
    half = entity.size[2] / 2
    radius = half if ball else 0.4 * min(entity.size[:2])
    bounce = rng.uniform(0.45, 0.6) if ball else 0.1
    slowing = rng.uniform(0.5, 0.9) if ball else 4.0
    spin = 0.0 if ball else rng.uniform(-4.0, 4.0)
    heights, owner = stage.heights(frozenset({thing}))
    T = stage.pose(thing).copy()
    rotation, middle = T[:3, :3], T[:3, 3] + T[:3, 2] * half
    for actor in stage.actors.values():  # people stand in the way, but for those it starts at
        if np.linalg.norm(actor.place - middle[:2]) > 2 * PERSON_RADIUS_M + radius:
            _add_person(stage, heights, actor.place, actor.body.height_m)
    v = np.array(velocity, dtype=np.float64)
    dt = STEP_S / _SUBSTEPS
    stage.carry(thing, 0)
    grounded, still = False, 0
    while still < 2:
        for _ in range(_SUBSTEPS):
            before = middle
            middle, v = _advance(stage, heights, middle, v, half, radius, bounce, dt)
            ground = stage.floor.at(heights, middle)
            grounded = middle[2] - half <= ground + 0.01 and v[2] == 0.0
            speed = float(np.hypot(v[0], v[1]))
            if grounded and speed > 0.0:
                v[:2] *= max(speed - slowing * dt, 0.0) / speed
            step = middle - before
            if ball and np.hypot(step[0], step[1]) > 1e-9:
                length = float(np.hypot(step[0], step[1]))
                rotation = turned(np.array([-step[1], step[0], 0.0]) / length, length / radius) @ rotation
            elif not grounded:
                rotation = turned(np.array([0.0, 0.0, 1.0]), spin * dt) @ rotation
        if not ball:
            rotation = _upright(rotation)
        parent = stage.carrier[thing - 1]
        now = carried_by(stage, owner, entity, middle) if grounded else (0, -1)
        if parent != now[0]:
            stage.carry(thing, *now)
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = rotation, middle - rotation[:, 2] * half
        stage.move(thing, T)
        still = still + 1 if grounded and np.linalg.norm(v) < _STILL_M_S else 0
        yield
        if thing in stage.holds:
            return


def carried_by(stage: Stage, owner: Int32, entity: Entity, place: Float64) -> tuple[int, int]:
    """The entity below a place and which of its surfaces: what a thing that comes to rest there is carried by."""
    i, j = stage.floor.cells(place)
    below = int(owner[i, j]) or stage.floor_below(place)
    for index, surface in enumerate(stage.entity(below).surfaces):
        T = stage.parts[below - 1][surface.part]
        x, y, z = T[:3, :3].T @ (place - T[:3, 3]) - np.array(surface.center)
        if abs(x) <= surface.size[0] / 2 and abs(y) <= surface.size[1] / 2 and -0.05 < z < entity.size[2] + 0.05:
            return below, index
    return below, -1


def _advance(
    stage: Stage, heights: Float64, middle: Float64, v: Float64, half: float, radius: float, bounce: float, dt: float
) -> tuple[Float64, Float64]:
    v = v.copy()
    bottom = middle[2] - half
    ground = stage.floor.at(heights, middle)
    if bottom > ground + 1e-6 or v[2] > 0.0:
        rise = v[2] * dt - 0.5 * GRAVITY_M_S2 * dt**2
        v[2] -= GRAVITY_M_S2 * dt
    else:
        rise = v[2] = 0.0
    new = middle.copy()
    for axis in (0, 1):  # walls and sides of furniture throw it back, axis by axis
        if v[axis] == 0.0:
            continue
        trial = new.copy()
        trial[axis] += v[axis] * dt
        ahead = trial.copy()
        ahead[axis] += np.sign(v[axis]) * radius
        if stage.floor.at(heights, ahead) > bottom + _STEP_OVER_M:
            v[axis] *= -max(bounce, 0.3)
        else:
            new = trial
    new[2] += rise
    ground = stage.floor.at(heights, new)
    if new[2] - half < ground:
        new[2] = ground + half
        if v[2] < 0.0:
            v[2] = -bounce * v[2] if v[2] < -0.7 else 0.0
            v[:2] *= 0.9 if v[2] else 1.0
    return new, v


def _upright(rotation: Float64) -> Float64:
    """Turn the nearest of the thing's axes up by a part of the way: it lands flat."""
    axes = np.concatenate([rotation.T, -rotation.T])
    up = axes[int(axes[:, 2].argmax())]
    axis = np.cross(up, [0.0, 0.0, 1.0])
    sine = float(np.linalg.norm(axis))
    if sine < 1e-6:
        return rotation
    return turned(axis / sine, 0.3 * float(np.arctan2(sine, up[2]))) @ rotation


def _add_person(stage: Stage, heights: Float64, place: Float64, height_m: float) -> None:
    cells = np.argwhere(np.ones((11, 11), dtype=bool)) - 5
    centers = stage.floor.centers(stage.floor.cells(place) + cells)
    near = stage.floor.cells(centers[np.linalg.norm(centers - place[:2], axis=1) < PERSON_RADIUS_M])
    heights[tuple(near.T)] = np.maximum(heights[tuple(near.T)], height_m)
