"""What people find at hand: a ball at their feet, a towel, or a bottle beside a cup on the nearest table.

Small things that are strewn over a home at random are seldom where somebody is, so that few would ever be used.
"""

from __future__ import annotations

import numpy as np

from psg4d_ros.data.simulation.site import Host, Site

_EACH = 2  # pastimes within reach of each person
_NEAR_M = 3.5
_TABLES = frozenset({"dining", "coffee", "desk", "counter", "low", "nightstand", "washer"})
# What one pastime needs: one thing out of each group. Nothing goes onto a table for a ball game.
_PASTIMES: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("ball",),),
    (("towel",),),
    (("spoon",), ("bowl", "pot", "cup", "pan")),
    (("bottle", "carton", "can"), ("glass", "cup")),
)


def put_at_hand(site: Site, places: list[tuple[float, float]]) -> None:
    """Put what a few pastimes need near each of these places (x, y) on the floor, where there is room for it."""
    for x, y in places:
        for k in site.rng.permutation(len(_PASTIMES))[:_EACH]:
            needs = [str(site.rng.choice(group)) for group in _PASTIMES[k]]
            if needs == ["ball"]:
                _ball_beside(site, x, y)
                continue
            for host in _tables_near(site, x, y):
                if site.scatter(needs[0], host) is not None:
                    for label in needs[1:]:
                        site.scatter(label, host)
                    break


def _ball_beside(site: Site, x: float, y: float) -> None:
    design = site.pick("ball")
    room = site.plan.room_at(x, y)
    for _ in range(8):
        away, angle = site.rng.uniform(0.7, 1.6), site.rng.uniform(-np.pi, np.pi)
        at = x + float(away * np.cos(angle)), y + float(away * np.sin(angle))
        if design is not None and site.stand(design, room, *at, 0.0) is not None:
            return


def _tables_near(site: Site, x: float, y: float) -> list[Host]:
    """Free tops in the same room, the nearest first."""
    room = site.plan.room_at(x, y)
    found = []
    for host in site.hosts:
        surface = site.entities[host.index].surfaces[host.surface]
        middle = site.poses[host.index] @ (*surface.center, 1.0)
        away = float(np.hypot(middle[0] - x, middle[1] - y))
        same = site.plan.room_at(float(middle[0]), float(middle[1])) == room
        if host.place in _TABLES and surface.kind == "top" and middle[2] < 1.1 and same and away < _NEAR_M:
            found.append((away, host))
    return [host for _, host in sorted(found, key=lambda f: f[0])]
