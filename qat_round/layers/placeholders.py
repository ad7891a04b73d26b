"""What stands for operators of 16 bits in a graph for TFLite's converter.

The converter gives a sigmoid or tanh an output of 8 bits whatever is asked, and never writes a
QUANTIZE from 8 to 16 bits or back. So they are shown to it as other operators that compute the same
in float, between two leaky ReLUs that change a last bit at most and keep them there. The export's
`patch_int16_operators` puts the operator itself in the place of all that is between DEQUANTIZE and
QUANTIZE; a file that is converted in another way than by `qr.export_tflite` keeps them, and answers
the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qat_round._compat import tf

_LITTLE = 2.0**-23
BEGIN = 1.0 - _LITTLE
ENDS = {
    "QUANTIZE": 1.0 - 2.0 * _LITTLE,
    "LOGISTIC": 1.0 - 3.0 * _LITTLE,
    "TANH": 1.0 - 4.0 * _LITTLE,
}
"""Slopes of the leaky ReLUs in front of what stands for an operator, and behind it."""

_ONE = 1.0 + 2.0**-20  # of what has 1 here the converter makes a sigmoid again
_FLOAT: dict[str, Callable[[Any], Any]] = {
    "QUANTIZE": tf.identity,
    "LOGISTIC": lambda x: _ONE / (_ONE + tf.exp(-x)),
    "TANH": lambda x: 1.0 - 2.0 * _ONE / (_ONE + tf.exp(2.0 * x)),
}


def stand_in(x: tf.Tensor, operator: str) -> tf.Tensor:
    """What an operator makes of x, as the converter is to see it.

    Args:
        x: float.
        operator: "QUANTIZE", "LOGISTIC" or "TANH".
    """
    y = _FLOAT[operator](tf.nn.leaky_relu(x, alpha=BEGIN))
    return tf.nn.leaky_relu(y, alpha=ENDS[operator])
