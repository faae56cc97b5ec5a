"""The benchmarks that have no test of their own run, small; where the right figure is known, they find it."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from psg4d_ros.checkpoint import load_checkpoint, save_checkpoint
from psg4d_ros.cli import main
from psg4d_ros.data.bimacs import open_bimacs
from psg4d_ros.data.open_dataset import open_recordings
from psg4d_ros.model import sparse_encoder
from psg4d_ros.model.relation_head import RelationHead, RelationOutput
from psg4d_ros.runtime.panoptic import claim_voxels
from psg4d_ros.training import window_scores
from psg4d_ros.training.stage1 import Stage1Losses, Stage1Recipe
from psg4d_ros.training.windows import WindowDataset, WindowRecipe
from psg4d_ros.training.wordings import other_words
from psg4d_ros.vocabulary import default_vocabulary

pytestmark = pytest.mark.usefixtures("one_thread")

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def run(monkeypatch, capsys):
    """The lines that a benchmark prints."""

    def lines(name: str, *arguments: object) -> list[str]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(BENCHMARKS / name), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return lines


def rows(lines: list[str]) -> list[list[str]]:
    """The cells of a table, headings and all."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if re.match(r"\|[^-]", line)]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Path:
    """A folder with a scene of eight frames in train/."""
    pytest.importorskip("embreex", reason="the simulator needs embreex, which has no wheel for this platform")
    folder = tmp_path_factory.mktemp("simulated")
    scenes = ["simulate", str(folder / "train"), "--split", "test", "--scenes", "1", "--frames", "8"]
    assert main([*scenes, "--size", "48x36", "--workers", "1", "--quiet"]) == 0
    return folder


@pytest.mark.parametrize("decoding", ["score", "generate"])
def test_cuda_graphs_compares_each_stage_and_the_answers(run, tiny_checkpoint, decoding) -> None:
    pytest.importorskip("embreex", reason="the simulator needs embreex, which has no wheel for this platform")
    lines = run(
        "cuda_graphs.py", "--checkpoint", tiny_checkpoint, "--windows", 1, "--size", "48x36", "--decoding", decoding
    )
    assert {"turn1", "turn2", "masks", "total"} <= {row[0] for row in rows(lines)}
    # In float32, which comes last, padding changes nothing but rounding.
    assert lines[-2] == "2 windows: 2 with the same labels, 2 with the same relations;"
    worst = float(lines[-1].rpartition(" ")[2])
    assert worst < 1e-4


def test_backends_are_timed_stage_by_stage_and_give_the_same_graphs(run, tiny_checkpoint) -> None:
    pytest.importorskip("embreex", reason="the simulator needs embreex, which has no wheel for this platform")
    few = ["--windows", 2, "--size", "48x36", "--float32"]
    lines = run("backends.py", "--checkpoint", tiny_checkpoint, "--backends", "torch", "onnxruntime", *few)
    table = {row[0]: [float(ms) for ms in row[1:]] for row in rows(lines)[1:]}
    assert {"encode", "turn1", "masks", "total"} <= table.keys()
    assert all(len(ms) == 4 and min(ms) > 0 for ms in table.values())
    assert all(ms[0] <= ms[1] and ms[2] <= ms[3] for ms in table.values()), "medians, then 95th percentiles"
    assert lines[-3:-1] == [
        "onnxruntime against torch:",
        "2 windows: 2 with the same labels, 2 with the same relations;",
    ]
    assert float(lines[-1].rpartition(" ")[2]) < 1e-3


def test_training_step_has_a_row_for_each_combination(run, tiny_checkpoint, simulated) -> None:
    small = ["--steps", 1, "--frames", 2, "--batch", 1, "--set", "stage3_joint.workers=0"]
    lines = run(
        "training_step.py", "--data", simulated, "--checkpoint", tiny_checkpoint, *small,
        "--stage", "stage3_joint", "--language-model", 0, 1,
    )  # fmt: skip
    assert [row[:3] for row in rows(lines)].count(["stage3_joint", "2", "1"]) == 2


class TestNumbersOfTheLanguageModel:
    def test_each_row_is_compared_with_float32(self, run, simulated, tiny_checkpoint) -> None:
        few = ["--windows", 2, "--threads", 1]
        lines = run(
            "language_model_numbers.py", "--dataset", simulated / "train", "--checkpoint", tiny_checkpoint, *few
        )
        _, *table = rows(lines)
        assert [row[0] for row in table] == ["float32", "bfloat16", "int8"]
        itself, half, integers = table
        assert all(float(ms) > 0 for row in table for ms in row[1:3])
        assert all(re.fullmatch(r"(\d+) of \1, 0 more", cell) for cell in itself[3:6])
        changes = [float(row[6]) for row in (itself, half, integers)]
        assert changes[0] == 0
        assert len(set(changes)) == 3, "each kind of numbers gives its own probabilities"

    def test_products_of_integers_are_those_of_the_layer_but_for_rounding(self) -> None:
        integer_linear = runpy.run_path(str(BENCHMARKS / "language_model_numbers.py"))["IntegerLinear"]
        layer = torch.nn.Linear(64, 32, bias=False)
        x = torch.randn(2, 5, 64) * torch.logspace(-3, 3, 5)[:, None]  # each token has a scale of its own
        with torch.no_grad():
            wanted, got = layer(x), integer_linear(layer)(x)
        error = (got - wanted).norm(dim=2) / wanted.norm(dim=2)
        assert 0 < error.max() < 0.03


class TestFoundBySize:
    WINDOWS = 8

    def tubes(self, run, simulated: Path, tiny_checkpoint: Path) -> tuple[str, dict[tuple[str, str], list[str]]]:
        """The figures of the whole, and the cells by kind and size."""
        few = ["--windows", self.WINDOWS]
        lines = run("found_by_size.py", "--dataset", simulated / "train", "--checkpoint", tiny_checkpoint, *few)
        return lines[0], {(row[0], row[1]): row[2:] for row in rows(lines)[1:]}

    def test_every_tube_is_in_one_row_of_its_size(self, run, simulated, tiny_checkpoint) -> None:
        _, table = self.tubes(run, simulated, tiny_checkpoint)
        recipe = WindowRecipe(frames=2, augment=False)
        dataset = WindowDataset(open_recordings(str(simulated / "train")), recipe, seed=0)
        true = [dataset[i].truth for i in range(self.WINDOWS)]
        for kind, is_thing in (("thing", True), ("stuff", False)):
            counted = sum(int(cells[0]) for (k, _), cells in table.items() if k == kind)
            assert counted == sum(int((t.is_thing == is_thing).sum()) for t in true) > 0
        assert all(0 <= float(share) <= 100 for cells in table.values() for share in cells[1:3])

    @pytest.mark.parametrize("wrong", ["nothing", "presence", "names"])
    def test_slots_that_are_the_tubes_are_found(self, run, simulated, tiny_checkpoint, spy, wrong) -> None:
        """The truth in the place of the model's answers, but for what is wrong with them."""

        def truth_told(reads, arguments) -> Iterator[window_scores.ReadWindow]:
            for read in reads:
                tubes = torch.arange(len(read.window.truth))
                masks = torch.where(read.fine_tube == tubes[:, None], 9.0, -9.0)
                sure = torch.full((len(tubes),), -9.0 if wrong == "presence" else 9.0)
                right = [read.scores.words.index(label) + (wrong == "names") for label in read.window.truth.labels]
                names = torch.nn.functional.one_hot(torch.tensor(right), len(read.scores.words) + 1).float()
                output = read.output._replace(mask_logits=masks, presence_logits=sure)
                slots, owner = claim_voxels(output, arguments["config"])
                scores = replace(read.scores, class_logits=names[:, :-1])
                yield replace(read, output=output, slots=slots, owner=owner, scores=scores)

        spy(window_scores, "read_windows", truth_told)
        line, table = self.tubes(run, simulated, tiny_checkpoint)
        mask, present, top1 = 100, 0 if wrong == "presence" else 100, 0 if wrong == "names" else 100
        assert line.startswith(f"thing_recall {present}.0, stuff_recall {present}.0, precision {present}.0, ")
        for cells in table.values():
            assert [int(c) for c in cells[1:3]] == [mask, present]
            assert cells[3].startswith(f"{top1} / ")


class TestOpenVocabulary:
    """On a scene of classes that training shows, with a model that is told the truth."""

    def test_its_synonyms_are_no_words_of_the_training(self) -> None:
        asked = runpy.run_path(str(BENCHMARKS / "open_vocabulary.py"))
        synonyms = asked["CLASS_SYNONYMS"], asked["PREDICATE_SYNONYMS"]
        shown = other_words([word for words in synonyms for word in words], default_vocabulary())
        assert shown["cup"] == ("mug",) and "upon" in shown["on"]
        said = {word for words in shown.values() for word in words} | set(shown)
        assert not said & {*synonyms[0].values(), *(word for words in synonyms[1].values() for word in words)}

    def tables(self, run, simulated: Path, tiny_checkpoint: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        lines = run(
            "open_vocabulary.py", "--dataset", simulated / "train", "--checkpoint", tiny_checkpoint, "--windows", 4
        )
        between = lines.index("")
        classes, predicates = ({row[0]: row[1:] for row in rows(part)} for part in (lines[:between], lines[between:]))
        return classes, predicates

    @pytest.mark.parametrize("known", ["names", "synonyms"])
    def test_the_words_that_a_model_knows_come_first(self, run, simulated, tiny_checkpoint, spy, known) -> None:
        synonyms = runpy.run_path(str(BENCHMARKS / "open_vocabulary.py"))["CLASS_SYNONYMS"]

        def truth_told(reads, arguments) -> Iterator[window_scores.ReadWindow]:
            words = arguments["words"]
            for read in reads:
                labels = read.window.truth.labels
                masks = torch.where(read.fine_tube == torch.arange(len(labels))[:, None], 9.0, -9.0)
                names = torch.zeros(len(labels), len(words))
                for row, label in enumerate(labels):
                    names[row, words.index(synonyms.get(label, label) if known == "synonyms" else label)] = 1.0
                yield replace(
                    read,
                    output=read.output._replace(mask_logits=masks),
                    scores=replace(read.scores, class_logits=names),
                )

        spy(window_scores, "read_windows", truth_told)
        classes, _ = self.tables(run, simulated, tiny_checkpoint)
        assert classes["classes never shown"][0] == "0"
        row = classes["classes shown" if known == "names" else "these, under a synonym"]
        assert int(row[0]) > 0
        assert row[1].startswith("100 / 100") and row[3] == "100 / 100"
        assert classes["classes shown"][2] == "1 / 3 / 10"

    def test_average_precision_is_that_of_the_true_pairs(self, run, simulated, tiny_checkpoint, spy) -> None:
        """A head that is sure of nothing but `on`, where it is true; its synonyms get what all others get."""
        windows = spy(WindowDataset, "__getitem__")
        said_of: list[int] = []

        def truth_told(said: RelationOutput, arguments) -> RelationOutput:
            truth = [w.result.truth for w in windows if len(w.result.truth.pairs)][len(said_of)]
            said_of.append(len(truth.pairs))
            logits = torch.zeros_like(said.logits)
            logits[:, 0] = truth.holds[:, truth.predicates.index("on")].any(dim=1).float()
            return replace(said, logits=logits)

        spy(window_scores, "read_windows", lambda reads, arguments: iter(()))
        spy(RelationHead, "forward", truth_told)
        _, predicates = self.tables(run, simulated, tiny_checkpoint)
        count, precision, chance, synonyms = predicates["on"]
        assert precision == "100" and 0 < float(chance) < 100
        assert float(chance) == pytest.approx(100 * int(count) / sum(said_of), abs=0.06)
        assert re.match(r"atop \d+, resting on \d+$", synonyms) and "100" not in synonyms


class TestPairShortlist:
    def table(self, run, simulated: Path, tiny_checkpoint: Path) -> tuple[int, float, dict[str, float]]:
        """Most pairs of a window, how many of them are related in the mean, and the shares of those that are kept."""
        scenes = ["--dataset", simulated / "train", "--windows", 2]
        lines = run("pair_shortlist.py", "--checkpoint", tiny_checkpoint, *scenes)
        most, related = re.search(r"at most (\d+)\), ([\d.]+) of them related", "\n".join(lines)).groups()
        return int(most), float(related), {name: float(share) for name, share in rows(lines)[1:]}

    def test_who_keeps_all_pairs_loses_none(self, run, simulated, tiny_checkpoint) -> None:
        most, related, kept = self.table(run, simulated, tiny_checkpoint)
        assert 0 < related < most
        nearest = [kept[f"nearest {n}"] for n in (32, 64, 128, 256)]
        assert nearest == sorted(nearest) and nearest[0] > 0
        assert 64 < most <= 128 and nearest[2:] == [100.0, 100.0]
        assert kept["shortlist: 64 of the nearest 256"] == kept["64 of all pairs"] < 100.0

    def test_a_head_that_knows_the_related_pairs_loses_none(self, run, simulated, tiny_checkpoint, spy) -> None:
        windows = spy(WindowDataset, "__getitem__")

        def truth_told(said: RelationOutput, arguments) -> RelationOutput:
            related = windows[-1].result.truth.holds.any(dim=2).any(dim=1, keepdim=True)
            return replace(said, logits=torch.where(related, 1.0, -1.0).expand_as(said.logits))

        spy(RelationHead, "forward", truth_told)
        _, related, kept = self.table(run, simulated, tiny_checkpoint)
        assert related <= 64
        assert kept["shortlist: 64 of the nearest 256"] == kept["64 of all pairs"] == 100.0


def test_simulation_tells_frames_per_second(run) -> None:
    pytest.importorskip("embreex", reason="the simulator needs embreex, which has no wheel for this platform")
    lines = run("simulation.py", "--scenes", 1, "--frames", 4, "--workers", 1, "--size", "48x36")
    assert lines[0] == "48 x 36 rays, 4 frames a scene, 1 scenes, 1 workers"
    sensor, own = map(
        float, re.fullmatch(r"sensor: +([\d.]+) frames/s, ([\d.]+) per second of one.*", lines[1]).groups()
    )
    scenes = float(re.fullmatch(r"scenes: +([\d.]+) frames/s", lines[2]).group(1))
    assert own > 0 and sensor > scenes > 0, "whoever makes everything also makes what the sensor sees"


def test_sparse_conv_compares_the_forms(run, monkeypatch) -> None:
    monkeypatch.setattr(sparse_encoder, "prepare", sparse_encoder.prepare)  # which it changes

    def told(*arguments: str) -> tuple[float, dict[str, list[float]], float]:
        """Neighbours of a voxel, the figures of each form, and megabytes."""
        lines = run("sparse_conv.py", "--voxels", 400, "--rounds", 1, "--probe-mb", 8, *arguments)
        neighbours = re.search(r"cpu: 400 voxels, ([\d.]+) neighbours each", "\n".join(lines)).group(1)
        forms = {line.split()[0]: re.findall(r"[\d.]+", line) for line in lines if line.startswith("  ")}
        *_, moved = map(float, forms.pop("floor"))
        return float(neighbours), {name: [float(v) for v in values] for name, values in forms.items()}, moved

    neighbours, forms, moved = told("--no-grad")
    assert {"table", "pairs"} <= {*forms}
    assert forms["table"][1] == 1.0, "the others are measured by it"
    assert all(ms > 0 and floors > 0 for ms, _, floors in forms.values())
    # Within a side a voxel has 9 with itself, fewer at the rim and more in the corner of the room.
    assert 8 < neighbours < 9.5
    with_gradients = told()[2]
    assert 2 * moved < with_gradients < 4 * moved


@pytest.fixture(scope="module")
def takes(tmp_path_factory) -> Path:
    """Two takes of three objects; what stands higher stands nearer to the camera in the one, behind in the other."""
    folder = tmp_path_factory.mktemp("takes")
    for nearer in (1, -1):
        right, down = 0.3 * np.array([1, 2, 0]), 0.3 * np.array([0, 1, 2])
        middles = np.stack([right, down, 2.0 + nearer * down], axis=1)
        fields = ["instance", "class", "certainty", "x0", "y0", "z0", "x1", "y1", "z1"]
        objects = [
            [f"{label}_1", label, 1, *(middle - 0.05).tolist(), *(middle + 0.05).tolist()]
            for label, middle in zip(("cup", "bowl", "whisk"), middles, strict=True)
        ]
        # Up and away are the wrong way round in these files: see psg4d_ros/data/bimacs.py.
        words = [("left of", "right of"), ("below", "above"), ("behind of", "in front of")]
        relations = [
            [s, words[axis][int(middles[s, axis] > middles[o, axis])], o]
            for s in range(3) for o in range(3) if s != o for axis in range(3)
        ]  # fmt: skip
        frames = [{"f": f, "obj": objects, "rel": relations} for f in range(31)]
        (folder / f"{nearer}_take.json").write_text(json.dumps({"obj_fields": fields, "frames": frames}))
    return folder


class TestBimacs:
    @pytest.fixture
    def learnt(self, takes, tiny_checkpoint, tmp_path) -> Path:
        """Weights that have learnt these very takes."""
        model = load_checkpoint(tiny_checkpoint, torch.device("cpu"))
        question = runpy.run_path(str(BENCHMARKS / "bimacs.py"))["question"]
        items = [question(recording, 0) for recording in open_bimacs(takes)]
        stage = Stage1Losses(model, Stage1Recipe(language_model_share=1.0, answer_share=0.0))
        optimizer = torch.optim.AdamW(stage.parameter_groups())
        for step in range(30):
            optimizer.zero_grad()
            sum(stage(items, torch.Generator().manual_seed(step)).values()).backward()
            optimizer.step()
        save_checkpoint(tmp_path / "learnt", model, model_id="learnt", trained=True, card="#\n")
        return tmp_path / "learnt"

    def test_what_boxes_say_is_found_in_them(self, run, takes, tiny_checkpoint, learnt) -> None:
        lines = run("bimacs.py", "--takes", takes, "--every", 30, "--checkpoint", tiny_checkpoint, learnt)
        models = ("untrained, seed 0", str(tiny_checkpoint), str(learnt))
        assert lines[0] == "4 frames, 24 pairs; said of axes: [24, 24, 24]"
        heading, *table = rows(lines)
        assert heading[3:] == ["top-1", "left of / right of", "above / below", "in front of / behind"]
        found = {tuple(row[:3]): [float(cell) for cell in row[3:]] for row in table}
        assert found["chance", "", ""] == [50, 50, 50, 50]
        assert found["signs", "", "space"] == [100, 100, 100, 100]
        # A picture shows what is higher as behind, which is so in one of the takes.
        assert found["signs", "", "flat"] == [100, 100, 100, 50]
        for lm in ("with", "without"):
            assert found[str(learnt), lm, "space"] == [100, 100, 100, 100]
            assert found[str(learnt), lm, "flat"][3] < 100, "depth is hidden"
        told = {
            lm: [found.pop((weights, lm, geometry)) for weights in models for geometry in ("space", "flat")]
            for lm in ("with", "without")
        }
        assert len(found) == 3, "no other rows"
        assert all(0 <= share <= 100 for row in told["with"] + told["without"] for share in row)
        assert told["with"][:2] == told["without"][:2], "in untrained weights the language model has no say"
        assert told["with"][2:] != told["without"][2:]


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """In VRD's form: who wears what is known by the labels, who is on which side of what only by the boxes.

    Among the held-out images' objects are six lamps of which nothing is said.
    """
    folder, rng = tmp_path_factory.mktemp("images") / "vrd", np.random.default_rng(0)
    folder.mkdir()

    def image(name: str, left: bool, lamps: int) -> dict[str, object]:
        x, y = rng.integers(40, 60, 2).tolist()
        hat, chair = [x, y - 12, x + 20, y], [x + 50 * (1 if left else -1) + 5, y + 20, 0, y + 60]
        chair[2] = chair[0] + 30
        corners = rng.integers(0, 100, (lamps, 2))
        boxes = [[x, y, x + 20, y + 60], hat, chair, *np.concatenate([corners, corners + 15], axis=1).tolist()]
        return {
            "img": name, "boxes_xyxy": boxes, "classes": [0, 1, 2, *[3] * lamps],
            "triplets": [[0, 1, 0], [0, 2, 2 - left]],
        }  # fmt: skip

    for file, number, left, lamps in (("vrd_train.json", 60, 36, 0), ("vrd_test.json", 10, 4, 6)):
        (folder / file).write_text(json.dumps([image(f"{file} {i}", i < left, lamps) for i in range(number)]))
    words = {"objects": ["person", "hat", "chair", "lamp"], "predicates": ["wear", "on the left of", "on the right of"]}
    (folder / "vocab.json").write_text(json.dumps(words))
    return folder.parent


class TestStage1:
    def test_methods_find_what_they_can_know(self, run, images, tiny_checkpoint, tmp_path) -> None:
        model = load_checkpoint(tiny_checkpoint, torch.device("cpu"))
        training = {"seed": 3, "stages": {"stage1_2d": {"steps": 5, "minutes": 2.0}}}
        save_checkpoint(tmp_path / "old", model, model_id="old", trained=True, card="#\n", training=training)
        lm = model.config.language_model.source
        small = [f"model.language_model.source={lm}", "model.language_model.sha256=''", "model.decoder.num_slots=8"]
        small += ["model.decoder.proposals=2", "stage1_2d.steps=15", "stage1_2d.batch=4", "stage1_2d.micro_batch=4"]
        arguments = ["--images", images, "--steps", 12, "--minutes", 5, "--checkpoint", tmp_path / "old"]
        lines = run("stage1.py", *arguments, "--set", *small)
        assert lines[:2] == ["vrd: 60 images, 3 predicates", "held out: 10 images, 20 relations"]
        found = {(int(row[0]), row[1]): row[2:] for row in rows(lines)[1:]}
        # The side that is more frequent in training is the right one for four of ten: 14 of 20, and (1 + 1 + 0) / 3.
        assert found[0, "frequency"][2:] == ["70.0 / 70.0", "70.0 / 70.0", "nan / nan", "66.7 / 66.7"]
        for name, steps in {
            "geometry MLP": 12, "labels + geometry MLP": 12, "head, VRD": 12, "head, all sets": 24, "stage 1": 15,
            "stage 1, no LM": 15,
        }.items():  # fmt: skip
            said, _, given, *_ = found[0, name]
            assert int(said) == steps
            assert float(given.split(" / ")[0]) > 90, name
        old = [found[3, name] for name in ("stage 1", "stage 1, no LM")]
        assert [row[:2] for row in old] == [["5", "120"]] * 2
        assert len(found) == 9
        # Each image has 72 pairs: all are within 100, while random weights lose a true one beyond 50.
        at50, at100 = ([[float(v) for v in row[column].split(" / ")] for row in old] for column in (2, 3))
        assert all(given == every for given, every in at100)
        assert [given for given, _ in at50] == [given for given, _ in at100]
        assert sum(every for _, every in at50) < sum(every for _, every in at100)
