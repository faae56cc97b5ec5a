"""How much memory this process takes, as Linux counts it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

_STATUS = Path("/proc/self/status")


def resident_mb() -> float | None:
    """Resident memory of this process in MiB; None where the system does not say."""
    try:
        text = _STATUS.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == "VmRSS":
            return int(value.split()[0]) / 1024
    return None


@dataclass
class MemoryLog:
    """Resident memory over a run, one value in MiB per call of ``take``: growth shows a leak, the peak what is needed.

    The peak is that of the sampled values, not of the process, which may have done other work before.
    """

    samples: list[float] = field(default_factory=list)

    def take(self) -> None:
        """Note the present use."""
        value = resident_mb()
        if value is not None:
            self.samples.append(value)

    def to_json(self) -> dict[str, float] | None:
        """Start, end and peak in MiB, and what the GPU held at most; None where nothing is known."""
        if not self.samples:
            return None
        out = {"start": self.samples[0], "end": self.samples[-1], "peak": max(self.samples)}
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
            out["gpu_peak"] = torch.cuda.max_memory_allocated() / 2**20
        return {name: round(value, 1) for name, value in out.items()}
