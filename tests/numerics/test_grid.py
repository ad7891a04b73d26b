"""The grid, against TensorFlow's own fake-quant op and TFLite's formula."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import qat_round as qr
from qat_round.numerics.grid import check_bits
from tests.numerics.ranges import random_ranges

ALL_BITS = range(2, 17)
native_per_channel = tf.quantization.fake_quant_with_min_max_vars_per_channel


# The grid.


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("bits", ALL_BITS)
def test_the_grids_ends_are_the_native_ops_to_the_last_bit(bits, narrow):
    lo, hi = random_ranges(5_000, seed=bits)
    grid = qr.grid_from_range(lo, hi, bits, narrow)
    far = tf.constant([[-1e30], [1e30]]) * tf.ones_like(lo)  # the op gives its nudged ends
    ends = native_per_channel(far, lo, hi, num_bits=bits, narrow_range=narrow).numpy()
    assert (grid.nudged_lo.numpy() == ends[0]).all()
    assert (grid.nudged_hi.numpy() == ends[1]).all()


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("bits", ALL_BITS)
def test_the_grid_is_tflites_formula(bits, narrow):
    lo, hi = (ends.astype(np.float64) for ends in random_ranges(5_000, seed=bits))
    grid = qr.grid_from_range(lo, hi, bits, narrow)
    qmin, qmax = int(narrow), 2**bits - 1
    step = (hi - lo) / (qmax - qmin)
    zero_point = qmin - lo / step
    assert (grid.qmin, grid.qmax) == (qmin, qmax)
    np.testing.assert_allclose(grid.step, step, rtol=1e-6)  # some float32 roundings
    level = grid.zero_point.numpy()
    assert (level == np.round(level)).all()
    assert (level >= qmin).all()
    assert (level <= qmax).all()
    near = 0.5 + 2.0**bits * 2.0**-22
    assert (np.abs(level - zero_point) <= near).all(), "the zero point is not the nearest level"


def test_zero_is_on_every_grid():
    for bits in ALL_BITS:
        lo, hi = random_ranges(1_000, seed=bits)
        x = tf.zeros([1, 1_000])
        assert (qr.fake_quant(x, qr.grid_from_range(lo, hi, bits)).numpy() == 0).all()


def test_narrow_range_leaves_out_the_lowest_level():
    full, narrow = (qr.grid_from_range(-1.0, 1.0, 3, narrow) for narrow in (False, True))
    x = tf.linspace(-2.0, 2.0, 1_001)
    assert len(np.unique(qr.fake_quant(x, full))) == 8
    assert len(np.unique(qr.fake_quant(x, narrow))) == 7


@pytest.mark.parametrize("bits", [1, 17, 0, -8, 8.0, True, "8", None])
def test_bits_outside_of_2_to_16_are_refused(bits):
    with pytest.raises(ValueError, match="has to be a whole number from 2 to 16"):
        check_bits(bits)
    with pytest.raises(ValueError, match="has to be a whole number from 2 to 16"):
        qr.grid_from_range(-1.0, 1.0, bits)
