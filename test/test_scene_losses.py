"""Stages 2 and 3 at small scale: what is learnt from windows, and whom the gradients reach."""

from __future__ import annotations

import copy

import pytest
import small_recordings
import torch
from opened import open_language_model
from torch.nn import functional as F

from psg4d_ros.config import DecoderConfig, EncoderConfig, LanguageModelConfig, ModelConfig
from psg4d_ros.model.language_model import tiny_language_model
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.training.calibrate import _Answers, calibrate, fold
from psg4d_ros.training.real_stages import scene_words
from psg4d_ros.training.scene_losses import SceneLosses, SceneRecipe
from psg4d_ros.training.window_scores import average_precision, read_windows, window_scores
from psg4d_ros.training.windows import TrainingWindow, WindowDataset, WindowRecipe
from psg4d_ros.training.wordings import draw_wording, other_words
from psg4d_ros.vocabulary import default_vocabulary

pytestmark = pytest.mark.usefixtures("one_thread")

KITCHEN = small_recordings.recording()
WORDS = scene_words([KITCHEN], default_vocabulary())


def _model() -> PSG4D:
    config = ModelConfig(
        encoder=EncoderConfig(voxel_size_m=0.1, channels=(8, 16, 16, 16)),
        language_model=LanguageModelConfig(adapter_rank=2, max_scene_tokens=64),
        decoder=DecoderConfig(num_slots=6, proposals=4, dim=32, heads=2, layers=2),
    )
    torch.manual_seed(0)
    return PSG4D(config, default_vocabulary(), tiny_language_model(adapter_rank=2))


@pytest.fixture(scope="module")
def windows() -> list[TrainingWindow]:
    dataset = WindowDataset([KITCHEN], WindowRecipe(frames=2, voxel_size_m=0.1, augment=False), seed=0)
    return [dataset[i] for i in range(3)]


def _losses(model: PSG4D, **recipe: object) -> SceneLosses:
    return SceneLosses(model, SceneRecipe(**recipe), WORDS)  # type: ignore[arg-type]


def _gradients(losses: SceneLosses, windows: list[TrainingWindow], *names: str) -> dict[str, float]:
    """Largest gradient of each part of the model from the named losses alone (none named: all)."""
    losses.zero_grad()
    values = losses(windows, torch.Generator().manual_seed(0))
    total = sum(value for name, value in values.items() if not names or name in names)
    total.backward()
    model = losses.model
    parts = {
        "encoder": model.encoder,
        "decoder": model.decoder,
        "projector": model.projector,
        "adapters": model.language_model,
        "relations": model.relation_head,
    }
    return {
        name: max((float(p.grad.abs().max()) for p in part.parameters() if p.grad is not None), default=0.0)
        for name, part in parts.items()
    }


def test_a_room_is_learnt_by_heart(windows):
    """Some steps on three windows of one kitchen: every loss falls, and things are found, named and related."""
    model = _model()
    losses = _losses(model, language_model_share=0.5, geometry_lr=3e-3, text_lr=3e-3)
    optimizer = torch.optim.AdamW(losses.parameter_groups())
    generator = torch.Generator().manual_seed(1)
    history = []
    for _ in range(70):
        values = losses(windows, generator)
        optimizer.zero_grad()
        sum(values.values()).backward()
        torch.nn.utils.clip_grad_norm_(losses.parameters(), 1.0)
        optimizer.step()
        history.append({name: value.item() for name, value in values.items()})
    for name in ("bce", "dice", "presence", "class", "attribute", "relation", "span"):
        first, last = (sum(h[name] for h in part) / len(part) for part in (history[:5], history[-5:]))
        assert last < 0.8 * first, (name, first, last)
    scores = window_scores(read_windows(model, windows, tuple(WORDS.classes), language_model=False))
    assert scores["thing_recall"] > 0.5
    assert scores["class_top3"] > 0.5
    assert scores["relation_ap"] > 0.5


def test_text_reaches_the_encoder_unless_the_pipeline_is_asked_for(windows):
    text = ("class", "relation", "answer")
    options = {"language_model_share": 1.0, "answer_share": 1.0, "own_words_share": 0.0}
    end_to_end = _model()
    # The gates of what only 4D has start at zero; open, as training opens them.
    for gate in (end_to_end.chain.pair_embedding.state_gate, end_to_end.chain.entry_gate):
        torch.nn.init.constant_(gate, 0.5)
    open_language_model(end_to_end)
    pipeline = copy.deepcopy(end_to_end)
    pipeline.switch(ModelConfig(decoder=DecoderConfig(reads_slots=False)))
    with_flow = _gradients(_losses(end_to_end, **options), windows, *text)
    without = _gradients(_losses(pipeline, **options), windows, *text)
    assert with_flow["encoder"] > 0 and with_flow["decoder"] > 0
    assert without["encoder"] == 0 and without["decoder"] == 0
    assert without["projector"] > 0 and without["relations"] > 0
    assert _gradients(_losses(end_to_end, **options), windows, "relation")["encoder"] > 0


def test_without_the_language_model_its_adapters_learn_nothing(windows):
    found = _gradients(_losses(_model(), language_model_share=0.0), windows)
    assert found["adapters"] == 0 and found["projector"] == 0
    assert found["encoder"] > 0 and found["relations"] > 0


def test_stage_two_leaves_what_stage_one_taught(windows):
    losses = _losses(_model(), relations=False, adapter_lr=0.0)
    trained = {id(p) for group in losses.parameter_groups() for p in group["params"]}
    model = losses.model
    taught = [*model.relation_head.parameters(), *model.chain.pair_embedding.parameters()]
    taught += [p for n, p in model.language_model.named_parameters() if "adapter_" in n]
    assert not trained & {id(p) for p in taught}
    assert set(losses(windows, torch.Generator())) >= {"bce", "dice", "presence", "class", "attribute"}


def test_the_same_seed_gives_the_same_losses(windows):
    losses = _losses(_model())
    one, two, other = (losses(windows, torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(name not in other or not torch.equal(one[name], other[name]) for name in one)


def test_words_held_out_of_training_are_never_spoken_against():
    assert set(WORDS.classes) == {"person", "cup", "table", "floor"}
    assert "guitar" not in WORDS.others and "car" in WORDS.others


def test_what_is_shown_under_other_names_answers_to_them(windows):
    """A cup learnt by heart as "cup" and "mug" is both of them; learnt under its own name it is hardly a mug."""
    synonyms = other_words(WORDS.classes, default_vocabulary())
    answers = {}
    for share in (0.0, 0.7):
        model = _model()
        losses = _losses(model, other_words_share=share, relations=False, language_model_share=0.0, text_lr=3e-3)
        optimizer = torch.optim.AdamW(losses.parameter_groups())
        generator = torch.Generator().manual_seed(1)
        for _ in range(60):
            optimizer.zero_grad()
            sum(losses(windows, generator).values()).backward()
            optimizer.step()
        read = next(iter(read_windows(model, windows[:1], (*WORDS.classes, *synonyms["cup"]), language_model=False)))
        tube = read.window.truth.labels.index("cup")
        answers[share] = read.scores.class_logits[int(read.reading.slots[read.reading.tubes == tube])].tolist()
    own, other = list(WORDS.classes).index("cup"), len(WORDS.classes)
    behind = {share: logits[own] - logits[other] for share, logits in answers.items()}
    assert behind[0.7] < 2.0 and behind[0.0] > 4.0
    assert answers[0.7][other] > max(logit for i, logit in enumerate(answers[0.7][:other]) if i != own)


def test_other_names_change_words_and_nothing_else(windows):
    truth = windows[0].truth
    said = truth.in_words({"cup": "mug", "on": "upon"})
    assert "mug" in said.labels and "cup" not in said.labels
    assert said.predicates[truth.predicates.index("on")] == "upon"
    assert torch.equal(said.holds, truth.holds) and said.attributes == truth.attributes
    assert truth.in_words({}).labels == truth.labels


def test_a_share_of_the_words_is_drawn_to_go_by_other_names():
    names = {f"word {i}": ("one", "two") for i in range(1000)}
    drawn = draw_wording(names, 0.3, torch.Generator().manual_seed(0))
    assert len(drawn) == pytest.approx(300, abs=60)
    assert list(drawn.values()).count("one") == pytest.approx(len(drawn) / 2, abs=40)
    assert (
        not draw_wording(names, 0.0, torch.Generator())
        and draw_wording(names, 1.0, torch.Generator()).keys() == names.keys()
    )


def _read(model, windows):
    return list(read_windows(model, windows, tuple(WORDS.classes), language_model=False))


UNCHANGED = {"class_scale": 1.0} | {f"{head}_scale": 1.0 for head in ("presence", "attribute", "relation")}
UNCHANGED |= {f"{head}_shift": 0.0 for head in ("presence", "attribute", "relation")}


def test_calibration_changes_how_sure_answers_are_and_nothing_else(windows):
    model = _model()
    read = _read(model, windows)
    scales = {"presence_scale": 0.5, "class_scale": 3.0, "attribute_scale": 2.0, "relation_scale": 0.25}
    fold(model, {**scales, "presence_shift": -2.0, "attribute_shift": 1.0, "relation_shift": 0.5})
    for a, b in zip(read, _read(model, windows), strict=True):
        torch.testing.assert_close(a.output.presence_logits * 0.5 - 2, b.output.presence_logits)
        torch.testing.assert_close(a.output.mask_logits, b.output.mask_logits)
        torch.testing.assert_close(a.scores.class_logits * 3, b.scores.class_logits)
        torch.testing.assert_close(a.scores.attribute_logits * 2 + 1, b.scores.attribute_logits)
        torch.testing.assert_close(a.answer.logits / 4 + 0.5, b.answer.logits)
        torch.testing.assert_close(a.answer.activity_logits, b.answer.activity_logits)


def test_rare_answers_are_calibrated_too():
    """Of 20,000 answers 20 are true and all are said to be as likely: the loss is nearly flat, and still too high."""
    answers = _Answers()
    answers.add(torch.full((20_000,), -6.0), (torch.arange(20_000) < 20).float())
    answers.add(torch.full((10,), -5.5), torch.zeros(10))
    scale, shift = answers.fit(F.binary_cross_entropy_with_logits, shifted=True)
    assert torch.tensor(-6.0 * scale + shift).sigmoid().item() == pytest.approx(1e-3, rel=0.05)


def test_calibration_undoes_false_certainty_and_a_lopsided_loss(windows):
    """A model made too sure of everything ends, calibrated, with the scores of the one it was made of."""
    model = _model()
    spoilt = copy.deepcopy(model)
    fold(spoilt, {**UNCHANGED, "relation_scale": 2.0, "relation_shift": 1.0, "presence_shift": 2.3})
    for one in (model, spoilt):
        calibrate(one, _read(one, windows * 2))
    for a, b in zip(_read(model, windows), _read(spoilt, windows), strict=True):
        torch.testing.assert_close(a.answer.logits.sigmoid(), b.answer.logits.sigmoid(), atol=0.02, rtol=0)
        torch.testing.assert_close(
            a.output.presence_logits.sigmoid(), b.output.presence_logits.sigmoid(), atol=0.02, rtol=0
        )


def test_presence_is_as_likely_as_it_is_right(windows):
    """Calibrated, the slots' presence adds up to the number that are right: of an untrained model, next to none."""
    model = _model()
    calibrate(model, _read(model, windows * 2))
    assert sum(r.output.presence_logits.sigmoid().sum().item() for r in _read(model, windows)) < 1.0


def test_average_precision_of_a_hand_worked_ranking():
    """True at places 1, 3 and 4: (1 + 2/3 + 3/4) / 3."""
    scores, true = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.1]), torch.tensor([True, False, True, True, False])
    assert average_precision(scores, true) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert average_precision(scores, torch.zeros(5, dtype=torch.bool)) == 0.0
