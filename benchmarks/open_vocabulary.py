"""Are words recognised that training never showed? Classes by their rank among others, predicates by synonyms.

``python benchmarks/open_vocabulary.py --dataset DIR [--checkpoint DIR] [--windows N] [--frames N] [--language-model]``;
DIR: a folder of ``psg4d simulate DIR --split test_oov``, whose scenes often hold the classes that no other split has.

Classes: tubes that some slot's mask found (IoU over voxels above one half) and whose label is in no training scene.
``of all words``: the true name among all classes of the vocabulary, which compete as they do on a robot; ``of few``:
among as many words of the row as there are classes never shown, as if nothing else had been asked for. The other rows
are classes that training did show, under their names, and under a synonym in the place of it. Chance is beside each.
Predicates: true tubes and labels; a synonym stands in the place of the trained word, and ``average precision`` is that
of its scores over all pairs that were judged; chance is the share of pairs of which it is true.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from psg4d_ros.checkpoint import default_checkpoint, load_checkpoint
from psg4d_ros.data.open_dataset import open_recordings
from psg4d_ros.data.simulation.classes import LABELS, TRAIN_WORDS
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.training.window_scores import ReadWindow, average_precision, read_windows
from psg4d_ros.training.windows import TrainingWindow, WindowDataset, WindowRecipe

# For classes and predicates that training shows, words that it does not: neither these nor among its other words
# (training/wordings.py).
CLASS_SYNONYMS = {
    "backpack": "knapsack", "book": "paperback", "box": "crate", "cabinet": "credenza", "chair": "seat",
    "cup": "teacup", "curtain": "draperies", "person": "adult", "picture": "artwork", "pillow": "bolster",
    "plant": "shrub", "refrigerator": "icebox", "shelf": "bookrack", "sofa": "loveseat", "table": "tabletop",
    "television": "telly", "trash can": "wastebasket", "window": "windowpane",
}  # fmt: skip
PREDICATE_SYNONYMS = {
    "on": ("atop", "resting on"),
    "next to": ("alongside", "adjacent to"),
    "in front of": ("ahead of",),
    "under": ("underneath",),
    "hanging on": ("suspended from",),
    "sitting on": ("seated on",),
    "holding": ("gripping",),
    "looking at": ("gazing at",),
    "walking on": ("strolling on",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=default_checkpoint(), metavar="DIR")
    parser.add_argument("--dataset", required=True, metavar="DIR")
    parser.add_argument("--windows", type=int, default=120, metavar="N")
    parser.add_argument("--frames", type=int, default=2, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--language-model", action="store_true", help="names by turn 1; else by the path around it")
    options = parser.parse_args()
    model = load_checkpoint(options.checkpoint, torch.device("cpu"))
    encoder = model.config.encoder
    recipe = WindowRecipe(
        frames=options.frames, voxel_size_m=encoder.voxel_size_m, levels=len(encoder.channels), augment=False
    )
    dataset = WindowDataset(open_recordings(options.dataset), recipe, options.seed)
    words = tuple(c.name for c in model.vocabulary.classes)
    new = tuple(w for w in words if w in LABELS - TRAIN_WORDS.labels)
    known = tuple(w for w in words if w in TRAIN_WORDS.labels and model.vocabulary.is_thing(w))
    windows = [dataset[i] for i in range(options.windows)]
    scored = (*words, *CLASS_SYNONYMS.values())
    reads = list(read_windows(model, windows, scored, language_model=options.language_model))
    print("| tubes of | found | of all words, top 1 / 3 / 10 % | chance | of few, top 1 / 3 % | chance |")
    print("|---|---|---|---|---|---|")
    rows = {
        "classes never shown": {w: w for w in new},
        "classes shown": {w: w for w in known},
        "these, under a synonym": CLASS_SYNONYMS,
    }
    for name, word_of in rows.items():
        print(f"| {name} | {class_row(reads, scored, words, word_of, len(new))} |")
    print("\n| predicate | true pairs | average precision | chance | by synonym |\n|---|---|---|---|---|")
    for predicate, (count, share, *found) in predicate_rows(model, windows).items():
        others = ", ".join(f"{w} {100 * v:.0f}" for w, v in zip(PREDICATE_SYNONYMS[predicate], found[1:], strict=True))
        print(f"| {predicate} | {count} | {100 * found[0]:.0f} | {100 * share:.1f} | {others} |")


def class_row(
    reads: Sequence[ReadWindow], scored: tuple[str, ...], words: tuple[str, ...], word_of: Mapping[str, str], few: int
) -> str:
    """The cells of a row. scored: the words that ``reads`` scored; words: all that compete; word_of: by label of the
    tubes of this row, what is asked for in its place; few: how many words of ``word_of`` compete in the last cells."""
    ranks, ranks_of_few = [], []
    for read in reads:
        for label, slot in found_slots(read):
            if label in word_of:
                logits = dict(zip(scored, read.scores.class_logits[slot].tolist(), strict=True))
                own = logits[word_of[label]]
                ranks.append(sum(logits[w] > own for w in words if w != label))
                others = [w for name, w in word_of.items() if name != label][: few - 1]
                ranks_of_few.append(sum(logits[w] > own for w in others))
    cells = [str(len(ranks))]
    for found, most, competing in ((ranks, (1, 3, 10), len(words)), (ranks_of_few, (1, 3), few)):
        cells.append(" / ".join(f"{100 * sum(r < k for r in found) / max(len(found), 1):.0f}" for k in most))
        cells.append(" / ".join(f"{100 * k / max(competing, 1):.0f}" for k in most))
    return " | ".join(cells)


def found_slots(read: ReadWindow) -> list[tuple[str, int]]:
    """Label and slot of each thing that some slot's own mask covers with an IoU above one half."""
    truth = read.window.truth
    found = zip(truth.labels, truth.is_thing.tolist(), *(x.tolist() for x in read.best_slots()), strict=True)
    return [(label, slot) for label, is_thing, iou, slot in found if is_thing and iou > 0.5]


@torch.no_grad()
def predicate_rows(model: PSG4D, windows: Sequence[TrainingWindow]) -> dict[str, tuple[float, ...]]:
    """By predicate: true pairs, their share, and the average precision of the word and of each of its synonyms, by
    geometry and labels."""
    model.eval()
    scores: dict[str, list[torch.Tensor]] = defaultdict(list)
    true: dict[str, list[torch.Tensor]] = defaultdict(list)
    asked = [w for word, others in PREDICATE_SYNONYMS.items() for w in (word, *others)]
    phrases = model.language_model.phrase_embeddings(asked)
    for truth in (w.truth for w in windows if len(w.truth.pairs)):
        labels = model.chain.pair_labels(truth.labels)
        subjects, objects = labels[truth.pairs[:, 0]], labels[truth.pairs[:, 1]]
        logits = model.relation_head(None, subjects, objects, truth.geometry, phrases, truth.motion).logits
        for i, word in enumerate(asked):
            scores[word].append(logits[:, i])
        for word in PREDICATE_SYNONYMS:
            true[word].append(truth.holds[:, truth.predicates.index(word)].any(dim=1))
    rows = {}
    for word, others in PREDICATE_SYNONYMS.items():
        holds = torch.cat(true[word])
        found = (average_precision(torch.cat(scores[w]), holds) for w in (word, *others))
        rows[word] = (int(holds.sum()), float(holds.float().mean()), *found)
    return rows


if __name__ == "__main__":
    main()
