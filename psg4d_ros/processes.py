"""Processes that belong to another one, and must not outlive it."""

import os
import signal
import threading
import time
from functools import cache
from multiprocessing import current_process, parent_process
from multiprocessing.connection import wait


@cache  # once is enough
def end_with_parent() -> None:
    """In a process that multiprocessing started: end as on SIGTERM when the one that started it is gone.

    A worker that waits for its next task does not notice otherwise: it holds both ends of the queue itself, so a parent
    that is killed leaves it waiting for ever. Does nothing in a process that was not started so.
    """
    if current_process().name == "MainProcess":
        return

    def watch() -> None:
        while (parent := parent_process()) is None:  # while the main module is imported it is not known yet
            time.sleep(0.05)
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="end_with_parent", daemon=True).start()
