"""16-bit activations of layers that TFLite's converter lacks at 16 bits, or gives a fixed scale."""

from __future__ import annotations

import numpy as np
import pytest
import tf_keras as keras

import qat_round as qr
from qat_round.intake import read_graph, rewritten
from qat_round.intake.build import build
from qat_round.integer import lower
from qat_round.tflite_file import TFLiteFile

L = keras.layers
WIDE = qr.LayerSpec(activations=qr.TensorSpec(bits=16))
IMAGE, ROW, SERIES = (6, 6, 3), (8,), (5, 4)


def branches(x, count):
    """Tensors of one shape, each on another range."""
    for scale in (1.0, 3.0, 0.2)[:count]:
        layer = L.Conv2D(4, 3, padding="same") if len(x.shape) == 4 else L.Dense(6)
        x = layer(x)
        yield L.ReLU()(x) if scale == 3.0 else x


def joined(cls, count, **options):
    return lambda x: cls(**options)(list(branches(x, count)))


JOINED = {
    "concatenate": (joined(L.Concatenate, 2), IMAGE),
    "concatenate rows": (joined(L.Concatenate, 3), ROW),
    "concatenate along height": (joined(L.Concatenate, 3, axis=1), IMAGE),
    "concatenate steps": (joined(L.Concatenate, 2, axis=-2), SERIES),
    "concatenate with itself": (lambda x: L.Concatenate()([x, x, L.Dense(3)(x)]), ROW),
}


def net(name):
    make, shape = JOINED[name]
    keras.utils.set_random_seed(0)
    x = keras.Input(shape)
    model = keras.Model(x, L.Dense(5)(L.Flatten()(make(x))))
    for variable in model.weights:
        if "bias" in variable.name:
            variable.assign(np.linspace(-0.2, 0.3, variable.shape[0]))
    return model, np.random.default_rng(0).normal(size=(64, *shape)).astype(np.float32)


@pytest.mark.parametrize("name", JOINED)
def test_what_is_joined_otherwise_is_equal(name):
    model, x = net(name)
    graph = lower(rewritten(read_graph(model)), lambda part: WIDE)
    made = build(graph)
    assert not [layer for layer in made.layers if isinstance(layer, L.Concatenate)]
    np.testing.assert_allclose(made(x), model(x), atol=1e-6)


@pytest.mark.parametrize("name", JOINED)
def test_what_is_joined_is_whole_numbers_of_16_bits_in_the_file(name):
    model, x = net(name)
    assert qr.coverage(model, activation_bits=16).ok
    quantized = qr.calibrate(qr.quantize_model(model, activation_bits=16), x)
    tflite = qr.export_tflite(quantized, io="int16")
    assert TFLiteFile(tflite).float_operators() == {}
    for kernels in ("default", "reference"):
        parity = qr.verify_tflite(quantized, tflite, x, kernels=kernels)
        assert parity.max_steps <= 1.01
    exact = qr.verify_tflite(np.asarray(model(x)), tflite, x)
    assert exact.max_steps * exact.outputs[0].step < 0.03 * np.ptp(model(x))  # weights have 8 bits


REFUSED = {
    "sigmoid": lambda x: L.Dense(4, activation="sigmoid")(x),
    "tanh": lambda x: L.Activation("tanh")(x),
    "softmax": lambda x: L.Softmax()(x),
    "maximum": joined(L.Maximum, 2),
    "minimum": joined(L.Minimum, 2),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_converter_lacks_is_refused_with_the_reason(name):
    """Of a sigmoid, tanh or softmax it makes 8-bit outputs, and then fails by its own check."""
    x = keras.Input(ROW)
    model = keras.Model(x, REFUSED[name](x))
    assert not qr.coverage(model, activation_bits=16).ok
    with pytest.raises(ValueError, match="no 16-bit activations for this layer"):
        qr.quantize_model(model, activation_bits=16)
