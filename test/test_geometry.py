"""Relative geometry says the same of an image and of the scene it shows, and means what its names say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from psg4d_ros.model.geometry import (
    GEOMETRY_NAMES,
    MOTION_NAMES,
    frame_geometry,
    motion_features,
    nearest_pairs,
    relative_geometry,
)

VIEWER = np.array([0.0, 0.0, 1.5])


def box(x, y, z, w=1.0, d=1.0, h=1.0):
    """Box with its base's centre at (x, y, z)."""
    return np.array([x - w / 2, y - d / 2, z, x + w / 2, y + d / 2, z + h])


def named(values, names=GEOMETRY_NAMES):
    assert values.shape == (1, len(names)) and values.dtype == np.float32
    return dict(zip(names, values[0].tolist(), strict=True))


def seen_from(viewer, subject, object_, **kw):
    return named(relative_geometry(subject[None], object_[None], 3, viewpoint=viewer, **kw))


def test_names_are_unique():
    assert len(set(GEOMETRY_NAMES)) == len(GEOMETRY_NAMES) and len(set(MOTION_NAMES)) == len(MOTION_NAMES)


def test_a_cup_on_a_table_is_above_it_in_contact_and_within_its_ground():
    cup, table = box(5, 0, 0.8, 0.1, 0.1, 0.1), box(5, 0, 0, 1.6, 0.8, 0.8)
    f = seen_from(VIEWER, cup, table)
    assert f["up_object"] > 0 and f["subject_above_top"] == pytest.approx(0, abs=1e-5) and f["contact"] == 1
    assert f["ground_share_subject"] == 1 and f["ground_share_object"] < 0.05 and f["iou"] == 0
    assert f["height_ratio"] < 0 and f["view_area_ratio"] < 0 and f["has_depth"] == f["has_view"] == 1
    back = seen_from(VIEWER, table, cup)
    assert back["object_above_top"] == pytest.approx(0, abs=1e-5) and back["up_subject"] == pytest.approx(
        -f["up_object"]
    )


def test_left_right_front_and_behind_are_the_viewers():
    left, right = box(5, 1, 0), box(5, -1, 0)
    assert seen_from(VIEWER, left, right)["right_union"] < 0 < seen_from(VIEWER, right, left)["right_union"]
    near, far = box(4, 0, 0), box(7, 0, 0)
    assert seen_from(VIEWER, near, far)["away_union"] < 0
    # From the other side everything is the other way round.
    behind = np.array([10.0, 0, 1.5])
    assert seen_from(behind, left, right)["right_union"] > 0 and seen_from(behind, near, far)["away_union"] > 0


def test_turning_scene_and_viewer_together_changes_nothing():
    s, o = box(3, 1, 0, 0.5, 0.5, 2), box(4, -1, 0.5, 1, 1, 1)

    def quarter_turn(b):
        return np.array([-b[4], b[0], b[2], -b[1], b[3], b[5]])

    a = relative_geometry(s[None], o[None], 3, viewpoint=VIEWER)
    b = relative_geometry(quarter_turn(s)[None], quarter_turn(o)[None], 3, viewpoint=VIEWER)
    assert np.allclose(a, b, atol=1e-5)


def test_an_image_of_a_scene_has_the_scenes_geometry_where_an_image_can_know():
    s, o = box(8, 0.5, 0.2, 0.6, 0.6, 1.2), box(8, -1.0, 0.0, 1.0, 1.0, 0.7)
    extent = np.array([6.0, -3, 0, 10, 3, 3])
    viewer = np.array([-1e6, -0.25, 1.5])  # so far away that perspective is gone

    def image(b):  # 100 pixels a metre; right is -y, down is -z
        return np.array([-b[4], -b[5], -b[1], -b[2]]) * 100 + 500

    space = seen_from(viewer, s, o, extent=extent)
    picture = named(relative_geometry(image(s)[None], image(o)[None], 2, extent=image(extent)))
    depth = {n for n in GEOMETRY_NAMES if n.startswith(("away", "depth"))} | {"has_depth"}
    own = {"ground_share_subject", "ground_share_object", "iou", "share_subject", "share_object", "distance", "gap"}
    own |= {"ground_gap", "contact", "subject_scale", "object_scale"}
    for name in set(GEOMETRY_NAMES) - depth - own:
        assert picture[name] == pytest.approx(space[name], abs=2e-3), name
    assert all(picture[name] == 0 for name in depth)


def test_what_is_missing_is_zero_and_flagged():
    f = named(relative_geometry(box(1, 0, 0)[None], box(3, 0, 0)[None], 3))
    assert f["has_view"] == f["has_depth"] == f["has_extent"] == 0 and f["present"] == 1
    assert f["right_union"] == f["away_union"] == f["view_iou"] == f["subject_up"] == 0 and f["distance"] > 0


finite_boxes = arrays(np.float64, (5, 2, 3), elements=st.floats(-50, 50)).map(
    lambda a: np.concatenate([a.min(axis=1), a.max(axis=1)], axis=1)
)


@given(finite_boxes, finite_boxes, st.floats(0.1, 100))
def test_any_boxes_give_bounded_values_whatever_the_unit_and_whoever_else_is_there(s, o, unit):
    a = relative_geometry(s, o, 3, viewpoint=VIEWER)
    assert np.isfinite(a).all() and np.abs(a).max() <= 4
    assert np.array_equal(a[2:3], relative_geometry(s[2:3], o[2:3], 3, viewpoint=VIEWER)), "rows are independent"
    wide = (s[:, 3:] - s[:, :3]).min() > 0.1 and (o[:, 3:] - o[:, :3]).min() > 0.1
    if wide:  # below a millimetre sizes are floored
        b = relative_geometry(s * unit, o * unit, 3, viewpoint=VIEWER * unit)
        assert np.allclose(a, b, atol=1e-3)


def test_a_viewer_inside_the_pair_and_flat_boxes_stay_finite():
    flat = np.array([0.0, 0, 0, 0, 0, 0])
    assert np.isfinite(relative_geometry(flat[None], flat[None], 3, viewpoint=np.zeros(3))).all()


@pytest.mark.parametrize(
    "s, o, dims, why",
    [
        (np.zeros((2, 6)), np.zeros((1, 6)), 3, "pairs"),
        (np.zeros((1, 4)), np.zeros((1, 4)), 3, "shape"),
        (np.full((1, 6), np.nan), np.zeros((1, 6)), 3, "NaN"),
        (np.array([[1.0, 0, 0, 0, 1, 1]]), np.zeros((1, 6)), 3, "below its min"),
        (np.zeros((1, 6)), np.zeros((1, 6)), 4, "dims"),
    ],
)
def test_wrong_input_is_named(s, o, dims, why):
    with pytest.raises(ValueError, match=why):
        relative_geometry(s, o, dims)


def test_no_pairs_give_no_rows():
    none = np.zeros((0, 6))
    assert relative_geometry(none, none, 3, viewpoint=VIEWER, extent=box(0, 0, 0)).shape == (0, len(GEOMETRY_NAMES))
    assert (
        motion_features(np.zeros((0, 3, 6)), np.zeros((0, 3, 6)), np.zeros((0, 3), bool), np.arange(3.0)).shape[0] == 0
    )


# -- over time -------------------------------------------------------------------------------------------------------


def walk(*xs):
    return np.stack([box(x, 0, 0) for x in xs])[None]


TIMES = np.array([0.0, 0.5, 1.0])
ALL = np.ones((1, 3), bool)


def motion(s, o, seen=ALL):
    return named(motion_features(s, o, seen, TIMES), MOTION_NAMES)


def test_approaching_and_leaving_have_opposite_signs_and_know_who_moves():
    still = walk(10, 10, 10)
    to, back = motion(walk(0, 1, 2), still), motion(walk(2, 1, 0), still)
    assert to["subject_approach"] > 0.5 and to["object_approach"] == 0 and to["distance_change"] < 0
    assert (
        back["subject_approach"] < -0.5 and back["distance_change"] > 0 and back["subject_speed"] == to["subject_speed"]
    )
    assert motion(still, walk(0, 1, 2))["object_approach"] > 0.5 and to["object_speed"] == 0


def test_carrying_looks_like_moving_together_in_contact():
    f = motion(walk(0, 1, 2), walk(1, 2, 3))
    assert f["together"] == pytest.approx(1, abs=1e-5) and f["relative_speed"] == 0 and f["contact_share"] == 1


def test_jitter_of_things_at_rest_is_not_movement_together():
    assert abs(motion(walk(0, 0.004, 0.002), walk(3, 3.004, 3.002))["together"]) < 0.05


def test_frames_in_which_one_was_not_seen_are_bridged_and_their_values_ignored():
    s, o = walk(0, 1, 2), walk(5, 5, 5)
    s[0, 1] = np.nan
    seen = np.array([[True, False, True]])
    f = motion(s, o, seen)
    assert f["subject_shift"] == motion(walk(0, 1, 2), o)["subject_shift"] and 0 < f["seen_share"] < 1
    assert motion(s, o, np.array([[True, False, False]])) == dict.fromkeys(MOTION_NAMES, 0.0)


def test_frame_geometry_is_relative_geometry_per_frame_and_zero_where_unseen():
    s, o = walk(3, 4, 5), walk(8, 8, 8)
    s[0, 1] = np.nan
    views = np.tile(VIEWER, (3, 1))
    f = frame_geometry(s, o, np.array([[True, False, True]]), viewpoints=views)
    assert np.array_equal(f[:, 2], relative_geometry(s[:, 2], o[:, 2], 3, viewpoint=VIEWER))
    assert not f[0, 1].any() and f[0, 0, GEOMETRY_NAMES.index("present")] == 1


# -- candidate pairs -------------------------------------------------------------------------------------------------


def test_nearest_pairs_come_first_both_ways_round_and_are_capped():
    boxes = np.stack([box(0, 0, 0), box(1.2, 0, 0), box(9, 0, 0)])
    pairs = nearest_pairs(boxes, 4)
    assert pairs.tolist()[:2] == [[0, 1], [1, 0]] and len(pairs) == 4 and pairs.dtype == np.int64
    assert len(nearest_pairs(boxes, 100)) == 6
    assert set(nearest_pairs(boxes, 100, np.array([True, False, False]))[:, 0].tolist()) == {0}
    assert nearest_pairs(boxes[:1], 5).shape == (0, 2) and nearest_pairs(boxes[:0], 5).shape == (0, 2)
