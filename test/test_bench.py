"""The benchmarks: what the paths do, and that a path that is wrong is told."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from psg4d_ros.cli import main
from psg4d_ros.config import InferenceConfig, PipelineConfig, TrackerConfig, WindowConfig
from psg4d_ros.evaluation.bench import plan as plans
from psg4d_ros.evaluation.bench.agreement import EXACT, HALF, Agreement, compare_graphs, tolerance
from psg4d_ros.evaluation.bench.growth import cases
from psg4d_ros.evaluation.bench.memory import tiny_predictor
from psg4d_ros.evaluation.bench.paths import Paths
from psg4d_ros.evaluation.bench.plan import Growth, Plan
from psg4d_ros.evaluation.bench.plots import draw_plots
from psg4d_ros.evaluation.bench.run import bench
from psg4d_ros.evaluation.bench.speed import measure_speed
from psg4d_ros.evaluation.bench.streams import Stream, wandering_boxes
from psg4d_ros.evaluation.bench.tables import bench_markdown
from psg4d_ros.runtime import predictor as predictor_module
from psg4d_ros.runtime.backends import TorchBackend
from psg4d_ros.structures import SceneGraph
from psg4d_ros.transforms import TransformBuffer

TINY = Plan(
    image=(24, 18),
    pairs=3,
    compared=1,
    windows=2,
    slow_windows=1,
    growth=Growth(frames=(1, 2), points=(50, 300), objects=(2, 3), pairs=(1, 4), words=(5, 20), repeats=1),
    tiny_updates=4,
    full_updates=2,
    probe_mb=1,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def config() -> PipelineConfig:
    inference = InferenceConfig(
        device="cpu", language_model_dtype="float32", relation_threshold=0.0, min_points=1, min_kept=0.0, max_pairs=3
    )
    tracker = TrackerConfig(min_windows=1)  # what a random model finds, it finds once
    return PipelineConfig(window=WindowConfig(num_frames=3), inference=inference, tracker=tracker)


@pytest.fixture
def paths(tiny_checkpoint, config) -> Paths:
    return Paths(tiny_checkpoint, config)


@pytest.fixture(scope="module")
def boxes() -> Stream:
    """Five clouds of boxes on a floor, in a level frame."""
    transforms = TransformBuffer()
    transforms.set_transform("world", "level", 1, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0), static=True)
    return Stream("boxes", tuple(f for f, _ in zip(wandering_boxes(400), range(5), strict=False)), transforms, "world")


def compared(paths: Paths, stream: Stream, most: int | None = 3) -> dict[str, Agreement]:
    return {a.decoding: a for a in compare_graphs(paths, [(stream, most)], lambda step: None)}


def test_fast_and_plain_path_give_the_same_graphs_in_both_decodings(paths, boxes):
    for decoding, agreement in compared(paths, boxes).items():
        assert agreement.same, agreement.differences
        assert agreement.windows == 3, "frames stay cached from window to window"
        assert agreement.objects > 3, f"{decoding}: there is something to compare"
        assert agreement.relations > 3
        assert agreement.max_score_difference < 1e-5


@pytest.mark.parametrize(
    ("part", "wrong_in"),
    [
        ("encoder.", {"score", "generate"}),
        ("projector.", {"score", "generate"}),
        ("relation_head", {"score"}),  # answers in words come from the language model; it only chooses their pairs
    ],
)
def test_a_disturbed_weight_of_one_path_is_told(paths, boxes, part, wrong_in):
    with torch.no_grad():
        for name, tensor in paths.plain.named_parameters():
            if name.startswith(part):
                tensor += (
                    0.5 * tensor.abs().mean() * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))
                )
    found = compared(paths, boxes, most=2)
    assert {decoding for decoding, a in found.items() if not a.same} >= wrong_in
    for decoding in wrong_in:
        assert found[decoding].differences


def test_a_cache_that_returns_another_frame_is_told(paths, boxes, monkeypatch):
    """What the frame cache is for: a stale entry must not go unnoticed."""
    from psg4d_ros.runtime.frame_cache import FrameCache

    real = FrameCache.features

    def stale(self, window, limits, clock):
        found = real(self, window, limits, clock)
        return found if len(found) < 3 or self.encoded == 3 else [found[1], found[1], *found[2:]]

    monkeypatch.setattr(FrameCache, "features", stale)
    # Both paths call it; of the plain one all frames were just encoded, so only ours is led astray.
    assert not any(a.same for a in compared(paths, boxes, most=None).values())


def test_relations_at_the_cut_are_no_difference_and_others_are(paths, boxes):
    run = paths.start(paths.predictor("ours"), boxes)
    graph = [run.infer(w).graph for f in boxes.frames[:1] if (w := run.push(f)) is not None][-1]
    by_score = sorted(graph.relations, key=lambda r: r.score)
    assert by_score[-1].score - by_score[0].score > 2 * EXACT, "the test needs a spread of scores"
    without_last = replace(graph, relations=tuple(by_score[1:]))
    without_best = replace(graph, relations=tuple(by_score[:-1]))
    full = InferenceConfig(relation_threshold=0.0, max_relations=len(without_last.relations))
    longer = replace(full, max_relations=len(by_score) + 1)

    def compared_with(other: SceneGraph, inference: InferenceConfig) -> Agreement:
        agreement = Agreement("", "", "float32", EXACT)
        # The least of what the other one lists is as low as what it lacks, as where the number cuts.
        least = min(r.score for r in other.relations)
        mine = replace(graph, relations=tuple(replace(r, score=max(r.score, least)) for r in graph.relations))
        agreement.add(mine, other)
        agreement.add_relations(mine, other, inference)
        return agreement

    cut, missing, best = (
        compared_with(without_last, full), compared_with(without_last, longer), compared_with(without_best, full)
    )  # fmt: skip
    assert (cut.same, cut.at_the_cut) == (True, 1)
    assert (missing.same, missing.at_the_cut) == (False, 0), "there was room for it: the other path does not say it"
    assert (best.same, best.at_the_cut) == (False, 0)
    lowered = replace(by_score[0], score=0.5 * EXACT)
    by_threshold = Agreement("", "", "float32", EXACT)
    by_threshold.add(graph, without_last)
    by_threshold.add_relations(replace(graph, relations=(lowered, *by_score[1:])), without_last, longer)
    assert (by_threshold.same, by_threshold.at_the_cut) == (True, 1)
    assert "in our graph alone" in best.differences[0]
    nothing = Agreement("", "", "float32", EXACT)
    assert not nothing.same, "nothing compared is nothing shown"


def test_without_float32_ours_is_run_twice_to_tell_rounding_from_error(tiny_checkpoint, config, boxes):
    half = replace(config, inference=replace(config.inference, language_model_dtype="bfloat16"))
    found = compare_graphs(Paths(tiny_checkpoint, half), [(boxes, 1)], lambda step: None)
    assert [(a.decoding, a.numbers, a.tolerance) for a in found] == [
        ("score", "bfloat16", HALF),
        ("score", "float32", EXACT),
        ("generate", "bfloat16", HALF),
        ("generate", "float32", EXACT),
    ]
    rounding = {a.numbers: a.max_score_difference for a in found if a.decoding == "score"}
    assert rounding["float32"] < 1e-5 < rounding["bfloat16"]
    assert all(a.same for a in found if a.numbers == "float32")


def test_tolerance_follows_the_numbers_of_the_path():
    assert tolerance("torch", torch.float32) == tolerance("onnxruntime", torch.float32) == EXACT
    assert tolerance("torch", torch.bfloat16) == tolerance("tensorrt", torch.float32) == HALF


def test_backends_make_room_for_the_windows_that_are_measured(paths, boxes, spy):
    """An engine is built for windows of up to so many frames, and larger ones would be measured on another backend."""
    made = spy(predictor_module, "make_backend")
    for case in cases(TINY.growth, boxes, paths.config)["frames"]:
        paths.with_config(case.config).predictor("ours")
    tiny_predictor(paths.config, torch.device("cpu"))
    assert [call.limits.num_frames for call in made] == [*TINY.growth.frames, paths.config.window.num_frames]


@pytest.mark.parametrize("kind", ["plain", "naive"])
def test_slow_paths_encode_every_frame_of_every_window(paths, boxes, spy, kind):
    slow, ours = paths.predictor(kind), paths.predictor("ours")
    encoded = {predictor: spy(predictor.backend, "encode") for predictor in (slow, ours)}
    for predictor in (slow, ours):
        run = paths.start(predictor, boxes)
        for frame in boxes.frames:
            run.infer(run.push(frame))
    assert len(encoded[slow]) == 1 + 2 + 3 + 3 + 3
    assert len(encoded[ours]) == 5


def test_the_naive_path_generates_word_by_word_one_slot_and_one_pair_at_a_time(paths, boxes, spy):
    language_model = paths.model.language_model
    asked, passes = spy(language_model.base, "generate"), spy(language_model.base.get_decoder(), "forward")
    run = paths.start(paths.predictor("naive"), boxes)
    graph = [run.infer(w).graph for f in boxes.frames[:2] if (w := run.push(f)) is not None][-1]
    pairs = paths.config.inference.max_pairs
    assert len(graph.objects) > 1
    assert len(asked) == sum(1 for call in asked if call.kwargs["inputs_embeds"].shape[0] == 1)
    assert len(asked) >= len(graph.objects) + pairs
    words = sum(call.result.shape[1] for call in asked)
    assert len(passes) >= words, "a pass for each word"


def test_slow_paths_say_what_the_vocabulary_holds(paths, boxes):
    for kind in ("plain", "naive"):
        predictor = paths.predictor(kind, "generate")
        run = paths.start(predictor, boxes)
        graph = run.infer(run.push(boxes.frames[0])).graph
        assert graph.objects
        assert {o.label for o in graph.objects} <= set(predictor.vocabulary.class_names)
        assert {r.predicate for r in graph.relations} <= set(predictor.vocabulary.predicates)


def test_paths_take_turns_on_the_same_windows(paths, boxes):
    speed = measure_speed(paths, boxes, windows=2, slow_windows=1, progress=lambda step: None)
    assert speed.windows == 2
    values = {name: len(stages.values["total"]) for name, stages in speed.stages.items()}
    assert values == {"ours": 2, "ours, generate": 2, "plain": 1, "naive": 1}
    for slow in ("plain", "naive"):
        assert len(speed.ratios[slow, "ours"]) == 1
    ours = speed.stages["ours"].values["total"][0]
    assert speed.ratio("naive") == pytest.approx(speed.stages["naive"].values["total"][0] / ours, abs=1e-3)


@pytest.fixture(scope="module")
def result(tiny_checkpoint, config):
    pytest.importorskip("embreex", reason="the simulator casts rays with embreex (extra sim)")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return bench(tiny_checkpoint, config, TINY)
    finally:
        torch.set_num_threads(before)


def test_result_has_the_keys_of_the_contract(result):
    assert json.loads(json.dumps(result, allow_nan=False)) is not None
    assert result["same_graphs"] is result["same_graphs_float32"] is True
    assert isinstance(result["ratio_to_naive"], float)
    assert result["ratio_to_naive"] > 0
    assert {"encode", "turn1", "masks", "turn2"} == set(result["ratio_to_floor"]) == set(result["floor_ms"])
    for stage in ("voxelize", "encode", "aggregate", "turn1", "masks", "name", "turn2", "total"):
        assert set(result["stage_ms"][stage]) == {"p50", "p95", "p99"}
    recordings = {(a["recording"], a["decoding"], a["windows"]) for a in result["agreement"]}
    assert recordings == {
        ("kinect (recorded)", "score", 3),
        ("kinect (recorded)", "generate", 3),
        ("simulated", "score", 1),
        ("simulated", "generate", 1),
    }
    for name, values in (("frames", (1, 2)), ("points", (50, 300)), ("pairs", (1, 4)), ("words", (5, 20))):
        assert tuple(p["value"] for p in result["growth"][name]) == values
    assert [p["objects"] for p in result["growth"]["objects"]] == [2, 3]
    assert result["memory"]["tiny"]["updates"] == 4
    assert result["memory"]["tiny"]["host"]["flat"] is None, "four updates say nothing"


def test_tables_and_pictures_show_the_result(result, tmp_path):
    text = bench_markdown({"quick": True, **result})
    assert "## Same graphs as the plain path: yes" in text
    for title in ("one path after the other", "Stages of an update", "Floors", "Growth", "Memory"):
        assert title in text
    assert "A quick run" in text
    assert "A quick run" not in bench_markdown(result)
    for block in text.split("\n\n"):
        if block.startswith("|"):
            widths = {line.count("|") for line in block.splitlines()}
            assert len(widths) == 1, block
    rounded = {**result, "same_graphs": False}
    assert "plain path: in float32 only" in bench_markdown(rounded)
    wrong = {**rounded, "same_graphs_float32": False, "machine": {**result["machine"], "busy": True, "load": 0.9}}
    assert "plain path: NO" in bench_markdown(wrong)
    assert "machine was busy" in bench_markdown(wrong)
    from PIL import Image

    files = draw_plots(result, tmp_path)
    assert [f.name for f in files] == ["stages.png", "growth.png", "memory.png"]
    for file in files:
        with Image.open(file) as image:
            assert image.width >= 400
            assert len(image.convert("RGB").getcolors(1 << 20)) > 10, f"{file.name} is not blank"


def test_parts_can_be_measured_alone(tiny_checkpoint, config, tmp_path):
    alone = bench(tiny_checkpoint, config, TINY, parts=["memory"])
    assert alone["memory"]["tiny"]["updates"] == 4
    assert not {"same_graphs", "speed", "growth"} & alone.keys()
    text = bench_markdown(alone)
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## Memory, MiB"]
    assert [file.name for file in draw_plots(alone, tmp_path)] == ["memory.png"]


def test_verify_compares_only_and_says_by_its_status_whether_graphs_differ(
    tiny_checkpoint, tmp_path, capsys, monkeypatch
):
    pytest.importorskip("embreex", reason="the simulator casts rays with embreex (extra sim)")
    monkeypatch.setattr(plans, "QUICK", TINY)
    command = ["bench", "--quick", "--verify", "--checkpoint", str(tiny_checkpoint), "--quiet", "--backend", "torch"]
    command += ["--out", str(tmp_path / "out"), "--json", str(tmp_path / "bench.json")]
    assert main([*command, "--set", "inference.language_model_dtype=float32"]) == 0
    result = json.loads((tmp_path / "bench.json").read_text())
    assert result["same_graphs"] is True
    assert "ratio_to_naive" not in result, "nothing was timed"
    assert capsys.readouterr().out == (tmp_path / "out" / "bench.md").read_text()
    from psg4d_ros.evaluation.bench.plain import PlainWriter

    real = PlainWriter.object_answer
    monkeypatch.setattr(
        PlainWriter,
        "object_answer",
        lambda self, turn1, slot, grammar: replace(real(self, turn1, slot, grammar), score=0),
    )
    assert main([*command, "--set", "inference.language_model_dtype=float32"]) == 1
    assert "plain path: NO" in capsys.readouterr().out


def test_a_backend_that_failed_on_the_way_is_not_verified(tiny_checkpoint, tmp_path, capsys, monkeypatch):
    """An engine may be built and fail on a window: another backend serves then, and comparing that proves nothing."""
    pytest.importorskip("embreex", reason="the simulator casts rays with embreex (extra sim)")
    monkeypatch.setattr(plans, "QUICK", TINY)
    real = TorchBackend.decode_masks

    def failing(self, slot_hidden, tokens):
        self.problem = "the engine failed, torch runs instead of tensorrt"
        return real(self, slot_hidden, tokens)

    monkeypatch.setattr(TorchBackend, "decode_masks", failing)
    command = ["bench", "--quick", "--verify", "--checkpoint", str(tiny_checkpoint), "--quiet", "--backend", "torch"]
    command += ["--out", str(tmp_path), "--set", "inference.language_model_dtype=float32"]
    assert main(command) == 1
    assert "torch was not verified: the engine failed, torch runs instead of tensorrt" in capsys.readouterr().err


def test_a_wrong_backend_is_an_error_of_one_line(tiny_checkpoint, capsys, tmp_path):
    command = ["bench", "--backend", "nonsense", "--checkpoint", str(tiny_checkpoint), "--out", str(tmp_path)]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert "inference.backend is 'nonsense'" in error
    assert error.count("\n") == 1
