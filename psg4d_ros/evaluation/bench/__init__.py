"""``psg4d bench``: the pipeline beside a plain, a naive and an ideal one, measured in one run (docs/performance.md)."""
