"""How torch's threads wait for each other. To be called before torch is imported."""

import os


def wait_briefly() -> None:
    """Let torch's threads spin for tens of microseconds while they wait, then sleep, unless the user says otherwise.

    The default is to spin for milliseconds. On an idle machine that changes nothing; on a busy one, and robots are busy
    machines, a thread spins away the core that the thread it waits for needs, at every one of the many small steps of
    the language model. To compare: GOMP_SPINCOUNT=infinity psg4d demo, beside a busy process per core.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
