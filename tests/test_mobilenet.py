"""Requirement 4 on a published network: MobileNetV2, integer-only and within one step."""

from __future__ import annotations

import nets
import numpy as np
import pytest
import tf_keras as keras

import qat_round as qr

pytestmark = pytest.mark.slow
SIDE, CLASSES = 96, 10


@pytest.fixture(scope="module")
def images():
    """The shared patterns, enlarged, in colour and within [-1, 1]."""
    small, labels = nets.pictures(96)
    large = np.repeat(np.repeat(small, SIDE // 12, axis=1), SIDE // 12, axis=2)
    return np.tanh(np.concatenate([large, 0.5 * large, -large], axis=-1)), labels


@pytest.fixture(scope="module")
def mobilenet(images):
    """Random weights, batch norm's statistics from the images, a few steps of training."""
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2(
        (SIDE, SIDE, 3), alpha=0.35, weights=None, classes=CLASSES, classifier_activation=None
    )
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.5
    nets.ready(model).fit(*images, batch_size=32, epochs=4, verbose=0)
    return model


@pytest.mark.parametrize("method", ["sine", "sigmoid", "stochastic"])
def test_mobilenet_v2_is_integer_only_and_agrees(method, mobilenet, images):
    model = qr.calibrate(qr.quantize_model(mobilenet, method), images[0])
    nets.steps(nets.ready(model, rate=1e-5), *images, count=2)
    parity = qr.verify_tflite(model, qr.export_tflite(model, io="int8"), images[0])
    assert parity.float_operators == {}
    assert set(parity.tensor_types) == {"INT8", "INT32"}
    assert parity.within_one >= 0.999
    assert parity.max_steps <= 2.001
    assert parity.ok
