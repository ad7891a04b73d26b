"""A `QuantizeConfig` written by hand, with our quantizers."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras

import qat_round as qr
from qat_round.quantizers.quantized_tensors import quantized_tensors
from tests.models.nets import normal

native = tf.quantization.fake_quant_with_min_max_vars


# A QuantizeConfig written by hand.


class DenseConfig(tfmot.quantization.keras.QuantizeConfig):
    """What TFMOT's guide shows, with our quantizers."""

    rounder = "sine"

    def get_weights_and_quantizers(self, layer):
        weights = qr.RoundingQuantizer(4, self.rounder, symmetric=True, narrow_range=True)
        return [(layer.kernel, weights)]

    def get_activations_and_quantizers(self, layer):
        return [(layer.activation, qr.RoundingQuantizer(8, self.rounder, range="moving_average"))]

    def set_quantize_weights(self, layer, quantize_weights):
        layer.kernel = quantize_weights[0]

    def set_quantize_activations(self, layer, quantize_activations):
        layer.activation = quantize_activations[0]

    def get_output_quantizers(self, layer):
        return []

    def get_config(self):
        return {}


def test_a_hand_written_quantize_config_trains_and_infers():
    annotate = tfmot.quantization.keras.quantize_annotate_layer
    dense = annotate(keras.layers.Dense(4, activation="relu", input_shape=(6,)), DenseConfig())
    with tfmot.quantization.keras.quantize_scope({"DenseConfig": DenseConfig}):
        model = tfmot.quantization.keras.quantize_apply(keras.Sequential([dense]))
    x, wanted = normal(64, 6), normal(64, 4, seed=1)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    losses = model.fit(x, wanted, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]

    (kernel, *_), (activation, *_) = (
        [t for t in quantized_tensors(model) if t.name == name]
        for name in ("kernel", "post_activation")
    )
    assert isinstance(kernel.quantizer, qr.RoundingQuantizer)
    lo, hi = kernel.weights["min_var"], kernel.weights["max_var"]
    on_grid = native(kernel.variable, lo, hi, num_bits=4, narrow_range=True)
    held = model.layers[0](x, training=False)  # the input's own quantizer, TFMOT's
    y = tf.nn.relu(held @ on_grid + model.layers[-1].layer.bias)
    y = native(y, activation.weights["min_var"], activation.weights["max_var"])
    np.testing.assert_allclose(model(x, training=False), y, rtol=0, atol=1e-6)
