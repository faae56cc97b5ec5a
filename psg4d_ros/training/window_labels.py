"""What the labels of a recording say of a window: its tubes, whose each voxel is, and which pairs it asks about."""

from __future__ import annotations

import numpy as np

from psg4d_ros.data.recording import LabelledFrame, Recording, TrueObject
from psg4d_ros.model.geometry import nearest_pairs
from psg4d_ros.runtime.given import TubeVoxels
from psg4d_ros.runtime.relating import last_boxes
from psg4d_ros.runtime.rulebook import Rulebook
from psg4d_ros.structures import Float64, Int32, Int64, VoxelGrid
from psg4d_ros.training.mask_losses import NOBODY


def tubes_of(recording: Recording, frames: list[LabelledFrame], min_points: int) -> list[TrueObject]:
    """Those with enough points in the window, by ascending id."""
    points = np.bincount(np.concatenate([f.instance for f in frames]))
    enough = set(np.flatnonzero(points >= min_points).tolist())
    return sorted((o for o in recording.objects if o.object_id in enough), key=lambda o: o.object_id)


def number_points(instance: Int32, objects: list[TrueObject]) -> Int32:
    """int32[N]: 0 = nobody, i + 1 = ``objects[i]``."""
    ids = np.array([o.object_id for o in objects], dtype=np.int32)
    place = np.searchsorted(ids, instance).clip(max=len(ids) - 1)
    tube: Int32 = np.where(ids[place] == instance, place + 1, 0).astype(np.int32)
    return tube


def voxel_owners(tubes: TubeVoxels, grid: VoxelGrid, rulebook: Rulebook) -> tuple[Int64, Int64]:
    """int64[V_0] and int64[V_1]: the tube most of a voxel's labelled points are of (ties: the lower), or NOBODY."""
    labelled = tubes.tube > 0
    voxel, tube, points = tubes.voxel[labelled], tubes.tube[labelled] - 1, tubes.points[labelled]
    parent = rulebook.levels[1].parent
    assert parent is not None
    coarse = parent.numpy()[voxel]
    return (
        _majority(voxel, tube, points, len(grid.coords)),
        _majority(coarse, tube, points, len(rulebook.levels[1].coords)),
    )


def _majority(voxel: Int64, tube: Int64, points: Int64, count: int) -> Int64:
    """int64[count]: for each voxel the tube with the most points, NOBODY where none has any."""
    width = int(tube.max()) + 1 if len(tube) else 1
    keys, entry = np.unique(voxel * width + tube, return_inverse=True)
    total = np.bincount(entry, weights=points, minlength=len(keys))
    of, owner = np.divmod(keys, width)
    order = np.lexsort((-owner, total, of))  # the last entry of each voxel is its owner
    out = np.full(count, NOBODY, dtype=np.int64)
    out[of[order]] = owner[order]
    return out


def true_relations(
    recording: Recording, objects: list[TrueObject], numbers: list[int], predicates: tuple[str, ...]
) -> dict[tuple[int, int], np.ndarray]:
    """bool[n, F] by (subject, object) tube: which predicates hold in which frames, of pairs that have any."""
    place = {o.object_id: i for i, o in enumerate(objects)}
    row = {word: i for i, word in enumerate(predicates)}
    frames = np.array(numbers)
    out: dict[tuple[int, int], np.ndarray] = {}
    for r in recording.relations:
        subject, object_, predicate = place.get(r.subject_id), place.get(r.object_id), row.get(r.predicate)
        during = (frames >= r.start_frame) & (frames < r.end_frame)
        if subject is None or object_ is None or predicate is None or not during.any():
            continue
        if objects[subject].is_thing and subject != object_:
            table = out.setdefault((subject, object_), np.zeros((len(row), len(frames)), dtype=bool))
            table[predicate] |= during
    return out


def choose_pairs(
    boxes: Float64,
    objects: list[TrueObject],
    holds: dict[tuple[int, int], np.ndarray],
    max_pairs: int,
    rng: np.random.Generator,
) -> Int64:
    """int64[R, 2], nearest first: pairs of which something is true, at most half of all, and of the others as many near
    ones as far ones: what is not true of things that lie apart must be learnt, too."""
    things = np.array([o.is_thing for o in objects], dtype=bool)
    pairs = nearest_pairs(last_boxes(boxes), len(objects) ** 2, things)
    true = np.array([(s, o) in holds for s, o in pairs.tolist()], dtype=bool)
    chosen = np.flatnonzero(true)
    if len(chosen) > max_pairs // 2:
        chosen = rng.choice(chosen, max_pairs // 2, replace=False)
    others = np.flatnonzero(~true)
    room = max_pairs - len(chosen)
    near, far = others[: room - room // 2], others[room - room // 2 :]
    if len(far) > room // 2:
        far = rng.choice(far, room // 2, replace=False)
    return pairs[np.sort(np.concatenate([chosen, near, far]))]
