"""How each kind of room is furnished: what stands where, and beside what."""

from __future__ import annotations

import numpy as np

from psg4d_ros.data.simulation import electronics, household, joinery
from psg4d_ros.data.simulation.assets import Design
from psg4d_ros.data.simulation.kitchen import kitchen_row
from psg4d_ros.data.simulation.shapes import SECOND, box, shape
from psg4d_ros.data.simulation.site import Site, footprint, pose

SEATED_FRONT_M = 0.6  # free depth before furniture that one opens or sits down on


def furnish(site: Site, room: int) -> None:
    """Large things, in the order of their importance: what does not fit any more stays away."""
    recipes = {
        "living room": _living_room,
        "kitchen": _kitchen,
        "bedroom": _bedroom,
        "office": _office,
        "corridor": _corridor,
    }
    recipes[site.plan.rooms[room].kind](site, room)
    _unusual(site, room)
    _on_walls(site, room)


def _facing(site: Site, index: int, design: Design | None, room: int, gap: float) -> int | None:
    """Stands a thing before the front of another one, square to it."""
    T = site.poses[index]
    yaw = float(np.arctan2(T[1, 0], T[0, 0]))
    front = site.designs[index]
    if design is None or front is None:
        return None
    distance = -front.low[1] + gap + design.high[1]
    x, y = (T[:3, :3] @ (0.0, -distance, 0.0) + T[:3, 3])[:2].tolist()
    return site.stand(design, room, x, y, yaw)


def _beside(site: Site, index: int, design: Design | None, room: int, side: int, gap: float = 0.04) -> int | None:
    """Stands a thing at the left (-1) or right (1) of another one, their backs in line."""
    T, other = site.poses[index], site.designs[index]
    if design is None or other is None:
        return None
    yaw = float(np.arctan2(T[1, 0], T[0, 0]))
    dx = other.high[0] + gap - design.low[0] if side > 0 else other.low[0] - gap - design.high[0]
    x, y = (T[:3, :3] @ (dx, other.high[1] - design.high[1], 0.0) + T[:3, 3])[:2].tolist()
    return site.stand(design, room, x, y, yaw)


def _carpet(site: Site, room: int, x: float, y: float, yaw: float, w: float, d: float) -> None:
    """A carpet under what stands there; furniture stands on it, so that it takes no room."""
    area = site.plan.rooms[room]
    made = Design("carpet", "built/carpet", (shape("body", box((-w / 2, -d / 2, 0), (w / 2, d / 2, 0.008)),
                  box((-w / 2 + 0.1, -d / 2 + 0.1, 0.008), (w / 2 - 0.1, d / 2 - 0.1, 0.0085), SECOND)),))  # fmt: skip
    corners = footprint(made, x, y, yaw).corners
    if (corners > (area.x0, area.y0)).all() and (corners < (area.x1, area.y1)).all():
        site.add(made, pose(x, y, 0.0, yaw), (site.floor, room))


def _seats_at(site: Site, table: int, room: int, places: list[tuple[float, float, float]]) -> list[int]:
    """Chairs of one kind at places (x, y of the seat's front middle, yaw) in the table's frame."""
    design = site.pick("chair", high=1.1, longest=0.72)
    if design is None or not design.surfaces:
        return []
    T = site.poses[table]
    out: list[int] = []
    turn = float(np.arctan2(T[1, 0], T[0, 0]))
    for x, y, yaw in places:
        out_m = float(site.rng.choice([0.02, 0.08, 0.2, 0.45], p=[0.3, 0.3, 0.2, 0.2]))
        back = out_m - design.low[1]  # from the table's edge to the middle of the chair, which looks at the table
        along = np.array([np.sin(yaw), -np.cos(yaw)])  # where the chair looks, in the table's frame
        at = np.array([x, y]) - along * back
        px, py = (T[:2, :2] @ at + T[:2, 3]).tolist()
        jitter = float(site.rng.normal(0, 0.06))
        index = site.stand(design, room, px, py, turn + yaw + jitter, like=out[0] if out else None)
        if index is not None:
            out.append(index)
    return out


def _table_with_chairs(site: Site, room: int, area: tuple[float, float, float, float]) -> None:
    """A table in the middle of an area with chairs at it."""
    design = site.pick("table", low=0.68, high=0.82, longest=1.9)
    if design is None:
        return
    w, d, _ = design.size
    for _ in range(10):
        x, y = float(site.rng.uniform(*area[::2])), float(site.rng.uniform(*area[1::2]))
        yaw = float(site.rng.choice([0.0, np.pi / 2]))
        index = site.stand(design, room, x, y, yaw)
        if index is None:
            continue
        places = [(s * w / 4 if w > 1.15 else 0.0, -d / 2, np.pi) for s in ((-1, 1) if w > 1.15 else (1,))]
        places += [(x0, d / 2, 0.0) for x0, _, _ in places]
        places += [(-w / 2, 0.0, np.pi / 2), (w / 2, 0.0, -np.pi / 2)] if site.chance(0.4) else []
        chosen = site.rng.permutation(len(places))[: int(site.rng.integers(2, min(len(places), 5) + 1))]
        seats = _seats_at(site, index, room, [places[k] for k in chosen])
        site.host(index, "dining", ("top",))
        if seats and site.optional(0.5):
            _lay_table(site, index, [places[k] for k in chosen])
        return


def _lay_table(site: Site, table: int, places: list[tuple[float, float, float]]) -> None:
    """Plates with knife, fork and glass before some of the seats."""
    host = next((h for h in site.hosts if h.index == table), None)
    plate, glass = site.pick("plate", longest=0.3), site.pick("glass" if site.chance(0.6) else "cup")
    cutlery = [site.pick(label, longest=0.3) for label in ("fork", "knife" if site.chance(0.6) else "spoon")]
    if host is None or plate is None:
        return
    surface = site.entities[table].surfaces[host.surface]
    first: dict[int, int] = {}
    for x, y, yaw in places[: int(site.rng.integers(1, 4))]:
        inward = np.array([np.sin(yaw), -np.cos(yaw)])
        right = np.array([-inward[1], inward[0]]) * -1
        base = np.array([x - surface.center[0], y - surface.center[1]])
        spots = [(plate, 0.2, 0.0), (cutlery[0], 0.18, -0.18), (cutlery[1], 0.18, 0.18), (glass, 0.36, 0.16)]
        for k, (design, depth, side) in enumerate(spots):
            if design is None:
                continue
            px, py = (base + inward * depth + right * side).tolist()
            index = site.put(design, host, px, py, yaw + np.pi, like=first.get(k))
            if index is not None:
                first.setdefault(k, index)


def _living_room(site: Site, room: int) -> None:
    rng = site.rng
    sofa = None
    for _ in range(3):
        design = site.pick("sofa")
        sofa = site.against_wall(design, room, 0.9, gap=float(rng.choice([0.045, 0.12])))
        if sofa is not None:
            break
    if sofa is not None:
        front = site.space.clears[-1]
        site.host(sofa, "sofa", ("seat",))
        T = site.poses[sofa]
        yaw = float(np.arctan2(T[1, 0], T[0, 0]))
        middle = T[:3, :3] @ (0, -1.1, 0) + T[:3, 3]
        if site.optional(0.75):
            _carpet(site, room, middle[0], middle[1], yaw, float(rng.uniform(1.6, 2.2)), float(rng.uniform(1.2, 1.6)))
        _television(site, room, side=(round(-yaw / (np.pi / 2)) + 2) % 4)
        table = site.pick("table", high=0.62, longest=1.5)
        site.space.clears.remove(front)  # a low table may stand before a sofa
        placed = _facing(site, sofa, table, room, float(rng.uniform(0.4, 0.5)))
        if placed is None:
            site.space.clears.append(front)
        else:
            site.host(placed, "coffee", ("top",))
            for side in (-1, 1):
                armchair = site.pick("chair", low=0.65, high=1.1) if site.optional(0.5) else None
                if armchair is not None:
                    x, y = (T[:3, :3] @ (side * 1.35, -1.35, 0) + T[:3, 3])[:2].tolist()
                    # It looks at the table, from the side.
                    site.stand(armchair, room, x, y, yaw + side * -np.pi / 2 + side * 0.3, 0.3)
        if site.optional(0.6):
            _beside(site, sofa, household.floor_lamp(rng, site.held_out), room, int(rng.choice([-1, 1])), 0.1)
    else:
        _television(site, room)
    if site.optional(0.6):
        site.store(site.against_wall(joinery.shelf(rng, site.held_out), room, SEATED_FRONT_M), "shelf", "cabinet")
    if site.optional(0.55):
        site.store(
            site.against_wall(joinery.cabinet(rng, site.held_out, "side"), room, SEATED_FRONT_M), "low", "cabinet"
        )
    area = site.plan.rooms[room]
    if site.optional(0.4):
        _table_with_chairs(site, room, (area.x0 + 1, area.y0 + 1, area.x1 - 1, area.y1 - 1))
    _plant(site, room, 0.8)
    for label, p in (("bench", 0.35), ("stool", 0.2), ("speaker", 0.15)):
        design = site.pick(label) if site.optional(p) else None
        if design is not None:
            site.against_wall(design, room, 0.3 if label != "speaker" else 0.0)


def _television(site: Site, room: int, side: int | None = None) -> None:
    """On a low cupboard, or on the wall above it."""
    rng = site.rng
    sides = () if side is None else (side,)
    stand = site.against_wall(joinery.cabinet(rng, site.held_out, "low"), room, SEATED_FRONT_M, sides=sides)
    if stand is None:
        return
    site.store(stand, "low", "cabinet")
    host = next(h for h in site.hosts if h.index == stand and h.place == "low")
    if site.chance(0.3):
        site.hang(electronics.wall_television(rng, site.held_out), room, float(rng.uniform(1.0, 1.2)), above=stand)
        return
    design = site.pick("television", longest=1.3)
    if design is not None and "wall" not in design.asset:
        site.put(design, host, float(rng.uniform(-0.1, 0.1)), 0.0, 0.0)


def _kitchen(site: Site, room: int) -> None:
    rng = site.rng
    kitchen_row(site, room)
    area = site.plan.rooms[room]
    _table_with_chairs(site, room, (area.x0 + 0.9, area.y0 + 0.9, area.x1 - 0.9, area.y1 - 0.9))
    if site.optional(0.7):
        design = site.pick("washing machine")
        machine = site.against_wall(design, room, 0.5)
        if machine is not None:
            site.host(machine, "washer", ("top",))
    if site.optional(0.35):
        site.store(
            site.against_wall(joinery.cabinet(rng, site.held_out, "tall"), room, SEATED_FRONT_M),
            "shelf",
            "cabinet",
        )
    for label, p in (("trash can", 0.7), ("stool", 0.45), ("cart", 0.25)):
        design = site.pick(label) if site.optional(p) else None
        placed = site.against_wall(design, room)
        if placed is not None and label == "cart":
            site.host(placed, "counter", ("top", "shelf"))
    _plant(site, room, 0.35)


def _bedroom(site: Site, room: int) -> None:
    rng = site.rng
    bed = None
    for _ in range(4):
        design = site.pick("bed")
        bed = site.against_wall(design, room, 0.5, gap=0.045)
        if bed is not None:
            break
    if bed is not None:
        site.host(bed, "bed", ("lying",))
        host = site.hosts[-1]
        surface = site.entities[bed].surfaces[host.surface]
        for k in range(int(rng.integers(1, 3)) if surface.size[0] > 1.2 else 1):
            pillow = site.pick("pillow")
            if pillow is not None:
                x = (k - 0.5) * surface.size[0] * 0.5 if surface.size[0] > 1.2 else 0.0
                site.put(pillow, host, x, surface.size[1] / 2 - pillow.size[1] / 2 - 0.02, 0.0)
        for side in (-1, 1):
            if site.optional(0.75):
                made = (joinery.drawer if site.optional(0.5) else joinery.cabinet)(rng, site.held_out, "night")
                stand = _beside(site, bed, made, room, side)
                site.store(stand, "nightstand", "drawer")
                lamp = site.pick("lamp", low=0.2, high=0.6) if stand is not None and site.chance(0.7) else None
                if lamp is not None:
                    site.put(lamp, next(h for h in site.hosts if h.index == stand), 0.0, 0.05, 0.0)
    site.store(site.against_wall(joinery.wardrobe(rng, site.held_out), room, 0.7), "shelf", "cabinet")
    if site.optional(0.65):
        chest = site.against_wall(joinery.drawer(rng, site.held_out), room, SEATED_FRONT_M)
        site.store(chest, "low", "drawer")
        if chest is not None and site.allowed("mirror") and site.chance(0.6):
            site.hang(household.mirror(rng, site.held_out), room, 1.15, above=chest)
    if site.optional(0.45):
        _desk(site, room)
    for label, p in (("chair", 0.5), ("bench", 0.4), ("basket", 0.3)):
        design = site.pick(label, high=1.1) if site.optional(p) else None
        placed = site.against_wall(design, room, 0.4 if label != "basket" else 0.0)
        if placed is not None and label == "basket":
            site.host(placed, "cabinet", ("inside",))
    _plant(site, room, 0.4)
    area = site.plan.rooms[room]
    if site.optional(0.4):
        _carpet(site, room, (area.x0 + area.x1) / 2, (area.y0 + area.y1) / 2, 0.0, 1.7, 1.2)


def _desk(site: Site, room: int) -> None:
    """A desk with a chair, and what one works with."""
    rng = site.rng
    design = site.pick("desk", high=0.8)
    desk = site.against_wall(design, room, 0.0, gap=0.045)
    if desk is None or design is None:
        return
    w, d, _ = design.size
    _seats_at(site, desk, room, [(float(rng.uniform(-0.1, 0.1)) * w, -d / 2, np.pi)])
    site.host(desk, "desk", ("top",))
    host = next(h for h in site.hosts if h.index == desk)
    surface = site.entities[desk].surfaces[host.surface]
    depth = surface.size[1] / 2
    if site.chance(0.6):
        monitor = site.pick("monitor", longest=surface.size[0] * 0.7)
        if monitor is not None:
            site.put(monitor, host, 0.0, depth - 0.15, 0.0)
        keyboard, mouse = site.pick("keyboard", longest=surface.size[0]), site.pick("mouse")
        if keyboard is not None:
            site.put(keyboard, host, 0.0, -depth + 0.14, float(rng.normal(0, 0.05)))
        if mouse is not None:
            site.put(mouse, host, 0.3, -depth + 0.14, float(rng.normal(0, 0.1)))
        tower = site.pick("computer", high=0.5) if site.chance(0.7) else None
        if tower is not None and site.put(tower, host, -surface.size[0] / 2 + 0.14, depth - 0.25, 0.0) is None:
            _beside(site, desk, tower, room, int(rng.choice([-1, 1])))
    elif site.chance(0.7):
        laptop = site.pick("laptop")
        if laptop is not None:
            site.put(laptop, host, 0.0, -depth + 0.22, float(rng.normal(0, 0.05)))


def _office(site: Site, room: int) -> None:
    rng = site.rng
    for _ in range(int(rng.integers(1, 4))):
        _desk(site, room)
    if site.optional(0.85):
        made = joinery.shelf(rng, site.held_out) if site.optional(0.6) else site.pick("shelf")
        if made is not None:
            site.store(site.against_wall(made, room, SEATED_FRONT_M), "shelf", "cabinet")
    if site.optional(0.6):
        site.store(site.against_wall(joinery.cabinet(rng, site.held_out), room, SEATED_FRONT_M), "low", "cabinet")
    if site.optional(0.5):
        site.store(
            site.against_wall(joinery.drawer(rng, site.held_out, "office"), room, SEATED_FRONT_M), "low", "drawer"
        )
    area = site.plan.rooms[room]
    if site.optional(0.4):
        _table_with_chairs(site, room, (area.x0 + 1, area.y0 + 1, area.x1 - 1, area.y1 - 1))
    for label, p in (("trash can", 0.8), ("stool", 0.15), ("sofa", 0.15)):
        design = site.pick(label) if site.optional(p) else None
        placed = site.against_wall(design, room, 0.5 if label == "sofa" else 0.0)
        if placed is not None and label == "sofa":
            site.host(placed, "sofa", ("seat",))
    _plant(site, room, 0.6)


def _corridor(site: Site, room: int) -> None:
    rng = site.rng
    if site.optional(0.6):
        form = "night" if site.optional(0.5) else "side"
        site.store(site.against_wall(joinery.cabinet(rng, site.held_out, form), room, 0.4), "low", "cabinet")
    for label, p in (("bench", 0.8), ("chair", 0.3), ("stool", 0.3)):
        design = site.pick(label, longest=1.3, high=1.1) if site.optional(p) else None
        if design is not None:
            site.against_wall(design, room, 0.4)
    if site.optional(0.3):
        site.store(site.against_wall(joinery.wardrobe(rng, site.held_out), room, 0.6), "shelf", "cabinet")
    area = site.plan.rooms[room]
    if site.optional(0.6):
        long_x = area.x1 - area.x0 > area.y1 - area.y0
        _carpet(site, room, (area.x0 + area.x1) / 2, (area.y0 + area.y1) / 2, 0.0 if long_x else np.pi / 2, 1.6, 0.75)
    _plant(site, room, 0.3)


def _plant(site: Site, room: int, probability: float) -> None:
    design = site.pick("plant", low=0.5) if site.chance(probability) else None
    if design is not None:
        site.against_wall(design, room, gap=0.05)


def _unusual(site: Site, room: int) -> None:
    """What only some homes have; words held back from training come often where they are favoured."""
    for label in ("piano", "guitar", "ladder", "bicycle", "cart", "cat", "dog", "robot", "fan"):
        likely = 0.4 if label in site.words.favoured else 0.2 if label in ("dog", "robot") else 0.05
        design = site.pick(label, longest=2.0) if site.optional(likely) else None
        if design is None:
            continue
        if label == "bicycle":  # along the wall
            turned = tuple(
                shape(
                    s.name, (np.column_stack([-s.vertices[:, 1], s.vertices[:, 0], s.vertices[:, 2]]), s.faces, s.tones)
                )
                for s in design.shapes
            )
            design = Design("bicycle", design.asset, turned)
        if label in ("dog", "cat", "robot"):
            site.anywhere(room, design)
        else:
            placed = site.against_wall(design, room, 0.5 if label == "piano" else 0.0)
            if placed is not None and label == "cart":
                site.host(placed, "counter", ("top", "shelf"))


def _on_walls(site: Site, room: int) -> None:
    rng = site.rng
    kind = site.plan.rooms[room].kind
    for _ in range(int(rng.integers(0, 3))):
        site.hang(household.picture_on_wall(rng, site.held_out), room, float(rng.uniform(1.3, 1.55)))
    if site.optional(0.45):
        site.hang(household.wall_clock(rng, site.held_out), room, float(rng.uniform(1.75, 1.95)))
    if site.optional(0.5 if kind == "corridor" else 0.2):
        site.hang(household.mirror(rng, site.held_out), room, float(rng.uniform(0.5, 0.7)))
    if site.optional(0.45):
        site.lean(household.picture_on_wall(rng, site.held_out), room)
    if site.optional(0.2):
        site.lean(household.mirror(rng, site.held_out), room)
    if site.optional({"office": 0.5, "corridor": 0.6}.get(kind, 0.08)):
        site.hang(household.wall_sign(rng, site.held_out), room, float(rng.uniform(1.5, 1.9)))
    if site.allowed("heater") and site.chance(0.5):
        design = site.pick("heater")
        if design is not None:
            site.hang(design, room, 0.25)
    if site.optional(0.5):
        lamp = household.ceiling_lamp(rng, site.held_out)
        area = site.plan.rooms[room]
        x, y = (area.x0 + area.x1) / 2, (area.y0 + area.y1) / 2
        z = site.plan.height_m - lamp.high[2]
        site.add(lamp, pose(x, y, z, 0.0), (site.ceiling, -1))
