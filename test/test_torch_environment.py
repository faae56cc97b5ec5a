"""What is set before torch works: the memory that products of ever new shapes leave behind."""

import os
import subprocess
import sys

import pytest
import torch

from psg4d_ros.torch_environment import prepare_torch

_PRODUCTS = """
import sys
if sys.argv[1] == "prepared":
    from psg4d_ros.torch_environment import prepare_torch
    prepare_torch()
import torch
from psg4d_ros.evaluation.memory import resident_mb
torch.set_num_threads(1)
weight, rows = torch.randn(1536, 576, dtype=torch.bfloat16), torch.randn(900, 576, dtype=torch.bfloat16)
torch.nn.functional.linear(rows, weight)
start = resident_mb()
for count in range(100, 800):
    torch.nn.functional.linear(rows[:count], weight)
print(resident_mb() - start)
"""
_SETTINGS = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def growth_mb(how: str) -> float:
    environment = {k: v for k, v in os.environ.items() if k not in _SETTINGS}
    command = [sys.executable, "-c", _PRODUCTS, how]
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no products of bfloat16 on this CPU"
)
def test_products_of_past_shapes_are_forgotten():
    assert growth_mb("prepared") < 0.6 * growth_mb("as it is")


def test_values_of_the_user_win(monkeypatch):
    for name in _SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "8")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    prepare_torch()
    assert os.environ["LRU_CACHE_CAPACITY"] == "8"
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "64"
    assert "GOMP_SPINCOUNT" not in os.environ
