"""`psg4d eval` on what the simulator writes and on data sets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from eval_support import oracle

from psg4d_ros.cli import main
from psg4d_ros.data.open_dataset import open_recordings

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Path:
    """A folder as `psg4d simulate --bag` writes it, with one small scene of 8 frames."""
    pytest.importorskip("embreex", reason="pip install psg4d_ros[sim]: scenes are seen by casting rays with Embree")
    from recorded_boxes import record_boxes

    from psg4d_ros.data.simulation.scene_bag import write_bag
    from psg4d_ros.data.simulation.sensors import DepthCamera
    from psg4d_ros.data.simulation.storage import write_scene

    folder = tmp_path_factory.mktemp("simulated")
    data = record_boxes(DepthCamera(width=80, height=60))
    write_scene(folder / "room.npz", data)
    write_bag(folder / "room", data)
    return folder


def evaluated(*arguments, tmp_path: Path) -> dict:
    assert main(["eval", *map(str, arguments), "--quiet", "--json", str(tmp_path / "eval.json")]) == 0
    return json.loads((tmp_path / "eval.json").read_text())


def true_triplets(path: Path) -> list[tuple[str, str, str]]:
    """Of the one scene there."""
    (recording,) = open_recordings(str(path))
    labels = {o.object_id: o.label for o in recording.objects}
    return [(labels[r.subject_id], r.predicate, labels[r.object_id]) for r in recording.relations]


class TestCommandLine:
    def test_the_table_and_the_keys_of_the_contract(self, simulated, tmp_path, capsys):
        result = evaluated(simulated, "--method", "oracle", tmp_path=tmp_path)
        assert (result["setting"], result["method"], result["scenes"]) == ("SGDet", "oracle", 1)
        for protocol in ("tube", "frame_hit"):
            for labels in ("predicate", "triplet"):
                entry = result["protocol"][protocol][labels]
                assert list(entry["R"]) == list(entry["mR"]) == ["20", "50", "100"]
                assert entry["R"] == entry["ceiling"]["R"]
                assert entry["unconstrained"]["R"]["100"] == entry["unconstrained"]["mR"]["100"] == 1.0
        table = capsys.readouterr().out
        for text in (
            "oracle, SGDet",
            "tube, triplet",
            "frame-hit, predicate",
            "ceiling",
            "mR@100",
            "LSTQ",
            "attributes F1",
        ):
            assert text in table

    def test_a_bag_scores_as_its_scene_file_does(self, simulated, tmp_path):
        scene, bag = (
            evaluated(path, "--method", "rules", "--setting", "PredCls", tmp_path=tmp_path)
            for path in (simulated / "room.npz", simulated / "room")
        )
        assert scene.pop("dataset") != bag.pop("dataset")
        assert scene == bag

    @pytest.mark.parametrize("setting", ["SGDet", "PredCls"])
    def test_the_model_scores_alike_on_a_bag_and_on_its_scene_file(
        self, simulated, tmp_path, tiny_checkpoint, one_thread, setting
    ):
        """eval goes through the clouds and transforms of the bag itself: to the last digit as with the scene file."""
        chosen = ("device=cpu", "presence_threshold=0.0", "min_kept=0.0", "relation_threshold=0.0", "max_relations=20")
        options = [o for c in chosen for o in ("--set", f"inference.{c}")]
        options += ["--set", "window.num_frames=2", "--set", "tracker.min_windows=1"]
        how = ("--method", "model", "--setting", setting, "--checkpoint", tiny_checkpoint, *options)
        scene, bag = (evaluated(path, *how, tmp_path=tmp_path) for path in (simulated / "room.npz", simulated / "room"))
        assert scene.pop("dataset") != bag.pop("dataset")
        assert scene == bag
        assert scene["frames"]["evaluated"] == 8 and scene["calibration"]["relations"] > 0

    def test_frequency_is_fitted_on_the_training_set_that_is_named(self, simulated, tmp_path):
        result = evaluated(
            simulated, "--method", "frequency", "--setting", "PredCls", "--train", simulated, tmp_path=tmp_path
        )
        entry = result["protocol"]["tube"]["triplet"]
        assert entry["zero_shot"]["relations"] == 0  # its triplets are all seen
        assert entry["unconstrained"]["R"]["100"] > 0
        assert result["calibration"]["relations"] > 0

    def test_what_the_training_set_does_not_show_is_zero_shot(self, simulated, tmp_path):
        """A simulated scene beside that of the boxes, in which a table stands on the floor, too."""
        room = tmp_path / "room"
        scenes = ["simulate", str(room), "--split", "test_oov", "--scenes", "1", "--frames", "4", "--size", "48x36"]
        assert main([*scenes, "--workers", "1", "--quiet"]) == 0

        def zero_shot(train: Path, method: str) -> dict:
            how = ("--method", method, "--setting", "PredCls", "--train", train)
            return evaluated(room, *how, tmp_path=tmp_path)["protocol"]["tube"]["triplet"]["zero_shot"]

        seen, new = (true_triplets(path) for path in (simulated / "room.npz", room))
        unseen = [triplet for triplet in new if triplet not in seen]
        assert 0 < len(unseen) < len(new)
        assert zero_shot(room, "frequency")["relations"] == 0
        frequency, oracle = (zero_shot(simulated, method) for method in ("frequency", "oracle"))
        assert frequency["relations"] == oracle["relations"] == len(unseen)
        assert frequency["R"]["100"] < oracle["R"]["100"] == 1.0

    def test_the_model_is_run_on_it(self, simulated, tmp_path, tiny_checkpoint, capsys):
        limits = ("inference.device=cpu", "window.num_frames=2", "window.frame_interval_s=0.7")
        options = [o for limit in limits for o in ("--set", limit)]
        result = evaluated(simulated, "--checkpoint", tiny_checkpoint, *options, tmp_path=tmp_path)
        assert result["model"]["id"] == "tiny"
        assert result["frames"] == {"evaluated": 3, "left_out": 5}  # one frame in three
        assert "untrained" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (("nowhere",), "nowhere does not exist, expected 'sim', a folder of"),
            ((__file__,), "is not 'sim', a folder of"),
            (("sim", "--split", "no such"), "expected one of train, train_scarce, val, test, test_oov"),
            (("sim", "--limit", "0"), "limit is 0, expected at least 1"),
            (("sim", "--set", "window.min_frames=2"), "min_frames is 2"),
        ],
    )
    def test_what_cannot_be_evaluated(self, arguments, text, capsys):
        assert main(["eval", *arguments, "--method", "oracle"]) == 1
        assert text in capsys.readouterr().err

    def test_a_split_of_what_has_none(self, simulated, capsys):
        assert main(["eval", str(simulated), "--split", "test", "--method", "oracle"]) == 1
        assert "is all one split" in capsys.readouterr().err


class TestDatasets:
    @pytest.mark.slow
    def test_the_simulators_splits_come_out_of_the_cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        (first,) = open_recordings("sim", "train_scarce", limit=1, seed=3)
        (file,) = tmp_path.rglob("*.npz")
        made = file.stat().st_mtime_ns
        (again,) = open_recordings("sim", "train_scarce", limit=1, seed=3)
        assert (again.name, again.relations) == (first.name, first.relations)
        assert file.stat().st_mtime_ns == made

    @pytest.mark.skipif(not (SHARED / "bimacs_zed").is_dir(), reason="the takes of bimacs_zed are not at hand")
    def test_real_boxes(self):
        recordings = open_recordings(str(SHARED / "bimacs_zed"), limit=2)
        assert len(recordings) == 2
        result = oracle(*recordings, setting="PredCls")
        for protocol in ("tube", "frame_hit"):
            entry = result["protocol"][protocol]["triplet"]
            assert entry["R"] == entry["ceiling"]["R"]
            assert entry["mR"] == entry["ceiling"]["mR"]
        assert result["true_relations"]["judged"] > 100
