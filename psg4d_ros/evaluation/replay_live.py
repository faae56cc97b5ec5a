"""Replay through a real node: what a subscriber heard of it, judged like the graphs of a replay without DDS.

Playing is ros/live_player.py's; here are plain values and a bag of what was heard, and no ROS is needed. A frame of
which no graph came, for whatever reason, is one in which nothing was found.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from psg4d_ros.checkpoint import VOCABULARY
from psg4d_ros.cloud import labelled_cloud
from psg4d_ros.config import PipelineConfig
from psg4d_ros.data.bag import Bag, open_bag
from psg4d_ros.errors import DatasetError
from psg4d_ros.evaluation.memory import MemoryLog
from psg4d_ros.evaluation.replay import ReplayResult
from psg4d_ros.messages import graph_from_message
from psg4d_ros.structures import LabelledCloud, PointFrame, SceneGraph
from psg4d_ros.vocabulary import Vocabulary

GRAPHS = "/scene_graph"
INSTANCES = "/scene_graph/instances"
# From the publication of a cloud to the arrival of its graph; one of the stages in a result's latency_ms.
END_TO_END = "end_to_end"


@dataclass(frozen=True)
class Heard:
    """What came of playing a bag to a node.

    messages: a bag of the node's graphs and labelled clouds, each at its time of arrival. published_ns: stamp of each
    cloud -> when it was published. statuses: the node's last diagnostics, name -> key -> value. resident_mb: memory of
    the node, over time. rate: how many times as fast as recorded. Times are system time, nanoseconds.
    """

    messages: Path
    published_ns: Mapping[int, list[int]]
    clouds_sent: int
    statuses: Mapping[str, Mapping[str, str]]
    resident_mb: list[float]
    rate: float
    wall_s: float

    def counts(self) -> dict[str, int]:
        """The node's own counters."""
        gauges = {"publishers", "waiting_for_transform", "max_points"}
        found = {**self.statuses["input"], **self.statuses["inference"]}
        return {k: int(v) for k, v in found.items() if v.isdigit() and k not in gauges}


class HeardPipeline:
    """A pipeline that ran elsewhere: ``update`` gives each frame the graph that was heard of it, if one was.

    Context manager. Memory stays bounded: labelled clouds are read as the frames come. Raises DatasetError for messages
    that are not what a node sends.
    """

    def __init__(self, heard: Heard, config: PipelineConfig, checkpoint: Path) -> None:
        model, inference = heard.statuses["model"], heard.statuses["inference"]
        self.config = config
        self.model_id = model["model_id"]
        self.model_sha256 = model["model_sha256"]
        self.trained = model["trained"] == "true"
        self.dtype = config.inference.language_model_dtype
        self.backend, _, self.device = inference["backend"].rpartition(" on ")
        self.vocabulary = Vocabulary.load(checkpoint / VOCABULARY)
        self.end_to_end_ms: list[float] = []
        self.received = self.without_points = 0
        self._heard = heard
        self._stack = ExitStack()
        self._graphs: deque[tuple[SceneGraph, int]] = deque()
        self._clouds: Iterator[Any] = iter(())
        self._next_cloud: Any = None
        self._awaited: set[int] = set()

    def __enter__(self) -> HeardPipeline:
        bag = self._stack.enter_context(open_bag(self._heard.messages))
        heard = list(_graphs(bag))
        self.received = len(heard)
        # A graph of another stamp, as of a cloud that came without one, has no frame to belong to.
        self._graphs.extend((graph, at_ns) for graph, at_ns in heard if graph.stamp_ns in self._heard.published_ns)
        self._awaited = {graph.stamp_ns for graph, _ in self._graphs}
        self._clouds = (labelled_cloud(message) for _, message, _ in bag.messages([INSTANCES]))
        self._next_cloud = next(self._clouds, None)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def warm_up(self) -> None:
        """Nothing: the node did."""

    def update(self, frame: PointFrame) -> SceneGraph | None:
        """The graph of this frame. Its points come in another message; without that it is not handed out."""
        if not self._graphs or self._graphs[0][0].stamp_ns != frame.stamp_ns:
            return None
        graph, arrived_ns = self._graphs.popleft()
        cloud = self._cloud_of(graph)
        if cloud is None:
            self.without_points += 1
            return None
        sent = [t for t in self._heard.published_ns.get(graph.stamp_ns, ()) if t <= arrived_ns]
        if sent:
            self.end_to_end_ms.append((arrived_ns - sent[-1]) * 1e-6)
        return replace(graph, cloud=cloud)

    @property
    def counts(self) -> dict[str, int]:
        return self._heard.counts()

    def complete(self, result: ReplayResult) -> None:
        """Add to a result what only a live run has: time at the subscriber, and losses."""
        heard, counts = self._heard, self.counts
        due, processed = counts["windows_due"], counts["windows_processed"]
        given_up = {n: counts[n] for n in ("windows_replaced", "windows_forgotten")}
        losses = {
            "clouds lost on the way to the node": heard.clouds_sent - counts["clouds_received"],
            "transforms missing": counts["transforms_failed"],
            "a newer cloud came while the node was busy": given_up["windows_replaced"],
            "forgotten when the clock jumped": given_up["windows_forgotten"],
            "inference failed, see the node's log": due - processed - sum(given_up.values()),
            "graphs lost on the way to the subscriber": processed - self.received,
            "labelled points lost on the way to the subscriber": self.without_points,
        }
        result.errors += Counter({reason: count for reason, count in losses.items() if count > 0})
        result.frames_dropped = sum(result.errors.values())
        result.live = {
            "rate": heard.rate,
            "clouds_sent": heard.clouds_sent,
            "clouds_lost": losses["clouds lost on the way to the node"],
            "windows_due": due,
            "windows_replaced": given_up["windows_replaced"],
            "graphs_received": self.received,
            "graphs_lost": losses["graphs lost on the way to the subscriber"],
            "callback_ms": _callback_ms(heard.statuses["input"]),
        }
        result.wall_s = heard.wall_s
        result.memory = MemoryLog(list(heard.resident_mb))
        if self.end_to_end_ms:
            result.stage_ms[END_TO_END] = self.end_to_end_ms

    def _cloud_of(self, graph: SceneGraph) -> LabelledCloud | None:
        """Clouds come in the order of their graphs; either may be missing."""
        while self._next_cloud is not None and self._next_cloud[0] not in self._awaited:
            self._next_cloud = next(self._clouds, None)  # its graph was lost
        if self._next_cloud is None or self._next_cloud[0] != graph.stamp_ns:
            return None
        cloud: LabelledCloud = self._next_cloud[1]
        self._next_cloud = next(self._clouds, None)
        return cloud


def _callback_ms(status: Mapping[str, str]) -> dict[str, float]:
    """How long the node's callback held a cloud; {} before the first one."""
    values = status.get("callback_ms_p50_p99_max", "").split()
    return dict(zip(("p50", "p99", "max"), map(float, values), strict=False))


def _graphs(bag: Bag) -> Iterator[tuple[SceneGraph, int]]:
    for _, message, arrived_ns in bag.messages([GRAPHS]):
        try:
            yield graph_from_message(message), arrived_ns
        except ValueError as error:
            raise DatasetError(f"{GRAPHS} held a graph that contradicts itself: {error}") from error
