"""Weights of 2 to 8 bits in the layers whose grids the converter cannot read from the graph."""

from __future__ import annotations

import numpy as np
import pytest
import tf_keras as keras

import qat_round as qr
from qat_round.files.inspect import inspected
from qat_round.files.tflite_file import TFLiteFile

_L = keras.layers
LAYERS = {
    "Conv1D": lambda: _L.Conv1D(6, 3, padding="same", use_bias=False),
    "DepthwiseConv1D": lambda: _L.DepthwiseConv1D(3, depth_multiplier=2),
    "SeparableConv1D": lambda: _L.SeparableConv1D(6, 3),
    "Conv1DTranspose": lambda: _L.Conv1DTranspose(6, 3, strides=2),
    "Conv2DTranspose": lambda: _L.Conv2DTranspose(6, 3, strides=2, padding="same"),
    "Dense": lambda: _L.Dense(6),
}
SHAPES = {"Conv2DTranspose": (6, 6, 4), "Dense": (12,)}


def model_of(name):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input(SHAPES.get(name, (16, 4)))
    norm = _L.BatchNormalization(gamma_initializer=keras.initializers.RandomNormal(1.0, 0.5))
    return keras.Model(inputs, _L.ReLU()(norm(LAYERS[name]()(x))))


@pytest.mark.parametrize("bits", [2, 4, 6, 8])
@pytest.mark.parametrize("name", LAYERS)
def test_a_batch_norm_is_folded_and_the_file_is_the_model(name, bits):
    model = model_of(name)
    x = np.random.default_rng(0).normal(size=(32, *model.input_shape[1:])).astype(np.float32)
    q = qr.quantize_model(model, weight_bits=bits)
    qr.calibrate(q, x, "mse")  # 8 bits too: a range that is not that of the values
    tflite = qr.export_tflite(q, io="int8")
    assert TFLiteFile(tflite).float_operators() == {}
    assert qr.verify_tflite(q, tflite, x).outputs[0].same == 1.0


@pytest.mark.parametrize(("name", "stored"), [("Conv1D", "INT4"), ("Conv2DTranspose", "INT8")])
def test_few_bits_are_int4_where_a_kernel_takes_it(name, stored):
    model = model_of(name)
    q = qr.quantize_model(model, weight_bits=4)
    qr.calibrate(q, np.ones((4, *model.input_shape[1:]), np.float32))
    found = inspected(qr.export_tflite(q, io="int8"))
    assert found.float_operators == {}
    assert {t["type"] for t in found.tensors if np.size(t["scale"]) == 6} - {"INT32"} == {stored}
