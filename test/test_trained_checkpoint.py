"""The checkpoint that ships, with its real language model in float32: however it is run, it says the same."""

from __future__ import annotations

from dataclasses import replace

import pytest

from psg4d_ros.checkpoint import default_checkpoint
from psg4d_ros.config import InferenceConfig, PipelineConfig, WindowConfig
from psg4d_ros.evaluation.bench.agreement import DECODINGS, EXACT, Agreement, compare_graphs
from psg4d_ros.evaluation.bench.paths import Paths
from psg4d_ros.evaluation.bench.streams import Stream, bundled_stream, simulated_stream
from psg4d_ros.structures import SceneGraph

# Half a minute of one core each; the real language model on a busy machine takes many times that.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
# Below the default, so that pairs of which the model is not sure are compared, too.
THRESHOLD = 0.05
# One core, and a pass over the whole text for each pair.
PAIRS = 3


@pytest.fixture(scope="module")
def paths() -> Paths:
    inference = InferenceConfig(
        device="cpu", language_model_dtype="float32", relation_threshold=THRESHOLD, max_pairs=PAIRS
    )
    return Paths(default_checkpoint(), PipelineConfig(WindowConfig(num_frames=2, min_frames=2), inference=inference))


@pytest.fixture(scope="module")
def kinect() -> Stream:
    return bundled_stream().thinned(20_000)


@pytest.mark.usefixtures("one_thread")
def test_fast_and_plain_path_give_the_same_graphs_in_both_decodings(paths, kinect):
    """Of a real and of a simulated window of two frames. Labels, attributes, predicates and spans are equal without
    exception, in generate too: nothing is so close that rounding decides. Scores are within EXACT."""
    pytest.importorskip("embreex", reason="the simulator casts rays with embreex (extra sim)")
    simulated = simulated_stream(2, (64, 48))
    found = compare_graphs(paths, [(kinect, 1), (simulated, 1)], lambda step: None)
    assert [(a.recording, a.decoding) for a in found] == [
        (stream.name, decoding) for decoding in DECODINGS for stream in (kinect, simulated)
    ]
    for a in found:
        assert a.same, a.differences
        assert a.tolerance == EXACT
        assert a.objects > 1, f"{a.recording}, {a.decoding}: there is something to compare"
        assert a.at_the_cut == 0, "no relation is left out of the comparison"
    assert all(sum(a.relations for a in found if a.decoding == decoding) for decoding in DECODINGS)


@pytest.mark.usefixtures("one_thread")
def test_switching_the_backend_changes_no_label_and_no_predicate(paths, kinect):
    """Over the bundled recording, whose later windows find frames in the cache."""
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")

    def graphs(backend: str) -> list[SceneGraph]:
        config = paths.config
        inference = replace(config.inference, backend=backend, max_pairs=InferenceConfig.max_pairs)
        own = paths.with_config(replace(config, window=WindowConfig(), inference=inference))
        predictor = own.predictor("ours")
        assert predictor.backend.name == backend
        run = own.start(predictor, kinect)
        return [run.infer(window).graph for frame in kinect.frames if (window := run.push(frame)) is not None]

    compared = Agreement(kinect.name, "score", "float32", EXACT)
    for ours, theirs in zip(graphs("torch"), graphs("onnxruntime"), strict=True):
        compared.add(ours, theirs)
        compared.add_relations(ours, theirs, paths.config.inference)
    assert compared.windows == 3
    assert compared.same, compared.differences
    assert compared.objects > 3
    assert compared.relations > 3
    assert compared.at_the_cut == 0
