"""Gradients of learned ranges, scaled as in LSQ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from qat_round._compat import tf
from qat_round.numerics.graph_function import one_call
from qat_round.numerics.grid import Grid
from qat_round.rounding import Rounder

LEAST_GROWTH, MOST_GROWTH = 2.0**-10, 2.0**10
"""Limits of a learned range against its start; a wild learning rate stops here."""


class Batch(NamedTuple):
    """What a learned range is trained on.

    Args:
        x: the values.
        ends: (lo, hi) as trained so far.
        grid_over: makes the Grid of two ends.
        rounder: the method.
        state: what is bound to it.
        growth: what is trained of the range.
        parts: of how many parts of the values x is one; replicas have one each.
    """

    x: tf.Tensor
    ends: tuple[tf.Tensor, tf.Tensor]
    grid_over: Callable[[tf.Tensor, tf.Tensor], Grid]
    rounder: Rounder
    state: dict[str, Any]
    growth: Any
    parts: int = 1

    @property
    def count(self) -> tf.Tensor:
        """Of how many values a gradient is the sum, over all grids and replicas."""
        return tf.cast(tf.size(self.x) * self.parts, tf.float32)


def _sped_up(growth: Any, rate: float) -> tf.Tensor:
    return tf.convert_to_tensor(growth) if rate == 1.0 else 1.0 + rate * (growth - 1.0)


def _held(growth: tf.Tensor) -> tf.Tensor:
    """The growth within its limits; the gradient passes, so that it can come back.

    A growth that is no number counts as 1.
    """
    finite = tf.where(tf.math.is_nan(growth), tf.ones_like(growth), growth)
    return finite + tf.stop_gradient(tf.clip_by_value(finite, LEAST_GROWTH, MOST_GROWTH) - finite)


def _scaled_gradients(batch: Batch) -> Grid:
    """The grid, with LSQ's factor 1/sqrt(n qmax) (and 1/s0^2) on the gradients of what made it."""
    grid = batch.grid_over(*batch.ends)
    fields = grid.step, grid.nudged_lo, grid.zero_point, batch.count
    step, lowest = one_call(_with_scaled_gradients, *fields, qmax=grid.qmax)
    return grid._replace(step=step, nudged_lo=lowest)


def _with_scaled_gradients(
    step: tf.Tensor, lowest: tf.Tensor, zero_point: tf.Tensor, count: tf.Tensor, qmax: int
) -> tuple[tf.Tensor, tf.Tensor]:
    factor = _lsq_factor(tf.stop_gradient(step), tf.stop_gradient(zero_point), count, qmax)
    factor = factor / tf.square(tf.stop_gradient(step))
    return _with_gradient_times(step, factor), _with_gradient_times(lowest, factor)


def _factor_for_growth(
    step: tf.Tensor,
    zero_point: tf.Tensor,
    growth: tf.Tensor,
    count: tf.Tensor,
    *,
    qmax: int,
    rate: float,
) -> tf.Tensor:
    """dL/dg of dL/ds, with ds/dg = s/g, LSQ's factor and 1/s^2."""
    held = _held(_sped_up(growth, rate))
    return rate * _lsq_factor(step, zero_point, count, qmax) / (step * held)


def _lsq_factor(step: tf.Tensor, zero_point: tf.Tensor, count: tf.Tensor, qmax: int) -> tf.Tensor:
    """1/sqrt(n qmax), for n values with one step and qmax levels above 0."""
    count = count / tf.cast(tf.size(step), tf.float32)
    above = tf.maximum(float(qmax) - zero_point, 1.0)
    return tf.math.rsqrt(tf.maximum(count, 1.0) * above)


@tf.custom_gradient
def _with_gradient_times(x: tf.Tensor, factor: tf.Tensor) -> tuple[tf.Tensor, Any]:
    return tf.identity(x), lambda dy: (_finite(dy * factor), tf.zeros_like(factor))


def _finite(gradient: tf.Tensor) -> tf.Tensor:
    """A gradient; one that is not finite counts as 0, so that no batch can end the learning."""
    return tf.where(tf.math.is_finite(gradient), gradient, 0.0)
