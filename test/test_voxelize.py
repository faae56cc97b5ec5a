"""Voxelisation: what each feature means, exact independence of point order, and the cap on voxels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from psg4d_ros.config import CoordinatesConfig, WindowConfig
from psg4d_ros.runtime.rulebook import build_rulebook
from psg4d_ros.structures import AlignedFrame, PointFrame, VoxelGrid
from psg4d_ros.transforms import GravityAligner
from psg4d_ros.voxelize import FEATURE_NAMES, MAX_COORD, squash_intensity, voxelize
from psg4d_ros.window import SlidingWindow

ZERO = np.zeros(3)
COLUMN = {name: i for i, name in enumerate(FEATURE_NAMES)}


def frame_of(
    points: np.ndarray,
    colors: np.ndarray | None = None,
    intensity: np.ndarray | None = None,
    sensor: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> AlignedFrame:
    xyz = np.asarray(points, np.float32).reshape(-1, 3)
    frame = PointFrame(xyz, colors, intensity, np.arange(len(xyz)), 0, "lidar")
    T = np.eye(4)
    T[:3, 3] = sensor
    return AlignedFrame(frame, xyz, T, "parameter", "lidar", np.eye(4))


def grid_of(frame: AlignedFrame, origin: np.ndarray = ZERO, size: float = 0.1, most: int = 10_000) -> VoxelGrid:
    return voxelize(frame, origin, size, most, "cpu")


def random_scene(seed: int, count: int = 500) -> AlignedFrame:
    rng = np.random.default_rng(seed)
    return frame_of(
        rng.normal(0, 1, (count, 3)),
        rng.integers(0, 256, (count, 3), dtype=np.uint8),
        rng.gamma(1.0, 100.0, count).astype(np.float32),
    )


def test_every_feature_of_a_hand_made_voxel() -> None:
    points = np.array([[0.02, 0.06, -0.03], [0.04, 0.08, -0.05]])
    colors = np.array([[255, 0, 0], [0, 0, 51]], np.uint8)
    intensity = np.array([10.0, 30.0], np.float32)
    grid = grid_of(frame_of(points, colors, intensity), np.array([0.0, 0.0, -1.0]))
    assert grid.coords.tolist() == [[0, 0, 9]]
    expected = {
        "offset_x": -0.2,
        "offset_y": 0.2,
        "offset_z": 0.1,  # mean height 0.96 above the origin, voxel 9 spans 0.9 to 1.0
        "height_m": 0.96,
        "red": 0.5,
        "green": 0.0,
        "blue": 0.1,
        "has_color": 1.0,
        "intensity": (10 / 30 + 30 / 50) / 2,  # median 20
        "has_intensity": 1.0,
        "log_points": np.log(3.0),
    }
    assert tuple(expected) == FEATURE_NAMES
    assert grid.features[0].tolist() == pytest.approx(list(expected.values()), abs=1e-5)
    assert grid.centers[0].tolist() == pytest.approx([0.03, 0.07, 0.96], abs=1e-5)


def test_without_colour_and_intensity_the_flags_say_so() -> None:
    features = grid_of(frame_of(np.random.default_rng(0).normal(size=(50, 3)))).features
    for name in ("red", "green", "blue", "has_color", "intensity", "has_intensity"):
        assert not features[:, COLUMN[name]].any(), name


def test_an_empty_frame_gives_empty_tensors() -> None:
    grid = grid_of(frame_of(np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros(0, np.float32)))
    assert grid.coords.shape == (0, 3) and grid.coords.dtype == torch.int32
    assert grid.features.shape == (0, len(FEATURE_NAMES)) and grid.features.dtype == torch.float32
    assert grid.centers.shape == (0, 3) and grid.point_voxel.shape == (0,)
    assert not grid.truncated


def test_one_point_is_one_voxel() -> None:
    grid = grid_of(frame_of(np.array([[-0.01, 0.0, 0.19]])))
    assert grid.coords.tolist() == [[-1, 0, 1]] and grid.point_voxel.tolist() == [0]
    assert grid.features[0, COLUMN["log_points"]].item() == pytest.approx(np.log(2))


@given(st.integers(0, 1000))
def test_voxels_are_unique_sorted_and_hold_the_points_they_claim(seed: int) -> None:
    frame = random_scene(seed)
    origin = np.array([1.0, -2.0, 0.35])
    grid = grid_of(frame, origin)
    rows = grid.coords.tolist()
    assert rows == sorted(rows) and len({tuple(r) for r in rows}) == len(rows)
    cells = np.floor((frame.points.astype(np.float64) - origin) / 0.1)
    assert np.array_equal(grid.coords[grid.point_voxel].numpy(), cells)
    sums = np.zeros((len(rows), 3))
    np.add.at(sums, grid.point_voxel.numpy(), frame.points - origin)
    count = np.bincount(grid.point_voxel.numpy())
    np.testing.assert_allclose(grid.centers.numpy(), sums / count[:, None], atol=1e-5)
    assert (grid.features[:, :3].abs() <= 0.5).all()


@given(st.integers(0, 1000))
def test_the_grid_does_not_depend_on_the_order_of_the_points(seed: int) -> None:
    frame = random_scene(seed)
    order = np.random.default_rng(seed + 1).permutation(len(frame.points))
    assert frame.frame.colors is not None and frame.frame.intensity is not None
    shuffled = frame_of(frame.points[order], frame.frame.colors[order], frame.frame.intensity[order])
    for most in (10_000, 100):
        a, b = grid_of(frame, most=most), grid_of(shuffled, most=most)
        assert torch.equal(a.coords, b.coords) and torch.equal(a.features, b.features)  # to the last bit
        assert torch.equal(a.point_voxel[torch.from_numpy(order)], b.point_voxel)


def test_moving_scene_and_origin_together_changes_nothing() -> None:
    points = np.round(np.random.default_rng(3).uniform(-2, 2, (300, 3)) * 64) / 64  # exact in float32 after the move
    move = np.array([8.0, -4.0, 2.0])
    here, there = grid_of(frame_of(points), size=0.125), grid_of(frame_of(points + move), move, size=0.125)
    assert torch.equal(here.features, there.features) and torch.equal(here.coords, there.coords)


def test_over_the_cap_the_voxels_nearest_to_the_sensor_stay() -> None:
    points = np.c_[np.arange(100) * 0.1 + 0.05, np.full(100, 0.05), np.full(100, 0.05)]
    grid = grid_of(frame_of(points, sensor=(7.05, 0.05, 0.05)), most=11)
    assert grid.truncated
    assert grid.coords[:, 0].tolist() == list(range(65, 76))
    assert grid.point_voxel.tolist() == [-1] * 65 + list(range(11)) + [-1] * 24
    assert len(grid.features) == len(grid.centers) == 11


def test_exactly_at_the_cap_nothing_is_cut() -> None:
    points = np.c_[np.arange(10) * 0.1 + 0.05, np.zeros(10), np.zeros(10)]
    grid = grid_of(frame_of(points), most=10)
    assert not grid.truncated and (grid.point_voxel >= 0).all()


def test_points_beyond_all_reason_are_cut_and_said_to_be() -> None:
    grid = grid_of(frame_of(np.array([[3e38, 0, 0], [0.05, 0.05, 0.05], [0, -1e6, 0]])))
    assert grid.truncated and grid.point_voxel.tolist() == [-1, 0, -1]
    assert int(grid.coords.abs().max()) <= MAX_COORD
    assert torch.isfinite(grid.features).all()


@given(st.floats(1e-3, 1e5), st.integers(0, 100))
def test_intensity_does_not_depend_on_the_sensors_unit(unit: float, seed: int) -> None:
    raw = np.random.default_rng(seed).gamma(1.0, 1.0, 200).astype(np.float32)
    np.testing.assert_allclose(squash_intensity((raw * unit).astype(np.float32)), squash_intensity(raw), atol=1e-4)


def test_odd_intensities_stay_in_zero_to_one() -> None:
    raw = np.array([np.nan, np.inf, -np.inf, -5.0, 0.0, 1e-30, 3e38, 100.0], np.float32)
    squashed = squash_intensity(raw)
    assert np.isfinite(squashed).all() and squashed.min() == 0.0 and squashed.max() <= 1.0
    assert squash_intensity(np.zeros(3, np.float32)).tolist() == [0, 0, 0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_and_cpu_agree_to_the_last_bit() -> None:
    frame = random_scene(5, 20_000)
    for most in (100_000, 500):
        here, there = voxelize(frame, ZERO, 0.05, most, "cpu"), voxelize(frame, ZERO, 0.05, most, "cuda")
        for name in ("coords", "features", "centers", "point_voxel"):
            assert torch.equal(getattr(here, name), getattr(there, name).cpu()), name


@pytest.mark.parametrize("count", [0, 1])
def test_no_point_and_one_point_pass_from_the_cloud_to_the_tables(count: int) -> None:
    cloud = PointFrame(np.full((count, 3), 1.5, np.float32), None, None, np.arange(count), 5, "lidar")
    window = SlidingWindow(WindowConfig())
    assert window.admit(cloud.stamp_ns).kept
    result = window.push(GravityAligner(CoordinatesConfig()).align(cloud))
    assert result is not None
    grid = voxelize(result.newest, result.origin, 0.05, 100, "cpu")
    levels = build_rulebook(grid.coords, 4).levels
    assert [len(level.coords) for level in levels] == [count] * 4
    assert torch.isfinite(grid.features).all() and (grid.features[:, COLUMN["height_m"]] == 0.0).all()
