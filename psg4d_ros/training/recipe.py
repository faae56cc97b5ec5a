"""What a training does: model, scenes and the settings of each stage, read from config/train_*.yaml.

``train_all.yaml`` is the training of the checkpoint that ships. Every other recipe holds only what it changes of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psg4d_ros.config import ModelConfig, from_dict, knob
from psg4d_ros.config_files import merge, merge_pairs, read_mapping
from psg4d_ros.errors import ConfigError
from psg4d_ros.training.image_reminder import ReminderRecipe
from psg4d_ros.training.images import ImageRecipe
from psg4d_ros.training.scene_losses import SceneRecipe
from psg4d_ros.training.stage import SAVE_EVERY_S, StageRecipe
from psg4d_ros.training.stage1 import Stage1Recipe
from psg4d_ros.training.windows import WindowRecipe
from psg4d_ros.version import share_directory

BASE = "all"


@dataclass(frozen=True)
class ScenesRecipe:
    """The simulated scenes that stages 2 and 3 learn from."""

    number: int = knob(0, "scenes of split train; 0: one a minute and CPU core, at most 1000", low=0, high=1_000_000)
    validation: int = knob(12, "scenes of split val", low=1, high=100_000)
    sensor: str = knob("mixed", "what they are seen by", choices=("depth", "lidar", "mixed"))
    frames: int = knob(60, "frames of a scene", low=1, high=100_000)
    rate_hz: float = knob(4.0, "frames per second", low=0.01, high=1000.0)
    size: tuple[int, ...] = knob((), "rays across and down; empty: by sensor", low=1, high=10_000)


@dataclass(frozen=True)
class ImageStage(StageRecipe):
    """Stage 1: scene graphs of images."""

    forget: bool = knob(
        False, "a checkpoint that is trained on from loses what its stage 1 taught (the ablation without 2D transfer)"
    )
    required: bool = knob(False, "an error where there are no images; false: the stage is left out then")
    validation_images: int = knob(
        0, "held-out images of a validation; 0: 32 on a CPU, 500 on a GPU", low=0, high=1_000_000
    )
    images: ImageRecipe = field(default_factory=ImageRecipe)
    losses: Stage1Recipe = field(default_factory=Stage1Recipe)


@dataclass(frozen=True)
class SceneStage(StageRecipe):
    """Stages 2 and 3: simulated scenes."""

    validation_windows: int = knob(0, "windows of a validation; 0: 12 on a CPU, 96 on a GPU", low=0, high=1_000_000)
    windows: WindowRecipe = field(default_factory=WindowRecipe)
    images: ReminderRecipe = field(default_factory=ReminderRecipe)
    losses: SceneRecipe = field(default_factory=SceneRecipe)


@dataclass(frozen=True)
class Recipe:
    """All of a training. Stages run in this order."""

    name: str = knob("psg4d-small", "model_id of the checkpoint")
    tiny_language_model: bool = knob(False, "a random language model of a few thousand weights: to try the machinery")
    save_every_s: float = knob(
        SAVE_EVERY_S, "time between two saved states: what a kill may cost", low=0.0, high=86400.0
    )
    model: ModelConfig = field(default_factory=ModelConfig)
    scenes: ScenesRecipe = field(default_factory=ScenesRecipe)
    stage1_2d: ImageStage = field(default_factory=ImageStage)
    stage2_geometry: SceneStage = field(default_factory=SceneStage)
    stage3_joint: SceneStage = field(default_factory=SceneStage)

    def stages(self) -> dict[str, ImageStage | SceneStage]:
        """The stages that run, by name."""
        stages: dict[str, ImageStage | SceneStage] = {
            "stage1_2d": self.stage1_2d,
            "stage2_geometry": self.stage2_geometry,
            "stage3_joint": self.stage3_joint,
        }
        return {name: stage for name, stage in stages.items() if stage.run}


def load_recipe(name: str, pairs: Iterable[str] = ()) -> Recipe:
    """A recipe by name (config/train_NAME.yaml) or the path of a YAML file, with ``section.key=value`` pairs on top.

    Raises ConfigError for a recipe that there is not, and for what is no setting, naming its full path.
    """
    folder = share_directory() / "config"
    values: dict[str, Any] = read_mapping(folder / f"train_{BASE}.yaml")
    if name != BASE:
        path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"train_{name}.yaml"
        if not path.is_file():
            known = sorted(p.stem.removeprefix("train_") for p in folder.glob("train_*.yaml"))
            raise ConfigError(f"there is no recipe {name!r}; expected one of {', '.join(known)}, or a YAML file")
        merge(values, read_mapping(path))
    merge_pairs(values, pairs, "stage2_geometry.batch=4")
    recipe = from_dict(Recipe, values)
    if len(recipe.scenes.size) not in (0, 2):
        raise ConfigError(f"scenes.size is {list(recipe.scenes.size)}, expected width and height, or []")
    if not recipe.stages():
        raise ConfigError("no stage runs; set run of stage1_2d, stage2_geometry or stage3_joint to true")
    return recipe
