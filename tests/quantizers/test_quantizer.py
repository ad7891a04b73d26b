"""The quantizer that TFMOT's layers hold: its values, its state, its config."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import qat_round as qr
from qat_round.quantizers.quantized_tensors import is_first_guess
from qat_round.quantizers.ranges import Fixed, MovingAverage, measure
from tests.models.nets import normal
from tests.models.probe import built
from tests.rounding.table import METHODS

RANGES = ["last_value", "moving_average", "all_values", "fixed", Fixed(-1.0, 2.0)]

native = tf.quantization.fake_quant_with_min_max_vars
native_per_channel = tf.quantization.fake_quant_with_min_max_vars_per_channel


# Values.


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", range(2, 17))
def test_training_a_hard_forward_and_inference_are_the_native_op(bits, symmetric, narrow):
    x = normal(50, 4)
    for rounder in ("ste", qr.SineRound(forward="hard")):
        quantizer = qr.RoundingQuantizer(bits, rounder, symmetric=symmetric, narrow_range=narrow)
        weights = built(quantizer)
        y = quantizer(x, True, weights).numpy()
        lo, hi = weights["min_var"], weights["max_var"]
        right = native(x, lo, hi, num_bits=bits, narrow_range=narrow).numpy()
        assert (y == right).all()
        assert (quantizer(x, False, weights).numpy() == right).all()
        assert [lo.numpy(), hi.numpy()] == measure(
            x, None, symmetric, bits, narrow
        ).numpy().tolist()


@pytest.mark.parametrize("axis", [-1, 0, 1, (-2, -1)])
@pytest.mark.parametrize("bits", range(2, 17, 7))
def test_each_channel_has_its_own_grid(bits, axis):
    x = normal(5, 3, 4) * [0.01, 1.0, 5.0, 30.0]
    quantizer = qr.RoundingQuantizer(bits, "ste", symmetric=True, per_axis=True, axis=axis)
    weights = built(quantizer, x.shape)
    y = quantizer(x, True, weights).numpy()
    joined = x.numpy().reshape(5, 12) if axis == (-2, -1) else np.moveaxis(x.numpy(), axis, -1)
    channels = joined.shape[-1]
    assert weights["min_var"].shape == weights["max_var"].shape == (channels,)
    lo, hi = weights["min_var"], weights["max_var"]
    right = native_per_channel(joined, lo, hi, num_bits=bits).numpy()
    right = right.reshape(x.shape) if axis == (-2, -1) else np.moveaxis(right, -1, axis)
    assert (y == right).all()
    assert (quantizer(x, False, weights).numpy() == right).all()


@pytest.mark.parametrize("name", METHODS)
def test_soft_values_stay_within_a_step_of_hard_ones(name):
    x = normal(200, 4)
    quantizer = qr.RoundingQuantizer(4, name)
    weights = built(quantizer)
    soft, hard = quantizer(x, True, weights), quantizer(x, False, weights)
    step = quantizer.grid(weights).step.numpy()
    assert np.abs(soft - hard).max() <= 1.01 * step
    steep = name in ("ste", "ramp", "sigmoid")  # the defaults are nearly hard
    assert (np.abs(soft - hard).mean() < 0.01 * step) == steep


@pytest.mark.parametrize("training", [True, False])
def test_training_may_be_a_tensor(training):
    quantizer = qr.RoundingQuantizer(4, "sine")
    x, weights = normal(20, 4), built(quantizer)
    right = quantizer(x, training, weights).numpy()
    traced = tf.function(lambda x, training: quantizer(x, training, weights))
    np.testing.assert_allclose(traced(x, tf.constant(training)), right, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes_are_kept(dtype):
    quantizer = qr.RoundingQuantizer(8, "sine")
    x, weights = tf.cast(normal(20, 4), dtype), built(quantizer)
    for training in (True, False):
        y = quantizer(x, training, weights)
        assert y.dtype == x.dtype
        single = tf.cast(quantizer(tf.cast(x, tf.float32), training, weights), dtype)
        assert (y.numpy() == single.numpy()).all()


def test_inference_changes_no_state():
    for range_ in RANGES:
        quantizer = qr.RoundingQuantizer(8, "stochastic", range=range_)
        weights = built(quantizer)
        before = {role: variable.numpy().tolist() for role, variable in weights.items()}
        quantizer(normal(20, 4, scale=9.0), False, weights)
        assert {role: v.numpy().tolist() for role, v in weights.items()} == before


# State.


def test_the_weights_of_the_state_are_named_after_the_tensor_and_not_trainable():
    for name, knobs in (("sigmoid", ["slope", "center"]), ("ramp", ["threshold", "gain"])):
        quantizer = qr.RoundingQuantizer(8, name)
        weights = built(quantizer, name="kernel")
        assert list(weights) == ["min_var", "max_var", "seen", *knobs]
        assert [v.name for v in weights.values()][:3] == [
            "kernel_min:0",
            "kernel_max:0",
            "kernel_seen:0",
        ]
        assert not any(v.trainable for v in weights.values())
        for knob in knobs:
            assert weights[knob].numpy() == np.float32(getattr(quantizer.rounder, knob))


@pytest.mark.parametrize("range_", RANGES[:3])
def test_ranges_follow_the_data(range_):
    quantizer = qr.RoundingQuantizer(8, "ste", range=range_)
    weights = built(quantizer)
    batches = [normal(50, 4, seed=seed, scale=seed + 1) for seed in range(4)]
    for batch in batches:
        quantizer(batch, True, weights)
    lows = [float(tf.reduce_min(batch)) for batch in batches]
    right = {"last_value": lows[-1], "moving_average": np.mean(lows), "all_values": min(lows)}
    assert weights["min_var"].numpy() == pytest.approx(right[range_], rel=1e-5)
    assert weights["seen"].numpy() == 4


def test_a_moving_average_starts_at_the_first_batch_not_at_the_first_guess():
    quantizer = qr.RoundingQuantizer(8, "ste", range="moving_average")
    weights = built(quantizer)
    assert [weights["min_var"].numpy(), weights["max_var"].numpy()] == [-6.0, 6.0]
    quantizer(tf.constant([-0.5, 0.25]), True, weights)
    assert [weights["min_var"].numpy(), weights["max_var"].numpy()] == [-0.5, 0.25]


def test_after_calibration_a_moving_average_moves_slowly():
    quantizer = qr.RoundingQuantizer(8, "ste", range=MovingAverage(0.9))
    weights = built(quantizer)
    quantizer.set_range(weights, [-1.0, 1.0])
    quantizer(tf.constant([-2.0, 3.0]), True, weights)
    ends = [weights["min_var"].numpy(), weights["max_var"].numpy()]
    assert ends == pytest.approx([-1.1, 1.2])


def test_a_fixed_range_keeps_its_ends_or_waits_for_calibration():
    given = qr.RoundingQuantizer(8, "ste", range=Fixed(-1.0, 2.0))
    weights = built(given)
    given(normal(20, 4, scale=9.0), True, weights)
    given.set_range(weights, [-5.0, 5.0])
    assert [weights["min_var"].numpy(), weights["max_var"].numpy()] == [-1.0, 2.0]
    assert not is_first_guess(given, weights)

    waiting = qr.RoundingQuantizer(8, "ste", range="fixed")
    weights = built(waiting)
    waiting(normal(20, 4, scale=9.0), True, weights)
    assert is_first_guess(waiting, weights)
    waiting.set_range(weights, [-5.0, 5.0])
    waiting(normal(20, 4, scale=9.0), True, weights)
    assert [weights["min_var"].numpy(), weights["max_var"].numpy()] == [-5.0, 5.0]
    assert not is_first_guess(waiting, weights)


@pytest.mark.parametrize("range_", RANGES[:3])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_batch_with_nan_or_infinity_neither_moves_the_range_nor_counts(range_, bad):
    quantizer = qr.RoundingQuantizer(8, "ste", range=range_)
    weights = built(quantizer)
    quantizer(tf.constant([0.5, bad]), True, weights)
    assert is_first_guess(quantizer, weights)
    quantizer(tf.constant([-0.5, 0.25]), True, weights)
    quantizer(tf.constant([0.5, bad]), True, weights)
    assert [weights[w].numpy() for w in ("min_var", "max_var", "seen")] == [-0.5, 0.25, 1.0]


def test_knobs_in_the_state_are_those_that_round():
    quantizer = qr.RoundingQuantizer(4, qr.SigmoidRound(slope=5.0))
    x, weights = normal(50, 4), built(quantizer)
    before = quantizer(x, True, weights).numpy()
    weights["slope"].assign(50.0)
    steep = qr.RoundingQuantizer(4, qr.SigmoidRound(slope=50.0))
    right = steep(x, True, built(steep)).numpy()
    assert (quantizer(x, True, weights).numpy() == right).all()
    assert np.abs(before - right).max() > 0.01


def test_draws_differ_from_step_to_step_and_repeat_from_run_to_run():
    x = tf.fill([1_000], 0.3)
    runs = []
    for _ in range(2):
        quantizer = qr.RoundingQuantizer(2, qr.StochasticRound(seed=1), range=Fixed(0.0, 3.0))
        weights = built(quantizer)
        runs.append([quantizer(x, True, weights).numpy() for _ in range(2)])
    assert (runs[0][0] == runs[1][0]).all()
    assert (runs[0][1] == runs[1][1]).all()
    assert (runs[0][0] != runs[0][1]).any()


def test_each_tensor_has_draws_of_its_own():
    quantizer = qr.RoundingQuantizer(2, qr.StochasticRound(seed=1), range=Fixed(0.0, 3.0))
    x = tf.fill([1_000], 0.3)
    first, second = (quantizer(x, True, built(quantizer, name=n)).numpy() for n in ("a", "b"))
    assert (first != second).any()


def test_the_gradient_reaches_x_and_not_the_range():
    quantizer = qr.RoundingQuantizer(4, "sine")
    x, weights = normal(50, 4), built(quantizer)
    with tf.GradientTape() as tape:
        tape.watch([x, weights["min_var"], weights["max_var"]])
        y = tf.reduce_sum(quantizer(x, True, weights))
    dx, dlo, dhi = tape.gradient(y, [x, weights["min_var"], weights["max_var"]])
    assert np.abs(dx).max() > 0
    assert dlo is None or float(dlo) == 0.0
    assert dhi is None or float(dhi) == 0.0


# Settings and configs.


@pytest.mark.parametrize("range_", RANGES)
@pytest.mark.parametrize("name", METHODS)
def test_a_config_survives_json(name, range_):
    quantizer = qr.RoundingQuantizer(5, name, range_, True, True, True, axis=0)
    config = json.loads(json.dumps(quantizer.get_config()))
    read = qr.RoundingQuantizer.from_config(config)
    assert read == quantizer
    assert hash(read) == hash(quantizer)
    assert read.get_config() == quantizer.get_config()


def test_each_setting_tells_quantizers_apart():
    changes = {
        "bits": 4,
        "rounder": "sine",
        "range": "all_values",
        "symmetric": True,
        "per_axis": True,
        "narrow_range": True,
        "axis": 0,
    }
    for setting, value in changes.items():
        assert qr.RoundingQuantizer(**{setting: value}) != qr.RoundingQuantizer(), setting


def test_keras_serializes_it():
    quantizer = qr.RoundingQuantizer(4, qr.SigmoidRound(slope=3.0), MovingAverage(0.5))
    written = keras.utils.legacy.serialize_keras_object(quantizer)
    assert keras.utils.legacy.deserialize_keras_object(json.loads(json.dumps(written))) == quantizer


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 1}, "bits=1 has to be a whole number from 2 to 16"),
        ({"bits": 17}, "bits=17 has to be"),
        ({"rounder": "sin"}, "Unknown rounder 'sin'"),
        ({"range": "last"}, "Unknown range 'last'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        qr.RoundingQuantizer(**settings)


@pytest.mark.parametrize("shape", [None, (3, None)])
def test_channels_of_unknown_number_are_refused(shape):
    with pytest.raises(
        ValueError, match=r"per_axis=True needs the size of axis -1 of 'x'.*per_axis"
    ):
        built(qr.RoundingQuantizer(per_axis=True), shape)
