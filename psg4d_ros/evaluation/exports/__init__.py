"""A run's scene graph in the forms of other tools (docs/replay.md)."""

from __future__ import annotations

FORMATS = ("spark_dsg", "graphml", "json", "pddl")
