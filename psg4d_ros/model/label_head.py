"""Names and attributes of objects: states against phrase embeddings, so that a new word is one more phrase."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize


class LabelHead(nn.Module):
    """Scores an object's state against words. The state is the mask decoder's class embedding plus the slot's hidden
    state from the language model; without the latter (None) labels come from the masks alone."""

    def __init__(self, hidden_size: int, dim: int = 256) -> None:
        super().__init__()
        self.hidden_norm = nn.LayerNorm(hidden_size)
        self.from_hidden = nn.Linear(hidden_size, 2 * dim)
        self.from_masks = nn.Linear(hidden_size, 2 * dim)
        self.class_key = nn.Linear(hidden_size, dim)
        self.attribute_key = nn.Linear(hidden_size, dim)
        self.attribute_prior = nn.Linear(hidden_size, 1)
        # Cosine scores in [-1, 1] times this: 10 lets a softmax over 100 words become sharp, training moves it.
        self.class_scale = nn.Parameter(torch.tensor(10.0).log())
        self.attribute_scale = nn.Parameter(torch.tensor(10.0).log())
        # The language model's part starts at zero: at first it neither helps nor harms what is known without it.
        nn.init.zeros_(self.from_hidden.weight)
        nn.init.zeros_(self.from_hidden.bias)
        # Most attributes are untrue of most objects: start at a probability of one in ten.
        nn.init.zeros_(self.attribute_prior.weight)
        nn.init.constant_(self.attribute_prior.bias, -2.2)

    def forward(
        self, slot_hidden: Tensor | None, class_embeddings: Tensor, classes: Tensor, attributes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """slot_hidden: [*, P, H] or None. class_embeddings: [*, P, H] from the mask decoder. classes: [n, H],
        attributes: [m, H], phrase embeddings. Returns class logits [*, P, n] (softmax) and attribute logits [*, P, m]
        (sigmoid each)."""
        state = self.from_masks(class_embeddings.float())
        if slot_hidden is not None:
            state = state + self.from_hidden(self.hidden_norm(slot_hidden.float()))
        for_class, for_attributes = state.chunk(2, dim=-1)
        class_keys = normalize(self.class_key(classes), dim=1)
        attribute_keys = normalize(self.attribute_key(attributes), dim=1)
        class_logits = self.class_scale.exp() * normalize(for_class, dim=-1) @ class_keys.T
        attribute_logits = self.attribute_scale.exp() * normalize(for_attributes, dim=-1) @ attribute_keys.T
        return class_logits, attribute_logits + self.attribute_prior(attributes).T
