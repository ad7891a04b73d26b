"""The nets of devices.py, trained on real data: the demo's, MobileNetV2 0.35, a 1-D net.

Random weights would say little: the logits of a random net span few steps of what goes into them,
so that one integer somewhere is several steps at the end. A user's net is trained.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import qat_round as qr  # before TensorFlow

import tensorflow as tf  # isort: skip
import tf_keras as keras  # isort: skip

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

KEPT = Path(__file__).parents[2] / "artifacts" / "devices"
BATCH, FLOAT_RATE, FINE_TUNING_RATE = 64, 5e-3, 3e-4
SIDE = 48


class Data(NamedTuple):
    """Inputs and classes, to train and to test."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


class Net(NamedTuple):
    """Where data and the untrained net come from; epochs in float, batches quantized."""

    data: Callable[[], Data]
    build: Callable[[], Any]
    epochs: int
    fine_tuning: int


def digits() -> Data:
    """The demo's 5,000 MNIST images."""
    import mnist

    images = mnist.load_images()
    return Data(images.train, images.train_digits, images.test, images.test_digits)


def large_digits() -> Data:
    """The same in three equal channels, 48x48, -1 to 1."""
    x, y, x_test, y_test = digits()
    return Data(_enlarged(x), y, _enlarged(x_test), y_test)


def _enlarged(images: np.ndarray) -> np.ndarray:
    resized = tf.image.resize(images, (SIDE, SIDE)).numpy()
    return np.repeat(2.0 * resized - 1.0, 3, axis=-1)


def power() -> Data:
    """ItalyPowerDemand: a day's electric demand, 24 hours; summer or winter."""
    import sequences

    return Data(*sequences.power())


def demo_net() -> Any:
    """Three convolutions, the mean, ten logits (examples/mnist.py)."""
    import mnist

    return mnist.float_model()


def mobilenet() -> Any:
    """MobileNetV2 0.35 without its softmax; batch norms that settle within some hundred steps."""
    model = keras.applications.MobileNetV2(
        (SIDE, SIDE, 3), alpha=0.35, weights=None, classes=10, classifier_activation=None
    )
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9
    return model


def one_dimensional() -> Any:
    """Three convolutions along time, the mean, two logits (examples/sequences.py)."""
    import sequences

    return sequences.conv(power())


NETS = {
    "demo": Net(digits, demo_net, 8, 125),
    "mobilenet": Net(large_digits, mobilenet, 6, 30),
    "one_dimensional": Net(power, one_dimensional, 60, 20),
}


def float_net(name: str, data: Data) -> Any:
    """The net, trained in float; kept in artifacts/devices and read from there the next time."""
    path = KEPT / f"{name}.keras"
    if path.exists():
        return keras.models.load_model(path)
    keras.utils.set_random_seed(0)
    model = trained(NETS[name].build(), data, NETS[name].epochs, FLOAT_RATE)
    KEPT.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return model


def quantized(name: str, original: Any, data: Data, settings: dict[str, Any]) -> Any:
    """Quantized, calibrated on 512 samples, fine-tuned."""
    keras.utils.set_random_seed(0)
    model = qr.calibrate(qr.quantize_model(original, **settings), data.x[:512])
    order = np.resize(np.arange(len(data.x)), NETS[name].fine_tuning * BATCH)
    batches = data._replace(x=data.x[order], y=data.y[order])
    return trained(model, batches, 1, FINE_TUNING_RATE)


def trained(model: Any, data: Data, epochs: int, rate: float) -> Any:
    """By Adam, whose rate falls to 0 along half a cosine wave."""
    steps = epochs * -(-len(data.x) // BATCH)
    falling = keras.optimizers.schedules.CosineDecay(rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(falling), loss)
    model.fit(data.x, data.y, batch_size=BATCH, epochs=epochs, verbose=0)
    return model


def accuracy(logits: np.ndarray, classes: np.ndarray) -> float:
    """In percent."""
    return 100.0 * float(np.mean(logits.argmax(-1) == classes))
