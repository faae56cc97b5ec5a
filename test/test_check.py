"""``psg4d check``: what convolves here, and which of the two kernels for GPUs would."""

from __future__ import annotations

import pytest
import torch

from psg4d_ros.environment import Item, check_environment
from psg4d_ros.model import spconv_kernel, triton_kernel
from psg4d_ros.model.sparse_encoder import Columns, SpconvPairs, prepare

on_a_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
TABLE = torch.ones(1, 27, dtype=torch.int64)


def item(name: str) -> Item:
    (found,) = (i for i in check_environment() if i.name == name)
    return found


@on_a_cpu
def test_without_a_gpu_the_triton_kernel_is_unused_which_is_no_fault() -> None:
    triton = item("Triton kernel")
    assert not triton.ok
    assert triton.optional
    assert "on a CPU the pure-torch form is used" in triton.found
    assert "a C compiler" in triton.remedy


def test_a_wrong_switch_is_told_and_not_raised(monkeypatch) -> None:
    monkeypatch.setenv(triton_kernel.SWITCH, "on")
    triton = item("Triton kernel")
    assert not triton.ok
    assert "PSG4D_TRITON is 'on', expected 'auto' or 'off'" in triton.found


@on_a_cpu
def test_spconv_is_unused_without_a_gpu_or_not_installed() -> None:
    spconv = item("spconv")
    assert spconv.optional
    assert spconv.found.endswith("unused without a GPU") if spconv.ok else spconv.found.startswith("unused: ")
    assert spconv.ok or "on which the Triton kernel does not serve" in spconv.remedy


def test_where_the_triton_kernel_serves_spconv_is_not_called(monkeypatch) -> None:
    monkeypatch.setattr(triton_kernel, "obstacle", lambda device: "")
    monkeypatch.setattr(spconv_kernel, "obstacle", lambda device: pytest.fail("it has nothing to do"))
    monkeypatch.setattr(spconv_kernel, "installed_wheel", lambda: "spconv-cu126 2.3.8")
    triton, spconv = item("Triton kernel"), item("spconv")
    assert triton.ok
    assert triton.found == "convolves on the GPU, in training and for inference"
    assert spconv.ok
    assert spconv.found == "spconv-cu126 2.3.8, unused: the Triton kernel serves"


@pytest.mark.gpu
@on_a_gpu
def test_it_names_the_form_that_prepare_chooses() -> None:
    form = prepare(TABLE.cuda())
    assert item("Triton kernel").ok == isinstance(form, Columns)
    assert item("spconv").found.endswith("trains on the GPU") == isinstance(form, SpconvPairs)
