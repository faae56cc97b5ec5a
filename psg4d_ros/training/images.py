"""Scene graphs of images as training items: which predicates hold of pairs of labelled boxes.

No pixels are read: stage 1 learns from labels and boxes alone, which is what carries over to space. Unannotated pairs
serve as pairs without a relation. Every item follows from (seed, index) alone.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from psg4d_ros.config import knob
from psg4d_ros.data.files import check_folder
from psg4d_ros.data.scene_graph_2d import (
    Object2D,
    Relation2D,
    SceneGraph2D,
    read_hicodet,
    read_psg,
    read_vcoco,
    read_visual_genome,
    read_vrd,
)
from psg4d_ros.errors import DatasetError
from psg4d_ros.model.geometry import relative_geometry
from psg4d_ros.structures import Float32, Float64, Int64

# One image in so many of VRD is held out where its own test split is not at hand.
HELD_OUT_SHARE = 5
# Boxes of one label that overlap by this IoU are one object: HICO-DET draws a person anew for each thing it does, and
# the pairs across such copies would wrongly count as unrelated.
SAME_OBJECT_IOU = 0.5
# What stands for a label that is hidden from the model.
UNKNOWN_LABEL = "object"
_MIRRORED = {"left of": "right of", "right of": "left of"}


@dataclass(frozen=True)
class ImageRecipe:
    """How items are made of images."""

    max_objects: int = knob(16, "objects listed of an image, those of its pairs first", low=2, high=64)
    max_pairs: int = knob(24, "pairs of an image, half of them with a relation", low=2, high=1000)
    label_dropout: float = knob(0.1, "share of labels that are hidden", low=0.0, high=1.0)
    box_jitter: float = knob(0.03, "how far box edges move, as a share of the box's size", low=0.0, high=0.3)
    mirror: bool = knob(True, "mirror half of the images; left of and right of are swapped")
    extent_dropout: float = knob(0.2, "share of images whose place in the image is hidden", low=0.0, high=1.0)
    max_predicates: int = knob(150, "most frequent predicates of a data set that are learnt", low=1, high=4096)


@dataclass(frozen=True)
class ImageSource:
    """A data set: its images, and the predicates its annotators chose from (sorted), which alone compete there."""

    name: str
    predicates: tuple[str, ...]
    graphs: tuple[SceneGraph2D, ...]
    weight: int = 1


@dataclass(frozen=True, eq=False)
class ImageItem:
    """P labelled objects and R pairs of them.

    pairs: int64[R, 2] (subject, object). geometry: float32[R, G]. holds: bool[R, n], per predicate of ``predicates``; a
    row without any is a pair that nobody annotated.
    """

    name: str
    labels: tuple[str, ...]
    pairs: Tensor
    geometry: Tensor
    predicates: tuple[str, ...]
    holds: Tensor


@dataclass(frozen=True)
class ImageSources:
    """What stage 1 learns from, and the held-out images of VRD (None without VRD), with the predicates of its training
    part."""

    training: tuple[ImageSource, ...]
    held_out: ImageSource | None

    def triplets(self) -> set[tuple[str, str, str]]:
        """(subject, predicate, object) as words, of every training image."""
        return {t for source in self.training for graph in source.graphs for t in triplets(graph)}


def read_image_sources(folder: Path | str, max_predicates: int = ImageRecipe.max_predicates) -> ImageSources:
    """All data sets of scene graphs below ``folder``: vrd, vcoco, hicodet, visual_genome, psg, each in its own folder.

    Files have their data set's names (docs/datasets.md), gzipped or not. Held out is VRD's test split where the file is
    there, else a fixed fifth of its images. Raises DatasetError when there is none of them.
    """
    folder = Path(folder)
    check_folder(folder, "a folder with vrd, vcoco, hicodet, visual_genome or psg")
    training: list[ImageSource] = []
    held_out = None
    if train := _files(folder / "vrd", "vrd_train.json"):
        words = _files(folder / "vrd", "vocab.json")
        if not words:
            raise DatasetError(f"{folder / 'vrd'} has no vocab.json; expected it beside {train[0].name}")
        graphs: Sequence[SceneGraph2D] = read_vrd(train[0], words[0]).graphs
        if test := _files(folder / "vrd", "vrd_test.json"):
            rest: Sequence[SceneGraph2D] = read_vrd(test[0], words[0]).graphs
        else:
            rest = [g for g in graphs if _is_held_out(g)]
            graphs = [g for g in graphs if not _is_held_out(g)]
        # Twice as often as the others: it alone has where things are, and both kinds of subjects.
        training.append(_source("vrd", graphs, max_predicates, weight=2))
        held_out = replace(training[0], graphs=tuple(rest))
    if files := _files(folder / "vcoco", "instances_vcoco_*.json"):
        training.append(_source("vcoco", (g for f in files for g in read_vcoco(f).graphs), max_predicates))
    if files := _files(folder / "hicodet", "instances_*2015.json"):
        training.append(_source("hicodet", (g for f in files for g in read_hicodet(f).graphs), max_predicates))
    if files := _files(folder / "visual_genome", "objects.json") + _files(
        folder / "visual_genome", "relationships.json"
    ):
        if len(files) < 2:
            raise DatasetError(f"{files[0].parent} has {files[0].name} alone, expected objects and relationships")
        training.append(_source("visual_genome", read_visual_genome(files[0], files[1]).graphs, max_predicates))
    if files := _files(folder / "psg", "psg.json"):
        training.append(_source("psg", read_psg(files[0], test=False).graphs, max_predicates))
    if not training:
        raise DatasetError(f"{folder} has none of the folders vrd, vcoco, hicodet, visual_genome, psg with its files")
    return ImageSources(tuple(training), held_out)


class ImageDataset(torch.utils.data.Dataset[ImageItem]):
    """Items of the sources by turns, each source in a new order every time it has been gone through.

    An index is any number >= 0; ``len`` is how many items show each image of the slowest source once.
    """

    def __init__(self, sources: Sequence[ImageSource], recipe: ImageRecipe, seed: int) -> None:
        if not sources or not all(s.graphs for s in sources):
            raise DatasetError("there are no images with a relation to learn from")
        self._sources, self._recipe, self._seed = tuple(sources), recipe, seed
        self._turns = [(i, k) for i, source in enumerate(sources) for k in range(source.weight)]
        self._orders: dict[int, tuple[int, Int64]] = {}

    def __len__(self) -> int:
        return len(self._turns) * max(-(-len(s.graphs) // s.weight) for s in self._sources)

    def __getitem__(self, index: int) -> ImageItem:
        if index < 0:
            raise IndexError(f"index is {index}, expected 0 or more")
        round_, turn = divmod(index, len(self._turns))
        number, k = self._turns[turn]
        source = self._sources[number]
        epoch, place = divmod(round_ * source.weight + k, len(source.graphs))
        graph = source.graphs[self._order(number, epoch)[place]]
        return training_item(graph, source.predicates, self._recipe, np.random.default_rng((self._seed, index)))

    def _order(self, number: int, epoch: int) -> Int64:
        # Kept, since it is asked for a whole epoch long; it follows from its arguments.
        known = self._orders.get(number)
        if known is None or known[0] != epoch:
            rng = np.random.default_rng((self._seed, number, epoch, 1))
            known = self._orders[number] = epoch, rng.permutation(len(self._sources[number].graphs))
        return known[1]


def training_item(
    graph: SceneGraph2D, predicates: tuple[str, ...], recipe: ImageRecipe, rng: np.random.Generator
) -> ImageItem:
    """Annotated pairs and as many others, drawn at random; boxes, labels and the order of objects are varied."""
    if recipe.mirror and rng.random() < 0.5:
        graph = mirrored(graph)
    number = {name: i for i, name in enumerate(predicates)}
    said = annotated_pairs(graph)
    true = sorted(pair for pair, names in said.items() if any(n in number for n in names))
    n = len(graph.objects)
    others = [(s, o) for s in range(n) for o in range(n) if s != o and (s, o) not in said]
    rng.shuffle(true)
    rng.shuffle(others)
    true = true[: recipe.max_pairs // 2]
    listed: dict[int, None] = {}
    pairs: list[tuple[int, int]] = []
    for s, o in true + others[: max(len(true), 1)]:
        if len(listed.keys() | {s, o}) <= recipe.max_objects:
            listed |= {s: None, o: None}
            pairs.append((s, o))
    listed |= dict.fromkeys(rng.permutation(n).tolist()[: max(recipe.max_objects - len(listed), 0)])
    order = rng.permutation(list(listed)[: recipe.max_objects]).tolist()
    labels = tuple(UNKNOWN_LABEL if rng.random() < recipe.label_dropout else graph.objects[i].label for i in order)
    boxes = np.array([o.box for o in graph.objects], dtype=np.float64).reshape(n, 4)
    size = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    boxes += np.clip(rng.normal(0.0, recipe.box_jitter, boxes.shape), -0.3, 0.3) * size
    extent = None if rng.random() < recipe.extent_dropout else image_extent(graph, boxes)
    holds = np.zeros((len(pairs), len(predicates)), dtype=bool)
    for row, pair in enumerate(pairs):
        holds[row, [number[name] for name in said.get(pair, ()) if name in number]] = True
    place = {i: k for k, i in enumerate(order)}
    return ImageItem(
        name=graph.image_id,
        labels=labels,
        pairs=torch.tensor([(place[s], place[o]) for s, o in pairs], dtype=torch.int64).reshape(-1, 2),
        geometry=torch.from_numpy(pair_geometry(boxes, pairs, extent)),
        predicates=predicates,
        holds=torch.from_numpy(holds),
    )


def question_item(graph: SceneGraph2D, pairs: Sequence[tuple[int, int]], predicates: tuple[str, ...]) -> ImageItem:
    """An image as it is, with all its objects, asked for ``pairs``; ``holds`` says nothing."""
    boxes = np.array([o.box for o in graph.objects], dtype=np.float64).reshape(-1, 4)
    return ImageItem(
        name=graph.image_id,
        labels=tuple(o.label for o in graph.objects),
        pairs=torch.tensor(list(pairs), dtype=torch.int64).reshape(-1, 2),
        geometry=torch.from_numpy(pair_geometry(boxes, pairs, image_extent(graph, boxes))),
        predicates=predicates,
        holds=torch.zeros(len(pairs), len(predicates), dtype=torch.bool),
    )


def annotated_pairs(graph: SceneGraph2D) -> dict[tuple[int, int], list[str]]:
    """(subject, object) -> predicates, in the order of the file."""
    said: dict[tuple[int, int], list[str]] = {}
    for r in graph.relations:
        said.setdefault((r.subject, r.object), []).append(r.predicate)
    return said


def triplets(graph: SceneGraph2D) -> Iterable[tuple[str, str, str]]:
    """(subject, predicate, object) of each relation, as words."""
    for r in graph.relations:
        yield graph.objects[r.subject].label, r.predicate, graph.objects[r.object].label


def image_extent(graph: SceneGraph2D, boxes: Float64) -> Float64:
    """float64[4]: the whole image where its size is known, else what the boxes (float64[P, 4]) span."""
    if graph.width is None or graph.height is None:
        return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
    return np.array([0.0, 0.0, graph.width, graph.height])


def pair_geometry(boxes: Float64, pairs: Sequence[tuple[int, int]], extent: Float64 | None) -> Float32:
    """float32[R, G] of pairs of boxes in an image."""
    rows = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return relative_geometry(boxes[rows[:, 0]], boxes[rows[:, 1]], 2, extent=extent)


def mirrored(graph: SceneGraph2D) -> SceneGraph2D:
    """Left and right swapped, in boxes and predicates."""
    width = graph.width if graph.width is not None else max(o.box[2] for o in graph.objects)
    objects = tuple(replace(o, box=(width - o.box[2], o.box[1], width - o.box[0], o.box[3])) for o in graph.objects)
    relations = tuple(replace(r, predicate=_MIRRORED.get(r.predicate, r.predicate)) for r in graph.relations)
    return replace(graph, objects=objects, relations=relations)


def merged(graph: SceneGraph2D) -> SceneGraph2D:
    """Objects of one label whose boxes nearly coincide become the first of them, with the relations of all."""
    kept: list[Object2D] = []
    stands_for: list[int] = []
    for thing in graph.objects:
        same = (i for i, k in enumerate(kept) if k.label == thing.label and _iou(k.box, thing.box) >= SAME_OBJECT_IOU)
        found = next(same, len(kept))
        if found == len(kept):
            kept.append(thing)
        stands_for.append(found)
    moved = (Relation2D(stands_for[r.subject], r.predicate, stands_for[r.object]) for r in graph.relations)
    relations = tuple(dict.fromkeys(r for r in moved if r.subject != r.object))
    return replace(graph, objects=tuple(kept), relations=relations)


def _iou(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    common = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return common / (area - common)


def _source(name: str, graphs: Iterable[SceneGraph2D], max_predicates: int, weight: int = 1) -> ImageSource:
    """The images that have a relation, and the predicates that they have."""
    kept = tuple(g for g in map(merged, graphs) if g.relations)
    counts = Counter(r.predicate for g in kept for r in g.relations)
    # Ties by name, so that the choice does not depend on the order of the files.
    frequent = sorted(counts, key=lambda p: (-counts[p], p))[:max_predicates]
    return ImageSource(name, tuple(sorted(frequent)), kept, weight)


def _is_held_out(graph: SceneGraph2D) -> bool:
    return zlib.crc32(graph.image_id.encode()) % HELD_OUT_SHARE == 0


def _files(folder: Path, pattern: str) -> list[Path]:
    """Files of that name, gzipped or not, in order."""
    return sorted([*folder.glob(pattern), *folder.glob(f"{pattern}.gz")])
