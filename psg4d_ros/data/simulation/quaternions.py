"""Unit quaternions w, x, y, z (numpy). Every function takes arrays [..., 4] or [..., 3] and works on all at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from psg4d_ros.structures import Float64

IDENTITY: Float64 = np.array([1.0, 0.0, 0.0, 0.0])


def normalize(v: Float64) -> Float64:
    """Vectors of length 1 in the direction of ``v``, along the last axis; a zero vector stays zero."""
    length: Float64 = np.sqrt((v * v).sum(axis=-1, keepdims=True))
    return v / np.maximum(length, 1e-12)


def multiply(a: Float64, b: Float64) -> Float64:
    """The rotation that does ``b`` first and then ``a``."""
    aw, ax, ay, az = a[..., 0], a[..., 1], a[..., 2], a[..., 3]
    bw, bx, by, bz = b[..., 0], b[..., 1], b[..., 2], b[..., 3]
    w = aw * bw - ax * bx - ay * by - az * bz
    result = np.empty((*w.shape, 4))
    result[..., 0] = w
    result[..., 1] = aw * bx + ax * bw + ay * bz - az * by
    result[..., 2] = aw * by - ax * bz + ay * bw + az * bx
    result[..., 3] = aw * bz + ax * by - ay * bx + az * bw
    return result


def conjugate(q: Float64) -> Float64:
    """The inverse rotation."""
    return np.asarray(q * np.array([1.0, -1.0, -1.0, -1.0]), dtype=np.float64)


def rotation(axis: Sequence[float] | Float64, angle: float | Float64) -> Float64:
    """The rotation by ``angle`` radians about ``axis`` (right-handed; the axis need not have length 1)."""
    half = 0.5 * np.asarray(angle, dtype=np.float64)[..., None]
    unit = normalize(np.asarray(axis, dtype=np.float64))
    return np.concatenate([np.cos(half), np.sin(half) * unit], axis=-1)


def matrices(q: Float64) -> Float64:
    """float64[..., 3, 3]: the rotation matrices of unit quaternions."""
    w, x, y, z = q[..., 0], q[..., 1], q[..., 2], q[..., 3]
    result = np.empty((*q.shape[:-1], 3, 3))
    result[..., 0, 0] = 1 - 2 * (y * y + z * z)
    result[..., 0, 1] = 2 * (x * y - w * z)
    result[..., 0, 2] = 2 * (x * z + w * y)
    result[..., 1, 0] = 2 * (x * y + w * z)
    result[..., 1, 1] = 1 - 2 * (x * x + z * z)
    result[..., 1, 2] = 2 * (y * z - w * x)
    result[..., 2, 0] = 2 * (x * z - w * y)
    result[..., 2, 1] = 2 * (y * z + w * x)
    result[..., 2, 2] = 1 - 2 * (x * x + y * y)
    return result


def from_matrices(m: Float64) -> Float64:
    """float64[..., 4] with w >= 0: the quaternions of rotation matrices [..., 3, 3]."""
    # Row i of ``rows`` is the quaternion times four times its component i: the row of the largest loses least.
    rows = np.empty((*m.shape[:-2], 4, 4))
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    rows[..., 0, 0] = 1 + xx + yy + zz
    rows[..., 1, 1] = 1 + xx - yy - zz
    rows[..., 2, 2] = 1 - xx + yy - zz
    rows[..., 3, 3] = 1 - xx - yy + zz
    rows[..., 0, 1] = rows[..., 1, 0] = m[..., 2, 1] - m[..., 1, 2]
    rows[..., 0, 2] = rows[..., 2, 0] = m[..., 0, 2] - m[..., 2, 0]
    rows[..., 0, 3] = rows[..., 3, 0] = m[..., 1, 0] - m[..., 0, 1]
    rows[..., 1, 2] = rows[..., 2, 1] = m[..., 1, 0] + m[..., 0, 1]
    rows[..., 1, 3] = rows[..., 3, 1] = m[..., 0, 2] + m[..., 2, 0]
    rows[..., 2, 3] = rows[..., 3, 2] = m[..., 2, 1] + m[..., 1, 2]
    largest = np.diagonal(rows, axis1=-2, axis2=-1).argmax(axis=-1)
    result = normalize(np.take_along_axis(rows, largest[..., None, None], axis=-2)[..., 0, :])
    return np.where(result[..., :1] < 0, -result, result)


def slerp(a: Float64, b: Float64, w: float | Float64) -> Float64:
    """From ``a`` (w = 0) to ``b`` (w = 1) by the shorter way at constant speed."""
    dot = (a * b).sum(axis=-1, keepdims=True)
    b = np.where(dot < 0, -b, b)
    angle = np.arccos(np.clip(np.abs(dot), 0.0, 1.0))
    sine = np.sin(angle)
    near = sine < 1e-6  # straight interpolation where the formula divides by nothing
    safe = np.where(near, 1.0, sine)
    wa = np.where(near, 1.0 - w, np.sin((1.0 - w) * angle) / safe)
    wb = np.where(near, w, np.sin(w * angle) / safe)
    return normalize(wa * a + wb * b)


def power(q: Float64, share: float) -> Float64:
    """The same rotation by a share of its angle (0.5 = half of it)."""
    return slerp(np.broadcast_to(IDENTITY, q.shape), q, share)
