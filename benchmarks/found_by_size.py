"""Which objects are found? Tubes of single windows by their size in voxels, and by class.

``python benchmarks/found_by_size.py --dataset DIR [--checkpoint DIR] [--windows N] [--frames N] [--seed N]
[--language-model] [--set KEY=VALUE ...]``; DIR: a folder of psg4d simulate, or "sim" (split test).

``mask``: some slot's own mask, sure or not, has an IoU over voxels above one half with the tube. ``present``: and the
best such slot is surer of itself than the pipeline's threshold. ``top 1 / 3``: of those with a mask, named right. The
line before the table is of what the pipeline makes of the slots, each voxel being one instance's at most: the figures
of learning curves (training/window_scores.py). Without the language model, if it is not asked for.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from psg4d_ros.checkpoint import default_checkpoint, load_checkpoint
from psg4d_ros.config_files import pipeline_config
from psg4d_ros.data.open_dataset import open_recordings
from psg4d_ros.training.window_scores import ReadWindow, read_windows, window_scores
from psg4d_ros.training.windows import WindowDataset, WindowRecipe

EDGES = (8, 20, 60, 200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=default_checkpoint(), metavar="DIR")
    parser.add_argument("--dataset", default="sim")
    parser.add_argument("--windows", type=int, default=60, metavar="N")
    parser.add_argument("--frames", type=int, default=2, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--language-model", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings, as of psg4d replay")
    options = parser.parse_args()
    config = pipeline_config(None, options.set).inference
    model = load_checkpoint(options.checkpoint, torch.device("cpu"))
    encoder = model.config.encoder
    recipe = WindowRecipe(
        frames=options.frames, voxel_size_m=encoder.voxel_size_m, levels=len(encoder.channels), augment=False
    )
    dataset = WindowDataset(open_recordings(options.dataset), recipe, options.seed)
    words = tuple(c.name for c in model.vocabulary.classes)
    windows = (dataset[i] for i in range(options.windows))
    rows: dict[tuple[str, str], list[tuple[bool, bool, bool, bool]]] = defaultdict(list)
    reads = list(read_windows(model, windows, words, language_model=options.language_model, config=config))
    print(", ".join(f"{name} {100 * value:.1f}" for name, value in window_scores(reads).items()) + "\n")
    for read in reads:
        for kind, size, label, found in judged(read, words, config.presence_threshold):
            low = max((e for e in (0, *EDGES) if e <= size), default=0)
            high = next((str(e) for e in EDGES if e > size), "")
            rows[kind, f"{low:3d} to {high} voxels" if high else f"{low:3d} voxels and more"].append(found)
            rows["class", label].append(found)
    print("| | | tubes | mask % | present % | top 1 / 3 % |\n|---|---|---|---|---|---|")
    order = sorted(
        rows, key=lambda k: (("thing", "stuff", "class").index(k[0]), 0 if k[0] != "class" else -len(rows[k]), k[1])
    )
    for kind, name in [k for k in order if k[0] != "class" or len(rows[k]) >= 20]:
        table = np.array(rows[kind, name], dtype=float)
        named = table[table[:, 0] > 0]
        cells = [100 * table[:, 0].mean(), 100 * table[:, 1].mean()]
        top = f"{100 * named[:, 2].mean():.0f} / {100 * named[:, 3].mean():.0f}" if len(named) else ""
        print(f"| {kind} | {name} | {len(table)} | {cells[0]:.0f} | {cells[1]:.0f} | {top} |")


def judged(
    read: ReadWindow, words: tuple[str, ...], threshold: float
) -> list[tuple[str, int, str, tuple[bool, bool, bool, bool]]]:
    """Kind, voxels, label; has a mask, is present, is named right, is among three names, of each tube."""
    known = read.fine_tube >= 0
    sure = read.output.presence_logits.sigmoid() >= threshold
    out = []
    truth = read.window.truth
    overlaps, slots = (x.tolist() for x in read.best_slots())
    for tube, (label, iou, best) in enumerate(zip(truth.labels, overlaps, slots, strict=True)):
        mask = iou > 0.5
        names = [words[i] for i in read.scores.class_logits[best].topk(3).indices.tolist()]
        found = (mask, mask and bool(sure[best]), names[0] == label, label in names)
        out.append(
            ("thing" if truth.is_thing[tube] else "stuff", int((read.fine_tube[known] == tube).sum()), label, found)
        )
    return out


if __name__ == "__main__":
    main()
