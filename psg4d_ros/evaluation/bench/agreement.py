"""Do the fast and the plain path give the same graphs?

Where our language model does not compute in float32, ours is run a second time with one that does: what is different
then is wrong, what is different only in other numbers is what these numbers cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from psg4d_ros.config import InferenceConfig, TrackerConfig
from psg4d_ros.evaluation.bench.paths import Kind, Paths
from psg4d_ros.evaluation.bench.streams import Stream
from psg4d_ros.structures import Relation, SceneGraph, WindowPrediction
from psg4d_ros.tracker import Tracker

DECODINGS = ("score", "generate")
# How far scores may be apart: rounding in float32, half precision in a language model or an engine.
EXACT, HALF = 1e-4, 0.05
# Share of the newest frame's points that must be of the same object, with either.
SAME_POINTS = {EXACT: 0.999, HALF: 0.99}
MOST_DIFFERENCES = 10  # that are told


@dataclass
class Agreement:
    """Of one recording and decoding.

    numbers: of our language model; the plain path's are float32. at_the_cut: relations that only one path has, with a
    score so close to where the other one's are cut off (by threshold, or by number where its list is full) that
    rounding decides. backend_problem: why ours did not run on the backend that was asked for, even if it failed on the
    way; empty when it did. differences: the first few, in words.
    """

    recording: str
    decoding: str
    numbers: str
    tolerance: float
    backend_problem: str = ""
    windows: int = 0
    objects: int = 0
    relations: int = 0
    max_score_difference: float = 0.0
    at_the_cut: int = 0
    different: int = 0
    differences: list[str] = field(default_factory=list)

    @property
    def same(self) -> bool:
        return self.windows > 0 and not self.different

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "same": self.same}

    def add(self, ours: SceneGraph, plain: SceneGraph) -> None:
        """Compare the objects and points of the graphs after a window."""
        self.windows += 1
        self.objects += len(ours.objects)
        self._objects(ours, plain)
        same = np.mean(ours.cloud.track_id == plain.cloud.track_id) if len(ours.cloud.track_id) else 1.0
        if same < SAME_POINTS[self.tolerance]:
            self._differ(ours, f"{100 * same:.1f} % of the points are of the same object")

    def add_relations(self, ours: SceneGraph, plain: SceneGraph, inference: InferenceConfig) -> None:
        """Compare the relations of two graphs, each of one window alone: where they are cut, their scores are those of
        the window. inference: which relations a window lists."""
        self.relations += len(ours.relations)
        self._relations(ours, plain, inference)

    def _objects(self, ours: SceneGraph, plain: SceneGraph) -> None:
        mine, theirs = ({o.track_id: o for o in g.objects} for g in (ours, plain))
        for track in sorted(mine.keys() | theirs.keys()):
            a, b = mine.get(track), theirs.get(track)
            if a is None or b is None:
                self._differ(ours, f"object {track} is in {'the plain' if a is None else 'our'} graph alone")
            elif (a.label, a.class_id, a.attributes) != (b.label, b.class_id, b.attributes):
                self._differ(ours, f"object {track} is {_said(a.label, a.attributes)}, {_said(b.label, b.attributes)}")
            else:
                self._score(ours, f"object {track}", a.score, b.score)

    def _relations(self, ours: SceneGraph, plain: SceneGraph, inference: InferenceConfig) -> None:
        mine, theirs = ({_key(r): r for r in g.relations} for g in (ours, plain))
        for key in sorted(mine.keys() | theirs.keys()):
            a, b = mine.get(key), theirs.get(key)
            if a is not None and b is not None:
                self._score(ours, f"relation {key[:3]}", a.score, b.score)
                continue
            alone, others = (b, mine) if a is None else (a, theirs)
            assert alone is not None
            cuts = [inference.relation_threshold]
            if len(others) >= inference.max_relations:
                cuts.append(min(r.score for r in others.values()))
            if any(abs(alone.score - cut) <= self.tolerance for cut in cuts):
                self.at_the_cut += 1
            else:
                self._differ(ours, f"relation {key[:3]} is in {'the plain' if a is None else 'our'} graph alone")

    def _score(self, graph: SceneGraph, what: str, ours: float, plain: float) -> None:
        difference = abs(ours - plain)
        self.max_score_difference = max(self.max_score_difference, difference)
        if not difference <= self.tolerance:  # NaN differs, too
            self._differ(graph, f"{what} has score {ours:.4f}, {plain:.4f}")

    def _differ(self, graph: SceneGraph, text: str) -> None:
        self.different += 1
        if len(self.differences) < MOST_DIFFERENCES:
            self.differences.append(f"graph {graph.sequence + 1}: {text}")


def _alone(prediction: WindowPrediction) -> SceneGraph:
    """The graph of a window before which there was none; relations have the scores that the window gives them."""
    return Tracker(TrackerConfig(relation_merge_gap_s=0.0, relation_prior_windows=0.0)).update(prediction, "", "")


def _key(relation: Relation) -> tuple[int, str, int, int, int]:
    return relation.subject_id, relation.predicate, relation.object_id, relation.start_ns, relation.end_ns


def how_alike(some: Sequence[SceneGraph], others: Sequence[SceneGraph], threshold: float) -> str:
    """Two lines on how far the graphs of the same windows agree. threshold: from where on a relation is usually
    reported."""
    same_labels = same_relations = asked = apart = crossed = 0
    worst = 0.0
    for one, other in zip(some, others, strict=True):
        if [o.label for o in one.objects] == [o.label for o in other.objects]:
            same_labels += 1
            worst = max([worst, *(abs(a.score - b.score) for a, b in zip(one.objects, other.objects, strict=True))])
        mine, theirs = ({_key(r): r.score for r in graph.relations} for graph in (one, other))
        union, both = mine.keys() | theirs.keys(), mine.keys() & theirs.keys()
        same_relations += union == both
        asked, apart = asked + len(mine), apart + len(union) - len(both)
        crossed += sum((mine.get(k, 0) >= threshold) != (theirs.get(k, 0) >= threshold) for k in union)
        worst = max([worst, *(abs(mine[k] - theirs[k]) for k in both)])
    return (
        f"{len(some)} windows: {same_labels} with the same labels, {same_relations} with the same relations;\n"
        f"of {asked} relations {apart} in one alone, {crossed} on two sides of {threshold}; scores within {worst:.1e}"
    )


def _said(label: str, attributes: Sequence[str]) -> str:
    return repr(", ".join((label, *attributes)))


def tolerance(backend: str, dtype: torch.dtype) -> float:
    """How far scores may be apart between a path with that backend and language model, and the plain one."""
    return EXACT if dtype == torch.float32 and not backend.startswith("tensorrt") else HALF


def compare_graphs(
    paths: Paths, streams: Iterable[tuple[Stream, int | None]], progress: Callable[[str], None]
) -> list[Agreement]:
    """Run ours and the plain path over recordings, window by window, in both decodings.

    streams: with how many windows of each, None = all. progress: told of each window.
    """
    own = paths.model.language_model.dtype
    kinds: dict[Kind, torch.dtype] = {"ours": own}
    if own != torch.float32:
        kinds["ours in float32"] = torch.float32
    out = []
    for decoding in DECODINGS:
        fast = {kind: paths.predictor(kind, decoding) for kind in kinds}
        plain = paths.predictor("plain", decoding)
        for stream, most in streams:
            agreements = []
            for kind, dtype in kinds.items():
                allowed = tolerance(fast[kind].backend.name, dtype)
                agreements.append(Agreement(stream.name, decoding, str(dtype).removeprefix("torch."), allowed))
            runs = [paths.start(predictor, stream) for predictor in (*fast.values(), plain)]
            for frame in stream.frames:
                windows = [window for run in runs if (window := run.push(frame)) is not None]
                if not windows:
                    continue
                if agreements[0].windows == most:
                    break
                progress(f"same graphs: {stream.name}, {decoding}")
                said = [run.pipeline.predict(window) for run, window in zip(runs, windows, strict=True)]
                *ours, reference = [run.pipeline.track(p) for run, p in zip(runs, said, strict=True)]
                *ours_alone, reference_alone = [_alone(prediction) for prediction in said]
                for agreement, graph, alone in zip(agreements, ours, ours_alone, strict=True):
                    agreement.add(graph, reference)
                    agreement.add_relations(alone, reference_alone, paths.config.inference)
            for agreement, predictor in zip(agreements, fast.values(), strict=True):
                agreement.backend_problem = predictor.backend.problem
            out += agreements
    return out
