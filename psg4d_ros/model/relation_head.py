"""Predicates of pairs and when they hold: states against phrase embeddings, plus a small geometry network.

Several predicates of a pair can be true at once, so each has its own binary score (sigmoid). Which frames a relation
covers is a second score per frame, from the pair's state and the pair's geometry in that frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from psg4d_ros.structures import Float32

_PERIODS_S = (0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True, eq=False)
class RelationOutput:
    """logits: [R, n] per predicate, whether it holds at some time in the window. activity_logits: [R, n, F], whether it
    holds in that frame given that it holds at all; None when no frames were given (images)."""

    logits: Tensor
    activity_logits: Tensor | None


@dataclass(frozen=True)
class RelationSpan:
    """A decoded relation: pair and predicate as indices, frames [start, end) of the window, score in [0, 1]."""

    pair: int
    predicate: int
    start: int
    end: int
    score: float


class RelationHead(nn.Module):
    """logits = (language model's state + geometry network's state) . predicate phrase + the predicate's prior.

    The geometry network reads the two labels' phrase embeddings and the relative geometry, as in 2D. It also stands
    alone when the language model is off. Motion enters through a gate that starts at zero (as stage 1 never sees any).
    """

    waves: Tensor

    def __init__(
        self, hidden_size: int, num_geometry: int, num_motion: int = 0, dim: int = 256, prior: float = 0.1
    ) -> None:
        """prior: probability of any predicate at the start of training; few of the many are true of a pair."""
        super().__init__()
        self.hidden_norm = nn.LayerNorm(hidden_size)
        self.from_hidden = nn.Linear(hidden_size, dim)
        self.subject = nn.Linear(hidden_size, 64)
        self.object = nn.Linear(hidden_size, 64)
        self.geometry = nn.Sequential(
            nn.Linear(128 + num_geometry, dim), nn.GELU(), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim)
        )
        self.motion = nn.Linear(num_motion, dim) if num_motion else None
        self.motion_gate = nn.Parameter(torch.zeros(()))
        self.key = nn.Linear(hidden_size, dim)
        self.prior = nn.Linear(hidden_size, 1)
        self.frame_state = nn.Linear(dim, dim)
        self.frame_geometry = nn.Linear(num_geometry + 1 + 2 * len(_PERIODS_S), dim)
        self.frame_query = nn.Sequential(nn.GELU(), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))
        self.frame_prior = nn.Linear(hidden_size, 1)
        # Radians per second; lies where the weights lie, or each call would copy it there.
        self.register_buffer("waves", 2 * torch.pi / torch.tensor(_PERIODS_S), persistent=False)
        self._dim = dim
        # The language model's part starts at zero: at first it neither helps nor harms what is known without it.
        nn.init.zeros_(self.from_hidden.weight)
        nn.init.zeros_(self.from_hidden.bias)
        for layer, start in ((self.prior, float(np.log(prior / (1 - prior)))), (self.frame_prior, 2.0)):
            # Activity starts likely: an untrained head says "all the time", which is right for most relations.
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, start)

    def forward(
        self,
        pair_hidden: Tensor | None,
        subjects: Tensor,
        objects: Tensor,
        geometry: Tensor,
        predicates: Tensor,
        motion: Tensor | None = None,
        frame_geometry: Tensor | None = None,
        times_s: Tensor | None = None,
    ) -> RelationOutput:
        """pair_hidden: [R, H] from turn 2, or None. subjects, objects: [R, H] phrase embeddings of the two labels.
        geometry: [R, G]. predicates: [n, H] phrase embeddings. motion: [R, M]. frame_geometry: [R, F, G] with times_s
        [F] or [R, F], seconds relative to the newest frame (<= 0), or both None."""
        parts = torch.cat([self.subject(subjects), self.object(objects), geometry], dim=1)
        state = self.geometry(parts)
        if motion is not None and self.motion is not None:
            state = state + self.motion_gate * self.motion(motion)
        if pair_hidden is not None:
            state = state + self.from_hidden(self.hidden_norm(pair_hidden.float()))
        keys = self.key(predicates) * self._dim**-0.5
        logits = state @ keys.T + self.prior(predicates).T
        if frame_geometry is None or times_s is None:
            return RelationOutput(logits, None)
        times = self._time_encoding(times_s).expand(len(state), -1, -1)
        frames = self.frame_geometry(torch.cat([frame_geometry, times], dim=2))
        queries = self.frame_query(self.frame_state(state)[:, None] + frames)
        activity = queries @ keys.T + self.frame_prior(predicates).T
        return RelationOutput(logits, activity.transpose(1, 2))

    def _time_encoding(self, times_s: Tensor) -> Tensor:
        """[*, F] seconds <= 0 -> [*, F, 1 + 2 * periods]: the time itself and waves of half a second to eight."""
        waves = times_s[..., None] * self.waves
        return torch.cat([times_s[..., None], waves.sin(), waves.cos()], dim=-1)


def decode_spans(
    probabilities: Float32,
    activity: Float32,
    present: np.ndarray,
    threshold: float,
    max_relations: int,
    activity_threshold: float = 0.5,
) -> list[RelationSpan]:
    """Relations with their spans, best first; every unbroken run of active frames is one.

    probabilities: [R, n]. activity: [R, n, F] probabilities. present: bool[R, F], both objects are there in that frame;
    other frames are never part of a span. A relation that holds but is active in no frame gets its most active one. The
    score is the relation's probability times the run's mean activity; lower than ``threshold`` is left out. Ties keep
    the order of pair, predicate, start.
    """
    somewhere = np.asarray(present, dtype=bool).any(axis=1, keepdims=True)
    pair, predicate = np.nonzero((probabilities >= threshold) & somewhere)
    there = present[pair]
    level = np.where(there, activity[pair, predicate], -1.0)
    active = level >= activity_threshold
    silent = np.flatnonzero(~active.any(axis=1))
    active[silent, level[silent].argmax(axis=1)] = True
    before = np.pad(active, ((0, 0), (1, 1)))
    row, start = np.nonzero(before[:, 1:] & ~before[:, :-1])
    end = np.nonzero(before[:, :-1] & ~before[:, 1:])[1]
    sums = np.zeros((len(level), level.shape[1] + 1))
    np.cumsum(np.where(active, level, 0.0), axis=1, out=sums[:, 1:])
    score = probabilities[pair[row], predicate[row]] * (sums[row, end] - sums[row, start]) / np.maximum(end - start, 1)
    keep = np.flatnonzero(score >= threshold)
    order = keep[np.argsort(-score[keep], kind="stable")][:max_relations]
    best = row[order]
    columns = (pair[best], predicate[best], start[order], end[order], score[order])
    return [RelationSpan(*values) for values in zip(*(c.tolist() for c in columns), strict=True)]
