"""The result of a run as pictures (PNG): stages.png, growth.png, memory.png."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]
Point = tuple[float, float]

# Drawn at twice the size and reduced, so that lines are smooth.
_SCALE = 2
_INK, _QUIET, _GRID, _PAPER = (34, 38, 46), (112, 118, 128), (228, 231, 236), (255, 255, 255)
# Colours that people with any colour vision tell apart (Okabe and Ito, 2008).
_COLORS: tuple[Color, ...] = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (150, 150, 150),
    (34, 38, 46),
)
_PANEL = (400, 280)
_MARGIN = (58, 40, 16, 44)  # left, top, right, bottom of a panel, where title and axes are


@dataclass
class Panel:
    """One diagram. series: by name, points (x, y) in order of x. log_x: the x axis by factors instead of steps."""

    title: str
    x_label: str
    y_label: str
    series: dict[str, list[Point]] = field(default_factory=dict)
    log_x: bool = False


def draw_plots(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the pictures of what ``bench`` measured; which graphs are the same needs none. Older ones go."""
    for name in ("stages.png", "growth.png", "memory.png"):
        (folder / name).unlink(missing_ok=True)
    pictures = {}
    if "speed" in result:
        pictures["stages.png"] = draw_bars(_bars(result), "Stages of an update, milliseconds (p50)")
    if "growth" in result:
        pictures["growth.png"] = draw_panels(_growth(result))
    if "memory" in result:
        pictures["memory.png"] = draw_panels(_memory(result))
    for name, image in pictures.items():
        image.save(folder / name)
    return [folder / name for name in pictures]


def draw_panels(panels: Sequence[Panel], columns: int = 3) -> Image.Image:
    """Diagrams side by side, in rows of ``columns``, under one legend."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.series))
    colors = dict(zip(names, (_COLORS[i % len(_COLORS)] for i in range(len(names))), strict=True))
    width, height = _PANEL
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    image, draw = _sheet(columns * width, rows * height + 34)
    x = 20.0
    for name in names:
        _line(draw, [(x, 18), (x + 18, 18)], colors[name], 3)
        _text(draw, (x + 24, 18), name, 13, _INK, "lm")
        x += 24 + _width(draw, name, 13) + 18
    for number, panel in enumerate(panels):
        _draw_panel(draw, panel, (number % columns * width, 34 + number // columns * height), colors)
    return _reduced(image)


def draw_bars(groups: Mapping[str, Mapping[str, float]], title: str) -> Image.Image:
    """A row per group with a bar for each of its values, on an axis by factors, since they differ by thousands."""
    names = list(dict.fromkeys(name for values in groups.values() for name in values))
    colors = dict(zip(names, _COLORS, strict=False))
    bar, gap, left, right = 13, 12, 110, 80
    heights = [bar * len(values) + gap for values in groups.values()]
    width, top = 900, 72
    image, draw = _sheet(width, top + sum(heights) + 40)
    _text(draw, (20, 20), title, 16, _INK, "lm")
    x = 20.0
    for name in names:
        _box(draw, (x, 40, x + 12, 52), colors[name])
        _text(draw, (x + 18, 46), name, 13, _INK, "lm")
        x += 18 + _width(draw, name, 13) + 18
    present = [v for values in groups.values() for v in values.values() if v > 0]
    low = math.floor(math.log10(min(present, default=1.0)))
    high = max(math.ceil(math.log10(max(present, default=10.0))), low + 1)

    def place(value: float) -> float:
        return left + (math.log10(value) - low) / (high - low) * (width - left - right)

    bottom = top + sum(heights)
    for power in range(low, high + 1):
        at = place(10.0**power)
        _line(draw, [(at, top - 4), (at, bottom)], _GRID, 1)
        _text(draw, (at, bottom + 14), _number(10.0**power), 12, _QUIET, "mm")
    y = float(top)
    for (group, values), height in zip(groups.items(), heights, strict=True):
        _text(draw, (left - 12, y + (height - gap) / 2), group, 13, _INK, "rm")
        for number, (name, value) in enumerate(values.items()):
            if value > 0:
                _box(
                    draw,
                    (left, y + number * bar + 1, max(place(value), left + 1), y + (number + 1) * bar - 1),
                    colors[name],
                )
                _text(draw, (place(value) + 6, y + (number + 0.5) * bar), _number(value), 11, _QUIET, "lm")
        y += height
    return _reduced(image)


def _bars(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    groups: dict[str, dict[str, float]] = {}
    for path, stages in result["speed"]["stage_ms"].items():
        for stage, percentiles in stages.items():
            groups.setdefault(stage, {})[path] = percentiles["p50"]
    for stage, floor in result["floor_ms"].items():
        groups.setdefault(stage, {})["floor"] = floor
    return groups


def _growth(result: Mapping[str, Any]) -> list[Panel]:
    panels = []
    for name, points in result["growth"].items():
        panel = Panel(f"growth with {name}", name, "ms", log_x=True)
        for point in points:
            for stage, value in point["stage_ms"].items():
                panel.series.setdefault(stage, []).append((point["value"], value))
        panels.append(panel)
    return panels


def _memory(result: Mapping[str, Any]) -> list[Panel]:
    panels = []
    for name, run in result["memory"].items():
        panel = Panel(f"{name} model, {run['points']} points", "update", "MiB")
        for where, column in (("host", 1), ("device", 2)):
            values = [(float(s[0]), float(s[column])) for s in run["samples"] if s[column] is not None]
            if values:
                panel.series[where] = values
        panels.append(panel)
    return panels


def _draw_panel(draw: ImageDraw.ImageDraw, panel: Panel, corner: Point, colors: Mapping[str, Color]) -> None:
    left, top = corner[0] + _MARGIN[0], corner[1] + _MARGIN[1]
    right, bottom = corner[0] + _PANEL[0] - _MARGIN[2], corner[1] + _PANEL[1] - _MARGIN[3]
    _text(draw, (left, corner[1] + 20), panel.title, 14, _INK, "lm")
    points = [p for series in panel.series.values() for p in series]
    highest = _rounded_up(max((y for _, y in points), default=1.0))
    xs = sorted({x for x, _ in points}) or [1.0]

    def across(x: float) -> float:
        first, last, at = (math.log(v) if panel.log_x else v for v in (xs[0], xs[-1], x))
        return (left + right) / 2 if first == last else left + (at - first) / (last - first) * (right - left)

    def up(y: float) -> float:
        return bottom - y / highest * (bottom - top)

    for step in range(5):
        y = highest * step / 4
        _line(draw, [(left, up(y)), (right, up(y))], _GRID, 1)
        _text(draw, (left - 8, up(y)), _number(y), 11, _QUIET, "rm")
    for x in xs if panel.log_x else (xs[0], xs[-1]):
        _text(draw, (across(x), bottom + 12), f"{x:g}", 11, _QUIET, "mm")
    _text(draw, ((left + right) / 2, bottom + 30), panel.x_label, 12, _QUIET, "mm")
    _text(draw, (left - 8, top - 14), panel.y_label, 11, _QUIET, "rm")
    for name, series in panel.series.items():
        line = [(across(x), up(y)) for x, y in series]
        _line(draw, line, colors[name], 2)
        if panel.log_x:
            for x, y in line:
                _box(draw, (x - 2.5, y - 2.5, x + 2.5, y + 2.5), colors[name])


def _rounded_up(value: float) -> float:
    """The next of 1, 2, 4, 8 times a power of ten: its quarters are short numbers."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(n * power for n in (1, 2, 4, 8, 10) if n * power >= value * (1 - 1e-9))


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _sheet(width: float, height: float) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (round(width * _SCALE), round(height * _SCALE)), _PAPER)
    return image, ImageDraw.Draw(image)


def _reduced(image: Image.Image) -> Image.Image:
    return image.resize((image.width // _SCALE, image.height // _SCALE), Image.Resampling.LANCZOS)


def _line(draw: ImageDraw.ImageDraw, points: Sequence[Point], color: Color, width: int) -> None:
    draw.line([(x * _SCALE, y * _SCALE) for x, y in points], color, width * _SCALE, joint="curve")


def _box(draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], color: Color) -> None:
    draw.rectangle([v * _SCALE for v in box], color)


def _text(draw: ImageDraw.ImageDraw, at: Point, text: str, size: int, color: Color, anchor: str) -> None:
    font = ImageFont.load_default(size * _SCALE)
    draw.text((at[0] * _SCALE, at[1] * _SCALE), text, color, font, anchor)


def _width(draw: ImageDraw.ImageDraw, text: str, size: int) -> float:
    return draw.textlength(text, ImageFont.load_default(size * _SCALE)) / _SCALE
