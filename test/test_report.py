"""The report of a replay: one file that holds everything, stays small, and shows labels as text whatever they say."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from scene_report import NASTY, graph, recorded, section, truth

from psg4d_ros.errors import DatasetError, Psg4dError
from psg4d_ros.evaluation.report.page import report_html, write_report
from psg4d_ros.evaluation.report.recorder import MOST_FRAMES, ReplayRecorder
from psg4d_ros.evaluation.report.thinning import thin_cloud
from psg4d_ros.evaluation.report.timeline import timeline_rows
from psg4d_ros.structures import PointFrame


def values_of(html: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1])


def clouds_of(html: str, number: int = 0) -> bytes:
    return base64.b64decode(re.search(rf'id="clouds-{number}">(.*?)</script>', html, re.DOTALL)[1])


def test_the_file_holds_the_graphs_and_the_points_of_each_object():
    html = report_html([section(recorded(3))])
    (recording,) = values_of(html)["recordings"]
    assert [f["t"] for f in recording["frames"]] == [0.0, 0.25, 0.5]
    assert [o["label"] for o in recording["frames"][0]["objects"]] == ["cup", "table"]
    assert recording["frames"][2]["relations"][0]["predicate"] == "on"
    assert [(t["id"], t["label"]) for t in recording["tracks"]] == [(3, "cup"), (8, "table")]
    n = recording["clouds"][0]["n"]
    data = clouds_of(html)
    position = np.frombuffer(data, "<u2", 3 * n).reshape(n, 3)
    owner = np.frombuffer(data, "<u2", n, 6 * n)
    placed = recording["clouds"][0]["low"] + position * recording["clouds"][0]["step"]
    assert np.bincount(owner).tolist() == [100, 100, 100]
    assert placed[owner == 1].mean(axis=0) == pytest.approx([0.5, 0.5, 0.8], abs=0.05), "the cup's points are the cup's"


def test_nothing_is_fetched_and_only_its_own_scripts_may_run():
    html = report_html([section(recorded(1))])
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)[1]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', html)
    assert "{{" not in html.split("<style>")[0]


def test_labels_stay_text_whatever_they_say():
    recorder = recorded(2, label=NASTY, predicate=NASTY)
    html = report_html([section(recorder, title=NASTY, note=NASTY)])
    assert NASTY not in html
    assert html.count("</script>") == report_html([section(recorded(2))]).count("</script>")
    (recording,) = values_of(html)["recordings"]
    assert recording["title"] == recording["tracks"][0]["label"] == NASTY


@pytest.mark.parametrize("most_bytes", [1_200_000, 2_000_000])
def test_the_file_stays_below_its_cap(most_bytes):
    sections = [section(recorded(12, points=20_000)), section(recorded(2, points=20_000))]
    html = report_html(sections, most_bytes=most_bytes)
    assert 0.8 * most_bytes < len(html.encode()) <= most_bytes
    counts = [[c["n"] for c in r["clouds"]] for r in values_of(html)["recordings"]]
    assert min(min(c) for c in counts) >= 2000
    assert max(counts[1]) > max(counts[0]), "a short recording is not thinned for the sake of a long one"


def test_long_replays_give_up_graphs_before_their_clouds_are_too_thin():
    html = report_html([section(recorded(40, points=6000))], most_bytes=1_000_000)
    (recording,) = values_of(html)["recordings"]
    assert recording["graphs"] == 40
    assert 1 < len(recording["frames"]) < 40
    assert min(c["n"] for c in recording["clouds"]) >= 2000


def test_a_cap_that_not_even_the_page_meets_is_an_error():
    with pytest.raises(Psg4dError, match="100000 are allowed"):
        report_html([section(recorded(2))], most_bytes=100_000)


def test_memory_is_bounded_and_every_graph_counts_in_the_timeline():
    recorder = recorded(2 * MOST_FRAMES + 10, points=30)
    assert len(recorder.frames) <= MOST_FRAMES
    (row,) = timeline_rows(recorder)
    assert row.predicted[0][1] == pytest.approx((2 * MOST_FRAMES + 10) * 0.25)


@pytest.mark.parametrize("frames, options", [(0, {}), (1, {}), (2, {"objects": False}), (2, {"colors": False})])
def test_what_is_missing_leaves_its_place_empty(frames, options):
    html = report_html([section(recorded(frames, **options))])
    (recording,) = values_of(html)["recordings"]
    assert len(recording["frames"]) == frames
    assert bool(recording["tracks"]) == (frames > 0 and options.get("objects", True))
    assert recording["colored"] == (frames > 0 and options.get("colors", True))


def test_empty_and_astray_points_do_no_harm():
    generator = np.random.default_rng(0)
    none = np.zeros(0, np.int64)
    assert len(thin_cloud(np.zeros((0, 3), np.float32), none, None, None, 100, generator)) == 0
    points = np.concatenate([generator.uniform(0, 1, (5000, 3)), [[1e30, 0, 0]]]).astype(np.float32)
    cloud = thin_cloud(points, np.zeros(5001, np.int64), None, None, 10_000, generator)
    assert len(cloud) == 5000, "only the stray is left out"
    placed = cloud.low_m + cloud.position * cloud.step_m
    assert placed.min() >= -1e-3 and placed.max() <= 1.001


def test_small_objects_survive_thinning():
    generator = np.random.default_rng(0)
    points = generator.uniform(0, 5, (50_000, 3)).astype(np.float32)
    owner = np.ones(50_000, np.int64)
    owner[:60] = 2
    cloud = thin_cloud(points, owner, None, None, 2000, generator)
    assert len(cloud) == 2000
    assert (cloud.predicted == 2).sum() >= 50


def test_truth_stands_beside_what_was_said():
    recorder = recorded(4, truth=truth(4))
    html = report_html([section(recorder)])
    (recording,) = values_of(html)["recordings"]
    assert recording["truth"]["same"] == {"0": 0, "1": 1}, "the same points, so the same objects"
    assert [o["label"] for o in recording["truth"]["objects"]] == ["cup", "table"]
    assert len(recording["frames"][0]["true_objects"]) == 2
    said, missed = sorted(recording["timeline"], key=lambda row: row["missed"])
    assert (said["predicate"], said["true"]) == ("on", [[0.0, 0.5]])
    assert said["predicted"][0][:2] == [0.0, 1.0]
    assert (missed["predicate"], missed["predicted"], missed["true"]) == ("next to", [], [[0.5, 1.0]])


def test_truth_that_does_not_fit_ends_the_report_not_the_replay(tmp_path):
    recorder = recorded(4, truth=truth(2))
    assert isinstance(recorder.error, DatasetError)
    assert len(recorder.frames) == 2
    with pytest.raises(Psg4dError, match="no frame of"):
        write_report(tmp_path / "report.html", [section(recorder)])
    assert not list(tmp_path.iterdir())


def test_a_recorder_that_breaks_breaks_nothing_else():
    recorder = ReplayRecorder()
    frame, said = graph(0)
    broken = replace(said, cloud=replace(said.cloud, track_id=said.cloud.track_id + 70))
    recorder.take(frame, broken)
    recorder.take(frame, said)
    assert isinstance(recorder.error, Exception)
    assert recorder.frames == []


def test_clouds_without_a_graph_are_passed_over():
    recorder = ReplayRecorder()
    frame, said = graph(0)
    recorder.take(None, None)
    recorder.take(frame, None)
    recorder.take(frame, said)
    assert (len(recorder.frames), recorder.error) == (1, None)


def test_where_the_sensor_was_follows_from_its_points():
    frame, said = graph(0)
    recorder = ReplayRecorder()
    moved = PointFrame((frame.points - np.float32([1, 2, 3])), None, None, frame.source_index, frame.stamp_ns, "camera")
    recorder.take(moved, said)
    assert recorder.frames[0].eye == pytest.approx([1, 2, 3], abs=1e-3)


def test_without_timings_no_wall_clock_value_is_in_the_file():
    first, second = (recorded(2, stage_ms=ms) for ms in (1.0, 2.0))
    quiet = [report_html([section(r, timings=False)]) for r in (first, second)]
    assert quiet[0] == quiet[1]
    assert report_html([section(first)]) != report_html([section(second)])
