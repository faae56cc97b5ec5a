"""For pip only (colcon uses CMakeLists.txt): runs the same CMake install into a stage and packs what it installed.

The result holds compiled message code, so a wheel belongs to one minor version of Python and one ROS distribution.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build import build

ROOT = Path(__file__).resolve().parent
PACKAGE = "psg4d_ros"


def ros_prefix() -> Path:
    """Prefix of the ROS packages: of the build environment, or of the installation that is sourced."""
    found = importlib.util.find_spec("ament_package")
    if found is None or found.origin is None:
        raise SystemExit(
            f"{PACKAGE}: no ROS 2 found to generate the messages with; build with pip's isolation (the default), "
            "or source a ROS 2 installation, or install requirements/build-kilted.txt"
        )
    return Path(found.origin).parents[4]  # <prefix>/lib/python3.x/site-packages/ament_package/__init__.py


class BuildWithCMake(build):
    """Put the installed Python files where setuptools packs from, and everything else into ``data_files``."""

    def run(self) -> None:
        # setuptools changes into the root; a stage outside the tree keeps the checkout clean and the build repeatable.
        stage = Path(self.build_temp).absolute() / "stage"
        tree = stage.with_name("cmake")
        for folder in (stage, tree):
            shutil.rmtree(folder, ignore_errors=True)
        prefixes = [str(ros_prefix()), *os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)]
        environment = {**os.environ, "AMENT_PREFIX_PATH": os.pathsep.join(filter(None, prefixes))}
        environment["PATH"] = os.pathsep.join([str(ros_prefix() / "bin"), os.environ.get("PATH", os.defpath)])
        site_packages = Path(f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages")
        definitions = {
            "BUILD_TESTING": "OFF",
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_INSTALL_PREFIX": str(stage),
            "CMAKE_PREFIX_PATH": ";".join(filter(None, prefixes)),
            "PYTHON_INSTALL_DIR": str(site_packages),
            "Python3_EXECUTABLE": sys.executable,
        }
        for command in (
            ["cmake", "-G", "Ninja", "-S", str(ROOT), "-B", str(tree), *(f"-D{k}={v}" for k, v in definitions.items())],
            ["cmake", "--build", str(tree)],
            ["cmake", "--install", str(tree)],
        ):
            subprocess.run(command, check=True, env=environment)

        packed = Path(self.build_lib).absolute() / PACKAGE
        shutil.rmtree(packed, ignore_errors=True)
        shutil.copytree(stage / site_packages / PACKAGE, packed, ignore=shutil.ignore_patterns("__pycache__", "*.c"))
        data: dict[str, list[str]] = {}
        for path in sorted(stage.rglob("*")):
            relative = path.relative_to(stage)
            # ament's note of where the build environment lay means nothing on another machine.
            if path.is_file() and site_packages not in relative.parents and "parent_prefix_path" not in relative.parts:
                data.setdefault(str(relative.parent), []).append(str(path))
        self.distribution.data_files = sorted(data.items())
        super().run()


class BinaryDistribution(Distribution):
    """setuptools sees no extension module here, yet the files belong to one platform and one Python."""

    def has_ext_modules(self) -> bool:
        return True


version = re.search(r"<version>([^<]+)</version>", (ROOT / "package.xml").read_text(encoding="utf-8"))
assert version is not None, "package.xml holds no version"
setup(version=version.group(1), cmdclass={"build": BuildWithCMake}, distclass=BinaryDistribution)
