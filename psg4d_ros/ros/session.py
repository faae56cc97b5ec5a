"""All that lives between configure and cleanup: the pipeline, and what carries clouds to it and graphs from it."""

from __future__ import annotations

import gc
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from rclpy.clock import ClockChange, JumpThreshold, TimeJump
from rclpy.duration import Duration

from psg4d_ros.checkpoint import default_checkpoint
from psg4d_ros.config import NodeConfig
from psg4d_ros.errors import Psg4dError
from psg4d_ros.pipeline import ScenePipeline
from psg4d_ros.structures import GraphStatus, SceneGraph, Window

from .diagnostics import DiagnosticsReporter, Sources
from .health import Health
from .intake import CloudIntake
from .load import LoadShedder, is_out_of_memory
from .outputs import GraphOutputs, check_outputs
from .qos import CloudSubscription
from .services import GraphServices
from .tf import open_transforms
from .worker import PreparingWorker

# How often frames that wait for their transforms are looked at.
DRAIN_PERIOD_S = 0.01
# The clock going back by more than this is a jump (a bag that loops, a simulation that restarts).
JUMP_BACK = Duration(nanoseconds=-100_000_000)


class Session:
    """A configured node. The constructor loads the model and warms it up; ``close`` frees everything.

    Callbacks run in the executor's thread, ``_prepare`` in the worker's first one, ``_process`` and ``_failed`` in its
    second. Raises Psg4dError when the
    configuration, the checkpoint or the surroundings do not allow to run.
    """

    def __init__(self, node: Any, config: NodeConfig, steady_clock: Any) -> None:
        check_outputs(config.output)
        self._node = node
        self._closing = False
        self._problem = ""
        self.health = Health()
        self._latest: SceneGraph | None = None
        self._oldest_epoch = 0  # what is of an older one was to be forgotten
        self.checkpoint = Path(config.checkpoint) if config.checkpoint else default_checkpoint()
        self._transforms = open_transforms(node, config.coordinates.target_frame, self.health)
        try:
            self.pipeline = ScenePipeline.from_checkpoint(self.checkpoint, config, self._transforms.lookup)
            self.pipeline.warm_up()
        except BaseException:
            self._transforms.close()
            raise
        self._shedder = LoadShedder(config.inference)
        self._worker: PreparingWorker[Window] = PreparingWorker(self._prepare, self._process, self._failed)
        self._intake = CloudIntake(
            self.pipeline,
            self._transforms.lookup,
            offer=self._worker.offer,
            now_ns=lambda: int(node.get_clock().now().nanoseconds),
            report=self._report,
            health=self.health,
            jumped_back=self._transforms.clock_jumped_back,
        )
        self._subscription = CloudSubscription(node, config.input, self._on_cloud, self.health)
        self._outputs = GraphOutputs(node, config.output)
        self._services = GraphServices(
            node,
            self.pipeline,
            self._outputs.types,
            latest=lambda: self.latest,
            on_reset=self._forget,
            on_vocabulary=self._publish_labels,
        )
        self._drain_timer = node.create_timer(DRAIN_PERIOD_S, self._drain, clock=steady_clock)
        self._drain_timer.cancel()
        self._jumps = node.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=JUMP_BACK, on_clock_change=True), post_callback=self._on_jump
        )
        self._diagnostics = DiagnosticsReporter(
            Sources(
                health=self.health,
                pipeline=self.pipeline,
                worker=self._worker,
                shedder=self._shedder,
                checkpoint=self.checkpoint,
                transforms=self._transforms.name,
            )
        )

    @property
    def latest(self) -> SceneGraph | None:
        """The newest graph that nobody asked to forget, or None."""
        graph = self._latest
        return graph if graph is not None and graph.epoch >= self._oldest_epoch else None

    def activate(self) -> None:
        """Start to work. The publishers must be active."""
        self._worker.start()
        self._publish_labels()
        self._subscription.open()

    def deactivate(self, timeout_s: float | None = None) -> bool:
        """Stop: no cloud is taken any more; waits for the inference under way. False when that took too long."""
        self._subscription.close()
        self._drain_timer.cancel()
        self._intake.forget()
        return self._worker.stop(timeout_s)

    def close(self, timeout_s: float | None = None) -> bool:
        """Free everything. False when an inference is still under way after ``timeout_s``."""
        self._closing = True
        ended = self.deactivate(timeout_s)
        self._jumps.unregister()
        self._node.destroy_timer(self._drain_timer)
        self._subscription.destroy()
        self._services.close()
        self._outputs.close()
        self._transforms.close()
        return ended

    def diagnostics(self, state: str) -> Any:
        """A DiagnosticArray without its stamp; also looks again at how the subscription fits the publishers."""
        active = state == "active"
        if active:
            self._subscription.review()
        match = self._subscription.match() if active else None
        problem = match.problem if match else ""
        if problem and not self._problem:
            self._node.get_logger().warning(problem)
        self._problem = problem
        name = self._node.get_fully_qualified_name().lstrip("/")
        return self._diagnostics.report(name, state, match, self._intake.waiting, self.latest)

    def _on_cloud(self, message: Any) -> None:
        self._intake.take(message)
        if self._intake.waiting and self._drain_timer.is_canceled():
            self._drain_timer.reset()

    def _drain(self) -> None:
        self._intake.drain()
        if not self._intake.waiting:
            self._drain_timer.cancel()

    def _on_jump(self, jump: TimeJump) -> None:
        self.health.count("clock_jumps")
        self._node.get_logger().info(f"{jump_text(jump)}; a new epoch begins")
        self._transforms.clock_jumped_back()
        self.pipeline.reset()
        self._forget()

    def _forget(self) -> None:
        """After a reset of the pipeline: drop the clouds that wait, and all graphs so far."""
        self._intake.forget()
        # The graph of a window that is under way right now comes later; it is told by its epoch.
        self._oldest_epoch = self.pipeline.window.epoch

    def _publish_labels(self) -> None:
        stamp_ns = int(self._node.get_clock().now().nanoseconds)
        self._outputs.publish_labels(self.pipeline.model_id, self.pipeline.vocabulary, stamp_ns)

    def _prepare(self, window: Window) -> None:
        start = time.perf_counter()
        self.pipeline.prepare(window)
        self.health.preparation.add((time.perf_counter() - start) * 1e3)

    def _process(self, window: Window) -> None:
        if window.epoch < self.pipeline.window.epoch:
            self.health.count("windows_forgotten")  # it waited here while a new epoch began
            return
        start = time.perf_counter()
        graph = self._marked(self.pipeline.infer(window))
        self.health.latency.add((time.perf_counter() - start) * 1e3)
        self.health.stage_ms = dict(graph.stage_ms)
        self.health.alignment = window.newest.alignment
        self._latest = graph
        self._outputs.publish(graph)
        if self._shedder.succeeded():
            self._apply_limits()

    def _marked(self, graph: SceneGraph) -> SceneGraph:
        """The graph, saying so where the node runs it with less than what is configured."""
        reason = self._shedder.reason
        if not reason:
            return graph
        status = graph.status
        if status in (GraphStatus.OK, GraphStatus.UNTRAINED):
            status = GraphStatus.DEGRADED_TRUNCATED
        return replace(graph, status=status, status_text=f"{reason}; {graph.status_text}")

    def _failed(self, window: Window, error: Exception) -> None:
        """An inference failed: this window is lost, the next one is tried."""
        if self._closing:
            return
        if is_out_of_memory(error):
            self._out_of_memory(max(len(frame.frame) for frame in window.frames), error)
        elif isinstance(error, Psg4dError):
            self._report("windows_rejected", error)
        else:
            self._report("windows_failed", error)

    def _out_of_memory(self, points: int, error: Exception) -> None:
        # The frames of the traceback keep the tensors alive that did not fit.
        traceback.clear_frames(error.__traceback__)
        self._shedder.failed(points)
        self._apply_limits()
        line = self.health.complain("out_of_memory", f"{self._shedder.reason} ({type(error).__name__}: {error})")
        if line:
            self._node.get_logger().error(line)
        free_memory()

    def _apply_limits(self) -> None:
        self.pipeline.set_limits(max_points=self._shedder.max_points, relations=self._shedder.relations)

    def _report(self, kind: str, error: Exception) -> None:
        """Count an error and log it, each kind now and then; faults of ours with their traceback."""
        if is_out_of_memory(error):
            self._out_of_memory(self._shedder.max_points, error)
            return
        ours = isinstance(error, Psg4dError)
        line = self.health.complain(kind, str(error) if ours else f"{type(error).__name__}: {error}")
        if line is None:
            return
        if ours:
            self._node.get_logger().warning(line)
        else:
            self._node.get_logger().error(f"{line}\n{''.join(traceback.format_exception(error))}")


def jump_text(jump: TimeJump) -> str:
    """What happened to the clock."""
    if jump.clock_change == ClockChange.ROS_TIME_ACTIVATED:
        return "the clock changed to simulated time (/clock)"
    if jump.clock_change == ClockChange.ROS_TIME_DEACTIVATED:
        return "the clock changed to system time"
    return f"the clock jumped back by {-jump.delta.nanoseconds / 1e9:.1f} s"


def free_memory() -> None:
    """Give back what nobody uses any more, on the GPU too."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
