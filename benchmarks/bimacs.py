"""Does what was learnt from images hold in space? Where things lie, asked of real 3D boxes, frame by frame.

``python benchmarks/bimacs.py --takes DIR [--checkpoint DIR ...] [--every N] [--seed N]``; DIR holds the takes of
bimacs_zed (docs/datasets.md). ``untrained``: weights as training begins with them, in the form of the first checkpoint.

Of every N-th frame all ordered pairs of objects are asked, labels and boxes given, with the words of the data set's
rules. ``top-1``: of all six words, the best is one that holds. Of each axis: of its two words the right one is the
better; pairs of which neither is said are left out. Chance is 50 % of an axis. With the language model and without.
``flat``: as a picture shows it, without what lies along the line of sight, as images have taught it. ``signs``: no
model but the side on which the subject's middle lies, in ``flat`` what is higher is behind: what the boxes themselves
hold of the answers.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from psg4d_ros.checkpoint import default_checkpoint, load_checkpoint
from psg4d_ros.data.bimacs import open_bimacs
from psg4d_ros.data.recording import Recording
from psg4d_ros.model.geometry import DEPTH_COLUMNS, GEOMETRY_NAMES, relative_geometry
from psg4d_ros.model.language_model import LanguageModel
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.structures import Float32
from psg4d_ros.training.images import ImageItem
from psg4d_ros.training.stage1 import PairBatch, ask_images
from psg4d_ros.vocabulary import default_vocabulary

AXES = (("left of", "right of"), ("above", "below"), ("in front of", "behind"))
WORDS = tuple(word for axis in AXES for word in axis)
FRAMES_PER_PASS = 16


def question(recording: Recording, number: int) -> ImageItem | None:
    """All ordered pairs of the objects in a frame, and which words hold of each; None for fewer than two objects."""
    assert recording.boxes is not None
    boxes = recording.boxes[number].reshape(-1, 6)
    there = np.flatnonzero(np.isfinite(boxes).all(axis=1))
    if len(there) < 2:
        return None
    row = {recording.objects[i].object_id: n for n, i in enumerate(there)}
    pairs = np.argwhere(~np.eye(len(there), dtype=bool))
    place = {(s, o): n for n, (s, o) in enumerate(pairs.tolist())}
    holds = torch.zeros(len(pairs), len(WORDS), dtype=torch.bool)
    for r in recording.relations:
        if r.predicate in WORDS and r.start_frame <= number < r.end_frame and {r.subject_id, r.object_id} <= set(row):
            holds[place[row[r.subject_id], row[r.object_id]], WORDS.index(r.predicate)] = True
    seen = boxes[there]
    extent = np.concatenate([seen[:, :3].min(axis=0), seen[:, 3:].max(axis=0)])
    geometry = relative_geometry(seen[pairs[:, 0]], seen[pairs[:, 1]], viewpoint=np.zeros(3), extent=extent)
    labels = tuple(recording.objects[i].label for i in there)
    return ImageItem(
        f"{recording.name} {number}", labels, torch.from_numpy(pairs), torch.from_numpy(geometry), WORDS, holds
    )


def flat(item: ImageItem) -> ImageItem:
    """As an image shows it."""
    geometry = item.geometry.clone()
    geometry[:, DEPTH_COLUMNS] = 0
    return replace(item, geometry=geometry)


def signs(items: Sequence[ImageItem], depth: str) -> Float32:
    """float32[R, 6] by the offset of the middles along each axis. depth: the feature that says how far behind."""
    table = torch.cat([item.geometry for item in items])
    right, up, away = (table[:, GEOMETRY_NAMES.index(name)] for name in ("right_union", "up_union", depth))
    return torch.stack([-right, right, up, -up, -away, away], dim=1).numpy()


@torch.inference_mode()
def scores(model: PSG4D, items: Sequence[ImageItem], *, language_model: bool) -> Float32:
    """float32[R, 6] of the pairs of all frames, larger is likelier."""
    out = []
    for start in range(0, len(items), FRAMES_PER_PASS):
        part = items[start : start + FRAMES_PER_PASS]
        hidden = ask_images(model, part).pair_hidden if language_model else None
        out.append(PairBatch.of(model, part).log_probabilities(model, hidden)[:, :-1].cpu().numpy())
    return np.concatenate(out)


def accuracies(table: Float32, holds: np.ndarray) -> list[float]:
    """Top-1 of all words, then of each axis."""
    any_word = holds.any(axis=1)
    best = table.argmax(axis=1)
    out = [float(holds[np.arange(len(holds)), best][any_word].mean())]
    for axis in range(len(AXES)):
        columns = slice(2 * axis, 2 * axis + 2)
        true, said = holds[:, columns], table[:, columns]
        asked = true.sum(axis=1) == 1
        out.append(float((said.argmax(axis=1) == true.argmax(axis=1))[asked].mean()))
    return out


def cells(values: Sequence[float]) -> str:
    return " | ".join(f"{100 * v:.1f}" for v in values)


def weights(checkpoints: Sequence[Path], seed: int) -> Iterator[tuple[str, PSG4D]]:
    """By name: a model in the form of the first checkpoint as training begins with it, then each checkpoint."""
    cpu = torch.device("cpu")
    config = load_checkpoint(checkpoints[0], cpu).config
    torch.manual_seed(seed)
    lm = LanguageModel.load(config.language_model, cpu)
    yield f"untrained, seed {seed}", PSG4D(config, default_vocabulary(), lm).eval()
    for folder in checkpoints:
        yield str(folder), load_checkpoint(folder, cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--takes", type=Path, default=os.environ.get("PSG4D_BIMACS"), required="PSG4D_BIMACS" not in os.environ
    )
    parser.add_argument("--checkpoint", type=Path, nargs="+", default=[], help="the shipped one by default")
    parser.add_argument("--every", type=int, default=30, help="frames from one that is asked to the next")
    parser.add_argument("--seed", type=int, default=0, help="of the untrained weights")
    options = parser.parse_args()
    checkpoints = options.checkpoint or [default_checkpoint()]
    asked = [question(r, n) for r in open_bimacs(options.takes) for n in range(0, len(r), options.every)]
    items = [item for item in asked if item is not None]
    holds = torch.cat([item.holds for item in items]).numpy()
    counts = [int(holds[:, 2 * i : 2 * i + 2].sum()) for i in range(len(AXES))]
    print(f"{len(items)} frames, {len(holds)} pairs; said of axes: {counts}")
    print("| weights | language model | geometry | top-1 | " + " | ".join(f"{a} / {b}" for a, b in AXES) + " |")
    guess = holds.mean(axis=1)[holds.any(axis=1)].mean()
    print(f"| chance | | | {100 * guess:.1f} | 50 | 50 | 50 |")
    for geometry, depth in (("space", "away_union"), ("flat", "up_union")):
        print(f"| signs | | {geometry} | {cells(accuracies(signs(items, depth), holds))} |")
    for name, model in weights(checkpoints, options.seed):
        for with_model in (True, False):
            for geometry, frames in (("space", items), ("flat", [flat(item) for item in items])):
                row = cells(accuracies(scores(model, frames, language_model=with_model), holds))
                print(f"| {name} | {'with' if with_model else 'without'} | {geometry} | {row} |", flush=True)


if __name__ == "__main__":
    main()
