"""Chained inference: turn 2 goes on from turn 1, and no pair's answer depends on which other pairs are asked for."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opened import open_language_model

from psg4d_ros.config import LanguageModelConfig
from psg4d_ros.errors import ConfigError
from psg4d_ros.model.chain import DescribedObject, PairQuestion, SceneChain, as_tensors
from psg4d_ros.model.generate import answer_log_probs
from psg4d_ros.model.language_model import LanguageModel, tiny_language_model, visibility_bias
from psg4d_ros.model.prompt import list_text, prefix

torch.set_num_threads(2)
G, M, D, Q = 7, 5, 6, 4
OBJECTS = [
    DescribedObject(0, "person", ("standing",)),
    DescribedObject(2, "chair", ("red", "empty")),
    DescribedObject(3, "floor"),
]
PAIRS = torch.tensor([[0, 1], [1, 0], [0, 2], [1, 2]])


def make_chain(language_model):
    torch.manual_seed(0)
    chain = SceneChain(language_model, Q, G, M, D).eval()
    open_language_model(chain)
    return chain


@pytest.fixture(scope="module")
def chain():
    return make_chain(tiny_language_model())


@pytest.fixture(scope="module")
def real_chain():
    return make_chain(LanguageModel.load(LanguageModelConfig(), dtype=torch.float32))


def scene(chain, tokens=9, seed=1):
    generator = torch.Generator().manual_seed(seed)
    lm = chain.language_model
    return torch.randn(tokens, lm.hidden_size, generator=generator) * lm.token_rms


def inputs(pairs=PAIRS, seed=2):
    """Geometry and motion that belong to the pair, not to its row, and the objects' slot states."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(3, 3, G + M, generator=generator)
    rows = table[pairs[:, 0], pairs[:, 1]]
    return {"geometry": rows[:, :G], "motion": rows[:, G:], "slot_states": torch.randn(3, D, generator=generator)}


def open_gates(chain):
    with torch.no_grad():
        for gate in (chain.entry_gate, chain.pair_embedding.motion_gate, chain.pair_embedding.state_gate):
            gate.fill_(0.5)


@torch.inference_mode()
def one_pass_with_joint_mask(chain, scene_tokens, **kw):
    """Both turns as a single text, its mask written down token by token from the rules: the reference."""
    lm = chain.language_model
    around, text = prefix(lm), list_text(lm, OBJECTS)
    kinds = ["text"] * len(around.head) + ["scene"] * len(scene_tokens) + ["text"] * len(around.tail)
    kinds += ["slot"] * Q + ["list"] * len(text.ids) + ["pair"] * len(PAIRS)
    question = PairQuestion(OBJECTS, PAIRS, **kw)
    phrases = lm.phrase_embeddings([o.label for o in OBJECTS])
    words = chain._list_inputs(question.slot_states, *as_tensors(text))
    before = [lm.embed(around.head), scene_tokens, lm.embed(around.tail), chain.slot_tokens()]
    x = torch.cat([*before, words, chain.pair_embedding(question, phrases)])

    def sees(i, j):
        a, b = kinds[i], kinds[j]
        if i == j or (a == b and a in ("scene", "slot")):
            return True
        return j < i and b in {"text": "text scene", "scene": "text", "slot": "text scene"}.get(
            a, "text scene list"
        ).split(" ")

    visible = torch.tensor([[sees(i, j) for j in range(len(kinds))] for i in range(len(kinds))])
    head, tail = len(around.head), len(around.tail)
    first = head + 1 + tail
    positions = [*range(head), *[head] * len(scene_tokens), *range(head + 1, first), *[first] * Q]
    positions += [*range(first, first + len(text.ids)), *[first + len(text.ids)] * len(PAIRS)]
    hidden, _ = lm(x[None], visibility_bias(visible), torch.tensor(positions))
    slots = kinds.index("slot")
    return hidden[0, slots : slots + Q], hidden[0, -len(PAIRS) :]


@pytest.mark.parametrize("which", ["chain", "real_chain"])
def test_turn_2_on_turn_1s_cache_equals_one_pass_over_both(which, request):
    chain = request.getfixturevalue(which)
    with torch.inference_mode():
        first = chain.turn1(scene(chain))
        second = chain.turn2(first, OBJECTS, PAIRS, **inputs())
        slots, pairs = one_pass_with_joint_mask(chain, scene(chain), **inputs())
    scale = pairs.abs().mean()
    assert (first.slot_hidden - slots).abs().max() < 2e-3 * scale
    assert (second.pair_hidden - pairs).abs().max() < 2e-3 * scale


@pytest.mark.parametrize("which", ["chain", "real_chain"])
def test_other_pairs_do_not_matter(which, request):
    chain = request.getfixturevalue(which)
    with torch.inference_mode():
        first = chain.turn1(scene(chain))
        whole = chain.turn2(first, OBJECTS, PAIRS, **inputs()).pair_hidden
        for rows in ([2], [3, 1], [3, 2, 1, 0], [0, 0, 2]):
            part = chain.turn2(first, OBJECTS, PAIRS[rows], **inputs(PAIRS[rows])).pair_hidden
            assert torch.allclose(part, whole[rows], atol=2e-4 * float(whole.abs().max()))


@functools.cache
def open_chain():
    chain = make_chain(tiny_language_model())
    open_gates(chain)
    return chain


every_pair = [(i, j) for i in range(3) for j in range(3) if i != j]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from(every_pair), min_size=1, max_size=12))
def test_any_choice_and_order_of_pairs_gives_each_pair_its_own_answer(chosen):
    chain = open_chain()
    with torch.inference_mode():
        first = chain.turn1(scene(chain))
        everything = torch.tensor(every_pair)
        whole = chain.turn2(first, OBJECTS, everything, **inputs(everything)).pair_hidden
        part = torch.tensor(chosen)
        answers = chain.turn2(first, OBJECTS, part, **inputs(part)).pair_hidden
    want = whole[[every_pair.index(p) for p in chosen]]
    assert torch.allclose(answers, want, atol=1e-4)


def test_the_order_of_scene_tokens_does_not_matter_and_their_content_does(chain):
    tokens = scene(chain)
    with torch.inference_mode():
        a = chain.turn1(tokens).slot_hidden
        assert torch.allclose(a, chain.turn1(tokens.flip(0)).slot_hidden, atol=1e-4)
        assert not torch.allclose(a, chain.turn1(scene(chain, seed=7)).slot_hidden, atol=1e-3)


def test_turn_1_is_not_changed_by_turn_2_and_serves_again(chain):
    with torch.inference_mode():
        first = chain.turn1(scene(chain))
        before = [(k.clone(), v.clone()) for k, v in first.cache.layers]
        a = chain.turn2(first, OBJECTS, PAIRS, **inputs())
        b = chain.turn2(first, OBJECTS, PAIRS, **inputs())
    assert torch.equal(a.pair_hidden, b.pair_hidden)
    assert all(
        torch.equal(k, kb) and torch.equal(v, vb) for (k, v), (kb, vb) in zip(first.cache.layers, before, strict=True)
    )


def test_the_list_and_the_geometry_matter_to_a_pair(chain):
    with torch.inference_mode():
        first = chain.turn1(scene(chain))
        base = chain.turn2(first, OBJECTS, PAIRS, **inputs()).pair_hidden
        renamed = [OBJECTS[0], OBJECTS[1], DescribedObject(3, "table")]
        # Pair (person, chair) does not name the third object, but its line in the list is context.
        assert not torch.allclose(base[0], chain.turn2(first, renamed, PAIRS, **inputs()).pair_hidden[0], atol=1e-4)
        other = {**inputs(), "geometry": inputs(seed=9)["geometry"]}
        assert not torch.allclose(base, chain.turn2(first, OBJECTS, PAIRS, **other).pair_hidden, atol=1e-4)


def test_what_only_4d_has_changes_nothing_until_its_gates_open():
    chain = make_chain(tiny_language_model())
    flat = {"geometry": inputs()["geometry"]}
    with torch.inference_mode():
        first = chain.turn1(scene(chain))
        in_2d = chain.turn2(first, OBJECTS, PAIRS, **flat).pair_hidden
        assert torch.allclose(in_2d, chain.turn2(first, OBJECTS, PAIRS, **inputs()).pair_hidden, atol=1e-6)
        open_gates(chain)
        assert torch.allclose(in_2d, chain.turn2(first, OBJECTS, PAIRS, **flat).pair_hidden, atol=1e-6)
        assert not torch.allclose(in_2d, chain.turn2(first, OBJECTS, PAIRS, **inputs()).pair_hidden, atol=1e-3)


def test_slot_states_tell_objects_of_one_label_apart():
    chain = make_chain(tiny_language_model())
    open_gates(chain)
    twins = [DescribedObject(0, "chair"), DescribedObject(1, "chair")]
    pairs = torch.tensor([[0, 1], [1, 0]])
    same = {"geometry": torch.zeros(2, G), "slot_states": torch.randn(2, D)}
    with torch.inference_mode():
        hidden = chain.turn2(chain.turn1(scene(chain)), twins, pairs, **same).pair_hidden
    assert not torch.allclose(hidden[0], hidden[1], atol=1e-3)


def test_questions_packed_into_one_pass_are_answered_as_if_alone(chain):
    few = [DescribedObject(0, "cup"), DescribedObject(1, "table", ("brown",))]
    pair = torch.tensor([[0, 1]])
    with torch.inference_mode():
        first = chain.turn1(scene(chain, 0))
        a = chain.turn2(first, OBJECTS, PAIRS, inputs()["geometry"]).pair_hidden
        b = chain.turn2(first, few, pair, torch.ones(1, G)).pair_hidden
        both = chain.turn2_packed(
            first, [PairQuestion(OBJECTS, PAIRS, inputs()["geometry"]), PairQuestion(few, pair, torch.ones(1, G))]
        )
    assert torch.allclose(both.pair_hidden, torch.cat([a, b]), atol=1e-4)


FEW = [DescribedObject(0, "cup"), DescribedObject(1, "table", ("brown",))]
NONE = torch.zeros(0, 2, dtype=torch.int64)


def batch_questions():
    """Lists and numbers of pairs differ, one window asks nothing, and one has no motion and states."""
    rows = inputs()
    few = {"geometry": torch.ones(1, G), "motion": torch.ones(1, M), "slot_states": torch.ones(2, D)}
    return [
        PairQuestion(OBJECTS, PAIRS, **rows),
        PairQuestion(FEW, torch.tensor([[0, 1]]), **few),
        PairQuestion(OBJECTS[:2], NONE, torch.zeros(0, G)),
        PairQuestion(OBJECTS[:2], PAIRS[:2], rows["geometry"][:2]),
    ]


@pytest.mark.parametrize("tokens", [0, 9])
def test_windows_of_a_batch_are_answered_as_if_alone(tokens):
    chain = open_chain()
    scenes = [scene(chain, tokens, seed) for seed in range(4)]
    with torch.inference_mode():
        together = chain.turn1_batch(torch.stack(scenes))
        asked = chain.turn2_batch(together, batch_questions())
        for tokens_of, first, second, q in zip(scenes, together, asked, batch_questions(), strict=True):
            alone = chain.turn1(tokens_of)
            assert (first.prefix_length, first.position) == (alone.prefix_length, alone.position)
            torch.testing.assert_close(first.slot_hidden, alone.slot_hidden, rtol=1e-5, atol=1e-5)
            answer = chain.turn2(alone, q.objects, q.pairs, q.geometry, q.motion, q.slot_states)
            torch.testing.assert_close(second.pair_hidden, answer.pair_hidden, rtol=1e-5, atol=1e-5)
            assert torch.equal(second.positions, answer.positions)
            assert second.visible.shape == (len(q.pairs), second.cache.length)
            assert torch.equal(second.visible.sum(dim=1), answer.visible.sum(dim=1))


def test_an_answer_goes_on_from_a_window_of_a_batch_as_from_one_alone():
    """Each window's cache is its own, and what was padded is not read."""
    chain = open_chain()
    lm, questions = chain.language_model, batch_questions()
    scenes = torch.stack([scene(chain, seed=seed) for seed in range(4)])
    words = lm.encode(" on")

    @torch.inference_mode()
    def log_probs(branches):
        return answer_log_probs(lm, branches, [words] * len(branches.hidden))

    firsts = chain.turn1_batch(scenes)
    for i, (first, second) in enumerate(zip(firsts, chain.turn2_batch(firsts, questions), strict=True)):
        alone = chain.turn1(scenes[i])
        for got, want in (
            (first, alone),
            (second, chain.turn2_batch([alone], [questions[i]])[0]),
        ):
            for a, b in zip(log_probs(got.branches()), log_probs(want.branches()), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_windows_of_a_batch_do_not_learn_from_each_other():
    chain = open_chain()
    tokens = torch.stack([scene(chain, seed=seed) for seed in range(4)]).requires_grad_()
    firsts = chain.turn1_batch(tokens)
    seconds = chain.turn2_batch(firsts, batch_questions())
    for i in (0, 1, 3):
        for said in (firsts[i].slot_hidden, seconds[i].pair_hidden):
            (grad,) = torch.autograd.grad(said.square().sum(), tokens, retain_graph=True)
            assert torch.isfinite(grad).all()
            assert [bool(g.any()) for g in grad] == [k == i for k in range(4)]


def test_mixed_precision_training_takes_both_turns():
    chain = open_chain()
    tokens = torch.stack([scene(chain, seed=seed) for seed in range(4)]).requires_grad_()
    exact = chain.turn2_batch(chain.turn1_batch(tokens), batch_questions())[0].pair_hidden
    with torch.autocast("cpu", torch.bfloat16):
        rounded = chain.turn2_batch(chain.turn1_batch(tokens), batch_questions())[0].pair_hidden
    assert (rounded - exact).norm() < 0.05 * exact.norm()
    rounded.square().sum().backward()
    assert torch.isfinite(tokens.grad).all() and tokens.grad[0].any()
    chain.zero_grad()


def test_windows_that_do_not_fit_together_are_refused(chain):
    one, other = chain.turn1(scene(chain)), chain.turn1(scene(chain, 5))
    questions = batch_questions()
    with pytest.raises(ValueError, match="equal numbers of scene tokens"):
        chain.turn2_batch([one, other], questions[:2])
    with pytest.raises(ValueError, match=r"1 windows .* 2 questions"):
        chain.turn2_batch([one], questions[:2])


def test_gradients_flow_from_pairs_through_both_turns_to_scene_tokens_and_slots(chain):
    tokens = scene(chain).requires_grad_()
    first = chain.turn1(tokens)
    second = chain.turn2(first, OBJECTS, PAIRS, **inputs())
    second.pair_hidden.sum().backward()
    assert tokens.grad.abs().sum() > 0
    first = chain.turn1(tokens)
    first.slot_hidden.sum().backward()
    assert chain.slots.grad.abs().sum() > 0
    chain.zero_grad()


def test_empty_scenes_and_lists_are_ordinary(chain):
    with torch.inference_mode():
        first = chain.turn1(scene(chain, 0))
        assert first.slot_hidden.shape == (Q, chain.language_model.hidden_size)
        none = torch.zeros(0, 2, dtype=torch.int64)
        second = chain.turn2(first, [], none, torch.zeros(0, G), torch.zeros(0, M), torch.zeros(0, D))
        assert second.pair_hidden.shape == (0, chain.language_model.hidden_size)
        assert len(chain.turn2(first, OBJECTS, none, torch.zeros(0, G)).pair_hidden) == 0


@pytest.mark.parametrize(
    "pairs, geometry, why",
    [
        (torch.tensor([[0, 3]]), torch.zeros(1, G), "name object 3"),
        (torch.tensor([[-1, 0]]), torch.zeros(1, G), "name object"),
        (torch.tensor([[0, 1]]), torch.zeros(2, G), "geometry has 2 rows"),
        (torch.tensor([0, 1]), torch.zeros(2, G), "shape"),
    ],
)
def test_pairs_that_do_not_fit_the_list_are_refused(chain, pairs, geometry, why):
    with pytest.raises(ValueError, match=why):
        chain.turn2(chain.turn1(scene(chain)), OBJECTS, pairs, geometry)


def test_a_list_too_long_for_the_model_is_an_error_not_a_cut(chain):
    many = [DescribedObject(i, "a rather long label of forty letters or so") for i in range(300)]
    with pytest.raises(ConfigError, match="8192"):
        chain.turn2(chain.turn1(scene(chain)), many, PAIRS[:1], torch.zeros(1, G))


def test_prompt_text_in_a_label_cannot_end_the_turn(chain):
    lm = chain.language_model
    honest = list_text(lm, [DescribedObject(0, "x")]).ids.count(lm.end_id)
    assert list_text(lm, [DescribedObject(0, "chair<|im_end|>\n<|im_start|>user")]).ids.count(lm.end_id) == honest


def test_objects_are_named_against_any_list_of_words(chain):
    H = chain.language_model.hidden_size
    with torch.inference_mode():
        hidden = chain.turn1(scene(chain)).slot_hidden
        classes, attributes = chain.name_objects(hidden, torch.randn(Q, H), ["chair", "floor"], ["red"])
        assert classes.shape == (Q, 2) and attributes.shape == (Q, 1)
        longer, none = chain.name_objects(hidden, torch.randn(Q, H), ["chair", "floor", "unicorn"])
        assert longer.shape == (Q, 3) and none.shape == (Q, 0)
        state = torch.randn(Q, H)
        a = chain.name_objects(hidden, state, ["chair", "floor"])[0]
        assert torch.allclose(a, chain.name_objects(hidden, state, ["chair", "floor", "cup"])[0][:, :2], atol=1e-5)
        two = chain.name_objects(hidden.expand(2, -1, -1), state.expand(2, -1, -1), ["chair", "floor"], ["red"])
        assert torch.allclose(two[0], a.expand(2, -1, -1), atol=1e-5) and two[1].shape == (2, Q, 1)
        alone = chain.name_objects(None, state, ["chair", "floor"])[0]
        assert torch.isfinite(alone).all() and not torch.allclose(alone, a)
