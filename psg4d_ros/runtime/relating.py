"""Turn 2's answer: relations of the candidate pairs of a window, with their spans."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from psg4d_ros.config import InferenceConfig
from psg4d_ros.model.chain import DescribedObject, SceneChain, Turn1, Turn2
from psg4d_ros.model.features import FrameFeatures
from psg4d_ros.model.geometry import frame_geometry, motion_features, nearest_pairs
from psg4d_ros.model.mask_decoder import MaskOutput
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.model.relation_head import RelationOutput, decode_spans
from psg4d_ros.model.transfer import move_together
from psg4d_ros.runtime.panoptic import Segmentation
from psg4d_ros.structures import Float32, Float64, InstancePrediction, Int64, RelationPrediction, Window
from psg4d_ros.vocabulary import Vocabulary

# So many times the pairs that turn 2 is asked about are measured, the nearest ones.
CANDIDATES = 4


@dataclass(frozen=True, eq=False)
class PairInputs:
    """What is measured of R candidate pairs over F frames.

    pairs: int64[R, 2] (subject, object) instances. geometry: float32[R, G] with the last box seen of each.
    per_frame: float32[R, F, G]. motion: float32[R, M]. seen: bool[R, F], both are visible. times_s: float64[F], <= 0.
    """

    pairs: Int64
    geometry: Float32
    per_frame: Float32
    motion: Float32
    seen: np.ndarray
    times_s: Float64

    def select(self, rows: Int64) -> PairInputs:
        """Some of the pairs, int64[r], in that order."""
        return PairInputs(
            self.pairs[rows],
            self.geometry[rows],
            self.per_frame[rows],
            self.motion[rows],
            self.seen[rows],
            self.times_s,
        )


def measure_pairs(
    segmentation: Segmentation,
    instances: tuple[InstancePrediction, ...],
    window: Window,
    frames: list[FrameFeatures],
    max_pairs: int,
) -> PairInputs:
    """Choose the nearest pairs and measure how they lie and move.

    Stuff is never a subject: nobody asks what a wall does.
    """
    boxes = segmentation.boxes
    pairs = nearest_pairs(last_boxes(boxes), max_pairs, np.array([i.is_thing for i in instances], bool))
    return describe_pairs(pairs, boxes, window, torch.cat([f.fine_centers for f in frames]))


def last_boxes(boxes: Float64) -> Float64:
    """float64[P, 6]: of boxes float64[P, F, 6], NaN where not seen, the last one seen of each instance.

    Every instance has a voxel in some frame, or it would have no points.
    """
    visible = np.isfinite(boxes[:, :, 0])
    last = boxes.shape[1] - 1 - np.argmax(visible[:, ::-1], axis=1)
    return boxes[np.arange(len(boxes)), last]


def describe_pairs(pairs: Int64, boxes: Float64, window: Window, centers: torch.Tensor) -> PairInputs:
    """How given pairs (int64[R, 2]) of instances lie and move.

    boxes: float64[P, F, 6], see Segmentation. centers: float32[V, 3] of all finest voxels of the window, relative to
    its origin: the extent of the scene.
    """
    subject, object_ = pairs[:, 0], pairs[:, 1]
    newest, visible = last_boxes(boxes), np.isfinite(boxes[:, :, 0])
    seen = visible[subject] & visible[object_]
    viewpoints = np.stack([f.T_core_sensor[:3, 3] - window.origin for f in window.frames])
    extent = torch.cat(torch.aminmax(centers, dim=0)).cpu().numpy().astype(np.float64)
    times_s = np.array([(f.stamp_ns - window.newest.stamp_ns) * 1e-9 for f in window.frames])
    # The last boxes seen are one more frame, seen from where the newest was taken.
    with_last = np.concatenate([boxes, newest[:, None]], axis=1)
    geometry = frame_geometry(
        with_last[subject],
        with_last[object_],
        np.pad(seen, ((0, 0), (0, 1)), constant_values=True),
        viewpoints=np.concatenate([viewpoints, viewpoints[-1:]]),
        extent=extent,
    )
    return PairInputs(
        pairs=pairs,
        geometry=geometry[:, -1],
        per_frame=geometry[:, :-1],
        motion=motion_features(boxes[subject], boxes[object_], seen, times_s),
        seen=seen,
        times_s=times_s,
    )


def shortlist(
    model: PSG4D,
    instances: tuple[InstancePrediction, ...],
    candidates: PairInputs,
    vocabulary: Vocabulary,
    max_pairs: int,
) -> PairInputs:
    """The pairs of which geometry and labels expect most: the greatest sums of probabilities, ties the nearer pair.

    The geometry network costs next to nothing, the language model reads a token per pair. Many related pairs of a full
    room are not among the nearest: one faces, or walks to, what is far.
    """
    if len(candidates.pairs) <= max_pairs or not vocabulary.predicates:
        return candidates.select(np.arange(min(len(candidates.pairs), max_pairs)))
    logits = _answer(model, instances, None, candidates, vocabulary, frames=False).logits
    expected = logits.float().sigmoid().sum(dim=1).cpu().numpy()
    best = np.argsort(-expected, kind="stable")[:max_pairs]
    return candidates.select(np.sort(best))


def ask_pairs(
    chain: SceneChain,
    output: MaskOutput,
    segmentation: Segmentation,
    instances: tuple[InstancePrediction, ...],
    turn1: Turn1,
    inputs: PairInputs,
) -> Turn2:
    """One pass over the list of objects and all pairs."""
    slots = segmentation.slots.tolist()
    objects = [DescribedObject(s, i.label, i.attributes) for s, i in zip(slots, instances, strict=True)]
    states = output.slot_states[segmentation.slots]
    pairs, geometry, motion = (torch.from_numpy(x) for x in (inputs.pairs, inputs.geometry, inputs.motion))
    return chain.turn2(turn1, objects, pairs, geometry, motion, states)


def score_relations(
    model: PSG4D,
    instances: tuple[InstancePrediction, ...],
    turn2: Turn2 | None,
    inputs: PairInputs,
    vocabulary: Vocabulary,
    config: InferenceConfig,
) -> tuple[RelationPrediction, ...]:
    """Relations above the threshold, best first. turn2: None answers from geometry and labels alone."""
    if not len(inputs.pairs) or not vocabulary.predicates:
        return ()
    answer = _answer(model, instances, turn2, inputs, vocabulary)
    assert answer.activity_logits is not None
    # Both in one copy from the device.
    both = torch.cat([answer.logits.flatten(), answer.activity_logits.flatten()]).float().sigmoid().cpu().numpy()
    probability = both[: answer.logits.numel()].reshape(answer.logits.shape)
    activity = both[answer.logits.numel() :].reshape(answer.activity_logits.shape)
    spans = decode_spans(probability, activity, inputs.seen, config.relation_threshold, config.max_relations)
    pairs = inputs.pairs.tolist()
    return tuple(
        RelationPrediction(
            subject=pairs[s.pair][0],
            predicate=vocabulary.predicates[s.predicate],
            predicate_id=vocabulary.predicate_id(vocabulary.predicates[s.predicate]),
            object=pairs[s.pair][1],
            score=s.score,
            start_frame=s.start,
            end_frame=s.end,
        )
        for s in spans
    )


def _answer(
    model: PSG4D,
    instances: tuple[InstancePrediction, ...],
    turn2: Turn2 | None,
    inputs: PairInputs,
    vocabulary: Vocabulary,
    *,
    frames: bool = True,
) -> RelationOutput:
    """What the relation head says of the pairs; frames: also when."""
    labels = model.chain.pair_labels([i.label for i in instances])
    measured = [
        inputs.geometry,
        inputs.motion,
        *([inputs.per_frame, inputs.times_s.astype(np.float32)] if frames else []),
    ]
    tables = [torch.from_numpy(x) for x in (inputs.pairs, *measured)]
    pairs, geometry, motion, *per_frame = move_together(tables, labels.device)
    return model.relation_head(
        None if turn2 is None else turn2.pair_hidden,
        labels[pairs[:, 0]],
        labels[pairs[:, 1]],
        geometry,
        model.language_model.phrase_embeddings(vocabulary.predicates),
        motion,
        *per_frame,
    )
