"""Recall of relations over scenes: R@K, mR@K, zero-shot recall, and what the truth itself reaches (docs/metrics.md).

Numpy only; scenes of 100 relations take milliseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psg4d_ros.evaluation.matching import Protocol, Relations, Scene, match, overlap_values, rank
from psg4d_ros.structures import Float64, Int64

KS = (20, 50, 100)
PROTOCOLS: tuple[Protocol, ...] = ("tube", "frame_hit")
Triplet = tuple[str, str, str]  # labels of subject, predicate, object


@dataclass(frozen=True, eq=False)
class SceneFinds:
    """What a scene's ranked predictions found. found: int64[R], a row of ``predicates`` or -1, best prediction first.

    predicates: of the n true relations.
    """

    found: Int64
    predicates: tuple[str, ...]

    def hits(self, k: int) -> NDArray[np.bool_]:
        """bool[n]: true relations found by the k best predictions."""
        out = np.zeros(len(self.predicates), bool)
        first = self.found[:k]
        out[first[first >= 0]] = True
        return out


@dataclass(frozen=True)
class RecallTable:
    """Fractions in [0, 1] by K; None where there is no true relation at all.

    R, mR: pooled, sums over scenes. R_per_scene, mR_per_scene: means over scenes (mR: for each predicate over the
    scenes that have it, then over predicates). by_predicate: pooled recall and count of each predicate.
    """

    R: dict[int, float | None]
    mR: dict[int, float | None]
    R_per_scene: dict[int, float | None]
    mR_per_scene: dict[int, float | None]
    by_predicate: dict[str, dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Without by_predicate; K becomes text, as JSON wants it."""
        names = ("R", "mR", "R_per_scene", "mR_per_scene")
        return {name: {str(k): v for k, v in getattr(self, name).items()} for name in names}


def recall_table(scenes: Sequence[SceneFinds], ks: Sequence[int] = KS) -> RecallTable:
    """Recall over scenes. Scenes without true relations do not count.

    Two scenes: one with "on" found and "holding" missed, one with its only "on" found. Of three relations two are
    found; "on" has recall 1, "holding" 0.

    >>> first, second = SceneFinds(np.array([-1, 0]), ("on", "holding")), SceneFinds(np.array([0]), ("on",))
    >>> table = recall_table([first, second], [1, 2])
    >>> table.R[2], table.mR[2], table.R_per_scene[2]
    (0.6666666666666666, 0.5, 0.75)
    >>> table.R[1], table.mR[1], table.R_per_scene[1]  # the first scene's best prediction found nothing
    (0.3333333333333333, 0.25, 0.5)
    """
    scenes = [s for s in scenes if s.predicates]
    names = sorted({p for s in scenes for p in s.predicates})
    column = {name: i for i, name in enumerate(names)}
    total = np.zeros((len(scenes), len(names)))
    hits = {k: np.zeros((len(scenes), len(names))) for k in ks}
    for i, scene in enumerate(scenes):
        of = np.array([column[p] for p in scene.predicates])
        total[i] = np.bincount(of, minlength=len(names))
        for k in ks:
            hits[k][i] = np.bincount(of[scene.hits(k)], minlength=len(names))
    occurs = total > 0
    fraction = {k: np.divide(h, total, out=np.zeros_like(h), where=occurs) for k, h in hits.items()}
    by_predicate = {
        name: {
            "count": int(total[:, i].sum()),
            "R": {str(k): float(h[:, i].sum() / total[:, i].sum()) for k, h in hits.items()},
        }
        for name, i in column.items()
    }
    return RecallTable(
        R={k: _mean_or_none(h.sum(), total.sum()) for k, h in hits.items()},
        mR={k: _average(h.sum(axis=0) / total.sum(axis=0)) for k, h in hits.items()},
        R_per_scene={k: _average(h.sum(axis=1) / total.sum(axis=1)) for k, h in hits.items()},
        mR_per_scene={k: _average(f.sum(axis=0) / occurs.sum(axis=0)) for k, f in fraction.items()},
        by_predicate=by_predicate,
    )


def find(
    scene: Scene, protocol: Protocol, k: int = max(KS), *, labels: bool, graph_constraint: bool = True
) -> SceneFinds:
    """Match the k best predictions of a scene. labels: Triplet recall; without: Predicate recall."""
    ranked = rank(scene.prediction.relations, scene.prediction.score, k, graph_constraint=graph_constraint)
    values = overlap_values(scene, ranked, protocol, labels=labels)
    return SceneFinds(match(values), scene.truth.relations.predicate)


def ceiling_table(scenes: Sequence[Scene], ks: Sequence[int] = KS, *, graph_constraint: bool = True) -> RecallTable:
    """What the truth fed back reaches with K predictions a scene: each finds a true relation, rare predicates first.

    R is min(K, n) / n; under the graph constraint n counts, above the line, one relation per pair and start frame.
    Without the constraint nothing can reach more R, mR or R_per_scene. Under it, spans that start a little apart can.
    """
    truths = [s.truth.relations for s in scenes]
    said = (rank(t, w, max(ks), graph_constraint=graph_constraint) for t, w in zip(truths, rarity(truths), strict=True))
    return recall_table([SceneFinds(found, t.predicate) for found, t in zip(said, truths, strict=True)], ks)


def rarity(truths: Sequence[Relations]) -> list[Float64]:
    """Per scene float64[n]: what each true relation is worth in pooled mean recall: one over its predicate's count.

    A perfect predictor that may say no more than K things says the rare ones first.
    """
    count = Counter(p for truth in truths for p in truth.predicate)
    return [np.array([1.0 / count[p] for p in truth.predicate]) for truth in truths]


def zero_shot(scene: Scene, finds: SceneFinds, seen: Collection[Triplet]) -> SceneFinds:
    """Restrict what a scene's predictions found to true relations whose triplet is not among ``seen``."""
    labels, truth = scene.truth.labels, scene.truth.relations
    new = np.array(
        [
            (labels[s], p, labels[o]) not in seen
            for s, p, o in zip(truth.subject, truth.predicate, truth.object, strict=True)
        ],
        bool,
    )
    renumber = np.where(new, np.cumsum(new) - 1, -1)
    found = np.where(finds.found >= 0, renumber[finds.found] if len(new) else -1, -1)
    return SceneFinds(found.astype(np.int64), tuple(p for p, keep in zip(finds.predicates, new, strict=True) if keep))


def relation_metrics(
    scenes: Sequence[Scene], ks: Sequence[int] = KS, seen: Collection[Triplet] | None = None
) -> dict[str, Any]:
    """All recalls of the two protocols as JSON values: [protocol]["predicate" | "triplet"]["R" | "mR" | ...][K].

    Beside R and mR: "ceiling", "unconstrained" (several predicates per pair and start frame, with its own ceiling),
    "by_predicate", and with ``seen`` (the triplets of the training set) "zero_shot".
    """
    k = max(ks)
    constrained, free = (ceiling_table(scenes, ks, graph_constraint=c).to_json() for c in (True, False))
    out: dict[str, Any] = {}
    for protocol in PROTOCOLS:
        out[protocol] = {}
        for name, labels in (("predicate", False), ("triplet", True)):
            finds = [find(s, protocol, k, labels=labels) for s in scenes]
            many = [find(s, protocol, k, labels=labels, graph_constraint=False) for s in scenes]
            table = recall_table(finds, ks)
            entry = {**table.to_json(), "ceiling": constrained, "by_predicate": table.by_predicate}
            entry["unconstrained"] = {**recall_table(many, ks).to_json(), "ceiling": free}
            if seen is not None:
                new = [zero_shot(s, f, seen) for s, f in zip(scenes, finds, strict=True)]
                relations = sum(len(f.predicates) for f in new)
                entry["zero_shot"] = {**recall_table(new, ks).to_json(), "relations": relations}
            out[protocol][name] = entry
    return out


def _mean_or_none(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _average(values: Float64) -> float | None:
    return float(values.mean()) if values.size else None
