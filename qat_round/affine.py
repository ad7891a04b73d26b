"""The grid that TFLite will use, and fake quantization onto it by any Rounder.

A `Grid` is a range turned into scale and zero point, in float32 and in the order of operations of
TensorFlow's fake-quant op, so that both agree to the last bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from . import fused
from ._compat import smart_cond, tf, unrecorded
from .rounding import Rounder, get

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


def fake_quant(
    x: Any, grid: Grid, rounder: Any = "ste", training: Any = True, **state: Any
) -> tf.Tensor:
    """x on the grid: by the Rounder while training, by TensorFlow's own op otherwise.

    With v = (clip(x, nudged_lo, nudged_hi) - nudged_lo) / step:
        y     = R(v) step + nudged_lo
        dy/dx = R'(v) where nudged_lo <= x <= nudged_hi, else 0
    A hard forward value is that of TensorFlow's op, bit for bit.

    Args:
        x: float tensor of any shape; computed in float32.
        grid: from `grid_from_range`.
        rounder: what `qr.get` takes.
        training: bool or bool tensor.
        **state: tensors that take the place of the Rounder's knobs (or its random `key`).

    Returns:
        A tensor of x's shape and dtype.

    Example:
        >>> grid = grid_from_range(0.0, 15.0, bits=4)
        >>> fake_quant(tf.constant([0.2, 3.5, 99.0]), grid).numpy().tolist()
        [0.0, 4.0, 15.0]
    """
    return _fake_quant(x, grid, rounder, training, state, _fixed_grid)


def fake_quant_learned(
    x: Any, grid: Grid, rounder: Any = "ste", training: Any = True, **state: Any
) -> tf.Tensor:
    """As `fake_quant`, with gradients for the grid's place and step as well: for ranges that learn.

    With y = R(v) step + nudged_lo, in the same pass over memory as dL/dx:
        dL/dnudged_lo = sum(dL/dy - dL/dx)
        dL/dstep      = sum(R(v) dL/dy - v dL/dx)
    summed over the values of each grid; values beyond the ends count with dL/dx = 0. From there
    TensorFlow goes on to whatever the grid was made from.

    Args:
        x, grid, rounder, training, **state: as in `fake_quant`.

    Returns:
        A tensor of x's shape and dtype.

    Example:
        >>> step = tf.constant(0.5)
        >>> with tf.GradientTape() as tape:
        ...     tape.watch(step)
        ...     grid = grid_from_range(0.0, 15.0 * step, bits=4)
        ...     y = fake_quant_learned(tf.constant([0.6, 99.0]), grid)
        >>> round(float(tape.gradient(y, step)), 3)
        14.8

    Source: Esser et al. 2020, arXiv:1902.08153, section 2.1, for any Rounder instead of `ste`.
    """
    return _fake_quant(x, grid, rounder, training, state, _learned_grid)


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
    lo, hi, step = (_spread(v, x, grid.axis) for v in (grid.nudged_lo, grid.nudged_hi, grid.step))
    return tf.floor(_in_steps(x, lo, hi, step) + 0.5) * step + lo


def stored_grid(grid: Grid) -> Grid:
    """The grid of the same steps and zero, with as many levels as the file's integers have."""
    bits = next(bits for bits in STORED_BITS if bits >= grid.bits)
    half = 2 ** (bits - 1)
    lo, hi = -half * grid.step, (half - 1) * grid.step
    middle = tf.fill(tf.shape(grid.step), float(half))
    return Grid(lo, hi, grid.step, middle, lo, hi, bits, False, grid.axis)


_native_per_channel = tf.quantization.fake_quant_with_min_max_vars_per_channel


def _fake_quant(
    x: Any, grid: Grid, rounder: Any, training: Any, state: dict[str, Any], train: Any
) -> tf.Tensor:
    x, rounder = tf.convert_to_tensor(x), get(rounder)
    if rounder.trained_knobs:
        train = _with_trained_knobs(train)
    return smart_cond(
        training,
        lambda: train(x, grid, rounder, fused.whole_state(rounder, state)),
        lambda: _native(x, grid),
    )


def _fixed_grid(x: tf.Tensor, grid: Grid, rounder: Rounder, state: dict[str, Any]) -> tf.Tensor:
    run = functools.partial(_one_pass, grid=grid, rounder=rounder, state=state)

    @tf.custom_gradient
    def quantized(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
        return _value(x, grid, rounder, run), lambda dy: run(fused.pull_back, x, dy)

    return quantized(x)


def _learned_grid(x: tf.Tensor, grid: Grid, rounder: Rounder, state: dict[str, Any]) -> tf.Tensor:
    run = functools.partial(_one_pass, grid=grid, rounder=rounder, state=state)

    @tf.custom_gradient
    def quantized(x: tf.Tensor, lo: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, Any]:
        return _value(x, grid, rounder, run), lambda dy: run(fused.pull_back_with_sums, x, dy)

    return quantized(x, grid.nudged_lo, grid.step)


def _value(x: tf.Tensor, grid: Grid, rounder: Rounder, run: Callable[..., Any]) -> tf.Tensor:
    """What a function with a gradient of its own gives; a tape has to keep nothing of it."""
    with unrecorded():
        return _hard(x, grid) if rounder.is_hard else run(fused.soft_value, x)


def _with_trained_knobs(train: Any) -> Any:
    """Plain operations, with gradients for the knobs, and for the grid where it learns."""

    def run(x: tf.Tensor, grid: Grid, rounder: Rounder, state: dict[str, Any]) -> tf.Tensor:
        keep = tf.identity if train is _learned_grid else tf.stop_gradient
        axis = grid.axis
        ends = (grid.nudged_lo, grid.nudged_hi, grid.step)
        lo, hi, step = (_spread(keep(end), x, axis) for end in ends)
        v = _in_steps(tf.cast(x, tf.float32), lo, hi, step)
        return tf.cast(rounded_with_knobs(v, rounder, state) * step + lo, x.dtype)

    return run


def rounded_with_knobs(v: tf.Tensor, rounder: Rounder, state: dict[str, Any]) -> tf.Tensor:
    """The Rounder's value, with gradients for v and for its trained knobs.

    A knob's gradient is that of the surrogate curve; a knob is held in its interval, and its
    gradient passes, so that it can come back.
    """
    trained = {name: _held(state[name], *ends) for name, ends in rounder.trained_knobs.items()}
    names = list(trained)

    @tf.custom_gradient
    def rounded(v: tf.Tensor, *knobs: tf.Tensor) -> tuple[tf.Tensor, Any]:
        bound = rounder.bind(**{**state, **dict(zip(names, knobs, strict=True))})

        def gradient(dy: tf.Tensor) -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                tape.watch(knobs)
                y = rounder.bind(**{**state, **dict(zip(names, knobs, strict=True))}).surrogate(v)
            return [bound.pull_back(v, dy), *tape.gradient(y, knobs, output_gradients=dy)]

        return bound.value(v), gradient

    return rounded(v, *trained.values())


def _held(value: tf.Tensor, least: float, most: float) -> tf.Tensor:
    return value + tf.stop_gradient(tf.clip_by_value(value, least, most) - value)


def _one_pass(
    formula: Any, *tensors: tf.Tensor, grid: Grid, rounder: Rounder, state: dict[str, Any]
) -> Any:
    cells = fused.Cells(grid.nudged_lo, grid.nudged_hi, grid.step, 1.0 / grid.step)
    return fused.in_one_pass(formula, rounder, state, cells, grid.axis, *tensors)


def _hard(x: tf.Tensor, grid: Grid) -> tf.Tensor:
    """`_native`; in one pass over all channels where that pays."""
    if grid.axis is None or not fused.pays(x):
        return _native(x, grid)
    width = tf.where(grid.hi == grid.lo, 1.0, grid.hi - grid.lo)
    per_step = tf.where(grid.hi == grid.lo, 1.0, quotient(grid.qmax - grid.qmin, width))
    cells = fused.Cells(grid.nudged_lo, grid.nudged_hi, grid.step, per_step)
    return fused.in_one_pass(fused.hard_value, get("ste"), {}, cells, grid.axis, x)


def _native(x: tf.Tensor, grid: Grid) -> tf.Tensor:
    return tf.cast(native_fake_quant(tf.cast(x, tf.float32), grid), x.dtype)


def _in_steps(x: tf.Tensor, lo: tf.Tensor, hi: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
    return (tf.clip_by_value(x, lo, hi) - lo) / step


def _spread(per_channel: tf.Tensor, x: tf.Tensor, axis: int | None) -> tf.Tensor:
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
