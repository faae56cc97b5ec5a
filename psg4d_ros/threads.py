"""How torch's threads wait for each other. To be called before torch is imported."""

import os


def wait_passively() -> None:
    """Let idle threads of torch sleep instead of spin, unless the user says otherwise (OMP_WAIT_POLICY).

    Spinning wins a little on an idle machine and loses everything on a busy one: on 2 cores shared with other work a
    pass of the language model took 0.1 to 7 s, and 0.16 to 0.23 s with sleeping threads. Robots are busy machines.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
