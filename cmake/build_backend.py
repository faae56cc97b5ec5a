"""Build backend for `pip install .` and `pip wheel .`: setuptools, plus the ROS packages that generate the messages.

Which ROS packages those are is known only when building: none where a ROS installation is sourced, otherwise the wheels
of the distribution named by the environment variable ROS_WHEELS (kilted or jazzy; kilted by default).
"""

import importlib.util
import os
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import build_sdist, build_wheel, prepare_metadata_for_build_wheel

__all__ = [
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_wheel",
]

get_requires_for_build_sdist = build_meta.get_requires_for_build_sdist


def get_requires_for_build_wheel(config_settings=None):
    return build_meta.get_requires_for_build_wheel(config_settings) + _message_generators()


def _message_generators():
    if importlib.util.find_spec("ament_package") is not None:
        # A sourced ROS installation is seen through PYTHONPATH, but the system's packages that it imports are not.
        return ["catkin_pkg", "cmake>=3.22,<4", "empy>=3.3,<4", "lark", "ninja", "numpy", "pyyaml"]
    wheels = os.environ.get("ROS_WHEELS", "kilted")
    requirements = Path(__file__).resolve().parent.parent / "requirements" / f"build-{wheels}.txt"
    if not requirements.is_file():
        known = sorted(path.stem[len("build-") :] for path in requirements.parent.glob("build-*.txt"))
        raise SystemExit(f"ROS_WHEELS={wheels} is not one of {', '.join(known)}")
    lines = (line.partition("#")[0].strip() for line in requirements.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]
