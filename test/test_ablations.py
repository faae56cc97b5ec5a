"""Ablation switches: each takes away what it says and nothing else, and travels with the checkpoint."""

from __future__ import annotations

import copy
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import small_recordings
import torch
from opened import open_language_model

from psg4d_ros.checkpoint import load_checkpoint, read_manifest, save_checkpoint
from psg4d_ros.config import (
    DecoderConfig,
    EncoderConfig,
    InferenceConfig,
    LanguageModelConfig,
    ModelConfig,
    from_dict,
    switched,
    to_dict,
)
from psg4d_ros.config_files import pipeline_config
from psg4d_ros.model.chain import DescribedObject
from psg4d_ros.model.geometry import GEOMETRY_NAMES, MOTION_NAMES
from psg4d_ros.model.language_model import tiny_language_model
from psg4d_ros.model.mask_decoder import MaskOutput
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.pipeline import ScenePipeline
from psg4d_ros.runtime.panoptic import Segmentation
from psg4d_ros.runtime.relating import PairInputs, ask_pairs, score_relations
from psg4d_ros.structures import InstancePrediction
from psg4d_ros.training.real_stages import scene_words
from psg4d_ros.training.recipe import load_recipe
from psg4d_ros.training.scene_losses import SceneLosses, SceneRecipe
from psg4d_ros.training.stage1 import Stage1Losses, Stage1Recipe, forget_images
from psg4d_ros.training.window_scores import read_windows
from psg4d_ros.training.windows import TrainingWindow, WindowDataset, WindowRecipe
from psg4d_ros.vocabulary import default_vocabulary

pytestmark = pytest.mark.usefixtures("one_thread")

KITCHEN = small_recordings.recording()
WORDS = scene_words([KITCHEN], default_vocabulary())
SINGLE_TURN = ModelConfig(chained=False)
BOXES = ModelConfig(decoder=DecoderConfig(boxes=True))
PIPELINE = ModelConfig(decoder=DecoderConfig(reads_slots=False))
SHAPE = ModelConfig(
    encoder=EncoderConfig(voxel_size_m=0.1, channels=(8, 16, 16, 16)),
    language_model=LanguageModelConfig(adapter_rank=2, max_scene_tokens=64),
    decoder=DecoderConfig(num_slots=6, proposals=4, dim=32, heads=2, layers=2),
)


def make_model(*switches: ModelConfig) -> PSG4D:
    """With the gates open of what only 4D has, as training opens them."""
    torch.manual_seed(0)
    model = PSG4D(SHAPE, default_vocabulary(), tiny_language_model(adapter_rank=2))
    for gate in (model.chain.pair_embedding.state_gate, model.chain.pair_embedding.motion_gate, model.chain.entry_gate):
        torch.nn.init.constant_(gate, 0.5)
    open_language_model(model)
    for switch in switches:
        model.switch(switch)
    return model


@pytest.fixture(scope="module")
def windows() -> list[TrainingWindow]:
    dataset = WindowDataset([KITCHEN], WindowRecipe(frames=2, voxel_size_m=0.1, augment=False), seed=0)
    return [dataset[i] for i in range(2)]


def gradients(model: PSG4D, windows: list[TrainingWindow], *names: str, **recipe: object) -> dict[str, torch.Tensor]:
    """Gradient of the named losses (all without names) by parameter, of those that have one."""
    options = {"language_model_share": 1.0, "answer_share": 1.0, "own_words_share": 0.0, **recipe}
    losses = SceneLosses(model, SceneRecipe(**options), WORDS)  # type: ignore[arg-type]
    values = losses(windows, torch.Generator().manual_seed(0))
    sum(value for name, value in values.items() if not names or name in names).backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}


class TestSingleTurn:
    """Three objects of a room; the pair that is looked at is that of the first two."""

    @torch.inference_mode()
    def scores(
        self,
        model: PSG4D,
        labels: tuple[str, ...] = ("person", "chair", "floor"),
        attributes: tuple[str, ...] = (),
        states_plus: tuple[float, ...] = (0.0, 0.0, 0.0),
    ) -> np.ndarray:
        """float[2, predicates]: of the pair, by the language model and by the geometry network alone."""
        draw = np.random.default_rng(0)

        def drawn(*shape: int) -> np.ndarray:
            return draw.normal(size=shape).astype(np.float32)

        geometry, motion = len(GEOMETRY_NAMES), len(MOTION_NAMES)
        times, seen = np.array([-0.25, 0.0]), np.ones((1, 2), bool)
        pairs = PairInputs(np.array([[0, 1]]), drawn(1, geometry), drawn(1, 2, geometry), drawn(1, motion), seen, times)
        none = torch.zeros(3, 0)
        states = torch.from_numpy(drawn(3, SHAPE.decoder.dim)) + torch.tensor(states_plus)[:, None]
        output = MaskOutput(none, torch.zeros(3), states, none, none)
        scene = torch.from_numpy(drawn(5, model.language_model.hidden_size)) * model.language_model.token_rms
        instances = tuple(InstancePrediction(label, 0, 1.0, True, attributes) for label in labels)
        segmentation = Segmentation(torch.arange(3), torch.ones(3), (), np.zeros((3, 2, 6)))
        turn2 = ask_pairs(model.chain, output, segmentation, instances, model.chain.turn1(scene), pairs)
        config = InferenceConfig(relation_threshold=0.0, max_relations=10_000)
        rows = []
        for answer in (turn2, None):
            relations = score_relations(model, instances, answer, pairs, model.vocabulary, config)
            rows.append([r.score for r in sorted(relations, key=lambda r: r.predicate_id)])
        return np.array(rows)

    def test_names_and_attributes_of_turn_1_change_no_relation(self):
        chained, single = make_model().eval(), make_model(SINGLE_TURN).eval()
        other = {"labels": ("cup", "lamp", "wall"), "attributes": ("red",)}
        np.testing.assert_array_equal(self.scores(single), self.scores(single, **other))
        for row in (0, 1):
            assert not np.allclose(self.scores(chained)[row], self.scores(chained, **other)[row], atol=1e-4)

    def test_a_pair_knows_its_own_slots_and_no_others(self):
        chained, single = make_model().eval(), make_model(SINGLE_TURN).eval()
        np.testing.assert_array_equal(self.scores(single), self.scores(single, states_plus=(0.0, 0.0, 3.0)))
        assert not np.allclose(self.scores(single)[0], self.scores(single, states_plus=(3.0, 0.0, 0.0))[0], atol=1e-5)
        assert not np.allclose(self.scores(chained)[0], self.scores(chained, states_plus=(0.0, 0.0, 3.0))[0], atol=1e-5)

    def test_pairs_stand_where_slots_stand_and_see_the_text_with_the_scene(self):
        chain = make_model(SINGLE_TURN).eval().chain
        scene = torch.randn(5, chain.language_model.hidden_size) * chain.language_model.token_rms
        objects, pairs = [DescribedObject(0, "cup"), DescribedObject(1, "table")], torch.tensor([[0, 1], [1, 0]])
        with torch.inference_mode():
            first = chain.turn1(scene)
            second = chain.turn2(first, objects, pairs, torch.zeros(2, len(GEOMETRY_NAMES)))
        assert second.positions.tolist() == [first.position] * 2
        assert second.cache.length == first.prefix_length + 2
        assert second.visible[:, first.prefix_length :].tolist() == [[True, False], [False, True]]
        assert second.visible[:, : first.prefix_length].all()

    def test_what_reads_names_learns_nothing_of_relations(self, windows):
        reads_names = {
            "chain.pair_embedding.subject.weight",
            "chain.entry_state.weight",
            "relation_head.subject.weight",
        }
        text = ("relation", "span")
        assert reads_names <= gradients(make_model(), windows, *text).keys()
        single = gradients(make_model(SINGLE_TURN), windows, *text)
        assert not reads_names & single.keys()
        assert {"chain.pair_embedding.states.weight", "encoder.stem.weight"} <= single.keys()


class TestBoxes:
    MASK_PARTS = ("decoder.mask_features", "decoder.key_mask_features", "decoder.mask_query", "decoder.mask_scale")

    def test_boxes_are_learnt_and_masks_are_not(self, windows):
        masks, boxes = gradients(make_model(), windows), gradients(make_model(BOXES), windows)
        assert all(any(name.startswith(part) for name in masks) for part in self.MASK_PARTS)
        assert not any(name.startswith((*self.MASK_PARTS, "decoder.mask_bias")) for name in boxes)
        assert "decoder.box_head.layers.4.weight" in boxes
        assert any(name.startswith("encoder") for name in boxes), "what is seen still learns"

    def test_l1_and_generalised_iou_take_the_place_of_bce_and_dice(self, windows):
        def names(model: PSG4D) -> set[str]:
            recipe = SceneRecipe(language_model_share=0.0)
            return set(SceneLosses(model, recipe, WORDS)(windows, torch.Generator().manual_seed(0)))

        assert names(make_model()) - names(make_model(BOXES)) == {"bce", "dice"}
        assert names(make_model(BOXES)) - names(make_model()) == {"box", "giou"}

    def test_boxes_and_masks_have_the_same_weights(self):
        assert make_model(BOXES).trained_state().keys() == make_model().trained_state().keys()

    @torch.no_grad()
    def test_voxels_are_taken_by_boxes_whatever_the_mask_weights(self, windows):
        model = make_model(BOXES)
        words = tuple(WORDS.classes)
        (before,) = read_windows(model, windows[:1], words, language_model=True)
        for name, parameter in model.named_parameters():
            if name.startswith(self.MASK_PARTS):
                parameter.add_(1.0)
        (after,) = read_windows(model, windows[:1], words, language_model=True)
        assert torch.equal(before.owner, after.owner) and torch.equal(before.output.boxes, after.output.boxes)


class TestPipeline:
    def test_masks_do_not_read_the_text(self, windows):
        words = tuple(WORDS.classes)

        def masks(model: PSG4D, language_model: bool) -> torch.Tensor:
            (read,) = read_windows(model, windows[:1], words, language_model=language_model)
            return read.output.mask_logits

        assert not torch.equal(masks(make_model(), True), masks(make_model(), False))
        assert torch.equal(masks(make_model(PIPELINE), True), masks(make_model(PIPELINE), False))

    def test_in_stage_2_masks_learn_but_not_from_the_text(self, windows):
        stage2 = {"relations": False}
        model = make_model(PIPELINE)
        found = gradients(model, windows, "bce", "dice", **stage2)
        assert any(name.startswith("encoder") for name in found)
        assert not any(name.startswith("chain") for name in found)
        assert not any(n.startswith("encoder") for n in gradients(make_model(PIPELINE), windows, "answer", **stage2))

    def test_in_stage_3_they_stay_as_they_are(self, windows):
        found = gradients(make_model(PIPELINE), windows)
        assert not any(name.startswith(("encoder", "temporal", "decoder")) for name in found)
        assert any(name.startswith("projector") for name in found)


def test_without_transfer_all_that_images_taught_is_gone_and_nothing_else():
    model = make_model()
    taught = {id(p) for group in Stage1Losses(model, Stage1Recipe()).parameter_groups() for p in group["params"]}
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    before = copy.deepcopy(model.state_dict())
    forget_images(model)
    changed = {n for n, p in model.state_dict().items() if not torch.equal(p, before[n])}
    assert changed == {n for n, p in model.named_parameters() if id(p) in taught}
    assert all(not p.any() for n, p in model.named_parameters() if n.endswith("adapter_b"))
    assert any(n.endswith("adapter_a") for n in changed)


@pytest.mark.parametrize("switch", [SINGLE_TURN, BOXES, PIPELINE], ids=["single turn", "boxes", "pipeline"])
def test_a_checkpoint_carries_its_ablation_and_gives_graphs(switch, tiny_checkpoint, room, tmp_path):
    model = load_checkpoint(tiny_checkpoint, torch.device("cpu"))
    model.switch(switch)
    save_checkpoint(tmp_path / "ablated", model, model_id="ablated", trained=True, card="#\n")
    loaded = load_checkpoint(tmp_path / "ablated", torch.device("cpu"))
    assert loaded.config == switched(load_checkpoint(tiny_checkpoint, torch.device("cpu")).config, switch)
    assert loaded.chain.chained == loaded.config.chained
    config = [f"inference.{key}_threshold=0.0" for key in ("presence", "mask", "relation")]
    pipeline = ScenePipeline.from_checkpoint(tmp_path / "ablated", pipeline_config(None, config))
    graphs = [pipeline.update(room(250_000_000 * (i + 1))) for i in range(2)]
    assert graphs[-1].status.name == "OK"
    assert graphs[-1].objects


def test_an_older_checkpoint_has_no_ablation():
    values = to_dict(SHAPE)
    del values["chained"], values["decoder"]["boxes"], values["decoder"]["reads_slots"]
    assert from_dict(ModelConfig, values) == SHAPE


def test_what_is_ablated_stays_so_when_it_is_trained_on():
    ablated = switched(switched(SHAPE, SINGLE_TURN), BOXES)
    assert switched(ablated, ModelConfig()) == ablated
    assert not ablated.chained and ablated.decoder.boxes and ablated.decoder.reads_slots
    assert ablated.encoder == SHAPE.encoder and ablated.decoder.num_slots == SHAPE.decoder.num_slots


@pytest.mark.parametrize(
    ("name", "differs"),
    [
        ("no_transfer", {"stage1_2d.forget", "stage3_joint.images.share"}),
        ("single_turn", {"model.chained"}),
        ("boxes", {"model.decoder.boxes", "stage2_geometry.run", "stage2_geometry.share", "stage3_joint.share"}),
        ("pipeline", {"model.decoder.reads_slots"}),
        ("no_language_model", {"stage3_joint.losses.language_model_share"}),
    ],
)
def test_a_recipe_ablates_one_thing(name, differs):
    def flat(values: dict, path: str = "") -> dict:
        out: dict = {}
        for key, value in values.items():
            out |= flat(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
        return out

    full, ablated = (flat(to_dict(load_recipe(f"ablation_{n}"))) for n in ("full", name))
    assert {key for key in full if full[key] != ablated[key]} - {"name"} == differs
    assert ablated["scenes.number"] == 60 and not ablated["stage1_2d.run"]


@pytest.mark.slow
def test_all_ablations_are_trained_and_measured_by_one_command(tiny_checkpoint, tmp_path, capsys, monkeypatch):
    """At the smallest scale there is: one step of each stage, one scene."""
    pytest.importorskip("embreex", reason="pip install psg4d_ros[sim]: scenes are seen by casting rays with Embree")
    from recorded_boxes import record_boxes

    from psg4d_ros.data.simulation.sensors import DepthCamera
    from psg4d_ros.data.simulation.storage import write_scene

    scene = record_boxes(DepthCamera(width=80, height=60))
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        write_scene(tmp_path / split / "room.npz", scene)
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / "benchmarks")  # its processes find it there, too
    ablations = importlib.import_module("ablations")
    small = ["scenes.number=1", "scenes.validation=1"]
    for stage in ("stage2_geometry", "stage3_joint"):
        small += [f"{stage}.{key}" for key in ("batch=1", "workers=0", "validation_windows=1", "windows.frames=2")]
        small += [f"{stage}.losses.{key}" for key in ("fine_samples=256", "key_samples=128")]
    arguments = ["--checkpoint", tiny_checkpoint, "--out", tmp_path / "out", "--data", tmp_path, "--steps", 1]
    arguments += ["--seeds", 0, "--processes", 2, "--dataset", tmp_path / "val", "--settings", "SGDet", "--set", *small]
    ablations.main([str(a) for a in arguments])
    table = capsys.readouterr().out
    assert all(f"| {row.name} | 1 | " in table for row in ablations.ROWS)
    trained = {row.recipe: read_manifest(tmp_path / "out" / f"{row.recipe}-0" / "checkpoint") for row in ablations.ROWS}
    assert list(trained["boxes"].training["stages"]) == ["stage2_geometry", "stage3_joint"]
    assert list(trained["full"].training["stages"]) == ["stage3_joint"]
    assert len({m.files["weights-00.safetensors"] for m in trained.values()}) == len(trained)
    used = json.loads((tmp_path / "out" / "eval" / "no_language_model-0-SGDet.json").read_text())["config"]
    assert used["inference"]["use_language_model"] is False
