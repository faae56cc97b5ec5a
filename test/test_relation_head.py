"""Predicates are scored one by one against phrases, with or without the language model, and decoded into spans."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from psg4d_ros.model.relation_head import RelationHead, RelationSpan, decode_spans

H, G, M, R, N, F = 24, 7, 5, 6, 3, 4


@pytest.fixture(scope="module")
def head():
    torch.manual_seed(0)
    return RelationHead(H, G, M).eval()


def rows(seed=0, **changed):
    g = torch.Generator().manual_seed(seed)
    shapes = {
        "pair_hidden": (R, H),
        "subjects": (R, H),
        "objects": (R, H),
        "geometry": (R, G),
        "predicates": (N, H),
        "motion": (R, M),
        "frame_geometry": (R, F, G),
    }
    out = {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}
    return {**out, "times_s": torch.tensor([-0.75, -0.5, -0.25, 0.0]), **changed}


def test_shapes_and_few_relations_at_the_start(head):
    out = head(**rows())
    assert out.logits.shape == (R, N) and out.activity_logits.shape == (R, N, F)
    assert out.logits.sigmoid().mean() < 0.3 and out.activity_logits.sigmoid().mean() > 0.6


def test_another_predicate_in_the_list_changes_no_score(head):
    x = rows()
    longer = torch.cat([torch.randn(1, H), x["predicates"]])
    a, b = head(**x), head(**{**x, "predicates": longer})
    assert torch.allclose(a.logits, b.logits[:, 1:], atol=1e-5)
    assert torch.allclose(a.activity_logits, b.activity_logits[:, 1:], atol=1e-5)


def test_each_pair_is_scored_by_itself(head):
    x = rows()
    alone = {k: v if k in ("predicates", "times_s") else v[2:3] for k, v in x.items()}
    assert torch.allclose(head(**x).logits[2:3], head(**alone).logits, atol=1e-5)


def test_images_have_no_frames_and_motion_waits_for_its_gate(head):
    flat = rows(motion=None, frame_geometry=None, times_s=None)
    out = head(**flat)
    assert out.activity_logits is None
    assert torch.allclose(out.logits, head(**rows()).logits, atol=1e-6), "a closed gate: 2D scores are carried over"
    moved = RelationHead(H, G, M).eval()
    with torch.no_grad():
        moved.motion_gate.fill_(1.0)
    assert not torch.allclose(moved(**rows()).logits, moved(**rows(motion=None)).logits, atol=1e-3)


def test_the_geometry_network_stands_alone_and_the_language_model_adds_to_it(head):
    """At first nothing, so that it cannot harm; then what it has learnt."""
    without = head(**rows(pair_hidden=None))
    assert torch.isfinite(without.logits).all() and torch.equal(without.logits, head(**rows()).logits)
    taught = copy.deepcopy(head)
    torch.nn.init.eye_(taught.from_hidden.weight)
    assert torch.equal(taught(**rows(pair_hidden=None)).logits, without.logits)
    assert not torch.allclose(without.logits, taught(**rows()).logits, atol=1e-3)


def test_no_pairs_or_no_predicates_are_ordinary(head):
    none = {k: v if k in ("predicates", "times_s") else v[:0] for k, v in rows().items()}
    assert head(**none).logits.shape == (0, N) and head(**none).activity_logits.shape == (0, N, F)
    assert head(**rows(predicates=torch.zeros(0, H))).logits.shape == (R, 0)


def test_a_gradient_step_learns_when_a_relation_holds():
    torch.manual_seed(1)
    head = RelationHead(H, G, M)
    x = rows()
    want = torch.zeros(R, N, F)
    want[:, 1, 2:] = 1
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        out = head(**x)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(out.activity_logits, want)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]


# -- spans -----------------------------------------------------------------------------------------------------------


def decode(probability, activity, present=None, threshold=0.3, most=100):
    p = np.array([[probability]], dtype=np.float32)
    a = np.array([[activity]], dtype=np.float32)
    here = np.ones((1, len(activity)), bool) if present is None else np.array([present], bool)
    return [(s.start, s.end, round(s.score, 4)) for s in decode_spans(p, a, here, threshold, most)]


def test_each_unbroken_run_of_active_frames_is_a_relation():
    assert decode(1.0, [0.9, 0.9, 0.1, 0.8]) == [(0, 2, 0.9), (3, 4, 0.8)]
    assert decode(0.5, [1, 1, 1]) == [(0, 3, 0.5)]


def test_a_relation_active_in_no_frame_gets_its_most_active_one():
    assert decode(1.0, [0.1, 0.45, 0.2]) == [(1, 2, 0.45)]


def test_frames_in_which_an_object_is_absent_are_never_in_a_span():
    assert decode(1.0, [0.9, 0.9, 0.9], [True, False, True]) == [(0, 1, 0.9), (2, 3, 0.9)]
    assert decode(1.0, [0.9, 0.2, 0.9], [False, True, False], threshold=0.1) == [(1, 2, 0.2)]
    assert decode(1.0, [0.9, 0.9], [False, False]) == []


def test_unlikely_relations_are_left_out_and_the_best_come_first():
    assert decode(0.2, [1, 1]) == []
    p = np.array([[0.4, 0.9], [0.6, 0.1]], dtype=np.float32)
    spans = decode_spans(p, np.ones((2, 2, 3), np.float32), np.ones((2, 3), bool), 0.3, 2)
    assert [(s.pair, s.predicate) for s in spans] == [(0, 1), (1, 0)]
    assert spans[0] == RelationSpan(0, 1, 0, 3, pytest.approx(0.9))


def test_nothing_in_nothing_out():
    assert (
        decode_spans(np.zeros((0, 3), np.float32), np.zeros((0, 3, 4), np.float32), np.zeros((0, 4), bool), 0.3, 5)
        == []
    )
    assert (
        decode_spans(np.zeros((2, 0), np.float32), np.zeros((2, 0, 4), np.float32), np.ones((2, 4), bool), 0.3, 5) == []
    )


unit = st.floats(0, 1, width=32)


@given(arrays(np.float32, (3, 2), elements=unit), arrays(np.float32, (3, 2, 5), elements=unit), arrays(bool, (3, 5)))
def test_spans_are_never_empty_never_overlap_and_stay_in_range(p, a, present):
    spans = decode_spans(p, a, present, 0.25, 1000)
    covered = set()
    for s in spans:
        assert 0 <= s.start < s.end <= 5 and 0.25 <= s.score <= 1.0001
        for frame in range(s.start, s.end):
            assert present[s.pair, frame] and (s.pair, s.predicate, frame) not in covered
            covered.add((s.pair, s.predicate, frame))
    assert [s.score for s in spans] == sorted((s.score for s in spans), reverse=True)
