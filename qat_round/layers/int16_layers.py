"""Layers whose operators TFLite has at 16 bits, but its converter does not write."""

from __future__ import annotations

from typing import Any

from qat_round._compat import is_exporting, keras, tf
from qat_round.layers import integer_layers
from qat_round.layers.placeholders import stand_in
from qat_round.numerics.accumulators import Curve, Moved
from qat_round.numerics.grid import WIDE_BITS
from qat_round.numerics.integer_tensors import note_pending
from qat_round.numerics.kernel_sets import roundings

_register = keras.utils.register_keras_serializable(package="qat_round")

CURVES = {"sigmoid": "LOGISTIC", "tanh": "TANH"}
"""Activations that TFLite has at 16 bits, and its operators."""


@_register
class Regrid(keras.layers.Layer):
    """Hands its input on, to a grid with another number of bits.

    Example:
        >>> Regrid()(tf.constant([0.5])).numpy().tolist()
        [0.5]
    """

    def call(self, inputs: Any) -> Any:
        return stand_in(inputs, "QUANTIZE") if is_exporting() else tf.identity(inputs)


@_register
class WideActivation(keras.layers.Activation):  # type: ignore[misc, name-defined]
    """A sigmoid or tanh from 16 bits to 16 bits.

    Example:
        >>> WideActivation("tanh")(tf.constant([0.0])).numpy().tolist()
        [0.0]
    """

    def call(self, inputs: Any) -> Any:
        if not is_exporting():
            return super().call(inputs)
        return stand_in(inputs, CURVES[keras.activations.serialize(self.activation)])


def _regridded(wrapper: Any, inputs: Any) -> Any:
    ints = integer_layers.ints_of(inputs)
    if ints is None:
        return None
    moved = Moved(ints, roundings(wrapper.kernels, WIDE_BITS).moved)
    return note_pending(wrapper.layer.call(inputs), moved)


def _curved(wrapper: Any, inputs: Any) -> Any:
    ints = integer_layers.ints_of(inputs)
    if ints is None:
        return None
    kind = keras.activations.serialize(wrapper.layer.activation)
    return note_pending(wrapper.layer.call(inputs), Curve(ints, kind))


integer_layers.COMPUTED |= {Regrid: _regridded, WideActivation: _curved}
