"""One object that a window finds as two, first and later, becomes one instance again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tracking_world import frame_of

from psg4d_ros.runtime.joining import join_in_time
from psg4d_ros.runtime.panoptic import Segmentation
from psg4d_ros.structures import InstancePrediction, Window

F = 8
STEP_S = 0.25


def named(label: str = "person", score: float = 0.5, is_thing: bool = True) -> InstancePrediction:
    return InstancePrediction(label, 0, score, is_thing)


def found(*parts: tuple[list[int], list[float]]) -> Segmentation:
    """Each part: how many points it has in each frame, and the x of its box, one metre wide, in each."""
    labels = [
        np.concatenate([np.zeros(5, np.int32), *(np.full(p[0][f], i + 1, np.int32) for i, p in enumerate(parts))])
        for f in range(F)
    ]
    boxes = np.full((len(parts), F, 6), np.nan)
    for i, (points, x) in enumerate(parts):
        for f in np.flatnonzero(points):
            boxes[i, f] = [x[f] - 0.5, -0.5, 0.0, x[f] + 0.5, 0.5, 1.8]
    slots, presence = torch.arange(10, 10 + len(parts)), np.linspace(0.9, 0.5, len(parts), dtype=np.float32)
    return Segmentation(slots, torch.from_numpy(presence), tuple(labels), boxes)


def window() -> Window:
    return Window(tuple(frame_of([], f)[0] for f in range(F)), 0, np.zeros(3))


def walk(start: float = 0.0, speed: float = 1.4) -> list[float]:
    return [start + speed * STEP_S * f for f in range(F)]


FIRST, LATER = [100] * 5 + [0] * 3, [0] * 5 + [90] * 3


def test_a_person_who_walks_through_two_slots_is_one_again() -> None:
    parts = found((FIRST, walk()), ([40] * F, walk(6.0, 0.0)), (LATER, walk()))
    instances = (named(score=0.4), named("chair"), named(score=0.6))
    joined, left = join_in_time(parts, instances, window())
    assert left == (named(score=0.6), named("chair")), "the surer part names it"
    assert joined.slots.tolist() == [12, 11]
    assert joined.presence_prob.tolist() == pytest.approx([0.5, 0.7])
    assert [(int((p == 1).sum()), int((p == 2).sum())) for p in joined.point_instance] == [(100, 40)] * 5 + [
        (90, 40)
    ] * 3
    assert np.isfinite(joined.boxes).all() and joined.boxes[0, :, 0].tolist() == pytest.approx(
        [x - 0.5 for x in walk()]
    )


def test_three_parts_in_a_row_are_one() -> None:
    a, b, c = [50] * 3 + [0] * 5, [0] * 3 + [50] * 2 + [0] * 3, [0] * 5 + [50] * 3
    joined, left = join_in_time(found((c, walk()), (a, walk()), (b, walk())), (named(), named(), named()), window())
    assert len(left) == len(joined.slots) == 1
    assert [int((p == 1).sum()) for p in joined.point_instance] == [50] * F


def test_masks_fade_into_each_other() -> None:
    """A few points of the later part lie in frames of the first one, as masks are."""
    fading = [0] * 4 + [15] + [90] * 3
    joined, left = join_in_time(found((FIRST, walk()), (fading, walk())), (named(), named()), window())
    assert len(left) == 1 and int((joined.point_instance[4] == 1).sum()) == 115


@pytest.mark.parametrize(
    ("first", "later", "instances"),
    [
        ((FIRST, walk()), (LATER, walk()), (named("person"), named("chair"))),
        ((FIRST, walk()), (LATER, walk()), (named("wall", is_thing=False), named("wall", is_thing=False))),
        (([100] * F, walk()), (LATER, walk(0.7)), (named(), named())),
        ((FIRST, walk(0.0, 0.0)), (LATER, walk(0.8, 0.0)), (named("chair"), named("chair"))),
        ((FIRST, walk()), (LATER, walk(4.0)), (named(), named())),
        ((FIRST, walk()), ([0] * F, walk()), (named(), named())),
        (([100] + [0] * 7, walk()), ([0] * 6 + [90] * 2, walk()), (named(), named())),
    ],
    ids=[
        "other label",
        "stuff",
        "side by side",
        "one chair leaves, another comes",
        "too far to walk",
        "no point",
        "too long unseen",
    ],
)
def test_what_is_not_one_object_stays_two(first, later, instances) -> None:
    parts = found(first, later)
    assert join_in_time(parts, instances, window()) == (parts, instances)


def test_of_small_things_the_next_one_is_another() -> None:
    """Cups of ten centimetres, forty apart, of which one is found first and the other later."""
    parts = found((FIRST, walk(0.0, 0.0)), (LATER, walk(0.4, 0.0)))
    cups = parts.boxes.copy()
    middle = (cups[:, :, :3] + cups[:, :, 3:]) / 2
    cups[:, :, :3], cups[:, :, 3:] = middle - 0.05, middle + 0.05
    small = Segmentation(parts.slots, parts.presence_prob, parts.point_instance, cups)
    assert join_in_time(small, (named("cup"), named("cup")), window())[0] is small
    assert len(join_in_time(parts, (named("chair"), named("chair")), window())[1]) == 1, "chairs would be one"


def test_the_nearer_of_two_that_could_follow_does() -> None:
    parts = found((FIRST, walk()), (LATER, walk(0.4)), (LATER, walk(-0.1)))
    joined, left = join_in_time(parts, (named(), named(), named()), window())
    assert len(left) == 2
    assert [(int((p == 1).sum()), int((p == 2).sum())) for p in joined.point_instance[5:]] == [(90, 90)] * 3
    # Frame 5 of what goes on from the first: where the third part was.
    assert joined.boxes[0, 5, 0] == pytest.approx(walk(-0.1)[5] - 0.5)


def test_a_window_without_instances_or_with_one_frame_is_left_as_it_is() -> None:
    nothing = found()
    assert join_in_time(nothing, (), window()) == (nothing, ())
    one = Window(window().frames[-1:], 0, np.zeros(3))
    parts = found((LATER, walk()))
    single = Segmentation(parts.slots, parts.presence_prob, parts.point_instance[-1:], parts.boxes[:, -1:])
    assert join_in_time(single, (named(),), one) == (single, (named(),))
