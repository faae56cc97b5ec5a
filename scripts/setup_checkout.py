"""Make this checkout ready to run: `.venv` with pinned packages, and in it the messages generated from msg/ and srv/.

Called by the Makefile. Each step leaves a stamp that holds a hash of all that went into it, written when the step is
complete: a finished step is skipped without touching the network, an interrupted or outdated one is done (again).
"""

import sys

PYTHONS = ((3, 10), (3, 11), (3, 12))
if sys.version_info[:2] not in PYTHONS:  # before anything that an older Python could not read
    sys.exit(
        f"setup: Python {sys.version_info[0]}.{sys.version_info[1]} cannot be used, 3.10, 3.11 or 3.12 is needed; "
        "if you have one: make PYTHON=python3.11 ..."
    )

import argparse
import csv
import fcntl
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMPS = VENV / ".psg4d"
PYTHON = VENV / "bin" / "python"
SITE_PACKAGES = VENV / "lib" / "python{}.{}".format(*sys.version_info[:2]) / "site-packages"
MESSAGES = VENV / "lib" / "psg4d_ros_messages"

# torch from PyPI brings the CUDA libraries: about 3 GB to download and 7 GB on disk.
NEEDED_BYTES = int(float(os.environ.get("PSG4D_NEEDED_GB", "10")) * 1e9)

# A sourced ROS installation, or another environment, must not leak into this one.
FOREIGN_VARIABLES = (
    "AMENT_PREFIX_PATH",
    "CMAKE_PREFIX_PATH",
    "COLCON_PREFIX_PATH",
    "LD_LIBRARY_PATH",
    "PYTHONHOME",
    "PYTHONPATH",
    "ROS_DISTRO",
    "_ROS_WHEELS_BOOTSTRAP_COMPLETE",
)


class SetupError(Exception):
    """What is missing or went wrong, and what to do, in one line."""


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


def check_machine() -> None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise SetupError(
            f"{sys.platform} on {platform.machine()} has no ROS 2 wheels (x86_64 Linux has); build with colcon instead"
        )
    libc, version = platform.libc_ver()
    if libc != "glibc" or tuple(int(n) for n in version.split(".")[:2]) < (2, 28):
        found = f"{libc} {version}".strip() or "another C library"
        raise SetupError(f"glibc 2.28 or newer is needed, found {found}; use Debian 10, Ubuntu 18.10 or newer")
    if " " in str(ROOT):
        raise SetupError(f"the path {str(ROOT)!r} holds a space, which the ROS 2 build tools refuse; move the checkout")
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise SetupError("this Python has no venv module; on Debian and Ubuntu: apt-get install python3-venv")
    for variable, name in (("CC", "cc"), ("CXX", "c++")):
        command = shlex.split(os.environ.get(variable, name))[0]
        if shutil.which(command) is None:
            raise SetupError(f"no C and C++ compiler ({command} not found); on Debian and Ubuntu: apt-get install g++")
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        raise SetupError("this Python lacks its C headers; on Debian and Ubuntu: apt-get install python3-dev")


def check_space() -> None:
    free = shutil.disk_usage(ROOT).free
    if free < NEEDED_BYTES:
        raise SetupError(
            f"{free / 1e9:.1f} GB free in {ROOT}, {NEEDED_BYTES / 1e9:.0f} GB are needed; free some, or set "
            "PSG4D_NEEDED_GB to less if your torch needs no CUDA libraries"
        )


def environment() -> "dict[str, str]":
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
    kept["PATH"] = f"{VENV / 'bin'}{os.pathsep}{kept.get('PATH', os.defpath)}"
    kept["AMENT_PREFIX_PATH"] = kept["CMAKE_PREFIX_PATH"] = str(VENV)
    return kept


def run(command: "list[str]", what: str, shown: "tuple[str, ...]" = ()) -> None:
    """Run ``command`` with its output in a log; lines that hold one of ``shown`` are printed, too."""
    log = STAMPS / f"{what}.log"
    last = ""
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        try:
            for raw in process.stdout:
                line = raw.decode("utf-8", "replace").rstrip()
                file.write(line + "\n")
                if "error" in line.lower() or not last:
                    last = line.strip() or last
                if any(word in line for word in shown):
                    say("  " + line.strip()[:120])
        except BaseException:
            process.terminate()
            process.wait()
            raise
        if process.wait() != 0:
            raise SetupError(f"{what} failed: {last} (all of it: {log})")


def digest(parts: "list[str | Path]") -> str:
    """Hash of texts and of the names and contents of files."""
    found = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else b""
        name = str(part.relative_to(ROOT)) if isinstance(part, Path) else part
        found.update(f"{name}\0{len(data)}\0".encode() + data)
    return found.hexdigest()


def is_done(step: str, key: str) -> bool:
    stamp = STAMPS / step
    return stamp.is_file() and stamp.read_text(encoding="utf-8").strip() == key


def mark_done(step: str, key: str) -> None:
    # Renamed into place: a stamp is whole or absent.
    temporary = STAMPS / f"{step}.new"
    temporary.write_text(key + "\n", encoding="utf-8")
    os.replace(temporary, STAMPS / step)


def mark_undone(step: str) -> None:
    (STAMPS / step).unlink(missing_ok=True)


def make_venv(wheels: str) -> str:
    """Create `.venv`; an existing one is deleted only if it is of another Python, other wheels or another place."""
    key = f"Python {sys.version_info[0]}.{sys.version_info[1]} of {sys.base_prefix}, {wheels} wheels, in {VENV}"
    whole = (SITE_PACKAGES / "pip" / "__main__.py").is_file() and PYTHON.exists()
    whole = whole and not is_done("venv-was-begun", "yes")  # and not ended
    if whole and is_done("venv", key):
        return key
    stamp = STAMPS / "venv"
    # One that was made by hand has no stamp: it is kept if it is whole.
    if not whole or stamp.is_file():
        check_space()
        if VENV.exists():
            was = stamp.read_text(encoding="utf-8").strip() if stamp.is_file() else "incomplete"
            say(f"making {VENV.name} anew: it was {was}; now {key}")
        else:
            say(f"creating {VENV.name} with Python {platform.python_version()}")
        shutil.rmtree(VENV, ignore_errors=True)
        STAMPS.mkdir(parents=True)
        mark_done("venv-was-begun", "yes")
        answer = subprocess.run(
            [sys.executable, "-m", "venv", str(VENV)], env=environment(), capture_output=True, text=True, check=False
        )
        if answer.returncode != 0:
            reason = (answer.stderr or answer.stdout).strip().splitlines()
            raise SetupError(f"python -m venv failed: {reason[-1] if reason else 'without a reason'}")
        mark_undone("venv-was-begun")
    STAMPS.mkdir(exist_ok=True)
    mark_done("venv", key)
    return key


def drop_broken_distributions() -> None:
    """Forget packages that an interrupted pip left incomplete, so that pip installs them anew.

    pip takes a package for installed as soon as its metadata lie there, even if it was killed before the rest followed.
    """
    for leftover in SITE_PACKAGES.glob("~*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for metadata in SITE_PACKAGES.glob("*.dist-info"):
        try:
            with open(metadata / "RECORD", encoding="utf-8", newline="") as file:
                rows = [row for row in csv.reader(file) if len(row) == 3 and row[2] and not row[0].endswith(".pyc")]
            complete = bool(rows) and all((SITE_PACKAGES / name).stat().st_size == int(size) for name, _, size in rows)
        except (OSError, ValueError, csv.Error):
            complete = False
        if not complete:
            say(f"  {metadata.name} is incomplete: it will be installed again")
            shutil.rmtree(metadata)


def install_packages(wheels: str, parent: str) -> str:
    lock = ROOT / "requirements" / f"lock-{wheels}.txt"
    no_deps = [ROOT / "requirements" / name for name in ("no-deps.txt", "no-deps-dev.txt")]
    key = digest([parent, lock, *no_deps])
    if is_done("packages", key):
        return key
    mark_undone("packages")
    if not (SITE_PACKAGES / "torch").is_dir():
        check_space()
    if is_done("pip-was-begun", "yes"):  # and not ended
        drop_broken_distributions()
    mark_done("pip-was-begun", "yes")
    count = sum(1 for line in lock.read_text(encoding="utf-8").splitlines() if "==" in line)
    say(f"installing {count} pinned packages from {lock.relative_to(ROOT)}; the first time this takes some minutes")
    pip = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    run([*pip, "-r", str(lock)], "pip", shown=(" MB)", "Building wheel", "Installing collected"))
    files = [argument for file in no_deps for argument in ("-r", str(file))]
    run([*pip, "--no-deps", *files], "pip-no-deps", shown=(" MB)",))
    mark_undone("pip-was-begun")
    mark_done("packages", key)
    return key


def build_messages(parent: str) -> None:
    sources = [*ROOT.glob("msg/*.msg"), *ROOT.glob("srv/*.srv"), *ROOT.glob("cmake/*.cmake")]
    sources += [ROOT / "CMakeLists.txt", ROOT / "package.xml"]
    key = digest([parent, *sorted(sources)])
    if is_done("messages", key):
        return
    mark_undone("messages")
    say("generating and compiling the messages (under a minute)")
    build = VENV / "build" / "messages"
    shutil.rmtree(build, ignore_errors=True)
    cmake = str(VENV / "bin" / "cmake")
    options = {
        "BUILD_TESTING": "OFF",
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_INSTALL_PREFIX": str(VENV),
        "PSG4D_INTERFACES_ONLY": "ON",
        # A folder of their own: in site-packages the generated __init__.py would hide the checkout's package.
        "PYTHON_INSTALL_DIR": str(MESSAGES.relative_to(VENV)),
        "Python3_EXECUTABLE": str(PYTHON),
    }
    definitions = [f"-D{name}={value}" for name, value in options.items()]
    run([cmake, "-G", "Ninja", "-S", str(ROOT), "-B", str(build), *definitions], "cmake-configure")
    run([cmake, "--build", str(build)], "cmake-build")
    # What an earlier version of the interfaces installed must not stay behind.
    for old in (MESSAGES, VENV / "share" / "psg4d_ros", VENV / "include" / "psg4d_ros"):
        shutil.rmtree(old, ignore_errors=True)
    for old_library in (VENV / "lib").glob("libpsg4d_ros__*.so"):
        old_library.unlink()
    run([cmake, "--install", str(build)], "cmake-install")
    shutil.rmtree(build)
    mark_done("messages", key)


def write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
    path.chmod(mode)


def link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() and os.readlink(path) == str(target):
        return
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def connect_checkout() -> None:
    """Let the Python of `.venv` see the checkout's package and the messages, whatever its working directory.

    They go in front of site-packages, where a copy may have been installed with pip, and behind PYTHONPATH, by which a
    sourced colcon workspace asks for its own copy.
    """
    paths = [str(ROOT), str(MESSAGES)]
    own = f"/{SITE_PACKAGES.relative_to(ROOT)}"  # the end of it: the checkout may be reached by a link
    write(
        SITE_PACKAGES / "psg4d_ros_checkout.pth",
        f"import sys; at = next((i for i, p in enumerate(sys.path) if p.endswith({own!r})), len(sys.path)); "
        f"sys.path[at:at] = [p for p in {paths!r} if p not in sys.path]\n",
    )
    # Guarded: the worker processes of `psg4d simulate` import the script that started them.
    script = 'import sys\n\nfrom psg4d_ros.cli import main\n\nif __name__ == "__main__":\n    sys.exit(main())\n'
    write(VENV / "bin" / "psg4d", f"#!{PYTHON}\n{script}", mode=0o755)
    # Where ament's index, `ros2 run` and launch look.
    for name in ("launch", "config", "models", "examples"):
        link(VENV / "share" / "psg4d_ros" / name, ROOT / name)
    for name in ("perception_node", "bag_player", "psg4d"):
        link(VENV / "lib" / "psg4d_ros" / name, ROOT / "scripts" / name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    available = sorted(p.stem[len("lock-") :] for p in (ROOT / "requirements").glob("lock-*.txt"))
    parser.add_argument("--wheels", default="kilted", help=f"ROS 2 distribution of the wheels: {', '.join(available)}")
    arguments = parser.parse_args()
    try:
        check_machine()
        if arguments.wheels not in available:
            raise SetupError(f"ROS_WHEELS={arguments.wheels} is not one of {', '.join(available)}")
        with open(ROOT / "package.xml", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # `make demo` and `make test` may have been started together
            packages = install_packages(arguments.wheels, make_venv(arguments.wheels))
            build_messages(packages)
            connect_checkout()
    except SetupError as error:
        sys.exit(f"setup: {error}")
    except KeyboardInterrupt:
        sys.exit("setup: interrupted; the same command goes on from here")
    except OSError as error:
        sys.exit(f"setup: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
