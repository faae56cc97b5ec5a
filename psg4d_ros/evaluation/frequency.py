"""The frequency prior: how often two labels stand in a relation, whatever is seen. The first thing to beat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from psg4d_ros.data.recording import Recording
from psg4d_ros.evaluation.matching import Relations
from psg4d_ros.evaluation.tubes import Tubes
from psg4d_ros.structures import Float64, Int64
from psg4d_ros.vocabulary import Vocabulary

BACK_OFF = 3.0  # a label pair seen this often counts as much as what it backs off to


@dataclass
class _Counts:
    """pairs: of objects. relations: of those pairs that have each predicate at some time."""

    pairs: int
    relations: Counter[str]


class FrequencyPrior:
    """P(predicate | label of the subject, label of the object), from annotations alone.

    Counted are ordered pairs of objects of a training scene, and which of them have the predicate at some time. A pair
    of labels that was seen n times is mixed, n to BACK_OFF, with the mean of what the subject's and the object's label
    say alone, and those likewise with what holds for all pairs.
    """

    def __init__(self) -> None:
        self.scenes = 0
        self._tables: dict[tuple[str | None, str | None], _Counts] = {}

    @classmethod
    def fit(cls, recordings: Iterable[Recording], words: Vocabulary) -> FrequencyPrior:
        """Count annotated recordings."""
        prior = cls()
        for recording in recordings:
            prior.count(recording, words)
        return prior

    def count(self, recording: Recording, words: Vocabulary) -> None:
        """Take one more training scene."""
        label = {o.object_id: words.canonical(o.label) for o in recording.objects}
        said: dict[tuple[int, int], set[str]] = {}
        for r in recording.relations:
            said.setdefault((r.subject_id, r.object_id), set()).add(words.canonical_predicate(r.predicate))
        self.count_pairs(label, said)

    def count_pairs(self, label: Mapping[int, str], said: Mapping[tuple[int, int], Collection[str]]) -> None:
        """Take all ordered pairs of one scene or image. label: by object. said: predicates of the pairs with any."""
        self.scenes += 1
        for subject in label:
            for object_ in label:
                if subject != object_:
                    predicates = said.get((subject, object_), ())
                    a, b = label[subject], label[object_]
                    for key in ((a, b), (a, None), (None, b), (None, None)):
                        table = self._tables.setdefault(key, _Counts(0, Counter()))
                        table.pairs += 1
                        table.relations.update(predicates)

    def probabilities(self, subject: str, object_: str) -> dict[str, float]:
        """Of every predicate that any pair of the training scenes has."""
        everything = self._tables.get((None, None), _Counts(0, Counter()))
        overall = {p: n / everything.pairs for p, n in everything.relations.items()}
        by_subject = self._mixed((subject, None), overall)
        by_object = self._mixed((None, object_), overall)
        return self._mixed((subject, object_), {p: (by_subject[p] + by_object[p]) / 2 for p in overall})

    def relate(self, tubes: Tubes) -> tuple[Relations, Float64]:
        """Every predicate of every ordered pair, over the time that both objects are there; its score is its
        probability."""
        first, end = tubes.lifetimes()
        start, stop = np.maximum.outer(first, first), np.minimum.outer(end, end)
        subjects, objects = np.nonzero((start < stop) & ~np.eye(len(first), dtype=bool))
        known: dict[tuple[str, str], list[tuple[str, float]]] = {}
        rows: list[tuple[int, int, str]] = []
        score: list[float] = []
        for s, o in zip(subjects.tolist(), objects.tolist(), strict=True):
            pair = tubes.labels[s], tubes.labels[o]
            if pair not in known:
                known[pair] = sorted(self.probabilities(*pair).items())
            for predicate, probability in known[pair]:
                rows.append((s, o, predicate))
                score.append(probability)
        subject, object_ = (np.array([r[i] for r in rows], np.int64) for i in (0, 1))
        names = tuple(r[2] for r in rows)
        relations = Relations(subject, names, object_, _at(start, subject, object_), _at(stop, subject, object_))
        return relations, np.array(score, np.float64)

    def _mixed(self, key: tuple[str | None, str | None], fallback: dict[str, float]) -> dict[str, float]:
        table = self._tables.get(key, _Counts(0, Counter()))
        return {p: (table.relations[p] + BACK_OFF * q) / (table.pairs + BACK_OFF) for p, q in fallback.items()}


def _at(table: Int64, rows: Int64, columns: Int64) -> Int64:
    out: Int64 = table[rows, columns].astype(np.int64)
    return out
