"""The nets that the benchmarks train and convert, by name, at 96x96 with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SIDE = 96


def small_cnn() -> Any:
    """Three convolutions with batch norm, one Dense."""
    import tf_keras as keras

    layers = keras.layers
    x = inputs = layers.Input((SIDE, SIDE, 3))
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        x = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def chain(depth: int) -> Any:
    """About `depth` layers: blocks of convolution, batch norm and ReLU on 8x8x8."""
    import tf_keras as keras

    layers = keras.layers
    x = inputs = layers.Input((8, 8, 8))
    for _ in range(max(1, depth // 3)):
        x = layers.Conv2D(8, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def _application(name: str, **settings: Any) -> Callable[[], Any]:
    def build() -> Any:
        import tf_keras as keras

        make = getattr(keras.applications, name)
        return make(input_shape=(SIDE, SIDE, 3), weights=None, classes=10, **settings)

    return build


NETS: dict[str, Callable[[], Any]] = {
    "small": small_cnn,
    "mobilenet_v2_0.35": _application("MobileNetV2", alpha=0.35),
    "mobilenet_v2_1.0": _application("MobileNetV2", alpha=1.0),
    "resnet50": _application("ResNet50"),
}


def images(count: int) -> Any:
    """Random images and labels of ten classes."""
    import numpy as np

    random = np.random.default_rng(0)
    values = random.normal(size=(count, SIDE, SIDE, 3)).astype(np.float32)
    return values, random.integers(0, 10, count)
