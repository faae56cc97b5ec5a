"""The one thread that runs the model: it always takes the newest due window."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class NewestWorker(Generic[T]):
    """Runs ``work(item)`` in a thread, one item at a time.

    While it is busy, a newer item replaces the one that waits: ``replaced`` counts those that were never served.
    Exceptions of ``work`` go to ``on_error(item, exception)``, and the thread goes on with the next item. Counters go
    on over stop and start.
    """

    def __init__(self, work: Callable[[T], None], on_error: Callable[[T, Exception], None]) -> None:
        self._work = work
        self._on_error = on_error
        self._condition = threading.Condition()
        self._waiting: list[T] = []  # at most one; a list because None may be a legal item
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.offered = 0
        self.served = 0
        self.replaced = 0
        self.failed = 0

    def start(self) -> None:
        """Start the thread; after a ``stop`` that did not end it, RuntimeError."""
        if self._thread is not None and self._thread.is_alive():
            raise RuntimeError("the worker still runs")
        self._stopping = False
        # A daemon, so that a process that is told to end is never held for ever by a long inference.
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
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
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._waiting and not self._stopping:
                    self._condition.wait()
                if self._stopping:
                    return
                item = self._waiting.pop()
            try:
                self._work(item)
                self.served += 1
            except Exception as error:
                self.failed += 1
                self._on_error(item, error)
            del item  # a window holds megabytes; do not keep it while waiting for the next
