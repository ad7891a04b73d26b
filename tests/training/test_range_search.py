"""Calibration by search: percentile, squared error, entropy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import qat_round as qr
from qat_round.quantizers.quantized_tensors import quantized_tensors
from qat_round.training.range_search import Histogram, Levels, best_ends, divergence, squared_error
from tests.models import nets

# Calibration.


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("narrow", [True, False])
def test_the_least_squared_error_is_that_of_a_brute_search(bits, narrow):
    x = np.random.default_rng(0).normal(size=3000)
    low, high = (-(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1)
    steps = np.linspace(0.01, 4.0, 4000)
    errors = [np.sum((np.clip(np.floor(x / s + 0.5), low, high) * s - x) ** 2) for s in steps]
    ends = np.array([low, high]) * max(np.max(x) / high, -np.min(x) / -low)
    found = best_ends(x, 1.0, ends, Levels(bits, narrow, True), squared_error)
    step = found[1] / high
    error = np.sum((np.clip(np.floor(x / step + 0.5), low, high) * step - x) ** 2)
    assert error <= 1.005 * min(errors)


def test_a_histogram_grows_and_forgets_nothing():
    histogram = Histogram()
    for scale in (0.1, 3.0, 50.0):
        histogram.add(np.linspace(-scale, scale, 101))
    assert histogram.counts.sum() == 300  # zeros are not counted
    assert (histogram.lo, histogram.hi) == (-50.0, 50.0)
    values, counts = histogram.values()
    assert np.sum(counts[np.abs(values) < 0.2]) == pytest.approx(104, abs=4)


def test_entropy_leaves_out_a_lone_outlier():
    values = np.concatenate([np.abs(np.random.default_rng(0).normal(size=20_000)), [40.0]])
    histogram = Histogram()
    histogram.add(values)
    ends = best_ends(
        *histogram.values(), np.array([0.0, 40.0]), Levels(8, False, False), divergence
    )
    assert 2.0 < ends[1] < 10.0


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "entropy"])
@pytest.mark.parametrize("kind", ["array", "dataset", "generator"])
def test_every_method_takes_every_kind_of_data(method, kind):
    x = nets.vectors(64)
    data = {
        "array": lambda: x,
        "dataset": lambda: tf.data.Dataset.from_tensor_slices(x).batch(32),
        "generator": lambda: (x[i : i + 32] for i in (0, 32)),
    }[kind]()
    q = qr.calibrate(qr.quantize_model(nets.dense_net(), recipe="w4a4"), data, method)
    same = qr.calibrate(qr.quantize_model(nets.dense_net(), recipe="w4a4"), x, method)
    for ours, theirs in zip(quantized_tensors(q), quantized_tensors(same), strict=True):
        np.testing.assert_array_equal(ours.weights["max_var"], theirs.weights["max_var"])


def test_a_percentile_cuts_what_is_beyond_it():
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.layers[0].set_weights([np.ones((1, 1)), np.zeros(1)])
    x = np.concatenate([np.linspace(0.0, 1.0, 990), np.full(10, 100.0)])[:, None].astype("float32")
    q = qr.calibrate(qr.quantize_model(model), x, "percentile", percentile=98.0)
    highs = [float(t.weights["max_var"]) for t in quantized_tensors(q) if t.variable is None]
    assert max(highs) == pytest.approx(1.0, abs=0.05)


def test_a_progress_bar_is_shown_on_request(capsys):
    q = qr.quantize_model(nets.dense_net())
    qr.calibrate(q, nets.vectors(), verbose=0)
    assert capsys.readouterr().out == ""
    qr.calibrate(q, nets.vectors(), verbose=1)
    assert "2/2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"method": "best"}, "unknown method 'best'"),
        ({"percentile": 10.0}, "has to be above 50"),
        ({"verbose": 7}, "verbose=7 is unknown"),
    ],
)
def test_calibration_refuses_what_it_does_not_know(settings, says):
    with pytest.raises(ValueError, match=says):
        qr.calibrate(qr.quantize_model(nets.dense_net()), nets.vectors(), **settings)


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
