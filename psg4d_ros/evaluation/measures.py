"""The numbers of a replay's result by name: what thresholds and comparisons speak of.

Names: ``tube.triplet.R@50`` (protocol, labels, recall at K), ``panoptic.PQ``, ``stability.coverage``,
``latency_ms.total.p95``, ``memory_mb.peak``, ``frames_dropped``. All of them are listed in docs/replay.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from psg4d_ros.errors import ConfigError
from psg4d_ros.evaluation.metrics import KS, PROTOCOLS
from psg4d_ros.evaluation.stability import MEASURES as STABILITY

RECALLS = {
    f"{protocol}.{labels}.{recall}@{k}": ("metrics", "protocol", protocol, labels, recall, str(k))
    for protocol in PROTOCOLS
    for labels in ("predicate", "triplet")
    for recall in ("R", "mR")
    for k in KS
}
MASKS = {
    **{f"panoptic.{name}": ("metrics", "panoptic", name) for name in ("PQ", "SQ", "RQ", "LSTQ", "tube_IoU")},
    "panoptic.id_switches": ("metrics", "panoptic", "id_switches"),
}
_FIXED = {
    **RECALLS,
    **MASKS,
    "attributes.F1": ("metrics", "attributes", "F1"),
    "calibration.ECE": ("metrics", "calibration", "ECE"),
    "calibration.Brier": ("metrics", "calibration", "Brier"),
    **{f"stability.{name}": ("stability", name) for name in (*STABILITY, "coverage_min")},
    **{f"memory_mb.{name}": ("runtime", "memory_mb", name) for name in ("start", "end", "peak", "gpu_peak")},
    "wall_s": ("runtime", "wall_s"),
    **{f"live.{name}": ("live", name) for name in ("clouds_lost", "windows_replaced", "graphs_lost")},
    **{name: (name,) for name in ("windows", "frames_in", "frames_dropped", "frames_skipped")},
}
_LATENCY = re.compile(r"latency_ms\.[a-z0-9_]+\.p(50|95|99)")


def check_name(name: str) -> None:
    """Raise ConfigError, with the nearest names there are, unless ``name`` is one of a measure. The stages of
    latency_ms depend on the run and are not checked."""
    if name in _FIXED or _LATENCY.fullmatch(name):
        return
    near = get_close_matches(name, [*_FIXED, "latency_ms.total.p95"], 3, 0.5)
    expected = ", ".join(near) if near else "e.g. tube.triplet.R@50 or latency_ms.total.p95"
    raise ConfigError(f"unknown measure {name!r}, expected one like {expected}")


def measure(result: Mapping[str, Any], name: str) -> float | None:
    """A number of a result (the JSON of one or many bags); None where it was not measured. Raises ConfigError for a
    name that is none."""
    check_name(name)
    value: Any = result
    for key in _FIXED.get(name) or name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return None if value is None else float(value)
