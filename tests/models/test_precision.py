"""Half precision trains; grids stay float32, and what ships is float32's."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import qat_round as qr
from qat_round.quantizers.quantized_tensors import quantized_tensors
from tests.models import nets

slow = pytest.mark.slow
POLICIES = (pytest.param("mixed_bfloat16", marks=slow), "mixed_float16")


@pytest.fixture(params=POLICIES)
def policy(request):
    keras.mixed_precision.set_global_policy(request.param)
    yield request.param
    keras.mixed_precision.set_global_policy("float32")


def trained(net, rows, labels, range_: str = "moving_average", epochs: int = 1):
    spec = qr.TensorSpec(range=range_)
    learns = range_ == "learned"
    weights = qr.TensorSpec(range="learned" if learns else None)
    model = qr.quantize_model(net, "sine", weights=weights, activations=spec)
    nets.ready(qr.calibrate(model, rows[:64]))
    model.fit(rows, labels, epochs=epochs, verbose=0)
    return model


def accuracy(model, rows, labels) -> float:
    return float(np.mean(nets.predicted(model, rows).argmax(-1) == labels))


def test_a_mixed_model_trains_exports_and_stays_as_accurate(policy, float_net, pictures):
    net = nets.conv_net()
    net.set_weights(float_net.get_weights())
    model = trained(net, *pictures)
    assert model.output.dtype.name in policy
    assert {v.dtype.name for v in model.trainable_variables} == {"float32"}
    assert isinstance(model.optimizer, keras.mixed_precision.LossScaleOptimizer) == (
        policy == "mixed_float16"
    )
    full = qr.full_precision(model)
    assert full.output.dtype == tf.float32
    test = nets.pictures(384, seed=1)
    assert abs(accuracy(full, *test) - accuracy(model, *test)) <= 0.005
    assert abs(accuracy(full, *test) - accuracy(float_net, *test)) <= 0.005
    tflite = qr.export_tflite(model)
    assert qr.verify_tflite(model, tflite, test[0][:64]).ok


@slow
@pytest.mark.parametrize("range_", ["learned", "pact", "all_values"])
def test_every_range_trains_in_half_precision(policy, range_, pictures):
    model = trained(nets.conv_net(), *pictures, range_=range_)
    assert all(np.isfinite(w).all() for w in model.get_weights())
    assert qr.verify_tflite(model, qr.export_tflite(model), pictures[0][:64]).ok


def test_grids_are_those_of_the_float32_weights(policy):
    model = qr.quantize_model(nets.dense_net())
    qr.calibrate(model, nets.vectors())
    model(nets.vectors(), training=True)
    for tensor in quantized_tensors(model):
        assert tensor.weights["min_var"].dtype == tf.float32
        if tensor.variable is not None:
            kernel = tensor.variable.numpy()
            ends = tensor.quantizer.measure(tf.constant(kernel))
            np.testing.assert_array_equal(tensor.weights["max_var"].numpy(), ends[1])


@slow
def test_a_mixed_model_is_saved_and_loaded(policy, tmp_path):
    model = trained(nets.dense_net(), nets.vectors(), np.arange(64) % 3)
    model.save(tmp_path / "mixed.keras")
    again = qr.load_model(tmp_path / "mixed.keras")
    rows = nets.vectors()
    np.testing.assert_array_equal(again(rows, training=False), model(rows, training=False))
