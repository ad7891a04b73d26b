"""Ranges that learn: `learned` (LSQ, LSQ+) and `pact`.

What is trained is not a range's end itself but its *growth* g, the end's ratio to where calibration
put it: ends = g * start, g = 1 at first. So the optimizer's rate means the same for a tensor of any
size, where a plain step of 0.005 would leap at Adam's 1e-3.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np

from qat_round._compat import keras, tf
from qat_round._validate import real, require
from qat_round.numerics.fake_quant import fake_quant, fake_quant_learned, fake_quant_scaled
from qat_round.numerics.graph_function import one_call
from qat_round.numerics.grid import Grid
from qat_round.quantizers.lsq_gradients import (
    LEAST_GROWTH,
    MOST_GROWTH,
    Batch,
    _factor_for_growth,
    _finite,
    _held,
    _scaled_gradients,
    _sped_up,
)
from qat_round.quantizers.ranges import Range, named


class _Growing(Range):
    """What learned ranges share: a start from calibration or the first batch, and a growth."""

    learns: ClassVar[bool] = True
    rate: float

    def update(self, old: tf.Tensor, new: tf.Tensor, seen: tf.Tensor) -> tf.Tensor:
        """The first batch's ends; later ones only where nothing but 0 was seen before."""
        unset = tf.logical_or(seen == 0.0, old[1] <= old[0])
        return tf.where(unset, new, old)

    def make_state(self, layer: Any, name: str, shape: tuple[int, ...]) -> dict[str, Any]:
        return {"growth": _trained(layer, f"{name}_growth", 1.0, shape)}

    def reset(self, weights: dict[str, Any]) -> None:
        weights["growth"].assign(tf.ones_like(weights["growth"]))


@named("learned")
@dataclasses.dataclass(frozen=True)
class Learned(_Growing):
    """A range whose step is trained with the weights (LSQ), and its zero point if asked (LSQ+).

    With s0 and [lo0, hi0] the step and the ends that calibration found, and g the trained growth:
        lo, hi = g lo0, g hi0,   s = g s0        (zero_point: both + o s, o trained, in steps)
        dL/ds  = sum(R(v) dL/dy - v dL/dx) + (lo/s) sum(dL/dy - dL/dx)
        dL/do  = s sum(dL/dy - dL/dx)
        dL/dg  = s0 dL/ds / sqrt(n qmax) / s^2
    y = R(v) s + lo, summed over the n values of a batch that share the step; qmax is the highest
    level above 0. The division by s^2 makes a step of gradient descent on g the step that LSQ makes
    on s, as long as g is near 1. Adam, which does not see the scale of gradients, moves s by `rate`
    times its learning rate times s0 a step. g is held in 2^-10 .. 2^10, so that the step stays
    positive whatever the learning rate; it can come back from there, and `qr.export_tflite` warns
    of such a range.

    Without calibration the first batch sets lo0 and hi0. A range that saw nothing but 0 waits for
    the first batch that has another value.

    Unit of ends: real. Shapes: () or (channels,).

    Args:
        zero_point: whether the zero point is trained as well, where lo0 < 0 (behind a ReLU it is
            not: 0 stays the lowest level).
        rate: how fast g moves against the weights, > 0.

    Raises:
        TypeError: if zero_point is no bool or rate no number.
        ValueError: if rate is not positive and finite.

    Example:
        >>> Learned(rate=3.0).get_config()
        {'name': 'learned', 'zero_point': False, 'rate': 3.0}

    Source: Esser et al. 2020, arXiv:1902.08153; zero point: Bhalgat et al. 2020, arXiv:2004.09576;
        g in place of s: ours.
    """

    zero_point: bool = False
    rate: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.zero_point, bool):
            raise TypeError(f"Learned: zero_point={self.zero_point!r} has to be True or False.")
        _check_positive(self, "rate")

    def make_state(self, layer: Any, name: str, shape: tuple[int, ...]) -> dict[str, Any]:
        state = super().make_state(layer, name, shape)
        if self.zero_point:
            state["offset"] = _trained(layer, f"{name}_offset", 0.0, shape)
        return state

    def reset(self, weights: dict[str, Any]) -> None:
        super().reset(weights)
        if self.zero_point:
            weights["offset"].assign(tf.zeros_like(weights["offset"]))

    def ends(self, weights: dict[str, Any], levels: int) -> tuple[tf.Tensor, tf.Tensor]:
        trained = [weights["growth"], *([weights["offset"]] if self.zero_point else [])]
        ends = weights["min_var"], weights["max_var"]
        return one_call(_grown, *ends, *trained, rate=self.rate, levels=levels)

    def train(self, batch: Batch) -> tf.Tensor:
        """The batch on its grid, with gradients for the ends."""
        if not self.zero_point:
            grid = self._learning(batch, batch.grid_over(*map(tf.stop_gradient, batch.ends)))
            return fake_quant_scaled(batch.x, grid, batch.rounder, **batch.state)
        grid, lo = _scaled_gradients(batch), batch.ends[0]
        # the lower end is nudged to a whole zero point: straight through
        grid = grid._replace(nudged_lo=lo + tf.stop_gradient(grid.nudged_lo - lo))
        return fake_quant_learned(batch.x, grid, batch.rounder, **batch.state)

    def _learning(self, batch: Batch, grid: Grid) -> Grid:
        """The grid with a step that hands its gradient on to g, at once: s = g s0, ds/dg = s/g."""
        fields = grid.step, grid.zero_point, tf.stop_gradient(batch.growth), batch.count
        factor = one_call(_factor_for_growth, *fields, qmax=grid.qmax, rate=self.rate)

        @tf.custom_gradient
        def step(growth: tf.Tensor) -> tuple[tf.Tensor, Any]:
            return tf.identity(grid.step), lambda ds: one_call(_finite, ds * factor)

        return grid._replace(step=step(tf.convert_to_tensor(batch.growth)))


@named("pact")
@dataclasses.dataclass(frozen=True)
class Pact(_Growing):
    """A learned clip behind a ReLU: only what is cut off moves the upper end.

    With hi = g hi0, g the trained growth (see `Learned`), and lo as calibrated:
        y = hi where x > hi, else R(v) s + lo
        dL/dhi = sum of dL/dy where x > hi;   and l2 g^2 is added to the loss

    Unit of ends: real. For activations that have few or no values below 0.

    Args:
        l2: weight of the term that draws hi down, >= 0.
        rate: how fast g moves against the weights, > 0.

    Raises:
        TypeError: if a setting is no number.
        ValueError: if l2 is negative, or rate not positive and finite.

    Example:
        >>> Pact().get_config()
        {'name': 'pact', 'l2': 0.0001, 'rate': 1.0}

    Source: Choi et al. 2018, arXiv:1805.06085; g in place of hi: ours.
    """

    l2: float = 1e-4
    rate: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "l2", real(self.l2, self, "l2"))
        require(
            0.0 <= self.l2 < math.inf, self, f"l2={self.l2} has to be 0 or positive, and finite."
        )
        _check_positive(self, "rate")

    def make_state(self, layer: Any, name: str, shape: tuple[int, ...]) -> dict[str, Any]:
        state = super().make_state(layer, name, shape)
        if self.l2:
            layer.add_loss(lambda: self._penalty(layer, state))
        return state

    def ends(self, weights: dict[str, Any], levels: int) -> tuple[tf.Tensor, tf.Tensor]:
        growth = _held(_sped_up(weights["growth"], self.rate))
        return tf.convert_to_tensor(weights["min_var"]), weights["max_var"] * growth

    def train(self, batch: Batch) -> tf.Tensor:
        """The batch on its grid, with a gradient for the upper end from what is above it."""
        x, hi = batch.x, batch.ends[1]
        grid = batch.grid_over(*map(tf.stop_gradient, batch.ends))
        y = fake_quant(x, grid, batch.rounder, **batch.state)
        moved = y + tf.cast(hi - tf.stop_gradient(hi), x.dtype)
        return tf.where(x > tf.cast(hi, x.dtype), moved, y)

    def _penalty(self, layer: Any, state: dict[str, Any]) -> tf.Tensor:
        return self.l2 * tf.reduce_sum(tf.square(state["growth"]))


def is_at_its_limit(range_: Any, weights: dict[str, Any]) -> bool:
    """Whether a learned range was driven to the least or greatest growth there is, or to NaN.

    Args:
        range_: the quantizer's.
        weights: the quantizer's layer weights.
    """
    if not isinstance(range_, _Growing):
        return False
    growth = _sped_up(weights["growth"], range_.rate).numpy()
    held = (growth <= LEAST_GROWTH) | (growth >= MOST_GROWTH) | ~np.isfinite(growth)
    return bool(held.any())


def _grown(
    lo: tf.Tensor,
    hi: tf.Tensor,
    growth: tf.Tensor,
    offset: tf.Tensor | None = None,
    *,
    rate: float,
    levels: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    growth = _held(_sped_up(growth, rate))
    lo, hi = lo * growth, hi * growth
    if offset is None:
        return lo, hi
    step = tf.stop_gradient(hi - lo) / levels
    moved = rate * offset * tf.cast(lo < 0.0, lo.dtype) * step
    return tf.minimum(lo + moved, 0.0), tf.maximum(hi + moved, 0.0)


def _check_positive(owner: Any, setting: str) -> None:
    value = real(getattr(owner, setting), owner, setting)
    object.__setattr__(owner, setting, value)
    require(0.0 < value < math.inf, owner, f"{setting}={value} has to be positive and finite.")


def _trained(layer: Any, name: str, value: float, shape: tuple[int, ...]) -> tf.Variable:
    return layer.add_weight(
        name=name,
        shape=shape,
        dtype=tf.float32,
        initializer=keras.initializers.Constant(value),
        trainable=True,
        experimental_autocast=False,
    )
