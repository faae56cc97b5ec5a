"""What the node knows of its own state: counters, recent timings, and which complaints are due. Free of rclpy."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable

import numpy as np

RECENT = 600  # timings kept: a minute at 10 Hz


class Timings:
    """The last RECENT durations of one kind, in milliseconds."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=RECENT)

    def add(self, ms: float) -> None:
        self._values.append(ms)

    def percentiles(self) -> tuple[float, float, float] | None:
        """(p50, p99, max), or None before the first."""
        values = list(self._values)
        if not values:
            return None
        p50, p99 = np.percentile(values, (50, 99))
        return float(p50), float(p99), max(values)


class Health:
    """Counters and timings that callback thread, worker thread and diagnostics share. Thread-safe.

    quiet_s: the same kind of complaint is logged at most once in that time; all are counted.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, quiet_s: float = 5.0) -> None:
        self._monotonic = monotonic
        self._quiet_s = quiet_s
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._complaints: dict[str, tuple[float, str]] = {}
        self._logged: dict[str, tuple[float, int]] = {}
        self.callback = Timings()
        self.latency = Timings()
        self.preparation = Timings()
        self.stage_ms: dict[str, float] = {}
        self.alignment = "none yet"
        self.last_input: float | None = None
        self.largest_cloud_bytes = 0

    def count(self, name: str, by: int = 1) -> None:
        with self._lock:
            self._counts[name] += by

    def counts(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)

    def cloud_arrived(self, size_bytes: int) -> None:
        self.last_input = self._monotonic()
        self.largest_cloud_bytes = max(self.largest_cloud_bytes, size_bytes)
        self.count("clouds_received")

    def input_age_s(self) -> float | None:
        """Time since the last cloud came in by the steady clock, or None before the first."""
        return None if self.last_input is None else self._monotonic() - self.last_input

    def complain(self, kind: str, text: str) -> str | None:
        """Count one complaint of a kind; the line to log, or None while that kind is to be quiet."""
        now = self._monotonic()
        with self._lock:
            self._counts[kind] += 1
            self._complaints[kind] = (now, text)
            last, suppressed = self._logged.get(kind, (-np.inf, 0))
            if now - last < self._quiet_s:
                self._logged[kind] = (last, suppressed + 1)
                return None
            self._logged[kind] = (now, 0)
        return f"{text} ({suppressed} more of this kind)" if suppressed else text

    def recent_complaints(self, within_s: float) -> dict[str, str]:
        """The last text of each kind of complaint that came up within the last ``within_s`` seconds."""
        now = self._monotonic()
        with self._lock:
            return {kind: text for kind, (when, text) in self._complaints.items() if now - when <= within_s}
