"""The set-up of a checkout: plain one-line errors, nothing done twice, nothing half-made accepted."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = Path("scripts") / "setup_checkout.py"
USABLE = sys.version_info[:2] in ((3, 10), (3, 11), (3, 12)) and sys.platform == "linux"
pytestmark = pytest.mark.skipif(not USABLE, reason="the set-up is for Linux and Python 3.10 to 3.12")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the set-up reads, so that it cannot touch the real `.venv`."""
    for name in ("scripts", "requirements", "msg", "srv", "cmake"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "package.xml", "CMakeLists.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def refusal(command: list[str], cwd: Path, **variables: str) -> str:
    """The one line that a refused set-up says; it must have left nothing behind."""
    answer = subprocess.run(
        command, cwd=cwd, env={**os.environ, **variables}, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert answer.returncode != 0
    lines = [line for line in answer.stderr.strip().splitlines() if not re.match(r"make(\[\d+\])?: ", line)]
    assert len(lines) == 1, answer.stderr
    assert lines[0].startswith("setup: ")
    assert not (cwd / ".venv").exists()
    return lines[0]


def with_changed(python: str, checkout: Path) -> list[str]:
    """Command that runs the set-up after the statement ``python``: stands for a machine that is different."""
    code = f"import sys, runpy; {python}; runpy.run_path({str(checkout / SCRIPT)!r}, run_name='__main__')"
    return [sys.executable, "-c", code]


@pytest.mark.parametrize("version", ["(3, 6, 9)", "(3, 9, 18)", "(3, 13, 0)"])
def test_wrong_python_is_named(checkout: Path, version: str) -> None:
    said = refusal(with_changed(f"sys.version_info = {version}", checkout), checkout)
    assert "3.10, 3.11 or 3.12 is needed" in said
    assert "make PYTHON=" in said


def test_python_that_is_not_there_is_named(checkout: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("no make")
    said = refusal(["make", "demo", "PYTHON=python-that-is-not-there"], checkout)
    assert "python-that-is-not-there not found" in said


def test_missing_compiler_is_named(checkout: Path, tmp_path: Path) -> None:
    assert "apt-get install g++" in refusal(
        with_changed("sys.argv = ['setup']", checkout), checkout, PATH=str(tmp_path)
    )
    assert "no-such-compiler" in refusal([sys.executable, str(SCRIPT)], checkout, CXX="no-such-compiler -O2", CC="true")


def test_missing_venv_module_is_named(checkout: Path) -> None:
    hide = (
        "import importlib.util as u; find = u.find_spec; u.find_spec = lambda n: None if n == 'ensurepip' else find(n)"
    )
    assert "apt-get install python3-venv" in refusal(with_changed(hide, checkout), checkout, CC="true", CXX="true")


def test_other_platform_is_named(checkout: Path) -> None:
    said = refusal(with_changed("import platform; platform.machine = lambda: 'aarch64'", checkout), checkout)
    assert "aarch64" in said
    assert "colcon" in said


def test_too_little_space_is_named(checkout: Path) -> None:
    command = [sys.executable, str(SCRIPT)]
    said = refusal(command, checkout, PSG4D_NEEDED_GB="1000000", CC="true", CXX="true")
    assert "1000000 GB are needed" in said


def test_unknown_wheels_are_named(checkout: Path) -> None:
    said = refusal([sys.executable, str(SCRIPT), "--wheels", "foxy"], checkout, CC="true", CXX="true")
    assert "ROS_WHEELS=foxy is not one of jazzy, kilted" in said


@pytest.fixture
def setup(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module; instead of running pip, CMake and venv it notes them in ``setup.calls``."""
    spec = importlib.util.spec_from_file_location("setup_checkout", checkout / SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.calls, module.failing = [], None

    def run(command: list[str], what: str, shown: tuple[str, ...] = ()) -> None:
        module.calls.append(what)
        if what == module.failing:
            raise module.SetupError(f"{what} failed")
        if what == "pip":
            for folder in (module.SITE_PACKAGES / "torch", module.VENV / "build" / "messages"):
                folder.mkdir(parents=True, exist_ok=True)

    def make(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        module.calls.append("venv")
        (module.SITE_PACKAGES / "pip").mkdir(parents=True, exist_ok=True)
        (module.SITE_PACKAGES / "pip" / "__main__.py").touch()
        module.PYTHON.parent.mkdir()
        module.PYTHON.touch()
        if module.failing == "venv":
            raise KeyboardInterrupt
        return subprocess.CompletedProcess(command, 0)

    def build_done(path: Path, **_: object) -> None:
        if Path(path).exists():
            real_rmtree(path)

    real_rmtree = shutil.rmtree
    monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(module.subprocess, "run", make)
    monkeypatch.setattr(module.shutil, "rmtree", build_done)
    monkeypatch.setattr(module, "NEEDED_BYTES", 0)
    monkeypatch.setattr(module, "check_machine", lambda: None)
    monkeypatch.setattr(sys, "argv", ["setup_checkout.py"])
    return module


def calls(setup: ModuleType) -> list[str]:
    """What one run of the set-up does."""
    setup.calls.clear()
    assert setup.main() == 0
    return list(setup.calls)


MESSAGES = ["cmake-configure", "cmake-build", "cmake-install"]
PACKAGES = ["pip", "pip-no-deps"]


def test_second_run_does_nothing(setup: ModuleType) -> None:
    assert calls(setup) == ["venv", *PACKAGES, *MESSAGES]
    assert calls(setup) == []


def test_change_repeats_only_what_depends_on_it(setup: ModuleType, checkout: Path) -> None:
    calls(setup)
    with open(checkout / "msg" / "Relation.msg", "a") as file:
        file.write("uint8 more # a new field\n")
    assert calls(setup) == MESSAGES
    with open(checkout / "requirements" / "lock-kilted.txt", "a") as file:
        file.write("more==1.0\n")
    assert calls(setup) == [*PACKAGES, *MESSAGES]
    setup.sys.argv = ["setup_checkout.py", "--wheels", "jazzy"]
    assert calls(setup) == ["venv", *PACKAGES, *MESSAGES]


@pytest.mark.parametrize("step", [*PACKAGES, *MESSAGES])
def test_interrupted_step_is_repeated(setup: ModuleType, step: str) -> None:
    setup.failing = step
    with pytest.raises(SystemExit, match=f"setup: {step} failed"):
        setup.main()
    setup.failing = None
    assert step in calls(setup)
    assert calls(setup) == []


def test_interrupted_environment_is_made_anew(setup: ModuleType) -> None:
    setup.failing = "venv"
    with pytest.raises(SystemExit, match="interrupted; the same command goes on from here"):
        setup.main()
    setup.failing = None
    assert calls(setup)[0] == "venv"
    assert calls(setup) == []


def test_half_made_environment_is_made_anew(setup: ModuleType) -> None:
    (setup.VENV / "bin").mkdir(parents=True)
    setup.PYTHON.touch()  # as if stopped before pip was in it
    assert calls(setup)[0] == "venv"


def test_whole_environment_made_by_hand_is_kept(setup: ModuleType) -> None:
    setup.subprocess.run(["venv"])
    marker = setup.VENV / "by hand"
    marker.touch()
    assert calls(setup) == [*PACKAGES, *MESSAGES]
    assert marker.exists()


def test_packages_that_an_interrupted_pip_left_incomplete_are_forgotten(setup: ModuleType) -> None:
    setup.failing = "pip"
    with pytest.raises(SystemExit):
        setup.main()
    sizes = {"whole": 3, "cut": 5, "absent": None}
    for name, size in sizes.items():
        metadata = setup.SITE_PACKAGES / f"{name}-1.0.dist-info"
        metadata.mkdir()
        metadata.joinpath("RECORD").write_text(f"{name}.py,sha256=x,3\n{name}-1.0.dist-info/RECORD,,\n")
        if size is not None:
            (setup.SITE_PACKAGES / f"{name}.py").write_text("x" * size)
    (setup.SITE_PACKAGES / "unrecorded-1.0.dist-info").mkdir()
    setup.failing = None
    calls(setup)
    assert {p.name for p in setup.SITE_PACKAGES.glob("*.dist-info")} == {"whole-1.0.dist-info"}
