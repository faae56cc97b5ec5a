"""The loop that trains one stage: resumable, in time, on one device or several.

A stage is deterministic in its seed and step: items follow from their index, chance from (seed, stage, step, place).
There is no other state than ``run_state.Progress`` and the optimiser's, so going on from a saved state gives what no
interruption would have given; on a CPU to the bit.
"""

from __future__ import annotations

import logging
import math
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from psg4d_ros.errors import ConfigError, Psg4dError
from psg4d_ros.training.items import iterate
from psg4d_ros.training.launch import wait_for_all
from psg4d_ros.training.optimization import Optimization
from psg4d_ros.training.run_log import RunLog
from psg4d_ros.training.run_state import Progress, load_state, save_state
from psg4d_ros.training.schedule import Schedule
from psg4d_ros.training.stage import SAVE_EVERY_S, Stage

if TYPE_CHECKING:
    from accelerate import Accelerator

MAX_BAD_STEPS = 10  # steps in a row without a finite gradient, after which there is no hope
_OF_STEP = 1 << 32  # in place of an item's: chance that all micro-batches of a step share
_LOSS_MEMORY = 50  # steps over which the losses that are reported are averaged
# Validations on the way may cost this part of a stage's time; were it more, only the one at the end is made. Where that
# one alone would cost so much that little were left to learn in, there is none.
_VALIDATION_SHARE, _DEAR_VALIDATION = 0.15, 0.25
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageResult:
    """What a stage came to. losses: averages over its last steps. val: figures of the averaged weights."""

    steps: int
    losses: dict[str, float]
    val: dict[str, float]
    elapsed_s: float


def train_stage(
    stage: Stage,
    folder: Path,
    accelerator: Accelerator,
    *,
    seed: int,
    seconds: float | None = None,
    after: int = 0,
    save_every_s: float = SAVE_EVERY_S,
    clock: Callable[[], float] = time.monotonic,
    quiet: bool = True,
) -> StageResult:
    """Train a stage in ``folder``, going on from the state there; leaves the averaged weights in its module.

    The recipe's sizes are set (``stage.sized``). seconds: time for the whole stage; a stage that goes on keeps the time
    it started with. after: how many times as long as a validation takes must be left of it when the stage ends.
    One of ``seconds`` and the recipe's steps must be given; with both, what ends first. Several
    processes (``accelerate launch``) share each step's batch; the first writes.
    Raises ConfigError for settings that do not fit, also when memory runs out with half the micro-batch, and Psg4dError
    when gradients stay infinite.
    """
    return _StageRun(stage, folder, accelerator, seed, seconds, after, save_every_s, clock, quiet).run()


class _StageRun:
    def __init__(
        self,
        stage: Stage,
        folder: Path,
        accelerator: Accelerator,
        seed: int,
        seconds: float | None,
        after: int,
        save_every_s: float,
        clock: Callable[[], float],
        quiet: bool,
    ) -> None:
        recipe, processes = stage.recipe, accelerator.num_processes
        if recipe.batch % processes:
            raise ConfigError(f"{stage.name}.batch is {recipe.batch}, expected a multiple of the {processes} processes")
        if seconds is None and not recipe.steps:
            raise ConfigError(f"{stage.name}: neither minutes nor steps are given; give --minutes or --steps")
        self.stage, self.folder, self.accelerator = stage, folder, accelerator
        self.after, self.save_every_s, self.clock, self.quiet = after, save_every_s, clock, quiet
        seconds = None if seconds is None else self._of_first(seconds)
        self.share = recipe.batch // processes
        self.first_place = accelerator.process_index * self.share
        self.optimization = Optimization(stage.module, recipe)
        self.progress = Progress(
            seed=seed,
            batch=recipe.batch,
            micro_batch=min(recipe.micro_batch, self.share),
            halved=False,
            step=0,
            steps=recipe.steps or None,
            seconds=seconds,
            progress=0.0,
            elapsed_s=0.0,
            validated=0,
            validation_s=0.0,
            losses={},
            val={},
        )
        if saved := load_state(folder):
            self.progress = saved[0]
            if (self.progress.seed, self.progress.batch) != (seed, recipe.batch):
                raise ConfigError(
                    f"{folder} was trained with seed {self.progress.seed} and batch {self.progress.batch}, "
                    f"asked for {seed} and {recipe.batch}; go on with the same, or choose another folder"
                )
            self.optimization.load(saved[1])
        p = self.progress
        self.schedule = Schedule(p.steps, p.seconds, p.step, p.progress, p.elapsed_s, fixed=bool(stage.recipe.steps))
        self.bad_steps = 0

    # -- the loop ------------------------------------------------------------------------------------------------------

    def run(self) -> StageResult:
        recipe, schedule, p = self.stage.recipe, self.schedule, self.progress
        self.stage.module.train()
        self.log = RunLog(self.folder, schedule.step) if self.accelerator.is_main_process else None
        if schedule.step == 0 and p.seconds is not None and self.stage.validate is not None:
            self._validate()  # where learning starts from, and how long a validation takes
            if not self._at_the_end():
                _log.warning(
                    "%s: a validation takes %.0f s of %.0f s and is left out; give more minutes, or validate on less",
                    self.stage.name,
                    p.validation_s,
                    p.seconds,
                )
        places = range(self.first_place, self.first_place + self.share)
        items = iterate(self.stage.items, schedule.step, recipe.batch, places, recipe.workers)
        saved_at = now = self.clock()
        bar = tqdm(
            total=schedule.steps,
            initial=schedule.step,
            desc=self.stage.name,
            unit="step",
            disable=self.quiet or not self.accelerator.is_main_process,
        )
        while not schedule.done:
            factor = schedule.factor(recipe.warmup_steps)
            losses, norm = self._step(list(islice(items, self.share)), factor)
            then, now = now, self.clock()
            schedule.advance(self._of_first(now - then), self._reserve_s())
            self._note(losses, norm, factor)
            bar.total = schedule.steps
            bar.set_postfix(loss=f"{p.losses['loss']:.3f}", refresh=False)
            bar.update()
            if self._validation_due():
                self._validate()
                now = self.clock()
            if self._agreed(now - saved_at >= self.save_every_s) and not schedule.done:
                self._save()  # its time counts as the next step's
                saved_at = self.clock()
        bar.close()
        self._save()
        del items  # ends the processes that make them
        self.optimization.take_average()
        p.val = self._figures() if self._at_the_end() else {}
        if self.log:
            self.log.validation(schedule.step, p.val)
            self.log.close()
        return StageResult(schedule.step, p.losses, p.val, schedule.elapsed_s)

    def _step(self, items: list[Any], factor: float) -> tuple[dict[str, float], float]:
        """One descent; the losses by name, with their sum as ``loss``, and the gradient's norm."""
        losses = self._gradient(items)
        while losses is None:
            self._halve()
            losses = self._gradient(items)
        norm = self.optimization.clip()
        if math.isfinite(norm):
            self.bad_steps = 0
            self.optimization.step(self.schedule.step, factor)
        else:
            self.bad_steps += 1
            _log.warning("%s: step %d is passed over, its gradient is %s", self.stage.name, self.schedule.step, norm)
            if self.bad_steps >= MAX_BAD_STEPS:
                raise Psg4dError(
                    f"{self.stage.name}: {MAX_BAD_STEPS} gradients in a row are {norm}; lower the learning rates"
                )
        self.optimization.zero()
        return losses, norm

    def _gradient(self, items: list[Any]) -> dict[str, float] | None:
        """Sum up the gradients of all micro-batches, of all processes; None when memory ran out in one of them."""
        totals: dict[str, Tensor] = {}
        out_of_memory = False
        try:
            for start in range(0, len(items), self.progress.micro_batch):
                chunk = items[start : start + self.progress.micro_batch]
                with self.accelerator.autocast():
                    losses = self.stage.module(
                        chunk, self._generator(self.first_place + start), self._generator(_OF_STEP)
                    )
                weighted = {name: loss * (len(chunk) / len(items)) for name, loss in losses.items()}
                torch.stack(list(weighted.values())).sum().backward()
                for name, loss in weighted.items():
                    totals[name] = totals.get(name, loss.new_zeros(())) + loss.detach()
        except torch.OutOfMemoryError:
            out_of_memory = True
        # Outside of the handler, where the error no longer holds on to the tensors of the failed pass.
        if self._agreed(out_of_memory):
            return None
        if self.accelerator.num_processes > 1:
            self._reduce_gradients()
        values = torch.stack(list(totals.values())).tolist()
        return {**dict(zip(totals, values, strict=True)), "loss": math.fsum(values)}

    def _generator(self, place: int) -> torch.Generator:
        source = [self.progress.seed, zlib.crc32(self.stage.name.encode()), self.schedule.step, place]
        seed = int(np.random.SeedSequence(source).generate_state(1, np.uint64)[0])
        return torch.Generator().manual_seed(seed >> 1)

    def _halve(self) -> None:
        """Make room: smaller micro-batches from now on, and none of the failed pass's memory."""
        p = self.progress
        if p.halved or p.micro_batch == 1:
            raise ConfigError(
                f"{self.stage.name}: the device's memory does not hold a micro-batch of {p.micro_batch}; set "
                f"{self.stage.name}.micro_batch to {max(1, p.micro_batch // 2)}, or make its items smaller"
            )
        p.micro_batch, p.halved = p.micro_batch // 2, True
        self.optimization.zero()
        if self.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
        _log.warning(
            "%s: out of memory in step %d, micro_batch is now %d", self.stage.name, self.schedule.step, p.micro_batch
        )

    # -- several processes ---------------------------------------------------------------------------------------------

    def _agreed(self, flag: bool) -> bool:
        """Whether any process says so."""
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.accelerator.device)) > 0)

    def _reduce_gradients(self) -> None:
        """Means over the processes, which share out a batch evenly. A process whose losses did not touch a parameter
        counts with zeros."""
        parameters = self.optimization.parameters
        flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).reshape(-1) for p in parameters])
        flat = self.accelerator.reduce(flat, reduction="mean")
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)

    def _of_first(self, seconds: float) -> float:
        """The first process's clock decides for all."""
        from accelerate.utils import broadcast_object_list

        return float(broadcast_object_list([seconds])[0])

    # -- what is kept --------------------------------------------------------------------------------------------------

    def _note(self, losses: dict[str, float], norm: float, factor: float) -> None:
        p, step = self.progress, self.schedule.step
        for name, value in losses.items():
            if math.isfinite(value):
                before = p.losses.get(name, value)
                p.losses[name] = before + (value - before) * max(1.0 / _LOSS_MEMORY, 1.0 / step)
        if self.log:
            self.log.step(step, losses, norm=norm, rate=factor, elapsed_s=self.schedule.elapsed_s)

    def _save(self) -> None:
        p, schedule = self.progress, self.schedule
        p.step, p.steps, p.progress, p.elapsed_s = schedule.step, schedule.steps, schedule.progress, schedule.elapsed_s
        if self.accelerator.is_main_process:
            save_state(self.folder, p, self.optimization.state())
        wait_for_all()

    # -- validation ----------------------------------------------------------------------------------------------------

    def _on_the_way(self) -> int:
        """How many validations are made before the one at the end."""
        p, number = self.progress, self.stage.recipe.validations - 1
        if self.stage.validate is None:
            return 0
        if p.seconds is not None and number * p.validation_s > _VALIDATION_SHARE * p.seconds:
            return 0
        return number

    def _at_the_end(self) -> bool:
        p = self.progress
        if self.stage.validate is None:
            return False
        return p.seconds is None or p.validation_s <= _DEAR_VALIDATION * p.seconds

    def _validation_due(self) -> bool:
        done = int(self.schedule.progress * (self._on_the_way() + 1) + 1e-9)
        return not self.schedule.done and self.progress.validated < min(done, self._on_the_way())

    def _reserve_s(self) -> float:
        """Time for the validations that are still to come, and for what comes after the stage."""
        left = max(0, self._on_the_way() - self.progress.validated) + self._at_the_end() + self.after
        return left * self.progress.validation_s

    def _validate(self) -> None:
        start = self.clock()
        with self.optimization.averaged():
            self.progress.val = self._figures()
        if self.schedule.step:
            self.progress.validated += 1
        self.progress.validation_s = self._of_first(self.clock() - start)
        self.schedule.elapsed_s += self.progress.validation_s
        if self.log:
            self.log.validation(self.schedule.step, self.progress.val)

    def _figures(self) -> dict[str, float]:
        """By the first process, which writes them; the others, whose weights are the same, wait at the next step."""
        assert self.stage.validate is not None
        if not self.accelerator.is_main_process:
            return {}
        self.stage.module.train(False)
        with torch.no_grad(), self.accelerator.autocast():
            values = dict(self.stage.validate())
        self.stage.module.train(True)
        return values
