"""SceneGraph -> vision_msgs/Detection3DArray, for what knows boxes and labels but not our messages."""

from __future__ import annotations

from typing import Any

import numpy as np

from psg4d_ros.messages import MessageTypes, header_message, pose_message, xyz_message
from psg4d_ros.structures import SceneGraph, SceneObject

DETECTIONS_TYPE = "vision_msgs/msg/Detection3DArray"

# The fields of vision_msgs 4 (Humble and later), for bags: rosbags does not know that package.
VISION_MSGS = {
    "vision_msgs/msg/ObjectHypothesis": "string class_id\nfloat64 score\n",
    "vision_msgs/msg/ObjectHypothesisWithPose": (
        "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose\n"
    ),
    "vision_msgs/msg/BoundingBox3D": "geometry_msgs/Pose center\ngeometry_msgs/Vector3 size\n",
    "vision_msgs/msg/Detection3D": (
        "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\nvision_msgs/BoundingBox3D bbox\n"
        "string id\n"
    ),
    DETECTIONS_TYPE: "std_msgs/Header header\nvision_msgs/Detection3D[] detections\n",
}


def detections_message(graph: SceneGraph, types: MessageTypes) -> Any:
    """vision_msgs/Detection3DArray: a detection for each thing that the newest cloud shows.

    ``id`` is the track_id as text, ``class_id`` the label; the first result is the object's label, the others are its
    alternatives. Neither stuff (floor, wall) nor things that are remembered but not seen are in it, and no relations.
    """
    return types.get(DETECTIONS_TYPE)(
        header=header_message(graph.stamp_ns, graph.frame_id, types),
        detections=[_detection(o, graph, types) for o in graph.objects if o.is_thing and o.num_points],
    )


def _detection(o: SceneObject, graph: SceneGraph, types: MessageTypes) -> Any:
    named = [(o.label, o.score), *((a.label, a.score) for a in o.alternatives if a.label != o.label)]
    return types.get("vision_msgs/msg/Detection3D")(
        header=header_message(graph.stamp_ns, graph.frame_id, types),
        results=[_hypothesis(label, score, o, types) for label, score in named],
        bbox=types.get("vision_msgs/msg/BoundingBox3D")(
            center=pose_message(o.position, o.orientation, types),
            size=xyz_message("geometry_msgs/msg/Vector3", o.size, types),
        ),
        id=str(o.track_id),
    )


def _hypothesis(label: str, score: float, o: SceneObject, types: MessageTypes) -> Any:
    return types.get("vision_msgs/msg/ObjectHypothesisWithPose")(
        hypothesis=types.get("vision_msgs/msg/ObjectHypothesis")(class_id=label, score=float(score)),
        pose=types.get("geometry_msgs/msg/PoseWithCovariance")(
            pose=pose_message(o.position, o.orientation, types), covariance=types.array(np.zeros(36))
        ),
    )
