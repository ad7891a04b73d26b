"""The grid that TFLite will use, and TensorFlow's own fake quantization onto it.

A `Grid` is a range turned into scale and zero point, in float32 and in the order of operations of
TensorFlow's fake-quant op, so that both agree to the last bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from qat_round._compat import tf

MIN_BITS, MAX_BITS = 2, 16
WIDE_BITS = 16
"""Of activations where 8 are too few: TFLite's int16x8 files."""
STORED_BITS = (4, 8, WIDE_BITS)
"""The integers that a `.tflite` holds; the converter spreads a range of other bits over all of
theirs, with a step of its own, which leaves the grid."""
NARROWEST = 2.0**-110
"""Of a range: with 2^16 levels its step is the least float that is not flushed to 0."""


class Grid(NamedTuple):
    """2^bits levels (one fewer if narrow) over a nudged range that holds 0 exactly.

    Args:
        lo: lower end as given, real units; shape () or (channels,).
        hi: upper end as given.
        step: distance between levels, real units.
        zero_point: the level of the real value 0, in qmin..qmax.
        nudged_lo: real value of the lowest level.
        nudged_hi: real value of the highest level.
        bits: 2 to 16.
        narrow_range: whether the lowest level is left out.
        axis: the axis of the channels, or None for one grid for the whole tensor.
    """

    lo: tf.Tensor
    hi: tf.Tensor
    step: tf.Tensor
    zero_point: tf.Tensor
    nudged_lo: tf.Tensor
    nudged_hi: tf.Tensor
    bits: int
    narrow_range: bool
    axis: int | None

    @property
    def qmin(self) -> int:
        """Lowest level, as the fake-quant op counts."""
        return int(self.narrow_range)

    @property
    def qmax(self) -> int:
        """Highest level, as the fake-quant op counts."""
        return 2**self.bits - 1


def check_bits(bits: Any) -> int:
    """The bit width as an int.

    Raises:
        ValueError: if it is not a whole number from 2 to 16.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(
            f"bits={bits!r} has to be a whole number from {MIN_BITS} to {MAX_BITS} "
            "(TensorFlow's fake-quant op takes no other)."
        )
    return bits


def grid_from_range(
    lo: Any, hi: Any, bits: int = 8, narrow_range: bool = False, axis: int | None = None
) -> Grid:
    """The grid over a range, exactly as TensorFlow's fake-quant op and TFLite make it.

        step       = (hi - lo) / (qmax - qmin)
        zero_point = clip(floor(qmin - lo/step + 1/2), qmin, qmax)
        nudged_lo  = (qmin - zero_point) step,   nudged_hi = (qmax - zero_point) step

    The range should hold 0; one that does not is moved until it does. The range (0, 0) stands for
    the single value 0, and so does one narrower than 2^-110.

    Args:
        lo, hi: ends of the range, real units; scalars, or one value for each channel.
        bits: 2 to 16.
        narrow_range: leave out the lowest level (symmetric weights).
        axis: the channels' axis if lo and hi are vectors; -1 unless given.

    Returns:
        A Grid.

    Raises:
        ValueError: if bits is out of range.

    Example:
        >>> grid = grid_from_range(-1.0, 1.0, bits=8, narrow_range=True)
        >>> int(grid.zero_point), round(float(grid.step) * 127, 6)
        (128, 1.0)
    """
    qmin, qmax = int(narrow_range), 2 ** check_bits(bits) - 1
    lo, hi = tf.cast(lo, tf.float32), tf.cast(hi, tf.float32)
    empty = hi - lo < NARROWEST
    lo, hi = tf.where(empty, 0.0, lo), tf.where(empty, 0.0, hi)
    step = tf.where(empty, 1.0, quotient(hi - lo, qmax - qmin))
    zero_point = tf.clip_by_value(tf.floor(qmin - lo / step + 0.5), float(qmin), float(qmax))
    nudged_lo = (qmin - zero_point) * step
    nudged_hi = tf.where(empty, 0.0, (qmax - zero_point) * step)
    if axis is None and lo.shape.rank == 1:
        axis = -1
    return Grid(lo, hi, step, zero_point, nudged_lo, nudged_hi, bits, narrow_range, axis)


def quotient(a: Any, b: Any) -> tf.Tensor:
    """a / b, correctly rounded to float32.

    In float32 TensorFlow's graph optimizer would multiply by 1 / b, which is a last bit off.
    """
    return tf.cast(tf.cast(a, tf.float64) / tf.cast(b, tf.float64), tf.float32)


def native_fake_quant(x: tf.Tensor, grid: Grid) -> tf.Tensor:
    """TensorFlow's fake-quant op on the grid's range: what the TFLite converter reads."""
    settings = {"num_bits": grid.bits, "narrow_range": grid.narrow_range}
    if grid.axis is None:
        return tf.quantization.fake_quant_with_min_max_vars(x, grid.lo, grid.hi, **settings)
    order, back = _axis_last(x.shape.rank, grid.axis)
    if order is None:
        return _native_per_channel(x, grid.lo, grid.hi, **settings)
    y = _native_per_channel(tf.transpose(x, order), grid.lo, grid.hi, **settings)
    return tf.transpose(y, back)


def native_pull_back(x: tf.Tensor, dy: tf.Tensor, grid: Grid) -> tf.Tensor:
    """dL/dx of that op by its own gradient: dL/dy within the range, 0 beyond.

    The channels' axis has to be the last. Of the range (0, 0) TensorFlow's gradient would be dL/dy
    everywhere; the least width mends that.
    """
    run = tf.raw_ops.FakeQuantWithMinMaxVarsGradient
    if grid.axis is not None:
        run = tf.raw_ops.FakeQuantWithMinMaxVarsPerChannelGradient
    dx, _, _ = run(
        gradients=tf.cast(dy, tf.float32),
        inputs=tf.cast(x, tf.float32),
        min=grid.lo,
        max=tf.maximum(grid.hi, grid.lo + NARROWEST),
        num_bits=grid.bits,
        narrow_range=grid.narrow_range,
    )
    return tf.cast(dx, x.dtype)


def with_a_width(grid: Grid) -> Grid:
    """The grid over more than the single value 0, in its own steps, where its range is (0, 0).

    Of such a range the converter makes a step so small that kernels refuse it.
    """
    levels = float(2**grid.bits - 1 - int(grid.narrow_range))
    empty = tf.logical_and(grid.lo == 0.0, grid.hi == 0.0)
    return grid._replace(hi=tf.where(empty, levels * grid.step, grid.hi))


def constant_fake_quant(x: tf.Tensor, grid: Grid) -> tf.Tensor:
    """The same values as `native_fake_quant` to the last bits, by plain arithmetic.

    For weights in a graph that is exported: it folds to a constant.
    """
    lo, hi, step = (spread(v, x, grid.axis) for v in (grid.nudged_lo, grid.nudged_hi, grid.step))
    return tf.floor(_in_steps(x, lo, hi, step) + 0.5) * step + lo


def stored_grid(grid: Grid) -> Grid:
    """The grid of the same steps and zero, with as many levels as the file's integers have."""
    bits = next(bits for bits in STORED_BITS if bits >= grid.bits)
    half = 2 ** (bits - 1)
    lo, hi = -half * grid.step, (half - 1) * grid.step
    middle = tf.fill(tf.shape(grid.step), float(half))
    return Grid(lo, hi, grid.step, middle, lo, hi, bits, False, grid.axis)


_native_per_channel = tf.quantization.fake_quant_with_min_max_vars_per_channel


def _in_steps(x: tf.Tensor, lo: tf.Tensor, hi: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
    return (tf.clip_by_value(x, lo, hi) - lo) / step


def spread(per_channel: tf.Tensor, x: tf.Tensor, axis: int | None) -> tf.Tensor:
    """Per-channel values in a shape that broadcasts against x."""
    if axis is None or axis % x.shape.rank == x.shape.rank - 1:
        return per_channel
    shape = [1] * x.shape.rank
    shape[axis] = -1
    return tf.reshape(per_channel, shape)


def _axis_last(rank: int, axis: int) -> tuple[list[int] | None, list[int] | None]:
    """Permutations that bring an axis to the end and back; None where it is there already."""
    axis %= rank
    if axis == rank - 1:
        return None, None
    order = [i for i in range(rank) if i != axis] + [axis]
    return order, [order.index(i) for i in range(rank)]


MOST_BITS = 8


_TENSORS = Grid._fields.index("bits")  # how many of a grid's fields are tensors


def _grid_tensors(
    lo: tf.Tensor, hi: tf.Tensor, bits: int, narrow: bool, off_ties: bool
) -> tuple[tf.Tensor, ...]:
    """A grid's fields that are tensors."""
    lo = _off_ties(lo, hi, bits) if off_ties else lo
    return tuple(grid_from_range(lo, hi, bits, narrow)[:_TENSORS])


def _off_ties(lo: tf.Tensor, hi: tf.Tensor, bits: int) -> tf.Tensor:
    """The lower end, lower by up to a step if 0 would lie midway between two levels."""
    levels = 2.0**bits - 1.0
    zero = -lo * tf.math.divide_no_nan(levels, hi - lo)
    above = tf.math.ceil(zero)
    is_midway = tf.logical_and(tf.abs(zero - tf.floor(zero) - 0.5) < 0.1, above < levels)
    return tf.where(is_midway, -above * hi / tf.maximum(levels - above, 1.0), lo)
