"""The layer matrix: every built-in layer is integer in the file, and the file answers as Keras."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import qat_round as qr
from tests.models import layer_matrix
from tests.models.probe import bypassed

RECURRENT = {"LSTM", "LSTM_sequences", "GRU", "SimpleRNN", "Bidirectional", "Masking"}
LONG = {"LSTM_sequences", "Bidirectional", "Masking"}  # of which others stand for the most part
SHAPES = {
    "image": layer_matrix.IMAGE,
    "sequence": layer_matrix.SEQUENCE,
    "vector": layer_matrix.VECTOR,
}
TOGETHER = {  # layers that take one shape, and are converted in one model
    shape: [n for n in layer_matrix.ROWS if n not in RECURRENT and layer_matrix.SHAPE[n] == size]
    for shape, size in SHAPES.items()
}
SHARED = {name for names in TOGETHER.values() for name in names}
ALONE = ("Embedding", "Masking", "Bidirectional", "TimeDistributed_conv")  # of shapes of their own


class Together:
    """All layers of the matrix that take one shape, in one model: quantized and exported once.

    Their weights are made to differ: TFLite's converter merges layers of one input that have equal
    weights, and then leaves them in float.
    """

    def __init__(self, shape: str):
        rows = {name: layer_matrix.ROWS[name]() for name in TOGETHER[shape]}
        for number, (model, _) in enumerate(rows.values()):
            model.set_weights([w * (1.0 + 0.003 * number) for w in model.get_weights()])
        self.inputs = next(iter(rows.values()))[1]
        x = keras.Input(SHAPES[shape])
        outputs = [keras.layers.Flatten(name=name)(model(x)) for name, (model, _) in rows.items()]
        self.float_model = keras.Model(x, outputs)
        self.expected = self.outputs_of(self.float_model)
        self.quantized = qr.quantize_model(self.float_model)
        self.bypassed = dict(zip(rows, bypassed(self.quantized, self.inputs), strict=True))
        qr.calibrate(self.quantized, self.inputs)
        self.calibrated = self.outputs_of(self.quantized)
        tflite = qr.export_tflite(self.quantized)
        self.parity = qr.verify_tflite(self.quantized, tflite, self.inputs)

    def outputs_of(self, model):
        values = (np.asarray(y) for y in model(self.inputs, training=False))
        return dict(zip(self.names, values, strict=True))

    @property
    def names(self):
        return [name.removeprefix("quant_") for name in self.float_model.output_names]


@pytest.fixture(scope="module")
def together():
    return functools.cache(Together)


@pytest.mark.parametrize(
    ("shape", "name"), [(shape, name) for shape, names in TOGETHER.items() for name in names]
)
def test_a_layer_beside_others_is_integer_and_answers_as_keras_does(together, shape, name):
    found = together(shape)
    expected = found.expected[name]
    assert np.abs(found.bypassed[name] - expected).max() <= 1e-5 * np.ptp(expected)
    assert found.parity.float_operators == {}
    (output,) = [o for o in found.parity.outputs if o.name.removeprefix("quant_") == name]
    assert output.within_one >= 0.999
    assert output.same >= 0.75
    error = found.calibrated[name] - expected
    assert np.sqrt(np.mean(error**2)) < 0.05 * expected.std()


@pytest.mark.parametrize("shape", SHAPES)
def test_all_train_save_and_load(together, shape, tmp_path):
    """Last of those that share the models: it trains them."""
    found = together(shape)
    check_training_and_saving(found.quantized, found.float_model, found.inputs, tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow if n in LONG | SHARED else ())
        for n in layer_matrix.ROWS
    ],
)
def test_a_layer_alone_is_integer_and_answers_as_keras_does(name):
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


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in LONG else ()) for n in ALONE]
)
def test_layers_of_other_shapes_train_save_and_load(name, tmp_path):
    float_model, x = layer_matrix.ROWS[name]()
    model = qr.calibrate(qr.quantize_model(float_model), x)
    check_training_and_saving(model, float_model, x, tmp_path)


def check_training_and_saving(model, float_model, x, tmp_path):
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
