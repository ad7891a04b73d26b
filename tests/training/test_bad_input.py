"""Calibration data and schedules that do not fit: a clear error, and nothing changed."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import qat_round as qr
from tests.models import nets

# Calibration

ROWS = nets.vectors()


def with_value(value):
    rows = ROWS.copy()
    rows[40, 3] = value
    return rows


def late_trouble():
    yield ROWS
    yield with_value(np.nan)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (nets.vectors(width=7), ValueError, r"shape \(32, 7\) does not fit the input 'row'"),
        (ROWS[0], ValueError, "does not fit the input"),
        (ROWS.astype(str), TypeError, "not numeric"),
        (ROWS.astype(complex), TypeError, "not numeric"),
        (ROWS[:0], ValueError, "the data is empty"),
        ([], ValueError, "the data is empty"),
        (iter(()), ValueError, "the data is empty"),
        (tf.data.Dataset.from_tensor_slices(ROWS[:0]).batch(8), ValueError, "the data is empty"),
        (with_value(np.nan), ValueError, r"NaN or infinity \(first at \[8, 3\]"),
        (with_value(np.inf), ValueError, "NaN or infinity"),
        (with_value(-np.inf), ValueError, "NaN or infinity"),
        (late_trouble(), ValueError, "NaN or infinity"),
        ([ROWS, ROWS], ValueError, "has 1 inputs, the data 2"),
        ({"column": ROWS}, ValueError, r"lacks the inputs \['row'\]"),
        (7, TypeError, "data is a int"),
        (None, TypeError, "data is a NoneType"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_calibration_data_that_does_not_fit_changes_nothing(quantized, data, error, message):
    before = quantized.get_weights()
    with pytest.raises(error, match=message):
        qr.calibrate(quantized, data)
    assert all(map(np.array_equal, quantized.get_weights(), before))


def test_inputs_of_different_lengths_are_refused():
    model = qr.quantize_model(nets.twin_net())
    with pytest.raises(ValueError, match="different numbers of samples"):
        qr.calibrate(model, [ROWS, ROWS[:10]])


def test_an_unknown_calibration_method_is_refused(quantized):
    with pytest.raises(ValueError, match="unknown method 'median'"):
        qr.calibrate(quantized, ROWS, method="median")


@pytest.mark.parametrize("size", [0, -1, 2.5, True])
def test_a_batch_size_that_is_no_count_is_refused(quantized, size):
    with pytest.raises(ValueError, match="batch_size"):
        qr.calibrate(quantized, ROWS, batch_size=size)


# Annealing


def test_annealing_a_knob_that_nothing_has_is_refused(calibrated):
    callback = qr.Anneal("slope", qr.schedules.cosine(5.0, 100.0, steps=4))
    nets.ready(calibrated)
    with pytest.raises(ValueError, match="no quantizer of the model has the knob 'slope'"):
        calibrated.fit(ROWS, np.zeros(64), verbose=0, callbacks=[callback])


def test_annealing_layers_that_are_not_there_is_refused():
    model = nets.ready(qr.quantize_model(nets.dense_net(), "sigmoid"))
    callback = qr.Anneal("slope", qr.schedules.cosine(5.0, 100.0, steps=4), layers="conv*")
    with pytest.raises(ValueError, match=r"layers='conv\*' matches no layer.*quant_last"):
        model.fit(ROWS, np.zeros(64), verbose=0, callbacks=[callback])


def test_a_schedule_has_to_be_callable():
    with pytest.raises(TypeError, match="cannot be called with a step"):
        qr.Anneal("slope", 5.0)
