#!/usr/bin/env python3
"""Make test/data/kinect from the Kinect sequence of the Point Cloud Library's test data.

    python scripts/make_test_bag.py FOLDER [OUT]

FOLDER holds frame_20121214T*.pcd.gz (PCL, test/grabber_sequences/pcd, gzipped or not). The same input gives the same
bytes. What is done to the recording is written in test/data/PROVENANCE.md.
"""

from __future__ import annotations

import argparse
import re
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from psg4d_ros.cloud import cloud_message
from psg4d_ros.data.bag import BagWriter, bag_types
from psg4d_ros.data.pcd import PcdCloud, read_pcd
from psg4d_ros.messages import header_message

TOPIC = "/camera/depth_registered/points"
OPTICAL_FRAME = "camera_rgb_optical_frame"
STEP = 2  # every second row and column: 640 x 480 -> 320 x 240
POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<f4")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with the PCD files")
    parser.add_argument("out", type=Path, nargs="?", default=Path(__file__).parents[1] / "test" / "data" / "kinect")
    options = parser.parse_args()
    files = sorted(options.folder.glob("frame_*.pcd*"))
    if not files:
        parser.error(f"no frame_*.pcd or frame_*.pcd.gz in {options.folder}")
    stamps = [stamp_of_name(file) for file in files]
    clouds = [thinned(read_pcd(file)) for file in files]
    down, height_m = floor_of(clouds[0])
    print(
        f"floor {height_m:.3f} m below the camera, camera tilted down by {np.degrees(np.arcsin(down[2])):.1f} degrees"
    )
    types = bag_types()
    with BagWriter(options.out, "mcap", overwrite=True) as bag:
        bag.write("/tf_static", mount(down, height_m, stamps[0]), stamps[0])
        for stamp, cloud in zip(stamps, clouds, strict=True):
            bag.write(TOPIC, cloud_message(cloud, stamp, OPTICAL_FRAME, types), stamp)
    size = sum(file.stat().st_size for file in options.out.iterdir())
    print(f"{options.out}: {len(clouds)} clouds, {size / 2**20:.2f} MiB")


def stamp_of_name(path: Path) -> int:
    """Nanoseconds from a name like frame_20121214T142255.814212.pcd.gz, read as UTC."""
    found = re.match(r"frame_(\d{8}T\d{6})\.(\d{6})\.pcd", path.name)
    if found is None:
        raise SystemExit(f"{path.name}: expected a name like frame_20121214T142255.814212.pcd.gz")
    time = datetime.strptime(found.group(1), "%Y%m%dT%H%M%S").replace(tzinfo=timezone.utc)
    return int(time.timestamp()) * 1_000_000_000 + int(found.group(2)) * 1000


def thinned(cloud: PcdCloud) -> np.ndarray:
    """Every STEP-th row and column, still organised, colour packed as float32 as the Kinect drivers do it."""
    grid = cloud.points.reshape(cloud.height, cloud.width)[::STEP, ::STEP]
    out = np.empty(grid.shape, POINT)
    for name in "xyz":
        out[name] = grid[name]
    out["rgb"] = (grid["rgba"] & 0x00FFFFFF).astype(np.uint32).view(np.float32)
    return out


def floor_of(cloud: np.ndarray) -> tuple[np.ndarray, float]:
    """Direction of gravity (unit vector) and height of the camera over the floor in metres, in the optical frame.

    The floor is the plane with the most points within 1 cm (seeded RANSAC, then least squares on its points).
    """
    points = np.stack([cloud[name].ravel() for name in "xyz"], axis=1).astype(np.float64)
    points = points[np.isfinite(points).all(axis=1)]
    random = np.random.default_rng(0)
    best: tuple[int, np.ndarray] | None = None
    for _ in range(500):
        a, b, c = points[random.choice(len(points), 3, replace=False)]
        normal = np.cross(b - a, c - a)
        length = np.linalg.norm(normal)
        if length < 1e-6:
            continue
        near = np.abs((points - a) @ (normal / length)) < 0.01
        if best is None or near.sum() > best[0]:
            best = int(near.sum()), near
    assert best is not None
    floor = points[best[1]]
    centre = floor.mean(axis=0)
    down = np.linalg.eigh(np.cov((floor - centre).T))[1][:, 0]  # the direction of least variance
    down = down if down @ centre > 0 else -down
    return down, float(down @ centre)


def mount(down: np.ndarray, height_m: float, stamp_ns: int) -> object:
    """/tf_static: odom -> camera_link -> optical frame; odom has z up, z = 0 on the floor, x where the camera looks."""
    up = -down
    forward = np.array([0.0, 0.0, 1.0])
    forward -= (forward @ up) * up
    forward /= np.linalg.norm(forward)
    R_odom_optical = np.stack([forward, np.cross(up, forward), up])
    R_link_optical = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # REP 103
    types = bag_types()

    def transform(parent: str, child: str, translation: tuple[float, float, float], R: np.ndarray) -> object:
        x, y, z, w = (round(v, 9) for v in quaternion(R))  # the last bits depend on the machine's linear algebra
        return types.get("geometry_msgs/msg/TransformStamped")(
            header=header_message(stamp_ns, parent, types),
            child_frame_id=child,
            transform=types.get("geometry_msgs/msg/Transform")(
                translation=types.get("geometry_msgs/msg/Vector3")(*translation),
                rotation=types.get("geometry_msgs/msg/Quaternion")(x, y, z, w),
            ),
        )

    return types.get("tf2_msgs/msg/TFMessage")(
        transforms=[
            transform("odom", "camera_link", (0.0, 0.0, round(height_m, 6)), R_odom_optical @ R_link_optical.T),
            transform("camera_link", OPTICAL_FRAME, (0.0, 0.0, 0.0), R_link_optical),
        ]
    )


def quaternion(R: np.ndarray) -> tuple[float, float, float, float]:
    """x, y, z, w of a rotation matrix, w >= 0: the eigenvector of its largest eigenvalue (Bar-Itzhack 2000)."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = R
    K = np.array(
        [
            [xx - yy - zz, yx + xy, zx + xz, zy - yz],
            [yx + xy, yy - xx - zz, zy + yz, xz - zx],
            [zx + xz, zy + yz, zz - xx - yy, yx - xy],
            [zy - yz, xz - zx, yx - xy, xx + yy + zz],
        ]
    )
    q = np.linalg.eigh(K)[1][:, -1]
    q = q if q[3] >= 0 else -q
    return float(q[0]), float(q[1]), float(q[2]), float(q[3])


if __name__ == "__main__":
    main()
