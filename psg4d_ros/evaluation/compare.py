"""Two replays of the same recordings: what got better, what worse, and what is no more than noise (docs/replay.md).

Noise is estimated by bootstrap: the recordings are drawn anew with replacement, the same ones for both results, and the
difference is computed each time. A difference counts when the middle 95 % of those lie on one side of zero. With few
recordings, what they consist of is drawn instead: true relations, and windows in blocks, since a window shares all but
one of its frames with the next. That says how far the result hangs on single relations or moments, not how another
scene would have come out; nor does it know how two runs of one setting differ in time, so latencies are best compared
on an idle machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from psg4d_ros.errors import DatasetError
from psg4d_ros.evaluation.measures import MASKS, RECALLS, measure
from psg4d_ros.evaluation.stability import window_series
from psg4d_ros.structures import Float64, Int64

# Of fewer recordings, what they consist of is drawn; of fewer of those (relations, blocks of windows), nothing is said:
# that all of five lie on one side happens by chance once in 16 times.
MIN_UNITS = 6
SAMPLES = 1000
INTERVAL = (2.5, 97.5)  # percentiles

_LOWER_IS_BETTER = ("id_switches", "label_flicker", "relation_churn", "latency", "frames_dropped", "memory")
_Statistic = Callable[[Float64], float]


@dataclass(frozen=True)
class _Rows:
    """What a measure is computed from: the same rows of both results.

    a, b: float64[n, C]. scene: int64[n] which recording each row is of. block: rows that are drawn together where rows
    are drawn, 1 for independent ones.
    """

    what: str
    a: Float64
    b: Float64
    scene: Int64
    block: int = 1


def load_result(path: Path) -> dict[str, Any]:
    """A result of `psg4d replay --json`. Raises DatasetError for what is none."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise DatasetError(f"{path} is not JSON: {error}") from error
    if not isinstance(result, dict) or "windows" not in result or not ({"graphs", "bags"} & result.keys()):
        raise DatasetError(f"{path} is not a result of `psg4d replay --json`")
    return result


def compare(a: Mapping[str, Any], b: Mapping[str, Any], *, seed: int = 0, samples: int = SAMPLES) -> dict[str, Any]:
    """Compare result ``b`` with result ``a`` (JSON values of one or many bags), over the recordings that both hold.

    ``measures`` has for each one the values, their difference b - a, its interval (None where there is too little to
    draw from) and the verdict: better, worse, same, within noise, or unknown. Raises DatasetError when no recording is
    in both.
    """
    ours, theirs = _bags(a), _bags(b)
    names = sorted(ours.keys() & theirs.keys())
    if not names:
        raise DatasetError(
            f"the results have no recording in common: {', '.join(ours) or 'none'} here, "
            f"{', '.join(theirs) or 'none'} there"
        )
    pairs = [(ours[n], theirs[n]) for n in names]
    rng = np.random.default_rng(seed)
    by_scene = len(names) >= MIN_UNITS
    found: dict[str, Any] = {}
    for rows, statistics in (_recalls(pairs), _masks(pairs), _windows(pairs), _times(pairs)):
        if rows is None:
            continue
        draws = _draws(rows, by_scene, samples, rng)
        for name, statistic in statistics.items():
            if np.isfinite([statistic(rows.a), statistic(rows.b)]).any():  # measured at all
                found[name] = _judge(name, rows, statistic, draws, by_scene)
    for name in ("frames_dropped", "memory_mb.peak"):
        values = [[v for r in side if (v := measure(r, name)) is not None] for side in zip(*pairs, strict=True)]
        if all(len(v) == len(pairs) for v in values):
            x, y = (sum(v) if name == "frames_dropped" else max(v) for v in values)
            found[name] = _entry(name, x, y, None, "")
    return {
        "recordings": names,
        "only_in_one": sorted(ours.keys() ^ theirs.keys()),
        "models": [_model(side[0]) for side in zip(*pairs, strict=True)],
        "settings": _changed(pairs[0][0]["config"], pairs[0][1]["config"]),
        "seed": seed,
        "samples": samples,
        "measures": found,
    }


def _bags(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Results by recording; a bag's folder and its single file are the same recording."""
    return {Path(r["bag"]).stem: r for r in result.get("bags", [result])}


def _model(result: Mapping[str, Any]) -> str:
    return f"{result['model']['id']} {str(result['model']['sha256'])[:8]}"


def _changed(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> dict[str, list[Any]]:
    """Settings that differ, as key -> [a, b]."""
    out: dict[str, list[Any]] = {}
    for key in sorted(a.keys() | b.keys()):
        x, y = a.get(key), b.get(key)
        if isinstance(x, Mapping) and isinstance(y, Mapping):
            out |= _changed(x, y, f"{prefix}{key}.")
        elif x != y:
            out[f"{prefix}{key}"] = [x, y]
    return out


_Pairs = Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]
_Part = tuple[_Rows | None, dict[str, _Statistic]]


def _recalls(pairs: _Pairs) -> _Part:
    """Rows: true relations. Columns: predicate, then the rank at which each kind of match found it (inf: never)."""
    kinds = sorted({name.rsplit(".", 1)[0] for name in RECALLS})
    words: dict[str, int] = {}
    sides: tuple[list[Float64], list[Float64]] = ([], [])
    scenes = []
    for number, pair in enumerate(pairs):
        truths = [r.get("metrics", {}).get("by_scene") for r in pair]
        if None in truths or truths[0][0]["predicates"] != truths[1][0]["predicates"]:
            continue  # without truth, or other frames were judged
        for side, (scene,) in zip(sides, truths, strict=True):
            columns: list[list[float]] = [[words.setdefault(p, len(words)) for p in scene["predicates"]]]
            columns += [[np.inf if rank is None else rank for rank in scene[kind]] for kind in kinds]
            side.append(np.array(columns, np.float64).T)
        scenes.append(np.full(len(truths[0][0]["predicates"]), number))
    if not sum(map(len, scenes)):
        return None, {}

    def recall(kind: int, k: int, mean: bool) -> _Statistic:
        def of(rows: Float64) -> float:
            hit = rows[:, 1 + kind] <= k
            if not mean:
                return float(hit.mean())
            of_word = rows[:, 0].astype(np.int64)
            total = np.bincount(of_word, minlength=len(words))
            return float((np.bincount(of_word, hit, len(words))[total > 0] / total[total > 0]).mean())

        return of

    statistics = {}
    for name in RECALLS:
        kind, _, recall_name = name.rpartition(".")
        statistics[name] = recall(kinds.index(kind), int(recall_name.split("@")[1]), recall_name.startswith("mR"))
    a, b = (np.concatenate(side) for side in sides)
    return _Rows("true relations", a, b, np.concatenate(scenes)), statistics


def _masks(pairs: _Pairs) -> _Part:
    """Rows: recordings. Columns: their panoptic metrics, of which the mean is compared."""
    names = [name for name in MASKS if name.split(".")[1] in ("PQ", "LSTQ", "tube_IoU", "id_switches")]
    both = [[r.get("metrics", {}).get("by_scene") for r in pair] for pair in pairs]
    rows = [
        [[np.nan if (v := scene["panoptic"][n.split(".")[1]]) is None else v for n in names] for (scene,) in pair]
        for pair in both
        if None not in pair
    ]
    if not rows:
        return None, {}
    values = np.array(rows, np.float64)
    statistics: dict[str, _Statistic] = {name: _mean(i) for i, name in enumerate(names)}
    return _Rows("recordings", values[:, 0], values[:, 1], np.arange(len(values))), statistics


def _windows(pairs: _Pairs) -> _Part:
    """Rows: windows that both results have. Columns: the measures of stability."""
    series = [[window_series(r["graphs"]) for r in pair] for pair in pairs]
    names = list(series[0][0])
    values = [[np.array([s[n] for n in names], np.float64).T for s in pair] for pair in series]
    statistics: dict[str, _Statistic] = {
        f"stability.{n}": (_sum if n == "id_switches" else _mean)(i) for i, n in enumerate(names)
    }
    return _by_window(pairs, values), statistics


def _times(pairs: _Pairs) -> _Part:
    """Rows: windows that both results have. Column: how long they took in all."""
    times = [[r.get("runtime", {}).get("total_ms") for r in pair] for pair in pairs]
    if any(t is None for pair in times for t in pair):
        return None, {}
    values = [[np.array(t, np.float64)[:, None] for t in pair] for pair in times]
    return _by_window(pairs, values), {f"latency_ms.total.p{p}": _percentile(p) for p in (50, 95, 99)}


def _by_window(pairs: _Pairs, values: Sequence[Sequence[Float64]]) -> _Rows | None:
    a, b, scene, block = [], [], [], 1
    for number, (pair, (of_a, of_b)) in enumerate(zip(pairs, values, strict=True)):
        stamps = [np.array([g["stamp_ns"] for g in r["graphs"]], np.int64) for r in pair]
        _, in_a, in_b = np.intersect1d(stamps[0], stamps[1], return_indices=True)
        a.append(of_a[in_a])
        b.append(of_b[in_b])
        scene.append(np.full(len(in_a), number))
        block = max(block, *(int(r["config"]["window"]["num_frames"]) for r in pair))
    if not sum(map(len, a)):
        return None
    return _Rows("windows", np.concatenate(a), np.concatenate(b), np.concatenate(scene), block)


def _mean(column: int) -> _Statistic:
    def of(rows: Float64) -> float:
        known = rows[:, column][np.isfinite(rows[:, column])]
        return float(known.mean()) if known.size else float("nan")

    return of


def _sum(column: int) -> _Statistic:
    return lambda rows: float(np.nansum(rows[:, column]))


def _percentile(p: int) -> _Statistic:
    return lambda rows: float(np.percentile(rows[:, 0], p))


def _draws(rows: _Rows, by_scene: bool, samples: int, rng: np.random.Generator) -> list[Int64] | None:
    """Row numbers of each sample; None where there is too little to draw from."""
    if by_scene:
        groups = [np.flatnonzero(rows.scene == s) for s in np.unique(rows.scene)]
        if len(groups) < MIN_UNITS:
            return None
        chosen = rng.integers(0, len(groups), (samples, len(groups)))
        return [np.concatenate([groups[i] for i in choice]) for choice in chosen]
    count, block = len(rows.a), rows.block
    blocks = -(-count // block)
    if count // block < MIN_UNITS:
        return None
    # Blocks run on from the last row to the first, so that each row is drawn equally often.
    starts = rng.integers(0, count, (samples, blocks))
    return list(((starts[:, :, None] + np.arange(block)) % count).reshape(samples, -1)[:, :count])


def _judge(name: str, rows: _Rows, statistic: _Statistic, draws: list[Int64] | None, by_scene: bool) -> dict[str, Any]:
    a, b = statistic(rows.a), statistic(rows.b)
    what = f"{len(np.unique(rows.scene))} recordings" if by_scene else f"{len(rows.a)} {rows.what}"
    interval = None
    if draws is not None:
        spread = np.array([statistic(rows.b[i]) - statistic(rows.a[i]) for i in draws])
        spread = spread[np.isfinite(spread)]
        if spread.size:
            low, high = np.percentile(spread, INTERVAL)
            interval = [float(low), float(high)]
    return _entry(name, a, b, interval, what)


def _entry(name: str, a: float, b: float, interval: list[float] | None, drawn: str) -> dict[str, Any]:
    def known(value: float) -> float | None:
        return round(value, 6) if np.isfinite(value) else None

    difference = b - a
    if not np.isfinite(difference):
        verdict = "unknown"
    elif difference == 0.0 and (interval is None or interval[0] == interval[1] == 0.0):
        verdict = "same"
    elif interval is None:
        verdict = "unknown"
    elif interval[0] <= 0.0 <= interval[1]:
        verdict = "within noise"
    else:
        verdict = "better" if (difference < 0) == any(word in name for word in _LOWER_IS_BETTER) else "worse"
    return {
        "a": known(a),
        "b": known(b),
        "difference": known(difference),
        "interval": None if interval is None else [round(v, 6) for v in interval],
        "verdict": verdict,
        "drawn": drawn if interval is not None else None,
    }
