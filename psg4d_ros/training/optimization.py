"""AdamW with averaged weights, over the parameters that a stage trains, and their state as named tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from psg4d_ros.errors import CheckpointError, Psg4dError
from psg4d_ros.training.stage import StageModule, StageRecipe

_MOMENTS = {"moment1": "exp_avg", "moment2": "exp_avg_sq", "updates": "step"}


class Optimization:
    """The optimiser of a stage. Parameters outside the stage's groups are frozen.

    average: the averaged weights, float32, in the order of ``parameters``. They follow slowly (decay up to the
    recipe's), after a start in which they follow fast: early weights are worth nothing.
    """

    def __init__(self, module: StageModule, recipe: StageRecipe) -> None:
        groups = module.parameter_groups()
        trained = {id(p) for group in groups for p in group["params"]}
        for parameter in module.parameters():
            parameter.requires_grad_(id(parameter) in trained)
        named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if len(named) != len(trained):
            raise Psg4dError(f"{len(trained)} parameters are to be trained, {len(named)} of them are the module's")
        self.names = list(named)
        self.parameters: list[nn.Parameter] = list(named.values())
        self.average = [p.detach().float().clone() for p in self.parameters]
        self.recipe = recipe
        split = []
        for group in groups:
            # Matrices decay; biases, gains and gates are where they are for a reason.
            for params, decay in (
                ([p for p in group["params"] if p.dim() >= 2], recipe.weight_decay),
                ([p for p in group["params"] if p.dim() < 2], 0.0),
            ):
                if params:
                    split.append(
                        {"params": params, "lr": group["lr"], "initial_lr": group["lr"], "weight_decay": decay}
                    )
        self._adamw = torch.optim.AdamW(split)

    def clip(self) -> float:
        """Shorten the gradient to the recipe's norm; its norm before that."""
        return float(nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip_norm))

    @torch.no_grad()
    def step(self, number: int, factor: float) -> None:
        """Descend, in step ``number`` from 0, with the learning rates times ``factor``."""
        for group in self._adamw.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self._adamw.step()
        decay = min(self.recipe.ema_decay, (1.0 + number) / (10.0 + number))
        torch._foreach_lerp_(self.average, [p.float() for p in self.parameters], 1.0 - decay)

    def zero(self) -> None:
        self._adamw.zero_grad(set_to_none=True)

    @torch.no_grad()
    def take_average(self) -> None:
        """Put the averaged weights in the place of the present ones, for good."""
        for parameter, average in zip(self.parameters, self.average, strict=True):
            parameter.copy_(average)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights take the place of the present ones while the block lasts."""
        present = [p.detach().clone() for p in self.parameters]
        self.take_average()
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.parameters, present, strict=True):
                    parameter.copy_(value)

    def state(self) -> dict[str, Tensor]:
        """Weights, averages, moments and counts of updates, by name."""
        state: dict[str, Tensor] = {}
        for name, parameter, average in zip(self.names, self.parameters, self.average, strict=True):
            state[f"weight/{name}"], state[f"average/{name}"] = parameter, average
            # A parameter that has had no gradient yet has no moments.
            kept = self._adamw.state.get(parameter, {})
            state.update({f"{ours}/{name}": kept[theirs] for ours, theirs in _MOMENTS.items() if theirs in kept})
        return state

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state. Raises CheckpointError when it is of another model or stage."""
        wanted = {f"weight/{name}": tuple(p.shape) for name, p in zip(self.names, self.parameters, strict=True)}
        found = {name: tuple(t.shape) for name, t in state.items() if name.startswith("weight/")}
        if wanted != found:
            first = sorted(wanted.items() ^ found.items())[0][0]
            raise CheckpointError(f"the state to go on from is of another model or stage: {first} differs")
        for name, parameter, average in zip(self.names, self.parameters, self.average, strict=True):
            parameter.copy_(state[f"weight/{name}"])
            average.copy_(state[f"average/{name}"])
            if f"updates/{name}" in state:
                device = parameter.device
                self._adamw.state[parameter] = {
                    # AdamW keeps its count of updates on the CPU.
                    theirs: state[f"{ours}/{name}"].to("cpu" if ours == "updates" else device, copy=True)
                    for ours, theirs in _MOMENTS.items()
                }
