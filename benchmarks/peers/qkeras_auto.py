"""QKeras: kernels by `quantized_bits(bits, alpha="auto")`, activations by `quantized_relu`.

Its activations' ranges end at powers of two that the user chooses: here, for each tensor, the one
of the least squared error over 512 training images of the float net. Input and logits at 8 bits.
"""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Any

import numpy as np
import tensorflow as tf
from qkeras import QActivation, QConv2D, QDense, quantized_bits, quantized_relu

from benchmarks.peers.common import (
    CALIBRATION,
    FILTERS_AND_STRIDES,
    Data,
    accuracy,
    fine_tune,
    float_net,
    main,
    with_exact_statistics,
)

keras = tf.keras
layers = keras.layers


def run(weights: list[np.ndarray], bits: tuple[int, int], data: Data) -> dict[str, Any]:
    """Quantizes, trains, evaluates."""
    model = quantized_net(weights, *bits, data.train[:CALIBRATION])
    fine_tune(keras, model, data)
    found = {"as_trained": accuracy(model, data)}
    return found | {"exact": accuracy(with_exact_statistics(keras, model, data), data)}


def quantized_net(
    weights: list[np.ndarray], weight_bits: int, activation_bits: int, images: np.ndarray
) -> Any:
    """The plain net of QKeras layers, with the float weights."""
    seen = positive_tensors(float_net(keras, weights), images)
    whole = [least_error(values, activation_bits) for values in seen[:-1]]
    inputs = keras.Input((28, 28, 1))
    x = QActivation(quantized_relu(8, 0))(inputs)  # pixels: 0..1
    for (filters, strides), digits in zip(FILTERS_AND_STRIDES, whole, strict=False):
        kernel = quantized_bits(weight_bits, 0, 1, alpha="auto")
        settings = {"padding": "same", "use_bias": False, "kernel_quantizer": kernel}
        x = layers.BatchNormalization(momentum=0.9)(QConv2D(filters, 3, strides, **settings)(x))
        x = QActivation(quantized_relu(activation_bits, digits))(x)
    x = QActivation(quantized_relu(activation_bits, whole[-1]))(layers.GlobalAveragePooling2D()(x))
    kernel = quantized_bits(weight_bits, 0, 1, alpha="auto")
    x = QDense(10, kernel_quantizer=kernel)(x)
    digits = int(np.ceil(np.log2(np.abs(seen[-1]).max())))
    model = keras.Model(inputs, QActivation(quantized_bits(8, digits, 1, alpha=1.0))(x))
    model.set_weights(weights)
    return model


def positive_tensors(model: Any, images: np.ndarray) -> list[np.ndarray]:
    """What leaves the ReLUs, the average and the net, in this order."""
    kinds = (layers.ReLU, layers.GlobalAveragePooling2D, layers.Dense)
    outputs = [layer.output for layer in model.layers if isinstance(layer, kinds)]
    return keras.Model(model.input, outputs).predict(images, verbose=0)


def least_error(values: np.ndarray, bits: int) -> int:
    """The digits before the point with which a tensor's squared error is least."""
    tried = range(6)  # negative ones end in an error of tf.pow
    errors = [np.mean((quantized_relu(bits, i)(values) - values) ** 2) for i in tried]
    return tried[int(np.argmin(errors))]


if __name__ == "__main__":
    version = importlib.metadata.version("qkeras")
    sys.exit(main(f"QKeras {version}", keras.utils.set_random_seed, run))
