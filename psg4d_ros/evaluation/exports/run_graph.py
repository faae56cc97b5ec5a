"""The 4D scene graph of a whole run: what the exports write.

A graph of the live topic holds what is known at one moment; tracks that were lost are gone from it. Here everything
that was said in the last epoch is kept, each object and relation as it was last said.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from psg4d_ros.errors import DatasetError
from psg4d_ros.structures import PointFrame, Relation, SceneGraph, SceneObject


@dataclass(frozen=True)
class RunGraph:
    """Objects and relations of one epoch, in the coordinate frame ``frame_id``.

    objects: by track_id. relations: by start; ``ongoing`` are those alone that the newest graph says are.
    present: track ids of the newest graph. stamp_ns: its time.
    """

    stamp_ns: int
    frame_id: str
    epoch: int
    model_id: str
    objects: tuple[SceneObject, ...]
    relations: tuple[Relation, ...]
    present: frozenset[int]


class RunGraphCollector:
    """Takes the graphs of a run, in order of time; a new epoch starts anew, since ids compare only inside one."""

    def __init__(self) -> None:
        self._last: SceneGraph | None = None
        self._objects: dict[int, SceneObject] = {}
        self._relations: dict[tuple[int, str, int], list[Relation]] = {}

    def take(self, frame: PointFrame | None, graph: SceneGraph | None) -> None:
        """As a watcher of a replay."""
        if graph is not None:
            self.add(graph)

    def add(self, graph: SceneGraph) -> None:
        """Take a graph."""
        if self._last is not None and self._last.epoch != graph.epoch:
            self._objects, self._relations = {}, {}
        self._last = graph
        self._objects |= {o.track_id: o for o in graph.objects}
        said: dict[tuple[int, str, int], list[Relation]] = {}
        for r in graph.relations:
            said.setdefault((r.subject_id, r.predicate, r.object_id), []).append(r)
        for key, new in said.items():
            # A span may grow at both ends, and merge with others: the newer word replaces what it overlaps.
            old = (s for s in self._relations.get(key, ()) if not any(_overlap(s, r) for r in new))
            self._relations[key] = [*old, *new]

    def graph(self) -> RunGraph:
        """All of the last epoch. Raises DatasetError when there was no graph at all."""
        last = self._last
        if last is None:
            raise DatasetError("there is no graph to export: no window of the recording gave one")
        current = set(last.relations)
        spans = [r for spans in self._relations.values() for r in spans]
        relations = [r if r in current else replace(r, ongoing=False) for r in spans]
        return RunGraph(
            stamp_ns=last.stamp_ns,
            frame_id=last.frame_id,
            epoch=last.epoch,
            model_id=last.model_id,
            objects=tuple(sorted(self._objects.values(), key=lambda o: o.track_id)),
            relations=tuple(sorted(relations, key=lambda r: (r.start_ns, r.subject_id, r.object_id, r.predicate))),
            present=frozenset(o.track_id for o in last.objects),
        )


def _overlap(a: Relation, b: Relation) -> bool:
    return a.start_ns < b.end_ns and b.start_ns < a.end_ns
