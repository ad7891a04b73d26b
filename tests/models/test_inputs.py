"""Inputs as models have them, to a checked file: open sizes, fixed batches, those that stay."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import qat_round as qr
from qat_round.files.tflite_file import TFLiteFile
from qat_round.lowering import register_layer

L = keras.layers


def images(count=32, size=16, seed=0):
    rng = np.random.default_rng(seed)
    tints = rng.random((count, 1, 1, 3))
    return (rng.random((count, size, size, 3)) * tints).astype(np.float32)


def net(x):
    keras.utils.set_random_seed(0)
    y = L.ReLU()(L.BatchNormalization()(L.Conv2D(6, 3, strides=2, padding="same")(x)))
    y = L.MaxPooling2D(2)(L.DepthwiseConv2D(3, padding="same", activation="relu")(y))
    y = L.UpSampling2D(2)(L.Add()([y, L.Conv2D(6, 1)(y)]))
    return keras.Model(x, L.Dense(4)(L.GlobalAveragePooling2D()(y)))


def test_sizes_that_are_not_fixed_stay_open_in_the_file():
    model = qr.calibrate(qr.quantize_model(net(keras.Input((None, None, 3)))), images())
    tflite = qr.export_tflite(model)
    for size in (16, 24):
        parity = qr.verify_tflite(model, tflite, images(8, size, seed=1))
        assert parity.float_operators == {}
        assert parity.max_steps <= 1.001


def test_a_fixed_batch_stays_fixed_in_the_file():
    x = images()
    float_model = net(keras.Input(batch_shape=(8, 16, 16, 3)))
    model = qr.calibrate(qr.quantize_model(float_model), x, batch_size=8)
    model.compile("sgd", "mse")
    model.fit(x, np.zeros((32, 4)), batch_size=8, verbose=0)
    tflite = qr.export_tflite(model)
    file = TFLiteFile(tflite)
    assert file.tensors[file.inputs[0]].shape == (8, 16, 16, 3)
    parity = qr.verify_tflite(model, tflite, x, batch_size=8)
    assert parity.float_operators == {}
    assert parity.max_steps <= 1.001


def test_an_input_is_kept_in_float_by_its_name():
    keras.utils.set_random_seed(0)
    image, angle = keras.Input((16, 16, 3), name="image"), keras.Input((4,), name="angle")
    y = L.GlobalAveragePooling2D()(L.Conv2D(6, 3, activation="relu")(image))
    turned = L.Dense(6, name="turn")(angle)
    model = keras.Model([image, angle], L.Dense(3, name="last")(L.Multiply()([y, turned])))
    overrides = {"angle": qr.FLOAT, "turn": qr.FLOAT}
    quantized = qr.quantize_model(model, overrides=overrides)
    assert [layer.name for layer in quantized.layers if "quantize_" in layer.name] == [
        "quantize_image"
    ]
    data = [images(), np.random.default_rng(0).normal(0.0, 9.0, (32, 4)).astype(np.float32)]
    tflite = qr.export_tflite(qr.calibrate(quantized, data))
    parity = qr.verify_tflite(quantized, tflite, data, allow_float=True)
    assert parity.float_operators == {"FULLY_CONNECTED": 1, "LEAKY_RELU": 1}
    assert parity.max_steps <= 1.001
    assert qr.coverage(model, overrides=overrides).disagreements(tflite) == ()


def test_an_input_of_whole_numbers_is_kept_whole():
    keras.utils.set_random_seed(0)
    ids = keras.Input((5,), dtype="int32", name="ids")
    row = keras.Input((4,), name="row")
    y = L.Flatten()(L.Embedding(300, 4)(ids))
    model = keras.Model([ids, row], L.Dense(3)(L.Concatenate()([y, row])))
    rng = np.random.default_rng(0)
    data = [
        rng.integers(0, 300, (64, 5)).astype(np.int32),
        rng.normal(size=(64, 4)).astype(np.float32),
    ]
    quantized = qr.calibrate(qr.quantize_model(model), data)
    tflite = qr.export_tflite(quantized, io="int8")
    file = TFLiteFile(tflite)
    assert sorted(file.tensors[i].type for i in file.inputs) == ["INT32", "INT8"]
    parity = qr.verify_tflite(quantized, tflite, data)
    assert parity.float_operators == {}
    assert parity.max_steps <= 1.001


@keras.utils.register_keras_serializable(package="tests")
class Wave(L.Layer):
    """An operator that TFLite has in float alone."""

    def call(self, inputs):
        return tf.sin(inputs)


@pytest.fixture
def in_float():
    """`Wave` is registered to stay in float, for one test."""
    before = dict(register_layer._SPECS)
    yield qr.register_layer(Wave, qr.FLOAT)
    register_layer._SPECS.clear()
    register_layer._SPECS.update(before)


def test_a_custom_layer_stays_in_float_and_the_rest_becomes_integer(in_float):
    keras.utils.set_random_seed(0)
    x = keras.Input((8,), name="row")
    y = in_float(name="wave")(L.Dense(6, "relu", name="first")(x))
    model = keras.Model(x, L.Dense(3, name="last")(y))
    assert list(qr.coverage(model).float_layers) == ["wave"]
    data = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    quantized = qr.calibrate(qr.quantize_model(model), data)
    tflite = qr.export_tflite(quantized)
    parity = qr.verify_tflite(quantized, tflite, data, allow_float=True)
    assert parity.float_operators == {"SIN": 1, "LEAKY_RELU": 1}
    assert parity.max_steps <= 1.001
    assert qr.coverage(model).disagreements(tflite) == ()


@pytest.mark.parametrize("name", ["first", "middle", "added"])
def test_a_layer_asked_to_stay_in_float_leaves_those_behind_it_integer(name):
    keras.utils.set_random_seed(0)
    x = keras.Input((8,), name="row")
    y = L.Dense(6, "relu", name="first")(x)
    y = L.Add(name="added")([y, L.Dense(6, name="middle")(y)])
    model = keras.Model(x, L.Dense(3, name="last")(y))
    data = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    quantized = qr.calibrate(qr.quantize_model(model, overrides={name: qr.FLOAT}), data)
    assert f"quant_{name}: asked for" in qr.summary(quantized)
    tflite = qr.export_tflite(quantized)
    parity = qr.verify_tflite(quantized, tflite, data, allow_float=True)
    operator = "ADD" if name == "added" else "FULLY_CONNECTED"
    assert parity.float_operators == {operator: 1, "LEAKY_RELU": 1}
    assert parity.max_steps <= 1.001
    assert qr.coverage(model, overrides={name: qr.FLOAT}).disagreements(tflite) == ()


READ = """
import sys, numpy as np, qat_round as qr
model = qr.quantize_model(sys.argv[1])
assert "keras" not in sys.modules, "Keras 3 was imported"
np.save(sys.argv[2], qr.strip(model)(np.ones((2, 4), np.float32)))
"""


def test_a_file_of_another_backend_needs_neither_keras_3_nor_that_backend(tmp_path):
    keras3 = pytest.importorskip("keras", minversion="3.0")
    model = keras3.Sequential([keras3.Input((4,)), keras3.layers.Dense(3, activation="relu")])
    model.save(tmp_path / "net.keras")
    paths = [str(tmp_path / name) for name in ("net.keras", "answer.npy")]
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    environment["PYTHONPATH"] = str(pathlib.Path(qr.__file__).parents[1])
    subprocess.run([sys.executable, "-c", READ, *paths], check=True, env=environment, timeout=300)
    np.testing.assert_allclose(np.load(paths[1]), model(np.ones((2, 4))), atol=1e-6)
