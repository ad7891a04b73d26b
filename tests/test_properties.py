"""What holds for every value, checked on drawn ones."""

from __future__ import annotations

import json
import math
import os

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import qat_round as qr
from qat_round._compat import read_toml
from qat_round.quantizers.learned_ranges import Learned, Pact
from qat_round.quantizers.model_spec import ModelSpec
from qat_round.quantizers.ranges import (
    AllValues,
    Fixed,
    LastValue,
    MovingAverage,
    get_range,
    measure,
)
from qat_round.training import schedules

MANY = int(os.environ.get("QAT_ROUND_EXAMPLES", "25"))  # `make test-long` draws 1000
drawn = settings(
    max_examples=MANY,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)

finite = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)  # TensorFlow flushes those to 0
positive = st.floats(2.0**-20, 2.0**20, width=32)
bits = st.integers(2, 16)
values = st.lists(finite, min_size=1, max_size=20)
rounders = st.one_of(
    st.sampled_from(qr.names()),
    st.floats(0.5, 1e3).map(lambda k: qr.TanhRound(sharpness=k)),
    st.floats(0.5, 1e3).map(lambda k: qr.SigmoidRound(slope=k)),
    st.floats(0.0, 1.0).map(lambda k: qr.SineRound(identity=k)),
)
ranges = st.one_of(
    st.just(LastValue()),
    st.just(AllValues()),
    st.floats(0.0, 0.9999).map(MovingAverage),
    st.tuples(st.floats(-100.0, 0.0), st.floats(0.01, 100.0)).map(lambda ends: Fixed(*ends)),
    st.builds(Learned, zero_point=st.booleans(), rate=st.floats(0.01, 10.0)),
    st.builds(Pact, l2=st.floats(0.0, 1.0), rate=st.floats(0.01, 10.0)),
)
tensor_specs = st.none() | st.builds(
    qr.TensorSpec,
    bits=st.none() | bits,
    rounder=st.none() | rounders,
    range=st.none() | ranges,
    symmetric=st.none() | st.booleans(),
    per_axis=st.none() | st.booleans(),
)
layer_specs = st.builds(qr.LayerSpec, weights=tensor_specs, activations=tensor_specs)


def inline(value) -> str:
    """Plain data as a TOML value."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(inline, value)) + "]"
    return json.dumps(value)


@drawn
@given(lo=st.floats(-1e6, 0.0, width=32), width=positive, b=bits, narrow=st.booleans())
def test_a_grid_holds_zero_and_its_width(lo, width, b, narrow):
    grid = qr.grid_from_range(lo, lo + width, b, narrow)
    zero = float(grid.zero_point)
    assert grid.qmin <= zero <= grid.qmax
    assert zero == int(zero)
    span = float(grid.nudged_hi - grid.nudged_lo)
    assert math.isclose(span, float(grid.hi - grid.lo), rel_tol=1e-5)
    assert float(grid.nudged_lo) <= 0.0 <= float(grid.nudged_hi)


@drawn
@given(x=values, b=bits, narrow=st.booleans())
def test_values_on_a_grid_are_within_half_a_step_and_stay(x, b, narrow):
    x = tf.constant(x, tf.float32)
    lo, hi = measure(x, None, False, b, narrow)
    grid = qr.grid_from_range(lo, hi, b, narrow)
    y = qr.fake_quant(x, grid, training=False)
    inside = tf.clip_by_value(x, grid.nudged_lo, grid.nudged_hi)
    step = float(grid.step)
    assert float(tf.reduce_max(tf.abs(y - inside))) <= 0.5 * step * (1.0 + 1e-3) + 1e-30
    again = qr.fake_quant(y, grid, training=False)
    np.testing.assert_allclose(again, y, atol=1e-3 * step)


@drawn
@given(x=st.lists(st.floats(-8.0, 8.0, width=32), min_size=1, max_size=20), rounder=rounders)
def test_every_rounder_stays_in_its_cell_and_its_gradient_is_finite(x, rounder):
    x = tf.Variable(x)
    with tf.GradientTape() as tape:
        y = qr.get(rounder)(x, training=True)
    gradient = tape.gradient(y, x)
    assert np.isfinite(gradient).all()
    low, high = np.floor(x.numpy()), np.ceil(x.numpy())
    assert (y.numpy() >= low - 0.51).all()
    assert (y.numpy() <= high + 0.51).all()
    hard = qr.get(rounder)(x, training=False).numpy()
    np.testing.assert_array_equal(hard, np.floor(x.numpy().astype(np.float64) + 0.5))


@drawn
@given(batches=st.lists(values, min_size=1, max_size=5), range_=ranges, poison=st.integers(0, 4))
def test_a_range_stays_finite_and_holds_zero(batches, range_, poison):
    layer = tf.keras.layers.Layer()
    quantizer = qr.RoundingQuantizer(8, "ste", range_)
    weights = quantizer.build((None,), "x", layer)
    for number, batch in enumerate(batches):
        bad = [math.nan] if number == poison else []
        quantizer(tf.constant(batch + bad, tf.float32), True, weights)
        lo, hi = (float(weights[end].numpy()) for end in ("min_var", "max_var"))
        assert math.isfinite(lo)
        assert math.isfinite(hi)
        assert lo <= 1e-6 * hi
        assert hi >= 1e-6 * lo


@drawn
@given(batches=st.lists(values, min_size=1, max_size=5))
def test_all_values_do_not_depend_on_the_order(batches):
    found = []
    for order in (batches, batches[::-1]):
        layer = tf.keras.layers.Layer()
        quantizer = qr.RoundingQuantizer(8, "ste", "all_values")
        weights = quantizer.build((None,), "x", layer)
        for batch in order:
            quantizer(tf.constant(batch, tf.float32), True, weights)
        found.append([float(weights[end].numpy()) for end in ("min_var", "max_var")])
    every = np.float32(sum(batches, []))
    assert found[0] == found[1] == [min(every.min(), 0.0), max(every.max(), 0.0)]


@drawn
@given(spec=layer_specs, other=layer_specs)
def test_specs_survive_json_and_toml(spec, other):
    model = ModelSpec(spec, {"dense_*": other})
    config = model.get_config()
    assert ModelSpec.from_config(json.loads(json.dumps(config))) == model
    back = read_toml(f"quantize = {inline(config)}")["quantize"]
    assert ModelSpec.from_config(back) == model


@drawn
@given(range_=ranges, rounder=rounders)
def test_ranges_and_rounders_survive_json(range_, rounder):
    assert get_range(json.loads(json.dumps(range_.get_config()))) == range_
    made = qr.get(rounder)
    assert qr.get(json.loads(json.dumps(made.get_config()))) == made


@drawn
@given(start=positive, stop=positive, steps=st.integers(1, 10**6), step=st.integers(-5, 10**7))
@pytest.mark.parametrize("name", ["linear", "cosine", "exponential"])
def test_schedules_go_from_start_to_stop_and_no_farther(name, start, stop, steps, step):
    schedule = getattr(schedules, name)(start, stop, steps)
    assert math.isclose(schedule(0), start, rel_tol=1e-9)
    assert schedule(steps) == schedule(steps + 1) == stop
    slack = 1e-9 * max(start, stop)
    assert min(start, stop) - slack <= schedule(step) <= max(start, stop) + slack
    assert schedules.get(json.loads(json.dumps(schedule.get_config()))) == schedule
