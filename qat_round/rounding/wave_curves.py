"""Methods that add waves to the identity until it becomes a staircase: `fourier` and `sine`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from qat_round._lazy import tf
from qat_round._validate import require, whole
from qat_round.rounding.base import Rounder, tensor
from qat_round.rounding.registry import register
from qat_round.rounding.trig import nearest_and_rest, sine_turns, stair_rest, versine_turns

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

    hard_limits: ClassVar[Mapping[str, Any]] = {"terms": 200, "sigma": True}

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "terms", whole(self.terms, self, "terms", least=1))

    def soft(self, x: tf.Tensor) -> tf.Tensor:
        n, r = nearest_and_rest(x)
        weights = [w / (k * math.pi) for k, w in enumerate(self._weights(), start=1)]
        return n + (r + _sine_sum(r, weights))

    def pull_back(self, x: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
        _, r = nearest_and_rest(x)
        return dy * (1.0 + _cosine_sum(r, [2.0 * w for w in self._weights()]))

    def _weights(self) -> list[float]:
        """w_n for n = 1..N."""
        return [self._lanczos(n) for n in range(1, self.terms + 1)]

    def _lanczos(self, n: int) -> float:
        angle = math.pi * n / (self.terms + 1)
        return math.sin(angle) / angle if self.sigma else 1.0


@register("sine")
@dataclasses.dataclass(frozen=True)
class SineRound(Rounder):
    """Rounds softly: subtracts one sine wave per cell, and again for a steeper curve.

    With f(x) = x - sin(2 pi x)/(2 pi), applied `iterations` times (x_0 = x, x_{i+1} = f(x_i)):
        y     = (1 - s) x_iterations + s x,   s = identity
        dy/dx = (1 - s) prod_i (1 - cos(2 pi x_i)) + s,  never negative, s at integers
    Integers and half-integers are fixed points; iterations -> inf gives hard rounding if s = 0.
    Because the gradient then is 0 at integers, values that sit on the grid do not move; with a
    share of identity they do.

    Unit of x and y: steps. Shape and dtype: as x.

    Args:
        iterations: a whole number >= 1.
        identity: s, 0 <= identity <= 1, a knob.
        forward: "soft" or "hard".

    Raises:
        ValueError: if iterations is no whole number >= 1, or identity outside its interval.

    Example:
        >>> SineRound(iterations=3)(tf.constant([0.2, 0.5, 0.8])).numpy().round(3).tolist()
        [0.0, 0.5, 1.0]

    Source: the sine answer to "a differentiable round in TensorFlow?"; identity ours.
    """

    iterations: int = 1
    identity: float = 0.0

    knobs: ClassVar[tuple[str, ...]] = ("identity",)
    hard_limits: ClassVar[Mapping[str, Any]] = {"iterations": 12, "identity": 0.0}

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "iterations", whole(self.iterations, self, "iterations", least=1))
        require(0.0 <= self.identity <= 1.0, self, f"identity={self.identity} has to be in 0..1.")

    def soft(self, x: tf.Tensor) -> tf.Tensor:
        n, r = nearest_and_rest(x)
        start, share = r, tensor(self.identity, x.dtype)
        for _ in range(self.iterations):
            r = stair_rest(r)
        return n + (r + share * (start - r))

    def pull_back(self, x: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
        _, r = nearest_and_rest(x)
        slope = versine_turns(r)
        for _ in range(self.iterations - 1):
            r = stair_rest(r)
            slope = slope * versine_turns(r)
        return dy * (slope + tensor(self.identity, x.dtype) * (1.0 - slope))


def _sine_sum(r: tf.Tensor, weights: list[float]) -> tf.Tensor:
    """sum_n (-1)^n weights[n-1] sin(2 pi n r)."""
    if len(weights) > _UNROLLED_TERMS:
        return _looped_sum(r, weights, sine_turns)
    sum_, _, _ = _clenshaw(r, weights)
    return -sum_ * sine_turns(r)


def _cosine_sum(r: tf.Tensor, weights: list[float]) -> tf.Tensor:
    """sum_n (-1)^n weights[n-1] cos(2 pi n r)."""
    if len(weights) > _UNROLLED_TERMS:
        return _looped_sum(r, weights, lambda rest: 1.0 - versine_turns(rest))
    sum_, step, versine = _clenshaw(r, weights)
    return step - versine * sum_


def _clenshaw(r: tf.Tensor, weights: list[float]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Clenshaw's last sum, its last change, and v = 1 - cos(2 pi q), q = |r| - 1/2.

    Counted from the middle of the cell the signs (-1)^n are gone, and in Reinsch's form, by changes
    and v, nothing cancels there, where all waves add up: ten times closer in float32.
    """
    versine = versine_turns(tf.abs(r) - 0.5)
    sum_ = step = tf.fill(tf.shape(r), tf.constant(weights[-1], r.dtype))
    for weight in reversed(weights[:-1]):
        step = weight + step - 2.0 * versine * sum_
        sum_ = sum_ + step
    return sum_, step, versine


def _looped_sum(r: tf.Tensor, weights: list[float], wave: Callable[..., tf.Tensor]) -> tf.Tensor:
    """The same one wave at a time: any number of terms in a graph of fixed size.

    n r is taken in two parts, of which the coarse one is exact in float32 for up to 4096 terms: it
    is its fraction of a turn that counts, and n r itself has lost it.
    """
    factors = tf.constant([(-1.0) ** n * w for n, w in enumerate(weights, start=1)], r.dtype)
    coarse = tf.floor(r * 4096.0) / 4096.0
    fine = r - coarse

    def add(n: tf.Tensor, sum_: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        times = tf.cast(n + 1, r.dtype)
        _, turn = nearest_and_rest(coarse * times)
        _, turn = nearest_and_rest(turn + fine * times)
        return n + 1, sum_ + factors[n] * wave(turn)

    start = (tf.constant(0), tf.zeros_like(r))
    always = lambda *_: True  # noqa: E731
    # XLA compiles a loop under a gradient tape only if it is told the number of turns.
    return tf.while_loop(always, add, start, maximum_iterations=len(weights))[1]
