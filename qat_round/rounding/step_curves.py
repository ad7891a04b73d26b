"""Methods that replace the jump between neighbours by a steep curve: `sigmoid` and `ramp`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from qat_round._lazy import tf
from qat_round._validate import require
from qat_round.rounding.base import Rounder, tensor
from qat_round.rounding.exponential import exp_of_minus, fast_tanh
from qat_round.rounding.registry import register
from qat_round.rounding.trig import nearest_and_rest


@register("sigmoid")
@dataclasses.dataclass(frozen=True)
class SigmoidRound(Rounder):
    """Rounds softly: one logistic step per cell, steeper as `slope` grows.

    With k = slope, c = center, r = x - floor(x), s(z) = 1/(1 + exp(-z)):
        y     = floor(x) + (s(k(r-c)) - s(-kc)) / (s(k(1-c)) - s(-kc))      normalize=True
        y     = floor(x) + s(k(r-c))                                        normalize=False
        dy/dx = k s(k(r-c)) s(-k(r-c)), divided by the same denominator;  never negative
    s is e/(e+1) with e = exp(k(r-c)), written so that no e overflows.
    k -> 0 gives x when normalized, k -> inf gives hard rounding with its threshold at c.
    Integers are fixed points when normalized; so are half-integers if c = 1/2.

    Unit of x and y: steps. Shape and dtype: as x.

    Args:
        slope: k > 0, a knob.
        center: c, 0 < c < 1, a knob.
        normalize: whether the curve meets the integers, and so is continuous, at any slope.
        forward: "soft" or "hard".

    Raises:
        ValueError: if slope or center is outside its interval.

    Example:
        >>> SigmoidRound()(tf.constant([0.1, 0.5, 1.7])).numpy().tolist()
        [0.0, 0.5, 2.0]

    Source: the logistic answer to "a differentiable round in TensorFlow?"; normalization ours
        (it equals the tanh of Agustsson and Theis 2020, arXiv:2006.09952, with sharpness slope/2).
    """

    slope: float = 1000.0
    center: float = 0.5
    normalize: bool = True

    knobs: ClassVar[tuple[str, ...]] = ("slope", "center")
    low: ClassVar[Any] = None  # on a bound copy: as `prepared`
    scale: ClassVar[Any] = None
    hard_limits: ClassVar[Mapping[str, Any]] = {"slope": 1e6, "center": 0.5}

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0.0 < self.slope < float("inf"),
            self,
            f"slope={self.slope} has to be positive and finite (1000 is nearly hard, 5 is gentle).",
        )
        require(
            0.0 < self.center < 1.0, self, f"center={self.center} has to lie inside the cell, 0..1."
        )

    @property
    def exempt(self) -> Mapping[str, str]:
        if self.normalize:
            return {}
        return {"integers": "without normalize the curve passes beside the integers"}

    def prepared(self) -> dict[str, tf.Tensor]:
        low, scale = self._low_and_scale(tf.float32)
        return {"low": low, "scale": scale} if self.normalize else {}

    def soft(self, x: tf.Tensor) -> tf.Tensor:
        below, z = tf.floor(x), self._from_center(x)
        if not self.normalize:
            return below + tf.sigmoid(z)
        low, scale = self._low_and_scale(x.dtype)
        return below + (fast_tanh(0.5 * z) - low) * scale

    def pull_back(self, x: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
        e = exp_of_minus(tf.abs(self._from_center(x)))
        scale = tensor(self.slope, x.dtype)
        if self.normalize:
            scale = scale * (2.0 * self._low_and_scale(x.dtype)[1])
        return dy * (scale * e / tf.square(1.0 + e))

    def _from_center(self, x: tf.Tensor) -> tf.Tensor:
        """k(r-c), from the nearest integer: x - floor(x) is rounded where x is just below 0.

        Prepared for a pass over a grid's values, none of which is, it saves the detour.
        """
        if self.low is not None:
            return self.slope * (x - tf.floor(x) - self.center)
        _, rest = nearest_and_rest(x)
        center = tensor(self.center, x.dtype)
        return self.slope * (rest - tf.where(rest < 0.0, center - 1.0, center))

    def _low_and_scale(self, dtype: tf.DType) -> tuple[tf.Tensor, tf.Tensor]:
        """tanh(z/2) at the cell's lower end, and 1 over its rise to the upper end."""
        if self.low is not None:
            return self.low, self.scale
        slope, center = tensor(self.slope, dtype), tensor(self.center, dtype)
        low = fast_tanh(-0.5 * slope * center)
        return low, 1.0 / (fast_tanh(0.5 * slope * (1.0 - center)) - low)


@register("ramp")
@dataclasses.dataclass(frozen=True)
class RampRound(Rounder):
    """Rounds softly: a clipped linear step between neighbours.

    With t = threshold, g = gain, r = x - floor(x):
        y     = floor(x) + min(max(r - t, 0) g, 1)
        dy/dx = g where 0 < (r - t) g < 1, else 0
    The ramp begins at t and is 1/g wide. g -> inf gives hard rounding with its threshold at t.
    Integers are fixed points; the curve is continuous as long as the ramp ends inside the cell,
    (1 - t) g >= 1.

    Unit of x and y: steps. Shape and dtype: as x.

    Args:
        threshold: t, 0 <= t < 1, a knob.
        gain: g > 0, a knob.
        forward: "soft" or "hard".

    Raises:
        ValueError: if threshold or gain is outside its interval.

    Example:
        >>> RampRound()(tf.constant([0.1, 0.5, 0.7])).numpy().tolist()
        [0.0, 1.0, 1.0]

    Source: the clipped-linear answer to "a differentiable round in TensorFlow?".
    """

    threshold: float = 0.499
    gain: float = 10000.0

    knobs: ClassVar[tuple[str, ...]] = ("threshold", "gain")
    hard_limits: ClassVar[Mapping[str, Any]] = {"threshold": 0.5, "gain": 1e6}

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0.0 <= self.threshold < 1.0,
            self,
            f"threshold={self.threshold} has to lie in the cell, 0 <= threshold < 1.",
        )
        require(
            0.0 < self.gain < float("inf"), self, f"gain={self.gain} has to be positive and finite."
        )

    @classmethod
    def centered(cls, width: float, forward: str = "soft") -> RampRound:
        """The ramp of a given width, 0 < width <= 1, around the middle of the cell.

        Example:
            >>> RampRound.centered(0.5)(tf.constant([0.25, 0.5, 0.625])).numpy().tolist()
            [0.0, 0.5, 0.75]
        """
        if not 0.0 < width <= 1.0:
            raise ValueError(f"RampRound.centered: width={width} has to be in 0 < width <= 1.")
        return cls(threshold=0.5 - width / 2.0, gain=1.0 / width, forward=forward)

    def soft(self, x: tf.Tensor) -> tf.Tensor:
        below = tf.floor(x)
        return below + tf.minimum(tf.maximum(x - below - self.threshold, 0.0) * self.gain, 1.0)

    def pull_back(self, x: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
        rise = (x - tf.floor(x) - self.threshold) * self.gain
        on_ramp = tf.logical_and(rise > 0.0, rise < 1.0)
        return tf.where(on_ramp, dy * self.gain, tf.zeros_like(dy))
