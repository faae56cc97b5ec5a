#!/usr/bin/env python3
"""Write models/psg4d-small with random weights from a seed: all of the model's shapes, nothing learnt.

The manifest says ``"trained": false``, and so does everything that runs it, until training replaces the folder.

    python scripts/make_untrained_checkpoint.py models/psg4d-small
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from psg4d_ros.checkpoint import save_checkpoint
from psg4d_ros.config import LanguageModelConfig, ModelConfig
from psg4d_ros.model.base_weights import SMOLLM2_SHA256
from psg4d_ros.model.language_model import LanguageModel
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.vocabulary import default_vocabulary

SEED = 0
CARD = """# psg4d-small (untrained)

Sparse 3D encoder, temporal aggregator, projector, mask decoder, chain and relation head of psg4d_ros with **random
weights** (seed {seed}); the language model is SmolLM2-135M-Instruct, as published, and is not part of this folder.

- Trained: **no**. Labels, masks and relations mean nothing. The folder exists so that everything around the weights
  (loading, hashes, caching, both turns, tracking, messages) is the real thing.
- Made by: `python scripts/make_untrained_checkpoint.py models/psg4d-small`
- Parameters in this folder: {parameters:,}, stored in half precision.
- Vocabulary: {classes} object classes, {predicates} predicates, {attributes} attributes.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    config = ModelConfig(language_model=LanguageModelConfig(sha256=SMOLLM2_SHA256))
    vocabulary = default_vocabulary()
    language_model = LanguageModel.load(config.language_model, torch.device("cpu"), torch.float32)
    torch.manual_seed(SEED)
    model = PSG4D(config, vocabulary, language_model)
    parameters = sum(t.numel() for t in model.trained_state().values())
    card = CARD.format(
        seed=SEED,
        parameters=parameters,
        classes=len(vocabulary.classes),
        predicates=len(vocabulary.predicates),
        attributes=len(vocabulary.attributes),
    )
    save_checkpoint(
        folder, model, model_id="psg4d-small-untrained", trained=False, card=card, training={"seed": SEED, "steps": 0}
    )
    print(f"{folder}: {parameters:,} parameters")


if __name__ == "__main__":
    main()
