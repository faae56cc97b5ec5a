"""Tensors that travel to a device in one buffer arrive as they left."""

import torch

from psg4d_ros.model.transfer import move_together


def test_every_type_and_shape_arrives_as_it_left_whatever_stands_beside_it():
    sent = [
        torch.tensor([True, False, True]),
        torch.arange(12).reshape(3, 4)[:, 1:].T,
        torch.zeros(0, 7),
        torch.tensor(2.5),
        torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).bfloat16(),
    ]
    arrived = move_together(sent, torch.device("cpu"))
    for a, b in zip(sent, arrived, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)


def test_what_was_sent_may_change_afterwards():
    sent = torch.zeros(3)
    (arrived,) = move_together([sent], torch.device("cpu"))
    sent += 1
    assert arrived.tolist() == [0, 0, 0] and move_together([], torch.device("cpu")) == []
