"""The log of quantization: figures that can be worked out by hand, in TensorBoard and in CSV."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import tensorflow as tf

import qat_round as qr
from qat_round.quantizers.quantized_tensors import quantized_tensors
from qat_round.training.quantization_log import clipped_shares, in_steps
from tests.models import nets


def ready_model():
    q = qr.quantize_model(nets.dense_net(), "ste", weight_bits=4)
    return qr.calibrate(q, nets.vectors(), "minmax")  # where the first step finds the weights too


def fitted(callbacks, epochs: int = 2, rate: float = 0.02):
    model = nets.ready(ready_model(), rate)
    labels = np.arange(64) % 3
    model.fit(nets.vectors(), labels, epochs=epochs, verbose=0, callbacks=callbacks)
    return model


def tags_of(folder):
    (file,) = folder.iterdir()
    return {
        value.tag
        for record in tf.data.TFRecordDataset(str(file))
        for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value
    }


def test_figures_are_in_keras_logs_and_in_csv(tmp_path):
    history = nets.keras.callbacks.History()
    log = qr.QuantizationLog(inputs=nets.vectors())
    file = nets.keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    fitted([log, history, file])
    for name in ("q_rounding_error", "q_moved", "q_clipped"):
        assert len(history.history[name]) == 2
    assert 0.1 < history.history["q_rounding_error"][0] < 0.35  # 1/4 for even spread
    assert history.history["q_moved"][0] > 0.0
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert float(rows[1]["q_moved"]) == pytest.approx(history.history["q_moved"][1])


def test_of_a_distiller_the_student_is_logged(tmp_path):
    distiller = qr.Distiller(ready_model(), nets.dense_net())
    nets.ready(distiller, rate=0.02)
    history = nets.keras.callbacks.History()
    log = qr.QuantizationLog(tmp_path, inputs=nets.vectors())
    labels = np.arange(64) % 3
    distiller.fit(nets.vectors(), labels, epochs=2, verbose=0, callbacks=[log, history])
    assert history.history["q_moved"][0] > 0.0
    for name in ("q_rounding_error", "q_turned", "q_clipped", "q_skipped"):
        assert len(history.history[name]) == 2
    assert "rounding_error/quant_dense_a/kernel" in tags_of(tmp_path)


def test_weights_that_do_not_train_do_not_move():
    history = nets.keras.callbacks.History()
    fitted([qr.QuantizationLog(), history], epochs=1, rate=0.0)
    assert history.history["q_moved"] == [0.0]
    assert "q_clipped" not in history.history


def test_a_weight_that_goes_to_and_fro_counts_as_turned():
    log = qr.QuantizationLog()
    log.set_model(ready_model())
    log.on_train_begin()
    (tensor, *_) = log._weights()
    found = []
    for sign in (1.0, -1.0, -1.0):  # up, back, on in the same direction
        step = tensor.quantizer.grid(tensor.weights).step
        shift = np.zeros(tensor.variable.shape, np.float32)
        at = np.unravel_index(np.argmin(np.abs(in_steps(tensor).numpy())), shift.shape)
        at = found[0][0] if found else at
        shift[at] = sign * float(np.ravel(step)[at[-1] if np.size(step) > 1 else 0])
        tensor.variable.assign_add(shift)
        log.on_epoch_begin(0)
        logs: dict[str, float] = {}
        log.on_epoch_end(0, logs)
        found.append((at, logs["q_moved"], logs["q_turned"]))
    moved, turned = zip(*[(m, t) for _, m, t in found], strict=True)
    assert min(moved) > 0.0
    assert turned[0] == turned[2] == 0.0
    assert turned[1] == moved[1]


def test_tensorboard_gets_a_curve_for_each_tensor(tmp_path):
    fitted([qr.QuantizationLog(tmp_path)])
    tags = tags_of(tmp_path)
    assert "scale/quant_last/kernel" in tags
    assert "range/high/quant_last/output" in tags
    assert "rounding_error/quant_dense_a/kernel" in tags
    assert "turned/quant_dense_a/kernel" in tags


def test_what_lies_outside_of_a_range_counts_as_clipped():
    model = ready_model()
    assert max(clipped_shares(model, nets.vectors()).values()) == 0.0
    shares = clipped_shares(model, 1000.0 * nets.vectors())
    assert shares["quantize_row/input"] > 0.9


def test_weights_in_steps_are_whole_numbers_on_their_grid():
    for tensor in quantized_tensors(ready_model()):
        if tensor.variable is not None:
            levels = in_steps(tensor, on_grid=True).numpy()
            np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
            assert np.abs(levels).max() == pytest.approx(7.0)
