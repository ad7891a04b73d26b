"""16-bit activations of layers that TFLite's converter lacks at 16 bits, or gives a fixed scale."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import qat_round as qr
from qat_round.files.interpreter import Runner
from qat_round.files.tflite_file import TFLiteFile
from qat_round.frontend.build import build
from qat_round.frontend.to_functional import read_graph, rewritten
from qat_round.lowering.lower import lower
from qat_round.numerics.int16_curves import curve_levels

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


CURVES = {
    "sigmoid": lambda x: L.Dense(4, activation="sigmoid")(x),
    "tanh": lambda x: L.Activation("tanh")(x),
    "silu": lambda x: L.Activation("swish")(L.Dense(4)(x)),
    "read twice": lambda x: L.Add()([L.Activation("tanh")(x), L.Activation("sigmoid")(x)]),
}


@pytest.mark.parametrize("name", CURVES)
def test_curves_of_16_bits_are_tflites_own(name):
    """The converter has none; they are put into its file."""
    x = keras.Input(ROW)
    model = keras.Model(x, CURVES[name](x))
    inputs = np.random.default_rng(0).normal(0, 2, size=(256, *ROW)).astype(np.float32)
    q = qr.calibrate(qr.quantize_model(model, activation_bits=16), inputs)
    tflite = qr.export_tflite(q, io="int16")
    file = TFLiteFile(tflite)
    names = {op.name for op in file.operators}
    assert file.float_operators() == {}
    assert names & {"LOGISTIC", "TANH"}
    assert not names & {"LEAKY_RELU", "EXP", "DIV"}
    for kernels in ("default", "builtin", "reference"):
        parity = qr.verify_tflite(q, tflite, inputs, kernels=kernels)
        assert parity.max_steps <= 1.01
        assert parity.outputs[0].same > 0.995
    steps = np.abs(np.asarray(q(inputs)) - np.asarray(model(inputs))).max()
    assert steps < 0.02 * np.ptp(model(inputs))


@pytest.mark.parametrize("kind", ["sigmoid", "tanh"])
@pytest.mark.parametrize("top", [0.02, 1.3, 9.3, 25.0, 300.0])
def test_every_integer_of_a_curve_is_the_kernels(kind, top):
    values = np.arange(-32767, 32768, dtype=np.float32)
    step = np.float32(top / 32767)
    ours = curve_levels(tf.constant(values), tf.constant(step), kind).numpy()
    x = keras.Input((1,))
    q = qr.quantize_model(keras.Model(x, L.Activation(kind)(x)), activation_bits=16)
    inputs = (values * step)[:, None]
    qr.calibrate(q, inputs)
    runner = Runner(TFLiteFile(qr.export_tflite(q, io="int16")))
    (name,) = runner.inputs
    theirs = np.round(runner({name: inputs})[0].ravel() * 2.0**15)
    np.testing.assert_array_equal(ours, theirs)


def test_what_stands_for_a_curve_answers_the_same_where_another_converts_it():
    """TFLiteConverter.from_keras_model, as TFMOT's users call it; some operators are in float."""
    x = keras.Input((2, 6))
    model = keras.Model(x, L.LSTM(5)(x))
    inputs = np.random.default_rng(0).normal(size=(32, 2, 6)).astype(np.float32)
    q = qr.calibrate(qr.quantize_model(model), inputs)
    converter = tf.lite.TFLiteConverter.from_keras_model(q)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    parity = qr.verify_tflite(q, converter.convert(), inputs, allow_float=True)
    assert parity.max_steps <= 1.01


REFUSED = {
    "softmax": lambda x: L.Softmax()(x),
    "maximum": joined(L.Maximum, 2),
    "minimum": joined(L.Minimum, 2),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_converter_lacks_is_refused_with_the_reason(name):
    """Of a softmax it makes 8-bit outputs, and then fails by its own check."""
    x = keras.Input(ROW)
    model = keras.Model(x, REFUSED[name](x))
    assert not qr.coverage(model, activation_bits=16).ok
    with pytest.raises(ValueError, match="no 16-bit activations for this layer"):
        qr.quantize_model(model, activation_bits=16)


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_curves_are_compared_with_their_kernels_table(name):
    x = keras.Input(ROW)
    model = keras.Model(x, CURVES[name](x))
    inputs = np.random.default_rng(0).normal(0, 2, size=(64, *ROW)).astype(np.float32)
    q = qr.calibrate(qr.quantize_model(model, activation_bits=16), inputs)
    found = qr.compare_layers(q, qr.export_tflite(q), inputs)
    assert found.own_max_steps <= 1.01
