"""Folding and splitting leave the outputs equal, and are done only where they can."""

from __future__ import annotations

import numpy as np
import pytest

from qat_round._compat import keras, tf
from qat_round.frontend.check_equal import parity
from qat_round.frontend.to_functional import (
    conv1d_as_conv2d,
    fold_batch_norm,
    fold_preprocessing,
    split_separable,
    to_functional,
)

L = keras.layers
IMAGE, SERIES, VECTOR = (8, 8, 4), (9, 4), (4,)


def _randomized(model, seed=0):
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.dtype.is_floating:
            weight.assign(rng.uniform(0.2, 1.2, weight.shape))
    return model


def _chain(shape, *layers):
    return _randomized(keras.Sequential([keras.Input(shape), *layers]))


def _classes(model):
    return [type(layer).__name__ for layer in model.layers[1:]]


HOSTS = [
    (L.Conv1D(5, 3, padding="causal"), SERIES),
    (L.Conv2D(6, 3, groups=2), IMAGE),
    (L.Conv2D(6, 3, use_bias=False), IMAGE),
    (L.Conv1DTranspose(5, 3), SERIES),
    (L.Conv2DTranspose(5, 3, strides=2, padding="same"), IMAGE),
    (L.DepthwiseConv1D(3, depth_multiplier=2), SERIES),
    (L.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False), IMAGE),
    (L.SeparableConv1D(5, 3), SERIES),
    (L.SeparableConv2D(5, 3, use_bias=False), IMAGE),
    (L.Dense(5), VECTOR),
]


@pytest.mark.parametrize(("host", "shape"), HOSTS)
@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False}])
def test_batch_norm_is_folded_into_the_layer_in_front(host, shape, options):
    host = type(host).from_config(host.get_config())
    model = _chain(shape, host, L.BatchNormalization(**options), L.ReLU())
    found = fold_batch_norm(model)
    assert _classes(found) == [type(host).__name__, "ReLU"]
    assert parity(found, model) < 1e-5


def test_batch_norm_without_a_host_becomes_an_affine():
    model = _chain(IMAGE, L.BatchNormalization(name="bn"), L.Conv2D(3, 3, activation="relu"))
    found = fold_batch_norm(model)
    assert _classes(found) == ["Affine", "Conv2D"]
    assert found.get_layer("bn").trainable
    assert parity(found, model) < 1e-5


@pytest.mark.parametrize("between", [L.ReLU, lambda: L.Activation("tanh"), L.MaxPooling2D])
def test_batch_norm_behind_something_else_becomes_an_affine(between):
    model = _chain(IMAGE, L.Conv2D(3, 3), between(), L.BatchNormalization())
    found = fold_batch_norm(model)
    assert _classes(found)[-1] == "Affine"
    assert parity(found, model) < 1e-5


def test_layer_that_others_read_is_not_folded_into():
    x = keras.Input(IMAGE)
    y = L.Conv2D(3, 3)(x)
    model = _randomized(keras.Model(x, L.Add()([y, L.BatchNormalization()(y)])))
    found = fold_batch_norm(model)
    assert _classes(found) == ["Conv2D", "Affine", "Add"]
    assert parity(found, model) < 1e-5


def test_shared_layers_are_not_folded():
    conv, norm, other = L.Conv2D(3, 3), L.BatchNormalization(), L.BatchNormalization()
    a, b = keras.Input(IMAGE), keras.Input(IMAGE)
    model = _randomized(keras.Model([a, b], L.Add()([norm(conv(a)), other(conv(b))])))
    found = _classes(fold_batch_norm(model))
    assert sorted(found) == ["Add", "Affine", "Affine", "Conv2D", "InputLayer"]
    norm = L.BatchNormalization()
    shared = _randomized(keras.Model([a, b], L.Add()([norm(a), norm(b)])))
    assert "BatchNormalization" in _classes(fold_batch_norm(shared))


def test_batch_norm_of_another_axis_stays():
    model = _chain(SERIES, L.Conv1D(4, 1), L.BatchNormalization(axis=1))
    assert _classes(fold_batch_norm(model)) == ["Conv1D", "BatchNormalization"]


def test_folding_is_off_by_default_and_an_argument():
    model = _chain(IMAGE, L.Conv2D(3, 3), L.BatchNormalization())
    assert _classes(to_functional(model)) == ["Conv2D", "BatchNormalization"]
    assert _classes(to_functional(model, fold_batch_norm=True)) == ["Conv2D"]


FIRST = [
    (L.Conv2D(3, 3), IMAGE),
    (L.Conv2D(3, 3, use_bias=False), IMAGE),
    (L.Conv1D(3, 3), SERIES),
    (L.DepthwiseConv2D(3, depth_multiplier=2), IMAGE),
    (L.Dense(3), VECTOR),
]


@pytest.mark.parametrize(("first", "shape"), FIRST)
@pytest.mark.parametrize("offset", [0.0, -1.0, [1.0, 2.0, 3.0, 4.0]])
def test_preprocessing_is_folded_into_the_first_layer(first, shape, offset):
    first = type(first).from_config(first.get_config())
    model = _chain(shape, L.Rescaling([0.1, 0.2, 0.3, 0.4], offset=offset), first)
    found = fold_preprocessing(model)
    assert _classes(found) == [type(first).__name__]
    assert parity(found, model) < 1e-5


def test_padded_zero_keeps_an_offset_in_front():
    padded = L.Conv2D(3, 3, padding="same")
    model = _chain(IMAGE, L.Rescaling(0.1, offset=1.0), padded)
    assert _classes(fold_preprocessing(model)) == ["Affine", "Conv2D"]
    model = _chain(IMAGE, L.Rescaling(0.1), L.Conv2D(3, 3, padding="same"))
    found = fold_preprocessing(model)
    assert _classes(found) == ["Conv2D"]
    assert parity(found, model) < 1e-5


def test_integer_input_keeps_its_preprocessing():
    x = keras.Input(IMAGE, dtype="uint8")
    model = keras.Model(x, L.Conv2D(3, 3)(L.Rescaling(1 / 255)(x)))
    found = fold_preprocessing(model)
    assert _classes(found) == ["Affine", "Conv2D"]
    assert parity(found, model) < 1e-5


def test_preprocessing_is_one_affine():
    norm = L.Normalization(mean=[1.0, 2.0, 3.0, 4.0], variance=[1.0, 4.0, 9.0, 16.0])
    model = _chain(IMAGE, L.Rescaling(1 / 127.5, offset=-1.0), norm, L.Conv2D(2, 3, padding="same"))
    found = to_functional(model)
    assert _classes(found) == ["Affine", "Conv2D"]
    again = to_functional(model, fold_preprocessing=True)
    assert _classes(again) == ["Affine", "Conv2D"]


@pytest.mark.parametrize("axis", [-1, 1, None, (1, 2)])
def test_adapted_normalization_of_any_axis(axis):
    norm = L.Normalization(axis=axis)
    norm.adapt(np.random.default_rng(0).normal(2.0, 3.0, (64, 9, 4)).astype(np.float32))
    model = keras.Sequential([keras.Input(SERIES), norm, L.Dense(2)])
    assert _classes(to_functional(model)) == ["Affine", "Dense"]


SEPARABLE = [
    (L.SeparableConv1D(5, 3, name="sep"), SERIES),
    (L.SeparableConv1D(5, 3, padding="causal", dilation_rate=2, name="sep"), SERIES),
    (L.SeparableConv1D(5, 3, strides=2, padding="same", name="sep"), SERIES),
    (L.SeparableConv2D(5, 3, activation="relu", name="sep"), IMAGE),
    (L.SeparableConv2D(5, 3, depth_multiplier=2, use_bias=False, name="sep"), IMAGE),
]


@pytest.mark.parametrize(("layer", "shape"), SEPARABLE)
def test_separable_convolution_is_split(layer, shape):
    model = _chain(shape, type(layer).from_config(layer.get_config()))
    found = split_separable(model)
    assert [x.name for x in found.layers][-2:] == ["sep_depthwise", "sep_pointwise"]
    assert parity(found, model) < 1e-5


def test_split_names_do_not_collide():
    model = _chain(IMAGE, L.Conv2D(4, 1, name="sep_depthwise"), L.SeparableConv2D(4, 3, name="sep"))
    names = [x.name for x in split_separable(model).layers][1:]
    assert names == ["sep_depthwise", "sep_depthwise_1", "sep_pointwise"]


def test_shared_separable_stays_shared():
    layer = L.SeparableConv2D(4, 3, padding="same")
    x = keras.Input(IMAGE)
    model = _randomized(keras.Model(x, layer(layer(x))))
    found = split_separable(model)
    assert len(found.layers) == 3
    assert parity(found, model) < 1e-5


ONE_D = [
    L.Conv1D(5, 3, strides=2, name="conv"),
    L.Conv1D(5, 3, padding="same", dilation_rate=2, activation="relu", name="conv"),
    L.Conv1D(6, 3, padding="causal", groups=2, name="conv"),
    L.DepthwiseConv1D(3, strides=2, depth_multiplier=2, name="conv"),
    L.DepthwiseConv1D(3, padding="same", name="conv"),
    L.SeparableConv1D(5, 3, strides=2, name="conv"),
    L.SeparableConv1D(5, 3, padding="causal", use_bias=False, name="conv"),
    L.Conv1DTranspose(5, 3, strides=2, name="conv"),
    L.MaxPooling1D(2, name="conv"),
    L.AveragePooling1D(3, 2, padding="same", name="conv"),
]


@pytest.mark.parametrize("layer", ONE_D)
@pytest.mark.parametrize("length", [9, None])
def test_one_dimension_as_two(layer, length):
    model = _chain((length, 4), type(layer).from_config(layer.get_config()))
    found = conv1d_as_conv2d(model)
    assert "2D" in type(found.get_layer("conv")).__name__
    assert parity(found, model) < 1e-5
    assert found.output_shape == model.output_shape


def test_shared_one_dimension_stays_shared():
    layer = L.Conv1D(4, 3, padding="same", name="conv")
    x = keras.Input(SERIES)
    model = _randomized(keras.Model(x, layer(layer(x))))
    found = conv1d_as_conv2d(model)
    assert [type(x).__name__ for x in found.layers].count("Conv2D") == 1
    assert parity(found, model) < 1e-5


def test_rewrites_chain():
    model = _chain(SERIES, L.SeparableConv1D(5, 3), L.BatchNormalization(), L.ReLU())
    found = conv1d_as_conv2d(split_separable(fold_batch_norm(model)))
    assert parity(found, model) < 1e-5
    assert tf.nest.flatten(found.output_shape) == tf.nest.flatten(model.output_shape)
