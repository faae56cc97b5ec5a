"""Checkpoint folder <-> model.

A checkpoint is a folder: config.json (ModelConfig), vocabulary.json, weights-*.safetensors (half precision, each at
most 16 MiB), manifest.json (SHA-256 of every other file and how the weights came to be) and MODEL_CARD.md. The language
model's base weights are not in it, only what was trained on top; the manifest pins the base file's SHA-256.
Nothing here reads pickle.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psg4d_ros.config import ModelConfig, from_dict, to_dict
from psg4d_ros.errors import CheckpointError, ConfigError
from psg4d_ros.model.base_weights import file_sha256
from psg4d_ros.version import share_directory
from psg4d_ros.vocabulary import Vocabulary

if TYPE_CHECKING:
    import torch

    from psg4d_ros.model.psg4d import PSG4D

FORMAT_VERSION = 1
MAX_SHARD_BYTES = 16 * 2**20
MANIFEST = "manifest.json"
CONFIG = "config.json"
VOCABULARY = "vocabulary.json"
# Formats that execute code when they are read; a folder that holds one is refused even if nothing would open it.
PICKLE_SUFFIXES = {".bin", ".ckpt", ".pkl", ".pickle", ".pt", ".pth", ".joblib", ".npy"}


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself.

    files: name -> SHA-256. base_model: where the language model comes from and the SHA-256 of its file ("" where the
    configuration does not pin it). training: seeds, data, minutes, hardware, or {}.
    """

    model_id: str
    trained: bool
    files: dict[str, str]
    base_model: dict[str, str]
    format_version: int = FORMAT_VERSION
    training: dict[str, Any] = field(default_factory=dict)


def default_checkpoint() -> Path:
    """The checkpoint that ships with the code that is running. Raises CheckpointError where it was not installed."""
    folder = share_directory() / "models" / "psg4d-small"
    if not (folder / MANIFEST).is_file():
        raise CheckpointError(f"no shipped checkpoint at {folder}; name one with --checkpoint (parameter `checkpoint`)")
    return folder


def read_manifest(folder: Path) -> Manifest:
    """Parse manifest.json. Raises CheckpointError when it is missing, not JSON, incomplete or of another version."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise CheckpointError(f"checkpoint {folder} is not a folder")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {folder} has no {MANIFEST}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    try:
        manifest = Manifest(**values)
    except TypeError as error:
        raise CheckpointError(f"{path} does not have the manifest's fields: {error}") from error
    if type(manifest.trained) is not bool or not isinstance(manifest.model_id, str):
        raise CheckpointError(
            f"{path}: trained is {manifest.trained!r}, expected true or false, with a text as model_id"
        )
    for name, table in (("files", manifest.files), ("base_model", manifest.base_model)):
        if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
            raise CheckpointError(f"{path}: {name} is {table!r}, expected a table of texts")
    if manifest.format_version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format_version {manifest.format_version}, this release reads {FORMAT_VERSION}"
        )
    return manifest


def verify(folder: Path) -> Manifest:
    """Check every file of a checkpoint against its manifest, before anything of it is used.

    Raises CheckpointError for a missing file, a wrong hash, a file outside the folder, or any pickle in the folder.
    """
    manifest = read_manifest(folder)
    for stray in sorted(folder.iterdir()):
        if stray.suffix in PICKLE_SUFFIXES:
            raise CheckpointError(f"{stray} may hold pickled code; a checkpoint holds only safetensors, JSON and text")
    for required in (CONFIG, VOCABULARY):
        if required not in manifest.files:
            raise CheckpointError(f"{folder / MANIFEST} does not list {required}")
    for name, expected in manifest.files.items():
        path = folder / name
        if Path(name).name != name or path.suffix in PICKLE_SUFFIXES:
            raise CheckpointError(
                f"{folder / MANIFEST} lists {name!r}; only plain file names of safe formats are allowed"
            )
        if not path.is_file():
            raise CheckpointError(f"checkpoint file {path} is missing; fetch the checkpoint again")
        found = file_sha256(path)
        if found != expected:
            raise CheckpointError(
                f"{path} has SHA-256 {found[:12]}..., the manifest says {expected[:12]}...; it was altered"
            )
    return manifest


def load_checkpoint(folder: Path, device: torch.device, dtype: torch.dtype | None = None) -> PSG4D:
    """Verify a checkpoint and build its model in evaluation mode, on ``device``.

    dtype: of the language model; None takes the fastest that keeps the answers on that device. All other parts compute
    in float32. Raises CheckpointError when the folder or the language model's files are not what they should be.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from psg4d_ros.model.language_model import LanguageModel
    from psg4d_ros.model.psg4d import PSG4D

    manifest = verify(folder)
    try:
        config = from_dict(ModelConfig, json.loads((folder / CONFIG).read_text(encoding="utf-8")), CONFIG)
        vocabulary = Vocabulary.load(folder / VOCABULARY)
    except (ValueError, ConfigError) as error:
        raise CheckpointError(f"checkpoint {folder} holds a configuration that cannot be used: {error}") from error
    if manifest.base_model != _base_model(config):
        raise CheckpointError(
            f"{folder}: the manifest pins {manifest.base_model}, {CONFIG} names {_base_model(config)}"
        )
    language_model = LanguageModel.load(config.language_model, device, dtype)
    model = PSG4D(config, vocabulary, language_model)
    weights: dict[str, torch.Tensor] = {}
    for name in sorted(n for n in manifest.files if n.endswith(".safetensors")):
        try:
            weights.update(load_file(folder / name))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{folder / name} is not a readable safetensors file: {error}") from error
    trained = model.trained_state()
    if missing := sorted(trained.keys() - weights.keys()):
        raise CheckpointError(f"{folder} lacks {len(missing)} tensors the model needs, first {missing[0]!r}")
    if unknown := sorted(weights.keys() - trained.keys()):
        raise CheckpointError(f"{folder} holds {len(unknown)} tensors the model does not have, first {unknown[0]!r}")
    for name, tensor in weights.items():
        if tensor.shape != trained[name].shape:
            raise CheckpointError(
                f"{name} has shape {list(tensor.shape)}, config.json asks for {list(trained[name].shape)}"
            )
    model.load_state_dict({name: t.to(trained[name].dtype) for name, t in weights.items()}, strict=False)
    return model.to(device).eval()


def save_checkpoint(
    folder: Path, model: PSG4D, *, model_id: str, trained: bool, card: str, training: dict[str, Any] | None = None
) -> Manifest:
    """Write ``model`` as a checkpoint folder, whole or not at all: built beside ``folder``, then renamed into place.

    card: text of MODEL_CARD.md. Weights are stored in half precision. Returns the manifest written.
    """
    import torch
    from safetensors.torch import save_file

    folder.parent.mkdir(parents=True, exist_ok=True)
    with _new_folder(folder) as temporary:
        for number, shard in enumerate(_shards(model.trained_state())):
            half = {
                n: t.detach().to("cpu", torch.float16 if t.is_floating_point() else t.dtype).contiguous()
                for n, t in shard.items()
            }
            save_file(half, temporary / f"weights-{number:02d}.safetensors")
        (temporary / CONFIG).write_text(json.dumps(to_dict(model.config), indent=2) + "\n", encoding="utf-8")
        model.vocabulary.save(temporary / VOCABULARY)
        (temporary / "MODEL_CARD.md").write_text(card, encoding="utf-8")
        files = {p.name: file_sha256(p) for p in sorted(temporary.iterdir())}
        manifest = Manifest(model_id, trained, files, _base_model(model.config), FORMAT_VERSION, training or {})
        (temporary / MANIFEST).write_text(json.dumps(manifest.__dict__, indent=2) + "\n", encoding="utf-8")
        for path in temporary.iterdir():
            path.chmod(0o644)  # safetensors writes private files; a checkpoint is read by other users, too
    return manifest


def manifest_sha256(folder: Path) -> str:
    """The hash that names a checkpoint as a whole: the manifest lists the hash of every other file."""
    return file_sha256(folder / MANIFEST)


def _base_model(config: ModelConfig) -> dict[str, str]:
    return {"source": config.language_model.source, "sha256": config.language_model.sha256}


def _shards(state: dict[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """Split a state dict into parts that stay under MAX_SHARD_BYTES in half precision, in name order."""
    shard: dict[str, torch.Tensor] = {}
    size = 0
    for name in sorted(state):
        # 2 bytes a number, and room for the header's entry.
        cost = state[name].numel() * max(2, 0 if state[name].is_floating_point() else state[name].element_size()) + 256
        if shard and size + cost > MAX_SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = state[name]
        size += cost
    if shard:
        yield shard


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A temporary sibling that takes ``folder``'s place when the block ends without an error."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    os.chmod(temporary, 0o755)
    try:
        yield temporary
        if folder.exists():
            old = folder.with_name(f".{folder.name}-old")
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
            temporary.rename(folder)
            shutil.rmtree(old)
        else:
            temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
