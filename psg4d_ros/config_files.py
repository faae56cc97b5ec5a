"""Pipeline parameters from a ROS parameter file or from ``key=value`` pairs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from psg4d_ros.config import NodeConfig, PipelineConfig, from_dict
from psg4d_ros.errors import ConfigError

# Parameters of the node itself (what it loads and how it starts), which share a file with the pipeline's.
NODE_PARAMETERS = frozenset(f.name for f in fields(NodeConfig)) - {f.name for f in fields(PipelineConfig)} | {
    "use_sim_time"
}


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 5e-4 is a number, as in YAML 1.2, JSON and ROS: for YAML 1.1 only 5.0e-4 is one."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+\Z"), list("-+.0123456789")
)


def pipeline_config(path: Path | None = None, pairs: Iterable[str] = ()) -> PipelineConfig:
    """Defaults, overridden by a YAML file, overridden by ``section.key=value`` pairs.

    The file is either a ROS parameter file (``/**: ros__parameters: ...`` or with the node's name) or the plain nested
    mapping; dotted keys are understood. Raises ConfigError for anything that is no parameter of the pipeline.
    """
    values: dict[str, Any] = {}
    if path is not None:
        merge(values, _ros_parameters(read_mapping(path), path))
    merge_pairs(values, pairs, "window.num_frames=4")
    return from_dict(PipelineConfig, values)


def merge_pairs(values: dict[str, Any], pairs: Iterable[str], example: str) -> None:
    """Merge ``section.key=value`` pairs into ``values``; ConfigError, with an example, for what is no such pair."""
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {pair!r}: expected KEY=VALUE, e.g. {example}")
        try:
            merge(values, {key: _load(text)})
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {pair!r}: the value is not YAML: {error}") from error


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds, {} for an empty one. Raises ConfigError when it cannot be read as one."""
    try:
        content = _load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds {type(content).__name__}, expected a mapping of parameters")
    return content


def _load(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # noqa: S506 (it is a SafeLoader)


def _ros_parameters(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """The parameters inside a ROS parameter file, or the mapping itself when it is a plain one."""
    if not any(isinstance(v, dict) and "ros__parameters" in v for v in content.values()):
        return content
    merged: dict[str, Any] = {}
    for node, block in content.items():
        if not isinstance(block, dict) or not isinstance(block.get("ros__parameters", {}), dict):
            raise ConfigError(f"{path}: {node} holds no ros__parameters mapping")
        merge(merged, {k: v for k, v in (block.get("ros__parameters") or {}).items() if k not in NODE_PARAMETERS})
    return merged


def merge(target: dict[str, Any], values: dict[str, Any]) -> None:
    """Merge nested or dotted keys into ``target``; ConfigError where a value stands in a section's place."""
    for key, value in values.items():
        *parents, leaf = str(key).split(".")
        place = target
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ConfigError(f"parameter {key!r}: {parent!r} is a value, not a section")
        if isinstance(value, dict) and isinstance(place.get(leaf), dict):
            merge(place[leaf], value)
        elif isinstance(value, dict):
            place[leaf] = {}
            merge(place[leaf], value)
        else:
            place[leaf] = value
