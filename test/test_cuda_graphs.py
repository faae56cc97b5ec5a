"""Passes on fixed, padded buffers give what passes of their own size give, in any order and however often.

There is no GPU here: what a graph does is done by running the function again into the same results (``run_again``).
Only the capture itself is left to a GPU, see the last test.
"""

from __future__ import annotations

import logging

import pytest
import torch
from opened import open_language_model
from test_predictor import scene as window

from psg4d_ros.checkpoint import load_checkpoint
from psg4d_ros.config import InferenceConfig
from psg4d_ros.evaluation.bench.plain import plain_predictor
from psg4d_ros.model.chain import DescribedObject, SceneChain
from psg4d_ros.model.generate import generate_objects, generate_relations
from psg4d_ros.model.grammar import object_grammar, relation_grammar
from psg4d_ros.model.language_model import tiny_language_model, visibility_bias
from psg4d_ros.model.proposals import best_votes
from psg4d_ros.runtime.cuda_graphs import (
    MOST_ROWS,
    PAST_STEP,
    ROWS_STEP,
    VOTES_STEP,
    CapturedReading,
    CapturedVotes,
    GraphCapture,
    StaticPass,
)
from psg4d_ros.runtime.predictor import WindowPredictor

pytestmark = pytest.mark.usefixtures("one_thread")
G, M, D, Q = 7, 5, 6, 4
WORDS = ["person", "chair", "floor", "coffee table", "box"]


def run_again(function, inputs):
    """What a graph does: results lie in the same place after each run, and are overwritten by the next."""
    outputs = tuple(o.clone() for o in function(*inputs))

    def replay():
        for fixed, new in zip(outputs, function(*inputs), strict=True):
            fixed.copy_(new)
        return outputs

    for output in outputs:
        output.fill_(float("nan") if output.is_floating_point() else -5)  # capturing runs nothing
    return replay


def make_chain(language_model):
    torch.manual_seed(0)
    chain = SceneChain(language_model, Q, G, M, D).eval()
    open_language_model(chain)
    return chain


@pytest.fixture(scope="module")
def chain():
    return make_chain(tiny_language_model(adapter_rank=2))


@pytest.fixture
def reading(chain):
    return CapturedReading(chain.language_model, run_again)


def answers(chain, tokens, objects, pairs):
    """Both turns over random inputs that depend on the sizes alone."""
    draw = torch.Generator().manual_seed(1000 * tokens + 100 * objects + pairs)
    known = [DescribedObject(i, WORDS[i % 5]) for i in range(objects)]
    asked = torch.randint(0, objects, (pairs, 2), generator=draw)
    geometry, motion = torch.randn(pairs, G + M, generator=draw).split((G, M), dim=1)
    states = torch.randn(objects, D, generator=draw)
    scene = torch.randn(tokens, chain.language_model.hidden_size, generator=draw) * chain.language_model.token_rms
    drawn = (t.to(chain.language_model.device) for t in (scene, asked, geometry, motion, states))
    with torch.inference_mode():
        first = chain.turn1(next(drawn))
        return first, chain.turn2(first, known, *drawn)


# The text takes some 80 tokens more with this tokenizer, a letter each.
SIZES = [(0, 1, 1), (9, 3, 6), (60, 5, 0), (320, 2, 2), (100, 9, 64), (47, 12, 30)]


def same(ours, plain):
    for (a, b), (c, d) in zip(ours.layers, plain.layers, strict=True):
        torch.testing.assert_close(a, c, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(b, d, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_padding_changes_nothing(chain, reading, size):
    first, second = answers(chain, *size)
    ours, asked = answers(chain.reading_with(reading), *size)
    torch.testing.assert_close(ours.slot_hidden, first.slot_hidden, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(asked.pair_hidden, second.pair_hidden, atol=2e-5, rtol=1e-4)
    assert asked.pair_hidden.shape[0] == size[2]
    assert (ours.prefix_length, ours.position) == (first.prefix_length, first.position)
    same(ours.cache, first.cache)
    same(asked.cache, second.cache)
    assert reading.graphs.captures == (2 if size[2] else 1)


def test_what_was_handed_out_stays_when_buffers_are_used_again(chain, reading):
    """All sizes twice, the second time backwards: the same answers, and none of the earlier ones has changed."""
    through = chain.reading_with(reading)
    found = [(size, answers(through, *size)) for size in [*SIZES, *reversed(SIZES)]]
    for size, (ours, asked) in found:
        first, second = answers(chain, *size)
        torch.testing.assert_close(ours.slot_hidden, first.slot_hidden, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(asked.pair_hidden, second.pair_hidden, atol=2e-5, rtol=1e-4)
        same(ours.cache, first.cache)
        same(asked.cache, second.cache)
    assert reading.graphs.captures == len(reading.graphs) < len(found)


def test_a_window_gone_wrong_does_not_spoil_those_after_it(chain, reading):
    """Values that are not numbers count in attention even where they are masked, so none may be left over."""
    lm = chain.language_model

    def read(by, value, earlier, tokens):
        """A text of ``value`` in two passes."""
        total = earlier + tokens
        x = torch.full((1, total, lm.hidden_size), value)
        bias, positions = visibility_bias(torch.ones(total, total, dtype=torch.bool).tril()), torch.arange(total)
        with torch.inference_mode():
            before, cache = by(x[:, :earlier], bias[:earlier, :earlier], positions[:earlier])
            return before, by(x[:, earlier:], bias[earlier:], positions[earlier:], cache)[0]

    assert not torch.cat(read(reading, float("nan"), 120, 110), dim=1).isfinite().any()
    for ours, plain in zip(read(reading, 0.1, 40, 50), read(lm, 0.1, 40, 50), strict=True):
        torch.testing.assert_close(ours, plain, atol=2e-5, rtol=1e-4)


def test_every_padded_token_sees_itself(chain):
    """Attention to nothing at all is undefined on some hardware; here it would go unnoticed."""
    biases = []

    def watch(function, inputs):
        biases.append(inputs[1])
        return run_again(function, inputs)

    through = chain.reading_with(CapturedReading(chain.language_model, watch))
    for size in SIZES:
        answers(through, *size)
        for bias in biases:
            assert bias.isfinite().any(dim=-1).all()


def written(chain, read, size):
    """What ``generate`` decoding says in both turns. read: None for the language model itself."""
    lm = chain.language_model
    objects = object_grammar(lm, ["coffee table", "chair", "person"], ["red", "moving"])
    relations = relation_grammar(lm, ["standing on", "next to", "holding"], 8)
    with torch.inference_mode():
        first, second = answers(chain if read is None else chain.reading_with(read), *size)
        return [
            *generate_objects(lm, first, range(Q), objects, read),
            *generate_relations(lm, second, relations, 8, read),
        ]


@pytest.mark.parametrize("size", [(9, 3, 6), (100, 9, 64)])
def test_what_is_written_is_the_same_from_graphs(chain, reading, size):
    """``generate`` decoding extends the caches of both turns, each of whose tokens must be a real one, step by step;
    with 64 pairs the text outgrows a bucket on the way."""
    plain, ours = (written(chain, read, size) for read in (None, reading))
    assert len({answer.answer.score for answer in plain}) == len(plain), "each branch has its own state"
    for a, b in zip(ours, plain, strict=True):
        assert (a.answer.text, a.outcome) == (b.answer.text, b.outcome)
        assert a.answer.score == pytest.approx(b.answer.score, abs=1e-4)
    assert max(answer.answer.num_tokens for answer in plain) > 5
    if size[2] == 64:
        assert reading.graphs.captures > 4


@pytest.mark.parametrize("rows", [ROWS_STEP - 1, ROWS_STEP, ROWS_STEP + 1])
@pytest.mark.parametrize("past", [PAST_STEP, PAST_STEP + 1])
def test_sizes_at_the_edge_of_a_bucket(chain, reading, rows, past):
    lm, draw = chain.language_model, torch.Generator().manual_seed(rows + past)
    x = torch.randn(1, past + rows, lm.hidden_size, generator=draw) * lm.token_rms
    visible = torch.ones(past + rows, past + rows, dtype=torch.bool).tril()
    bias, positions = visibility_bias(visible), torch.arange(past + rows)
    with torch.inference_mode():
        whole, _ = lm(x, bias, positions)
        before, cache = reading(x[:, :past], bias[:past, :past], positions[:past])
        after, _ = reading(x[:, past:], bias[past:], positions[past:], cache)
    torch.testing.assert_close(torch.cat([before, after], dim=1), whole, atol=2e-5, rtol=1e-4)


def test_what_is_too_long_and_windows_side_by_side_go_through_the_model_itself(chain, reading):
    lm = chain.language_model
    through = chain.reading_with(reading)
    with torch.inference_mode():
        scenes = torch.randn(2, 9, lm.hidden_size, generator=torch.Generator().manual_seed(3))
        for ours, plain in zip(through.turn1_batch(scenes), chain.turn1_batch(scenes), strict=True):
            assert torch.equal(ours.slot_hidden, plain.slot_hidden)
        long = torch.zeros(MOST_ROWS, lm.hidden_size)
        assert torch.equal(through.turn1(long).slot_hidden, chain.turn1(long).slot_hidden)
    assert reading.graphs.captures == 0


def test_only_the_sizes_last_used_are_kept():
    doubled = StaticPass("doubling", lambda x: (2 * x,), run_again, most=2)

    def run(size, value):
        result = doubled.run((size,), lambda: (torch.zeros(size),), lambda buffers: buffers[0].fill_(value))
        assert result is not None and torch.equal(result[0], torch.full((size,), 2.0 * value))

    for size in (1, 2, 1, 3, 1, 2):  # 3 takes the place of 2, and 2 that of 3
        run(size, size + 0.5)
    assert len(doubled) == 2
    assert doubled.captures == 4


def test_where_capturing_fails_passes_go_on_without_and_it_is_said_once(chain, caplog):
    def refuse(function, inputs):
        try:
            raise RuntimeError("operation not permitted when stream is capturing")
        finally:
            raise RuntimeError("capture ended with an error")

    reading = CapturedReading(chain.language_model, refuse)
    with caplog.at_level(logging.WARNING):
        found = [answers(chain.reading_with(reading), *size) for size in SIZES[:3]]
    for size, (ours, asked) in zip(SIZES[:3], found, strict=True):
        first, second = answers(chain, *size)
        assert torch.equal(ours.slot_hidden, first.slot_hidden)
        assert torch.equal(asked.pair_hidden, second.pair_hidden)
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "not permitted when stream is capturing" in caplog.text
    assert len(reading.graphs) == 0


@pytest.mark.parametrize("decoding", ["score", "generate"])
def test_a_predictor_captures_usual_sizes_when_it_warms_up_and_predicts_the_same(tiny_checkpoint, decoding):
    config = InferenceConfig(
        device="cpu",
        decoding=decoding,
        presence_threshold=0.0,
        min_kept=0.0,
        relation_threshold=0.0,
        max_relations=10_000,
    )
    model = load_checkpoint(tiny_checkpoint, torch.device("cpu"), torch.float32)
    plain = WindowPredictor(model, config, trained=True)
    assert plain.captured is None, "nothing is captured on a CPU"
    replays = []

    def counted(function, inputs):
        replay = run_again(function, inputs)
        return lambda: replays.append(function) or replay()

    ours = WindowPredictor(model, config, trained=True, capture=counted)
    ours.warm_up(2)
    parts, asked = (ours.captured.reading.graphs, ours.captured.votes.graphs), 0
    captured = [part.captures for part in parts]
    replays.clear()
    for count in (1, 2, 3):
        seen = window([(0.0, -5.0, 1.0)] * count)
        expected, found = plain.predict(seen), ours.predict(seen)
        assert [i.label for i in found.instances] == [i.label for i in expected.instances]
        scores = [
            {(r.subject, r.predicate, r.object, r.start_frame, r.end_frame): r.score for r in prediction.relations}
            for prediction in (expected, found)
        ]
        assert scores[1] == pytest.approx(scores[0], abs=1e-5)
        asked += len(scores[0])
        # Votes, two turns; and in words, some steps of each turn.
        assert len(replays) == 3 if decoding == "score" else len(replays) > 6
        replays.clear()
    assert [part.captures for part in parts] == captured
    assert min(captured) > 0
    assert asked, "no window got as far as turn 2"


def test_the_plain_path_of_the_benchmark_uses_none(tiny_checkpoint):
    model = load_checkpoint(tiny_checkpoint, torch.device("cpu"), torch.float32)
    assert InferenceConfig().cuda_graphs
    assert not plain_predictor(model, InferenceConfig(), trained=True).config.cuda_graphs


@pytest.mark.parametrize("number", [0, 1, 50, VOTES_STEP - 2, VOTES_STEP - 1, VOTES_STEP, 9000])
def test_padded_votes_choose_the_same_rows(number):
    choose, draw = CapturedVotes(7, run_again), torch.Generator().manual_seed(number)
    for spread in (0.3, 8.0):  # all of one object, so that "nothing" is chosen; and many
        score = torch.cat([torch.rand(number, generator=draw), torch.zeros(1)])
        middle = torch.cat([spread * torch.rand(number, 3, generator=draw), torch.zeros(1, 3)])
        size = torch.cat([0.5 + torch.rand(number, 3, generator=draw), torch.ones(1, 3)])
        expected = best_votes(score, middle, size, 7)
        assert torch.equal(choose(score, middle, size, 7), expected)
        assert torch.equal(choose(score, middle, size, 3), best_votes(score, middle, size, 3))
    assert choose.graphs.captures == 1


def test_choices_of_many_sizes_in_any_order_stay_as_they_were_handed_out():
    choose, kept = CapturedVotes(7, run_again), []
    for number in (5000, 20, 9000, 4500, 0, 20):
        draw = torch.Generator().manual_seed(number)
        score = torch.cat([torch.rand(number, generator=draw), torch.zeros(1)])
        middle = torch.cat([3 * torch.rand(number, 3, generator=draw), torch.zeros(1, 3)])
        size = torch.ones(number + 1, 3)
        kept.append((choose(score, middle, size, 7), best_votes(score, middle, size, 7)))
    for ours, plain in kept:
        assert torch.equal(ours, plain)
    assert choose.graphs.captures == len(choose.graphs) == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_real_graphs_give_what_passes_without_them_give():
    device = torch.device("cuda")
    chain = make_chain(tiny_language_model(adapter_rank=2)).to(device)
    reading = CapturedReading(chain.language_model, GraphCapture(device))
    found = [(answers(chain.reading_with(reading), *size), answers(chain, *size)) for size in SIZES]
    assert reading.graphs.problem == ""
    for (first, second), (plain_first, plain_second) in found:
        torch.testing.assert_close(first.slot_hidden, plain_first.slot_hidden, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(second.pair_hidden, plain_second.pair_hidden, atol=1e-3, rtol=1e-3)
    plain, ours = (written(chain, read, (100, 9, 64)) for read in (None, reading))
    assert [a.answer.num_tokens for a in ours] == [a.answer.num_tokens for a in plain]
    assert [a.answer.score for a in ours] == pytest.approx([a.answer.score for a in plain], abs=1e-2)
    assert reading.graphs.problem == ""
