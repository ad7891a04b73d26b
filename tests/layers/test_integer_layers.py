"""Inference in whole numbers: Keras and the file agree integer for integer."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import qat_round as qr
from qat_round.numerics.accumulators import Clipped, Ints, Moved, Pair, Sums
from qat_round.quantizers.observers import observing

L = keras.layers


def images(count=64, size=12):
    rng = np.random.default_rng(0)
    tints = rng.random((count, 1, 1, 3))
    return (rng.random((count, size, size, 3)) * tints * 2.0 - 0.9).astype(np.float32)


def block(x, filters, name):
    """Expansion, depthwise and projection, each with a batch norm, and a shortcut."""
    y = L.ReLU(6.0)(L.BatchNormalization()(L.Conv2D(3 * filters, 1, use_bias=False)(x)))
    y = L.DepthwiseConv2D(3, padding="same", use_bias=False)(y)
    y = L.ReLU()(L.BatchNormalization()(y))
    y = L.BatchNormalization()(L.Conv2D(filters, 1)(y))
    return L.Add(name=name)([x, y])


def mobile_net():
    keras.utils.set_random_seed(1)
    x = keras.Input((12, 12, 3))
    y = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, strides=2, padding="same")(x)))
    for number in range(6):
        y = block(y, 8, f"add_{number}")
    y = L.GlobalAveragePooling2D()(y)
    return keras.Model(x, L.Dense(10, bias_initializer="uniform")(y))


def dense_net():
    keras.utils.set_random_seed(1)
    x = keras.Input((12, 12, 3))
    y = L.Conv2D(6, 3, padding="same", activation="relu", bias_initializer="uniform")(x)
    for _ in range(4):
        y = L.Concatenate()([y, L.Conv2D(4, 3, padding="same", bias_initializer="uniform")(y)])
    return keras.Model(x, L.Dense(5)(L.Flatten()(L.MaxPooling2D(4)(y))))


@pytest.mark.parametrize("make", [mobile_net, dense_net])
def test_deep_nets_with_random_weights_agree_integer_for_integer(make):
    model, x = make(), images()
    for _ in range(2):
        model(x, training=True)
    quantized = qr.calibrate(qr.quantize_model(model), x)
    parity = qr.verify_tflite(quantized, qr.export_tflite(quantized), x)
    assert parity.float_operators == {}
    assert parity.outputs[0].same >= 0.999


def test_an_observed_model_computes_as_an_unobserved_one():
    model, x = mobile_net(), images(8)
    quantized = qr.calibrate(qr.quantize_model(model), x)
    with observing(lambda quantizer, x, weights: quantizer.infer(x, weights)):
        observed = np.asarray(quantized(x, training=False))
    np.testing.assert_array_equal(observed, np.asarray(quantized(x, training=False)))


def test_compiled_and_eager_inference_are_equal():
    model, x = mobile_net(), images(8)
    quantized = qr.calibrate(qr.quantize_model(model), x)
    compiled = tf.function(lambda batch: quantized(batch, training=False))
    np.testing.assert_array_equal(compiled(x).numpy(), quantized(x, training=False).numpy())


def ints(values, step):
    return Ints(tf.constant(values, tf.float32), tf.constant(step, tf.float32))


def test_sums_are_rounded_once_halves_to_even():
    one = tf.constant(1.0)
    sums = Sums(tf.constant([1.0, 3.0, 5.0, -1.0]), one, one, None)
    np.testing.assert_array_equal(sums.levels(tf.constant(2.0)), [0.0, 2.0, 2.0, 0.0])
    biased = Sums(tf.constant([10.0]), one, tf.constant(0.5), tf.constant([1.2]))
    np.testing.assert_array_equal(biased.levels(tf.constant(0.5)), [12.0])


def test_a_batch_norm_turns_the_sums_around_where_its_factor_is_negative():
    sums = Sums(tf.constant([[4.0, 4.0]]), tf.constant(1.0), tf.constant([0.5, 0.5]), None)
    normed = sums.normed(tf.constant([2.0, -2.0]), tf.constant([1.0, 1.0]), tf.constant([0.0, 3.0]))
    np.testing.assert_allclose(normed.real(), [[2.0, 1.0]])


def test_two_tensors_are_added_with_half_up_rounding():
    pair = Pair(ints([1.0, 3.0], 0.5), ints([0.0, 2.0], 0.5))
    np.testing.assert_array_equal(pair.levels(tf.constant(1.0)), [1.0, 3.0])


def test_a_tensor_moves_to_another_grid_with_eight_bits_of_factor():
    moved = Moved(ints([100.0, -100.0], 1.0)).levels(tf.constant(1.003))
    np.testing.assert_array_equal(moved, [100.0, -100.0])  # 255.2 of 256 is 255: 99.6


def test_a_relu_clips_on_the_grid():
    one = tf.constant(1.0)
    clipped = Clipped(Sums(tf.constant([-3.0, 3.0, 9.0]), one, one, None), 6.0)
    np.testing.assert_array_equal(clipped.levels(one), [0.0, 3.0, 6.0])
