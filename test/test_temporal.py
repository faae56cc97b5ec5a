"""Temporal aggregator, token selection, position code and projector."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from psg4d_ros.errors import ConfigError
from psg4d_ros.model.features import FrameFeatures
from psg4d_ros.model.position import FourierPosition
from psg4d_ros.model.projector import Projector
from psg4d_ros.model.psg4d import window_positions
from psg4d_ros.model.temporal import TemporalAggregator, select_tokens


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def window(count: int, dim: int = 32) -> tuple[Tensor, Tensor]:
    """Tokens and positions of ``count`` tokens over 8 frames, newest last."""
    time = -0.25 * (7 - torch.arange(count) * 8 // max(1, count))
    return torch.randn(count, dim), torch.cat((torch.randn(count, 3) * 3, time[:, None].float()), dim=1)


def awake(module: nn.Module) -> nn.Module:
    """The module with its zero-initialised outputs replaced, as after some training."""
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return module


@pytest.mark.parametrize("count", [0, 1, 50])
def test_at_the_start_tokens_pass_unchanged(count: int) -> None:
    tokens, positions = window(count)
    assert torch.equal(TemporalAggregator(32)(tokens, positions), tokens)


@torch.no_grad()
@pytest.mark.parametrize("count", [0, 1, 50])
def test_once_trained_any_number_of_tokens_works_in_any_order(count: int) -> None:
    aggregator, (tokens, positions) = awake(TemporalAggregator(32)), window(count)
    out, order = aggregator(tokens, positions), torch.randperm(count)
    assert out.shape == tokens.shape and torch.isfinite(out).all()
    torch.testing.assert_close(aggregator(tokens[order], positions[order]), out[order], rtol=1e-4, atol=1e-5)
    assert count == 0 or not torch.allclose(out, tokens)


@torch.no_grad()
@pytest.mark.parametrize("count", [0, 1, 50])
def test_windows_stay_apart(count: int) -> None:
    aggregator, (tokens, positions), (other, elsewhere) = awake(TemporalAggregator(32)), window(count), window(count)
    together = aggregator(torch.stack((tokens, other)), torch.stack((positions, elsewhere)))
    for got, want in zip(together, (aggregator(tokens, positions), aggregator(other, elsewhere)), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    nested = aggregator(tokens.expand(2, 3, -1, -1), positions.expand(2, 3, -1, -1))
    torch.testing.assert_close(nested, together[0].expand(2, 3, -1, -1), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_it_knows_when_and_where_and_takes_from_other_frames() -> None:
    aggregator, (tokens, positions) = awake(TemporalAggregator(32)), window(50)
    out = aggregator(tokens, positions)
    for column in range(4):
        moved = positions.clone()
        moved[:10, column] -= 0.7
        assert not torch.allclose(aggregator(tokens, moved), out, atol=1e-5)
    past = tokens.clone()
    past[0] = torch.randn(32)  # a token of the oldest frame
    assert not torch.allclose(aggregator(past, positions)[-1], out[-1], atol=1e-5)


def test_gradients_reach_the_zero_initialised_weights() -> None:
    aggregator, (tokens, positions) = TemporalAggregator(32), window(20)
    aggregator(tokens, positions).square().sum().backward()
    for layer in aggregator.layers:
        assert layer.out.weight.grad.abs().sum() > 0 and layer.feed_out.weight.grad.abs().sum() > 0


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="width 30 with 4 heads"):
        TemporalAggregator(30)


def test_few_tokens_are_all_kept() -> None:
    tokens, positions = window(20)
    kept, where = select_tokens(tokens, positions, 20)
    assert torch.equal(kept, tokens) and torch.equal(where, positions)


def test_many_tokens_are_thinned_evenly_over_frames_and_the_same_each_time() -> None:
    tokens, positions = window(800)
    kept, where = select_tokens(tokens, positions, 200)
    again, _ = select_tokens(tokens, positions, 200)
    assert kept.shape == (200, 32) and where.shape == (200, 4) and torch.equal(kept, again)
    _, per_frame = where[:, 3].unique(return_counts=True)
    assert len(per_frame) == 8 and per_frame.min() > 10 and per_frame.max() < 45  # 25 on average
    assert (where[1:, 3] >= where[:-1, 3]).all()  # order stays
    rows = {tuple(row.tolist()): i for i, row in enumerate(positions)}
    assert all(torch.equal(kept[i], tokens[rows[tuple(where[i].tolist())]]) for i in range(200))


def test_places_are_told_from_the_middle_of_the_window_and_heights_from_the_floor() -> None:
    centers, times = torch.randn(30, 3), -torch.rand(30)
    positions = window_positions(centers, times, centers.mean(dim=0))
    torch.testing.assert_close(positions[:, :2].mean(dim=0), torch.zeros(2), rtol=0, atol=1e-6)
    assert torch.equal(positions[:, 2], centers[:, 2]) and torch.equal(positions[:, 3], times)
    driven = centers + torch.tensor([40.0, -25.0, 0.0])
    torch.testing.assert_close(window_positions(driven, times, driven.mean(dim=0)), positions, rtol=0, atol=1e-4)


def test_the_position_code_survives_half_precision_weights() -> None:
    code, half = FourierPosition(), FourierPosition().to(torch.bfloat16)
    far = torch.tensor([[83.21, -47.03, 2.5, -7.75], [0.0, 0.0, 0.0, 0.0]])
    assert code(far, torch.float32).shape == (2, FourierPosition.size)
    assert torch.equal(half(far, torch.float32), code(far, torch.float32))
    assert code(far * 1000, torch.float32).abs().max() <= 1


def test_projected_tokens_have_the_scale_of_the_language_models_own() -> None:
    projector = Projector(32, 48, token_rms=0.13)
    tokens = torch.randn(10, 32) * torch.logspace(-2, 3, 10)[:, None]
    rms = projector(tokens).square().mean(dim=1).sqrt()
    torch.testing.assert_close(rms, torch.full((10,), 0.13), rtol=1e-2, atol=0)
    assert projector(torch.zeros(0, 32)).shape == (0, 48)


def test_features_without_matching_centers_are_refused() -> None:
    def features(centers: int) -> FrameFeatures:
        empty, one = torch.zeros(0, 3), torch.zeros(centers, 3)
        index = torch.zeros(5, dtype=torch.int64)
        return FrameFeatures(
            torch.zeros(4, 8), one, index, torch.zeros(0, 8), empty, torch.zeros(0, 8), empty, 0, False
        )

    assert features(4).fine.shape == (4, 8)
    with pytest.raises(ValueError, match=r"fine has features \(4, 8\) and centers \(3, 3\), expected centers \[4, 3\]"):
        features(3)
