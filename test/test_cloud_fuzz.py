"""Thousands of odd and malformed clouds: frame_from_cloud gives a valid PointFrame or a CloudError, nothing else."""

from __future__ import annotations

import array
import math
import struct
from types import SimpleNamespace

import numpy as np
from cloud_messages import STAMP_NS, cloud, xyz
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from psg4d_ros.cloud import frame_from_cloud
from psg4d_ros.errors import CloudError
from psg4d_ros.structures import PointFrame

FUZZ = settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
CODES = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 8: "d"}
FLOAT32_MAX = float(np.finfo(np.float32).max)


@st.composite
def legal_clouds(draw) -> SimpleNamespace:
    """Messages that the standard allows: fields in any order with gaps between, padded rows, either byte order."""
    names = ["x", "y", "z"]
    names += draw(st.lists(st.sampled_from(["rgb", "rgba", "r", "g", "b", "intensity", "ring", "", "t"]), unique=True))
    fields, offset = [], 0
    for name in draw(st.permutations(names)):
        packed = name in ("rgb", "rgba")
        datatype = draw(st.sampled_from([5, 6, 7]) if packed else st.integers(1, 8))
        count = draw(st.integers(1, 3)) if name in ("ring", "", "t") else 1
        offset += draw(st.integers(0, 3))
        fields.append(SimpleNamespace(name=name, offset=offset, datatype=datatype, count=count))
        offset += count * struct.calcsize(CODES[datatype])
    point_step = offset + draw(st.integers(0, 5))
    height, width = draw(st.sampled_from([(1, 0), (0, 3), (1, 1), (1, 2), (1, 7), (2, 3), (3, 2), (4, 3)]))
    row_step = width * point_step + draw(st.integers(0, 5))
    order = draw(st.sampled_from("<>"))
    # Random bytes rarely make interesting numbers: half of the clouds hold numbers that were chosen.
    rows = bytearray(draw(st.binary(min_size=row_step * height, max_size=row_step * height)))
    if draw(st.booleans()):
        values = st.one_of(
            st.sampled_from([0.0, -0.0, 1.0, math.nan, math.inf, -math.inf, 1e-45, FLOAT32_MAX, 1.8e308 / 1.1, 255.0]),
            st.floats(-1e4, 1e4, width=32),
        )
        for row in range(height):
            for col in range(width):
                for f in fields:
                    if f.datatype >= 7:
                        value = draw(values)
                        if f.datatype == 7 and math.isfinite(value):
                            value = max(-FLOAT32_MAX, min(FLOAT32_MAX, value))
                        struct.pack_into(
                            order + CODES[f.datatype], rows, row * row_step + col * point_step + f.offset, value
                        )
    data = draw(
        st.sampled_from([bytes, bytearray, lambda d: array.array("B", d), lambda d: np.frombuffer(d, np.uint8)])
    )
    return SimpleNamespace(
        header=SimpleNamespace(stamp=SimpleNamespace(sec=STAMP_NS // 10**9, nanosec=0), frame_id="lidar"),
        height=height,
        width=width,
        fields=fields,
        is_bigendian=order == ">",
        point_step=point_step,
        row_step=row_step,
        data=data(bytes(rows)),
        is_dense=draw(st.booleans()),
    )


def value(message: SimpleNamespace, index: int, field: SimpleNamespace, code: str | None = None) -> float:
    """One value of one point, read the slow way."""
    row, col = divmod(index, message.width)
    place = row * message.row_step + col * message.point_step + field.offset
    order = ">" if message.is_bigendian else "<"
    return struct.unpack_from(order + (code or CODES[field.datatype]), bytes(message.data), place)[0]


def to_float32(number: float) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.float32(number))


def channel(number: float, datatype: int) -> int:
    """A colour channel: floats are 0 to 1, integers 0 to 255; clipped, NaN is 0."""
    if datatype < 7:
        return int(min(max(number, 0), 255))
    if math.isnan(number):
        return 0
    kind = np.float32 if datatype == 7 else np.float64
    return int(np.rint(kind(min(max(number, 0.0), 1.0)) * kind(255.0)))


@FUZZ
@given(legal_clouds())
def test_legal_clouds_are_read_as_a_plain_loop_reads_them(message):
    frame = frame_from_cloud(message)
    fields = {f.name: f for f in message.fields}
    kept, points, colors, intensity = [], [], [], []
    packed = fields.get("rgb") or fields.get("rgba")
    for index in range(message.height * message.width):
        point = [value(message, index, fields[name]) for name in "xyz"]
        if not all(math.isfinite(v) and abs(v) <= FLOAT32_MAX for v in point):
            continue
        kept.append(index)
        points.append(point)
        if packed:
            bits = value(message, index, packed, "I")
            colors.append([bits >> 16 & 255, bits >> 8 & 255, bits & 255])
        elif all(name in fields for name in "rgb"):
            colors.append([channel(value(message, index, fields[n]), fields[n].datatype) for n in "rgb"])
        if "intensity" in fields:
            number = to_float32(value(message, index, fields["intensity"]))
            intensity.append(number if math.isfinite(number) else 0.0)
    np.testing.assert_array_equal(frame.source_index, kept)
    np.testing.assert_array_equal(frame.points, np.array(points, dtype=np.float32).reshape(-1, 3))
    has_color = bool(packed) or all(name in fields for name in "rgb")
    assert (frame.colors is not None) == has_color
    if has_color:
        np.testing.assert_array_equal(frame.colors, np.array(colors, dtype=np.uint8).reshape(-1, 3))
    assert (frame.intensity is not None) == ("intensity" in fields)
    if "intensity" in fields:
        np.testing.assert_array_equal(frame.intensity, np.array(intensity, dtype=np.float32))


NUMBERS = st.one_of(
    st.integers(-2, 40),
    st.sampled_from([2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64, -(2**31), 10**30]),
)
RUBBISH = st.one_of(
    st.none(), st.text(max_size=3), st.floats(), st.binary(max_size=40), st.booleans(), st.just([]), st.just(()),
    st.just({}), st.just(object()), st.integers(-3, 300).map(np.int64),
)  # fmt: skip
FIELDS = st.builds(
    SimpleNamespace,
    name=st.one_of(st.sampled_from(["x", "y", "z", "rgb", "r", "g", "b", "intensity", ""]), RUBBISH),
    offset=st.one_of(NUMBERS, RUBBISH),
    datatype=st.one_of(st.integers(-1, 12), RUBBISH),
    count=st.one_of(NUMBERS, RUBBISH),
)
DATA = st.one_of(
    RUBBISH,
    st.binary(max_size=400),
    st.binary(max_size=400).map(lambda d: np.frombuffer(d, np.uint8)[::2]),
    st.binary(max_size=40).map(lambda d: np.frombuffer(d, np.uint8).astype(np.float64)),
    st.binary(max_size=40).map(lambda d: np.frombuffer(d, np.uint8).reshape(1, -1)),
    st.binary(max_size=40).map(list),
    st.binary(max_size=40).map(lambda d: array.array("H", d[: len(d) // 2 * 2])),
)


@st.composite
def broken_clouds(draw) -> SimpleNamespace:
    """Legal messages with one to four parts replaced by something else, or missing."""
    message = draw(legal_clouds())
    for _ in range(draw(st.integers(1, 4))):
        part = draw(st.sampled_from([*vars(message), "a field", "a field's part", "stamp"]))
        if part in ("height", "width", "point_step", "row_step"):
            setattr(message, part, draw(st.one_of(NUMBERS, RUBBISH)))
        elif part == "data":
            message.data = draw(DATA)
        elif part == "a field" and isinstance(message.fields, list):
            message.fields.insert(draw(st.integers(0, 3)), draw(st.one_of(FIELDS, RUBBISH)))
        elif part == "a field's part" and isinstance(message.fields, list) and message.fields:
            field = draw(st.sampled_from(message.fields))
            if isinstance(field, SimpleNamespace):
                new = draw(FIELDS)
                name = draw(st.sampled_from(["name", "offset", "datatype", "count"]))
                setattr(field, name, getattr(new, name))
        elif part == "stamp":
            stamp = SimpleNamespace(sec=draw(st.one_of(NUMBERS, RUBBISH)), nanosec=draw(st.one_of(NUMBERS, RUBBISH)))
            message.header = SimpleNamespace(stamp=stamp, frame_id=draw(st.one_of(st.text(max_size=5), RUBBISH)))
        elif part in vars(message):
            if draw(st.booleans()):
                delattr(message, part)
                return message
            setattr(message, part, draw(RUBBISH))
    return message


@FUZZ
@given(broken_clouds())
@example(SimpleNamespace())
def test_broken_clouds_give_a_valid_frame_or_a_cloud_error(message):
    """A change may leave a message legal: then its frame must be valid, which PointFrame checks when it is made."""
    try:
        frame = frame_from_cloud(message)
    except CloudError as error:
        assert str(error)
        return
    assert isinstance(frame, PointFrame)
    assert memoryview(message.data).nbytes == message.row_step * message.height
    assert message.row_step >= message.width * message.point_step
    for f in message.fields:
        assert 0 <= f.offset <= f.offset + f.count * struct.calcsize(CODES[f.datatype]) <= message.point_step
    assert len({f.name for f in message.fields}) == len(message.fields)
    assert np.isfinite(frame.points).all()
    assert (np.diff(frame.source_index) > 0).all()
    if len(frame):
        assert frame.source_index[0] >= 0
        assert frame.source_index[-1] < message.height * message.width
    assert frame.intensity is None or np.isfinite(frame.intensity).all()
    assert 0 <= frame.stamp_ns < 2**31 * 10**9


@FUZZ
@given(st.one_of(NUMBERS, RUBBISH))
def test_given_stamps_are_taken_or_refused(stamp_ns):
    try:
        frame = frame_from_cloud(cloud(xyz([[1, 2, 3]])), stamp_ns=stamp_ns)
    except CloudError:
        return
    assert frame.stamp_ns == (STAMP_NS if stamp_ns is None else stamp_ns)
