"""How many steps fit into the time there is, and the learning rates over them."""

from __future__ import annotations

import math
from dataclasses import dataclass

# The first step is slower (caches, workers that start): the plan is made from those after it. Steps differ, since what
# runs in them is drawn: it takes many and a part of the time, or, where steps are long, some and a larger part.
_MANY_STEPS, _SOME_STEPS = 20, 5
_SMALL_PART, _LARGE_PART = 0.03, 0.1
# How far the steps that still fit must fall short of the plan before it is cut: noise must not eat it step by step.
TOLERANCE = 0.05
# How many more must fit before it is stretched: a machine that others used at first has become free.
GROWTH = 0.25
_MEMORY = 100  # steps over which a step's time is averaged


@dataclass
class Schedule:
    """Counts steps; plans their number from the time they take, and anew where they turn out slower or much faster.

    steps: how many there will be, None = not planned yet. seconds: time for all of them and the validations, None = no
    limit. progress: how far the cosine has come, 0 to 1; it moves evenly to 1 over the steps that are left, also after
    the plan was changed. fixed: more steps than ``steps`` are not wanted, whatever the time.
    """

    steps: int | None
    seconds: float | None
    step: int = 0
    progress: float = 0.0
    elapsed_s: float = 0.0
    fixed: bool = False

    def __post_init__(self) -> None:
        self._measured, self._step_s = -1, 0.0  # the first step of a process measures its start

    @property
    def done(self) -> bool:
        return self.steps is not None and self.step >= self.steps

    def factor(self, warmup_steps: int) -> float:
        """What learning rates are multiplied by in the step that comes next."""
        if self.steps is not None:
            warmup_steps = min(warmup_steps, self.steps // 10)
        warmup = min(1.0, (self.step + 1) / (warmup_steps + 1))
        return warmup * 0.5 * (1.0 + math.cos(math.pi * self.progress))

    def advance(self, step_s: float, reserve_s: float) -> None:
        """Count a step that took ``step_s``. reserve_s: what must be left when the last step ends."""
        if self.steps is not None:
            self.progress += (1.0 - self.progress) / (self.steps - self.step)
        self.step += 1
        self.elapsed_s += step_s
        self._measured += 1
        if self._measured > 0:
            self._step_s += (step_s - self._step_s) * max(1.0 / self._measured, 1.0 / _MEMORY)
        if self.seconds is None:
            return
        left_s = self.seconds - self.elapsed_s - reserve_s
        if left_s < (self._step_s if self._measured > 0 else step_s):
            self.steps = self.step  # no other step fits
        elif self._measured >= _SOME_STEPS:
            possible = int(left_s / self._step_s)
            if self.steps is None:
                part = _SMALL_PART if self._measured >= _MANY_STEPS else _LARGE_PART
                if self.elapsed_s >= part * self.seconds:
                    self.steps = self.step + possible
                return
            left = self.steps - self.step
            if possible < (1.0 - TOLERANCE) * left or (not self.fixed and possible > (1.0 + GROWTH) * left > 0):
                self.steps = self.step + possible
