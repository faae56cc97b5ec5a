"""What a pipeline said of a recording, collected from its scene graphs.

A frame's predicted mask is that of the graph whose newest frame it is: the first window that contains it, so nothing is
judged by what was only known later. An object's label, and the score and span of a relation, are the last that were
said of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from psg4d_ros.evaluation.attributes import ObjectAttributes
from psg4d_ros.evaluation.matching import Relations, ScenePrediction
from psg4d_ros.structures import Float64, Int64, Relation, SceneGraph
from psg4d_ros.vocabulary import Vocabulary

_Key = tuple[int, int, str, int]  # epoch, subject track, predicate, object track


@dataclass(frozen=True)
class _Named:
    label: str
    is_thing: bool
    score: float


class GraphCollector:
    """Takes the graphs of one recording, one per evaluated frame, in order of time.

    given: object_id -> column, when tubes are given and track ids are therefore object ids; None: tracks are numbered
    as they appear, each epoch's on their own.
    """

    def __init__(self, words: Vocabulary, given: Mapping[int, int] | None = None) -> None:
        self._words = words
        self._given = given
        self._columns: dict[tuple[int, int], int] = {}
        self._named: dict[int, _Named] = {}
        self._spans: dict[_Key, list[Relation]] = {}
        self._attributes: ObjectAttributes = {}
        self._frames = 0

    def add(self, graph: SceneGraph) -> Int64:
        """Take a graph; int64[N] whose each point of its newest frame is: 0 = nobody's, i + 1 = object i."""
        column_of = {o.track_id: self._column(graph.epoch, o.track_id) for o in graph.objects}
        for o in graph.objects:
            column = column_of[o.track_id]
            self._named[column] = _Named(self._words.canonical(o.label), o.is_thing, o.score)
            if o.num_points and o.attributes:
                self._attributes[self._frames, column] = frozenset(o.attributes)
        self._take_relations(graph)
        self._frames += 1
        tracks = np.array([0, *column_of], np.int64)
        columns = np.array([0, *(c + 1 for c in column_of.values())], np.int64)
        order = np.argsort(tracks)
        found = order[np.searchsorted(tracks[order], graph.cloud.track_id.astype(np.int64))]
        return columns[found]

    def skip(self) -> None:
        """An evaluated frame without a graph: nothing was said of it."""
        self._frames += 1

    @property
    def attributes(self) -> ObjectAttributes:
        """By (evaluated frame, object), of the objects that have a point there."""
        return self._attributes

    def objects(self) -> tuple[tuple[str, ...], tuple[bool, ...]]:
        """Labels and kinds of all objects in the order of their columns; a given one that no graph named is ""."""
        named = self._in_order()
        return tuple(n.label for n in named), tuple(n.is_thing for n in named)

    def relations(self, stamps_ns: Int64) -> tuple[Relations, Float64]:
        """All relations that were said, and their scores. stamps_ns: int64[F'] of the evaluated frames."""
        rows: list[tuple[int, str, int, int, int]] = []
        score: list[float] = []
        for (epoch, subject, predicate, object_), spans in self._spans.items():
            for r in spans:
                start, end = np.searchsorted(stamps_ns, (r.start_ns, r.end_ns)).tolist()
                rows.append((self._column(epoch, subject), predicate, self._column(epoch, object_), start, end))
                score.append(r.score)
        return Relations.from_rows(rows), np.array(score, np.float64)

    def prediction(self, stamps_ns: Int64) -> ScenePrediction:
        """Objects and relations together, ranked as those of ``psg4d eval`` are."""
        labels, is_thing = self.objects()
        relations, score = self.relations(stamps_ns)
        return ScenePrediction(labels, is_thing, relations, score * self.sure_of_objects(relations))

    def sure_of_objects(self, relations: Relations) -> Float64:
        """float64[n]: the product of the scores of each relation's two objects. A relation of what may not be there, or
        may be something else, is no surer than that; objects of the truth have a score of 1."""
        sure = np.array([n.score for n in self._in_order()], np.float64)
        product: Float64 = sure[relations.subject] * sure[relations.object]
        return product

    def _in_order(self) -> list[_Named]:
        """What was last said of each object, by column."""
        count = len(self._columns) if self._given is None else len(self._given)
        return [self._named.get(i, _Named("", True, 0.0)) for i in range(count)]

    def _column(self, epoch: int, track_id: int) -> int:
        if self._given is not None:
            return self._given[track_id]
        return self._columns.setdefault((epoch, track_id), len(self._columns))

    def _take_relations(self, graph: SceneGraph) -> None:
        """A span grows, also backwards, and merges with others from graph to graph: the newer word replaces the spans
        that it overlaps. Spans that a graph no longer holds (their track was lost) stay as they were last said."""
        current: dict[_Key, list[Relation]] = {}
        for r in graph.relations:
            key = (graph.epoch, r.subject_id, self._words.canonical_predicate(r.predicate), r.object_id)
            current.setdefault(key, []).append(r)
        for key, new in current.items():
            old = [s for s in self._spans.get(key, []) if not any(_overlap(s, r) for r in new)]
            self._spans[key] = [*old, *new]


def _overlap(a: Any, b: Any) -> bool:
    return bool(a.start_ns < b.end_ns and b.start_ns < a.end_ns)
