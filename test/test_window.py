"""The sliding window: admission of stamps, epochs, origin, and the rows of the fault matrix about clocks and bursts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psg4d_ros.config import WindowConfig
from psg4d_ros.structures import AlignedFrame, PointFrame, Window
from psg4d_ros.window import MIN_ORIGIN_POINTS, Admission, SlidingWindow, voxel_origin

MS = 1_000_000
S = 1_000_000_000
START = 1_700_000_000 * S


def aligned(
    stamp_ns: int, points: np.ndarray | None = None, alignment: str = "tf", frame_id: str = "map"
) -> AlignedFrame:
    xyz = np.zeros((0, 3), np.float32) if points is None else np.asarray(points, np.float32)
    frame = PointFrame(xyz, None, None, np.arange(len(xyz)), stamp_ns, "sensor")
    return AlignedFrame(frame, xyz, np.eye(4), alignment, frame_id, np.eye(4))


def feed(window: SlidingWindow, stamps: list[int]) -> list[Admission]:
    """Admit stamps in order and push what is kept, as the pipeline does."""
    admissions = []
    for stamp in stamps:
        admissions.append(window.admit(stamp))
        if admissions[-1].kept:
            window.push(aligned(stamp, np.ones((3, 3))))
    return admissions


def counts_of(window: SlidingWindow, **expected: int) -> None:
    """All counts are 0 but those given."""
    assert window.counts == dict.fromkeys(window.counts, 0) | expected


def stamps_of(window: Window | None) -> list[int]:
    assert window is not None
    return [f.stamp_ns for f in window.frames]


def test_frames_at_the_interval_are_kept_and_those_in_between_are_skipped_not_lost() -> None:
    window = SlidingWindow(WindowConfig(frame_interval_s=0.25))
    admissions = feed(window, [START + i * 50 * MS for i in range(11)])  # 20 Hz for half a second
    assert [i for i, a in enumerate(admissions) if a is Admission.ACCEPT] == [0, 5, 10]
    counts_of(window, accepted=3, skipped=8)


def test_a_stream_at_exactly_the_interval_survives_clock_jitter() -> None:
    window = SlidingWindow(WindowConfig(frame_interval_s=0.25))
    jitter = np.random.default_rng(0).integers(-2 * MS, 2 * MS, 100)
    stamps = [START + i * 250 * MS + int(j) for i, j in enumerate(jitter)]
    assert feed(window, stamps) == [Admission.ACCEPT] * 100


def test_interval_zero_keeps_every_new_frame() -> None:
    window = SlidingWindow(WindowConfig(frame_interval_s=0.0))
    assert feed(window, [START, START + 1, START + 2]) == [Admission.ACCEPT] * 3


def test_a_burst_of_ten_times_the_rate_is_skipped_and_counted() -> None:
    window = SlidingWindow(WindowConfig(frame_interval_s=0.25))
    normal = [START + i * 250 * MS for i in range(8)]
    burst = [normal[-1] + (i + 1) * 25 * MS for i in range(20)]
    feed(window, normal + burst)
    counts = window.counts
    assert counts["accepted"] == 10 and counts["skipped"] == 18
    assert counts["accepted"] + counts["skipped"] == len(normal + burst)
    assert window.epoch == 0


def test_the_window_slides_and_never_holds_more_than_its_frames() -> None:
    window = SlidingWindow(WindowConfig(num_frames=3, frame_interval_s=0.1))
    seen = []
    for i in range(5):
        stamp = START + i * 100 * MS
        assert window.admit(stamp) is Admission.ACCEPT
        seen.append(window.push(aligned(stamp)))
    assert stamps_of(seen[1]) == [START, START + 100 * MS]
    assert stamps_of(seen[4]) == [START + i * 100 * MS for i in (2, 3, 4)]


def test_no_window_before_min_frames() -> None:
    window = SlidingWindow(WindowConfig(num_frames=8, min_frames=3, frame_interval_s=0.1))
    results = [window.push(aligned(START + i * S)) for i in range(4)]
    assert [r is not None for r in results] == [False, False, True, True]


def test_min_frames_beyond_the_window_means_a_full_window() -> None:
    window = SlidingWindow(WindowConfig(num_frames=2, min_frames=5))
    assert window.push(aligned(START)) is None
    assert window.push(aligned(START + S)) is not None


def test_duplicate_and_older_stamps_are_counted_and_change_nothing() -> None:
    window = SlidingWindow(WindowConfig(frame_interval_s=0.1, max_backward_s=1.0))
    admissions = feed(window, [START, START + S, START + S, START + S - 500 * MS, START + 2 * S])
    accept = Admission.ACCEPT
    assert admissions == [accept, accept, Admission.DUPLICATE, Admission.LATE, accept]
    assert window.epoch == 0
    counts_of(window, accepted=3, late=1, duplicate=1)


def test_a_paused_simulation_clock_goes_on_where_it_stopped() -> None:
    window = SlidingWindow(WindowConfig(frame_interval_s=0.1))
    admissions = feed(window, [START, START + 200 * MS] + [START + 200 * MS] * 50 + [START + 400 * MS])
    assert admissions[-1] is Admission.ACCEPT
    assert window.counts["duplicate"] == 50 and window.epoch == 0


def test_a_forward_jump_of_the_clock_starts_a_new_epoch() -> None:
    window = SlidingWindow(WindowConfig(frame_interval_s=0.1, max_gap_s=3.0))
    feed(window, [START, START + 200 * MS])
    assert window.admit(START + 3600 * S) is Admission.NEW_EPOCH
    result = window.push(aligned(START + 3600 * S))
    assert result is not None and result.epoch == 1 and stamps_of(result) == [START + 3600 * S]


def test_a_gap_of_exactly_the_limit_is_no_jump() -> None:
    window = SlidingWindow(WindowConfig(max_gap_s=3.0))
    assert feed(window, [START, START + 3 * S, START + 6 * S + 1])[1:] == [Admission.ACCEPT, Admission.NEW_EPOCH]


def test_a_bag_that_loops_starts_a_new_epoch_each_time_round() -> None:
    window = SlidingWindow(WindowConfig(frame_interval_s=0.25))
    loop = [START + i * 250 * MS for i in range(12)]
    for turn in range(3):
        admissions = feed(window, loop)
        assert admissions[0] is (Admission.NEW_EPOCH if turn else Admission.ACCEPT)
        assert set(admissions[1:]) == {Admission.ACCEPT}
        assert window.epoch == turn
    counts_of(window, accepted=36, epochs=2)


def test_one_cloud_without_a_stamp_does_not_throw_the_epoch_away() -> None:
    window = SlidingWindow(WindowConfig(frame_interval_s=0.1))
    admissions = feed(window, [START, 0, START + 200 * MS])
    assert admissions == [Admission.ACCEPT, Admission.LATE, Admission.ACCEPT]
    assert window.epoch == 0


def test_simulation_time_may_begin_at_zero_and_restart_there() -> None:
    window = SlidingWindow(WindowConfig(frame_interval_s=0.1))
    run = [i * 200 * MS for i in range(30)]
    assert set(feed(window, run)) == {Admission.ACCEPT}
    again = feed(window, run)
    assert again[0] is Admission.LATE and again[1] is Admission.NEW_EPOCH and set(again[2:]) == {Admission.ACCEPT}
    assert window.epoch == 1


def test_gaps_count_between_clouds_not_between_kept_frames() -> None:
    window = SlidingWindow(WindowConfig(frame_interval_s=10.0, max_gap_s=3.0))
    admissions = feed(window, [START + i * S for i in range(21)])
    assert admissions.count(Admission.ACCEPT) == 3 and window.epoch == 0


def test_a_frame_whose_alignment_failed_is_replaced_by_the_next_one() -> None:
    window = SlidingWindow(WindowConfig(frame_interval_s=0.25))
    assert window.admit(START) is Admission.ACCEPT  # no push: the transform was missing
    assert window.admit(START + 50 * MS) is Admission.ACCEPT
    result = window.push(aligned(START + 50 * MS))
    assert stamps_of(result) == [START + 50 * MS]
    counts_of(window, accepted=1)


def test_a_frame_whose_alignment_failed_counts_as_nothing_and_the_next_one_is_not_skipped() -> None:
    window = SlidingWindow(WindowConfig(frame_interval_s=0.25))
    feed(window, [START])
    assert window.admit(START + 250 * MS) is Admission.ACCEPT  # no push: the transform was missing
    counts_of(window, accepted=1)
    assert feed(window, [START + 300 * MS, START + 350 * MS]) == [Admission.ACCEPT, Admission.SKIPPED]
    assert window.admit(START + 100 * S) is Admission.NEW_EPOCH  # no push here either
    assert feed(window, [START + 100 * S + 50 * MS]) == [Admission.ACCEPT]
    counts_of(window, accepted=3, skipped=1, epochs=1)


def test_reset_forgets_frames_stamps_and_origin() -> None:
    window = SlidingWindow(WindowConfig(frame_interval_s=0.1))
    feed(window, [START, START + S])
    window.reset()
    assert window.admit(START - 100 * S) is Admission.ACCEPT
    result = window.push(aligned(START - 100 * S, np.full((4, 3), 50.0)))
    assert result is not None and result.epoch == 1 and len(result.frames) == 1
    assert result.origin.tolist() == [50.0, 50.0, 50.0]


def test_pushing_out_of_order_is_refused() -> None:
    window = SlidingWindow(WindowConfig())
    window.push(aligned(START))
    with pytest.raises(ValueError, match="admit it first"):
        window.push(aligned(START))


def test_origin_is_fixed_by_the_first_frame_with_points_and_stays_for_the_epoch() -> None:
    window = SlidingWindow(WindowConfig(frame_interval_s=0.1))
    empty = window.push(aligned(START))
    assert empty is not None and empty.origin.tolist() == [0, 0, 0]
    first = window.push(aligned(START + S, np.full((10, 3), 7.3)))
    assert first is not None and first.origin.tolist() == [7.0, 7.0, 7.3]
    later = window.push(aligned(START + 2 * S, np.full((10, 3), -90.0)))
    assert later is not None and later.origin.tolist() == [7.0, 7.0, 7.3]
    settled = window.push(aligned(START + 3 * S, np.full((MIN_ORIGIN_POINTS, 3), 4.2)))
    assert settled is not None and settled.epoch == 1
    kept = window.push(aligned(START + 4 * S, np.full((MIN_ORIGIN_POINTS, 3), -90.0)))
    assert kept is not None and kept.origin.tolist() == [4.0, 4.0, 4.2] and kept.epoch == 1


def test_a_stray_point_does_not_fix_the_floor_for_the_epoch() -> None:
    window = SlidingWindow(WindowConfig(frame_interval_s=0.1))
    stray = window.push(aligned(START, np.array([[80.0, 0.0, 25.0]])))
    assert stray is not None and stray.origin.tolist() == [80.0, 0.0, 25.0], "a graph there is all the same"
    floor = np.c_[np.random.default_rng(0).uniform(-3, 3, (MIN_ORIGIN_POINTS, 2)), np.full(MIN_ORIGIN_POINTS, -1.2)]
    found = window.push(aligned(START + S, floor))
    assert found is not None and found.epoch == 1 and stamps_of(found) == [START + S]
    assert found.origin.tolist() == pytest.approx([0.0, 0.0, -1.2])
    sparse = window.push(aligned(START + 2 * S, np.array([[80.0, 0.0, 25.0]])))
    assert sparse is not None and sparse.epoch == 1 and np.array_equal(sparse.origin, found.origin)
    counts_of(window, accepted=3, epochs=1)


def test_an_origin_that_turns_out_right_costs_no_epoch() -> None:
    window = SlidingWindow(WindowConfig(frame_interval_s=0.1))
    window.push(aligned(START, np.zeros((5, 3))))
    full = window.push(aligned(START + S, np.zeros((MIN_ORIGIN_POINTS, 3))))
    assert full is not None and full.epoch == 0 and len(full.frames) == 2
    moved = window.push(aligned(START + 2 * S, np.ones((MIN_ORIGIN_POINTS, 3))))
    assert moved is not None and moved.epoch == 0, "by now it is settled"


def test_a_run_of_sparse_clouds_is_one_epoch() -> None:
    window = SlidingWindow(WindowConfig(num_frames=4, frame_interval_s=0.1))
    rng = np.random.default_rng(0)
    for i in range(10):
        result = window.push(aligned(START + i * S, rng.uniform(-9, 9, (int(rng.integers(1, MIN_ORIGIN_POINTS)), 3))))
        assert result is not None and result.epoch == 0 and len(result.frames) == min(i + 1, 4)


def test_one_point_is_a_frame_like_any_other() -> None:
    window = SlidingWindow(WindowConfig())
    result = window.push(aligned(START, np.array([[1.4, -2.6, 0.126]])))
    assert result is not None and result.origin.tolist() == pytest.approx([1.0, -3.0, 0.13])


def test_origin_height_is_the_floor_and_not_a_stray_point_below_it() -> None:
    rng = np.random.default_rng(1)
    floor = np.c_[rng.uniform(-3, 3, (2000, 2)), np.full(2000, -1.2)]
    table = np.c_[rng.uniform(-1, 1, (500, 2)), np.full(500, -0.4)]
    strays = np.array([[0.0, 0.0, -30.0], [1e30, -1e30, 1e30]])
    origin = voxel_origin(aligned(START, np.concatenate([floor, table, strays])))
    assert origin.tolist() == pytest.approx([0.0, 0.0, -1.2])


def test_another_core_frame_begins_a_new_epoch_because_nothing_compares_any_more() -> None:
    window = SlidingWindow(WindowConfig(frame_interval_s=0.1))
    points = np.ones((5, 3))
    window.push(aligned(START, points[:1], "identity", "lidar"))
    found = window.push(aligned(START + S, points, "floor", "lidar"))
    assert found is not None and found.epoch == 1 and len(found.frames) == 1
    empty = window.push(aligned(START + 2 * S, None, "identity", "lidar"))
    assert empty is not None and empty.epoch == 1, "an empty frame says nothing of its coordinates"
    other = window.push(aligned(START + 3 * S, points, "floor", "other_lidar"))
    assert other is not None and other.epoch == 2
    assert window.counts["epochs"] == 2


def test_frames_that_alternate_are_counted_apart_and_named() -> None:
    window = SlidingWindow(WindowConfig(frame_interval_s=0.1))
    points = np.ones((MIN_ORIGIN_POINTS, 3))
    window.push(aligned(START, points[:5], "identity", "left"))
    window.push(aligned(START + S, points, "floor", "left"))
    counts_of(window, accepted=2, epochs=1)  # the floor was found at last: that is no other sensor
    assert window.frame_change is None
    window.push(aligned(START + 2 * S, None, "identity", "right"))
    assert window.frame_change is None, "an empty frame says nothing of its coordinates"
    for i, name in enumerate(("right", "left", "right"), 3):
        window.push(aligned(START + i * S, points, "floor", name))
    counts_of(window, accepted=6, epochs=4, core_frame_changes=3)
    assert window.frame_change == ("left", "right")


@pytest.mark.parametrize("frame_id", ["lidar", "other", ""])
def test_an_empty_frame_takes_on_the_placement_of_the_epoch(frame_id: str) -> None:
    window = SlidingWindow(WindowConfig(num_frames=2, frame_interval_s=0.1))
    T_core_sensor, T_graph_core = np.diag([-1.0, -1.0, 1.0, 1.0]), np.diag([-1.0, -1.0, 1.0, 1.0])
    T_core_sensor[2, 3], T_graph_core[2, 3] = 1.5, -1.5
    full = aligned(START, np.ones((5, 3)), "floor", "lidar")
    window.push(replace(full, T_core_sensor=T_core_sensor, T_graph_core=T_graph_core))
    for i in range(1, 5):  # for longer than the window remembers a frame with points
        result = window.push(aligned(START + i * S, None, "identity", frame_id))
        assert result is not None and result.epoch == 0
        newest = result.newest
        assert (newest.stamp_ns, newest.alignment, newest.graph_frame_id) == (START + i * S, "floor", "lidar")
        assert np.array_equal(newest.T_core_sensor, T_core_sensor)
        assert np.array_equal(newest.T_graph_core, T_graph_core)
    window.reset()
    first = window.push(aligned(START + 9 * S, None, "identity", frame_id))
    assert first is not None and first.newest.graph_frame_id == frame_id, "nothing is known of the new epoch"


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=60), st.integers(1, 6), st.sampled_from([0.0, 0.1, 1.0]))
def test_whatever_the_stamps_windows_are_ordered_and_every_cloud_is_counted(
    steps: list[int], num_frames: int, interval_s: float
) -> None:
    config = WindowConfig(num_frames=num_frames, frame_interval_s=interval_s)
    window = SlidingWindow(config)
    stamp, epoch = START, 0
    for step in steps:
        stamp += step * 250 * MS
        if window.admit(stamp).kept:
            result = window.push(aligned(stamp, np.ones((2, 3))))  # Window itself refuses stamps out of order
            assert result is not None and result.newest.stamp_ns == stamp
            assert len(result.frames) <= num_frames and result.epoch >= epoch
            gaps = np.diff(stamps_of(result))
            assert (gaps >= interval_s * S * 0.97).all()
            epoch = result.epoch
    counts = window.counts
    assert sum(counts[name] for name in ("accepted", "skipped", "late", "duplicate")) == len(steps)
    assert counts["epochs"] == window.epoch
