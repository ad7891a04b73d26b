"""Reads what is inside of models."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tf_keras as keras

from qat_round.quantizers.observers import observing
from qat_round.quantizers.quantized_tensors import quantized_tensors


def tensors(model) -> dict:
    return {tensor.path: tensor for tensor in quantized_tensors(model)}


def quantizer_of(model, path: str):
    return tensors(model)[path].quantizer


def kernels(model) -> dict:
    return {t.path: t.variable.numpy() for t in quantized_tensors(model) if t.variable is not None}


def settings(model) -> dict:
    """Everything about the quantized tensors but who quantizes them."""

    def of(tensor):
        quantizer = tensor.quantizer
        shape = tuple(tensor.weights["min_var"].shape)
        return tensor.bits, quantizer.symmetric, quantizer.narrow_range, shape

    rows = [(t.path.removeprefix(t.layer.name), *of(t)) for t in quantized_tensors(model)]
    return dict(enumerate(rows))


def bypassed(model, x):
    """The model's outputs with every quantizer taken out."""
    with observing(lambda quantizer, x, weights: quantizer.bypassed(x), bypass=True):
        return tf.nest.map_structure(np.asarray, model(x, training=False))


def furthest(model, other, x):
    """The largest difference of any output, by the spread of that output."""
    pairs = zip(*(tf.nest.flatten(m(x, training=False)) for m in (model, other)), strict=True)
    return max(float(np.abs(a - b).max() / np.ptp(a)) for a, b in pairs)


def built(quantizer, shape=(None, 4), name="x"):
    """The quantizer's weights in a layer of their own."""
    return quantizer.build(shape, name, keras.layers.Layer(name="holder"))
