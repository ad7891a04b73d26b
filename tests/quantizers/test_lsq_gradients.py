"""Learned ranges at the limits of their growth."""

from __future__ import annotations

import pytest
import tensorflow as tf

from qat_round.quantizers.learned_ranges import Learned, is_at_its_limit
from qat_round.quantizers.lsq_gradients import LEAST_GROWTH, MOST_GROWTH

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
