"""Inference in whole numbers, as TFLite's kernels compute it, so that no rounding differs.

A tensor on a grid is whole numbers times a step. Products and sums of whole numbers are exact in
float32 (below 2^24), so that what a kernel accumulates is computed here without error, and rounded
once, by the very arithmetic of the kernel (XNNPACK's, which TFLite runs by default):

    the model's input:            round_half_even(x * (1 / step))
    convolution, dense, product:  round_half_even(accumulator * (step_in step_w / step_out))
    mean, of raw levels:          round_half_away(sum / count * (step_in / step_out) + bias)
    another grid, leaky ReLU:     (a m + 128) >> 8,              m = 256 step_a / step_out
    transposed conv., matrices:   the same product in 31 bits, rounded twice (gemmlowp's way)
    sum, difference of two:                  (a m_a + b m_b + half) >> shift,   m in 21 bits
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ._compat import tf
from .affine import Grid, quotient
from .fixed_point import half_away, in_15_bits, scaled

_INTS, _PENDING, _FUSED = "_qat_round_ints", "_qat_round_pending", "_qat_round_fused"


class Ints(NamedTuple):
    """Values as whole numbers (in float32) times a step.

    Args:
        values: level minus zero point.
        step: shape ().
        bits: of their grid.
    """

    values: tf.Tensor
    step: tf.Tensor
    bits: int = 8


class Sums(NamedTuple):
    """Sums of products of whole numbers, not rounded yet: acc step_in step_w + bias.

    Args:
        acc: whole numbers; float64 where they are sums of 16-bit ones.
        step_in: the input's step, ().
        step_w: the other factor's, () or (channels,).
        bias: what is added, in real units, or None.
        ties: "" where the kernel rounds once, halves to even; else see `fixed_point`.
        is_dense: whether FULLY_CONNECTED makes them, whose multiplier is fine in int16 too.
    """

    acc: tf.Tensor
    step_in: tf.Tensor
    step_w: tf.Tensor
    bias: Any
    ties: str = ""
    is_dense: bool = False

    def real(self) -> tf.Tensor:
        """The sums in real units, with the bias on its grid."""
        step = product(self.step_in, self.step_w)
        return tf.cast(self._with_bias(step), tf.float32) * step

    def levels(self, step: tf.Tensor) -> tf.Tensor:
        """The sums as whole numbers of a step."""
        unit = product(self.step_in, self.step_w)
        acc = self._with_bias(unit)
        if acc.dtype == tf.float64:
            factor = self._factor(step) if self.is_dense else in_15_bits(self._factor(step))
            return tf.cast(tf.floor(acc * factor + 0.5), tf.float32)
        if self.ties:
            return scaled(acc, self._factor(step), self.ties)
        return tf.round(acc * (unit / step))

    def _factor(self, step: tf.Tensor) -> tf.Tensor:
        step_in, step_w, out = (tf.cast(s, tf.float64) for s in (self.step_in, self.step_w, step))
        return step_in * step_w / out

    def _with_bias(self, step: tf.Tensor) -> tf.Tensor:
        return (
            self.acc if self.bias is None else self.acc + tf.cast(self._bias(step), self.acc.dtype)
        )

    def _bias(self, step: tf.Tensor) -> tf.Tensor:
        return tf.round(tf.math.divide_no_nan(tf.convert_to_tensor(self.bias), step))

    def normed(self, factor: tf.Tensor, mean: tf.Tensor, beta: tf.Tensor) -> Sums:
        """Behind a batch norm: factor (x - mean) + beta, the factor being part of the weights."""
        bias = beta - mean * factor
        bias = bias if self.bias is None else bias + self.bias * factor
        step = product(self.step_w, tf.abs(factor))
        acc = self.acc * tf.cast(tf.sign(factor), self.acc.dtype)
        return self._replace(acc=acc, step_w=step, bias=bias)


class Pair(NamedTuple):
    """The sum of two tensors, not rounded yet."""

    a: Ints
    b: Ints

    def levels(self, step: tf.Tensor) -> tf.Tensor:
        """The sum as whole numbers of a step."""
        ratios = [tf.abs(side.step / step) for side in self]
        exponent = tf.floor(tf.math.log(tf.maximum(*ratios)) / tf.math.log(2.0) + 1e-6)
        unit = tf.cast(2.0 ** (20.0 - exponent), tf.float64)
        total = sum(
            tf.cast(side.values, tf.float64) * tf.round(tf.cast(ratio, tf.float64) * unit)
            for side, ratio in zip(self, ratios, strict=True)
        )
        return tf.cast(tf.floor(total / unit + 0.5), tf.float32)


class Given(NamedTuple):
    """What the user gives, not rounded yet."""

    values: tf.Tensor

    def levels(self, step: tf.Tensor) -> tf.Tensor:
        """The values as whole numbers of a step."""
        return tf.round(tf.cast(self.values, tf.float32) * quotient(1.0, step))


class Mean(NamedTuple):
    """A mean, not rounded yet. LiteRT's kernel adds in float32 what has a zero point in it.

    Args:
        total: the sum of whole numbers.
        count: of how many.
        step: theirs.
        zero: their zero point, as a signed integer.
    """

    total: tf.Tensor
    count: tf.Tensor
    step: tf.Tensor
    zero: tf.Tensor

    def levels(self, step: tf.Tensor) -> tf.Tensor:
        """The mean as whole numbers of a step."""
        ratio = quotient(self.step, step)
        mean = quotient(self.total + self.zero * self.count, self.count)
        level = tf.cast(product(mean, ratio), tf.float64) + tf.cast(
            product(-self.zero, ratio), tf.float64
        )
        return half_away(tf.cast(level, tf.float32))


class Moved(NamedTuple):
    """A tensor that goes to another grid, not rounded yet: (a m + 128) >> 8, m in 8 bits."""

    of: Ints

    def levels(self, step: tf.Tensor) -> tf.Tensor:
        """The tensor as whole numbers of a step."""
        factor = tf.round(256.0 * (self.of.step / step))
        return tf.floor((self.of.values * factor + 128.0) / 256.0)


class Leaky(NamedTuple):
    """A leaky ReLU, not rounded yet: as `Moved`, with a factor of its own below zero."""

    of: Ints
    slope: float

    def levels(self, step: tf.Tensor) -> tf.Tensor:
        """The tensor as whole numbers of a step."""
        ratio = self.of.step / step
        above, below = tf.round(256.0 * ratio), tf.round(256.0 * (ratio * self.slope))
        factor = tf.where(self.of.values >= 0.0, above, below)
        return tf.floor((self.of.values * factor + 128.0) / 256.0)


class Clipped(NamedTuple):
    """Sums held between 0 and a number (None: open), by a ReLU that is part of the operator."""

    of: Sums | Pair
    high: float | None = None

    def levels(self, step: tf.Tensor) -> tf.Tensor:
        """The clipped sums as whole numbers of a step."""
        levels = tf.maximum(self.of.levels(step), 0.0)
        return levels if self.high is None else tf.minimum(levels, tf.round(self.high / step))


Pending = Given | Mean | Sums | Pair | Moved | Leaky | Clipped


def on_wide_grid(x: tf.Tensor, grid: Grid) -> tf.Tensor:
    """x on a 16-bit grid around 0, by a division, as QUANTIZE does.

    The fake-quant op counts from the lowest level, which costs float32 its last bits.
    """
    lowest, highest = grid.qmin - grid.zero_point, grid.qmax - grid.zero_point
    return tf.clip_by_value(half_away(x / grid.step), lowest, highest) * grid.step


def product(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """a b, correctly rounded to float32.

    TensorFlow's graph optimizer reorders products of float32, which changes their last bits.
    """
    return tf.cast(tf.cast(a, tf.float64) * tf.cast(b, tf.float64), tf.float32)


def note_ints(tensor: Any, ints: Ints) -> Any:
    """The tensor, with a note of its whole numbers."""
    setattr(tensor, _INTS, ints)
    return tensor


def noted_ints(tensor: Any) -> Ints | None:
    """The whole numbers of a tensor, if they were noted."""
    return getattr(tensor, _INTS, None)


def note_pending(tensor: Any, pending: Pending | None) -> Any:
    """The tensor, with a note of what it is before it is rounded."""
    if pending is not None:
        setattr(tensor, _PENDING, pending)
    return tensor


def noted_pending(tensor: Any) -> Pending | None:
    """What a tensor is before it is rounded, if that was noted."""
    return getattr(tensor, _PENDING, None)


def note_fused(tensor: Any, sums: Sums) -> Any:
    """The tensor, with a note of the sums that the file computes anew for a ReLU behind it."""
    setattr(tensor, _FUSED, sums)
    return tensor


def noted_fused(tensor: Any) -> Sums | None:
    """The sums that a ReLU behind a tensor is computed from, if not from the tensor."""
    return getattr(tensor, _FUSED, None)


def rounded(pending: Pending, grid: Grid) -> tf.Tensor:
    """Sums on a grid, as the kernel rounds them, with a note of their whole numbers."""
    lowest, highest = grid.qmin - grid.zero_point, grid.qmax - grid.zero_point
    highest = tf.where(grid.hi > grid.lo, highest, lowest)  # the range (0, 0) holds 0 alone
    levels = tf.clip_by_value(pending.levels(grid.step), lowest, highest)
    return note_ints(levels * grid.step, Ints(levels, grid.step, grid.bits))
