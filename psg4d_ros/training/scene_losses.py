"""Stages 2 and 3: everything that is learnt from labelled 4D windows, in one forward pass.

Masks, names and attributes of objects (turn 1), and relations with their times (turn 2). Gradients of all of them flow
back to the encoder. In the pipeline that this is compared with (a model whose decoder does not read slots) those of the
text do not, and masks stay in stage 3 as stage 2 left them. The language model runs in a share of the steps only: the
path around it, which serves when the model has none, is taught in every step and costs a tenth. After the idea of
"Learning 4D Panoptic Scene Graph Generation from Rich 2D Visual Scene" (2025), stages two and three.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from psg4d_ros.config import knob
from psg4d_ros.model.chain import Turn2
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.training.image_reminder import ImageReminder
from psg4d_ros.training.object_losses import class_targets, name_losses, read_objects, score_names
from psg4d_ros.training.proposal_losses import proposal_losses
from psg4d_ros.training.relation_losses import AskedPairs, relation_losses
from psg4d_ros.training.scene_answers import object_answers, relation_answers
from psg4d_ros.training.scene_batch import encode_windows
from psg4d_ros.training.voxel_losses import VoxelHeads
from psg4d_ros.training.windows import TrainingWindow
from psg4d_ros.training.wordings import draw_wording


@dataclass(frozen=True)
class SceneRecipe:
    """What is learnt from 4D windows."""

    relations: bool = knob(True, "learn relations (stage 3), not masks and names alone (stage 2)")
    language_model_share: float = knob(0.5, "share of the steps that run the language model", low=0.0, high=1.0)
    answer_share: float = knob(0.5, "share of those that also learn to write the answers", low=0.0, high=1.0)
    own_words_share: float = knob(
        0.5, "share of windows whose turn 2 reads the names that turn 1 found, not the true ones", low=0.0, high=1.0
    )
    other_words_share: float = knob(
        0.0, "share of windows in which a class or predicate goes by another of its names", low=0.0, high=1.0
    )
    fine_samples: int = knob(6144, "finest voxels of a window on which masks are compared", low=64, high=1_000_000)
    key_samples: int = knob(6144, "second-level voxels of a window that are attended to", low=64, high=1_000_000)
    class_weight: float = knob(2.0, "weight of naming", low=0.0, high=100.0)
    attribute_weight: float = knob(4.0, "weight of attributes", low=0.0, high=100.0)
    relation_weight: float = knob(0.5, "weight of predicates, summed over predicates per pair", low=0.0, high=100.0)
    span_weight: float = knob(1.0, "weight of when a relation holds", low=0.0, high=100.0)
    voxel_weight: float = knob(1.0, "weight of the names of single voxels", low=0.0, high=100.0)
    proposal_weight: float = knob(2.0, "weight of the votes that slots start from", low=0.0, high=100.0)
    answer_weight: float = knob(0.3, "weight of written answers", low=0.0, high=100.0)
    geometry_lr: float = knob(8e-4, "learning rate of encoder, aggregator and mask decoder", low=0.0, high=1.0)
    text_lr: float = knob(8e-4, "learning rate of projector, slots and heads", low=0.0, high=1.0)
    adapter_lr: float = knob(2e-4, "learning rate of the language model's adapters", low=0.0, high=1.0)


@dataclass(frozen=True)
class SceneWords:
    """The words that windows are labelled with. classes: with how often each occurs. others: words of the vocabulary
    that never occur: some of them stand beside the classes in each step, so that they are not named later just because
    nothing ever spoke against them. wordings: other names of classes and predicates."""

    classes: Mapping[str, int]
    others: tuple[str, ...] = ()
    wordings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class SceneLosses(nn.Module):
    """The losses of a micro-batch of windows, and with a ``reminder`` of images. ``model``: what is trained."""

    class_weight: Tensor

    def __init__(
        self, model: PSG4D, recipe: SceneRecipe, words: SceneWords, reminder: ImageReminder | None = None
    ) -> None:
        super().__init__()
        self.model, self.recipe, self.words, self.reminder = model, recipe, words, reminder
        self._pipeline = not model.config.decoder.reads_slots
        self._masks_learn = not (self._pipeline and recipe.relations)
        counts = torch.tensor([float(n) for n in words.classes.values()]).clamp(min=1)
        # Rare classes weigh more, by the root, within bounds: else nearly everything is first called "person".
        weight = (counts / counts.mean()).rsqrt().clamp(0.4, 2.5)
        self.register_buffer("class_weight", weight, persistent=False)
        channels = model.config.encoder.channels
        self.voxel_heads = VoxelHeads(channels[0], channels[1], len(words.classes))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is trained, with its learning rates; nothing of turn 2 without relations, no masks with them in
        the pipeline."""
        model, recipe = self.model, self.recipe
        geometry = (model.encoder, model.temporal, model.decoder, self.voxel_heads) if self._masks_learn else ()
        text: list[nn.Module] = [model.projector, model.chain.proposal_in, model.chain.label_head]
        loose = [model.chain.slots]
        if recipe.relations:
            text += [model.chain.pair_embedding, model.chain.entry_state, model.relation_head]
            loose.append(model.chain.entry_gate)
        adapters = [p for n, p in model.language_model.named_parameters() if "adapter_" in n]
        groups = (
            ([p for m in geometry for p in m.parameters()], recipe.geometry_lr),
            ([p for m in text for p in m.parameters()] + loose, recipe.text_lr),
            (adapters, recipe.adapter_lr),
        )
        return [{"params": params, "lr": lr} for params, lr in groups if params and lr > 0]

    def forward(
        self, windows: Sequence[TrainingWindow], generator: torch.Generator, of_step: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Weighted losses by name, means over the windows; their sum is what is descended.

        generator, of_step: see StageModule.
        """
        model, recipe = self.model, self.recipe
        of_step = of_step or generator
        with_language_model = _chance(recipe.language_model_share, of_step)
        words, weight = self._words_of_step(generator)
        # What follows knows tubes and predicates by these names alone, up to the written answers.
        share = recipe.other_words_share
        wording = draw_wording(self.words.wordings, share, generator) if share else {}
        words = tuple(wording.get(word, word) for word in words)
        truths = [w.truth.in_words(wording) for w in windows]
        with torch.set_grad_enabled(self._masks_learn and torch.is_grad_enabled()):
            samples = {"fine_samples": recipe.fine_samples, "key_samples": recipe.key_samples}
            batch = encode_windows(model, windows, **samples, generator=generator)
        tokens = batch.tokens.detach() if self._pipeline else batch.tokens
        proposed = batch.proposals.states.detach() if self._pipeline else batch.proposals.states
        turn1s = model.chain.turn1_batch(model.projector(tokens), proposed) if with_language_model else []
        hidden = torch.stack([t.slot_hidden for t in turn1s]) if turn1s else None
        with torch.set_grad_enabled(self._masks_learn and torch.is_grad_enabled()):
            output = batch.decode(model, hidden)
        # The path around the language model is taught in every step, the one through it where it ran.
        scores = [score_names(model, None, output.class_embeddings, words)]
        if hidden is not None:
            seen = output.class_embeddings.detach() if self._pipeline else output.class_embeddings
            scores.append(score_names(model, hidden, seen, words))
        shapes, readings = read_objects(output, batch.targets, truths, scores[-1])
        named = [name_losses(readings, s, weight) for s in scores]
        losses = {
            **shapes.weighted(),
            "class": recipe.class_weight * _mean([name for name, _ in named]),
            "attribute": recipe.attribute_weight * _mean([attribute for _, attribute in named]),
        }
        if self._masks_learn and recipe.voxel_weight:
            labels = [class_targets(tuple(self.words.classes), w.truth).to(weight.device) for w in windows]
            losses["voxel_class"] = recipe.voxel_weight * self.voxel_heads(batch, labels, self.class_weight)
        if self._masks_learn:
            votes = proposal_losses(model.decoder, batch)
            losses |= {name: recipe.proposal_weight * loss for name, loss in votes._asdict().items()}
        turn2s: list[Turn2] = []
        asked: list[AskedPairs] = []
        if recipe.relations:
            for window, reading in zip(windows, readings, strict=True):
                question, rows = reading.question(_chance(recipe.own_words_share, generator))
                asked.append(AskedPairs(reading.truth, window.times_s, question, rows))
            if turn1s:
                turn2s = model.chain.turn2_batch(turn1s, [a.question for a in asked])
            pairs = [relation_losses(model, asked, None)]
            if turn2s:
                pairs.append(relation_losses(model, asked, [t.pair_hidden for t in turn2s]))
            losses["relation"] = recipe.relation_weight * _mean([relation for relation, _ in pairs])
            losses["span"] = recipe.span_weight * _mean([span for _, span in pairs])
        if turn1s and _chance(recipe.answer_share, of_step):
            one = int(torch.randint(len(windows), (), generator=generator))
            answer = object_answers(model, readings[one], turn1s[one], generator)
            if turn2s:
                answer = answer + relation_answers(model, asked[one], turn2s[one], generator)
            losses["answer"] = recipe.answer_weight * answer
        if self.reminder is not None:
            losses |= self.reminder.losses(generator, of_step)
        return losses

    def _words_of_step(self, generator: torch.Generator) -> tuple[tuple[str, ...], Tensor]:
        """The words that slots choose from, and their weights: all classes, and a random half of the others."""
        others = self.words.others
        drawn = (torch.rand(len(others), generator=generator) < 0.5).tolist()
        chosen = tuple(word for word, yes in zip(others, drawn, strict=True) if yes)
        weight = torch.cat([self.class_weight, self.class_weight.new_ones(len(chosen))])
        return (*self.words.classes, *chosen), weight


def _chance(share: float, generator: torch.Generator) -> bool:
    return bool(torch.rand((), generator=generator) < share)


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()
