"""Which classes occur in simulated rooms: their colours, what people can do with them, and where they belong.

LABELS is the whole list. A WordSplit says which labels and which models of them a set of scenes may use, so that tests
can be made of unseen models (TEST_WORDS) or of unseen classes (OOV_WORDS).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AssetSplit = Literal["train", "heldout", "all"]

# Red, green and blue of each colour name; the names are attribute words of the vocabulary.
PALETTE: dict[str, tuple[tuple[int, int, int], ...]] = {
    "white": ((238, 236, 230), (250, 250, 250), (226, 228, 232)),
    "black": ((28, 28, 30), (44, 42, 44)),
    "gray": ((128, 130, 134), (160, 160, 162), (98, 102, 108)),
    "red": ((186, 38, 40), (206, 62, 50), (140, 28, 38)),
    "orange": ((226, 124, 40), (236, 150, 62)),
    "yellow": ((232, 200, 66), (240, 220, 120)),
    "green": ((66, 128, 62), (96, 150, 84), (46, 98, 66)),
    "blue": ((48, 84, 160), (84, 130, 190), (36, 56, 110)),
    "purple": ((112, 62, 140), (146, 100, 170)),
    "pink": ((226, 148, 168), (236, 180, 190)),
    "brown": ((134, 92, 58), (166, 122, 82), (96, 64, 42), (190, 150, 108)),
}
_CLOTH = ("gray", "blue", "red", "green", "brown", "white", "black", "purple", "orange", "yellow", "pink")


@dataclass(frozen=True)
class ClassRule:
    """colors: names drawn at random for the main colour. movable: people can shift it; graspable: a hand or two can
    lift it. scale: range of sizes, relative to the model. on: where a small thing lies, with weights (HOSTS).
    """

    label: str
    is_thing: bool = True
    colors: tuple[str, ...] = _CLOTH
    movable: bool = False
    graspable: bool = False
    scale: tuple[float, float] = (0.95, 1.05)
    on: tuple[tuple[str, float], ...] = ()


# What carries small things: kinds of places, filled by furnishing.py.
HOSTS = ("dining", "coffee", "desk", "counter", "shelf", "nightstand", "low", "cabinet", "fridge", "drawer", "bed",
         "sofa", "floor", "washer")  # fmt: skip

# label: colours | graspable "g", movable "m" | host:weight ...
_SMALL = """
cup: red white blue green yellow orange black | g | dining:4 coffee:3 desk:3 counter:2 cabinet:2 nightstand:1
glass: white blue gray | g | dining:3 coffee:2 counter:2 cabinet:2 nightstand:1
bowl: white blue green orange brown | g | dining:3 counter:2 coffee:1 cabinet:2
plate: white blue gray yellow | g | dining:4 counter:2 cabinet:2
bottle: green brown white blue black | g | dining:2 counter:2 fridge:4 desk:2 coffee:1 floor:0.3 nightstand:1
can: red blue green gray orange | g | dining:1 counter:2 fridge:3 desk:1 coffee:2 cabinet:1
carton: white blue red yellow | g | counter:3 fridge:6 dining:2
pot: gray black red white | g | counter:3 cabinet:2
pan: black gray red | g | counter:3 cabinet:1
knife: gray | g | dining:1.5 counter:2 drawer:1
fork: gray | g | dining:1.5 counter:1 drawer:1
spoon: gray brown | g | dining:2.5 counter:1 drawer:1
vase: white blue brown green red | g | dining:1 coffee:2 low:2 shelf:2
book: red blue green brown black yellow white purple | g | shelf:9 coffee:3 desk:3 nightstand:3 bed:1 sofa:1 floor:0.3
laptop: gray black white | g | desk:3 coffee:1 dining:1 bed:1
keyboard: black white gray | g | desk:1
mouse: black white gray | g | desk:1
monitor: black gray | | desk:2
computer: black white gray | m | desk:2
phone: black white blue red | g | desk:2 nightstand:2 coffee:2 sofa:1 counter:1 bed:0.6 low:1
speaker: black brown white | g | low:3 shelf:2 desk:1.5
remote control: black gray white | g | coffee:4 sofa:2.5 low:2 bed:0.6
lamp: white yellow black red brown | g | nightstand:4 desk:3 low:1
clock: white red black blue brown | g | nightstand:2 shelf:2 desk:1
plant: green | g | low:2 coffee:1 desk:1 shelf:1 counter:0.6 dining:0.6
box: brown white blue gray | g | floor:3 shelf:2.5 cabinet:1 desk:0.6 low:0.5
basket: brown white gray | g | floor:4 shelf:1.6 washer:1
bag: brown black red blue white | g | floor:3 sofa:0.8 desk:0.8 dining:0.6 bed:0.6
backpack: blue red black green purple | g | floor:3.5 sofa:0.8 bed:0.5
suitcase: red blue black gray | g | floor:4
pillow: white blue red green yellow gray orange | g | bed:6 sofa:6
blanket: gray blue white red green brown | g | bed:6 sofa:5
towel: white blue pink green orange | g | counter:1.2 bed:1 washer:3 cabinet:0.8
shoe: black brown white red blue | g | floor:3
ball: red blue orange white yellow green | g | floor:2.4
toy: brown yellow red blue green pink | g | floor:2 bed:1 shelf:1.4 sofa:0.7
picture: brown black white | g | low:1.2 shelf:1.2 nightstand:0.8
trash can: gray black white green blue | m | floor:2
hat: brown black red blue | g | desk:1.5 sofa:1 bed:1 low:1 shelf:1
camera: black gray | g | desk:2 coffee:1.5 low:1 shelf:1
fan: white black blue | g | desk:1.5 low:1.5 nightstand:1 floor:0.6
"""
_LARGE = """
chair: brown white black gray red blue green | m
stool: brown white black gray red | m
sofa: gray blue brown red green white black | m
bench: brown gray white | m
bed: brown white gray blue
table: brown brown white black gray | m
desk: brown brown white gray black
cabinet: brown brown white gray blue green
wardrobe: brown brown white gray
shelf: brown brown white black gray
drawer: brown brown white gray
door: brown white gray red blue
window: white brown gray
curtain: white gray red blue green yellow purple
mirror: gray white black
television: black gray
sink: white gray
faucet: gray
stove: white gray black
refrigerator: white gray black red
microwave: white gray black
washing machine: white gray
dishwasher: white gray black
sign: green red yellow blue
robot: white black gray | m
dog: brown black white gray
fence: brown white gray
piano: black brown
guitar: red brown black white | g
ladder: brown gray
bicycle: red blue green black
cat: black gray white orange
heater: white gray
cart: gray red blue green | m
person: blue
"""
_STUFF = {
    "floor": ("brown", "brown", "gray", "white"),
    "wall": ("white", "white", "gray", "yellow", "blue", "green", "pink"),
    "ceiling": ("white",),
    "carpet": ("red", "blue", "gray", "brown", "green", "purple"),
    "counter": ("gray", "black", "white", "brown"),
    "grass": ("green",),
    "vegetation": ("green",),
    "sidewalk": ("gray",),
    "road": ("black", "gray"),
    "building": ("red", "brown", "gray", "white", "yellow"),
    "ground": ("brown",),
}


def _rules() -> dict[str, ClassRule]:
    out = {}
    for line in (_SMALL.strip() + _LARGE.rstrip()).splitlines():
        label, _, rest = line.partition(":")
        colors, flags, hosts = [*(field.strip() for field in rest.split("|")), "", ""][:3]
        on = tuple((h.partition(":")[0], float(h.partition(":")[2])) for h in hosts.split())
        out[label] = ClassRule(
            label, True, tuple(colors.split()), "g" in flags or "m" in flags, "g" in flags, on=on
        )  # what can be lifted can be shifted
    out.update({label: ClassRule(label, False, colors) for label, colors in _STUFF.items()})
    return out


RULES: dict[str, ClassRule] = _rules()
LABELS = frozenset(RULES)
_NEVER_IN_TRAINING = frozenset(
    ("hat", "guitar", "piano", "ladder", "bicycle", "cat", "fan", "heater", "camera", "cart")
)


@dataclass(frozen=True)
class WordSplit:
    """Which models ("train", "heldout" or all) and which labels may occur. favoured: labels that occur more often."""

    assets: AssetSplit
    labels: frozenset[str]
    favoured: frozenset[str] = frozenset()


TRAIN_WORDS = WordSplit("train", LABELS - _NEVER_IN_TRAINING)
TEST_WORDS = WordSplit("heldout", LABELS - _NEVER_IN_TRAINING)
OOV_WORDS = WordSplit("heldout", LABELS, _NEVER_IN_TRAINING)
