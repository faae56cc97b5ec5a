"""Passes that are launched as one CUDA graph, so that a GPU does not wait for the CPU to launch each of their kernels.

A graph repeats exactly what was captured: the same kernels, sizes and addresses. So inputs are put into fixed buffers,
padded to one of a few sizes (buckets), and results are copied out of fixed buffers, cut to what is theirs. Padding
changes nothing: no token sees a padded one. Where capturing fails, everything runs kernel by kernel as without graphs.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from psg4d_ros.config import InferenceConfig
from psg4d_ros.model.language_model import KeyValueCache, LanguageModel
from psg4d_ros.model.prompt import prefix
from psg4d_ros.model.proposals import best_votes
from psg4d_ros.model.psg4d import PSG4D

log = logging.getLogger(__name__)
Tensors = tuple[Tensor, ...]
Function = Callable[..., Tensors]
# Runs a function on fixed buffers again; what it returns is overwritten by the next run.
Replay = Callable[[], Tensors]
Capture = Callable[[Function, Tensors], Replay]

# Passes are padded to multiples of these: the fewer sizes, the fewer captures, and earlier tokens that nobody sees cost
# less than new ones.
ROWS_STEP, PAST_STEP, VOTES_STEP = 128, 512, 4096
# Passes of more rows keep a GPU busy for longer than they take to launch; longer texts are rare.
MOST_ROWS, MOST_PAST, MOST_VOTES = 1024, 4096, 65_536
# Graphs of one pass, the last used; each holds some tens of MB, after the longest texts a hundred.
MOST_GRAPHS = 24
# Questions of turn 2 are rarely longer: 64 pairs and a list of some 40 objects.
USUAL_QUESTION = 512
# Answers in words: a step reads a token or two of each slot or pair, after a text that grows by some ten of each.
USUAL_STEP, USUAL_ANSWERS = 256, 2048
# Libraries choose kernels and reserve memory in the first runs, which must not happen while a graph is captured.
_RUNS_BEFORE_CAPTURE = 3


class GraphCapture:
    """Captures graphs on one GPU; all of them share one pool of memory, for only one runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._shared: tuple[Any, torch.cuda.Stream] | None = None

    def __call__(self, function: Function, inputs: Tensors) -> Replay:
        """A replay of ``function(*inputs)``, which must not depend on data in Python. Raises what CUDA does."""
        # The outer stream is set again on the way out, also where torch's own contexts fail to.
        with torch.cuda.device(self.device), torch.cuda.stream(torch.cuda.current_stream(self.device)):
            if self._shared is None:
                self._shared = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
            pool, side = self._shared
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(_RUNS_BEFORE_CAPTURE):
                    function(*inputs)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # Other threads (the one that voxelises) may allocate meanwhile.
            with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"):
                outputs = function(*inputs)

        def replay() -> Tensors:
            graph.replay()
            return outputs

        return replay


class StaticPass:
    """A function of tensors on fixed buffers, one set for each of the sizes last used.

    captures: how often one was captured. problem: why nothing is captured any more; empty while all is well.
    """

    def __init__(self, name: str, function: Function, capture: Capture, most: int = MOST_GRAPHS) -> None:
        """name: of what the function does, for the log."""
        self.name = name
        self.captures = 0
        self.problem = ""
        self._function = function
        self._capture = capture
        self._most = most
        self._kept: OrderedDict[tuple[int, ...], tuple[Tensors, Replay]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def run(
        self, size: tuple[int, ...], make: Callable[[], Tensors], fill: Callable[[Tensors], None]
    ) -> Tensors | None:
        """The function's result at a size; None when it could not be captured, now or earlier.

        make: new buffers of that size, with any values. fill: writes this run's inputs into them, all of it. The result
        lies in fixed buffers: copy what has to outlive the next run.
        """
        if self.problem:
            return None
        known = self._kept.get(size)
        if known is not None:
            self._kept.move_to_end(size)
            inputs, replay = known
            fill(inputs)
            return replay()
        try:
            inputs = make()
            fill(inputs)
            replay = self._capture(self._function, inputs)
            outputs = replay()
        except Exception as error:  # whatever it was, the same pass without a graph says it better
            self.problem = _cause(error)
            self._kept.clear()
            log.warning("no CUDA graph of %s, its kernels are launched one by one: %s", self.name, self.problem)
            return None
        self.captures += 1
        self._kept[size] = inputs, replay
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return outputs


class CapturedReading:
    """``LanguageModel.forward`` for one window, from graphs; stands in for it in SceneChain.reading_with and where
    answers are written, step by step. The cache of earlier tokens is copied into buffers of fixed size each time.

    Weights may change in place. They must not be replaced: graphs go on with those they were captured with.
    """

    def __init__(self, language_model: LanguageModel, capture: Capture, most: int = MOST_GRAPHS) -> None:
        self.language_model = language_model
        self.graphs = StaticPass("the language model", partial(_read, language_model), capture, most)

    @torch.inference_mode()
    def __call__(
        self, inputs_embeds: Tensor, attention_bias: Tensor, position_ids: Tensor, cache: KeyValueCache | None = None
    ) -> tuple[Tensor, KeyValueCache]:
        """See LanguageModel.forward. Several windows side by side, and very long texts, go there."""
        batch, length, _ = inputs_embeds.shape
        past = 0 if cache is None else cache.length
        size = _up(length, ROWS_STEP), _up(past, PAST_STEP)
        if batch == 1 and length > 0 and size[0] <= MOST_ROWS and size[1] <= MOST_PAST:
            earlier = _stacked(cache) if cache is not None and past else None

            def fill(buffers: Tensors) -> None:
                _fill(buffers, inputs_embeds, attention_bias, position_ids, earlier)

            found = self.graphs.run(size, lambda: self._buffers(size, earlier), fill)
            if found is not None:
                hidden, fresh = found
                fresh = fresh[:, :, :length]
                # Copies: the next run overwrites what this one found.
                whole = fresh.clone() if earlier is None else torch.cat([earlier, fresh], dim=2)
                return hidden[:, :length].clone(), _unstacked(whole)
        answer: tuple[Tensor, KeyValueCache] = self.language_model(inputs_embeds, attention_bias, position_ids, cache)
        return answer

    def warm_up(self, first: tuple[int, int], then: Sequence[tuple[int, int]]) -> None:
        """Capture passes of ``first`` (least, most) tokens; and for each (past, most) of ``then`` of up to so many
        tokens after so many earlier ones."""
        cache: KeyValueCache | None = None
        for tokens in _buckets(*first):
            cache = self._nothing(tokens, None)
        if cache is None:
            return
        shape = cache.layers[0][0].shape
        for past, most in then:
            empty = cache.layers[0][0].new_zeros(shape[0], shape[1], past, shape[3])
            earlier = KeyValueCache(tuple((empty, empty) for _ in cache.layers))
            for tokens in _buckets(1, most):
                self._nothing(tokens, earlier)

    def _nothing(self, tokens: int, cache: KeyValueCache | None) -> KeyValueCache:
        """Read tokens without a meaning, all of which see each other."""
        lm = self.language_model
        past = 0 if cache is None else cache.length
        x = torch.zeros(1, tokens, lm.hidden_size, device=lm.device)
        bias = torch.zeros(tokens, past + tokens, device=lm.device)
        return self(x, bias, torch.zeros(tokens, dtype=torch.int64, device=lm.device), cache)[1]

    def _buffers(self, size: tuple[int, int], earlier: Tensor | None) -> Tensors:
        (rows, past), lm = size, self.language_model
        x = torch.zeros(1, rows, lm.hidden_size, dtype=lm.dtype, device=lm.device)
        bias = torch.zeros(1, 1, rows, past + rows, dtype=lm.dtype, device=lm.device)
        positions = torch.zeros(1, rows, dtype=torch.int64, device=lm.device)
        if earlier is None:
            return x, bias, positions
        return x, bias, positions, earlier.new_zeros(*earlier.shape[:2], past, earlier.shape[3])


class CapturedVotes:
    """``best_votes`` for one window, from graphs: its loop launches a dozen small kernels for each of its rows."""

    def __init__(self, count: int, capture: Capture, most: int = MOST_GRAPHS) -> None:
        """count: how many rows are chosen; for another number best_votes itself is called."""
        self.count = count
        self.graphs = StaticPass("the choice of proposals", partial(_choose, count), capture, most)

    @torch.inference_mode()
    def __call__(self, score: Tensor, middle: Tensor, size: Tensor, count: int) -> Tensor:
        """See best_votes."""
        number = score.shape[-1] - 1
        padded = _up(number + 1, VOTES_STEP)
        if score.dim() == 1 and count == self.count and padded <= MOST_VOTES:

            def make() -> Tensors:
                return score.new_zeros(padded), middle.new_zeros(padded, 3), size.new_zeros(padded, 3)

            def fill(buffers: Tensors) -> None:
                # Padding stands between the votes and the last row, "nothing"; it scores as what was taken already.
                for buffer, values in zip(buffers, (score, middle, size), strict=True):
                    buffer[:number].copy_(values[:-1])
                    buffer[-1:].copy_(values[-1:])
                buffers[0][number:-1].fill_(-1.0)

            found = self.graphs.run((padded,), make, fill)
            if found is not None:
                return found[0].clamp(max=number)
        return best_votes(score, middle, size, count)

    def warm_up(self, most: int, device: torch.device) -> None:
        """Capture the choice among up to ``most`` votes."""
        for padded in range(VOTES_STEP, _up(most + 1, VOTES_STEP) + 1, VOTES_STEP):
            places = torch.zeros(padded, 3, device=device)
            self(torch.zeros(padded, device=device), places, places, self.count)


@dataclass(frozen=True, eq=False)
class CapturedParts:
    """What of a model runs from graphs."""

    reading: CapturedReading
    votes: CapturedVotes

    def warm_up(self, model: PSG4D, config: InferenceConfig) -> None:
        """Capture the sizes that windows usually have; those of the language model as far as ``config`` uses it."""
        decoder = model.config.decoder
        if decoder.proposals:
            self.votes.warm_up(decoder.max_keys, model.device)
        if config.use_language_model:
            text = prefix(model.language_model)
            least = len(text.head) + len(text.tail)
            most = least + model.config.language_model.max_scene_tokens
            first = least + decoder.num_slots, most + decoder.num_slots
            then = [(most, USUAL_QUESTION)]
            if config.decoding == "generate":
                grown = range(_up(first[0], PAST_STEP), USUAL_ANSWERS + 1, PAST_STEP)
                then += [(past, USUAL_STEP) for past in grown]
            self.reading.warm_up(first, then)


def captured_parts(model: PSG4D, capture: Capture) -> CapturedParts:
    """What can be captured of a model."""
    votes = CapturedVotes(model.config.decoder.proposals, capture)
    return CapturedParts(CapturedReading(model.language_model, capture), votes)


def _read(language_model: LanguageModel, x: Tensor, bias: Tensor, positions: Tensor, *earlier: Tensor) -> Tensors:
    """Hidden states, and keys and values of the new tokens alone, stacked."""
    past = earlier[0].shape[2] if earlier else 0
    hidden, cache = language_model(x, bias, positions, _unstacked(earlier[0]) if earlier else None)
    return hidden, torch.cat([part[:, :, past:] for layer in cache.layers for part in layer])


def _choose(count: int, score: Tensor, middle: Tensor, size: Tensor) -> Tensors:
    return (best_votes(score, middle, size, count),)


def _fill(buffers: Tensors, x: Tensor, bias: Tensor, positions: Tensor, earlier: Tensor | None) -> None:
    """Write a pass of L tokens after P earlier ones into buffers for more.

    Padded tokens see themselves alone, and nothing sees them. They are zeros, not leftovers: an infinite or undefined
    value counts even with weight 0.
    """
    length, rows = x.shape[1], buffers[0].shape[1]
    past = 0 if earlier is None else earlier.shape[2]
    padded_past = buffers[1].shape[3] - rows
    buffers[0][:, :length].copy_(x)
    buffers[0][:, length:].zero_()
    sees, table = bias.reshape(length, past + length), buffers[1][0, 0]
    table.fill_(float("-inf"))
    table[:length, :past].copy_(sees[:, :past])
    table[:length, padded_past : padded_past + length].copy_(sees[:, past:])
    table[length:, padded_past + length :].diagonal().zero_()
    buffers[2][:, :length].copy_(positions.reshape(1, length))
    if earlier is not None:
        buffers[3][:, :, :past].copy_(earlier)
        buffers[3][:, :, past:].zero_()


def _stacked(cache: KeyValueCache) -> Tensor:
    """[2 x layers, heads, L, head_dim] of one window's cache: keys, then values of each layer."""
    return torch.cat([part for layer in cache.layers for part in layer])


def _unstacked(stacked: Tensor) -> KeyValueCache:
    """The cache of one window that was stacked (views, nothing is copied)."""
    parts = stacked.split(1)
    return KeyValueCache(tuple(zip(parts[::2], parts[1::2], strict=True)))


def _cause(error: BaseException) -> str:
    """What went wrong first: ending a capture that failed is an error of its own, which says little."""
    while error.__context__ is not None:
        error = error.__context__
    return f"{type(error).__name__}: {error}"


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


def _buckets(least: int, most: int) -> range:
    """The sizes that passes of ``least`` to ``most`` tokens are padded to."""
    return range(_up(max(least, 1), ROWS_STEP), min(_up(most, ROWS_STEP), MOST_ROWS) + 1, ROWS_STEP)
