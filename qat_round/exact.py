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

import math
from typing import Any, NamedTuple

from ._compat import tf
from .affine import Grid, quotient
from .fixed_point import half_away, in_15_bits, scaled
from .one_call import one_call

_NARROW = 8  # bits of what XNNPACK computes
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
        bias, unit = self._bias_and_unit(1.0)
        return tf.cast(self._with(bias), tf.float32) * unit

    def levels(self, step: tf.Tensor) -> tf.Tensor:
        """The sums as whole numbers of a step."""
        bias, ratio = self._bias_and_unit(step)
        acc = self._with(bias)
        if acc.dtype == tf.float64:
            return self._wide_levels(acc, self._factor(step))
        if self.ties:
            return scaled(acc, self._factor(step), self.ties)
        return tf.round(acc * ratio)

    def _wide_levels(self, acc: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
        """FULLY_CONNECTED sums without a bias in 32 bits, and scales them down as all such sums."""
        if self.is_dense and self.bias is None:
            return scaled(acc, factor, "up")
        factor = factor if self.is_dense else in_15_bits(factor)
        return tf.cast(tf.floor(acc * factor + 0.5), tf.float32)

    def _factor(self, step: tf.Tensor) -> tf.Tensor:
        step_in, step_w, out = (tf.cast(s, tf.float64) for s in (self.step_in, self.step_w, step))
        return step_in * step_w / out

    def _bias_and_unit(self, step: Any) -> tuple[Any, tf.Tensor]:
        bias = () if self.bias is None else (self.bias,)
        ratio, *whole = one_call(_ratio_and_bias, self.step_in, self.step_w, step, *bias)
        return (whole[0] if whole else None), ratio

    def _with(self, bias: Any) -> tf.Tensor:
        return self.acc if bias is None else self.acc + tf.cast(bias, self.acc.dtype)

    def normed(self, factor: tf.Tensor, mean: tf.Tensor, beta: tf.Tensor) -> Sums:
        """Behind a batch norm: factor (x - mean) + beta, the factor being part of the weights."""
        bias = () if self.bias is None else (self.bias,)
        step, bias, size, sign = one_call(_normed, self.step_w, factor, mean, beta, *bias)
        if not self.ties and self.acc.dtype == tf.float32:  # the sign may as well be the step's
            return self._replace(step_w=step, bias=bias)
        acc = self.acc * tf.cast(sign, self.acc.dtype)
        return self._replace(acc=acc, step_w=size, bias=bias)


class Pair(NamedTuple):
    """The sum of two tensors, not rounded yet."""

    a: Ints
    b: Ints

    def levels(self, step: tf.Tensor) -> tf.Tensor:
        """The sum as whole numbers of a step."""
        if self.a.bits > _NARROW:
            return self._wide_levels(step)
        *factors, unit = one_call(_factors_of_sum, self.a.step, self.b.step, step)
        total = sum(
            tf.cast(side.values, tf.float64) * factor
            for side, factor in zip(self, factors, strict=True)
        )
        return tf.cast(tf.floor(total / unit + 0.5), tf.float32)

    def _wide_levels(self, step: tf.Tensor) -> tf.Tensor:
        """TFLite's own int16 kernel has 31 bits for each factor: as good as exact."""
        ratios = [tf.cast(of.step, tf.float64) / tf.cast(step, tf.float64) for of in self]
        total = sum(tf.cast(of.values, tf.float64) * r for of, r in zip(self, ratios, strict=True))
        return tf.cast(tf.floor(total + 0.5), tf.float32)


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
        return _held(self.of.levels(step), *self.ends(step))

    def ends(self, step: tf.Tensor) -> tuple[Any, Any]:
        """The least and the greatest level."""
        return 0.0, (math.inf if self.high is None else tf.round(self.high / step))


Pending = Given | Mean | Sums | Pair | Moved | Leaky | Clipped


def on_wide_grid(x: tf.Tensor, grid: Grid) -> tf.Tensor:
    """x on a 16-bit grid around 0, as QUANTIZE puts it there.

    The fake-quant op counts from the lowest level, which costs float32 its last bits.
    """
    lowest, highest = grid.qmin - grid.zero_point, grid.qmax - grid.zero_point
    levels = Given(x).levels(grid.step)
    return tf.clip_by_value(levels, lowest, highest) * grid.step


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
    settings = {"qmin": grid.qmin, "qmax": grid.qmax}
    ends = one_call(_ends, grid.zero_point, grid.lo, grid.hi, **settings)
    if isinstance(pending, Clipped):  # of two clips in a row one is enough
        ends = [tf.clip_by_value(end, *ends) for end in pending.ends(grid.step)]
        pending = pending.of
    levels = _held(pending.levels(grid.step), *ends)
    return note_ints(levels * grid.step, Ints(levels, grid.step, grid.bits))


def _held(levels: tf.Tensor, lowest: Any, highest: Any) -> tf.Tensor:
    """Levels held between two, in one pass over memory."""
    return tf.raw_ops.ClipByValue(t=levels, clip_value_min=lowest, clip_value_max=highest)


def _ends(zero_point: Any, lo: Any, hi: Any, qmin: int, qmax: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The lowest and the highest level of a grid, counted from its zero."""
    lowest = qmin - zero_point
    return lowest, tf.where(hi > lo, qmax - zero_point, lowest)  # the range (0, 0) holds 0 alone


def _ratio_and_bias(step_in: Any, step_w: Any, step: Any, bias: Any = None) -> tuple[Any, ...]:
    unit = product(step_in, step_w)
    ratio = unit / step
    return (ratio,) if bias is None else (ratio, tf.round(tf.math.divide_no_nan(bias, unit)))


def _normed(step_w: Any, factor: Any, mean: Any, beta: Any, bias: Any = None) -> tuple[Any, ...]:
    """A batch norm's own step and bias; the step without its sign, and the sign."""
    added = beta - mean * factor
    added = added if bias is None else added + bias * factor
    return product(step_w, factor), added, product(step_w, tf.abs(factor)), tf.sign(factor)


def _factors_of_sum(a: tf.Tensor, b: tf.Tensor, step: tf.Tensor) -> tuple[Any, ...]:
    """The whole numbers that two tensors are multiplied by, and what their sum is divided by."""
    ratios = [tf.abs(of / step) for of in (a, b)]
    exponent = tf.floor(tf.math.log(tf.maximum(*ratios)) / tf.math.log(2.0) + 1e-6)
    unit = tf.cast(2.0 ** (20.0 - exponent), tf.float64)
    return (*(tf.round(tf.cast(ratio, tf.float64) * unit) for ratio in ratios), unit)
