"""The splits of the simulated data: which seeds, which words and assets, how many scenes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psg4d_ros.data.simulation.classes import OOV_WORDS, TEST_WORDS, TRAIN_WORDS, WordSplit
from psg4d_ros.errors import ConfigError


@dataclass(frozen=True)
class Split:
    """One split. stream: number in the seeds of its scenes; splits of one stream share their scenes. scenes: how many
    there are by default. most: how many there can be, None = any number."""

    name: str
    stream: int
    words: WordSplit
    scenes: int
    most: int | None = None


SPLITS = {
    split.name: split
    for split in (
        Split("train", 0, TRAIN_WORDS, 1000),
        Split("train_scarce", 0, TRAIN_WORDS, 60, most=60),  # the first scenes of train: to study scarce data
        Split("val", 1, TRAIN_WORDS, 100),
        Split("test", 2, TEST_WORDS, 200),
        Split("test_oov", 3, OOV_WORDS, 100),
    )
}


def choose_split(name: str, scenes: int | None) -> tuple[Split, int]:
    """A split by name, and how many of its scenes to make. Raises ConfigError for what there is not."""
    split = SPLITS.get(name)
    if split is None:
        raise ConfigError(f"split is {name!r}, expected one of {', '.join(SPLITS)}")
    number = split.scenes if scenes is None else scenes
    if number < 1 or (split.most is not None and number > split.most):
        limit = "at least 1" if split.most is None else f"1 to {split.most}"
        raise ConfigError(f"{number} scenes of {name} are asked for, expected {limit}")
    return split, number


def scene_seed(split: Split, seed: int, index: int) -> np.random.SeedSequence:
    """The seed of one scene: it depends on nothing but these numbers. Raises ConfigError for a negative seed."""
    if seed < 0:
        raise ConfigError(f"seed is {seed}, expected 0 or more")
    return np.random.SeedSequence([seed, split.stream, index])
