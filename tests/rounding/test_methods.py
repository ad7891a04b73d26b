"""Facts about the rounding methods, against independent float64 NumPy."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

import qat_round as qr
from qat_round.rounding import hard_round
from tests.rounding.table import METHODS


def value_and_gradient(rounder, x, dtype="float32", training=True):
    x = tf.constant(x, dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = rounder(x, training=training)
    gradient = tape.gradient(y, x)
    return tf.cast(y, tf.float64).numpy(), tf.cast(gradient, tf.float64).numpy()


# Values and gradients.

X = np.random.default_rng(1).uniform(-8.0, 8.0, 10_000).astype(np.float32).astype(np.float64)


def logistic(z):
    z = np.asarray(z, np.longdouble)
    return np.where(z >= 0, 1.0, np.exp(np.minimum(z, 0))) / (1.0 + np.exp(-np.abs(z)))


def sigmoid_oracle(x, slope=1000.0, center=0.5, normalize=True):
    x = x.astype(np.longdouble)  # at slope 1e-6 the differences below cancel seven digits
    r = x - np.floor(x)
    low, high = logistic(-slope * center), logistic(slope * (1 - center))
    y, gradient = logistic(slope * (r - center)), slope * logistic(slope * (r - center))
    gradient = gradient * logistic(-slope * (r - center))
    if normalize:
        y, gradient = (y - low) / (high - low), gradient / (high - low)
    return np.floor(x) + y, gradient


def ramp_oracle(x, threshold=0.499, gain=10_000.0):
    rise = (x - np.floor(x) - threshold) * gain
    return np.floor(x) + np.clip(rise, 0, 1), np.where((rise > 0) & (rise < 1), gain, 0.0)


def fourier_oracle(x, terms=5, sigma=False):
    y, gradient = x.copy(), np.ones_like(x)
    for n in range(1, terms + 1):
        t = np.pi * n / (terms + 1)
        weight = (-1) ** n * (np.sin(t) / t if sigma else 1.0)
        y += weight * np.sin(2 * np.pi * n * x) / (n * np.pi)
        gradient += 2 * weight * np.cos(2 * np.pi * n * x)
    return y, gradient


def sine_oracle(x, iterations=1):
    y, gradient = x, 1.0
    for _ in range(iterations):
        gradient = gradient * (1 - np.cos(2 * np.pi * y))
        y = y - np.sin(2 * np.pi * y) / (2 * np.pi)
    return y, gradient


def ste_oracle(x):
    return np.floor(x + 0.5), np.ones_like(x)


def expected_oracle(x):
    return x, np.ones_like(x)


ORACLES = [
    (qr.SigmoidRound(), sigmoid_oracle, {}),
    (qr.SigmoidRound(slope=5.0), sigmoid_oracle, {"slope": 5.0}),
    (qr.SigmoidRound(slope=1e-6), sigmoid_oracle, {"slope": 1e-6}),
    (qr.SigmoidRound(slope=40.0, center=0.3), sigmoid_oracle, {"slope": 40.0, "center": 0.3}),
    (
        qr.SigmoidRound(slope=7.0, normalize=False),
        sigmoid_oracle,
        {"slope": 7.0, "normalize": False},
    ),
    (qr.RampRound(), ramp_oracle, {}),
    (qr.RampRound(threshold=0.25, gain=2.0), ramp_oracle, {"threshold": 0.25, "gain": 2.0}),
    *(
        (qr.FourierRound(terms, sigma), fourier_oracle, {"terms": terms, "sigma": sigma})
        for terms in (1, 5, 16, 17, 64)
        for sigma in (False, True)
    ),
    (qr.FourierRound(500), fourier_oracle, {"terms": 500}),
    *((qr.SineRound(n), sine_oracle, {"iterations": n}) for n in (1, 2, 3, 5)),
    (qr.StraightThrough(), ste_oracle, {}),
    (qr.ExpectedRound(), expected_oracle, {}),
]


ORACLE_IDS = [repr(rounder) for rounder, _, _ in ORACLES]


def off_kinks(rounder, x):
    """Everything but 1e-4 around what float32 cannot resolve: the ramp's ends, a steep centre."""
    kinks = []
    if isinstance(rounder, qr.RampRound):
        kinks = [rounder.threshold, rounder.threshold + 1 / rounder.gain]
    if isinstance(rounder, qr.SigmoidRound) and rounder.slope > 100:
        kinks = [rounder.center]
    return np.all([np.abs(x - np.floor(x) - kink) > 1e-4 for kink in kinks], axis=0) | (not kinks)


@pytest.mark.parametrize(("rounder", "oracle", "knobs"), ORACLES, ids=ORACLE_IDS)
def test_value_and_gradient_equal_the_formula(rounder, oracle, knobs):
    x = X[off_kinks(rounder, X)]
    y, gradient = value_and_gradient(rounder, x)
    right_y, right_gradient = oracle(x, **knobs)
    # Floors: 1e-6 step is one float32 rounding of numbers up to 8 (2^-20); where a gradient
    # crosses zero it is a sum of parts as large as its peak, each known to 2^-24: 32 roundings.
    np.testing.assert_allclose(y, right_y, rtol=1e-5, atol=1e-6)
    peak = np.abs(right_gradient).max()
    np.testing.assert_allclose(gradient, right_gradient, rtol=1e-5, atol=32 * 2.0**-24 * peak)


@pytest.mark.parametrize(("rounder", "oracle", "knobs"), ORACLES, ids=ORACLE_IDS)
def test_float64_equals_the_formula_to_ten_digits(rounder, oracle, knobs):
    x = X[off_kinks(rounder, X)]
    y, gradient = value_and_gradient(rounder, x, "float64")
    right_y, right_gradient = oracle(x, **knobs)
    np.testing.assert_allclose(y, right_y, rtol=1e-10, atol=1e-10)
    peak = np.abs(right_gradient).max()
    np.testing.assert_allclose(gradient, right_gradient, rtol=1e-9, atol=1e-11 * peak)


@pytest.mark.parametrize("iterations", [1, 2, 3, 5, 12])
def test_sine_holds_integers_and_halves_exactly_however_often_it_is_applied(iterations):
    x = np.arange(-8, 8.5, 0.5)
    y, gradient = value_and_gradient(qr.SineRound(iterations), x)
    assert y.tolist() == x.tolist()
    assert gradient.tolist() == np.where(x % 1 == 0, 0.0, 2.0**iterations).tolist()


@pytest.mark.parametrize("name", METHODS)
def test_hard_rounding_sends_ties_up(name):
    ties = np.arange(-8, 8) + 0.5
    hard = qr.get(name, forward="hard")
    assert hard(ties).numpy().tolist() == (ties + 0.5).tolist()
    assert qr.round(ties, name, training=False).numpy().tolist() == (ties + 0.5).tolist()


def test_hard_rounding_is_exact_where_floor_of_x_plus_half_is_not():
    x = tf.constant([np.nextafter(np.float32(0.5), np.float32(0)), 2.0**23 + 1], tf.float32)
    assert hard_round(x).numpy().tolist() == [0.0, 2.0**23 + 1]
    assert tf.floor(x + 0.5).numpy().tolist() != [0.0, 2.0**23 + 1]


# The original answers' own outputs.


def test_ramp_gives_what_the_original_snippet_gave():
    x = np.array([0.1, 0.5, 0.7])
    snippet = np.clip(np.maximum(x - 0.499, 0) * 10_000, 0, 1)
    assert qr.round(x, "ramp").numpy().tolist() == snippet.tolist() == [0.0, 1.0, 1.0]


def test_sigmoid_gives_what_the_original_snippet_gave():
    x = np.linspace(0.0, 0.999, 400)
    e = np.exp(1000 * (x - 0.5))
    for normalize in (True, False):
        y = qr.SigmoidRound(normalize=normalize)(x).numpy()
        np.testing.assert_allclose(y, e / (e + 1), rtol=0, atol=1e-12)


def test_fourier_gives_what_the_original_snippet_gave():
    x = np.linspace(-2, 2, 401)
    snippet = x + sum((-1) ** n * np.sin(2 * np.pi * n * x) / n for n in range(1, 6)) / np.pi
    np.testing.assert_allclose(qr.round(x, "fourier").numpy(), snippet, rtol=0, atol=1e-12)


def test_sine_gives_what_the_original_snippet_gave():
    x = np.linspace(-2, 2, 401)
    snippet = x - np.sin(2 * np.pi * x) / (2 * np.pi)
    np.testing.assert_allclose(qr.round(x, "sine").numpy(), snippet, rtol=0, atol=1e-12)


def test_expected_and_straight_through_give_what_the_original_snippets_gave():
    x = tf.constant([0.1, 0.5, 0.7, 1.2])
    rounded = x - (tf.stop_gradient(x) - tf.floor(x + 0.5))
    assert qr.round(x, "ste").numpy().tolist() == rounded.numpy().tolist()
    assert qr.round(x, "expected").numpy().tolist() == x.numpy().tolist()


# Numbers that broke the original snippets.


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "rounder",
    [qr.SigmoidRound(), qr.SigmoidRound(slope=1e6), *map(qr.get, METHODS)],
    ids=repr,
)
def test_nothing_overflows(rounder, dtype):
    x = [1.0, 0.0, 0.999, 0.5, -0.001, 2.0**20, -(2.0**20), 60_000.0]
    for values in value_and_gradient(rounder, x, dtype):
        assert np.isfinite(values).all()


def test_steep_sigmoid_is_one_at_one():
    for slope in (1000.0, 1e6):
        y, gradient = value_and_gradient(qr.SigmoidRound(slope=slope), [1.0])
        assert y[0] == 1.0
        assert 0.0 <= gradient[0] < 1e-30


@pytest.mark.parametrize("name", METHODS)
def test_infinity_is_held_and_nan_stays_nan(name):
    y = qr.round(tf.constant([np.inf, -np.inf, np.nan]), name).numpy()
    assert y[:2].tolist() == [tf.float32.max, tf.float32.min]
    assert np.isnan(y[2])


# Settings.


def test_the_defaults_are_the_original_numbers():
    assert qr.SigmoidRound() == qr.SigmoidRound(slope=1000.0, center=0.5, normalize=True)
    assert qr.RampRound() == qr.RampRound(threshold=0.499, gain=10_000.0)
    assert qr.FourierRound() == qr.FourierRound(terms=5, sigma=False)
    assert qr.SineRound() == qr.SineRound(iterations=1)
    assert qr.StochasticRound() == qr.StochasticRound(seed=None)
    assert all(qr.get(name).forward == "soft" for name in METHODS)


@pytest.mark.parametrize(
    ("name", "knobs", "message"),
    [
        ("sigmoid", {"slope": 0.0}, "SigmoidRound: slope=0.0 has to be positive and finite"),
        ("sigmoid", {"slope": float("nan")}, "slope=nan has to be positive"),
        ("sigmoid", {"slope": float("inf")}, "slope=inf has to be positive and finite"),
        ("sigmoid", {"center": 1.0}, "center=1.0 has to lie inside the cell"),
        ("ramp", {"threshold": 1.0}, "RampRound: threshold=1.0 has to lie in the cell"),
        ("ramp", {"gain": -1.0}, "RampRound: gain=-1.0 has to be positive"),
        ("fourier", {"terms": 0}, "FourierRound: terms=0 has to be a whole number >= 1"),
        ("fourier", {"terms": 2.5}, "terms=2.5 has to be a whole number"),
        ("sine", {"iterations": True}, "SineRound: iterations=True has to be a whole number >= 1"),
        ("stochastic", {"seed": 0.5}, "StochasticRound: seed=0.5 has to be a whole number"),
        ("stochastic", {"seed": 2**63}, "does not fit into 64 bits"),
        ("ste", {"forward": "firm"}, "StraightThrough: forward='firm' is not one of"),
        ("sine", {"slope": 3.0}, "SineRound has no setting 'slope'; it has .*'iterations'"),
        ("sigmoid", {"slop": 3.0}, "Did you mean 'slope'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(name, knobs, message):
    with pytest.raises(ValueError, match=message):
        qr.get(name, **knobs)


@pytest.mark.parametrize("value", ["3", None, True, [1.0]])
def test_a_knob_is_a_number(value):
    with pytest.raises(TypeError, match=r"SigmoidRound: slope=.* has to be a number"):
        qr.SigmoidRound(slope=value)


def test_numbers_of_numpy_are_written_as_plain_ones():
    for rounder in (
        qr.SigmoidRound(slope=np.float32(3.0)),
        qr.FourierRound(terms=np.int64(3)),
        qr.SineRound(iterations=np.int32(2)),
        qr.StochasticRound(seed=np.int64(2)),
    ):
        assert qr.get(json.loads(json.dumps(rounder.get_config()))) == rounder


def test_a_centered_ramp_covers_its_width_around_the_middle():
    x = np.linspace(0, 0.999, 500)
    y = qr.RampRound.centered(0.4)(x).numpy()
    np.testing.assert_allclose(y, np.clip((x - 0.3) / 0.4, 0, 1), rtol=0, atol=1e-12)
    assert qr.RampRound.centered(0.4, forward="hard").is_hard
    for width in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"RampRound.centered: width=.* 0 < width <= 1"):
            qr.RampRound.centered(width)


# The plain function, and calls.


@pytest.mark.parametrize("name", METHODS)
def test_round_takes_tensors_arrays_lists_and_numbers(name):
    rounder = qr.StochasticRound(seed=3) if name == "stochastic" else name
    x = [0.2, 0.5, 1.75]
    wanted = qr.round(tf.constant(x), rounder).numpy().tolist()
    assert qr.round(x, rounder).numpy().tolist() == wanted
    assert qr.round(np.array(x, np.float32), rounder).numpy().tolist() == wanted
    assert qr.round(tf.Variable(x), rounder).numpy().tolist() == wanted
    assert qr.round(1.0, rounder).numpy() == 1.0
    assert qr.round(np.array(x), rounder).dtype == tf.float64


def test_whole_number_dtypes_are_refused_with_the_cast_to_write():
    with pytest.raises(TypeError, match=r"x is int32. Cast it first: tf.cast\(x, tf.float32\)"):
        qr.round(tf.constant([1, 2]), "sine")


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("training", [True, False])
def test_training_may_be_a_tensor(name, training):
    rounder = qr.get(name, seed=3) if name == "stochastic" else qr.get(name)

    @tf.function
    def traced(x, training):
        return rounder(x, training=training)

    x = tf.constant([0.2, 0.5, 1.75])
    wanted = rounder(x, training=training).numpy().tolist()
    assert rounder(x, training=tf.constant(training)).numpy().tolist() == wanted
    np.testing.assert_allclose(traced(x, tf.constant(training)).numpy(), wanted, atol=1e-6)


def test_knobs_may_be_tensors_on_a_bound_copy():
    rounder = qr.SigmoidRound()
    bound = rounder.bind(slope=tf.constant(5.0))
    x = tf.constant([0.2, 0.6])
    assert bound(x).numpy().tolist() == qr.SigmoidRound(slope=5.0)(x).numpy().tolist()
    assert rounder == qr.SigmoidRound()


# Chance.


def test_stochastic_goes_up_with_probability_r():
    r = np.linspace(0.05, 0.95, 19)
    x = tf.constant(np.repeat(r[:, None] - 3.0, 20_000, axis=1), tf.float32)
    y = qr.StochasticRound(seed=1)(x).numpy()
    assert set(np.unique(y)) == {-3.0, -2.0}
    share = (y == -2.0).mean(axis=1)
    deviation = np.sqrt(r * (1 - r) / 20_000)
    assert (np.abs(share - r) < 4.5 * deviation).all()  # the draw is fixed, so is the result


def test_stochastic_is_right_on_average():
    x = tf.constant(X, tf.float32)
    mean = np.mean([qr.StochasticRound(seed=seed)(x).numpy().mean() for seed in range(10)])
    assert abs(mean - X.mean()) < 4.5 * 0.5 / np.sqrt(10 * X.size)


def test_a_seed_repeats_and_another_seed_does_not():
    x = tf.constant(X, tf.float32)
    draws = [qr.StochasticRound(seed=seed)(x).numpy() for seed in (5, 5, 6)]
    assert (draws[0] == draws[1]).all()
    assert (draws[0] != draws[2]).any()


def test_without_a_seed_each_call_draws_anew_but_follows_the_global_seed():
    x = tf.constant(X, tf.float32)
    tf.random.set_seed(1)
    first, second = (qr.StochasticRound()(x).numpy() for _ in range(2))
    assert (first != second).any()
    tf.random.set_seed(1)
    assert (qr.StochasticRound()(x).numpy() == first).all()


@pytest.mark.parametrize("seed", [-(2**63), -1, 0, 2**63 - 1])
def test_any_64_bit_seed_works(seed):
    assert set(qr.StochasticRound(seed=seed)(tf.fill([100], 0.5)).numpy()) == {0.0, 1.0}
