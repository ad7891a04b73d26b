"""Sines and cosines of whole turns, fast and accurate where rounding needs them.

TensorFlow's own on CPU are many times slower than the rest of a rounding, and they lose the
relative accuracy near integers. Here the argument is reduced to r = x - round(x) first; float32
uses polynomials in u = r^2 (relative errors 4e-9, 2e-7 and 1.4e-8, fitted over |r| <= 1/2), float64
the library's functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .._compat import tf

TAU = 2.0 * math.pi
# sin(2 pi r) = r (1 - 4u) P(u);  r - sin(2 pi r)/(2 pi) = r u P(u);  1 - cos(2 pi r) = u P(u)
_SINE = (6.2831852817, -16.2089543693, 16.7691153365, -9.6235165552, 3.5103834868, -0.7871963179)
_STAIR = (6.5797349802, -12.9876413669, 12.2008771759, -6.6148967212, 2.0426449425)
_VERSINE = (19.7392085286, -64.9393247211, 85.453854865, -60.1971063098, 26.0742231545, -6.6724212565)  # fmt: skip


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
    """r - sin(2 pi r)/(2 pi) for |r| <= 1/2, with full relative accuracy near 0."""
    if r.dtype == tf.float64:
        return r - tf.sin(TAU * r) / TAU
    u = r * r
    return r * u * _horner(_STAIR, u)


def versine_turns(r: tf.Tensor) -> tf.Tensor:
    """1 - cos(2 pi r) for |r| <= 1/2, with full relative accuracy near 0."""
    if r.dtype == tf.float64:
        return 2.0 * tf.square(tf.sin(math.pi * r))
    u = r * r
    return u * _horner(_VERSINE, u)


def _horner(coefficients: Sequence[float], u: tf.Tensor) -> tf.Tensor:
    value = coefficients[-1] * u + coefficients[-2]
    for coefficient in reversed(coefficients[:-2]):
        value = value * u + coefficient
    return value
