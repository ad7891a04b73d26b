"""Facts about the newer rounding methods, against independent float64 NumPy."""

import numpy as np
import pytest
import tensorflow as tf

import qat_round as qr

X = np.random.default_rng(3).uniform(-5.0, 5.0, 300)
UP = np.random.default_rng(4).normal(size=300)


def gradient(rounder, x, dy):
    x = tf.constant(x, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = rounder(x)
    return tape.gradient(y, x, output_gradients=tf.constant(dy, tf.float64)).numpy()


@pytest.mark.parametrize("k", [0.5, 3.0, 20.0])
def test_tanh_is_its_formula(k):
    m = np.floor(X) + 0.5
    expected = m + np.tanh(k * (X - m)) / (2 * np.tanh(k / 2))
    y = qr.TanhRound(sharpness=k)(tf.constant(X, tf.float64))
    np.testing.assert_allclose(y, expected, atol=1e-12)


def test_tanh_is_the_normalized_sigmoid_of_twice_the_slope():
    x = tf.constant(X, tf.float64)
    np.testing.assert_allclose(
        qr.TanhRound(sharpness=4.0)(x), qr.SigmoidRound(slope=8.0)(x), atol=1e-9
    )


def test_dsq_with_its_alpha_is_tanh_with_its_sharpness():
    x, alpha = tf.constant(X, tf.float64), 0.3
    same = qr.TanhRound(sharpness=float(np.log(2 / alpha - 1)))
    np.testing.assert_allclose(qr.LearnedTanhRound(alpha=alpha)(x), same(x), atol=1e-9)


@pytest.mark.parametrize("delta", [0.0, 0.2, 1.5])
def test_ewgs_scales_by_sign_and_distance(delta):
    expected = UP * (1 + delta * np.sign(UP) * (X - np.floor(X + 0.5)))
    found = gradient(qr.ElementWiseScaling(delta=delta), X, UP)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("width", [0.3, 1.0, 1.5, 2.0])
def test_expected_threshold_is_the_mean_over_random_thresholds(width):
    levels = np.arange(-8, 8) + 0.5
    shares = np.clip((X[:, None] - levels) / width + 0.5, 0.0, 1.0)  # P(threshold < x)
    y = qr.ExpectedThresholdRound(width=width)(tf.constant(X, tf.float64))
    np.testing.assert_allclose(y, shares.sum(1) - 8, atol=1e-12)


def test_a_share_of_identity_gives_weights_on_the_grid_a_gradient():
    on_grid = np.array([-2.0, 0.0, 3.0])
    assert gradient(qr.SineRound(), on_grid, np.ones(3)).tolist() == [0.0, 0.0, 0.0]
    found = gradient(qr.SineRound(identity=0.25), on_grid, np.ones(3))
    np.testing.assert_allclose(found, 0.25)


def test_a_mix_is_the_mean_of_both_gradients():
    a, b = qr.TanhRound(sharpness=5.0), qr.ElementWiseScaling(delta=0.5)
    expected = 0.3 * gradient(a, X, UP) + 0.7 * gradient(b, X, UP)
    np.testing.assert_allclose(gradient(qr.mix(a, b, 0.3), X, UP), expected, atol=1e-12)


@pytest.mark.parametrize("rounder", [qr.LearnedTanhRound(), qr.ExpectedThresholdRound()])
def test_the_gradient_of_a_trained_knob_is_that_of_the_curve(rounder):
    (name,) = rounder.trained_knobs
    grid = qr.grid_from_range(-2.0, 2.0, 4)
    x = tf.constant(np.linspace(-1.9, 1.9, 4001), tf.float32)  # dense: the curve has kinks

    def loss(knob):
        return tf.reduce_mean(tf.square(qr.fake_quant(x, grid, rounder, **{name: knob}) - 1.01 * x))

    knob = tf.constant(getattr(rounder, name))
    with tf.GradientTape() as tape:
        tape.watch(knob)
        y = loss(knob)
    h = 2e-3
    slope = float(loss(knob + h) - loss(knob - h)) / (2 * h)
    assert float(tape.gradient(y, knob)) == pytest.approx(slope, rel=0.03)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: qr.TanhRound(sharpness=float("inf")),
            "sharpness=inf has to be positive and finite",
        ),
        (lambda: qr.TanhRound(sharpness=0.0), "sharpness=0.0"),
        (lambda: qr.LearnedTanhRound(alpha=1.0), "alpha=1.0 has to be in 0 < alpha < 1"),
        (lambda: qr.ElementWiseScaling(delta=2.0), "delta=2.0 has to be in 0 <= delta < 2"),
        (lambda: qr.ExpectedThresholdRound(width=3.0), "width=3.0 has to be in 0 < width <= 2"),
        (lambda: qr.SineRound(identity=1.5), "identity=1.5 has to be in 0..1"),
        (lambda: qr.mix("ste", "sine", 2.0), "weight=2.0 has to be in 0..1"),
        (lambda: qr.mix("stochastic", "ste"), "draws random numbers"),
    ],
)
def test_settings_out_of_range_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_sharpness_cannot_be_annealed_to_infinity():
    with pytest.raises(ValueError, match="have to be finite"):
        qr.schedules.linear(2.0, float("inf"), 10)
