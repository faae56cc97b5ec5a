"""Mask decoder: any size, sensible before training, able to learn, and what each input does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from psg4d_ros.config import DecoderConfig
from psg4d_ros.errors import ConfigError
from psg4d_ros.model import mask_decoder
from psg4d_ros.model.mask_decoder import MaskDecoder, MaskOutput
from psg4d_ros.model.proposals import Proposals, of_slots

CONFIG = DecoderConfig(num_slots=6, proposals=4, dim=32, heads=4, layers=3)
Inputs = tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def decode(decoder: MaskDecoder, slot_hidden: Tensor | None, *inputs: Tensor) -> MaskOutput:
    """With the decoder's own proposals. inputs: features and positions of tokens, keys and voxels."""
    output: MaskOutput = decoder(slot_hidden, decoder.propose(inputs[2], inputs[3]), *inputs)
    return output


def small(config: DecoderConfig = CONFIG) -> MaskDecoder:
    return MaskDecoder(config, fine_dim=8, mid_dim=12, token_dim=16, slot_dim=20, phrase_dim=24).eval()


def window(tokens: int, keys: int, voxels: int, slots: int = 6, seed: int = 0) -> Inputs:
    """slot_hidden, then features (non-negative, as the encoder's are) and positions of tokens, keys and voxels."""
    g = torch.Generator().manual_seed(seed)

    def rows(count: int, dim: int) -> tuple[Tensor, Tensor]:
        return torch.randn(count, dim, generator=g).relu(), torch.randn(count, 4, generator=g) * 2

    return torch.randn(slots, 20, generator=g), *rows(tokens, 16), *rows(keys, 12), *rows(voxels, 8)


@torch.no_grad()
@pytest.mark.parametrize("with_language", [True, False])
@pytest.mark.parametrize("sizes", [(0, 0, 0), (1, 1, 1), (0, 1, 3), (4, 0, 2), (20, 60, 200)])
def test_any_number_of_tokens_keys_and_voxels(sizes: tuple[int, int, int], with_language: bool) -> None:
    slot_hidden, *rest = window(*sizes)
    output = decode(small(), slot_hidden if with_language else None, *rest)
    assert output.mask_logits.shape == (6, sizes[2]) and output.key_mask_logits.shape == (6, sizes[1])
    assert output.presence_logits.shape == (6,) and output.slot_states.shape == (6, 32)
    assert output.class_embeddings.shape == (6, 24) and output.aux == ()
    assert all(torch.isfinite(x).all() for x in output[:5])


@torch.no_grad()
def test_an_untrained_decoder_neither_claims_everything_nor_nothing() -> None:
    decoder = MaskDecoder(DecoderConfig(), 32, 64, 128, 576, 576).eval()
    assert 0.8e6 < sum(p.numel() for p in decoder.parameters()) < 1.3e6
    g = torch.Generator().manual_seed(0)
    sizes = ((40, 128), (300, 64), (2000, 32))
    rows = [f(n, c) for n, c in sizes for f in (lambda n, c: torch.rand(n, c, generator=g), lambda n, _: _places(n, g))]
    output = decode(decoder, torch.randn(64, 576, generator=g), *rows)
    held = (output.mask_logits > 0).float().mean()
    present = output.presence_logits.sigmoid()
    assert 0.02 < held < 0.5
    assert 0.1 < present.mean() < 0.7 and present.std() > 0.02
    assert output.mask_logits.abs().max() < 1.5 * 128**0.5 + 1.1  # bounded whatever the features


def _places(count: int, g: torch.Generator) -> Tensor:
    return torch.rand(count, 4, generator=g) * torch.tensor([5.0, 5.0, 2.5, -2.0])


@torch.no_grad()
def test_voxel_order_carries_over_and_key_order_does_not_matter() -> None:
    decoder, (hidden, tokens, tp, mid, mp, fine, fp) = small(), window(20, 60, 200)
    output = decode(decoder, hidden, tokens, tp, mid, mp, fine, fp)
    t, k, v = torch.randperm(20), torch.randperm(60), torch.randperm(200)
    other = decode(decoder, hidden, tokens[t], tp[t], mid[k], mp[k], fine[v], fp[v])
    expected = (output.mask_logits[:, v], *output[1:4], output.key_mask_logits[:, k])
    for got, want in zip(other[:5], expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("index", range(7))
def test_every_input_counts(index: int) -> None:
    decoder, inputs = small(), list(window(20, 60, 200))
    before = decode(decoder, *inputs)
    changed = inputs[index]
    assert changed is not None
    inputs[index] = changed + 0.3 * torch.randn(changed.shape, generator=torch.Generator().manual_seed(1))
    after = decode(decoder, *inputs)
    assert not torch.allclose(after.mask_logits, before.mask_logits, atol=1e-4)


@torch.no_grad()
def test_the_language_model_enters_through_a_gate() -> None:
    decoder, (hidden, *rest) = small(), window(20, 60, 200)
    assert not torch.allclose(
        decode(decoder, hidden, *rest).slot_states, decode(decoder, None, *rest).slot_states, atol=1e-4
    )
    decoder.slot_gate.zero_()
    torch.testing.assert_close(decode(decoder, hidden, *rest).slot_states, decode(decoder, None, *rest).slot_states)


@torch.no_grad()
def test_regions_given_as_the_masks_of_slots_are_embedded_as_the_slots_are() -> None:
    decoder, inputs = small(), window(20, 60, 200)
    output, mid, fine = decode(decoder, *inputs), inputs[3], inputs[5]
    shares = output.mask_logits.sigmoid() ** 4, output.key_mask_logits.sigmoid() ** 4
    embeddings = decoder.embed_regions(output.slot_states, fine, shares[0], mid, shares[1])
    torch.testing.assert_close(embeddings, output.class_embeddings)


@torch.no_grad()
def test_a_cup_is_not_drowned_by_the_room_around_it() -> None:
    """20 voxels that a mask holds and 40,000 that it rejects: the class is made of the 20."""
    decoder, (*_, mid, _, fine, _) = small(), window(0, 40, 40_020)
    state, logits = torch.zeros(1, 32), torch.full((1, 40_020), 0.02).logit()
    logits[:, :20] = 3.0
    key_logits = torch.full((1, 40), 3.0)
    found = decoder._outputs(state, logits, key_logits, fine, mid).class_embeddings
    alone = decoder._outputs(state, logits[:, :20], key_logits, fine[:20], mid).class_embeddings
    spread = decoder._outputs(state, logits[:, 20:], key_logits, fine[20:], mid).class_embeddings
    assert (found - alone).norm() < 0.01 * (spread - alone).norm()


@torch.no_grad()
def test_a_region_is_embedded_by_the_mean_of_its_own_features() -> None:
    decoder, (*_, mid, _, fine, _) = small(), window(0, 4, 6)
    state, half = torch.zeros(1, 32), torch.tensor([[0.0, 0.5, 0.5, 0.0, 0.0, 0.0]])
    found = decoder.embed_regions(state, fine, half, mid, torch.tensor([[0.0, 0.0, 1.0, 0.0]]))
    seen = torch.cat((state[0], decoder.fine_norm(fine[1:3]).mean(dim=0), decoder.mid_norm(mid[2])))
    torch.testing.assert_close(found[0], decoder.class_out(seen), atol=1e-4, rtol=1e-4)
    nothing = decoder.embed_regions(state, fine, torch.zeros(1, 6), mid, torch.zeros(1, 4))
    torch.testing.assert_close(nothing[0], decoder.class_out(torch.cat((state[0], torch.zeros(8 + 12)))))


@torch.no_grad()
@pytest.mark.parametrize("index", [3, 5])
def test_a_slot_is_named_by_what_lies_under_its_mask_at_both_scales(index: int) -> None:
    decoder, inputs = small(replace(CONFIG, proposals=0)), list(window(20, 60, 200))
    decoder.layers = torch.nn.ModuleList()  # states no longer depend on the scene: only pooling does
    before = decode(decoder, *inputs)
    changed = inputs[index]
    assert changed is not None
    inputs[index] = changed.flip(1)
    after = decode(decoder, *inputs)
    assert torch.equal(after.slot_states, before.slot_states)
    assert not torch.allclose(after.class_embeddings, before.class_embeddings, atol=1e-4)


def test_attention_is_closed_outside_the_mask_and_open_for_an_empty_one() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [-1.0, -2.0, -0.1], [1.0, 1.0, 1.0]])
    closed = mask_decoder._attention_bias(logits) < 0
    assert closed.tolist() == [[False, True, False], [False, False, False], [False, False, False]]


@torch.no_grad()
def test_a_slot_does_not_look_at_voxels_outside_its_mask() -> None:
    """With one layer, a key that a slot's first mask rejects changes nothing of that slot's state."""
    decoder, inputs = small(DecoderConfig(num_slots=6, proposals=4, dim=32, heads=4, layers=1)), list(window(5, 40, 30))
    decoder.train()
    before = decode(decoder, *inputs)
    held = before.aux[0].key_mask_logits > 0
    slot, key = next((s, k) for s in range(6) for k in range(40) if held[s].any() and not held[s, k])
    mixed = [s for s in range(6) if held[s, key] or not held[s].any()]
    decoder.layers[0].itself.out.weight.zero_()  # slots would pass it on to each other
    before = decode(decoder, *inputs)
    mid = inputs[3].clone()
    mid[key] = torch.where(torch.rand(12) > 0.5, mid[key] * 1.01, mid[key])
    inputs[3] = mid
    after = decode(decoder, *inputs)
    torch.testing.assert_close(after.slot_states[slot], before.slot_states[slot], rtol=0, atol=1e-6)
    for s in mixed:
        assert not torch.equal(after.slot_states[s], before.slot_states[s])


def test_in_training_every_layer_is_supervised_and_gradients_reach_everything() -> None:
    decoder = small().train()
    inputs = list(window(20, 60, 200))
    for places in (2, 4, 6):
        inputs[places] = inputs[places] * 0.2  # near enough to vote for one another
    inputs = [x.requires_grad_() if x is not None else None for x in inputs]
    output = decode(decoder, *inputs)
    assert len(output.aux) == CONFIG.layers
    assert all(a.mask_logits.shape == (6, 200) and a.key_mask_logits.shape == (6, 60) for a in output.aux)
    layers = [list(output[:5])] + [list(a[:4]) for a in output.aux]
    sum(x.square().mean() for layer in layers for x in layer).backward()
    for name, parameter in decoder.named_parameters():
        # A key's bias adds the same score to every key, which the softmax takes out again.
        assert parameter.grad is not None and (parameter.grad.abs().sum() > 0 or name.endswith("key.bias")), name
    assert all(x is not None and x.grad is not None and x.grad.abs().sum() > 0 for x in inputs[:2] + inputs[3:6:2])


def test_it_learns_to_tell_two_things_apart() -> None:
    """Two blobs with equal features at different places, and background: each gets its slot, the others say absent."""
    decoder = small().train()
    centres = torch.tensor([[1.0, 0.0, 0.5, 0.0], [-1.0, 1.0, 0.5, 0.0], [0.0, -2.0, 0.0, 0.0]])
    blob = torch.arange(90) % 3
    positions = centres[blob] + 0.2 * torch.randn(90, 4)
    fine, mid, tokens = torch.rand(90, 8), torch.rand(90, 12), torch.rand(3, 16)
    truth = F.one_hot(blob, 3).t()[:2].float()
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=3e-3)
    present = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0, 0.0])

    def loss_of(masks: Tensor, key_masks: Tensor, presence: Tensor) -> Tensor:
        mask_loss = sum(F.binary_cross_entropy_with_logits(m[:2], truth) for m in (masks, key_masks))
        return mask_loss + F.binary_cross_entropy_with_logits(presence, present)

    output: MaskOutput
    for _ in range(40):
        output = decode(decoder, None, tokens, centres, mid, positions, fine, positions)
        loss = loss_of(output.mask_logits, output.key_mask_logits, output.presence_logits)
        loss = loss + sum(loss_of(a.mask_logits, a.key_mask_logits, a.presence_logits) for a in output.aux)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        output = decode(decoder.eval(), None, tokens, centres, mid, positions, fine, positions)
    assert torch.equal(output.mask_logits[:2] > 0, truth > 0)
    assert torch.equal(output.presence_logits > 0, present > 0)


@pytest.mark.parametrize("with_language", [True, False])
@pytest.mark.parametrize("sizes", [(20, 60, 200), (0, 1, 3), (4, 0, 0)])
def test_windows_decoded_together_are_as_if_alone(sizes: tuple[int, int, int], with_language: bool) -> None:
    decoder, windows = small().train(), [window(*sizes, seed=seed) for seed in range(4)]
    slot_hidden, *rest = (torch.stack(x) for x in zip(*windows, strict=True))
    together = decode(decoder, slot_hidden if with_language else None, *rest)
    assert together.mask_logits.shape == (4, 6, sizes[2]) and together.presence_logits.shape == (4, 6)
    alone = [decode(decoder, hidden if with_language else None, *own) for hidden, *own in windows]
    for number, want in enumerate(alone):
        assert len(together.aux) == len(want.aux) == CONFIG.layers
        layers = zip(
            (together[:5], *(a[:4] for a in together.aux)), (want[:5], *(a[:4] for a in want.aux)), strict=True
        )
        for of_all, own in layers:
            for x, y in zip(of_all, own, strict=True):
                torch.testing.assert_close(x[number], y, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_any_number_of_batch_dimensions_will_do() -> None:
    decoder, inputs = small(), window(20, 60, 200)
    shares = torch.rand(6, 200), torch.rand(6, 60)
    alone = decode(decoder, *inputs)
    region = decoder.embed_regions(alone.slot_states, inputs[5], shares[0], inputs[3], shares[1])
    stacked = [x.expand(2, 3, *x.shape) for x in inputs if x is not None]
    for got, want in zip(decode(decoder, *stacked)[:5], alone[:5], strict=True):
        torch.testing.assert_close(got, want.expand_as(got), rtol=1e-5, atol=1e-5)
    states, *shares = (x.expand(2, 3, *x.shape) for x in (alone.slot_states, *shares))
    got = decoder.embed_regions(states, stacked[5], shares[0], stacked[3], shares[1])
    torch.testing.assert_close(got, region.expand(2, 3, -1, -1), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_agrees(dtype: torch.dtype) -> None:
    decoder, inputs = small(), window(20, 60, 3000)
    full = decode(decoder, *inputs)
    cast = [x.to(dtype) if i in (0, 1, 3, 5) else x for i, x in enumerate(inputs) if x is not None]
    half = decode(decoder.to(dtype), *cast)
    assert half.mask_logits.dtype == dtype
    agree = ((half.mask_logits > 0) == (full.mask_logits > 0)).float().mean()
    assert agree > 0.95 and all(torch.isfinite(x).all() for x in half[:5])


@torch.no_grad()
def test_one_exported_graph_serves_every_size() -> None:
    decoder = small()
    s, k, v = (torch.export.Dim(name) for name in "skv")
    shapes = ({}, Proposals({}, {}), {0: s}, {0: s}, {0: k}, {0: k}, {0: v}, {0: v})

    def with_proposals(hidden: Tensor, *rest: Tensor) -> tuple[Any, ...]:
        return hidden, decoder.propose(rest[2], rest[3]), *rest

    program = torch.export.export(decoder, with_proposals(*window(7, 20, 30)), dynamic_shapes=shapes)
    for sizes in ((2, 2, 2), (20, 60, 2000)):
        inputs = with_proposals(*window(*sizes))
        for got, want in zip(program.module()(*inputs)[:5], decoder(*inputs)[:5], strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match=r"decoder\.dim is 32, expected a multiple of decoder\.heads = 5"):
        small(DecoderConfig(dim=32, heads=5))


@torch.no_grad()
def test_the_same_weights_serve_any_number_of_proposals() -> None:
    """They have no row of their own; what proposals find first stays first."""
    decoder, inputs = small(), window(20, 60, 200)[1:]
    more = small(replace(CONFIG, num_slots=9, proposals=7))
    more.load_state_dict(decoder.state_dict())
    assert decode(more, None, *inputs).mask_logits.shape == (9, 200)
    few, many = (d.propose(inputs[2], inputs[3]).anchors for d in (decoder, more))
    assert torch.equal(many[:4], few)
    assert torch.equal(of_slots(decoder.queries, 6)[2:], decoder.queries[2:].expand(4, -1))
