"""The launch files: what they start, with which arguments, remappings and parameters."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import runpy
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import yaml
from ros_support import ENVIRONMENT, own_domain

from psg4d_ros.config import NodeConfig, from_dict

ROOT = Path(__file__).parent.parent
PERCEPTION = ROOT / "launch" / "perception.launch.py"
REPLAY = ROOT / "launch" / "replay.launch.py"


class Recorded:
    """Stands for any class of launch and launch_ros: keeps what it was made with."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs


class Context:
    """A launch context in which LaunchConfigurations have the given values."""

    is_shutdown = False

    def __init__(self, **values: str) -> None:
        self.values = values

    def perform_substitution(self, substitution: Any) -> str:
        return self.values[substitution.args[0]]


@pytest.fixture
def fake_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put recording stand-ins in the place of launch and launch_ros, which no wheel brings."""
    for path in (PERCEPTION, REPLAY):
        for statement in ast.walk(ast.parse(path.read_text())):
            if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("launch"):
                name = statement.module or ""
                for part in (name.split(".")[0], name):
                    if not isinstance(sys.modules.get(part), _FakeModule):
                        monkeypatch.setitem(sys.modules, part, _FakeModule(part))
                for alias in statement.names:
                    if not hasattr(sys.modules[name], alias.name):
                        setattr(sys.modules[name], alias.name, type(alias.name, (Recorded,), {}))


class _FakeModule(types.ModuleType):
    __path__: list[str] = []  # noqa: RUF012 - as a package has it


def kind(action: Any) -> str:
    return type(action).__name__


def actions_of(path: Path) -> list[Any]:
    return list(runpy.run_path(str(path))["generate_launch_description"]().args[0])


def run_function(action: Any, **values: str) -> list[Any]:
    """The actions that an OpaqueFunction returns in a context."""
    return list(action.kwargs["function"](Context(**values)))


DEFAULTS = {
    "cloud_topic": "/points",
    "target_frame": "",
    "params_file": "",
    "checkpoint": "",
    "rviz": "false",
    "use_sim_time": "false",
    "log_level": "info",
}


@pytest.mark.usefixtures("fake_launch")
def test_perception_declares_its_arguments_once_and_lists_them_in_help() -> None:
    arguments = [a for a in actions_of(PERCEPTION) if kind(a) == "DeclareLaunchArgument"]
    assert {a.args[0]: a.kwargs["default_value"] for a in arguments} == DEFAULTS
    assert len(arguments) == len(DEFAULTS)
    assert all(a.kwargs["description"] for a in arguments)


@pytest.mark.usefixtures("fake_launch")
def test_perception_starts_the_node_by_name_with_the_cloud_topic_remapped() -> None:
    (function,) = [a for a in actions_of(PERCEPTION) if kind(a) == "OpaqueFunction"]
    (node,) = run_function(function, **DEFAULTS)
    assert (node.kwargs["package"], node.kwargs["executable"]) == ("psg4d_ros", "perception_node")
    assert node.kwargs["name"] == "perception"
    ((source, target),) = node.kwargs["remappings"]
    assert (source, target.args) == ("~/input/points", ("cloud_topic",))
    # Nothing that was not asked for: the defaults live in psg4d_ros/config.py alone.
    assert node.kwargs["parameters"] == [{"use_sim_time": False}]


@pytest.mark.usefixtures("fake_launch")
def test_arguments_that_are_given_become_parameters_and_win_over_the_file() -> None:
    (function,) = [a for a in actions_of(PERCEPTION) if kind(a) == "OpaqueFunction"]
    file = str(ROOT / "config" / "perception.yaml")
    given = DEFAULTS | {"params_file": file, "target_frame": "odom", "checkpoint": "/c", "use_sim_time": "true"}
    (node,) = run_function(function, **given)
    first, *rest = node.kwargs["parameters"]
    assert first == file
    assert rest == [{"coordinates.target_frame": "odom"}, {"checkpoint": "/c"}, {"use_sim_time": True}]
    # Every parameter that the launch file names is one that the node has.
    for parameter in (name for entry in rest for name in entry if name != "use_sim_time"):
        group, _, name = parameter.rpartition(".")
        assert hasattr(getattr(NodeConfig(), group) if group else NodeConfig(), name)


@pytest.mark.usefixtures("fake_launch")
def test_a_params_file_that_is_not_there_is_told() -> None:
    (function,) = [a for a in actions_of(PERCEPTION) if kind(a) == "OpaqueFunction"]
    with pytest.raises(FileNotFoundError, match=re.escape("/no/such.yaml")):
        run_function(function, **DEFAULTS | {"params_file": "/no/such.yaml"})


@pytest.mark.usefixtures("fake_launch")
def test_the_fast_dds_profile_is_set_unless_the_user_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def profile() -> Any:
        (action,) = [a for a in actions_of(PERCEPTION) if kind(a) == "SetEnvironmentVariable"]
        name, value = action.args
        assert name == "FASTDDS_DEFAULT_PROFILES_FILE"
        return value

    monkeypatch.delenv("FASTDDS_DEFAULT_PROFILES_FILE", raising=False)
    assert Path(profile()).is_file()
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", "/home/me/mine.xml")
    assert profile() == "/home/me/mine.xml"


@pytest.mark.usefixtures("fake_launch")
def test_rviz_comes_on_request_in_the_target_frame() -> None:
    (function,) = [a for a in actions_of(PERCEPTION) if kind(a) == "OpaqueFunction"]
    _, rviz = run_function(function, **DEFAULTS | {"rviz": "true", "target_frame": "odom"})
    assert rviz.kwargs["package"] == "rviz2"
    view = rviz.kwargs["arguments"]
    assert Path(view[view.index("-d") + 1]).is_file()
    assert view[view.index("--fixed-frame") + 1] == "odom"


@pytest.mark.usefixtures("fake_launch")
def test_help_says_what_rviz_needs_without_a_target_frame() -> None:
    (rviz,) = [a for a in actions_of(PERCEPTION) if kind(a) == "DeclareLaunchArgument" and a.args[0] == "rviz"]
    assert "without target_frame" in rviz.kwargs["description"] and "Fixed Frame" in rviz.kwargs["description"]


@pytest.mark.usefixtures("fake_launch")
def test_replay_includes_perception_with_simulated_time_and_plays_the_bag_to_its_topic() -> None:
    actions = actions_of(REPLAY)
    declared = [a.args[0] for a in actions if kind(a) == "DeclareLaunchArgument"]
    assert declared == ["bag", "bag_topic", "rate", "loop"]
    assert not set(declared) & set(DEFAULTS)
    (include,) = [a for a in actions if kind(a) == "IncludeLaunchDescription"]
    assert Path(include.args[0].args[0]) == PERCEPTION
    assert dict(include.kwargs["launch_arguments"]) == {"use_sim_time": "true"}
    (function,) = [a for a in actions if kind(a) == "OpaqueFunction"]
    player, _ = run_function(function, bag_topic="/camera/points", loop="true")
    assert (player.kwargs["package"], player.kwargs["executable"]) == ("psg4d_ros", "bag_player")
    bag, *options = [a if isinstance(a, str) else f"<{a.args[0]}>" for a in player.kwargs["arguments"]]
    assert bag == "<bag>"
    assert options[options.index("--publish-as") + 1] == "<cloud_topic>"
    assert options[options.index("--topic") + 1] == "/camera/points"
    assert "--loop" in options
    # The player knows every option that it is given.
    source = (ROOT / "psg4d_ros" / "ros" / "bag_player.py").read_text()
    for option in (o for o in options if o.startswith("--")):
        assert f'"{option}"' in source


@pytest.mark.usefixtures("fake_launch")
@pytest.mark.parametrize(
    ("process", "is_shutdown", "ends"),
    [
        ("perception_node-1", False, True),
        ("perception_node-2", False, True),
        ("perception_node-1", True, False),  # it ends because the launch does
        ("bag_player-2", False, False),  # has a handler of its own, which waits for the last window
        ("rviz2-3", False, False),
    ],
)
def test_replay_ends_when_the_node_does(process: str, is_shutdown: bool, ends: bool) -> None:
    actions = actions_of(REPLAY)
    (register,) = [a for a in actions if kind(a) == "RegisterEventHandler"]
    (include,) = [a for a in actions if kind(a) == "IncludeLaunchDescription"]
    assert actions.index(register) < actions.index(include), "the node may fail at once"
    (handler,) = register.args
    assert kind(handler) == "OnProcessExit"
    assert "target_action" not in handler.kwargs, "of any process, the included file's too"
    context = Context()
    context.is_shutdown = is_shutdown
    answer = handler.kwargs["on_exit"](types.SimpleNamespace(process_name=process, returncode=1), context)
    assert [kind(action) for action in answer] == (["LogInfo", "EmitEvent"] if ends else [])
    if ends:
        assert "perception node has ended with 1" in answer[0].kwargs["msg"]
        assert kind(answer[1].kwargs["event"]) == "Shutdown"
    # The name of a process begins with that of its executable.
    (function,) = [a for a in actions_of(PERCEPTION) if kind(a) == "OpaqueFunction"]
    (node,) = run_function(function, **DEFAULTS)
    assert process.startswith(node.kwargs["executable"]) is process.startswith("perception")


def test_the_shipped_parameter_file_sets_nothing_and_its_examples_are_right() -> None:
    file = ROOT / "config" / "perception.yaml"
    assert yaml.safe_load(file.read_text()) is None
    # With the # gone from its examples, they are parameters that exist, with values that fit.
    examples = "\n".join(line[1:] for line in file.read_text().splitlines() if line.startswith("#  ") or "/**:" in line)
    parameters = yaml.safe_load(examples)["/**"]["ros__parameters"]
    parameters.pop("qos_overrides")
    config = from_dict(NodeConfig, parameters)
    assert config.coordinates.target_frame == "odom"
    assert len(config.coordinates.T_gravity_sensor) == 16


def test_the_rviz_view_shows_the_topics_of_the_node() -> None:
    view = yaml.safe_load((ROOT / "config" / "perception.rviz").read_text())
    topics = [d["Topic"]["Value"] for d in view["Visualization Manager"]["Displays"] if "Topic" in d]
    assert {"/scene_graph/instances", "/scene_graph/markers"} <= set(topics)


def _real_launch_missing() -> str:
    """Why the launch files cannot be run here with the real ros2 launch; empty when they can."""
    if importlib.util.find_spec("launch_ros") is None or importlib.util.find_spec("ros2launch") is None:
        return "needs launch_ros and ros2launch, which come with ROS from apt and not as wheels"
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix

    try:
        prefix = Path(get_package_prefix("psg4d_ros"))
    except PackageNotFoundError:
        return "needs psg4d_ros in the ament index: colcon build, then source install/setup.bash"
    if not (prefix / "lib" / "psg4d_ros" / "perception_node").exists():
        return f"{prefix} has no lib/psg4d_ros/perception_node: colcon build, then source install/setup.bash"
    return ""


def _real_launch(*arguments: str) -> tuple[int, str]:
    """Exit status and output of the real `ros2 launch psg4d_ros replay.launch.py`, which has to end by itself."""
    command = [sys.executable, "-c", "from ros2cli.cli import main; raise SystemExit(main())", "launch"]
    command += ["psg4d_ros", "replay.launch.py", *arguments]
    environment = os.environ | ENVIRONMENT | {"ROS_DOMAIN_ID": str(own_domain())}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        pytest.fail(f"ros2 launch did not end by itself:\n{output}")
    return process.returncode, output


@pytest.mark.ros
@pytest.mark.skipif(bool(_real_launch_missing()), reason=_real_launch_missing())
def test_the_real_ros2_launch_ends_when_the_node_cannot_start(tmp_path: Path, kinect_bag: Path) -> None:
    _, output = _real_launch(f"bag:={kinect_bag}", f"checkpoint:={tmp_path / 'nothing'}")
    assert "is not a folder" in output
    assert "the perception node has ended with 1" in output


@pytest.mark.ros
@pytest.mark.skipif(bool(_real_launch_missing()), reason=_real_launch_missing())
def test_the_real_ros2_launch_replays_the_bundled_bag(tiny_checkpoint: Path, kinect_bag: Path) -> None:
    status, output = _real_launch(f"bag:={kinect_bag}", f"checkpoint:={tiny_checkpoint}")
    assert status == 0, output
    assert "loaded tiny from" in output
    assert "Traceback" not in output
    # Both processes ended by themselves or on launch's SIGINT, none had to be killed.
    assert output.count("process has finished cleanly") == 2, output
