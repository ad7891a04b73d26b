"""Methods that add waves to the identity until it becomes a staircase: `fourier` and `sine`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

from .._compat import tf
from .base import Rounder, require
from .registry import register
from .trig import nearest_and_rest, sine_turns, stair_rest, versine_turns

_UNROLLED_TERMS = 16  # up to here harmonics come by recurrence, beyond one by one in a loop


@register("fourier")
@dataclasses.dataclass(frozen=True)
class FourierRound(Rounder):
    """Rounds softly: the Fourier series of the staircase, cut after `terms` waves.

    With N = terms and w_n = 1, or with `sigma` Lanczos's w_n = sin(t)/t, t = pi n/(N+1):
        y     = x + 1/pi * sum_{n=1..N} (-1)^n w_n sin(2 pi n x)/n
        dy/dx = 1 + 2 * sum_{n=1..N} (-1)^n w_n cos(2 pi n x)
    Integers and half-integers are fixed points. N -> inf gives hard rounding, but with w_n = 1 the
    curve overshoots next to each jump by about 9 % of it (Gibbs) and its gradient goes negative;
    the factors remove nearly all of this and make the jump about twice as wide.

    Unit of x and y: steps. Shape and dtype: as x.

    Args:
        terms: N, a whole number >= 1.
        sigma: whether to use the Lanczos factors.
        forward: "soft" or "hard".

    Raises:
        ValueError: if terms is no whole number >= 1.

    Example:
        >>> FourierRound(terms=50)(tf.constant([0.0, 0.5, 1.2])).numpy().round(2).tolist()
        [0.0, 0.5, 1.0]

    Source: the Fourier answer to "a differentiable round in TensorFlow?"; factors: Lanczos 1956.
    """

    terms: int = 5
    sigma: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        whole = isinstance(self.terms, int) and not isinstance(self.terms, bool)
        require(
            whole and self.terms >= 1, self, f"terms={self.terms!r} has to be a whole number >= 1."
        )

    def soft(self, x: tf.Tensor) -> tf.Tensor:
        n, r = nearest_and_rest(x)
        weights = [w / (k * math.pi) for k, w in enumerate(self._weights(), start=1)]
        return n + (r + _sine_sum(r, weights))

    def pull_back(self, x: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
        _, r = nearest_and_rest(x)
        return dy * (1.0 + _cosine_sum(r, [2.0 * w for w in self._weights()]))

    def _weights(self) -> list[float]:
        """(-1)^n w_n for n = 1..N."""
        signs = ((-1.0) ** n for n in range(1, self.terms + 1))
        return [s * self._lanczos(n) for n, s in enumerate(signs, start=1)]

    def _lanczos(self, n: int) -> float:
        angle = math.pi * n / (self.terms + 1)
        return math.sin(angle) / angle if self.sigma else 1.0


@register("sine")
@dataclasses.dataclass(frozen=True)
class SineRound(Rounder):
    """Rounds softly: subtracts one sine wave per cell, and again for a steeper curve.

    With f(x) = x - sin(2 pi x)/(2 pi), applied `iterations` times (x_0 = x, x_{i+1} = f(x_i)):
        y     = x_iterations
        dy/dx = prod_i (1 - cos(2 pi x_i)),  never negative, 0 at integers, 2^iterations at halves
    Integers and half-integers are fixed points; iterations -> inf gives hard rounding. Because the
    gradient is 0 at integers, values that sit on the grid do not move.

    Unit of x and y: steps. Shape and dtype: as x.

    Args:
        iterations: a whole number >= 1.
        forward: "soft" or "hard".

    Raises:
        ValueError: if iterations is no whole number >= 1.

    Example:
        >>> SineRound(iterations=3)(tf.constant([0.2, 0.5, 0.8])).numpy().round(3).tolist()
        [0.0, 0.5, 1.0]

    Source: the sine answer to "a differentiable round in TensorFlow?".
    """

    iterations: int = 1

    hard_limits: ClassVar[Mapping[str, int]] = {"iterations": 12}

    def __post_init__(self) -> None:
        super().__post_init__()
        whole = isinstance(self.iterations, int) and not isinstance(self.iterations, bool)
        require(
            whole and self.iterations >= 1,
            self,
            f"iterations={self.iterations!r} has to be a whole number >= 1.",
        )

    def soft(self, x: tf.Tensor) -> tf.Tensor:
        n, r = nearest_and_rest(x)
        for _ in range(self.iterations):
            r = stair_rest(r)
        return n + r

    def pull_back(self, x: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
        _, r = nearest_and_rest(x)
        slope = versine_turns(r)
        for _ in range(self.iterations - 1):
            r = stair_rest(r)
            slope = slope * versine_turns(r)
        return dy * slope


def _sine_sum(r: tf.Tensor, weights: list[float]) -> tf.Tensor:
    """sum_n weights[n-1] sin(2 pi n r), by Clenshaw's recurrence where it is short."""
    if len(weights) > _UNROLLED_TERMS:
        return _looped_sum(r, weights, sine_turns)
    cosine = 1.0 - versine_turns(r)
    ahead, sum_ = tf.zeros_like(r), tf.fill(tf.shape(r), tf.cast(weights[-1], r.dtype))
    for weight in reversed(weights[:-1]):
        ahead, sum_ = sum_, weight + 2.0 * cosine * sum_ - ahead
    return sum_ * sine_turns(r)


def _cosine_sum(r: tf.Tensor, weights: list[float]) -> tf.Tensor:
    """sum_n weights[n-1] cos(2 pi n r), by Clenshaw's recurrence where it is short."""
    if len(weights) > _UNROLLED_TERMS:
        return _looped_sum(r, weights, lambda rest: 1.0 - versine_turns(rest))
    cosine = 1.0 - versine_turns(r)
    ahead, sum_ = tf.zeros_like(r), tf.fill(tf.shape(r), tf.cast(weights[-1], r.dtype))
    for weight in reversed(weights[:-1]):
        ahead, sum_ = sum_, weight + 2.0 * cosine * sum_ - ahead
    return sum_ * cosine - ahead


def _looped_sum(r: tf.Tensor, weights: list[float], wave: object) -> tf.Tensor:
    """The same one wave at a time: any number of terms in a graph of fixed size."""
    factors = tf.constant(weights, r.dtype)

    def add(n: tf.Tensor, sum_: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        _, rest = nearest_and_rest(r * tf.cast(n + 1, r.dtype))
        return n + 1, sum_ + factors[n] * wave(rest)  # type: ignore[operator]

    condition = lambda n, _: n < len(weights)  # noqa: E731
    return tf.while_loop(condition, add, (tf.constant(0), tf.zeros_like(r)))[1]
