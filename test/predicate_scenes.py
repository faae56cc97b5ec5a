"""One small world per predicate, with the spans in which it holds, and with look-alikes in which it does not.

A scene's expectation is complete: every relation of its predicate that is not listed must not be found.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hand_made_timeline import BODY, FLOOR, FRAMES, RATE_HZ, WALL, HandMade, box, case, chair, hinge, table

from psg4d_ros.data.simulation.poses import lying, standing
from psg4d_ros.data.simulation.predicates import ACTIVITY
from psg4d_ros.data.simulation.world import Timeline

Expected = set[tuple[int, int, int, int]]  # subject, object, first frame, frame after the last
Scene = tuple[Timeline, Expected]
ALL = FRAMES


def frame(seconds: float) -> int:
    return round(seconds * RATE_HZ)


def cup_that_is_lifted() -> Scene:
    """A cup stands on a table until it is lifted at 2 s, and again from 4 s; another is held just above the table."""
    s = HandMade("on")
    t = s.add("table", table())
    p = s.person((0.0, 0.8))
    cup = s.add("cup", [box((0.08, 0.08, 0.1))], (0.2, 0.0, 0.72), on=t)
    s.move(cup, (2.0, 0.2, 0.0, 0.72, 0), (2.5, 0.2, 0.0, 1.0, 0), (3.5, 0.2, 0.0, 1.0, 0), (4.0, 0.2, 0.0, 0.72, 0))
    s.carry(cup, 2.0, p)
    s.carry(cup, 4.0, t)
    held = s.add("can", [box((0.08, 0.08, 0.1))], (-0.2, 0.0, 0.73), on=p)  # 1 cm above the table, in the hand
    s.say(p, "holding", held, 0, 6)
    s.say(p, "holding", cup, 1.6, 4.2)
    rug = s.add("carpet", [box((1.0, 1.0, 0.01))], (-2.5, 0.0), is_thing=False)
    stool = s.add("stool", [box((0.4, 0.4, 0.45))], (-2.5, 0.0, 0.01))
    return s.timeline(), {
        (t, FLOOR, 0, ALL), (cup, t, 0, frame(2)), (cup, t, frame(4), ALL), (rug, FLOOR, 0, ALL), (stool, rug, 0, ALL),
    }  # fmt: skip


def books_and_cupboards() -> Scene:
    """In a cupboard; not on an open shelf, not between two shelves, not beside the leaning side of a box."""
    s = HandMade("inside")
    cupboard = s.add("cabinet", case(0.8, 0.4, 0.9, boards=1, front=True), (0, 0))
    cup = s.add("cup", [box((0.08, 0.08, 0.1))], (0.1, 0.0, 0.02), on=cupboard)
    on_top = s.add("vase", [box((0.1, 0.1, 0.2))], (0.1, 0.0, 0.9), on=cupboard)
    left = s.add("shelf", case(0.8, 0.3, 1.8, boards=4), (-3.0, 2.0))
    s.add("shelf", case(0.8, 0.3, 1.8, boards=4), (-1.8, 2.0))
    between = s.add("book", [box((0.2, 0.15, 0.03))], (-2.4, 2.0))  # on the floor between two shelves
    shelved = s.add("book", [box((0.03, 0.15, 0.2))], (-3.0, 2.0, 0.36 + 0.02), on=left)
    tray = s.add("box", [box((0.4, 0.4, 0.01)), box((0.4, 0.02, 0.03), (0, 0.2, 0))], (2, 0))
    low = s.add("ball", [box((0.1, 0.1, 0.1))], (2, 0, 0.01), on=tray)
    del on_top, between, shelved, low
    return s.timeline(), {(cup, cupboard, 0, ALL)}


def _visit(name: str) -> tuple[HandMade, int, int]:
    """A person stands, walks to a chair (1 to 2.5 s), sits on it from 3.5 to 5 s, and stands before it again."""
    s = HandMade(name)
    seat = s.add("chair", chair(), (0.0, 0.0))
    p = s.person((2.0, -0.6))
    s.walk(p, 1.0, 2.5, (0.0, -0.6))
    s.move(p, (2.6, 0.0, -0.6, 0.0, 0.0))
    s.sit(p, 3.5, (0.0, 0.0), 0.0)
    s.move(p, (4.95, *s.poses[p - 1][-1][1][:2, 3], 0.0, 0.0), (5.0, 0.0, -0.6, 0.0, 0.0))
    s.bend(p, 5.0, standing(BODY))
    s.postures(p, (0, "standing"), (3.5, "sitting"), (5.0, "standing"))
    s.carry(p, 3.5, seat)
    s.carry(p, 5.0, FLOOR)
    s.say(p, "sitting down on", seat, 3.0, 3.75)
    s.person((0.0, 2.5))  # stands there all the time
    return s, p, seat


def who_stands() -> Scene:
    s, p, _ = _visit("standing on")
    other = p + 1
    return s.timeline(), {
        (p, FLOOR, 0, frame(1)), (p, FLOOR, frame(2.5), frame(3.5)), (p, FLOOR, frame(5), ALL), (other, FLOOR, 0, ALL),
    }  # fmt: skip


def who_walks() -> Scene:
    s, p, _ = _visit("walking on")
    return s.timeline(), {(p, FLOOR, frame(1), frame(2.5))}


def who_sits() -> Scene:
    """From the moment the chair carries; standing at the chair, and bending to sit, is not sitting."""
    s, p, seat = _visit("sitting on")
    return s.timeline(), {(p, seat, frame(3.5), frame(5))}


def who_lies() -> Scene:
    s = HandMade("lying on")
    bed = s.add("bed", [box((1.6, 2.1, 0.5))], (0, 0))
    p = s.person((0, 0), on=bed)
    s.bend(p, 0.0, lying(BODY, 0.5))
    s.postures(p, (0, "lying"), (4, "sitting"))
    edge = s.person((0.7, 0.0), 90.0, "sitting", on=bed, seat=0.5)
    del edge
    return s.timeline(), {(p, bed, 0, frame(4))}


def pictures_and_windows() -> tuple[HandMade, dict[str, int]]:
    """Things on a wall, and a lamp that stands on the floor right before it."""
    s = HandMade("hanging")
    ids = {
        "picture": s.add("picture", [box((0.5, 0.03, 0.4))], (0.0, 3.96, 1.4), on=WALL, surface=-1),
        "window": s.add("window", [box((1.0, 0.1, 1.0))], (2.0, 4.02, 1.0), on=WALL, surface=-1),
        "lamp": s.add("lamp", [box((0.2, 0.2, 1.5))], (-1.0, 3.88)),
        "loose": s.add("clock", [box((0.3, 0.03, 0.3))], (-2.0, 3.7, 1.6), on=WALL, surface=-1),  # 28 cm off the wall
    }
    return s, ids


def what_hangs() -> Scene:
    s, i = pictures_and_windows()
    return s.timeline(), {(i["picture"], WALL, 0, ALL)}


def what_is_built_in() -> Scene:
    s, i = pictures_and_windows()
    return s.timeline(), {(i["window"], WALL, 0, ALL)}


def ladder_and_post() -> Scene:
    """A ladder tilted to the wall leans; a post upright beside it and a ladder that was laid flat do not."""
    s = HandMade("leaning against")
    side = s.add("cabinet", case(0.5, 0.5, 2.0), (1.0, 0.0))
    # 2 m long, tilted by 20 degrees, its upper end at the cabinet's side (x = 0.74).
    x = 0.74 - 0.03 - 2.0 * np.sin(np.radians(20))
    ladder = s.add("ladder", [box((0.05, 0.4, 2.0))], (x, 0.0), tilt=20.0)
    s.add("pole", [box((0.05, 0.05, 1.8))], (1.29, 0.0))
    s.add("guitar", [box((0.05, 0.3, 1.0))], (2.0, 2.0, 0.03), tilt=89.0)
    s.add("suitcase", [box((0.3, 0.3, 0.6))], (3.16, 2.0))  # touches the end of the guitar
    return s.timeline(), {(ladder, side, 0, ALL)}


def _hand_tops(p_at: tuple[float, float]) -> tuple[float, float, float]:
    """Under the lowest point of the right hand of a person who stands at ``p_at``."""
    index = next(i for i, part in enumerate(BODY.parts) if part.name == "right_wrist")
    T = BODY.part_transforms(standing(BODY))[index]
    points = BODY.parts[index].vertices @ T[:3, :3].T + T[:3, 3]
    lowest = points[points[:, 2].argmin()]
    return p_at[0] + float(lowest[0]), p_at[1] + float(lowest[1]), float(lowest[2])


def hands_on_and_beside() -> Scene:
    """A box right under a hand is touched until it is pushed at 3.25 s; one a hand's breadth below another hand is not,
    nor what hangs beside it inside the box of the person."""
    s = HandMade("touching")
    p, q = s.person((0.0, 0.0)), s.person((2.0, 0.0))
    x, y, z = _hand_tops((0.0, 0.0))
    near = s.add("stool", [box((0.2, 0.2, z - 0.005))], (x, y))
    x, y, z = _hand_tops((2.0, 0.0))
    s.add("stool", [box((0.2, 0.2, z - 0.06))], (x, y))
    s.add("cup", [box((0.03, 0.03, 0.1))], (2.0, -0.12, z - 0.1), on=q)  # before the thigh, within the person's box
    s.say(p, "pushing", near, 3.25, 6.0)
    return s.timeline(), {(p, near, 0, frame(3.25))}


def blankets() -> Scene:
    """A blanket over a bed covers it; one folded at its foot, and a curtain beside the window, do not."""
    s = HandMade("covering")
    bed = s.add("bed", [box((1.6, 2.0, 0.5))], (0, 0))
    spread = s.add("blanket", [box((1.5, 1.4, 0.02))], (0, -0.2, 0.5), on=bed)
    sofa = s.add("sofa", [box((2.0, 0.8, 0.45))], (0, -3))
    s.add("blanket", [box((0.4, 0.4, 0.1))], (0.5, -3, 0.45), on=sofa)
    window = s.add("window", [box((1.0, 0.1, 1.0))], (2.0, 4.02, 1.0), on=WALL, surface=-1)
    drawn = s.add("curtain", [box((0.6, 0.02, 1.4))], (1.8, 3.9, 0.8), on=WALL, surface=-1)
    s.add("curtain", [box((0.4, 0.02, 1.4))], (2.75, 3.9, 0.8), on=WALL, surface=-1)
    return s.timeline(), {(spread, bed, 0, ALL), (drawn, window, 0, ALL)}


def below_tables() -> Scene:
    """A ball below the top; not one within the corners of a slanted table's box, nor one on the table's lower board."""
    s = HandMade("under")
    t = s.add("table", [*table(), box((1.0, 0.6, 0.02), (0, 0, 0.2))], (0, 0))
    slanted = s.add("table", table(), (-2.5, 0), yaw=45)
    s.add("ball", [box((0.2, 0.2, 0.2))], (-2.5 + 0.55, 0.55))  # box of the slanted table reaches to 0.71
    s.add("ball", [box((0.2, 0.2, 0.2))], (0.0, 0.0, 0.22), on=t)
    s.add("book", [box((0.3, 0.3, 0.05))], (0.0, 0.0, 0.72), on=t)  # the table's top is between it and the ball
    ball = s.add("ball", [box((0.15, 0.15, 0.15))], (-2.5, 0.0))
    return s.timeline(), {(ball, slanted, 0, ALL)}


def picture_over_sofa() -> Scene:
    """Over the sofa below it, though the wall is 10 cm behind; not over what lies on the sofa or stands aside."""
    s = HandMade("above")
    sofa = s.add("sofa", [box((1.8, 0.8, 0.45)), box((1.8, 0.2, 0.8), (0, 0.3, 0))], (0, 3.5))
    picture = s.add("picture", [box((0.6, 0.03, 0.4))], (0.2, 3.97, 1.4), on=WALL, surface=-1)
    s.add("pillow", [box((0.4, 0.4, 0.1))], (0.2, 3.4, 0.45), on=sofa)
    s.add("cabinet", case(0.8, 0.4, 0.9), (2.0, 3.7))
    s.add("picture", [box((0.4, 0.03, 0.4))], (-2.5, 3.97, 1.4), on=WALL, surface=-1)
    s.add("box", [box((0.45, 0.45, 0.4))], (-2.5, 3.7))  # can be carried off: no furniture
    return s.timeline(), {(picture, sofa, 0, ALL)}


def side_by_side() -> Scene:
    """A plant beside a bed; not what is farther, nor on the bed, nor before a cupboard's door that is opened."""
    s = HandMade("next to")
    bed = s.add("bed", [box((1.6, 2.0, 0.5))], (0, 0))
    plant = s.add("plant", [box((0.4, 0.4, 0.8))], (1.1, 0.0))
    s.add("basket", [box((0.2, 0.2, 0.2))], (1.9, 0.0))  # 50 cm from the plant: too far for its size
    s.add("pillow", [box((0.4, 0.4, 0.1))], (0.5, 0.0, 0.5), on=bed)
    p = s.person((-1.15, -0.3))
    s.walk(p, 3.0, 4.5, (-3.0, -2.0))
    s.add("cup", [box((0.1, 0.1, 0.1))], (-0.9, -0.3, 0.3), on=p)  # held before the bed
    shelf = s.add("shelf", case(0.8, 0.3, 1.8, boards=4), (2.5, 2.0))
    s.add("vase", [box((0.1, 0.1, 0.2))], (2.5, 2.0, 0.02), on=shelf)
    s.add("clock", [box((0.1, 0.1, 0.2))], (2.62, 2.0, 0.38), on=shelf)  # on the next board
    cupboard = s.add("wardrobe", case(0.8, 0.5, 1.8, front=True), (-3.0, 3.0), joints=(hinge(5, 0.4, -0.25),))
    s.add("suitcase", [box((0.4, 0.3, 0.6))], (-2.05, 2.6))  # 35 cm from the wardrobe, 21 cm from its open door
    s.open[cupboard] = [(0.0, 0.0), (2.0, 1.0)]
    return s.timeline(), {(plant, bed, 0, ALL), (p, bed, 0, frame(3))}


def _around_a_cabinet(name: str) -> tuple[HandMade, int, int, int]:
    s = HandMade(name)
    # Its front looks along +x.
    cupboard = s.add("cabinet", case(1.0, 0.4, 1.2), (0, 0), yaw=90)
    before = s.add("box", [box((0.3, 0.3, 0.3))], (0.7, 0.1))
    behind = s.add("basket", [box((0.3, 0.3, 0.3))], (-0.6, 0.0))
    s.add("ball", [box((0.2, 0.2, 0.2))], (0.0, 1.0))  # at its side
    s.add("shoe", [box((0.15, 0.15, 0.1))], (1.15, 0.12))  # the box stands between
    s.add("table", table(0.8, 0.8), (3.0, -3.0))
    s.add("toy", [box((0.2, 0.2, 0.2))], (3.0, -2.2))  # a table has no front
    p = s.person((1.1, -0.3))
    s.walk(p, 3.0, 4.0, (2.6, -0.3))
    return s, cupboard, before, behind


def what_is_in_front() -> Scene:
    s, cupboard, before, _ = _around_a_cabinet("in front of")
    p = len(s.entities)
    return s.timeline(), {(before, cupboard, 0, ALL), (p, cupboard, 0, frame(3))}


def what_is_behind() -> Scene:
    s, cupboard, _, behind = _around_a_cabinet("behind")
    return s.timeline(), {(behind, cupboard, 0, ALL)}


def chairs_and_screens() -> Scene:
    """A chair towards a table, a sofa over a low table towards a television; not a chair that is turned away."""
    s = HandMade("facing")
    t = s.add("table", table(), (-2, 0))
    to = s.add("chair", chair(), (-2, 0.8))
    s.add("chair", chair(), (-2, -1.2), yaw=0)  # its back to the table
    sofa = s.add("sofa", [box((1.8, 0.8, 0.45)), box((1.8, 0.2, 0.4), (0, 0.3, 0.45))], (2, 2))
    low = s.add("table", table(0.9, 0.5, 0.4), (2, 0.9))
    screen = s.add("television", [box((1.0, 0.08, 0.6))], (2, -1.0), yaw=180)
    return s.timeline(), {(to, t, 0, ALL), (sofa, low, 0, ALL), (sofa, screen, 0, ALL), (screen, sofa, 0, ALL)}


def at_the_table() -> Scene:
    """Sits at the table; not who sits with the back to it, nor who stands there."""
    s = HandMade("sitting at")
    t = s.add("table", table(), (0, 0))
    first, second = s.add("chair", chair(), (0, 0.75)), s.add("chair", chair(), (0, -0.75))
    p = s.person((0, 0.75), 0.0, "sitting", on=first)
    q = s.person((0, -0.75), 0.0, "sitting", on=second)
    standing_there = s.person((-0.9, 0.0), 90.0)
    del q, standing_there
    return s.timeline(), {(p, t, 0, ALL)}


def _meeting(name: str) -> tuple[HandMade, int, int, int]:
    """One walks to another (0 to 2 s), stands there, and walks back (4 to 6 s); a third walks across far away."""
    s = HandMade(name)
    p, q, r = s.person((-3.5, 0.0)), s.person((0.0, 0.0)), s.person((3.0, -3.0))
    s.walk(p, 0.0, 2.0, (-1.0, 0.0))
    s.walk(p, 4.0, 6.0, (-3.5, 0.0))
    s.walk(r, 0.0, 6.0, (3.0, 3.0))
    return s, p, q, r


def who_comes() -> Scene:
    s, p, q, _ = _meeting("approaching")
    return s.timeline(), {(p, q, 0, frame(2) + 1)}


def who_goes() -> Scene:
    s, p, q, _ = _meeting("moving away from")
    return s.timeline(), {(p, q, frame(4), ALL)}


def who_passes() -> Scene:
    """One walks by; others come as close and stop a step later, set out from there, or walk by too far away."""
    s = HandMade("passing by")
    q = s.person((0.0, 0.0))
    p, stops, far = s.person((-3.0, 0.8)), s.person((3.5, -0.9)), s.person((-3.0, 3.0))
    s.walk(p, 0.0, 5.0, (3.0, 0.8))  # 1.2 m/s; within 1.5 m of q from x = -1.27 to 1.27
    s.walk(stops, 0.0, 3.0, (-0.6, -0.9))
    s.walk(s.person((0.3, -0.9)), 0.0, 3.0, (-3.0, -3.0))
    s.walk(far, 0.0, 5.0, (3.0, 3.0))
    a, b = (3.0 - 1.27) / 1.2, (3.0 + 1.27) / 1.2
    return s.timeline(), {(p, q, int(np.ceil(a * RATE_HZ)), int(b * RATE_HZ) + 1)}


def what_falls() -> Scene:
    """A cup slips off a table; one that was thrown from a hand, and one thrown off the table, do not fall from it."""
    s = HandMade("falling from")
    t = s.add("table", table(), (0, 0))
    p = s.person((0, 2.0))
    ids = []
    for i, x in enumerate((-0.4, 0.0, 0.4)):
        cup = s.add("cup", [box((0.08, 0.08, 0.1))], (x, -0.35, 0.72), on=p if i == 2 else t)
        s.move(cup, (2.0, x, -0.45, 0.72, 0), (2.5, x, -0.5, 0.0, 0))
        s.carry(cup, 2.0, 0)
        s.carry(cup, 2.5, FLOOR)
        ids.append(cup)
    s.say(p, "throwing", ids[1], 1.5, 2.1)
    return s.timeline(), {(ids[0], t, frame(2), frame(2.5))}


def said_and_not_said(name: str) -> Scene:
    """Two couples who move in exactly the same way, 4 m apart; of one the script says that it does it, from 2 to 4 s,
    of the other it says nothing. No rule on places, boxes or motions can tell them apart."""
    s = HandMade(name)
    predicate = next(p for p in ACTIVITY if p.name == name)
    couples = []
    for y in (-2.0, 2.0):
        p = s.person((-2.0, y))
        at = (-1.6, y, 0.0)
        o = s.person(at[:2], 90.0) if "thing" not in predicate.objects else s.add("book", [box((0.2, 0.1, 0.2))], at)
        s.walk(p, 1.0, 5.0, (1.0, y))
        s.move(o, (1.0, *at, 0), (5.0, 1.4, y, 0.0, 0))
        couples.append((p, o))
    p, o = couples[0]
    s.say(p, name, o, 2.0, 4.0)
    return s.timeline(), {(p, o, frame(2), frame(4))}


BY_GEOMETRY: dict[str, Callable[[], Scene]] = {
    "on": cup_that_is_lifted, "inside": books_and_cupboards, "standing on": who_stands, "walking on": who_walks,
    "sitting on": who_sits, "lying on": who_lies, "hanging on": what_hangs, "attached to": what_is_built_in,
    "leaning against": ladder_and_post, "touching": hands_on_and_beside, "covering": blankets, "under": below_tables,
    "above": picture_over_sofa, "next to": side_by_side, "in front of": what_is_in_front, "behind": what_is_behind,
    "facing": chairs_and_screens, "sitting at": at_the_table, "approaching": who_comes, "moving away from": who_goes,
    "passing by": who_passes, "falling from": what_falls,
}  # fmt: skip
