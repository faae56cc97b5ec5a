"""Tracker: instances of one window after another become tracks with stable ids (numpy and scipy).

Windows overlap: most frames of a window were in the one before, point for point. So an instance is the same as a track
when their masks agree on the shared frames, which needs no model of appearance or motion and is not fooled by objects
that pass each other. Motion only breaks ties, and finds again what was out of sight.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.transform import Rotation

from psg4d_ros.config import TrackerConfig
from psg4d_ros.relation_spans import RelationSpans
from psg4d_ros.segments import Segment, box_iou, measure
from psg4d_ros.structures import (
    AlignedFrame,
    Float64,
    InstancePrediction,
    Int32,
    Int64,
    LabelledCloud,
    LabelScore,
    SceneGraph,
    SceneObject,
    Window,
    WindowPrediction,
)
from psg4d_ros.transforms import NS_PER_S, transform_points

# A new window's least say in a track's label: what an object is stays the same, so it is the mean over all windows
# until they are ten. And its say in attributes, which change. The rest is what was said before.
LABEL_VOTE = 0.1
ATTRIBUTE_VOTE = 0.3
# What lying where the track should be by its motion is worth, in mask IoU: enough to decide between equals (two
# objects that were one mask for a while), too little to overrule the masks.
PLACE_WEIGHT = 0.3
MIN_CLOSENESS = 0.25
# Motion is extrapolated no further than this: velocities of partly seen objects are rough.
MAX_EXTRAPOLATION_S = 1.0
# Thin or single-point objects still get a box that viewers can draw.
MIN_EXTENT_M = 0.01


@dataclass(eq=False)
class _Track:
    """What is remembered of an object; ``votes`` and ``attributes`` are probabilities, smoothed over windows.

    classes: class_id and is_thing of each label that was ever an instance's first choice (alternatives carry neither).
    found_ns, lately_found_ns: newest stamps of the first and the last window that found it. windows: how many found it.
    reported: it is part of the graph, from when enough windows have found it until it is lost.
    """

    track_id: int
    first_ns: int
    last_ns: int
    exit: Float64
    box: Float64
    found_ns: int
    lately_found_ns: int
    velocity: Float64 | None = None
    votes: dict[str, float] = field(default_factory=dict)
    classes: dict[str, tuple[int, bool]] = field(default_factory=dict)
    attributes: dict[str, float] = field(default_factory=dict)
    num_alternatives: int = 0
    windows: int = 0
    reported: bool = False

    @property
    def label(self) -> str:
        """The best label among those that were ever an instance's first choice."""
        return max(self.classes, key=lambda name: (self.votes[name], name))

    @property
    def class_id(self) -> int:
        return self.classes[self.label][0]

    @property
    def is_thing(self) -> bool:
        return self.classes[self.label][1]

    @property
    def score(self) -> float:
        return self.votes[self.label]

    def vote(self, instance: InstancePrediction) -> None:
        """Mix in what a window says, so that one odd window does not rename the object."""
        said = {a.label: a.score for a in instance.alternatives} | {instance.label: instance.score}
        self.windows += 1
        self.votes = _mix(self.votes, said, max(LABEL_VOTE, 1.0 / self.windows))
        gain = ATTRIBUTE_VOTE if self.windows > 1 else 1.0
        self.attributes = _mix(self.attributes, dict.fromkeys(instance.attributes, 1.0), gain)
        self.classes[instance.label] = instance.class_id, instance.is_thing
        # A label that faded away is forgotten, or a long run would collect every word ever said of the object.
        self.classes = {name: i for name, i in self.classes.items() if name in self.votes}
        self.num_alternatives = len(instance.alternatives)


def _mix(old: dict[str, float], new: dict[str, float], gain: float) -> dict[str, float]:
    names = dict.fromkeys((*old, *new))
    mixed = {name: (1.0 - gain) * old.get(name, 0.0) + gain * new.get(name, 0.0) for name in names}
    return {name: value for name, value in mixed.items() if value > 1e-3 or name in new}


class Tracker:
    """State: the tracks, their relations, who owned each point of the frames of the last windows, and how many graphs
    there were: each graph's ``sequence`` is one more than the last one's, over epochs and resets too.
    """

    def __init__(self, config: TrackerConfig) -> None:
        self._config = config
        self._max_missing_ns = round(config.max_missing_s * NS_PER_S)
        self._relations = RelationSpans(config)
        self._epoch: int | None = None
        self._tracks: dict[int, _Track] = {}
        self._last_labels: dict[int, Int32] = {}  # stamp_ns of a frame -> int32[N] the last window's point_instance
        self._last_ids = np.zeros(1, dtype=np.int32)  # int32[I + 1] track of the last window's instance i at i + 1
        self._next_id = 1
        self._sequence = 0
        self._updates = 0  # of this epoch

    def reset(self) -> None:
        """Forget all tracks and relations; ids begin at 1 again, while the numbers of the graphs go on."""
        self._epoch = None
        self._tracks.clear()
        self._last_labels.clear()
        self._relations.clear()
        self._next_id = 1
        self._updates = 0

    def updates_in(self, epoch: int) -> int:
        """Windows of an epoch so far; 0 where it is not the one that the last window was of."""
        return self._updates if epoch == self._epoch else 0

    def update(
        self, prediction: WindowPrediction, model_id: str, model_sha256: str, given_ids: Int32 | None = None
    ) -> SceneGraph:
        """The scene graph after this window. A window of another epoch than the last one starts anew by itself.

        given_ids: int32[I + 1], the track of instance i at i + 1 where that is known from outside; None: found out by
        association.
        """
        window = prediction.window
        if window.epoch != self._epoch:
            self.reset()
            self._epoch = window.epoch
        now_ns = window.newest.stamp_ns
        segments = measure(prediction)
        instance_ids = self._associate(prediction, segments) if given_ids is None else given_ids[1:].tolist()
        for i, track_id in enumerate(instance_ids):
            segment = segments[i]
            if segment is None or now_ns - segment.last_ns > self._max_missing_ns:
                continue  # not a point of it, or lost again before it is first reported
            if track_id not in self._tracks:
                instance_ids[i] = self._new_track(track_id or self._next_id, segment, now_ns)
            self._see(self._tracks[instance_ids[i]], prediction.instances[i], segment, now_ns)
        lost = [i for i, track in self._tracks.items() if self._is_lost(track, now_ns)]
        for track_id in lost:
            del self._tracks[track_id]
        # What one window imagines is not told; but an epoch begins with what its first windows find.
        needed = 1 if given_ids is not None else min(self._config.min_windows, self._updates + 1)
        for track in self._tracks.values():
            track.reported |= track.windows >= needed
        ids = np.array([0, *(i if i in self._tracks else 0 for i in instance_ids)], dtype=np.int32)
        self._last_labels = {f.stamp_ns: p for f, p in zip(window.frames, prediction.point_instance, strict=True)}
        self._last_ids = ids
        self._relations.update(prediction, ids, self._tracks.keys())
        graph = self._graph(prediction, model_id, model_sha256)
        self._sequence += 1
        self._updates += 1
        return graph

    def _is_lost(self, track: _Track, now_ns: int) -> bool:
        """Out of sight for too long; or no window finds it any more, for longer than windows had found it before: what
        a single window imagined is gone with the next."""
        if now_ns - track.last_ns > self._max_missing_ns:
            return True
        return now_ns - track.lately_found_ns > track.lately_found_ns - track.found_ns

    def _new_track(self, track_id: int, segment: Segment, now_ns: int) -> int:
        self._next_id = max(self._next_id, track_id + 1)
        self._tracks[track_id] = _Track(
            track_id, segment.first_ns, segment.last_ns, segment.exit, segment.box, now_ns, now_ns
        )
        return track_id

    @staticmethod
    def _see(track: _Track, instance: InstancePrediction, segment: Segment, now_ns: int) -> None:
        track.vote(instance)
        track.lately_found_ns = now_ns
        track.first_ns = min(track.first_ns, segment.first_ns)
        if segment.last_ns >= track.last_ns:
            track.last_ns, track.exit, track.box = segment.last_ns, segment.exit, segment.box
        # Of stuff, what is seen moves with the sensor; that is no velocity of the floor.
        if instance.is_thing and segment.velocity is not None:
            track.velocity = segment.velocity

    # Association

    def _associate(self, prediction: WindowPrediction, segments: list[Segment | None]) -> list[int]:
        """Track id of each instance, 0 for none: by masks on shared frames, and by place where there are none."""
        instances, tracks = prediction.instances, list(self._tracks.values())
        assigned = [0] * len(instances)
        if not tracks or not instances:
            return assigned
        same_kind = np.array([[i.is_thing == t.is_thing for t in tracks] for i in instances])
        seen = np.array([s is not None for s in segments])
        iou, instance_shared, track_shared = self._mask_iou(prediction, tracks)
        place = _closeness(instances, segments, tracks)
        allowed = same_kind & seen[:, None]

        # Masks that were compared and did not agree settle the matter. Place alone speaks only where one side has no
        # point on the shared frames: nothing is shared, the instance is new, or the track was out of sight.
        by_mask = iou >= max(self._config.min_iou, 1e-6)
        compared = (instance_shared > 0)[:, None] & (track_shared > 0)[None]
        by_place = ~compared & (place > MIN_CLOSENESS)
        gain = np.where(by_mask, iou, np.where(by_place, PLACE_WEIGHT * place, 0.0))
        gain[~allowed] = 0.0
        # One assignment over both, so that of two objects that part again each gets the id it had before they met.
        rows, columns = linear_sum_assignment(gain, maximize=True)
        for i, t in zip(rows, columns, strict=True):
            if gain[i, t] > 0.0:
                assigned[i] = tracks[t].track_id
        return assigned

    def _mask_iou(self, prediction: WindowPrediction, tracks: list[_Track]) -> tuple[Float64, Int64, Int64]:
        """IoU float64[I, T] of instances and tracks over the points of shared frames, and the points each has there."""
        shape = (len(prediction.instances) + 1, len(self._last_ids))
        counts = np.zeros(shape, dtype=np.int64)  # points by this window's instance and the last window's
        for frame, labels in zip(prediction.window.frames, prediction.point_instance, strict=True):
            last = self._last_labels.get(frame.stamp_ns)
            if last is not None and len(last) == len(labels):
                counts += np.bincount(labels * np.int64(shape[1]) + last, minlength=counts.size).reshape(shape)
        column = {track.track_id: t + 1 for t, track in enumerate(tracks)}
        both = np.zeros((shape[0], len(tracks) + 1), dtype=np.int64)
        for j, track_id in enumerate(self._last_ids.tolist()):
            both[:, column.get(track_id, 0)] += counts[:, j]
        instance_points, track_points = both.sum(axis=1)[1:], both.sum(axis=0)[1:]
        overlap = both[1:, 1:]
        union = instance_points[:, None] + track_points[None] - overlap
        return overlap / np.maximum(union, 1), instance_points, track_points

    # Output

    def _graph(self, prediction: WindowPrediction, model_id: str, model_sha256: str) -> SceneGraph:
        window = prediction.window
        newest = window.newest
        tracks = [track for _, track in sorted(self._tracks.items()) if track.reported]
        row_of = {track.track_id: t + 1 for t, track in enumerate(tracks)}
        rows = np.array([row_of.get(i, 0) for i in self._last_ids.tolist()])[prediction.point_instance[-1]]
        counts = np.bincount(rows, minlength=len(tracks) + 1)[1:]
        orientation = Rotation.from_matrix(newest.T_graph_core[:3, :3]).as_quat()
        return SceneGraph(
            stamp_ns=newest.stamp_ns,
            frame_id=newest.graph_frame_id,
            window_start_ns=window.frames[0].stamp_ns,
            window_end_ns=newest.stamp_ns,
            num_frames=len(window.frames),
            sequence=self._sequence,
            epoch=window.epoch,
            model_id=model_id,
            model_sha256=model_sha256,
            status=prediction.status,
            status_text=prediction.status_text,
            objects=tuple(
                _scene_object(t, newest.T_graph_core, orientation, int(n), window)
                for t, n in zip(tracks, counts, strict=True)
            ),
            relations=self._relations.current(row_of.keys()),
            cloud=_labelled_cloud(newest, rows, tracks),
            stage_ms=dict(prediction.stage_ms),
        )


def _closeness(
    instances: tuple[InstancePrediction, ...], segments: list[Segment | None], tracks: list[_Track]
) -> Float64:
    """float64[I, T] in 0..1: how well each instance lies where each track should be.

    The track is moved by its velocity to the time the instance is first seen after it, the instance's box to where it
    was then. The greater of box IoU and 1 - distance / size; half of it for another label; stuff of another label is
    never the same.
    """
    place = np.zeros((len(instances), len(tracks)))
    boxes = np.array([t.box for t in tracks])
    exits = np.array([t.exit for t in tracks])
    velocities = np.array([np.zeros(3) if t.velocity is None else t.velocity for t in tracks])
    last_ns = np.array([t.last_ns for t in tracks], dtype=np.int64)
    labels = [t.label for t in tracks]
    sizes = np.maximum(np.linalg.norm(boxes[:, 1] - boxes[:, 0], axis=1), 0.3)
    for i, (instance, segment) in enumerate(zip(instances, segments, strict=True)):
        if segment is None:
            continue
        # An instance that begins before the track was last seen is compared where it is now.
        begins_later = segment.first_ns > last_ns
        here = np.where(begins_later[:, None], segment.entry, segment.exit)
        when = np.where(begins_later, segment.first_ns, segment.last_ns)
        ahead_s = ((when - last_ns) / NS_PER_S).clip(0.0, MAX_EXTRAPOLATION_S)
        step = velocities * ahead_s[:, None]
        near = 1.0 - np.linalg.norm(here - (exits + step), axis=1) / sizes
        own_boxes = segment.box[None] + (here - segment.exit)[:, None]
        factor = np.array([1.0 if label == instance.label else 0.5 * instance.is_thing for label in labels])
        place[i] = factor * np.maximum(near.clip(0.0), box_iou(own_boxes, boxes + step[:, None]))
    return place


def _scene_object(
    track: _Track, T_graph_core: Float64, orientation: Float64, num_points: int, window: Window
) -> SceneObject:
    low, high = track.box
    R = T_graph_core[:3, :3]
    # A velocity from before the window says nothing of now.
    moving = track.velocity is not None and track.last_ns >= window.frames[0].stamp_ns
    label = track.label
    others = sorted((-probability, name) for name, probability in track.votes.items() if name != label)
    return SceneObject(
        track_id=track.track_id,
        label=label,
        class_id=track.class_id,
        score=track.score,
        is_thing=track.is_thing,
        attributes=tuple(sorted(a for a, v in track.attributes.items() if v >= 0.5)),
        alternatives=tuple(LabelScore(name, -probability) for probability, name in others[: track.num_alternatives]),
        position=R @ ((low + high) / 2) + T_graph_core[:3, 3],
        orientation=orientation,
        size=np.maximum(high - low, MIN_EXTENT_M),
        velocity=R @ track.velocity if moving and track.velocity is not None else None,
        first_seen_ns=track.first_ns,
        last_seen_ns=track.last_ns,
        num_points=num_points,
    )


def _labelled_cloud(frame: AlignedFrame, rows: Int64, tracks: list[_Track]) -> LabelledCloud:
    """``rows``: int64[N] for each point the index of its track + 1, 0 = none."""
    if np.allclose(frame.T_graph_core @ frame.T_core_sensor, np.eye(4), rtol=0.0, atol=1e-9):
        points = frame.frame.points  # the graph is in the sensor's frame: give back what came in, to the bit
    else:
        points = transform_points(frame.T_graph_core, frame.points)
    return LabelledCloud(
        points=points,
        track_id=np.array([0, *(t.track_id for t in tracks)], dtype=np.uint32)[rows],
        class_id=np.array([-1, *(t.class_id for t in tracks)], dtype=np.int32)[rows],
        score=np.array([0.0, *(t.score for t in tracks)], dtype=np.float32)[rows],
        source_index=frame.frame.source_index,
    )
