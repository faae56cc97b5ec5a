"""Scene graphs of images: VRD, V-COCO, HICO-DET, Visual Genome and PSG, all as the same values.

Phrases come in one spelling (phrases.py). Files may be gzipped. docs/datasets.md says which file of which data set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psg4d_ros.data.files import is_integer, is_number, read_json, shown
from psg4d_ros.data.phrases import normal_label, normal_predicate
from psg4d_ros.errors import DatasetError

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Object2D:
    """label, box x1 y1 x2 y2 in pixels (x1 < x2, y1 < y2), attributes where the data set has them."""

    label: str
    box: Box
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Relation2D:
    """subject and object: positions in SceneGraph2D.objects."""

    subject: int
    predicate: str
    object: int


@dataclass(frozen=True)
class SceneGraph2D:
    """One image. width, height: pixels, None where the data set does not say."""

    image_id: str
    width: int | None
    height: int | None
    objects: tuple[Object2D, ...]
    relations: tuple[Relation2D, ...]


@dataclass
class SceneGraphs2D:
    """What a reader found. skipped: what was left out, reason -> how often, with one example each in ``examples``."""

    graphs: list[SceneGraph2D] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def skip(self, reason: str, place: str) -> None:
        """Count something left out."""
        self.skipped[reason] += 1
        self.examples.setdefault(reason, place)


def read_vrd(path: Path | str, vocabulary: Path | str) -> SceneGraphs2D:
    """VRD. path: list of {img, boxes_xyxy, classes, triplets}; vocabulary: {objects, predicates}, lists of names."""
    path, vocabulary = Path(path), Path(vocabulary)
    names = _object(read_json(vocabulary), str(vocabulary))
    labels, predicates = (_names(names, key, str(vocabulary)) for key in ("objects", "predicates"))
    out = SceneGraphs2D()
    for place, record in _records(read_json(path), str(path)):
        boxes, classes, triplets = (_list(record, key, place) for key in ("boxes_xyxy", "classes", "triplets"))
        if len(boxes) != len(classes):
            raise DatasetError(f"{place} has {len(boxes)} boxes and {len(classes)} classes, expected one class a box")
        image = _Image(out, place)
        for i, (box, number) in enumerate(zip(boxes, classes, strict=True)):
            image.object(i, _pick(labels, number, f"{place}.classes[{i}]"), box)
        for i, triplet in enumerate(triplets):
            subject, thing, number = _triplet(triplet, f"{place}.triplets[{i}]", len(boxes))
            image.relation(subject, _pick(predicates, number, f"{place}.triplets[{i}]"), thing)
        image.finish(_text(record, "img", place), None, None)
    return out


def read_vcoco(path: Path | str) -> SceneGraphs2D:
    """V-COCO: {annotations [{boxes_h, boxes_o, actions, objects, file_name}], classes (actions), objects}."""
    path = Path(path)
    values = _object(read_json(path), str(path))
    actions, labels = _names(values, "classes", str(path)), _names(values, "objects", str(path))
    out = SceneGraphs2D()
    for place, record in _records(values.get("annotations"), f"{path}.annotations"):
        pairs = [_list(record, key, place) for key in ("boxes_h", "boxes_o", "actions", "objects")]
        image = _Image(out, place)
        _read_pairs(image, pairs, actions, labels, place)
        image.finish(_text(record, "file_name", place), None, None)
    return out


def read_hicodet(path: Path | str) -> SceneGraphs2D:
    """HICO-DET: {annotation [{boxes_h, boxes_o, verb, object}], filenames, size, verbs, objects}.

    Pairs annotated as "no interaction" are skipped and counted.
    """
    path = Path(path)
    values = _object(read_json(path), str(path))
    verbs, labels, files = (_names(values, key, str(path)) for key in ("verbs", "objects", "filenames"))
    sizes = _list(values, "size", str(path))
    records = list(_records(values.get("annotation"), f"{path}.annotation"))
    if not len(records) == len(files) == len(sizes):
        raise DatasetError(f"{path} has {len(records)} records, {len(files)} filenames and {len(sizes)} sizes")
    out = SceneGraphs2D()
    for (place, record), file, size in zip(records, files, sizes, strict=True):
        pairs = [_list(record, key, place) for key in ("boxes_h", "boxes_o", "verb", "object")]
        image = _Image(out, place)
        _read_pairs(image, pairs, verbs, labels, place)
        image.finish(file, *_size(size, place))
    return out


def read_visual_genome(
    objects: Path | str,
    relationships: Path | str,
    attributes: Path | str | None = None,
    image_data: Path | str | None = None,
) -> SceneGraphs2D:
    """Visual Genome: objects.json, relationships.json, and attributes.json and image_data.json where they are at hand.

    Objects of a relationship that objects.json does not list are taken from the relationship itself.
    """
    sizes = _by_image(image_data, lambda record, place: _size([record.get("width"), record.get("height")], place))
    colored = _by_image(attributes, lambda record, place: _vg_attributes(_list(record, "attributes", place), place))
    found = _by_image(objects, lambda record, place: (place, _list(record, "objects", place)))
    related = _by_image(relationships, lambda record, place: (place, _list(record, "relationships", place)))
    out = SceneGraphs2D()
    for image_id in sorted(found.keys() | related.keys(), key=lambda i: (len(i), i)):
        place, entries = found.get(image_id, (str(objects), []))
        image = _Image(out, place)
        listed: set[int] = set()
        for i, entry in enumerate(entries):
            key = _vg_object(image, entry, f"{place}.objects[{i}]", colored.get(image_id, {}))
            if key in listed:
                out.skip("an object given twice", f"{place}.objects[{i}]")
            listed.add(key)
        place, entries = related.get(image_id, (str(relationships), []))
        for i, entry in enumerate(entries):
            where = f"{place}.relationships[{i}]"
            entry = _object(entry, where)
            ends = [_vg_object(image, entry.get(end), f"{where}.{end}", {}) for end in ("subject", "object")]
            image.relation(ends[0], _text(entry, "predicate", where), ends[1])
        image.finish(image_id, *sizes.get(image_id, (None, None)))
    return out


def read_psg(path: Path | str, *, test: bool | None = None) -> SceneGraphs2D:
    """PSG: {data [{image_id, width, height, segments_info, annotations [{bbox, category_id}], relations}], ...}.

    relations: [subject, object, predicate] by position. test: True only test images, False only the others, None all.
    """
    path = Path(path)
    values = _object(read_json(path), str(path))
    labels = _names(values, "thing_classes", str(path)) + _names(values, "stuff_classes", str(path))
    predicates = _names(values, "predicate_classes", str(path))
    held_out = set() if test is None else {str(i) for i in _list(values, "test_image_ids", str(path))}
    out = SceneGraphs2D()
    for place, record in _records(values.get("data"), f"{path}.data"):
        image_id = str(record.get("image_id", ""))
        if test is not None and (image_id in held_out) != test:
            continue
        entries, segments = _list(record, "annotations", place), _list(record, "segments_info", place)
        if len(entries) != len(segments):
            raise DatasetError(
                f"{place} has {len(entries)} annotations and {len(segments)} segments_info, expected as many"
            )
        image = _Image(out, place)
        for i, entry in enumerate(entries):
            entry = _object(entry, f"{place}.annotations[{i}]")
            if entry.get("bbox_mode", 0) != 0:
                raise DatasetError(
                    f"{place}.annotations[{i}].bbox_mode is {shown(entry['bbox_mode'])}, expected 0 (x1 y1 x2 y2)"
                )
            label = _pick(labels, entry.get("category_id"), f"{place}.annotations[{i}].category_id")
            image.object(i, label, entry.get("bbox"))
        for i, triplet in enumerate(_list(record, "relations", place)):
            subject, thing, number = _triplet(triplet, f"{place}.relations[{i}]", len(entries))
            image.relation(subject, _pick(predicates, number, f"{place}.relations[{i}]"), thing)
        image.finish(
            image_id or _text(record, "file_name", place), *_size([record.get("width"), record.get("height")], place)
        )
    return out


class _Image:
    """Collects one image. Objects are named by keys of the data set, each taken once; what is unusable is skipped."""

    def __init__(self, out: SceneGraphs2D, place: str) -> None:
        self._out, self._place = out, place
        self._objects: list[Object2D] = []
        self._index: dict[Any, int | None] = {}
        self._relations: dict[Relation2D, None] = {}

    def object(self, key: Any, label: str, box: Any, attributes: Iterable[str] = ()) -> None:
        if key in self._index:
            return
        self._index[key] = None
        corners = _box(box, self._place)
        if not (corners[0] < corners[2] and corners[1] < corners[3]):
            self._out.skip("an object whose box has no area", f"{self._place}: {label} {box}")
            return
        self._index[key] = len(self._objects)
        self._objects.append(Object2D(normal_label(label), corners, tuple(dict.fromkeys(attributes))))

    def relation(self, subject: Any, predicate: str, thing: Any) -> None:
        ends = self._index.get(subject), self._index.get(thing)
        name = normal_predicate(predicate)
        triplet = f"{self._place}: {subject} {predicate} {thing}"
        if ends[0] is None or ends[1] is None:
            self._out.skip("a relation to an object that was left out", triplet)
        elif ends[0] == ends[1]:
            self._out.skip("a relation of an object to itself", triplet)
        elif not name or name == "no interaction":
            self._out.skip("a pair without interaction" if name else "a relation without a name", triplet)
        else:
            relation = Relation2D(ends[0], name, ends[1])
            if relation in self._relations:
                self._out.skip("a relation given twice", triplet)
            self._relations[relation] = None

    def finish(self, image_id: str, width: int | None, height: int | None) -> None:
        if not self._objects:
            self._out.skip("an image without objects", self._place)
            return
        self._out.graphs.append(SceneGraph2D(image_id, width, height, tuple(self._objects), tuple(self._relations)))


def _read_pairs(
    image: _Image, pairs: list[list[Any]], actions: Sequence[str], labels: Sequence[str], place: str
) -> None:
    """Rows of a person's box, an object's box, an action and a class. The same box and class are the same object."""
    if len({len(column) for column in pairs}) != 1:
        raise DatasetError(f"{place} has columns of {[len(column) for column in pairs]} rows, expected as many in each")
    for i, (person, thing, action, number) in enumerate(zip(*pairs, strict=True)):
        label = _pick(labels, number, f"{place} pair {i}")
        keys = [("person", *_box(person, place)), (label, *_box(thing, place))]
        image.object(keys[0], "person", person)
        image.object(keys[1], label, thing)
        image.relation(keys[0], _pick(actions, action, f"{place} pair {i}"), keys[1])


def _vg_object(image: _Image, entry: Any, place: str, attributes: dict[int, tuple[str, ...]]) -> int:
    entry = _object(entry, place)
    key, names = entry.get("object_id"), entry.get("names", [entry.get("name")])
    if not is_integer(key) or not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise DatasetError(f"{place} is {shown(entry)}, expected object_id, names, x, y, w, h")
    corner = [entry.get(k) for k in "xywh"]
    if not all(is_number(v) for v in corner):
        raise DatasetError(f"{place} has no numbers x, y, w, h: {shown(entry)}")
    x, y, w, h = corner
    image.object(key, names[0], [x, y, x + w, y + h], attributes.get(key, ()))
    return key


def _vg_attributes(entries: list[Any], place: str) -> dict[int, tuple[str, ...]]:
    out: dict[int, tuple[str, ...]] = {}
    for i, entry in enumerate(entries):
        entry = _object(entry, f"{place}.attributes[{i}]")
        key, words = entry.get("object_id"), entry.get("attributes") or []
        if not is_integer(key) or not isinstance(words, list) or not all(isinstance(w, str) for w in words):
            raise DatasetError(f"{place}.attributes[{i}] is {shown(entry)}, expected object_id and a list of words")
        out[key] = (*out.get(key, ()), *(" ".join(w.lower().split()) for w in words if w.strip()))
    return out


def _by_image(path: Path | str | None, read: Callable[[dict[str, Any], str], Any]) -> dict[str, Any]:
    """read(record, place) of each record of a file of Visual Genome, by image; none where the file is not given."""
    if path is None:
        return {}
    out: dict[str, Any] = {}
    for place, record in _records(read_json(Path(path)), str(path)):
        image_id = record.get("image_id", record.get("id"))
        if not is_integer(image_id):
            raise DatasetError(f"{place} has image_id {shown(image_id)}, expected a number")
        if str(image_id) in out:
            raise DatasetError(f"{place} is a second record of image {image_id}, expected one")
        out[str(image_id)] = read(record, place)
    return out


def _records(values: Any, place: str) -> Iterable[tuple[str, dict[str, Any]]]:
    if not isinstance(values, list):
        raise DatasetError(f"{place} is not a list of records")
    for number, record in enumerate(values):
        yield f"{place}[{number}]", _object(record, f"{place}[{number}]")


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DatasetError(f"{place} is {shown(value)}, expected an object with named values")
    return value


def _list(record: dict[str, Any], key: str, place: str) -> list[Any]:
    if not isinstance(record.get(key), list):
        raise DatasetError(f"{place} has no list {key!r}")
    return list(record[key])


def _names(record: dict[str, Any], key: str, place: str) -> list[str]:
    names = _list(record, key, place)
    if not all(isinstance(name, str) for name in names):
        raise DatasetError(f"{place}: {key!r} is not a list of names")
    return names


def _text(record: dict[str, Any], key: str, place: str) -> str:
    if not isinstance(record.get(key), str):
        raise DatasetError(f"{place} has no text {key!r}")
    return str(record[key])


def _pick(names: Sequence[str], number: Any, place: str) -> str:
    if not is_integer(number, 0, len(names) - 1):
        raise DatasetError(f"{place} is number {shown(number)}, expected 0 to {len(names) - 1}")
    return names[number]


def _triplet(value: Any, place: str, objects: int) -> tuple[int, int, int]:
    if not isinstance(value, list) or len(value) != 3 or not all(is_integer(v) for v in value):
        raise DatasetError(f"{place} is {shown(value)}, expected [subject, object, predicate] as numbers")
    if not all(0 <= v < objects for v in value[:2]):
        raise DatasetError(f"{place} is {value}, the image has objects 0 to {objects - 1}")
    return value[0], value[1], value[2]


def _box(value: Any, place: str) -> Box:
    if not isinstance(value, list) or len(value) != 4 or not all(is_number(v) for v in value):
        raise DatasetError(f"{place}: box is {shown(value)}, expected x1, y1, x2, y2 as finite numbers")
    x1, y1, x2, y2 = (float(v) for v in value)
    return x1, y1, x2, y2


def _size(value: Any, place: str) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2 or not all(is_integer(v, 1) for v in value):
        raise DatasetError(f"{place}: size is {shown(value)}, expected width and height in pixels")
    return value[0], value[1]
