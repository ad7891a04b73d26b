"""A whole training step is one XLA program, as TPUStrategy needs it.

There is no TPU here; what can be checked is what it refuses: operators without an XLA kernel,
shapes that are not known, operators that run on the host.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import qat_round as qr
from tests.models import nets

RATE = 0.05
LEARNED = {"weights": qr.TensorSpec(rounder="tanh", range="learned")}
LEARNED["activations"] = qr.TensorSpec(rounder="tanh", range="learned")
DRAWN = qr.TensorSpec(rounder=qr.StochasticRound(seed=3))
SETTINGS = {
    "straight-through": {"rounder": "ste"},
    "soft": {"rounder": "sine"},
    "hard": {"rounder": qr.TanhRound(forward="hard")},
    "learned": LEARNED,
    "stochastic": {"weights": DRAWN, "activations": DRAWN},
}
STEEP = ("soft", "learned")
"""Near a tie their slope multiplies the last bits, in which two orders of summation differ."""
HOST = re.compile(r"\b(infeed|outfeed|send|recv|custom-call|after-all)\b")
OPEN_SHAPE = re.compile(r"\[[^\]\s]*<=")


def made(settings: dict) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = qr.quantize_model(nets.conv_net(), **settings)
    return qr.calibrate(model, nets.pictures(64)[0])


def step_of(model: keras.Model, compiled: bool):
    """One step of gradient descent on a batch, as one function."""
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function(jit_compile=compiled)
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_of(y, model(x, training=True))
        variables = model.trainable_variables
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            variable.assign_sub(RATE * gradient)
        return loss

    return step


@pytest.fixture(scope="module", params=SETTINGS)
def pair(request):
    """A step compiled and not: the program's text, and (loss, variables after it) of each."""
    x, y = nets.pictures(32)
    x, y = tf.constant(x), tf.constant(y)
    found = []
    for compiled in (True, False):
        model = made(SETTINGS[request.param])
        step = step_of(model, compiled)
        found.append((float(step(x, y)), [v.numpy() for v in model.variables]))
        if compiled:
            text = step.experimental_get_compiler_ir(x, y)(stage="hlo")
    return request.param, text, *found


def test_every_operator_of_a_training_step_has_an_xla_kernel(pair):
    """Else the compiled step would have raised; its text has every convolution of both ways."""
    assert pair[1].count("convolution(") >= 5


def test_no_shape_is_open_and_nothing_runs_on_the_host(pair):
    assert not HOST.search(pair[1])
    assert not OPEN_SHAPE.search(pair[1])


def test_a_compiled_step_is_the_plain_one(pair):
    """Sums in another order move last bits; of the range's own end that may cut the gradient."""
    kind, _, (loss, variables), (plain_loss, plain_variables) = pair
    assert loss == pytest.approx(plain_loss, rel=2e-6)
    if kind not in STEEP:
        for ours, plain in zip(variables, plain_variables, strict=True):
            near = np.isclose(ours, plain, rtol=1e-4, atol=RATE * 1e-4)
            assert near.mean() >= 0.98
