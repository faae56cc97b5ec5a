"""Frames that are voxelised ahead, in another thread: nothing but the time of it changes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from psg4d_ros.config import InferenceConfig, PipelineConfig, WindowConfig
from psg4d_ros.evaluation.replay import graph_json
from psg4d_ros.pipeline import ScenePipeline

pytestmark = pytest.mark.usefixtures("one_thread")
STEP = 250_000_000
START = 1_000 * STEP
FRAMES = 3


@pytest.fixture
def make(tiny_checkpoint):
    def pipeline(device: str = "cpu") -> ScenePipeline:
        inference = InferenceConfig(device=device, relation_threshold=0.0, max_pairs=4)
        return ScenePipeline.from_checkpoint(
            tiny_checkpoint, PipelineConfig(window=WindowConfig(num_frames=FRAMES), inference=inference)
        )

    return pipeline


def due(pipeline, room, numbers):
    """The windows that are due with these frames."""
    return [pipeline.push(room(START + i * STEP)) for i in numbers]


def waiting(pipeline) -> int:
    return len(pipeline.predictor.cache.ahead)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_graphs_are_the_same_with_and_without_and_only_without_voxelise(make, room, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    plain, ahead = make(device), make(device)
    looped = [*range(5), *range(3)]  # the bag begins again
    expected = [plain.infer(window) for window in due(plain, room, looped)]
    found = []
    with ThreadPoolExecutor(1) as other_thread:
        windows = due(ahead, room, looped)
        coming = other_thread.submit(ahead.prepare, windows[0])
        for window, following in zip(windows, [*windows[1:], None], strict=True):
            coming.result()
            if following is not None:
                coming = other_thread.submit(ahead.prepare, following)
            found.append(ahead.infer(window))
    assert list(map(graph_json, found)) == list(map(graph_json, expected))
    assert all("voxelize" in graph.stage_ms for graph in expected)
    assert not any("voxelize" in graph.stage_ms for graph in found)
    assert waiting(ahead) == 0


def test_a_window_that_was_not_prepared_is_voxelised_as_it_comes(make, room):
    pipeline = make()
    first, second = due(pipeline, room, range(2))
    assert "voxelize" in pipeline.infer(first).stage_ms
    pipeline.prepare(second)
    graph = pipeline.infer(second)
    assert graph.num_frames == 2
    assert pipeline.predictor.cache.encoded == 2


def test_frames_of_windows_that_were_replaced_are_prepared_with_the_next(make, room):
    pipeline = make()
    *_, newest = due(pipeline, room, range(3))
    pipeline.prepare(newest)
    assert waiting(pipeline) == 3
    assert "voxelize" not in pipeline.infer(newest).stage_ms


def test_frames_that_nobody_takes_are_forgotten_with_their_window(make, room):
    pipeline = make()
    for window in due(pipeline, room, range(8)):
        pipeline.prepare(window)
        assert waiting(pipeline) <= FRAMES
    pipeline.reset()
    pipeline.prepare(*due(pipeline, room, [8]))
    assert waiting(pipeline) == 1, "those of the epoch before are gone"


def test_frames_prepared_with_other_limits_are_made_again(make, room):
    """Memory ran out in between: what is too large must not come in by a back door."""
    pipeline = make()
    (window,) = due(pipeline, room, [0])
    pipeline.prepare(window)
    pipeline.set_limits(max_points=1000, relations=True)
    graph = pipeline.infer(window)
    assert 0 < (graph.cloud.track_id > 0).sum() <= 1000
    assert "voxelize" in graph.stage_ms
