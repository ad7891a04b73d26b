"""One small model for each built-in layer that TFLite can compute in integers.

`ROWS` gives, by name, a function that makes (float model, inputs). Tests and
`benchmarks/coverage/run.py` go through them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

L = keras.layers
Row = Callable[[], tuple[Any, np.ndarray]]
ROWS: dict[str, Row] = {}
SHAPE: dict[str, tuple[int, ...] | None] = {}  # of one sample; None for word numbers

IMAGE, SEQUENCE, VECTOR = (8, 8, 4), (8, 6), (12,)


def data(shape: tuple[int, ...], count: int = 64, seed: int = 0) -> np.ndarray:
    """Real-valued inputs that differ from sample to sample in size and in mean."""
    rng = np.random.default_rng(seed)
    size = rng.uniform(0.3, 1.0, (count, *[1] * len(shape)))
    mean = rng.normal(0, 0.3, (count, *[1] * (len(shape) - 1), shape[-1]))
    return (rng.normal(size=(count, *shape)) * size + mean).astype(np.float32)


def tokens(count: int = 64, length: int = 8, words: int = 20) -> np.ndarray:
    """Word numbers."""
    return np.random.default_rng(0).integers(1, words, (count, length)).astype(np.int32)


def with_biases(model: Any) -> Any:
    """The model, its biases not zero: the converter loses some that it would not lose if zero."""
    rng = np.random.default_rng(1)
    for weight in model.weights:
        if "bias" in weight.name:
            weight.assign(weight + rng.uniform(-0.3, 0.3, weight.shape))
    return model


def row(name: str, shape: tuple[int, ...], build: Callable[[Any], Any]) -> None:
    """Adds a model of one input: the input, what `build` makes of it."""

    def make() -> tuple[Any, np.ndarray]:
        keras.utils.set_random_seed(3)
        x = keras.Input(shape, name="x")
        model = with_biases(keras.Model(x, build(x)))
        inputs = data(shape)
        for _ in range(2):
            model(inputs, training=True)  # batch-norm statistics
        return model, inputs

    ROWS[name], SHAPE[name] = make, shape


def single(name: str, shape: tuple[int, ...], make: Callable[[], Any]) -> None:
    """Adds a model of one layer."""
    row(name, shape, lambda x: make()(x))


def pair(name: str, shape: tuple[int, ...], make: Callable[[], Any], count: int = 2) -> None:
    """Adds a model of one layer that joins two linear ones, or more."""

    def build(x: Any) -> Any:
        dense = [L.Dense(x.shape[-1], name=f"arm_{i}")(x) for i in range(count)]
        return make()(dense)

    row(name, shape, build)


def _random() -> Any:
    return keras.initializers.RandomUniform(0.5, 1.5)


single("Conv1D", SEQUENCE, lambda: L.Conv1D(5, 3))
single("Conv1D_causal", SEQUENCE, lambda: L.Conv1D(5, 3, padding="causal", dilation_rate=2))
single("Conv2D", IMAGE, lambda: L.Conv2D(5, 3, strides=2, padding="same", activation="relu"))
single("Conv2D_groups", IMAGE, lambda: L.Conv2D(6, 3, groups=2))
single("Conv2D_dilation", IMAGE, lambda: L.Conv2D(5, 3, dilation_rate=2))
single("Conv1DTranspose", SEQUENCE, lambda: L.Conv1DTranspose(5, 3, strides=2))
single("Conv2DTranspose", IMAGE, lambda: L.Conv2DTranspose(5, 3, strides=2))
single("DepthwiseConv1D", SEQUENCE, lambda: L.DepthwiseConv1D(3))
single("DepthwiseConv2D", IMAGE, lambda: L.DepthwiseConv2D(3, depth_multiplier=2))
single("SeparableConv1D", SEQUENCE, lambda: L.SeparableConv1D(5, 3))
single("SeparableConv2D", IMAGE, lambda: L.SeparableConv2D(5, 3))
single("Dense", VECTOR, lambda: L.Dense(5))
single("Dense_sequence", SEQUENCE, lambda: L.Dense(5, "relu"))
single(
    "EinsumDense", SEQUENCE, lambda: L.EinsumDense("abc,cde->abde", (None, 2, 5), bias_axes="de")
)
single("MaxPooling1D", SEQUENCE, lambda: L.MaxPooling1D())
single("MaxPooling2D", IMAGE, lambda: L.MaxPooling2D())
single("AveragePooling1D", SEQUENCE, lambda: L.AveragePooling1D())
single("AveragePooling2D", IMAGE, lambda: L.AveragePooling2D())
single("GlobalAveragePooling1D", SEQUENCE, lambda: L.GlobalAveragePooling1D())
single("GlobalAveragePooling2D", IMAGE, lambda: L.GlobalAveragePooling2D())
single("GlobalMaxPooling1D", SEQUENCE, lambda: L.GlobalMaxPooling1D())
single("GlobalMaxPooling2D", IMAGE, lambda: L.GlobalMaxPooling2D())
single("ZeroPadding1D", SEQUENCE, lambda: L.ZeroPadding1D(2))
single("ZeroPadding2D", IMAGE, lambda: L.ZeroPadding2D(1))
single("Cropping1D", SEQUENCE, lambda: L.Cropping1D(1))
single("Cropping2D", IMAGE, lambda: L.Cropping2D(1))
single("UpSampling1D", SEQUENCE, lambda: L.UpSampling1D())
single("UpSampling2D", IMAGE, lambda: L.UpSampling2D())
single("UpSampling2D_bilinear", IMAGE, lambda: L.UpSampling2D(interpolation="bilinear"))
single("Resizing", IMAGE, lambda: L.Resizing(12, 12))
single("Resizing_nearest", IMAGE, lambda: L.Resizing(5, 5, interpolation="nearest"))
single("Rescaling", IMAGE, lambda: L.Rescaling(0.5, 0.25))
pair("Add", VECTOR, L.Add)
pair("Subtract", VECTOR, L.Subtract)
pair("Multiply", VECTOR, L.Multiply)
pair("Maximum", VECTOR, L.Maximum)
pair("Minimum", VECTOR, L.Minimum)
pair("Average", VECTOR, L.Average)
pair("Concatenate", VECTOR, L.Concatenate)
for _cls in (L.Add, L.Multiply, L.Maximum, L.Minimum, L.Average, L.Concatenate):
    pair(f"{_cls.__name__}_3", VECTOR, _cls, count=3)
pair("Add_4", VECTOR, L.Add, count=4)
pair("Dot", SEQUENCE, lambda: L.Dot(axes=2))
pair("Dot_normalized", SEQUENCE, lambda: L.Dot(axes=2, normalize=True))
single("Reshape", IMAGE, lambda: L.Reshape((16, 16)))
single("Permute", IMAGE, lambda: L.Permute((3, 1, 2)))
single("Flatten", IMAGE, L.Flatten)
single("RepeatVector", VECTOR, lambda: L.RepeatVector(3))
single("ReLU", VECTOR, L.ReLU)
single("ReLU_leaky", VECTOR, lambda: L.ReLU(max_value=1.0, negative_slope=0.1))
single("ReLU6", VECTOR, lambda: L.ReLU(6.0))
single("LeakyReLU", VECTOR, L.LeakyReLU)
single("PReLU", VECTOR, lambda: L.PReLU(alpha_initializer=keras.initializers.RandomUniform(0, 0.5)))
single("ELU", VECTOR, L.ELU)
single("Softmax", VECTOR, L.Softmax)
for _name in (
    "gelu", "swish", "tanh", "sigmoid", "softmax", "elu", "selu", "softplus", "softsign",
    "hard_sigmoid", "exponential", "mish",
):  # fmt: skip
    single(f"Activation_{_name}", VECTOR, lambda name=_name: L.Activation(name))
single("Activation_log_sigmoid", VECTOR, lambda: L.Activation(tf.math.log_sigmoid))
row("hard_swish", VECTOR, lambda x: x * L.ReLU(6.0)(x + 3.0) * (1.0 / 6.0))
single("BatchNormalization", IMAGE, lambda: L.BatchNormalization(gamma_initializer=_random()))
row("Dense_BatchNormalization", VECTOR, lambda x: L.BatchNormalization()(L.Dense(5)(x)))
row("Conv2D_BatchNormalization", IMAGE, lambda x: L.BatchNormalization()(L.Conv2D(5, 3)(x)))
single("LayerNormalization", SEQUENCE, lambda: L.LayerNormalization(gamma_initializer=_random()))
single("GroupNormalization", IMAGE, lambda: L.GroupNormalization(2, gamma_initializer=_random()))
single("UnitNormalization", SEQUENCE, L.UnitNormalization)
row("MultiHeadAttention", SEQUENCE, lambda x: L.MultiHeadAttention(2, 4)(x, x))
row("Attention", SEQUENCE, lambda x: L.Attention()([x, L.Dense(6)(x)]))
row("Attention_scaled", SEQUENCE, lambda x: L.Attention(use_scale=True)([x, x]))
single("TimeDistributed", SEQUENCE, lambda: L.TimeDistributed(L.Dense(5)))
row("TimeDistributed_conv", (3, *IMAGE), lambda x: L.TimeDistributed(L.Conv2D(5, 3))(x))
single("LSTM", SEQUENCE, lambda: L.LSTM(5))
single("LSTM_sequences", SEQUENCE, lambda: L.LSTM(5, return_sequences=True))
single("GRU", SEQUENCE, lambda: L.GRU(5))
single("SimpleRNN", SEQUENCE, lambda: L.SimpleRNN(5))
single("Bidirectional", SEQUENCE, lambda: L.Bidirectional(L.LSTM(5)))


def _masking() -> tuple[Any, np.ndarray]:
    keras.utils.set_random_seed(3)
    x = keras.Input(SEQUENCE, name="x")
    inputs = data(SEQUENCE)
    inputs[:32, 5:] = 0.0
    return keras.Model(x, L.LSTM(5)(L.Masking()(x))), inputs


def _embedding() -> tuple[Any, np.ndarray]:
    keras.utils.set_random_seed(3)
    ids = keras.Input((8,), dtype="int32", name="ids")
    return keras.Model(ids, L.Embedding(20, 6)(ids)), tokens()


ROWS |= {"Masking": _masking, "Embedding": _embedding}
SHAPE |= {"Masking": None, "Embedding": None}
