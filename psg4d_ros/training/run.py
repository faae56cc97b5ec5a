"""A whole training, as ``psg4d train`` does it: scenes, stages in order, calibration, checkpoint.

Everything lies in one run folder, and a part that is finished is not repeated: a run that was stopped goes on when it
is started again. The time it was away does not count.

    run.json                    settings, and the time used
    scenes/train, scenes/val    unless they lie elsewhere
    stage*/                     log.jsonl, tensorboard/, the state to go on from; then result.json and checkpoint/
    checkpoint/                 the result
"""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from psg4d_ros.checkpoint import load_checkpoint, manifest_sha256, read_manifest, save_checkpoint, verify
from psg4d_ros.config import ModelConfig, switched, to_dict
from psg4d_ros.data.simulation.production import SETTINGS_FILE, SimulationJob, simulate, simulator_hash
from psg4d_ros.data.simulation.storage import write_whole
from psg4d_ros.errors import CheckpointError, ConfigError
from psg4d_ros.model.language_model import LanguageModel, fastest_dtype, tiny_language_model
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.training.launch import accelerator, local_processes, wait_for_all
from psg4d_ros.training.real_stages import Sources, calibrated, make_stage
from psg4d_ros.training.recipe import ImageStage, Recipe, ScenesRecipe
from psg4d_ros.training.report import model_card
from psg4d_ros.training.run_state import remove_states
from psg4d_ros.training.stage import sized
from psg4d_ros.training.stage1 import forget_images
from psg4d_ros.training.trainer import train_stage
from psg4d_ros.version import version
from psg4d_ros.vocabulary import default_vocabulary

RUN, RESULT, CHECKPOINT = "run.json", "result.json", "checkpoint"
MAX_SCENES, SCENES_WITHOUT_MINUTES = 1000, 60
# Of the minutes, what is kept for loading models and writing checkpoints between the stages.
_RESERVE_SHARE, _MIN_RESERVE_S = 0.02, 5.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunOptions:
    """What is asked for besides the recipe.

    minutes: for everything, interruptions not counted; None: steps decide. steps: of every stage. start: checkpoint
    whose weights and shape to start from. scenes: how many to train on, None = the recipe's. data: folder with scenes
    in train/ and val/, None = in the run folder. images: folder of 2D data sets. resume: go on with a run that is in
    ``out``, if there is one.
    """

    out: Path
    minutes: float | None = None
    steps: int | None = None
    seed: int = 0
    start: Path | None = None
    scenes: int | None = None
    data: Path | None = None
    images: Path | None = None
    resume: bool = False
    quiet: bool = False


def train(recipe: Recipe, options: RunOptions, clock: Callable[[], float] = time.monotonic) -> dict[str, Any]:
    """Run a recipe in ``options.out``. Returns stage, steps, losses and val of the last stage, and of each in
    ``stages``.

    Raises ConfigError for settings that do not fit each other, or a run folder that was started with others;
    DatasetError and CheckpointError where data or a checkpoint cannot be read.
    """
    return _Run(recipe, options, clock).run()


class _Run:
    def __init__(self, recipe: Recipe, options: RunOptions, clock: Callable[[], float]) -> None:
        self.clock, self.mark = clock, clock()
        self.out = options.out
        self.accelerator = accelerator()
        self.device: torch.device = self.accelerator.device
        self.cores = len(os.sched_getaffinity(0))  # of all processes on this machine
        self.own_cores = max(1, self.cores // local_processes())
        found = self._found(options.resume)
        if found and found["start"] and options.start is None:
            options = replace(options, start=Path(found["start"]["path"]))
        self.options = options
        self.recipe = self._complete(recipe, found)
        self.values = self._claim(found)

    def run(self) -> dict[str, Any]:
        done: dict[str, dict[str, Any]] = {}
        stages = self.recipe.stages()
        if any(not isinstance(stage, ImageStage) for stage in stages.values()):
            self._simulate()
        sources = Sources(self.recipe, self.options.images, self._scenes("train"), self._scenes("val"))
        weights = self.options.start
        for name in stages:
            folder = self.out / name
            if not (folder / RESULT).is_file():
                self._train(name, sources, weights, list(stages)[list(stages).index(name) :])
            done[name] = _read(folder / RESULT)
            weights = folder / CHECKPOINT
        return self._finish(done, sources, weights)

    # -- settings ------------------------------------------------------------------------------------------------------

    def _found(self, resume: bool) -> dict[str, Any] | None:
        """What run.json of the run that is to go on says; None where there is no run yet."""
        file = self.out / RUN
        found = _read(file) if file.is_file() else None
        wait_for_all()  # before the first process writes one
        if found and not resume:
            raise ConfigError(f"{self.out} holds a run; --resume goes on with it, or choose another folder")
        return found

    def _complete(self, recipe: Recipe, found: dict[str, Any] | None) -> Recipe:
        """The recipe with what is left open filled in: as the run started, else for this machine.

        The number of workers stays open: it changes nothing but the speed.
        """
        o, before = self.options, found["recipe"] if found else {}
        if recipe.stage1_2d.run and o.images is None:
            message = "stage 1 needs the 2D data sets; name their folder with --images or PSG4D_IMAGES"
            if recipe.stage1_2d.required:
                raise ConfigError(message)
            _log.warning("stage1_2d is left out: %s", message)
            recipe = replace(recipe, stage1_2d=replace(recipe.stage1_2d, run=False))
        stages = recipe.stages()
        if not stages:
            raise ConfigError("no stage runs without the 2D data sets; name their folder with --images")
        if o.minutes is None and o.steps is None and not all(s.steps for s in stages.values()):
            raise ConfigError("neither minutes nor steps are given; give --minutes or --steps")
        changes: dict[str, Any] = {}
        for name, stage in stages.items():
            steps = stage.steps if o.steps is None else o.steps
            sizes = {key: getattr(stage, key) or before.get(name, {}).get(key, 0) for key in ("batch", "micro_batch")}
            chosen = sized(replace(stage, steps=steps, **sizes), self.device, self.own_cores)
            changes[name] = replace(chosen, workers=stage.workers)
        scenes = self._with_own_scenes(recipe.scenes)
        number = o.scenes or scenes.number or before.get("scenes", {}).get("number", 0)
        if not number:
            open_ended = SCENES_WITHOUT_MINUTES if o.minutes is None else round(o.minutes * self.cores)
            number = min(MAX_SCENES, max(1, open_ended))
        model = recipe.model
        if o.start is not None:
            verify(o.start)
            model = switched(_model_config(o.start), recipe.model)  # what is trained on keeps its shape
        elif recipe.tiny_language_model:
            source = str((self.out / "language_model").absolute())
            model = replace(model, language_model=replace(model.language_model, source=source, sha256=""))
        return replace(recipe, model=model, scenes=replace(scenes, number=number), **changes)

    def _claim(self, found: dict[str, Any] | None) -> dict[str, Any]:
        """The content of run.json: a new one, or that of the run that goes on, which must have the same settings."""
        o = self.options
        start = None if o.start is None else {"path": str(o.start.absolute()), "sha256": manifest_sha256(o.start)}
        settings = {"recipe": to_dict(self.recipe), "seed": o.seed, "start": start}
        for key, value in settings.items() if found else ():
            if found and found[key] != value:
                raise ConfigError(
                    f"{self.out} was started with other settings: {_difference(key, found[key], value)}; "
                    "go on with the same, or choose another folder"
                )
        values = found or {**settings, "used_s": 0.0}
        if self.accelerator.is_main_process:
            self.out.mkdir(parents=True, exist_ok=True)
            _write(self.out / RUN, values)
        return values

    # -- time ----------------------------------------------------------------------------------------------------------

    def _spend(self, least_s: float = 0.0) -> None:
        """Count the time since the last call; at least ``least_s``, where a part began in an earlier process."""
        now = self.clock()
        self.values["used_s"] += max(least_s, now - self.mark)
        self.mark = now
        if self.accelerator.is_main_process:
            _write(self.out / RUN, self.values)

    def _seconds(self, stages: list[str]) -> float | None:
        """The time of the first of the stages that are left."""
        if self.options.minutes is None:
            return None
        total = 60.0 * self.options.minutes
        left = total - self.values["used_s"] - (self.clock() - self.mark) - max(_MIN_RESERVE_S, _RESERVE_SHARE * total)
        shares = {name: stage.share for name, stage in self.recipe.stages().items()}
        return max(1.0, left * shares[stages[0]] / sum(shares[name] for name in stages))

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _scenes(self, split: str) -> Path:
        return (self.options.data or self.out / "scenes") / split

    def _own_scenes(self, split: str) -> int:
        """How many scenes of a split are somebody's own, that no simulator made."""
        folder = self._scenes(split)
        return 0 if (folder / SETTINGS_FILE).is_file() else len(list(folder.glob("*.npz")))

    def _with_own_scenes(self, scenes: ScenesRecipe) -> ScenesRecipe:
        """As many as there are, where they are somebody's own; else as the recipe says."""
        train, val, asked = self._own_scenes("train"), self._own_scenes("val"), self.options.scenes
        if not train and not val:
            return scenes
        if not train or not val:
            own, lacking = (self._scenes(s) for s in (("val", "train") if val else ("train", "val")))
            raise ConfigError(f"{own} holds scenes of yours, {lacking} none; both are needed")
        if asked is not None and asked > train:
            raise ConfigError(f"{self._scenes('train')} holds {train} scenes, asked for {asked}")
        return replace(scenes, number=train, validation=val)

    def _simulate(self) -> None:
        """Make the scenes that are missing, but none among somebody's own."""
        from tqdm import tqdm

        r = self.recipe.scenes
        for split, number in (("train", r.number), ("val", r.validation)):
            folder = self._scenes(split)
            missing = len(list(folder.glob("*.npz"))) < number
            if self.accelerator.is_main_process and missing and not self._own_scenes(split):
                job = SimulationJob(
                    folder, split, self.options.seed, r.sensor, _pair(r.size), frames=r.frames, rate_hz=r.rate_hz
                )
                simulate(
                    job,
                    number,
                    progress=lambda items, total, split=split: tqdm(  # type: ignore[misc]
                        items, total=total, desc=f"scenes/{split}", unit="scene", disable=self.options.quiet
                    ),
                )
        wait_for_all()
        self._spend()

    def _train(self, name: str, sources: Sources, weights: Path | None, left: list[str]) -> None:
        o, folder = self.options, self.out / name
        model = self._model(weights)
        stage = make_stage(name, model, sources, o.seed, self.own_cores)
        last = len(left) == 1
        result = train_stage(
            stage,
            folder,
            self.accelerator,
            seed=o.seed,
            seconds=self._seconds(left),
            after=int(last),  # the calibration
            save_every_s=self.recipe.save_every_s,
            clock=self.clock,
            quiet=o.quiet,
        )
        values = {
            "stage": name,
            "steps": result.steps,
            "minutes": round(result.elapsed_s / 60.0, 2),
            "batch": stage.recipe.batch,
            "losses": result.losses,
            "val": result.val,
        }
        if self.accelerator.is_main_process:
            training = {name: values, "seed": o.seed}
            card = f"# {self.recipe.name} after {name}\n\nA stage of a training; not calibrated.\n"
            model_id = f"{self.recipe.name}-{name}"
            save_checkpoint(folder / CHECKPOINT, model, model_id=model_id, trained=True, card=card, training=training)
            _write(folder / RESULT, values)
            remove_states(folder)
        wait_for_all()
        self._spend(result.elapsed_s)

    def _model(self, weights: Path | None) -> PSG4D:
        """The model, in training: with a checkpoint's weights, or fresh ones from the seed."""
        config = self.recipe.model
        if weights is not None:
            model = load_checkpoint(weights, self.device)
            if weights == self.options.start:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(self.options.seed)
                    model.switch(config)
                    if self.recipe.stage1_2d.forget:
                        forget_images(model)
            return model
        if self.recipe.tiny_language_model and self.accelerator.is_main_process:
            _write_tiny_language_model(Path(config.language_model.source), self.options.seed)
        wait_for_all()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.options.seed)
            language_model = LanguageModel.load(config.language_model, "cpu", fastest_dtype(self.device))
            model = PSG4D(config, default_vocabulary(), language_model)
        return model.to(self.device)

    def _finish(self, stages: dict[str, dict[str, Any]], sources: Sources, weights: Path | None) -> dict[str, Any]:
        """Calibrate and write the checkpoint, unless that is done; the figures of the run."""
        final = self.out / CHECKPOINT
        if not final.is_dir() and self.accelerator.is_main_process:
            model = self._model(weights)
            training = {
                "psg4d_ros": version(),
                "recipe": self.values["recipe"],
                "seed": self.options.seed,
                "start": self.values["start"] and self.values["start"]["sha256"],
                "before": None if self.options.start is None else read_manifest(self.options.start).training,
                "stages": stages,
                "scenes": {
                    "own": bool(self._own_scenes("train")),
                    "train": self.recipe.scenes.number,
                    "val": self.recipe.scenes.validation,
                    "simulator": simulator_hash(),
                },
                "calibration": calibrated(model, list(stages)[-1], sources, self.options.seed, self.own_cores),
                "hardware": _hardware(self.device, self.cores, self.accelerator.num_processes),
            }
            self._spend()
            training["minutes"] = round(self.values["used_s"] / 60.0, 2)
            card = model_card(self.recipe.name, training, model)
            save_checkpoint(final, model, model_id=self.recipe.name, trained=True, card=card, training=training)
        wait_for_all()
        last = stages[list(stages)[-1]]
        manifest = verify(final)
        return {
            **{key: last[key] for key in ("stage", "steps", "losses", "val")},
            "stages": stages,
            "calibration": manifest.training["calibration"],
            "checkpoint": str(final),
            "minutes": manifest.training["minutes"],
        }


def _model_config(checkpoint: Path) -> ModelConfig:
    from psg4d_ros.checkpoint import CONFIG
    from psg4d_ros.config import from_dict

    try:
        return from_dict(ModelConfig, json.loads((checkpoint / CONFIG).read_text(encoding="utf-8")), CONFIG)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint / CONFIG} cannot be read: {error}") from error


def _write_tiny_language_model(folder: Path, seed: int) -> None:
    from safetensors.torch import save_model

    if not (folder / "tokenizer.json").is_file():
        language_model = tiny_language_model(seed)
        folder.mkdir(parents=True, exist_ok=True)
        language_model.base.config.save_pretrained(folder)
        save_model(language_model.base, str(folder / "model.safetensors"), metadata={"format": "pt"})
        language_model.tokenizer.save_pretrained(folder)


def _hardware(device: torch.device, cores: int, processes: int) -> str:
    machine = f"{processes} x {platform.machine()}"
    if device.type == "cuda":
        gpus = min(processes, torch.cuda.device_count())
        machine = f"{gpus} x {torch.cuda.get_device_name(device)}, {processes} processes"
    return f"{machine}, {cores} CPU cores, torch {torch.__version__}"


def _pair(size: tuple[int, ...]) -> tuple[int, int] | None:
    return (size[0], size[1]) if size else None


def _difference(path: str, found: Any, wanted: Any) -> str:
    """The first setting that differs."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            if found.get(key) != wanted.get(key):
                return _difference(f"{path}.{key}", found.get(key), wanted.get(key))
    return f"{path} is {found!r}, asked for {wanted!r}"


def _read(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; choose another folder") from error
    return values


def _write(path: Path, values: dict[str, Any]) -> None:
    write_whole(path, lambda stream: stream.write(json.dumps(values, indent=1).encode() + b"\n"))
