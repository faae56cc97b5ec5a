"""Which device the model runs on, and in which numbers."""

from __future__ import annotations

import torch

from psg4d_ros.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """``auto`` = the first CUDA device if there is one, else the CPU; otherwise the device named. Attention by cuDNN is
    off in this process from then on.

    Raises ConfigError for a name that is no device, or a device this machine does not have.
    """
    avoid_cudnn_attention()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"inference.device is {name!r}, expected auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"inference.device is {name!r}; only cpu and cuda are supported")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"inference.device is {name!r}, this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def avoid_cudnn_attention() -> None:
    """Attention by torch's own kernels, in this process. cuDNN makes a plan for every shape that it has not seen, which
    takes 40 ms forward and as much backward on an H100; the shapes of windows never repeat."""
    torch.backends.cuda.enable_cudnn_sdp(False)


def language_model_dtype(name: str) -> torch.dtype | None:
    """The torch type of that name; None for ``auto``: whatever is fastest on the device."""
    return {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16}[name]
