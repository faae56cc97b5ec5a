"""Simulated sensors: rays end where geometry says, noise is as real, viewpoints see much and collide with nothing."""

import numpy as np
import pytest
from box_world import BOX, COLORS, CUP, FLOOR, HIDDEN, TABLE, WALL, block, box_timeline, box_truth, entity

pytest.importorskip("embreex", reason="the simulator needs embreex, which has no wheel for this platform")

from psg4d_ros.data.recording import AttributeSpan, TrueObject, TrueRelation
from psg4d_ros.data.simulation.capture import record, sample_steps
from psg4d_ros.data.simulation.noise import lost_share, measure_depth, measure_lidar
from psg4d_ros.data.simulation.render import Hits, Renderer
from psg4d_ros.data.simulation.sensors import DepthCamera, SpinningLidar, scan_points
from psg4d_ros.data.simulation.viewpoints import choose_path
from psg4d_ros.data.simulation.visible_truth import visible_truth
from psg4d_ros.data.simulation.world import STEP_S, Room, Timeline, World
from psg4d_ros.errors import ConfigError
from psg4d_ros.transforms import rigid, transform_points

STEPS = np.array([0, 30, 60])
DOWN = np.array([[0.0, 0.0, -1.0]], np.float32)


@pytest.fixture(scope="module")
def timeline() -> Timeline:
    return box_timeline()


@pytest.fixture(scope="module")
def renderer(timeline) -> Renderer:
    return Renderer(timeline, STEPS)


def wall_at(distance: float, shape: tuple[int, int], incidence: float = 1.0, brightness: int = 200) -> Hits:
    """What rays would hit if there were one large wall, ``distance`` away along every ray."""
    number = shape[0] * shape[1]
    return Hits(
        distance=np.full(number, distance, np.float32),
        entity=np.ones(number, np.int32),
        colors=np.full((number, 3), brightness, np.uint8),
        incidence=np.full(number, incidence, np.float32),
        up=np.ones(number, np.float32),
    )


def depths(camera: DepthCamera, hits: Hits, seed: int = 0, lost=(0.0, 0.0)) -> np.ndarray:
    """Measured depths of the pixels that came back, metres."""
    ranges = measure_depth(camera, hits, np.float32(lost), 1.0, np.random.default_rng(seed)).ranges
    return ranges[ranges > 0] / 1000.0


# --- rays


@pytest.mark.parametrize(
    "place, hit, height",
    [((1.5, 1.0), FLOOR, 0.0), ((0.0, 0.0), TABLE, 0.75), ((0.2, 0.1), CUP, 0.9), ((-1.5, -1.2), BOX, 0.4)],
)
def test_a_ray_ends_at_the_first_surface_in_its_way(renderer, place, hit, height):
    hits = renderer.cast(np.array([*place, 2.0]), DOWN, 0)
    assert hits.entity.tolist() == [hit]
    assert hits.distance[0] == pytest.approx(2.0 - height, abs=1e-5)
    assert hits.colors[0].tolist() == list(COLORS[hit])
    assert hits.up[0] == pytest.approx(1.0)
    assert hits.incidence[0] == pytest.approx(1.0)


def test_what_moves_is_hit_where_it_is_at_that_time(renderer):
    """The box slides 1 m in 60 steps, from x = -1.5."""
    for step, x in ((0, -1.5), (30, -1.0), (60, -0.5), (0, -1.5)):
        assert renderer.cast(np.array([x, -1.2, 2.0]), DOWN, step).entity.tolist() == [BOX]
    assert renderer.cast(np.array([-1.5, -1.2, 2.0]), DOWN, 60).entity.tolist() == [FLOOR]


def test_incidence_is_the_cosine_to_the_normal_and_normals_face_the_ray(renderer):
    slanted = np.array([[0.0, 0.6, -0.8], [0.0, 1.2, -1.6]], np.float32)  # of lengths 1 and 2
    hits = renderer.cast(np.array([1.5, 0.0, 1.0]), slanted, 0)
    assert hits.incidence == pytest.approx([0.8, 0.8])
    assert hits.distance == pytest.approx([1.25, 0.625])  # in lengths of the direction
    up = renderer.cast(np.array([1.5, 0.0, 1.0]), -DOWN, 0)
    assert up.up[0] == pytest.approx(-1.0)


def test_a_ray_into_the_open_hits_nothing():
    world = World("open", (), (), (entity(1, "box", [block("box", (1, 1, 1))]),), np.eye(4)[None], {})
    still = Timeline(
        world, np.zeros(1), (np.eye(4)[None, None],), (np.eye(4)[None],), (np.zeros((1, 0)),), (np.zeros(1, np.int32),)
    )
    hits = Renderer(still, np.zeros(1, np.int64)).cast(np.array([3.0, 0, 0]), -DOWN, 0)
    assert np.isinf(hits.distance[0])
    assert hits.entity.tolist() == [0]


def test_points_of_a_sensor_lie_on_the_surfaces_they_belong_to(timeline):
    """Without noise every point, moved into the world, is on its own object's faces, moving ones included."""
    for sensor in (DepthCamera(noise=0.0), SpinningLidar(noise=0.0)):
        scene = record(timeline, STEPS, (), {}, sensor, np.random.default_rng(3))
        seen = set()
        for number, labelled in enumerate(scene.data.recording().open_frames()):
            points = transform_points(labelled.T_world_sensor, labelled.frame.points)
            assert len(points) > 0.9 * sensor.shape[0] * sensor.shape[1]
            for object_id in np.unique(labelled.instance).tolist():
                box = timeline.box(object_id, int(STEPS[number]))
                own = points[labelled.instance == object_id]
                slack = 0.004  # millimetres of storage and of disparity
                assert (own > box[0] - slack).all() and (own < box[1] + slack).all()
                seen.add(object_id)
                if object_id in (BOX, CUP):  # convex: points are on the surface of the box
                    to_face = np.minimum(np.abs(own - box[0]), np.abs(own - box[1])).min(axis=1)
                    assert to_face.max() < slack
        assert {FLOOR, WALL, TABLE} <= seen


def test_range_images_become_points_along_the_rays():
    camera = DepthCamera(width=4, height=2, fov_deg=90.0)
    ranges = np.full((2, 4), 1500, np.uint16)
    ranges[1, 3] = 0
    points = scan_points(camera, ranges)
    assert points[:7, 2] == pytest.approx(1.5)  # depth, not distance
    assert np.isnan(points[7]).all()
    # x right, y down; the outermost pixel centres are half a pixel inside the field of view of +-45 degrees
    assert points[0] == pytest.approx((-1.5 * 0.75, -1.5 * 0.25, 1.5))
    lidar = SpinningLidar(rings=3, columns=4, up_deg=30.0, down_deg=-30.0)
    points = scan_points(lidar, np.full((3, 4), 2000, np.uint16)).reshape(3, 4, 3)
    assert np.linalg.norm(points, axis=-1) == pytest.approx(np.full((3, 4), 2.0), abs=1e-6)
    assert points[:, 0, 2] == pytest.approx([1.0, 0.0, -1.0], abs=1e-6)
    assert np.arctan2(points[1, :, 1], points[1, :, 0]) == pytest.approx(np.pi * np.array([-0.75, -0.25, 0.25, 0.75]))


# --- noise


def test_depth_noise_grows_with_the_square_of_depth():
    camera = DepthCamera()
    spread = {z: depths(camera, wall_at(z, camera.shape)).std() for z in (1.0, 2.0, 4.0)}
    assert spread[1.0] == pytest.approx(0.0012 + 0.0019 * 0.36, rel=0.3)
    assert spread[4.0] == pytest.approx(0.0012 + 0.0019 * 12.96, rel=0.3)
    assert spread[1.0] < spread[2.0] < spread[4.0]


def test_depth_comes_in_steps_that_grow_with_the_square_of_depth():
    camera = DepthCamera()
    step = {z: np.diff(np.unique(depths(camera, wall_at(z, camera.shape)))).mean() for z in (2.0, 4.0)}
    assert step[2.0] == pytest.approx(0.00285 * 4, rel=0.2)
    assert step[4.0] == pytest.approx(0.00285 * 16, rel=0.2)


def test_the_noise_of_a_camera_scales():
    quiet, loud = (depths(DepthCamera(noise=n), wall_at(3.0, (120, 160))).std() for n in (0.5, 2.0))
    assert loud == pytest.approx(4 * quiet, rel=0.2)


def test_pixels_at_depth_edges_are_lost_or_take_the_neighbours_depth_and_object():
    camera = DepthCamera()
    hits = wall_at(3.0, camera.shape)
    near = (np.arange(camera.height * camera.width) % camera.width) < 80
    hits.distance[near], hits.entity[near] = 1.5, 2
    scan = measure_depth(camera, hits, np.zeros(3, np.float32), 1.0, np.random.default_rng(0))
    edge, plain = scan.ranges[:, 79:81], scan.ranges[:, :70]
    assert (edge == 0).mean() > 0.15
    assert (plain == 0).mean() < 0.02
    taken = scan.instance[:, 79] == 1  # left of the edge is the near object, number 2
    assert 0.02 < taken.mean() < 0.3
    assert (scan.ranges[:, 79][taken] > 2000).all()  # depth and object come together


def test_beyond_its_range_a_sensor_sees_nothing():
    camera, lidar = DepthCamera(), SpinningLidar()
    for distance in (0.2, 9.0, np.inf):
        assert not len(depths(camera, wall_at(distance, camera.shape)))
    scan = measure_lidar(lidar, wall_at(31.0, lidar.shape), np.zeros(2, np.float32), np.random.default_rng(0))
    assert not scan.ranges.any() and not scan.instance.any() and not scan.intensity.any()


def test_grazing_and_shiny_surfaces_return_less(timeline):
    camera = DepthCamera()
    full = len(depths(camera, wall_at(2.0, camera.shape)))
    assert len(depths(camera, wall_at(2.0, camera.shape, incidence=0.05))) < 0.6 * full
    assert len(depths(camera, wall_at(2.0, camera.shape), lost=(0.0, 0.7))) == pytest.approx(0.3 * full, rel=0.1)
    mirror = World("m", (), (), (entity(1, "mirror", [block("m", (1, 1, 1))]),), np.eye(4)[None], {})
    assert lost_share(mirror).tolist() == pytest.approx([0.0, 0.7])
    assert not lost_share(timeline.world).any()


def test_lidar_noise_does_not_grow_and_intensity_tells_material_and_angle():
    lidar = SpinningLidar()

    def scan(**wall):
        return measure_lidar(
            lidar, wall_at(shape=lidar.shape, **wall), np.zeros(2, np.float32), np.random.default_rng(0)
        )

    for distance in (2.0, 20.0):
        ranges = scan(distance=distance).ranges
        assert (ranges[ranges > 0] / 1000.0).std() == pytest.approx(0.008, rel=0.1)
    bright, dark, slanted = (
        scan(distance=3.0, **w).intensity.mean() for w in ({"brightness": 240}, {"brightness": 30}, {"incidence": 0.4})
    )
    assert bright > 1.5 * dark and bright > 1.5 * slanted
    assert scan(distance=3.0).colors is None


def test_what_happens_to_one_pixel_does_not_shift_the_noise_of_the_others():
    camera = DepthCamera()
    hits, changed = wall_at(2.0, camera.shape), wall_at(2.0, camera.shape)
    changed.distance[:50] = np.inf
    a, b = (measure_depth(camera, h, np.zeros(2, np.float32), 1.0, np.random.default_rng(5)) for h in (hits, changed))
    np.testing.assert_array_equal(a.ranges[2:], b.ranges[2:])


# --- viewpoints


@pytest.mark.parametrize("sensor", [DepthCamera(), SpinningLidar()], ids=["depth", "lidar"])
@pytest.mark.parametrize("seed", range(6))
def test_a_sensor_keeps_clear_of_everything_and_sees_what_there_is(timeline, sensor, seed):
    steps = sample_steps(12, 4.0)
    renderer = Renderer(timeline, steps)
    poses = choose_path(renderer, timeline, steps, sensor, np.random.default_rng(seed))
    np.testing.assert_array_equal(poses, choose_path(renderer, timeline, steps, sensor, np.random.default_rng(seed)))
    (room,) = timeline.world.rooms
    assert (poses[:, :2] > (room.x0, room.y0)).all() and (poses[:, :2] < (room.x1, room.y1)).all()
    assert (poses[:, 2] > 0.4).all() and (poses[:, 2] < 2.4).all()
    speed = np.linalg.norm(np.diff(poses[:, :3], axis=0), axis=1) / 0.25
    assert speed.max() < 0.6
    around = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    around /= np.linalg.norm(around, axis=1, keepdims=True)
    seen = set()
    for pose, step in zip(poses, steps, strict=True):
        assert renderer.cast(pose[:3], around, int(step)).distance.min() > 0.15
        T = rigid(pose[:3], pose[3:])
        np.testing.assert_allclose(T[:3, :3] @ T[:3, :3].T, np.eye(3), atol=1e-12)
        directions = (sensor.directions() @ (T[:3, :3] @ sensor.R_mount_sensor).T).astype(np.float32)
        seen |= set(np.unique(renderer.cast(pose[:3], directions, int(step)).entity).tolist())
    assert {FLOOR, WALL, TABLE} <= seen


def test_steps_follow_the_clock_of_the_simulation():
    assert sample_steps(4, 4.0).tolist() == [0, 5, 10, 15]
    assert sample_steps(3, 20.0).tolist() == [0, 1, 2]
    assert sample_steps(2, 4.0)[1] * STEP_S == pytest.approx(0.25)
    for frames, rate in ((0, 4.0), (5, 3.0), (5, 40.0), (5, 0.0), (5, float("nan"))):
        with pytest.raises(ConfigError, match="expected"):
            sample_steps(frames, rate)


# --- truth of what was seen


def test_what_the_sensor_never_saw_is_not_in_the_truth(timeline):
    relations, attributes = box_truth(3)
    scene = record(timeline, STEPS, relations[:2] + relations[3:], attributes, DepthCamera(), np.random.default_rng(3))
    assert HIDDEN not in {o.object_id for o in scene.data.objects}
    assert ("inside", FLOOR) not in {(r.predicate, r.object_id) for r in scene.data.relations}
    assert (CUP, "on", TABLE) in {(r.subject_id, r.predicate, r.object_id) for r in scene.data.relations}


def counts(*rows) -> np.ndarray:
    """int64[F, 3]: points of objects 1 and 2 in each frame."""
    return np.array([(0, *row) for row in rows], np.int64)


PAIR = (TrueObject(2, "table", True), TrueObject(1, "cup", True))


@pytest.mark.parametrize(
    "points, given, expected",
    [
        # seen all the time: nothing changes
        (counts((9, 9), (9, 9), (9, 9), (9, 9)), [(0, 4)], [(0, 4)]),
        # the cup comes into view in frame 2: before, nobody could know
        (counts((0, 9), (0, 9), (20, 9), (20, 9)), [(0, 4)], [(2, 4)]),
        # it leaves the view: what held goes on
        (counts((30, 9), (9, 9), (0, 9), (0, 9)), [(0, 4)], [(0, 4)]),
        # never both in one frame of the span
        (counts((30, 0), (0, 30), (9, 0), (0, 9)), [(0, 4)], []),
        (counts((30, 9), (30, 9), (0, 9), (0, 9)), [(2, 4)], []),
        # fewer than 30 points in all: not there
        (counts((7, 9), (7, 9), (7, 9), (8, 9)), [(0, 4)], []),
        # ended before it was seen
        (counts((0, 9), (0, 9), (30, 9), (9, 9)), [(0, 2)], []),
        # one fact in pieces that touch becomes one; a gap stays
        (counts((9, 9), (9, 9), (9, 9), (9, 9)), [(1, 2), (0, 1)], [(0, 2)]),
        (counts((9, 9), (9, 9), (9, 9), (9, 9)), [(0, 1), (2, 4)], [(0, 1), (2, 4)]),
    ],
)
def test_spans_are_cut_to_where_their_objects_exist(points, given, expected):
    _, relations = visible_truth(PAIR, [TrueRelation(1, "on", 2, *span) for span in given], points)
    assert [(r.start_frame, r.end_frame) for r in relations] == expected


def test_attributes_begin_when_their_object_is_first_seen():
    spans = (AttributeSpan("red", 0, 4), AttributeSpan("held", 0, 1), AttributeSpan("still", 1, 3))
    objects, _ = visible_truth([TrueObject(1, "cup", True, spans)], [], counts((0, 0), (0, 0), (30, 0), (9, 0)))
    assert objects == (TrueObject(1, "cup", True, (AttributeSpan("red", 2, 4), AttributeSpan("still", 2, 3))),)


def test_a_scene_depends_on_its_seed_alone(timeline):
    def ranges(seed):
        scene = record(timeline, STEPS, (), {}, DepthCamera(), np.random.default_rng(seed))
        return np.stack([s.ranges for s in scene.data.open_scans()])

    np.testing.assert_array_equal(ranges(1), ranges(1))
    assert (ranges(1) != ranges(2)).any()


def test_a_room_without_free_floor_is_seen_from_a_high_corner(timeline):
    """Furniture from wall to wall, as high as a chest: no tripod, robot or person finds a place to stand."""
    room = Room("corridor", 0.0, 0.0, 2.0, 2.0)
    filled = (
        entity(1, "cabinet", [block("cabinet", (2.0, 2.0, 1.6))]),
        entity(2, "cup", [block("cup", (0.2, 0.2, 0.2))]),
    )
    places = np.tile(np.eye(4), (2, 1, 1))
    places[:, :3, 3] = ((1.0, 1.0, 0.0), (1.0, 1.0, 1.6))
    world = World("full", (room,), (), filled, places, {})
    still = Timeline(
        world, np.zeros(1), tuple(T[None, None] for T in places), tuple(T[None] for T in places),
        (np.zeros((1, 0)),) * 2, (np.zeros(1, np.int32),) * 2,
    )  # fmt: skip
    renderer = Renderer(still, np.zeros(1, np.int64))
    for seed in range(4):
        (pose,) = choose_path(renderer, still, np.zeros(1, np.int64), DepthCamera(), np.random.default_rng(seed))
        assert pose[2] > 2.0
