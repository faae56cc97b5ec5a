"""What replay measures: steadiness without truth, recall with it; limits, and predictions as a bag."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scene_graphs import graph, holds, thing

pytest.importorskip("embreex", reason="the simulator needs embreex, which has no wheel for this platform")

from psg4d_ros.cli import main
from psg4d_ros.config import WindowConfig
from psg4d_ros.data.bag import BagWriter, open_bag
from psg4d_ros.data.bag_truth import recording_from_bag
from psg4d_ros.data.simulation.scene_bag import true_graphs, write_bag
from psg4d_ros.errors import ConfigError, DatasetError
from psg4d_ros.evaluation.measures import check_name, measure
from psg4d_ros.evaluation.prediction_bag import PredictionBag
from psg4d_ros.evaluation.replay import graph_json
from psg4d_ros.evaluation.replay_truth import TruthJudge, truth_metrics
from psg4d_ros.evaluation.stability import stability, window_series
from psg4d_ros.evaluation.thresholds import failures, load_thresholds
from psg4d_ros.messages import graph_from_message
from psg4d_ros.vocabulary import default_vocabulary

FREE = ("presence_threshold=0.0", "mask_threshold=0.0", "relation_threshold=0.0", "max_relations=20", "device=cpu")
SETTINGS = [o for f in FREE for o in ("--set", f"inference.{f}")] + ["--set", "window.num_frames=2", "--quiet"]
IN_WORLD = ["--set", "coordinates.target_frame=world"]


@pytest.fixture(scope="module")
def bag(box_scene, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bag") / "room"
    write_bag(path, box_scene)
    return path


@pytest.fixture(scope="module")
def replayed(bag, tiny_checkpoint, tmp_path_factory) -> tuple[dict[str, Any], Path]:
    """A result with everything that can be written beside it, and the folder it is in."""
    out = tmp_path_factory.mktemp("out")
    files = ["--json", out / "a.json", "--markdown", out / "a.md", "--write-bag", out / "said.mcap"]
    files += ["--export", "pddl", "--export", "graphml", "--export-dir", out / "export"]
    arguments = ["replay", bag, "--checkpoint", tiny_checkpoint, *SETTINGS, *IN_WORLD, *files]
    assert main([*map(str, arguments)]) == 0
    return json.loads((out / "a.json").read_text()), out


def windows(*graphs: Any, points: int = 200) -> list[dict[str, Any]]:
    return [graph_json(g) | {"num_points": points} for g in graphs]


class TestStability:
    def test_a_run_in_which_nothing_changes(self):
        run = windows(*[graph(thing(1), thing(2), holds(1, "on", 2))] * 3)
        assert stability(run) == {
            "coverage": 1.0, "label_flicker": 0.0, "relation_churn": 0.0, "id_switches": 0, "coverage_min": 1.0
        }  # fmt: skip

    def test_each_change_is_seen_by_its_measure(self):
        first = graph(thing(1, "cup"), thing(2, "table"), holds(1, "on", 2), holds(2, "near", 1))
        second = graph(thing(1, "bowl"), thing(2, "table", num_points=0), holds(1, "on", 2), holds(1, "in", 2))
        series = window_series(windows(first, second))
        assert series["coverage"] == [1.0, 0.5]  # each object has 100 points, of 200
        assert series["label_flicker"] == [None, 0.5]
        assert series["relation_churn"] == [None, pytest.approx(2 / 3)]  # "on" of three stayed

    def test_a_new_id_in_the_place_of_a_vanished_object_is_a_switch(self):
        before, elsewhere = thing(1), thing(7, position=np.array([5.0, 5.0, 5.0]))
        moved = thing(2, position=before.position + np.array([0.1, 0.0, 0.0]))
        assert window_series(windows(graph(before), graph(moved, elsewhere)))["id_switches"] == [0.0, 1.0]
        still_there = windows(graph(before), graph(before, moved))
        assert stability(still_there)["id_switches"] == 0  # an object close to another is no switch
        gone_unseen = windows(graph(before), graph(thing(1, num_points=0)), graph(moved))
        assert stability(gone_unseen)["id_switches"] == 1

    def test_a_new_epoch_is_compared_with_nothing(self):
        run = windows(graph(thing(1, "cup")), graph(thing(1, "dog"), epoch=1))
        assert stability(run)["label_flicker"] is None and stability(run)["id_switches"] == 0

    def test_without_windows_nothing_is_known(self):
        assert stability([])["coverage"] is None


class TestGroundTruth:
    def test_replay_scores_as_eval_does(self, replayed, bag, tiny_checkpoint, tmp_path):
        """The graphs of the robot's pipeline, with the bag's own transforms, and those of eval in the same frame."""
        result, _ = replayed
        files = ["--json", str(tmp_path / "eval.json")]
        assert main(["eval", str(bag), "--checkpoint", str(tiny_checkpoint), *SETTINGS, *files]) == 0
        evaluated = json.loads((tmp_path / "eval.json").read_text())
        metrics = {k: v for k, v in result["metrics"].items() if k != "by_scene"}
        assert metrics == {k: evaluated[k] for k in metrics}
        assert metrics["true_relations"]["judged"] == 3

    def judge(self, bag: Path, box_scene: Any, change: Any = lambda number, frame, graph: (frame, graph)) -> TruthJudge:
        """A judge that is told the truth itself, with changes."""
        judge = TruthJudge(recording_from_bag(bag), WindowConfig(), default_vocabulary())
        frames = (f.frame for f in box_scene.recording().open_frames())
        for number, (frame, said) in enumerate(zip(frames, true_graphs(box_scene), strict=True)):
            changed = change(number, frame, said)
            if changed is not None:
                judge.take(*changed)
        return judge

    def test_the_truth_as_prediction_finds_all_relations(self, bag, box_scene):
        judged = self.judge(bag, box_scene).judged()
        metrics = truth_metrics([judged])
        assert metrics["protocol"]["tube"]["triplet"]["R"]["20"] == 1.0
        assert metrics["panoptic"]["PQ"] == 1.0
        (scene,) = metrics["by_scene"]
        assert sorted(scene["tube.triplet"]) == [1, 2, 3] and len(scene["predicates"]) == 3
        assert truth_metrics([judged, judged])["true_relations"]["judged"] == 6

    def test_a_dropped_cloud_is_a_frame_in_which_nothing_was_found(self, bag, box_scene):
        def drop(number, frame, said):
            return (None, None) if number in (3, 4) else (frame, said)

        judged = self.judge(bag, box_scene, drop).judged()
        metrics = truth_metrics([judged])
        assert judged.evaluated == 8
        assert metrics["panoptic"]["PQ"] == pytest.approx(6 / 7)  # two of eight frames: TP 6, FN 2

    def test_a_replay_that_stops_early_is_judged_as_far_as_it_went(self, bag, box_scene):
        judged = self.judge(bag, box_scene, lambda n, frame, said: (frame, said) if n < 5 else None).judged()
        assert (judged.frames, judged.evaluated) == (5, 5)
        assert truth_metrics([judged])["panoptic"]["PQ"] == 1.0

    def test_truth_that_does_not_fit_ends_the_judging_with_a_reason(self, bag, box_scene):
        judge = self.judge(bag, box_scene, lambda n, frame, said: None if n == 2 else (frame, said))
        assert judge.judged() is None
        assert "frame 2 is of" in judge.error

    def test_the_truth_may_lie_beside_the_bag(self, bag, tiny_checkpoint, tmp_path, capsys):
        with open_bag(bag) as source, BagWriter(tmp_path / "room.mcap") as bare:
            for topic, kind, cdr, stamp_ns in source.raw_messages():
                if not topic.startswith("/ground_truth/"):
                    bare.write_raw(topic, kind, cdr, stamp_ns)
        arguments = ["replay", str(tmp_path / "room.mcap"), "--checkpoint", str(tiny_checkpoint), *SETTINGS]
        arguments += ["--limit", "2", "--json", str(tmp_path / "out.json")]
        assert main(arguments) == 0
        assert "metrics" not in json.loads((tmp_path / "out.json").read_text())
        assert main([*arguments, "--ground-truth", str(bag)]) == 0
        found = json.loads((tmp_path / "out.json").read_text())
        assert found["metrics"]["frames"] == {"evaluated": 2, "left_out": 0}


class TestFiles:
    def test_the_markdown_says_what_the_json_says(self, replayed):
        result, out = replayed
        text = (out / "a.md").read_text()
        for part in ("# Replay of room", "8 clouds", "## Stability", "## Against the ground truth", "| total | "):
            assert part in text
        assert f"peak {result['runtime']['memory_mb']['peak']:.0f} MiB" in text
        assert len(result["runtime"]["total_ms"]) == result["windows"] == 8

    def test_exports_lie_in_their_folder(self, replayed):
        assert {f.name for f in (replayed[1] / "export").iterdir()} == {
            "room.domain.pddl", "room.problem.pddl", "room.graphml"
        }  # fmt: skip

    def test_predictions_lie_beside_what_they_were_made_of(self, replayed, bag):
        result, out = replayed
        with open_bag(bag) as source, open_bag(out / "said.mcap") as said:
            copied = {t: said.count(t) for t in source.topics}
            assert copied == {t: source.count(t) for t in source.topics}
            added = {t.removeprefix("/scene_graph") for t in said.topics} - set(source.topics)
            assert added == {"", "/instances", "/detections", "/events", "/markers", "/label_info"}
            graphs = [graph_from_message(m) for _, m, _ in said.messages(["/scene_graph"])]
            assert [g.stamp_ns for g in graphs] == [g["stamp_ns"] for g in result["graphs"]]
            assert [len(g.relations) for g in graphs] == [len(g["relations"]) for g in result["graphs"]]
            times = [t for _, _, t in said.messages()]
            assert times == sorted(times)

    def test_another_reader_of_mcap_reads_it(self, replayed):
        reader = pytest.importorskip("mcap.reader", reason="mcap is not installed (pip install mcap mcap-ros2-support)")
        decoder = pytest.importorskip("mcap_ros2.decoder", reason="mcap-ros2-support is not installed")
        with (replayed[1] / "said.mcap").open("rb") as file:
            messages = reader.make_reader(file, decoder_factories=[decoder.DecoderFactory()]).iter_decoded_messages()
            read = [(channel.topic, message) for _, channel, _, message in messages]
        assert {topic for topic, _ in read} >= {"/points", "/ground_truth/scene_graph", "/scene_graph"}
        assert all(m.model_id == "tiny" for topic, m in read if topic == "/scene_graph")

    def test_a_bag_is_copied_as_far_as_it_was_replayed(self, bag, tmp_path, box_scene):
        frame = next(box_scene.recording().open_frames()).frame
        with PredictionBag(tmp_path / "out", bag, limit=3) as writer:
            for _, said in zip(range(3), true_graphs(box_scene), strict=False):
                writer.take(frame, said)
        with open_bag(tmp_path / "out") as opened:
            assert (opened.count("/points"), opened.count("/scene_graph")) == (3, 3)

    def test_a_run_that_fails_leaves_no_bag(self, bag, tmp_path):
        with pytest.raises(RuntimeError), PredictionBag(tmp_path / "out.mcap", bag):
            raise RuntimeError
        assert not list(tmp_path.iterdir())

    def test_old_predictions_make_way_for_the_new(self, bag, tmp_path, box_scene, caplog):
        frame, said = next(box_scene.recording().open_frames()).frame, next(true_graphs(box_scene))
        for source, out in ((bag, "first.mcap"), (tmp_path / "first.mcap", "second.mcap")):
            with PredictionBag(tmp_path / out, source) as writer:
                writer.take(frame, said)
        with open_bag(tmp_path / "second.mcap") as opened:
            assert (opened.count("/scene_graph"), opened.count("/points")) == (1, 8)
        assert "/scene_graph is left out" in caplog.text

    def test_what_is_no_bag_has_no_place_for_predictions(self, tmp_path):
        with pytest.raises(DatasetError, match="not a ROS 2 bag"):
            PredictionBag(tmp_path / "out", tmp_path)


class TestThresholds:
    def test_limits_that_are_met_and_limits_that_are_not(self, replayed, bag, tiny_checkpoint, tmp_path, capsys):
        limits = tmp_path / "limits.yaml"
        arguments = ["replay", str(bag), "--checkpoint", str(tiny_checkpoint), *SETTINGS, *IN_WORLD, "--limit", "2"]
        arguments += ["--thresholds", str(limits), "--json", str(tmp_path / "out.json")]
        limits.write_text(
            "stability.coverage: {min: 0.5}\nlatency_ms.total.p95: {max: 1000000}\nwindows: {min: 2, max: 2}\n"
        )
        assert main(arguments) == 0
        limits.write_text("windows: {min: 3}\ntube.triplet.R@50: {min: 0}\nmemory_mb.peak: {max: 1}\n")
        capsys.readouterr()
        assert main(arguments) == 1
        lines = capsys.readouterr().err.strip().splitlines()
        assert lines[0] == "psg4d replay: windows is 2, below the min of 3 by 1"
        assert lines[1].startswith("psg4d replay: memory_mb.peak is ") and "above the max of 1 by" in lines[1]
        assert len(lines) == 2
        assert json.loads((tmp_path / "out.json").read_text())["windows"] == 2  # written all the same

    def test_what_was_not_measured_does_not_pass(self, tmp_path, replayed):
        file = tmp_path / "limits.yaml"
        file.write_text("tube.triplet.R@50: {min: 0}\nlatency_ms.warp.p95: {max: 1}\n")
        result = {k: v for k, v in replayed[0].items() if k != "metrics"}
        truth, stage = failures(result, load_thresholds(file))
        assert "was not measured (the recording has no ground truth" in truth
        assert "no such stage" in stage

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            (
                "tube.triplet.R@51: {min: 0.2}",
                "unknown measure 'tube.triplet.R@51', expected one like tube.triplet.R@50",
            ),
            ("latency_ms.total.p90: {max: 1}", "latency_ms.total.p95"),
            ("windows: {least: 1}", "limit 'least', expected min or max"),
            ("windows: {min: many}", "min of windows is 'many', expected a number"),
            ("windows: {min: 3, max: 2}", "min of windows is 3, above its max of 2"),
            ("windows: 3", "expected limits such as"),
            ("", "holds no thresholds"),
        ],
    )
    def test_a_file_that_makes_no_sense_is_refused_before_the_run(self, tmp_path, text, says, capsys):
        file = tmp_path / "limits.yaml"
        file.write_text(text)
        assert main(["replay", "/nowhere", "--thresholds", str(file)]) == 1
        assert says in capsys.readouterr().err

    def test_every_measure_is_named_in_a_result_or_missing_in_it(self, replayed):
        assert measure(replayed[0], "tube.predicate.mR@100") == 0.0
        assert measure(replayed[0], "latency_ms.total.p50") > 0
        with pytest.raises(ConfigError):
            check_name("graphs")


def test_usage(capsys):
    for arguments in (["replay"], ["replay", "bag", "--compare", "a", "b"], ["replay", "/nowhere", "--workers", "2"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
