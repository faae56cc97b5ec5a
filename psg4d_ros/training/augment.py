"""Windows as a real sensor would have seen them: what is drawn once for a window, and what it does to each frame.

Simulated scenes come from one sensor with one kind of noise, flat colours, exact poses and an exact floor. Here each
window becomes another sensor's: other density, rings, range, holes, noise, colours or none, and poses that are a little
wrong. What the relations say stays true, and colours are only changed as far as their names still fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from psg4d_ros.data.recording import LabelledFrame
from psg4d_ros.structures import Float32, Float64, Int64, PointFrame, UInt8
from psg4d_ros.transforms import R_BODY_OPTICAL, invert_rigid

NEAREST_FAR_M = 3.5  # the first Kinect's useful range
_EDGE = 0.03  # neighbouring pixels whose ranges differ by a larger share lie on different surfaces
_TEXTURES = 4096  # entries of the table that a cell of the texture looks its brightness up in
_SIDE = re.compile(r"\b(left|right)\b", re.IGNORECASE)


def names_a_side(words: Iterable[str]) -> bool:
    """Whether any word is about left or right, and so says something else in a mirror."""
    return any(_SIDE.search(word) for word in words)


@dataclass(frozen=True)
class ColorChange:
    """What happens to colours. gain: factors on red, green and blue. offset: added, 0..255. gray: share of grey mixed
    in, 1 = all grey. noise: standard deviation per point, texture: of patches with edges of texture_m metres."""

    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    offset: float = 0.0
    gray: float = 0.0
    noise: float = 0.0
    texture: float = 0.0
    texture_m: float = 0.1

    @classmethod
    def draw(cls, rng: np.random.Generator) -> ColorChange:
        exposure = np.exp(rng.normal(0.0, 0.25))
        gain = exposure * np.exp(rng.normal(0.0, 0.06, 3))  # white balance: a white wall may look warm, not red
        return cls(
            gain=(float(gain[0]), float(gain[1]), float(gain[2])),
            offset=float(rng.normal(0.0, 8.0)),
            gray=1.0 if rng.random() < 0.06 else float(rng.uniform(0.0, 0.35)),
            noise=float(rng.uniform(0.0, 12.0)),
            texture=float(45.0 * rng.random() ** 2),
            texture_m=float(rng.uniform(0.03, 0.3)),
        )

    def apply(self, colors: UInt8, world: Float32, table: Float32, rng: np.random.Generator) -> UInt8:
        """colors: uint8[N, 3]. world: float32[N, 3]. table: float32[_TEXTURES], of mean 0 and deviation 1."""
        values = colors.astype(np.float32) * np.array(self.gain, np.float32) + np.float32(self.offset)
        brightness = values @ np.array([0.3, 0.59, 0.11], np.float32)
        values += np.float32(self.gray) * (brightness[:, None] - values)
        # Fixed to the place in the world, so that a floor's pattern stays where it is from frame to frame.
        cell = np.floor(world / np.float32(self.texture_m)).astype(np.int64)
        patch = (cell @ np.array([73_856_093, 19_349_663, 83_492_791])) % _TEXTURES
        values += (np.float32(self.texture) * table[patch])[:, None]
        values += np.float32(self.noise) * rng.standard_normal(values.shape, dtype=np.float32)
        return np.clip(values, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class SensorChange:
    """What another sensor would not have seen, and how wrong it would have measured.

    finer: so many times the pixels per side, by interpolation on surfaces. density: factor on the number of points
    that voxels are said to hold, for sensors with still more pixels. keep: share of points that stay. rings: only so
    many rings of ``ring_deg`` degrees are left of the view, 0 = all. far: the longest range, as a share of what the
    frame has, but never below NEAREST_FAR_M. close_m: only what lies so near to a place that is drawn is in view, 0 =
    all. holes: azimuth, elevation (radians, from the middle of the view) and half widths of what hides part of it.
    range_m, range_per_m2: deviation of the range, and what it grows by with its square. warp: a smooth error of the
    range, as a share of it, over directions with ``waves`` per radian.
    """

    finer: int = 1
    density: float = 1.0
    keep: float = 1.0
    rings: int = 0
    ring_deg: float = 0.5
    far: float = 1.0
    close_m: float = 0.0
    holes: tuple[tuple[float, float, float, float], ...] = ()
    range_m: float = 0.0
    range_per_m2: float = 0.0
    warp: float = 0.0
    waves: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @classmethod
    def draw(cls, rng: np.random.Generator, *, close: bool) -> SensorChange:
        # The simulated cameras have 160 x 120 pixels, real ones 640 x 480.
        ringed, near_sighted = rng.random() < 0.08 and not close, rng.random() < 0.25
        fine = close or rng.random() < 0.4
        keep = 1.0 if (fine or rng.random() < 0.4) and not ringed else float(rng.uniform(0.3, 1.0))
        density = (
            float(np.exp(rng.uniform(0.0, np.log(30.0 if close else 10.0)))) if fine or rng.random() < 0.3 else 1.0
        )
        holes = rng.uniform((-0.6, -0.5, 0.03, 0.03), (0.6, 0.5, 0.22, 0.22), (int(rng.integers(0, 4)), 4))
        waves = rng.uniform((2.0, 2.0, 0.0), (10.0, 10.0, 2 * np.pi))
        return cls(
            finer=2 if fine and not ringed else 1,
            density=1.0 if ringed else density,
            keep=keep,
            rings=int(rng.integers(16, 41)) if ringed else 0,
            ring_deg=float(rng.uniform(0.35, 0.6)),
            far=float(rng.uniform(0.4, 1.0)) if near_sighted else 1.0,
            close_m=float(rng.uniform(0.8, 2.5)) if close else 0.0,
            holes=tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in holes),
            range_m=float(rng.uniform(0.0, 0.008)),
            range_per_m2=float(rng.uniform(0.0, 0.002)),
            warp=float(rng.uniform(0.0, 0.012)) if rng.random() < 0.5 else 0.0,
            waves=(float(waves[0]), float(waves[1]), float(waves[2])),
        )

    def seen(self, points: Float32, R_world_sensor: Float64, rng: np.random.Generator) -> Int64:
        """int64[M], ascending: which of the points (float32[N, 3], sensor's frame) this sensor has."""
        stays = rng.random(len(points), dtype=np.float32) < self.keep
        if self.far < 1.0 and len(points):
            distance = _distance(points)
            stays &= distance <= max(self.far * float(distance.max()), NEAREST_FAR_M)
        if (self.holes or self.rings) and len(points):
            azimuth, elevation = _angles(points, R_world_sensor)
            for a, e, half_a, half_e in self.holes:
                stays &= (np.abs(azimuth - a) > half_a) | (np.abs(elevation - e) > half_e)
            if self.rings:
                step = np.ptp(elevation) / self.rings
                off = np.abs((elevation - elevation.min()) % max(step, 1e-6) - 0.5 * step)
                stays &= off <= 0.5 * np.radians(self.ring_deg)
        return np.flatnonzero(stays).astype(np.int64)

    def measured(self, points: Float32, rng: np.random.Generator) -> Float32:
        """The points with errors of the range."""
        distance = _distance(points)
        safe = np.maximum(distance, np.float32(1e-3))
        sigma = np.float32(self.range_m) + np.float32(self.range_per_m2) * np.square(distance)
        share = sigma / safe * rng.standard_normal(len(points), dtype=np.float32)
        if self.warp:
            direction = points / safe[:, None]
            phase = direction @ np.array([self.waves[0], self.waves[1], 0.5 * self.waves[0]], np.float32)
            share += np.float32(self.warp) * np.sin(phase + np.float32(self.waves[2]))
        factor = np.float32(1.0) + np.clip(share, np.float32(-0.5), np.float32(0.5))
        return (points * factor[:, None]).astype(np.float32, copy=False)


@dataclass(frozen=True, eq=False)
class Augmentation:
    """What is drawn once for a window; the default changes nothing.

    T_core_world: float64[4, 4] yaw. mirrored: y of the world changes its sign first. scale: of the whole scene.
    tilt_rad: error of gravity about x and y. camera_is_level: gravity is taken to point down in a camera's image,
    however it looks, which is what the optical convention gives where neither transform nor floor says better. pose_m,
    pose_rad: deviation of each frame's pose from the true one. origin_shift_m: float64[3], where the voxel grid lies,
    z = how wrong the height of the floor is. color: None = the sensor has no colours; brightness_as_intensity: then it
    gives that instead. keeps_intensity: where there is one.
    """

    T_core_world: Float64
    mirrored: bool = False
    scale: float = 1.0
    tilt_rad: tuple[float, float] = (0.0, 0.0)
    camera_is_level: bool = False
    pose_m: float = 0.0
    pose_rad: float = 0.0
    origin_shift_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    sensor: SensorChange = SensorChange()
    color: ColorChange | None = ColorChange()
    brightness_as_intensity: bool = False
    keeps_intensity: bool = True

    @classmethod
    def none(cls) -> Augmentation:
        """Changes nothing."""
        return cls(np.eye(4))

    @classmethod
    def draw(cls, rng: np.random.Generator, *, may_mirror: bool, close: bool, voxel_size_m: float) -> Augmentation:
        """close: a view of little but one object, see SensorChange.close_m."""
        sensor = SensorChange.draw(rng, close=close)
        colorless = bool(rng.random() < 0.14) or sensor.rings > 0  # what has rings has no colours
        tilt = rng.uniform(-1.0, 1.0, 2) * np.radians(2.0)
        exact_poses = rng.random() < 0.5
        shift = rng.uniform((0.0, 0.0, -0.05), (voxel_size_m, voxel_size_m, 0.05))
        return cls(
            T_core_world=_turn(rng.uniform(-np.pi, np.pi), 2),
            mirrored=may_mirror and bool(rng.random() < 0.5),
            scale=float(rng.uniform(0.9, 1.1)),
            tilt_rad=(float(tilt[0]), float(tilt[1])),
            camera_is_level=bool(rng.random() < 0.06),
            pose_m=0.0 if exact_poses else float(rng.uniform(0.0, 0.012)),
            pose_rad=0.0 if exact_poses else float(rng.uniform(0.0, 0.003)),
            origin_shift_m=(float(shift[0]), float(shift[1]), float(shift[2])),
            sensor=sensor,
            color=None if colorless else ColorChange.draw(rng),
            brightness_as_intensity=bool(rng.random() < 0.5),
            keeps_intensity=bool(rng.random() < 0.8),
        )

    @property
    def colors_tell(self) -> bool:
        """Whether a colour can still be told from another."""
        return self.color is not None and self.color.gray < 1.0

    def apply(self, frames: list[LabelledFrame], rng: np.random.Generator) -> list[LabelledFrame]:
        """The frames of a window, oldest first, as they are now; T_world_sensor is then T_core_sensor."""
        if not frames:
            return []
        table = rng.standard_normal(_TEXTURES, dtype=np.float32)
        newest = self._placed(frames[-1].T_world_sensor)
        tilt = _turn(self.tilt_rad[0], 0) @ _turn(self.tilt_rad[1], 1)
        if self.camera_is_level and frames[-1].image_width is not None:
            tilt[:3, :3] = R_BODY_OPTICAL @ newest[:3, :3].T
        T_tilt = _about(newest[:3, 3], tilt)
        if self.sensor.close_m:
            place = _place_of_an_object(frames[-1], rng)
            frames = [_within(labelled, place, self.sensor.close_m) for labelled in frames]
        return [self._frame(labelled, T_tilt, table, rng) for labelled in frames]

    def _frame(
        self, labelled: LabelledFrame, T_tilt: Float64, table: Float32, rng: np.random.Generator
    ) -> LabelledFrame:
        camera = labelled.image_width is not None
        if self.sensor.finer > 1 and labelled.image_width is not None and len(labelled.frame):
            labelled = interpolated(labelled, labelled.image_width, self.sensor.finer)
        frame = labelled.frame
        # A LiDAR has rings of its own; others laid over them would leave next to nothing.
        sensor = self.sensor if camera else replace(self.sensor, rings=0)
        rows = sensor.seen(frame.points, labelled.T_world_sensor[:3, :3], rng)
        true = frame.points[rows]
        colors, intensity = frame.colors, frame.intensity
        colors = None if colors is None else colors[rows]
        intensity = None if intensity is None or not self.keeps_intensity else intensity[rows]
        if colors is not None and self.color is None:
            if self.brightness_as_intensity:
                intensity = (colors.astype(np.float32) @ np.array([0.3, 0.59, 0.11], np.float32)).astype(np.float32)
            colors = None
        elif colors is not None and self.color is not None:
            R, t = labelled.T_world_sensor[:3, :3].astype(np.float32), labelled.T_world_sensor[:3, 3]
            colors = self.color.apply(colors, true @ R.T + t.astype(np.float32), table, rng)
        points = self.sensor.measured(true, rng) * np.float32(self.scale)
        if self.mirrored:
            points = points * _FLIP_X[:3].astype(np.float32)
        T = T_tilt @ self._placed(labelled.T_world_sensor)
        error = rng.normal(0.0, 1.0, 6)
        T = _about(T[:3, 3], _turn(self.pose_rad * error[0], 0) @ _turn(self.pose_rad * error[1], 2)) @ T
        T[:3, 3] += self.pose_m * error[3:]
        changed = PointFrame(
            np.ascontiguousarray(points, dtype=np.float32),
            colors,
            intensity,
            frame.source_index[rows],
            frame.stamp_ns,
            frame.frame_id,
        )
        return LabelledFrame(changed, T, labelled.instance[rows])  # no longer an image

    def _placed(self, T_world_sensor: Float64) -> Float64:
        """T_core_sensor without any error. A mirrored scene is seen by a mirrored sensor, so that it stays a pose."""
        T = T_world_sensor.copy()
        T[:3, 3] *= self.scale
        if self.mirrored:
            T = np.diag(_FLIP_Y) @ T @ np.diag(_FLIP_X)
        return self.T_core_world @ T


def _place_of_an_object(labelled: LabelledFrame, rng: np.random.Generator) -> Float64:
    """float64[3], world: a point of one of the objects in view, each as likely as any other; the origin if none is."""
    ids = np.unique(labelled.instance[labelled.instance > 0])
    if not len(ids):
        return np.zeros(3)
    mine = np.flatnonzero(labelled.instance == ids[rng.integers(len(ids))])
    point = labelled.frame.points[mine[rng.integers(len(mine))]].astype(np.float64)
    place: Float64 = labelled.T_world_sensor[:3, :3] @ point + labelled.T_world_sensor[:3, 3]
    return place


def _within(labelled: LabelledFrame, place: Float64, radius_m: float) -> LabelledFrame:
    """What lies within a distance of a place in the world."""
    frame, T_sensor_world = labelled.frame, invert_rigid(labelled.T_world_sensor)
    middle = (T_sensor_world[:3, :3] @ place + T_sensor_world[:3, 3]).astype(np.float32)
    rows = np.flatnonzero(_distance(frame.points - middle) <= radius_m)
    near = replace(
        frame,
        points=frame.points[rows],
        colors=None if frame.colors is None else frame.colors[rows],
        intensity=None if frame.intensity is None else frame.intensity[rows],
        source_index=frame.source_index[rows],
    )
    return replace(labelled, frame=near, instance=labelled.instance[rows])


def interpolated(labelled: LabelledFrame, width: int, factor: int) -> LabelledFrame:
    """A camera's frame with up to factor x factor times the points.

    New points lie between four neighbouring pixels that see the same surface of one object. ``source_index`` counts
    points then, not pixels. The frame has at least one point.
    """
    frame, index = labelled.frame, labelled.frame.source_index
    row_of = np.full((int(index[-1]) // width + 1) * width, -1, dtype=np.int64)
    row_of[index] = np.arange(len(index))
    image = row_of.reshape(-1, width)
    corners = [c.reshape(-1) for c in (image[:-1, :-1], image[:-1, 1:], image[1:, :-1], image[1:, 1:])]
    a, b, c, d = corners
    whole = np.flatnonzero((a >= 0) & (b >= 0) & (c >= 0) & (d >= 0))
    a, b, c, d = (corner[whole] for corner in corners)
    owner, distance = labelled.instance, _distance(frame.points)
    nearest = np.minimum(np.minimum(distance[a], distance[b]), np.minimum(distance[c], distance[d]))
    farthest = np.maximum(np.maximum(distance[a], distance[b]), np.maximum(distance[c], distance[d]))
    same = (owner[a] == owner[b]) & (owner[a] == owner[c]) & (owner[a] == owner[d])
    smooth = np.flatnonzero(same & (farthest - nearest <= _EDGE * nearest))
    a, b, c, d = (corner[smooth] for corner in (a, b, c, d))
    steps = [(y / factor, x / factor) for y in range(factor) for x in range(factor)][1:]

    def between(values: np.ndarray) -> Float32:
        """float32[len(steps) * M, ...] of values [N, ...]."""
        pa, pb, pc, pd = (values[corner].astype(np.float32) for corner in (a, b, c, d))
        right, down, across = pb - pa, pc - pa, pa + pd - pb - pc
        return np.concatenate(
            [pa + np.float32(x) * right + np.float32(y) * down + np.float32(x * y) * across for y, x in steps]
        )

    points = np.concatenate([frame.points, between(frame.points)])
    colors, intensity = frame.colors, frame.intensity
    if colors is not None:
        colors = np.concatenate([colors, np.rint(between(colors)).astype(np.uint8)])
    if intensity is not None:
        intensity = np.concatenate([intensity, between(intensity)])
    count = np.arange(len(points), dtype=np.int64)
    finer = PointFrame(points, colors, intensity, count, frame.stamp_ns, frame.frame_id)
    instance = np.concatenate([owner, np.tile(owner[a], len(steps))])
    return LabelledFrame(finer, labelled.T_world_sensor, instance)


_FLIP_X, _FLIP_Y = np.array([-1.0, 1.0, 1.0, 1.0]), np.array([1.0, -1.0, 1.0, 1.0])


def _distance(points: Float32) -> Float32:
    """float32[N]: length of each vector, float32[N, 3]."""
    length: Float32 = np.sqrt(np.einsum("nc,nc->n", points, points))
    return length


def _angles(points: Float32, R_world_sensor: Float64) -> tuple[Float32, Float32]:
    """Azimuth from the middle of the view and elevation above the horizon, radians: float32[N] each."""
    level = points @ R_world_sensor.T.astype(np.float32)
    across = np.hypot(level[:, 0], level[:, 1])
    middle = level[:, :2].mean(axis=0)
    middle /= max(float(np.hypot(*middle)), 1e-6)
    ahead, aside = level[:, :2] @ middle, level[:, :2] @ np.array([-middle[1], middle[0]], np.float32)
    elevation = np.arctan2(level[:, 2], across)
    return np.arctan2(aside, ahead), elevation - np.median(elevation)


def _turn(angle: float, axis: int) -> Float64:
    """float64[4, 4]: a rotation about a coordinate axis."""
    a, b = (axis + 1) % 3, (axis + 2) % 3
    T = np.eye(4)
    T[a, a] = T[b, b] = np.cos(angle)
    T[b, a], T[a, b] = np.sin(angle), -np.sin(angle)
    return T


def _about(pivot: Float64, T: Float64) -> Float64:
    """The rotation T about a point instead of the origin."""
    out = T.copy()
    out[:3, 3] = pivot - T[:3, :3] @ pivot
    return out
