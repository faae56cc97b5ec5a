"""Training by spconv: the same numbers and gradients as the pure-torch forms, and when it is chosen.

Parity runs where a wheel spconv-cuNNN is installed: on the CPU, which multiplies the same pairs, and on a GPU.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from psg4d_ros.config import EncoderConfig
from psg4d_ros.errors import ConfigError
from psg4d_ros.model import sparse_encoder, spconv_kernel, triton_kernel
from psg4d_ros.model.sparse_encoder import Pairs, SparseEncoder, gather_matmul, prepare
from psg4d_ros.model.spconv_kernel import SWITCH, SpconvPairs, installed_wheel, obstacle, worst_error
from psg4d_ros.runtime.rulebook import build_rulebook

try:
    WHY_NOT = "" if installed_wheel() else "unreachable"
except ConfigError as error:
    WHY_NOT = str(error)
needs_spconv = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
gpu = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")])
devices = pytest.mark.parametrize("device", ["cpu", gpu])


def scattered(count: int, size: int) -> Tensor:
    """``count`` distinct voxels of a cube of ``size``, in random order."""
    flat = torch.randperm(size**3, generator=torch.Generator().manual_seed(0))[:count]
    return torch.stack((flat // size**2, flat // size % size, flat % size), dim=1).int()


def convolution_tables(count: int = 600, size: int = 12) -> dict[int, Tensor]:
    """By kernel size: the table of a submanifold convolution, and that of the down-sampling."""
    levels = build_rulebook(scattered(count, size), 2).levels
    assert levels[1].children is not None
    return {27: levels[0].neighbours, 8: levels[1].children}


def encoder_arguments(coords: Tensor, num_levels: int, device: str) -> tuple[list[Tensor], ...]:
    levels = build_rulebook(coords.to(device), num_levels).levels
    above = levels[1:]
    return (
        [v.neighbours for v in levels],
        [v.children for v in above if v.children is not None],
        [v.parent for v in above if v.parent is not None],
        [v.cell for v in above if v.cell is not None],
    )


def relative(got: Tensor, expected: Tensor) -> float:
    return ((got - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("kernel", [27, 8])
def test_its_pairs_are_the_entries_of_the_table(kernel: int) -> None:
    table = convolution_tables()[kernel]
    form = SpconvPairs.of(table)
    assert form.pairs.dtype == form.counts.dtype == torch.int32 and form.num_outputs == len(table)
    rebuilt = torch.zeros_like(table)
    for k, count in enumerate(form.counts.tolist()):
        inputs, outputs = form.pairs[:, k, :count].long()
        assert len(inputs.unique()) == len(outputs.unique()) == count  # on a GPU nothing collides
        rebuilt[outputs, k] = inputs + 1
    assert torch.equal(rebuilt, table)


@needs_spconv
@devices
@pytest.mark.parametrize("kernel", [27, 8])
def test_all_forms_of_a_table_give_the_same_numbers_and_gradients(kernel: int, device: str) -> None:
    table, chance = convolution_tables()[kernel], torch.Generator().manual_seed(1)
    features = torch.randn(600, 11, generator=chance).to(device).requires_grad_()
    weight = torch.randn(kernel, 11, 32, generator=chance).to(device).requires_grad_()
    cotangent = torch.randn(len(table), 32, generator=chance).to(device)
    results = []
    for form in (table.to(device), Pairs.of(table.to(device)), SpconvPairs.of(table.to(device))):
        out = gather_matmul(features, form, weight, symmetric=kernel == 27)
        results.append((out, *torch.autograd.grad(out, (features, weight), cotangent)))
    for other in results[:2]:
        for name, got, expected in zip(("out", "features", "weight"), results[2], other, strict=True):
            assert relative(got, expected) < 1e-5, name


@needs_spconv
@pytest.mark.parametrize("kernel", [27, 8])
def test_its_gradients_are_those_of_its_numbers(kernel: int) -> None:
    form = SpconvPairs.of(convolution_tables(40, 5)[kernel])
    features = torch.randn(40, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(kernel, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda f, w: gather_matmul(f, form, w, symmetric=kernel == 27), (features, weight), fast_mode=True
    )


@needs_spconv
@devices
def test_an_encoder_learns_the_same_through_it(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward, backward and one step of the whole encoder; the weights then serve every form."""
    torch.manual_seed(0)
    plain = SparseEncoder(EncoderConfig(channels=(8, 12, 16)), 11).to(device)
    by_spconv = copy.deepcopy(plain)
    features, arguments = torch.randn(600, 11).to(device), encoder_arguments(scattered(600, 12), 3, device)
    with monkeypatch.context() as patch:  # on a CPU it has to be asked for; on a GPU it is the second choice
        patch.setattr(triton_kernel, "serves", lambda device: False)
        if device == "cpu":
            patch.setattr(sparse_encoder, "prepare", SpconvPairs.of)
        outputs = by_spconv(features, *arguments)
    with monkeypatch.context() as patch:
        patch.setattr(sparse_encoder, "prepare", lambda table: table)
        expected = plain(features, *arguments)
    for model, out in ((by_spconv, outputs), (plain, expected)):
        sum(o.square().mean() for o in out).backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    for got, wanted in zip(outputs, expected, strict=True):
        assert relative(got, wanted) < 1e-5
    for (name, got), wanted in zip(by_spconv.named_parameters(), plain.parameters(), strict=True):
        assert got.grad is not None and wanted.grad is not None and got.dtype == wanted.dtype == torch.float32
        assert relative(got.grad, wanted.grad) < 1e-4, name
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@needs_spconv
@devices
def test_under_autocast_it_computes_in_float32(device: str) -> None:
    table = convolution_tables()[27].to(device)
    features, weight = torch.randn(600, 8, device=device, requires_grad=True), torch.randn(27, 8, 16, device=device)
    weight.requires_grad_()
    exact = gather_matmul(features, SpconvPairs.of(table), weight, symmetric=True)
    with torch.autocast(device, torch.bfloat16):
        out = gather_matmul(features, SpconvPairs.of(table), weight, symmetric=True)
        half = gather_matmul(features.bfloat16(), SpconvPairs.of(table), weight, symmetric=True)
        out.sum().backward()  # autocast reaches into a backward pass that is called within it
    assert out.dtype == torch.float32 and relative(out, exact) < 1e-6
    assert half.dtype == torch.bfloat16 and relative(half.float(), exact) < 0.02
    assert weight.grad is not None and weight.grad.dtype == torch.float32


@needs_spconv
@pytest.mark.parametrize("voxels", [0, 1])
def test_clouds_without_neighbours_pass_through(voxels: int) -> None:
    table = build_rulebook(torch.zeros((voxels, 3), dtype=torch.int32), 1).levels[0].neighbours
    features, weight = torch.randn(voxels, 3, requires_grad=True), torch.randn(27, 3, 4, requires_grad=True)
    out = gather_matmul(features, SpconvPairs.of(table), weight, symmetric=True)
    out.sum().backward()
    torch.testing.assert_close(out, features @ weight[13])
    assert weight.grad is not None and bool(weight.grad.any()) == bool(voxels)


@needs_spconv
@devices
def test_the_trial_before_its_use_passes(device: str) -> None:
    assert worst_error(torch.device(device)) < 1e-4


# -- when it is chosen -------------------------------------------------------------------------------------------------


def installed(folder: Path, **versions: str) -> list[str]:
    """A folder of packages as pip leaves it behind, with their metadata only."""
    for name, version in versions.items():
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n")
    return [str(folder)]


@pytest.mark.parametrize("name", ["spconv_cu120", "spconv_cu126"])
def test_the_wheels_built_for_a_cuda_version_are_taken(name: str, tmp_path: Path) -> None:
    search = installed(tmp_path, **{name: "2.3.6", "spconv_triton": "1.0.0", "numpy": "2.0.0"})
    assert installed_wheel(search) == f"{name.replace('_', '-')} 2.3.6"


def test_the_cpu_build_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"spconv 2\.3\.8 is the build for CPUs.* pip uninstall spconv, then pip inst"
    ):
        installed_wheel(installed(tmp_path, spconv="2.3.8"))


def test_wheels_that_overwrite_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"spconv, spconv-cu120 are all installed and overwrite each other"):
        installed_wheel(installed(tmp_path, spconv="2.3.8", spconv_cu120="2.3.6"))


def test_without_a_wheel_the_message_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"spconv is not installed: pip install spconv-cu120"):
        installed_wheel(installed(tmp_path, numpy="2.0.0"))


def test_a_wheel_that_does_not_run_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here: its metadata without its module, for a GPU that may not be there either."""
    monkeypatch.setattr(sys, "path", installed(tmp_path, spconv_cu120="2.3.6"))
    monkeypatch.setitem(sys.modules, "spconv", None)
    spconv_kernel._import_ops.cache_clear()
    assert obstacle(torch.device("cuda")).startswith("spconv-cu120 2.3.6 does not run here (")


def test_on_a_cpu_pairs_multiply_and_without_a_usable_wheel_a_gpu_takes_the_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = convolution_tables()[27]
    assert isinstance(prepare(table), Pairs)
    monkeypatch.setenv(SWITCH, "off")
    spconv_kernel.serves.cache_clear()
    on_another_device = table.to("meta")
    assert prepare(on_another_device) is on_another_device


@needs_spconv
@pytest.mark.parametrize("device", [gpu])
def test_on_a_gpu_without_the_fused_kernel_it_trains_and_the_table_serves_where_no_gradients_are_wanted(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_kernel, "serves", lambda device: False)
    table = convolution_tables()[27].to(device)
    assert isinstance(prepare(table), SpconvPairs)
    with torch.no_grad():
        assert prepare(table) is table


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "off")
    assert obstacle(torch.device("cuda")) == "PSG4D_SPCONV is off"
    monkeypatch.setenv(SWITCH, "no")
    with pytest.raises(ConfigError, match=r"PSG4D_SPCONV is 'no', expected 'auto' or 'off'"):
        obstacle(torch.device("cuda"))
