"""Replays to one HTML file: template, scripts, values and clouds in one, nothing to be fetched."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path

from psg4d_ros.errors import Psg4dError
from psg4d_ros.evaluation.report.payload import ReportSection, point_bytes, section_values
from psg4d_ros.evaluation.report.recorder import MOST_POINTS
from psg4d_ros.evaluation.result_files import write_text
from psg4d_ros.version import version

MOST_BYTES = 15_000_000
FEWEST_POINTS = 2000  # of a frame
_HERE = Path(__file__).parent
_SCRIPTS = ("data.js", "view3d.js", "cloud.js", "graph.js", "timeline.js", "charts.js", "details.js", "app.js")


def write_report(path: Path, sections: Sequence[ReportSection], *, most_bytes: int = MOST_BYTES) -> None:
    """Write the report of one or more replays to ``path``, whole or not at all.

    sections: at least one. Clouds are thinned, and of long replays graphs left out, until the file is below
    ``most_bytes``. Raises Psg4dError when a replay could not be recorded, the file cannot be written, or no thinning
    makes it small enough.
    """
    for section in sections:
        if section.recorder.error is not None:
            raise Psg4dError(f"no report of {section.title}: {section.recorder.error}") from section.recorder.error
    write_text(path, report_html(sections, most_bytes=most_bytes))


def report_html(sections: Sequence[ReportSection], *, most_bytes: int = MOST_BYTES) -> str:
    """The page as text, at most ``most_bytes`` of UTF-8. Raises Psg4dError where that is not enough for the values."""
    every = 1
    while True:
        nothing = [0] * len(sections)
        bare = len(_page(sections, every, nothing).encode())
        points = _shares(sections, every, (most_bytes - bare) * 3 // 4 - 64 * len(sections))
        single = all(len(s.recorder.frames[::every]) <= 1 for s in sections)
        # Rather fewer graphs than clouds of so few points that nobody sees a thing.
        if min(points, default=0) >= FEWEST_POINTS or (single and bare <= most_bytes):
            return _page(sections, every, points)
        if single:
            raise Psg4dError(f"the report takes {bare} bytes without points, {most_bytes} are allowed")
        every *= 2


def _shares(sections: Sequence[ReportSection], every: int, room: int) -> list[int]:
    """Points of a frame for each section: ``room`` bytes in equal parts, less where a section needs less."""
    sizes = [len(s.recorder.frames[::every]) * point_bytes(s) for s in sections]
    points = [MOST_POINTS] * len(sections)
    left = max(room, 0)
    order = sorted(range(len(sections)), key=lambda i: sizes[i])
    for done, i in enumerate(order):
        if sizes[i]:
            points[i] = min(MOST_POINTS, left // (len(order) - done) // sizes[i])
            left -= points[i] * sizes[i]
    return points


def _page(sections: Sequence[ReportSection], every: int, points: Sequence[int]) -> str:
    values, clouds = zip(*(section_values(s, every, n) for s, n in zip(sections, points, strict=True)), strict=True)
    data = {"version": version(), "recordings": values}
    style = _read("template/report.css")
    vendor, own = _read("vendor/three-d3.min.js"), "\n".join(_read(f"template/{name}") for name in _SCRIPTS)
    own = f"(() => {{\n'use strict';\n{own}\n}})();"
    filled = {
        "policy": _policy([vendor, own], style),
        "title": html.escape(" · ".join(s.title for s in sections) or "no recording"),
        "style": style,
        "vendor": vendor,
        "script": own,
        "data": _script_json(data),
        "clouds": "\n".join(
            f'<script type="text/plain" id="clouds-{i}">{base64.b64encode(c).decode()}</script>'
            for i, c in enumerate(clouds)
        ),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: filled[found[1]], _read("template/report.html"))


def _read(name: str) -> str:
    text = (_HERE / name).read_text(encoding="utf-8")
    assert "</script" not in text.lower() or name.endswith(".html"), f"{name} would end the script that holds it"
    return text


def _script_json(value: object) -> str:
    """JSON that may stand inside a script element: labels come from users, and none can end the element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(scripts: Sequence[str], style: str) -> str:
    """Content security policy: only the page's own scripts run, and nothing is loaded from anywhere."""

    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; img-src data: blob:; style-src {source(style)}; "
        f"script-src {' '.join(map(source, scripts))}; base-uri 'none'; form-action 'none'"
    )
