"""The thread that runs the model and the one that prepares its windows: they always take the newest that is due."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)


class NewestWorker(Generic[T]):
    """Runs ``work(item)`` in a thread, one item at a time.

    While it is busy, a newer item replaces the one that waits: ``replaced`` counts those that were never served.
    Exceptions of ``work`` go to ``on_error(item, exception)``, and the thread goes on with the next item; exceptions
    of ``on_error`` itself are counted in ``unreported`` and logged. Counters go on over stop and start.
    """

    def __init__(
        self,
        work: Callable[[T], None],
        on_error: Callable[[T, Exception], None],
        monotonic: Callable[[], float] = time.monotonic,
        name: str = "inference",
    ) -> None:
        self._name = name
        self._work = work
        self._on_error = on_error
        self._monotonic = monotonic
        self._busy_since: float | None = None
        self._condition = threading.Condition()
        self._waiting: list[T] = []  # at most one; a list because None may be a legal item
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.offered = 0
        self.served = 0
        self.replaced = 0
        self.failed = 0
        self.unreported = 0

    @property
    def alive(self) -> bool:
        """True while the thread runs: from ``start`` until it has stopped."""
        return self._thread is not None and self._thread.is_alive()

    def busy_s(self) -> float:
        """How long the item under way has been worked on; 0 when there is none."""
        since = self._busy_since
        return 0.0 if since is None else self._monotonic() - since

    def start(self) -> None:
        """Start the thread; after a ``stop`` that did not end it, RuntimeError."""
        if self.alive:
            raise RuntimeError("the worker still runs")
        self._stopping = False
        # A daemon, so that a process that is told to end is never held for ever by a long inference.
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def offer(self, item: T) -> None:
        """Hand over the newest item; never blocks."""
        with self._condition:
            self.offered += 1
            if self._waiting:
                self.replaced += 1
            self._waiting = [item]
            self._condition.notify()

    def stop(self, timeout_s: float | None = None) -> bool:
        """Ask the thread to end after the item it is working on; True when it did within ``timeout_s`` (None: wait).

        An item that still waits is dropped. May be called more than once.
        """
        with self._condition:
            self._stopping = True
            self._waiting = []
            self._condition.notify()
        if self._thread is None or self._thread.ident is None:  # not started: a signal may have come in between
            return True
        self._thread.join(timeout_s)
        return not self.alive

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._waiting and not self._stopping:
                    self._condition.wait()
                if self._stopping:
                    return
                item = self._waiting.pop()
            self._busy_since = self._monotonic()
            try:
                self._work(item)
                self.served += 1
            except Exception as error:
                self.failed += 1
                self._tell(item, error)
            finally:
                self._busy_since = None
            del item  # a window holds megabytes; do not keep it while waiting for the next

    def _tell(self, item: T, error: Exception) -> None:
        try:
            self._on_error(item, error)
        except Exception:
            self.unreported += 1
            log.exception("an error could not be reported: %s: %s", type(error).__name__, error)


class PreparingWorker(Generic[T]):
    """A NewestWorker in front of which another one runs ``prepare(item)``, while ``work`` is busy with an older item.

    Of both the newest item is served, and the counters are those of both: an item that is offered is served, replaced
    or fails. An error of ``prepare`` is left to ``work``, which gets the item all the same and meets it again.
    """

    def __init__(
        self, prepare: Callable[[T], None], work: Callable[[T], None], on_error: Callable[[T, Exception], None]
    ) -> None:
        self._prepare = prepare
        self._second = NewestWorker(work, on_error)
        self._first = NewestWorker(self._hand_on, on_error, name="preparation")

    @property
    def offered(self) -> int:
        return self._first.offered

    @property
    def served(self) -> int:
        return self._second.served

    @property
    def replaced(self) -> int:
        return self._first.replaced + self._second.replaced

    @property
    def failed(self) -> int:
        return self._second.failed

    @property
    def unreported(self) -> int:
        return self._second.unreported

    @property
    def alive(self) -> bool:
        """True while both threads run."""
        return self._first.alive and self._second.alive

    def busy_s(self) -> float:
        """How long the item under way has been worked on; 0 when there is none."""
        return self._second.busy_s()

    def start(self) -> None:
        """See NewestWorker."""
        self._second.start()
        self._first.start()

    def offer(self, item: T) -> None:
        """See NewestWorker."""
        self._first.offer(item)

    def stop(self, timeout_s: float | None = None) -> bool:
        """See NewestWorker; the time is for both."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        prepared = self._first.stop(timeout_s)
        left_s = None if end is None else max(0.0, end - time.monotonic())
        return self._second.stop(left_s) and prepared

    def _hand_on(self, item: T) -> None:
        try:
            self._prepare(item)
        except Exception as error:
            log.debug("a window is not prepared ahead: %s: %s", type(error).__name__, error)
        self._second.offer(item)
