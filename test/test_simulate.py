"""Simulated scenes as files: the same bytes every time, npz and bag alike, damaged files refused, jobs that resume."""

import json
import shutil
import signal
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from box_world import BOX, CUP, TABLE, box_timeline, box_truth

pytest.importorskip("embreex", reason="the simulator needs embreex, which has no wheel for this platform")

from PIL import Image

from psg4d_ros.cli import main
from psg4d_ros.config import CoordinatesConfig, InferenceConfig, PipelineConfig
from psg4d_ros.data.bag import open_bag
from psg4d_ros.data.bag_truth import GRAPH_TOPIC, INSTANCE_TOPIC, recording_from_bag
from psg4d_ros.data.simulation.capture import record, sample_steps
from psg4d_ros.data.simulation.furnishing import make_world
from psg4d_ros.data.simulation.preview import contact_sheet
from psg4d_ros.data.simulation.production import SimulationJob, simulate, simulator_hash
from psg4d_ros.data.simulation.scene_bag import true_graphs, write_bag
from psg4d_ros.data.simulation.scenes import make_sensor
from psg4d_ros.data.simulation.sensors import DepthCamera, SpinningLidar
from psg4d_ros.data.simulation.splits import SPLITS, scene_seed
from psg4d_ros.data.simulation.statistics import summarise, totals
from psg4d_ros.data.simulation.storage import SceneData, open_folder, open_scene, write_scene
from psg4d_ros.errors import ConfigError, DatasetError
from psg4d_ros.evaluation.replay import replay
from psg4d_ros.messages import graph_from_message
from psg4d_ros.pipeline import ScenePipeline

FRAMES = 8
SMALL = {"size": (48, 36), "frames": 4}


def box_scene(sensor=None, seed=0) -> SceneData:
    relations, attributes = box_truth(FRAMES)
    sensor = sensor or DepthCamera(width=64, height=48)
    scene = record(
        box_timeline(), sample_steps(FRAMES, 4.0), relations, attributes, sensor, np.random.default_rng(seed)
    )
    return scene.data


@pytest.fixture(scope="module")
def scene() -> SceneData:
    return box_scene()


@pytest.fixture
def file(scene, tmp_path) -> Path:
    write_scene(tmp_path / "scene.npz", scene)
    return tmp_path / "scene.npz"


def assert_same(a, b) -> None:
    """Two recordings are equal, to the last bit of every point and pose."""
    assert (a.objects, a.relations) == (b.objects, b.relations)
    np.testing.assert_array_equal(a.stamps_ns, b.stamps_ns)
    frames = 0
    for x, y in zip(a.open_frames(), b.open_frames(), strict=True):
        np.testing.assert_array_equal(x.T_world_sensor, y.T_world_sensor)
        np.testing.assert_array_equal(x.instance, y.instance)
        for name in ("points", "colors", "intensity", "source_index"):
            np.testing.assert_array_equal(getattr(x.frame, name), getattr(y.frame, name))
        assert (x.frame.stamp_ns, x.frame.frame_id) == (y.frame.stamp_ns, y.frame.frame_id)
        frames += 1
    assert frames == len(a.stamps_ns)


# --- files


@pytest.mark.parametrize("sensor", [DepthCamera(width=64, height=48), SpinningLidar(rings=8, columns=90)])
def test_memory_file_and_bag_hold_the_same_recording(sensor, tmp_path):
    made = box_scene(sensor)
    write_scene(tmp_path / "scene.npz", made)
    write_bag(tmp_path / "scene", made)
    stored = open_scene(tmp_path / "scene.npz")
    assert stored.name == "box_world"
    assert_same(made.recording(), stored)
    assert_same(stored, recording_from_bag(tmp_path / "scene"))
    assert_same(stored, stored)  # frames can be gone through again


def test_the_same_scene_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_scene(tmp_path / name / "scene.npz", box_scene())
        write_bag(tmp_path / name / "scene", box_scene())
    for path in ("scene.npz", "scene/scene.mcap", "scene/metadata.yaml"):
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()


def test_a_scene_file_is_what_the_documentation_says(file):
    with zipfile.ZipFile(file) as archive:
        annotation = json.loads(archive.read("annotation.json"))
    assert {
        "format",
        "version",
        "name",
        "settings",
        "sensor",
        "stamps_ns",
        "mount_poses",
        "objects",
        "relations",
    } < set(annotation)
    with np.load(file, allow_pickle=False) as arrays:
        assert arrays["ranges"].shape == arrays["instance"].shape == (FRAMES, 48, 64)
        assert arrays["colors"].shape == (FRAMES, 48, 64, 3)
        assert arrays["ranges"].dtype == arrays["instance"].dtype == np.uint16


def test_annotations_are_read_without_the_images(file):
    """A recording is opened by its annotation alone: images that are damaged show when somebody looks at them."""
    damaged = rewritten(file, lambda name, raw: b"" if name == "ranges.npy" else raw)
    recording = open_scene(damaged)
    assert len(recording) == FRAMES
    with pytest.raises(DatasetError, match=r"ranges\.npy"):
        next(recording.open_frames())


def rewritten(file: Path, change) -> Path:
    """A copy of a scene file in which ``change(name, bytes)`` gives each entry's bytes, None leaves it out."""
    out = file.with_name("changed.npz")
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as copy:
        for name in archive.namelist():
            raw = change(name, archive.read(name))
            if raw is not None:
                copy.writestr(name, raw)
    return out


def annotated(file: Path, **changes) -> Path:
    """A copy whose annotation has other values."""

    def change(name, raw):
        return json.dumps({**json.loads(raw), **changes}).encode() if name == "annotation.json" else raw

    return rewritten(file, change)


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"format": "something else"}, "version 1"),
        ({"version": 2}, "version 1"),
        ({"stamps_ns": []}, "stamps_ns"),
        ({"stamps_ns": [5] * FRAMES}, "strictly increasing"),
        ({"stamps_ns": "now"}, "now"),
        ({"mount_poses": [[0.0] * 7] * FRAMES}, "mount_poses"),
        ({"mount_poses": [[0.0] * 6] * FRAMES}, "mount_poses"),
        ({"sensor": {"kind": "sonar"}}, "sonar"),
        ({"sensor": {"kind": "depth", "width": 10**9}}, "sensor"),
        ({"objects": [{"object_id": 1}]}, "label"),
        ({"objects": 7}, "int"),
        ({"relations": [[1, "on", 99, 0, 1]]}, "99|not annotated"),
        ({"relations": [[CUP, "on", TABLE, 0, FRAMES + 1]]}, "spans"),
        ({"relations": [[CUP, "on", TABLE]]}, "should be"),
        ({"relations": [[CUP, 3, TABLE, 0, 1]]}, "should be"),
        ({"name": None}, "should be"),
    ],
)
def test_a_wrong_annotation_is_refused_with_the_file_and_the_reason(file, changes, reason):
    changed = annotated(file, **changes)
    with pytest.raises(DatasetError, match=reason) as error:
        open_scene(changed)
    assert "changed.npz" in str(error.value)


def npy(values) -> bytes:
    import io

    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content, reason",
    [
        (None, "no ranges"),
        (b"not an array", "not the array"),
        (npy(np.zeros((1, 2, 2), np.uint16)), "as the annotation says"),
        (npy(np.zeros((FRAMES, 48, 64), np.float32)), "as the annotation says|more than"),
        (npy(np.array([{"a": 1}])), "not the array"),  # would need pickle
        (npy(np.zeros(10_000_000, np.uint8)), "more than"),  # small on disk, large in memory
        (npy(np.zeros((FRAMES, 48, 64), np.uint16))[:-10], "not the array"),
    ],
)
def test_wrong_images_are_refused(file, content, reason):
    changed = rewritten(file, lambda name, raw: content if name == "ranges.npy" else raw)
    with pytest.raises(DatasetError, match=reason):
        list(open_scene(changed).open_frames())


def test_damaged_files_never_raise_anything_but_dataset_errors(file):
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for trial in range(120):
        raw = bytearray(whole)
        if trial % 3 == 0:
            raw = raw[: int(rng.integers(0, len(raw)))]
        else:
            for place in rng.integers(0, len(raw), 8):
                raw[place] = int(rng.integers(0, 256))
        file.write_bytes(raw)
        try:
            assert len(list(open_scene(file).open_frames())) == FRAMES
        except DatasetError as error:
            assert "scene.npz" in str(error)
            refused += 1
    assert refused > 100


def test_a_folder_is_opened_in_order_of_names_and_an_empty_one_refused(scene, tmp_path):
    for number in (2, 0, 1):
        write_scene(tmp_path / f"s_{number}.npz", replace(scene, name=f"s_{number}"))
    assert [r.name for r in open_folder(tmp_path)] == ["s_0", "s_1", "s_2"]
    for path in (tmp_path / "nothing", tmp_path / "s_0.npz"):
        with pytest.raises(DatasetError, match="expected a folder"):
            open_folder(path)


def test_a_scene_that_cannot_be_written_leaves_nothing_behind(scene, tmp_path):
    (tmp_path / "scene.npz").mkdir()
    (tmp_path / "scene.npz" / "inside").touch()
    with pytest.raises(DatasetError, match="cannot be written"):
        write_scene(tmp_path / "scene.npz", scene)
    assert [p.name for p in tmp_path.iterdir()] == ["scene.npz"]


# --- bags


@pytest.fixture(scope="module")
def bag(scene, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bag") / "scene"
    write_bag(path, scene)
    return path


def test_ground_truth_graphs_tell_nothing_of_the_future(scene):
    """ "approaching" holds in frames [2, 7): it appears in graph 2, is ongoing to 6, and has its end from 7 on."""
    stamps = scene.stamps_ns.tolist()
    graphs = list(true_graphs(scene))
    found = [[r for r in g.relations if r.predicate == "approaching"] for g in graphs]
    assert [len(f) for f in found] == [0, 0, 1, 1, 1, 1, 1, 1]
    assert [f[0].ongoing for f in found[2:]] == [True] * 5 + [False]
    assert [f[0].end_ns for f in found[2:]] == [s + 1 for s in stamps[2:7]] + [stamps[7]]
    assert all(r.start_ns <= g.stamp_ns for g in graphs for r in g.relations)
    assert all(o.first_seen_ns <= o.last_seen_ns <= g.stamp_ns for g in graphs for o in g.objects)
    box = [next(o for o in g.objects if o.track_id == BOX) for g in graphs]
    assert [o.attributes for o in box] == [("still",)] + [("moving",)] * (FRAMES - 1)
    assert box[-1].position[0] - box[0].position[0] == pytest.approx(7 * 0.25 / 3, abs=0.05)  # 1 m in 3 s


def test_labelled_clouds_and_graphs_of_a_bag_agree(bag):
    with open_bag(bag) as opened:
        graphs = [graph_from_message(m) for _, m, _ in opened.messages([GRAPH_TOPIC])]
        clouds = [m for _, m, _ in opened.messages([INSTANCE_TOPIC])]
        assert opened.choose_cloud_topic() == "/points"
    for graph, cloud in zip(graphs, clouds, strict=True):
        dtype = np.dtype(
            [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<f4"), ("instance", "<u4"), ("class_id", "<i4"),
             ("score", "<f4"), ("source_index", "<u4")]
        )  # fmt: skip
        points = np.frombuffer(bytes(cloud.data), dtype)
        assert cloud.header.frame_id == graph.frame_id == "world"
        counts = dict(zip(*np.unique(points["instance"], return_counts=True), strict=True))
        assert {o.track_id: o.num_points for o in graph.objects if o.num_points} == {
            int(k): int(n) for k, n in counts.items() if k
        }
        floor = points[points["instance"] == 1]
        assert abs(float(np.median(floor["z"]))) < 0.03  # in the world frame, where the floor is at 0


def test_a_bag_without_ground_truth_is_refused(kinect_bag):
    with pytest.raises(DatasetError, match="no ground truth"):
        recording_from_bag(kinect_bag)


def copied(bag: Path, out: Path, change) -> Path:
    """A copy of a bag in which ``change(topic, number, message)`` gives each message, None leaves it out."""
    from psg4d_ros.data.bag import BagWriter

    seen: dict[str, int] = {}
    with open_bag(bag) as opened, BagWriter(out) as writer:
        for topic, message, stamp_ns in opened.messages():
            number = seen[topic] = seen.get(topic, -1) + 1
            changed = change(topic, number, message)
            if changed is not None:
                writer.write(topic, changed, stamp_ns)
    return out


@pytest.mark.parametrize(
    "topic, number, change, reason",
    [
        (GRAPH_TOPIC, 3, lambda m: None, "one for each"),
        (GRAPH_TOPIC, 3, lambda m: replace(m, epoch=1), "epoch"),
        (GRAPH_TOPIC, 3, lambda m: replace(m, objects=m.objects[1:]), "not in the graph|not annotated"),
        (INSTANCE_TOPIC, 3, lambda m: None, "has stamp|differ in number"),
        (INSTANCE_TOPIC, 3, lambda m: replace(m, width=m.width - 1), "little-endian points"),
        (INSTANCE_TOPIC, 3, lambda m: replace(m, fields=m.fields[:3]), "needs the fields"),
        (
            INSTANCE_TOPIC,
            3,
            lambda m: replace(m, width=1, row_step=m.point_step, data=m.data[: m.point_step]),
            "exactly",
        ),
        ("/tf", 3, lambda m: None, "older than the cloud"),
        ("/points", 3, lambda m: replace(m, row_step=1), "row_step"),
    ],
)
def test_ground_truth_that_contradicts_itself_is_refused_with_its_place(bag, tmp_path, topic, number, change, reason):
    out = copied(bag, tmp_path / "bag", lambda t, n, m: change(m) if (t, n) == (topic, number) else m)
    with pytest.raises(DatasetError, match=reason):
        list(recording_from_bag(out).open_frames())


def test_replay_reads_a_simulated_bag(bag, scene, tiny_checkpoint):
    config = PipelineConfig(
        inference=InferenceConfig(device="cpu"), coordinates=CoordinatesConfig(target_frame="world")
    )
    result = replay(bag, lambda tf: ScenePipeline.from_checkpoint(tiny_checkpoint, config, tf))
    assert (result.frames_in, result.frames_dropped, dict(result.errors)) == (FRAMES, 0, {})
    assert result.topic == "/points"
    assert [g["stamp_ns"] for g in result.graphs] == scene.stamps_ns.tolist()
    assert {g["frame_id"] for g in result.graphs} == {"world"}


@pytest.mark.ros
@pytest.mark.slow
def test_a_simulated_bag_plays_through_the_node(bag, scene, tiny_checkpoint):
    """Player, node and listener as processes of their own: the last cloud's graph and labelled points come out."""
    pytest.importorskip("rclpy", reason="needs rclpy: source a ROS 2 distribution, or run `make test` for the wheels")
    from ros_support import Process, own_domain

    domain, python = own_domain(), sys.executable
    arguments = [
        "--ros-args",
        "-r",
        "~/input/points:=/points",
        "-p",
        "inference.threads:=1",
        "-p",
        "use_sim_time:=true",
    ]
    listener = Process([python, str(Path(__file__).parent / "ros_listener.py")], domain)
    node = Process(
        [python, "-m", "psg4d_ros.ros.node", *arguments, "-p", f"checkpoint:={tiny_checkpoint}"],
        domain,
    )
    player = None
    try:
        node.wait_for("loaded tiny")
        listener.wait_for("ready")
        player = Process([python, "-m", "psg4d_ros.ros.bag_player", str(bag), "--wait-for-subscribers", "1"], domain)
        assert player.ended(60.0) == 0, player.output
        listener.wait_for(f"graph {int(scene.stamps_ns[-1])}")
        node.signal(signal.SIGINT)
        assert node.ended() == 0, node.output
        listener.signal(signal.SIGTERM)
        assert listener.ended() == 0, listener.output
    finally:
        for process in (listener, node, player):
            if process is not None:
                process.kill()
    assert f"played {FRAMES} clouds" in player.output
    heard = json.loads(listener.output.splitlines()[-1])
    last = heard["scene_graph/instances"][-1]
    assert last["stamp"] == int(scene.stamps_ns[-1])
    assert last["frame"] == "camera_optical_frame"
    *_, final = scene.recording().open_frames()
    assert last["points"] == len(final.frame)


# --- previews and statistics


@pytest.mark.parametrize("sensor", [DepthCamera(width=64, height=48), SpinningLidar(rings=32, columns=200)])
def test_a_contact_sheet_shows_views_instances_map_and_bars(sensor):
    sheet = np.asarray(contact_sheet(box_scene(sensor)))
    assert sheet.shape[1] == 1560 and 600 < sheet.shape[0] < 2000
    from psg4d_ros.messages import track_color

    table = (sheet == track_color(TABLE)).all(axis=2)
    rows = np.flatnonzero(table.any(axis=1))
    assert table.sum() > 300 and np.ptp(rows) > 200  # in the views and in the map below
    bar = (sheet[:, 900:] == track_color(BOX)).all(axis=2)
    assert bar.sum(axis=1).max() > 250  # box approaching table, 5 of 8 frames


def test_a_sheet_of_a_single_empty_frame_can_be_made(scene):
    scans = [replace(s, ranges=np.zeros_like(s.ranges), instance=np.zeros_like(s.instance)) for s in scene.open_scans()]
    empty = replace(
        scene, stamps_ns=scene.stamps_ns[:1], mount_poses=scene.mount_poses[:1], objects=(), relations=(),
        open_scans=lambda: iter(scans[:1]),
    )  # fmt: skip
    assert contact_sheet(empty).width == 1560


def test_statistics_count_what_the_scenes_hold(scene):
    values = totals([summarise(scene), summarise(scene)])
    points = sum(len(f.frame) for f in scene.recording().open_frames())
    assert (values["scenes"], values["frames"], values["points"]) == (2, 2 * FRAMES, 2 * points)
    assert values["objects"] == 2 * len(scene.objects)
    assert values["relations"] == 2 * len(scene.relations)
    assert values["predicates"] == {"on": {"count": 4}, "approaching": {"count": 2}}
    assert values["classes"]["cup"] == {"count": 2}
    assert values["attributes"]["still"] == {"count": 4}
    assert values["per_scene"]["objects"] == {"min": 5, "mean": 5.0, "max": 5}
    assert json.loads(json.dumps(values)) == values


# --- jobs


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Two scenes of the test split, with bags and previews, by two processes."""
    out = tmp_path_factory.mktemp("simulated") / "test"
    arguments = ["simulate", str(out), "--split", "test", "--scenes", "2", "--frames", "4", "--size", "48x36"]
    arguments += ["--bag", "--preview", "--workers", "2", "--json", str(out.parent / "result.json"), "--quiet"]
    assert main(arguments) == 0
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_command_makes_scenes_bags_previews_and_numbers(made, capsys):
    assert sorted(p.name for p in made.iterdir()) == [
        "simulation.json", "test_00000", "test_00000.npz", "test_00000.png", "test_00001", "test_00001.npz",
        "test_00001.png",
    ]  # fmt: skip
    recordings = open_folder(made)
    values = json.loads((made.parent / "result.json").read_text())
    assert (values["scenes"], values["frames"]) == (2, 8)
    assert values["objects"] == sum(len(r.objects) for r in recordings) > 0
    assert values["relations"] == sum(len(r.relations) for r in recordings)
    assert sum(entry["count"] for entry in values["predicates"].values()) == values["relations"]
    for recording in recordings:
        assert recording.name.startswith("test_0000")
        assert_same(recording, recording_from_bag(made / recording.name))
        with Image.open(made / f"{recording.name}.png") as sheet:
            assert sheet.width == 1560


def test_one_process_makes_the_same_bytes_as_two(made, tmp_path):
    job = SimulationJob(tmp_path / "again", split="test", bag=True, preview=True, **SMALL)
    simulate(job, 2, workers=1)
    assert contents(tmp_path / "again") == contents(made)


def test_a_job_that_was_stopped_goes_on_and_keeps_what_is_there(made, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(made, out)
    missing = ["test_00001.npz", "test_00000.png", "test_00000"]
    (out / missing[0]).unlink(), (out / missing[1]).unlink(), shutil.rmtree(out / missing[2])
    kept = out / "test_00000.npz"
    before = kept.stat().st_mtime_ns
    summaries = simulate(SimulationJob(out, split="test", bag=True, preview=True, **SMALL), 2, workers=1)
    assert [s.name for s in summaries] == ["test_00000", "test_00001"]
    assert contents(out) == contents(made)
    assert kept.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"split": "val"}, {"sensor": "lidar"}, {"frames": 5}, {"rate_hz": 2.0}]
)
def test_a_folder_made_with_other_settings_is_refused(made, change):
    with pytest.raises(DatasetError, match=next(iter(change))):
        simulate(replace(SimulationJob(made, split="test", **SMALL), **change), 1)


def test_scenes_of_another_simulator_are_not_mixed_with_ours(made, tmp_path):
    settings = json.loads((made / "simulation.json").read_text())
    (tmp_path / "simulation.json").write_text(json.dumps({**settings, "simulator": "0123456789ab"}))
    with pytest.raises(DatasetError, match="simulator is '0123456789ab'"):
        simulate(SimulationJob(tmp_path, split="test", **SMALL), 1)


def test_a_folder_of_other_files_is_refused(file):
    with pytest.raises(DatasetError, match=r"no simulation\.json"):
        simulate(SimulationJob(file.parent, split="test", **SMALL), 1)
    (file.parent / "simulation.json").write_text("[1]")
    with pytest.raises(DatasetError, match="other settings"):
        simulate(SimulationJob(file.parent, split="test", **SMALL), 1)


@pytest.mark.parametrize(
    "settings, scenes, reason",
    [
        ({"split": "tests"}, None, "train_scarce"),
        ({"split": "train_scarce"}, 61, "1 to 60"),
        ({}, 0, "at least 1"),
        ({"seed": -1}, 1, "seed"),
        ({"sensor": "sonar"}, 1, "mixed"),
        ({"frames": 0}, 1, "frames"),
        ({"rate_hz": 3.0}, 1, "4"),
        ({"size": (0, 5)}, 1, "size"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_made(tmp_path, settings, scenes, reason):
    with pytest.raises(ConfigError, match=reason):
        simulate(SimulationJob(tmp_path / "out", **settings), scenes)
    assert not (tmp_path / "out").exists()


def test_a_scene_that_fails_costs_no_other_and_is_reported(made, tmp_path):
    (tmp_path / "test_00000.npz").mkdir()  # where the first scene's file should go
    shutil.copy(made / "simulation.json", tmp_path)
    with pytest.raises(DatasetError, match=r"1 of 2 scenes could not be made.*test_00000"):
        simulate(SimulationJob(tmp_path, split="test", **SMALL), 2, workers=1)
    assert (tmp_path / "test_00001.npz").exists()


def test_evaluation_on_simulated_scenes_says_which_could_not_be_made(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "psg4d_ros" / "simulated" / f"test-seed0-{simulator_hash()}"
    (folder / "test_00000.npz").mkdir(parents=True)  # where the scene's file should go
    settings = {**json.loads((made / "simulation.json").read_text()), "size": None, "frames": 60}
    (folder / "simulation.json").write_text(json.dumps(settings))
    assert main(["eval", "sim", "--limit", "1", "--method", "oracle"]) == 1
    assert "1 of 1 scenes could not be made" in (told := capsys.readouterr().err) and "test_00000" in told


def test_wrong_usage_is_told(tmp_path, capsys):
    assert main(["simulate", str(tmp_path / "out"), "--split", "nothing"]) == 1
    assert "train_scarce" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main(["simulate", str(tmp_path / "out"), "--size", "wide"])
    assert end.value.code == 2


# --- splits


def test_scarce_training_data_is_the_beginning_of_the_training_data():
    for index in (0, 59):
        a, b = (scene_seed(SPLITS[name], 7, index).generate_state(4) for name in ("train", "train_scarce"))
        np.testing.assert_array_equal(a, b)


def test_no_scene_of_one_split_occurs_in_another():
    states = {
        tuple(scene_seed(SPLITS[name], seed, index).generate_state(4).tolist())
        for name in ("train", "val", "test", "test_oov")
        for seed in (0, 1, 2)
        for index in range(20)
    }
    assert len(states) == 4 * 3 * 20


def test_sensors_differ_from_scene_to_scene():
    rngs = [np.random.default_rng(n) for n in range(30)]
    sensors = [make_sensor("mixed", rng) for rng in rngs]
    assert {s.kind for s in sensors} == {"depth", "lidar"}
    assert len({s.fov_deg for s in sensors if isinstance(s, DepthCamera)}) > 5
    assert make_sensor("depth", np.random.default_rng(0), (320, 240)).shape == (240, 320)


def test_unseen_classes_occur_only_where_they_should():
    training = SPLITS["train"].words.labels
    assert training == SPLITS["test"].words.labels
    words = SPLITS["test_oov"].words
    labels = {e.label for n in range(8) for e in make_world(np.random.default_rng(n), name="w", words=words).entities}
    assert labels - training
