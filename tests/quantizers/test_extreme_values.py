"""Numbers at the edge: nothing of what a person may feed it spoils a model for good."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import qat_round as qr
from qat_round.quantizers.quantized_tensors import quantized_tensors
from qat_round.quantizers.ranges import measure
from tests.models import nets

LABELS = np.arange(64) % 3
METHODS = ("minmax", "percentile", "mse", "entropy")
RANGES = ("moving_average", "all_values", "last_value", "learned", "pact")


def rows_with(value: float) -> np.ndarray:
    rows = nets.vectors()
    rows[5, 3] = value
    return rows


DATA = {
    "constant": np.full((64, 8), 0.7, np.float32),
    "zeros": np.zeros((64, 8), np.float32),
    "outlier": rows_with(1e6),
    "tiny": nets.vectors() * np.float32(1e-20),
    "huge": nets.vectors() * np.float32(1e20),
    "one_sample": nets.vectors(1),
}


def scaled(model, *factors: float):
    """The model with each layer's weights times a factor."""
    for layer, factor in zip(model.layers, factors, strict=True):
        layer.set_weights([w * np.float32(factor) for w in layer.get_weights()])
    return model


def dead_channels(model):
    """The model with channels that never answer, by their weights or by their bias."""
    for layer in model.layers[:2]:
        kernel, bias = layer.get_weights()
        kernel[:, 1], bias[2] = 0.0, -100.0
        layer.set_weights([kernel, bias])
    return model


NETS = {
    "tiny": lambda: scaled(nets.dense_net(), 1e-20, 1e-20, 1e-20),
    "huge_then_tiny": lambda: scaled(nets.dense_net(), 1e20, 1e-20, 1.0),
    "huge_last": lambda: scaled(nets.dense_net(), 1.0, 1.0, 1e20),
    "dead_channels": lambda: dead_channels(nets.dense_net()),
}


def quantized(net=None, range_: str = "moving_average"):
    spec = qr.TensorSpec(range=range_)
    return qr.quantize_model(net or nets.dense_net(), "sine", activations=spec)


def ranges_of(model) -> dict:
    """Ends and growth of every quantized tensor."""
    return {
        f"{t.path}/{role}": t.weights[role].numpy()
        for t in quantized_tensors(model)
        for role in ("min_var", "max_var", "growth")
        if role in t.weights
    }


def check_survives(model, rows: np.ndarray, has_file: bool = True) -> None:
    """Its gradients and answers are numbers, and its file agrees.

    No step is taken: Adam's squares of gradients above 1e19 are infinite, in float too.
    """
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.nn.log_softmax(model(rows, training=True))[:, 0])
    gradients = tape.gradient(loss, model.trainable_variables)
    assert all(np.isfinite(g).all() for g in gradients)
    assert all(np.isfinite(w).all() for w in model.get_weights())
    assert np.isfinite(model(rows, training=False)).all()
    if has_file:
        assert qr.verify_tflite(model, qr.export_tflite(model), rows).ok


@pytest.fixture(scope="module")
def plain():
    return quantized()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("data", DATA)
def test_every_method_finds_finite_ranges(plain, data, method):
    qr.calibrate(plain, DATA[data], method=method)
    assert all(np.isfinite(ends).all() for ends in ranges_of(plain).values())
    assert np.isfinite(plain(DATA[data], training=False)).all()


@pytest.mark.slow
@pytest.mark.parametrize("data", DATA)
def test_strange_data_trains_and_exports(data):
    check_survives(qr.calibrate(quantized(), DATA[data]), DATA[data])


@pytest.mark.parametrize(
    "net", [n if n == "dead_channels" else pytest.param(n, marks=pytest.mark.slow) for n in NETS]
)
def test_strange_weights_train_and_export(net):
    rows, has_file = nets.vectors(), net != "huge_then_tiny"  # XNNPACK refuses its scales
    check_survives(qr.calibrate(quantized(NETS[net]()), rows), rows, has_file)


def test_a_model_that_overflows_is_refused_with_names(plain):
    huge = quantized(scaled(nets.dense_net(), 1e20, 1e20, 1.0))
    before = ranges_of(huge)
    with pytest.raises(ValueError, match="batch 0 gives NaN or infinity at quant_dense_b/output"):
        qr.calibrate(huge, nets.vectors())
    np.testing.assert_equal(ranges_of(huge), before)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_calibration_refuses_or_skips_and_counts_a_bad_batch(plain, bad, method):
    qr.calibrate(plain, nets.vectors()[32:], method=method)
    clean = ranges_of(plain)
    with pytest.raises(ValueError, match="NaN or infinity"):
        qr.calibrate(plain, rows_with(bad), method=method)
    np.testing.assert_equal(ranges_of(plain), clean)
    with pytest.warns(UserWarning, match="1 of the batches .* number 0"):
        qr.calibrate(plain, rows_with(bad), method=method, nonfinite="skip")
    np.testing.assert_equal(ranges_of(plain), clean)


def test_calibration_on_nothing_but_bad_batches_is_refused(plain):
    with pytest.raises(ValueError, match="every batch"):
        qr.calibrate(plain, rows_with(np.nan)[:32], nonfinite="skip")
    with pytest.raises(ValueError, match="nonfinite='ignore' is unknown"):
        qr.calibrate(plain, nets.vectors(), nonfinite="ignore")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("range_", RANGES)
def test_a_bad_batch_in_training_moves_no_range(range_, bad):
    model = qr.calibrate(quantized(range_=range_), nets.vectors())
    model(nets.vectors(), training=True)
    before = ranges_of(model)
    seen = [t.weights["seen"].numpy() for t in quantized_tensors(model) if t.variable is None]
    model(np.full((4, 8), bad, np.float32), training=True)
    after = ranges_of(model)
    assert before["quantize_row/input/max_var"] == after["quantize_row/input/max_var"]
    assert all(np.isfinite(ends).all() for ends in after.values())
    again = [t.weights["seen"].numpy() for t in quantized_tensors(model) if t.variable is None]
    assert again[0] == seen[0]


@pytest.mark.parametrize("range_", ["learned", pytest.param("pact", marks=pytest.mark.slow)])
def test_a_bad_batch_does_not_end_the_learning_of_a_range(range_):
    model = qr.calibrate(quantized(range_=range_), nets.vectors())
    nets.ready(model)
    nets.steps(model, rows_with(np.nan), LABELS, 1)
    assert all(np.isfinite(ends).all() for ends in ranges_of(model).values())


@pytest.mark.parametrize("range_", RANGES)
def test_an_empty_batch_moves_no_range_and_one_sample_does(range_):
    model = quantized(range_=range_)
    before = ranges_of(model)
    assert model(np.zeros((0, 8), np.float32), training=True).shape == (0, 3)
    after = ranges_of(model)
    assert after["quantize_row/input/max_var"] == before["quantize_row/input/max_var"]
    assert np.isfinite(model(nets.vectors(1), training=True)).all()
    found = ranges_of(model)["quantize_row/input/max_var"]
    np.testing.assert_allclose(found, nets.vectors(1).max(), rtol=1e-6)


def test_empty_batches_do_not_count_in_calibration(plain):
    rows = nets.vectors()
    qr.calibrate(plain, rows)
    alone = ranges_of(plain)
    qr.calibrate(plain, iter([np.zeros((0, 8), np.float32), rows]))
    np.testing.assert_equal(ranges_of(plain), alone)


@pytest.mark.parametrize("axis", [None, -1])
def test_the_ends_of_nothing_are_no_numbers(axis):
    assert np.isnan(measure(tf.zeros((0, 4)), axis, False, 8, False)).all()


def test_export_refuses_an_infinite_range():
    model = qr.calibrate(quantized(), nets.vectors())
    quantized_tensors(model)[0].weights["max_var"].assign(np.inf)
    with pytest.raises(ValueError, match="quantize_row/input are not finite"):
        qr.export_tflite(model)


def test_the_log_counts_batches_that_no_range_took(plain):
    model = nets.ready(qr.calibrate(quantized(), nets.vectors()))
    done = model.fit(
        rows_with(np.nan),
        LABELS,
        batch_size=16,
        shuffle=False,
        epochs=2,
        verbose=0,
        callbacks=[qr.QuantizationLog()],
    )
    assert done.history["q_skipped"][0] >= 1


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("value", [1e-45, 1.2e-38, 1e-35, 1e-33])
def test_a_range_too_narrow_for_steps_is_that_of_zero(value, training):
    grid = qr.grid_from_range(0.0, value, bits=8)
    y = qr.fake_quant(tf.constant([value]), grid, "sine", training=training)
    assert np.isfinite(y).all()
