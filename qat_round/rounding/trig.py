"""Sines and cosines of whole turns, fast and accurate where rounding needs them.

TensorFlow's own on CPU are many times slower than the rest of a rounding, and they lose the
relative accuracy near integers. Here the argument is reduced to r = x - round(x) first; float32
uses polynomials in u = r^2 (relative errors 3e-7, 2e-7 and 2e-8, fitted over |r| <= 1/2), float64
the library's functions. The factor 1 - 4u makes the values at |r| = 1/2 exact: waves that are
applied again and again would double any error there each time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from qat_round._lazy import tf

TAU = 2.0 * math.pi
# sin(2 pi r) = r (1 - 4u) P(u);  r - sin(2 pi r)/(2 pi) = r u (4 + (1 - 4u) P(u));
# 1 - cos(2 pi r) = u (8 + (1 - 4u) P(u))
_SINE = (6.2831832, -16.20858429, 16.7581635, -9.50751795, 3.00194133)
_STAIR = (2.57973482, -2.66867943, 1.52565511, -0.50871707)
_VERSINE = (11.7392085016, -17.9824851726, 13.5237289297, -6.1000115805, 1.6637019339)


def nearest_and_rest(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The nearest integer n and r = x - n, |r| <= 1/2 (ties either way)."""
    n = tf.floor(x + 0.5)
    return n, x - n


def sine_turns(r: tf.Tensor) -> tf.Tensor:
    """sin(2 pi r) for |r| <= 1/2; zero at 0 and at +-1/2."""
    if r.dtype == tf.float64:
        return tf.sin(TAU * r)
    u = r * r
    return r * (1.0 - 4.0 * u) * _horner(_SINE, u)


def stair_rest(r: tf.Tensor) -> tf.Tensor:
    """r - sin(2 pi r)/(2 pi) for |r| <= 1/2, with full relative accuracy near 0; r at 0, +-1/2."""
    if r.dtype == tf.float64:
        return r - tf.sin(TAU * r) / TAU
    u = r * r
    return r * u * (4.0 + (1.0 - 4.0 * u) * _horner(_STAIR, u))


def versine_turns(r: tf.Tensor) -> tf.Tensor:
    """1 - cos(2 pi r) for |r| <= 1/2, with full relative accuracy near 0; 2 at +-1/2."""
    if r.dtype == tf.float64:
        return 2.0 * tf.square(tf.sin(math.pi * r))
    u = r * r
    return u * (8.0 + (1.0 - 4.0 * u) * _horner(_VERSINE, u))


def _horner(coefficients: Sequence[float], u: tf.Tensor) -> tf.Tensor:
    value = coefficients[-1] * u + coefficients[-2]
    for coefficient in reversed(coefficients[:-2]):
        value = value * u + coefficient
    return value
