"""Bags: written whole or not at all, read in order, and every fault of a file named."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cloud_messages import XYZ, xyz
from message_classes import message_classes
from scene_graphs import SECOND, graph, holds, same, thing

from psg4d_ros.cloud import cloud_message, frame_from_cloud
from psg4d_ros.data.bag import BagWriter, bag_types, deserialize, open_bag
from psg4d_ros.data.pcd import lzf_decompress, read_pcd
from psg4d_ros.errors import DatasetError
from psg4d_ros.messages import graph_from_message, graph_message, header_message
from psg4d_ros.transforms import TransformBuffer, transform_points

STORAGES = ["mcap", "sqlite3"]
TYPES = bag_types()


@pytest.fixture(params=STORAGES)
def storage(request) -> str:
    return request.param


def cloud_at(seconds: float, points: int = 5):
    """A cloud whose x counts up from its time."""
    values = xyz(np.arange(3 * points).reshape(points, 3) + seconds)
    return cloud_message(values, round(seconds * SECOND), "lidar", TYPES)


def transform_at(seconds: float, x: float, child: str = "lidar", parent: str = "odom", w: float = 1.0):
    return TYPES.get("tf2_msgs/msg/TFMessage")(
        transforms=[
            TYPES.get("geometry_msgs/msg/TransformStamped")(
                header=header_message(round(seconds * SECOND), parent, TYPES),
                child_frame_id=child,
                transform=TYPES.get("geometry_msgs/msg/Transform")(
                    translation=TYPES.get("geometry_msgs/msg/Vector3")(x, 0.0, 0.0),
                    rotation=TYPES.get("geometry_msgs/msg/Quaternion")(0.0, 0.0, 0.0, w),
                ),
            )
        ]
    )


def write(path: Path, storage: str = "mcap", **topics) -> Path:
    """A bag; topics: (message, seconds) pairs, ``a__b`` stands for the topic /a/b."""
    with BagWriter(path, storage) as bag:
        for name, messages in topics.items():
            for message, seconds in messages:
                bag.write("/" + name.replace("__", "/"), message, round(seconds * SECOND))
    return path


# --- writing and reading ---


def test_what_was_written_is_read_in_order_of_recording(tmp_path, storage):
    path = write(
        tmp_path / "bag",
        storage,
        points=[(cloud_at(s), s) for s in (3, 1, 2)],
        scene_graph=[(graph_message(graph(thing(1), thing(2), holds(1, "on", 2)), TYPES), 2.5)],
    )
    with open_bag(path) as bag:
        assert bag.topics == {"/points": "sensor_msgs/msg/PointCloud2", "/scene_graph": "psg4d_ros/msg/SceneGraph"}
        assert bag.count("/points") == 3
        clouds = list(bag.clouds())
        assert [received for _, received in clouds] == [1 * SECOND, 2 * SECOND, 3 * SECOND]
        frames = [frame_from_cloud(message) for message, _ in clouds]
        assert [frame.stamp_ns for frame in frames] == [1 * SECOND, 2 * SECOND, 3 * SECOND]
        np.testing.assert_array_equal(frames[0].points, np.float32(np.arange(15).reshape(5, 3) + 1))
        assert [topic for topic, _, _ in bag.messages()] == ["/points", "/points", "/scene_graph", "/points"]
        ((_, message, _),) = bag.messages(["/scene_graph"])
        assert same(graph_from_message(message), graph(thing(1), thing(2), holds(1, "on", 2)))
        assert list(bag.messages([])) == []


def test_a_single_file_is_a_bag_too(tmp_path, storage):
    path = write(tmp_path / "bag", storage, points=[(cloud_at(1), 1)])
    (file,) = path.glob("bag.*")
    with open_bag(file) as bag:
        assert len(list(bag.clouds())) == 1


def test_raw_messages_can_be_copied_into_another_bag(tmp_path, storage):
    path = write(tmp_path / "bag", storage, points=[(cloud_at(1), 1), (cloud_at(2), 2)])
    with open_bag(path) as bag, BagWriter(tmp_path / "copy", storage) as copy:
        for topic, kind, cdr, received in bag.raw_messages():
            assert deserialize(cdr, kind).header.frame_id == "lidar"
            copy.write_raw(topic, kind, cdr, received)
    with open_bag(tmp_path / "copy") as bag:
        assert [received for _, received in bag.clouds()] == [1 * SECOND, 2 * SECOND]


def test_the_same_messages_give_the_same_bytes(tmp_path):
    """Replay's predictions are compared by checksum."""
    for run in "ab":
        write(tmp_path / run / "bag", points=[(cloud_at(1), 1)], tf_static=[(transform_at(0, 1.0), 0)])
    for name in ("bag.mcap", "metadata.yaml"):
        assert (tmp_path / "a/bag" / name).read_bytes() == (tmp_path / "b/bag" / name).read_bytes()


# --- transforms ---


def test_static_transforms_are_there_before_the_first_cloud(tmp_path, storage):
    """A recorder may subscribe to /tf_static late; the robot has had the mount all along."""
    path = write(tmp_path / "bag", storage, points=[(cloud_at(1), 1)], tf_static=[(transform_at(9, 4.0), 9)])
    transforms = TransformBuffer()
    with open_bag(path) as bag:
        for _ in bag.clouds(transforms=transforms):
            assert transforms.lookup("odom", "lidar", SECOND)[0][0, 3] == 4.0


def test_transforms_come_with_the_clouds_and_a_little_ahead(tmp_path):
    """Each cloud has the transforms that the node would have waited for, and none from far in its future."""
    path = write(
        tmp_path / "bag",
        points=[(cloud_at(s), s) for s in (1, 2, 3)],
        tf=[(transform_at(s, x=10.0 * s), s + 0.05) for s in (0.5, 1.0, 2.0, 3.0)],
    )
    transforms, seen = TransformBuffer(), []
    with open_bag(path) as bag:
        for message, _ in bag.clouds(transforms=transforms):
            stamp = frame_from_cloud(message).stamp_ns
            pose, age = transforms.lookup("odom", "lidar", stamp)
            seen.append((pose[0, 3], age))
            assert transforms.lookup("odom", "lidar", stamp + SECOND)[1] == SECOND, "a transform from the future"
    assert seen == [(10.0, 0), (20.0, 0), (30.0, 0)]


def test_clouds_are_not_held_back_for_long(tmp_path):
    """Memory is bounded: a cloud is given out when the bag is read past its waiting time."""
    path = write(tmp_path / "bag", points=[(cloud_at(s), s) for s in range(1, 50)])
    with open_bag(path) as bag:
        stream = bag.clouds(transforms=TransformBuffer(), tf_wait_s=0.1)
        first, _ = next(stream)
        assert frame_from_cloud(first).stamp_ns == SECOND
        assert len(stream.gi_frame.f_locals["waiting"]) <= 1


def test_an_unusable_transform_is_left_out_and_reported(tmp_path, caplog):
    path = write(tmp_path / "bag", points=[(cloud_at(1), 1)], tf_static=[(transform_at(0, 1.0, w=0.0), 0)])
    with open_bag(path) as bag, caplog.at_level(logging.WARNING):
        assert len(list(bag.clouds(transforms=TransformBuffer()))) == 1
    assert "quaternion of length 0" in caplog.text


# --- choosing a topic ---


def test_several_cloud_topics_need_a_choice(tmp_path):
    path = write(tmp_path / "bag", left=[(cloud_at(1), 1)], right=[(cloud_at(2), 2)])
    with open_bag(path) as bag:
        with pytest.raises(DatasetError, match="several cloud topics: /left, /right"):
            next(bag.clouds())
        assert [received for _, received in bag.clouds("/right")] == [2 * SECOND]


def test_a_bag_without_clouds_names_what_it_has(tmp_path):
    path = write(tmp_path / "bag", tf=[(transform_at(1, 0.0), 1)])
    with open_bag(path) as bag:
        with pytest.raises(DatasetError, match=r"no topic of type sensor_msgs/msg/PointCloud2; topics: /tf \(tf2_msgs"):
            bag.choose_cloud_topic()
        with pytest.raises(DatasetError, match="topic /tf holds tf2_msgs/msg/TFMessage, expected PointCloud2"):
            bag.choose_cloud_topic("/tf")
        with pytest.raises(DatasetError, match="topic /points is not in the bag"):
            bag.choose_cloud_topic("/points")


def test_an_empty_bag_is_a_bag(tmp_path, storage):
    with BagWriter(tmp_path / "bag", storage):
        pass
    with open_bag(tmp_path / "bag") as bag, pytest.raises(DatasetError, match="topics: none"):
        bag.choose_cloud_topic()


# --- faults of files ---


@pytest.mark.parametrize("name", ["nothing", "folder", "text.mcap", "empty.mcap", "text.db3", "text.bag", "text.txt"])
def test_what_is_not_a_bag_is_refused_by_name(tmp_path, name):
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    elif name != "nothing":
        path.write_text("" if name.startswith("empty") else "not a bag" * 100)
    with pytest.raises(DatasetError, match=name), open_bag(path):
        pass


def read_everything(path: Path) -> int:
    with open_bag(path) as bag:
        return len(list(bag.clouds(transforms=TransformBuffer())))


@pytest.mark.parametrize("part", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_bag_that_is_cut_off_is_refused(tmp_path, storage, part):
    path = write(tmp_path / "bag", storage, points=[(cloud_at(s, points=2000), s) for s in range(1, 60)])
    (file,) = path.glob("bag.*")
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(DatasetError, match="bag"):
        read_everything(path)


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_bag_gives_an_error_or_messages_but_never_a_crash(tmp_path, storage, seed):
    path = write(tmp_path / "bag", storage, points=[(cloud_at(s, points=50), s) for s in range(1, 30)])
    (file,) = path.glob("bag.*")
    content = bytearray(file.read_bytes())
    random = np.random.default_rng(seed)
    for place in random.integers(0, len(content), 1 + seed * 3):
        content[place] = random.integers(0, 256)
    file.write_bytes(content)
    try:
        read_everything(path)
    except DatasetError as error:
        assert str(path) in str(error)


def test_a_message_that_does_not_decode_is_named(tmp_path, storage):
    with BagWriter(tmp_path / "bag", storage) as bag:
        bag.write("/points", cloud_at(1), SECOND)
        bag.write_raw("/points", "sensor_msgs/msg/PointCloud2", b"\0\1\0\0rubbish", 2 * SECOND)
    with open_bag(tmp_path / "bag") as bag:
        clouds = bag.clouds()
        next(clouds)
        with pytest.raises(DatasetError, match="message 1 of /points is not a sensor_msgs/msg/PointCloud2"):
            next(clouds)


# --- writing whole or not at all ---


def test_an_error_inside_the_block_leaves_nothing(tmp_path, storage):
    with pytest.raises(RuntimeError), BagWriter(tmp_path / "bag", storage) as bag:
        bag.write("/points", cloud_at(1), SECOND)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_bag_is_not_overwritten_unless_asked_to(tmp_path, storage):
    path = write(tmp_path / "bag", storage, points=[(cloud_at(1), 1)])
    with pytest.raises(DatasetError, match="exists already"), BagWriter(path, storage):
        pass
    with BagWriter(path, storage, overwrite=True) as bag:
        bag.write("/points", cloud_at(7), 7 * SECOND)
        assert read_everything(path) == 1, "the old bag stays until the new one is whole"
    with open_bag(path) as bag:
        assert [received for _, received in bag.clouds()] == [7 * SECOND]
    assert [p.name for p in tmp_path.iterdir()] == ["bag"]


def test_a_killed_writer_leaves_no_half_written_bag(tmp_path, storage):
    script = """
import sys, time
sys.path.insert(0, sys.argv[3])
from test_bag import SECOND, BagWriter, cloud_at
with BagWriter(sys.argv[1], sys.argv[2]) as bag:
    for s in range(1, 20):
        bag.write("/points", cloud_at(s, points=20000), s * SECOND)
    print("written", flush=True)
    time.sleep(60)
"""
    arguments = [sys.executable, "-c", script, str(tmp_path / "bag"), storage, str(Path(__file__).parent)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "written\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait(20)
    assert not (tmp_path / "bag").exists()
    write(tmp_path / "bag", storage, points=[(cloud_at(1), 1)])  # and what it left is not in the way
    assert read_everything(tmp_path / "bag") == 1


def test_only_known_messages_are_written_and_one_type_per_topic(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        with pytest.raises(DatasetError, match="str is not a message"):
            bag.write("/points", "hello", 1)
        bag.write("/points", cloud_at(1), 1)
        with pytest.raises(DatasetError, match="/points holds sensor_msgs/msg/PointCloud2"):
            bag.write("/points", transform_at(1, 0.0), 2)
        broken = cloud_at(1)
        broken.width = "wide"
        with pytest.raises(DatasetError, match="cannot be serialised"):
            bag.write("/points", broken, 3)


def test_unknown_storages_and_places_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="storage is 'zip', expected one of mcap, sqlite3"):
        BagWriter(tmp_path / "bag", "zip")
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot be written"), BagWriter(tmp_path / "file" / "bag"):
        pass


# --- the real recording ---


def test_the_kinect_recording_is_what_its_provenance_says(kinect_bag):
    assert sum(file.stat().st_size for file in kinect_bag.iterdir()) < 4 * 2**20
    transforms, stamps = TransformBuffer(), []
    with open_bag(kinect_bag) as bag:
        assert bag.cloud_topics == ("/camera/depth_registered/points",)
        for message, received in bag.clouds(transforms=transforms):
            frame = frame_from_cloud(message)
            assert (message.width, message.height, frame.frame_id) == (320, 240, "camera_rgb_optical_frame")
            assert 60_000 < len(frame) < 320 * 240, "pixels without depth are NaN"
            assert frame.colors is not None and frame.colors.std() > 30
            assert received == frame.stamp_ns
            stamps.append(frame.stamp_ns)
            height = transform_points(transforms.lookup("odom", frame.frame_id, frame.stamp_ns)[0], frame.points)[:, 2]
            assert (np.abs(height) < 0.02).mean() > 0.5, "more than half of what it sees is the floor, at z = 0"
            assert np.percentile(height, 99.9) < 0.6, "and nothing is higher than the legs of a chair"
    assert stamps == [1355494975814212000, 1355494976068683000, 1355494976332395000]


@pytest.mark.ros
def test_rclpy_reads_the_recordings_bytes_as_they_are(kinect_bag):
    """A player can publish what is in the bag without decoding it."""
    message_type = message_classes("rclpy").get("sensor_msgs/msg/PointCloud2")
    from rclpy.serialization import deserialize_message

    with open_bag(kinect_bag) as bag:
        raw = [cdr for _, _, cdr, _ in bag.raw_messages(bag.cloud_topics)]
        ours = [frame_from_cloud(message) for message, _ in bag.clouds()]
    theirs = [frame_from_cloud(deserialize_message(cdr, message_type)) for cdr in raw]
    for a, b in zip(ours, theirs, strict=True):
        assert a.stamp_ns == b.stamp_ns
        np.testing.assert_array_equal(a.points, b.points)
        np.testing.assert_array_equal(a.colors, b.colors)
        np.testing.assert_array_equal(a.source_index, b.source_index)


# --- PCD files ---

HEADER = "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z rgb _\nSIZE 4 4 4 4 1\nTYPE F F F U U\nCOUNT 1 1 1 1 3\n"
HEADER += "WIDTH {w}\nHEIGHT {h}\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {n}\nDATA {data}\n"


def pcd_points() -> np.ndarray:
    points = np.zeros(6, np.dtype([*XYZ.descr, ("rgb", "<u4"), ("_4", "<u1", (3,))]))
    for axis, name in enumerate("xyz"):
        points[name] = np.arange(6) + axis / 4
    points["rgb"], points["_4"] = np.arange(6) * 1000, 9
    return points


def pcd_file(path: Path, data: str) -> Path:
    points = pcd_points()
    if data == "ascii":
        rows = (f"{p['x']} {p['y']} {p['z']} {p['rgb']} 9 9 9" for p in points)
        body = "\n".join(rows).encode()
    elif data == "binary":
        body = points.tobytes()
    else:
        columns = b"".join(points[name].tobytes() for name in points.dtype.names)
        runs = [columns[at : at + 32] for at in range(0, len(columns), 32)]
        packed = b"".join(bytes([len(run) - 1]) + run for run in runs)  # LZF without back references
        body = np.array([len(packed), len(columns)], "<u4").tobytes() + packed
    path.write_bytes(HEADER.format(w=3, h=2, n=6, data=data).encode() + body)
    return path


@pytest.mark.parametrize("data", ["ascii", "binary", "binary_compressed"])
def test_pcd_files_of_every_kind_are_read(tmp_path, data):
    cloud = read_pcd(pcd_file(tmp_path / "cloud.pcd", data))
    assert (cloud.width, cloud.height) == (3, 2)
    np.testing.assert_array_equal(cloud.points, pcd_points())


@pytest.mark.parametrize(
    ("block", "content"),
    [
        (bytes([2]) + b"abc", b"abc"),
        (bytes([0]) + b"a" + bytes([7 << 5, 10, 0]), b"a" * 20),  # a reference that overlaps what it writes
        (bytes([3]) + b"abcd" + bytes([1 << 5, 3]), b"abcdabc"),
    ],
)
def test_lzf(block, content):
    assert lzf_decompress(block, len(content)) == content
    with pytest.raises(ValueError, match="bytes"):
        lzf_decompress(block, len(content) + 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c[:100],
        lambda c: c[:-1],
        lambda c: b"",
        lambda c: b"\x1f\x8b" + c,
        lambda c: c.replace(b"POINTS 6", b"POINTS 7"),
        lambda c: c.replace(b"WIDTH 3", b"WIDTH 300000000000").replace(b"POINTS 6", b"POINTS 600000000000"),
        lambda c: c.replace(b"WIDTH 3", b"WIDTH three"),
        lambda c: c.replace(b"SIZE 4", b"SIZE 3"),
        lambda c: c.replace(b"SIZE 4", b"SIZE"),
        lambda c: c.replace(b"FIELDS x y", b"FIELDS x x"),
        lambda c: c.replace(b"COUNT 1 1 1 1 3", b"COUNT 1 1 1 1 -3"),
        lambda c: c.replace(b"DATA ", b"DATA zipped_"),
        lambda c: c.replace(b"VIEWPOINT 0 0 0 1", b"VIEWPOINT 0 0 nan 1"),
    ],
)
@pytest.mark.parametrize("data", ["ascii", "binary", "binary_compressed"])
def test_broken_pcd_files_are_refused_by_name(tmp_path, data, change):
    path = pcd_file(tmp_path / "cloud.pcd", data)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DatasetError, match=r"cloud\.pcd"):
        read_pcd(path)
