"""A stage of the training as a value, and the settings that all stages share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from psg4d_ros.config import knob
from psg4d_ros.errors import ConfigError

MAX_CPU_BATCH, MAX_GPU_MICRO_BATCH = 2, 8
SAVE_EVERY_S = 120.0  # what a kill may cost


@dataclass(frozen=True)
class StageRecipe:
    """How long a stage goes on, and how it descends."""

    run: bool = knob(True, "false: the stage is left out")
    share: float = knob(1.0, "its part of the minutes, relative to the other stages that run", low=0.001, high=1000.0)
    steps: int = knob(0, "optimiser steps; 0: as many as its minutes hold", low=0, high=100_000_000)
    batch: int = knob(0, "items of a step, of all processes together; 0: 2 on a CPU, 8 on a GPU", low=0, high=65536)
    micro_batch: int = knob(
        0, "items that go through the model at once; 0: 1 on a CPU, at most 8 on a GPU", low=0, high=65536
    )
    workers: int = knob(
        -1,
        "processes that make items; 0: none of their own; -1: 1 on a CPU, all cores but one on a GPU",
        low=-1,
        high=512,
    )
    warmup_steps: int = knob(200, "steps in which learning rates rise; at most a tenth of all", low=0, high=1_000_000)
    weight_decay: float = knob(0.03, "AdamW's, of matrices", low=0.0, high=10.0)
    clip_norm: float = knob(1.0, "longest gradient", low=1e-6, high=1e6)
    ema_decay: float = knob(
        0.999, "decay of the averaged weights, which are those that are kept", low=0.0, high=0.99999
    )
    validations: int = knob(4, "evenly spread validations, the one at the end included", low=1, high=1000)


R = TypeVar("R", bound=StageRecipe)


class StageModule(Protocol):
    """What computes a stage's losses: an ``nn.Module``."""

    def __call__(
        self, items: Sequence[Any], generator: torch.Generator, of_step: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Named scalar losses, weighted, means over the items; their sum is descended. All chance comes from
        ``generator``, which is on the CPU; what decides how long a step takes, from ``of_step``, which is the same for
        all its micro-batches: processes that share a step need not wait for the one that drew the language model.
        None: from ``generator`` too."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is trained: groups of ``params`` with their ``lr``."""

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def train(self, mode: bool = True) -> Any: ...


class Items(Protocol):
    """Training items: any index >= 0 gives one, always the same."""

    def __getitem__(self, index: int) -> Any: ...


@dataclass(frozen=True, eq=False)
class Stage:
    """validate: figures of the module as it is, in evaluation mode and without gradients; None: there are none."""

    name: str
    recipe: StageRecipe
    module: StageModule
    items: Items
    validate: Callable[[], Mapping[str, float]] | None = None


def sized(recipe: R, device: torch.device, cores: int) -> R:
    """The recipe with its automatic sizes chosen for a device and the number of CPU cores that this process may use.

    Raises ConfigError when a micro-batch is larger than the batch.
    """
    gpu = device.type != "cpu"
    batch = recipe.batch or (MAX_GPU_MICRO_BATCH if gpu else MAX_CPU_BATCH)
    micro_batch = recipe.micro_batch or (min(batch, MAX_GPU_MICRO_BATCH) if gpu else 1)
    if micro_batch > batch:
        raise ConfigError(f"micro_batch is {micro_batch}, expected at most the batch, {batch}")
    workers = recipe.workers
    if workers < 0:
        workers = max(1, cores - 1) if gpu else min(1, cores - 1)
    return replace(recipe, batch=batch, micro_batch=micro_batch, workers=workers)
