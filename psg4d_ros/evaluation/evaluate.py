"""Recordings in, metrics out: every method on the same tubes, by the same protocols (docs/metrics.md).

Streaming: a recording is watched once and its clouds are forgotten; what is kept of it is its overlaps and its best
relations, some hundred kilobytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from psg4d_ros.config import PipelineConfig, WindowConfig, to_dict
from psg4d_ros.data.open_dataset import SIMULATED, Progress, open_recordings
from psg4d_ros.data.recording import Recording
from psg4d_ros.errors import ConfigError
from psg4d_ros.evaluation.attributes import SceneAttributes, attribute_metrics
from psg4d_ros.evaluation.calibration import calibration_metrics
from psg4d_ros.evaluation.frequency import FrequencyPrior
from psg4d_ros.evaluation.matching import Relations, Scene, ScenePrediction, rank
from psg4d_ros.evaluation.metrics import KS, Triplet, rarity, relation_metrics
from psg4d_ros.evaluation.observation import Observation, PipelineRunner, Setting, evaluation_config, observe
from psg4d_ros.evaluation.panoptic import panoptic_metrics
from psg4d_ros.evaluation.rules import relate_by_rules
from psg4d_ros.evaluation.truth import triplets
from psg4d_ros.structures import Float64
from psg4d_ros.transforms import TransformBuffer
from psg4d_ros.vocabulary import Vocabulary, default_vocabulary

Method = Literal["model", "oracle", "frequency", "rules"]
TRAIN_SPLIT = "train_scarce"  # of the simulator: what the frequency prior is fitted on where nothing else is said


@dataclass
class Evaluation:
    """Scenes with what a method said of them; ``to_json`` makes the metrics.

    frames, evaluated: of all recordings. unseen, repeated: true relations left out (truth.LeftOut). attributes: of the
    methods that say any.
    """

    method: Method
    setting: Setting
    scenes: list[Scene] = field(default_factory=list)
    attributes: list[SceneAttributes] | None = None
    frames: int = 0
    evaluated: int = 0
    unseen: int = 0
    repeated: int = 0

    def to_json(self, seen: Collection[Triplet] | None = None) -> dict[str, Any]:
        """All metrics as JSON values. seen: triplets of the training set, for zero-shot recall."""
        given = self.setting == "PredCls"  # masks and labels are not the method's then
        probable = self.method in ("model", "frequency")  # the other methods' scores are only an order
        return {
            "method": self.method,
            "setting": self.setting,
            "scenes": len(self.scenes),
            "scenes_without_relations": sum(not len(s.truth.relations) for s in self.scenes),
            "frames": {"evaluated": self.evaluated, "left_out": self.frames - self.evaluated},
            "true_relations": {
                "judged": sum(len(s.truth.relations) for s in self.scenes),
                "unseen": self.unseen,
                "repeated": self.repeated,
            },
            "protocol": relation_metrics(self.scenes, KS, seen),
            "panoptic": None if given else panoptic_metrics(self.scenes),
            "attributes": None if self.attributes is None else attribute_metrics(self.scenes, self.attributes),
            "calibration": calibration_metrics(self.scenes) if probable else None,
        }


def needs_pipeline(method: Method, setting: Setting) -> bool:
    """Whether a checkpoint has to run: what is not given, tubes or labels, is the model's for every method but the
    oracle."""
    return method == "model" or (method != "oracle" and setting != "PredCls")


def evaluate(
    recordings: Iterable[Recording],
    method: Method,
    setting: Setting,
    window: WindowConfig,
    words: Vocabulary,
    *,
    runner: PipelineRunner | None = None,
    prior: FrequencyPrior | None = None,
) -> Evaluation:
    """Run a method over recordings.

    window: which frames are evaluated; the pipeline's own. words: synonyms count as equal by its classes. runner: for
    what needs_pipeline says; prior: for the method frequency. Raises ConfigError when one of these is missing.
    """
    if needs_pipeline(method, setting) != (runner is not None):
        raise ConfigError(
            f"method {method} in {setting} {'needs a' if runner is None else 'takes no'} pipeline; "
            "see evaluate.needs_pipeline"
        )
    if method == "frequency" and prior is None:
        raise ConfigError("method frequency needs a prior, fitted on a training dataset")
    result = Evaluation(method, setting, attributes=[] if method in ("model", "oracle") else None)
    for recording in recordings:
        seen = observe(recording, setting, window, words, runner, boxes=method == "rules")
        relations, score = _relate(method, seen, prior)
        if seen.said is not None:
            score = score * seen.said.sure_of_objects(relations)
        relations, score = _best(relations, score)
        prediction = ScenePrediction(seen.tubes.labels, seen.tubes.is_thing, relations, score)
        result.scenes.append(Scene(seen.truth, prediction, seen.overlaps))
        if result.attributes is not None:
            said = seen.attributes
            result.attributes.append(replace(said, predicted=said.true) if method == "oracle" else said)
        result.frames += seen.frames
        result.evaluated += len(seen.overlaps.true)
        result.unseen += seen.left_out.unseen
        result.repeated += seen.left_out.repeated
    if method == "oracle":
        result.scenes = _rarest_first(result.scenes)
    return result


def evaluate_dataset(
    dataset: str,
    *,
    split: str | None = None,
    setting: Setting = "SGDet",
    method: Method = "model",
    limit: int | None = None,
    seed: int = 0,
    train: str | None = None,
    checkpoint: Path | None = None,
    config: PipelineConfig | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluate a method on a dataset; the JSON values of ``psg4d eval``.

    dataset, split, limit, seed: see open_recordings. train: the dataset whose annotation gives the frequency prior and
    says which triplets were seen in training; None: no zero-shot recall, and the simulator's TRAIN_SPLIT for the prior.
    checkpoint: None takes the shipped one. progress: wraps the making of scenes and the iteration over recordings, as
    tqdm does. Raises Psg4dError for what cannot be opened or run.
    """
    words = default_vocabulary()
    config = evaluation_config(config or PipelineConfig())
    recordings = open_recordings(dataset, split, limit=limit, seed=seed, progress=progress)
    prior, seen = None, None
    if train is None and method == "frequency":
        train = SIMULATED
    if train is not None:
        prior, seen = FrequencyPrior(), set[Triplet]()
        train_split = TRAIN_SPLIT if train == SIMULATED else None
        for recording in open_recordings(train, train_split, seed=seed, progress=progress):
            prior.count(recording, words)
            seen |= triplets(recording, words)
    runner = _runner(checkpoint, config) if needs_pipeline(method, setting) else None
    if runner is not None and recordings[0].boxes is not None:
        # Asked is what its annotators chose from, in all of it: of the vocabulary, most was never looked for.
        asked = {r.predicate for recording in open_recordings(dataset, split) for r in recording.relations}
        runner.pipeline.set_vocabulary([], sorted(asked), replace=True)
    watched = recordings if progress is None else progress(recordings, len(recordings))
    result = evaluate(watched, method, setting, config.window, words, runner=runner, prior=prior)
    model = None
    if runner is not None:
        pipeline = runner.pipeline
        model = {
            "id": pipeline.model_id,
            "sha256": pipeline.model_sha256,
            "trained": pipeline.trained,
            "predicates": list(pipeline.vocabulary.predicates),
        }
    used = to_dict(config) if runner is not None else {"window": to_dict(config.window)}
    about = {"dataset": dataset, "split": split, "seed": seed, "train": train, "model": model, "config": used}
    return {**about, **result.to_json(seen)}


def _relate(method: Method, seen: Observation, prior: FrequencyPrior | None) -> tuple[Relations, Float64]:
    if method == "oracle":
        return seen.truth.relations, np.ones(len(seen.truth.relations))
    if method == "rules":
        return relate_by_rules(seen.tubes)
    if method == "frequency" and prior is not None:
        return prior.relate(seen.tubes)
    assert seen.said is not None
    return seen.said.relations(seen.tubes.stamps_ns)


def _best(relations: Relations, score: Float64) -> tuple[Relations, Float64]:
    """Only the relations that can count for the greatest K, with and without the graph constraint, in their order."""
    if len(relations) <= max(KS):
        return relations, score
    kept = np.unique(np.concatenate([rank(relations, score, max(KS), graph_constraint=c) for c in (True, False)]))
    return relations.take(kept), score[kept]


def _rarest_first(scenes: list[Scene]) -> list[Scene]:
    """The oracle's scores. Of more than K true relations those of rare predicates come first, and how rare they are is
    known only now; so it reaches the ceiling of mean recall too."""
    worth = rarity([s.truth.relations for s in scenes])
    return [
        replace(s, prediction=replace(s.prediction, relations=s.truth.relations, score=w))
        for s, w in zip(scenes, worth, strict=True)
    ]


def _runner(checkpoint: Path | None, config: PipelineConfig) -> PipelineRunner:
    from psg4d_ros.checkpoint import default_checkpoint
    from psg4d_ros.pipeline import ScenePipeline

    transforms = TransformBuffer()
    folder = checkpoint or default_checkpoint()
    return PipelineRunner(ScenePipeline.from_checkpoint(folder, config, transforms), transforms)
