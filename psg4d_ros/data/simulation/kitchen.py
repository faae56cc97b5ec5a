"""The row of a kitchen: base units under one worktop, a sink with its tap, a stove, a fridge, cupboards above."""

from __future__ import annotations

import numpy as np

from psg4d_ros.data.simulation import household, joinery
from psg4d_ros.data.simulation.assets import Design
from psg4d_ros.data.simulation.floor_space import Footprint
from psg4d_ros.data.simulation.shapes import METAL, Piece, box, shape
from psg4d_ros.data.simulation.site import Host, Site, footprint, pose
from psg4d_ros.data.simulation.world import Surface
from psg4d_ros.structures import Float64

_UNIT_M = 0.86  # height of the units: the worktop lies on them


def kitchen_row(site: Site, room: int) -> None:
    """Units side by side along the wall with most room: their worktop is the counter."""
    rng, area = site.rng, site.plan.rooms[room]
    units = ["stove", "sink", *("base", "dishwasher", "base")[: int(rng.integers(1, 4))]]
    fridge = site.chance(0.9)
    while len(units) >= 2:
        order = [units[k] for k in rng.permutation(len(units))]
        for side in rng.permutation(4).tolist():
            length = (area.x1 - area.x0) if side in (0, 2) else (area.y1 - area.y0)
            if length < 0.6 * len(units) + 0.05:
                continue
            for share in (0.0, 1.0, float(rng.random())):
                if _build_row(site, room, side, share, order, fridge):
                    return
        units = units[:-1]


def _build_row(site: Site, room: int, side: int, share: float, units: list[str], fridge: bool) -> bool:
    rng, area = site.rng, site.plan.rooms[room]
    width, depth = 0.6 * len(units), 0.6
    block = Design("counter", "", (shape("b", box((-width / 2, -depth / 2 - 0.02, 0), (width / 2, depth / 2, 0.9))),))
    x, y, yaw = site.beside_wall(block, area, side, share, 0.0)
    space = footprint(block, x, y, yaw)
    clear_at = space.ahead(0.35)
    clear = Footprint(clear_at[0], clear_at[1], width / 2, 0.35, yaw)
    if not site.space.fits(space, area, clear) or not site.space.reachable((space,), (space.ahead(0.4),)):
        return False
    site.space.take(space, clear, (space.ahead(0.4),))
    T = pose(x, y, 0.0, yaw)
    held_out = site.held_out
    sink: tuple[int, float] | None = None  # its cupboard, and where along the row
    spans: list[tuple[float, float]] = []
    look = int(rng.integers(2**32))  # handles and colour of all cupboards
    for k, unit in enumerate(units):
        at = -width / 2 + 0.3 + 0.6 * k
        if unit == "stove":
            design = joinery.stove(rng, held_out)
        elif unit == "dishwasher" and site.allowed("dishwasher"):
            design = joinery.dishwasher(rng, held_out)
        else:
            form = "sink" if unit == "sink" else "base"
            design = joinery.cabinet(np.random.default_rng(look), held_out, form)
        if unit != "stove":
            design = _under_worktop(design)
        back = depth / 2 - design.size[1] / 2 if unit != "stove" else 0.0
        paint = look if design.label == "cabinet" else None
        index = site.add(design, T @ pose(at, min(back, 0.01), 0.0, 0.0), (site.floor, room), paint=paint)
        if unit == "sink":
            sink = index, at
        if unit == "stove":
            site.host(index, "counter", ("top",))
        else:
            if unit == "dishwasher":
                site.host(index, "cabinet", ("inside",))
            else:
                site.store(index, "counter", "cabinet")
            if spans and abs(spans[-1][1] - (at - 0.3)) < 1e-6:
                spans[-1] = (spans[-1][0], at + 0.3)
            else:
                spans.append((at - 0.3, at + 0.3))
    assert sink is not None, units  # the units that a short wall leaves out come later in the list
    counter = _counter(site, T, spans, depth, *sink)
    _sink(site, T, sink[1], counter, held_out)
    if fridge and site.allowed("refrigerator"):
        _refrigerator(site, T, room, width, depth, held_out)
    _upper_cabinets(site, T, room, width, look)
    if site.allowed("microwave") and site.chance(0.7):
        _microwave(site, counter, held_out)
    return True


def _under_worktop(unit: Design) -> Design:
    """A unit whose top is the last of its surfaces, and covered."""
    open_to_hands = tuple(f for f in unit.surfaces if f.kind != "top")
    covered = Surface("covered", (0.0, 0.0, _UNIT_M), unit.size[:2], 0.0)
    return Design(unit.label, unit.asset, unit.shapes, (*open_to_hands, covered), unit.joints)


def _refrigerator(site: Site, T: Float64, room: int, width: float, depth: float, held_out: bool) -> None:
    """At an end of the row, or wherever there is room for it."""
    made = joinery.refrigerator(site.rng, held_out)
    yaw = float(np.arctan2(T[1, 0], T[0, 0]))
    for end in (1, -1):
        at = T @ pose(end * (width / 2 + made.size[0] / 2 + 0.03), depth / 2 - made.high[1] - 0.01, 0.0, 0.0)
        index = site.stand(made, room, float(at[0, 3]), float(at[1, 3]), yaw, 0.6, reach=True)
        if index is not None:
            break
    else:
        index = site.against_wall(made, room, 0.6)
    site.store(index, "shelf", "fridge")


def _microwave(site: Site, counter: int, held_out: bool) -> None:
    """On the worktop, at the end of a long stretch of it."""
    design = joinery.microwave(site.rng, held_out) if site.chance(0.6) else site.pick("microwave")
    for host in [h for h in site.hosts if h.index == counter]:
        surface = site.entities[counter].surfaces[host.surface]
        if design is None or surface.size[0] < 0.6:
            continue
        x = surface.size[0] / 2 - design.size[0] / 2 - 0.02
        index = site.put(design, host, x if site.chance(0.5) else -x, 0.04, 0.0)
        if index is not None:
            site.host(index, "shelf", ("inside",))
            return


def _counter(
    site: Site,
    T: Float64,
    spans: list[tuple[float, float]],
    depth: float,
    carrier: int,
    sink: float,
) -> int:
    """The worktop over all units but the stove, with a hole for the sink. It lies on all of them; the one that is said
    to carry it is the sink's, ``carrier``."""
    pieces: list[Piece] = []
    surfaces: list[Surface] = []
    z0, z1 = _UNIT_M, _UNIT_M + 0.035
    for a, b in spans:
        holes = [(sink - 0.22, sink + 0.22)] if a <= sink <= b else []
        y0, y1 = -depth / 2 - 0.02, depth / 2
        if not holes:
            pieces.append(box((a, y0, z0), (b, y1, z1)))
            surfaces.append(Surface("top", ((a + b) / 2, 0.0, z1), (b - a, depth - 0.02), 0.5))
            continue
        ((c, d),) = holes
        for low, high in ((a, c), (d, b)):
            pieces.append(box((low, y0, z0), (high, y1, z1)))
            if high - low > 0.15:
                surfaces.append(Surface("top", ((low + high) / 2, 0.0, z1), (high - low, depth - 0.02), 0.5))
        pieces += [box((c, y0, z0), (d, -0.2, z1)), box((c, 0.17, z0), (d, y1, z1))]
    made = Design("counter", "built/counter", (shape("body", *pieces),), tuple(surfaces))
    index = site.add(made, T, (carrier, len(site.entities[carrier].surfaces) - 1))
    site.host(index, "counter", ("top",))
    return index


def _sink(site: Site, T: Float64, at: float, counter: int, held_out: bool) -> None:
    """A basin hung into the worktop, and its tap behind it."""
    x, y0, y1, top, low = 0.218, -0.198, 0.168, 0.897, 0.74
    t = 0.006
    pieces = [
        box((-x, y0, low), (x, y1, low + t)),
        box((-x, y0, low), (-x + t, y1, top)),
        box((x - t, y0, low), (x, y1, top)),
        box((-x, y0, low), (x, y0 + t, top)),
        box((-x, y1 - t, low), (x, y1, top)),
        box((-0.025, -0.04, low + t), (0.025, 0.01, low + t + 0.002), METAL),
    ]
    basin = [(v - np.array([0, 0, low]), f, c) for v, f, c in pieces]
    inside = Surface("inside", (0.0, (y0 + y1) / 2, t), (2 * x - 0.03, y1 - y0 - 0.03), 0.4)
    made = Design("sink", "built/sink", (shape("body", *basin),), (inside,))
    index = site.add(made, T @ pose(at, 0.0, low, 0.0), (counter, -1))
    site.hosts.append(Host(index, 0, "counter"))
    if site.allowed("faucet"):
        tap = household.faucet(site.rng, held_out)
        site.add(tap, T @ pose(at, 0.235, 0.895, 0.0), (counter, -1))


def _upper_cabinets(site: Site, T: Float64, room: int, width: float, look: int) -> None:
    """Cupboards on the wall above the row."""
    if site.chance(0.3):
        return
    yaw = float(np.arctan2(T[1, 0], T[0, 0]))
    first: int | None = None
    made = joinery.cabinet(site.rng, site.held_out, "upper")
    z, at = 1.45, -width / 2 + made.size[0] / 2
    while at + made.size[0] / 2 <= width / 2 + 1e-6:
        x, y = (T @ (at, 0.3 - made.high[1] - 0.002, 0, 1))[:2].tolist()
        spot = footprint(made, x, y, yaw, z)
        if site.space.fits(spot, site.plan.rooms[room]) and site.chance(0.8):
            site.space.take(spot)
            index = site.add(made, pose(x, y, z, yaw), (site.wall, -1), like=first, paint=look)
            first = index if first is None else first
            site.host(index, "cabinet", ("inside",))
        at += made.size[0] + 0.002
