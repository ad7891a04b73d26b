"""The layer matrix: every built-in layer is integer in the file, and the file answers as Keras."""

from __future__ import annotations

import layer_matrix
import numpy as np
import pytest
import tf_keras as keras

import qat_round as qr
from qat_round.observing import observing

IN_FLOAT = {"Activation_softplus", "Activation_mish"}  # post-training quantization leaves them too
RECURRENT = {
    "LSTM",
    "LSTM_sequences",
    "GRU",
    "SimpleRNN",
    "Bidirectional",
    "Masking",
}  # in test_recurrent
INTEGER = [name for name in layer_matrix.ROWS if name not in IN_FLOAT]


def bypassed(model, x):
    """The model's outputs with every quantizer taken out."""
    with observing(lambda quantizer, x, weights: quantizer.bypassed(x), bypass=True):
        return np.asarray(model(x, training=False))


@pytest.mark.parametrize("name", INTEGER)
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


@pytest.mark.parametrize("name", sorted(IN_FLOAT))
def test_what_has_no_integer_operator_is_named(name):
    model, x = layer_matrix.ROWS[name]()
    with pytest.raises(ValueError, match="TFLite has no integer operator"):
        qr.quantize_model(model)
    assert not qr.coverage(model).ok
    in_float = qr.quantize_model(model, unsupported="float")
    qr.calibrate(in_float, x)
    tflite = qr.export_tflite(in_float)
    assert qr.coverage(model).disagreements(tflite) == ()
    assert qr.verify_tflite(in_float, tflite, x, allow_float=True).float_operators


def together(shape):
    """All layers of the matrix that take one shape, in one model, and its inputs."""
    rows = {name: layer_matrix.ROWS[name]() for name in INTEGER if name not in RECURRENT}
    rows = {name: row for name, row in rows.items() if row[1].shape[1:] == shape}
    x = keras.Input(shape)
    outputs = [keras.layers.Flatten()(model(x)) for model, _ in rows.values()]
    return keras.Model(x, outputs), next(iter(rows.values()))[1]


@pytest.mark.parametrize("shape", [layer_matrix.IMAGE, layer_matrix.SEQUENCE, layer_matrix.VECTOR])
def test_all_train_save_and_load(shape, tmp_path):
    float_model, x = together(shape)
    model = qr.quantize_model(float_model)
    qr.calibrate(model, x)
    model.compile("sgd", "mse")
    targets = [np.zeros(y.shape, np.float32) for y in float_model(x)]
    losses = [model.train_on_batch(x, targets)[0] for _ in range(2)]
    assert np.isfinite(losses).all()
    assert losses[1] < losses[0]
    before = model.predict(x, verbose=0)
    model.save(tmp_path / "q.keras")
    loaded = qr.load_model(tmp_path / "q.keras")
    for ours, theirs in zip(before, loaded.predict(x, verbose=0), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    qr.write_back(model, float_model)
    for ours, theirs in zip(float_model(x), loaded(x), strict=True):
        assert ours.shape == theirs.shape
