#!/usr/bin/env python3
"""Converts DeepMimic humanoid3d clips (pybullet_data, zlib licence) into psg4d_ros/data/simulation/assets/motions.npz.

    scripts/make_simulation_motions.py FOLDER [--out FILE]

FOLDER holds the clips as `humanoid3d_walk.txt.gz` and so on. A frame there is [duration, root position (y up, x to the
front), root quaternion w x y z, then per joint a quaternion or, for knees and elbows, an angle about z]. Here a clip
has 30 frames a second in the axes of the simulator (front -y, z up), starts (or, for getting up, ends) over the origin,
and goes along -y, or looks along it there.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

import numpy as np

from psg4d_ros.data.simulation import quaternions

ROOT = Path(__file__).resolve().parent.parent
RATE_HZ = 30
CLIPS = {
    "walk": "humanoid3d_walk", "run": "humanoid3d_run", "jump": "humanoid3d_jump", "kick": "humanoid3d_kick",
    "punch": "humanoid3d_punch", "crawl": "humanoid3d_crawl", "getup_faceup": "humanoid3d_getup_faceup",
    "getup_facedown": "humanoid3d_getup_facedown", "dance_a": "humanoid3d_dance_a", "dance_b": "humanoid3d_dance_b",
    "turn_left": "turn_left1", "turn_right": "turn_right0",
}  # fmt: skip
TRAVELLING = ("walk", "run", "jump", "kick", "punch", "crawl")  # turned so that they go along -y
CYCLIC = ("walk", "run", "crawl")
# Columns of the joints after the root, in the order chest, neck, right hip, ..., left elbow; 1 = an angle about z.
WIDTHS = (4, 4, 4, 1, 4, 4, 1, 4, 1, 4, 4, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "psg4d_ros/data/simulation/assets/motions.npz")
    arguments = parser.parse_args()
    arrays = {}
    for name, stem in CLIPS.items():
        with gzip.open(arguments.folder / f"{stem}.txt.gz", "rt", encoding="utf-8") as file:
            content = json.load(file)
        root, rotations = converted(np.array(content["Frames"]), name in TRAVELLING, name.startswith("getup"))
        if name in CYCLIC:
            root, rotations = closed(root, rotations)
        arrays[f"{name}.root_mm"] = np.round(root * 1000).astype(np.int16)
        arrays[f"{name}.rotations"] = np.round(rotations * 32767).astype(np.int16)
        print(f"{name}: {len(root)} frames, travels {root[-1] - root[0]}")
    np.savez_compressed(arguments.out, **arrays)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e3:.0f} kB")


def converted(frames: np.ndarray, travelling: bool, ends_upright: bool) -> tuple[np.ndarray, np.ndarray]:
    """root: float64[F, 3] metres. rotations: float64[F, 13, 4], the pelvis and twelve joints relative to parents."""
    times = np.concatenate([[0.0], np.cumsum(frames[:-1, 0])])
    root, rotations = in_our_axes(frames)
    grid = np.linspace(0.0, times[-1], round(times[-1] * RATE_HZ) + 1)
    right = np.clip(np.searchsorted(times, grid, side="right"), 1, len(times) - 1)
    share = np.clip((grid - times[right - 1]) / np.maximum(times[right] - times[right - 1], 1e-9), 0.0, 1.0)
    root = (1 - share[:, None]) * root[right - 1] + share[:, None] * root[right]
    rotations = quaternions.slerp(rotations[right - 1], rotations[right], share[:, None, None])

    upright = -1 if ends_upright else 0
    if travelling:
        front = root[-1] - root[0]
    else:
        front = -quaternions.matrices(rotations[upright, 0])[:, 1]
    back_turn = quaternions.rotation((0.0, 0.0, 1.0), -np.arctan2(front[0], -front[1]))
    rotations[:, 0] = quaternions.multiply(back_turn, rotations[:, 0])
    root = root - root[upright] * [1.0, 1.0, 0.0]
    return root @ quaternions.matrices(back_turn).T, rotations


def closed(root: np.ndarray, rotations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The last frame as the first one, moved on, and the jumps at the seams of the recording spread over some frames.

    Walking and running were made of one step and its mirror image, which do not quite meet.
    """
    travel = (root[-1] - root[0]) * [1.0, 1.0, 0.0]
    steady = np.linspace(0.0, 1.0, len(root))[:, None] * travel
    moving, q = (root - steady)[:-1], rotations[:-1]
    for _ in range(3):
        moving = 0.25 * np.roll(moving, 1, axis=0) + 0.5 * moving + 0.25 * np.roll(moving, -1, axis=0)
        before = quaternions.slerp(q, np.roll(q, 1, axis=0), 0.5)
        after = quaternions.slerp(q, np.roll(q, -1, axis=0), 0.5)
        q = quaternions.slerp(before, after, 0.5)
    moving, q = np.concatenate([moving, moving[:1]]), np.concatenate([q, q[:1]])
    return moving + steady - moving[0] * [1.0, 1.0, 0.0], q


def in_our_axes(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Front x -> -y, up y -> z, right z -> -x."""

    def turned(v: np.ndarray) -> np.ndarray:
        return np.stack([-v[..., 2], -v[..., 0], v[..., 1]], axis=-1)

    columns = [frames[:, 4:8]]
    at = 8
    for width in WIDTHS:
        if width == 4:
            columns.append(frames[:, at : at + 4])
        else:
            columns.append(quaternions.rotation((0.0, 0.0, 1.0), frames[:, at]))
        at += width
    q = np.stack(columns, axis=1)
    q = quaternions.normalize(np.concatenate([q[..., :1], turned(q[..., 1:])], axis=-1))
    return turned(frames[:, 1:4]), q


if __name__ == "__main__":
    main()
