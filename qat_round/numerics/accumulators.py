"""What a kernel is about to round: sums, products, means in whole numbers, and how it rounds them.

Each has `levels(step)`, its values as whole numbers of the step of the grid that they go to. With
no `ties` that is XNNPACK's arithmetic, else that of TFLite's other kernels, by its name in
`requantize`; what each set of kernels has is in `kernel_sets`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from qat_round._compat import tf
from qat_round.numerics.graph_function import one_call
from qat_round.numerics.grid import quotient
from qat_round.numerics.int16_curves import curve_levels
from qat_round.numerics.requantize import half_away, scaled, scaled_mean, scaled_sum


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
        ties: "" where the kernel rounds once, halves to even; else see `requantize`.
        precision: in which a kernel that rounds otherwise computes step_in step_w / step_out:
            "double"; "product": step_in step_w in float32; "float": all of it.
    """

    acc: tf.Tensor
    step_in: tf.Tensor
    step_w: tf.Tensor
    bias: Any
    ties: str = ""
    precision: str = "double"

    def real(self) -> tf.Tensor:
        """The sums in real units, with the bias on its grid."""
        bias, unit = self._bias_and_unit(1.0)
        return tf.cast(self._with(bias), tf.float32) * unit

    def levels(self, step: tf.Tensor) -> tf.Tensor:
        """The sums as whole numbers of a step."""
        bias, ratio = self._bias_and_unit(step)
        acc = self._with(bias)
        if self.ties:
            return scaled(
                acc, factor_of(self.step_in, self.step_w, step, self.precision), self.ties
            )
        return tf.round(acc * ratio)

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
    """The sum of two tensors, not rounded yet: (a m_a + b m_b + half) >> shift, m in 21 bits."""

    a: Ints
    b: Ints
    ties: str = ""
    summands: str = ""

    def levels(self, step: tf.Tensor) -> tf.Tensor:
        """The sum as whole numbers of a step."""
        values, steps = (self.a.values, self.b.values), (self.a.step, self.b.step)
        if self.ties:
            return scaled_sum(values, steps, step, self.a.bits, (self.summands, self.ties))
        *factors, unit = one_call(_factors_of_sum, *steps, step)
        total = sum(
            tf.cast(side, tf.float64) * factor for side, factor in zip(values, factors, strict=True)
        )
        return tf.cast(tf.floor(total / unit + 0.5), tf.float32)


class Given(NamedTuple):
    """What the user gives, not rounded yet."""

    values: tf.Tensor
    ties: str = ""

    def levels(self, step: tf.Tensor) -> tf.Tensor:
        """The values as whole numbers of a step."""
        if self.ties:
            return half_away(quotient(self.values, step))
        return tf.round(tf.cast(self.values, tf.float32) * quotient(1.0, step))


class Mean(NamedTuple):
    """A mean, not rounded yet. XNNPACK adds in float32 what has a zero point in it.

    Args:
        total: the sum of whole numbers; float64 of 16-bit ones.
        count: of how many.
        step: theirs.
        zero: their zero point, as a signed integer.
        ties: "" for XNNPACK, else see `requantize`.
        is_raw: whether another kernel adds levels with the zero point in them too, and takes it out
            of what is rounded.
    """

    total: tf.Tensor
    count: tf.Tensor
    step: tf.Tensor
    zero: tf.Tensor
    ties: str = ""
    is_raw: bool = False

    def levels(self, step: tf.Tensor) -> tf.Tensor:
        """The mean as whole numbers of a step."""
        if self.is_raw:
            return self._raw_levels(step)
        if self.ties:
            return scaled_mean(self.total, self.count, factor_of(self.step, 1.0, step), self.ties)
        ratio = quotient(self.step, step)
        mean = quotient(self.total + self.zero * self.count, self.count)
        level = tf.cast(product(mean, ratio), tf.float64) + tf.cast(
            product(-self.zero, ratio), tf.float64
        )
        return half_away(tf.cast(level, tf.float32))

    def _raw_levels(self, step: tf.Tensor) -> tf.Tensor:
        factor = tf.cast(quotient(self.step, product(self.count, step)), tf.float64)
        taken_out = half_away(quotient(product(self.zero, self.step), step))
        return scaled(self.total + self.zero * self.count, factor, self.ties) - taken_out


class Moved(NamedTuple):
    """A tensor that goes to another grid, not rounded yet: (a m + 128) >> 8, m in 8 bits."""

    of: Ints
    ties: str = ""

    def levels(self, step: tf.Tensor) -> tf.Tensor:
        """The tensor as whole numbers of a step."""
        if self.ties:
            return scaled(self.of.values, factor_of(self.of.step, 1.0, step), self.ties)
        factor = tf.round(256.0 * (self.of.step / step))
        return tf.floor((self.of.values * factor + 128.0) / 256.0)


class Leaky(NamedTuple):
    """A leaky ReLU, not rounded yet: as `Moved`, with a factor of its own below zero."""

    of: Ints
    slope: float
    ties: str = ""
    precision: str = "float"

    def levels(self, step: tf.Tensor) -> tf.Tensor:
        """The tensor as whole numbers of a step."""
        if self.ties and self.slope > 0.0:
            above, below = (
                scaled(self.of.values, factor_of(self.of.step, by, step, self.precision), self.ties)
                for by in (1.0, tf.constant(self.slope, tf.float32))
            )
            return tf.where(self.of.values >= 0.0, above, below)
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
        return held(self.of.levels(step), *self.ends(step))

    def ends(self, step: tf.Tensor) -> tuple[Any, Any]:
        """The least and the greatest level."""
        return 0.0, (math.inf if self.high is None else tf.round(self.high / step))


class Curve(NamedTuple):
    """A sigmoid or tanh of 16-bit numbers, in steps of 2^-15.

    Args:
        of: what goes in.
        kind: "sigmoid" or "tanh".
    """

    of: Ints
    kind: str

    def levels(self, step: tf.Tensor) -> tf.Tensor:
        """The activation as whole numbers; the step is always 2^-15."""
        return curve_levels(self.of.values, self.of.step, self.kind)


Pending = Given | Mean | Sums | Pair | Moved | Leaky | Clipped | Curve


def factor_of(step_in: Any, step_w: Any, step: Any, precision: str = "double") -> tf.Tensor:
    """step_in step_w / step in float64, computed in a kernel's precision; see `Sums`."""
    step_in, step_w, step = (tf.cast(of, tf.float64) for of in (step_in, step_w, step))
    unit = step_in * step_w
    if precision == "double":
        return unit / step
    ratio = _in_float(unit) / step
    return _in_float(ratio) if precision == "float" else ratio


def _in_float(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.cast(x, tf.float32), tf.float64)


def product(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """a b, correctly rounded to float32.

    TensorFlow's graph optimizer reorders products of float32, which changes their last bits.
    """
    return tf.cast(tf.cast(a, tf.float64) * tf.cast(b, tf.float64), tf.float32)


def held(levels: tf.Tensor, lowest: Any, highest: Any) -> tf.Tensor:
    """Levels held between two, in one pass over memory."""
    return tf.raw_ops.ClipByValue(t=levels, clip_value_min=lowest, clip_value_max=highest)


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
