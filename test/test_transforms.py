"""Transform buffer and alignment: chains, interpolation, age; sources of gravity; the fault matrix's TF rows."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation, Slerp

from psg4d_ros.config import CoordinatesConfig
from psg4d_ros.errors import ConfigError, TransformError
from psg4d_ros.structures import Float64, PointFrame
from psg4d_ros.transforms import (
    GravityAligner,
    TransformBuffer,
    invert_rigid,
    rigid,
    slerp,
    transform_points,
)

S = 1_000_000_000
START = 1_700_000_000 * S
UPRIGHT = (0.0, 0.0, 0.0, 1.0)


def yaw(degrees: float) -> tuple[float, ...]:
    return tuple(Rotation.from_euler("z", degrees, degrees=True).as_quat())


def frame_of(points: object, frame_id: str = "lidar", stamp_ns: int = START) -> PointFrame:
    xyz = np.asarray(points, np.float32).reshape(-1, 3)
    return PointFrame(xyz, None, None, np.arange(len(xyz)), stamp_ns, frame_id)


def moved(T: Float64, point: tuple[float, float, float]) -> list[float]:
    return list((T @ [*point, 1.0])[:3])


# The buffer


def test_a_chain_through_a_common_ancestor() -> None:
    buffer = TransformBuffer()
    buffer.set_transform("odom", "base", START, (10, 0, 0), yaw(90))
    buffer.set_transform("base", "lidar", 0, (1, 0, 2), UPRIGHT, static=True)
    buffer.set_transform("odom", "marker", 0, (0, 5, 0), UPRIGHT, static=True)
    T, age = buffer.lookup("marker", "lidar", START)
    assert age == 0
    assert moved(T, (1, 0, 0)) == pytest.approx([10, -3, 2])  # 2 m ahead of a base that looks along y
    back, _ = buffer.lookup("lidar", "marker", START)
    np.testing.assert_allclose(back @ T, np.eye(4), atol=1e-12)


def test_between_two_stamps_it_interpolates_translation_and_the_shorter_rotation() -> None:
    buffer = TransformBuffer()
    buffer.set_transform("odom", "base", START, (0, 0, 0), yaw(170))
    buffer.set_transform("odom", "base", START + S, (4, 0, 0), yaw(-170))
    T, age = buffer.lookup("odom", "base", START + S // 2)
    assert age == 0
    assert moved(T, (1, 0, 0)) == pytest.approx([1, 0, 0])  # 180 degrees: the short way round, not through 0


def test_past_the_newest_stamp_it_holds_and_says_how_old() -> None:
    buffer = TransformBuffer()
    buffer.set_transform("odom", "base", START, (1, 2, 3), UPRIGHT)
    buffer.set_transform("base", "head", START + S, (0, 0, 1), UPRIGHT)
    T, age = buffer.lookup("odom", "head", START + 3 * S)
    assert moved(T, (0, 0, 0)) == [1, 2, 4]
    assert age == 3 * S, "a chain is as old as its oldest link"


def test_static_transforms_hold_at_any_time() -> None:
    buffer = TransformBuffer()
    buffer.set_transform("base", "lidar", START, (1, 0, 0), UPRIGHT, static=True)
    for stamp in (0, START - 1, START + 10**6 * S):
        assert buffer.lookup("base", "lidar", stamp)[1] == 0


def test_before_the_history_there_is_no_transform() -> None:
    """The first transform comes from the future: nothing may be extrapolated backwards."""
    buffer = TransformBuffer()
    buffer.set_transform("odom", "base", START + S, (0, 0, 0), UPRIGHT)
    with pytest.raises(TransformError, match=r"odom <- base is known from 1700000001\.000 s on"):
        buffer.lookup("odom", "base", START)


def test_an_unknown_frame_is_named_together_with_the_known_ones() -> None:
    buffer = TransformBuffer()
    with pytest.raises(TransformError, match="known frames: none"):
        buffer.lookup("map", "lidar", START)
    buffer.set_transform("odom", "base", START, (0, 0, 0), UPRIGHT)
    with pytest.raises(TransformError, match=r"map <- base: frame 'map' unknown; known frames: base, odom"):
        buffer.lookup("map", "base", START)
    buffer.set_transform("map", "marker", START, (0, 0, 0), UPRIGHT)
    with pytest.raises(TransformError, match="not connected"):
        buffer.lookup("map", "base", START)


def test_a_frame_in_itself_needs_no_transforms() -> None:
    T, age = TransformBuffer().lookup("lidar", "/lidar", START)
    assert np.array_equal(T, np.eye(4)) and age == 0


def test_transforms_may_arrive_out_of_order_and_twice() -> None:
    buffer = TransformBuffer()
    for ms in (0, 200, 100, 100):
        buffer.set_transform("odom", "base", START + ms * 1_000_000, (ms / 100, 0, 0), UPRIGHT)
    for ms in (0, 50, 100, 150, 200):
        T, age = buffer.lookup("odom", "base", START + ms * 1_000_000)
        assert moved(T, (0, 0, 0)) == pytest.approx([ms / 100, 0, 0]) and age == 0


def test_history_is_bounded() -> None:
    buffer = TransformBuffer(cache_s=1.0)
    for i in range(100):
        buffer.set_transform("odom", "base", START + i * S // 10, (i, 0, 0), UPRIGHT)
    assert moved(buffer.lookup("odom", "base", START + 89 * S // 10)[0], (0, 0, 0)) == [89, 0, 0]
    with pytest.raises(TransformError, match="known from"):
        buffer.lookup("odom", "base", START + 88 * S // 10)


def test_a_bag_that_loops_clears_the_history_of_the_frame_that_jumped() -> None:
    buffer = TransformBuffer()
    buffer.set_transform("base", "lidar", 0, (0, 0, 1), UPRIGHT, static=True)
    for i in range(50):
        buffer.set_transform("odom", "base", START + i * S // 10, (i, 0, 0), UPRIGHT)
    buffer.set_transform("odom", "base", START, (-7, 0, 0), UPRIGHT)
    T, age = buffer.lookup("odom", "lidar", START + S // 10)
    assert moved(T, (0, 0, 0)) == [-7, 0, 1] and age == S // 10, "nothing of the turn before is mixed in"


def test_a_frame_that_moves_to_another_parent_leaves_the_old_one() -> None:
    buffer = TransformBuffer()
    buffer.set_transform("table", "cup", START, (1, 0, 0), UPRIGHT)
    buffer.set_transform("hand", "cup", START + S, (0, 0, 1), UPRIGHT)
    assert moved(buffer.lookup("hand", "cup", START + S)[0], (0, 0, 0)) == [0, 0, 1]
    with pytest.raises(TransformError):
        buffer.lookup("table", "cup", START + S)


def test_clear_forgets_everything() -> None:
    buffer = TransformBuffer()
    buffer.set_transform("odom", "base", START, (0, 0, 0), UPRIGHT, static=True)
    buffer.clear()
    with pytest.raises(TransformError, match="known frames: none"):
        buffer.lookup("odom", "base", START)


def test_a_loop_of_frames_is_an_error_and_no_hang() -> None:
    buffer = TransformBuffer()
    buffer.set_transform("a", "b", START, (0, 0, 0), UPRIGHT)
    buffer.set_transform("b", "a", START, (0, 0, 0), UPRIGHT)
    with pytest.raises(TransformError, match="loop"):
        buffer.lookup("map", "a", START)


@pytest.mark.parametrize(
    ("parent", "child", "translation", "quaternion", "says"),
    [
        ("", "base", (0, 0, 0), UPRIGHT, "non-empty"),
        ("base", "/base", (0, 0, 0), UPRIGHT, "different"),
        ("odom", "base", (np.nan, 0, 0), UPRIGHT, "finite"),
        ("odom", "base", (0, 0), UPRIGHT, "3 and 4"),
        ("odom", "base", (0, 0, 0), (0, 0, 0, 0), "length 0"),
        ("odom", "base", (0, 0, 0), (0, 0, 0, 1.5), "length 1.5"),
    ],
)
def test_bad_transforms_are_refused(
    parent: str, child: str, translation: object, quaternion: object, says: str
) -> None:
    with pytest.raises(TransformError, match=says):
        TransformBuffer().set_transform(parent, child, START, translation, quaternion)  # type: ignore[arg-type]


def test_writers_and_readers_in_several_threads() -> None:
    buffer = TransformBuffer(cache_s=0.5)
    buffer.set_transform("odom", "base", START, (0, 0, 0), UPRIGHT)
    failures: list[BaseException] = []

    def write() -> None:
        for i in range(2000):
            buffer.set_transform("odom", "base", START + i * 1_000_000, (i, 0, 0), UPRIGHT)

    def read() -> None:
        try:
            for _ in range(2000):
                buffer.lookup("odom", "base", START + 10 * S)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for work in (write, read, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


rotations = st.integers(0, 10_000).map(lambda seed: Rotation.random(rng=np.random.default_rng(seed)))


@given(rotations, rotations, st.floats(0, 1))
def test_slerp_agrees_with_scipy(first: Rotation, second: Rotation, s: float) -> None:
    expected = Slerp([0, 1], Rotation.concatenate([first, second]))(s)
    ours = Rotation.from_quat(slerp(first.as_quat(), second.as_quat(), s))
    assert (ours.inv() * expected).magnitude() < 1e-6


@given(rotations, st.lists(st.floats(-100, 100), min_size=3, max_size=3))
def test_rigid_and_its_inverse_agree_with_scipy(rotation: Rotation, translation: list[float]) -> None:
    T = rigid(np.array(translation), rotation.as_quat())
    np.testing.assert_allclose(T[:3, :3], rotation.as_matrix(), atol=1e-12)
    np.testing.assert_allclose(invert_rigid(T) @ T, np.eye(4), atol=1e-10)


def test_moving_points_never_makes_them_infinite() -> None:
    T = rigid(np.zeros(3), Rotation.from_euler("z", 45, degrees=True).as_quat())
    assert np.isfinite(transform_points(T, np.full((2, 3), 3.4e38, np.float32))).all()


# The aligner


def tf_buffer() -> TransformBuffer:
    buffer = TransformBuffer()
    buffer.set_transform("odom", "lidar", START, (0, 0, 1), yaw(90))
    return buffer


def test_target_frame_is_served_by_tf_before_anything_else() -> None:
    config = CoordinatesConfig(target_frame="odom", T_gravity_sensor=tuple(np.diag([-1.0, -1, 1, 1]).ravel()))
    out = GravityAligner(config, tf_buffer()).align(frame_of([1, 0, 0]))
    assert (out.alignment, out.graph_frame_id, out.stale_tf) == ("tf", "odom", False)
    assert out.points[0].tolist() == pytest.approx([0, 1, 1])
    assert np.array_equal(out.T_graph_core, np.eye(4))


def test_a_late_transform_stands_in_for_a_while_and_says_so() -> None:
    aligner = GravityAligner(CoordinatesConfig(target_frame="odom", tf_max_age_s=0.5), tf_buffer())
    assert aligner.align(frame_of([1, 0, 0], stamp_ns=START + S // 2)).stale_tf
    with pytest.raises(
        TransformError, match=r"0\.501 s older than the cloud, expected at most tf_max_age_s = 0\.500 s"
    ):
        aligner.align(frame_of([1, 0, 0], stamp_ns=START + 501_000_000))


def test_a_missing_transform_is_an_error_that_names_the_frames() -> None:
    aligner = GravityAligner(CoordinatesConfig(target_frame="map"), tf_buffer())
    with pytest.raises(TransformError, match="'map' unknown"):
        aligner.align(frame_of([1, 0, 0]))


def test_transforms_only_from_the_future_are_an_error() -> None:
    aligner = GravityAligner(CoordinatesConfig(target_frame="odom"), tf_buffer())
    with pytest.raises(TransformError, match="known from"):
        aligner.align(frame_of([1, 0, 0], stamp_ns=START - 1))


def test_clouds_already_in_the_target_frame_need_no_transform() -> None:
    out = GravityAligner(CoordinatesConfig(target_frame="map"), TransformBuffer()).align(frame_of([1, 2, 3], "map"))
    assert out.alignment == "tf" and out.points.tolist() == [[1, 2, 3]]


def test_a_target_frame_without_transforms_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="target_frame is 'odom'"):
        GravityAligner(CoordinatesConfig(target_frame="odom"), None)


def test_the_parameter_comes_before_the_optical_convention() -> None:
    T = rigid(np.array([0.0, 0.0, 1.5]), Rotation.from_euler("y", 20, degrees=True).as_quat())
    config = CoordinatesConfig(T_gravity_sensor=tuple(float(v) for v in T.ravel()))
    out = GravityAligner(config).align(frame_of([[1, 2, 3], [0, 0, 0]], "camera_optical_frame"))
    assert (out.alignment, out.graph_frame_id) == ("parameter", "camera_optical_frame")
    assert out.points[1].tolist() == pytest.approx([0, 0, 1.5])
    np.testing.assert_allclose(out.T_graph_core @ T, np.eye(4), atol=1e-12)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ((1.0, 0.0), "2 numbers, expected 16"),
        (tuple(np.diag([2.0, 1, 1, 1]).ravel()), "orthonormal"),
        (tuple(np.diag([-1.0, 1, 1, 1]).ravel()), "determinant"),
        (tuple(np.full(16, np.nan)), "finite"),
        (tuple(np.ones(16)), "last row"),
    ],
)
def test_a_parameter_that_is_no_rigid_transform_is_refused(values: tuple[float, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        GravityAligner(CoordinatesConfig(T_gravity_sensor=values))


def test_optical_frames_turn_to_x_forward_y_left_z_up() -> None:
    right, down, forward = np.eye(3)
    out = GravityAligner(CoordinatesConfig()).align(frame_of([right, down, forward], "head_camera_rgb_optical_frame"))
    assert out.alignment == "optical" and out.graph_frame_id == "head_camera_rgb_optical_frame"
    assert out.points.tolist() == [[0, -1, 0], [0, 0, -1], [1, 0, 0]]
    back = transform_points(out.T_graph_core, out.points)
    np.testing.assert_allclose(back, out.frame.points, atol=1e-6)
