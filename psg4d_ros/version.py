"""Which version this is, and where the files that belong to it lie.

Both follow from one file, ``package.xml``: it holds the version, and it lies next to ``config/``, ``launch/`` and
``models/`` in a source checkout as well as in every installation (``share/psg4d_ros``).
"""

import re
from functools import cache
from pathlib import Path

from psg4d_ros.errors import Psg4dError


@cache
def share_directory() -> Path:
    """Folder that holds ``package.xml``, ``config/``, ``launch/`` and ``models/`` of the code that is running.

    The checkout itself, or ``<prefix>/share/psg4d_ros`` after ``colcon build`` or ``pip install``. It is found from
    this file's own place and not through ament's index, which may name another copy and is absent where no ROS is.

    Raises:
        Psg4dError: the files around this module are incomplete.
    """
    # Not resolved: the links of `colcon build --symlink-install` would lead out of the install folder.
    for folder in Path(__file__).absolute().parent.parents:
        for candidate in (folder, folder / "share" / "psg4d_ros"):
            if (candidate / "package.xml").is_file() and "<name>psg4d_ros</name>" in _package_xml(candidate):
                return candidate
    raise Psg4dError(
        f"no package.xml of psg4d_ros above {Path(__file__).parent}; "
        "install the package with colcon or pip, or run it from its checkout"
    )


@cache
def version() -> str:
    """Version of the running code, e.g. ``1.2.3``, from its ``package.xml``.

    Raises:
        Psg4dError: ``package.xml`` is missing or holds no version.
    """
    found = re.search(r"<version>\s*([^<\s]+)\s*</version>", _package_xml(share_directory()))
    if found is None:
        raise Psg4dError(f"{share_directory() / 'package.xml'} holds no <version>; it must hold one like 1.2.3")
    return found.group(1)


def _package_xml(folder: Path) -> str:
    return (folder / "package.xml").read_text(encoding="utf-8")
