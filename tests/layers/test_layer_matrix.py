"""The layer matrix: every built-in layer is integer in the file, and the file answers as Keras."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import qat_round as qr
from tests.models import layer_matrix
from tests.models.probe import bypassed

RECURRENT = {
    "LSTM",
    "LSTM_sequences",
    "GRU",
    "SimpleRNN",
    "Bidirectional",
    "Masking",
}
LONG = {"LSTM_sequences", "Bidirectional", "Masking"}  # of which others stand for the most part
SHAPES = (layer_matrix.IMAGE, layer_matrix.SEQUENCE, layer_matrix.VECTOR)
ALONE = ("Embedding", "Masking", "Bidirectional", "TimeDistributed_conv")  # of shapes of their own


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in LONG else ()) for n in layer_matrix.ROWS],
)
def test_a_layer_is_integer_and_answers_as_keras_does(name):
    model, x = layer_matrix.ROWS[name]()
    expected = np.asarray(model(x, training=False))
    quantized = qr.quantize_model(model)
    assert np.abs(bypassed(quantized, x) - expected).max() <= 1e-5 * np.ptp(expected)
    qr.calibrate(quantized, x)
    parity = qr.verify_tflite(quantized, qr.export_tflite(quantized), x)
    assert parity.float_operators == {}
    assert parity.within_one >= 0.999
    assert parity.outputs[0].same >= (0.65 if name in RECURRENT else 0.75)  # steps add up
    error = np.asarray(quantized(x, training=False)) - expected
    assert np.sqrt(np.mean(error**2)) < 0.05 * expected.std()


def test_what_has_no_integer_operator_is_named():
    x = keras.Input(layer_matrix.VECTOR)
    model = keras.Model(x, keras.layers.Activation(tf.sin)(x))
    inputs = layer_matrix.data(layer_matrix.VECTOR)
    with pytest.raises(ValueError, match="TFLite has no integer operator"):
        qr.quantize_model(model)
    assert not qr.coverage(model).ok
    in_float = qr.quantize_model(model, unsupported="float")
    qr.calibrate(in_float, inputs)
    tflite = qr.export_tflite(in_float)
    assert qr.coverage(model).disagreements(tflite) == ()
    assert qr.verify_tflite(in_float, tflite, inputs, allow_float=True).float_operators


def together(shape):
    """All layers of the matrix that take one shape, in one model, and its inputs."""
    rows = {name: make() for name, make in layer_matrix.ROWS.items() if name not in RECURRENT}
    rows = {name: row for name, row in rows.items() if row[1].shape[1:] == shape}
    x = keras.Input(shape)
    outputs = [keras.layers.Flatten()(model(x)) for model, _ in rows.values()]
    return keras.Model(x, outputs), next(iter(rows.values()))[1]


@pytest.mark.parametrize("shape", SHAPES)
def test_all_train_save_and_load(shape, tmp_path):
    check_training_and_saving(*together(shape), tmp_path)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in LONG else ()) for n in ALONE]
)
def test_layers_of_other_shapes_train_save_and_load(name, tmp_path):
    check_training_and_saving(*layer_matrix.ROWS[name](), tmp_path)


def check_training_and_saving(float_model, x, tmp_path):
    model = qr.quantize_model(float_model)
    qr.calibrate(model, x)
    model.compile("sgd", "mse")
    targets = tf.nest.map_structure(lambda y: np.zeros(y.shape, np.float32), float_model(x))
    losses = [np.ravel(model.train_on_batch(x, targets))[0] for _ in range(2)]
    assert np.isfinite(losses).all()
    assert losses[1] < losses[0]
    before = model.predict(x, verbose=0)
    model.save(tmp_path / "q.keras")
    loaded = qr.load_model(tmp_path / "q.keras")
    after = loaded.predict(x, verbose=0)
    for ours, theirs in zip(tf.nest.flatten(before), tf.nest.flatten(after), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    qr.write_back(model, float_model)
    written = tf.nest.flatten(float_model(x)), tf.nest.flatten(loaded(x))
    for ours, theirs in zip(*written, strict=True):
        assert ours.shape == theirs.shape
