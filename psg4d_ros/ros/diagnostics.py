"""/diagnostics: what the node receives, what it makes of it, with which model, and what memory it takes."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from psg4d_ros.structures import GraphStatus, SceneGraph

from .health import Health
from .load import LoadShedder
from .qos import Match
from .worker import PreparingWorker

if TYPE_CHECKING:
    from psg4d_ros.pipeline import ScenePipeline

# A complaint keeps its status up for this long after it last came up.
COMPLAINT_S = 10.0
# An inference that takes longer is told of while it is still under way.
LONG_INFERENCE_S = 10.0
OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
# Complaints that mean a fault of the node or its surroundings; the others are about single clouds.
_ERRORS = {"errors", "windows_failed", "out_of_memory"}
_INPUT_COMPLAINTS = (
    "clouds_rejected", "transforms_failed", "transforms_refused", "stamps_replaced", "core_frame_changes"
)  # fmt: skip


@dataclass
class Status:
    """One DiagnosticStatus in the making; the gravest level and its texts win."""

    name: str
    level: bytes = OK
    texts: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)

    def raise_to(self, level: bytes, text: str) -> None:
        self.level = max(self.level, level)
        self.texts.append(text)

    def message(self, prefix: str, hardware_id: str) -> DiagnosticStatus:
        return DiagnosticStatus(
            level=self.level,
            name=f"{prefix}: {self.name}",
            message="; ".join(self.texts) or "OK",
            hardware_id=hardware_id,
            values=[KeyValue(key=key, value=value) for key, value in self.values.items()],
        )


@dataclass(frozen=True)
class Sources:
    """All that diagnostics are read from."""

    health: Health
    pipeline: ScenePipeline
    worker: PreparingWorker[Any] | None
    shedder: LoadShedder
    checkpoint: Path
    transforms: str


class DiagnosticsReporter:
    """Makes the messages, and the rates in them from one message to the next."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._before: tuple[float, dict[str, int]] = (time.monotonic(), {})

    def report(self, node_name: str, state: str, match: Match | None, waiting: int, graph: SceneGraph | None) -> Any:
        """A DiagnosticArray without its stamp. state: lifecycle state. waiting: frames that wait for transforms."""
        source = self._sources
        counts = {**source.pipeline.counts, **source.health.counts()}
        if source.worker is not None:
            counts["windows_due"] = source.worker.offered
            counts["windows_processed"] = source.worker.served - counts.get("windows_forgotten", 0)
            counts["windows_replaced"] = source.worker.replaced
            counts["errors_unreported"] = source.worker.unreported
        now = time.monotonic()
        elapsed, old = now - self._before[0], self._before[1]
        self._before = (now, counts)

        def rate(name: str) -> str:
            return f"{(counts.get(name, 0) - old.get(name, 0)) / max(elapsed, 1e-3):.2f}"

        complaints = source.health.recent_complaints(COMPLAINT_S)
        statuses = [
            self._input(counts, complaints, match, waiting, rate("clouds_received")),
            self._inference(counts, complaints, graph, rate("windows_processed")),
            self._model(),
            _memory(),
        ]
        if source.worker is not None:
            _look_at_worker(statuses[1], source.worker, state)
        statuses[0].values["lifecycle_state"] = state
        hardware_id = source.pipeline.model_id
        return DiagnosticArray(status=[status.message(node_name, hardware_id) for status in statuses])

    def _input(
        self, counts: dict[str, int], complaints: dict[str, str], match: Match | None, waiting: int, rate: str
    ) -> Status:
        health = self._sources.health
        status = Status("input")
        if match is None:
            status.texts.append("not subscribed")
        elif match.problem:
            status.raise_to(ERROR if match.incompatible else WARN, match.problem)
        elif not match.publishers:
            status.raise_to(WARN, "nobody publishes clouds on the input topic")
        for kind in _INPUT_COMPLAINTS:
            if kind in complaints:
                status.raise_to(WARN, f"{kind}: {complaints[kind]}")
        age = health.input_age_s()
        status.values = {
            "rate_hz": rate,
            "last_input_age_s": "never" if age is None else f"{age:.2f}",
            "reliability": match.reliability if match else "closed",
            "publishers": str(match.publishers if match else 0),
            "transforms": self._sources.transforms,
            "waiting_for_transform": str(waiting),
        }
        names = ("clouds_received", "accepted", "skipped", "late", "duplicate", "epochs", *_INPUT_COMPLAINTS)
        for name in (*names, "messages_lost", "incompatible_publishers", "resubscribed", "clock_jumps"):
            status.values[name] = str(counts.get(name, 0))
        dropped = sum(counts.get(name, 0) for name in ("clouds_rejected", "transforms_failed", "messages_lost"))
        status.values["frames_dropped"] = str(dropped)
        if percentiles := health.callback.percentiles():
            status.values["callback_ms_p50_p99_max"] = " ".join(f"{v:.2f}" for v in percentiles)
        return status

    def _inference(
        self, counts: dict[str, int], complaints: dict[str, str], graph: SceneGraph | None, rate: str
    ) -> Status:
        source = self._sources
        status = Status("inference")
        for kind, text in complaints.items():
            if kind in _ERRORS:
                status.raise_to(ERROR, f"{kind}: {text}")
        if source.shedder.reason:
            status.raise_to(WARN, source.shedder.reason)
        backend = source.pipeline.predictor.backend
        if backend.problem:
            status.raise_to(WARN, backend.problem)
        if graph is not None and graph.status not in (GraphStatus.OK, GraphStatus.UNTRAINED):
            status.raise_to(WARN, f"{graph.status.name}: {graph.status_text}")
        status.values = {
            "rate_hz": rate,
            "backend": f"{backend.name} on {backend.device}",
            "graph_status": graph.status.name if graph else "none yet",
            "alignment": source.health.alignment,
            "max_points": str(source.shedder.max_points),
            "relations": str(source.shedder.relations).lower(),
        }
        shown = set(status.values) | source.pipeline.window.counts.keys()
        for name in ("windows_due", "windows_processed", "windows_replaced", "windows_forgotten", *sorted(_ERRORS)):
            status.values[name] = str(counts.get(name, 0))
        status.values["errors_unreported"] = str(counts.get("errors_unreported", 0))
        # What is left are the outcomes that the model's parts count.
        for name in sorted(source.pipeline.counts.keys() - shown - status.values.keys()):
            status.values[name] = str(counts[name])
        if percentiles := source.health.latency.percentiles():
            status.values["update_ms_p50_p99_max"] = " ".join(f"{v:.1f}" for v in percentiles)
        if percentiles := source.health.preparation.percentiles():
            status.values["preparation_ms_p50_p99_max"] = " ".join(f"{v:.1f}" for v in percentiles)
        for stage, ms in source.health.stage_ms.items():
            status.values[f"stage_ms.{stage}"] = f"{ms:.1f}"
        return status

    def _model(self) -> Status:
        source = self._sources
        status = Status("model")
        if not source.pipeline.trained:
            status.raise_to(WARN, "untrained weights: labels, masks and relations mean nothing")
        status.values = {
            "checkpoint": str(source.checkpoint),
            "model_id": source.pipeline.model_id,
            "model_sha256": source.pipeline.model_sha256,
            "trained": str(source.pipeline.trained).lower(),
            "classes": str(len(source.pipeline.vocabulary.classes)),
            "predicates": str(len(source.pipeline.vocabulary.predicates)),
        }
        return status


def _look_at_worker(status: Status, worker: PreparingWorker[Any], state: str) -> None:
    """What no outcome tells: an inference that does not end, and a thread that is gone."""
    busy_s = worker.busy_s()
    status.values["under_way_s"] = f"{busy_s:.1f}"
    if state == "active" and not worker.alive:
        status.raise_to(ERROR, "the inference thread has ended; deactivate and activate the node to start it again")
    elif busy_s > LONG_INFERENCE_S:
        status.raise_to(WARN, f"an inference has been under way for {busy_s:.0f} s")


def _memory() -> Status:
    status = Status("memory")
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "VmHWM"):
            status.values["resident_mb" if name == "VmRSS" else "resident_peak_mb"] = str(int(value.split()[0]) // 1024)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        status.values["gpu_allocated_mb"] = str(torch.cuda.memory_allocated() // 2**20)
        status.values["gpu_reserved_mb"] = str(torch.cuda.memory_reserved() // 2**20)
    return status
