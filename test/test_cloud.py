"""PointCloud2 -> PointFrame: every legal layout is read, every illegal one is named; and back."""

from __future__ import annotations

import array
import importlib.util
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from cloud_messages import STAMP_NS, XYZ, cloud, fields_of, xyz
from message_classes import KINDS, message_classes

from psg4d_ros.cloud import cloud_message, frame_from_cloud, instance_cloud, track_color
from psg4d_ros.data.bag import bag_types
from psg4d_ros.errors import CloudError
from psg4d_ros.structures import GraphStatus, LabelledCloud, SceneGraph

POINTS = [[1.0, 2.0, 3.0], [-4.0, 5.5, 6.0], [7.0, -8.0, 9.25]]


def dtype(*fields, size: int | None = None) -> np.dtype:
    """A structured dtype from (name, format, offset)."""
    names, formats, offsets = zip(*fields, strict=True)
    layout = {"names": names, "formats": formats, "offsets": offsets}
    return np.dtype(layout | ({"itemsize": size} if size else {}))


# --- legal layouts ---


def test_a_plain_cloud_becomes_a_frame():
    frame = frame_from_cloud(cloud(xyz(POINTS)))
    np.testing.assert_array_equal(frame.points, np.float32(POINTS))
    np.testing.assert_array_equal(frame.source_index, [0, 1, 2])
    assert (frame.stamp_ns, frame.frame_id) == (STAMP_NS, "lidar")
    assert frame.colors is None and frame.intensity is None


def test_field_order_gaps_and_unknown_fields_do_not_matter():
    layout = dtype(
        ("ring", "<u2", 0), ("z", "<f4", 6), ("time", "<f8", 12), ("x", "<f4", 24), ("y", "<f4", 29), size=40
    )
    points = xyz(POINTS, layout)
    points["ring"], points["time"] = 7, 1e300
    np.testing.assert_array_equal(frame_from_cloud(cloud(points)).points, np.float32(POINTS))


@pytest.mark.parametrize("code", ["i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_datatype_and_byte_order_is_converted(code, order):
    whole = np.abs(np.round(POINTS))
    layout = np.dtype([(name, order + code) for name in "xyz"])
    frame = frame_from_cloud(cloud(xyz(whole, layout), big_endian=order == ">"))
    np.testing.assert_array_equal(frame.points, np.float32(whole))
    assert frame.points.dtype.isnative


@pytest.mark.parametrize("padding", [0, 1, 12, 13])
def test_organised_clouds_are_read_row_by_row_whatever_the_padding(padding):
    grid = xyz(np.arange(60).reshape(20, 3)).reshape(4, 5)
    grid["x"][1, 2] = np.nan
    frame = frame_from_cloud(cloud(grid, row_padding=padding))
    kept = np.delete(np.arange(20), 7)
    np.testing.assert_array_equal(frame.points, np.float32(np.arange(60).reshape(20, 3))[kept])
    np.testing.assert_array_equal(frame.source_index, kept)


@pytest.mark.parametrize(
    "as_data",
    [bytes, bytearray, lambda d: array.array("B", d.tobytes()), lambda d: memoryview(d.tobytes()), np.copy, np.int8],
    ids=["bytes", "bytearray", "array.array", "memoryview", "numpy", "numpy int8"],
)
def test_data_may_be_any_contiguous_bytes(as_data):
    message = cloud(xyz(POINTS))
    message.data = as_data(message.data)
    np.testing.assert_array_equal(frame_from_cloud(message).points, np.float32(POINTS))


def test_points_that_are_not_finite_are_left_out_even_where_is_dense_says_there_are_none():
    points = xyz([[1, 1, 1], [np.nan, 0, 0], [0, np.inf, 0], [2, 2, 2], [0, 0, -np.inf], [3, 3, 3]])
    frame = frame_from_cloud(cloud(points, is_dense=True))
    np.testing.assert_array_equal(frame.points[:, 0], [1, 2, 3])
    np.testing.assert_array_equal(frame.source_index, [0, 3, 5])


def test_float64_coordinates_beyond_float32_are_left_out_too():
    layout = np.dtype([(name, "<f8") for name in "xyz"])
    frame = frame_from_cloud(cloud(xyz([[1e300, 0, 0], [1, 2, 3], [3.5e38, 0, 0], [np.nan, 0, 0]], layout)))
    np.testing.assert_array_equal(frame.points, [[1, 2, 3]])


@pytest.mark.parametrize("points", [np.zeros((0, 3)), np.full((5, 3), np.nan)], ids=["no points", "all NaN"])
def test_a_cloud_may_have_no_finite_points(points):
    layout = np.dtype([*XYZ.descr, ("rgb", "<f4"), ("intensity", "<u2")])
    frame = frame_from_cloud(cloud(xyz(points, layout)))
    assert len(frame) == 0
    assert frame.colors.shape == (0, 3) and frame.intensity.shape == (0,)


def test_an_empty_message_needs_no_fields():
    frame = frame_from_cloud(cloud(np.zeros(0, XYZ), fields=[], point_step=0, row_step=0, height=0))
    assert len(frame) == 0


def test_a_later_change_of_the_message_does_not_reach_the_frame():
    message = cloud(xyz(POINTS))
    frame = frame_from_cloud(message)
    message.data[:] = 0
    np.testing.assert_array_equal(frame.points, np.float32(POINTS))


# --- colours and intensity ---


@pytest.mark.parametrize("name", ["rgb", "rgba"])
@pytest.mark.parametrize("code", ["f4", "u4", "i4"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("alpha", [0x00, 0xFF])
def test_packed_colours_are_read_from_their_bits(name, code, order, alpha):
    """With alpha 255 a colour packed in a float32 is a NaN: reading it as a number would lose it."""
    points = xyz(POINTS, np.dtype([*((n, order + "f4") for n in "xyz"), (name, order + "u4")]))
    points[name] = np.array([0x010203, 0xFF7F00, 0x8090A0]) + (alpha << 24)
    message = cloud(points, big_endian=order == ">")
    message.fields[3].datatype = {"f4": 7, "u4": 6, "i4": 5}[code]
    expected = [[1, 2, 3], [255, 127, 0], [128, 144, 160]]
    np.testing.assert_array_equal(frame_from_cloud(message).colors, expected)


@pytest.mark.parametrize(
    ("code", "values", "expected"),
    [
        ("u1", [0, 128, 255], [0, 128, 255]),
        ("u2", [0, 128, 300], [0, 128, 255]),
        ("i1", [-1, 0, 127], [0, 0, 127]),
        ("i4", [-5, 128, 70000], [0, 128, 255]),
        ("f4", [0.0, 0.5, 1.0], [0, 128, 255]),
        ("f8", [np.nan, -1.0, np.inf], [0, 0, 255]),
    ],
)
def test_separate_colour_fields(code, values, expected):
    """Integers are 0 to 255, floats 0 to 1 as in RViz's RGBF32; what lies beyond is clipped."""
    points = xyz(POINTS, np.dtype([*XYZ.descr, ("b", "<" + code), ("r", "<" + code), ("g", "<" + code)]))
    points["r"], points["g"] = values, values[::-1]
    colors = frame_from_cloud(cloud(points)).colors
    np.testing.assert_array_equal(colors, np.stack([expected, expected[::-1], [0, 0, 0]], axis=1))


@pytest.mark.parametrize("code", ["i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8"])
def test_intensity_keeps_the_sensors_unit(code):
    points = xyz(POINTS, np.dtype([*XYZ.descr, ("intensity", "<" + code)]))
    points["intensity"] = [0, 1, 100]
    intensity = frame_from_cloud(cloud(points)).intensity
    assert intensity.dtype == np.float32
    np.testing.assert_array_equal(intensity, [0, 1, 100])


def test_intensity_that_is_not_finite_becomes_0_and_its_point_stays():
    points = xyz(POINTS, np.dtype([*XYZ.descr, ("intensity", "<f8")]))
    points["intensity"] = [np.nan, 1e300, 2.5]
    np.testing.assert_array_equal(frame_from_cloud(cloud(points)).intensity, [0, 0, 2.5])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("shape", [(600,), (20, 30)])
@pytest.mark.parametrize("padding", [0, 7])
def test_points_colours_intensity_and_index_never_lose_alignment(order, shape, padding):
    """Every value of a point is derived from its index in the message: what is kept must still belong together."""
    floats = [("z", order + "f8"), ("descriptor", order + "f4", (3,)), ("x", order + "f4")]
    layout = np.dtype([("rgb", order + "u4"), *floats, ("intensity", order + "u2"), ("y", order + "i4")])
    number = np.arange(600)
    points = np.zeros(600, layout)
    points["x"], points["y"], points["z"] = number + 0.5, -number, number * 2.0
    points["rgb"], points["intensity"] = number * 77, number + 1000
    random = np.random.default_rng(1)
    points["x"][random.random(600) < 0.2] = np.nan
    points["z"][random.random(600) < 0.2] = np.inf
    frame = frame_from_cloud(cloud(points.reshape(shape), row_padding=padding, big_endian=order == ">"))
    kept = np.flatnonzero(np.isfinite(points["x"]) & np.isfinite(points["z"]))
    np.testing.assert_array_equal(frame.source_index, kept)
    np.testing.assert_array_equal(frame.points, np.stack([kept + 0.5, -kept, kept * 2.0], axis=1).astype(np.float32))
    packed = kept * 77
    np.testing.assert_array_equal(frame.colors, np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=1))
    np.testing.assert_array_equal(frame.intensity, np.float32(kept + 1000))


# --- stamps ---


def test_a_given_stamp_takes_the_place_of_the_headers():
    assert frame_from_cloud(cloud(xyz(POINTS)), stamp_ns=42).stamp_ns == 42


@pytest.mark.parametrize(
    ("sec", "nanosec", "named"),
    [
        (-1, 0, "header.stamp.sec is -1"),
        (2**31, 0, "header.stamp.sec is 2147483648"),
        (0, 10**9, "header.stamp.nanosec is 1000000000"),
        (0, -1, "header.stamp.nanosec is -1"),
        (1.5, 0, "header.stamp.sec is 1.5"),
    ],
)
def test_stamps_outside_of_the_type_are_refused(sec, nanosec, named):
    message = cloud(xyz(POINTS))
    message.header.stamp = SimpleNamespace(sec=sec, nanosec=nanosec)
    with pytest.raises(CloudError, match=named):
        frame_from_cloud(message)


@pytest.mark.parametrize("stamp_ns", [-1, 2**31 * 10**9])
def test_given_stamps_are_checked_too(stamp_ns):
    with pytest.raises(CloudError, match=f"stamp_ns is {stamp_ns}"):
        frame_from_cloud(cloud(xyz(POINTS)), stamp_ns=stamp_ns)


# --- illegal messages ---


def field(name: str, offset: int = 0, datatype: int = 7, count: int = 1) -> SimpleNamespace:
    return SimpleNamespace(name=name, offset=offset, datatype=datatype, count=count)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"fields": fields_of(XYZ)[:2]}, "field 'z' is missing; the message has 'x', 'y'"),
        ({"fields": []}, "field 'x' is missing; the message has none"),
        ({"fields": [*fields_of(XYZ), field("y", 4)]}, "field 'y' occurs twice"),
        ({"fields": [*fields_of(XYZ), field("t", 9)]}, "field 't' takes bytes 9 to 13 of a point, point_step is 12"),
        ({"fields": [*fields_of(XYZ)[:2], field("z", 2**32 - 4)]}, "field 'z' takes bytes 4294967292"),
        ({"fields": [*fields_of(XYZ)[:2], field("z", -4)]}, "field 'z': offset is -4"),
        ({"fields": [*fields_of(XYZ)[:2], field("z", 0, count=3)]}, "field 'z' has count 3, expected 1"),
        ({"fields": [*fields_of(XYZ), field("w", 0, count=0)]}, "field 'w' has count 0"),
        ({"fields": [*fields_of(XYZ), field("w", 0, count=2**31)]}, "field 'w' takes bytes 0 to 8589934592"),
        ({"fields": [*fields_of(XYZ), field("w", 0, datatype=9)]}, "field 'w' has datatype 9, expected 1"),
        ({"fields": [*fields_of(XYZ), field("w", 0, datatype=0)]}, "field 'w' has datatype 0"),
        ({"fields": [*fields_of(XYZ), field(b"w")]}, r"fields\[3\].name is b'w'"),
        ({"fields": [*fields_of(XYZ), "w"]}, r"fields\[3\] is not a sensor_msgs/PointField"),
        ({"fields": [*fields_of(XYZ), field("rgb", 0, datatype=8, count=1)], "point_step": 12}, "field 'rgb' has"),
        ({"fields": [*fields_of(XYZ), field("rgb", 0, datatype=2, count=3)]}, "field 'rgb' has count 3"),
        ({"fields": [*fields_of(XYZ), field("intensity", 0, count=2)]}, "field 'intensity' has count 2"),
        ({"data": b"\0" * 35}, r"data holds 35 bytes, expected row_step \* height = 36 \* 1 = 36"),
        ({"data": b"\0" * 37}, "data holds 37 bytes"),
        ({"data": b""}, "data holds 0 bytes"),
        ({"data": None}, "data is NoneType, expected uint8"),
        ({"data": "x" * 36}, "data is str, expected uint8"),
        ({"data": np.zeros(9, np.float32)}, "data has elements of 4 bytes"),
        ({"data": np.zeros(72, np.uint8)[::2]}, "data is ndarray, expected uint8"),
        ({"width": 4}, r"row_step is 36, expected at least width \* point_step = 4 \* 12"),
        ({"width": 2**32 - 1}, "row_step is 36"),
        ({"height": 2}, "data holds 36 bytes"),
        ({"height": 2**32 - 1}, "data holds 36 bytes"),
        ({"height": 2**32}, "height is 4294967296"),
        ({"height": -1}, "height is -1"),
        ({"width": 1.0}, "width is 1.0"),
        ({"point_step": 0}, "field 'x' takes bytes 0 to 4 of a point, point_step is 0"),
        ({"row_step": 35}, "row_step is 35"),
        ({"fields": None}, "is not a sensor_msgs/PointCloud2"),
        ({"header": None}, "is not a sensor_msgs/PointCloud2"),
        ({"header": SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=0), frame_id=None)}, "frame_id is None"),
    ],
)
def test_illegal_messages_are_refused_with_field_value_and_remedy(changes, named):
    with pytest.raises(CloudError, match=named):
        frame_from_cloud(cloud(xyz(POINTS), **changes))


def test_a_packed_colour_of_8_bytes_is_refused():
    points = xyz(POINTS, np.dtype([*XYZ.descr, ("rgb", "<f8")]))
    with pytest.raises(CloudError, match="field 'rgb' has datatype FLOAT64, expected a colour packed"):
        frame_from_cloud(cloud(points))


def test_padding_is_needed_on_the_last_row_too():
    """The standard: data holds row_step * height bytes."""
    message = cloud(xyz(np.zeros((20, 3))).reshape(4, 5), row_padding=4)
    message.data = message.data[:-4]
    with pytest.raises(CloudError, match="data holds 252 bytes, expected row_step"):
        frame_from_cloud(message)


@pytest.mark.parametrize("message", [None, 3, "cloud", SimpleNamespace()])
def test_other_objects_are_refused(message):
    with pytest.raises(CloudError, match="is not a sensor_msgs/PointCloud2"):
        frame_from_cloud(message)


# --- size ---


def test_two_million_points_are_copied_once():
    """The peak is the frame itself (points and index), the masks, and one colour column; not a second set of points."""
    count = 2_000_000
    layout = np.dtype([*XYZ.descr, ("rgb", "<f4")])
    points = np.zeros(count, layout)
    points["x"] = np.arange(count, dtype=np.float32)
    points["y"][::1000] = np.nan
    message = cloud(points)
    tracemalloc.start()
    frame = frame_from_cloud(message)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(frame) == count - 2000
    held = frame.points.nbytes + frame.source_index.nbytes + frame.colors.nbytes
    assert peak - held < frame.points.nbytes


# --- the classes of rclpy and rosbags ---


@pytest.fixture(params=KINDS)
def message_types(request):
    return message_classes(request.param)


def graph_with(cloud: LabelledCloud) -> SceneGraph:
    return SceneGraph(
        stamp_ns=STAMP_NS, frame_id="odom", window_start_ns=STAMP_NS, window_end_ns=STAMP_NS, num_frames=1, sequence=0,
        epoch=0, model_id="m", model_sha256="0", status=GraphStatus.OK, status_text="", objects=(), relations=(),
        cloud=cloud,
    )  # fmt: skip


def test_cloud_message_and_frame_from_cloud_are_inverse(message_types):
    points = xyz(POINTS, np.dtype([*XYZ.descr, ("rgb", "<f4"), ("intensity", "<u2")]))
    points["rgb"] = np.array([0x010203, 0xFF7F00, 0x8090A0], np.uint32).view(np.float32)
    points["intensity"] = [3, 2, 1]
    message = cloud_message(points, STAMP_NS, "lidar", message_types)
    frame = frame_from_cloud(message)
    np.testing.assert_array_equal(frame.points, np.float32(POINTS))
    np.testing.assert_array_equal(frame.colors, [[1, 2, 3], [255, 127, 0], [128, 144, 160]])
    np.testing.assert_array_equal(frame.intensity, [3, 2, 1])
    assert (frame.stamp_ns, frame.frame_id, message.is_dense) == (STAMP_NS, "lidar", True)


def test_cloud_message_keeps_a_clouds_organisation(message_types):
    points = xyz(np.arange(60)).reshape(4, 5)
    points["x"][0, 0] = np.nan
    message = cloud_message(points, STAMP_NS, "lidar", message_types)
    assert (message.height, message.width, message.row_step, message.is_dense) == (4, 5, 60, False)


@pytest.mark.parametrize("bad", [np.zeros(3), np.zeros(3, [("x", "<i8")]), np.zeros(3, [("x", "<f4"), ("y", ">f4")])])
def test_cloud_message_refuses_what_pointfield_cannot_say(bad):
    with pytest.raises(CloudError):
        cloud_message(bad, 0, "lidar", bag_types())


@pytest.mark.parametrize("count", [0, 4])
def test_the_labelled_cloud_says_of_each_point_what_the_graph_says(message_types, count):
    labelled = LabelledCloud(
        points=np.arange(3 * count, dtype=np.float32).reshape(count, 3),
        track_id=np.array([0, 3, 9, 3], np.uint32)[:count],
        class_id=np.array([-1, 5, -1, 5], np.int32)[:count],
        score=np.array([0, 0.5, 0.25, 0.5], np.float32)[:count],
        source_index=np.array([0, 10, 20, 2_000_000], np.int64)[:count],
    )
    message = instance_cloud(graph_with(labelled), message_types)
    assert [f.name for f in message.fields] == ["x", "y", "z", "rgb", "instance", "class_id", "score", "source_index"]
    frame = frame_from_cloud(message)
    np.testing.assert_array_equal(frame.points, labelled.points)
    np.testing.assert_array_equal(frame.colors, track_color(labelled.track_id))
    assert (frame.stamp_ns, frame.frame_id) == (STAMP_NS, "odom")
    table = np.frombuffer(
        bytes(message.data),
        [("xyz", "<f4", 3), ("rgb", "<u4"), ("instance", "<u4"), ("class_id", "<i4"), ("score", "<f4"), ("at", "<u4")],
    )
    np.testing.assert_array_equal(table["instance"], labelled.track_id)
    np.testing.assert_array_equal(table["class_id"], labelled.class_id)
    np.testing.assert_array_equal(table["score"], labelled.score)
    np.testing.assert_array_equal(table["at"], labelled.source_index)


def test_track_colours_are_stable_and_told_apart():
    colors = track_color(np.arange(1, 41)).astype(int)
    np.testing.assert_array_equal(track_color(7), colors[6])  # a colour depends on its id alone
    gaps = np.abs(colors[:, None] - colors[None]).sum(axis=2) + 1000 * np.eye(40, dtype=int)
    assert gaps.min() >= 20  # over red, green and blue together
    near = np.abs(colors[1:] - colors[:-1]).sum(axis=1)
    assert near.min() > 150
    grey = track_color(0)
    assert len(set(grey.tolist())) == 1


@pytest.mark.skipif(
    importlib.util.find_spec("sensor_msgs_py") is None,
    reason="sensor_msgs_py is not installed (it comes with ROS from apt, there is no wheel)",
)
@pytest.mark.parametrize("big_endian", [False, True])
def test_it_agrees_with_read_points(big_endian):
    """sensor_msgs_py.point_cloud2 is the reference reader of ROS."""
    from sensor_msgs.msg import PointCloud2, PointField
    from sensor_msgs_py.point_cloud2 import read_points
    from std_msgs.msg import Header

    order = ">" if big_endian else "<"
    layout = np.dtype(
        [
            ("y", order + "f4"),
            ("intensity", order + "u2"),
            ("x", order + "f4"),
            ("tag", "u1", (3,)),
            ("z", order + "f8"),
        ]
    )
    random = np.random.default_rng(2)
    points = np.zeros(200, layout)
    for name in "xyz":
        points[name] = random.normal(size=200)
    points["x"][random.random(200) < 0.3] = np.nan
    points["intensity"] = random.integers(0, 60000, 200)
    ours = cloud(points, big_endian=big_endian)
    theirs = PointCloud2(
        header=Header(frame_id="lidar"),
        height=1,
        width=200,
        is_bigendian=big_endian,
        is_dense=False,
        point_step=ours.point_step,
        row_step=ours.row_step,
        fields=[PointField(name=f.name, offset=f.offset, datatype=f.datatype, count=f.count) for f in ours.fields],
        data=array.array("B", ours.data.tobytes()),
    )
    frame = frame_from_cloud(theirs)
    expected = read_points(theirs, ["x", "y", "z", "intensity"], skip_nans=True)
    np.testing.assert_array_equal(frame.points, np.stack([expected[n] for n in "xyz"], axis=1).astype(np.float32))
    np.testing.assert_array_equal(frame.intensity, expected["intensity"].astype(np.float32))
