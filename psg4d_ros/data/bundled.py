"""Recordings that come with the project."""

from __future__ import annotations

from pathlib import Path

from psg4d_ros.errors import DatasetError
from psg4d_ros.version import share_directory


def bundled_bag() -> Path:
    """The real three-frame Kinect recording. Raises DatasetError where it was not installed."""
    path = share_directory() / "test" / "data" / "kinect"
    if not path.is_dir():
        raise DatasetError(f"no bundled recording at {path}; run from a checkout, or `psg4d replay` on a bag of yours")
    return path
