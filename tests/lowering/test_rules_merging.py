"""Layers that join three tensors and more, cosines, resizing: rewritten, or refused."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import qat_round as qr
from qat_round.frontend.build import build
from qat_round.frontend.to_functional import read_graph, rewritten
from qat_round.lowering.lower import lower

L = keras.layers


def lowered(model):
    return build(lower(rewritten(read_graph(model))))


def check_equal(model, x):
    np.testing.assert_allclose(lowered(model)(x), model(x), atol=1e-5)


@pytest.mark.parametrize("cls", [L.Add, L.Multiply, L.Average])
def test_more_than_two_are_joined_two_by_two(cls):
    x = keras.Input((6,))
    model = keras.Model(x, cls(name="all")([L.Dense(6)(x) for _ in range(5)]))
    pairs = [layer for layer in lowered(model).layers if isinstance(layer, (L.Add, L.Multiply))]
    assert [len(layer.input) for layer in pairs] == [2, 2, 2, 2]
    check_equal(model, np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32))


def test_shapes_are_broadcast_on_the_way():
    image = keras.Input((4, 5, 3))
    row, pixel = L.GlobalAveragePooling2D()(image), L.GlobalAveragePooling2D(keepdims=True)(image)
    sequence = L.Reshape((5, 3))(L.Cropping2D(((0, 3), (0, 0)))(image))
    model = keras.Model(image, L.Add()([row, pixel, sequence, image]))
    check_equal(model, np.random.default_rng(0).normal(size=(3, 4, 5, 3)).astype(np.float32))


def test_operators_of_many_tensors_are_joined_two_by_two():
    x = keras.Input((6,))
    model = keras.Model(x, tf.add_n([L.Dense(6)(x) for _ in range(3)]))
    assert sum(isinstance(layer, L.Add) for layer in lowered(model).layers) == 2


@pytest.mark.parametrize("axes", [1, 2, -1, (1, 2)])
def test_lengths_are_taken_out_of_a_cosine(axes):
    a, b = keras.Input((4, 4)), keras.Input((4, 4))
    model = keras.Model([a, b], L.Dot(axes=axes, normalize=True)([a, b]))
    assert not any(getattr(layer, "normalize", False) for layer in lowered(model).layers)
    check_equal(model, [*np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)])


@pytest.mark.parametrize("way", ["bicubic", "area", "lanczos3", "gaussian"])
@pytest.mark.parametrize("layer", ["UpSampling2D", "Resizing"])
def test_resizing_that_tflite_lacks_is_refused(layer, way):
    x = keras.Input((6, 6, 2))
    made = {"UpSampling2D": L.UpSampling2D, "Resizing": lambda **k: L.Resizing(9, 9, **k)}[layer]
    model = keras.Model(x, made(interpolation=way, name="larger")(x))
    with pytest.raises(ValueError, match=r'larger .*interpolation="nearest" and "bilinear" alone'):
        qr.quantize_model(model)


MAKERS = {
    "conv": lambda: L.Conv1D(5, 3, bias_initializer="uniform"),
    "depthwise": lambda: L.DepthwiseConv1D(3),
    "transposed": lambda: L.Conv1DTranspose(5, 3),
    "dense": lambda: L.Dense(5),
    "reshape": lambda: L.Reshape((6, 12)),
    "norm": L.BatchNormalization,
}


@pytest.mark.parametrize("cls", [L.Multiply, L.Add])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_a_tensor_behind_a_reshape_is_joined_with_itself(make, cls):
    keras.utils.set_random_seed(0)
    x = keras.Input((12, 6))
    y = make()(x)
    model = keras.Model(x, L.Dense(3)(L.Flatten()(cls()([y, y]))))
    data = np.random.default_rng(0).normal(size=(64, 12, 6)).astype(np.float32)
    quantized = qr.calibrate(qr.quantize_model(model), data)
    parity = qr.verify_tflite(quantized, qr.export_tflite(quantized), data)
    assert parity.float_operators == {}
    assert parity.max_steps <= 1.001


def test_equal_calls_of_a_layer_are_joined_as_one_tensor_is():
    keras.utils.set_random_seed(0)
    x, conv = keras.Input((12, 6)), L.Conv1D(5, 3)
    model = keras.Model(x, L.Multiply()([conv(x), conv(x)]))
    data = np.random.default_rng(0).normal(size=(64, 12, 6)).astype(np.float32)
    quantized = qr.calibrate(qr.quantize_model(model), data)
    assert qr.verify_tflite(quantized, qr.export_tflite(quantized), data).ok
