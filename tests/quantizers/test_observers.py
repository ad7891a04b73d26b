"""Observers see every tensor and decide what comes out."""

from __future__ import annotations

import pytest
import tensorflow as tf

import qat_round as qr
from qat_round.quantizers.observers import observing
from qat_round.quantizers.quantized_tensors import is_first_guess
from tests.models.nets import normal
from tests.models.probe import built

# Observers.


def test_an_observer_sees_every_tensor_and_decides_what_comes_out():
    quantizer = qr.RoundingQuantizer(4, "sine")
    x, weights, seen = normal(20, 4), built(quantizer), []

    def observer(*found):
        seen.append(found)
        return found[1] * 2.0

    with observing(observer):
        y = quantizer(x, True, weights)
    assert (y.numpy() == 2.0 * x.numpy()).all()
    assert seen[0][0] is quantizer
    assert seen[0][2] is weights
    assert is_first_guess(quantizer, weights), "nothing was trained"
    assert (quantizer(x, True, weights).numpy() != y.numpy()).any(), "the observer has gone"


def test_the_innermost_observer_counts_and_errors_close_it():
    quantizer = qr.RoundingQuantizer(4, "ste")
    weights = built(quantizer)

    def broken(*_):
        raise RuntimeError("on purpose")

    with observing(lambda q, x, w: x + 1.0):
        with pytest.raises(RuntimeError), observing(broken):
            quantizer(tf.zeros([2]), False, weights)
        assert quantizer(tf.zeros([2]), False, weights).numpy().tolist() == [1.0, 1.0]
    assert quantizer(tf.zeros([2]), False, weights).numpy().tolist() == [0.0, 0.0]
