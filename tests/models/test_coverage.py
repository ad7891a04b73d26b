"""What is said of a model before it is quantized, and layers of one's own."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import qat_round as qr
from qat_round.lowering import register_layer
from qat_round.quantizers.quantized_tensors import quantized_tensors
from tests.models import nets

layers = keras.layers


@keras.utils.register_keras_serializable(package="tests")
class Gain(layers.Layer):
    """One operator, one weight."""

    def build(self, input_shape):
        self.gain = self.add_weight(name="gain", shape=[input_shape[-1]], initializer="ones")

    def call(self, inputs):
        return inputs * self.gain


@pytest.fixture
def registered():
    """Forgets what a test registers."""
    before = dict(register_layer._SPECS)
    yield
    register_layer._SPECS.clear()
    register_layer._SPECS.update(before)


def gain_net():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [layers.Input((8,), name="row"), layers.Dense(6, name="first"), Gain(name="gain")]
    )


def outcomes(coverage):
    return {row.name: row.outcome for row in coverage.layers}


def test_every_layer_has_a_row_and_an_outcome():
    x = layers.Input((8, 8, 3))
    y = layers.Rescaling(1 / 255.0, name="scale")(x)
    y = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(layers.Conv2D(4, 3)(y)))
    y = layers.LayerNormalization(name="norm")(y)
    y = layers.Activation(tf.sin, name="wave")(layers.Flatten(name="flat")(y))
    found = qr.coverage(keras.Model(x, y))
    rows = outcomes(found)
    assert rows["bn"] == "folded"
    assert rows["relu"] == rows["flat"] == "integer"
    assert rows["norm"] == "rewritten"
    assert rows["wave"] == "float"
    assert not found.ok
    assert list(found.float_layers) == ["wave"]
    assert found.float_layers["wave"].endswith("no integer operator for the activation 'sin'")
    assert "wave" in found.table()


def test_multiply_accumulates_are_counted():
    x = layers.Input((8, 8, 3))
    y = layers.Conv2D(4, 3, name="conv")(x)
    y = layers.Dense(5, name="dense")(layers.Flatten()(y))
    macs = {row.name: row.macs for row in qr.coverage(keras.Model(x, y)).layers}
    assert macs["conv"] == 6 * 6 * 3 * 3 * 3 * 4
    assert macs["dense"] == 6 * 6 * 4 * 5
    found = qr.coverage(keras.Model(x, y), overrides={"dense": qr.FLOAT})
    assert found.integer_macs == pytest.approx(3888 / (3888 + 720))
    assert found.float_layers == {"dense": "asked for (qr.FLOAT)"}


def test_more_than_eight_bits_are_said():
    rows = outcomes(qr.coverage(nets.dense_net(), activation_bits=16))
    assert rows["last"] == "16-bit"


def test_the_file_does_as_was_said():
    model = nets.conv_net()
    quantized = qr.quantize_model(model)
    qr.calibrate(quantized, nets.pictures(32)[0])
    tflite = qr.export_tflite(quantized)
    assert qr.coverage(model).disagreements(tflite) == ()
    said = qr.coverage(model, overrides={"conv": qr.FLOAT})
    assert "CONV_2D of 'conv' is computed in integers" in said.disagreements(tflite)[0]


def test_a_layer_said_to_be_float_is_looked_for_beside_others_that_are():
    model = nets.dense_net()
    quantized = qr.quantize_model(model, overrides={"last": qr.FLOAT})
    tflite = qr.export_tflite(qr.calibrate(quantized, nets.vectors()))
    both = qr.coverage(model, overrides={"last": qr.FLOAT, "dense_a": qr.FLOAT})
    (line,) = both.disagreements(tflite)
    assert line == "FULLY_CONNECTED of 'dense_a' is computed in integers, but was said to be float"


def test_a_file_with_float_operators_disagrees_with_an_integer_coverage():
    model = nets.dense_net()
    quantized = qr.quantize_model(model, overrides={"dense_b": qr.FLOAT})
    qr.calibrate(quantized, nets.vectors())
    disagreements = qr.coverage(model).disagreements(qr.export_tflite(quantized))
    assert any("FULLY_CONNECTED" in line for line in disagreements)


def test_pieces_are_quantized_as_their_layer_is_asked_to_be():
    x = layers.Input((4, 6))
    model = keras.Model(x, layers.MultiHeadAttention(2, 3, name="heads")(x, x))
    overrides = {"heads": qr.LayerSpec(weights=qr.TensorSpec(bits=4, rounder="sine"))}
    found = quantized_tensors(qr.quantize_model(model, overrides=overrides))
    kernels = [tensor for tensor in found if tensor.variable is not None]
    assert len(kernels) == 4
    assert {(t.bits, t.quantizer.rounder.name) for t in kernels} == {(4, "sine")}


def test_a_layer_that_is_to_stay_in_float_is_not_taken_apart():
    x = layers.Input((4, 6))
    model = keras.Model(x, layers.MultiHeadAttention(2, 3, name="heads")(x, x))
    quantized = qr.quantize_model(model, overrides={"heads": qr.FLOAT})
    assert [layer.name for layer in quantized.layers][-1] == "quant_heads"


def test_a_custom_layer_is_named_until_it_is_registered(registered):
    with pytest.raises(ValueError, match=r"gain \(Gain\): a custom layer.*qr\.register_layer"):
        qr.quantize_model(gain_net())
    qr.register_layer(Gain, qr.LayerSpec(weights={"gain": qr.TensorSpec(bits=8)}, outputs="ste"))
    model, rows = qr.quantize_model(gain_net(), "sine"), nets.vectors(64)
    found = {t.path: t for t in quantized_tensors(model)}
    assert found["quant_gain/gain"].quantizer.rounder.name == "sine"
    assert found["quant_gain/output"].quantizer.rounder.name == "ste"
    qr.calibrate(model, rows)
    parity = qr.verify_tflite(model, qr.export_tflite(model), rows)
    assert parity.ok
    assert parity.float_operators == {}


def test_a_custom_layer_trains_saves_and_loads(registered, tmp_path):
    qr.register_layer(Gain, qr.LayerSpec(weights={"gain": "ste"}))
    model = qr.calibrate(qr.quantize_model(gain_net()), nets.vectors())
    model.compile("sgd", "mse")
    model.fit(nets.vectors(), np.zeros((64, 6)), verbose=0)
    model.save(tmp_path / "q.keras")
    loaded = qr.load_model(tmp_path / "q.keras")
    rows = nets.vectors()
    np.testing.assert_array_equal(loaded.predict(rows, verbose=0), model.predict(rows, verbose=0))


def test_a_subclass_that_computes_as_its_base_is_quantized_as_its_base():
    class Named(layers.Dense):
        pass

    model = keras.Sequential([layers.Input((8,)), Named(3, name="mine")])
    assert outcomes(qr.coverage(model)) == {"mine": "integer"}


@pytest.mark.parametrize(
    ("cls", "spec", "error", "message"),
    [
        (3, qr.LayerSpec(weights={"gain": "ste"}), TypeError, "no subclass of tf_keras"),
        (Gain, "sine", TypeError, r"no qr\.LayerSpec"),
        (layers.Dense, qr.LayerSpec(weights={"kernel": "ste"}), ValueError, "built in and known"),
        (Gain, qr.LayerSpec(weights="sine"), ValueError, "name the weights of Gain"),
    ],
)
def test_a_wrong_registration_is_refused(cls, spec, error, message):
    with pytest.raises(error, match=message):
        qr.register_layer(cls, spec)


def test_a_layer_spec_names_weights_and_survives_plain_data():
    spec = qr.LayerSpec(weights={"kernel": qr.TensorSpec(bits=4), "other": None}, outputs="sine")
    assert qr.LayerSpec.from_config(spec.get_config()) == spec
    assert spec.weight("kernel").bits == 4
    assert spec.weight("other") is None
    assert spec.outputs == spec.activations
    with pytest.raises(TypeError, match="one thing"):
        qr.LayerSpec(activations="ste", outputs="sine")
