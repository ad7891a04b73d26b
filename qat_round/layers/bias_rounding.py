"""Rounds biases to their accumulator's scale in inference, as TFLite does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from qat_round._compat import HALF_PRECISION, is_exporting, keras, smart_cond, tf
from qat_round.layers.shared_grid import bias_slip
from qat_round.numerics.tensor_info import SumNote, note_sum, noted_grid, noted_sum
from qat_round.quantizers.observers import is_bypassed

_L = keras.layers


@contextlib.contextmanager
def with_rounded_bias(wrapper: Any, inputs: Any, training: Any) -> Iterator[Any]:
    """While open, the layer's bias is a whole number of its sums' steps, outside of training.

    Gives the layer's inputs, with the bias of sums in front of it put right as well. A graph that
    is exported is left as it is: the converter rounds its biases itself.
    """
    layer, sums = wrapper.layer, noted_sum(inputs)
    if _is_training(training) or is_exporting() or is_bypassed() or is_half(wrapper):
        yield inputs
        return
    if sums is not None:
        inputs = _shifted(inputs, bias_slip(sums, layer), training)
    own = None if _is_open(wrapper) else _sums(wrapper, inputs)
    if own is None or own.bias is None:
        yield inputs
        return
    object.__setattr__(layer, "bias", _shifted(own.bias, bias_slip(own), training))
    try:
        yield inputs
    finally:
        object.__setattr__(layer, "bias", own.bias)


def _shifted(x: Any, slip: Any, training: Any) -> Any:
    if slip is None:
        return x
    training = keras.backend.learning_phase() if training is None else training
    x = tf.convert_to_tensor(x)
    return smart_cond(training, lambda: x, lambda: x + tf.cast(slip, x.dtype))


def with_bias_scale(wrapper: Any, outputs: Any, inputs: Any, training: Any) -> Any:
    if not _is_open(wrapper) or _is_training(training) or is_half(wrapper):
        return outputs
    return note_sum(outputs, _sums(wrapper, inputs))


def is_half(wrapper: Any) -> bool:
    """Whether it computes in half precision, which holds no sums to their last bit."""
    return wrapper.layer.compute_dtype in HALF_PRECISION


def _is_open(wrapper: Any) -> bool:
    """Whether the output is handed on without having been quantized."""
    activations = wrapper._quantize_activations
    inside = any(a._should_pre_quantize() or a._should_post_quantize() for a in activations)
    return not wrapper._output_quantizers and not inside


def _sums(wrapper: Any, inputs: Any) -> SumNote | None:
    """The scale of a linear layer's sums, and its bias; None where either side has no grid."""
    grid = noted_grid(inputs)
    if grid is None or not hasattr(wrapper.layer, "use_bias") or len(wrapper._weight_vars) != 1:
        return None
    _, quantizer, state = wrapper._weight_vars[0]
    if not hasattr(quantizer, "grid") or not hasattr(grid.quantizer, "grid"):
        return None
    step, by_channel = grid.quantizer.grid(grid.weights).step, quantizer.grid(state).step
    if step.shape.rank or (
        by_channel.shape.rank and by_channel.shape[0] not in (1, _outputs(wrapper))
    ):
        return None
    return SumNote(step * by_channel, wrapper.layer.bias if wrapper.layer.use_bias else None)


def _outputs(wrapper: Any) -> int:
    """How many channels the layer gives."""
    variable, layer = wrapper._weight_vars[0][0], wrapper.layer
    if isinstance(layer, (_L.DepthwiseConv1D, _L.DepthwiseConv2D)):
        return int(variable.shape[-1] * variable.shape[-2])
    transposed = isinstance(layer, (_L.Conv1DTranspose, _L.Conv2DTranspose))
    return int(variable.shape[-2 if transposed else -1])


def _is_training(training: Any) -> bool:
    """Whether it is known that this is training, where biases are not rounded."""
    training = keras.backend.learning_phase() if training is None else training
    known = tf.get_static_value(training) if tf.is_tensor(training) else training
    return known is not None and bool(known)
