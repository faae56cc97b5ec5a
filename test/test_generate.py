"""Generated answers always parse, always end, and do not depend on who else is answering; odd ones are counted."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from psg4d_ros.config import LanguageModelConfig
from psg4d_ros.errors import ConfigError
from psg4d_ros.model import grammar as g
from psg4d_ros.model.chain import DescribedObject, SceneChain
from psg4d_ros.model.generate import (
    EMPTY,
    OK,
    OVERLONG,
    REPEATING,
    UNPARSABLE,
    Answer,
    answer_log_probs,
    count_outcomes,
    generate,
    generate_objects,
    generate_relations,
    read_object,
    read_relation,
)
from psg4d_ros.model.language_model import LanguageModel, tiny_language_model
from psg4d_ros.model.prompt import NO_RELATION, answer_ids

torch.set_num_threads(2)
G, M, D, Q = 7, 5, 6, 5
LABELS = ["chair", "table", "table lamp", "person", "box, large", "red"]
ATTRIBUTES = ["red", "large", "standing", "red brown"]
PREDICATES = ["on", "on top of", "next to", "holding"]
OBJECTS = [DescribedObject(i, label) for i, label in enumerate(["person", "chair", "table"])]
PAIRS = torch.tensor([[0, 1], [1, 0], [1, 2], [2, 0]])


def make_chain(language_model):
    torch.manual_seed(0)
    return SceneChain(language_model, Q, G, M, D).eval()


def scene(chain, tokens=6):
    torch.manual_seed(1)
    return torch.randn(tokens, chain.language_model.hidden_size) * chain.language_model.token_rms


@functools.cache
def tiny():
    chain = make_chain(tiny_language_model(layers=1))
    with torch.no_grad():
        # A random output layer of ordinary scale: at its initial scale all tokens are about equally likely.
        chain.language_model.base.get_output_embeddings().weight.normal_(0, 0.3)
        return chain, chain.turn1(scene(chain)), chain.language_model


def turn2(chain, first, pairs=PAIRS):
    torch.manual_seed(2)
    table = torch.randn(3, 3, G)
    with torch.no_grad():
        return chain.turn2(first, OBJECTS, pairs, table[pairs[:, 0], pairs[:, 1]])


# -- constrained answers -----------------------------------------------------------------------------------------------


def test_answers_from_closed_lists_name_words_of_the_lists():
    _, first, lm = tiny()
    found = generate_objects(lm, first, range(Q), g.object_grammar(lm, LABELS, ATTRIBUTES))
    assert len(found) == Q and count_outcomes(found) == {}
    for thing in found:
        assert thing.label in LABELS and set(thing.attributes) <= set(ATTRIBUTES) and len(thing.attributes) <= 3
        assert len(set(thing.attributes)) == len(thing.attributes), "no attribute twice"
        assert thing.answer.text == ", ".join((thing.label, *thing.attributes)) and 0 < thing.answer.score <= 1


def test_relations_from_closed_lists_have_a_predicate_and_a_span_or_are_none():
    chain, first, lm = tiny()
    found = generate_relations(lm, turn2(chain, first), g.relation_grammar(lm, PREDICATES, 4), 4)
    assert len(found) == len(PAIRS) and count_outcomes(found) == {}
    for relation in found:
        assert relation.predicate is None or relation.predicate in PREDICATES
        assert 0 <= relation.start < relation.end <= 4


words = st.text("abc ,", min_size=1, max_size=6).map(lambda t: " ".join(t.split())).filter(bool)


def unique_words(at_most, at_least=0):
    return st.lists(words, min_size=at_least, max_size=at_most, unique=True)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(words, min_size=1, max_size=8, unique=True), st.lists(words, max_size=4, unique=True), st.integers(0, 99)
)
def test_any_list_of_words_can_be_answered_from_by_any_model(labels, attributes, seed):
    """Labels may begin one another, hold commas, or look like a label with an attribute."""
    _, _, lm = tiny()
    rules, random = g.object_grammar(lm, labels, attributes), torch.Generator().manual_seed(seed)
    state, written = rules.start(), []
    while True:
        allowed = sorted(rules.allowed(state))
        assert allowed, "a dead end"
        token = allowed[int(torch.randint(len(allowed), (), generator=random))]
        if token == lm.end_id:
            break
        state, written = rules.advance(state, token), [*written, token]
        assert len(written) < 200
    for fields in state.endings:
        assert fields[0][0] == g.LABEL and fields[0][1] in labels
        kept = [text for name, text in fields if name == g.ATTRIBUTE]
        assert set(kept) <= set(attributes) and len(set(kept)) == len(kept)
        assert ", ".join(text for _, text in fields) == lm.decode(written).strip()


@pytest.mark.parametrize("parts", [("table lamp", "red"), ("box, large",), ("chair", "large", "red", "standing")])
def test_the_grammar_accepts_the_answers_that_training_teaches(parts):
    _, _, lm = tiny()
    rules = g.object_grammar(lm, LABELS, ATTRIBUTES)
    state = rules.start()
    for token in answer_ids(lm, parts):
        assert token in rules.allowed(state)
        state = rules.advance(state, token)
    assert lm.end_id in rules.allowed(state)
    assert tuple(text for _, text in state.endings[0]) == parts or ", ".join(parts) == "box, large"


def test_every_span_of_a_window_can_be_written_and_read_and_no_other():
    for frames in (1, 3):
        texts = {g.span_text(a, b, frames): (a, b) for a in range(frames) for b in range(a + 1, frames + 1)}
        assert {t: g.read_span(t, frames) for t in texts} == texts
    for wrong in ("frames 2 to 0", "frames 2 to 3", "frames 4 to 1", "frames x to y", "", "frames 99999999999 to 1"):
        assert g.read_span(wrong, 3) is None


def test_a_span_up_to_now_reads_the_same_in_a_window_of_any_length():
    """Training has shorter windows than a robot: what holds in the newest two frames is said alike in both."""
    assert g.span_text(2, 4, 4) == g.span_text(6, 8, 8) == "frames 2 to 1"
    assert (g.read_span("frames 2 to 1", 4), g.read_span("frames 2 to 1", 8)) == ((2, 4), (6, 8))


def test_free_phrases_are_lower_case_words_and_end_at_their_cap():
    chain, first, lm = tiny()
    found = generate_objects(lm, first, range(Q), g.object_grammar(lm, None, ATTRIBUTES))
    for thing in found:
        assert thing.outcome in (OK, OVERLONG, REPEATING)
        assert 1 <= len(thing.label.split()) <= g.MAX_FREE_WORDS
        assert thing.label.replace(" ", "").isalpha() and thing.label == thing.label.lower()
    free = generate_relations(lm, turn2(chain, first), g.relation_grammar(lm, None, 3), 3)
    assert all(r.predicate is None or 0 <= r.start < r.end <= 3 for r in free)


def test_unsuitable_lists_are_refused():
    _, _, lm = tiny()
    with pytest.raises(ConfigError, match="no labels"):
        g.object_grammar(lm, [])
    with pytest.raises(ConfigError, match="num_frames"):
        g.relation_grammar(lm, PREDICATES, 0)


# -- side by side ------------------------------------------------------------------------------------------------------


def test_side_by_side_equals_one_after_the_other_and_leaves_the_cache_alone():
    chain, first, lm = tiny()
    rules = g.object_grammar(lm, LABELS, ATTRIBUTES)
    before = [k.clone() for k, _ in first.cache.layers]
    together = generate_objects(lm, first, range(Q), rules)
    alone = [generate_objects(lm, first, [slot], rules)[0] for slot in range(Q)]
    assert [a.answer.text for a in together] == [a.answer.text for a in alone]
    for a, b in zip(together, alone, strict=True):
        assert a.answer.score == pytest.approx(b.answer.score, rel=1e-3)
    assert all(torch.equal(k, b) for (k, _), b in zip(first.cache.layers, before, strict=True))
    rules = g.relation_grammar(lm, PREDICATES, 4)
    whole = generate_relations(lm, turn2(chain, first), rules, 4)
    for rows in ([2], [3, 0]):
        part = generate_relations(lm, turn2(chain, first, PAIRS[rows]), rules, 4)
        assert [r.answer.text for r in part] == [whole[i].answer.text for i in rows]


def count_passes(monkeypatch, lm):
    calls = []
    original = type(lm).forward
    monkeypatch.setattr(type(lm), "forward", lambda self, *a, **k: calls.append(1) or original(self, *a, **k))
    return calls


def test_passes_are_the_decisions_of_the_longest_answer_not_tokens_nor_branches(monkeypatch):
    chain, first, lm = tiny()
    calls = count_passes(monkeypatch, lm)
    [only] = generate_objects(lm, first, [0], g.object_grammar(lm, ["a label without any choice"]))
    assert only.label == "a label without any choice" and only.answer.score == 1 and not calls
    # This tokenizer writes letter by letter: the blank is forced, the first letter decides, the rest is forced.
    generate_objects(lm, first, range(Q), g.object_grammar(lm, ["apple tree", "banana tree", "cherry tree"]))
    assert len(calls) == 1
    calls.clear()
    second = turn2(chain, first)
    generate_relations(lm, second, g.relation_grammar(lm, ["above", "below"], 1), 1)
    assert len(calls) == 2, "one for turn 2, one for all pairs' answers"


def test_nothing_to_describe_is_ordinary():
    chain, first, lm = tiny()
    assert generate_objects(lm, first, [], g.object_grammar(lm, LABELS)) == []
    none = torch.zeros(0, 2, dtype=torch.int64)
    assert generate_relations(lm, turn2(chain, first, none), g.relation_grammar(lm, PREDICATES, 2), 2) == []


# -- learning to answer ------------------------------------------------------------------------------------------------


def test_given_answers_are_scored_in_one_pass_as_if_written_one_token_after_the_other():
    _, first, lm = tiny()
    answers = [answer_ids(lm, [w]) for w in ("chair", "table lamp", "person")]
    answers[1:1] = [[]]
    branches = first.branches().select(torch.tensor([0, 1, 2, 3]))
    scores = answer_log_probs(lm, branches, answers)
    assert [len(s) for s in scores] == [len(a) + 1 for a in answers]
    for i, ids in enumerate(answers):
        one = branches.select(torch.tensor([i]))
        for k in range(len(ids) + 1):
            prefix = answer_log_probs(lm, one, [ids[:k]])[0]
            assert torch.allclose(prefix[:k], scores[i][:k], atol=1e-4)
    with pytest.raises(ValueError, match="4 branches"):
        answer_log_probs(lm, branches, answers[:2])


def test_the_loss_reaches_the_scene_and_teaches_each_slot_its_own_answer():
    chain = make_chain(tiny_language_model()).requires_grad_(True)
    lm, tokens = chain.language_model, scene(chain).requires_grad_()
    with torch.no_grad():
        # At the initial scale of a random model all tokens are about equally likely, and it learns too slowly for a
        # test.
        lm.base.get_output_embeddings().weight.normal_(0, 0.1)
        chain.slots.normal_(0, 0.1)
    want = ["chair", "table", "person", "box", "cup"]
    taught, rules = [answer_ids(lm, [w]) for w in want], g.object_grammar(lm, want)
    optimizer = torch.optim.AdamW(chain.parameters(), lr=3e-3)
    found: list[str] = []
    for step in range(400):
        first = chain.turn1(tokens)
        if step % 20 == 0:
            found = [t.label for t in generate_objects(lm, first, range(Q), rules)]
            if found == want:
                break
        optimizer.zero_grad()
        (-torch.cat(answer_log_probs(lm, first.branches(), taught)).mean()).backward()
        optimizer.step()
    assert found == want and step > 0
    assert tokens.grad.abs().sum() > 0


# -- odd answers are counted -------------------------------------------------------------------------------------------


def saying(monkeypatch, lm, *words):
    """Make the model want to say these texts, over and over: after the last comes the first."""
    wanted = [i for w in words for i in (lm.encode(w) if w else [lm.end_id])]
    step = iter(range(10**6))

    def logits(hidden):
        out = torch.zeros(*hidden.shape[:-1], lm.vocabulary_size)
        out[..., wanted[next(step) % len(wanted)]] = 50.0
        return out

    monkeypatch.setattr(lm, "token_logits", logits)


@pytest.mark.parametrize(
    "says, outcome, label",
    [
        ([""], EMPTY, ""),
        ([" chair", ""], OK, "chair"),
        ([" chair"], REPEATING, "chair"),
        ([" ab"], REPEATING, "ab"),
        (["abc"], OVERLONG, "abc" * 16),
        ([" ", "\n"], EMPTY, ""),
        ([" <|im_start|>", ""], UNPARSABLE, ""),
        ([" cha\x07ir", ""], UNPARSABLE, ""),
        ([" chair, red, red", ""], REPEATING, "chair"),
    ],
)
def test_whatever_an_unconstrained_model_says_ends_and_is_counted(monkeypatch, says, outcome, label):
    _, first, lm = tiny()
    saying(monkeypatch, lm, *says)
    [found] = generate_objects(lm, first, [0], g.text_grammar(lm))
    assert (found.outcome, found.label) == (outcome, label)
    assert found.answer.num_tokens <= g.MAX_TEXT_TOKENS
    assert sum(count_outcomes([found]).values()) == (outcome != OK)


@pytest.mark.parametrize("says", [[""], [" chair"], ["zzz"], ["<|im_start|>"], ["\x00"], ["Ω"]])
def test_a_constrained_model_cannot_but_answer(monkeypatch, says):
    chain, first, lm = tiny()
    second = turn2(chain, first)
    saying(monkeypatch, lm, *says)
    found = generate_objects(lm, first, range(Q), g.object_grammar(lm, LABELS, ATTRIBUTES))
    assert all(f.outcome == OK and f.label in LABELS for f in found)
    free = generate_objects(lm, first, range(Q), g.object_grammar(lm, None))
    assert all(f.label and f.answer.num_tokens <= g.MAX_FREE_TOKENS for f in free)
    assert all(r.outcome == OK for r in generate_relations(lm, second, g.relation_grammar(lm, PREDICATES, 3), 3))


@pytest.mark.parametrize(
    "text, capped, want",
    [
        ("sitting on, frames 3 to 2", False, ("sitting on", 1, 3, OK)),
        (NO_RELATION, False, (None, 0, 4, OK)),
        ("", False, (None, 0, 4, EMPTY)),
        ("sitting on", False, ("sitting on", 0, 4, UNPARSABLE)),
        ("sitting on, frames 9 to 3", False, ("sitting on", 0, 4, UNPARSABLE)),
        ("on on on on", True, ("on", 0, 4, REPEATING)),
        ("on and so forth", True, ("on and so forth", 0, 4, OVERLONG)),
        ("<|im_end|>", False, (None, 0, 4, UNPARSABLE)),
        ("on, frames 2 to 1\nand more", False, ("on", 2, 4, OK)),
    ],
)
def test_relations_are_read_as_far_as_they_make_sense(text, capped, want):
    r = read_relation(Answer(text, ((g.TEXT, text),), 1.0, 5, capped, free=True), 4)
    assert (r.predicate, r.start, r.end, r.outcome) == want


def test_phrases_of_a_closed_list_are_taken_as_they_are():
    _, first, lm = tiny()
    listed = generate_objects(lm, first, range(Q), g.object_grammar(lm, ["chow chow"]))
    assert [(f.label, f.outcome) for f in listed] == [("chow chow", OK)] * Q
    told = Answer("", ((g.PREDICATE, "tap tap on"), (g.SPAN, "frames 2 to 1")), 1.0, 5, False)
    assert read_relation(told, 3).predicate == "tap tap on" and read_relation(told, 3).outcome == OK


def test_free_words_are_cut_where_they_repeat(monkeypatch):
    _, first, lm = tiny()
    saying(monkeypatch, lm, "yo yo", "")  # the blank before the first word is not asked for
    [found] = generate_objects(lm, first, [0], g.object_grammar(lm, None, ["red"]))
    assert (found.label, found.outcome) == ("yo", REPEATING)
    told = Answer("", ((g.PREDICATE, "tap tap on"), (g.SPAN, "frames 2 to 1")), 1.0, 5, False, free=True)
    assert (read_relation(told, 3).predicate, read_relation(told, 3).outcome) == ("tap", REPEATING)


def test_a_grammar_knows_whether_it_leaves_the_words_to_the_model():
    _, _, lm = tiny()
    assert not g.object_grammar(lm, ["a"], ["b"]).free and not g.relation_grammar(lm, ["a"], 2).free
    assert g.object_grammar(lm, None, ["b"]).free and g.relation_grammar(lm, None, 2).free and g.text_grammar(lm).free


@given(st.text(max_size=80))
def test_any_text_can_be_read(text):
    answer = Answer(text, ((g.TEXT, text),), 1.0, 5, False, free=True)
    thing, relation = read_object(answer), read_relation(answer, 3)
    assert thing.label or thing.outcome != OK
    assert 0 <= relation.start < relation.end <= 3


# -- the real model ----------------------------------------------------------------------------------------------------


def test_the_real_model_answers_both_turns_within_the_grammar():
    chain = make_chain(LanguageModel.load(LanguageModelConfig()))
    lm = chain.language_model
    with torch.inference_mode():
        first = chain.turn1(scene(chain, 12))
        found = generate_objects(lm, first, [0, 3], g.object_grammar(lm, LABELS, ATTRIBUTES))
        assert all(f.label in LABELS and f.outcome == OK for f in found)
        objects = [DescribedObject(s, f.label, f.attributes) for s, f in zip((0, 3), found, strict=True)]
        second = chain.turn2(first, objects, torch.tensor([[0, 1], [1, 0]]), torch.zeros(2, G))
        relations = generate_relations(lm, second, g.relation_grammar(lm, PREDICATES, 8), 8)
        assert all(r.outcome == OK and (r.predicate is None or r.predicate in PREDICATES) for r in relations)
        free = generate_objects(lm, first, [1], g.object_grammar(lm, None))
        assert free[0].label and free[0].answer.num_tokens <= g.MAX_FREE_TOKENS
        rules = g.object_grammar(lm, LABELS)
        assert generate(lm, first.branches(), rules) == generate(lm, first.branches(), rules)
