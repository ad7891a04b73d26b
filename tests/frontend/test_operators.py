"""Bare operators become layers, with equal outputs."""

from __future__ import annotations

import re

import numpy as np
import pytest

from qat_round._compat import keras, tf
from qat_round.frontend.build import build
from qat_round.frontend.check_equal import parity
from qat_round.frontend.operators import operators_as_layers, recorded_operators
from qat_round.frontend.read import read
from qat_round.frontend.to_functional import to_functional
from qat_round.layers.ops import Affine, Clip, Reduce

L = keras.layers
IMAGE, SERIES, VECTOR = (8, 6, 4), (8, 4), (4,)
CHANNELS = np.array([0.5, -1.0, 2.0, 3.0], np.float32)


def _kinds(model):
    return [re.sub(r"_\d+$", "", name) for name in recorded_operators(model)]


def _hard_swish(x):
    return x * tf.nn.relu6(x + 3.0) * (1.0 / 6.0)


def _hard_swish_divided(x):
    return x * tf.nn.relu6(x + 3.0) / 6.0


def _hard_swish_of_gate(x):
    return L.Multiply()([x, L.ReLU(6.0)(x + 3.0) * (1.0 / 6.0)])


OPERATORS = [
    (lambda x: x + 1.5, IMAGE, ["Affine"]),
    (lambda x: 1.5 + x, IMAGE, ["Affine"]),
    (lambda x: x + CHANNELS, IMAGE, ["Affine"]),
    (lambda x: x + tf.constant(CHANNELS)[None, None], IMAGE, ["Affine"]),
    (lambda x: x - 1.5, IMAGE, ["Affine"]),
    (lambda x: 3 - x, IMAGE, ["Affine"]),
    (lambda x: x * CHANNELS, IMAGE, ["Affine"]),
    (lambda x: x / 127.5 - 1.0, IMAGE, ["Affine"]),
    (lambda x: -x, IMAGE, ["Affine"]),
    (lambda x: tf.nn.bias_add(x, CHANNELS), IMAGE, ["Affine"]),
    (lambda x: x + tf.Variable(CHANNELS), IMAGE, ["Affine"]),
    (lambda x: x + x, IMAGE, ["Add"]),
    (lambda x: tf.add_n([x, x, x]), IMAGE, ["Add"]),
    (lambda x: x - tf.nn.relu(x), IMAGE, ["ReLU", "Subtract"]),
    (lambda x: x * tf.nn.sigmoid(x), IMAGE, ["Activation", "Multiply"]),
    (lambda x: tf.maximum(x, tf.tanh(x)), IMAGE, ["Activation", "Maximum"]),
    (lambda x: tf.minimum(x, tf.tanh(x)), IMAGE, ["Activation", "Minimum"]),
    (lambda x: tf.maximum(x, 0.0), IMAGE, ["ReLU"]),
    (lambda x: tf.maximum(x, -1.0), IMAGE, ["Clip"]),
    (lambda x: tf.minimum(x, 1.0), IMAGE, ["Clip"]),
    (lambda x: tf.clip_by_value(x, 0.0, 1.0), IMAGE, ["ReLU"]),
    (lambda x: tf.clip_by_value(x, -1.0, 1.0), IMAGE, ["Clip"]),
    (lambda x: tf.square(x), IMAGE, ["Multiply"]),
    (lambda x: x**2, IMAGE, ["Multiply"]),
    (lambda x: tf.nn.relu(x), IMAGE, ["ReLU"]),
    (lambda x: tf.nn.relu6(x), IMAGE, ["ReLU"]),
    (lambda x: keras.activations.relu(x, alpha=0.1, max_value=2.0), IMAGE, None),
    (lambda x: tf.nn.leaky_relu(x), IMAGE, ["LeakyReLU"]),
    (lambda x: tf.nn.elu(x), IMAGE, ["ELU"]),
    (lambda x: tf.nn.selu(x), IMAGE, ["Activation"]),
    (lambda x: tf.nn.softmax(x), IMAGE, ["Softmax"]),
    (lambda x: tf.nn.softmax(x, axis=1), IMAGE, ["Softmax"]),
    (lambda x: tf.nn.log_softmax(x), IMAGE, ["Activation"]),
    (lambda x: tf.nn.silu(x), IMAGE, ["Activation"]),
    (lambda x: tf.nn.gelu(x), IMAGE, ["Activation"]),
    (lambda x: tf.nn.gelu(x, approximate=True), IMAGE, ["Activation"]),
    (lambda x: tf.nn.softplus(x), IMAGE, ["Activation"]),
    (lambda x: tf.exp(x), IMAGE, ["Activation"]),
    (lambda x: keras.activations.hard_sigmoid(x), IMAGE, None),
    (lambda x: tf.nn.relu6(x + 3.0) / 6.0, IMAGE, ["HardSigmoid"]),
    (lambda x: L.ReLU(6.0)(x + 3.0) * (1.0 / 6.0), IMAGE, ["HardSigmoid"]),
    (_hard_swish, IMAGE, ["HardSwish"]),
    (_hard_swish_divided, IMAGE, ["HardSwish"]),
    (_hard_swish_of_gate, IMAGE, ["HardSwish"]),
    (lambda x: tf.identity(x) + 1.0, IMAGE, ["Affine"]),
    (lambda x: tf.cast(x, tf.float32) + 1.0, IMAGE, ["Affine"]),
    (lambda x: tf.reshape(x, [-1, 24, 8]), IMAGE, ["Reshape"]),
    (lambda x: tf.reshape(x, [tf.shape(x)[0], -1, 8]), IMAGE, ["Reshape"]),
    (lambda x: tf.squeeze(x[:, :1], 1), IMAGE, ["Slice", "Reshape"]),
    (lambda x: tf.expand_dims(x, -1), SERIES, ["Reshape"]),
    (lambda x: tf.transpose(x, [0, 3, 1, 2]), IMAGE, ["Permute"]),
    (lambda x: tf.concat([x, x], -1), IMAGE, ["Concatenate"]),
    (lambda x: tf.concat([x, x], 1), IMAGE, ["Concatenate"]),
    (lambda x: tf.stack([x, x], 2), SERIES, ["Reshape", "Reshape", "Concatenate"]),
    (lambda x: tf.split(x, 2, -1)[1], IMAGE, ["Slice"]),
    (lambda x: tf.split(x, [1, 3], -1)[1], IMAGE, ["Slice"]),
    (lambda x: tf.unstack(x, axis=1)[2], SERIES, ["Slice"]),
    (lambda x: x[:, 1:, ::2], IMAGE, ["Slice"]),
    (lambda x: x[:, :, -1], IMAGE, ["Slice"]),
    (lambda x: x[..., 1:3], IMAGE, ["Slice"]),
    (lambda x: x[:, ::-1], SERIES, ["Slice"]),
    (lambda x: x[:] + 1.0, IMAGE, ["Affine"]),
    (lambda x: tf.pad(x, [[0, 0], [1, 2], [0, 1], [0, 0]]), IMAGE, ["ZeroPadding2D"]),
    (lambda x: tf.pad(x, [[0, 0], [2, 0], [0, 0]]), SERIES, ["ZeroPadding1D"]),
    (lambda x: tf.pad(x, [[0, 0], [0, 0], [1, 1]]), SERIES, ["Pad"]),
    (lambda x: tf.pad(x, [[0, 0], [1, 1], [0, 0]], "REFLECT"), SERIES, ["Pad"]),
    (lambda x: tf.reduce_mean(x, [1, 2]), IMAGE, ["GlobalAveragePooling2D"]),
    (lambda x: tf.reduce_mean(x, [1, 2], keepdims=True), IMAGE, ["GlobalAveragePooling2D"]),
    (lambda x: tf.reduce_mean(x, 1), SERIES, ["GlobalAveragePooling1D"]),
    (lambda x: tf.reduce_mean(x, -1), IMAGE, ["Reduce"]),
    (lambda x: tf.reduce_max(x, [1, 2]), IMAGE, ["GlobalMaxPooling2D"]),
    (lambda x: tf.reduce_sum(x, 1), SERIES, ["Reduce"]),
    (lambda x: tf.image.resize(x, [4, 12]), IMAGE, ["Resizing"]),
    (lambda x: tf.image.resize(x, [16, 12], "nearest"), IMAGE, ["Resizing"]),
    (lambda x: tf.nn.max_pool2d(x, 2, 2, "VALID"), IMAGE, ["MaxPooling2D"]),
    (
        lambda x: tf.nn.avg_pool2d(x, [1, 2, 2, 1], [1, 2, 2, 1], "SAME"),
        IMAGE,
        ["AveragePooling2D"],
    ),
    (lambda x: tf.nn.depth_to_space(x, 2), IMAGE, ["DepthToSpace"]),
    (lambda x: tf.matmul(x, x, transpose_b=True), SERIES, ["MatMul"]),
]


@pytest.mark.parametrize(("operator", "shape", "classes"), OPERATORS)
def test_operator_becomes_layers_with_equal_outputs(operator, shape, classes):
    x = keras.Input(shape)
    model = keras.Model(x, operator(x))
    found = to_functional(model)
    assert recorded_operators(found) == []
    if classes is not None:
        assert [type(layer).__name__ for layer in found.layers[1:]] == classes


@pytest.mark.parametrize(
    "operator",
    [
        lambda x: tf.math.sin(x),
        lambda x: 1.0 / (x * x + 1.0),
        lambda x: tf.tile(x, [1, 2, 1, 1]),
        lambda x: x + tf.reduce_mean(x, [0, 1, 2]),
        lambda x: tf.reshape(x, [-1, 4]),
        lambda x: tf.cast(x > 0, tf.float32),
        lambda x: tf.concat([x, tf.ones([2, 8, 6, 1])], -1),
    ],
)
def test_unknown_operator_is_kept_and_listed(operator):
    x = keras.Input(IMAGE, batch_size=2)
    found = to_functional(keras.Model(x, operator(x)))
    assert recorded_operators(found)


def test_batch_that_moves_is_not_taken_for_a_reshape():
    x = keras.Input(IMAGE)
    found = to_functional(keras.Model(x, tf.reshape(x, [-1, 4])))
    assert _kinds(found) == ["tf.reshape"]


def test_kept_operators_are_in_the_graph():
    x = keras.Input(IMAGE)
    graph = operators_as_layers(read(keras.Model(x, tf.math.sin(x) + 1.0)))
    assert len(graph.kept) == 1
    assert graph.kept[0].startswith("tf.math.sin")


def test_shape_of_unknown_length_is_reshaped_by_batch():
    x = keras.Input([None, 8])
    model = keras.Model(x, tf.reshape(x, [tf.shape(x)[0], tf.shape(x)[1], 2, 4]))
    assert parity(to_functional(model), model) == 0.0


def test_constants_that_enlarge_are_left_to_the_operator():
    x = keras.Input([1], batch_size=3)
    found = to_functional(keras.Model(x, x + np.zeros((3, 4), np.float32)))
    assert _kinds(found) == ["tf.__operators__.add"]


def test_integers_keep_their_operators():
    x = keras.Input([3], dtype="int32")
    model = keras.Model(x, L.Embedding(10, 2)(x + 1))
    found = to_functional(model)
    assert _kinds(found) == ["tf.__operators__.add"]


def test_a_value_that_others_read_is_not_merged_away():
    x = keras.Input(IMAGE)
    half = x * 0.5
    model = keras.Model(x, [half, half + 1.0])
    assert [type(layer).__name__ for layer in to_functional(model).layers[1:]] == [
        "Affine",
        "Affine",
    ]


def test_one_rewrite_alone_is_equal():
    x = keras.Input(IMAGE)
    model = keras.Model(x, tf.nn.relu6(x + 3.0) * tf.math.sin(x))
    assert parity(build(operators_as_layers(read(model))), model) == 0.0


def test_layers_survive_saving(tmp_path):
    x = keras.Input(IMAGE)
    y = _hard_swish(x * CHANNELS)
    y = tf.pad(tf.clip_by_value(y[:, 1:], -1.0, 1.0), [[0, 0], [0, 0], [0, 0], [1, 0]])
    y = tf.reduce_mean(tf.nn.gelu(tf.nn.relu6(y + 3.0) / 6.0, True), -1)
    found = to_functional(keras.Model(x, tf.matmul(y, y, transpose_b=True)))
    found.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert parity(again, found) == 0.0


def test_affine_refuses_nothing_and_infinity():
    with pytest.raises(ValueError, match="needs a scale, an offset, or both"):
        Affine()
    with pytest.raises(ValueError, match="scale must be finite"):
        Affine(scale=[1.0, float("inf")])


def test_layers_refuse_bad_arguments():
    with pytest.raises(ValueError, match="low must not be above its high"):
        Clip(2.0, 1.0)
    with pytest.raises(ValueError, match="kind must be one of"):
        Reduce("median", [1])
    with pytest.raises(ValueError, match="does not reduce the batch"):
        Reduce("mean", [0])
