"""Keras 3 layers and operations become tf_keras layers with equal outputs."""

from __future__ import annotations

import numpy as np
import pytest

from qat_round.frontend.operators import recorded_operators
from qat_round.frontend.to_functional import to_functional
from tests.models.keras3_nets import one_layer

keras = pytest.importorskip("keras", minversion="3.0")
L, ops = keras.layers, keras.ops
IMAGE, SERIES, VECTOR = (8, 8, 4), (8, 4), (4,)


LAYERS = [
    (lambda: L.Conv2D(4, 3, groups=2, activation="silu", kernel_regularizer="l2"), IMAGE),
    (lambda: L.Conv2D(4, 3, dilation_rate=2, padding="same", kernel_constraint="max_norm"), IMAGE),
    (lambda: L.Conv2D(4, 3, activation="relu6"), IMAGE),
    (lambda: L.Conv2D(4, 3, activation="hard_sigmoid"), IMAGE),
    (lambda: L.Conv2D(4, 3, activation="hard_silu"), IMAGE),
    (lambda: L.Conv2D(4, 3, activation="leaky_relu"), IMAGE),
    (lambda: L.Conv2D(4, 3, activation="log_softmax"), IMAGE),
    (lambda: L.Conv2D(4, 3, activation=L.LeakyReLU(negative_slope=0.1)), IMAGE),
    (lambda: L.Conv1D(4, 3, padding="causal"), SERIES),
    (lambda: L.Conv1DTranspose(4, 3, strides=2), SERIES),
    (lambda: L.Conv2DTranspose(4, 3, strides=2, padding="same"), IMAGE),
    (lambda: L.DepthwiseConv1D(3, depth_multiplier=2), SERIES),
    (lambda: L.DepthwiseConv2D(3, strides=2, activation="relu"), IMAGE),
    (lambda: L.SeparableConv1D(4, 3), SERIES),
    (lambda: L.SeparableConv2D(4, 3, depth_multiplier=2, dilation_rate=2), IMAGE),
    (lambda: L.Dense(3, activation="gelu", kernel_initializer="he_normal"), VECTOR),
    (lambda: L.EinsumDense("abc,cd->abd", (None, 5), bias_axes="d", activation="tanh"), SERIES),
    (lambda: L.BatchNormalization(), IMAGE),
    (lambda: L.BatchNormalization(scale=False, center=False), IMAGE),
    (lambda: L.LayerNormalization(), SERIES),
    (lambda: L.GroupNormalization(2), IMAGE),
    (lambda: L.UnitNormalization(), SERIES),
    (lambda: L.Normalization(mean=[1.0, 2.0, 3.0, 4.0], variance=[1.0, 2.0, 3.0, 4.0]), IMAGE),
    (lambda: L.Normalization(axis=None, mean=1.0, variance=4.0, invert=True), IMAGE),
    (lambda: L.Rescaling(1 / 127.5, offset=-1.0), IMAGE),
    (lambda: L.Resizing(4, 12), IMAGE),
    (lambda: L.ReLU(max_value=6, negative_slope=0.1), IMAGE),
    (lambda: L.LeakyReLU(negative_slope=0.2), IMAGE),
    (lambda: L.PReLU(shared_axes=[1, 2]), IMAGE),
    (lambda: L.ELU(alpha=0.5), IMAGE),
    (lambda: L.Softmax(), IMAGE),
    (lambda: L.Activation("hard_swish"), IMAGE),
    (lambda: L.Activation("mish"), IMAGE),
    (lambda: L.Activation("celu"), IMAGE),
    (lambda: L.Activation("squareplus"), IMAGE),
    (lambda: L.Activation("tanh_shrink"), IMAGE),
    (lambda: L.Activation("soft_shrink"), IMAGE),
    (lambda: L.Activation("hard_shrink"), IMAGE),
    (lambda: L.Activation("hard_tanh"), IMAGE),
    (lambda: L.Activation("log_sigmoid"), IMAGE),
    (lambda: L.MaxPooling2D(3, 2, padding="same"), IMAGE),
    (lambda: L.AveragePooling2D(2), IMAGE),
    (lambda: L.AveragePooling1D(2, padding="same"), SERIES),
    (lambda: L.GlobalAveragePooling2D(keepdims=True), IMAGE),
    (lambda: L.GlobalMaxPooling1D(), SERIES),
    (lambda: L.ZeroPadding2D(((1, 0), (0, 2))), IMAGE),
    (lambda: L.Cropping2D(1), IMAGE),
    (lambda: L.UpSampling2D(2, interpolation="bilinear"), IMAGE),
    (lambda: L.UpSampling1D(2), SERIES),
    (lambda: L.Permute((2, 1)), SERIES),
    (lambda: L.Reshape((2, -1)), SERIES),
    (lambda: L.RepeatVector(3), VECTOR),
    (lambda: L.Flatten(), IMAGE),
    (lambda: L.Dropout(0.5), VECTOR),
    (lambda: L.SpatialDropout2D(0.5), IMAGE),
    (lambda: L.GaussianNoise(0.5), VECTOR),
    (lambda: L.LSTM(3, return_sequences=True), SERIES),
    (lambda: L.LSTM(3, recurrent_activation="hard_sigmoid"), SERIES),
    (lambda: L.GRU(3), SERIES),
    (lambda: L.GRU(3, reset_after=False, go_backwards=True), SERIES),
    (lambda: L.SimpleRNN(3), SERIES),
    (lambda: L.RNN([L.LSTMCell(3), L.GRUCell(2), L.LSTMCell(4)]), SERIES),
    (lambda: L.Bidirectional(L.GRU(3), merge_mode="sum"), SERIES),
    (lambda: L.TimeDistributed(L.Dense(3)), SERIES),
    (lambda: L.ConvLSTM1D(3, 2, return_sequences=True), (5, 8, 4)),
    (lambda: L.Masking(0.0), SERIES),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_layer_is_equal(layer, shape):
    found = to_functional(one_layer(layer(), shape))
    assert not recorded_operators(found)


OPERATIONS = [
    lambda x: 3 - x * 2.0 + 1,
    lambda x: x * np.ones((4,), "float32") / 2,
    lambda x: -x + ops.square(x),
    lambda x: x - ops.relu(x),
    lambda x: ops.maximum(x, 0.5) * ops.minimum(x, ops.tanh(x)),
    lambda x: ops.relu6(x),
    lambda x: ops.hard_sigmoid(x),
    lambda x: ops.hard_silu(x),
    lambda x: ops.silu(x),
    lambda x: ops.gelu(x),
    lambda x: ops.gelu(x, approximate=False),
    lambda x: ops.leaky_relu(x, 0.3),
    lambda x: ops.elu(x),
    lambda x: ops.softmax(x),
    lambda x: ops.softplus(ops.sigmoid(x)),
    lambda x: ops.log_softmax(x),
    lambda x: ops.clip(x, -0.5, 0.5),
    lambda x: ops.mean(x, axis=[1, 2]),
    lambda x: ops.max(x, axis=-1, keepdims=True),
    lambda x: ops.sum(x, axis=1),
    lambda x: ops.reshape(x, (-1, 32, 8)),
    lambda x: ops.transpose(x, (0, 3, 1, 2)),
    lambda x: ops.squeeze(ops.expand_dims(x, 1), 1),
    lambda x: ops.concatenate([x, x], axis=-1),
    lambda x: ops.stack([x, x], axis=1),
    lambda x: ops.split(x, 2, axis=-1)[1],
    lambda x: x[:, 1:, ::2],
    lambda x: x[..., -1],
    lambda x: ops.pad(x, [[0, 0], [1, 1], [0, 2], [0, 0]]),
    lambda x: ops.image.resize(x, (4, 4)),
    lambda x: ops.max_pool(x, 2),
    lambda x: ops.average_pool(x, 2, padding="same"),
    lambda x: ops.matmul(x, ops.swapaxes(x, 2, 3)),
]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation_becomes_layers(operation):
    x = keras.Input(IMAGE)
    found = to_functional(keras.Model(x, operation(x)))
    assert not recorded_operators(found)


def test_operation_without_a_layer_is_kept():
    x = keras.Input(IMAGE)
    found = to_functional(keras.Model(x, ops.sin(x) + ops.std(x, axis=1, keepdims=True)))
    assert recorded_operators(found)
