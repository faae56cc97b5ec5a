"""Small scenes whose tubes are given, for the tests of predictor and pipeline with given tubes.

Objects are blocks of points; their ids are neither consecutive nor in order of place, so that code which counts instead
of using ids shows.
"""

from __future__ import annotations

import numpy as np
import torch

from psg4d_ros.runtime.given import GivenObject, GivenTubes
from psg4d_ros.structures import AlignedFrame, PointFrame, Window

STEP = 250_000_000
SLOTS = 8  # of the tiny checkpoint
TABLE, PERSON, CUP = GivenObject(3, "table"), GivenObject(40, "person"), GivenObject(7, "cup")
PLACES = {40: -2.0, 3: 2.0, 7: 0.0}  # x of each object's block


def frame_of(number: int, places: dict[int, float], points: int = 150) -> tuple[PointFrame, np.ndarray]:
    """A metre-wide block of points per object, 30 points of clutter behind them, and whose each point is."""
    rng = np.random.default_rng(number)
    blocks = [rng.uniform((-4, 3, 0), (4, 4, 1), (30, 3))]
    blocks += [rng.uniform((x - 0.4, -0.4, 0), (x + 0.4, 0.4, 0.8), (points, 3)) for x in places.values()]
    owner = np.repeat([0, *places], [30] + [points] * len(places)).astype(np.int32)
    shuffled = rng.permutation(len(owner))
    xyz = np.concatenate(blocks).astype(np.float32)[shuffled]
    index = np.arange(len(xyz), dtype=np.int64)
    return PointFrame(xyz, None, None, index, (number + 1) * STEP, "sensor"), owner[shuffled]


def window_of(*parts: tuple[PointFrame, np.ndarray], objects=(TABLE, PERSON, CUP)) -> tuple[Window, GivenTubes]:
    pose, given = np.eye(4), GivenTubes(tuple(objects))
    pose[:3, 3] = (0, -5, 1)
    frames = []
    for frame, owner in parts:
        frames.append(AlignedFrame(frame, frame.points, pose, "tf", "odom", np.eye(4)))
        given = given.with_frame(frame.stamp_ns, owner)
    return Window(tuple(frames), epoch=0, origin=np.zeros(3)), given


def scene(count: int = 3, places=PLACES, **options) -> tuple[Window, GivenTubes]:
    return window_of(*(frame_of(n, places) for n in range(count)), **options)


def unnamed(given: GivenTubes) -> GivenTubes:
    """The same tubes for SGCls."""
    return GivenTubes(tuple(GivenObject(o.object_id) for o in given.objects), given.point_object)


def slots_at(places: dict[int, float], presence: dict[int, float] | None = None):
    """The mask decoder's output edited so that slot k holds what lies within half a metre of x = places[k]."""

    def edit(output, arguments):
        x = arguments["tokens"].fine_positions[:, 0]  # relative to the middle of all voxels, which is about 0
        masks = torch.full_like(output.mask_logits, -9.0)
        scores = torch.full_like(output.presence_logits, -9.0)
        for slot, place in places.items():
            masks[slot] = torch.where((x - place).abs() < 0.7, 9.0, -9.0)
            scores[slot] = (presence or {}).get(slot, 9.0)
        return output._replace(mask_logits=masks, presence_logits=scores)

    return edit


NOTHING = slots_at({})
