"""Recall of relations in images, objects given (PredCls): what stage 1 of training has learnt, and its baselines.

Each pair of objects gets one predicate, its best. R@K: of the K best pairs of an image, how many of the annotated
relations they hit, summed over images and divided by all relations. Annotators left most true relations out, so that
recall is all that can be measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence

import numpy as np

from psg4d_ros.data.scene_graph_2d import SceneGraph2D
from psg4d_ros.structures import Float32, Float64

Pair = tuple[int, int]
Triplet = tuple[str, str, str]
Answer = tuple[int, int, str]
# Scores of the pairs of images: graphs, the pairs of each -> float[R, n] of each, larger is likelier.
ImageScores = Callable[[Sequence[SceneGraph2D], Sequence[Sequence[Pair]]], Sequence[Float32 | Float64]]
_AT = (50, 100)
# So that a method that answers many pairs at once may, and a large data set still does not fill the memory.
_IMAGES_AT_ONCE = 64


def image_recall(
    graphs: Sequence[SceneGraph2D],
    predicates: Sequence[str],
    scores: ImageScores,
    seen: Collection[Triplet],
    *,
    all_pairs: bool = False,
) -> dict[str, float]:
    """R@50, R@100, mR@50 (mean over the predicates that occur) and zero_shot_R@50 (triplets not in ``seen``), 0 to 1.

    predicates: the columns of the scores. all_pairs: every ordered pair is asked, not those with a relation alone.
    Relations whose predicate is no column count as missed. A measure without any relation is left out.
    """
    total: Counter[str] = Counter()
    hits = {k: Counter[str]() for k in _AT}
    new_total, new_hits = 0, 0
    for start in range(0, len(graphs), _IMAGES_AT_ONCE):
        part = graphs[start : start + _IMAGES_AT_ONCE]
        asked = [_pairs(graph, all_pairs) for graph in part]
        for graph, pairs, table in zip(part, asked, scores(part, asked), strict=True):
            answers = _best(pairs, table, predicates)
            for r in graph.relations:
                words = graph.objects[r.subject].label, r.predicate, graph.objects[r.object].label
                rank = answers.get((r.subject, r.object, r.predicate), max(_AT))
                total[r.predicate] += 1
                for k in _AT:
                    hits[k][r.predicate] += rank < k
                if words not in seen:
                    new_total += 1
                    new_hits += rank < 50
    count = sum(total.values())
    if not count:
        return {}
    out = {f"R@{k}": hits[k].total() / count for k in _AT}
    out["mR@50"] = float(np.mean([hits[50][p] / n for p, n in total.items()]))
    if new_total:
        out["zero_shot_R@50"] = new_hits / new_total
    return out


def _pairs(graph: SceneGraph2D, all_pairs: bool) -> list[Pair]:
    if not all_pairs:
        return list(dict.fromkeys((r.subject, r.object) for r in graph.relations))
    n = len(graph.objects)
    return [(s, o) for s in range(n) for o in range(n) if s != o]


def _best(pairs: Sequence[Pair], table: Float32 | Float64, predicates: Sequence[str]) -> dict[Answer, int]:
    """(subject, object, predicate) of each pair's best predicate -> its rank in the image; ties keep the order."""
    if not pairs:
        return {}
    best = table.argmax(axis=1)
    order = np.argsort(-table[np.arange(len(pairs)), best], kind="stable")
    return {(*pairs[i], predicates[best[i]]): rank for rank, i in enumerate(order.tolist())}
