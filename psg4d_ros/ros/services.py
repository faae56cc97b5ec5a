"""~/reset, ~/query and ~/set_vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.time import Time
from std_srvs.srv import Trigger

from psg4d_ros.errors import Psg4dError
from psg4d_ros.events import query
from psg4d_ros.messages import graph_message
from psg4d_ros.pipeline import ScenePipeline
from psg4d_ros.srv import QuerySceneGraph, SetVocabulary
from psg4d_ros.structures import SceneGraph


class GraphServices:
    """The services of a configured node. All answers come at once: none of them waits for an inference.

    latest: gives the newest graph, or None. on_reset, on_vocabulary: called after a change was made.
    """

    def __init__(
        self,
        node: Any,
        pipeline: ScenePipeline,
        types: Any,
        *,
        latest: Callable[[], SceneGraph | None],
        on_reset: Callable[[], None],
        on_vocabulary: Callable[[], None],
    ) -> None:
        self._node = node
        self._pipeline = pipeline
        self._types = types
        self._latest = latest
        self._on_reset = on_reset
        self._on_vocabulary = on_vocabulary
        self._services = [
            node.create_service(Trigger, "~/reset", self._reset),
            node.create_service(QuerySceneGraph, "~/query", self._query),
            node.create_service(SetVocabulary, "~/set_vocabulary", self._set_vocabulary),
        ]

    def close(self) -> None:
        for service in self._services:
            self._node.destroy_service(service)

    def _reset(self, request: Any, response: Any) -> Any:
        self._pipeline.reset()
        self._on_reset()
        response.success = True
        response.message = "frames and tracks are forgotten; the next graph opens a new epoch"
        return response

    def _query(self, request: Any, response: Any) -> Any:
        graph = self._latest()
        if graph is None:
            response.success, response.message = False, "there is no graph yet, or none since the last reset"
            return response
        try:
            found = query(
                graph,
                self._pipeline.vocabulary,
                subject_label=request.subject_label,
                subject_id=request.subject_id,
                predicate=request.predicate,
                object_label=request.object_label,
                object_id=request.object_id,
                since_ns=Time.from_msg(request.since).nanoseconds,
                until_ns=Time.from_msg(request.until).nanoseconds,
            )
        except Psg4dError as error:
            response.success, response.message = False, str(error)
            return response
        response.success = True
        response.message = f"{len(found.objects)} objects, {len(found.relations)} relations"
        response.graph = graph_message(found, self._types)
        return response

    def _set_vocabulary(self, request: Any, response: Any) -> Any:
        try:
            self._pipeline.set_vocabulary(
                list(request.class_names), list(request.predicate_names), bool(request.replace)
            )
        except Psg4dError as error:
            response.success, response.message = False, str(error)
            return response
        self._on_vocabulary()
        vocabulary = self._pipeline.vocabulary
        response.success = True
        response.message = (
            f"{len(vocabulary.classes)} classes and {len(vocabulary.predicates)} predicates from the next graph on"
        )
        return response
