"""A bag through the perception node: `ros2 launch psg4d_ros replay.launch.py bag:=/path/to/bag`.

The bag player publishes the clouds, /clock and TF. For numbers that repeat use `psg4d replay`, which needs no DDS.
"""

from __future__ import annotations

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

HERE = Path(__file__).absolute().parent


def bag_player(context: LaunchContext) -> list[object]:
    """The player, and the end of the launch when it has played the bag to its end."""
    arguments = ["--publish-as", LaunchConfiguration("cloud_topic"), "--rate", LaunchConfiguration("rate")]
    # The first clouds must not be played into the void while the model still loads.
    arguments += ["--wait-for-subscribers", "1"]
    topic = context.perform_substitution(LaunchConfiguration("bag_topic"))
    if topic:
        arguments += ["--topic", topic]
    if context.perform_substitution(LaunchConfiguration("loop")) == "true":
        arguments += ["--loop"]
    player = Node(
        package="psg4d_ros",
        executable="bag_player",
        name="bag_player",
        output="screen",
        arguments=[LaunchConfiguration("bag"), *arguments],
    )
    # The node may still be at work on the last window.
    end = TimerAction(period=5.0, actions=[EmitEvent(event=Shutdown(reason="the bag has been played"))])
    return [player, RegisterEventHandler(OnProcessExit(target_action=player, on_exit=[end]))]


def end_without_node(event: ProcessExited, context: LaunchContext) -> list[object]:
    """The end of the launch when the node is gone: the player would wait for its subscription for ever."""
    # By name: the node is an action of the included file, which this one does not see.
    if context.is_shutdown or not event.process_name.startswith("perception_node"):
        return []
    reason = f"the perception node has ended with {event.returncode}, and so does the replay"
    return [LogInfo(msg=reason), EmitEvent(event=Shutdown(reason=reason))]


def generate_launch_description() -> LaunchDescription:
    """Called by `ros2 launch`."""
    return LaunchDescription(
        [
            DeclareLaunchArgument("bag", description="bag folder or file (mcap or sqlite3)"),
            DeclareLaunchArgument("bag_topic", default_value="", description="its cloud topic; empty: the only one"),
            DeclareLaunchArgument("rate", default_value="1.0", description="speed; 2.0 plays twice as fast"),
            DeclareLaunchArgument(
                "loop", default_value="false", choices=["true", "false"], description="play for ever"
            ),
            RegisterEventHandler(OnProcessExit(on_exit=end_without_node)),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(HERE / "perception.launch.py")),
                launch_arguments={"use_sim_time": "true"}.items(),
            ),
            OpaqueFunction(function=bag_player),
        ]
    )
