"""The parts of the benchmarks that count, fit and vary: floors, memory, growth."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn

from psg4d_ros.config import InferenceConfig, PipelineConfig
from psg4d_ros.evaluation.bench.floors import Rates, Work, counting, floors_ms, measure_rates, moved_bytes
from psg4d_ros.evaluation.bench.growth import made_up_words, slices
from psg4d_ros.evaluation.bench.memory import measure_memory, memory_trend, tiny_predictor
from psg4d_ros.evaluation.bench.streams import wandering_boxes
from psg4d_ros.model.language_model import tiny_language_model
from psg4d_ros.model.sparse_encoder import SparseConv
from psg4d_ros.runtime.rulebook import neighbour_table
from psg4d_ros.vocabulary import default_vocabulary

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_work_of_a_linear_layer_is_counted_to_the_byte():
    layer = nn.Sequential(nn.Linear(8, 16, bias=False))
    with torch.inference_mode(), counting({"layer": layer}) as works:
        layer(torch.zeros(5, 8))
        layer(torch.zeros(1, 8))
    assert [w.operations for w in works] == [2 * 5 * 8 * 16, 2 * 8 * 16]
    assert [w.bytes for w in works] == [4 * (8 * 16 + 5 * 8 + 5 * 16), 4 * (8 * 16 + 8 + 16)]
    assert {(w.part, w.dtype) for w in works} == {("layer", "float32")}


def test_a_sparse_convolution_counts_the_neighbours_there_are():
    coords = torch.tensor([[0, 0, 0], [0, 0, 1], [5, 5, 5]], dtype=torch.int32)  # two neighbours and one alone
    convolution = nn.Sequential(SparseConv(4, 6, 27))

    class Apply(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = convolution

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            from psg4d_ros.model.sparse_encoder import prepare

            return self.inner[0](features, prepare(neighbour_table(coords)))

    part = Apply()
    with torch.inference_mode(), counting({"encoder": part}) as works:
        part(torch.zeros(3, 4))
    assert works[0].operations == 2 * (3 + 2) * 4 * 6


def test_a_language_model_pass_counts_its_weights_once_and_its_cache():
    lm = tiny_language_model()
    text = torch.zeros(1, 7, lm.hidden_size)
    with torch.inference_mode():
        _, cache = lm(text)
        with counting({"language_model": lm}) as works:
            lm(text[:, :1], cache=cache)
    table = lm.base.get_input_embeddings().weight.nbytes  # not read: inputs are embeddings
    weights = sum(p.nbytes for p in lm.base.get_decoder().parameters()) - table
    assert weights + moved_bytes(cache) < works[0].bytes < 1.5 * (weights + moved_bytes(cache))
    heads, width, layers = 3, lm.hidden_size // 3, 2
    matrices = 2 * (weights - 4 * lm.hidden_size * (2 * layers + 1)) / 4
    attention = layers * 2 * heads * 8 * 2 * width
    assert works[0].operations == pytest.approx(matrices + attention)


def test_counting_leaves_no_hooks_behind():
    layer = nn.Sequential(nn.Linear(2, 2))
    with counting({"layer": layer}) as works:
        layer(torch.zeros(1, 2))
    layer(torch.zeros(1, 2))
    assert len(works) == 1
    assert not layer._forward_hooks
    assert not layer[0]._forward_hooks


def test_the_floor_is_the_longer_of_two_times():
    rates = Rates(bytes_per_s=1e9, operations_per_s={"float32": 1e12, "bfloat16": 4e12})
    assert Work("x", "float32", operations=10**9, bytes=10**5).floor_ms(rates) == pytest.approx(1.0)
    assert Work("x", "bfloat16", operations=10**9, bytes=10**5).floor_ms(rates) == pytest.approx(0.25)
    assert Work("x", "float32", operations=10**9, bytes=10**7).floor_ms(rates) == pytest.approx(10.0)


def test_passes_are_put_to_their_stages_in_order():
    rates = Rates(bytes_per_s=1.0, operations_per_s={"float32": 1.0})
    works = [Work(p, "float32", bytes=n) for p, n in (("encoder", 1), ("language_model", 2), ("decoder", 3))]
    works.append(Work("language_model", "float32", bytes=4))
    assert floors_ms(works, rates) == {"encode": 1e3, "masks": 3e3, "turn1": 2e3, "turn2": 4e3}
    assert "turn2" not in floors_ms(works[:3], rates), "no relations were asked about"


def test_rates_of_the_machine_are_measured():
    rates = measure_rates(torch.device("cpu"), [torch.float32], probe_mb=1)
    assert rates.bytes_per_s > 1e8
    assert rates.operations_per_s["float32"] > 1e8
    assert set(rates.to_json()) == {"memory_gb_per_s", "matrix_float32_gflops"}


def test_a_leak_is_told_from_a_run_that_only_fills_up():
    rng = np.random.default_rng(0)
    numbers = list(range(0, 10_001, 50))
    noise = rng.normal(0, 0.3, len(numbers))
    filling = [(n, 500 + 80 * (1 - np.exp(-n / 500)) + e) for n, e in zip(numbers, noise, strict=True)]
    leaking = [(n, 500 + 0.005 * n + e) for n, e in zip(numbers, noise, strict=True)]
    assert memory_trend(filling)["flat"] is True
    assert memory_trend(leaking)["flat"] is False
    assert memory_trend(leaking)["growth_second_half"] == pytest.approx(25, abs=1)
    assert memory_trend(leaking)["peak"] == pytest.approx(550, abs=2)
    assert memory_trend([]) is None
    assert memory_trend(leaking[:2])["flat"] is None


def test_long_runs_feed_every_frame_to_the_pipeline(spy):
    config = PipelineConfig(inference=InferenceConfig(device="cpu", presence_threshold=0.0, mask_threshold=0.0))
    predictor = tiny_predictor(config, torch.device("cpu"))
    predicted = spy(predictor, "predict")
    run = measure_memory(config, predictor, updates=12, num_points=300)
    real = [call.result for call in predicted if call.window.epoch >= 0]
    assert len(real) == run["updates"] == 12
    assert len(real[-1].window.frames) == config.window.num_frames
    assert real[-1].instances, "there is something to keep track of"
    assert [n for n, _, _ in run["samples"]] == list(range(13))
    assert run["device"] is None


def test_boxes_wander_and_the_floor_stays():
    first, *_, later = islice(wandering_boxes(800), 20)
    assert len(first) == len(later) == 800
    assert later.stamp_ns - first.stamp_ns == 19 * 250_000_000
    moved = np.linalg.norm(later.points[400:500].mean(axis=0) - first.points[400:500].mean(axis=0))
    assert moved > 0.3
    assert first.points[:400, 2].max() < 0.03


def test_given_slices_are_as_many_as_asked_and_equally_large():
    frames = list(islice(wandering_boxes(500), 2))
    given = slices(frames, 5)
    assert len(given.objects) == 5
    for frame in frames:
        owners = given.point_object[frame.stamp_ns]
        assert np.bincount(owners, minlength=6).tolist() == [0, 100, 100, 100, 100, 100]
        last = [frame.points[owners == i, 0].max() for i in range(1, 6)]
        assert last == sorted(last), "from one side to the other"


def test_made_up_vocabularies_have_the_size_asked_for():
    vocabulary = made_up_words(default_vocabulary(), 1000)
    assert (len(vocabulary.classes), len(vocabulary.predicates)) == (1000, 250)
    assert set(vocabulary.class_ids) == {-1}, "none of them is known"
