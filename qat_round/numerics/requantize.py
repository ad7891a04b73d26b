"""How TFLite's own kernels, which compute what XNNPACK does not, scale their sums down.

XNNPACK rounds once. These kernels multiply by a whole number of 31 bits, round, shift right by what
is left, and round again; so a value just below a half can go up twice:

    m = q 2^(e-31),  q a whole number, 2^30 <= q < 2^31
    h = round(acc 2^max(e,0) q / 2^31),   level = round(h / 2^max(-e,0))

The first rounding takes halves up, the second one up or away from zero. Found by comparing every
integer with the kernels' (TensorFlow 2.21, LiteRT 2.3).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from qat_round._compat import tf
from qat_round.numerics.graph_function import one_call

_ADDED = {8: 20, 16: 15}  # bits of what is added -> how far a kernel shifts it left before
_FURTHEST = 32  # that a mean's factor is shifted


def scaled(acc: tf.Tensor, factor: tf.Tensor, ties: str) -> tf.Tensor:
    """Sums times a factor, as whole numbers (in float32), by the kernel's arithmetic.

    Args:
        acc: whole numbers.
        factor: positive, float64, () or (channels,).
        ties: a key of `SCALINGS`: "up" or "away", rounded twice, halves of the second rounding up
            or away from zero; "eights", "sixteens": "up" for whole blocks of so many channels,
            "away" for the channels behind them; "once up" or "once away"; "15 bits": once, up, by a
            multiplier of 15 bits, as int16 convolutions have it, which is felt.
    """
    return one_call(_scaled_levels, acc, factor, ties=ties)


def scaled_mean(total: tf.Tensor, count: tf.Tensor, factor: tf.Tensor, ties: str) -> tf.Tensor:
    """The mean of whole numbers, times a factor, as whole numbers (in float32).

    The kernel makes the count a part of the multiplier and cuts off what does not fit:

        q' = floor(q 2^s / count),  e' = e - s,  s = floor(log2(count))

    Args:
        total: the sum of whole numbers.
        count: of how many.
        factor: positive, float64, ().
        ties: as for `scaled`.
    """
    q, exponent = _multiplier(factor)
    shift = tf.minimum(_exponent(tf.cast(count, tf.float64)) - 1, _FURTHEST)
    shift = tf.minimum(shift, 31 + exponent)
    short = tf.bitwise.left_shift(q, shift) // tf.cast(count, tf.int64)
    mean = SCALINGS[ties](tf.cast(total, tf.int64), short, exponent - shift)
    return tf.cast(mean, tf.float32)


def scaled_sum(
    values: Sequence[tf.Tensor],
    steps: Sequence[tf.Tensor],
    step: tf.Tensor,
    bits: int,
    ties: tuple[str, str],
) -> tf.Tensor:
    """The sum of two tensors on grids of their own, as whole numbers (in float32) of a step.

    With u = 2 max(step_a, step_b), s = 20 for 8 bits or 15 for 16, and two ways to round, i and o:

        o((i(a 2^s step_a / u) + i(b 2^s step_b / u)) u / (2^s step))

    Args:
        values: a and b, whole numbers.
        steps: of a and b.
        step: of the sum.
        bits: of a and b.
        ties: i and o, each as for `scaled`.
    """
    return one_call(_sum_levels, *values, *steps, step, bits=bits, ties=ties)


def _sum_levels(
    a: tf.Tensor,
    b: tf.Tensor,
    step_a: tf.Tensor,
    step_b: tf.Tensor,
    step: tf.Tensor,
    *,
    bits: int,
    ties: tuple[str, str],
) -> tf.Tensor:
    own = [tf.cast(of, tf.float64) for of in (step_a, step_b)]
    unit, shift = 2.0 * tf.maximum(*own), 2 ** _ADDED[bits]
    a, b = (
        _scaled(tf.cast(side, tf.int64) * shift, of / unit, ties[0])
        for side, of in zip((a, b), own, strict=True)
    )
    factor = unit / (tf.cast(step, tf.float64) * float(shift))
    return _scaled_levels(a + b, factor, ties=ties[1])


def half_away(x: tf.Tensor, tie: float = 0.0) -> tf.Tensor:
    """x rounded, halves away from zero; what is as near to a half as `tie` counts as one."""
    return tf.sign(x) * tf.floor(tf.abs(x) + (0.5 + tie))


def _scaled_levels(acc: tf.Tensor, factor: tf.Tensor, *, ties: str) -> tf.Tensor:
    return tf.cast(_scaled(acc, factor, ties), tf.float32)


def _scaled(acc: tf.Tensor, factor: tf.Tensor, ties: str) -> tf.Tensor:
    return SCALINGS[ties](tf.cast(acc, tf.int64), *_multiplier(factor))


def _twice(acc: tf.Tensor, q: tf.Tensor, exponent: tf.Tensor, last: Any) -> tf.Tensor:
    left, right = tf.maximum(exponent, 0), tf.maximum(-exponent, 0)
    high = _shifted_up(tf.bitwise.left_shift(acc, left) * q, 31 * tf.ones_like(left))
    return last(high, right)


def _twice_up(acc: tf.Tensor, q: tf.Tensor, exponent: tf.Tensor) -> tf.Tensor:
    return _twice(acc, q, exponent, _shifted_up)


def _twice_away(acc: tf.Tensor, q: tf.Tensor, exponent: tf.Tensor) -> tf.Tensor:
    return _twice(acc, q, exponent, _shifted_away)


def _in_blocks(acc: tf.Tensor, q: tf.Tensor, exponent: tf.Tensor, size: int) -> tf.Tensor:
    in_block = tf.range(acc.shape[-1]) < acc.shape[-1] // size * size
    return tf.where(in_block, _twice_up(acc, q, exponent), _twice_away(acc, q, exponent))


def _once_up(acc: tf.Tensor, q: tf.Tensor, exponent: tf.Tensor) -> tf.Tensor:
    return _shifted_up(acc * q, 31 - exponent)


def _once_away(acc: tf.Tensor, q: tf.Tensor, exponent: tf.Tensor) -> tf.Tensor:
    return _shifted_away(acc * q, 31 - exponent)


def _in_15_bits(acc: tf.Tensor, q: tf.Tensor, exponent: tf.Tensor) -> tf.Tensor:
    short = tf.minimum((q + 2**15) // 2**16, 0x7FFF)
    return _shifted_up(acc * short, 15 - exponent)


Scaling = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
SCALINGS: dict[str, Scaling] = {
    "up": _twice_up,
    "away": _twice_away,
    "eights": functools.partial(_in_blocks, size=8),
    "sixteens": functools.partial(_in_blocks, size=16),
    "once up": _once_up,
    "once away": _once_away,
    "15 bits": _in_15_bits,
}
"""How whole numbers (int64) are multiplied by q 2^(e-31), by the name of it; see `scaled`."""


def _multiplier(factor: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """q and e: the factor is q 2^(e-31); of 0, as channels without weights have it, both are 0."""
    is_positive = tf.cast(factor > 0.0, tf.int64)
    factor = tf.where(factor > 0.0, factor, tf.ones_like(factor))
    exponent = _exponent(factor)
    q = tf.cast(tf.floor(factor * _power_of_two(31 - exponent) + 0.5), tf.int64)
    full = tf.cast(q >= 2**31, tf.int64)
    return tf.where(full > 0, q // 2, q) * is_positive, (exponent + full) * is_positive


def _exponent(x: tf.Tensor) -> tf.Tensor:
    """e of a positive x (float64): x = m 2^e, 1/2 <= m < 1."""
    bits = tf.bitcast(x, tf.int64)
    return tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, _whole(bits, 52)), 0x7FF) - 1022


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
