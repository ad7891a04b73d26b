"""Weights that learn faster than the optimizer's rate: the very steps, whatever the optimizer."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras

import qat_round as qr
from qat_round.quantizers.weight_lr_scale import Pace

L = keras.layers
X = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
Y = X[:, :2] * 3.0


def model(rate: float, **settings: object) -> keras.Model:
    keras.utils.set_random_seed(0)
    net = keras.Sequential([keras.Input((4,)), L.Dense(2, name="d", **settings)])
    weights = qr.TensorSpec(rate=rate, rounder="ste")
    return qr.calibrate(qr.quantize_model(net, spec=qr.LayerSpec(weights)), X)


def kernel(q: keras.Model) -> np.ndarray:
    return _variable(q).numpy()


def _variable(q: keras.Model) -> tf.Variable:
    (found,) = [v for v in q.trainable_variables if "kernel" in v.name]
    return found


def steps_of(rate: float, optimizer: object, steps: int = 1, **fit: object) -> np.ndarray:
    q = model(rate)
    before = kernel(q)
    q.compile(optimizer, "mse", **fit)
    q.fit(X, Y, batch_size=32, epochs=steps, verbose=0)
    return kernel(q) - before


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.SGD(1e-3),
        lambda: keras.optimizers.Adam(1e-3),
        lambda: keras.optimizers.AdamW(1e-3),
        lambda: keras.optimizers.legacy.Adam(1e-3),
        lambda: keras.optimizers.legacy.SGD(1e-3, momentum=0.9),
    ],
)
def test_one_step_is_as_many_as_asked(make: object) -> None:
    plain, fast = steps_of(1.0, make()), steps_of(4.0, make())
    assert np.abs(plain).max() > 0.0
    np.testing.assert_allclose(fast, 4.0 * plain, rtol=1e-3, atol=1e-6)


def test_nothing_else_moves_faster() -> None:
    moved = []
    for rate in (1.0, 4.0):
        q = model(rate)
        (bias,) = [v for v in q.trainable_variables if "bias" in v.name]
        q.compile(keras.optimizers.SGD(1e-2), "mse")
        q.fit(X, Y, batch_size=32, epochs=1, verbose=0)
        moved.append(bias.numpy())
    np.testing.assert_allclose(*moved, rtol=1e-6)


def test_many_steps_are_those_of_a_faster_optimizer() -> None:
    fast = steps_of(4.0, keras.optimizers.SGD(1e-3), 5)
    by_hand = model(1.0)
    variable, start = _variable(by_hand), kernel(by_hand)
    (bias,) = [v for v in by_hand.trainable_variables if "bias" in v.name]
    for _ in range(5):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(by_hand(X, training=True) - Y))
        for v, rate, g in zip(
            (variable, bias), (4e-3, 1e-3), tape.gradient(loss, [variable, bias]), strict=True
        ):
            v.assign_sub(rate * g)
    np.testing.assert_allclose(fast, variable.numpy() - start, rtol=1e-4, atol=1e-6)


def test_weights_set_in_between_stay_as_they_were_set() -> None:
    q = model(4.0)
    q.compile(keras.optimizers.SGD(0.0), "mse")
    q.fit(X, Y, batch_size=32, verbose=0)
    wanted = np.full_like(kernel(q), 0.5)
    _variable(q).assign(wanted)
    q.fit(X, Y, batch_size=32, verbose=0)
    np.testing.assert_array_equal(kernel(q), wanted)


def test_the_layers_own_constraint_holds() -> None:
    q = model(50.0, kernel_constraint="non_neg")
    q.compile(keras.optimizers.SGD(0.1), "mse")
    q.fit(X, -Y, batch_size=32, epochs=3, verbose=0)
    assert kernel(q).min() == 0.0


def test_a_float_layer_and_a_rate_of_1_have_no_constraint() -> None:
    assert _variable(model(1.0)).constraint is None
    assert isinstance(_variable(model(2.0)).constraint, Pace)


def test_compiled_training_moves_as_far() -> None:
    plain = steps_of(1.0, keras.optimizers.SGD(1e-2), jit_compile=True)
    fast = steps_of(3.0, keras.optimizers.SGD(1e-2), jit_compile=True)
    np.testing.assert_allclose(fast, 3.0 * plain, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["keras", "h5", "tf"])
def test_saved_and_loaded_it_goes_on_as_fast(kind: str, tmp_path: object) -> None:
    q = model(4.0)
    q.compile(keras.optimizers.SGD(1e-3), "mse")
    q.fit(X, Y, batch_size=32, verbose=0)
    path = str(tmp_path / ("model" if kind == "tf" else f"model.{kind}"))  # type: ignore[operator]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that HDF5 is old
        q.save(path, save_format=kind)
    with tfmot.quantization.keras.quantize_scope():
        loaded = keras.models.load_model(path)
    assert len(loaded.weights) == len(model(1.0).weights)
    for each in (q, loaded):
        each.fit(X, Y, batch_size=32, verbose=0)
    np.testing.assert_allclose(kernel(loaded), kernel(q), rtol=1e-5, atol=1e-6)


def test_in_half_precision_steps_are_as_many() -> None:
    exact = steps_of(4.0, keras.optimizers.SGD(1e-3))
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        moved = steps_of(4.0, keras.optimizers.SGD(1e-3))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    np.testing.assert_allclose(moved, exact, rtol=0.1, atol=2e-3)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("inf"), float("nan")])
def test_a_rate_has_to_be_positive_and_finite(rate: float) -> None:
    with pytest.raises(ValueError, match="rate=.* has to be positive and finite"):
        qr.TensorSpec(rate=rate)


def test_a_rate_has_to_be_a_number() -> None:
    with pytest.raises(TypeError, match="rate='4' has to be a number"):
        qr.TensorSpec(rate="4")  # type: ignore[arg-type]


def test_activations_have_none() -> None:
    with pytest.raises(ValueError, match="activations have no rate"):
        qr.LayerSpec(activations=qr.TensorSpec(rate=2.0))


def test_tfmot_schemes_have_it_too() -> None:
    keras.utils.set_random_seed(0)
    annotated = keras.Sequential(
        [keras.Input((4,)), qr.annotate_layer(L.Dense(2), qr.LayerSpec(qr.TensorSpec(rate=4.0)))]
    )
    q = qr.quantize_apply(annotated)
    assert isinstance(_variable(q).constraint, Pace)
