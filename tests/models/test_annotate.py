"""Annotations, ours and TFMOT's, and TFMOT code with one line changed."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow_model_optimization as tfmot
import tf_keras as keras

import qat_round as qr
from qat_round._compat import Default8BitQuantizeScheme, QuantizeAnnotate, quantizers
from qat_round.quantizers.quantized_tensors import quantized_tensors
from tests.models import nets
from tests.models.probe import quantizer_of, settings, tensors

layers = keras.layers
tfmot_keras = tfmot.quantization.keras


EIGHT_BIT = Default8BitQuantizeScheme()


# Annotations


def test_only_annotated_layers_are_quantized():
    model = keras.Sequential(
        [
            layers.Input((8,)),
            layers.Dense(6, "relu", name="plain"),
            qr.annotate_layer(layers.Dense(5, "relu", name="marked"), qr.LayerSpec("sine")),
            layers.Dense(3, name="plain_too"),
        ]
    )
    quantized = qr.quantize_apply(model, weight_bits=4)
    weights = {p: t.quantizer for p, t in tensors(quantized).items() if t.variable is not None}
    assert list(weights) == ["quant_marked/kernel"]
    assert (weights["quant_marked/kernel"].rounder.name, weights["quant_marked/kernel"].bits) == (
        "sine",
        4,
    )
    assert "plain_too: not annotated" in qr.summary(quantized)


def test_annotate_model_keeps_the_marks_that_are_there():
    marked = keras.Sequential(
        [
            layers.Input((8,)),
            qr.annotate_layer(layers.Dense(5, name="first"), qr.LayerSpec("ramp")),
            layers.Dense(3, name="second"),
        ]
    )
    model = qr.quantize_apply(qr.annotate_model(marked, qr.LayerSpec("sine")))
    assert quantizer_of(model, "quant_first/kernel").rounder.name == "ramp"
    assert quantizer_of(model, "quant_second/kernel").rounder.name == "sine"


def test_an_annotation_does_not_stop_batch_norm_folding(float_net):
    marked = qr.quantize_apply(qr.annotate_model(float_net, qr.LayerSpec("sine")))
    whole = qr.quantize_model(float_net, base_scheme=EIGHT_BIT)
    assert list(tensors(marked))[1:] == list(tensors(whole))[1:]


def test_our_annotations_and_tfmots_work_together():
    model = keras.Sequential(
        [
            layers.Input((8,)),
            tfmot_keras.quantize_annotate_layer(layers.Dense(6, "relu", name="theirs")),
            qr.annotate_layer(layers.Dense(3, name="ours"), qr.LayerSpec("ramp")),
        ]
    )
    with tfmot_keras.quantize_scope():
        quantized = qr.quantize_apply(model, weights="sine")
    assert quantizer_of(quantized, "quant_theirs/kernel").rounder.name == "sine"
    assert quantizer_of(quantized, "quant_ours/kernel").rounder.name == "ramp"


# TFMOT code, one line changed


@pytest.fixture
def tfmot_annotated():
    """A user's TFMOT code up to `quantize_apply`."""
    return tfmot_keras.quantize_annotate_model(nets.conv_net())


def test_a_stock_annotated_model_runs_with_one_line_changed(tfmot_annotated, pictures):
    before = tfmot_keras.quantize_apply(tfmot_annotated)
    after = qr.quantize_apply(tfmot_annotated, weights="sine")  # the one line
    assert settings(after) == settings(before)
    assert all(tensor.is_ours for tensor in quantized_tensors(after))
    assert np.all(np.isfinite(nets.steps(nets.ready(after), *pictures)))


def test_a_rounding_scheme_runs_in_tfmots_own_quantize_apply(tfmot_annotated, pictures):
    before = tfmot_keras.quantize_apply(tfmot_annotated)
    after = tfmot_keras.quantize_apply(tfmot_annotated, qr.RoundingScheme(rounder="sine"))
    assert settings(after) == settings(before)
    assert {t.quantizer.rounder.name for t in quantized_tensors(after)} == {"sine"}
    qr.calibrate(after, pictures[0][:32])
    assert np.all(np.isfinite(nets.steps(nets.ready(after), *pictures)))


def test_quantize_apply_takes_a_rounding_scheme(tfmot_annotated):
    model = qr.quantize_apply(tfmot_annotated, qr.RoundingScheme(rounder="sine", weight_bits=4))
    assert quantizer_of(model, "quant_classes/kernel").bits == 4


def test_a_rounding_scheme_beside_other_settings_is_refused(tfmot_annotated):
    with pytest.raises(TypeError, match="weight_bits"):
        qr.quantize_apply(tfmot_annotated, qr.RoundingScheme(), weight_bits=4)


class StockDenseConfig(tfmot_keras.QuantizeConfig):
    """A hand-written config, as in TFMOT's guide."""

    def weight_quantizer(self):
        return quantizers.LastValueQuantizer(8, per_axis=False, symmetric=True, narrow_range=True)

    def get_weights_and_quantizers(self, layer):
        return [(layer.kernel, self.weight_quantizer())]

    def get_activations_and_quantizers(self, layer):
        quantizer = quantizers.MovingAverageQuantizer(8, False, False, False)
        return [(layer.activation, quantizer)]

    def set_quantize_weights(self, layer, quantize_weights):
        layer.kernel = quantize_weights[0]

    def set_quantize_activations(self, layer, quantize_activations):
        layer.activation = quantize_activations[0]

    def get_output_quantizers(self, layer):
        return []

    def get_config(self):
        return {}


class OneLineDenseConfig(StockDenseConfig):
    """The same with one line changed."""

    def weight_quantizer(self):
        return qr.RoundingQuantizer(8, "sine", symmetric=True, narrow_range=True)  # the one line


def with_config(config):
    keras.utils.set_random_seed(0)
    annotate = tfmot_keras.quantize_annotate_layer
    return keras.Sequential(
        [
            layers.Input((8,)),
            annotate(layers.Dense(6, "relu", name="first"), config),
            annotate(layers.Dense(3, name="second")),
        ]
    )


def test_a_hand_written_config_runs_with_one_line_changed():
    inputs, labels = nets.vectors(), np.arange(64) % 3
    losses = {}
    for config in (StockDenseConfig, OneLineDenseConfig):
        with tfmot_keras.quantize_scope({config.__name__: config}):
            model = nets.ready(tfmot_keras.quantize_apply(with_config(config())))
        losses[config] = nets.steps(model, inputs, labels)
    assert quantizer_of(model, "quant_first/kernel").rounder == qr.SineRound()
    np.testing.assert_allclose(losses[OneLineDenseConfig], losses[StockDenseConfig], rtol=0.05)


def test_a_hand_written_config_runs_in_our_quantize_apply():
    with tfmot_keras.quantize_scope({"StockDenseConfig": StockDenseConfig}):
        model = qr.quantize_apply(with_config(StockDenseConfig()), weights="ramp")
    assert quantizer_of(model, "quant_first/kernel").rounder == qr.RampRound()
    assert quantizer_of(model, "quant_second/kernel").rounder == qr.RampRound()


def test_quantizers_of_ones_own_in_a_config_are_kept():
    with tfmot_keras.quantize_scope({"OneLineDenseConfig": OneLineDenseConfig}):
        model = qr.quantize_apply(with_config(OneLineDenseConfig()), weights="ramp")
    assert quantizer_of(model, "quant_first/kernel").rounder == qr.SineRound()
    assert quantizer_of(model, "quant_second/kernel").rounder == qr.RampRound()


def test_annotated_layers_are_tfmots_annotations():
    assert isinstance(qr.annotate_layer(layers.Dense(2)), QuantizeAnnotate)
