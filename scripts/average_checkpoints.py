#!/usr/bin/env python3
"""Write the mean of a checkpoint's weights and those of checkpoints that were trained on from it.

    python scripts/average_checkpoints.py --out OUT START TUNED ...

Short runs each learn something and spoil something else, and what they spoil is mostly not the same. Every checkpoint,
START as well, has an equal share. The card is START's: write into it what came of this. After the idea of "Model soups:
averaging weights of multiple fine-tuned models improves accuracy without increasing inference time" (2022).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from psg4d_ros.checkpoint import load_checkpoint, manifest_sha256, read_manifest, save_checkpoint
from psg4d_ros.errors import CheckpointError
from psg4d_ros.version import version


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("start", type=Path, metavar="START")
    parser.add_argument("tuned", type=Path, nargs="+", metavar="TUNED")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT")
    options = parser.parse_args()
    average(options.start, options.tuned, options.out)
    print(options.out)


def average(start: Path, tuned: list[Path], out: Path) -> None:
    """Write the mean of ``start`` and ``tuned`` to ``out``. It is not calibrated again; its manifest holds the runs of
    all of them (see lineage in training/report.py).

    Raises CheckpointError where they are not of one shape and vocabulary, or did not start from ``start``.
    """
    model, name = load_checkpoint(start, torch.device("cpu")), manifest_sha256(start)
    mean = {key: value.double() for key, value in model.trained_state().items()}
    runs: list[dict[str, Any]] = []
    for folder in tuned:
        other, training = load_checkpoint(folder, torch.device("cpu")), read_manifest(folder).training
        if training.get("start") != name:
            raise CheckpointError(f"{folder} was not trained on from {start}; the mean of the two would be neither")
        if (other.config, other.vocabulary) != (model.config, model.vocabulary):
            raise CheckpointError(f"{folder} is not of the shape and vocabulary of {start}")
        for key, value in other.trained_state().items():
            mean[key] += value.double()
        runs.append({key: value for key, value in training.items() if key != "before"})
    model.load_state_dict({key: (value / (1 + len(tuned))).float() for key, value in mean.items()}, strict=False)
    training = {
        "psg4d_ros": version(),
        "seed": runs[-1]["seed"],
        "before": read_manifest(start).training,
        "mean_of": runs,
    }
    card = (start / "MODEL_CARD.md").read_text(encoding="utf-8")
    save_checkpoint(out, model, model_id=read_manifest(start).model_id, trained=True, card=card, training=training)


if __name__ == "__main__":
    main()
