"""Ranges of means, no finer than means of whole numbers are."""

from __future__ import annotations

from typing import Any

import numpy as np

from qat_round._compat import QuantizeWrapper, keras, tf
from qat_round.layers.integer_layers import REDUCTIONS
from qat_round.quantizers.quantized_tensors import QuantizedTensor, tensors_of_layer

_L = keras.layers
_OPEN = 64  # stands for a size that is not fixed
_POOLS = (_L.GlobalAveragePooling1D, _L.GlobalAveragePooling2D)


def widen_noise(model: Any) -> None:
    """Widens ranges of means until one step is at least that of the input over n, s / n.

    The mean of n whole numbers times s is a multiple of s / n, so that a finer step says nothing
    more. The mean of what is free of its mean (a layer norm behind another) is a float's rounding
    noise, with a step millions of times too small: all but 0 then saturates, by the last bits of
    float sums.

    Args:
        model: a quantized model whose ranges were set.
    """
    for layer in model.layers:
        source = _source(layer) if _is_mean(layer) else None
        for tensor in tensors_of_layer(layer) if source is not None else ():
            if tensor.variable is None and tensor.is_ours:
                _widen(tensor, source, _count(layer))


def _widen(tensor: QuantizedTensor, source: Any, count: float) -> None:
    least = float(np.max(source.scale_and_zero_point()[0])) / count
    step = float(np.max(tensor.scale_and_zero_point()[0]))
    ends = [tensor.weights[end].numpy() for end in ("min_var", "max_var")]
    if 0.0 < step < least and ends[1] > ends[0]:
        tensor.quantizer.set_range(tensor.weights, np.stack(ends) * (least / step))


def _is_mean(layer: Any) -> bool:
    inner: Any = getattr(layer, "layer", None)
    is_reduced = type(inner) in REDUCTIONS and inner.kind == "mean"
    return isinstance(layer, QuantizeWrapper) and (is_reduced or type(inner) in _POOLS)


def _source(layer: Any) -> QuantizedTensor | None:
    """The quantized tensor that a layer with one input reads, through layers without a grid."""
    while len(layer.inbound_nodes) == 1 and tf.is_tensor(given := _input(layer)):
        layer = given._keras_history.layer
        found = [t for t in tensors_of_layer(layer) if t.variable is None]
        if found:
            return found[-1] if found[-1].is_ours else None
    return None


def _input(layer: Any) -> Any:
    inputs = layer.inbound_nodes[0].keras_inputs
    return inputs[0] if len(inputs) == 1 else None


def _count(layer: Any) -> float:
    """How many values go into one mean; about as many where sizes are not fixed."""
    sizes = [np.prod([n or _OPEN for n in t.shape[1:]]) for t in (layer.input, layer.output)]
    return float(max(sizes[0] / sizes[1], 1.0))
