"""The floor of a cloud as the source of gravity: where it is found, and what must not be taken for it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from psg4d_ros.cloud import frame_from_cloud
from psg4d_ros.config import CoordinatesConfig
from psg4d_ros.data.bag import open_bag
from psg4d_ros.floor import camera_floor_transform, floor_transform
from psg4d_ros.structures import Float32, Float64, PointFrame
from psg4d_ros.transforms import R_BODY_OPTICAL, GravityAligner, TransformBuffer

START = 1_700_000_000_000_000_000


def frame_of(points: object, frame_id: str = "lidar", stamp_ns: int = START) -> PointFrame:
    xyz = np.asarray(points, np.float32).reshape(-1, 3)
    return PointFrame(xyz, None, None, np.arange(len(xyz)), stamp_ns, frame_id)


def room(count: int = 6000, seed: int = 0, noise_m: float = 0.01) -> np.ndarray:
    """Points of a room seen from inside, z up, floor at 0: floor, two walls, a table, boxes, noise, a few strays."""
    rng = np.random.default_rng(seed)

    def patch(n: int, low: tuple[float, ...], high: tuple[float, ...]) -> np.ndarray:
        return rng.uniform(low, high, (n, 3))

    parts = [
        patch(count * 4 // 10, (0.5, -3, 0), (6, 3, 0)),
        patch(count * 3 // 10, (6, -3, 0), (6, 3, 2.5)),
        patch(count // 10, (0.5, 3, 0), (6, 3, 2.5)),
        patch(count // 10, (2, -1, 0.75), (3.5, 0.5, 0.75)),
        patch(count // 10, (3, 1, 0), (4, 2, 1.2)),
    ]
    points = np.concatenate(parts)
    points = points + rng.normal(0, noise_m, points.shape)
    strays = patch(count // 200, (0, -3, -2), (6, 3, -0.5))
    return np.concatenate([points, strays])


def seen_from(points: np.ndarray, rotation: Rotation, height: float) -> np.ndarray:
    """The room's points in the frame of a sensor at (0, 0, height) with the given orientation."""
    return (rotation.inv().apply(points - [0, 0, height])).astype(np.float32)


OPTICAL = Rotation.from_matrix([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])


@pytest.mark.parametrize("convention", ["body", "optical"])
@pytest.mark.parametrize(("pitch", "roll"), [(0, 0), (30, 0), (-15, 10), (55, -5)])
def test_the_floor_becomes_level_and_zero_whatever_the_tilt(convention: str, pitch: float, roll: float) -> None:
    rotation = Rotation.from_euler("YX", [pitch, roll], degrees=True)  # looks down, then rolls about its axis
    if convention == "optical":
        rotation = rotation * OPTICAL
    points = room()
    T = floor_transform(seen_from(points, rotation, 1.3))
    assert T is not None
    up = T[:3, :3] @ rotation.inv().apply([0, 0, 1])
    assert np.degrees(np.arccos(up[2])) < 0.5
    assert T[2, 3] == pytest.approx(1.3, abs=0.02), "the sensor's height above the floor"
    heading = T[:3, :3] @ rotation.inv().apply([1, 0, 0])
    assert abs(np.degrees(np.arctan2(heading[1], heading[0]))) < 0.5, "x stays the sensor's forward direction"
    np.testing.assert_allclose(T[:3, :3] @ T[:3, :3].T, np.eye(3), atol=1e-9)
    assert np.linalg.det(T[:3, :3]) == pytest.approx(1.0)


def test_a_large_table_is_not_the_floor_when_the_floor_is_seen_under_it() -> None:
    rng = np.random.default_rng(0)
    table = np.c_[rng.uniform((1, -2), (5, 2), (6000, 2)), np.full(6000, 0.75)]
    floor = np.c_[rng.uniform((0.5, -3), (2, 3), (1500, 2)), np.zeros(1500)]
    T = floor_transform(seen_from(np.concatenate([table, floor]), Rotation.identity(), 1.5))
    assert T is not None and T[2, 3] == pytest.approx(1.5, abs=0.02)


def test_the_left_wall_of_a_corridor_is_not_the_floor_of_an_optical_frame() -> None:
    rng = np.random.default_rng(0)
    floor = np.c_[rng.uniform((-10, -1), (10, 1), (3000, 2)), np.full(3000, -0.8)]
    walls = [np.c_[rng.uniform(-10, 10, 6000), np.full(6000, y), rng.uniform(-0.8, 2, 6000)] for y in (-1, 1)]
    T = floor_transform(np.concatenate([floor, *walls]).astype(np.float32))
    assert T is not None and np.degrees(np.arccos(T[2, 2])) < 0.5 and T[2, 3] == pytest.approx(0.8, abs=0.02)


def test_a_wall_in_front_of_an_optical_frame_is_not_the_floor_of_a_body_frame() -> None:
    wall = np.c_[np.random.default_rng(0).uniform(-2, 2, (3000, 2)), np.full(3000, 2.0)]
    assert floor_transform(wall.astype(np.float32)) is None


def test_the_same_cloud_gives_the_same_floor() -> None:
    points = seen_from(room(), Rotation.identity(), 1.0)
    first, second = floor_transform(points), floor_transform(points)
    assert first is not None and second is not None and np.array_equal(first, second)


@pytest.mark.parametrize("scene", ["wall", "ceiling", "ball", "line", "same point"])
def test_where_no_floor_is_seen_none_is_made_up(scene: str) -> None:
    rng = np.random.default_rng(0)
    points = {
        "wall": np.c_[np.full(2000, 4.0), rng.uniform(-2, 2, 2000), rng.uniform(-1, 2, 2000)],
        "ceiling": np.c_[rng.uniform(-2, 2, (2000, 2)), np.full(2000, 2.0)],
        "ball": rng.normal(0, 1, (2000, 3)),
        "line": np.c_[np.linspace(0, 50, 2000), np.zeros(2000), np.zeros(2000)],
        "same point": np.ones((2000, 3)),
    }[scene]
    assert floor_transform(points.astype(np.float32)) is None


def test_the_first_cloud_with_enough_points_fixes_the_floor_of_the_epoch() -> None:
    aligner = GravityAligner(CoordinatesConfig())
    level, tilted = (seen_from(room(), Rotation.from_euler("y", p, degrees=True), 1.0) for p in (0, 20))
    empty, few = aligner.align(frame_of([])), aligner.align(frame_of([1, 2, 3]))
    assert (empty.alignment, few.alignment) == ("identity", "identity")
    first = aligner.align(frame_of(level))
    assert first.alignment == "floor" and first.graph_frame_id == "lidar"
    np.testing.assert_allclose(first.T_graph_core @ first.T_core_sensor, np.eye(4), atol=1e-12)
    second = aligner.align(frame_of(tilted))
    assert np.array_equal(second.T_core_sensor, first.T_core_sensor)
    assert aligner.align(frame_of([])).alignment == "floor", "later clouds keep it, however few their points"
    aligner.reset()
    third = aligner.align(frame_of(tilted))
    assert third.alignment == "floor" and not np.allclose(third.T_core_sensor, first.T_core_sensor, atol=0.1)


def test_identity_is_kept_for_the_epoch_when_its_first_cloud_shows_no_floor() -> None:
    aligner = GravityAligner(CoordinatesConfig())
    wall = np.c_[np.full(500, 4.0), np.random.default_rng(0).uniform(-2, 2, (500, 2))]
    assert aligner.align(frame_of(wall)).alignment == "identity"
    assert aligner.align(frame_of(seen_from(room(), Rotation.identity(), 1.0))).alignment == "identity"


def test_two_sensors_on_one_topic_have_a_floor_each() -> None:
    aligner = GravityAligner(CoordinatesConfig())
    low = aligner.align(frame_of(seen_from(room(), Rotation.identity(), 0.5), "low"))
    high = aligner.align(frame_of(seen_from(room(), Rotation.identity(), 1.5), "high"))
    assert low.T_core_sensor[2, 3] == pytest.approx(0.5, abs=0.02)
    assert high.T_core_sensor[2, 3] == pytest.approx(1.5, abs=0.02)


def test_absurd_coordinates_do_not_break_the_floor() -> None:
    points = np.concatenate([seen_from(room(), Rotation.identity(), 1.0), np.full((5, 3), 3e38, np.float32)])
    T = floor_transform(points)
    assert T is not None and T[2, 3] == pytest.approx(1.0, abs=0.02)


# Cameras, whose optical convention the floor corrects


OPTICAL_FRAME = "camera_optical_frame"


def looking_down(pitch: float) -> Float32:
    return seen_from(room(), Rotation.from_euler("y", pitch, degrees=True) * OPTICAL, 1.3)


def wall(rotation: Rotation, distance: float = 1.2) -> Float32:
    """A wall ahead that fills the view."""
    flat = np.c_[np.full(3000, distance), np.random.default_rng(0).uniform(-1.5, 1.5, (3000, 2))]
    return seen_from(flat, rotation * OPTICAL, 0.0)


@pytest.mark.parametrize("pitch", [0, 20, 45, 55])
def test_a_clear_floor_corrects_the_optical_convention(pitch: float) -> None:
    out = GravityAligner(CoordinatesConfig()).align(frame_of(looking_down(pitch), OPTICAL_FRAME))
    assert (out.alignment, out.graph_frame_id) == ("floor", OPTICAL_FRAME)
    assert degrees_off(out.T_core_sensor, pitch) < 0.5
    assert out.T_core_sensor[2, 3] == pytest.approx(1.3, abs=0.02)


def degrees_off(T_core_sensor: Float64, pitch: float) -> float:
    """Angle between the core's z and the true up of a camera pitched down by ``pitch`` degrees."""
    up = (Rotation.from_euler("y", pitch, degrees=True) * OPTICAL).inv().apply([0, 0, 1])
    return float(np.degrees(np.arccos(np.clip(T_core_sensor[2, :3] @ up, -1, 1))))


def test_the_convention_stands_for_the_epoch_whose_first_cloud_shows_no_clear_floor() -> None:
    aligner = GravityAligner(CoordinatesConfig())
    assert aligner.align(frame_of([1, 2, 3], OPTICAL_FRAME)).alignment == "optical"
    first = aligner.align(frame_of(wall(Rotation.identity()), OPTICAL_FRAME))
    later = aligner.align(frame_of(looking_down(20), OPTICAL_FRAME))
    assert (first.alignment, later.alignment) == ("optical", "optical")
    assert np.array_equal(first.T_core_sensor[:3, :3], R_BODY_OPTICAL)
    assert np.array_equal(first.T_core_sensor, later.T_core_sensor)
    aligner.reset()
    assert aligner.align(frame_of(looking_down(20), OPTICAL_FRAME)).alignment == "floor"


def test_too_few_points_leave_the_question_open() -> None:
    aligner = GravityAligner(CoordinatesConfig())
    assert aligner.align(frame_of(looking_down(20)[:50], OPTICAL_FRAME)).alignment == "optical"
    assert aligner.align(frame_of(looking_down(20), OPTICAL_FRAME)).alignment == "floor"


@pytest.mark.parametrize("pitch", [-20, 0, 20, 45])
def test_a_wall_that_fills_the_view_is_not_the_floor(pitch: float) -> None:
    """Looking up at it by more than 90 degrees - MAX_TILT it could not be told from a floor: the documented limit."""
    assert camera_floor_transform(wall(Rotation.from_euler("y", pitch, degrees=True))) is None


@pytest.mark.parametrize("pitch", [45, 55])
def test_a_table_that_fills_the_view_is_not_the_floor(pitch: float) -> None:
    table = np.c_[np.random.default_rng(0).uniform((0.1, -0.7), (0.95, 0.7), (4000, 2)), np.zeros(4000)]
    cloud = seen_from(table, Rotation.from_euler("y", pitch, degrees=True) * OPTICAL, 0.5)
    assert floor_transform(cloud) is not None, "the plane is there, and level; it is only too small to be sure of"
    assert camera_floor_transform(cloud) is None


def test_stairs_are_no_floor() -> None:
    """A plane laid across their edges gathers enough points, but they do not lie flat in it."""
    rng = np.random.default_rng(0)
    treads = [
        np.c_[rng.uniform((1 + 0.3 * i, -1), (1.3 + 0.3 * i, 1), (600, 2)), np.full(600, 0.1 * i)] for i in range(8)
    ]
    cloud = seen_from(np.concatenate(treads), Rotation.from_euler("y", 30, degrees=True) * OPTICAL, 1.2)
    assert camera_floor_transform(cloud) is None


def test_a_camera_that_lies_on_its_side_keeps_the_convention() -> None:
    rolled = Rotation.from_euler("YX", [20, 40], degrees=True) * OPTICAL
    assert camera_floor_transform(seen_from(room(), rolled, 1.3)) is None


def test_the_floor_of_the_real_kinect_is_the_one_its_transforms_name(kinect_bag) -> None:
    """Its camera looks down by 46 degrees."""
    transforms = TransformBuffer()
    with open_bag(kinect_bag) as bag:
        message, _ = next(iter(bag.clouds(None, transforms=transforms)))
    frame = frame_from_cloud(message)
    out = GravityAligner(CoordinatesConfig()).align(frame)
    T_odom_camera, _ = transforms.lookup("odom", frame.frame_id, frame.stamp_ns)
    assert out.alignment == "floor"
    assert np.degrees(np.arccos(out.T_core_sensor[2, :3] @ T_odom_camera[2, :3])) < 0.5
    assert out.T_core_sensor[2, 3] == pytest.approx(T_odom_camera[2, 3], abs=0.02)


def test_simulated_views_of_rooms_tables_and_walls() -> None:
    """Whatever is in view: where a camera's floor is found at all, up is right, and it is the floor."""
    pytest.importorskip("embreex", reason="the simulator needs embreex, which has no wheel for this platform")
    views = simulated_views()
    found = {kind: 0 for kind, *_ in views}
    for kind, cloud, up, height in views:
        T = camera_floor_transform(cloud)
        if T is not None:
            found[kind] += 1
            assert np.degrees(np.arccos(np.clip(T[2, :3] @ up, -1, 1))) < 3.0, kind
            assert T[2, 3] == pytest.approx(height, abs=0.1), kind
    assert found["wall"] == 0 and found["table"] == 0
    assert found["room 20"] >= 2 and found["room 45"] >= 8 and found["room 55"] >= 8, "of 12 each"


def simulated_views() -> list[tuple[str, Float32, Float64, float]]:
    """(what is looked at, points in the optical frame, true up there, height of the camera over the floor)."""
    from psg4d_ros.data.simulation.capture import sample_steps
    from psg4d_ros.data.simulation.director import perform
    from psg4d_ros.data.simulation.furnishing import make_world
    from psg4d_ros.data.simulation.noise import lost_share, measure_depth
    from psg4d_ros.data.simulation.render import Renderer, turned
    from psg4d_ros.data.simulation.sensors import DepthCamera, scan_points
    from psg4d_ros.data.simulation.splits import SPLITS, scene_seed

    camera, steps, views = DepthCamera(fov_deg=60.0), sample_steps(1, 4.0), []
    for index in (3, 8):
        streams = [np.random.default_rng(s) for s in scene_seed(SPLITS["val"], 77, index).spawn(3)]
        world = make_world(streams[0], name="views", words=SPLITS["val"].words)
        timeline = perform(world, streams[1], duration_s=0.05)
        renderer, lost = Renderer(timeline, steps), lost_share(world)
        looks: list[tuple[str, tuple[float, float, float], float, float]] = []  # what at, from where, yaw, pitch
        for place in world.rooms:
            x, y = (place.x0 + place.x1) / 2, (place.y0 + place.y1) / 2
            looks += [(f"room {p}", (x, y, 1.5), yaw, p) for p in (0, 20, 45, 55) for yaw in (0, 90, 180, 270)]
            looks += [("wall", (place.x1 - 0.8, y, 1.6), 0, p) for p in (-20, 0)]
            looks += [("wall", (x, place.y0 + 0.8, 1.6), -90, p) for p in (-20, 0)]
        for table in (e for e in world.entities if e.label in ("table", "desk")):
            low, high = timeline.box(table.entity_id, 0)
            x, y = (low + high)[:2] / 2
            above = low[2] + max(s.center[2] for s in table.surfaces) + 0.5
            looks += [("table", (x, y, above), yaw, 75 - 15 * (yaw % 180 > 0)) for yaw in (0, 90, 180, 270)]
        for kind, origin, yaw, pitch in looks:
            roll = streams[2].normal(0, 4)
            R = Rotation.from_euler("ZYX", [yaw, pitch, roll], degrees=True).as_matrix() @ R_BODY_OPTICAL
            hits = renderer.cast(np.array(origin), turned(R, camera.directions()), 0)
            cloud = scan_points(camera, measure_depth(camera, hits, lost, 1.0, streams[2]).ranges)
            views.append((kind, cloud[np.isfinite(cloud).all(axis=1)], R[2], origin[2]))
    return views
