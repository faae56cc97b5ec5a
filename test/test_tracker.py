"""Tracker: stable ids over windows, objects that cross, merge, hide and vanish; labels; boxes; the labelled cloud."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from tracking_world import (
    EAGER,
    POINTS,
    START,
    STEP,
    Path,
    Run,
    S,
    Thing,
    frame_of,
    ongoing,
    pair,
    seen_while,
    still,
    walk,
)

from psg4d_ros.config import TrackerConfig, WindowConfig
from psg4d_ros.structures import (
    AlignedFrame,
    GraphStatus,
    InstancePrediction,
    LabelScore,
    PointFrame,
    RelationPrediction,
    WindowPrediction,
)
from psg4d_ros.tracker import Tracker
from psg4d_ros.window import SlidingWindow

# Ids


def test_ids_are_stable_over_many_windows_and_begin_at_one() -> None:
    run = Run([Thing("person1", walk(-3, 0.4)), Thing("chair1", still(2, 2)), Thing("floor", still(0, 5), 2.0, False)])
    run.steps(60)
    assert sorted(run.ids_of(t.name)[0] for t in run.world) == [1, 2, 3]
    assert all(len(run.ids_of(t.name)) == 1 for t in run.world)
    assert all(len(g.objects) == 3 for g in run.graphs)


def test_two_people_who_cross_keep_their_ids() -> None:
    run = Run([Thing("person1", walk(-2, 0.5, 0.15)), Thing("person2", walk(2, -0.5, -0.15))])
    run.steps(33)
    a, b = run.ids_of("person1"), run.ids_of("person2")
    assert len(a) == len(b) == 1 and a != b


@pytest.mark.parametrize("merged_windows", [1, 4, 8])
def test_two_people_seen_as_one_while_they_cross_get_their_own_ids_back(merged_windows: int) -> None:
    run = Run([Thing("person1", walk(-2, 0.5, 0.15)), Thing("person2", walk(2, -0.5, -0.15))])
    middle = 16
    run.steps(middle)
    before = dict(run.truth[-1])
    run.steps(middle + merged_windows, middle, merge=("person1", "person2"))
    run.steps(middle + merged_windows + 12, middle + merged_windows)
    assert run.truth[-1] == before


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from([2, 4, 8]))
def test_any_number_of_walkers_never_switch_ids(seed: int, num_frames: int) -> None:
    rng = np.random.default_rng(seed)
    speeds, starts = rng.uniform(-1.5, 1.5, 6), rng.uniform(-3, 3, 6)
    world = [Thing(f"person{k}", walk(starts[k], speeds[k], 0.2 * k)) for k in range(6)]
    run = Run(world, num_frames)
    run.steps(25)
    assert all(len(run.ids_of(t.name)) == 1 for t in world)
    assert len({run.ids_of(t.name)[0] for t in world}) == 6


def test_a_window_of_one_frame_shares_nothing_and_goes_by_place() -> None:
    run = Run([Thing("person1", walk(-2, 0.8)), Thing("person2", walk(2, -0.8, 1.0)), Thing("chair1", still(0, 3))], 1)
    run.steps(20)
    assert all(len(run.ids_of(t.name)) == 1 for t in run.world)


def test_windows_left_out_under_load_do_not_cost_the_ids() -> None:
    run = Run([Thing("person1", walk(-2, 0.3)), Thing("chair1", still(0, 3))], 4)
    for newest in (0, 1, 4, 5, 10, 16):  # the last two jumps share no frame with what was tracked before
        run.step(newest)
    assert all(len(run.ids_of(t.name)) == 1 for t in run.world)


def test_masks_that_flicker_at_the_edges_are_the_same_object() -> None:
    run = Run([Thing("person1", walk(-2, 0.5)), Thing("chair1", still(0, 3))])
    for newest in range(20):
        prediction = run.predict(newest)
        rng = np.random.default_rng(newest)
        noisy = tuple(np.where(rng.random(len(p)) < 0.3, 0, p).astype(np.int32) for p in prediction.point_instance)
        graph = run.tracker.update(replace(prediction, point_instance=noisy), "m", "")
        assert sorted(o.track_id for o in graph.objects) == [1, 2]


def test_another_object_beside_a_missed_one_does_not_take_its_id() -> None:
    run = Run([Thing("chair1", still(0)), Thing("chair2", still(0.25))])
    run.steps(5, missed=("chair2",))
    run.step(5, missed=("chair1",))  # the masks say that this is not the chair seen before, however near it is
    run.steps(10, 6)
    assert run.ids_of("chair1") == [1, 0] and run.truth[-1]["chair1"] == 1
    assert run.ids_of("chair2") == [0, 2]


def test_things_and_stuff_never_share_an_id() -> None:
    run = Run([Thing("table", still(0))])
    run.steps(5)
    graph = run.step(5, edit=lambda i: replace(i, label="wall", is_thing=False))
    by_kind = {o.is_thing: o for o in graph.objects}
    assert by_kind[False].track_id != by_kind[True].track_id
    assert by_kind[False].num_points == POINTS and by_kind[True].num_points == 0


def test_a_new_object_gets_a_new_id_and_old_ids_are_never_given_again() -> None:
    run = Run([Thing("person1", seen_while(still(0), (0, 2))), Thing("person2", seen_while(still(6), (6, 99)))])
    run.steps(40)
    assert run.ids_of("person1") == [1] and run.ids_of("person2") == [2]


# Out of sight


def test_an_object_out_of_sight_is_kept_for_max_missing_and_then_lost() -> None:
    world = [Thing("cup", seen_while(still(1), (0, 2.0))), Thing("floor", still(0, 5), 2.0, False)]
    run = Run(world, config=replace(EAGER, max_missing_s=2.0))
    run.steps(30)
    last_seen = START + 7 * STEP
    for graph in run.graphs:
        cups = [o for o in graph.objects if o.label == "cup"]
        assert len(cups) == (graph.stamp_ns - last_seen <= 2 * S)
        if cups and graph.stamp_ns > last_seen:
            assert cups[0].num_points == 0 and cups[0].last_seen_ns == last_seen
            assert cups[0].position.tolist() == pytest.approx([1, 0, 0.5], abs=0.05), "the last box stays"


def test_what_a_single_window_imagined_is_gone_with_the_next_and_what_many_found_is_waited_for() -> None:
    run = Run([Thing("ghost", still(1)), Thing("chair1", still(0, 3))])
    assert [len(run.step(newest, missed=("ghost",)).objects) for newest in range(3)] == [1, 1, 1]
    assert len(run.step(3).objects) == 2
    assert len(run.step(4, missed=("ghost",)).objects) == 1
    run = Run([Thing("cup", still(1)), Thing("chair1", still(0, 3))])
    run.steps(5)
    assert [len(run.step(5 + k, missed=("cup",)).objects) for k in range(6)] == [2, 2, 2, 2, 1, 1]


def told(run: Run, newest: int, **options: object) -> list[str]:
    return [o.label for o in run.step(newest, **options).objects]


def test_an_object_is_told_of_once_min_windows_have_found_it() -> None:
    run = Run([Thing("person1", still(1)), Thing("chair1", still(0, 3))], config=TrackerConfig(min_windows=3))
    run.steps(5, missed=("person1",))
    graphs = [run.step(k, relations=lambda index, frames: [ongoing(index, frames)]) for k in range(5, 8)]
    assert [[o.label for o in g.objects] for g in graphs] == [["chair"], ["chair"], ["chair", "person"]]
    assert [(g.cloud.track_id == 2).any() for g in graphs] == [False, False, True]
    assert [len(g.relations) for g in graphs] == [0, 0, 1]
    assert graphs[2].relations[0].start_ns < graphs[0].stamp_ns  # what was seen of it meanwhile is kept
    assert told(run, 8, missed=("person1",)) == ["chair", "person"]  # and it stays until it is lost


def test_an_epoch_begins_with_what_its_first_windows_find() -> None:
    run = Run([Thing("cup", still(1)), Thing("chair1", still(0, 3))], config=TrackerConfig(min_windows=3))
    assert told(run, 0, missed=("cup",)) == ["chair"]
    assert told(run, 1) == ["chair"]
    assert told(run, 2) == ["chair"]
    assert told(run, 3) == ["chair", "cup"]
    assert sorted(told(run, 40, epoch=1)) == ["chair", "cup"]


def test_an_object_that_comes_back_in_time_and_in_place_keeps_its_id() -> None:
    run = Run([Thing("person1", seen_while(walk(-1, 0.5), (0, 2), (3, 9))), Thing("chair1", still(0, 3))], num_frames=3)
    run.steps(30)
    assert len(run.ids_of("person1")) == 1


def test_an_object_far_from_where_the_lost_one_was_is_another() -> None:
    path: Path = lambda t: (0, 0, 0.5) if t < 2 else None if t < 3 else (5, 0, 0.5)  # noqa: E731
    run = Run([Thing("person1", path)], num_frames=3)
    run.steps(20)
    assert run.ids_of("person1") == [1, 2]


def test_an_empty_newest_frame_keeps_the_tracks() -> None:
    run = Run([Thing("person1", seen_while(still(0), (0, 2), (2.5, 9)))])
    run.steps(8)
    prediction = run.predict(8)
    newest = prediction.window.newest
    nothing = PointFrame(
        np.zeros((0, 3), np.float32), None, None, np.zeros(0, np.int64), newest.stamp_ns, newest.frame.frame_id
    )
    empty = replace(newest, frame=nothing, points=nothing.points)
    window = replace(prediction.window, frames=(*prediction.window.frames[:-1], empty))
    labels = (*prediction.point_instance[:-1], np.zeros(0, np.int32))
    graph = run.tracker.update(
        replace(prediction, window=window, point_instance=labels, status=GraphStatus.EMPTY_INPUT), "m", ""
    )
    assert [o.track_id for o in graph.objects] == [1] and graph.objects[0].num_points == 0
    assert graph.status is GraphStatus.EMPTY_INPUT and len(graph.cloud.points) == 0
    assert [o.track_id for o in run.step(10).objects] == [1]


@pytest.mark.parametrize("frame_id", ["other_lidar", ""])
def test_an_empty_cloud_of_another_frame_leaves_the_objects_where_they_are(frame_id: str) -> None:
    """Through the sliding window, which knows how the epoch's clouds lie; the empty one says nothing of that."""
    T_core_sensor = np.eye(4)
    T_core_sensor[:3, :3] = Rotation.from_euler("zyx", [30, 20, -10], degrees=True).as_matrix()
    T_core_sensor[:3, 3] = [0.5, -1.0, 1.2]
    full, owner = frame_of([Thing("chair1", still(1, 2))], 0, T_core_sensor)
    none = np.zeros((0, 3), np.float32)
    nothing = PointFrame(none, None, None, np.zeros(0, np.int64), START + STEP, frame_id)
    empty = AlignedFrame(nothing, none, np.eye(4), "identity", frame_id, np.eye(4))
    window, tracker, graphs = SlidingWindow(WindowConfig()), Tracker(TrackerConfig()), []
    labels = [owner.astype(np.int32), np.zeros(0, np.int32)]
    for number, frame in enumerate((full, empty), 1):
        due = window.push(frame)
        assert due is not None
        chair = InstancePrediction("chair", 0, 0.9, True)
        prediction = WindowPrediction(due, (chair,), tuple(labels[:number]), (), GraphStatus.OK, "")
        graphs.append(tracker.update(prediction, "m", ""))
    before, after = graphs
    assert before.frame_id == after.frame_id == "lidar" and after.stamp_ns == START + STEP
    (a,), (b,) = before.objects, after.objects
    assert b.position.tolist() == a.position.tolist() and b.orientation.tolist() == a.orientation.tolist()


def test_nothing_at_all_is_an_empty_graph() -> None:
    graph = Run([]).step(0)
    assert graph.objects == () and graph.relations == ()
    assert not graph.cloud.track_id.any() and (graph.cloud.class_id == -1).all()


def test_an_instance_without_a_point_makes_no_object() -> None:
    run = Run([Thing("chair1", still(0))])
    prediction = run.predict(0)
    ghost = InstancePrediction("ghost", 1, 0.9, True)
    relation = RelationPrediction(1, "on", 0, 0, 0.8, 0, 1)
    graph = run.tracker.update(
        replace(prediction, instances=(*prediction.instances, ghost), relations=(relation,)), "m", ""
    )
    assert [o.label for o in graph.objects] == ["chair"] and graph.relations == ()


def test_a_window_longer_than_max_missing_brings_no_dead_tracks() -> None:
    world = [Thing("cup", seen_while(still(1), (0, 0.5))), Thing("chair1", still(0, 3))]
    run = Run(world, num_frames=16, config=replace(EAGER, max_missing_s=1.0))
    graph = run.step(15)  # the cup was seen 3.5 s ago, in the oldest frames of this window
    assert [(o.track_id, o.label) for o in graph.objects] == [(1, "chair")]


# Epochs


def test_a_new_epoch_starts_ids_anew_and_forgets_relations() -> None:
    run = Run([Thing("person1", still(0)), Thing("chair1", still(3))])
    run.steps(10, relations=lambda index, frames: [ongoing(index, frames)])
    graph = run.step(40, epoch=1)
    assert graph.epoch == 1 and sorted(o.track_id for o in graph.objects) == [1, 2] and graph.relations == ()
    assert min(o.first_seen_ns for o in graph.objects) == START + 33 * STEP


def test_reset_starts_ids_anew_within_the_same_epoch() -> None:
    run = Run([Thing("person1", seen_while(still(0), (0, 1))), Thing("chair1", still(3))], num_frames=2)
    run.steps(10)
    run.tracker.reset()
    assert [(o.track_id, o.label) for o in run.step(10).objects] == [(1, "chair")]


def test_graphs_are_numbered_without_a_gap_whatever_windows_they_come_from() -> None:
    run = Run([Thing("chair1", still(0))])
    for newest in (3, 4, 9, 30):  # windows that were never served leave no gap
        run.step(newest)
    run.step(50, epoch=1)
    run.tracker.reset()
    run.step(60, epoch=1)
    assert [g.sequence for g in run.graphs] == [0, 1, 2, 3, 4, 5]


# What is said of an object


def test_one_odd_window_does_not_rename_an_object_but_many_do() -> None:
    run = Run([Thing("chair1", still(0))])
    run.steps(6)
    assert run.step(6, rename={"chair1": "sofa"}).objects[0].label == "chair"
    assert run.steps(9, 7).objects[0].label == "chair"
    assert run.steps(15, 9, rename={"chair1": "sofa"}).objects[0].label == "sofa"


def test_alternatives_count_towards_the_label_but_bring_no_class_of_their_own() -> None:
    run = Run([Thing("chair1", still(0), class_id=4)])

    def unsure(instance: InstancePrediction) -> InstancePrediction:
        return replace(instance, score=0.4, alternatives=(LabelScore("sofa", 0.45), LabelScore("bed", 0.1)))

    graph = run.steps(4, edit=unsure)
    (chair,) = graph.objects
    assert (chair.label, chair.class_id) == ("chair", 4)
    assert chair.score == pytest.approx(0.4)
    assert [a.label for a in chair.alternatives] == ["sofa", "bed"]
    assert [a.score for a in chair.alternatives] == pytest.approx([0.45, 0.1])


def test_attributes_are_a_vote_too() -> None:
    run = Run([Thing("person1", still(0))])
    run.steps(5, edit=lambda i: replace(i, attributes=("standing", "red")))
    assert run.step(5, edit=lambda i: replace(i, attributes=("red",))).objects[0].attributes == ("red", "standing")
    later = run.steps(10, 6, edit=lambda i: replace(i, attributes=("red", "sitting")))
    assert later.objects[0].attributes == ("red", "sitting")


def test_times_and_counts() -> None:
    run = Run([Thing("person1", seen_while(still(0), (0.5, 99)))])
    graph = run.steps(12)
    (person,) = graph.objects
    assert (person.first_seen_ns, person.last_seen_ns) == (START + 2 * STEP, START + 11 * STEP)
    assert person.num_points == POINTS
    assert (graph.stamp_ns, graph.window_start_ns, graph.window_end_ns) == (
        START + 11 * STEP,
        START + 4 * STEP,
        START + 11 * STEP,
    )
    assert (graph.num_frames, graph.sequence, graph.model_id, graph.model_sha256) == (8, 11, "tiny", "00ff")


def test_velocity_comes_from_the_window_and_only_for_things() -> None:
    run = Run([Thing("person1", walk(-2, 0.8)), Thing("wall", walk(0, 0.8, 4), 2.0, False)])
    first = {o.label: o for o in run.step(0).objects}
    assert first["person"].velocity is None, "one frame tells no velocity"
    later = {o.label: o for o in run.steps(10, 1).objects}
    assert later["person"].velocity is not None
    assert later["person"].velocity.tolist() == pytest.approx([0.8, 0, 0], abs=0.05)
    assert later["wall"].velocity is None


def test_a_box_is_that_of_the_newest_frame_without_its_strays() -> None:
    run = Run([Thing("box", walk(0, 1.0), size=1.0)])
    (box,) = run.steps(8).objects
    assert box.position.tolist() == pytest.approx([1.75, 0, 0.5], abs=0.08)
    assert box.size.tolist() == pytest.approx([1, 1, 1], abs=0.1)


def test_a_single_point_still_has_a_box() -> None:
    run = Run([Thing("dot", still(1, 2, 3), size=0.0)])
    (dot,) = run.step(0).objects
    assert dot.position.tolist() == pytest.approx([1, 2, 3]) and (dot.size > 0).all()


def test_boxes_velocities_and_points_are_turned_into_the_graph_frame() -> None:
    T_core_sensor = np.eye(4)
    rotation = Rotation.from_euler("zyx", [30, 20, -10], degrees=True)
    T_core_sensor[:3, :3], T_core_sensor[:3, 3] = rotation.as_matrix(), [0.5, -1.0, 1.2]
    world = [Thing("person1", walk(-2, 0.8))]
    core, turned = Run(world), Run(world, T_core_sensor=T_core_sensor)
    (a,), (b,) = core.steps(10).objects, turned.steps(10).objects
    back = np.linalg.inv(T_core_sensor)
    np.testing.assert_allclose(b.position, back[:3, :3] @ a.position + back[:3, 3], atol=1e-5)
    assert a.velocity is not None and b.velocity is not None
    np.testing.assert_allclose(b.velocity, back[:3, :3] @ a.velocity, atol=1e-5)
    np.testing.assert_allclose(b.size, a.size, atol=1e-6)
    # The box is upright in the core frame; seen from the sensor it is turned the other way.
    assert (Rotation.from_quat(b.orientation) * rotation).magnitude() < 1e-9
    graph = turned.graphs[-1]
    frame, owner = frame_of(world, 9, T_core_sensor)
    assert graph.frame_id == "lidar" and np.array_equal(graph.cloud.points, frame.frame.points)
    assert np.array_equal(graph.cloud.track_id, (owner == 1).astype(np.uint32))
    mine = graph.cloud.points[graph.cloud.track_id == 1]
    local = (mine - b.position) @ Rotation.from_quat(b.orientation).as_matrix()
    assert (np.abs(local) <= b.size / 2 + 0.05).mean() > 0.95, "the turned box holds the object's points"


def test_with_a_target_frame_the_graph_is_in_the_core_frame() -> None:
    run = Run([Thing("chair1", still(1))])
    T = np.eye(4)
    T[:3, 3] = [3, 0, 0]
    prediction = run.predict(3)
    frames = tuple(
        replace(f, T_core_sensor=T, alignment="tf", graph_frame_id="odom", T_graph_core=np.eye(4))
        for f in prediction.window.frames
    )
    graph = run.tracker.update(replace(prediction, window=replace(prediction.window, frames=frames)), "m", "")
    assert graph.frame_id == "odom" and np.array_equal(graph.cloud.points, frames[-1].points)
    assert graph.objects[0].orientation.tolist() == [0, 0, 0, 1]


def test_the_labelled_cloud_says_what_the_graph_says() -> None:
    run = Run([Thing("person1", still(0), class_id=7), Thing("floor", still(0, 5), 2.0, False, 2)])
    graph = run.steps(5)
    for o in graph.objects:
        mine = graph.cloud.track_id == o.track_id
        assert mine.sum() == o.num_points == POINTS
        assert set(graph.cloud.class_id[mine]) == {o.class_id}
        assert graph.cloud.score[mine] == pytest.approx(o.score)
    free = graph.cloud.track_id == 0
    assert free.sum() == 30 and (graph.cloud.class_id[free] == -1).all() and not graph.cloud.score[free].any()
    assert np.array_equal(graph.cloud.source_index, np.arange(30 + 2 * POINTS))


# Bounds


def test_memory_does_not_grow_with_the_run() -> None:
    run = Run(pair(), num_frames=4, config=replace(EAGER, relation_history_s=2.0))
    for newest in range(200):
        words = (f"word{newest}", f"verb{newest}")
        run.step(
            newest,
            rename={"person1": words[0]},
            relations=lambda index, frames, w=words: [replace(ongoing(index, frames), predicate=w[1])],
        )
    state = run.tracker
    assert len(state._last_labels) == 4 and len(state._tracks) == 2
    assert max(len(t.votes) for t in state._tracks.values()) < 60
    assert len(run.graphs[-1].relations) < 20


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 100_000))
def test_whatever_the_model_says_the_graph_is_valid(seed: int) -> None:
    """Random labels, kinds, relations, epochs and window lengths: SceneGraph validates itself on construction."""
    rng = np.random.default_rng(seed)
    run = Run([Thing(f"person{k}", seen_while(walk(k, 0.1), (0, rng.uniform(0, 5)))) for k in range(4)])
    epoch = 0
    seen: dict[int, bool] = {}
    for newest in range(12):
        run.num_frames = int(rng.integers(1, 6))
        prediction = run.predict(newest)
        number = int(rng.integers(0, 6))
        if rng.random() < 0.1:
            epoch, seen = epoch + 1, {}
        instances = tuple(
            InstancePrediction(str(rng.choice(["a", "b", "c"])), -1, float(rng.random()), bool(rng.random() < 0.7))
            for _ in range(number)
        )
        frames = len(prediction.window.frames)
        relations = tuple(
            RelationPrediction(
                *(int(rng.integers(number)), "p", 0, int(rng.integers(number)), 0.5),
                *sorted(int(v) for v in rng.choice(frames + 1, 2, replace=False)),
            )
            for _ in range(3 if number else 0)
        )
        labels = tuple(rng.integers(0, number + 1, len(p)).astype(np.int32) for p in prediction.point_instance)
        window = replace(prediction.window, epoch=epoch)
        graph = run.tracker.update(WindowPrediction(window, instances, labels, relations, GraphStatus.OK, ""), "m", "")
        known = {o.track_id: o for o in graph.objects}
        assert set(graph.cloud.track_id.tolist()) <= {0, *known}
        assert [o.num_points for o in graph.objects] == [int((graph.cloud.track_id == i).sum()) for i in known]
        for o in graph.objects:
            assert 0.0 <= o.score <= 1.0 and o.first_seen_ns <= o.last_seen_ns <= graph.stamp_ns
            assert seen.setdefault(o.track_id, o.is_thing) == o.is_thing
        for r in graph.relations:
            assert r.start_ns < r.end_ns <= graph.stamp_ns + 1
            assert not r.ongoing or r.end_ns == graph.stamp_ns + 1
