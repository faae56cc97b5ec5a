"""What a replay must reach: limits of its measures in a YAML file, for continuous integration.

tube.triplet.R@50: {min: 0.2}
latency_ms.total.p95: {max: 800}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psg4d_ros.config_files import read_mapping
from psg4d_ros.errors import ConfigError
from psg4d_ros.evaluation.measures import check_name, measure


@dataclass(frozen=True)
class Threshold:
    """The least and the greatest value that a measure may have; None: no limit."""

    name: str
    min: float | None = None
    max: float | None = None

    def failure(self, value: float | None) -> str | None:
        """Why ``value`` does not pass, and by how much; None when it does. What was not measured never passes."""
        if value is None:
            return f"{self.name} was not measured ({_how(self.name)})"
        if self.min is not None and value < self.min:
            return f"{self.name} is {value:g}, below the min of {self.min:g} by {self.min - value:g}"
        if self.max is not None and value > self.max:
            return f"{self.name} is {value:g}, above the max of {self.max:g} by {value - self.max:g}"
        return None


def load_thresholds(path: Path) -> tuple[Threshold, ...]:
    """The thresholds of a file. Raises ConfigError for a measure or limit that is not known, a limit that is no number,
    min above max, and a file without any."""
    out = []
    for name, limits in read_mapping(path).items():
        try:
            check_name(str(name))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        if not isinstance(limits, Mapping) or not limits:
            raise ConfigError(f"{path}: {name} is {limits!r}, expected limits such as {{min: 0.2}}")
        for key, limit in limits.items():
            if key not in ("min", "max"):
                raise ConfigError(f"{path}: {name} has the limit {key!r}, expected min or max")
            if isinstance(limit, bool) or not isinstance(limit, (int, float)) or limit != limit:
                raise ConfigError(f"{path}: {key} of {name} is {limit!r}, expected a number")
        threshold = Threshold(str(name), **limits)
        if threshold.min is not None and threshold.max is not None and threshold.min > threshold.max:
            raise ConfigError(f"{path}: min of {name} is {threshold.min:g}, above its max of {threshold.max:g}")
        out.append(threshold)
    if not out:
        raise ConfigError(f"{path} holds no thresholds, expected lines such as tube.triplet.R@50: {{min: 0.2}}")
    return tuple(out)


def failures(result: Mapping[str, Any], thresholds: tuple[Threshold, ...]) -> list[str]:
    """One line per threshold that the result (JSON values) does not reach."""
    found = (t.failure(measure(result, t.name)) for t in thresholds)
    return [failure for failure in found if failure is not None]


def _how(name: str) -> str:
    first = name.split(".")[0]
    if first in ("tube", "frame_hit", "panoptic", "attributes", "calibration"):
        return "the recording has no ground truth, or none of this kind"
    if first == "live":
        return "only --live measures it"
    if first in ("latency_ms", "memory_mb", "wall_s"):
        return "--no-timings leaves it out, or there is no such stage"
    return "there were no windows to measure it in"
