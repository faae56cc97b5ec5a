"""ROS parameters come from the configuration dataclasses, and from nowhere else."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest

pytest.importorskip("rclpy", reason="needs rclpy: source a ROS 2 distribution, or run `make test` for the wheels")

from rclpy.node import Node
from rclpy.parameter import Parameter
from ros_support import ros_context

from psg4d_ros.config import NodeConfig, PipelineConfig
from psg4d_ros.errors import ConfigError
from psg4d_ros.ros import params

pytestmark = pytest.mark.ros


def leaves(config: type, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> default of every field, found without the code under test."""
    found: dict[str, Any] = {}
    instance = config()
    for name, hint in get_type_hints(config).items():
        if is_dataclass(hint):
            found |= leaves(hint, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            found[prefix + name] = getattr(instance, name)
    return found


@pytest.fixture(scope="module")
def context() -> Any:
    with ros_context() as context:
        yield context


def declared(context: Any, *arguments: str) -> tuple[Node, NodeConfig]:
    cli = ["--ros-args", *arguments] if arguments else []
    node = Node("perception", context=context, cli_args=cli, use_global_arguments=False)
    return node, params.declare(node, NodeConfig)


def test_every_field_is_one_parameter_with_its_default(context: Any) -> None:
    node, config = declared(context)
    for name, default in leaves(NodeConfig).items():
        value = node.get_parameter(name).value
        assert (tuple(value) if isinstance(default, tuple) else value) == default, name
    assert config == NodeConfig()
    # The whole configuration of replay is there, under the same names.
    assert set(leaves(PipelineConfig)) < set(leaves(NodeConfig))
    assert {f.name for f in fields(PipelineConfig)} < {f.name for f in fields(NodeConfig)}
    node.destroy_node()


def test_descriptors_carry_text_range_and_choices(context: Any) -> None:
    node, _ = declared(context)
    frames = node.describe_parameter("window.num_frames")
    assert "frames" in frames.description
    assert (frames.integer_range[0].from_value, frames.integer_range[0].to_value) == (1, 64)
    gap = node.describe_parameter("window.max_gap_s")
    assert gap.floating_point_range[0].to_value == 3600.0
    assert "best_effort" in node.describe_parameter("input.reliability").additional_constraints
    for name in leaves(NodeConfig):
        assert node.describe_parameter(name).description, name
    node.destroy_node()


def test_a_yaml_file_sets_values_and_an_integer_serves_as_a_float(context: Any, tmp_path: Path) -> None:
    file = tmp_path / "robot.yaml"
    numbers = ", ".join(f"{float(i % 5 == 0)}" for i in range(16))
    file.write_text(
        "/**:\n  ros__parameters:\n    window:\n      num_frames: 4\n      max_gap_s: 2\n"
        f"    coordinates:\n      target_frame: odom\n      T_gravity_sensor: [{numbers}]\n"
    )
    node, config = declared(context, "--params-file", str(file), "-p", "input.depth:=3")
    assert (config.window.num_frames, config.window.max_gap_s, config.input.depth) == (4, 2.0, 3)
    assert config.coordinates.target_frame == "odom"
    assert config.coordinates.T_gravity_sensor[:6] == (1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    node.destroy_node()


def test_an_empty_list_in_a_yaml_file_is_an_empty_list(context: Any, tmp_path: Path) -> None:
    file = tmp_path / "robot.yaml"
    file.write_text("/**:\n  ros__parameters:\n    coordinates:\n      T_gravity_sensor: []\n")
    node, config = declared(context, "--params-file", str(file))
    assert config.coordinates.T_gravity_sensor == ()
    node.destroy_node()


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("windw.num_frames:=4", "unknown parameter 'windw.num_frames'; did you mean window.num_frames"),
        ("num_frames:=4", "did you mean window.num_frames"),
        ("target_frame:=odom", "coordinates.target_frame"),
        ("utter_nonsense:=4", "known parameters: autostart"),
        ("window.num_frames:=0", "window.num_frames is 0, expected a value in [1, 64]"),
        ("window.num_frames:=four", "expected int"),
        ("window.max_gap_s:=true", "expected float"),
        ("input.reliability:=perfect", "expected one of auto, best_effort, reliable"),
        ("coordinates.T_gravity_sensor:=[a, b]", "T_gravity_sensor[0] is 'a'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(context: Any, argument: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        declared(context, "-p", argument)
    assert complaint in str(refused.value)


def test_parameters_that_ros_declares_itself_are_not_unknown(context: Any) -> None:
    topic = "/perception/input/points"
    node, _ = declared(
        context, "-p", "use_sim_time:=true", "-p", f"qos_overrides.{topic}.subscription.reliability:=best_effort"
    )
    assert node.get_parameter("use_sim_time").value is True
    node.destroy_node()


def test_changes_are_checked_and_refused_while_they_would_have_no_effect() -> None:
    good = [Parameter("window.num_frames", value=4), Parameter("some.other", value=1)]
    assert params.check_change(NodeConfig, good, configured=False).successful
    too_many = params.check_change(NodeConfig, [Parameter("window.num_frames", value=999)], configured=False)
    assert not too_many.successful and "[1, 64]" in too_many.reason
    late = params.check_change(NodeConfig, good, configured=True)
    assert not late.successful and "clean up the node first" in late.reason


def test_changes_made_before_configure_are_read(context: Any) -> None:
    node, _ = declared(context)
    node.set_parameters([Parameter("window.num_frames", value=5)])
    assert params.read(node, NodeConfig).window.num_frames == 5
    node.destroy_node()
