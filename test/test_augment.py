"""Augmentation: every point stays its object's, poses stay poses, and what is said of a scene stays true of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import cKDTree

from psg4d_ros.data.recording import LabelledFrame
from psg4d_ros.data.simulation.classes import PALETTE
from psg4d_ros.data.simulation.predicates import PREDICATES
from psg4d_ros.structures import PointFrame
from psg4d_ros.training.augment import Augmentation, ColorChange, SensorChange, interpolated, names_a_side
from psg4d_ros.transforms import check_rigid, transform_points

WIDTH, HEIGHT = 40, 30
T_WORLD_CAMERA = np.array([[0.0, 0.0, 1.0, 2.0], [-1.0, 0.0, 0.0, 3.0], [0.0, -1.0, 0.0, 1.5], [0.0, 0.0, 0.0, 1.0]])


def camera_frame(number: int = 0) -> LabelledFrame:
    """A camera before a wall (object 1, 3 m away); in the middle stands a red box (object 2, 2 m away)."""
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    box = (abs(u - 20) < 8) & (abs(v - 15) < 6)
    depth = np.where(box, 2.0, 3.0)
    points = np.stack([(u - 19.5) / 30 * depth, (v - 14.5) / 30 * depth, depth], axis=-1)
    colors = np.where(box[..., None], (180, 40, 40), (200, 200, 190)).reshape(-1, 3).astype(np.uint8)
    index = np.arange(WIDTH * HEIGHT, dtype=np.int64)
    stamp = 1_000_000_000 + number * 250_000_000
    frame = PointFrame(points.reshape(-1, 3).astype(np.float32), colors, None, index, stamp, "camera_optical_frame")
    T = T_WORLD_CAMERA.copy()
    T[0, 3] += 0.05 * number
    return LabelledFrame(frame, T, np.where(box, 2, 1).reshape(-1).astype(np.int32), WIDTH)


def placed(labelled: LabelledFrame) -> np.ndarray:
    return transform_points(labelled.T_world_sensor, labelled.frame.points)


def test_no_augmentation_leaves_every_number_as_it_is():
    frames = [camera_frame(n) for n in range(3)]
    for before, after in zip(frames, Augmentation.none().apply(frames, np.random.default_rng(0)), strict=True):
        np.testing.assert_array_equal(after.frame.points, before.frame.points)
        np.testing.assert_array_equal(after.frame.colors, before.frame.colors)
        np.testing.assert_array_equal(after.T_world_sensor, before.T_world_sensor)
        np.testing.assert_array_equal(after.instance, before.instance)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_drawn_gives_frames_and_poses(seed):
    rng = np.random.default_rng(seed)
    augmentation = Augmentation.draw(rng, may_mirror=True, close=seed % 4 == 0, voxel_size_m=0.05)
    frames = [camera_frame(n) for n in range(3)]
    for before, after in zip(frames, augmentation.apply(frames, rng), strict=True):
        check_rigid(after.T_world_sensor, "pose")
        assert len(after.frame) == len(after.instance)
        assert after.frame.stamp_ns == before.frame.stamp_ns
        assert set(after.instance) <= {1, 2}


@pytest.mark.parametrize("seed", range(40))
def test_every_point_stays_where_its_object_is(seed):
    """Noise, interpolation and holes move points by centimetres; the objects are a metre apart."""
    rng = np.random.default_rng(seed)
    drawn = Augmentation.draw(rng, may_mirror=True, close=seed % 4 == 0, voxel_size_m=0.05)
    augmentation = replace(drawn, tilt_rad=(0.0, 0.0), camera_is_level=False, pose_m=0.0, pose_rad=0.0)
    before = camera_frame()
    after = augmentation.apply([before], rng)[0]
    world = placed(before).astype(float) * drawn.scale
    if drawn.mirrored:
        world[:, 1] *= -1
    world = world @ drawn.T_core_world[:3, :3].T
    distance, nearest = cKDTree(world).query(placed(after))
    np.testing.assert_array_equal(before.instance[nearest], after.instance)
    assert not len(distance) or np.median(distance) < 0.1


def test_a_mirror_exchanges_left_and_right_and_keeps_the_front():
    before, rng = camera_frame(), np.random.default_rng(0)
    half = before.frame.points[:, 0] < 0  # what the camera sees on its left
    before = replace(before, instance=np.where(half, 1, 2).astype(np.int32))
    after = Augmentation(np.eye(4), mirrored=True).apply([before], rng)[0]
    check_rigid(after.T_world_sensor, "pose")
    assert (after.frame.points[after.instance == 1, 0] > 0).all()
    np.testing.assert_allclose(after.frame.points[:, 1:], before.frame.points[:, 1:])
    np.testing.assert_allclose(placed(after)[:, [0, 2]], placed(before)[:, [0, 2]], atol=1e-5)
    np.testing.assert_allclose(placed(after)[:, 1], -placed(before)[:, 1], atol=1e-5)


def test_no_predicate_of_simulated_scenes_says_anything_else_in_a_mirror():
    assert not names_a_side(PREDICATES)
    assert names_a_side(["on", "to the left of"])
    assert not names_a_side(["bright", "leftover of"])


def test_a_tilt_turns_about_the_sensor():
    """A wrong direction of gravity lifts what is far away, not the sensor."""
    frames = [camera_frame(n) for n in range(3)]
    out = Augmentation(np.eye(4), tilt_rad=(0.0, 0.03)).apply(frames, np.random.default_rng(0))
    np.testing.assert_allclose(out[-1].T_world_sensor[:3, 3], frames[-1].T_world_sensor[:3, 3], atol=1e-9)
    lifted = np.abs(placed(out[-1])[:, 2] - placed(frames[-1])[:, 2])
    assert lifted.max() == pytest.approx(3.0 * np.sin(0.03), rel=0.1)


def test_a_camera_that_is_taken_to_be_level_has_its_image_upright():
    """However the camera looks: what is ahead of it is ahead on the level, what is up in the image is up."""
    down = _turned_about_x(np.radians(-40))
    frames = [replace(camera_frame(n), T_world_sensor=camera_frame(n).T_world_sensor @ down) for n in range(2)]
    for mirrored in (False, True):
        level = Augmentation(np.eye(4), camera_is_level=True, mirrored=mirrored)
        out = level.apply(frames, np.random.default_rng(0))[-1]
        relative = placed(out) - out.T_world_sensor[:3, 3]
        np.testing.assert_allclose(relative[:, 0], frames[-1].frame.points[:, 2], atol=1e-5)
        np.testing.assert_allclose(relative[:, 2], -frames[-1].frame.points[:, 1], atol=1e-5)


def _turned_about_x(angle: float) -> np.ndarray:
    T = np.eye(4)
    T[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return T


def test_rings_are_not_laid_over_those_of_a_lidar():
    lidar = replace(camera_frame(), image_width=None)
    ringed, rng = Augmentation(np.eye(4), sensor=SensorChange(rings=6)), np.random.default_rng(0)
    assert len(ringed.apply([lidar], rng)[0].frame) == len(lidar.frame)
    assert len(ringed.apply([camera_frame()], rng)[0].frame) < len(lidar.frame) / 2


def test_interpolation_fills_surfaces_and_nothing_between_them():
    before = camera_frame()
    after = interpolated(before, WIDTH, 2)
    assert 3 * len(before.frame) < len(after.frame) < 4 * len(before.frame)
    np.testing.assert_allclose(after.frame.points[after.instance == 1, 2], 3.0, atol=1e-5)
    np.testing.assert_allclose(after.frame.points[after.instance == 2, 2], 2.0, atol=1e-5)
    assert (after.frame.colors[after.instance == 2] == (180, 40, 40)).all()


def test_a_view_through_holes_rings_and_thinning_is_a_part_of_the_view():
    points = camera_frame().frame.points
    rng = np.random.default_rng(0)
    for change in (
        SensorChange(keep=0.4),
        SensorChange(holes=((0.0, 0.0, 0.2, 0.1),)),
        SensorChange(rings=6, ring_deg=0.5),
        SensorChange(far=0.1),
    ):
        rows = change.seen(points, T_WORLD_CAMERA[:3, :3], rng)
        assert 0 < len(rows) <= len(points)
        assert (np.diff(rows) > 0).all()
    hidden = np.setdiff1d(
        np.arange(len(points)), SensorChange(holes=((0.0, 0.0, 0.2, 0.1),)).seen(points, T_WORLD_CAMERA[:3, :3], rng)
    )
    assert (np.abs(points[hidden, 0] / points[hidden, 2]) < np.tan(0.2) + 0.02).all()
    ringed = points[SensorChange(rings=6, ring_deg=0.5).seen(points, T_WORLD_CAMERA[:3, :3], rng)]
    elevation = -np.arctan2(ringed[:, 1], np.hypot(ringed[:, 0], ringed[:, 2]))
    assert len(np.unique(np.round(np.degrees(elevation) / 8))) <= 8


def test_errors_of_the_range_grow_with_it_and_keep_the_direction():
    near, far = camera_frame().frame.points, 4 * camera_frame().frame.points
    change, rng = SensorChange(range_per_m2=0.002), np.random.default_rng(0)
    errors = []
    for points in (near, far):
        measured = change.measured(points, rng)
        np.testing.assert_allclose(np.cross(measured, points), 0.0, atol=1e-3)
        errors.append(np.std(np.linalg.norm(measured, axis=1) - np.linalg.norm(points, axis=1)))
    assert errors[1] == pytest.approx(16 * errors[0], rel=0.1)


@pytest.mark.parametrize("name", [n for n in PALETTE if n not in ("white", "black", "gray", "brown", "pink")])
def test_a_colour_is_still_the_one_it_is_called(name):
    """The strongest and the weakest of red, green and blue stay that on average, as long as colours are told at all."""
    true = np.array(PALETTE[name][0], dtype=np.uint8)
    rng = np.random.default_rng(0)
    order = []
    for _ in range(60):
        change = ColorChange.draw(rng)
        if change.gray < 1.0:
            world = rng.uniform(-2, 2, (400, 3)).astype(np.float32)
            table = rng.standard_normal(4096, dtype=np.float32)
            mean = change.apply(np.tile(true, (400, 1)), world, table, rng).mean(axis=0)
            order.append((mean.argmax() == true.argmax()) or mean[true.argmax()] > 0.9 * mean.max())
    assert np.mean(order) > 0.95


def test_without_colours_a_camera_may_give_brightness_as_intensity():
    frames, rng = [camera_frame()], np.random.default_rng(0)
    colorless = Augmentation(np.eye(4), color=None)
    assert not colorless.colors_tell
    out = colorless.apply(frames, rng)[0]
    assert out.frame.colors is None and out.frame.intensity is None
    out = replace(colorless, brightness_as_intensity=True).apply(frames, rng)[0]
    assert out.frame.intensity[out.instance == 1].mean() > out.frame.intensity[out.instance == 2].mean()


def test_a_close_view_shows_the_surroundings_of_one_object():
    frames, rng = [camera_frame(n) for n in range(3)], np.random.default_rng(1)
    out = Augmentation(np.eye(4), sensor=SensorChange(close_m=0.4)).apply(frames, rng)
    for after in out:
        assert len(after.frame) > 0
        assert np.ptp(placed(after), axis=0).max() < 0.81
