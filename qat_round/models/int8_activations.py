"""Activations of fewer than 8 bits as 8-bit ones on the same ranges: what TFLite can hold."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from qat_round.quantizers.quantized_tensors import quantized_tensors, require_quantized

LIFTED_BITS = 8


@contextlib.contextmanager
def lifted(model: Any) -> Iterator[Any]:
    """While open, the model's activations below 8 bits have 8 bits, on the same ranges.

    This is what `qr.export_tflite(model, lift_activations=True)` writes: the coarse levels are not
    in the file, which rounds to finer ones. So its accuracy is its own; compare it in here:

        with qr.lifted(model):
            qr.reestimate_batch_norm(model, x_train)
            tflite = qr.export_tflite(model, lift_activations=True)
            print(qr.verify_tflite(model, tflite, x_test).table())

    The finer levels shift the means that batch norms see: they want statistics of their own, which
    then do not suit the coarse model any more (lift a copy, or re-estimate again for it).

    Call the model itself in here, not `model.predict` or `evaluate`, whose compiled functions may
    be older. Weights stay as they are.

    Args:
        model: a quantized model.

    Yields:
        The model.

    Raises:
        ValueError: if the model is not quantized.

    Example:
        >>> from qat_round.models.quantize import quantize_model
        >>> from qat_round._compat import keras
        >>> net = keras.Sequential([keras.layers.Dense(1, input_shape=(1,))])
        >>> q = quantize_model(net, activation_bits=4)
        >>> with lifted(q):
        ...     print({t.bits for t in quantized_tensors(q)})
        {8}
    """
    require_quantized(model, "lifted")
    narrow = {id(t.quantizer): t.quantizer for t in narrow_activations(model)}
    bits = {key: quantizer.bits for key, quantizer in narrow.items()}
    for quantizer in narrow.values():
        quantizer.bits = LIFTED_BITS
    try:
        yield model
    finally:
        for key, quantizer in narrow.items():
            quantizer.bits = bits[key]


def narrow_activations(model: Any) -> list[Any]:
    """The activations of fewer than 8 bits, as QuantizedTensors with our quantizers."""
    found = [t for t in quantized_tensors(model) if t.variable is None and t.is_ours]
    return [t for t in found if t.bits < LIFTED_BITS]
