"""Small networks and data that the model-level tests share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tf_keras as keras

layers = keras.layers


def pictures(count: int = 384, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noisy copies of ten 12x12 patterns, and which pattern each one is."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(7).normal(size=(10, 12, 12, 1))
    labels = rng.integers(0, 10, count)
    noisy = patterns[labels] + 0.7 * rng.normal(size=(count, 12, 12, 1))
    return noisy.astype(np.float32), labels


def vectors(count: int = 64, width: int = 8, seed: int = 0) -> np.ndarray:
    """Random rows."""
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def conv_net(last: str = "linear") -> keras.Model:
    """Two convolutions with batch norm and ReLU, and a dense layer: everything that is folded."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            layers.Input((12, 12, 1), name="image"),
            layers.Conv2D(8, 3, use_bias=False, name="conv"),
            layers.BatchNormalization(name="bn"),
            layers.ReLU(name="relu"),
            layers.Conv2D(12, 3, strides=2, use_bias=False, name="conv2"),
            layers.BatchNormalization(name="bn2"),
            layers.Activation("relu", name="act2"),
            layers.Flatten(name="flat"),
            layers.Dense(10, last, name="classes"),
        ],
        name="conv_net",
    )


def series_net() -> keras.Model:
    """Two 1-D convolutions and a dense layer, on the rows of pictures as steps in time."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            layers.Input((12, 12), name="series"),
            layers.Conv1D(16, 3, use_bias=False, name="conv"),
            layers.BatchNormalization(name="bn"),
            layers.ReLU(name="relu"),
            layers.Conv1D(16, 3, strides=2, activation="relu", name="conv2"),
            layers.GlobalAveragePooling1D(name="mean"),
            layers.Dense(10, name="classes"),
        ],
        name="series_net",
    )


def dense_net() -> keras.Model:
    """Three dense layers on vectors of 8."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            layers.Input((8,), name="row"),
            layers.Dense(6, "relu", name="dense_a"),
            layers.Dense(5, "relu", name="dense_b"),
            layers.Dense(3, name="last"),
        ],
        name="dense_net",
    )


def twin_net() -> keras.Model:
    """Two inputs through one shared layer; two outputs whose names are not in alphabetic order."""
    keras.utils.set_random_seed(0)
    left, right = layers.Input((8,), name="right_first"), layers.Input((8,), name="left_second")
    shared = layers.Dense(6, "relu", name="shared")
    ours, theirs = shared(left), shared(right)
    both = layers.Concatenate(name="both")([ours, theirs])
    outputs = [layers.Dense(3, name="z_scores")(both), layers.Dense(3, name="a_scores")(ours)]
    return keras.Model([left, right], outputs, name="twin_net")


def ready(model: keras.Model, rate: float = 1e-3) -> keras.Model:
    """The model, compiled to tell classes apart from logits."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    return model


def steps(
    model: keras.Model, inputs: np.ndarray, labels: np.ndarray, count: int = 2
) -> list[float]:
    """Losses of some training steps on one batch."""
    return [float(model.train_on_batch(inputs[:32], labels[:32])) for _ in range(count)]


def predicted(model: keras.Model, inputs: np.ndarray) -> np.ndarray:
    """Outputs in inference."""
    return np.asarray(model.predict(inputs, verbose=0))


OPERATORS = {  # output of `operator_net` -> what its operator is called in `kernel_sets.Roundings`
    "convolution": "convolution",
    "depthwise": "depthwise",
    "dense": "dense",
    "transposed": "transposed",
    "product": "product",
    "scaled": "product",
    "sum": "sum",
    "difference": "sum",
    "mean": "mean",
    "mean_kept": "kept_mean",
    "mean_along": "mean",
    "leaky": "leaky",
    "joined": "moved",
    "matrices": "matrices",
    "pool": "",
}


def operator_net(leave_out: Sequence[str] = ()) -> keras.Model:
    """One output for each kind of operator that rounds, named in OPERATORS; images of 8x8x6."""
    keras.utils.set_random_seed(0)
    x = layers.Input((8, 8, 6), name="image")
    bias = {"bias_initializer": "uniform"}
    a = layers.Conv2D(8, 3, padding="same", name="convolution", **bias)(x)
    b = layers.Conv2D(8, 1, name="other", **bias)(x)
    wide = layers.Conv2D(20, 1, name="wide", **bias)(x)
    flat, rows = layers.Flatten()(x), layers.Reshape((64, 8))(a)
    outputs = {
        "convolution": a,
        "depthwise": layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise", **bias)(x),
        "dense": layers.Dense(300, name="dense", **bias)(flat),
        "transposed": layers.Conv2DTranspose(12, 3, strides=2, name="transposed", **bias)(x),
        "product": layers.Multiply(name="product")([a, b]),
        "scaled": layers.Rescaling(0.37, name="scaled")(a),
        "sum": layers.Add(name="sum")([a, b]),
        "difference": layers.Subtract(name="difference")([a, b]),
        "mean": layers.GlobalAveragePooling2D(name="mean")(a),
        "mean_kept": layers.GlobalAveragePooling2D(keepdims=True, name="mean_kept")(wide),
        "mean_along": layers.GlobalAveragePooling1D(name="mean_along")(rows),
        "leaky": layers.LeakyReLU(0.3, name="leaky")(a),
        "joined": layers.Concatenate(name="joined")([a, b]),
        "matrices": layers.Dot((2, 2), name="matrices")([rows, rows]),
        "pool": layers.AveragePooling2D(2, name="pool")(a),
    }
    return keras.Model(x, [y for name, y in outputs.items() if name not in leave_out])


def normal(*shape, seed=0, scale=1.0):
    return tf.constant(np.random.default_rng(seed).normal(0, scale, shape), tf.float32)
