"""The subscription to the clouds: a QoS that matches the publishers, and plain words where it cannot or loses."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.utilities import get_rmw_implementation_identifier
from sensor_msgs.msg import PointCloud2

from psg4d_ros.config import InputConfig
from psg4d_ros.version import share_directory

from .health import Health

CLOUD_TYPE = "sensor_msgs/msg/PointCloud2"
# The shared-memory segment of Fast DDS holds 512 KiB unless a profile says otherwise.
SAFE_BYTES = 500_000
# How long publishers may be known, or a publisher may stop, without a cloud before that is worth a warning.
SILENCE_S = 5.0
# A loss keeps the warning up for this long.
RECENT_LOSS_S = 10.0


@dataclass(frozen=True)
class Match:
    """How the subscription stands with the publishers. problem: what is wrong and what would be right, or empty."""

    reliability: str
    publishers: int
    problem: str = ""
    incompatible: bool = False


def choose_reliability(wanted: str, offered: Sequence[ReliabilityPolicy]) -> ReliabilityPolicy:
    """The reliability to ask for. wanted: auto, best_effort or reliable. offered: what each known publisher offers.

    A reliable subscription gets nothing from a best-effort publisher, so one such publisher decides. Before any is
    known: reliable, which loses nothing; a best-effort publisher that comes later is noticed then.
    """
    if wanted == "reliable" or (wanted == "auto" and ReliabilityPolicy.BEST_EFFORT not in offered):
        return ReliabilityPolicy.RELIABLE
    return ReliabilityPolicy.BEST_EFFORT


def profile_loaded() -> bool:
    """True when Fast DDS was given a profile of its own, ours or another."""
    return any(os.environ.get(name) for name in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"))


def profile_advice() -> str:
    """What to do against losses of large clouds. Each process writes into a segment of its own."""
    setting = f"export FASTDDS_DEFAULT_PROFILES_FILE={share_directory() / 'config' / 'fastdds.xml'}"
    if profile_loaded():
        return f"{setting} in the publisher's process too"
    return f"{setting} in this process and in the publisher's process too"


class CloudSubscription:
    """Subscribes to ``~/input/points``; ``review`` opens it again when other publishers ask for another QoS."""

    def __init__(self, node: Any, config: InputConfig, callback: Callable[[PointCloud2], None], health: Health) -> None:
        self._node = node
        self._config = config
        self._callback = callback
        self._health = health
        self._subscription: Any = None
        self._topic = node.resolve_topic_name("~/input/points")
        prefix = f"qos_overrides.{self._topic}.subscription."
        self._overridden = f"{prefix}reliability" in node._parameter_overrides
        self._incompatible = ""
        self._lost_at = -RECENT_LOSS_S
        self._publishers_since: float | None = None  # by the steady clock, while subscribed
        # Events come in while their subscription is being waited on; it is opened anew outside of them.
        self._review_soon = node.create_guard_condition(self.review)

    @property
    def topic(self) -> str:
        return self._topic

    def open(self) -> None:
        """Subscribe. Raises ValueError or RuntimeError when a qos_overrides parameter is not a legal QoS."""
        self._open(choose_reliability(self._config.reliability, self._offered()))

    def close(self) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
            self._publishers_since = None

    def destroy(self) -> None:
        """Close for good."""
        self.close()
        self._node.destroy_guard_condition(self._review_soon)

    def review(self) -> None:
        """Look at the publishers again; subscribe anew when they ask for another reliability."""
        if self._subscription is None or self._overridden or self._config.reliability != "auto":
            return
        offered = self._offered()
        wanted = choose_reliability("auto", offered)
        # With all publishers gone there is nothing to match; the choice made for the last one stands.
        if offered and wanted != self._subscription.qos_profile.reliability:
            self.close()
            self._open(wanted)
            self._health.count("resubscribed")
            self._node.get_logger().info(f"{self._topic}: publishers offer {_words(offered)}, subscribed {wanted.name}")

    def match(self) -> Match:
        """How things stand, for diagnostics."""
        offered = self._offered()
        if self._subscription is None:
            return Match("closed", len(offered))
        asked = self._subscription.qos_profile.reliability
        types = {info.topic_type for info in self._infos()} - {CLOUD_TYPE}
        best_effort = ReliabilityPolicy.BEST_EFFORT in offered
        if types:
            problem = f"{self._topic} also carries {', '.join(sorted(types))}, expected {CLOUD_TYPE}; check cloud_topic"
            return Match(asked.name, len(offered), problem, incompatible=not offered)
        if asked == ReliabilityPolicy.RELIABLE and best_effort:
            problem = (
                f"a publisher of {self._topic} offers BEST_EFFORT only, this node asks for RELIABLE: no cloud of it"
                " comes through. Set input.reliability to auto or best_effort (or drop the qos_overrides parameter)"
            )
            return Match(asked.name, len(offered), problem, incompatible=True)
        if self._incompatible:
            return Match(asked.name, len(offered), self._incompatible, incompatible=True)
        return Match(asked.name, len(offered), self._loss(asked, len(offered)))

    def _loss(self, asked: ReliabilityPolicy, publishers: int) -> str:
        """What is being lost, or does not come, or is about to be lost, on a match that works in principle."""
        silent_s = self._silent_s(publishers)
        if time.monotonic() - self._lost_at < RECENT_LOSS_S:
            lost = self._health.counts()["messages_lost"]
            return f"the middleware lost {lost} clouds on the way; {profile_advice()}"
        best_effort_fast_dds = asked == ReliabilityPolicy.BEST_EFFORT and _fast_dds()
        if silent_s > SILENCE_S:
            return self._silence(silent_s, publishers, best_effort_fast_dds)
        if publishers and best_effort_fast_dds and not profile_loaded():
            size = self._health.largest_cloud_bytes
            if size > SAFE_BYTES:
                return (
                    f"BEST_EFFORT clouds of {size / 1e6:.1f} MB do not fit Fast DDS' default shared memory; "
                    f"{profile_advice()}"
                )
        return ""

    def _silent_s(self, publishers: int) -> float:
        """How long no cloud has come although somebody publishes them; 0 while nobody does."""
        now = time.monotonic()
        if not publishers:
            self._publishers_since = None
            return 0.0
        if self._publishers_since is None:
            self._publishers_since = now
        age = self._health.input_age_s()
        known_s = now - self._publishers_since
        return known_s if age is None else min(age, known_s)

    def _silence(self, silent_s: float, publishers: int, best_effort_fast_dds: bool) -> str:
        since = "yet" if self._health.input_age_s() is None else f"for {silent_s:.0f} s"
        text = f"{publishers} publisher(s) of {self._topic}, but no cloud {since}"
        if best_effort_fast_dds:
            return (
                f"{text}. Either they are silent, or their clouds are above 0.5 MB and get lost in Fast DDS' default "
                f"shared memory: {profile_advice()}"
            )
        return f"{text}; check that the sensor or its driver still delivers"

    def _open(self, reliability: ReliabilityPolicy) -> None:
        profile = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=self._config.depth,
            reliability=reliability,
            durability=DurabilityPolicy.VOLATILE,
        )
        # A policy that is not overridden must not become a parameter: it would fix the choice made first.
        kinds = [QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.DURABILITY]
        if self._overridden:
            kinds.append(QoSPolicyKind.RELIABILITY)
        self._incompatible = ""
        self._subscription = self._node.create_subscription(
            PointCloud2,
            self._topic,
            self._callback,
            profile,
            event_callbacks=self._event_callbacks(),
            qos_overriding_options=QoSOverridingOptions(kinds),
        )

    def _event_callbacks(self) -> Any:
        try:
            events = importlib.import_module("rclpy.event_handler")
        except ImportError:  # Humble
            events = importlib.import_module("rclpy.qos_event")
        callbacks: dict[str, Any] = {"incompatible_qos": self._on_incompatible, "message_lost": self._on_lost}
        if hasattr(events, "QoSSubscriptionMatchedInfo"):
            callbacks["matched"] = lambda info: self._review_soon.trigger()
        return events.SubscriptionEventCallbacks(**callbacks)

    def _on_incompatible(self, info: Any) -> None:
        policy = QoSPolicyKind(info.last_policy_kind).name
        self._health.count("incompatible_publishers", int(info.total_count_change))
        if policy != "RELIABILITY":
            self._incompatible = (
                f"a publisher of {self._topic} offers an incompatible {policy}; no cloud of it comes through"
            )
        self._review_soon.trigger()

    def _on_lost(self, info: Any) -> None:
        self._health.count("messages_lost", int(info.total_count_change))
        self._lost_at = time.monotonic()

    def _infos(self) -> list[Any]:
        return list(self._node.get_publishers_info_by_topic(self._topic))

    def _offered(self) -> list[ReliabilityPolicy]:
        return [info.qos_profile.reliability for info in self._infos() if info.topic_type == CLOUD_TYPE]


def _fast_dds() -> bool:
    return "fastrtps" in get_rmw_implementation_identifier()


def _words(offered: Sequence[ReliabilityPolicy]) -> str:
    return " and ".join(sorted({policy.name for policy in offered}))
