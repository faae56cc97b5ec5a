"""PointCloud2 -> PointFrame, and arrays -> PointCloud2. Takes the message classes of rclpy and of rosbags alike."""

from __future__ import annotations

import operator
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psg4d_ros.errors import CloudError
from psg4d_ros.messages import NS_PER_S, MessageTypes, header_message, stamp_of
from psg4d_ros.messages import track_color as track_color  # part of this module's interface
from psg4d_ros.structures import Float32, LabelledCloud, PointFrame, SceneGraph, UInt8

# sensor_msgs/PointField: datatype -> type and name
_DATATYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
_DATATYPE_NAMES = {
    1: "INT8", 2: "UINT8", 3: "INT16", 4: "UINT16", 5: "INT32", 6: "UINT32", 7: "FLOAT32", 8: "FLOAT64"
}  # fmt: skip
_MAX_SEC = 2**31 - 1  # builtin_interfaces/Time.sec is an int32
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class _Field:
    """One checked PointField. dtype carries the byte order of the message."""

    name: str
    offset: int
    datatype: int
    count: int
    dtype: np.dtype[Any]


def frame_from_cloud(message: Any, *, stamp_ns: int | None = None) -> PointFrame:
    """The finite points of a sensor_msgs/PointCloud2, in the message's order.

    Points whose x, y or z is NaN, infinite or beyond float32 are left out, whatever ``is_dense`` says;
    ``source_index`` is each kept point's row * width + column in the message. Any field order, padding and byte order;
    organised or not; other fields are ignored. The points are copied once; nothing of the message is kept.

    - x, y, z: any datatype, converted to float32, metres.
    - Colour, if there is any: ``rgb`` or else ``rgba`` packed as 0xAARRGGBB in FLOAT32, UINT32 or INT32; or else the
      fields ``r``, ``g``, ``b``: integers are 0 to 255, floats 0 to 1 (as RViz reads them).
    - ``intensity``: any datatype, converted to float32 in the sensor's own unit; values that are not finite become 0.

    stamp_ns: takes the place of the header's stamp, for publishers that leave it 0.

    Raises CloudError when the message is not a PointCloud2, breaks the standard, or lacks x, y or z (only a message
    without points may have no fields at all). ``data`` must hold exactly row_step * height bytes, so padding at the end
    of a row is needed on the last row too.
    """
    try:
        header_stamp, frame_id = message.header.stamp, message.header.frame_id
        sec, nanosec = header_stamp.sec, header_stamp.nanosec
        sizes = {name: getattr(message, name) for name in ("height", "width", "point_step", "row_step")}
        field_messages, data, big_endian = list(message.fields), message.data, bool(message.is_bigendian)
    except (AttributeError, TypeError, ValueError) as error:
        raise CloudError(f"{type(message).__name__} is not a sensor_msgs/PointCloud2: {error}") from error
    if not isinstance(frame_id, str):
        raise CloudError(f"header.frame_id is {frame_id!r}, expected the name of a coordinate frame")
    stamp = _checked_stamp(sec, nanosec) if stamp_ns is None else _checked_override(stamp_ns)
    height, width, point_step, row_step = (_size(name, value) for name, value in sizes.items())
    fields = _checked_fields(field_messages, point_step, big_endian)
    raw = _checked_data(data, height, width, point_step, row_step)
    if not fields and width * height == 0:
        return PointFrame(np.zeros((0, 3), np.float32), None, None, np.zeros(0, np.int64), stamp, frame_id)

    def column(field: _Field) -> NDArray[Any]:
        """The field's value of each point, [height, width] for padded rows, else flat: a view of the message."""
        if height * width == 0:
            return np.empty(0, field.dtype)  # numpy refuses offsets into an empty buffer
        if row_step == width * point_step:  # one stride serves, which numpy walks much faster
            return np.ndarray((height * width,), field.dtype, raw, field.offset, (point_step,))
        return np.ndarray((height, width), field.dtype, raw, field.offset, (row_step, point_step))

    xyz = [column(_single(fields, name)) for name in "xyz"]
    keep = _finite(xyz[0])
    for values in xyz[1:]:
        keep &= _finite(values)
    index = np.flatnonzero(keep)
    everything = len(index) == keep.size

    def kept(values: NDArray[Any]) -> NDArray[Any]:
        if everything:
            return values.reshape(-1)
        return values[keep]

    points = np.empty((len(index), 3), dtype=np.float32)
    for axis, values in enumerate(xyz):
        points[:, axis] = kept(values)
    colors = _colors(fields, lambda field: kept(column(field)))
    intensity = None
    if "intensity" in fields:
        intensity = _intensity(kept(column(_single(fields, "intensity"))))
    return PointFrame(points, colors, intensity, index.astype(np.int64, copy=False), stamp, frame_id)


def _checked_stamp(sec: Any, nanosec: Any) -> int:
    seconds, rest = _integer("header.stamp.sec", sec), _integer("header.stamp.nanosec", nanosec)
    if not 0 <= seconds <= _MAX_SEC:
        raise CloudError(f"header.stamp.sec is {seconds}, expected 0 to {_MAX_SEC}")
    if not 0 <= rest < NS_PER_S:
        raise CloudError(f"header.stamp.nanosec is {rest}, expected 0 to {NS_PER_S - 1}")
    return seconds * NS_PER_S + rest


def _checked_override(stamp_ns: Any) -> int:
    stamp = _integer("stamp_ns", stamp_ns)
    if not 0 <= stamp < (_MAX_SEC + 1) * NS_PER_S:
        raise CloudError(f"stamp_ns is {stamp}, expected 0 to {(_MAX_SEC + 1) * NS_PER_S - 1}")
    return stamp


def _integer(name: str, value: Any) -> int:
    try:
        return int(operator.index(value))
    except TypeError:
        raise CloudError(f"{name} is {value!r} ({type(value).__name__}), expected an integer") from None


def _size(name: str, value: Any) -> int:
    size = _integer(name, value)
    if not 0 <= size < 2**32:
        raise CloudError(f"{name} is {size}, expected 0 to {2**32 - 1}")
    return size


def _checked_fields(messages: list[Any], point_step: int, big_endian: bool) -> dict[str, _Field]:
    fields: dict[str, _Field] = {}
    for position, message in enumerate(messages):
        try:
            name, offset, datatype, count = message.name, message.offset, message.datatype, message.count
        except AttributeError as error:
            raise CloudError(f"fields[{position}] is not a sensor_msgs/PointField: {error}") from error
        if not isinstance(name, str):
            raise CloudError(f"fields[{position}].name is {name!r}, expected a string")
        where = f"field {name!r}"
        offset, count = _size(f"{where}: offset", offset), _size(f"{where}: count", count)
        datatype = _integer(f"{where}: datatype", datatype)
        if name in fields:
            raise CloudError(f"{where} occurs twice in the message, expected distinct names")
        if datatype not in _DATATYPES:
            raise CloudError(f"{where} has datatype {datatype}, expected 1 (INT8) to 8 (FLOAT64)")
        if count == 0:
            raise CloudError(f"{where} has count 0, expected at least 1")
        dtype = np.dtype((">" if big_endian else "<") + _DATATYPES[datatype])
        if offset + count * dtype.itemsize > point_step:
            raise CloudError(
                f"{where} takes bytes {offset} to {offset + count * dtype.itemsize} of a point, point_step is "
                f"{point_step}; expected point_step to cover every field"
            )
        fields[name] = _Field(name, offset, datatype, count, dtype)
    return fields


def _checked_data(data: Any, height: int, width: int, point_step: int, row_step: int) -> memoryview:
    try:
        raw = memoryview(data)
        if raw.itemsize != 1:
            raise CloudError(f"data has elements of {raw.itemsize} bytes, expected single bytes (uint8[])")
        raw = raw.cast("B")  # also refuses what is not contiguous
    except (TypeError, ValueError, BufferError) as error:
        raise CloudError(f"data is {type(data).__name__}, expected uint8[] as bytes or an array: {error}") from error
    if row_step < width * point_step:
        raise CloudError(f"row_step is {row_step}, expected at least width * point_step = {width} * {point_step}")
    if raw.nbytes != row_step * height:
        raise CloudError(
            f"data holds {raw.nbytes} bytes, expected row_step * height = {row_step} * {height} = {row_step * height}"
        )
    return raw


def _single(fields: dict[str, _Field], name: str) -> _Field:
    field = fields.get(name)
    if field is None:
        known = ", ".join(map(repr, fields)) or "none"
        raise CloudError(f"field {name!r} is missing; the message has {known}, expected x, y and z")
    if field.count != 1:
        raise CloudError(f"field {name!r} has count {field.count}, expected 1")
    return field


def _finite(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where values are finite in float32."""
    if values.dtype.kind != "f":
        return np.ones(values.shape, dtype=bool)
    if values.dtype.itemsize == 4:
        return np.asarray(np.isfinite(values))
    return np.asarray(np.abs(values) <= _FLOAT32_MAX)  # false for NaN too


def _colors(fields: dict[str, _Field], read: Any) -> UInt8 | None:
    for name in ("rgb", "rgba"):
        if name not in fields:
            continue
        field = _single(fields, name)
        if field.dtype.itemsize != 4:
            raise CloudError(
                f"field {name!r} has datatype {_DATATYPE_NAMES[field.datatype]}, expected a colour packed into "
                "FLOAT32, UINT32 or INT32"
            )
        # Read as integers: a float32 that holds a packed colour may be a NaN, whose bits a conversion may change.
        bits = np.dtype(">u4" if field.dtype.byteorder == ">" else "<u4")
        packed = np.ascontiguousarray(read(_Field(name, field.offset, 6, 1, bits)), dtype=np.uint32)
        channels = packed.view(np.uint8).reshape(-1, 4)  # native order: b, g, r, a, or reversed
        order = [2, 1, 0] if sys.byteorder == "little" else [1, 2, 3]
        return np.ascontiguousarray(channels[:, order])
    if not all(name in fields for name in "rgb"):
        return None
    return np.stack([_channel(read(_single(fields, name))) for name in "rgb"], axis=1)


def _channel(values: NDArray[Any]) -> UInt8:
    """One colour channel as uint8: integers are 0 to 255, floats 0 to 1; beyond is clipped, NaN is 0."""
    if values.dtype.kind == "f":
        values = np.rint(np.nan_to_num(values, nan=0.0).clip(0.0, 1.0) * 255.0)
    elif values.dtype.itemsize > 1 or values.dtype.kind == "i":
        values = values.clip(0, 127 if values.dtype.itemsize == 1 else 255)
    return values.astype(np.uint8)


def _intensity(values: NDArray[Any]) -> Float32:
    with np.errstate(over="ignore", invalid="ignore"):  # a float64 beyond float32 becomes infinite, and then 0
        out = values.astype(np.float32)
    if values.dtype.kind == "f":
        out[~np.isfinite(out)] = 0.0
    return out


def cloud_message(points: NDArray[np.void], stamp_ns: int, frame_id: str, types: MessageTypes) -> Any:
    """sensor_msgs/PointCloud2 of a structured array: [N] makes an unorganised cloud, [height, width] an organised one.

    Fields, offsets and datatypes follow the array's dtype; a sub-array field has its length as count. Raises CloudError
    for a dtype that PointField has no name for.
    """
    if points.dtype.names is None or points.ndim not in (1, 2):
        raise CloudError(f"points is {points.dtype} of shape {points.shape}, expected a structured array [N] or [H, W]")
    codes = {code: datatype for datatype, code in _DATATYPES.items()}
    orders = set()
    fields = []
    for name in points.dtype.names:
        dtype, offset = points.dtype.fields[name][:2]  # type: ignore[index]  # names were checked above
        code = dtype.base.str[1:]
        if code not in codes or len(dtype.shape) > 1:
            raise CloudError(f"field {name!r} is {dtype}, expected 8 to 32 bit integers, float32 or float64")
        if dtype.base.itemsize > 1:
            orders.add(sys.byteorder if dtype.base.isnative else "foreign")
        fields.append(
            types.get("sensor_msgs/msg/PointField")(
                name=name, offset=int(offset), datatype=codes[code], count=int(np.prod(dtype.shape, dtype=int))
            )
        )
    if len(orders) > 1:
        raise CloudError("fields of points differ in byte order, expected one order for all")
    height, width = points.shape if points.ndim == 2 else (1, len(points))
    flat = np.ascontiguousarray(points).reshape(-1)
    dense = all(bool(np.isfinite(flat[name]).all()) for name in "xyz" if name in points.dtype.names)
    return types.get("sensor_msgs/msg/PointCloud2")(
        header=header_message(stamp_ns, frame_id, types),
        height=int(height),
        width=int(width),
        fields=fields,
        is_bigendian=(sys.byteorder == "big") != ("foreign" in orders),
        point_step=int(points.dtype.itemsize),
        row_step=int(points.dtype.itemsize * width),
        data=types.array(flat.view(np.uint8).reshape(-1) if flat.size else np.zeros(0, np.uint8)),
        is_dense=dense,
    )


_INSTANCE_POINT = np.dtype(
    [
        ("x", "<f4"), ("y", "<f4"), ("z", "<f4"),
        ("rgb", "<f4"),  # packed 0xRRGGBB, as RViz expects it
        ("instance", "<u4"), ("class_id", "<i4"), ("score", "<f4"), ("source_index", "<u4"),
    ]
)  # fmt: skip


def instance_cloud(graph: SceneGraph, types: MessageTypes) -> Any:
    """The graph's labelled points as a PointCloud2 with the graph's stamp and frame.

    Fields: x y z (float32, metres), rgb (by track, grey where unassigned), instance (uint32 track_id, 0 = unassigned),
    class_id (int32), score (float32), source_index (uint32, index in the input cloud).
    """
    cloud = graph.cloud
    out = np.empty(len(cloud.points), dtype=_INSTANCE_POINT)
    for axis, name in enumerate("xyz"):
        out[name] = cloud.points[:, axis]
    # Colours by distinct track: a frame has many points and few tracks.
    tracks, which = np.unique(cloud.track_id, return_inverse=True)
    r, g, b = (channel.astype(np.uint32) for channel in track_color(tracks).T)
    out["rgb"] = ((r << 16) | (g << 8) | b).view(np.float32)[which]
    out["instance"] = cloud.track_id
    out["class_id"] = cloud.class_id
    out["score"] = cloud.score
    out["source_index"] = cloud.source_index
    return cloud_message(out, graph.stamp_ns, graph.frame_id, types)


def labelled_cloud(message: Any) -> tuple[int, LabelledCloud]:
    """The reverse of instance_cloud: stamp in nanoseconds, and the labelled points.

    Raises CloudError for a cloud of other fields, or of another length than it says.
    """
    fields = [(str(f.name), int(f.offset), _DATATYPES.get(int(f.datatype)), int(f.count)) for f in message.fields]
    expected = [(name, offset, t.str[1:], 1) for name, (t, offset, *_) in (_INSTANCE_POINT.fields or {}).items()]
    data, count = bytes(message.data), int(message.width) * int(message.height)
    if fields != expected or message.is_bigendian or len(data) != count * _INSTANCE_POINT.itemsize:
        raise CloudError(
            f"a cloud of {count} points with {[name for name, *_ in fields]} in {len(data)} bytes is not labelled, "
            f"expected {[name for name, *_ in expected]}, {_INSTANCE_POINT.itemsize} bytes each"
        )
    points = np.frombuffer(data, _INSTANCE_POINT)
    cloud = LabelledCloud(
        points=np.stack([points[axis] for axis in "xyz"], axis=1),
        track_id=points["instance"].astype(np.uint32),
        class_id=points["class_id"].astype(np.int32),
        score=points["score"].astype(np.float32),
        source_index=points["source_index"].astype(np.int64),
    )
    return stamp_of(message.header.stamp), cloud
