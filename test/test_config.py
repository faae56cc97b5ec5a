"""Configuration: every knob once, and a clear error for everything that is not a knob."""

import dataclasses

import pytest

from psg4d_ros.config import ModelConfig, PipelineConfig, WindowConfig, from_dict, to_dict
from psg4d_ros.config_files import pipeline_config
from psg4d_ros.errors import ConfigError


@pytest.mark.parametrize("cls", [PipelineConfig, ModelConfig])
def test_configuration_survives_the_way_through_json(cls):
    assert from_dict(cls, to_dict(cls())) == cls()


def test_every_knob_says_what_it_is_for():
    def walk(cls):
        for f in dataclasses.fields(cls):
            if dataclasses.is_dataclass(f.default_factory):
                yield from walk(f.default_factory)
            else:
                yield f

    for cls in (PipelineConfig, ModelConfig):
        for f in walk(cls):
            assert len(f.metadata["help"]) > 8, f.name


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"windov": {}}, "unknown parameter 'windov'"),
        ({"window": {"frames": 3}}, "unknown parameter 'window.frames'"),
        ({"window": {"num_frames": 0}}, r"window.num_frames is 0, expected a value in \[1, 64\]"),
        ({"window": {"num_frames": "8"}}, "window.num_frames is '8' .str., expected int"),
        ({"window": {"num_frames": True}}, "expected int"),
        ({"window": 3}, "window is 3, expected a mapping"),
        ({"inference": {"decoding": "guess"}}, "expected one of score, generate"),
        ({"inference": {"presence_threshold": float("nan")}}, "expected a value in"),
        ({"coordinates": {"T_gravity_sensor": [1, "x"]}}, r"T_gravity_sensor\[1\]"),
        ({"coordinates": {"T_gravity_sensor": "identity"}}, "expected a list"),
    ],
)
def test_wrong_values_are_refused_with_their_full_name(values, says):
    with pytest.raises(ConfigError, match=says):
        from_dict(PipelineConfig, values)


def test_integers_are_accepted_where_a_float_is_meant():
    assert from_dict(WindowConfig, {"frame_interval_s": 1}).frame_interval_s == 1.0


def test_pipeline_reads_the_nodes_own_parameter_file(tmp_path):
    file = tmp_path / "perception.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    use_sim_time: true\n    window:\n      num_frames: 4\n    tracker.min_iou: 0.5\n"
    )
    config = pipeline_config(file, ["inference.decoding=generate", "window.frame_interval_s=0.5"])
    assert (config.window.num_frames, config.window.frame_interval_s) == (4, 0.5)
    assert (config.tracker.min_iou, config.inference.decoding) == (0.5, "generate")


def test_pipeline_reads_a_plain_mapping(tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text("window: {num_frames: 2}\n")
    assert pipeline_config(file).window.num_frames == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("window: [", "not YAML"),
        ("- 1", "expected a mapping"),
        ("windw: {num_frames: 2}", "unknown parameter"),
        ("window: 1\nwindow.num_frames: 2", "is a value, not a section"),
        ("/**:\n  ros__parameters: 3\n", "ros__parameters"),
    ],
)
def test_parameter_files_with_mistakes_are_refused(tmp_path, text, says):
    file = tmp_path / "p.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says):
        pipeline_config(file)


def test_a_missing_parameter_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*none\.yaml"):
        pipeline_config(tmp_path / "none.yaml")


@pytest.mark.parametrize("pair", ["num_frames", "=3", "window.num_frames=["])
def test_set_needs_key_and_value(pair):
    with pytest.raises(ConfigError, match="--set"):
        pipeline_config(None, [pair])


@pytest.mark.parametrize("text", ["5e-1", "5E-1", "5.0e-1", ".5e0", "0.05e1", "+5e-1", "50e-02"])
def test_numbers_with_an_exponent_need_no_point_and_no_sign(tmp_path, text):
    file = tmp_path / "p.yaml"
    file.write_text(f"inference: {{presence_threshold: {text}}}")
    assert pipeline_config(file).inference.presence_threshold == 0.5
    assert pipeline_config(None, [f"inference.presence_threshold={text}"]).inference.presence_threshold == 0.5


@pytest.mark.parametrize("text", ["'5e-1'", "5e", "e5", "1e-3s", "5e-1 m"])
def test_what_only_looks_like_a_number_stays_text(text):
    with pytest.raises(ConfigError, match=r"presence_threshold is .* \(str\), expected float"):
        pipeline_config(None, [f"inference.presence_threshold={text}"])
