"""What README shows is what happens: its Python, the output of `make demo`, own words, own data; and the file maps.

Its commands are parsed, and the cheap ones run, in test_documented_commands.py.
"""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml

from psg4d_ros.checkpoint import read_manifest
from psg4d_ros.cli import main
from psg4d_ros.data.recording import TrueObject, TrueRelation
from psg4d_ros.data.simulation.sensors import DepthCamera, Scan
from psg4d_ros.data.simulation.storage import SceneData, write_scene

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()

# Numbers differ between CPUs by what bfloat16, or float32 in its place, rounds away: names move by up to 0.01 and
# relations by 0.05, and so by up to twice that between two others.
NAME_NOISE, RELATION_NOISE = 0.02, 0.1


def shown_graph() -> tuple[dict[int, dict[str, float | str]], dict[tuple[int, str, int], float]]:
    """The graph in README's block of `make demo`: objects by id, scores of relations."""
    (block,) = re.findall(r"^\$ make demo\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    objects = {
        int(number): {"label": label.strip(), "score": float(score), "points": int(points)}
        for number, label, score, points in re.findall(
            r"^ +(\d+)  (\S.*?) +(\d\.\d\d) +(?:-?[\d.]+ +){6}(\d+)", block, re.MULTILINE
        )
    }
    relations = {}
    for subject, s, predicate, object_, o, score in re.findall(
        r"^  (.+?) (\d+) -- (.+?) --> (.+?) (\d+)  \(since now, (.+?)\)$", block, re.MULTILINE
    ):
        assert (objects[int(s)]["label"], objects[int(o)]["label"]) == (subject, object_)
        relations[int(s), predicate, int(o)] = float(score)
    assert len(objects) > 2 and len(relations) > 2
    return objects, relations


@pytest.mark.slow
@pytest.mark.timeout(1200)  # seconds of one free core; the real language model on a busy machine takes many times that
@pytest.mark.usefixtures("one_thread")
def test_the_output_of_make_demo_is_that_of_the_weights_that_ship() -> None:
    """As psg4d demo runs the recording. What CPUs differ in may differ: a name may be another that is as sure, and
    relations of objects under other names are other relations."""
    from psg4d_ros.checkpoint import default_checkpoint
    from psg4d_ros.config import PipelineConfig
    from psg4d_ros.config_files import pipeline_config
    from psg4d_ros.data.bundled import bundled_bag
    from psg4d_ros.evaluation.replay_job import ReplayJob, run_job
    from psg4d_ros.structures import SceneGraph

    objects, relations = shown_graph()
    graphs: list[SceneGraph] = []
    config = pipeline_config(None, ["coordinates.target_frame=odom", "inference.device=cpu"])
    run_job(ReplayJob(bundled_bag(), default_checkpoint(), config, limit=1), on_graph=graphs.append)
    (graph,) = graphs
    header = f"graph 1  window of 1  {len(graph.cloud.points)} points"
    assert header in README and f"[{graph.status.name}]  in {graph.frame_id}\n" in README
    assert {o.track_id for o in graph.objects} == objects.keys()
    same = set()
    for found in graph.objects:
        shown = objects[found.track_id]
        scores = {a.label: a.score for a in found.alternatives} | {found.label: found.score}
        assert scores.get(str(shown["label"])) == pytest.approx(found.score, abs=NAME_NOISE), found
        assert found.score == pytest.approx(shown["score"], abs=0.05), found.label
        assert found.num_points == pytest.approx(shown["points"], rel=0.1), found.label
        if found.label == shown["label"]:
            same.add(found.track_id)
    assert len(same) > len(objects) // 2, "README's names are those of most objects"
    said = {
        (r.subject_id, r.predicate, r.object_id): r.score
        for r in graph.relations
        if {r.subject_id, r.object_id} <= same
    }
    shown_of_same = {r: score for r, score in relations.items() if {r[0], r[2]} <= same}
    # Scores of windows, of which a graph of one window tells less.
    told = 1.0 / (1.0 + PipelineConfig().tracker.relation_prior_windows)
    noise = told * RELATION_NOISE
    sure = told * PipelineConfig().inference.relation_threshold + noise
    for some, others in ((said, shown_of_same), (shown_of_same, said)):
        for relation, score in some.items():
            assert score < sure or others.get(relation) == pytest.approx(score, abs=noise), relation


@pytest.mark.usefixtures("one_thread")
def test_the_python_of_the_readme_runs(tiny_checkpoint: Path, tmp_path: Path, monkeypatch) -> None:
    """Its blocks one after the other, as they stand: a bag, then own words and a cloud that comes as an array."""
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    (tmp_path / "readme.py").write_text("\n".join([*blocks[:1], "of_the_bag = graph", *blocks[1:]]))
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("psg4d_ros.checkpoint.default_checkpoint", lambda: tiny_checkpoint)
    after = runpy.run_path(str(tmp_path / "readme.py"))
    assert after["of_the_bag"].num_frames == 3
    graph = after["graph"]
    assert graph.epoch == after["of_the_bag"].epoch + 1, "years later, so a new epoch"
    assert len(graph.cloud.points) == len(after["xyz"]) > 10_000
    assert after["pipeline"].vocabulary.class_names == ("floor", "laptop", "box")
    assert {o.label for o in graph.objects} <= {"floor", "laptop", "box"}


@pytest.mark.ros
def test_a_running_node_takes_the_new_words_of_the_readme(tiny_checkpoint: Path) -> None:
    pytest.importorskip("rclpy", reason="needs rclpy: source a ROS 2 distribution, or run `make test` for the wheels")
    from node_support import running

    from psg4d_ros.srv import SetVocabulary

    ((service, kind, values),) = re.findall(r'^ros2 service call (\S+) (\S+) "(.*)"$', README, re.MULTILINE)
    assert (service, kind) == ("/perception/set_vocabulary", "psg4d_ros/srv/SetVocabulary")
    with running(tiny_checkpoint) as (node, probe):
        answer = probe.call(SetVocabulary, "set_vocabulary", **yaml.safe_load(values))
        assert answer.success, answer.message
        vocabulary = node.session.pipeline.vocabulary
        assert vocabulary.class_names == ("floor", "couch", "mug")
        assert vocabulary.predicates == ("resting against",)
        assert vocabulary.class_id("floor") >= 0, "a class of the checkpoint keeps its id"
        assert vocabulary.class_id("couch") == -1


def own_scene(name: str) -> SceneData:
    """A labelled recording of one's own: eight frames of a still camera, 1 m above a floor and a crate on it."""
    camera = DepthCamera(width=48, height=36)
    rows = np.arange(36)[:, None] - 17.5
    focal_px = 24.0 / np.tan(np.radians(camera.fov_deg / 2))
    floor_m = np.where(rows > 4, focal_px / np.maximum(rows, 1.0), 0.0).repeat(48, axis=1)  # depth, 0 = nothing
    crate = np.zeros((36, 48), bool)
    crate[18:30, 14:34] = True
    ranges = (np.where(crate, 2.0, floor_m) * 1000).astype(np.uint16)
    instance = np.where(crate, 2, np.where(ranges > 0, 1, 0)).astype(np.uint16)
    colors = np.full((36, 48, 3), 128, np.uint8)
    return SceneData(
        name,
        camera,
        stamps_ns=np.arange(1, 9, dtype=np.int64) * 250_000_000,
        mount_poses=np.tile([0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0], (8, 1)),
        objects=(TrueObject(1, "floor", False), TrueObject(2, "crate", True)),
        relations=(TrueRelation(2, "on", 1, 0, 8),),
        open_scans=lambda: iter([Scan(ranges, colors, None, instance)] * 8),
    )


@pytest.mark.usefixtures("one_thread")
def test_training_goes_on_with_own_data(tiny_checkpoint: Path, tmp_path: Path, monkeypatch) -> None:
    """README's command, on one scene and for one step of each stage."""
    pytest.importorskip("embreex", reason="training imports the simulator, which needs embreex (extra sim)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PSG4D_IMAGES", raising=False)
    for split in ("train", "val"):
        write_scene(Path("DIR") / split / "kitchen.npz", own_scene("kitchen"))
    (line,) = re.findall(r"^\.venv/bin/psg4d (train all .*--data DIR.*)$", README, re.MULTILINE)
    small = {"all": "smoke", "models/psg4d-small": str(tiny_checkpoint), "--minutes": "--steps", "N": "1"}
    words = [small.get(word, re.sub(r"\d+$", "1", word)) for word in shlex.split(line)]
    assert main([*words, "--quiet"]) == 0
    training = read_manifest(Path("out/own/checkpoint")).training
    assert list(training["stages"]) == ["stage2_geometry", "stage3_joint"]
    assert training["scenes"]["train"] == 1
    card = Path("out/own/checkpoint/MODEL_CARD.md").read_text()
    assert "1 scenes that psg4d_ros did not make" in card and "simulated" not in card.split("## Stages")[0]
    assert [file.name for file in Path("DIR/train").iterdir()] == ["kitchen.npz"], "nothing was simulated beside it"


def test_files_that_the_maps_name_exist() -> None:
    (readme_map,) = re.findall(r"^## Where things are\n+```\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    named = re.findall(r"(?:psg4d_ros|models|msg|srv|launch|config|docs|test)/[\w/.-]*", readme_map)
    named += [f"psg4d_ros/{path}" for path in re.findall(r"`((?:[\w]+/)*\w*(?:\.py|/))`", ARCHITECTURE)]
    assert len(named) > 50
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_layers_of_the_architecture_are_those_that_are_checked() -> None:
    (contract,) = re.findall(r"^layers = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    (block,) = re.findall(r"^```\n(ros, .*?)^```", ARCHITECTURE, re.MULTILINE | re.DOTALL)
    assert [line.split(", ") for line in block.splitlines()] == [
        re.findall(r"\w+", line) for line in contract.splitlines()
    ]
