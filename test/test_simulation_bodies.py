"""Simulated people: their bodies, postures, reaching, recorded motion and gestures."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest

from psg4d_ros.data.simulation import quaternions
from psg4d_ros.data.simulation.bodies import JOINTS, Body, Pose, blend, make_body
from psg4d_ros.data.simulation.clips import clip, clip_names, stride_m, walking
from psg4d_ros.data.simulation.gestures import kicking, strike_place, talking
from psg4d_ros.data.simulation.kinematics import look_at, palm_gap, reach
from psg4d_ros.data.simulation.limbs import blend_on_feet, feet, place_hand
from psg4d_ros.data.simulation.poses import bending, crouching, lying, resting, sitting, standing, transition
from psg4d_ros.errors import DatasetError

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
SOLES = ("right_heel", "right_toes", "left_heel", "left_toes")
CM = 0.01


@pytest.fixture(scope="module", params=["adult", "child"])
def body(request: pytest.FixtureRequest) -> Body:
    return make_body(np.random.default_rng(4), child=request.param == "child")


def skin(body: Body, pose: Pose) -> np.ndarray:
    """float64[V, 3]: all vertices of the posed body."""
    moved = zip(body.parts, body.part_transforms(pose), strict=True)
    return np.concatenate([p.vertices @ T[:3, :3].T + T[:3, 3] for p, T in moved])


def part_skin(body: Body, pose: Pose, name: str) -> np.ndarray:
    i = 0 if name == "pelvis" else JOINTS.index(name) + 1
    T = body.part_transforms(pose)[i]
    return body.parts[i].vertices @ T[:3, :3].T + T[:3, 3]


def soles(body: Body, pose: Pose) -> np.ndarray:
    places = body.joint_positions(pose)
    return np.stack([places[name] for name in SOLES])


# The body


def test_a_body_is_made_of_closed_parts_that_turn_their_outside_out(body: Body) -> None:
    assert len(body.parts) == 1 + len(JOINTS)
    assert 1000 < sum(len(p.faces) for p in body.parts) < 2600
    for part in body.parts:
        edges = np.concatenate([part.faces[:, [0, 1]], part.faces[:, [1, 2]], part.faces[:, [2, 0]]])
        there, counts = np.unique(edges, axis=0, return_counts=True)
        assert counts.max() == 1, f"{part.name}: two faces turn the same way round an edge"
        assert {tuple(e) for e in there} == {tuple(e[::-1]) for e in there}, f"{part.name} has a hole"
        a, b, c = (part.vertices[part.faces[:, k]].astype(np.float64) for k in range(3))
        assert (a * np.cross(b, c)).sum() > 0, f"{part.name} is inside out"


def test_at_rest_a_body_stands_on_the_floor_and_looks_along_minus_y(body: Body) -> None:
    points = skin(body, resting(body))
    assert points[:, 2].min() == pytest.approx(0.0, abs=1 * CM)
    assert points[:, 2].max() == pytest.approx(body.height_m, abs=1 * CM)
    places = body.joint_positions(resting(body))
    assert places["right_toes"][1] < places["right_heel"][1] - 0.1 * body.height_m
    assert places["right_hand"][0] < -0.1 < 0.1 < places["left_hand"][0]
    assert places["eyes"][1] < places["head"][1]
    np.testing.assert_allclose(body.part_transforms(resting(body)), np.tile(np.eye(4), (17, 1, 1)), atol=1e-12)


def test_the_same_seed_makes_the_same_body_and_children_are_small_with_large_heads() -> None:
    first, again = (make_body(np.random.default_rng(7)) for _ in range(2))
    assert all(
        np.array_equal(a.vertices, b.vertices) and np.array_equal(a.colors, b.colors)
        for a, b in zip(first.parts, again.parts, strict=True)
    )
    rng = np.random.default_rng(1)
    adults, children = ([make_body(rng, child=child) for _ in range(20)] for child in (False, True))
    assert all(1.5 <= b.height_m <= 1.95 for b in adults) and all(1.0 <= b.height_m <= 1.4 for b in children)

    def head(b: Body) -> float:
        return float(np.ptp(b.parts[4].vertices[:, 2])) / b.height_m

    assert min(head(b) for b in children) > max(head(b) for b in adults)
    assert len({tuple(b.parts[2].colors[0]) for b in adults}) > 10, "people dress differently"


def test_named_points_move_with_the_parts_they_lie_on(body: Body) -> None:
    pose = reach(body, standing(body), "right", np.array([-0.2, -0.4, 0.5]))
    places = body.joint_positions(pose)
    gap = np.linalg.norm(part_skin(body, pose, "right_wrist") - places["right_hand"], axis=1).min()
    assert gap < 3 * CM
    np.testing.assert_allclose(body.hand_frame(pose, "right")[:3, 3], places["right_hand"], atol=1e-12)
    assert np.linalg.norm(part_skin(body, pose, "head") - places["eyes"], axis=1).min() < 5 * CM


def test_rotations_survive_the_way_through_matrices_and_blend_by_the_shorter_way() -> None:
    rng = np.random.default_rng(0)
    q = quaternions.normalize(rng.standard_normal((200, 4)))
    q[:3] = np.eye(4)[1:]  # half turns, where the naive formula divides by nothing
    back = quaternions.from_matrices(quaternions.matrices(q))
    np.testing.assert_allclose(np.abs((q * back).sum(axis=1)), 1.0, atol=1e-12)
    a, b = quaternions.rotation((0, 0, 1), 3.0), quaternions.rotation((0, 0, 1), -3.0)
    np.testing.assert_allclose(
        quaternions.matrices(quaternions.slerp(a, b, 0.5)),
        quaternions.matrices(quaternions.rotation((0, 0, 1), math.pi)),
        atol=1e-9,
    )


# Postures


@pytest.mark.parametrize("seat_m", [0.25, 0.40, 0.45, 0.50, 0.75])
def test_sitting_people_touch_the_seat_and_are_not_in_it(body: Body, seat_m: float) -> None:
    pose = sitting(body, seat_m)
    pelvis, thighs = (
        part_skin(body, pose, "pelvis"),
        np.concatenate([part_skin(body, pose, f"{side}_hip") for side in ("left", "right")]),
    )
    assert -3 * CM < pelvis[:, 2].min() - seat_m < 1 * CM
    back_half = thighs[thighs[:, 1] > 0.4 * pose.root_position[1]]  # a seat ends before the knees
    assert back_half[:, 2].min() - seat_m > -3 * CM
    places = body.joint_positions(pose)
    assert skin(body, pose)[:, 2].min() > -1 * CM
    assert abs(places["head_top"][1] - places["pelvis"][1]) < 0.15 * body.height_m, "the back is upright"
    assert places["right_knee"][1] < places["pelvis"][1] - 0.15 * body.height_m
    if seat_m <= 0.24 * body.height_m:
        assert np.abs(soles(body, pose)[:, 2]).max() < 2 * CM, "feet stand on the floor"
    if seat_m >= 0.32 * body.height_m:
        assert soles(body, pose)[:, 2].min() > 3 * CM, "feet hang"


@pytest.mark.parametrize("on", ["back", "front", "left side", "right side"])
def test_lying_people_lie_on_the_surface_around_the_origin(body: Body, on: str) -> None:
    pose = lying(body, 0.5, on)  # type: ignore[arg-type]
    points, places = skin(body, pose), body.joint_positions(pose)
    assert -3 * CM < points[:, 2].min() - 0.5 < 0
    assert part_skin(body, pose, "pelvis")[:, 2].min() < 0.5 + 6 * CM, "the trunk rests on the surface"
    assert points[:, 2].max() < 0.5 + 0.42 * body.height_m
    assert places["head"][1] > 0.3 * body.height_m > 0 > places["left_knee"][1]
    assert abs(points[:, 1].max() + points[:, 1].min()) < 0.3 * body.height_m
    gaze = places["eyes"] - places["head"]
    side = {"back": gaze[2], "front": -gaze[2] + 0.1, "left side": gaze[0], "right side": -gaze[0]}[on]
    assert side > 0


@pytest.mark.parametrize("make", [lambda b: bending(b, 1.2), crouching, lambda b: crouching(b, 0.4)])
def test_bent_people_stay_on_their_feet(body: Body, make) -> None:  # type: ignore[no-untyped-def]
    pose = make(body)
    assert np.abs(soles(body, pose)[:, 2]).max() < 1 * CM
    assert skin(body, pose)[:, 2].min() > -1 * CM
    places = body.joint_positions(pose)
    middle = 0.55 * places["chest"] + 0.45 * places["pelvis"]  # about where the weight is
    assert soles(body, pose)[:, 1].min() < middle[1] < soles(body, pose)[:, 1].max() + 0.12 * body.height_m
    assert places["eyes"][2] < standing_eyes(body) - 0.15 * body.height_m * (0.4 if make is not crouching else 1)


def standing_eyes(body: Body) -> float:
    return float(body.joint_positions(standing(body))["eyes"][2])


def test_sitting_down_keeps_the_feet_on_the_floor(body: Body) -> None:
    a, b = standing(body), sitting(body, 0.24 * body.height_m)
    heights = []
    for w in np.linspace(0, 1, 21):
        pose = transition(body, a, b, float(w))
        assert np.abs(soles(body, pose)[:, 2]).max() < 2 * CM
        heights.append(body.joint_positions(pose)["eyes"][2])
    assert np.all(np.diff(heights) < 1e-6), "the head only goes down"
    np.testing.assert_allclose(skin(body, transition(body, a, b, 0.0)), skin(body, a), atol=1 * CM)
    np.testing.assert_allclose(skin(body, blend(a, b, 1.0)), skin(body, b), atol=1e-9)


# Reaching and looking

PLACES = [
    (-0.1, 0.25, 0.02),
    (-0.2, 0.2, 0.25),
    (0.1, 0.3, 0.45),
    (-0.3, 0.1, 0.6),
    (0.0, 0.25, 0.9),
    (-0.25, 0.0, 0.5),
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("hand", ["left", "right"])
def test_a_palm_comes_to_what_is_near_while_the_feet_stay(body: Body, hand, place) -> None:  # type: ignore[no-untyped-def]
    across, forward, up = np.array(place) * body.height_m
    target = np.array([across if hand == "right" else -across, -forward, up])
    pose = reach(body, standing(body), hand, target)
    assert palm_gap(body, pose, hand, target) < 1 * CM
    np.testing.assert_allclose(feet(body, pose)[0], feet(body, standing(body))[0], atol=1 * CM)
    assert skin(body, pose)[:, 2].min() > -2 * CM


def test_the_arm_alone_moves_when_it_is_long_enough(body: Body) -> None:
    target = np.array([-0.15, -0.25, 0.65]) * body.height_m
    pose = reach(body, standing(body), "right", target)
    np.testing.assert_array_equal(pose.root_position, standing(body).root_position)
    np.testing.assert_allclose(pose.joint("spine"), standing(body).joint("spine"))
    np.testing.assert_allclose(body.hand_frame(pose, "left"), body.hand_frame(standing(body), "left"), atol=1e-9)


def test_what_is_too_far_is_told_by_the_gap(body: Body) -> None:
    target = np.array([0.0, -2.0, 1.0])
    assert palm_gap(body, reach(body, standing(body), "right", target), "right", target) > 0.5


def test_both_hands_hold_a_box_on_the_floor_from_its_sides(body: Body) -> None:
    target = np.array([0.0, -0.24, 0.10]) * body.height_m
    pose = reach(body, standing(body), "both", target, spread_m=0.3)
    places = body.joint_positions(pose)
    assert np.linalg.norm(places["left_hand"] - target - [0.15, 0, 0]) < 1 * CM
    assert np.linalg.norm(places["right_hand"] - target + [0.15, 0, 0]) < 1 * CM
    inwards = body.hand_frame(pose, "right")[:3, 0]
    assert inwards[0] > 0.5, "the right palm looks to the left"


def test_people_who_sit_lean_forward_and_stay_seated(body: Body) -> None:
    pose = sitting(body, 0.45)
    target = np.array([-0.1, -0.42 * body.height_m + pose.root_position[1], 0.75])
    leaned = reach(body, pose, "right", target)
    assert palm_gap(body, leaned, "right", target) < 1 * CM
    np.testing.assert_allclose(leaned.root_position, pose.root_position)
    assert body.joint_positions(leaned)["chest"][1] < body.joint_positions(pose)["chest"][1] - 1 * CM


def test_nearby_targets_give_nearby_poses(body: Body) -> None:
    way = np.linspace(1.2 * body.leg_m, 0.03, 200)
    hands = np.stack([skin(body, reach(body, standing(body), "right", np.array([-0.1, -0.35, z]))) for z in way])
    assert np.abs(np.diff(hands, axis=0)).max() < 5 * CM


def test_a_palm_turns_to_where_it_is_asked_to(body: Body) -> None:
    target = np.array([-0.1, -0.25, 0.6]) * body.height_m
    for palm in ([0.0, 0.0, -1.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]):
        frame = body.hand_frame(place_hand(body, standing(body), "right", target, palm=np.array(palm)), "right")
        assert frame[:3, 0] @ palm > 0.6
        assert np.linalg.norm(frame[:3, 3] - target) < 1e-6


@pytest.mark.parametrize("target", [(0.0, -2.0, 0.3), (1.0, -1.5, 1.5), (-2.0, -1.0, 2.0)])
def test_the_eyes_look_at_the_target(body: Body, target: tuple[float, float, float]) -> None:
    pose = look_at(body, standing(body), np.array(target))
    turned, _ = body.frames(pose)
    gaze, way = -turned[4][:, 1], np.array(target) - body.joint_positions(pose)["eyes"]
    assert gaze @ way / np.linalg.norm(way) > math.cos(math.radians(6))


def test_a_neck_does_not_turn_to_the_back(body: Body) -> None:
    turned, _ = body.frames(look_at(body, standing(body), np.array([0.3, 2.0, 1.5])))
    assert -turned[4][1, 1] < 0, "the face stays on the front half"


# Recorded motion


@pytest.mark.parametrize("speed", [0.4, 0.8, 1.2, 1.5])
def test_feet_that_stand_do_not_slip_in_walking(body: Body, speed: float) -> None:
    speed *= math.sqrt(body.leg_m / 0.9)
    phases = np.linspace(0.0, 1.0, 81)
    stride = stride_m(body, speed)
    path = np.stack([soles(body, walking(body, f, speed)) - [0.0, stride * f, 0.0] for f in phases])
    assert path[..., 2].min() > -1 * CM
    assert path[..., 2].min(axis=1).max() < 3 * CM, "one foot always touches the floor"
    for heel in (0, 2):
        flat = (path[:, heel : heel + 2, 2] < 2 * CM).all(axis=1)
        assert flat.mean() > 0.15
        step = np.flatnonzero(flat)
        for run in np.split(step, np.flatnonzero(np.diff(step) > 1) + 1):
            assert np.ptp(path[run, heel : heel + 2, 1], axis=0).max() < 3 * CM


def test_a_cycle_of_walking_closes_and_runs_leave_the_floor(body: Body) -> None:
    np.testing.assert_allclose(skin(body, walking(body, 0.0, 1.0)), skin(body, walking(body, 1.0, 1.0)), atol=2e-3)
    steps = np.stack([skin(body, walking(body, f, 1.0)) for f in np.linspace(0, 1, 61)])
    assert np.abs(np.diff(steps, axis=0)).max() < 9 * CM, "nothing jumps"
    left, right = (
        [body.joint_positions(walking(body, f, 1.0))[f"{s}_foot"][1] for f in (0.1, 0.6)] for s in ("left", "right")
    )
    assert (left[0] - left[1]) * (right[0] - right[1]) < 0, "legs swing against each other"
    fast = [soles(body, walking(body, f, 3.0))[:, 2].min() for f in np.linspace(0, 1, 41)]
    assert max(fast) > 4 * CM


def test_people_start_from_standing_and_break_into_a_run_without_a_jump(body: Body) -> None:
    np.testing.assert_allclose(skin(body, walking(body, 0.3, 0.0)), skin(body, standing(body)), atol=1 * CM)
    phase, poses = 0.0, []
    for speed in np.arange(0.0, 2.8, 0.02):  # 1 m/s per second, a hundred poses a second
        phase += speed * 0.02 / stride_m(body, speed)
        poses.append(skin(body, walking(body, phase, float(speed))))
        assert poses[-1][:, 2].min() > -1 * CM
    assert np.abs(np.diff(poses, axis=0)).max() < 13 * CM


def test_reaching_gradually_keeps_the_feet_where_they_stand(body: Body) -> None:
    start = standing(body)
    crouched = reach(body, start, "right", np.array([-0.1, -0.4, 0.05]))
    for w in (0.25, 0.5, 0.75):
        half_way = blend_on_feet(body, start, crouched, w)
        np.testing.assert_allclose(soles(body, half_way), soles(body, start), atol=1 * CM)
    assert soles(body, blend(start, crouched, 0.5))[:, 2].min() < -5 * CM, "what happens without"


def test_strides_grow_with_speed_and_with_the_length_of_the_legs() -> None:
    adult, child = (make_body(np.random.default_rng(0), child=c) for c in (False, True))
    assert 0.4 < stride_m(adult, 0.4) < stride_m(adult, 0.9) < stride_m(adult, 1.4) < 1.9
    assert stride_m(child, 0.9) < stride_m(adult, 0.9)


@pytest.mark.parametrize("name", clip_names())
def test_a_clip_stays_above_the_floor_and_near_it(body: Body, name: str) -> None:
    motion = clip(name)
    low = [skin(body, motion.sample(body, f))[:, 2].min() for f in np.linspace(0, 1, 25)]
    assert min(low) > -2 * CM
    if name not in ("run", "jump"):
        assert max(low) < 4 * CM
    knees = [quaternions.matrices(motion.sample(body, f).joint("right_knee"))[2, 1] for f in np.linspace(0, 1, 25)]
    assert min(knees) > -0.35, "knees do not bend forwards"


def test_cyclic_clips_go_on_and_others_stop(body: Body) -> None:
    walk, kick = clip("walk"), clip("kick")
    ahead = walk.sample(body, 2.25).root_position - walk.sample(body, 0.25).root_position
    once = walk.sample(body, 0.999).root_position - walk.sample(body, 0.0).root_position
    np.testing.assert_allclose(ahead[:2], 2 * once[:2], atol=2 * CM)
    assert ahead[1] < -1.5 * body.leg_m
    np.testing.assert_array_equal(kick.sample(body, 1.0).joints, kick.sample(body, 3.0).joints)


@pytest.mark.parametrize("name", ["getup_faceup", "getup_facedown"])
def test_getting_up_ends_upright_over_the_origin(body: Body, name: str) -> None:
    motion = clip(name)
    end, start = motion.sample(body, 1.0), motion.sample(body, 0.0)
    places = body.joint_positions(end)
    assert places["head_top"][2] > 0.93 * body.height_m
    assert np.abs(end.root_position[:2]).max() < 2 * CM
    assert places["eyes"][1] < places["head"][1]
    assert body.joint_positions(start)["head_top"][2] < 0.45 * body.height_m, "it lies or crouches first"


def test_an_unknown_clip_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(DatasetError, match=r"'swim'; there are .*walk"):
        clip("swim")


def test_the_stored_motions_are_what_the_script_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = SHARED / "deepmimic_motions"
    if not folder.is_dir():
        pytest.skip(f"the recorded clips are not at {folder}")
    spec = importlib.util.spec_from_file_location("motions", ROOT / "scripts" / "make_simulation_motions.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr("sys.argv", ["make_simulation_motions.py", str(folder), "--out", str(tmp_path / "new.npz")])
    script.main()
    with np.load(tmp_path / "new.npz") as new, np.load(ROOT / "psg4d_ros/data/simulation/assets/motions.npz") as stored:
        assert set(new.files) == set(stored.files)
        for name in new.files:
            assert np.abs(new[name].astype(int) - stored[name]).max() <= 1, name


# Gestures


@pytest.mark.parametrize("foot", ["left", "right"])
def test_kicking_swings_one_foot_and_keeps_the_other_on_the_floor(body: Body, foot) -> None:  # type: ignore[no-untyped-def]
    other = "left" if foot == "right" else "right"
    start = body.joint_positions(standing(body))
    toes = []
    for phase in np.linspace(0, 1, 41):
        pose = kicking(body, standing(body), foot, float(phase))
        places = body.joint_positions(pose)
        toes.append(places[f"{foot}_toes"])
        assert np.linalg.norm(places[f"{other}_foot"] - start[f"{other}_foot"]) < 1 * CM
        assert skin(body, pose)[:, 2].min() > -1.5 * CM
    place = strike_place(body, standing(body), foot)
    assert place[1] < start[f"{foot}_toes"][1] - 0.1 * body.height_m and 0 < place[2] < 10 * CM
    assert np.linalg.norm(np.array(toes) - place, axis=1).min() < 3 * CM


def test_a_speaking_hand_rises_before_the_chest_and_comes_back_to_where_it_was(body: Body) -> None:
    at = [body.joint_positions(talking(body, standing(body), "right", f))["right_hand"] for f in (0.0, 0.5, 1.0)]
    rest = body.joint_positions(standing(body))["right_hand"]
    np.testing.assert_allclose(at[0], rest, atol=1 * CM)
    np.testing.assert_allclose(at[2], rest, atol=1 * CM)
    assert at[1][2] > rest[2] + 0.1 * body.height_m
