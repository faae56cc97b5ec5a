"""``psg4d eval``: a dataset by name or path, a method, and the metrics as JSON values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from psg4d_ros.config import PipelineConfig, to_dict
from psg4d_ros.data.open_dataset import SIMULATED, Progress, open_recordings
from psg4d_ros.evaluation.evaluate import Method, evaluate, needs_pipeline
from psg4d_ros.evaluation.frequency import FrequencyPrior
from psg4d_ros.evaluation.metrics import Triplet
from psg4d_ros.evaluation.observation import PipelineRunner, Setting, evaluation_config
from psg4d_ros.evaluation.truth import triplets
from psg4d_ros.transforms import TransformBuffer
from psg4d_ros.vocabulary import default_vocabulary

TRAIN_SPLIT = "train_scarce"  # of the simulator: what the frequency prior is fitted on where nothing else is said


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
    watched = recordings if progress is None else progress(recordings, len(recordings))
    result = evaluate(watched, method, setting, config.window, words, runner=runner, prior=prior)
    model = None
    if runner is not None:
        pipeline = runner.pipeline
        model = {"id": pipeline.model_id, "sha256": pipeline.model_sha256, "trained": pipeline.trained}
    used = to_dict(config) if runner is not None else {"window": to_dict(config.window)}
    about = {"dataset": dataset, "split": split, "seed": seed, "train": train, "model": model, "config": used}
    return {**about, **result.to_json(seen)}


def _runner(checkpoint: Path | None, config: PipelineConfig) -> PipelineRunner:
    from psg4d_ros.checkpoint import default_checkpoint
    from psg4d_ros.pipeline import ScenePipeline

    transforms = TransformBuffer()
    folder = checkpoint or default_checkpoint()
    return PipelineRunner(ScenePipeline.from_checkpoint(folder, config, transforms), transforms)
