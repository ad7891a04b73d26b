"""Fake quantization, against TensorFlow's own op and float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import qat_round as qr
from qat_round.numerics.grid import constant_fake_quant, native_fake_quant
from tests.numerics.ranges import random_ranges
from tests.rounding.table import METHODS

ALL_BITS = range(2, 17)
GENTLE = [  # slopes up to 11, so that float32's 2^-24 of 255 steps stays within 1e-3 steps
    qr.SigmoidRound(slope=5.0),
    qr.RampRound.centered(0.5),
    qr.FourierRound(),
    qr.SineRound(),
    qr.ExpectedRound(),
]
LARGE = 40_000  # compiled; smaller tensors run as plain operations

native = tf.quantization.fake_quant_with_min_max_vars
native_per_channel = tf.quantization.fake_quant_with_min_max_vars_per_channel


def gradient_of(function, x):
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x).numpy()


# Hard values: the native op's, bit for bit.


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("bits", ALL_BITS)
def test_a_hard_forward_is_the_native_op_per_tensor(bits, narrow):
    lo, hi = (float(end[bits]) for end in random_ranges(20, seed=int(narrow)))
    rng = np.random.default_rng(bits)
    x = tf.constant(rng.uniform(1.5 * lo - 0.01, 1.5 * hi + 0.01, 100_000), tf.float32)
    right = native(x, lo, hi, num_bits=bits, narrow_range=narrow).numpy()
    grid = qr.grid_from_range(lo, hi, bits, narrow)
    for name in METHODS:
        y = qr.fake_quant(x, grid, qr.get(name, forward="hard")).numpy()
        assert (y != right).sum() == 0, name


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("bits", ALL_BITS)
def test_a_hard_forward_is_the_native_op_per_channel(bits, narrow):
    lo, hi = random_ranges(5_000, seed=bits)
    x = np.random.default_rng(bits).uniform(-1.5, 1.5, (20, 5_000)) * np.maximum(-lo, hi)
    x = tf.constant(x, tf.float32)  # 100,000 values on 5,000 ranges
    right = native_per_channel(x, lo, hi, num_bits=bits, narrow_range=narrow).numpy()
    grid = qr.grid_from_range(lo, hi, bits, narrow)
    for name in METHODS:
        y = qr.fake_quant(x, grid, qr.get(name, forward="hard")).numpy()
        assert (y != right).sum() == 0, name


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_a_large_hard_forward_per_channel_is_the_native_op_at_ties_too(bits, axis):
    lo, hi = random_ranges(50, seed=bits)
    hi[0], lo[0] = 0.0, 0.0
    grid = qr.grid_from_range(lo, hi, bits, axis=axis)
    halves = np.random.default_rng(bits).integers(-2, 2 * 2**bits, (1_000, 50)) / 2.0
    x = tf.constant(halves * grid.step.numpy() + grid.nudged_lo.numpy(), tf.float32)
    right = native_per_channel(x, lo, hi, num_bits=bits).numpy()
    x = tf.experimental.numpy.moveaxis(tf.reshape(x, [10, 100, 50]), -1, axis)
    right = np.moveaxis(right.reshape(10, 100, 50), -1, axis)
    for run in (qr.fake_quant, tf.function(qr.fake_quant)):
        assert (run(x, grid, "ste").numpy() == right).all()


@pytest.mark.parametrize("name", METHODS)
def test_inference_is_the_native_op(name):
    x = tf.random.stateless_normal([1_000], [1, 2])
    grid = qr.grid_from_range(-1.0, 2.0, 4)
    right = native(x, -1.0, 2.0, num_bits=4).numpy()
    for training in (False, tf.constant(False)):
        assert (qr.fake_quant(x, grid, name, training=training).numpy() == right).all()


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -3])
def test_channels_may_be_any_axis(axis):
    shape = (3, 4, 5, 6)
    x = tf.random.stateless_normal(shape, [1, 2])
    lo, hi = random_ranges(shape[axis])
    moved = tf.experimental.numpy.moveaxis(x, axis, -1)
    right = tf.experimental.numpy.moveaxis(native_per_channel(moved, lo, hi, num_bits=5), -1, axis)
    grid = qr.grid_from_range(lo, hi, 5, axis=axis)
    for rounder in ("ste", qr.SineRound(forward="hard")):
        assert (qr.fake_quant(x, grid, rounder).numpy() == right.numpy()).all()
        assert (qr.fake_quant(x, grid, rounder, training=False).numpy() == right.numpy()).all()


def test_plain_arithmetic_gives_the_native_values_to_the_last_bits():
    lo, hi = random_ranges(200)
    x = tf.random.stateless_uniform([200, 200], [1, 2], -1.0, 1.0) * hi
    for narrow in (False, True):
        grid = qr.grid_from_range(lo, hi, 8, narrow)
        steps = (constant_fake_quant(x, grid) - native_fake_quant(x, grid)) / grid.step
        assert np.abs(steps).max() < 1e-4


# Soft values and gradients.


def reference(x, grid, rounder):
    """The formula of `fake_quant` in float64, over the float32 grid's numbers."""
    shape = [1] * x.ndim
    if grid.axis is not None:
        shape[grid.axis] = -1
    names = ("nudged_lo", "nudged_hi", "step")
    lo, hi, step = (
        np.reshape(getattr(grid, name).numpy().astype(np.float64), shape) for name in names
    )
    v = (np.clip(x.astype(np.float64), lo, hi) - lo) / step
    gradient = gradient_of(rounder, v) * ((x >= lo) & (x <= hi))
    return rounder(v).numpy() * step + lo, gradient, step


@pytest.mark.parametrize("rounder", GENTLE, ids=repr)
@pytest.mark.parametrize("size", [500, LARGE])
def test_a_soft_value_and_its_gradient_are_the_formula_per_tensor(rounder, size):
    x = np.random.default_rng(1).normal(0, 2, size).astype(np.float32)
    grid = qr.grid_from_range(-2.5, 3.0, 8)
    right_y, right_gradient, step = reference(x, grid, rounder)
    y = qr.fake_quant(x, grid, rounder).numpy()
    gradient = gradient_of(lambda x: qr.fake_quant(x, grid, rounder), x)
    assert np.abs((y - right_y) / step).max() < 1e-3
    np.testing.assert_allclose(gradient, right_gradient, atol=0.01)


@pytest.mark.parametrize("rounder", GENTLE, ids=repr)
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("size", [50, LARGE // 12])
def test_a_soft_value_and_its_gradient_are_the_formula_per_channel(rounder, axis, size):
    shape = np.roll((size, 3, 4), axis)
    x = np.random.default_rng(1).normal(0, 2, shape).astype(np.float32)
    channels = shape[axis]
    lo, hi = (ends[:channels] for ends in random_ranges(max(channels, 2)))
    grid = qr.grid_from_range(lo, hi, 4, axis=axis)
    right_y, right_gradient, step = reference(x, grid, rounder)
    y = qr.fake_quant(x, grid, rounder).numpy()
    gradient = gradient_of(lambda x: qr.fake_quant(x, grid, rounder), x)
    assert np.abs((y - right_y) / step).max() < 1e-3
    np.testing.assert_allclose(gradient, right_gradient, atol=0.01)


@pytest.mark.parametrize("graph", [True, False])
def test_a_loop_over_many_waves_can_be_compiled(graph):
    x = np.random.default_rng(1).normal(0, 2, LARGE).astype(np.float32)
    rounder, grid = qr.FourierRound(terms=20, sigma=True), qr.grid_from_range(-2.5, 3.0, 4)
    right_y, right_gradient, step = reference(x, grid, rounder)

    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = qr.fake_quant(x, grid, rounder)
        return y, tape.gradient(y, x)

    y, gradient = (tf.function(run) if graph else run)(tf.constant(x))
    assert np.abs((y - right_y) / step).max() < 1e-3
    np.testing.assert_allclose(gradient, right_gradient, atol=0.01)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("size", [300, LARGE])
def test_gradients_are_clipped_where_the_native_op_clips_them(name, size):
    grid = qr.grid_from_range(-1.1, 2.3, 4)
    ends = [grid.nudged_lo.numpy(), grid.nudged_hi.numpy()]
    beside = [np.nextafter(end, side) for end in ends for side in (-np.inf, np.inf)]
    x = np.concatenate([np.linspace(-3, 4, size), ends, beside]).astype(np.float32)
    right = gradient_of(lambda x: native(x, -1.1, 2.3, num_bits=4), x)
    for forward in ("soft", "hard"):
        rounder = qr.get(name, forward=forward)
        gradient = gradient_of(lambda x, r=rounder: qr.fake_quant(x, grid, r), x)
        assert (gradient[right == 0] == 0).all()
        if name in ("expected", "stochastic", "ste"):
            assert (gradient == right).all()


def test_a_hard_forward_keeps_the_soft_gradient():
    x = np.random.default_rng(1).normal(0, 2, 1_000).astype(np.float32)
    grid = qr.grid_from_range(-2.0, 2.0, 4)
    soft, hard = (
        gradient_of(lambda x, f=f: qr.fake_quant(x, grid, qr.SigmoidRound(slope=5.0, forward=f)), x)
        for f in ("soft", "hard")
    )
    assert (soft == hard).all()


def test_knobs_may_be_tensors():
    x, grid = tf.linspace(-3.0, 3.0, 500), qr.grid_from_range(-2.0, 2.0, 4)
    for size in (1, 100):  # plain and compiled
        many = tf.tile(x, [size])
        y = qr.fake_quant(many, grid, qr.SigmoidRound(), slope=tf.constant(5.0)).numpy()
        right = qr.fake_quant(many, grid, qr.SigmoidRound(slope=5.0)).numpy()
        np.testing.assert_allclose(y, right, rtol=0, atol=1e-6)


def test_draws_follow_the_key():
    x, grid = tf.linspace(-2.0, 2.0, LARGE), qr.grid_from_range(-2.0, 2.0, 4)
    keys = [tf.constant([7, draw], tf.int64) for draw in (0, 0, 1)]
    first, again, other = (qr.fake_quant(x, grid, "stochastic", key=key).numpy() for key in keys)
    assert (first == again).all()
    assert 0.05 < (first != other).mean() < 0.6
    assert abs(first.mean()) < 0.01, "right on average"


# Dtypes, shapes, and numbers that are none.


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("rounder", ["ste", qr.SineRound(), qr.SineRound(forward="hard")])
@pytest.mark.parametrize("size", [300, LARGE])
def test_other_dtypes_are_computed_in_float32_and_kept(dtype, rounder, size):
    x = tf.cast(tf.linspace(-3.0, 3.0, size), dtype)
    grid = qr.grid_from_range(-2.0, 2.0, 4)
    for training in (True, False):
        quantize = lambda x, t=training: qr.fake_quant(x, grid, rounder, training=t)  # noqa: E731
        single = tf.cast(x, tf.float32)
        y, right = quantize(x), tf.cast(quantize(single), dtype)
        assert y.dtype == x.dtype
        assert (y.numpy() == right.numpy()).all()
        gradient = gradient_of(quantize, x)
        assert gradient.dtype == x.dtype.as_numpy_dtype
        right = tf.cast(gradient_of(quantize, single), dtype)
        np.testing.assert_allclose(gradient.astype(float), right.numpy().astype(float), atol=0.01)


@pytest.mark.parametrize("name", METHODS)
def test_infinity_saturates_and_nan_touches_nothing_else(name):
    x = tf.constant([np.inf, -np.inf, np.nan, 0.5, 5.0])
    right = native(x, -1.0, 2.0, num_bits=4).numpy()
    grid = qr.grid_from_range(-1.0, 2.0, 4)
    for forward in ("soft", "hard"):
        y = qr.fake_quant(x, grid, qr.get(name, forward=forward)).numpy()
        np.testing.assert_allclose(y[[0, 1, 4]], right[[0, 1, 4]], atol=1e-6)
        assert np.isnan(y[2])
        assert np.isfinite(y[3])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("size", [100, LARGE])
def test_the_empty_range_stands_for_zero(name, size):
    x = tf.linspace(-3.0, 3.0, size)
    for forward in ("soft", "hard"):
        rounder = qr.get(name, forward=forward)
        quantize = lambda x, r=rounder: qr.fake_quant(x, qr.grid_from_range(0.0, 0.0), r)  # noqa: E731
        assert (quantize(x).numpy() == 0).all()
        assert np.isfinite(gradient_of(quantize, x)).all()


@pytest.mark.parametrize("size", [101, LARGE + 1])
def test_outside_of_the_empty_range_there_is_no_gradient(size):
    x = tf.linspace(-3.0, 3.0, size)  # the native op has 1 everywhere; the formula says 0
    gradient = gradient_of(lambda x: qr.fake_quant(x, qr.grid_from_range(0.0, 0.0)), x)
    assert ((gradient == 1.0) == (x.numpy() == 0.0)).all()
    assert (gradient[x.numpy() != 0.0] == 0.0).all()


@pytest.mark.parametrize("name", METHODS)
def test_an_empty_channel_leaves_the_others_alone(name):
    x = tf.random.stateless_normal([50, 2], [1, 2])
    rounder = qr.StochasticRound(seed=1) if name == "stochastic" else qr.get(name)
    alone = qr.fake_quant(x, qr.grid_from_range([-1.0, -1.0], [1.0, 1.0]), rounder).numpy()
    both = qr.fake_quant(x, qr.grid_from_range([-1.0, 0.0], [1.0, 0.0]), rounder).numpy()
    assert (both[:, 0] == alone[:, 0]).all()
    assert (both[:, 1] == 0).all()


@pytest.mark.parametrize("hi", [1e-34, 1e-30, 1e30, 1e36])
def test_tiny_and_huge_ranges_stay_finite(hi):
    """Below 1e-35 the step is no normal float32; the native op gives NaN there too."""
    x = tf.linspace(-2.0, 2.0, 100) * hi
    grid = qr.grid_from_range(-hi, hi)
    for name in METHODS:
        y = qr.fake_quant(x, grid, name).numpy()
        assert np.isfinite(y).all(), name
        assert np.abs(y).max() <= 1.1 * hi


def test_a_range_beside_zero_is_moved_as_in_the_native_op():
    x = tf.linspace(-3.0, 3.0, 1_000)
    for lo, hi in ((0.5, 1.0), (-2.0, -1.0)):
        y = qr.fake_quant(x, qr.grid_from_range(lo, hi)).numpy()
        assert (y == native(x, lo, hi).numpy()).all()


@pytest.mark.parametrize("rounder", ["sine", "ste"])
def test_shapes_may_be_unknown_inside_a_tf_function(rounder):
    grid = qr.grid_from_range(-1.0, 1.0, 4)
    quantize = lambda x: qr.fake_quant(x, grid, rounder)  # noqa: E731
    for spec in (None, [None], [None, None, 3]):
        traced = tf.function(quantize, input_signature=[tf.TensorSpec(spec)])
        x = tf.random.stateless_normal([3] if spec == [None] else [2, 4, 3], [1, 2])
        np.testing.assert_allclose(traced(x).numpy(), quantize(x).numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(), (0,), (0, 3)])
def test_scalars_and_empty_tensors_pass(shape):
    y = qr.fake_quant(tf.fill(shape, 0.3), qr.grid_from_range(-1.0, 1.0), "sine")
    assert y.shape == shape


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("size", [300, LARGE])
def test_a_graph_gives_what_eager_execution_gives(name, size):
    x = tf.linspace(-3.0, 3.0, size)
    grid, key = qr.grid_from_range(-2.0, 2.0, 4), tf.constant([1, 2], tf.int64)
    state = {"key": key} if name == "stochastic" else {}
    quantize = lambda x: qr.fake_quant(x, grid, name, **state)  # noqa: E731
    near = 2e-3 if name in ("ramp", "sigmoid") else 1e-5  # steep: the last bit of x counts
    np.testing.assert_allclose(tf.function(quantize)(x), quantize(x), rtol=0, atol=near)


@pytest.mark.parametrize("name", METHODS)
def test_a_hard_forward_is_the_native_op_in_a_graph_too(name):
    x = tf.random.stateless_normal([LARGE], [1, 2])
    grid, rounder = qr.grid_from_range(-2.0, 1.7, 8), qr.get(name, forward="hard")
    y = tf.function(lambda x: qr.fake_quant(x, grid, rounder))(x)
    assert (y.numpy() == native(x, -2.0, 1.7).numpy()).all()
