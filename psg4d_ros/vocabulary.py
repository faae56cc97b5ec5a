"""The words a model knows: object classes (things and stuff), predicates and attributes.

A checkpoint carries its vocabulary as JSON. Words can be added at run time: the model scores phrases, so that a longer
list is all it takes. Words come from outside (services, files) and end up in prompts and messages: every phrase is
checked here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psg4d_ros.errors import ConfigError

MAX_PHRASE_CHARS = 64
MAX_PHRASES = 4096
# Markers of chat templates and of special tokens: <|...|>, <s>, </s>, [INST], <<SYS>>. A label never needs these
# characters.
_MARKUP = re.compile(r"[<>{}\[\]|`\\]")


def sanitize_phrase(text: Any) -> str:
    """A word or phrase from outside, trimmed and with single blanks; letter case is kept.

    Raises ConfigError when it is not a string, is empty, longer than 64 characters, holds control or otherwise
    unprintable characters, or characters of prompt markup such as ``<|im_start|>``: such text would speak to the
    language model in another role, or break terminals and messages downstream.
    """
    if not isinstance(text, str):
        raise ConfigError(f"a label is {text!r} ({type(text).__name__}), expected text such as 'chair'")
    bad = next((c for c in text if not c.isprintable()), None)
    if bad is not None:
        raise ConfigError(
            f"label {text[:80]!r} holds the unprintable character {bad!r}; use letters, digits and blanks"
        )
    phrase = " ".join(text.split())
    if not phrase:
        raise ConfigError("a label is empty; give a word or phrase such as 'chair'")
    if len(phrase) > MAX_PHRASE_CHARS:
        raise ConfigError(
            f"label {phrase[:40]!r}... has {len(phrase)} characters, at most {MAX_PHRASE_CHARS} are allowed"
        )
    markup = _MARKUP.search(phrase)
    if markup is not None:
        raise ConfigError(
            f"label {phrase!r} holds {markup.group()!r}, which is prompt markup; use letters, digits and blanks"
        )
    return phrase


@dataclass(frozen=True)
class ObjectClass:
    """A class of objects. is_thing: countable (chair), else stuff (floor). synonyms: other names that mean the same."""

    name: str
    is_thing: bool = True
    synonyms: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", sanitize_phrase(self.name))
        object.__setattr__(self, "synonyms", tuple(sanitize_phrase(s) for s in self.synonyms))


@dataclass(frozen=True)
class Vocabulary:
    """Object classes, predicates and attributes, each in a fixed order.

    class_ids, predicate_ids: the id of each entry in the checkpoint's vocabulary, -1 for words added at run time; empty
    (the default): the entries are the checkpoint's own and their positions are their ids. checkpoint: that vocabulary,
    where it is not this one. Raises ConfigError for duplicate or unsafe words and for an empty list of classes.
    """

    classes: tuple[ObjectClass, ...]
    predicates: tuple[str, ...]
    attributes: tuple[str, ...] = ()
    class_ids: tuple[int, ...] = ()
    predicate_ids: tuple[int, ...] = ()
    checkpoint: Vocabulary | None = field(default=None, repr=False, compare=False)
    # Casefolded word -> what stands for it; looked up for every object and relation of every window.
    _names: dict[str, str] = field(init=False, repr=False, compare=False, default_factory=dict)
    _classes: dict[str, tuple[ObjectClass, int]] = field(init=False, repr=False, compare=False, default_factory=dict)
    _predicates: dict[str, tuple[str, int]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "predicates", tuple(sanitize_phrase(p) for p in self.predicates))
        object.__setattr__(self, "attributes", tuple(sanitize_phrase(a) for a in self.attributes))
        if not self.classes:
            raise ConfigError("the vocabulary has no object classes; give at least one")
        for what, names in (
            ("class", self.class_names),
            ("predicate", self.predicates),
            ("attribute", self.attributes),
        ):
            if len(names) > MAX_PHRASES:
                raise ConfigError(
                    f"the vocabulary has {len(names)} words of kind {what}, at most {MAX_PHRASES} are allowed"
                )
            seen: set[str] = set()
            for name in names:
                if name.casefold() in seen:
                    raise ConfigError(f"{what} {name!r} is given twice in the vocabulary")
                seen.add(name.casefold())
        for ids, names in (("class_ids", self.class_names), ("predicate_ids", self.predicates)):
            given = getattr(self, ids)
            if given and len(given) != len(names):
                raise ConfigError(f"{ids} has {len(given)} entries for {len(names)} words")
            object.__setattr__(self, ids, tuple(given) or tuple(range(len(names))))
        for entry, index in zip(self.classes, self.class_ids, strict=True):
            self._classes[entry.name.casefold()] = entry, index
        for predicate, index in zip(self.predicates, self.predicate_ids, strict=True):
            self._predicates[predicate.casefold()] = predicate, index
        # Names win over synonyms, and the first class that claims a synonym keeps it.
        self._names.update((folded, entry.name) for folded, (entry, _) in self._classes.items())
        for entry in self.classes:
            for synonym in entry.synonyms:
                self._names.setdefault(synonym.casefold(), entry.name)

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.classes)

    @property
    def class_is_thing(self) -> tuple[bool, ...]:
        return tuple(c.is_thing for c in self.classes)

    def canonical(self, label: str) -> str:
        """The name of a label's class, through synonyms, in any letter case; an unknown label is returned as is."""
        phrase = " ".join(label.split())
        return self._names.get(phrase.casefold(), phrase)

    def canonical_predicate(self, predicate: str) -> str:
        """The vocabulary's spelling of a predicate, regardless of letter case; an unknown one is returned as is."""
        phrase = " ".join(predicate.split())
        return self._predicates.get(phrase.casefold(), (phrase, -1))[0]

    def class_id(self, name: str) -> int:
        """Index of a class in the checkpoint's vocabulary; -1 for free text and for words added at run time."""
        known = self._classes.get(self.canonical(name).casefold())
        return -1 if known is None else known[1]

    def predicate_id(self, name: str) -> int:
        """Index of a predicate in the checkpoint's vocabulary; -1 for free text and for words added at run time."""
        known = self._predicates.get(self.canonical_predicate(name).casefold())
        return -1 if known is None else known[1]

    def is_thing(self, name: str) -> bool:
        """Whether a label names a thing; a label outside the vocabulary counts as one."""
        known = self._classes.get(self.canonical(name).casefold())
        return known is None or known[0].is_thing

    def with_words(
        self, class_names: Sequence[str] = (), predicate_names: Sequence[str] = (), replace: bool = False
    ) -> Vocabulary:
        """This vocabulary with words added, or with ``replace`` only the given ones; an empty list leaves its part as
        is.

        A class or predicate of the checkpoint given by its name keeps its entry and id, also after it was left out for
        a while. Any other word is new: a thing (the safer guess for a word asked for by name) with id -1. A synonym
        adds nothing to the class that has it; but with ``replace`` it is a class of its own, so that every word asked
        for is answered with that word. Raises ConfigError for too many or unsafe words.
        """
        for what, words in (("class", class_names), ("predicate", predicate_names)):
            if len(words) > MAX_PHRASES:
                raise ConfigError(f"{len(words)} words of kind {what} are given, at most {MAX_PHRASES} are allowed")
        origin = self.checkpoint or self
        classes = {} if replace and class_names else dict(self._classes)
        for text in class_names:
            word = sanitize_phrase(text)
            if replace or word.casefold() not in self._names:
                classes.setdefault(word.casefold(), origin._classes.get(word.casefold()) or (ObjectClass(word), -1))
        predicates = {} if replace and predicate_names else dict(self._predicates)
        for text in predicate_names:
            word = sanitize_phrase(text)
            predicates.setdefault(word.casefold(), origin._predicates.get(word.casefold(), (word, -1)))
        return Vocabulary(
            classes=tuple(entry for entry, _ in classes.values()),
            predicates=tuple(predicate for predicate, _ in predicates.values()),
            attributes=self.attributes,
            class_ids=tuple(index for _, index in classes.values()),
            predicate_ids=tuple(index for _, index in predicates.values()),
            checkpoint=origin,
        )

    def to_dict(self) -> dict[str, Any]:
        """What the JSON file holds."""
        return {
            "classes": [{"name": c.name, "is_thing": c.is_thing, "synonyms": list(c.synonyms)} for c in self.classes],
            "predicates": list(self.predicates),
            "attributes": list(self.attributes),
        }

    @classmethod
    def from_dict(cls, values: Any, where: str = "vocabulary") -> Vocabulary:
        """The reverse of to_dict; ConfigError naming ``where`` and the entry that is missing or of a wrong type."""
        if not isinstance(values, Mapping):
            raise ConfigError(
                f"{where} is {type(values).__name__}, expected an object with classes, predicates, attributes"
            )
        unknown = set(values) - {"classes", "predicates", "attributes"}
        if unknown:
            raise ConfigError(f"{where} has unknown keys {sorted(unknown)}; known: classes, predicates, attributes")
        classes = []
        for i, entry in enumerate(_list(values.get("classes"), f"{where}.classes")):
            place = f"{where}.classes[{i}]"
            if (
                not isinstance(entry, Mapping)
                or not set(entry) <= {"name", "is_thing", "synonyms"}
                or "name" not in entry
            ):
                raise ConfigError(f"{place} is {entry!r}, expected an object with name, is_thing, synonyms")
            thing = entry.get("is_thing", True)
            if not isinstance(thing, bool):
                raise ConfigError(f"{place}.is_thing is {thing!r}, expected true or false")
            synonyms = _list(entry.get("synonyms", []), f"{place}.synonyms")
            classes.append(ObjectClass(entry["name"], thing, tuple(synonyms)))
        predicates = _list(values.get("predicates"), f"{where}.predicates")
        attributes = _list(values.get("attributes", []), f"{where}.attributes")
        return cls(tuple(classes), tuple(predicates), tuple(attributes))

    def save(self, path: Path) -> None:
        """Write as JSON (words and order; the ids of a file are always positions)."""
        path.write_text(json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read from JSON; ConfigError naming the file when it is missing, not JSON or not a vocabulary."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"vocabulary {path} cannot be read: {error}") from error
        return cls.from_dict(values, str(path))


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise ConfigError(f"{where} is {value!r}, expected a list")
    return value


# Common objects of homes, offices, kitchens and streets. After "=" come synonyms.
_THINGS = """
person = human, man, woman, child, people, pedestrian; chair = armchair, dining chair, office chair; stool = bar stool;
sofa = couch, settee; bench; bed; table = dining table, coffee table; desk = writing desk, work desk; cabinet =
cupboard, sideboard; wardrobe = closet; shelf = shelves, bookshelf, bookcase; drawer = chest of drawers, dresser; door;
window; curtain = drapes, blinds; mirror; picture = painting, poster, photo frame; lamp = light, floor lamp, desk lamp;
clock; television = tv; monitor = screen, computer monitor; computer = desktop computer; laptop = notebook computer;
keyboard; mouse = computer mouse; phone = telephone, cell phone, mobile phone; camera = webcam; speaker = loudspeaker;
remote control = remote; book; box = cardboard box; carton = milk carton, juice box; bag = handbag, sack; backpack =
rucksack; suitcase = luggage; basket; bottle; can = tin can; cup = mug; glass = drinking glass; bowl; plate = dish; pot
= cooking pot, kettle; pan = frying pan; knife; fork; spoon; whisk; vase; plant = potted plant, flower, houseplant;
pillow = cushion; blanket; towel; shoe = shoes, sneaker, boot; hat = cap; ball; toy = teddy bear; guitar; piano; sink =
washbasin; toilet; bathtub = bath; shower; faucet = tap; stove = oven, cooker; refrigerator = fridge; microwave; washing
machine; dishwasher; fan; heater = radiator; trash can = bin, garbage can, dustbin, waste bin; ladder; cart = trolley;
stairs = staircase, steps; robot; hand; dog = puppy; cat = kitten; horse; bicycle = bike; motorcycle = motorbike,
scooter; car = automobile; truck = lorry; van; bus; boat; pole = post; sign = traffic sign; tree; fence
"""
_STUFF = """
floor = carpeted floor, parquet; wall = partition; ceiling; ground = soil, dirt; road = street, asphalt; sidewalk =
pavement, footpath; grass = lawn; carpet = rug; vegetation = bushes, bush; water; building = house; counter =
countertop, worktop
"""
# Where things are; what a person or animal does with something; what happens over time.
_PREDICATES = """
on, under, above, below, inside, next to, near, in front of, behind, left of, right of, around, touching, leaning on,
leaning against, hanging on, attached to, standing on, lying on, supporting, covering, containing, part of, between,
facing, far from,
sitting on, sitting at, holding, carrying, wearing, using, looking at, talking to, riding, driving, eating,
drinking from, playing with, cutting, cleaning, reading, typing on,
walking on, walking to, walking past, walking away from, approaching, moving away from, following, moving with,
passing by, running to, picking up, putting down, putting on, taking from, giving to, pushing, pulling, opening,
closing, throwing, catching, kicking, stirring, pouring into, entering, leaving, turning to, sitting down on,
standing up from, lifting, falling from
"""
_ATTRIBUTES = """
white, black, gray, red, orange, yellow, green, blue, purple, pink, brown, standing, sitting, lying, walking, moving,
still, held, open, closed, upright, fallen, empty, full, large, small
"""


def _words(table: str) -> tuple[str, ...]:
    return tuple(" ".join(table.split()).split(","))


def _classes(table: str, is_thing: bool) -> list[ObjectClass]:
    out = []
    for entry in " ".join(table.split()).split(";"):
        name, _, synonyms = entry.partition("=")
        out.append(ObjectClass(name, is_thing, tuple(synonyms.split(",")) if synonyms.strip() else ()))
    return out


def default_vocabulary() -> Vocabulary:
    """The vocabulary of the shipped checkpoint: things, then stuff; predicates static, then dynamic; attributes."""
    classes = tuple(_classes(_THINGS, True) + _classes(_STUFF, False))
    return Vocabulary(classes, _words(_PREDICATES), _words(_ATTRIBUTES))
