"""Which relations and attributes the simulator labels, and what each of them means.

This is the only place where the meaning of a predicate is written: relations.py and attributes.py decide by these words
and numbers, and docs/predicates.md is generated from them (scripts/make_predicate_docs.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["person", "thing", "stuff"]
DecidedBy = Literal["activity", "support", "contact", "geometry"]

CONTACT_M = 0.03  # surfaces closer than this touch: meshes, hands and cushions are not exact to the millimetre
WALL_CONTACT_M = 0.10  # frames, rails and lamps keep a distance from the wall or ceiling that carries them
TOUCH_M = 0.015
ENCLOSED_SHARE = 0.7  # of all directions around a thing's middle
UNDER_SHARE = 0.5  # of a thing's surface points
COVERED_SHARE = 0.4  # of the top, or of the window
NEXT_TO_M = 0.5
FRONT_M = 1.2  # on the floor
FRONT_ON_TOP_M = 0.4  # on a table
FACING_M = 1.5
SCREEN_M = 4.0
AT_TABLE_M = 0.45
ABOVE_M = 1.5
LEAN_DEG = (4.0, 60.0)
STILL_M_S = 0.2
CLOSING_M_S = 0.25  # how fast a distance must change to count as approaching or moving away
MEETING_M = 2.5
PASSING_M = 1.5
FALL_M = 0.15
LASTING_S = 1.0  # a place that is held for a shorter time is on the way to another
OPEN_SHARE = 0.05  # of a joint's range


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split(","))


# Furniture and devices with a front that everybody agrees on.
WITH_FRONT = _words(
    "chair,sofa,bench,desk,cabinet,wardrobe,shelf,drawer,television,monitor,laptop,refrigerator,stove,microwave,"
    "washing machine,dishwasher,piano,sink,toilet,mirror"
)
CONTAINERS = _words(
    "cabinet,wardrobe,drawer,refrigerator,microwave,stove,washing machine,dishwasher,box,basket,bag,backpack,suitcase,"
    "trash can,cart,bowl,pot,pan,vase,cup,glass,sink,bathtub"
)
FIXTURES = _words("window,door,heater,sink,faucet,toilet,shower,shelf,cabinet,fan,stairs")
COVERS = _words("blanket,towel,curtain")
TABLES = _words("table,desk,counter,piano")
SCREENS = _words("television,monitor,laptop")
SEATS = _words("chair,sofa,bench,bed")
FACED = TABLES | SCREENS | _words("sofa,chair,bed,stove,sink,mirror,refrigerator,wardrobe")


@dataclass(frozen=True)
class Predicate:
    """A predicate of the ground truth.

    decided_by: "activity", what the script lets a person do, which boxes cannot tell; "support", who carries whose
    weight; "contact", triangles that touch; "geometry", where things are or how they move. both_ways: given in both
    directions between equals. inverse: what the object does to the subject; never labelled, since it follows.
    implies: predicates that hold, and are labelled, at the same time between the same two.
    """

    name: str
    decided_by: DecidedBy
    subjects: tuple[Kind, ...]
    objects: tuple[Kind, ...]
    definition: str
    inverse: str = ""
    implies: tuple[str, ...] = ()
    both_ways: bool = False


_P: tuple[Kind, ...] = ("person",)
_T: tuple[Kind, ...] = ("thing",)
_S: tuple[Kind, ...] = ("stuff",)
_TS: tuple[Kind, ...] = ("thing", "stuff")
_PT: tuple[Kind, ...] = ("person", "thing")
_PTS: tuple[Kind, ...] = ("person", "thing", "stuff")


def _cm(metres: float) -> str:
    return f"{metres * 100:g} cm"


SUPPORT = (
    Predicate(
        "on",
        "support",
        _TS,
        _TS,
        "The object carries the subject's weight from below and the two touch "
        f"(surfaces within {_cm(CONTACT_M)}). Only the direct carrier counts: a cup on a tray on a table is on the "
        "tray. What stands on a rug is on the rug. Not for people, not for what is enclosed (inside), and it ends when "
        "the subject is lifted, not when a hand first touches it.",
        inverse="supporting",
    ),
    Predicate(
        "inside",
        "support",
        _T,
        _T,
        "The subject is carried by the object, which is a container, and the object surrounds it: of all directions "
        f"around the subject's middle at least {ENCLOSED_SHARE:.0%} meet the object. A book on an open shelf, or a "
        "thing beside a box whose bounding box reaches over it, is not inside.",
        inverse="containing",
    ),
    Predicate(
        "standing on",
        "support",
        _P,
        _PTS,
        "The person's feet carry it, on the object, and it does not walk. Starts again with the first moment at which "
        "a seat or bed no longer carries the person, and ends with the first at which one does.",
    ),
    Predicate(
        "walking on",
        "support",
        _P,
        _TS,
        "The person walks, runs or crawls, and the object is what the feet come down on.",
    ),
    Predicate(
        "sitting on",
        "support",
        _P,
        _PTS,
        "The person sits, and the object carries it: from the moment the seat takes the weight until it no longer "
        "does. A person standing at a chair, or about to sit down on it, does not sit on it.",
    ),
    Predicate("lying on", "support", _P, _PTS, "The person lies, and the object carries it."),
    Predicate(
        "hanging on",
        "support",
        _T,
        _TS,
        "The object, a wall, a ceiling or another thing, carries the subject from the side or from above, and the "
        f"subject could be taken off: pictures, clocks, mirrors, lamps, curtains (within {_cm(WALL_CONTACT_M)}).",
    ),
    Predicate(
        "attached to",
        "support",
        _T,
        _TS,
        "As hanging on, for what is built in: " + ", ".join(sorted(FIXTURES)) + ".",
    ),
    Predicate(
        "leaning against",
        "contact",
        _T,
        _TS,
        "The subject stands on something else, tilted by "
        f"{LEAN_DEG[0]:g} to {LEAN_DEG[1]:g} degrees from its upright pose, and touches the object with its upper "
        "half. What stands upright beside a wall does not lean against it.",
    ),
)

CONTACT = (
    Predicate(
        "touching",
        "contact",
        _P,
        _PT,
        f"A hand of the person, who stands, sits or lies still, is within {_cm(TOUCH_M)} of the object's triangles, "
        "and the hands are not busy: what is held, pushed, sat on and so on has a word of its own, and what a hand "
        "brushes on its way to something else is not touched. A hand that rests beside a cup does not touch it.",
    ),
    Predicate(
        "covering",
        "contact",
        _T,
        _T,
        f"A cloth ({', '.join(sorted(COVERS))}) hides at least {COVERED_SHARE:.0%} of the object's top by lying on it, "
        "or of a window by hanging before it.",
    ),
)

GEOMETRY = (
    Predicate(
        "under",
        "geometry",
        _T,
        _T,
        f"Both stand on the same ground, and at least {UNDER_SHARE:.0%} of the part of the subject that is lower "
        "than the object's top has the object's triangles straight above it, though the object neither carries it nor "
        "rests on it. Beside the legs of a table, within "
        "the corners of its bounding box, is not under.",
    ),
    Predicate(
        "above",
        "geometry",
        _T,
        _T,
        "The subject is fixed to a wall or ceiling, and the object is furniture that stands on the floor below it "
        f"(at least half of the subject over it or within 25 cm beside it, at most {ABOVE_M:g} m below).",
        inverse="below",
    ),
    Predicate(
        "next to",
        "geometry",
        _PT,
        _PT,
        "Both are carried by the same thing and stand still. The gap between their outlines is at most "
        f"{_cm(NEXT_TO_M)} and, between things, at most half the length of the smaller one; they overlap in height, "
        "nothing stands in between, and none of under, in front of, behind, sitting at, leaning against, covering and "
        "touching says it better. Not between two things of one class (books in a row). Given from the smaller to the "
        "larger, from a person to a thing, both ways between equals.",
        both_ways=True,
    ),
    Predicate(
        "in front of",
        "geometry",
        _PT,
        _PT,
        "The object has a front of its own (" + ", ".join(sorted(WITH_FRONT)) + ", a person) and is the larger of the "
        f"two, and the subject's middle lies before it within its width, at most {FRONT_M:g} m away "
        f"({FRONT_ON_TOP_M:g} m on a table), on the same ground, both still, with nothing in between. Before a person "
        "only a person is. Without a front of its own nothing has an in front: the place of the sensor plays no role.",
    ),
    Predicate(
        "behind",
        "geometry",
        _PT,
        _PT,
        "As in front of, on the object's other side.",
    ),
    Predicate(
        "facing",
        "geometry",
        _PT,
        _PT,
        "The subject, still, is a person who stands or sits, a seat ("
        + ", ".join(sorted(SEATS))
        + ") or a screen ("
        + ", ".join(sorted(SCREENS))
        + f"), and the line from its middle along its front first meets the object within {FACING_M:g} m, or, between "
        f"two seats or with a screen, within {SCREEN_M:g} m. What is lower than a seated person's eyes does not hide "
        "a screen, nor a person from a person. Screens face seats only.",
    ),
    Predicate(
        "sitting at",
        "geometry",
        _P,
        _TS,
        "The person sits with its front towards a "
        + ", ".join(sorted(TABLES))
        + f" whose edge is within {_cm(AT_TABLE_M)} of its body.",
    ),
    Predicate(
        "approaching",
        "geometry",
        _PT,
        _P,
        f"The subject moves by itself or flies, towards a person in the same room: the distance shrinks by at least "
        f"{CLOSING_M_S:g} m/s and by 0.5 m over the span, to within {MEETING_M:g} m, and the "
        "subject's own motion points there.",
    ),
    Predicate(
        "moving away from",
        "geometry",
        _PT,
        _P,
        f"The reverse of approaching, from within {MEETING_M:g} m.",
    ),
    Predicate(
        "passing by",
        "geometry",
        _P,
        _P,
        f"The subject walks on while the object, still, slides from before it to behind it, within {PASSING_M:g} m. "
        "Whoever stops there does not pass by.",
    ),
    Predicate(
        "falling from",
        "geometry",
        _T,
        _TS,
        "Nobody threw or holds the subject, nothing carries it, it has left the object that carried it and comes down "
        f"by at least {_cm(FALL_M)}; until it lands.",
    ),
)

ACTIVITY = (
    Predicate(
        "holding",
        "activity",
        _P,
        _T,
        "The object is in the person's grasp: from the moment a hand closes on it until it lets go. A hand next to a "
        "thing, on it, or passing it does not hold it.",
    ),
    Predicate("carrying", "activity", _P, _T, "The person walks with the object in its grasp.", implies=("holding",)),
    Predicate(
        "picking up",
        "activity",
        _P,
        _T,
        "From the start of the reach until the object is lifted off what carried it and drawn in.",
    ),
    Predicate(
        "putting down", "activity", _P, _T, "From the start of lowering the held object until the hand is withdrawn."
    ),
    Predicate(
        "looking at",
        "activity",
        _P,
        _PTS,
        "The person's attention is on the object: head and eyes are turned to it on purpose and stay there. What "
        "merely lies in the direction of the gaze, or beyond or before its target, is not looked at.",
    ),
    Predicate(
        "talking to",
        "activity",
        _P,
        _P,
        "The two are in conversation, turned to each other. Standing face to face alone is not talking.",
        both_ways=True,
    ),
    Predicate(
        "drinking from",
        "activity",
        _P,
        _T,
        "The person drinks: from the moment the held vessel is raised to the mouth until it is taken down again.",
        implies=("holding",),
    ),
    Predicate("eating", "activity", _P, _T, "The person eats the object, or from it.", implies=()),
    Predicate("reading", "activity", _P, _T, "The person reads the object it looks at."),
    Predicate("typing on", "activity", _P, _T, "The person's hands work the keys of the object."),
    Predicate("using", "activity", _P, _T, "The person works the object as what it is made for."),
    Predicate("playing with", "activity", _P, _PT, "The person plays with the object."),
    Predicate("cleaning", "activity", _P, _TS, "The person wipes or sweeps the object."),
    Predicate("stirring", "activity", _P, _T, "The person stirs in the object."),
    Predicate("pouring into", "activity", _P, _T, "The person pours into the object out of what it holds."),
    Predicate(
        "giving to",
        "activity",
        _P,
        _P,
        "The person reaches out something it holds and the other takes it: from the reach until the giver lets go.",
        inverse="taking from",
    ),
    Predicate(
        "taking from",
        "activity",
        _P,
        _P,
        "The person takes something out of the other's hand: from the reach until it alone holds it.",
        inverse="giving to",
    ),
    Predicate(
        "pushing",
        "activity",
        _P,
        _T,
        "The person's hands or body drive the object away from it along its support.",
    ),
    Predicate("pulling", "activity", _P, _T, "The person's hands draw the object after it along its support."),
    Predicate(
        "opening", "activity", _P, _T, "The person moves the object's door, drawer or lid from closed towards open."
    ),
    Predicate(
        "closing", "activity", _P, _T, "The person moves the object's door, drawer or lid from open towards closed."
    ),
    Predicate("throwing", "activity", _P, _T, "From the wind-up until the object has left the hand."),
    Predicate("catching", "activity", _P, _T, "From the reach for a flying object until it is in the person's grasp."),
    Predicate("kicking", "activity", _P, _T, "From the swing of the leg until the foot has left the object."),
    Predicate(
        "sitting down on",
        "activity",
        _P,
        _T,
        "The person lowers itself onto the object: from bending the knees until it sits. Overlaps the first moments of "
        "sitting on, once the seat carries it.",
    ),
    Predicate(
        "standing up from",
        "activity",
        _P,
        _TS,
        "The person rises from the object: from the first move until it stands upright.",
    ),
    Predicate(
        "walking to",
        "activity",
        _P,
        _PTS,
        "The person is walking, and the object is where it means to go. Others that it happens to come closer to do "
        "not count.",
    ),
    Predicate("running to", "activity", _P, _PTS, "As walking to, running."),
    Predicate("walking away from", "activity", _P, _PTS, "The person walks, and the object is what it leaves."),
    Predicate(
        "walking past", "activity", _P, _PTS, "The person walks by the object, which is on its way but not its goal."
    ),
    Predicate(
        "following",
        "activity",
        _P,
        _PT,
        "The person goes where the other goes because the other goes there. Two who walk the same way by chance do not "
        "follow each other.",
    ),
    Predicate("turning to", "activity", _P, _PTS, "The person turns on the spot until its front points to the object."),
)

PREDICATES: dict[str, Predicate] = {p.name: p for p in SUPPORT + CONTACT + GEOMETRY + ACTIVITY}

ATTRIBUTES: dict[str, str] = {
    "white, black, gray, red, orange, yellow, green, blue, purple, pink, brown": (
        "The main colour of a thing, from the material it was given; all the time."
    ),
    "standing, sitting, lying": (
        "A person's posture: how it is carried, as in standing on or walking on, sitting on, lying on. Exactly one at "
        "any time."
    ),
    "walking": "A person walks, runs or crawls; it is standing at the same time.",
    "moving, still": (
        f"Exactly one at any time, of people and of things that can be moved: some part of it moves by {STILL_M_S:g} "
        "m/s or more, a person as a whole; a thing also when it is carried or rides along."
    ),
    "held": "A thing in somebody's grasp (as in holding).",
    "open, closed": (
        f"Exactly one at any time, of things with a door, drawer or lid: open when any of them is open by more than "
        f"{OPEN_SHARE:.0%} of its range."
    ),
}


def predicate_table() -> str:
    """The text of docs/predicates.md."""
    lines = [
        "# What the simulator's ground truth means",
        "",
        "Generated from `psg4d_ros/data/simulation/predicates.py` by `scripts/make_predicate_docs.py`; edit there.",
        "",
        "A relation is a span of frames [start, end) in which subject, predicate and object hold together. Where an",
        "activity decides, the script that moves the people knows; where support decides, the simulator knows who",
        "carries whose weight, and triangles must touch; where geometry decides, the positions and motions of the true",
        "shapes do. Inverses are not labelled, since they follow (a table supports what is on it). Positions are",
        "relative to the object's own front and to gravity, never to the sensor.",
        "",
        "A person is exactly one of standing on, walking on, sitting on, lying on something in any frame; a thing is",
        "exactly one of on, inside, hanging on, attached to something unless somebody holds it or it is in the air. A",
        "relation found by geometry or contact that lasts less than two frames is dropped, as is a place that people",
        f"hold for less than {LASTING_S:g} s; one that is lost for a single frame goes on. What an activity says is",
        "never dropped: a kick between two frames has the frame nearest to it.",
    ]
    titles = (
        ("Who carries whom", SUPPORT),
        ("What touches", CONTACT),
        ("Where things are and how they move", GEOMETRY),
        ("What people do", ACTIVITY),
    )
    for title, group in titles:
        lines += [
            "",
            f"## {title}",
            "",
            "| predicate | decided by | subject | object | definition |",
            "|---|---|---|---|---|",
        ]
        for p in group:
            extra = f" Inverse: *{p.inverse}*." if p.inverse else ""
            extra += f" Implies {', '.join(p.implies)}." if p.implies else ""
            kinds = ", ".join(p.subjects), ", ".join(p.objects)
            lines.append(f"| {p.name} | {p.decided_by} | {kinds[0]} | {kinds[1]} | {p.definition}{extra} |")
    lines += ["", "## Attributes", "", "| attribute | definition |", "|---|---|"]
    lines += [f"| {names} | {text} |" for names, text in ATTRIBUTES.items()]
    return "\n".join(lines) + "\n"
