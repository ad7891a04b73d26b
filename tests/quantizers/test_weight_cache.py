"""Weights are quantized once in a step, and never once too rarely."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import qat_round as qr
from qat_round.quantizers.quantized_tensors import quantized_tensors
from qat_round.quantizers.quantizer import RoundingQuantizer
from tests.models import nets

L = keras.layers
X = [nets.vectors(16, seed=0), nets.vectors(16, seed=1)]
WEIGHTS = {"straight": {}, "learned": {"weights": qr.TensorSpec(bits=4, range="learned")}}


def siamese():
    """One dense layer on two inputs."""
    keras.utils.set_random_seed(0)
    shared = L.Dense(4, activation="relu", name="shared")
    a, b = keras.Input((8,), name="a"), keras.Input((8,), name="b")
    joined = L.Subtract(name="apart")([shared(a), shared(b)])
    return keras.Model([a, b], L.Dense(1, name="last")(joined))


def quantized(**settings):
    return qr.calibrate(qr.quantize_model(siamese(), **settings), X)


@pytest.fixture
def calls(monkeypatch):
    """Shapes of the weights that were quantized, as often as they were."""
    seen, train = [], RoundingQuantizer.train

    def counting(self, x, weights):
        if isinstance(x, tf.Variable):
            seen.append(tuple(x.shape))
        return train(self, x, weights)

    monkeypatch.setattr(RoundingQuantizer, "train", counting)
    return seen


def gradients(model, x):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(x, training=True) - 1.0))
    return [tf.convert_to_tensor(g) for g in tape.gradient(loss, model.trainable_variables)]


def check_equal(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("settings", WEIGHTS.values(), ids=list(WEIGHTS))
def test_a_shared_layer_quantizes_its_kernel_once(calls, settings):
    wanted = gradients(quantized(**settings), X)  # eagerly, for every call anew
    assert calls.count((8, 4)) == 2
    calls.clear()
    model = quantized(**settings)
    found = tf.function(lambda: gradients(model, X))()
    assert calls.count((8, 4)) == 1
    check_equal(found, wanted)


def test_the_cell_of_a_recurrent_layer_is_quantized_once(calls):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([L.Input((6, 3)), L.GRU(4), L.Dense(2)])
    x = np.random.default_rng(0).normal(size=(8, 6, 3)).astype(np.float32)
    q = qr.calibrate(qr.quantize_model(model), x)
    kernels = sum(t.variable is not None for t in quantized_tensors(q))
    tf.function(lambda: gradients(q, x))()
    assert len(calls) == kernels


def test_a_step_of_the_optimizer_in_between_is_seen():
    def run(model):
        for _ in range(3):
            for variable, g in zip(model.trainable_variables, gradients(model, X), strict=True):
                variable.assign_sub(0.5 * g)
        return [tf.identity(v) for v in model.trainable_variables]

    ours = quantized()
    check_equal(tf.function(lambda: run(ours))(), run(quantized()))


def test_a_weight_that_is_written_to_is_quantized_anew():
    """Without a tape, which would ask for it by itself."""

    def run(model):
        before = model(X, training=True)
        for variable in model.trainable_variables:
            variable.assign(-2.0 * variable)
        return before, model(X, training=True)

    ours = quantized()
    found = tf.function(lambda: run(ours))()
    check_equal(found, run(quantized()))
    assert float(tf.reduce_max(tf.abs(found[0] - found[1]))) > 0.1


def test_each_tape_has_its_gradient():
    def run(model):
        before = model(X, training=True)  # on no tape at all
        return [*gradients(model, X), *gradients(model, X[::-1]), before]

    ours = quantized()
    check_equal(tf.function(lambda: run(ours))(), run(quantized()))


def test_tapes_within_a_tape_have_theirs():
    def run(model):
        with tf.GradientTape() as outer:
            inner = [tf.reduce_sum(g**2) for g in gradients(model, X)]
            inner += [tf.reduce_sum(g**2) for g in gradients(model, X[::-1])]
            penalty = tf.add_n(inner)
        found = outer.gradient(penalty, model.trainable_variables, unconnected_gradients="zero")
        return [*inner, *map(tf.convert_to_tensor, found)]

    ours = quantized()
    check_equal(tf.function(lambda: run(ours))(), run(quantized()))


def test_training_and_inference_are_kept_apart():
    def run(model):
        return model(X, training=True), model(X, training=False)

    ours, eager = (quantized(rounder=qr.SineRound(), weight_bits=3) for _ in range(2))
    found = tf.function(lambda: run(ours))()
    check_equal(found, run(eager))
    assert float(tf.reduce_max(tf.abs(found[0] - found[1]))) > 1e-3


def test_a_branch_that_is_taken_or_not_has_its_own():
    model = quantized()

    @tf.function
    def run(taken):
        y = tf.cond(taken, lambda: model(X, training=True), lambda: tf.zeros([16, 1]))
        return y, model(X, training=True)

    for taken in (True, False):
        found = run(tf.constant(taken))
        np.testing.assert_allclose(found[1], model(X, training=True), rtol=1e-4, atol=1e-6)


def test_the_file_is_the_models(tmp_path):
    model = quantized()
    model.compile("sgd", "mse")
    model.fit(X, np.zeros((16, 1)), verbose=0)
    parity = qr.verify_tflite(model, qr.export_tflite(model), X)
    assert parity.ok
