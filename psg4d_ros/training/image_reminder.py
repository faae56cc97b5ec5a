"""Images among the windows of stage 3, so that it does not forget what stage 1 taught."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from psg4d_ros.config import knob
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.training.images import ImageDataset
from psg4d_ros.training.stage1 import Stage1Losses, Stage1Recipe


@dataclass(frozen=True)
class ReminderRecipe:
    """How much a stage of windows also learns from images."""

    share: float = knob(
        0.0, "share of the steps that learn from images too, where there are any; 0: none", low=0.0, high=1.0
    )
    number: int = knob(16, "images of such a micro-batch", low=1, high=4096)
    language_model_images: int = knob(4, "those of them that the language model reads", low=1, high=1024)
    weight: float = knob(0.5, "weight of what images teach", low=0.0, high=100.0)


class ImageReminder:
    """Stage 1's losses of a few images drawn by chance. ``stage1``: how stage 1 learns from them."""

    def __init__(self, model: PSG4D, recipe: ReminderRecipe, stage1: Stage1Recipe, images: ImageDataset) -> None:
        self._recipe, self._images = recipe, images
        self._losses = Stage1Losses(model, replace(stage1, language_model_images=recipe.language_model_images))

    def losses(self, generator: torch.Generator, of_step: torch.Generator | None = None) -> dict[str, Tensor]:
        """Weighted losses by name, image_...; {} in the steps that learn from windows alone. generator, of_step: see
        StageModule."""
        of_step = of_step or generator
        if float(torch.rand((), generator=of_step)) >= self._recipe.share:
            return {}
        numbers = torch.randint(len(self._images), (self._recipe.number,), generator=generator)
        items = [self._images[i] for i in numbers.tolist()]
        losses = self._losses(items, generator, of_step)
        return {f"image_{name}": self._recipe.weight * loss for name, loss in losses.items()}
