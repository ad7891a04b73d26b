"""Ways of training that Keras offers: the same steps whichever is taken, and one trace for all."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import qat_round as qr
from qat_round.numerics import fused

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 8, 8, 3)).astype(np.float32)
Y = RNG.normal(size=(24, 2)).astype(np.float32)
STEPS, BATCH, RATE = 3, 8, 0.01


def net(rounder="ste", range_="moving_average"):
    keras.utils.set_random_seed(1)
    layers = keras.layers
    x = inputs = keras.Input((8, 8, 3))
    x = layers.ReLU()(layers.Conv2D(24, 3, padding="same")(x))
    x = layers.Conv2D(24, 3, strides=2, activation="relu")(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    weights = qr.TensorSpec(
        bits=8, rounder=rounder, range="learned" if range_ == "learned" else "last_value"
    )
    activations = qr.TensorSpec(bits=8, rounder=rounder, range=range_)
    q = qr.quantize_model(model, weights=weights, activations=activations)
    qr.calibrate(q, X)
    return q


def trained(model, **how):
    model.compile(keras.optimizers.SGD(RATE), "mse", **how)
    model.fit(X, Y, batch_size=BATCH, epochs=1, shuffle=False, verbose=0)
    return model.get_weights()


def by_hand(model, parts):
    """The same steps in a `tf.function`, each gradient summed over parts of its batch."""
    optimizer = keras.optimizers.SGD(RATE)
    variables = model.trainable_variables

    @tf.function
    def step(x, y):
        total = [tf.zeros_like(v) for v in variables]
        for part in range(parts):
            rows = slice(part * BATCH // parts, (part + 1) * BATCH // parts)
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(model(x[rows], training=True) - y[rows])) / parts
            gradients = tape.gradient(loss, variables)
            total = [t + g for t, g in zip(total, gradients, strict=True)]
        optimizer.apply_gradients(zip(total, variables, strict=True))

    for at in range(0, STEPS * BATCH, BATCH):
        step(tf.constant(X[at : at + BATCH]), tf.constant(Y[at : at + BATCH]))
    return model.get_weights()


MODES = {
    "jit": lambda model: trained(model, jit_compile=True),
    "eager": lambda model: trained(model, run_eagerly=True),
    "three steps at once": lambda model: trained(model, steps_per_execution=3),
    "tf.function": lambda model: by_hand(model, 1),
}


def assert_same_training(wanted, found, start):
    """Weights less far apart than a fiftieth of what training moved them by.

    Sums in another order move last bits, a value near a tie goes to another level, and so on.
    """
    moved = sum(np.square(w - s).sum() for w, s in zip(wanted, start, strict=True))
    apart = sum(np.square(w - f).sum() for w, f in zip(wanted, found, strict=True))
    assert moved > 0.0
    assert apart <= moved / 50**2


PAIRS = [("ste", "moving_average"), ("sine", "moving_average"), ("ste", "learned")]


@pytest.mark.parametrize(("rounder", "range_"), PAIRS)
@pytest.mark.parametrize("mode", MODES)
def test_every_way_takes_the_same_steps(mode, rounder, range_):
    start, wanted = net(rounder, range_).get_weights(), trained(net(rounder, range_))
    assert_same_training(wanted, MODES[mode](net(rounder, range_)), start)


def test_gradients_that_are_summed_over_parts_of_a_batch_are_the_batchs():
    """With ranges that stay: those that follow data would see smaller batches."""
    start = net(range_="fixed")
    wanted, found = trained(net(range_="fixed")), by_hand(net(range_="fixed"), 2)
    trained_ones = [i for i, v in enumerate(start.weights) if v.trainable]
    picked = [[w[i] for i in trained_ones] for w in (wanted, found, start.get_weights())]
    assert_same_training(*picked)


@pytest.mark.parametrize("range_", ["moving_average", "learned"])
def test_one_trace_serves_annealing_learning_and_the_last_odd_batch(range_):
    fused._one_function.cache_clear()
    made = []
    one_function = fused._one_function.__wrapped__

    def counted(*key):
        made.append(one_function(*key))
        return made[-1]

    model = net(qr.SigmoidRound(slope=5.0), range_)
    model.compile(keras.optimizers.SGD(0.01), "mse")
    anneal = qr.Anneal("slope", qr.schedules.exponential(5.0, 50.0, 20))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "_one_function", functools.cache(counted))
        model.fit(X[:20], Y[:20], batch_size=BATCH, epochs=1, verbose=0, callbacks=[anneal])
        functions, model_traces = len(made), model.train_function.experimental_get_tracing_count()
        traces = [f.experimental_get_tracing_count() for f in made]
        model.fit(X[:20], Y[:20], batch_size=BATCH, epochs=4, verbose=0, callbacks=[anneal])
    assert functions > 0
    assert len(made) == functions
    assert model.train_function.experimental_get_tracing_count() == model_traces
    assert [f.experimental_get_tracing_count() for f in made] == traces == [1] * functions


def test_nothing_compiled_is_in_a_saved_graph(tmp_path):
    model = net("sine")
    model.save(tmp_path / "saved")
    served = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"]
    marked = [
        function.signature.name
        for function in served.graph.as_graph_def().library.function
        if function.attr["_XlaMustCompile"].b
    ]
    assert marked == []
