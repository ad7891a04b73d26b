"""How ranges are measured and kept, against float64 NumPy."""

import json

import numpy as np
import pytest
import tensorflow as tf

import qat_round as qr
from qat_round.quantizers.ranges import (
    AllValues,
    Fixed,
    LastValue,
    MovingAverage,
    Range,
    get_range,
    measure,
    range_names,
)

RANGES = [LastValue(), MovingAverage(), MovingAverage(0.9), AllValues(), Fixed(), Fixed(-1.0, 2.0)]


def follow(range_, batches):
    """The ends after each batch, from TFMOT's first guess on."""
    ends, kept = np.array([-6.0, 6.0], np.float32), []
    for seen, batch in enumerate(batches):
        new = measure(tf.constant(batch, tf.float32), None, False, 8, False)
        ends = range_.update(tf.constant(ends), new, tf.constant(float(seen))).numpy()
        kept.append(ends)
    return np.array(kept)


@pytest.fixture
def batches():
    rng = np.random.default_rng(0)
    return [rng.normal(0, 1 + seed, 50) for seed in range(6)]


def ends_of(batches):
    return np.array([[min(b.min(), 0), max(b.max(), 0)] for b in batches])


def test_the_last_value_is_the_last_batchs_range(batches):
    np.testing.assert_allclose(follow(LastValue(), batches), ends_of(batches), rtol=1e-6)


def test_all_values_only_widen_and_forget_the_first_guess(batches):
    ends = ends_of(batches)
    lows, highs = np.minimum.accumulate(ends[:, 0]), np.maximum.accumulate(ends[:, 1])
    kept = follow(AllValues(), batches)
    np.testing.assert_allclose(kept, np.stack([lows, highs], axis=1), rtol=1e-6)
    narrow = follow(AllValues(), [[-0.1, 0.1]])
    np.testing.assert_allclose(narrow, [[-0.1, 0.1]], rtol=1e-6)


def test_a_moving_average_starts_at_the_first_batch_and_averages_evenly(batches):
    kept = follow(MovingAverage(0.999), batches)
    running = np.cumsum(ends_of(batches), axis=0) / np.arange(1, 7)[:, None]
    np.testing.assert_allclose(kept, running, rtol=1e-5)


def test_a_moving_average_moves_from_one_over_one_minus_decay_batches_on(batches):
    decay, right = 0.5, ends_of(batches)
    kept = follow(MovingAverage(decay), batches)
    for i in range(2, 6):
        right[i] = decay * kept[i - 1] + (1 - decay) * right[i]
    np.testing.assert_allclose(kept[2:], right[2:], rtol=1e-5)


def test_a_decay_of_0_is_the_last_value(batches):
    kept = follow(MovingAverage(0.0), batches)
    np.testing.assert_allclose(kept, ends_of(batches), rtol=1e-5)


def test_a_fixed_range_does_not_move(batches):
    assert (follow(Fixed(-1.0, 2.0), batches) == [-6.0, 6.0]).all()
    assert [range_.follows_data for range_ in RANGES] == [True, True, True, True, False, False]


# Measuring.


@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1, -2])
def test_a_measured_range_is_least_and_greatest_per_channel(axis):
    x = np.random.default_rng(0).normal(0.2, 1, (4, 5, 6)).astype(np.float32)
    over = None if axis is None else tuple(i for i in range(3) if i != axis % 3)
    right = np.stack([np.minimum(x.min(axis=over), 0), np.maximum(x.max(axis=over), 0)])
    assert (measure(x, axis, False, 8, False).numpy() == right).all()


@pytest.mark.parametrize(
    ("x", "ends"), [([1.0, 3.0], [0, 3]), ([-3.0, -1.0], [-3, 0]), ([0.0], [0, 0])]
)
def test_a_measured_range_holds_zero(x, ends):
    assert measure(tf.constant(x, tf.float32), None, False, 8, False).numpy().tolist() == ends


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("bits", range(2, 17))
def test_a_symmetric_range_puts_zero_in_the_middle_and_loses_nothing(bits, narrow):
    rng = np.random.default_rng(bits)
    for _ in range(20):
        x = rng.normal(rng.normal(), 10 ** rng.uniform(-3, 3), 30).astype(np.float32)
        ends = measure(x, None, True, bits, narrow)
        grid = qr.grid_from_range(ends[0], ends[1], bits, narrow)
        assert grid.zero_point.numpy() == 2 ** (bits - 1)
        slack = grid.step.numpy() * 2.0 ** (bits - 20)  # some float32 roundings
        assert grid.nudged_lo.numpy() <= x.min() + slack
        assert grid.nudged_hi.numpy() >= x.max() - slack


@pytest.mark.parametrize("narrow", [False, True])
def test_a_symmetric_range_is_the_smallest(narrow):
    ratio = 1.0 if narrow else 254 / 256
    for x in ([-1.0, 0.2], [-0.2, 1.0], [-1.0, 1.0]):
        lo, hi = measure(tf.constant(x), None, True, 8, narrow).numpy()
        assert hi / -lo == pytest.approx(ratio)
        assert lo == pytest.approx(min(x[0], -x[1] / ratio))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_ranges_are_kept_in_float32(dtype):
    ends = measure(tf.cast([-0.5, 0.25], dtype), None, False, 8, False)
    assert ends.dtype == tf.float32
    assert ends.numpy().tolist() == [-0.5, 0.25]


# Names and configs.


@pytest.mark.parametrize("range_", RANGES, ids=repr)
def test_a_config_survives_json(range_):
    assert get_range(json.loads(json.dumps(range_.get_config()))) == range_


def test_ranges_are_found_by_name():
    ours = ["last_value", "moving_average", "all_values", "fixed", "learned", "pact"]
    assert range_names() == ours
    for name in range_names():
        assert get_range(name).name == name
    assert get_range({"name": "moving_average", "decay": 0.5}) == MovingAverage(0.5)
    assert get_range(LastValue()) == LastValue()


def test_numbers_of_numpy_become_plain():
    fixed = Fixed(np.float32(-1), np.float32(2))
    assert get_range(json.loads(json.dumps(fixed.get_config()))) == Fixed(-1.0, 2.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "last_valu",
            "Unknown range 'last_valu'; allowed are .*'fixed'.*Did you mean 'last_value'",
        ),
        ({"decay": 0.5}, "Unknown range None"),
        ({"name": "fixed", "low": 0}, r"range 'fixed' has no setting 'low'; it has \['lo', 'hi'\]"),
        ({"name": "moving_average", "decay": 1.0}, "decay=1.0 has to be in 0 <= decay < 1"),
        ({"name": "fixed", "lo": -1.0}, "give both ends or neither, not lo=-1.0, hi=None"),
        ({"name": "fixed", "lo": 0.5, "hi": 1.0}, "lo=0.5, hi=1.0 has to enclose 0"),
        ({"name": "fixed", "lo": 0.0, "hi": 0.0}, "has to enclose 0"),
        ({"name": "fixed", "lo": -np.inf, "hi": 1.0}, "lo=-inf, hi=1.0 has to enclose 0"),
        ({"name": "fixed", "lo": np.nan, "hi": 1.0}, "lo=nan, hi=1.0 has to enclose 0"),
    ],
)
def test_ranges_that_mean_nothing_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        get_range(given)


def test_what_is_no_range_is_refused():
    with pytest.raises(TypeError, match="range=3 is a int; give a name out of"):
        get_range(3)
    with pytest.raises(TypeError, match="Fixed: lo='0' has to be a number"):
        Fixed("0", 1.0)
    with pytest.raises(TypeError, match="MovingAverage: decay=None has to be a number"):
        MovingAverage(None)
    with pytest.raises(TypeError, match="Range has to define update"):
        Range().update(None, None, None)
