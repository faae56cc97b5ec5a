"""What a training came to, for people: the card of its checkpoint, and the table that the command prints."""

from __future__ import annotations

from typing import Any

from psg4d_ros.model.psg4d import PSG4D

_CARD = """# {name}

Sparse 3D encoder, temporal aggregator, projector, mask decoder, chain and relation head of psg4d_ros, and low-rank
adapters of its language model ({language_model}), whose base weights are not part of this folder.

- Parameters in this folder: {parameters:,}, stored in half precision.
- Vocabulary: {classes} object classes, {predicates} predicates, {attributes} attributes; more words can be added at run
  time.
- Trained in {minutes} minutes on {hardware}, seed {seed}, with psg4d_ros {version}{start}.
- Data: {data}
- Calibration: scales and shifts of logits, fitted on held-out windows and folded into the weights: {calibration}.

`manifest.json` holds the complete recipe and all figures.

## Stages

{stages}

Validation is on {validation}; stage 1 is validated on held-out images of VRD. These figures are for learning curves;
the protocol's, on held-out models and words, come from `psg4d eval sim --split test` and are in docs/results.md.

## Limits

Trained on {seen}{images}; what other sensors, rooms and people look like it has only seen through
augmentation. Scores are calibrated on the scenes of validation only. Not for anything that safety depends on.
"""


def model_card(name: str, training: dict[str, Any], model: PSG4D) -> str:
    """MODEL_CARD.md: what the checkpoint is, how it came to be, what was measured, what it is not.

    training: the manifest's.
    """
    scenes = training["scenes"]
    runs = lineage(training)
    stages = [stage for run in reversed(runs) for stage in run.get("stages", {}).values()]
    with_images = "stage1_2d" in {stage["stage"] for stage in stages}
    data = f"{scenes['train']} simulated scenes of split `train` (simulator {scenes['simulator']})"
    seen = "simulated indoor scenes"
    validation = f"""{scenes["val"]} simulated scenes of split `val` (other rooms and motions, models of objects that
training shows, too)"""
    if scenes.get("own"):
        data = f"{scenes['train']} scenes that psg4d_ros did not make"
        seen, validation = "the scenes named above", f"{scenes['val']} scenes of the same source"
    if with_images:
        data = "scene graphs of images (labels and boxes, no pixels); " + data
    return _CARD.format(
        name=name,
        language_model=model.config.language_model.source,
        parameters=sum(t.numel() for t in model.trained_state().values()),
        classes=len(model.vocabulary.classes),
        predicates=len(model.vocabulary.predicates),
        attributes=len(model.vocabulary.attributes),
        minutes=round(sum(run.get("minutes", 0.0) for run in runs), 2),
        hardware=training["hardware"],
        seed=training["seed"],
        version=training["psg4d_ros"],
        start=f", on from checkpoint {training['start'][:12]}" if training["start"] else "",
        data=data,
        calibration=_figures(training["calibration"]) or "none",
        stages="\n".join(_stage(stage) for stage in stages),
        validation=validation,
        seen=seen,
        images=" and, for relations, on labels and boxes of photographs" if with_images else "",
    )


def lineage(training: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs that led to a checkpoint, the last one first. training: its manifest's; ``before``: of the checkpoint
    that it was trained on from; ``mean_of``: the runs whose weights it is the mean of
    (scripts/average_checkpoints.py)."""
    before = lineage(training["before"]) if training.get("before") else []
    return [training, *reversed(training.get("mean_of", [])), *before]


def training_table(result: dict[str, Any]) -> str:
    """A line per stage. result: of ``run.train``."""
    lines = [f"{'stage':<17} {'steps':>7} {'minutes':>8} {'loss':>8}  validation"]
    for name, stage in result["stages"].items():
        loss = f"{stage['losses'].get('loss', float('nan')):.3f}"
        lines.append(f"{name:<17} {stage['steps']:>7} {stage['minutes']:>8} {loss:>8}  {_figures(stage['val'])}")
    return "\n".join([*lines, f"{result['minutes']} minutes in all; checkpoint: {result['checkpoint']}"])


def _stage(values: dict[str, Any]) -> str:
    made = f"{values['steps']} steps of {values['batch']} in {values['minutes']} minutes"
    return f"- `{values['stage']}`: {made}; validation: {_figures(values['val']) or 'none'}."


def _figures(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items())
