"""Unit quaternions w, x, y, z (numpy). Every function takes arrays [..., 4] or [..., 3] and works on all at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from psg4d_ros.structures import Float64

IDENTITY: Float64 = np.array([1.0, 0.0, 0.0, 0.0])


def _linear(sums: str) -> Float64:
    """float64[16, N]: takes the products a_i b_j (i, j of w, x, y, z) to N sums such as "ww -xx", parted by commas.

    One product of matrices instead of dozens of small steps: people are posed tens of thousands of times a scene.
    """
    rows = sums.split(",")
    table = np.zeros((16, len(rows)))
    for column, terms in enumerate(rows):
        for term in terms.split():
            i, j = ("wxyz".index(letter) for letter in term[-2:])
            table[4 * i + j, column] += -1.0 if term[0] == "-" else 1.0
    return table


_PRODUCT = _linear("ww -xx -yy -zz, wx xw yz -zy, wy -xz yw zx, wz xy -yx zw")
_MATRIX = _linear(
    "ww xx -yy -zz, xy xy -wz -wz, xz xz wy wy,"
    "xy xy wz wz, ww -xx yy -zz, yz yz -wx -wx,"
    "xz xz -wy -wy, yz yz wx wx, ww -xx -yy zz"
)


def normalize(v: Float64) -> Float64:
    """Vectors of length 1 in the direction of ``v``, along the last axis; a zero vector stays zero."""
    length: Float64 = np.sqrt((v * v).sum(axis=-1, keepdims=True))
    return v / np.maximum(length, 1e-12)


def multiply(a: Float64, b: Float64) -> Float64:
    """The rotation that does ``b`` first and then ``a``."""
    products = a[..., :, None] * b[..., None, :]
    return np.asarray(products.reshape(*products.shape[:-2], 16) @ _PRODUCT, dtype=np.float64)


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
    products = q[..., :, None] * q[..., None, :]
    return np.asarray((products.reshape(*q.shape[:-1], 16) @ _MATRIX).reshape(*q.shape[:-1], 3, 3), dtype=np.float64)


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
