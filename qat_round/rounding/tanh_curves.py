"""Methods with one tanh in each cell: `tanh` and `dsq`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from qat_round._lazy import tf
from qat_round._validate import require
from qat_round.rounding.base import Rounder, tensor
from qat_round.rounding.exponential import fast_tanh
from qat_round.rounding.registry import register
from qat_round.rounding.trig import nearest_and_rest


class _TanhCurve(Rounder):
    """m + tanh(k r) / (2 tanh(k/2)): m the cell's middle, r = x - m, k from the settings."""

    def steepness(self, dtype: tf.DType) -> tf.Tensor:
        """k."""
        raise TypeError(f"{type(self).__name__} has to define steepness(dtype).")

    def soft(self, x: tf.Tensor) -> tf.Tensor:
        n, rest = nearest_and_rest(x)
        k = self.steepness(x.dtype)
        # counted from the nearest integer: x - floor(x) is rounded where x is just below 0
        half = 0.5 * tf.ones_like(rest)
        side = tf.where(rest < 0.0, -half, half)
        return n + (side + fast_tanh(k * (rest - side)) / (2.0 * fast_tanh(0.5 * k)))

    def pull_back(self, x: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
        _, rest = nearest_and_rest(x)
        k = self.steepness(x.dtype)
        t = fast_tanh(k * (0.5 - tf.abs(rest)))
        return dy * (k * (1.0 - t * t) / (2.0 * fast_tanh(0.5 * k)))


@register("tanh")
@dataclasses.dataclass(frozen=True)
class TanhRound(_TanhCurve):
    """Rounds softly: one tanh per cell, steeper as `sharpness` grows.

    With k = sharpness, m = floor(x) + 1/2 (the cell's middle) and r = x - m:
        y     = m + tanh(k r) / (2 tanh(k/2))
        dy/dx = k (1 - tanh(k r)^2) / (2 tanh(k/2)),  never negative, largest at the middle
    k -> 0 gives x, k -> inf gives hard rounding. Integers and half-integers are fixed points.

    Unit of x and y: steps. Shape and dtype: as x.

    Args:
        sharpness: k > 0, a knob; from about 2 (nearly x) to 60 (nearly hard).
        forward: "soft" or "hard".

    Raises:
        ValueError: if sharpness is not positive and finite.

    Example:
        >>> TanhRound(sharpness=50.0)(tf.constant([0.2, 0.9])).numpy().round(3).tolist()
        [0.0, 1.0]

    Source: Agustsson and Theis 2020, arXiv:2006.09952, section 4.1.
    """

    sharpness: float = 3.0

    knobs: ClassVar[tuple[str, ...]] = ("sharpness",)
    hard_limits: ClassVar[Mapping[str, Any]] = {"sharpness": 1e6}

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0.0 < self.sharpness < float("inf"),
            self,
            f"sharpness={self.sharpness} has to be positive and finite (2 is gentle, 60 nearly "
            "hard; to anneal to hard rounding stop at 1e6, say).",
        )

    def steepness(self, dtype: tf.DType) -> tf.Tensor:
        return tensor(self.sharpness, dtype)


@register("dsq")
@dataclasses.dataclass(frozen=True)
class LearnedTanhRound(_TanhCurve):
    """The curve of `tanh`, whose sharpness is trained with the weights, by the loss.

    With a = alpha, k = ln(2/a - 1), m = floor(x) + 1/2 and r = x - m:
        y     = m + tanh(k r) / (2 tanh(k/2)),   tanh(k/2) = 1 - a
        dy/dx = k (1 - tanh(k r)^2) / (2 (1 - a))
        dy/da = (dy/dk) dk/da, by autodiff
    a -> 1 gives x, a -> 0 gives hard rounding. Integers and half-integers are fixed points.
    In a quantizer, `alpha` is a trainable weight of the layer, one for each tensor, held in
    0.001 .. 0.999; with `forward="hard"` it is trained by what the soft curve would have changed.

    Unit of x and y: steps. Shape and dtype: as x.

    Args:
        alpha: a at the start, 0 < alpha < 1; a knob.
        forward: "soft" or "hard".

    Raises:
        ValueError: if alpha is outside its interval.

    Example:
        >>> LearnedTanhRound(alpha=0.001)(tf.constant([0.2, 0.9])).numpy().round(1).tolist()
        [0.0, 1.0]

    Source: Gong et al. 2019, arXiv:1908.05033, equations 4 to 8.
    """

    alpha: float = 0.2

    knobs: ClassVar[tuple[str, ...]] = ("alpha",)
    trained_knobs: ClassVar[Mapping[str, tuple[float, float]]] = {"alpha": (1e-3, 0.999)}
    hard_limits: ClassVar[Mapping[str, Any]] = {"alpha": 1e-30}

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0.0 < self.alpha < 1.0,
            self,
            f"alpha={self.alpha} has to be in 0 < alpha < 1 (0.2 is gentle, 0.001 nearly hard).",
        )

    def steepness(self, dtype: tf.DType) -> tf.Tensor:
        return tf.math.log(2.0 / tensor(self.alpha, dtype) - 1.0)
