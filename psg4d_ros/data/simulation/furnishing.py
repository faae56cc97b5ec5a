"""Furnished worlds: a floor plan, what stands and hangs in its rooms, what lies on and in that, and people."""

from __future__ import annotations

from collections import Counter

import numpy as np

from psg4d_ros.data.simulation import household, joinery
from psg4d_ros.data.simulation.assets import Design, mesh_library
from psg4d_ros.data.simulation.classes import HOSTS, RULES, WordSplit
from psg4d_ros.data.simulation.floor_space import Footprint
from psg4d_ros.data.simulation.pastimes import put_at_hand
from psg4d_ros.data.simulation.recipes import furnish
from psg4d_ros.data.simulation.rooms import WALL_M, Opening, make_plan
from psg4d_ros.data.simulation.shapes import Shape, box, shape
from psg4d_ros.data.simulation.site import Host, Site, pose
from psg4d_ros.data.simulation.world import World
from psg4d_ros.structures import Float64

MAX_ENTITIES = 60
_DRAWN = 0.4  # share of curtains that hide their window


def make_world(
    rng: np.random.Generator, *, name: str, words: WordSplit, rooms: int | None = None, people: int | None = None
) -> World:
    """A furnished world of ``rooms`` (1 to 4) rooms with ``people`` standing on free floor, both random when None.

    Nothing stands in anything else, everything is carried by something (World.supports), doors and cupboards can be
    opened, and all places before them can be walked to through passages of about 0.7 m or more. The same generator
    state gives the same world.
    """
    if rooms is None:
        rooms = int(rng.choice([1, 2, 3, 4], p=[0.5, 0.28, 0.14, 0.08]))
    if people is None:
        people = int(rng.choice([1, 2, 3], p=[0.35, 0.45, 0.2]))
    site = Site(rng, words, make_plan(rng, rooms))
    _openings(site)
    _outside(site)
    for room in range(rooms):
        furnish(site, room)
    places = site.space.free_places(rng, people)
    for x, y in places:
        site.space.solids.append(Footprint(x, y, 0.3, 0.3, 0.0))  # small things keep off their feet
    put_at_hand(site, places)
    _small_things(site, int(rng.integers(min(34 + 6 * rooms, MAX_ENTITIES - 4), MAX_ENTITIES + 1)) - len(places))
    for x, y in places:
        site.add_person(x, y, site.plan.room_at(x, y))
    return site.world(name)


def _openings(site: Site) -> None:
    """Doors and windows in their holes, curtains beside windows; the floor that a door sweeps stays free."""
    rng = site.rng
    for o in site.plan.openings:
        # A design's front looks into o.room.
        yaw = float(np.arctan2(o.inward[0], -o.inward[1]))
        x, y = o.center
        if o.kind == "window":
            made = joinery.window(rng, site.held_out, o.width, o.high - o.low, WALL_M)
            site.add(made, pose(x, y, o.low, yaw), (site.wall, -1))
            if site.allowed("curtain") and site.chance(0.55):
                _curtains(site, o, yaw)
            zone = _before(o, WALL_M / 2 + 0.018)
            site.space.solids.append(Footprint(*zone, o.width / 2 + 0.05, 0.018, yaw, o.low - 0.05, o.high + 0.05))
            zone = _before(o, WALL_M / 2 + 0.1)  # nothing tall stands before a window
            site.space.solids.append(Footprint(*zone, o.width / 2, 0.1, yaw, max(o.low, 1.05), o.high))
            if o.low < 0.5:
                site.space.clears.append(Footprint(*_before(o, WALL_M / 2 + 0.3), o.width / 2, 0.25, yaw))
            continue
        depth = o.width if o.kind == "door" else 0.5
        zone = _before(o, WALL_M / 2 + depth / 2)
        site.space.clears.append(Footprint(*zone, o.width / 2 + 0.06, depth / 2 + 0.02, yaw))
        beyond = _before(o, -WALL_M / 2 - 0.3)
        site.space.clears.append(Footprint(*beyond, o.width / 2 + 0.06, 0.3, yaw))
        site.space.goals.append(_before(o, 0.5))
        if o.kind == "door":
            made = joinery.room_door(rng, site.held_out, o.width - 0.1, WALL_M, site.chance(0.5))
            site.add(made, pose(x, y, 0.0, yaw), (site.wall, -1))


def _before(o: Opening, distance: float) -> tuple[float, float]:
    """The point ``distance`` from the middle of an opening into the room that its front looks into."""
    return o.center[0] + distance * o.inward[0], o.center[1] + distance * o.inward[1]


def _curtains(site: Site, o: Opening, yaw: float) -> None:
    """A pair of one cloth, drawn aside or, not down to the floor, before the window with a gap between them."""
    drawn = site.chance(_DRAWN)
    low, high = max(o.low - 0.1, 0.04) if drawn else 0.04, min(o.high + 0.12, site.plan.height_m - 0.1)
    width = o.width / 2 if drawn else float(site.rng.uniform(0.25, 0.4))
    out = width / 2 + 0.065 if drawn else o.width / 2 + 0.02
    made = household.curtain(site.rng, site.held_out, width, high - low)
    first: int | None = None
    T = pose(o.center[0], o.center[1], 0.0, yaw)
    room = site.plan.rooms[o.room]
    for side in (-1, 1):
        x, y = (T @ (side * out, -WALL_M / 2 - 0.07, 0, 1))[:2].tolist()
        spot = Footprint(x, y, width / 2 + 0.06, 0.06, yaw, low, high + 0.03)
        if site.space.fits(spot, room):
            site.space.take(spot)
            index = site.add(made, pose(x, y, low, yaw), (site.wall, -1), like=first)
            first = index if first is None else first


def _outside(site: Site) -> None:
    """What one sees through windows and open doors: a garden or a street on each side that has an opening."""
    rng = site.rng
    sides = {o.inward for o in site.plan.openings if o.other < 0}
    if not sides:
        return
    garden = site.chance(0.55)
    strips: dict[str, list[Shape]] = {}
    x0, y0 = (min(c[k] for c in site.plan.cells) for k in (0, 1))
    x1, y1 = (max(c[k] for c in site.plan.cells) for k in (2, 3))
    mid, half = np.array([(x0 + x1) / 2, (y0 + y1) / 2]), np.array([(x1 - x0) / 2, (y1 - y0) / 2])
    bands = [("ground", 0.0, 0.8), ("grass", 0.8, 5.0)] if garden else [("sidewalk", 0.0, 1.6), ("road", 1.6, 5.0)]
    hedges = mesh_library().meshes("vegetation", site.words.assets)
    fence = site.pick("fence") if site.chance(0.5) else None
    for inward in sorted(sides):
        out = -np.array(inward)
        along = np.array([out[1], -out[0]])
        wall, length = float(half @ np.abs(out)) + WALL_M / 2, float(half @ np.abs(along)) + 1.5
        for label, near, far in bands:
            strips.setdefault(label, []).append(_strip(mid, out, wall + near, wall + far, length, -0.12, -0.08))
        if not garden:
            strips.setdefault("building", []).append(_strip(mid, out, wall + 5.0, wall + 5.3, length, -0.1, 6.0))
            continue
        yaw = float(np.arctan2(-out[0], out[1]))
        plants = hedges[int(rng.integers(len(hedges)))].shapes[0]
        row = [
            _outdoors(mid + out * (wall + 2.8) + along * s, yaw) for s in np.arange(0.8 - length, length - 0.7, 1.45)
        ]
        hedge = [(plants.vertices @ T[:3, :3].T + T[:3, 3], plants.faces, plants.tones) for T in row]
        strips.setdefault("vegetation", []).append(shape("hedge", *hedge))
        if fence is not None:
            panel, wide = fence.shapes[0], fence.size[0]
            panels = tuple(panel.moved(s, 0.0, 0.0) for s in np.arange(wide / 2 - length, length - wide / 2, wide))
            site.add(Design("fence", fence.asset, panels), _outdoors(mid + out * (wall + 1.7), yaw), None)
            fence = None  # one side is enough
    for label, shapes in strips.items():
        if site.allowed(label):
            site.add(Design(label, "", tuple(shapes)), np.eye(4), None)


def _outdoors(at: Float64, yaw: float) -> Float64:
    """The pose of what stands on the ground outside."""
    return pose(float(at[0]), float(at[1]), -0.08, yaw)


def _strip(mid: Float64, out: Float64, near: float, far: float, length: float, z0: float, z1: float) -> Shape:
    """A slab along one side of the house, from ``near`` to ``far`` away from its middle."""
    along = np.array([out[1], -out[0]])
    corners = [mid + out * d + along * s * length for d in (near, far) for s in (-1, 1)]
    low, high = np.min(corners, axis=0).tolist(), np.max(corners, axis=0).tolist()
    return shape("strip", box((*low, z0), (*high, z1)))


def _small_things(site: Site, count: int) -> None:
    """Fills surfaces, cupboards and the floor until there are ``count`` things."""
    rng = site.rng
    worth = np.array([_worth(site, h) for h in site.hosts])
    choices = {place: [(r.label, w) for r in RULES.values() for p, w in r.on if p == place] for place in HOSTS}
    for _ in range(4 * count):
        if len(site.entities) >= count:
            return
        on_floor = not site.hosts or site.chance(0.14)
        host = None if on_floor else site.hosts[int(rng.choice(len(worth), p=worth / worth.sum()))]
        label = _choose(site, choices["floor" if host is None else host.place])
        if host is None:
            design = site.pick(label, high=1.2, longest=0.8)
            if design is not None:
                site.anywhere(int(rng.integers(len(site.plan.rooms))), design, tries=3)
        elif label == "book" and host.place == "shelf" and site.chance(0.7):
            _row_of_books(site, host)
        else:
            site.scatter(label, host)


def _choose(site: Site, choices: list[tuple[str, float]]) -> str:
    """A label by its weight; what the world has many of comes more rarely, so that classes stay in balance."""
    there = Counter(e.label for e in site.entities)
    allowed = [(label, w / (1 + there[label])) for label, w in choices if site.allowed(label)]
    weights = np.array([w * (3.0 if label in site.words.favoured else 1.0) for label, w in allowed])
    return allowed[int(site.rng.choice(len(weights), p=weights / weights.sum()))][0]


def _worth(site: Site, host: Host) -> float:
    """How often a surface gets something: by its area, and tables before the insides of cupboards."""
    surface = site.entities[host.index].surfaces[host.surface]
    area = min(surface.size[0] * surface.size[1], 0.8)
    share = {
        "dining": 2.0,
        "desk": 2.0,
        "coffee": 2.5,
        "counter": 2.0,
        "nightstand": 3.0,
        "low": 1.5,
        "bed": 0.6,
        "sofa": 0.5,
    }
    return area * share.get(host.place, 0.9)


def _row_of_books(site: Site, host: Host) -> None:
    """Two to five upright books side by side."""
    surface = site.entities[host.index].surfaces[host.surface]
    x = float(site.rng.uniform(-0.5, 0.3)) * surface.size[0]
    for _ in range(int(site.rng.integers(2, 5))):
        made = household.standing_book(site.rng, site.held_out)
        x += made.size[0] / 2 + 0.006
        if site.put(made, host, x, -surface.size[1] / 2 + made.size[1] / 2 + 0.02, 0.0) is None:
            return
        x += made.size[0] / 2 + 0.006
