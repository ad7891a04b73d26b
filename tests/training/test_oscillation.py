"""Weights that oscillate: counted, frozen, dampened."""

from __future__ import annotations

import numpy as np
import pytest
import tf_keras as keras

import qat_round as qr
from qat_round.quantizers.quantized_tensors import quantized_tensors
from tests.models import nets
from tests.models.quantized_nets import low_bit_dense

# Oscillation, fewer bits.


def test_a_weight_that_turns_is_counted_and_one_that_moves_on_is_not():
    monitor = qr.OscillationMonitor(momentum=0.5)
    monitor._levels, monitor._direction = {"a": np.array([0.0, 0.0])}, {"a": np.zeros(2)}
    monitor.frequency = {"a": np.zeros(2)}
    for levels in ([1.0, 1.0], [0.0, 2.0], [1.0, 3.0]):
        monitor._count("a", np.array(levels))
    assert monitor.frequency["a"].tolist() == [0.75, 0.0]
    assert monitor.share(0.5) == 0.5


def test_frozen_weights_stay_on_their_level():
    x, y = nets.vectors(), np.random.default_rng(0).normal(size=(64, 3))
    q = low_bit_dense(keras.optimizers.Adam(0.05), "mse")
    freezing = qr.FreezeOscillating(momentum=0.5, threshold=0.01)
    history = q.fit(x, y, batch_size=8, epochs=4, verbose=0, callbacks=[freezing]).history
    assert 0.0 < freezing.frozen <= 1.0
    assert len(history["oscillating"]) == 4
    for tensor in quantized_tensors(q):
        held = freezing._held.get(tensor.path)
        if held is not None:
            step, _ = tensor.scale_and_zero_point()
            level = (tensor.variable / step).numpy()
            assert np.allclose(level[np.isfinite(held)], held[np.isfinite(held)], atol=1e-4)


def test_dampening_draws_weights_to_their_levels():
    x, y = nets.vectors(), np.zeros((64, 3))

    def distance(strength):
        q = low_bit_dense(keras.optimizers.Adam(0.05), "mse")
        q.optimizer.learning_rate = 1e-3  # the recipe's weights take eight such steps at once
        damp = qr.Dampening(q, strength)
        q.fit(x, y, epochs=20, verbose=0, callbacks=[damp])
        found = []
        for t in quantized_tensors(q):
            if t.variable is not None:
                on_grid = t.quantizer.infer(t.variable, t.weights)
                found.append(np.mean(np.abs(t.variable - on_grid)))
        return np.mean(found)

    assert distance(1.0) < 0.7 * distance(0.0)
    with pytest.raises(ValueError, match="strength=-1"):
        qr.Dampening(low_bit_dense(keras.optimizers.Adam(0.05), "mse"), -1.0)


# Fewer bits while training.


def test_dampening_ends_with_its_training():
    q = low_bit_dense(keras.optimizers.SGD(1e-3))
    dampening = qr.Dampening(q, 1.0)
    assert sum(float(loss) for loss in q.losses) > 0.0
    q.fit(nets.vectors(), np.zeros((64, 3)), verbose=0, callbacks=[dampening])
    assert sum(float(loss) for loss in q.losses) == 0.0
    falls = qr.Dampening(q, lambda step: 1.0 - step)
    with pytest.raises(ValueError, match=r"strength=-1.0 at step 2"):
        q.fit(nets.vectors(96), np.zeros((96, 3)), verbose=0, callbacks=[falls])
