"""Small nets that learn the data of the accuracy benchmark in seconds."""

from __future__ import annotations

from collections.abc import Callable

import tf_keras as keras

from benchmarks.accuracy.data import Data

_L = keras.layers


def plain(data: Data) -> keras.Model:
    """3x3 convolutions of 16, 32, 32 filters, batch norm, ReLU, mean over the image, Dense."""
    inputs = x = keras.Input(data.train.shape[1:])
    for filters, strides in ((16, 2), (32, 2), (32, 1)):
        x = _normed(_L.Conv2D(filters, 3, strides, padding="same", use_bias=False)(x))
    return _with_head(inputs, x, data)


def along_time(data: Data) -> keras.Model:
    """As plain, along one axis: convolutions of 5 steps."""
    inputs = x = keras.Input(data.train.shape[1:])
    for filters, strides in ((16, 1), (32, 2), (32, 1)):
        x = _normed(_L.Conv1D(filters, 5, strides, padding="same", use_bias=False)(x))
    return keras.Model(inputs, _L.Dense(data.classes)(_L.GlobalAveragePooling1D()(x)))


def separable(data: Data) -> keras.Model:
    """As MobileNet: a convolution, then depthwise and 1x1 convolutions in turns."""
    inputs = keras.Input(data.train.shape[1:])
    x = _normed(_L.Conv2D(16, 3, 2, padding="same", use_bias=False)(inputs))
    for filters, strides in ((32, 1), (48, 2), (48, 1)):
        x = _normed(_L.DepthwiseConv2D(3, strides, padding="same", use_bias=False)(x))
        x = _normed(_L.Conv2D(filters, 1, use_bias=False)(x))
    return _with_head(inputs, x, data)


def residual(data: Data) -> keras.Model:
    """A convolution and three residual blocks of two convolutions."""
    inputs = keras.Input(data.train.shape[1:])
    x = _normed(_L.Conv2D(24, 3, 2, padding="same", use_bias=False)(inputs))
    for _ in range(3):
        y = _normed(_L.Conv2D(24, 3, padding="same", use_bias=False)(x))
        y = _L.BatchNormalization(momentum=0.9)(_L.Conv2D(24, 3, padding="same", use_bias=False)(y))
        x = _L.ReLU()(_L.Add()([x, y]))
    return _with_head(inputs, x, data)


def mlp(data: Data) -> keras.Model:
    """Two dense layers of 64 with ReLU, and the logits."""
    inputs = keras.Input(data.train.shape[1:])
    x = _L.Flatten()(inputs) if data.train.ndim > 2 else inputs
    for _ in range(2):
        x = _L.Dense(64, activation="relu")(x)
    return keras.Model(inputs, _L.Dense(data.classes)(x))


def _normed(x: object) -> object:
    return _L.ReLU()(_L.BatchNormalization(momentum=0.9)(x))


def _with_head(inputs: object, x: object, data: Data) -> keras.Model:
    return keras.Model(inputs, _L.Dense(data.classes)(_L.GlobalAveragePooling2D()(x)))


NETS: dict[str, Callable[[Data], keras.Model]] = {
    "plain": plain,
    "along_time": along_time,
    "separable": separable,
    "residual": residual,
    "mlp": mlp,
}
