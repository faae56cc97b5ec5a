"""One spelling for what data sets call things and relations: "sit_on", "sits on" and "sitting on" become "sitting on".

Predicates, in this order: letter case, blanks, ``_`` and ``-`` do not count; what stands in the table becomes its
entry; of the rest, a first word among the verbs takes its -ing form. Labels: the same spelling, without what COCO's
panoptic names add ("wall-brick", "floor-other-merged"), then the synonyms of the default vocabulary ("couch" is a
sofa). What no table knows stays as it is: nothing is guessed.
"""

from __future__ import annotations

from functools import cache

from psg4d_ros.vocabulary import Vocabulary, default_vocabulary

# What stands for what; the vocabulary's own words wherever one means the same.
_TABLE = """
on = on the top of, on top of, supported by; inside = in, within; next to = beside, by, adjacent to, close by;
near = close to; left of = on the left of, to the left of, left; right of = on the right of, to the right of, right;
in front of = in the front of, front; behind = behind of, in the back of; under = beneath, underneath;
above = over, higher than; below = lower than; around = surrounding;
touching = touch, contact; leaning on = lean on, leans on; leaning against = against, lean against;
hanging on = hang on, hanging from, hang from, hanging in; attached to = attach to, mounted on, connected to, attached;
supporting = support; covering = cover, covers, covering up; containing = contain, contains;
part of = belonging to, belongs to; facing = face, faces;
standing on = stand on, stands on, standing in; lying on = lie on, lies on, laying on, lay on, lay instr, lying in;
sitting on = sit on, sits on, seated on, sit instr; sitting at = sit at, sits at, seated at;
standing next to = stand next to, standing beside; sitting next to = sit next to, sitting beside;
sleeping on = sleep on; sleeping next to = sleep next to; resting on = rest on;
parking = park; parked on = park on; parked next to = park next, park next to; parked behind = park behind;
holding = hold, holds, hold obj, grasping, grasp; carrying = carry, carries, carry obj;
wearing = wear, wears, dressed in; using = use, uses; looking at = look, look at, looks at, look obj, watch, watching;
talking to = talk, talk to, talks to, talking with; talking on = talk on, talk on phone instr;
riding = ride, rides, ride instr; eating = eat, eats, eat obj; eating with = eat with, eat instr;
drinking from = drink with, drink from, drink instr, drink, drinking, sip, sipping;
cutting = cut, cut obj; cutting with = cut with, cut instr; reading = read, read obj;
typing on = type on, work on computer instr; playing with = play with, playing, play;
hitting = hit, hit obj; hitting with = hit with, hit instr; kicking = kick, kicks, kick obj;
throwing = throw, throw obj; catching = catch, catch obj; jumping on = jump instr; skiing on = ski instr;
surfing on = surf instr; skating on = skate on, skateboard instr; snowboarding on = snowboard instr;
picking up = pick up, pick, picking; putting down = put down, put, place, placing; putting on = put on;
taking from = take from, take out of; giving to = give, give to, giving, hand over to;
pouring into = pour into, pour, pouring; stirring = stir; following = follow, follows;
leaving = exit, exits, exiting; pointing at = point at, points at, point instr, point;
approaching = approach, getting close, moving close to; moving away from = moving apart, retreat, retreating from;
moving with = moving together, fixed moving together; walking past = walk past; walking next to = walk beside;
sitting down on = sit down on; standing up from = stand up from, get up from
"""
# Base forms; "adjusts" and "adjust" become "adjusting". Nouns that are verbs too (train, sign, light) are left out
# unless a data set here uses them as verbs.
_VERBS = """
adjust assemble block blow board break brush buy carry catch chase check clean climb close control cook cross cut
direct drag dribble drink drive dry eat enter exit feed fill flip flush fly give greet grind groom guide hang herd hit
hold hop hose hug hunt inspect install jump kick kiss lasso launch lead lean leave lick lie lift light load look lose
make milk move open operate pack paint pay peel pet pick play point pour pull push put race reach read release repair
ride row run sail scratch scrub serve set shake shear sign sip sit skate sleep slide smell spin squeeze stab stand
stick stir stop straddle swing tag take talk teach text throw tie toast touch train turn type use walk wash watch wave
wear wield write zip
"""
_COCO_ENDINGS = ("merged", "other", "stuff")
_COCO_MATERIALS = {
    "floor wood": "floor", "wall brick": "wall", "wall stone": "wall", "wall tile": "wall", "wall wood": "wall",
    "window blind": "blinds",
}  # fmt: skip
_IRREGULAR = {"lie": "lying", "tie": "tying"}
_DOUBLED = """control cut drag flip hit hop hug pet put run set sit spin stab stop tag zip"""  # the last letter


def normal_predicate(phrase: str) -> str:
    """The one spelling of a data set's predicate."""
    words = _spelled(phrase)
    known = predicate_table().get(words)
    if known is not None:
        return known
    first, _, rest = words.partition(" ")
    return " ".join(filter(None, (_gerunds().get(first, first), rest)))


def normal_label(phrase: str) -> str:
    """The one spelling of a data set's object class; classes of the default vocabulary by their name there."""
    words = _spelled(phrase).split()
    while len(words) > 1 and words[-1] in _COCO_ENDINGS:
        words.pop()
    spelled = " ".join(words)
    return _vocabulary().canonical(_COCO_MATERIALS.get(spelled, spelled))


@cache
def predicate_table() -> dict[str, str]:
    """Variant -> predicate, as docs/datasets.md lists it."""
    table: dict[str, str] = {}
    for entry in " ".join(_TABLE.split()).split(";"):
        name, _, variants = entry.partition("=")
        table.update((variant.strip(), name.strip()) for variant in variants.split(","))
    return table


def _spelled(phrase: str) -> str:
    return " ".join(phrase.replace("_", " ").replace("-", " ").lower().split())


@cache
def _vocabulary() -> Vocabulary:
    return default_vocabulary()


@cache
def _gerunds() -> dict[str, str]:
    out = {}
    for verb in _VERBS.split():
        if verb in _IRREGULAR:
            gerund = _IRREGULAR[verb]
        elif verb in _DOUBLED.split():
            gerund = f"{verb}{verb[-1]}ing"
        else:
            gerund = f"{verb[:-1] if verb.endswith('e') else verb}ing"
        sibilant = verb.endswith(("s", "sh", "ch", "x", "z", "ss"))
        third = f"{verb[:-1]}ies" if verb[-1] == "y" and verb[-2] not in "aeiou" else verb + ("es" if sibilant else "s")
        out[verb] = out[third] = gerund
    return out
