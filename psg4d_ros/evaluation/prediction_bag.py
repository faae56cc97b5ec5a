"""What a replay said, written back as a bag: predictions beside the clouds, transforms and ground truth they belong to.

Topics are the node's: ``/scene_graph``, and below it ``instances``, ``detections``, ``events``, ``markers`` and
``label_info``. Each has the time of recording of the cloud that it was made of.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from psg4d_ros.cloud import instance_cloud
from psg4d_ros.data.bag import Bag, BagWriter, bag_types, open_bag
from psg4d_ros.detections import detections_message
from psg4d_ros.errors import DatasetError
from psg4d_ros.events import graph_events
from psg4d_ros.messages import MarkerId, event_message, graph_message, label_info_message, marker_array
from psg4d_ros.structures import PointFrame, SceneGraph
from psg4d_ros.vocabulary import Vocabulary

PREDICTIONS = "/scene_graph"

_log = logging.getLogger(__name__)


class PredictionBag:
    """Context manager and watcher of a replay: copies the bag as far as it is replayed, and adds what was said of it.

    out: a rosbag2 folder, or a single file when it ends in ``.mcap``; it appears when the block ends well.
    Streams: no more than one cloud is held. Topics of the source of which the message
    definition is not known, and predictions that it holds already, are left out with a warning. timings: False leaves
    the stages' times out of the graphs, so that the same replay gives the same bytes. Raises DatasetError for a source
    that is not a ROS 2 bag, and as BagWriter does.
    """

    def __init__(
        self, out: Path, source: Path, topic: str | None = None, *, limit: int | None = None, timings: bool = True
    ) -> None:
        if source.suffix == ".bag" or (source.is_dir() and not (source / "metadata.yaml").is_file()):
            raise DatasetError(f"{source} is not a ROS 2 bag; predictions can be written beside the topics of one only")
        self._writer = BagWriter(out)
        self._source = open_bag(source)
        self._topic = topic
        self._limit = limit
        self._timings = timings
        self._clouds = 0
        self._previous: SceneGraph | None = None
        self._markers: frozenset[MarkerId] | None = None
        self._records: Iterator[tuple[str, str, bytes, int]] = iter(())
        self._labels: tuple[str, Vocabulary] | None = None

    def __enter__(self) -> PredictionBag:
        bag = self._source.__enter__()
        try:
            self._topic = bag.choose_cloud_topic(self._topic)
            self._records = bag.raw_messages(_copied(bag))
            self._writer.__enter__()
        except BaseException:
            self._source.__exit__(None, None, None)
            raise
        return self

    def name_labels(self, model_id: str, vocabulary: Vocabulary) -> None:
        """Say which words class_id and predicate_id stand for; written with the first graph."""
        self._labels = model_id, vocabulary

    def take(self, frame: PointFrame | None, graph: SceneGraph | None) -> None:
        """Copy the source up to and with the next cloud, then write what was said of it."""
        recorded_ns = self._copy_cloud()
        self._clouds += 1
        if graph is not None and recorded_ns is not None:
            self._write(graph, recorded_ns)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and (self._limit is None or self._clouds < self._limit):
                while self._copy_cloud() is not None:
                    pass  # to the end of the bag
        except BaseException as failure:
            self._writer.__exit__(type(failure), failure, None)
            raise
        else:
            self._writer.__exit__(kind, error, trace)
        finally:
            self._source.__exit__(None, None, None)

    def _copy_cloud(self) -> int | None:
        """Copy up to and with the next cloud; its time of recording, None at the end of the bag."""
        for topic, kind, cdr, recorded_ns in self._records:
            self._writer.write_raw(topic, kind, cdr, recorded_ns)
            if topic == self._topic:
                return recorded_ns
        return None

    def _write(self, graph: SceneGraph, recorded_ns: int) -> None:
        types, bag = bag_types(), self._writer
        if not self._timings:
            graph = replace(graph, stage_ms={})
        if self._labels is not None:
            model_id, vocabulary = self._labels
            message = label_info_message(model_id, vocabulary, graph.stamp_ns, graph.frame_id, types)
            bag.write(f"{PREDICTIONS}/label_info", message, recorded_ns)
            self._labels = None
        bag.write(PREDICTIONS, graph_message(graph, types), recorded_ns)
        bag.write(f"{PREDICTIONS}/instances", instance_cloud(graph, types), recorded_ns)
        bag.write(f"{PREDICTIONS}/detections", detections_message(graph, types), recorded_ns)
        for event in graph_events(self._previous, graph):
            bag.write(f"{PREDICTIONS}/events", event_message(event, types), recorded_ns)
        self._previous = graph
        markers, self._markers = marker_array(graph, types, self._markers)
        bag.write(f"{PREDICTIONS}/markers", markers, recorded_ns)


def _copied(bag: Bag) -> list[str]:
    """Topics of a bag that go into the copy."""
    types, copied = bag_types(), []
    for topic, kind in bag.topics.items():
        if topic == PREDICTIONS or topic.startswith(f"{PREDICTIONS}/"):
            _log.warning("%s: %s is left out, the new predictions take its place", bag.path, topic)
            continue
        try:
            types.get(kind)
        except DatasetError:
            _log.warning("%s: %s is left out, the definition of %s is not known", bag.path, topic, kind)
            continue
        copied.append(topic)
    return copied
