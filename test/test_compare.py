"""`psg4d replay --compare`: what got better, what worse, and what is noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scene_graphs import graph, thing

from psg4d_ros.checkpoint import default_checkpoint
from psg4d_ros.cli import main
from psg4d_ros.errors import DatasetError
from psg4d_ros.evaluation.compare import compare
from psg4d_ros.evaluation.measures import RECALLS
from psg4d_ros.evaluation.replay import graph_json


def result_of(
    ranks: list[int | None], name: str = "room", *, coverage: float = 0.5, total_ms: float = 100.0, windows: int = 20
) -> dict[str, Any]:
    """A result whose true relations are found at these ranks, by every protocol."""
    kinds = [f"{p}.{n}" for p in ("tube", "frame_hit") for n in ("predicate", "triplet")]
    scene = {"name": name, "predicates": ["on", "near"] * (len(ranks) // 2), **dict.fromkeys(kinds, ranks)}
    scene["panoptic"] = {"PQ": 0.5, "LSTQ": 0.5, "tube_IoU": 0.5, "id_switches": 0}
    each = [graph_json(graph(thing(1, num_points=round(1000 * coverage)), stamp_s=s)) for s in range(1, windows + 1)]
    return {
        "bag": name,
        "model": {"id": "tiny", "sha256": "0" * 64},
        "config": {"window": {"num_frames": 2}},
        "windows": windows,
        "frames_dropped": 0,
        "metrics": {"by_scene": [scene]},
        "graphs": [g | {"num_points": 1000} for g in each],
        "runtime": {"total_ms": [total_ms + i % 7 for i in range(windows)], "memory_mb": {"peak": 500.0}},
    }


class TestMadeResults:
    def verdicts(self, a: Any, b: Any) -> dict[str, str]:
        return {name: entry["verdict"] for name, entry in compare(a, b, samples=200)["measures"].items()}

    def test_a_result_is_the_same_as_itself(self):
        assert set(self.verdicts(result_of([1, None] * 6), result_of([1, None] * 6)).values()) == {"same"}

    def test_true_differences_are_told_in_their_direction(self):
        a = result_of([None] * 12, coverage=0.5, total_ms=100.0)
        b = result_of([30] * 12, coverage=0.6, total_ms=200.0)
        found = self.verdicts(a, b)
        assert found["tube.triplet.R@20"] == "same" and found["tube.triplet.R@50"] == "better"
        assert found["stability.coverage"] == "better" and found["latency_ms.total.p95"] == "worse"
        assert self.verdicts(b, a)["tube.triplet.mR@50"] == "worse"

    def test_as_much_won_as_lost_is_noise(self):
        found = self.verdicts(result_of([1, None] * 10), result_of([None, 1] * 10))
        assert found["tube.triplet.R@20"] in ("within noise", "same")
        mixed = self.verdicts(result_of([1, 1, None, None] * 5), result_of([1, None, 1, 1] * 5))
        assert mixed["tube.predicate.R@50"] == "within noise"

    def test_of_few_relations_nothing_is_claimed(self):
        found = compare(result_of([None] * 4), result_of([1] * 4))["measures"]["tube.triplet.R@20"]
        assert (found["verdict"], found["difference"], found["interval"]) == ("unknown", 1.0, None)

    def test_many_recordings_are_drawn_as_wholes(self):
        def many(ranks: list[int | None]) -> dict[str, Any]:
            return {"windows": 1, "bags": [result_of(ranks, f"room{i}") for i in range(8)]}

        found = compare(many([None, None]), many([1, None]))["measures"]
        assert found["tube.triplet.R@20"]["verdict"] == "better"
        assert found["tube.triplet.R@20"]["drawn"] == "8 recordings"

    def test_the_same_seed_draws_the_same(self):
        a, b = result_of([1, None, 3, None, None, 70] * 2), result_of([None, 2, 3, 9, None, None] * 2)
        assert compare(a, b, seed=3) == compare(a, b, seed=3)

    def test_the_command_tells_settings_and_verdicts(self, tmp_path, capsys):
        a, b = result_of([None] * 12), result_of([1] * 12)
        b["config"]["window"]["num_frames"] = 3
        for name, result in (("a", a), ("b", b)):
            (tmp_path / f"{name}.json").write_text(json.dumps(result))
        files = [str(tmp_path / f"{name}.json") for name in ("a", "b")]
        assert main(["replay", "--compare", *files, "--json", str(tmp_path / "c.json")]) == 0
        table = capsys.readouterr().out
        assert "window.num_frames: 2 -> 3" in table and "tube.triplet.R@50" in table and "better" in table
        written = json.loads((tmp_path / "c.json").read_text())
        assert written["measures"]["tube.triplet.R@50"]["difference"] == 1.0

    def test_what_cannot_be_compared(self, tmp_path, capsys):
        with pytest.raises(DatasetError, match="no recording in common"):
            compare(result_of([1]), result_of([1], "kitchen"))
        (tmp_path / "eval.json").write_text('{"protocol": {}}')
        assert main(["replay", "--compare", str(tmp_path / "eval.json"), "/nowhere"]) == 1
        assert "not a result of `psg4d replay" in capsys.readouterr().err


@pytest.fixture(scope="module")
def rooms(tmp_path_factory) -> Path:
    """A cup on a table on the floor, as three sensors see it."""
    pytest.importorskip("embreex", reason="the simulator needs embreex, which has no wheel for this platform")
    from recorded_boxes import record_boxes

    from psg4d_ros.data.simulation.scene_bag import write_bag
    from psg4d_ros.data.simulation.sensors import DepthCamera

    folder = tmp_path_factory.mktemp("rooms")
    for width in (96, 112, 128):
        write_bag(folder / f"room{width}", record_boxes(DepthCamera(width=width, height=width * 3 // 4)))
    return folder


class TestTwoSettings:
    """The same simulated bags, replayed with two settings of which it is known what they do."""

    @pytest.fixture
    def replayed(self, tmp_path, capsys):
        """The result of a replay, by name."""

        def run(name: str, *arguments: object, settings: tuple[str, ...] = ()) -> Path:
            file = tmp_path / f"{name}.json"
            common = ("window.num_frames=1", "inference.device=cpu", "coordinates.target_frame=world", *settings)
            words = [*arguments, "--json", file, "--quiet", "--no-timings", *(w for s in common for w in ("--set", s))]
            assert main(["replay", *map(str, words)]) == 0
            capsys.readouterr()
            return file

        return run

    @pytest.fixture
    def compared(self, tmp_path, capsys):
        """What the command says of two results, and its rows by measure."""

        def run(a: Path, b: Path) -> tuple[dict[str, Any], str]:
            assert main(["replay", "--compare", str(a), str(b), "--json", str(tmp_path / "c.json")]) == 0
            return json.loads((tmp_path / "c.json").read_text()), capsys.readouterr().out

        return run

    @pytest.mark.usefixtures("one_thread")
    def test_without_objects_less_is_covered(self, rooms, tiny_checkpoint, replayed, compared):
        everything = ("inference.mask_threshold=0", "tracker.min_windows=1")
        bag = (rooms / "room96", "--checkpoint", tiny_checkpoint)
        some, again, none = (
            replayed(name, *bag, settings=(*everything, f"inference.presence_threshold={least}"))
            for name, least in (("some", 0), ("again", 0), ("none", 1))
        )
        coverage = json.loads(some.read_text())["stability"]["coverage"]
        assert coverage > 0.5
        result, said = compared(some, none)
        assert result["settings"] == {"inference.presence_threshold": [0.0, 1.0]}
        assert "inference.presence_threshold: 0.0 -> 1.0" in said
        found = result["measures"]["stability.coverage"]
        assert (found["verdict"], found["a"], found["b"]) == ("worse", pytest.approx(coverage, abs=1e-6), 0.0)
        assert found["drawn"] == "8 windows" and found["interval"][1] < 0
        assert compared(none, some)[0]["measures"]["stability.coverage"]["verdict"] == "better"

        result, said = compared(some, again)
        assert result["settings"] == {}
        unequal = {n for n, m in result["measures"].items() if m["difference"]} - {"memory_mb.peak"}
        assert not unequal and "\n  0 better, 0 worse, of " in said

    @pytest.mark.slow
    @pytest.mark.timeout(1200)  # the real language model, on a machine that may be busy
    @pytest.mark.usefixtures("one_thread")
    def test_where_no_relation_is_sure_enough_none_is_found(self, rooms, replayed, compared):
        """By the checkpoint that ships: it sees what stands on what."""
        bags = (rooms, "--checkpoint", default_checkpoint(), "--limit", 1)
        few = "inference.max_pairs=12"
        told, silent = (
            replayed(name, *bags, settings=(few, f"inference.relation_threshold={least}"))
            for name, least in (("told", 0.05), ("silent", 1))
        )
        result, said = compared(told, silent)
        assert result["recordings"] == ["room112", "room128", "room96"]
        assert result["settings"] == {"inference.relation_threshold": [0.05, 1.0]}
        for recall in ("tube.triplet.R@50", "tube.predicate.mR@20", "frame_hit.triplet.R@100"):
            found = result["measures"][recall]
            assert found["a"] > 0.3 and found["b"] == 0.0
            assert found["difference"] == -found["a"] and found["verdict"] == "worse"
            assert found["drawn"] == "6 true relations"
        assert {m["verdict"] for n, m in result["measures"].items() if n.startswith("panoptic")} == {"same"}
        assert f"\n  0 better, {len(RECALLS)} worse, of {len(result['measures'])}\n" in said
        assert compared(silent, told)[0]["measures"]["tube.triplet.R@50"]["verdict"] == "better"
