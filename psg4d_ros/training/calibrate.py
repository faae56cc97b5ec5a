"""Scores that mean what they say: one temperature per head, fitted on held-out windows and folded into its last layer.

So a calibrated checkpoint is an ordinary checkpoint: inference knows nothing of temperatures, and the order of the
answers of a head does not change. After "On Calibration of Modern Neural Networks" (2017).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.training.object_losses import class_targets
from psg4d_ros.training.window_scores import ReadWindow

# A temperature outside says that the held-out windows are too few, not that the head is off by more.
_RANGE = (0.25, 4.0)
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

    def temperature(self, loss: Callable[[Tensor, Tensor], Tensor]) -> float:
        """The best temperature for a loss of logits and targets; 1 where there is too little to tell."""
        if sum(len(t) for t in self.targets) < _MIN_ANSWERS:
            return 1.0
        logits, targets = torch.cat(self.logits), torch.cat(self.targets)

        def cost(log_temperature: float) -> float:
            return float(loss(logits / float(np.exp(log_temperature)), targets))

        low, high = np.log(_RANGE)
        return float(np.exp(minimize_scalar(cost, bounds=(low, high), method="bounded").x))


@torch.no_grad()
def calibrate(model: PSG4D, windows: Iterable[ReadWindow]) -> dict[str, float]:
    """Fit the temperatures of presence, class, attribute and relation scores and fold them into ``model``.

    windows: held out, read by this very model. A slot counts as right where it is the best slot of a tube with an IoU
    above one half. Returns the temperatures by head.
    """
    heads = {name: _Answers() for name in ("presence", "class", "attribute", "relation")}
    for read in windows:
        _collect(heads, read)
    binary = F.binary_cross_entropy_with_logits
    temperatures = {
        "presence": heads["presence"].temperature(binary),
        "class": heads["class"].temperature(F.cross_entropy),
        "attribute": heads["attribute"].temperature(binary),
        "relation": heads["relation"].temperature(binary),
    }
    fold(model, temperatures)
    return temperatures


def _collect(heads: dict[str, _Answers], read: ReadWindow) -> None:
    truth, reading = read.window.truth, read.reading
    iou, _ = read.overlaps()
    right = torch.zeros(len(read.output.presence_logits))
    if iou.size:
        best = torch.from_numpy(iou.argmax(axis=0)[iou.max(axis=0) > 0.5])
        right[read.slots.cpu()[best]] = 1.0
    heads["presence"].add(read.output.presence_logits, right)
    slots, tubes = reading.slots.cpu(), reading.tubes.cpu()
    target = class_targets(read.scores.words, truth)[tubes]
    heads["class"].add(read.scores.class_logits.cpu()[slots[target >= 0]], target[target >= 0])
    known = torch.tensor([a in truth.known_attributes for a in read.scores.attributes])
    true = torch.tensor([[float(a in own) for a in read.scores.attributes] for own in truth.attributes])
    if len(tubes):
        logits = read.scores.attribute_logits.cpu()[slots][:, known]
        heads["attribute"].add(logits.flatten(), true[tubes][:, known].flatten())
    if read.answer is not None:
        heads["relation"].add(read.answer.logits.flatten(), read.asked.true().float().flatten())


@torch.no_grad()
def fold(model: PSG4D, temperatures: dict[str, float]) -> None:
    """Divide each head's logits by its temperature, by changing its last layers; nothing else changes."""
    presence, label, relation = model.decoder.presence, model.chain.label_head, model.relation_head
    for parameter in presence.parameters():
        parameter.div_(temperatures["presence"])
    label.class_scale.sub_(float(np.log(temperatures["class"])))
    label.attribute_scale.sub_(float(np.log(temperatures["attribute"])))
    for parameter in label.attribute_prior.parameters():
        parameter.div_(temperatures["attribute"])
    scale = temperatures["relation"]
    for module in (relation.key, relation.prior):
        for parameter in module.parameters():
            parameter.div_(scale)
    # Spans are scored against the same keys: what these lost, the other factor gains.
    last = relation.frame_query[-1]
    for parameter in last.parameters():
        parameter.mul_(scale)
