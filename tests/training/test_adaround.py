"""Learned rounding of weights, without labels."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import qat_round as qr
from qat_round.quantizers.quantized_tensors import quantized_tensors
from tests.models import nets

# Without training, and comparisons.


def test_learned_rounding_beats_nearest_rounding(float_net, pictures):
    x = pictures[0]
    errors = []
    for rounded in (False, True):
        q = qr.calibrate(qr.quantize_model(float_net, weight_bits=3), x[:128], "mse")
        if rounded:
            qr.adaround(q, x[:128], steps=400, learning_rate=0.05)
        wrapper = next(w for w in q.layers if w.name == "quant_conv2")
        ours = keras.Model(q.inputs, wrapper.output)(x, training=False)
        theirs = keras.Model(float_net.inputs, float_net.get_layer("conv2").output)(x)
        errors.append(float(tf.reduce_mean(tf.square(ours - theirs))))
    assert errors[1] < 0.9 * errors[0]


def test_learned_rounding_aims_at_the_float_model_behind_rounded_layers(
    float_net, pictures, monkeypatch
):
    x, targets = pictures[0][:32], []
    room = importlib.import_module("qat_round.training.adaround")  # qr.adaround is the function
    monkeypatch.setattr(room, "_fit", lambda layer, seen, wanted, *_: targets.append(wanted))
    q = qr.calibrate(qr.quantize_model(float_net, weight_bits=2), x, "mse")
    before = [t.variable.numpy() for t in quantized_tensors(q) if t.variable is not None]
    qr.adaround(q, x)
    after = [t.variable.numpy() for t in quantized_tensors(q) if t.variable is not None]
    assert all(np.abs(a - b).max() > 0.0 for a, b in zip(before, after, strict=True))
    np.testing.assert_allclose(targets[-1], float_net(x), atol=1e-4)


def test_learned_rounding_needs_ranges(float_net, pictures):
    with pytest.raises(ValueError, match="steps=0"):
        qr.adaround(qr.quantize_model(float_net), pictures[0][:8], steps=0)
    with pytest.raises(ValueError, match="not quantized"):
        qr.adaround(float_net, pictures[0][:8])


L = keras.layers


# Learned rounding.


def test_learned_rounding_wants_calibrated_activations(float_net, pictures):
    with pytest.raises(ValueError, match="were never set; run qr.calibrate"):
        qr.adaround(qr.quantize_model(float_net, weight_bits=4), pictures[0][:32])


def test_learned_rounding_sees_every_call_of_a_shared_layer(monkeypatch):
    shared = L.Dense(4, name="shared")
    a, b = keras.Input((8,), name="a"), keras.Input((8,), name="b")
    model = keras.Model([a, b], L.Add()([shared(a), shared(b)]))
    x = [nets.vectors(16, seed=0), nets.vectors(16, seed=1)]
    q = qr.calibrate(qr.quantize_model(model, weight_bits=4), x)
    room, seen = importlib.import_module("qat_round.training.adaround"), []
    monkeypatch.setattr(room, "_fit", lambda layer, inputs, *_: seen.append(inputs))
    qr.adaround(q, x)
    assert [len(inputs) for inputs in seen] == [32]


def test_transposed_convolutions_are_decided_too():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([L.Input((4, 4, 2)), L.Conv2DTranspose(3, 3, strides=2)])
    x = np.random.default_rng(0).uniform(size=(32, 4, 4, 2)).astype(np.float32)  # not centred
    q = qr.calibrate(qr.quantize_model(model, weight_bits=3), x)
    wanted = model(x)
    nearest = float(tf.reduce_mean(tf.square(q(x, training=False) - wanted)))
    qr.adaround(q, x, steps=200, learning_rate=0.05)
    assert float(tf.reduce_mean(tf.square(q(x, training=False) - wanted))) < nearest
