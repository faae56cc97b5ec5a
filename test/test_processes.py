"""Processes that work for a command end with it, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("embreex", reason="the simulator needs embreex, which has no wheel for this platform")

PSG4D = Path(__file__).parent.parent / "scripts" / "psg4d"


def children(process: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def alive(process: int) -> bool:
    """Whether a process runs; one that has ended but that nobody has asked after does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def at_work(parent: int) -> list[int]:
    """The workers that have loaded what they cast rays with: they have passed all that they do at their start."""
    return [p for p in children(parent) if "embree" in Path(f"/proc/{p}/maps").read_text()]


def wait_until(condition, what: str, timeout_s: float = 200.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_s:.0f} s for: {what}"
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the test looks for children in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_workers_of_simulate_end_with_it(tmp_path, number):
    arguments = ["simulate", str(tmp_path / "out"), "--scenes", "200"]
    command = [sys.executable, str(PSG4D), *arguments, "--workers", "2", "--quiet"]
    parent = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    workers: list[int] = []
    try:
        wait_until(lambda: len(at_work(parent.pid)) == 2, "two workers")
        workers = at_work(parent.pid)
        parent.send_signal(number)
        parent.wait(30)
        wait_until(lambda: not any(alive(p) for p in workers), "the end of the workers", 60.0)
        assert len(workers) == 2, "there were some to end"
    finally:
        parent.kill()
        for process in workers:
            if alive(process):
                os.kill(process, signal.SIGKILL)
