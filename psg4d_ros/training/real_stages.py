"""The three stages as values: their losses, items and validations, made from the recipe and the data at hand."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import torch

from psg4d_ros.data.recording import Recording
from psg4d_ros.data.simulation.classes import LABELS, TRAIN_WORDS
from psg4d_ros.data.simulation.storage import open_scene, scene_files
from psg4d_ros.errors import ConfigError
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.training.calibrate import calibrate
from psg4d_ros.training.image_reminder import ImageReminder
from psg4d_ros.training.images import ImageDataset, ImageSources, read_image_sources
from psg4d_ros.training.items import iterate
from psg4d_ros.training.recipe import ImageStage, Recipe, SceneStage
from psg4d_ros.training.scene_losses import SceneLosses, SceneWords
from psg4d_ros.training.stage import Stage, sized
from psg4d_ros.training.stage1 import Stage1Losses, validate_stage1
from psg4d_ros.training.window_scores import ReadWindow, read_windows, window_scores
from psg4d_ros.training.windows import JUDGED_PREDICATES, TrainingWindow, WindowDataset, WindowRecipe
from psg4d_ros.training.wordings import other_words
from psg4d_ros.vocabulary import Vocabulary

_log = logging.getLogger(__name__)

# How much is validated on where the recipe leaves it open, by device.
_WINDOWS = {"cpu": 12, "cuda": 96}
_IMAGES = {"cpu": 32, "cuda": 500}


@dataclass(frozen=True)
class Sources:
    """Where a training's data lie; they are read when a stage asks for them. train, val: folders of scenes."""

    recipe: Recipe
    images: Path | None
    train: Path
    val: Path

    @cached_property
    def image_sources(self) -> ImageSources:
        """The 2D data sets. Raises ConfigError where no folder was named."""
        if self.images is None:
            raise ConfigError("stage 1 needs the 2D data sets; name their folder with --images or PSG4D_IMAGES")
        return read_image_sources(self.images, self.recipe.stage1_2d.images.max_predicates)

    @cached_property
    def recordings(self) -> list[Recording]:
        """The scenes that are trained on."""
        return [open_scene(file) for file in scene_files(self.train)[: self.recipe.scenes.number]]

    @cached_property
    def held_out(self) -> list[Recording]:
        """The scenes that are validated on."""
        return [open_scene(file) for file in scene_files(self.val)[: self.recipe.scenes.validation]]


def make_stage(name: str, model: PSG4D, sources: Sources, seed: int, cores: int) -> Stage:
    """A stage of ``sources.recipe`` that trains ``model``, for its device and the CPU cores there are."""
    recipe = sized(sources.recipe.stages()[name], model.device, cores)
    if isinstance(recipe, ImageStage):
        return _image_stage(name, recipe, model, sources.image_sources, seed)
    words = scene_words(sources.recordings, model.vocabulary)
    with torch.random.fork_rng(devices=[]):  # what is only there for the losses starts the same in every process
        torch.manual_seed(seed)
        losses = SceneLosses(model, recipe.losses, words, _reminder(recipe, model, sources, seed)).to(model.device)
    windows = window_recipe(sources.recipe, recipe)
    held_out = _HeldOut(model, recipe, sources, seed)
    return Stage(
        name,
        recipe,
        losses,
        WindowDataset(sources.recordings, windows, seed),
        lambda: window_scores(held_out.read()),
    )


def _reminder(recipe: SceneStage, model: PSG4D, sources: Sources, seed: int) -> ImageReminder | None:
    """None where the stage learns nothing from images, there are none, or the training is to forget them."""
    stage1 = sources.recipe.stage1_2d
    if not recipe.images.share or stage1.forget:
        return None
    if sources.images is None:
        _log.warning("no 2D data sets are named: what images taught will fade")
        return None
    images = ImageDataset(sources.image_sources.training, stage1.images, seed)
    return ImageReminder(model, recipe.images, stage1.losses, images)


def _image_stage(name: str, recipe: ImageStage, model: PSG4D, images: ImageSources, seed: int) -> Stage:
    limit = recipe.validation_images or _IMAGES[model.device.type]
    with_model = recipe.losses.language_model_share > 0
    return Stage(
        name,
        recipe,
        Stage1Losses(model, recipe.losses).to(model.device),
        ImageDataset(images.training, recipe.images, seed),
        lambda: validate_stage1(model, images, language_model=with_model, limit=limit),
    )


def calibrated(model: PSG4D, last_stage: str, sources: Sources, seed: int, cores: int) -> dict[str, float]:
    """Calibrate the model on held-out windows, in place; {} after a training without any."""
    recipe = sized(sources.recipe.stages()[last_stage], model.device, cores)
    if isinstance(recipe, ImageStage):
        return {}
    return calibrate(model, _HeldOut(model, recipe, sources, seed).read())


def window_recipe(recipe: Recipe, stage: SceneStage) -> WindowRecipe:
    """The stage's windows, in the voxels of the recipe's model."""
    encoder = recipe.model.encoder
    return replace(stage.windows, voxel_size_m=encoder.voxel_size_m, levels=len(encoder.channels))


def scene_words(recordings: list[Recording], vocabulary: Vocabulary) -> SceneWords:
    """The labels of the recordings' objects, the vocabulary's other classes, and what else it all is called.

    Labels that are held out from training (for test_oov) are none of these: to learn that nothing is called so would
    spoil the test of words that were never seen.
    """
    counts = Counter(o.label for recording in recordings for o in recording.objects)
    held_out = LABELS - TRAIN_WORDS.labels
    others = (c.name for c in vocabulary.classes if c.name not in counts and c.name not in held_out)
    wordings = other_words((*sorted(counts), *JUDGED_PREDICATES), vocabulary)
    return SceneWords(dict(sorted(counts.items())), tuple(others), wordings)


class _HeldOut:
    """Windows of held-out scenes, the same at each validation: made once, and kept."""

    def __init__(self, model: PSG4D, recipe: SceneStage, sources: Sources, seed: int) -> None:
        self.model, self.recipe, self.sources, self.seed = model, recipe, sources, seed

    @cached_property
    def windows(self) -> list[TrainingWindow]:
        count = self.recipe.validation_windows or _WINDOWS[self.model.device.type]
        plain = replace(window_recipe(self.sources.recipe, self.recipe), augment=False)
        items = WindowDataset(self.sources.held_out, plain, self.seed)
        return list(islice(iterate(items, 0, count, range(count), self.recipe.workers), count))

    def read(self) -> Iterator[ReadWindow]:
        """What the model as it is says of them."""
        with_model = self.recipe.losses.language_model_share > 0
        words = tuple(c.name for c in self.model.vocabulary.classes)
        with torch.no_grad():
            yield from read_windows(self.model, self.windows, words, language_model=with_model)
