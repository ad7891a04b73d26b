"""Models that stock TFMOT quantized and trained."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow_model_optimization as tfmot
import tf_keras as keras

import qat_round as qr
from qat_round._compat import DefaultNBitQuantizeScheme
from qat_round.quantizers.quantized_tensors import quantized_tensors
from tests.models import nets

tfmot_keras = tfmot.quantization.keras


@pytest.fixture(scope="module")
def stock():
    images, labels = nets.pictures(128)
    model = nets.ready(tfmot_keras.quantize_model(nets.conv_net()))
    model.fit(images, labels, epochs=1, verbose=0)
    return model


def test_predictions_are_what_they_were_and_training_goes_on(stock, tmp_path):
    images, labels = nets.pictures(128)
    adopted = qr.adopt(stock, rounder="sine")
    given = nets.predicted(stock, images)
    np.testing.assert_array_equal(nets.predicted(adopted, images), given)
    assert {t.quantizer.rounder.name for t in quantized_tensors(adopted)} == {"sine"}
    losses = nets.steps(nets.ready(adopted), images, labels, 4)
    assert losses[-1] < losses[0]
    np.testing.assert_array_equal(nets.predicted(stock, images), given)
    adopted.save(tmp_path / "a.keras")
    loaded = qr.load_model(tmp_path / "a.keras")
    np.testing.assert_array_equal(nets.predicted(loaded, images), nets.predicted(adopted, images))


def test_it_is_exported_with_the_ranges_it_has(stock):
    images, _ = nets.pictures(64)
    adopted = qr.adopt(stock)
    parity = qr.verify_tflite(adopted, qr.export_tflite(adopted), images)
    assert parity.float_operators == {}
    assert parity.within_one >= 0.99


def test_n_bit_models_keep_their_bits_and_overrides_name_layers():
    annotated = tfmot_keras.quantize_annotate_model(nets.dense_net())
    with tfmot_keras.quantize_scope():
        model = tfmot_keras.quantize_apply(
            annotated, DefaultNBitQuantizeScheme(num_bits_weight=4, num_bits_activation=6)
        )
    adopted = qr.adopt(model, overrides={"last": qr.LayerSpec(weights="ramp")})
    found = {t.path: t for t in quantized_tensors(adopted)}
    assert found["quant_dense_a/kernel"].bits == 4
    assert found["quant_last/kernel"].quantizer.rounder.name == "ramp"
    rows = nets.vectors()
    np.testing.assert_array_equal(nets.predicted(adopted, rows), nets.predicted(model, rows))


def test_what_is_not_a_stock_quantized_model_is_refused(stock):
    with pytest.raises(ValueError, match="not quantized"):
        qr.adopt(nets.dense_net())
    with pytest.raises(ValueError, match="quantizers of qat_round already"):
        qr.adopt(qr.adopt(stock))
    with pytest.raises(ValueError, match="matches no layer"):
        qr.adopt(stock, overrides={"nowhere": qr.FLOAT})


def test_a_float_layer_of_a_stock_model_stays():
    model = keras.Sequential(
        [
            keras.layers.Input((8,)),
            tfmot_keras.quantize_annotate_layer(keras.layers.Dense(6, name="theirs")),
            keras.layers.Dense(3, name="plain"),
        ]
    )
    stock = tfmot_keras.quantize_apply(model)
    adopted, rows = qr.adopt(stock), nets.vectors()
    np.testing.assert_array_equal(nets.predicted(adopted, rows), nets.predicted(stock, rows))
