"""How many related pairs are lost before the language model is asked?

``python benchmarks/pair_shortlist.py --checkpoint DIR [--split test] [--scenes N] [--windows N] [--seed N]``

Of windows of simulated scenes with true tubes and labels: all ordered pairs (stuff is never a subject), nearest first.
``nearest N``: the share of the pairs that are related in the window among the N nearest. ``shortlist``: among the pairs
that turn 2 reads, chosen by geometry and labels from the nearest (runtime/relating.py); by rank of the same scores with
``all pairs`` instead of the nearest, what measuring more of them would bring.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from psg4d_ros.checkpoint import default_checkpoint, load_checkpoint
from psg4d_ros.config import InferenceConfig
from psg4d_ros.data.open_dataset import SIMULATED, open_recordings
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.runtime.relating import CANDIDATES
from psg4d_ros.training.windows import WindowDataset, WindowRecipe, WindowTruth

NEAREST = (32, 64, 128, 256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=default_checkpoint(), metavar="DIR")
    parser.add_argument("--dataset", default=SIMULATED, help="sim, or a folder of psg4d simulate")
    parser.add_argument("--split", help="of sim (default: test)")
    parser.add_argument("--scenes", type=int, metavar="N")
    parser.add_argument("--windows", type=int, default=60, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model = load_checkpoint(options.checkpoint, torch.device("cpu"))
    encoder = model.config.encoder
    recipe = WindowRecipe(
        frames=8, voxel_size_m=encoder.voxel_size_m, levels=len(encoder.channels), max_pairs=4096, augment=False
    )
    recordings = open_recordings(options.dataset, options.split, limit=options.scenes, seed=options.seed)
    windows = WindowDataset(recordings, recipe, options.seed)
    asked = InferenceConfig().max_pairs
    kept: dict[str, list[int]] = {f"nearest {n}": [] for n in NEAREST}
    kept |= {f"shortlist: {asked} of the nearest {CANDIDATES * asked}": [], f"{asked} of all pairs": []}
    pairs, related = [], []
    for number in range(options.windows):
        truth = windows[number].truth
        true = truth.holds.any(dim=2).any(dim=1).numpy()
        score = expected(model, truth)
        pairs.append(len(true))
        related.append(int(true.sum()))
        first = {f"nearest {n}": np.arange(min(n, len(true))) for n in NEAREST}
        near = np.argsort(-score[: CANDIDATES * asked], kind="stable")[:asked]
        first |= {f"shortlist: {asked} of the nearest {CANDIDATES * asked}": near}
        first |= {f"{asked} of all pairs": np.argsort(-score, kind="stable")[:asked]}
        for name, rows in first.items():
            kept[name].append(int(true[rows].sum()))
    print(f"{len(recordings)} recordings, {options.windows} windows of 8 frames, seed {options.seed}")
    print(f"{np.mean(pairs):.0f} pairs a window (at most {max(pairs)}), {np.mean(related):.1f} of them related\n")
    print("| pairs that are kept | related pairs among them, % |\n|---|---|")
    for name, found in kept.items():
        print(f"| {name} | {100 * sum(found) / max(1, sum(related)):.1f} |")


@torch.inference_mode()
def expected(model: PSG4D, truth: WindowTruth) -> np.ndarray:
    """float[R]: what ``relating.shortlist`` ranks by."""
    labels = model.chain.pair_labels(truth.labels)
    logits = model.relation_head(
        None,
        labels[truth.pairs[:, 0]],
        labels[truth.pairs[:, 1]],
        truth.geometry,
        model.language_model.phrase_embeddings(model.vocabulary.predicates),
        truth.motion,
    ).logits
    return logits.float().sigmoid().sum(dim=1).numpy()


if __name__ == "__main__":
    main()
