"""Frame sources: a bag, or a folder of PCD files, velodyne scans or RGB-D images, as clouds with poses."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from psg4d_ros.cli import main
from psg4d_ros.cloud import cloud_message
from psg4d_ros.data import files
from psg4d_ros.data.bag import BagWriter, bag_types
from psg4d_ros.data.frame_source import open_frame_source
from psg4d_ros.data.pcd import read_pcd
from psg4d_ros.data.rgbd import read_depth
from psg4d_ros.data.velodyne import read_velodyne
from psg4d_ros.errors import DatasetError
from psg4d_ros.transforms import R_BODY_OPTICAL, TransformBuffer

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SECOND = 1_000_000_000


def needs(folder: str):
    return pytest.mark.skipif(not (SHARED / folder).is_dir(), reason=f"real data absent: {SHARED / folder}")


def write_scan(path: Path, points: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = np.column_stack([points, np.full(len(points), 0.5)]).astype("<f4").tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def write_pcd(path: Path, points: np.ndarray, viewpoint: str = "0 0 0 1 0 0 0") -> None:
    lines = [
        "VERSION 0.7", "FIELDS x y z", "SIZE 4 4 4", "TYPE F F F", "COUNT 1 1 1", f"WIDTH {len(points)}", "HEIGHT 1",
        f"VIEWPOINT {viewpoint}", f"POINTS {len(points)}", "DATA ascii",
    ]  # fmt: skip
    path.write_text("\n".join(lines + [" ".join(map(str, p)) for p in points]) + "\n")


def write_rgbd(folder: Path, number: int, depth_mm: np.ndarray, pose: np.ndarray | None = None) -> None:
    """One frame of a 4 x 3 camera with a focal length of 2 pixels, principal point (1, 1), blue everywhere."""
    folder.mkdir(exist_ok=True)
    np.savetxt(folder / "camera-intrinsics.txt", [[2, 0, 1], [0, 2, 1], [0, 0, 1]])
    stem = folder / f"frame-{number:06d}"
    Image.fromarray(depth_mm.astype(np.uint16)).save(f"{stem}.depth.png")
    Image.fromarray(np.full((*depth_mm.shape, 3), (0, 0, 255), np.uint8)).save(f"{stem}.color.png")
    if pose is not None:
        np.savetxt(f"{stem}.pose.txt", pose)


def frames_of(path: Path, transforms: TransformBuffer | None = None, **options):
    with open_frame_source(path, **options) as source:
        return [read() for read in source.frames(transforms or TransformBuffer(), 0.1)]


SQUARE = np.array([[0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]], np.float32)


def test_scans_come_in_order_of_their_numbers_and_gzip_makes_no_difference(tmp_path):
    for number in (10, 9, 2):
        write_scan(tmp_path / (f"{number}.bin.gz" if number == 9 else f"{number}.bin"), SQUARE * number)
    frames = frames_of(tmp_path)
    assert [f.points.max() for f in frames] == [2, 9, 10]
    assert [f.stamp_ns - frames[0].stamp_ns for f in frames] == [0, 7 * SECOND // 10, 8 * SECOND // 10]
    assert frames[0].intensity is not None and set(frames[0].intensity) == {0.5}
    assert frames[0].frame_id == "velodyne"


def test_the_rate_of_a_folder_without_times_can_be_given(tmp_path):
    for number in range(2):
        write_scan(tmp_path / f"{number}.bin", SQUARE)
    first, second = frames_of(tmp_path, rate_hz=4.0)
    assert second.stamp_ns - first.stamp_ns == SECOND // 4


def test_points_that_are_not_finite_are_left_out_and_the_others_keep_their_index(tmp_path):
    points = SQUARE.copy()
    points[1, 2] = np.nan
    write_scan(tmp_path / "0.bin", points)
    (frame,) = frames_of(tmp_path)
    assert frame.source_index.tolist() == [0, 2, 3]


def test_a_kitti_sequence_brings_times_and_poses_with_z_up(tmp_path):
    for number in range(2):
        write_scan(tmp_path / "velodyne" / f"{number:06d}.bin", SQUARE)
    (tmp_path / "times.txt").write_text("0.0\n0.25\n")
    (tmp_path / "calib.txt").write_text("P0: 1\nTr: " + " ".join(map(str, _rows(R_BODY_OPTICAL.T))) + "\n")
    poses = ["1 0 0 0 0 1 0 0 0 0 1 0", "1 0 0 0 0 1 0 0 0 0 1 5"]  # the camera moves 5 m along its z, which is forward
    (tmp_path / "poses.txt").write_text("\n".join(poses) + "\n")
    transforms = TransformBuffer()
    frames = frames_of(tmp_path, transforms)
    assert frames[1].stamp_ns - frames[0].stamp_ns == SECOND // 4
    T, age = transforms.lookup("world", "velodyne", frames[1].stamp_ns)
    assert age == 0
    np.testing.assert_allclose(T[:3, :3], np.eye(3), atol=1e-9)
    np.testing.assert_allclose(T[:3, 3], (5, 0, 0), atol=1e-9)
    (tmp_path / "times.txt").write_text("0.0\n")
    with pytest.raises(DatasetError, match=r"times.txt has 1 lines, scan 000001 needs line 2"):
        frames_of(tmp_path)
    for second, says in (("0.0", "0"), ("nan", "nan"), ("1e300", r"1e\+300")):
        (tmp_path / "times.txt").write_text(f"0.0\n{second}\n")
        with pytest.raises(DatasetError, match=f"times.txt: time 2 is {says}, expected seconds from 0 on"):
            frames_of(tmp_path)


def _rows(R: np.ndarray) -> list[float]:
    return np.hstack([R, np.zeros((3, 1))]).ravel().tolist()


@pytest.mark.parametrize(
    ("names", "stamps"),
    [
        (["frame_20121214T142256.5.pcd", "frame_20121214T142255.pcd"], [1355494975 * SECOND, 1355494976500000000]),
        (["1403636579.763556.pcd"], [1403636579763556000]),
        (["1403636579763555584.pcd"], [1403636579763555584]),
    ],
)
def test_times_in_file_names_are_taken_at_their_word(tmp_path, names, stamps):
    for name in names:
        write_pcd(tmp_path / name, SQUARE)
    assert [f.stamp_ns for f in frames_of(tmp_path)] == stamps


def test_the_viewpoint_of_a_pcd_file_is_its_pose(tmp_path):
    write_pcd(tmp_path / "0.pcd", SQUARE, "1 2 3 0.70710678 0 0 0.70710678")  # a quarter turn to the left
    transforms = TransformBuffer()
    (frame,) = frames_of(tmp_path, transforms)
    T, _ = transforms.lookup("world", frame.frame_id, frame.stamp_ns)
    np.testing.assert_allclose(T[:3, 3], (1, 2, 3))
    np.testing.assert_allclose(T[:3, 0], (0, 1, 0), atol=1e-6)


def test_depth_becomes_metres_along_the_rays_and_holes_are_left_out(tmp_path):
    depth = np.zeros((3, 4))
    depth[1, 1], depth[1, 3], depth[2, 1], depth[0, 0] = 1000, 2000, 3000, 65535
    write_rgbd(tmp_path / "rgbd", 0, depth)
    (frame,) = frames_of(tmp_path / "rgbd")
    np.testing.assert_allclose(frame.points, [[0, 0, 1], [2, 0, 2], [0, 1.5, 3]])
    assert frame.source_index.tolist() == [5, 7, 9]  # row * 4 + column
    assert frame.colors is not None and frame.colors.tolist() == [[0, 0, 255]] * 3
    assert frame.frame_id.endswith("_optical_frame")


def test_poses_of_rgbd_frames_lead_to_a_world_with_z_up(tmp_path):
    """Without a floor in sight the recording's world is turned from z forward, y down to x forward, z up."""
    for number in range(2):
        pose = np.eye(4)
        pose[2, 3] = number
        write_rgbd(tmp_path, number, np.full((3, 4), 1000), pose)
    transforms = TransformBuffer()
    frames = frames_of(tmp_path, transforms)
    T, _ = transforms.lookup("world", frames[1].frame_id, frames[1].stamp_ns)
    np.testing.assert_allclose(T[:3, 3], (1, 0, 0), atol=1e-9)
    np.testing.assert_allclose(T[:3, :3], R_BODY_OPTICAL, atol=1e-9)


def no_intrinsics(folder):
    write_rgbd(folder, 0, np.ones((3, 4)))
    (folder / "camera-intrinsics.txt").unlink()


def two_forms(folder):
    write_scan(folder / "0.bin", SQUARE)
    write_pcd(folder / "0.pcd", SQUARE)


@pytest.mark.parametrize(
    ("make", "options", "says"),
    [
        (lambda folder: folder.mkdir(exist_ok=True), {}, r"holds no frames; expected a bag or one form of \*\.pcd"),
        (two_forms, {}, "files of several forms: pcd, velodyne"),
        (no_intrinsics, {}, "has no camera-intrinsics.txt.*585 0 320"),
        (lambda folder: write_scan(folder / "scan.bin", SQUARE), {}, "scan.bin has no number in its name"),
        (lambda folder: write_scan(folder / "0.bin", SQUARE), {"topic": "/points"}, "has no topics"),
        (lambda folder: write_scan(folder / "0.bin", SQUARE), {"rate_hz": 0.0}, "rate_hz is 0.0"),
        (lambda folder: [write_scan(folder / n, SQUARE) for n in ("1.bin", "01.bin")], {}, "of the same time"),
        (
            lambda folder: [write_scan(folder / n, SQUARE) for n in ("0.bin", "20121214T142255.bin")],
            {},
            "0.bin has no time in its name as 20121214T142255.bin has",
        ),
        (lambda folder: write_scan(folder / f"{'9' * 30}.bin", SQUARE), {}, "a number of 30 digits"),
        (lambda folder: [write_scan(folder / f"{n}.bin", SQUARE) for n in (0, 10**17)], {}, "is too large"),
    ],
)
def test_a_folder_that_cannot_be_read_says_why(tmp_path, make, options, says):
    make(tmp_path)
    with pytest.raises(DatasetError, match=says):
        frames_of(tmp_path, **options)


def test_a_rate_for_a_bag_and_a_path_to_nothing_are_refused(kinect_bag, tmp_path):
    with pytest.raises(DatasetError, match="expected no rate"):
        frames_of(kinect_bag, rate_hz=10.0)
    with pytest.raises(DatasetError, match="does not exist"):
        frames_of(tmp_path / "nothing")


def damage_scan(folder):
    write_scan(folder / "0.bin", SQUARE)
    (folder / "0.bin").write_bytes((folder / "0.bin").read_bytes()[:-3])


def damage_gzip(folder):
    write_scan(folder / "0.bin.gz", SQUARE)
    (folder / "0.bin.gz").write_bytes((folder / "0.bin.gz").read_bytes()[:-9])


def damage_depth(folder):
    write_rgbd(folder, 0, np.ones((3, 4)))
    (folder / "frame-000000.depth.png").write_bytes(b"\x89PNG no more")


def other_program(folder):
    """An image of a kind that Pillow hands to Ghostscript, under a harmless name."""
    write_rgbd(folder, 0, np.ones((3, 4)))
    Image.new("RGB", (4, 3)).save(folder / "frame-000000.color.png", "EPS")


def no_pose(folder):
    write_rgbd(folder, 0, np.ones((3, 4)))
    write_rgbd(folder, 1, np.ones((3, 4)), np.eye(4))


def no_color(folder):
    for number in (0, 1):
        write_rgbd(folder, number, np.ones((3, 4)))
    (folder / "frame-000000.color.png").unlink()


def wide_pcd(folder):
    write_pcd(folder / "0.pcd", np.ones((2, 4)))


def small_color(folder):
    write_rgbd(folder, 0, np.ones((3, 4)))
    Image.new("RGB", (2, 2)).save(folder / "frame-000000.color.png")


def eight_bit_depth(folder):
    write_rgbd(folder, 0, np.ones((3, 4)))
    Image.new("L", (4, 3)).save(folder / "frame-000000.depth.png")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (damage_scan, "0.bin has 61 bytes, expected a multiple of 16"),
        (damage_gzip, "0.bin.gz cannot be read"),
        (damage_depth, "depth.png is not a readable image"),
        (small_color, "color.png is 2 x 2, expected the size of its depth image, 4 x 3"),
        (eight_bit_depth, "depth.png has pixels of kind L, expected 16-bit"),
        (other_program, "color.png is not a readable image"),
        (no_pose, "frame-000000.pose.txt cannot be read"),
        (no_color, "frame-000000.depth.png has no .color.png or .color.jpg beside it, as other frames here have"),
        (wide_pcd, "line 1 of the data has 4 values, the fields have 3"),
        (lambda folder: write_rgbd(folder, 0, np.ones((3, 4)), 2 * np.eye(4)), "pose.txt: the pose is"),
        (lambda folder: write_pcd(folder / "0.pcd", SQUARE, "0 0 0 0 0 0 0"), "VIEWPOINT has a quaternion of length 0"),
    ],
)
def test_a_damaged_frame_names_its_file_and_the_fault(tmp_path, make, says):
    make(tmp_path)
    with pytest.raises(DatasetError, match=says):
        frames_of(tmp_path)


def test_what_unpacks_to_more_than_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_BYTES", 100_000)  # of 2 GiB
    bomb = np.zeros(200_000, np.uint8)
    (tmp_path / "0.bin.gz").write_bytes(gzip.compress(bomb.tobytes()))
    np.savez_compressed(tmp_path / "0.npz", array=bomb)
    assert all(path.stat().st_size < 1000 for path in tmp_path.iterdir())
    with pytest.raises(DatasetError, match=r"0.bin.gz holds more than 100000 bytes unpacked"):
        frames_of(tmp_path)
    with pytest.raises(DatasetError, match=r"0.npz is not .*: the array has 200128 bytes, expected at most 100000"):
        files.read_array(tmp_path / "0.npz", "array")


@pytest.mark.parametrize("suffix", [".bin", ".bin.gz", ".pcd", ".npy", ".npz", ".png", ".json", ".txt"])
def test_random_bytes_give_a_frame_or_an_error_that_names_the_file(tmp_path, suffix):
    """Each file twice: noise, and the magic number of its kind followed by noise."""
    rng = np.random.default_rng(0)
    read = {
        ".pcd": read_pcd,
        ".npy": files.read_array,
        ".npz": lambda path: files.read_array(path, "array"),
        ".png": read_depth,
        ".json": files.read_json,
        ".txt": lambda path: files.read_numbers(path, 3),
    }.get(suffix, lambda path: read_velodyne(path, 1))
    magic = {
        ".bin.gz": b"\x1f\x8b\x08",
        ".npy": b"\x93NUMPY\x01\x00",
        ".npz": b"PK\x03\x04",
        ".png": b"\x89PNG\r\n\x1a\n",
    }
    path = tmp_path / f"0{suffix}"
    for number in range(200):
        start = magic.get(suffix, b"") if number % 2 else b""
        path.write_bytes(start + rng.integers(0, 256, rng.integers(0, 300), np.uint8).tobytes())
        try:
            read(path)
        except DatasetError as error:
            assert str(path) in str(error)


def test_replay_of_a_folder_counts_a_damaged_frame_and_goes_on(tmp_path, tiny_checkpoint, capsys):
    rng = np.random.default_rng(0)
    for number in (0, 3, 6):
        write_scan(tmp_path / "scans" / f"{number:06d}.bin", rng.uniform((-2, -2, -1), (2, 2, -0.9), (2000, 3)))
    (tmp_path / "scans" / "000003.bin").write_bytes(b"short")
    out = tmp_path / "result.json"
    arguments = ["replay", tmp_path / "scans", "--checkpoint", tiny_checkpoint, "--json", out, "--quiet"]
    assert main([str(a) for a in arguments]) == 0
    result = json.loads(out.read_text())
    assert (result["frames_in"], result["frames_dropped"], result["windows"]) == (3, 1, 2)
    (reason,) = result["errors"]
    assert "000003.bin has 5 bytes" in reason
    assert "scans velodyne: 3 clouds, 1 dropped" in capsys.readouterr().out


def test_the_same_clouds_give_the_same_graphs_from_a_folder_and_from_a_bag(tmp_path, tiny_checkpoint):
    """There is one way through: only where a cloud comes from differs."""
    rng = np.random.default_rng(0)
    stamps = [1355494975 * SECOND + n * SECOND // 4 for n in range(3)]
    clouds = [rng.uniform((-2, -2, 0), (2, 2, 0.3), (500, 3)).astype(np.float32) for _ in stamps]
    xyz = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4")])
    (tmp_path / "folder").mkdir()
    with BagWriter(tmp_path / "bag", "mcap") as writer:
        for stamp, points in zip(stamps, clouds, strict=True):
            write_pcd(tmp_path / "folder" / f"{stamp}.pcd", points)
            writer.write("/points", cloud_message(points.view(xyz)[:, 0], stamp, "sensor", bag_types()), stamp)
    graphs = []
    for name in ("folder", "bag"):
        out = tmp_path / f"{name}.json"
        arguments = ["replay", tmp_path / name, "--checkpoint", tiny_checkpoint, "--json", out, "--quiet"]
        assert main([str(a) for a in arguments]) == 0
        graphs.append(json.loads(out.read_text())["graphs"])
    assert graphs[0] == graphs[1]
    assert [g["stamp_ns"] for g in graphs[0]] == stamps


@needs("kitti_velodyne")
def test_real_velodyne_scans_replay(tiny_checkpoint, tmp_path):
    out = tmp_path / "kitti.json"
    arguments = ["replay", SHARED / "kitti_velodyne", "--checkpoint", tiny_checkpoint, "--json", out, "--quiet"]
    assert main([str(a) for a in [*arguments, "--rate", 2]]) == 0
    result = json.loads(out.read_text())
    assert (result["frames_dropped"], result["windows"]) == (0, 3)
    assert result["graphs"][-1]["num_points"] > 5000


@needs("rgbd_7scenes")
def test_real_rgbd_frames_replay_in_a_level_world(tiny_checkpoint, tmp_path):
    for number in (0, 10, 20):
        for file in (SHARED / "rgbd_7scenes").glob(f"frame-{number:06d}.*"):
            shutil.copy(file, tmp_path)
    shutil.copy(SHARED / "rgbd_7scenes" / "camera-intrinsics.txt", tmp_path)
    out = tmp_path / "kitchen.json"
    arguments = ["replay", tmp_path, "--checkpoint", tiny_checkpoint, "--json", out, "--quiet"]
    assert main([str(a) for a in [*arguments, "--set", "coordinates.target_frame=world"]]) == 0
    result = json.loads(out.read_text())
    assert (result["frames_dropped"], result["windows"]) == (0, 3)
    assert {g["frame_id"] for g in result["graphs"]} == {"world"}


@needs("rgbd_7scenes")
def test_the_floor_of_the_real_kitchen_is_level_and_at_zero():
    transforms = TransformBuffer(cache_s=60.0)
    heights = []
    with open_frame_source(SHARED / "rgbd_7scenes") as source:
        assert len(source) == 60
        for read in list(source.frames(transforms, 0.1))[::20]:
            frame = read()
            T, _ = transforms.lookup("world", frame.frame_id, frame.stamp_ns)
            heights.append((frame.points @ T[:3, :3].T + T[:3, 3])[:, 2])
    z = np.concatenate(heights)
    histogram, edges = np.histogram(z, np.arange(-0.31, 2.0, 0.02))
    assert (z < -0.1).mean() < 0.01
    assert histogram[(edges[:-1] > -0.04) & (edges[:-1] < 0.03)].sum() > 0.1 * len(z), "a tenth of the view is floor"


@needs("kinect_pcd")
def test_real_compressed_pcd_files_with_times_in_their_names(tmp_path):
    for file in (SHARED / "kinect_pcd").glob("frame_*.pcd.gz"):
        shutil.copy(file, tmp_path)
    frames = frames_of(tmp_path)
    assert [f.stamp_ns for f in frames] == [1355494975814212000, 1355494976068683000, 1355494976332395000]
    assert all(len(f) > 250_000 and f.colors is not None for f in frames)
