"""TFLite's sigmoid and tanh of 16 bits, integer for integer; all sets of its kernels share them.

They read one table of 256 values between which they draw lines:

    T[i] = round(2^16 (f - f'' h^2 / 16)),   f = sigmoid at i h,  h = 1/24;  T[255] = 65535
    d    = (q m + half) >> s,                m = 3 2^12 step_in in 14 to 15 bits, s its shift
    tanh = (T on the line at |d| / 2^8) - 2^15,  sigmoid the same at |d| / 2^9, halved

with the sign put back so that both are point symmetric. The term with f'' lays the lines through
the curve instead of under it. Found by comparing every integer with the kernels' (LiteRT 2.3).
"""

from __future__ import annotations

import numpy as np

from qat_round._compat import tf
from qat_round.numerics.graph_function import one_call

_LAST = 255


def curve_levels(values: tf.Tensor, step: tf.Tensor, kind: str) -> tf.Tensor:
    """A sigmoid or tanh of 16-bit numbers as whole numbers (in float32) of 2^-15.

    Args:
        values: whole numbers in float32.
        step: theirs.
        kind: "sigmoid" or "tanh".
    """
    return one_call(_levels, values, step, kind=kind)


def _levels(values: tf.Tensor, step: tf.Tensor, *, kind: str) -> tf.Tensor:
    factor, shift = _factor(step)
    half = tf.bitwise.left_shift(tf.ones_like(shift), tf.maximum(shift - 1, 0))
    half = tf.where(shift > 0, half, 0)
    at = _shifted(tf.cast(values, tf.int64) * factor + half, shift)
    return tf.cast(_sigmoid(at) if kind == "sigmoid" else _tanh(at), tf.float32)


def _factor(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """m and s: 3 2^12 step doubled s times, until it has 15 bits, without what is behind them."""
    factor = tf.cast(step, tf.float64) * (3.0 * 2.0**12)
    doubled = [factor * 2.0**n for n in range(32)]
    shift = tf.add_n([tf.cast(f <= 32767.0 / 2.0, tf.int64) for f in doubled[:31]])
    return tf.cast(tf.gather(tf.stack(doubled), shift), tf.int64), shift


def _shifted(x: tf.Tensor, by: tf.Tensor) -> tf.Tensor:
    return tf.bitwise.right_shift(x, tf.broadcast_to(by, tf.shape(x)))


def _tanh(at: tf.Tensor) -> tf.Tensor:
    line = _on_line(tf.abs(at), bits=8, most=0xFFFF)
    middle, half = 2**23, 2**7
    found = tf.where(at >= 0, line - middle + half, middle - line + half - 1)
    return tf.bitwise.right_shift(found, tf.constant(8, tf.int64))


def _sigmoid(at: tf.Tensor) -> tf.Tensor:
    line = _on_line(tf.abs(at), bits=9, most=0xFFFE)
    found = tf.where(at >= 0, line + 2**9, 2**25 - line + 2**9 - 1)
    return tf.bitwise.right_shift(found, tf.constant(10, tf.int64))


def _on_line(size: tf.Tensor, bits: int, most: int) -> tf.Tensor:
    """The table between two of its values, times 2^bits; `most` behind its end."""
    table = tf.constant(_table())
    whole = tf.bitwise.right_shift(size, tf.constant(bits, tf.int64))
    rest = tf.bitwise.bitwise_and(size, tf.constant(2**bits - 1, tf.int64))
    place = tf.minimum(whole, _LAST - 1)
    low, high = tf.gather(table, place), tf.gather(table, place + 1)
    line = low * 2**bits + rest * (high - low)
    return tf.where(whole >= _LAST, tf.constant(most * 2**bits, tf.int64), line)


def _table() -> np.ndarray:
    """The kernels' 256 values of the sigmoid, 24 to the unit."""
    h = 1.0 / 24.0
    f = 1.0 / (1.0 + np.exp(-h * np.arange(_LAST + 1)))
    bend = f * (1.0 - f) * (1.0 - 2.0 * f)
    table = np.round(2.0**16 * (f - bend * h * h / 16.0)).astype(np.int64)
    table[_LAST] = 2**16 - 1
    return table
