"""Facts about what surrounds low bits: defaults, search, resuming, batch norm, distillation."""

from __future__ import annotations

import importlib

import nets
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import qat_round as qr
from qat_round.quantizers.learned_ranges import Learned, is_at_its_limit
from qat_round.quantizers.lsq_gradients import LEAST_GROWTH, MOST_GROWTH
from qat_round.quantizers.quantized_tensors import quantized_tensors

L = keras.layers


def ends(model):
    """The stored ends of all ranges."""
    return [
        np.ravel(t.weights[e].numpy())
        for t in quantized_tensors(model)
        for e in ("min_var", "max_var")
    ]


# Calibration by itself.


@pytest.mark.parametrize(
    ("recipe", "method"), [("w4a8", "mse"), ("w2a2", "mse"), ("w8a8", "minmax")]
)
def test_a_plain_calibration_is_the_one_that_the_bits_need(float_net, pictures, recipe, method):
    assert qr.recipes()[recipe]["calibrate"] == method
    x = pictures[0][:64]
    plain = qr.calibrate(qr.quantize_model(float_net, recipe=recipe), x)
    asked = qr.calibrate(qr.quantize_model(float_net, recipe=recipe), x, method)
    for ours, theirs in zip(ends(plain), ends(asked), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# Bits under a budget.


def separable_and_attention():
    """Layers that are lowered to several, a constant that has 8 bits, and plain ones."""
    keras.utils.set_random_seed(1)
    x = inputs = keras.Input((8, 8, 3), name="image")
    x = L.SeparableConv2D(8, 3, activation="hard_sigmoid", name="separable")(x)
    x = L.PReLU(shared_axes=[1, 2], name="bent")(x)
    x = L.Reshape((36, 8), name="steps")(x)
    x = L.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = L.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(inputs, L.Dense(4, name="last")(x))


def test_a_search_speaks_of_the_users_layers():
    model, x = separable_and_attention(), np.random.default_rng(0).normal(size=(32, 8, 8, 3))
    everything = qr.search_bits(model, x, budget_bytes=10**6, bits=(4, 8))
    assert {"separable", "attention", "last"} <= set(everything.bits)
    assert set(everything.bits) <= {layer.name for layer in model.layers}
    found = qr.search_bits(model, x, budget_bytes=int(0.75 * everything.bytes))
    assert found.bytes <= 0.75 * everything.bytes
    q = qr.quantize_model(model, overrides=found.overrides)
    stored_bytes = importlib.import_module("qat_round.training.search_bits").stored_bytes
    stored = sum(
        stored_bytes(int(np.prod(t.variable.shape)), t.bits)
        for t in quantized_tensors(q)
        if t.variable is not None
    )
    assert abs(stored - found.bytes) <= 4  # of a layer with several weights each is rounded up


def test_a_search_counts_what_the_user_settled(float_net, pictures):
    x = pictures[0][:32]
    settled = {"conv2": qr.LayerSpec(qr.TensorSpec(bits=8))}
    found = qr.search_bits(float_net, x, budget_bytes=10**6, overrides=settled)
    assert set(found.bits) == {"conv", "classes"}
    free = qr.search_bits(float_net, x, budget_bytes=10**6)
    assert found.bytes == free.bytes


@pytest.mark.parametrize(
    ("given", "says"),
    [({"bits": (2.5, 8)}, "bits=2.5"), ({"bits": (4, 9)}, "2 to 8"), ({"bit": 4}, "'bit'")],
)
def test_a_search_refuses_what_it_does_not_know(float_net, pictures, given, says):
    with pytest.raises((ValueError, TypeError), match=says):
        qr.search_bits(float_net, pictures[0][:8], budget_bytes=10**6, **given)


# Learned ranges at their limit.


@pytest.mark.parametrize("rate", [1.0, 2.0, 10.0])
@pytest.mark.parametrize(
    ("growth", "wanted"),
    [(1.0, False), (0.9 * LEAST_GROWTH, True), (2.0 * MOST_GROWTH, True), (float("nan"), True)],
)
def test_a_limit_is_seen_at_every_rate(rate, growth, wanted):
    range_ = Learned(rate=rate)
    stored = 1.0 + (growth - 1.0) / rate  # what the optimizer holds for that growth
    assert is_at_its_limit(range_, {"growth": tf.constant(stored)}) is wanted


# Fewer bits while training.


def few_bits():
    q = qr.quantize_model(nets.dense_net(), recipe="w2a4")
    qr.calibrate(q, nets.vectors())
    q.compile(keras.optimizers.SGD(1e-3), "mse")
    return q


def test_a_training_that_goes_on_has_the_bits_of_its_epoch():
    x, y, plan = nets.vectors(), np.zeros((64, 3)), {0: (4, 6), 2: (2, 4)}
    whole, parts = few_bits(), few_bits()
    whole.fit(x, y, epochs=4, verbose=0, shuffle=False, callbacks=[qr.LowerBits(plan, x)])
    parts.fit(x, y, epochs=1, verbose=0, shuffle=False, callbacks=[qr.LowerBits(plan, x)])
    again = few_bits()  # as in a new process: made with the bits of the end
    again.set_weights(parts.get_weights())
    seen = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: seen.append(sorted({t.bits for t in quantized_tensors(again)}))
    )
    lower = qr.LowerBits(plan, x)
    again.fit(x, y, initial_epoch=1, epochs=4, verbose=0, shuffle=False, callbacks=[lower, look])
    assert seen == [[4, 6, 8], [2, 4, 8], [2, 4, 8]]
    for ours, theirs in zip(again.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_dampening_ends_with_its_training():
    q = few_bits()
    dampening = qr.Dampening(q, 1.0)
    assert sum(float(loss) for loss in q.losses) > 0.0
    q.fit(nets.vectors(), np.zeros((64, 3)), verbose=0, callbacks=[dampening])
    assert sum(float(loss) for loss in q.losses) == 0.0
    falls = qr.Dampening(q, lambda step: 1.0 - step)
    with pytest.raises(ValueError, match=r"strength=-1.0 at step 2"):
        q.fit(nets.vectors(96), np.zeros((96, 3)), verbose=0, callbacks=[falls])


# Batch norm from the start.


def test_folded_batch_norm_is_in_the_kernels_from_the_start(float_net, pictures):
    x = pictures[0][:64]
    q = qr.calibrate(qr.quantize_model(float_net, batch_norm="folded"), x)
    assert not any("bn" in layer.name for layer in q.layers)
    live = qr.calibrate(qr.quantize_model(float_net), x)
    wanted = float_net.predict(x, verbose=0)
    errors = [np.abs(m.predict(x, verbose=0) - wanted).mean() for m in (q, live)]
    assert errors[0] < 1.5 * errors[1]
    nets.ready(q, rate=1e-4).fit(*pictures, epochs=1, verbose=0)
    parity = qr.verify_tflite(q, qr.export_tflite(q, io="int8"), x)
    assert parity.ok
    assert parity.max_steps <= 1.0


def test_folded_batch_norm_can_be_asked_for_by_a_recipe(float_net):
    recipe = qr.recipes()["w4a4"] | {"batch_norm": "folded"}
    assert len(qr.quantize_model(float_net, recipe=recipe).layers) < len(
        qr.quantize_model(float_net, recipe="w4a4").layers
    )
    with pytest.raises(ValueError, match="batch_norm='gone' is unknown"):
        qr.quantize_model(float_net, batch_norm="gone")


def test_folded_batch_norm_is_written_back(float_net, pictures):
    q = qr.calibrate(qr.quantize_model(float_net, batch_norm="folded"), pictures[0][:64])
    nets.ready(q, rate=1e-3).fit(*pictures, epochs=1, verbose=0)
    original = nets.conv_net()
    original.set_weights(float_net.get_weights())
    before = original.predict(pictures[0][:32], verbose=0)
    qr.write_back(q, original)
    after = original.predict(pictures[0][:32], verbose=0)
    ours = q.predict(pictures[0][:32], verbose=0)
    assert np.abs(after - ours).mean() < 0.2 * np.abs(ours - before).mean() + 0.05


# Distillation.


def test_samples_are_weighed_in_the_teachers_loss_too(float_net, pictures):
    x = pictures[0][:32]
    student = keras.models.clone_model(float_net)
    distiller = qr.Distiller(student, float_net, share=1.0)
    distiller.compile("sgd")
    half = np.concatenate([np.ones(16), np.zeros(16)]).astype(np.float32)
    weighed = distiller.compute_loss(x, None, student(x), tf.constant(half))
    of_half = distiller.compute_loss(x[:16], None, student(x[:16]))
    assert float(weighed) == pytest.approx(0.5 * float(of_half), rel=1e-4)


def test_a_share_for_labels_needs_labels(float_net, pictures):
    distiller = qr.Distiller(keras.models.clone_model(float_net), float_net, share=0.5)
    distiller.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"share=0.5 needs labels"):
        distiller.fit(pictures[0][:32], verbose=0)


def test_the_teachers_penalties_are_not_the_students():
    def net(strength):
        regularizer = keras.regularizers.L2(strength)
        return keras.Sequential([L.Input((8,)), L.Dense(3, kernel_regularizer=regularizer)])

    x = nets.vectors(8)
    student, losses = net(0.1), []
    for strength in (0.1, 50.0):
        teacher = net(strength)
        teacher.set_weights(student.get_weights())
        distiller = qr.Distiller(student, teacher, share=1.0)
        distiller.compile("sgd")
        losses.append(float(distiller.compute_loss(x, None, student(x))))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


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


# A bake-off's data.


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (lambda y: np.eye(10)[y], r"one-hot rows, labels.argmax"),
        (lambda y: y.astype(float), "dtype float64"),
        (lambda y: y[:-1], "but 383 labels"),
    ],
)
def test_a_bake_off_refuses_labels_that_are_no_class_numbers(float_net, pictures, labels, says):
    x, y = pictures
    with pytest.raises(ValueError, match=says):
        qr.compare_rounders(float_net, (x, labels(y), x[:9], y[:9]), seeds=2)


def test_a_bake_off_holds_out_a_tenth_of_every_class(float_net, pictures, monkeypatch):
    room, runs = importlib.import_module("qat_round.training.compare_rounders"), []

    def run(model, data, rounder, rate, seed, **settings):
        runs.append(data[1][: len(data[1]) // 10])
        return 50.0, 50.0 + seed

    monkeypatch.setattr(room, "_run", run)
    x, y = pictures
    order = np.argsort(y, kind="stable")
    data = (x[order], y[order][:, None], x[:9], y[:9])
    found = qr.compare_rounders(float_net, data, ["ewgs"], seeds=3)
    assert len(set(runs[0])) > 5
    assert all(np.array_equal(runs[0], other) for other in runs)
    assert found.verdict == "No difference beyond the seeds."
