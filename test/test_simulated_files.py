"""Simulated scenes as files: the same bytes every time, npz and bag alike, damaged files refused, previews."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from box_world import BOX, CUP, TABLE
from recorded_boxes import FRAMES, assert_same, record_boxes

pytest.importorskip("embreex", reason="the simulator needs embreex, which has no wheel for this platform")


from psg4d_ros.data.bag_truth import recording_from_bag
from psg4d_ros.data.simulation.preview import contact_sheet
from psg4d_ros.data.simulation.scene_bag import write_bag
from psg4d_ros.data.simulation.sensors import DepthCamera, SpinningLidar
from psg4d_ros.data.simulation.statistics import summarise, totals
from psg4d_ros.data.simulation.storage import open_folder, open_scene, write_scene
from psg4d_ros.errors import DatasetError


@pytest.fixture
def file(box_scene, tmp_path) -> Path:
    write_scene(tmp_path / "scene.npz", box_scene)
    return tmp_path / "scene.npz"


@pytest.mark.parametrize("sensor", [DepthCamera(width=64, height=48), SpinningLidar(rings=8, columns=90)])
def test_memory_file_and_bag_hold_the_same_recording(sensor, tmp_path):
    made = record_boxes(sensor)
    write_scene(tmp_path / "scene.npz", made)
    write_bag(tmp_path / "scene", made)
    stored = open_scene(tmp_path / "scene.npz")
    assert stored.name == "box_world"
    assert_same(made.recording(), stored)
    assert_same(stored, recording_from_bag(tmp_path / "scene"))
    assert_same(stored, stored)  # frames can be gone through again


def test_the_same_scene_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_scene(tmp_path / name / "scene.npz", record_boxes())
        write_bag(tmp_path / name / "scene", record_boxes())
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
        (npy(np.zeros(10_000_000, np.uint8)), "as the annotation says"),  # small on disk, large in memory
        (npy(np.zeros((FRAMES, 48, 64), np.uint16)) + b"more", "more than"),
        (npy(np.zeros((FRAMES, 48, 64), np.uint16))[:-10], "ends in frame"),
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


def test_a_folder_is_opened_in_order_of_names_and_an_empty_one_refused(box_scene, tmp_path):
    for number in (2, 0, 1):
        write_scene(tmp_path / f"s_{number}.npz", replace(box_scene, name=f"s_{number}"))
    assert [r.name for r in open_folder(tmp_path)] == ["s_0", "s_1", "s_2"]
    for path in (tmp_path / "nothing", tmp_path / "s_0.npz"):
        with pytest.raises(DatasetError, match="expected a folder"):
            open_folder(path)


def test_a_scene_that_cannot_be_written_leaves_nothing_behind(box_scene, tmp_path):
    (tmp_path / "scene.npz").mkdir()
    (tmp_path / "scene.npz" / "inside").touch()
    with pytest.raises(DatasetError, match="cannot be written"):
        write_scene(tmp_path / "scene.npz", box_scene)
    assert [p.name for p in tmp_path.iterdir()] == ["scene.npz"]


# Previews and statistics


@pytest.mark.parametrize("sensor", [DepthCamera(width=64, height=48), SpinningLidar(rings=32, columns=200)])
def test_a_contact_sheet_shows_views_instances_map_and_bars(sensor):
    sheet = np.asarray(contact_sheet(record_boxes(sensor)))
    assert sheet.shape[1] == 1560 and 600 < sheet.shape[0] < 2000
    from psg4d_ros.messages import track_color

    table = (sheet == track_color(TABLE)).all(axis=2)
    rows = np.flatnonzero(table.any(axis=1))
    assert table.sum() > 300 and np.ptp(rows) > 200  # in the views and in the map below
    bar = (sheet[:, 900:] == track_color(BOX)).all(axis=2)
    assert bar.sum(axis=1).max() > 250  # box approaching table, 5 of 8 frames


def test_a_sheet_of_a_single_empty_frame_can_be_made(box_scene):
    first = next(iter(box_scene.open_scans()))
    nothing = replace(first, ranges=np.zeros_like(first.ranges), instance=np.zeros_like(first.instance))
    empty = replace(
        box_scene, stamps_ns=box_scene.stamps_ns[:1], mount_poses=box_scene.mount_poses[:1], objects=(), relations=(),
        open_scans=lambda: iter([nothing]),
    )  # fmt: skip
    assert contact_sheet(empty).width == 1560


def test_statistics_count_what_the_scenes_hold(box_scene):
    values = totals([summarise(box_scene), summarise(box_scene)])
    points = sum(len(f.frame) for f in box_scene.recording().open_frames())
    assert (values["scenes"], values["frames"], values["points"]) == (2, 2 * FRAMES, 2 * points)
    assert values["objects"] == 2 * len(box_scene.objects)
    assert values["relations"] == 2 * len(box_scene.relations)
    assert values["predicates"] == {"on": {"count": 4}, "approaching": {"count": 2}}
    assert values["classes"]["cup"] == {"count": 2}
    assert values["attributes"]["still"] == {"count": 4}
    assert values["per_scene"]["objects"] == {"min": 5, "mean": 5.0, "max": 5}
    assert json.loads(json.dumps(values)) == values
