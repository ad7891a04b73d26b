"""Fake quantization onto a grid by any Rounder, with gradients for the values and for the grid.

While training the Rounder decides, in one pass over memory each way (`fused`); outside of it
TensorFlow's own op does. Where a method has that op's value and that op's gradient, and a tensor is
too small for a compiled pass to be faster, it is that op in training too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from qat_round._compat import smart_cond, tf, unrecorded
from qat_round.numerics import fused
from qat_round.numerics.grid import Grid, native_fake_quant, native_pull_back, quotient, spread
from qat_round.rounding import Rounder, get


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
        >>> from qat_round import grid_from_range
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
        >>> from qat_round import grid_from_range
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


def fake_quant_scaled(
    x: Any, grid: Grid, rounder: Any = "ste", training: Any = True, **state: Any
) -> tf.Tensor:
    """As `fake_quant_learned` for a grid whose zero stays at its level: its step alone learns.

    With k = nudged_lo / step, a whole number, y = (R(v) + k) step, and there is one sum to make:
        dL/dstep = sum((R(v) + k) dL/dy - (v + k) dL/dx)

    Args:
        x, grid, rounder, training, **state: as in `fake_quant`.

    Returns:
        A tensor of x's shape and dtype.

    Example:
        >>> from qat_round import grid_from_range
        >>> step = tf.constant(0.5)
        >>> with tf.GradientTape() as tape:
        ...     tape.watch(step)
        ...     grid = grid_from_range(0.0, 15.0 * step, bits=4)
        ...     y = fake_quant_scaled(tf.constant([0.6, 99.0]), grid)
        >>> round(float(tape.gradient(y, step)), 3)
        14.8

    Source: Esser et al. 2020, arXiv:1902.08153, section 2.1, for any Rounder instead of `ste`.
    """
    return _fake_quant(x, grid, rounder, training, state, _scaled_grid)


def _fake_quant(
    x: Any, grid: Grid, rounder: Any, training: Any, state: dict[str, Any], train: Any
) -> tf.Tensor:
    x, rounder = tf.convert_to_tensor(x), get(rounder)
    if rounder.trained_knobs:
        train = _with_trained_knobs(train)
    return smart_cond(
        training,
        lambda: train(x, grid, rounder, fused.whole_state(rounder, state, x)),
        lambda: _native(x, grid),
    )


def _fixed_grid(x: tf.Tensor, grid: Grid, rounder: Rounder, state: dict[str, Any]) -> tf.Tensor:
    if rounder.is_native and fused.is_small(x, grid.axis):
        return _native_both_ways(x, grid)
    run = functools.partial(_one_pass, grid=grid, rounder=rounder, state=state)

    @tf.custom_gradient
    def quantized(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
        return _value(x, grid, rounder, run), lambda dy: run(fused.pull_back, x, dy)

    return quantized(x)


def _learned_grid(x: tf.Tensor, grid: Grid, rounder: Rounder, state: dict[str, Any]) -> tf.Tensor:
    run = functools.partial(_one_pass, grid=grid, rounder=rounder, state=state)

    @tf.custom_gradient
    def quantized(x: tf.Tensor, lo: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def gradient(dy: tf.Tensor) -> list[tf.Tensor]:
            dx, of_lo, of_step = run(fused.pull_back_with_terms, x, dy)
            return [dx, _sum_by_cells(of_lo, grid), _sum_by_cells(of_step, grid)]

        return _value(x, grid, rounder, run), gradient

    return quantized(x, grid.nudged_lo, grid.step)


def _scaled_grid(x: tf.Tensor, grid: Grid, rounder: Rounder, state: dict[str, Any]) -> tf.Tensor:
    run = functools.partial(_one_pass, grid=grid, rounder=rounder, state=state)

    @tf.custom_gradient
    def quantized(x: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def gradient(dy: tf.Tensor) -> list[tf.Tensor]:
            dx, of_step = run(fused.pull_back_with_term, x, dy)
            return [dx, _sum_by_cells(of_step, grid)]

        return _value(x, grid, rounder, run), gradient

    return quantized(x, grid.step)


def _sum_by_cells(terms: tf.Tensor, grid: Grid) -> tf.Tensor:
    """Terms of each value, summed over those of a grid: TensorFlow's sums use every core."""
    rank = terms.shape.rank
    kept = None if grid.axis is None else grid.axis % rank
    return tf.reduce_sum(terms, None if kept is None else [i for i in range(rank) if i != kept])


def _native_both_ways(x: tf.Tensor, grid: Grid) -> tf.Tensor:
    @tf.custom_gradient
    def quantized(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
        with unrecorded():
            y = _native(x, grid)
        return y, lambda dy: native_pull_back(x, dy, grid)

    return quantized(x)


def _value(x: tf.Tensor, grid: Grid, rounder: Rounder, run: Callable[..., Any]) -> tf.Tensor:
    """What a function with a gradient of its own gives; a tape has to keep nothing of it."""
    with unrecorded():
        return _hard(x, grid) if rounder.is_hard else run(fused.soft_value, x)


def _with_trained_knobs(train: Any) -> Any:
    """Plain operations, with gradients for the knobs, and for the grid where it learns."""

    def run(x: tf.Tensor, grid: Grid, rounder: Rounder, state: dict[str, Any]) -> tf.Tensor:
        keep = tf.stop_gradient if train is _fixed_grid else tf.identity
        axis = grid.axis
        ends = (grid.nudged_lo, grid.nudged_hi, grid.step)
        lo, hi, step = (spread(keep(end), x, axis) for end in ends)
        v = (tf.clip_by_value(tf.cast(x, tf.float32), lo, hi) - lo) / step
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
