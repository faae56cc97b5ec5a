"""The perception node on a cloud topic: `ros2 launch psg4d_ros perception.launch.py cloud_topic:=/camera/depth/points`.

Arguments left empty are not passed on, so that defaults and the parameter file hold: no value is written down twice.
"""

from __future__ import annotations

import os
from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

# launch/ and config/ lie side by side in the checkout as well as in the share folder of an installation.
SHARE = Path(__file__).absolute().parent.parent


def arguments() -> list[DeclareLaunchArgument]:
    """The launch arguments (replay.launch.py declares the same ones by including this file)."""
    return [
        DeclareLaunchArgument("cloud_topic", default_value="/points", description="PointCloud2 topic to work on"),
        DeclareLaunchArgument("target_frame", default_value="", description="gravity-aligned TF frame, e.g. odom"),
        DeclareLaunchArgument("params_file", default_value="", description="YAML file, see config/perception.yaml"),
        DeclareLaunchArgument("checkpoint", default_value="", description="checkpoint folder; empty: the shipped one"),
        DeclareLaunchArgument(
            "rviz",
            default_value="false",
            choices=["true", "false"],
            description="start RViz too; without target_frame set its Fixed Frame to the frame_id of the clouds",
        ),
        DeclareLaunchArgument(
            "use_sim_time", default_value="false", choices=["true", "false"], description="time from /clock"
        ),
        DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn, error or fatal"),
    ]


def parameters(context: LaunchContext) -> list[object]:
    """What the node is given: the file first, then the arguments that were set."""
    given: list[object] = []
    params_file = context.perform_substitution(LaunchConfiguration("params_file"))
    if params_file:
        if not Path(params_file).is_file():
            raise FileNotFoundError(f"params_file {params_file} is not a file")
        given.append(params_file)
    for argument, parameter in (("target_frame", "coordinates.target_frame"), ("checkpoint", "checkpoint")):
        value = context.perform_substitution(LaunchConfiguration(argument))
        if value:
            given.append({parameter: value})
    given.append({"use_sim_time": context.perform_substitution(LaunchConfiguration("use_sim_time")) == "true"})
    return given


def nodes(context: LaunchContext) -> list[Node]:
    """The node, and RViz if asked for; a function because empty arguments must not become parameters."""
    perception = Node(
        package="psg4d_ros",
        executable="perception_node",
        name="perception",
        output="screen",
        parameters=parameters(context),
        remappings=[("~/input/points", LaunchConfiguration("cloud_topic"))],
        ros_arguments=["--log-level", LaunchConfiguration("log_level")],
    )
    if context.perform_substitution(LaunchConfiguration("rviz")) != "true":
        return [perception]
    view = ["-d", str(SHARE / "config" / "perception.rviz")]
    target_frame = context.perform_substitution(LaunchConfiguration("target_frame"))
    if target_frame:
        view += ["--fixed-frame", target_frame]
    sim_time = {"use_sim_time": context.perform_substitution(LaunchConfiguration("use_sim_time")) == "true"}
    return [perception, Node(package="rviz2", executable="rviz2", arguments=view, parameters=[sim_time])]


def generate_launch_description() -> LaunchDescription:
    """Called by `ros2 launch`."""
    return LaunchDescription(
        [
            *arguments(),
            # Large clouds do not fit Fast DDS' default shared memory; a profile of the user's own is left alone.
            SetEnvironmentVariable(
                "FASTDDS_DEFAULT_PROFILES_FILE",
                os.environ.get("FASTDDS_DEFAULT_PROFILES_FILE") or str(SHARE / "config" / "fastdds.xml"),
            ),
            OpaqueFunction(function=nodes),
        ]
    )
