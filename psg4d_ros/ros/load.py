"""Doing less when memory runs out, and more again when it has been enough for a while."""

from __future__ import annotations

from psg4d_ros.config import InferenceConfig

# Fewer points than this are not worth an inference; memory that is still too short then is not ours to save.
LEAST_POINTS = 1000
GOOD_WINDOWS_TO_RECOVER = 20


def is_out_of_memory(error: BaseException) -> bool:
    """True for MemoryError, for CUDA's and for the CPU allocator's out-of-memory errors of torch."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    # torch's CPU allocator raises a plain RuntimeError.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


class LoadShedder:
    """The limits in force: points of a cloud, and whether relations are looked for.

    Each out-of-memory error drops the relations and halves the points that the failing window's largest cloud had.
    After GOOD_WINDOWS_TO_RECOVER windows in a row that went well the points double, up to what is configured; then
    relations come back too. The number doubles with each relapse: a scene that is too large does not fail for ever.
    """

    def __init__(self, config: InferenceConfig) -> None:
        self._configured = config
        self._good = 0
        self._needed = GOOD_WINDOWS_TO_RECOVER
        self.max_points = config.max_points
        self.out_of_memory = 0

    @property
    def reduced(self) -> bool:
        return self.max_points < self._configured.max_points

    @property
    def relations(self) -> bool:
        return self._configured.relations and not self.reduced

    @property
    def reason(self) -> str:
        """One line for status and diagnostics; empty while nothing is reduced."""
        if not self.reduced:
            return ""
        return f"memory ran out ({self.out_of_memory} times): at most {self.max_points} points per cloud, no relations"

    def failed(self, points: int) -> None:
        """Memory ran out with ``points`` in the largest cloud of the window: do less."""
        if self.out_of_memory:
            self._needed = min(2 * self._needed, 10_000)
        self.out_of_memory += 1
        self._good = 0
        least = min(LEAST_POINTS, self._configured.max_points - 1)
        self.max_points = max(least, min(self.max_points, points) // 2)

    def succeeded(self) -> bool:
        """A window went well; True when that made the limits wider."""
        if not self.reduced:
            return False
        self._good += 1
        if self._good < self._needed:
            return False
        self._good = 0
        self.max_points = min(2 * self.max_points, self._configured.max_points)
        return True
