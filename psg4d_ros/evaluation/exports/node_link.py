"""A run's graph as GraphML (Gephi, yEd, Cytoscape, networkx) and as node-link JSON (networkx, d3).

Both are directed multigraphs with the same attributes: a node per object, an edge per span of a relation from subject
to object. Lengths in metres in the graph's coordinate frame, times in nanoseconds.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from typing import Any

from psg4d_ros.evaluation.exports.run_graph import RunGraph
from psg4d_ros.structures import Relation, SceneObject

_NAMESPACE = "http://graphml.graphdrawing.org/xmlns"
_TYPES = {bool: "boolean", int: "long", float: "double", str: "string"}  # attr.type of GraphML
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML 1.0 cannot hold


def node_link_text(graph: RunGraph) -> str:
    """The text that ``networkx.node_link_graph(json.loads(text))`` reads; nodes are track ids."""
    values = {
        "directed": True,
        "multigraph": True,
        "graph": _about(graph),
        "nodes": [{"id": o.track_id, **_node(o, graph)} for o in graph.objects],
        "edges": [
            {"source": r.subject_id, "target": r.object_id, "key": key, **_edge(r)}
            for key, r in enumerate(graph.relations)
        ],
    }
    return json.dumps(values, indent=1, allow_nan=False) + "\n"


def graphml_text(graph: RunGraph) -> str:
    """The text that ``networkx.parse_graphml`` reads; nodes are track ids. Characters that XML cannot hold become
    U+FFFD."""
    root = ET.Element("graphml", xmlns=_NAMESPACE)
    nodes = [(str(o.track_id), _node(o, graph)) for o in graph.objects]
    edges = [(r, _edge(r)) for r in graph.relations]
    keys = {
        **_keys(root, "graph", [_about(graph)]),
        **_keys(root, "node", [n for _, n in nodes]),
        **_keys(root, "edge", [e for _, e in edges]),
    }
    body = ET.SubElement(root, "graph", id="run", edgedefault="directed")
    _data(body, "graph", _about(graph), keys)
    for name, values in nodes:
        _data(ET.SubElement(body, "node", id=name), "node", values, keys)
    for number, (r, values) in enumerate(edges):
        ends = {"id": f"r{number}", "source": str(r.subject_id), "target": str(r.object_id)}
        _data(ET.SubElement(body, "edge", ends), "edge", values, keys)
    ET.indent(root, " ")
    return ET.tostring(root, encoding="unicode", xml_declaration=False) + "\n"


def _about(graph: RunGraph) -> dict[str, Any]:
    return {
        "frame_id": graph.frame_id,
        "stamp_ns": graph.stamp_ns,
        "epoch": graph.epoch,
        "model_id": graph.model_id,
    }


def _node(o: SceneObject, graph: RunGraph) -> dict[str, Any]:
    x, y, z = (float(v) for v in o.position)
    size_x, size_y, size_z = (float(v) for v in o.size)
    return {
        "label": o.label,
        "class_id": o.class_id,
        "score": float(o.score),
        "is_thing": o.is_thing,
        "attributes": "; ".join(o.attributes),
        "x": x,
        "y": y,
        "z": z,
        "size_x": size_x,
        "size_y": size_y,
        "size_z": size_z,
        "first_seen_ns": o.first_seen_ns,
        "last_seen_ns": o.last_seen_ns,
        "present": o.track_id in graph.present,
    }


def _edge(r: Relation) -> dict[str, Any]:
    return {
        "predicate": r.predicate,
        "score": float(r.score),
        "start_ns": r.start_ns,
        "end_ns": r.end_ns,
        "ongoing": r.ongoing,
    }


def _keys(root: ET.Element, domain: str, rows: list[dict[str, Any]]) -> dict[tuple[str, str], str]:
    """Declare the attributes of graph, nodes or edges; (domain, name) -> id of the declaration."""
    out = {}
    for name, value in (rows[0] if rows else {}).items():
        out[domain, name] = f"{domain}_{name}"
        declared = {"id": out[domain, name], "for": domain, "attr.name": name, "attr.type": _TYPES[type(value)]}
        ET.SubElement(root, "key", declared)
    return out


def _data(parent: ET.Element, domain: str, values: dict[str, Any], keys: dict[tuple[str, str], str]) -> None:
    for name, value in values.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        ET.SubElement(parent, "data", key=keys[domain, name]).text = _NOT_XML.sub("\ufffd", text)
