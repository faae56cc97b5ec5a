"""Scores that mean what they say: logits are scaled, and shifted where the loss was lopsided, head by head.

Fitted on held-out windows and folded into the last layers: a calibrated checkpoint is an ordinary one, and the order of
the answers of a head does not change. A scale alone does not do: empty slots count little in training, so presence
comes out too likely by a constant. After "Probabilistic Outputs for Support Vector Machines" (1999) and "On Calibration
of Modern Neural Networks" (2017).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F

from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.structures import Float64
from psg4d_ros.training.object_losses import class_targets
from psg4d_ros.training.window_scores import ReadWindow

# Values outside say that the held-out windows are too few, not that the head is off by more.
_SCALES, _SHIFTS = (0.25, 4.0), (-10.0, 10.0)
_MIN_ANSWERS = 20


@dataclass
class _Answers:
    """Logits and what is true, head by head."""

    logits: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)

    def add(self, logits: Tensor, targets: Tensor) -> None:
        if len(targets):
            self.logits.append(logits.float().cpu())
            self.targets.append(targets.cpu())

    def fit(self, loss: Callable[[Tensor, Tensor], Tensor], *, shifted: bool) -> tuple[float, float]:
        """The scale and shift of the logits at which a loss of logits and targets is least; (1, 0) where there is too
        little to tell."""
        if sum(len(t) for t in self.targets) < _MIN_ANSWERS:
            return 1.0, 0.0
        logits, targets = torch.cat(self.logits), torch.cat(self.targets)

        def cost(x: Float64) -> float:
            return float(loss(logits * float(np.exp(x[0])) + (float(x[1]) if shifted else 0.0), targets))

        low, high = np.log(_SCALES)
        bounds = [(low, high), _SHIFTS if shifted else (0.0, 0.0)]
        # First steps that can be felt: with the method's own, of 0.00025, a flat loss already looks like its least.
        first = np.array([[0.0, 0.0], [0.5, 0.0], [0.0, 0.5 if shifted else 0.0]])
        best = minimize(
            cost,
            np.zeros(2),
            method="Nelder-Mead",
            bounds=bounds,
            options={"xatol": 1e-3, "fatol": 1e-7, "initial_simplex": first},
        )
        return float(np.exp(best.x[0])), float(best.x[1])


@torch.no_grad()
def calibrate(model: PSG4D, windows: Iterable[ReadWindow]) -> dict[str, float]:
    """Fit presence, class, attribute and relation scores and fold what was found into ``model``.

    windows: held out, read by this very model. A slot is right where it is matched with a tube and its own mask has an
    IoU above one half with it. Returns what ``fold`` takes.
    """
    heads = {name: _Answers() for name in ("presence", "class", "attribute", "relation")}
    for read in windows:
        _collect(heads, read)
    found: dict[str, float] = {}
    for name, answers in heads.items():
        loss = F.cross_entropy if name == "class" else F.binary_cross_entropy_with_logits
        scale, shift = answers.fit(loss, shifted=name != "class")
        found |= {f"{name}_scale": scale} | ({f"{name}_shift": shift} if name != "class" else {})
    fold(model, found)
    return found


def _collect(heads: dict[str, _Answers], read: ReadWindow) -> None:
    truth, reading = read.window.truth, read.reading
    slots, tubes = reading.slots, reading.tubes
    right = torch.zeros(len(read.output.presence_logits))
    right[slots] = _found(read, slots, tubes.to(read.fine_tube.device)).cpu().float()
    heads["presence"].add(read.output.presence_logits, right)
    target = class_targets(read.scores.words, truth)[tubes]
    heads["class"].add(read.scores.class_logits.cpu()[slots[target >= 0]], target[target >= 0])
    known = torch.tensor([a in truth.known_attributes for a in read.scores.attributes])
    true = torch.tensor([[float(a in own) for a in read.scores.attributes] for own in truth.attributes])
    if len(tubes):
        logits = read.scores.attribute_logits.cpu()[slots][:, known]
        heads["attribute"].add(logits.flatten(), true[tubes][:, known].flatten())
    if read.answer is not None:
        heads["relation"].add(read.answer.logits.flatten(), read.asked.true().float().flatten())


def _found(read: ReadWindow, slots: Tensor, tubes: Tensor) -> Tensor:
    """bool[M]: whether each slot's own mask has an IoU above one half with its tube, over annotated voxels."""
    known = read.fine_tube >= 0
    held = (read.output.mask_logits[slots][:, known] > 0).float()
    true = (read.fine_tube[known][None] == tubes[:, None]).float()
    both = (held * true).sum(dim=1)
    return both > 0.5 * (held.sum(dim=1) + true.sum(dim=1) - both)


@torch.no_grad()
def fold(model: PSG4D, found: dict[str, float]) -> None:
    """Change each head's logits to ``NAME_scale`` times them plus ``NAME_shift``, by its last layers; nothing else."""
    presence, label, relation = model.decoder.presence, model.chain.label_head, model.relation_head
    label.class_scale.add_(float(np.log(found["class_scale"])))
    label.attribute_scale.add_(float(np.log(found["attribute_scale"])))
    for name, module in (("presence", presence), ("attribute", label.attribute_prior), ("relation", relation.prior)):
        for parameter in module.parameters():
            parameter.mul_(found[f"{name}_scale"])
        module.bias.add_(found[f"{name}_shift"])
    # Spans are scored against the same keys as relations: what these gain, the other factor loses.
    for part, scale in (
        (relation.key, found["relation_scale"]),
        (relation.frame_query[-1], 1 / found["relation_scale"]),
    ):
        for parameter in part.parameters():
            parameter.mul_(scale)
