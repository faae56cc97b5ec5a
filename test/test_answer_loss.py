"""Answers that are taught are those that generation may write, and their loss is that of the autoregressive model."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from psg4d_ros.model.chain import Branches, DescribedObject, SceneChain
from psg4d_ros.model.generate import OK, Answer, generate_objects, generate_relations, read_object, read_relation
from psg4d_ros.model.grammar import MAX_ATTRIBUTES, Fields, Grammar, object_grammar, relation_grammar
from psg4d_ros.model.language_model import LanguageModel, tiny_language_model
from psg4d_ros.training.answer_loss import answer_loss, object_answer, relation_answer

LABELS = ["chair", "table", "table lamp", "box, large", "red"]
ATTRIBUTES = ["red", "large", "standing", "red brown", "empty"]
PREDICATES = ["on", "on top of", "next to", "holding"]
FRAMES, SLOTS, G = 8, 4, 7


@functools.cache
def chain() -> SceneChain:
    torch.manual_seed(0)
    lm = tiny_language_model()
    with torch.no_grad():
        # Tokens of a random model of ordinary scale differ in how likely they are.
        lm.base.get_output_embeddings().weight.normal_(0, 0.3)
    return SceneChain(lm, SLOTS, G, 5, 6).eval()


@functools.cache
def scene() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(6, chain().language_model.hidden_size) * 0.1


def written(grammar: Grammar, ids: list[int]) -> Answer:
    """The answer of a model that writes these tokens and then the end; each must be allowed where it stands."""
    state = grammar.start()
    for token in ids:
        assert token in grammar.allowed(state)
        state = grammar.advance(state, token)
    assert grammar.language_model.end_id in grammar.allowed(state)
    fields: Fields = state.endings[0]
    return Answer(grammar.language_model.decode(ids).strip(), fields, 1.0, len(ids), state.capped, grammar.free)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(LABELS), st.lists(st.sampled_from(ATTRIBUTES), max_size=5))
def test_an_object_is_read_back_as_it_was_taught(label: str, attributes: list[str]) -> None:
    lm = chain().language_model
    answer = written(object_grammar(lm, LABELS, ATTRIBUTES), object_answer(lm, label, attributes))
    thing = read_object(answer)
    said = tuple(dict.fromkeys(attributes))[:MAX_ATTRIBUTES]
    assert answer.text == ", ".join((label, *said))
    assert (thing.label, thing.attributes, thing.outcome) == (label, said, OK)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([*PREDICATES, None]), st.integers(0, FRAMES - 1), st.integers(1, FRAMES))
def test_a_relation_is_read_back_as_it_was_taught(predicate: str | None, start: int, length: int) -> None:
    lm, end = chain().language_model, min(start + length, FRAMES)
    answer = written(relation_grammar(lm, PREDICATES, FRAMES), relation_answer(lm, predicate, start, end, FRAMES))
    relation = read_relation(answer, FRAMES)
    assert (relation.predicate, relation.outcome) == (predicate, OK)
    assert predicate is None or (relation.start, relation.end) == (start, end)


def test_free_words_hold_what_is_taught_too() -> None:
    lm = chain().language_model
    thing = read_object(written(object_grammar(lm, None, ATTRIBUTES), object_answer(lm, "table lamp", ["red"])))
    assert (thing.label, thing.attributes, thing.outcome) == ("table lamp", ("red",), OK)


@pytest.mark.parametrize("start, end", [(-1, 2), (2, 2), (3, 9)])
def test_frames_that_the_window_does_not_have_are_refused(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="window of 8"):
        relation_answer(chain().language_model, "on", start, end, FRAMES)


def one_by_one(lm: LanguageModel, branches: Branches, answers: list[list[int]]) -> torch.Tensor:
    """The loss from the definition: each branch alone, its answer read as plain text after what it sees."""
    losses = []
    for i, ids in enumerate(answers):
        states = branches.hidden[i][None]
        if ids:
            length = branches.cache.length
            visible = torch.ones(len(ids), length + len(ids), dtype=torch.bool).tril(length)
            visible[:, :length] = branches.visible[i]
            bias = torch.zeros(visible.shape).masked_fill(~visible, float("-inf"))
            positions = branches.positions[i] + torch.arange(len(ids))
            hidden, _ = lm(lm.embed(ids)[None], bias, positions, branches.cache)
            states = torch.cat([states, hidden[0]])
        losses.append(F.cross_entropy(lm.token_logits(states), torch.tensor([*ids, lm.end_id])))
    return torch.stack(losses).mean()


def test_the_loss_is_the_cross_entropy_of_each_answer_and_its_end() -> None:
    lm = chain().language_model
    first = chain().turn1(scene())
    words = ["chair", "table lamp", "box, large"]
    answers = [object_answer(lm, word, ["red"]) for word in words] + [[]]
    found, want = (f(lm, first.branches(), answers) for f in (answer_loss, one_by_one))
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)
    objects = [DescribedObject(0, "chair"), DescribedObject(1, "table", ("red",))]
    second = chain().turn2(first, objects, torch.tensor([[0, 1], [1, 0]]), torch.ones(2, G))
    spans = [relation_answer(lm, "on", 2, 5, FRAMES), relation_answer(lm, None, 0, 0, FRAMES)]
    found, want = (f(lm, second.branches(), spans) for f in (answer_loss, one_by_one))
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("one_thread")
def test_it_teaches_objects_and_relations_at_once() -> None:
    """A few steps on one window, and the model writes what it was taught."""
    torch.manual_seed(0)
    small = SceneChain(tiny_language_model(), SLOTS, G, 5, 6).requires_grad_(True)
    lm = small.language_model
    with torch.no_grad():
        lm.base.get_output_embeddings().weight.normal_(0, 0.1)
        small.slots.normal_(0, 0.1)
    objects = [DescribedObject(i, label) for i, label in enumerate(["chair", "table"])]
    pairs, geometry = torch.tensor([[0, 1], [1, 0]]), torch.randn(2, G)
    labels = [object_answer(lm, label) for label in ("chair", "table")]
    spans = [relation_answer(lm, "on", 2, 5, FRAMES), relation_answer(lm, None, 0, 0, FRAMES)]
    rules = object_grammar(lm, LABELS), relation_grammar(lm, PREDICATES, FRAMES)
    optimizer = torch.optim.AdamW(small.parameters(), lr=5e-3)
    for step in range(300):
        first = small.turn1(scene())
        second = small.turn2(first, objects, pairs, geometry)
        if step % 20 == 0:
            names = [t.label for t in generate_objects(lm, first, [0, 1], rules[0])]
            said = [(r.predicate, r.start, r.end) for r in generate_relations(lm, second, rules[1], FRAMES)]
            if (names, said) == (["chair", "table"], [("on", 2, 5), (None, 0, FRAMES)]):
                break
        loss = answer_loss(lm, first.branches().select(torch.arange(2)), labels)
        loss = loss + answer_loss(lm, second.branches(), spans)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert names == ["chair", "table"] and said == [("on", 2, 5), (None, 0, FRAMES)]
    assert step > 0


def test_no_branches_are_no_loss() -> None:
    first = chain().turn1(scene())
    none = first.branches().select(torch.zeros(0, dtype=torch.int64))
    loss = answer_loss(chain().language_model, none, [])
    assert loss.item() == 0.0 and loss.requires_grad
