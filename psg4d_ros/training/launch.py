"""One training in one process or several: on GPUs of their own, on one that they share, or on a CPU.

A step of this model is bound by how fast Python starts kernels, not by the GPU: several processes that share a GPU
train faster than one. They exchange gradients through the host then, because NCCL wants a GPU for each process.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from psg4d_ros.errors import ConfigError
from psg4d_ros.runtime.devices import avoid_cudnn_attention

if TYPE_CHECKING:
    from accelerate import Accelerator


def accelerator() -> Accelerator:
    """For the process that this is, as torchrun or ``accelerate launch`` started it. Raises ConfigError without the
    extra [train]."""
    try:
        from accelerate import Accelerator
        from accelerate.utils import InitProcessGroupKwargs
    except ImportError as error:
        raise ConfigError(f"training needs the extra [train]: pip install accelerate tensorboard ({error})") from error
    avoid_cudnn_attention()
    group = InitProcessGroupKwargs(timeout=timedelta(hours=12))  # the first process simulates while the others wait
    if 0 < torch.cuda.device_count() < local_processes():
        group.backend = "gloo"
    return Accelerator(mixed_precision="bf16" if torch.cuda.is_available() else "no", kwargs_handlers=[group])


def local_processes() -> int:
    """How many processes of this training there are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def wait_for_all() -> None:
    """Until every process of the training is here. Accelerate's own wait names a GPU for each process."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
