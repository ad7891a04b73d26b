"""How TFLite's own kernels, which compute what has INT4 weights, scale their sums down.

XNNPACK rounds once. These kernels multiply by a whole number of 31 bits, round, shift right by what
is left, and round again; so a value just below a half can go up twice:

    m = q 2^(e-31),  q a whole number, 2^30 <= q < 2^31
    h = round(acc 2^max(e,0) q / 2^31),   level = round(h / 2^max(-e,0))

Both roundings take halves up in convolutions, away from zero in depthwise ones. Found by comparing
every integer with the kernels' (TensorFlow 2.21, LiteRT 2.3).
"""

from __future__ import annotations

from ._compat import tf


def scaled(acc: tf.Tensor, factor: tf.Tensor, ties: str) -> tf.Tensor:
    """Sums times a factor, as whole numbers (in float32), by the kernel's arithmetic.

    Args:
        acc: whole numbers in float32.
        factor: positive, float64, () or (channels,).
        ties: "up" or "away".
    """
    q, exponent = _multiplier(factor)
    left, right = tf.maximum(exponent, 0), tf.maximum(-exponent, 0)
    rounded = _shifted_up if ties == "up" else _shifted_away
    high = rounded(tf.bitwise.left_shift(tf.cast(acc, tf.int64), left) * q, 31 * tf.ones_like(left))
    return tf.cast(rounded(high, right), tf.float32)


def in_15_bits(factor: tf.Tensor) -> tf.Tensor:
    """A multiplier (float64) as TFLite's int16 convolutions have it: m 2^(e-15), m of 15 bits.

    That is less than the 16 bits of what they compute, so that it is felt.
    """
    q, exponent = _multiplier(factor)
    short = tf.minimum((q + 2**15) // 2**16, 0x7FFF)
    return tf.cast(short, tf.float64) * _power_of_two(exponent - 15)


def half_away(x: tf.Tensor, tie: float = 0.0) -> tf.Tensor:
    """x rounded, halves away from zero; what is as near to a half as `tie` counts as one."""
    return tf.sign(x) * tf.floor(tf.abs(x) + (0.5 + tie))


def _multiplier(factor: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """q and e: the factor is q 2^(e-31)."""
    bits = tf.bitcast(factor, tf.int64)
    exponent = tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, _whole(bits, 52)), 0x7FF) - 1022
    q = tf.cast(tf.floor(factor * _power_of_two(31 - exponent) + 0.5), tf.int64)
    full = tf.cast(q >= 2**31, tf.int64)
    return tf.where(full > 0, q // 2, q), exponent + full


def _power_of_two(exponent: tf.Tensor) -> tf.Tensor:
    return tf.pow(tf.constant(2.0, tf.float64), tf.cast(exponent, tf.float64))


def _shifted_up(x: tf.Tensor, by: tf.Tensor) -> tf.Tensor:
    """x / 2^by, halves up."""
    return tf.bitwise.right_shift(x + _half(by), tf.broadcast_to(by, tf.shape(x)))


def _shifted_away(x: tf.Tensor, by: tf.Tensor) -> tf.Tensor:
    """x / 2^by, halves away from zero."""
    return tf.sign(x) * _shifted_up(tf.abs(x), by)


def _half(by: tf.Tensor) -> tf.Tensor:
    one = tf.ones_like(by)
    return tf.where(by > 0, tf.bitwise.left_shift(one, tf.maximum(by - 1, 0)), tf.zeros_like(by))


def _whole(like: tf.Tensor, value: int) -> tf.Tensor:
    return tf.cast(value, like.dtype) * tf.ones_like(like)
