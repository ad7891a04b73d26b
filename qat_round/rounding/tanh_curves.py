"""Methods with one tanh in each cell: `tanh` and `dsq`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from .._compat import tf
from .base import Rounder, require, tensor
from .exponential import fast_tanh
from .registry import register
from .trig import nearest_and_rest


class _TanhCurve(Rounder):
    """m + tanh(k r) / (2 tanh(k/2)): m the cell's middle, r = x - m, k the sharpness."""

    sharpness: float

    def soft(self, x: tf.Tensor) -> tf.Tensor:
        n, rest = nearest_and_rest(x)
        k = tensor(self.sharpness, x.dtype)
        # counted from the nearest integer: x - floor(x) is rounded where x is just below 0
        side = tf.where(rest < 0.0, -0.5 * tf.ones_like(rest), 0.5 * tf.ones_like(rest))
        return n + (side + fast_tanh(k * (rest - side)) / (2.0 * fast_tanh(0.5 * k)))

    def pull_back(self, x: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
        _, rest = nearest_and_rest(x)
        k = tensor(self.sharpness, x.dtype)
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
