"""Whether scores mean what they say: of relations given 0.7, seven in ten should be right (docs/metrics.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from psg4d_ros.evaluation.matching import Scene, rank
from psg4d_ros.evaluation.metrics import KS, find
from psg4d_ros.structures import Float64

BINS = 10


def calibration_metrics(scenes: Sequence[Scene], k: int = max(KS)) -> dict[str, Any] | None:
    """Of each scene's k best relations (several per pair allowed): expected calibration error, Brier score and bins.

    A relation is right when it finds a true one by the tube protocol with both labels. None without relations. Raises
    ValueError for scores outside [0, 1].
    """
    scores, right = [np.zeros(0)], [np.zeros(0, bool)]
    for scene in scenes:
        ranked = rank(scene.prediction.relations, scene.prediction.score, k, graph_constraint=False)
        scores.append(scene.prediction.score[ranked])
        right.append(find(scene, "tube", k, labels=True, graph_constraint=False).found >= 0)
    return calibration(np.concatenate(scores), np.concatenate(right).astype(np.float64))


def calibration(score: Float64, right: Float64) -> dict[str, Any] | None:
    """Calibration of float64[n] scores in [0, 1] against outcomes of 0 or 1.

    ECE: over BINS bins of equal width, the mean of |share right - mean score|, weighted by the bins' counts.

    Ten relations of score 0.9, eight of them right, and ten of 0.2, two of them right:

    >>> result = calibration(np.repeat([0.9, 0.2], 10), np.array([1.0] * 8 + [0.0] * 10 + [1.0] * 2))
    >>> round(result["ECE"], 3), round(result["Brier"], 3)
    (0.05, 0.165)
    """
    if not len(score):
        return None
    if score.min() < 0.0 or score.max() > 1.0:
        raise ValueError(f"scores span {score.min()}..{score.max()}, expected probabilities in [0, 1]")
    in_bin = np.minimum((score * BINS).astype(np.int64), BINS - 1)
    count = np.bincount(in_bin, minlength=BINS)
    confidence = np.bincount(in_bin, score, minlength=BINS) / np.maximum(count, 1)
    accuracy = np.bincount(in_bin, right, minlength=BINS) / np.maximum(count, 1)
    return {
        "ECE": float((count * np.abs(accuracy - confidence)).sum() / count.sum()),
        "Brier": float(((score - right) ** 2).mean()),
        "relations": int(count.sum()),
        "bins": [
            {"from": i / BINS, "count": int(count[i]), "score": float(confidence[i]), "right": float(accuracy[i])}
            for i in range(BINS)
            if count[i]
        ],
    }
