"""The same thing said in other words: what is asked for on a robot is not always the vocabulary's own word.

Heads score phrase embeddings, but what they learn of a phrase that always reads the same is that phrase and little
around it. So a class or predicate stands, in a share of the windows, under another name that means the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from psg4d_ros.vocabulary import Vocabulary

# Of predicates that simulated scenes show; of classes the vocabulary has such words itself. None of them is a predicate
# of its own ("lying on") or would be as true of another's pairs.
_PREDICATES = """
on = on top of, upon, placed on; next to = beside, by the side of, close by; in front of = at the front of, just before;
behind = at the back of, to the rear of; under = beneath, below the top of; above = over, higher than;
inside = in, within; touching = in contact with, making contact with; hanging on = hung on, mounted on;
attached to = fixed to, fastened to; leaning against = propped against, resting against; covering = spread over, draped
over; sitting on = sat on, perched on; sitting at = seated at; standing on = stood on, upright on; lying on = stretched
out on; holding = grasping, has in hand; carrying = bringing along, transporting; looking at = watching, viewing;
facing = turned towards, oriented towards; using = operating, working with; walking on = stepping on, moving across;
walking to = heading to, going towards; walking away from = going away from, leaving behind; approaching = coming closer
to, getting nearer to; moving away from = receding from, getting further from; following = going after, trailing;
passing by = going past; turning to = rotating towards; picking up = grabbing, taking up; putting down = setting down,
placing; giving to = handing to; taking from = receiving from; pushing = shoving; pulling = dragging; opening = swinging
open; closing = shutting; throwing = tossing; catching = intercepting; kicking = booting; cleaning = wiping, scrubbing;
playing with = toying with; reading = studying; typing on = writing on; drinking from = sipping from; pouring into =
filling; stirring = mixing; eating = having a bite of; talking to = chatting with, speaking with; sitting down on =
taking a seat on; standing up from = rising from, getting up from; falling from = dropping from, tumbling from
"""


def other_words(words: Iterable[str], vocabulary: Vocabulary) -> dict[str, tuple[str, ...]]:
    """Of classes and predicates their other names: the vocabulary's synonyms, and the phrases above. A word that has
    none is left out."""
    found = {c.name: c.synonyms for c in vocabulary.classes} | _predicates()
    return {word: found[word] for word in words if found.get(word)}


def draw_wording(others: Mapping[str, tuple[str, ...]], share: float, generator: torch.Generator) -> dict[str, str]:
    """For each word the name that it goes by this time; those that go by their own are left out."""
    changed = torch.rand(len(others), generator=generator) < share
    which = torch.rand(len(others), generator=generator)
    return {
        word: names[int(place * len(names))]
        for (word, names), yes, place in zip(others.items(), changed.tolist(), which.tolist(), strict=True)
        if yes
    }


def _predicates() -> dict[str, tuple[str, ...]]:
    entries = (entry.split(" = ") for entry in " ".join(_PREDICATES.split()).split("; "))
    return {predicate: tuple(names.split(", ")) for predicate, names in entries}
