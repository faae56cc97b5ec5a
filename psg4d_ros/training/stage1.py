"""Stage 1: what two labels and their boxes say about the relation between them, learnt from scene graphs of images.

Trained are the low-rank adapters, the pair token and the relation head; all of them serve in 4D unchanged. The language
model runs in a share of the steps, and the path around it learns in every step, so that it stands on its own.

Each data set's annotators chose among their own phrases: those alone compete, in a softmax with "no relation", whose
logit is fixed at 0. So a logit means log-odds against no relation, as the sigmoid in 4D reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from psg4d_ros.config import knob
from psg4d_ros.data.scene_graph_2d import SceneGraph2D
from psg4d_ros.evaluation.image_relations import ImageScores, Pair, image_recall
from psg4d_ros.model.chain import DescribedObject, PairQuestion, Turn2
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.structures import Float32
from psg4d_ros.training.answer_loss import answer_loss, relation_answer
from psg4d_ros.training.images import ImageItem, ImageSources, question_item

CPU_IMAGES = 16  # that the language model reads in a step, by default
_ANSWERS = 16  # pairs of a micro-batch whose answers are written: the pass grows with their number
_IMAGES_PER_PASS = 16  # in validation
_IMPOSSIBLE = -1e9  # a logit that leaves no probability; finite, so that 0 times it is 0


@dataclass(frozen=True)
class Stage1Recipe:
    """What is learnt from images."""

    language_model_share: float = knob(0.2, "share of the steps that run the language model", low=0.0, high=1.0)
    language_model_images: int = knob(
        0,
        "the most images of a micro-batch that the language model reads, in one pass; 0: 16 on a CPU, all on a GPU",
        low=0,
        high=1024,
    )
    alone_weight: float = knob(1.0, "weight of the path without the language model", low=1e-3, high=100.0)
    answer_share: float = knob(0.5, "share of its steps in which it also learns to write answers", low=0.0, high=1.0)
    answer_weight: float = knob(0.3, "weight of written answers", low=0.0, high=100.0)
    adapter_lr: float = knob(1e-3, "learning rate of the language model's adapters", low=0.0, high=1.0)
    pair_lr: float = knob(
        5e-4, "learning rate of the pair token and of what reads the language model's state", low=0.0, high=1.0
    )
    head_lr: float = knob(3e-3, "learning rate of the rest of the relation head", low=0.0, high=1.0)


class Stage1Losses(nn.Module):
    """The losses of a micro-batch of images. ``model``: what is trained."""

    def __init__(self, model: PSG4D, recipe: Stage1Recipe) -> None:
        super().__init__()
        self.model, self.recipe = model, recipe

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is trained, with its learning rates; nothing that only 4D has (motion, frames, slot states)."""
        model, recipe = self.model, self.recipe
        pair, head = model.chain.pair_embedding, model.relation_head
        alone = (head.subject, head.object, head.geometry, head.key, head.prior)
        # A step in what reads the wide states of the language model moves all logits at once: these go slower.
        wide = (pair.subject, pair.object, pair.geometry, pair.norm, head.hidden_norm, head.from_hidden)
        adapters = [p for n, p in model.language_model.named_parameters() if "adapter_" in n]
        groups = [([p for m in alone for p in m.parameters()], recipe.head_lr)]
        if recipe.language_model_share > 0:
            groups += [([p for m in wide for p in m.parameters()], recipe.pair_lr), (adapters, recipe.adapter_lr)]
        return [{"params": params, "lr": lr} for params, lr in groups if params and lr > 0]

    def forward(
        self, items: Sequence[ImageItem], generator: torch.Generator, of_step: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Weighted losses by name: of the head with the language model, without it, and of written answers. Means over
        the pairs; their sum is what is descended.

        generator, of_step: see StageModule.
        """
        model, recipe = self.model, self.recipe
        of_step = of_step or generator
        losses = {"relation_alone": recipe.alone_weight * PairBatch.of(model, items).loss(model, None)}
        if _chance(recipe.language_model_share, of_step):
            most = recipe.language_model_images or (CPU_IMAGES if model.device.type == "cpu" else len(items))
            read = items[:most]
            turn2 = ask_images(model, read)
            losses["relation"] = PairBatch.of(model, read).loss(model, turn2.pair_hidden)
            if _chance(recipe.answer_share, of_step):
                losses["answer"] = recipe.answer_weight * image_answers(model, read, turn2, generator)
        return losses


@torch.no_grad()
def forget_images(model: PSG4D) -> None:
    """Give all that stage 1 teaches fresh weights, from torch's global generator, in place."""
    taught = {id(p) for group in Stage1Losses(model, Stage1Recipe()).parameter_groups() for p in group["params"]}
    fresh = dict(PSG4D(model.config, model.vocabulary, model.language_model).named_parameters())
    for name, parameter in model.named_parameters():
        if id(parameter) not in taught:
            continue
        if name.endswith("adapter_b"):
            parameter.zero_()
        elif name.endswith("adapter_a"):
            parameter.copy_(nn.init.kaiming_uniform_(torch.empty(parameter.shape), a=5**0.5))
        else:
            parameter.copy_(fresh[name])


def _chance(share: float, generator: torch.Generator) -> bool:
    return float(torch.rand((), generator=generator)) < share


@dataclass(frozen=True, eq=False)
class PairBatch:
    """The pairs of several images, one after another: R of them, with the n predicates of all their sources.

    subjects, objects: float32[R, H] phrase embeddings of the labels. geometry: float32[R, G]. predicates: float32[n, H]
    phrase embeddings. possible: bool[R, n], is a phrase of the pair's source. holds: bool[R, n], columns of ``names``.
    """

    subjects: Tensor
    objects: Tensor
    geometry: Tensor
    predicates: Tensor
    possible: Tensor
    holds: Tensor
    names: tuple[str, ...]

    @classmethod
    def of(cls, model: PSG4D, items: Sequence[ImageItem]) -> PairBatch:
        """Put the pairs of ``items`` together."""
        lm = model.language_model
        names = tuple(dict.fromkeys(name for item in items for name in item.predicates))
        column = {name: i for i, name in enumerate(names)}
        rows = sum(len(item.pairs) for item in items)
        possible, holds = (torch.zeros(rows, len(names), dtype=torch.bool) for _ in range(2))
        start = 0
        for item in items:
            part = slice(start, start + len(item.pairs))
            columns = torch.tensor([column[name] for name in item.predicates], dtype=torch.int64)
            possible[part, columns] = True
            holds[part, columns] = item.holds
            start = part.stop
        words = {word: i for i, word in enumerate(dict.fromkeys(w for item in items for w in item.labels))}
        phrases = model.chain.pair_labels(list(words))
        pairs = [torch.tensor([words[w] for w in item.labels], dtype=torch.int64)[item.pairs] for item in items]
        ends = torch.cat(pairs).to(phrases.device)
        geometry = torch.cat([item.geometry for item in items]).to(phrases.device)
        return cls(
            subjects=phrases[ends[:, 0]],
            objects=phrases[ends[:, 1]],
            geometry=geometry,
            predicates=lm.phrase_embeddings(names),
            possible=possible.to(phrases.device),
            holds=holds.to(phrases.device),
            names=names,
        )

    def log_probabilities(self, model: PSG4D, hidden: Tensor | None) -> Tensor:
        """float32[R, n + 1]: of each predicate and, last, of none. hidden: [R, H] of turn 2, None without the language
        model."""
        logits = model.relation_head(hidden, self.subjects, self.objects, self.geometry, self.predicates).logits.float()
        logits = logits.masked_fill(~self.possible, _IMPOSSIBLE)
        return torch.cat([logits, logits.new_zeros(len(logits), 1)], dim=1).log_softmax(dim=1)

    def loss(self, model: PSG4D, hidden: Tensor | None) -> Tensor:
        """Cross-entropy, the mean over the pairs; of a pair with several predicates the mean over those."""
        none = ~self.holds.any(dim=1, keepdim=True)
        target = torch.cat([self.holds, none], dim=1).float()
        target = target / target.sum(dim=1, keepdim=True)
        return -(target * self.log_probabilities(model, hidden)).sum() / max(len(target), 1)


def ask_images(model: PSG4D, items: Sequence[ImageItem]) -> Turn2:
    """Turn 2 about images, after the text without a scene, in one pass; no image sees another."""
    turn1 = model.chain.turn1(torch.zeros(0, model.language_model.hidden_size, device=model.device))
    questions = [
        PairQuestion([DescribedObject(0, label) for label in item.labels], item.pairs, item.geometry) for item in items
    ]
    return model.chain.turn2_packed(turn1, questions)


def image_answers(model: PSG4D, items: Sequence[ImageItem], turn2: Turn2, generator: torch.Generator) -> Tensor:
    """Loss of the written answers for some pairs, about half of them without a relation. An image is a window of one
    frame; of several predicates that hold, one is drawn."""
    lm = model.language_model
    asked = [(row, item.predicates) for item in items for row in item.holds]
    drawn = torch.randperm(len(asked), generator=generator)[:_ANSWERS]
    answers = []
    for holds, predicates in (asked[i] for i in drawn.tolist()):
        true = holds.nonzero()[:, 0]
        one = predicates[int(true[torch.randint(len(true), (), generator=generator)])] if len(true) else None
        answers.append(relation_answer(lm, one, 0, 1, 1))
    return answer_loss(lm, turn2.branches().select(drawn), answers)


def image_scores(model: PSG4D, predicates: tuple[str, ...], *, language_model: bool) -> ImageScores:
    """Probabilities of ``predicates`` by the model, with or without its language model."""

    @torch.no_grad()
    def scores(graphs: Sequence[SceneGraph2D], pairs: Sequence[Sequence[Pair]]) -> list[Float32]:
        items = [question_item(g, p, predicates) for g, p in zip(graphs, pairs, strict=True)]
        hidden = None
        if language_model:
            parts = (items[i : i + _IMAGES_PER_PASS] for i in range(0, len(items), _IMAGES_PER_PASS))
            hidden = torch.cat([ask_images(model, part).pair_hidden for part in parts])
        table = PairBatch.of(model, items).log_probabilities(model, hidden)[:, :-1].exp().cpu().numpy()
        return np.split(table, np.cumsum([len(p) for p in pairs])[:-1])

    return scores


def validate_stage1(
    model: PSG4D, sources: ImageSources, *, language_model: bool = True, limit: int | None = None
) -> dict[str, float]:
    """PredCls on the held-out images (the first ``limit``) by the head with the language model and, as alone_..., by
    the head without; see image_recall. Empty without held-out images."""
    held_out = sources.held_out
    if held_out is None:
        return {}
    graphs, seen = held_out.graphs[:limit], sources.triplets()
    out: dict[str, float] = {}
    for name, with_model in (("", True), ("alone_", False)):
        if with_model and not language_model:
            continue
        scores = image_scores(model, held_out.predicates, language_model=with_model)
        recall = image_recall(graphs, held_out.predicates, scores, seen)
        out |= {f"{name}{key}": value for key, value in recall.items()}
    return out
