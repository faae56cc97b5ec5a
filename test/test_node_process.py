"""The node as a process of its own: how it starts, how it says that it cannot, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs rclpy: source a ROS 2 distribution, or run `make test` for the wheels")

from node_support import Probe
from ros_support import Process, own_domain, ros_context, spinning, wait_until

pytestmark = pytest.mark.ros
ROOT = Path(__file__).parent.parent

# The node with an inference that takes longer than anybody waits, in small calls as a real one makes them.
SLOW_NODE = """
import sys, time, torch
from psg4d_ros.pipeline import ScenePipeline
from psg4d_ros.ros.node import main

def infer(self, window):
    print("inference begins", flush=True)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        torch.randn(200, 200) @ torch.randn(200, 200)

ScenePipeline.infer = infer
sys.exit(main())
"""


@pytest.fixture
def start() -> Iterator[object]:
    """Start a process, and make sure that it is gone after the test."""
    processes: list[Process] = []

    def starter(*command: str, domain: int | None = None) -> Process:
        process = Process([sys.executable, *command], own_domain() if domain is None else domain)
        processes.append(process)
        return process

    yield starter
    for process in processes:
        process.kill()


def node_arguments(checkpoint: Path) -> list[str]:
    return ["--ros-args", "-p", f"checkpoint:={checkpoint}", "-p", "inference.threads:=1"]


@pytest.mark.parametrize(
    "signals",
    [[signal.SIGINT], [signal.SIGINT, signal.SIGINT], [signal.SIGTERM]],
    ids=["SIGINT", "SIGINT twice", "SIGTERM"],
)
def test_the_node_ends_cleanly(start, tiny_checkpoint: Path, signals: list[int]) -> None:
    node = start("-m", "psg4d_ros.ros.node", *node_arguments(tiny_checkpoint))
    node.wait_for("loaded tiny")
    time.sleep(0.2)
    for number in signals:
        node.signal(number)
        time.sleep(0.02)
    assert node.ended() == 0, node.output
    assert "Traceback" not in node.output


@pytest.mark.parametrize(
    "signals",
    [[signal.SIGINT], [signal.SIGINT, signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGTERM]],
    ids=["SIGINT", "SIGINT twice", "SIGTERM", "SIGINT and SIGTERM"],
)
def test_the_node_ends_cleanly_during_inference(start, tiny_checkpoint: Path, signals: list[int]) -> None:
    domain = own_domain()
    node = start("-c", SLOW_NODE, *node_arguments(tiny_checkpoint), domain=domain)
    with ros_context(domain) as context:
        probe = Probe(context)
        with spinning(context, probe.node):
            node.wait_for("loaded tiny")
            probe.connected().send()
            node.wait_for("inference begins")
    for number in signals:
        node.signal(number)
        time.sleep(0.05)
    assert node.ended() == 0, node.output
    assert "Traceback" not in node.output


def test_the_node_ends_cleanly_while_it_loads(start, tiny_checkpoint: Path) -> None:
    node = start(
        "-c",
        "import sys, time; from psg4d_ros.pipeline import ScenePipeline; from psg4d_ros.ros.node import main\n"
        "def load(*a): print('loading', flush=True); time.sleep(60)\n"
        "ScenePipeline.from_checkpoint = load; sys.exit(main())",
        *node_arguments(tiny_checkpoint),
    )
    node.wait_for("loading")
    node.signal(signal.SIGTERM)
    assert node.ended() == 0, node.output
    assert "Traceback" not in node.output


# The signal comes in the middle of rclpy's making of a subscription or publisher, at the Nth thing that it waits for.
INTERRUPTED_NODE = """
import os, signal, sys, time
from itertools import count
from rclpy.node import Node
from psg4d_ros.ros.node import main

calls, add = count(1), Node.add_waitable

def add_waitable(self, waitable):
    if next(calls) == int(sys.argv[1]):
        print("interrupted", flush=True)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    add(self, waitable)

Node.add_waitable = add_waitable
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("call", [1, 5, 12])
def test_the_node_ends_cleanly_while_it_subscribes(start, tiny_checkpoint: Path, call: int) -> None:
    node = start("-c", INTERRUPTED_NODE, str(call), *node_arguments(tiny_checkpoint))
    assert node.ended() == 0, node.output
    assert "interrupted" in node.output and "Traceback" not in node.output


def test_a_misspelt_parameter_ends_the_node_with_one_line(start, tmp_path: Path) -> None:
    file = tmp_path / "robot.yaml"
    file.write_text("/**:\n  ros__parameters:\n    window:\n      num_frame: 4\n")
    node = start("-m", "psg4d_ros.ros.node", "--ros-args", "--params-file", str(file))
    assert node.ended() == 1, node.output
    assert "unknown parameter 'window.num_frame'; did you mean window.num_frames" in node.output
    assert "Traceback" not in node.output


def test_a_missing_checkpoint_ends_a_node_that_starts_by_itself(start, tmp_path: Path) -> None:
    node = start("-m", "psg4d_ros.ros.node", *node_arguments(tmp_path / "nothing"))
    assert node.ended() == 1, node.output
    assert f"checkpoint {tmp_path / 'nothing'} is not a folder" in node.output
    assert "Traceback" not in node.output


def test_a_params_file_that_is_not_there_ends_the_node_with_one_line(start) -> None:
    node = start("-m", "psg4d_ros.ros.node", "--ros-args", "--params-file", "/no/such.yaml")
    assert node.ended() == 1, node.output
    assert "/no/such.yaml" in node.output
    assert "Traceback" not in node.output


def test_the_shipped_parameter_file_and_executable_start_the_node(start, tiny_checkpoint: Path) -> None:
    file = str(ROOT / "config" / "perception.yaml")
    arguments = [*node_arguments(tiny_checkpoint), "--params-file", file, "-r", "__ns:=/robot"]
    node = start(str(ROOT / "scripts" / "perception_node"), *arguments)
    node.wait_for("loaded tiny")
    assert "[robot.perception]" in node.output
    node.signal(signal.SIGINT)
    assert node.ended() == 0, node.output


def test_the_bag_player_refuses_what_it_cannot_play(start, tmp_path: Path) -> None:
    player = start(str(ROOT / "scripts" / "bag_player"), str(tmp_path / "no_bag"))
    assert player.ended() == 1
    assert "no_bag does not exist" in player.output
    assert "Traceback" not in player.output
    assert start("-m", "psg4d_ros.ros.bag_player", "x", "--rate", "0").ended() == 2


def test_the_bag_player_stops_on_a_signal_while_it_waits(start, kinect_bag: Path) -> None:
    player = start("-m", "psg4d_ros.ros.bag_player", str(kinect_bag), "--wait-for-subscribers", "1")
    player.wait_for("waiting for 1 subscriber")
    player.signal(signal.SIGINT)
    assert player.ended() == 0, player.output
    assert "Traceback" not in player.output


def test_starting_the_node_with_wrong_parameters_imports_no_torch() -> None:
    """Typing errors in a parameter file are told at once, not after the seconds that torch takes to import."""
    code = "import sys, psg4d_ros.ros.node; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0


def test_a_process_helper_that_waits_in_vain_shows_the_output(start) -> None:
    process = start("-c", "print('hello')")
    with pytest.raises(AssertionError, match="hello"):
        process.wait_for("good bye", timeout_s=5.0)
    wait_until(lambda: process.ended() == 0, "its end")
