"""The worker thread, what it does about memory, and what the node remembers of itself."""

from __future__ import annotations

import threading

import pytest
from ros_support import wait_until

from psg4d_ros.config import InferenceConfig
from psg4d_ros.ros.health import Health
from psg4d_ros.ros.load import GOOD_WINDOWS_TO_RECOVER, LoadShedder, is_out_of_memory
from psg4d_ros.ros.worker import NewestWorker, PreparingWorker


def ignore(item: object, error: Exception) -> None:
    raise AssertionError(f"{item} failed with {error}")


def test_the_newest_item_is_served_and_the_replaced_ones_are_counted() -> None:
    busy, go_on, served = threading.Event(), threading.Event(), []

    def work(item: int) -> None:
        busy.set()
        assert go_on.wait(10)
        served.append(item)

    worker = NewestWorker(work, ignore)
    worker.start()
    worker.offer(0)
    assert busy.wait(10)  # item 0 is being worked on; of the next three only the last is still of interest
    for item in (1, 2, 3):
        worker.offer(item)
    go_on.set()
    wait_until(lambda: len(served) == 2, "two items served")
    assert worker.stop(10)
    assert served == [0, 3]
    assert (worker.offered, worker.served, worker.replaced, worker.failed) == (4, 2, 2, 0)


def test_an_exception_costs_one_item_and_not_the_thread() -> None:
    errors: list[tuple[int, Exception]] = []
    served: list[int] = []

    def work(item: int) -> None:
        if item == 1:
            raise ZeroDivisionError("item 1")
        served.append(item)

    worker = NewestWorker(work, lambda item, error: errors.append((item, error)))
    worker.start()
    for item in range(3):
        worker.offer(item)
        wait_until(lambda item=item: len(served) + len(errors) == item + 1, f"item {item}")
    assert worker.stop(10)
    assert served == [0, 2]
    assert [(item, type(error)) for item, error in errors] == [(1, ZeroDivisionError)]
    assert worker.failed == 1


def test_a_failing_error_handler_costs_neither_the_thread_nor_the_log(caplog: pytest.LogCaptureFixture) -> None:
    served: list[int] = []

    def work(item: int) -> None:
        if item == 0:
            raise ZeroDivisionError("item 0")
        served.append(item)

    def on_error(item: int, error: Exception) -> None:
        raise KeyError("handler")

    worker = NewestWorker(work, on_error)
    worker.start()
    worker.offer(0)
    wait_until(lambda: worker.unreported == 1, "the failure of the handler")
    worker.offer(1)
    wait_until(lambda: served == [1], "the next item")
    assert worker.alive
    assert worker.stop(10)
    assert not worker.alive
    assert (worker.failed, worker.unreported) == (1, 1)
    assert "ZeroDivisionError: item 0" in caplog.text and "KeyError: 'handler'" in caplog.text


def test_it_tells_how_long_an_item_has_been_under_way() -> None:
    now, busy, go_on = [100.0], threading.Event(), threading.Event()

    def work(item: int) -> None:
        busy.set()
        assert go_on.wait(10)

    worker = NewestWorker(work, ignore, monotonic=lambda: now[0])
    assert not worker.alive
    worker.start()
    assert worker.busy_s() == 0.0
    worker.offer(0)
    assert busy.wait(10)
    now[0] += 12.5
    assert worker.busy_s() == 12.5
    go_on.set()
    wait_until(lambda: worker.served == 1 and worker.busy_s() == 0.0, "the end of the item")
    assert worker.stop(10)


def test_stopping_waits_for_the_item_under_way_and_drops_the_one_that_waits() -> None:
    busy, go_on, served = threading.Event(), threading.Event(), []

    def work(item: int) -> None:
        busy.set()
        assert go_on.wait(10)
        served.append(item)

    worker = NewestWorker(work, ignore)
    worker.start()
    worker.offer(0)
    assert busy.wait(10)
    worker.offer(1)
    assert not worker.stop(0.05)  # still at item 0
    go_on.set()
    assert worker.stop(10)
    assert served == [0]
    worker.start()  # and again, as after deactivate and activate
    worker.offer(2)
    wait_until(lambda: served == [0, 2], "item 2")
    assert worker.stop(10)


def test_a_worker_that_never_started_stops() -> None:
    assert NewestWorker(print, ignore).stop(1)


def test_a_worker_stops_when_a_signal_came_before_its_thread_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    worker = NewestWorker(print, ignore)
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        worker.start()
    assert worker.stop(1)


def test_the_next_item_is_prepared_while_one_is_under_way_and_the_replaced_ones_are_counted() -> None:
    busy, go_on = threading.Event(), threading.Event()
    prepared: list[int] = []
    served: list[tuple[int, str]] = []

    def work(item: int) -> None:
        busy.set()
        assert go_on.wait(10)
        served.append((item, threading.current_thread().name))

    worker = PreparingWorker(prepared.append, work, ignore)
    worker.start()
    worker.offer(0)
    assert busy.wait(10)
    for item in (1, 2, 3):
        worker.offer(item)
        wait_until(lambda item=item: prepared[-1] == item, f"item {item} is prepared while item 0 is under way")
    assert worker.alive
    assert worker.busy_s() > 0
    go_on.set()
    wait_until(lambda: worker.served == 2, "two items served")
    assert worker.stop(10)
    assert not worker.alive
    assert served == [(0, "inference"), (3, "inference")]
    assert (worker.offered, worker.served, worker.replaced, worker.failed) == (4, 2, 2, 0)


def held_up(served: list[int]) -> tuple[PreparingWorker[int], threading.Event]:
    """A worker that prepares item 0 until the event is set."""
    busy, go_on = threading.Event(), threading.Event()

    def prepare(item: int) -> None:
        busy.set()
        assert go_on.wait(10)

    worker = PreparingWorker(prepare, served.append, ignore)
    worker.start()
    worker.offer(0)
    assert busy.wait(10)
    return worker, go_on


def test_items_are_replaced_while_they_wait_to_be_prepared_too() -> None:
    served: list[int] = []
    worker, go_on = held_up(served)
    for item in (1, 2):
        worker.offer(item)
    go_on.set()
    wait_until(lambda: 2 in served, "the newest item")
    wait_until(lambda: worker.offered == worker.served + worker.replaced, "each item is served or replaced")
    assert 1 not in served
    assert worker.stop(10)


def test_what_cannot_be_prepared_is_worked_on_all_the_same() -> None:
    errors: list[str] = []

    def fail(item: int) -> None:
        raise MemoryError(f"item {item}")

    def work(item: int) -> None:
        if item == 1:
            fail(item)

    worker = PreparingWorker(fail, work, lambda item, error: errors.append(str(error)))
    worker.start()
    for item in range(3):
        worker.offer(item)
        wait_until(lambda item=item: worker.served + worker.failed == item + 1, f"item {item}")
    assert worker.stop(10)
    assert (worker.served, worker.failed, worker.unreported) == (2, 1, 0)
    assert errors == ["item 1"], "told once, by the work"


def test_stopping_waits_for_preparation_and_work_and_it_may_start_again() -> None:
    served: list[int] = []
    worker, go_on = held_up(served)
    assert not worker.stop(0.05)  # still at item 0
    go_on.set()
    assert worker.stop(10)
    served.clear()
    worker.start()
    worker.offer(1)
    wait_until(lambda: served == [1], "item 1")
    assert worker.stop(10)


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_each_failure_halves_the_points_and_good_windows_bring_them_back() -> None:
    shedder = LoadShedder(InferenceConfig(max_points=100_000))
    assert (shedder.max_points, shedder.relations, shedder.reason) == (100_000, True, "")
    shedder.failed(points=40_000)  # half of what failed, not half of the limit, which would change nothing
    assert (shedder.max_points, shedder.relations) == (20_000, False)
    assert "20000 points" in shedder.reason
    widened = [shedder.succeeded() for _ in range(3 * GOOD_WINDOWS_TO_RECOVER)]
    assert sum(widened) == 3
    assert (shedder.max_points, shedder.relations, shedder.reason) == (100_000, True, "")
    assert not shedder.succeeded()


def test_a_relapse_makes_the_node_more_patient() -> None:
    shedder = LoadShedder(InferenceConfig(max_points=100_000))
    shedder.failed(60_000)
    shedder.failed(30_000)
    assert shedder.max_points == 15_000
    assert not any(shedder.succeeded() for _ in range(2 * GOOD_WINDOWS_TO_RECOVER - 1))
    assert shedder.succeeded()


def test_relations_that_are_not_configured_do_not_come_back() -> None:
    shedder = LoadShedder(InferenceConfig(max_points=4, relations=False))
    shedder.failed(4)
    assert shedder.max_points >= 1
    while shedder.reduced:
        shedder.succeeded()
    assert not shedder.relations


def test_complaints_are_all_counted_and_logged_now_and_then() -> None:
    now = [100.0]
    health = Health(monotonic=lambda: now[0], quiet_s=5.0)
    assert health.complain("clouds_rejected", "first") == "first"
    assert health.complain("clouds_rejected", "second") is None
    assert health.complain("errors", "another kind") == "another kind"
    now[0] += 6.0
    assert health.complain("clouds_rejected", "third") == "third (1 more of this kind)"
    assert health.counts() == {"clouds_rejected": 3, "errors": 1}
    assert health.recent_complaints(within_s=3.0) == {"clouds_rejected": "third"}


def test_the_age_of_the_input_goes_by_the_steady_clock() -> None:
    now = [100.0]
    health = Health(monotonic=lambda: now[0])
    assert health.input_age_s() is None
    health.cloud_arrived(10)
    now[0] += 2.5
    assert health.input_age_s() == 2.5
    assert health.counts() == {"clouds_received": 1}
