"""What TFMOT documents holds with our scheme."""

from __future__ import annotations

import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras as keras

import qat_round as qr
from qat_round.quantizers.quantized_tensors import quantized_tensors
from tests.models import nets

tq = tfmot.quantization.keras


# What TFMOT documents, with our scheme.


def test_tfmots_own_functions_take_our_scheme():
    """quantize_annotate_model, quantize_annotate_layer, quantize_apply(model, scheme)."""
    annotated = tq.quantize_annotate_model(nets.dense_net())
    with tq.quantize_scope():
        model = tq.quantize_apply(annotated, qr.RoundingScheme(rounder="sine"))
    assert {t.quantizer.rounder.name for t in quantized_tensors(model)} == {"sine"}


def test_only_annotated_layers_are_quantized():
    def mark(layer):
        return tq.quantize_annotate_layer(layer) if layer.name == "last" else layer

    annotated = keras.models.clone_model(nets.dense_net(), clone_function=mark)
    model = tq.quantize_apply(annotated, qr.RoundingScheme())
    kernels = [t.layer.name for t in quantized_tensors(model) if t.variable is not None]
    assert kernels == ["quant_last"]


def test_a_users_quantize_config_is_kept():
    """A QuantizeConfig given with an annotation decides for its layer, as TFMOT documents."""

    @keras.utils.register_keras_serializable(package="test_trust")
    class FourBits(tq.QuantizeConfig):
        def get_weights_and_quantizers(self, layer):
            quantizer = tq.quantizers.LastValueQuantizer(4, False, True, False)
            return [(layer.kernel, quantizer)]

        def get_activations_and_quantizers(self, layer):
            return []

        def set_quantize_weights(self, layer, quantize_weights):
            layer.kernel = quantize_weights[0]

        def set_quantize_activations(self, layer, quantize_activations):
            pass

        def get_output_quantizers(self, layer):
            return []

        def get_config(self):
            return {}

    def mark(layer):
        config = FourBits() if layer.name == "dense_b" else None
        return tq.quantize_annotate_layer(layer, config)

    annotated = keras.models.clone_model(nets.dense_net(), clone_function=mark)
    with tq.quantize_scope({"FourBits": FourBits}):
        model = tq.quantize_apply(annotated, qr.RoundingScheme())
    by_path = {t.path: t for t in quantized_tensors(model)}
    assert by_path["quant_dense_b/kernel"].bits == 4
    assert by_path["quant_dense_a/kernel"].bits == 8
    assert "quant_dense_b/output" not in by_path


def test_the_float_model_is_untouched_and_the_copy_has_its_weights():
    net = nets.dense_net()
    before = net.get_weights()
    model = tq.quantize_apply(tq.quantize_annotate_model(net), qr.RoundingScheme())
    assert any(np.array_equal(w, before[0]) for w in model.get_weights())
    nets.ready(model).fit(nets.vectors(), np.arange(64) % 3, verbose=0)
    for a, b in zip(net.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_quantized_model_reloads_under_quantize_scope(tmp_path):
    model = tq.quantize_apply(tq.quantize_annotate_model(nets.dense_net()), qr.RoundingScheme())
    model.save(tmp_path / "model.h5")
    with tq.quantize_scope():
        again = keras.models.load_model(tmp_path / "model.h5")
    rows = nets.vectors()
    np.testing.assert_array_equal(again(rows, training=False), model(rows, training=False))


def test_a_quantized_model_is_cloned_with_equal_quantizers():
    model = tq.quantize_apply(tq.quantize_annotate_model(nets.dense_net()), qr.RoundingScheme())
    with tq.quantize_scope():
        clone = keras.models.clone_model(model)
    ours, theirs = ([t.quantizer for t in quantized_tensors(m)] for m in (model, clone))
    assert ours == theirs
