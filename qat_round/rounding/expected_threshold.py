"""`expected_threshold`: the gradient of what a random threshold gives on average."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from qat_round._lazy import tf
from qat_round._validate import require
from qat_round.rounding.base import Rounder, tensor
from qat_round.rounding.registry import register
from qat_round.rounding.trig import nearest_and_rest


@register("expected_threshold")
@dataclasses.dataclass(frozen=True)
class ExpectedThresholdRound(Rounder):
    """Rounds as a random threshold does on average; how random it is is trained with the weights.

    Each threshold between two levels is drawn evenly from an interval of w = width steps around
    the middle of its cell. With r = x - (floor(x) + 1/2), 0 < w <= 2:
        y     = sum of P(threshold < x) = floor(x) + 1/2 + c(r/w) + [w > 1] terms of both neighbours
                c(u) = min(max(u, -1/2), 1/2)
        dy/dx = (how many of the intervals x lies in) / w
        dy/dw = by autodiff of the same sum
    w -> 0 gives hard rounding, w = 1 and w = 2 give x (straight-through with forward="hard").
    Integers and half-integers are fixed points. In a quantizer `width` is a trainable weight of the
    layer, one for each tensor, held in 0.05 .. 2.

    Unit of x and y: steps. Shape and dtype: as x.

    Args:
        width: w at the start, 0 < width <= 2; a knob.
        forward: "soft" or "hard".

    Raises:
        ValueError: if width is outside its interval.

    Example:
        >>> ExpectedThresholdRound(width=0.5)(tf.constant([0.25, 0.5, 0.625])).numpy().tolist()
        [0.0, 0.5, 0.75]

    Source: after the generalized straight-through estimator of N2UQ, Liu et al. 2022,
        arXiv:2111.14826, section 3.2, which learns each threshold's place; equal steps, which
        TFLite needs, leave its width.
    """

    width: float = 0.8

    knobs: ClassVar[tuple[str, ...]] = ("width",)
    trained_knobs: ClassVar[Mapping[str, tuple[float, float]]] = {"width": (0.05, 2.0)}
    hard_limits: ClassVar[Mapping[str, Any]] = {"width": 1e-6}

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0.0 < self.width <= 2.0,
            self,
            f"width={self.width} has to be in 0 < width <= 2 (1 is straight-through).",
        )

    def soft(self, x: tf.Tensor) -> tf.Tensor:
        n, rest = nearest_and_rest(x)
        w = tensor(self.width, x.dtype)
        above = tf.clip_by_value((rest - 0.5) / w, -0.5, 0.5)
        below = tf.clip_by_value((rest + 0.5) / w, -0.5, 0.5)
        return n + (above + below)  # further thresholds are out of reach: w <= 2, |rest| <= 1/2

    def pull_back(self, x: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
        _, rest = nearest_and_rest(x)
        w = tensor(self.width, x.dtype)
        reached = [tf.abs(rest - side) < 0.5 * w for side in (0.5, -0.5)]
        count = tf.cast(reached[0], x.dtype) + tf.cast(reached[1], x.dtype)
        return dy * (count / w)
