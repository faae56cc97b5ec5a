"""Tubes that are given instead of decoded: what evaluation with true tubes (PredCls, SGCls) asks of the model.

Masks, ids and, if given, labels come from outside; everything after them runs as it does for predicted tubes. Turn 2
also reads a state of each object, which only the mask decoder makes: a tube takes the slot whose mask overlaps it best,
one slot per tube, and a tube that no slot overlaps (or for which none is left) is described by the features of its own
voxels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from psg4d_ros.config import InferenceConfig
from psg4d_ros.model.features import FrameFeatures
from psg4d_ros.model.mask_decoder import MaskOutput
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.runtime.panoptic import Segmentation, label_boxes
from psg4d_ros.structures import (
    AlignedFrame,
    Float64,
    InstancePrediction,
    Int32,
    Int64,
    Window,
    WindowPrediction,
    check_array,
)
from psg4d_ros.vocabulary import Vocabulary
from psg4d_ros.voxelize import pack_keys

# A slot whose mask overlaps a tube less than this (IoU over voxels) is another object's.
MIN_SLOT_IOU = 0.1


@dataclass(frozen=True)
class GivenObject:
    """An object whose tube is given. object_id: >= 1, the track_id it has in graphs.

    label: its name, which turn 2 then reads as it is; None: the model names it, from its vocabulary. is_thing: whether
    it is a thing, read with a label only, since what the model names is what its name is. Raises ValueError for an id
    below 1 and an empty label.
    """

    object_id: int
    label: str | None = None
    is_thing: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.object_id <= np.iinfo(np.int32).max:
            raise ValueError(f"GivenObject.object_id is {self.object_id}, expected 1 to {np.iinfo(np.int32).max}")
        if self.label is not None and not self.label.strip():
            raise ValueError(f"object {self.object_id} has the label {self.label!r}, expected a word, or None")


@dataclass(frozen=True, eq=False)
class WindowTubes:
    """The given objects that have a point in a window, by ascending id.

    point_instance: per frame int32[N_f], 0 = none, i + 1 = ``objects[i]``.
    """

    objects: tuple[GivenObject, ...]
    point_instance: tuple[Int32, ...]

    def named(
        self, instances: tuple[InstancePrediction, ...], vocabulary: Vocabulary
    ) -> tuple[InstancePrediction, ...]:
        """The instances under the labels that are given; the others, and all attributes, stay as the model says."""
        return tuple(
            instance
            if given.label is None
            else replace(
                instance,
                label=given.label,
                class_id=vocabulary.class_id(given.label),
                score=1.0,
                is_thing=given.is_thing,
                alternatives=(),
            )
            for given, instance in zip(self.objects, instances, strict=True)
        )


@dataclass(frozen=True, eq=False)
class GivenTubes:
    """Whose each point of each frame is, and which objects there are.

    objects: with distinct ids. point_object: stamp_ns of a frame -> int32[N] object_id of each point of its PointFrame,
    0 = nobody's; it must hold the frames of every window it is used for, and may hold more.

    Over a recording, for PredCls (for SGCls: GivenObject(o.object_id), without label and is_thing)::

        given = GivenTubes(tuple(GivenObject(o.object_id, o.label, o.is_thing) for o in recording.objects))
        for labelled in recording.open_frames():
            given = given.with_frame(labelled.frame.stamp_ns, labelled.instance)
            graph = pipeline.update(labelled.frame, given)
            if graph is not None:
                given = given.since(graph.window_start_ns)

    Every object that has a point in the window is in the prediction, whatever its size, also where the caps on points
    and voxels left none of it (its box is then that of its points), and however many there are: those beyond the
    model's slots are described by their voxels. An object without a point in the window is not in the prediction; its
    track lives on for ``tracker.max_missing_s`` and has the same id when it is seen again. As for predicted tubes,
    ``inference.max_pairs`` and ``max_relations`` bound what is asked and answered.
    Raises ValueError when two objects have one id or arrays disagree.
    """

    objects: tuple[GivenObject, ...]
    point_object: Mapping[int, Int32] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ids = [o.object_id for o in self.objects]
        if len(set(ids)) != len(ids):
            raise ValueError(f"GivenTubes.objects must have distinct ids, got {ids}")

    def with_frame(self, stamp_ns: int, point_object: Int32) -> GivenTubes:
        """The same objects with one frame more. point_object: int32[N]."""
        check_array("GivenTubes", "point_object", point_object, np.int32, (None,))
        return replace(self, point_object={**self.point_object, stamp_ns: point_object})

    def since(self, stamp_ns: int) -> GivenTubes:
        """Without the frames before ``stamp_ns``, so that a long recording's do not pile up."""
        return replace(self, point_object={s: p for s, p in self.point_object.items() if s >= stamp_ns})

    def in_window(self, window: Window) -> WindowTubes:
        """What is given for a window. Raises ValueError naming the frame when it lacks one, when the number of points
        differs, or when a point's id is not among ``objects``."""
        per_frame = [self._of(frame) for frame in window.frames]
        present = np.unique(np.concatenate(per_frame))
        present = present[present != 0]
        known = {o.object_id: o for o in self.objects}
        missing = [int(i) for i in present if int(i) not in known]
        if missing:
            raise ValueError(f"points up to {window.newest.stamp_ns} ns are of objects {missing}; known: {list(known)}")
        numbered = np.concatenate([[0], present])
        labels = tuple(np.searchsorted(numbered, ids).astype(np.int32) for ids in per_frame)
        return WindowTubes(tuple(known[int(i)] for i in present), labels)

    def ids_of(self, prediction: WindowPrediction) -> Int32:
        """int32[I + 1]: at i + 1 the object_id of the prediction's instance i, the one its points have; 0 at 0."""
        ids = np.zeros(len(prediction.instances) + 1, dtype=np.int32)
        for frame, labels in zip(prediction.window.frames, prediction.point_instance, strict=True):
            ids[labels] = self._of(frame)
        ids[0] = 0
        return ids

    def _of(self, frame: AlignedFrame) -> Int32:
        ids = self.point_object.get(frame.stamp_ns)
        if ids is None:
            raise ValueError(f"no tubes are given for the frame of {frame.stamp_ns} ns; have {list(self.point_object)}")
        check_array(f"tubes of the frame of {frame.stamp_ns} ns", "point_object", ids, np.int32, (len(frame.frame),))
        if ids.size and int(ids.min()) < 0:
            raise ValueError(f"the frame of {frame.stamp_ns} ns has the object id {ids.min()}, expected 0 or more")
        return ids


def segment_tubes(
    model: PSG4D,
    output: MaskOutput,
    frames: list[FrameFeatures],
    window: Window,
    tubes: WindowTubes,
    config: InferenceConfig,
) -> tuple[MaskOutput, Segmentation]:
    """The segmentation that the tubes are, and ``output`` with one more row of states and embeddings for each tube that
    has no slot: those rows are what its ``slots`` >= Q mean. Nothing of the masks enters but which slot is whose."""
    count = len(tubes.objects)
    voxels = [
        tube_voxels(aligned, frame.point_voxel.cpu().numpy(), labels, count, window.origin)
        for aligned, frame, labels in zip(window.frames, frames, tubes.point_instance, strict=True)
    ]
    device = output.slot_states.device
    shares = [v.share(len(frame.fine), count, device) for v, frame in zip(voxels, frames, strict=True)]
    slots = _match_slots(output, torch.cat(shares), config.mask_threshold)
    alone = np.flatnonzero(slots < 0)
    slots[alone] = len(output.slot_states) + np.arange(len(alone))
    if len(alone):
        states, embeddings = _describe(model, output, frames, [share[:, alone] for share in shares])
        output = output._replace(
            slot_states=torch.cat([output.slot_states, states]),
            class_embeddings=torch.cat([output.class_embeddings, embeddings]),
        )
    boxes = np.stack([v.boxes for v in voxels], axis=1)
    segmentation = Segmentation(
        torch.from_numpy(slots).to(device), torch.ones(count, device=device), tubes.point_instance, boxes
    )
    return output, segmentation


@dataclass(frozen=True, eq=False)
class TubeVoxels:
    """How the points of P tubes fill a frame's voxels, one entry per voxel and tube in it (sparse).

    voxel: int64[E]. tube: int64[E], 0 = none, i + 1 = tube i. points: int64[E]. boxes: float64[P, 6], see Segmentation.
    """

    voxel: Int64
    tube: Int64
    points: Int64
    boxes: Float64

    def share(self, num_voxels: int, count: int, device: torch.device) -> Tensor:
        """float32[V, P]: which part of each voxel's points is each tube's."""
        total = np.bincount(self.voxel, weights=self.points, minlength=num_voxels)
        table = np.zeros((num_voxels, count + 1), np.float32)
        table[self.voxel, self.tube] = self.points / total[self.voxel]
        return torch.from_numpy(table[:, 1:]).to(device)


def tube_voxels(aligned: AlignedFrame, point_voxel: Int64, labels: Int32, count: int, origin: Float64) -> TubeVoxels:
    """The voxels of ``count`` tubes in a frame. point_voxel: int64[N], see VoxelGrid. labels: int32[N], 0 = none.

    A tube's box is measured as that of a predicted one, over the mean points of voxels, but of its own points only:
    a voxel that two objects share must not widen either. Without a voxel it is the box of its points."""
    seen = point_voxel >= 0
    keys, entry, points = np.unique(
        point_voxel[seen] * (count + 1) + labels[seen], return_inverse=True, return_counts=True
    )
    voxel, tube = np.divmod(keys, count + 1)
    relative = aligned.points.astype(np.float64) - origin
    sums = np.stack([np.bincount(entry, weights=axis, minlength=len(keys)) for axis in relative[seen].T], axis=1)
    boxes = label_boxes(torch.from_numpy(tube), torch.from_numpy(sums / points[:, None]), count)
    if np.isnan(boxes).any():
        of_points = label_boxes(torch.from_numpy(labels.astype(np.int64)), torch.from_numpy(relative), count)
        boxes = np.where(np.isnan(boxes), of_points, boxes)
    return TubeVoxels(voxel, tube, points, boxes)


def _match_slots(output: MaskOutput, share: Tensor, mask_threshold: float) -> Int64:
    """int64[P]: the slot of each tube, -1 = none. share: float32[V, P].

    One slot per tube, so that the sum of presence x mask IoU is greatest: of slots that hold the same voxels, the one
    that would have got them.
    """
    held = (output.mask_logits.float().sigmoid() >= mask_threshold).float()
    both = held @ share
    union = held.sum(dim=1, keepdim=True) + share.sum(dim=0) - both
    iou = both / union.clamp(min=1e-6)
    gain = torch.where(iou >= MIN_SLOT_IOU, iou * output.presence_logits.float().sigmoid()[:, None], 0.0)
    table = gain.double().cpu().numpy()
    slots = np.full(share.shape[1], -1, dtype=np.int64)
    for slot, tube in zip(*linear_sum_assignment(table, maximize=True), strict=True):
        if table[slot, tube] > 0.0:
            slots[tube] = slot
    return slots


def _describe(
    model: PSG4D, output: MaskOutput, frames: list[FrameFeatures], shares: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """State [k, d] and class embedding [k, H] of tubes without a slot. shares: per frame float32[V, k].

    In place of a query's state, which says where a slot looks, stands the mean of all.
    """
    edge = 2 * model.config.encoder.voxel_size_m
    # Of a second-level voxel a tube has as much as of the finest ones in it together; the mean is over the same points.
    mid_shares = [
        share.new_zeros(len(frame.mid), share.shape[1]).index_add_(0, _parents(frame, edge), share)
        for share, frame in zip(shares, frames, strict=True)
    ]
    states = output.slot_states.mean(dim=0, keepdim=True).expand(shares[0].shape[1], -1)
    embeddings = model.decoder.embed_regions(
        states,
        torch.cat([f.fine for f in frames]),
        torch.cat(shares).T,
        torch.cat([f.mid for f in frames]),
        torch.cat(mid_shares).T,
    )
    return states, embeddings


def _parents(frame: FrameFeatures, edge: float) -> Tensor:
    """int64[V_0]: the second-level voxel (of that edge, metres) around each finest voxel."""
    if not len(frame.fine):
        return torch.zeros(0, dtype=torch.int64, device=frame.fine.device)
    coarse = pack_keys((frame.mid_centers.double() / edge - 0.5).round())
    own = pack_keys((frame.fine_centers.double() / edge).floor())
    # A mean point on a voxel's very edge may round over it; the neighbour in the order stands in.
    return torch.searchsorted(coarse, own).clamp(max=len(coarse) - 1)
