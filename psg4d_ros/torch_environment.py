"""What torch's libraries read from the environment; values of the user's win.

To be called before torch is imported; later, but before its first product, only the limit of shapes has an effect.
"""

import os

# Shapes whose compiled products are kept. An update runs about ten kinds of product in two passes.
_SHAPES = "64"


def prepare_torch() -> None:
    """Let threads wait briefly, and products of past shapes be forgotten."""
    # Threads spin for tens of microseconds while they wait, then sleep. The default is to spin for milliseconds. On an
    # idle machine that changes nothing; on a busy one, and robots are busy machines, a thread spins away the core that
    # the thread it waits for needs, at every one of the many small steps of the language model. To compare:
    # GOMP_SPINCOUNT=infinity psg4d demo, beside a busy process per core.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    # On a CPU oneDNN compiles each product in bfloat16 for its shape, and keeps the last 1024, torch's layer above it
    # as many more: megabytes for every new length of text, so that a node would grow for hours. Hardly any shape comes
    # again. To compare: LRU_CACHE_CAPACITY=1024
    # ONEDNN_PRIMITIVE_CACHE_CAPACITY=1024 psg4d bench --only memory.
    for cache in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(cache, _SHAPES)
