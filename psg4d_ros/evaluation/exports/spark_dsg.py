"""A run's graph as the JSON that spark_dsg (Hydra's scene graph library) reads: DynamicSceneGraph.load, version 1.1.

Objects are nodes of the layer OBJECTS. spark_dsg has one undirected edge per pair of nodes, so an edge stands for all
relations of its pair; which they are, in which direction and when, is in the edge's metadata. What spark_dsg has no
field for is in the metadata of nodes and graph. There are no places, rooms or agents, and no mesh.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from psg4d_ros.evaluation.exports.run_graph import RunGraph
from psg4d_ros.messages import track_color
from psg4d_ros.structures import Float64, SceneObject

_VERSION = {"major": 1, "minor": 1, "patch": 3}  # of the form written here
_LAYERS = {"OBJECTS": 2, "AGENTS": 2, "PLACES": 3, "ROOMS": 4, "BUILDINGS": 5}
_NO_LABEL = 2**32 - 1


def node_id(track_id: int) -> int:
    """spark_dsg's NodeSymbol("O", track_id)."""
    return ord("O") << 56 | track_id


def spark_dsg_text(graph: RunGraph) -> str:
    """The file's text."""
    pairs: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for r in graph.relations:
        if r.subject_id != r.object_id:  # an edge has two ends there
            pair = (min(r.subject_id, r.object_id), max(r.subject_id, r.object_id))
            pairs.setdefault(pair, []).append(
                {
                    "subject": node_id(r.subject_id),
                    "predicate": r.predicate,
                    "object": node_id(r.object_id),
                    "score": float(r.score),
                    "start_ns": r.start_ns,
                    "end_ns": r.end_ns,
                    "ongoing": r.ongoing,
                }
            )
    edges = [
        {
            "source": node_id(source),
            "target": node_id(target),
            "info": {
                "type": "EdgeAttributes",
                "weighted": True,
                "weight": max(r["score"] for r in relations),
                "metadata": {"relations": relations},
            },
        }
        for (source, target), relations in sorted(pairs.items())
    ]
    values = {
        "SPARK_DSG_header": {"project_name": "main", "version": _VERSION},
        "directed": False,
        "multigraph": False,
        "layer_keys": [{"layer": layer, "partition": 0} for layer in sorted(set(_LAYERS.values()))],
        "layer_names": {name: {"layer": layer, "partition": 0} for name, layer in _LAYERS.items()},
        "metadata": {
            "frame_id": graph.frame_id,
            "stamp_ns": graph.stamp_ns,
            "epoch": graph.epoch,
            "model_id": graph.model_id,
        },
        "nodes": [
            {"id": node_id(o.track_id), "layer": 2, "partition": 0, "attributes": _attributes(o, graph)}
            for o in graph.objects
        ],
        "edges": edges,
    }
    return json.dumps(values, indent=1, allow_nan=False) + "\n"


def _attributes(o: SceneObject, graph: RunGraph) -> dict[str, Any]:
    red, green, blue = (int(c) for c in track_color(o.track_id))
    turned = not np.allclose(o.orientation[:3], 0.0)
    return {
        "type": "ObjectNodeAttributes",
        "name": f"{o.label} {o.track_id}",
        "position": _floats(o.position),
        "bounding_box": {
            "type": "OBB" if turned else "AABB",
            "dimensions": _floats(o.size),
            "world_P_center": _floats(o.position),
            "world_R_center": _quaternion(o.orientation),
        },
        "world_R_object": _quaternion(o.orientation),
        "color": {"r": red, "g": green, "b": blue, "a": 255},
        "semantic_label": o.class_id if o.class_id >= 0 else _NO_LABEL,
        "semantic_feature": {"rows": 0, "cols": 0, "data": None},
        "last_update_time_ns": o.last_seen_ns,
        "is_active": o.track_id in graph.present,
        "is_predicted": False,
        "registered": False,
        "mesh_connections": [],
        "metadata": {
            "label": o.label,
            "score": float(o.score),
            "is_thing": o.is_thing,
            "attributes": list(o.attributes),
            "first_seen_ns": o.first_seen_ns,
        },
    }


def _floats(values: Float64) -> list[float]:
    return [float(v) for v in values]


def _quaternion(xyzw: Float64) -> dict[str, float]:
    return dict(zip("xyzw", _floats(xyzw), strict=True))
