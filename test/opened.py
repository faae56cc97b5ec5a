"""Models as if they had been trained a little: what starts at zero has a say."""

from __future__ import annotations

from torch import nn


def open_language_model(model: nn.Module) -> None:
    """Let the language model's states take part in names and relations, in place; before training they have none."""
    for name, module in model.named_modules():
        if name.endswith("from_hidden"):
            assert isinstance(module, nn.Linear)
            module.reset_parameters()
