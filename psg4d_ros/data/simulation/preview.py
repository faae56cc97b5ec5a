"""A contact sheet of a simulated scene: views over time, whose each point is, the room from above, and the relations
as bars over time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from psg4d_ros.data.recording import TrueRelation
from psg4d_ros.data.simulation.sensors import Scan, scan_points
from psg4d_ros.data.simulation.storage import SceneData, write_whole
from psg4d_ros.messages import track_color
from psg4d_ros.structures import Float32, Float64, Int32, UInt8
from psg4d_ros.transforms import transform_points

_WIDTH, _MARGIN, _VIEWS, _GAP = 1560, 20, 6, 6
_INK, _FAINT, _PAPER, _RULE = (28, 32, 38), (116, 122, 130), (250, 250, 248), (222, 224, 226)
_MAP = 560  # pixels, edge of the view from above
_ROW, _MAX_BARS = 17, 44
_ENTRIES = 8  # predicates per line of text
_HEAD_M = 1.9  # the view from above leaves out what is higher: ceiling, lamps


def write_preview(path: Path, scene: SceneData) -> None:
    """Write the contact sheet as PNG, whole or not at all. Raises DatasetError when it cannot be written."""
    sheet = contact_sheet(scene)
    write_whole(path, lambda file: sheet.save(file, format="PNG"))


def contact_sheet(scene: SceneData) -> Image.Image:
    """The picture: RGB, about 1560 pixels wide, as high as it needs to be."""
    frames = len(scene.stamps_ns)
    shown = np.unique(np.linspace(0, frames - 1, _VIEWS).round().astype(int)).tolist()
    scans = {n: scan for n, scan in enumerate(scene.open_scans()) if n in shown}
    cell = (_WIDTH - 2 * _MARGIN - (_VIEWS - 1) * _GAP) // _VIEWS
    looks = [_views(scene, scans[n], n, cell) for n in shown]
    heights = [max(row[k].height for row in looks) for k in range(2)]
    lasting, passing = _by_duration(scene)
    bars = passing[:_MAX_BARS]
    top = 74 + sum(heights) + 2 * _GAP + 18
    below = max(_MAP + 20, 20 + _ROW * len(bars) + 32 + 16 * _lines(lasting))
    sheet = Image.new("RGB", (_WIDTH, top + below + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, 14), scene.name, _INK, _font(22))
    seconds = (scene.stamps_ns[-1] - scene.stamps_ns[0]) / 1e9
    height, width = scene.sensor.shape
    facts = (
        f"{scene.sensor.kind} {width} x {height}  ·  {frames} frames, {seconds:.1f} s  ·  "
        f"{len(scene.objects)} objects of {len({o.label for o in scene.objects})} classes  ·  "
        f"{len(scene.relations)} relations of {len({r.predicate for r in scene.relations})} predicates"
    )
    draw.text((_MARGIN, 44), facts, _FAINT, _font(13))
    for column, (number, images) in enumerate(zip(shown, looks, strict=True)):
        x, y = _MARGIN + column * (cell + _GAP), 74
        draw.text((x, y - 3), f"{(scene.stamps_ns[number] - scene.stamps_ns[0]) / 1e9:.1f} s", _FAINT, _font(12))
        for image, row_height in zip(images, heights, strict=True):
            sheet.paste(image, (x, y + 14))
            y += row_height + _GAP
    sheet.paste(_from_above(scene), (_MARGIN, top + 20))
    draw.text((_MARGIN, top), "from above, all frames, below head height; red: path of the sensor", _FAINT, _font(12))
    _timeline(draw, scene, bars, len(passing), lasting, (_MARGIN + _MAP + 24, top))
    return sheet


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _name(scene: SceneData, object_id: int) -> str:
    label = next(o.label for o in scene.objects if o.object_id == object_id)
    return f"{label} {object_id}"


def _instance_colors(scene: SceneData, instance: Int32) -> UInt8:
    """uint8[..., 3]: a colour per object; stuff is drawn pale, what is nobody's dark."""
    highest = max((o.object_id for o in scene.objects), default=0)
    table = track_color(np.arange(highest + 1)).astype(np.float64)
    for o in scene.objects:
        if not o.is_thing:
            table[o.object_id] = 0.25 * table[o.object_id] + 0.75 * 225
    table[0] = 40
    return np.asarray(table.astype(np.uint8)[instance])


def _views(scene: SceneData, scan: Scan, number: int, cell: int) -> tuple[Image.Image, Image.Image]:
    """What the sensor saw, and the same with a colour per object and the names of the larger ones."""
    if scan.colors is not None:
        height = cell * scan.ranges.shape[0] // scan.ranges.shape[1]
        seen = Image.fromarray(scan.colors).resize((cell, height), Image.Resampling.LANCZOS)
        whose = Image.fromarray(_instance_colors(scene, scan.instance.astype(np.int32)))
        whose = whose.resize((cell, height), Image.Resampling.NEAREST)
        rows, columns = np.indices(scan.instance.shape)
        places = np.stack(
            [(columns + 0.5) * cell / scan.ranges.shape[1], (rows + 0.5) * height / scan.ranges.shape[0]], axis=-1
        )
        _write_names(whose, scene, scan.instance.reshape(-1).astype(np.int32), places.reshape(-1, 2))
        return seen, whose
    # A LiDAR's image is a thin strip; its cloud from above says more.
    points = transform_points(scene.T_world_sensor(number), scan_points(scene.sensor, scan.ranges))
    instance = scan.instance.reshape(-1).astype(np.int32)
    kept = (scan.ranges.reshape(-1) > 0) & (points[:, 2] < _HEAD_M)
    assert scan.intensity is not None
    grey = np.repeat(scan.intensity.reshape(-1, 1)[kept], 3, axis=1)
    if not kept.any():
        empty = Image.new("RGB", (cell, cell), _PAPER)
        return empty, empty
    extent = _map_extent(scene, points[kept], instance[kept], scene.mount_poses[number : number + 1])
    seen, _ = _painted(points[kept], np.minimum(grey.astype(np.int32) * 2, 255).astype(np.uint8), extent, cell)
    whose, places = _painted(points[kept], _instance_colors(scene, instance[kept]), extent, cell)
    _write_names(whose, scene, instance[kept], places)
    return seen, whose


def _write_names(image: Image.Image, scene: SceneData, instance: Int32, places: Float32) -> None:
    """Write the label of each thing at the median of its pixels; small ones first to go when there is no room."""
    draw, taken = ImageDraw.Draw(image), list[tuple[float, float, float, float]]()
    counts = Counter(instance.tolist())
    things = {o.object_id: o.label for o in scene.objects if o.is_thing}
    for object_id, count in counts.most_common():
        if object_id not in things or count < 0.0015 * len(instance):
            continue
        x, y = np.median(places[instance == object_id], axis=0)
        text = things[object_id]
        box = draw.textbbox((float(x), float(y)), text, font=_font(11), anchor="mm")
        if any(box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3] for t in taken):
            continue
        taken.append(box)
        draw.text((float(x), float(y)), text, _INK, _font(11), anchor="mm", stroke_width=2, stroke_fill=_PAPER)


def _map_extent(scene: SceneData, points: Float32, instance: Int32, path: Float64) -> tuple[float, float, float]:
    """Left, lower and edge of a square with the things and the path, metres: through windows one sees far beyond."""
    things = np.isin(instance, [o.object_id for o in scene.objects if o.is_thing])
    shown = np.concatenate([points[things][:, :2], path[:, :2] - 1.0, path[:, :2] + 1.0])
    low, high = shown.min(axis=0) - 0.4, shown.max(axis=0) + 0.4
    edge = float((high - low).max())
    middle = (low + high) / 2
    return float(middle[0] - edge / 2), float(middle[1] - edge / 2), edge


def _painted(
    points: Float32, colors: UInt8, extent: tuple[float, float, float], size: int
) -> tuple[Image.Image, Float32]:
    """Points from above, the higher ones over the lower, north up; and each point's place in the picture."""
    left, lower, edge = extent
    x = (points[:, 0] - left) / edge * size
    y = size - (points[:, 1] - lower) / edge * size
    canvas = np.full((size, size, 3), _PAPER, np.uint8)
    for at in np.argsort(points[:, 2], kind="stable")[None]:
        for dx in (0, 1):
            for dy in (0, 1):
                column, row = (x[at] + dx).astype(int), (y[at] + dy).astype(int)
                inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
                canvas[row[inside], column[inside]] = colors[at][inside]
    return Image.fromarray(canvas), np.stack([x, y], axis=1).astype(np.float32)


def _from_above(scene: SceneData) -> Image.Image:
    clouds, whose = [], []
    every = max(len(scene.stamps_ns) // 20, 1)
    for number, scan in enumerate(scene.open_scans()):
        if number % every == 0:
            index = np.flatnonzero(scan.ranges.reshape(-1))
            points = scan_points(scene.sensor, scan.ranges)[index]
            clouds.append(transform_points(scene.T_world_sensor(number), points))
            whose.append(scan.instance.reshape(-1)[index].astype(np.int32))
    points, instance = np.concatenate(clouds), np.concatenate(whose)
    low = points[:, 2] < _HEAD_M
    points, instance = points[low], instance[low]
    path = scene.mount_poses[:, :2]
    extent = _map_extent(scene, points, instance, scene.mount_poses)
    image, places = _painted(points, _instance_colors(scene, instance), extent, _MAP)
    _write_names(image, scene, instance, places)
    draw = ImageDraw.Draw(image)
    left, lower, edge = extent
    line = [((x - left) / edge * _MAP, _MAP - (y - lower) / edge * _MAP) for x, y in path.tolist()]
    draw.line(line, (214, 40, 40), 2)
    x, y = line[0]
    draw.ellipse((x - 4, y - 4, x + 4, y + 4), (214, 40, 40))
    return image


def _by_duration(scene: SceneData) -> tuple[list[TrueRelation], list[TrueRelation]]:
    """Relations that hold in every frame, and those that begin or end, in order of their begin."""
    frames = len(scene.stamps_ns)
    lasting = [r for r in scene.relations if r.start_frame == 0 and r.end_frame == frames]
    passing = [r for r in scene.relations if r.start_frame > 0 or r.end_frame < frames]
    return lasting, passing


def _timeline(
    draw: ImageDraw.ImageDraw,
    scene: SceneData,
    bars: Sequence[TrueRelation],
    passing: int,
    lasting: Sequence[TrueRelation],
    corner: tuple[int, int],
) -> None:
    """Bars of relations that begin or end, a row per relation, and a list of those that hold all the time."""
    x, y = corner
    left, right = x + 330, _WIDTH - _MARGIN
    frames = len(scene.stamps_ns)
    left_out = f", {len(bars)} of {passing} shown" if len(bars) < passing else ""
    draw.text((x, y), f"relations that begin or end ({passing}{left_out})", _FAINT, _font(12))
    bottom = y + 20 + _ROW * len(bars)
    second = max(round(frames / 12), 1)
    for frame in range(0, frames + 1, second):
        at = left + (right - left) * frame / frames
        draw.line((at, y + 18, at, bottom), _RULE)
        if frame < frames:
            draw.text((at + 2, y + 2), f"{(scene.stamps_ns[frame] - scene.stamps_ns[0]) / 1e9:.1f}", _FAINT, _font(10))
    for row, r in enumerate(bars):
        at = y + 20 + row * _ROW
        color = tuple(int(c) for c in track_color(r.subject_id))
        text = f"{_name(scene, r.subject_id)}  {r.predicate}  {_name(scene, r.object_id)}"
        draw.text((left - 8, at + 1), text, _INK, _font(12), anchor="ra")
        start, end = (left + (right - left) * f / frames for f in (r.start_frame, r.end_frame))
        draw.rectangle((start, at + 3, max(end - 1, start + 2), at + _ROW - 4), color)
    y = bottom + 14
    draw.text((x, y), f"relations that hold all the time ({len(lasting)})", _FAINT, _font(12))
    y += 18
    entries = [f"{predicate} {count}" for predicate, count in Counter(r.predicate for r in lasting).most_common()]
    for first in range(0, len(entries), _ENTRIES):
        draw.text((x, y), "    ".join(entries[first : first + _ENTRIES]), _INK, _font(12))
        y += 16


def _lines(lasting: Sequence[TrueRelation]) -> int:
    """Lines of text that the list of lasting relations takes."""
    return -(-len({r.predicate for r in lasting}) // _ENTRIES)
