"""Layer by layer: what agrees, what parts, and what is said to be the reason."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow_model_optimization as tfmot
import tf_keras as keras

import qat_round as qr
from qat_round._compat import QuantizeLayer
from qat_round.files.interpreter import Runner
from qat_round.files.tflite_file import TFLiteFile
from qat_round.verify.compare_layers import LayerParity
from qat_round.verify.float_operators import FloatOperators
from qat_round.verify.likely_causes import reason_for
from qat_round.verify.match_tensors import KerasTensor
from tests.models import nets

layers = keras.layers
IMAGES = nets.pictures(24)[0]
ROWS = nets.vectors()


def made(model, inputs, **settings):
    quantized = qr.quantize_model(model, **settings)
    qr.calibrate(quantized, inputs)
    return quantized, qr.export_tflite(quantized)


def copy_of(model):
    """The same model, to be spoiled."""
    copied = keras.models.clone_model(model)
    copied.set_weights(model.get_weights())
    return copied


@pytest.fixture(scope="module")
def conv():
    return made(nets.conv_net(), IMAGES)


@pytest.fixture(scope="module")
def agreement(conv):
    return qr.compare_layers(*conv, IMAGES, batch_size=10)


def rows_by_layer(comparison):
    return {row.layer: row for row in comparison.layers if row.same is not None}


# What agrees


def test_every_quantized_tensor_of_keras_is_found(agreement):
    rows = rows_by_layer(agreement)
    names = ["quantize_image", "quant_relu", "quant_act2", "quant_classes"]
    operators = ["QUANTIZE", "CONV_2D", "CONV_2D", "FULLY_CONNECTED"]
    assert list(rows) == names
    assert [rows[name].operator for name in names] == operators
    assert agreement.missing == ()
    assert agreement.samples == len(IMAGES)


def test_a_file_and_its_model_agree_in_every_layer(agreement):
    assert agreement.first_parting is None
    assert agreement.reason == "Every layer is within one step of Keras."
    for row in rows_by_layer(agreement).values():
        assert row.within_one == 1.0
        assert row.same > 0.99


def test_operators_are_within_one_step_of_their_own_inputs(agreement):
    assert all(row.own_max_steps is not None for row in agreement.layers)
    assert agreement.own_max_steps <= 1.001
    assert min(row.own_same for row in agreement.layers) > 0.99


def test_operators_of_many_kinds_are_computed_from_their_own_inputs():
    keras.utils.set_random_seed(0)
    x = keras.Input((12, 12, 1), name="image")
    y = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    y = layers.DepthwiseConv2D(3, strides=2, dilation_rate=1, padding="same")(y)
    pooled = layers.AveragePooling2D(2, 1, padding="same", name="average")(y)
    y = layers.Add()([layers.Concatenate()([y, pooled]), layers.Conv2D(8, 1)(y)])
    y = layers.Conv2DTranspose(4, 3, strides=2, padding="same")(y)
    y = layers.MaxPooling2D(2)(layers.ZeroPadding2D(1)(layers.UpSampling2D(2)(y)))
    y = layers.Dense(5)(layers.GlobalAveragePooling2D()(layers.Multiply()([y, y])))
    eight = qr.LayerSpec(weights=qr.TensorSpec(bits=8))  # TFLite has no narrower transposed one
    model = keras.Model(x, layers.Softmax()(y))
    model, tflite = made(model, IMAGES, weight_bits=4, overrides={layers.Conv2DTranspose: eight})
    assert "INT4" in TFLiteFile(tflite).tensor_types()
    comparison = qr.compare_layers(model, tflite, IMAGES)
    assert all(row.own_max_steps is not None for row in comparison.layers)
    assert comparison.own_max_steps <= 1.001
    kinds = {row.operator for row in comparison.layers}
    assert {"CONCATENATION", "TRANSPOSE_CONV", "MUL", "PAD", "SOFTMAX"} <= kinds
    average = rows_by_layer(comparison)["quant_average"]
    assert average.own_same < 0.99, "the kernel's halves go away from zero"


def test_stock_models_are_compared_where_their_layers_give_what_is_quantized():
    model = tfmot.quantization.keras.quantize_model(nets.dense_net())
    nets.steps(nets.ready(model), ROWS, np.arange(64) % 3, count=1)
    comparison = qr.compare_layers(model, qr.export_tflite(model), ROWS)
    assert "quant_dense_a" in rows_by_layer(comparison)
    assert comparison.missing == ()
    assert comparison.own_max_steps <= 1.001


# What parts


def test_another_bias_is_found_as_a_matter_of_constants(conv):
    model, tflite = copy_of(conv[0]), conv[1]
    norm = model.get_layer("quant_bn2").layer
    norm.beta.assign(norm.beta + 0.5)
    comparison = qr.compare_layers(model, tflite, IMAGES)
    assert comparison.first_parting.layer == "quant_act2"
    assert comparison.reason.startswith("fold: CONV_2D with the file's constants")
    assert rows_by_layer(comparison)["quant_relu"].same > 0.99
    assert comparison.own_max_steps <= 1.001


def test_another_range_is_found_as_such(conv):
    model, tflite = copy_of(conv[0]), conv[1]
    high = next(w for w in model.get_layer("quant_relu").weights if "output_max" in w.name)
    high.assign(high * 0.7)
    comparison = qr.compare_layers(model, tflite, IMAGES)
    assert comparison.first_parting.layer == "quant_relu"
    assert comparison.reason.startswith("range: the file's scale is 0.0")
    assert f"Keras has {float(high) / 255.0:.6g}" in comparison.reason


def test_another_fused_activation_is_found_as_such():
    keras.utils.set_random_seed(0)
    x = keras.Input((8,), name="row")
    model = keras.Model(x, layers.Dense(3)(layers.Dense(6, "relu", name="hidden")(x)))
    both_signs = qr.TensorSpec(symmetric=True)
    model, tflite = made(model, ROWS, activations=both_signs)
    assert qr.compare_layers(model, tflite, ROWS).first_parting is None
    spoiled = copy_of(model)
    spoiled.get_layer("quant_hidden").layer.activation = keras.activations.linear
    comparison = qr.compare_layers(spoiled, tflite, ROWS)
    assert comparison.first_parting.layer == "quant_hidden"
    assert comparison.reason.startswith("fused activation: FULLY_CONNECTED has RELU in it")


@pytest.mark.parametrize("ours", [True, False])
def test_inputs_halfway_between_two_steps(ours):
    """Ours round them as the file does; TFMOT's layer does not, and is named as the reason."""
    keras.utils.set_random_seed(0)
    x = keras.Input((8,), name="row")
    ends = np.where(ROWS < 0.5, -0.9, 0.9).astype(np.float32)  # -a is 127.5 steps below 0
    model = qr.quantize_model(keras.Model(x, layers.Dense(3)(layers.Dense(64)(x))))
    model.get_layer("quantize_row").quantizer.off_ties = False
    if not ours:
        model.get_layer("quantize_row").__class__ = QuantizeLayer
    tflite = qr.export_tflite(qr.calibrate(model, ends))
    comparison = qr.compare_layers(model, tflite, ends)
    assert (comparison.layers[0].same == 1.0) is ours
    if ours:
        assert comparison.first_parting is None
        return
    assert comparison.layers[0].same < 0.5
    assert comparison.first_parting is not None
    assert comparison.reason.startswith("rounding: the input quantize_row itself")


def test_a_kernel_that_rounds_otherwise_is_named(conv):
    file = TFLiteFile(conv[1])
    at = file.quantized_source(file.outputs[0])
    info, nothing = file.tensors[at], (None, None, None)
    scale, zero_point = float(info.scales[0]), int(info.zero_points[0])
    row = LayerParity("last", "SOFTMAX", at, scale, *nothing, 0.5, 0.9, 3.0)
    tensor = KerasTensor("last", frozenset(), scale, zero_point)
    operators, runner = FloatOperators(file), Runner(file, keep_all=True)
    reason = reason_for(row, [row], tensor, {}, file, operators, runner)
    assert reason.startswith("unsupported rounding: SOFTMAX of last, fed with its own inputs, is 3")


def test_values_that_are_no_numbers_part(conv):
    model, tflite = copy_of(conv[0]), conv[1]
    bias = model.get_layer("quant_classes").layer.bias
    bias.assign(bias * np.nan)
    assert qr.compare_layers(model, tflite, IMAGES).first_parting.layer == "quant_classes"


# The report


def test_a_comparison_becomes_a_table_and_plain_data(agreement):
    text = agreement.table()
    assert "quant_act2" in text
    assert text.rstrip().endswith("Every layer is within one step of Keras.")
    data = json.loads(json.dumps(agreement.to_dict()))
    assert data["first_parting"] is None
    assert data["layers"][0]["layer"] == "quantize_image"


# Bad input


def test_a_float_model_is_refused(conv):
    with pytest.raises(ValueError, match="compare_layers: the model is not quantized"):
        qr.compare_layers(nets.conv_net(), conv[1], IMAGES)


def test_inputs_that_do_not_fit_are_refused(conv):
    with pytest.raises(ValueError, match="compare_layers: data of shape .* does not fit"):
        qr.compare_layers(*conv, IMAGES[:, :5])
    with pytest.raises(ValueError, match="compare_layers: the data holds NaN"):
        qr.compare_layers(*conv, IMAGES * np.nan)
    with pytest.raises(ValueError, match="compare_layers: the data is empty"):
        qr.compare_layers(*conv, IMAGES[:0])


def test_damaged_and_missing_files_are_refused(conv, tmp_path):
    with pytest.raises(ValueError, match=r"This is no \.tflite"):
        qr.compare_layers(conv[0], b"something else", IMAGES)
    with pytest.raises(FileNotFoundError):
        qr.compare_layers(conv[0], tmp_path / "none.tflite", IMAGES)


def test_the_file_of_another_model_is_refused(conv):
    model = qr.quantize_model(nets.twin_net())
    with pytest.raises(ValueError, match="compare_layers: the model has the outputs"):
        qr.compare_layers(model, conv[1], IMAGES)
