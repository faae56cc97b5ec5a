"""A stage small enough to train in a moment: a network learns a function from noisy samples.

Run as a script it trains the stage in a folder, saving after every step: ``python toy_stage.py FOLDER STEPS``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from psg4d_ros.training.stage import Stage, StageRecipe
from psg4d_ros.training.trainer import StageResult, train_stage


class Samples:
    """Item i: a point and its value, from a generator of its own."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.from_numpy(np.random.default_rng(index).normal(size=3).astype(np.float32))
        return x, x.sin().sum()


class Fit(nn.Module):
    """Mean squared error, with noise on the inputs so that chance matters. before: called at each pass."""

    def __init__(self, before=lambda items: None) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))
        self.offset = nn.Parameter(torch.ones(()))  # not trained
        self.before = before

    def parameter_groups(self):
        return [{"params": list(self.net.parameters()), "lr": 0.02}]

    def forward(self, items, generator, of_step):
        self.before(items)
        x = torch.stack([x for x, _ in items])
        y = torch.stack([y for _, y in items])
        x = x + 0.05 * torch.randn(x.shape, generator=generator)
        error = self.net(x)[:, 0] - y
        return {"square": error.square().mean(), "size": 1e-3 * error.abs().mean()}


def toy_stage(module: Fit | None = None, validate=None, **recipe) -> Stage:
    settings = {"steps": 40, "batch": 4, "micro_batch": 2, "workers": 0, "warmup_steps": 4, **recipe}
    return Stage("toy", StageRecipe(**settings), module or Fit(), Samples(), validate)


def train(stage: Stage, folder: Path, **options) -> StageResult:
    return train_stage(stage, folder, Accelerator(cpu=True), **{"seed": 3, "save_every_s": 1e9, **options})


if __name__ == "__main__":
    processes = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    if Accelerator(cpu=True).num_processes != processes:
        sys.exit(f"expected {processes} processes")
    train(toy_stage(steps=int(sys.argv[2])), Path(sys.argv[1]), save_every_s=0.0)
