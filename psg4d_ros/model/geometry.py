"""Relative geometry of two boxes in one schema for images and for space, so that what is learnt in 2D holds in 4D.

Every pair is described along three axes of a viewer: right, up (against gravity) and away. An image gives right and up;
a 3D scene gives all three once the viewer's position is known. What a source does not give is 0 and flagged as missing.
Lengths are ratios of the boxes' own sizes, so neither pixels nor metres show. Numpy only: data loaders use it too.
"""

from __future__ import annotations

import numpy as np

from psg4d_ros.structures import Float32, Float64, Int64

LIMIT = 4.0
GEOMETRY_NAMES: tuple[str, ...] = (
    # right: offset of the centres over the subject's, the object's and the union's width; edges over the mean width
    *("right_subject", "right_object", "right_union", "width_ratio", "left_edges", "right_edges"),
    *("across_share_subject", "across_share_object"),
    # up: the same along gravity; and how far one stands above the other's top, over the mean height
    *("up_subject", "up_object", "up_union", "height_ratio", "bottom_edges", "top_edges"),
    *("height_share_subject", "height_share_object", "subject_above_top", "object_above_top"),
    # away from the viewer
    *("away_subject", "away_object", "away_union", "depth_ratio", "depth_share_subject", "depth_share_object"),
    # as the viewer sees them, in the plane of right and up
    *("view_area_ratio", "view_iou", "view_share_subject", "view_share_object", "aspect_subject", "aspect_object"),
    # in all dimensions there are; ground = the extent across gravity (an interval in an image, an area in space)
    *("ground_share_subject", "ground_share_object", "iou", "share_subject", "share_object"),
    *("distance", "gap", "ground_gap", "contact"),
    # place and size within the image or scene
    *("subject_right", "subject_up", "object_right", "object_up", "subject_scale", "object_scale"),
    # what is known
    *("has_view", "has_depth", "has_extent", "present"),
)
# What only space has: an image leaves these at 0.
DEPTH_COLUMNS = tuple(i for i, n in enumerate(GEOMETRY_NAMES) if n.startswith(("away_", "depth_")) or n == "has_depth")
MOTION_NAMES: tuple[str, ...] = (
    *("moves", "seen_share", "duration", "subject_speed", "object_speed", "subject_last_speed", "object_last_speed"),
    *("subject_path", "object_path", "subject_shift", "object_shift", "subject_rise", "object_rise", "relative_speed"),
    *("together", "subject_approach", "object_approach", "distance_first", "distance_last", "distance_change"),
    *("gap_first", "gap_last", "gap_change", "contact_share", "contact_first", "contact_last"),
)


def relative_geometry(
    subject_boxes: Float64 | Float32,
    object_boxes: Float64 | Float32,
    dims: int = 3,
    *,
    viewpoint: Float64 | None = None,
    extent: Float64 | None = None,
) -> Float32:
    """float32[R, G] in the order of GEOMETRY_NAMES, each value in [-4, 4].

    subject_boxes, object_boxes: [R, 2 * dims], (min, max) corners. dims=3: z up, any unit, one frame for all; dims=2:
    an image, x to the right, y down. viewpoint: [3] or one per pair [R, 3], the sensor's position in the boxes' frame;
    without it right and away are missing in 3D. extent: [2 * dims], the image or the scene's bounds; None: missing.
    Rows do not depend on one another. Raises ValueError when shapes disagree, values are not finite, or a max corner
    lies below its min.
    """
    if dims not in (2, 3):
        raise ValueError(f"dims is {dims}, expected 2 (image) or 3 (space)")
    s, o = _checked(subject_boxes, dims, "subject_boxes"), _checked(object_boxes, dims, "object_boxes")
    if len(s) != len(o):
        raise ValueError(f"{len(s)} subject boxes and {len(o)} object boxes; they are pairs")
    bounds = None if extent is None else _checked(np.asarray(extent)[None], dims, "extent")
    f: dict[str, Float64] = {}
    has_view = dims == 2 or viewpoint is not None
    # Both boxes and the scene as intervals (lo, hi) along each axis there is.
    up_s, up_o = _up(s, dims), _up(o, dims)
    if has_view:
        right, away = _view_axes(s, o, dims, viewpoint)
        right_s, right_o = _project(s, right, dims), _project(o, right, dims)
        f |= _axis("right", "width", right_s, right_o)
        f["left_edges"], f["right_edges"], (f["across_share_subject"], f["across_share_object"]) = (
            *_edges(right_s, right_o),
            _shares(right_s, right_o),
        )
        if dims == 3:
            away_s, away_o = _project(s, away, dims), _project(o, away, dims)
            f |= _axis("away", "depth", away_s, away_o)
            f["depth_share_subject"], f["depth_share_object"] = _shares(away_s, away_o)
        area_s, area_o = _length(right_s) * _length(up_s), _length(right_o) * _length(up_o)
        common = _overlap(right_s, right_o) * _overlap(up_s, up_o)
        f["view_area_ratio"] = np.log(area_s / area_o) / 2
        f["view_iou"] = common / (area_s + area_o - common)
        f["view_share_subject"], f["view_share_object"] = common / area_s, common / area_o
        f["aspect_subject"] = np.log(_length(up_s) / _length(right_s))
        f["aspect_object"] = np.log(_length(up_o) / _length(right_o))
    f |= _axis("up", "height", up_s, up_o)
    f["bottom_edges"], f["top_edges"] = _edges(up_s, up_o)
    f["height_share_subject"], f["height_share_object"] = _shares(up_s, up_o)
    height = (_length(up_s) + _length(up_o)) / 2
    f["subject_above_top"] = _symlog((up_s[:, 0] - up_o[:, 1]) / height)
    f["object_above_top"] = _symlog((up_o[:, 0] - up_s[:, 1]) / height)
    f |= _space(s, o, dims)
    if bounds is not None:
        up_b = _up(bounds, dims)
        if has_view:
            right_b = _project(bounds, right, dims)
            f["subject_right"], f["object_right"] = _place(right_s, right_b), _place(right_o, right_b)
        for name, box, up_i in (("subject", s, up_s), ("object", o, up_o)):
            f[f"{name}_up"] = _place(up_i, up_b)
            # Geometric mean of the edges' shares: comparable between an area and a volume.
            f[f"{name}_scale"] = np.log(_sizes(box, dims) / _sizes(bounds, dims)).mean(axis=1)
    ones = np.ones(len(s))
    f["has_view"], f["has_depth"] = ones * has_view, ones * (has_view and dims == 3)
    f["has_extent"], f["present"] = ones * (bounds is not None), ones
    zeros = np.zeros(len(s))
    table = np.stack([f.get(name, zeros) for name in GEOMETRY_NAMES])
    return np.ascontiguousarray(np.clip(table, -LIMIT, LIMIT, out=table).T, dtype=np.float32)


def frame_geometry(
    subject_boxes: Float64 | Float32,
    object_boxes: Float64 | Float32,
    seen: np.ndarray,
    *,
    viewpoints: Float64 | None = None,
    extent: Float64 | None = None,
) -> Float32:
    """float32[R, F, G]: relative_geometry of each pair in each frame; all 0 (also ``present``) where one was not seen.

    subject_boxes, object_boxes: [R, F, 6]; values where ``seen`` (bool[R, F]) is False are ignored, NaN included.
    viewpoints: [F, 3], the sensor's position in each frame.
    """
    out = np.zeros((*seen.shape, len(GEOMETRY_NAMES)), dtype=np.float32)
    # All frames in one go: with a few hundred pairs, numpy's calls take longer than its arithmetic.
    rows, frames = np.nonzero(seen)
    views = None if viewpoints is None else viewpoints[frames]
    s, o = subject_boxes[rows, frames], object_boxes[rows, frames]
    out[rows, frames] = relative_geometry(s, o, 3, viewpoint=views, extent=extent)
    return out


def motion_features(
    subject_boxes: Float64 | Float32, object_boxes: Float64 | Float32, seen: np.ndarray, times_s: Float64
) -> Float32:
    """float32[R, M] in the order of MOTION_NAMES, each in [-4, 4]; all 0 for a pair seen together in fewer than 2
    frames.

    subject_boxes, object_boxes: [R, F, 6] (min, max), metres. seen: bool[R, F], both boxes are known (others are
    ignored). times_s: [F], strictly increasing. Gaps are bridged: a box stays where it was until it is seen again.
    """
    seen = np.asarray(seen, dtype=bool)
    rows, frames = seen.shape
    if len(times_s) != frames or np.any(np.diff(times_s) <= 0):
        raise ValueError(f"times_s is {list(times_s)}, expected {frames} strictly increasing values")
    out = np.zeros((rows, len(MOTION_NAMES)), dtype=np.float32)
    use = np.flatnonzero(seen.sum(axis=1) >= 2)
    if not use.size:
        return out
    nearest = _nearest_seen(seen[use])
    take = np.arange(use.size)[:, None]
    s = np.asarray(subject_boxes, dtype=np.float64)[use][take, nearest]
    o = np.asarray(object_boxes, dtype=np.float64)[use][take, nearest]
    if not (np.isfinite(s).all() and np.isfinite(o).all()):
        raise ValueError("boxes marked as seen hold NaN or Inf")
    dt = np.diff(np.asarray(times_s, dtype=np.float64))
    total = dt.sum()
    centre_s, centre_o = (s[..., :3] + s[..., 3:]) / 2, (o[..., :3] + o[..., 3:]) / 2
    step_s, step_o = np.diff(centre_s, axis=1), np.diff(centre_o, axis=1)
    path_s, path_o = (np.linalg.norm(step, axis=2).sum(axis=1) for step in (step_s, step_o))
    between = centre_o - centre_s
    distance = np.linalg.norm(between, axis=2)
    toward = between[:, :-1] / np.maximum(distance[:, :-1, None], 1e-6)
    gap = np.linalg.norm(np.maximum(np.maximum(s[..., :3] - o[..., 3:], o[..., :3] - s[..., 3:]), 0), axis=2)
    net_s, net_o = centre_s[:, -1] - centre_s[:, 0], centre_o[:, -1] - centre_o[:, 0]
    length_s, length_o = np.linalg.norm(net_s, axis=1), np.linalg.norm(net_o, axis=1)
    # Direction agreement, faded in from 5 cm of movement on: below that it would be the noise's direction.
    together = (net_s * net_o).sum(axis=1) / np.maximum(length_s * length_o, 0.05**2)
    touching = gap < 0.05
    values = {
        "moves": np.ones(use.size),
        "seen_share": seen[use].mean(axis=1),
        "duration": np.full(use.size, np.log1p(total)),
        "subject_speed": _symlog(4 * path_s / total),
        "object_speed": _symlog(4 * path_o / total),
        "subject_last_speed": _symlog(4 * np.linalg.norm(step_s[:, -1], axis=1) / dt[-1]),
        "object_last_speed": _symlog(4 * np.linalg.norm(step_o[:, -1], axis=1) / dt[-1]),
        "subject_path": _symlog(4 * path_s),
        "object_path": _symlog(4 * path_o),
        "subject_shift": _symlog(4 * length_s),
        "object_shift": _symlog(4 * length_o),
        "subject_rise": _symlog(4 * net_s[:, 2]),
        "object_rise": _symlog(4 * net_o[:, 2]),
        "relative_speed": _symlog(4 * np.linalg.norm(step_s - step_o, axis=2).sum(axis=1) / total),
        "together": np.clip(together, -1, 1),
        "subject_approach": _symlog(4 * (step_s * toward).sum(axis=(1, 2)) / total),
        "object_approach": _symlog(-4 * (step_o * toward).sum(axis=(1, 2)) / total),
        "distance_first": _symlog(distance[:, 0]),
        "distance_last": _symlog(distance[:, -1]),
        "distance_change": _symlog(4 * (distance[:, -1] - distance[:, 0])),
        "gap_first": _symlog(4 * gap[:, 0]),
        "gap_last": _symlog(4 * gap[:, -1]),
        "gap_change": _symlog(4 * (gap[:, -1] - gap[:, 0])),
        "contact_share": touching.mean(axis=1),
        "contact_first": touching[:, 0].astype(np.float64),
        "contact_last": touching[:, -1].astype(np.float64),
    }
    out[use] = np.clip(np.stack([values[name] for name in MOTION_NAMES], axis=1), -LIMIT, LIMIT)
    return out


def nearest_pairs(boxes: Float64 | Float32, max_pairs: int, may_be_subject: np.ndarray | None = None) -> Int64:
    """int64[R, 2]: ordered (subject, object) pairs with the smallest gap between their boxes first, R <= max_pairs.

    boxes: [P, 6] (min, max). Ties go to the nearer centres, then to the lower indices. may_be_subject: bool[P]; None:
    all (a floor is seldom a subject).
    """
    n = len(boxes)
    b = _checked(np.asarray(boxes).reshape(n, 6), 3, "boxes")
    subject, obj = np.nonzero(~np.eye(n, dtype=bool))
    if may_be_subject is not None:
        keep = np.asarray(may_be_subject, dtype=bool)[subject]
        subject, obj = subject[keep], obj[keep]
    s, o = b[subject], b[obj]
    gap = np.linalg.norm(np.maximum(np.maximum(s[:, :3] - o[:, 3:], o[:, :3] - s[:, 3:]), 0), axis=1)
    distance = np.linalg.norm((s[:, :3] + s[:, 3:] - o[:, :3] - o[:, 3:]) / 2, axis=1)
    order = np.lexsort((obj, subject, distance, gap))[:max_pairs]
    return np.stack([subject[order], obj[order]], axis=1).astype(np.int64)


def _checked(boxes: np.ndarray, dims: int, name: str) -> Float64:
    b = np.asarray(boxes, dtype=np.float64)
    if b.ndim != 2 or b.shape[1] != 2 * dims:
        raise ValueError(f"{name} has shape {b.shape}, expected (any, {2 * dims})")
    if not np.isfinite(b).all():
        raise ValueError(f"{name} hold NaN or Inf")
    if np.any(b[:, dims:] < b[:, :dims]):
        raise ValueError(f"{name} hold a max corner below its min corner")
    return b


def _up(boxes: Float64, dims: int) -> Float64:
    """Interval [R, 2] along gravity; an image's y points down."""
    return boxes[:, [2, 5]] if dims == 3 else -boxes[:, [3, 1]]


def _view_axes(s: Float64, o: Float64, dims: int, viewpoint: Float64 | None) -> tuple[Float64, Float64]:
    """Horizontal unit vectors [R, 2] to the right of the viewer and away from it, at each pair's middle."""
    if dims == 2 or viewpoint is None:
        right = np.broadcast_to([1.0, 0.0], (len(s), 2))
        return right, right
    middle = (s[:, :2] + s[:, 3:5] + o[:, :2] + o[:, 3:5]) / 4
    away = middle - np.asarray(viewpoint, dtype=np.float64)[..., :2]
    length = np.linalg.norm(away, axis=1, keepdims=True)
    # A viewer inside the pair has no direction to it; the frame's x axis (forward) stands in.
    away = np.where(length > 1e-6, away / np.maximum(length, 1e-12), [1.0, 0.0])
    return np.stack([away[:, 1], -away[:, 0]], axis=1), away


def _project(boxes: Float64, axis: Float64, dims: int) -> Float64:
    """Interval [R, 2] of each box along a horizontal unit vector [R, 2] (in an image: along x)."""
    if dims == 2:
        return np.broadcast_to(boxes[:, [0, 2]], (len(axis), 2)) if len(boxes) == 1 else boxes[:, [0, 2]]
    centre, half = (boxes[:, :2] + boxes[:, 3:5]) / 2, (boxes[:, 3:5] - boxes[:, :2]) / 2
    middle, reach = _sum2(centre * axis), _sum2(half * np.abs(axis))
    return np.stack([middle - reach, middle + reach], axis=1)


def _sum2(pairs: Float64) -> Float64:
    """[R] sums of [R, 2]; numpy's own sum over so short an axis takes ten times as long."""
    return pairs[:, 0] + pairs[:, 1]


def _length(interval: Float64) -> Float64:
    """Length with a floor, so that flat boxes (a wall, a line of points) give large but finite ratios."""
    return np.maximum(interval[:, 1] - interval[:, 0], 1e-3)


def _sizes(boxes: Float64, dims: int) -> Float64:
    return np.maximum(boxes[:, dims:] - boxes[:, :dims], 1e-3)


def _symlog(x: Float64) -> Float64:
    return np.sign(x) * np.log1p(np.abs(x))


def _overlap(a: Float64, b: Float64) -> Float64:
    return np.maximum(np.minimum(a[:, 1], b[:, 1]) - np.maximum(a[:, 0], b[:, 0]), 0)


def _shares(a: Float64, b: Float64) -> tuple[Float64, Float64]:
    common = _overlap(a, b)
    return common / _length(a), common / _length(b)


def _edges(a: Float64, b: Float64) -> tuple[Float64, Float64]:
    mean = (_length(a) + _length(b)) / 2
    return _symlog((a[:, 0] - b[:, 0]) / mean), _symlog((a[:, 1] - b[:, 1]) / mean)


def _axis(name: str, size: str, a: Float64, b: Float64) -> dict[str, Float64]:
    offset = (_sum2(a) - _sum2(b)) / 2
    union = np.maximum(a[:, 1], b[:, 1]) - np.minimum(a[:, 0], b[:, 0])
    return {
        f"{name}_subject": _symlog(offset / _length(a)),
        f"{name}_object": _symlog(offset / _length(b)),
        f"{name}_union": offset / np.maximum(union, 1e-3),
        f"{size}_ratio": np.log(_length(a) / _length(b)),
    }


def _place(interval: Float64, bounds: Float64) -> Float64:
    """Centre of an interval within bounds: -1 at the low end, 1 at the high end."""
    return (_sum2(interval) - _sum2(bounds)) / _length(bounds)


def _space(s: Float64, o: Float64, dims: int) -> dict[str, Float64]:
    """Overlap and distance in all dimensions there are."""
    size_s, size_o = _sizes(s, dims), _sizes(o, dims)
    common = np.maximum(np.minimum(s[:, dims:], o[:, dims:]) - np.maximum(s[:, :dims], o[:, :dims]), 0)
    apart = np.maximum(np.maximum(s[:, :dims] - o[:, dims:], o[:, :dims] - s[:, dims:]), 0)
    inner, full_s, full_o = common.prod(axis=1), size_s.prod(axis=1), size_o.prod(axis=1)
    ground = dims - 1  # x of an image, x and y of space
    scale = (np.linalg.norm(size_s, axis=1) + np.linalg.norm(size_o, axis=1)) / 2
    centre = (s[:, :dims] + s[:, dims:] - o[:, :dims] - o[:, dims:]) / 2
    gap = np.linalg.norm(apart, axis=1) / scale
    return {
        "ground_share_subject": common[:, :ground].prod(axis=1) / size_s[:, :ground].prod(axis=1),
        "ground_share_object": common[:, :ground].prod(axis=1) / size_o[:, :ground].prod(axis=1),
        "iou": inner / np.maximum(full_s + full_o - inner, 1e-12),
        "share_subject": inner / full_s,
        "share_object": inner / full_o,
        "distance": _symlog(np.linalg.norm(centre, axis=1) / scale),
        "gap": _symlog(gap),
        "ground_gap": _symlog(np.linalg.norm(apart[:, :ground], axis=1) / scale),
        "contact": np.exp(-10 * gap),
    }


def _nearest_seen(seen: np.ndarray) -> Int64:
    """int64[R, F]: for each frame the last frame seen so far, before the first sighting the first one."""
    frames = np.arange(seen.shape[1])
    last = np.maximum.accumulate(np.where(seen, frames, -1), axis=1)
    return np.where(last >= 0, last, seen.argmax(axis=1)[:, None]).astype(np.int64)
