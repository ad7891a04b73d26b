"""Bits that go down while training."""

from __future__ import annotations

import numpy as np
import pytest
import tf_keras as keras

import qat_round as qr
from qat_round.quantizers.quantized_tensors import quantized_tensors
from tests.models import nets
from tests.models.quantized_nets import low_bit_dense

# Oscillation, fewer bits.


def test_bits_go_down_while_training():
    x, y = nets.vectors(), np.zeros((64, 3))
    q = low_bit_dense(keras.optimizers.Adam(0.05), "mse")
    seen = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: seen.append(sorted({t.bits for t in quantized_tensors(q)}))
    )
    plan = qr.LowerBits({0: (4, 6), 1: (2, 4)}, x)
    q.fit(x, y, epochs=3, verbose=0, callbacks=[plan, look])
    assert seen == [[4, 6, 8], [2, 4, 8], [2, 4, 8]]
    with pytest.raises(ValueError, match="the plan is empty"):
        qr.LowerBits({}, x)


# Fewer bits while training.


def test_a_training_that_goes_on_has_the_bits_of_its_epoch():
    x, y, plan = nets.vectors(), np.zeros((64, 3)), {0: (4, 6), 2: (2, 4)}
    whole, parts = (
        low_bit_dense(keras.optimizers.SGD(1e-3)),
        low_bit_dense(keras.optimizers.SGD(1e-3)),
    )
    whole.fit(x, y, epochs=4, verbose=0, shuffle=False, callbacks=[qr.LowerBits(plan, x)])
    parts.fit(x, y, epochs=1, verbose=0, shuffle=False, callbacks=[qr.LowerBits(plan, x)])
    again = low_bit_dense(
        keras.optimizers.SGD(1e-3)
    )  # as in a new process: made with the bits of the end
    again.set_weights(parts.get_weights())
    seen = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: seen.append(sorted({t.bits for t in quantized_tensors(again)}))
    )
    lower = qr.LowerBits(plan, x)
    again.fit(x, y, initial_epoch=1, epochs=4, verbose=0, shuffle=False, callbacks=[lower, look])
    assert seen == [[4, 6, 8], [2, 4, 8], [2, 4, 8]]
    for ours, theirs in zip(again.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
