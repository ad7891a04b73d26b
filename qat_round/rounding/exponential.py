"""exp(-z) for z >= 0 in about half of the operations that TensorFlow and XLA take.

float32 splits z into whole and broken octaves: a polynomial for the broken one, the exponent's bits
for the whole ones (relative error 4e-6 at z = 80, below 1e-6 up to z = 10). float64 uses the
library's function.
"""

from __future__ import annotations

import math

from .._compat import tf

_OCTAVES = 1.0 / math.log(2.0)
_LEAST = -127.0  # 2^-127 is no normal float32: its bits, so made, are those of 0
# 2^f = 1 + f P(f), relative error 8e-8 over 0 <= f < 1
_BROKEN = (0.69315131, 0.24016445, 0.05579991, 0.00901703, 0.00186713)


def exp_of_minus(z: tf.Tensor) -> tf.Tensor:
    """exp(-z), z >= 0; in float32 it is 0 from z = 88 on."""
    if z.dtype == tf.float64:
        return tf.exp(-z)
    octaves = tf.maximum(z * -_OCTAVES, _LEAST)
    whole = tf.floor(octaves)
    broken = octaves - whole
    value = _BROKEN[-1] * broken + _BROKEN[-2]
    for coefficient in (*reversed(_BROKEN[:-2]), 1.0):
        value = value * broken + coefficient
    shift = tf.cast(whole * 2.0**23, tf.int32)  # exact: a whole number of octaves, 23 bits up
    return tf.bitcast(tf.bitcast(value, tf.int32) + shift, tf.float32)
