"""A run's graph to files, by the name of the format."""

from __future__ import annotations

from pathlib import Path

from psg4d_ros.errors import ConfigError
from psg4d_ros.evaluation.exports import FORMATS
from psg4d_ros.evaluation.exports.node_link import graphml_text, node_link_text
from psg4d_ros.evaluation.exports.pddl import domain_text, problem_text
from psg4d_ros.evaluation.exports.run_graph import RunGraph
from psg4d_ros.evaluation.exports.spark_dsg import spark_dsg_text
from psg4d_ros.evaluation.result_files import write_text


def export_graph(graph: RunGraph, name: str, folder: Path, stem: str) -> list[Path]:
    """Write a graph in the format ``name`` (one of FORMATS); the files in ``folder``, whose names begin with ``stem``.

    Raises ConfigError for another name, Psg4dError when a file cannot be written.
    """
    if name == "spark_dsg":
        texts = {f"{stem}.dsg.json": spark_dsg_text(graph)}
    elif name == "graphml":
        texts = {f"{stem}.graphml": graphml_text(graph)}
    elif name == "json":
        texts = {f"{stem}.graph.json": node_link_text(graph)}
    elif name == "pddl":
        texts = {f"{stem}.domain.pddl": domain_text(graph), f"{stem}.problem.pddl": problem_text(graph, stem)}
    else:
        raise ConfigError(f"export format {name!r} is not known, expected one of {', '.join(FORMATS)}")
    for file, text in texts.items():
        write_text(folder / file, text)
    return [folder / file for file in texts]
