"""Verification finds what is wrong, and says how wrong, from a model or from its outputs."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras

import qat_round as qr
from qat_round.files.interpreter import Runner
from qat_round.files.tflite_file import TFLiteFile
from qat_round.verify.parity import Comparison
from tests.models import nets
from tests.models.quantized_nets import with_file

layers = keras.layers
ROWS = nets.vectors(count=200)


@pytest.fixture(scope="module")
def dense():
    return with_file(nets.dense_net(), ROWS)


@pytest.fixture(scope="module")
def twins():
    return with_file(nets.twin_net(), TWIN_ROWS)


TWIN_ROWS = [nets.vectors(count=200, seed=1), nets.vectors(count=200, seed=2)]


@pytest.fixture(scope="module")
def classifier():
    """Two softmax-ended outputs: as the dense layer's activation, and as a layer of its own."""
    keras.utils.set_random_seed(0)
    rows = layers.Input((8,), name="row")
    hidden = layers.Dense(12, "relu")(rows)
    inside = layers.Dense(4, "softmax", name="inside")(hidden)
    behind = layers.Softmax(name="behind")(layers.Dense(4)(hidden))
    return with_file(keras.Model(rows, [inside, behind]), ROWS)


# From what


def test_a_model_and_its_outputs_and_bytes_and_paths_say_the_same(dense, tmp_path):
    model, tflite = dense
    path = tmp_path / "model.tflite"
    path.write_bytes(tflite)
    parity = qr.verify_tflite(model, tflite, ROWS)
    assert parity.ok
    outputs = nets.predicted(model, ROWS)
    assert qr.verify_tflite(model, path, ROWS) == parity
    assert qr.verify_tflite(model, str(path), {"row": ROWS}) == parity
    assert qr.verify_tflite(outputs, tflite, ROWS) == parity
    assert qr.verify_tflite({"quant_last": outputs}, tflite, ROWS, batch_size=7) == parity


def test_several_outputs_are_compared_each_with_its_own(twins):
    model, tflite = twins
    parity = qr.verify_tflite(model, tflite, TWIN_ROWS)
    names = [output.name for output in parity.outputs]
    assert names == list(model.output_names) == ["quant_z_scores", "quant_a_scores"]
    assert parity.ok
    outputs = dict(zip(names, model.predict(TWIN_ROWS, verbose=0), strict=True))
    inputs = dict(zip(model.input_names, TWIN_ROWS, strict=True))
    assert qr.verify_tflite(outputs, tflite, inputs).ok


def test_several_outputs_without_names_are_refused(twins):
    model, tflite = twins
    inputs = dict(zip(model.input_names, TWIN_ROWS, strict=True))
    with pytest.raises(ValueError, match="several outputs.*Give a dict by these names"):
        qr.verify_tflite(model.predict(TWIN_ROWS, verbose=0), tflite, inputs)


def test_swapped_outputs_are_not_ok(twins):
    model, tflite = twins
    outputs = model.predict(TWIN_ROWS, verbose=0)
    swapped = dict(zip(reversed(model.output_names), outputs, strict=True))
    inputs = dict(zip(model.input_names, TWIN_ROWS, strict=True))
    assert not qr.verify_tflite(swapped, tflite, inputs).ok


def test_a_stock_quantized_model_is_verified_as_well():
    model = tfmot.quantization.keras.quantize_model(nets.dense_net())
    nets.steps(nets.ready(model), ROWS, np.arange(200) % 3, count=1)
    parity = qr.verify_tflite(model, qr.export_tflite(model), ROWS)
    assert parity.float_operators == {}
    assert parity.max_steps < 3.0


# Batch by batch


@pytest.mark.parametrize("size", [1, 7, 64, 200])
def test_the_figures_do_not_depend_on_where_batches_begin(dense, size):
    model, tflite = dense
    outputs = nets.predicted(model, ROWS) + np.float32(0.013)
    whole = qr.verify_tflite(outputs, tflite, ROWS)
    assert qr.verify_tflite(outputs, tflite, ROWS, batch_size=size) == whole
    assert whole.mean_steps > 0.0


def batches_of(size, extra=()):
    return (
        (ROWS[i : i + size], *extra) if extra else ROWS[i : i + size] for i in range(0, 200, size)
    )


def test_batches_are_taken_one_after_the_other(dense):
    model, tflite = dense
    whole = qr.verify_tflite(model, tflite, ROWS)
    data = tf.data.Dataset.from_tensor_slices(({"row": ROWS}, np.zeros(200))).batch(48)
    for given in (data, batches_of(30), batches_of(30, (0,))):
        assert qr.verify_tflite(model, tflite, given) == whole
    outputs = nets.predicted(model, ROWS)
    assert qr.verify_tflite(outputs, tflite, batches_of(30)) == whole


def test_a_file_of_a_fixed_batch_size_takes_batches_of_any(dense):
    tflite = qr.export_tflite(dense[0], batch_size=4)
    assert qr.verify_tflite(dense[0], tflite, batches_of(30)).samples == 200


def test_batches_that_do_not_fit_are_refused(dense):
    model, tflite = dense
    for given, error, message in (
        (iter([ROWS, ROWS[:, :5]]), ValueError, "does not fit the input"),
        (iter([ROWS[:0]]), ValueError, "empty"),
        (iter([]), ValueError, "empty"),
        (7, TypeError, "data is a int; give"),
    ):
        with pytest.raises(error, match=message):
            qr.verify_tflite(model, tflite, given)
    with pytest.raises(ValueError, match=r"\(200, 3\) in Keras and \(30, 3\).*same inputs"):
        qr.verify_tflite(nets.predicted(model, ROWS), tflite, iter([ROWS[:30]]))


def drawn(count, seed):
    rng = np.random.default_rng(seed)
    ours = rng.normal(size=(count, 5)).astype(np.float32)
    return ours, ours + 0.01 * rng.normal(size=ours.shape).astype(np.float32)


@pytest.mark.parametrize("step", [0.005, None])
@pytest.mark.parametrize("size", [1, 13, 300])
def test_counted_figures_are_those_of_all_values_at_once(step, size):
    ours, theirs = drawn(300, 0)
    ours[:40] *= 0.01  # so that the span, which is a float output's step, grows
    theirs[:40] = ours[:40] + 0.003
    found = Comparison("out", step)
    for at in range(0, 300, size):
        found.add(ours[at : at + size], theirs[at : at + size])
    unit = step or float(np.ptp(ours)) / 255.0
    apart = np.abs(ours.astype(np.float64) - theirs) / unit
    result = found.result()
    assert (result.step, result.max_steps) == (unit, apart.max())
    assert result.within_one == np.mean(apart <= 1.001)
    assert result.same == np.mean(apart < 0.5)
    assert result.mean_steps == pytest.approx(apart.mean(), rel=1e-14)
    assert result.top1_agreement == np.mean(ours.argmax(1) == theirs.argmax(1))


@pytest.mark.parametrize("step", [0.005, None])
def test_what_is_kept_does_not_grow_with_the_samples(step):
    found, sizes = Comparison("out", step), []
    for seed in range(100):
        ours, _ = drawn(200, seed)
        found.add(ours, ours + np.float32(1e-3))
        sizes.append(len(pickle.dumps(found)))
    assert max(sizes[50:]) <= max(sizes[:50]) + 64 < 2000


# What it finds


def test_the_file_of_another_model_is_not_ok(dense):
    other = nets.dense_net()
    other.set_weights([weight + 0.1 for weight in other.get_weights()])
    quantized = qr.calibrate(qr.quantize_model(other), ROWS)
    parity = qr.verify_tflite(quantized, dense[1], ROWS)
    assert not parity.ok
    assert parity.max_steps > 3.0
    assert parity.within_one < 0.99


def test_a_file_older_than_the_models_training_is_not_ok(dense):
    model = qr.calibrate(qr.quantize_model(nets.dense_net()), ROWS)
    nets.steps(nets.ready(model, rate=0.05), ROWS, np.arange(200) % 3)
    assert not qr.verify_tflite(model, dense[1], ROWS).ok


def test_the_file_of_a_model_with_other_inputs_is_refused(dense, twins):
    with pytest.raises(ValueError, match="it is the file of another model"):
        qr.verify_tflite(twins[0], dense[1], TWIN_ROWS)


def test_outputs_that_are_not_numbers_are_not_ok(dense):
    outputs = nets.predicted(dense[0], ROWS)
    outputs[3, 1] = np.nan
    assert not qr.verify_tflite(outputs, dense[1], ROWS).ok


def test_distances_are_counted_in_steps_of_the_files_grid(dense):
    model, tflite = dense
    theirs = Runner(TFLiteFile(tflite))({"row": ROWS})[0]
    step = qr.verify_tflite(model, tflite, ROWS).outputs[0].step
    parity = qr.verify_tflite(theirs + 2.5 * step, tflite, ROWS)
    assert parity.max_steps == pytest.approx(2.5, abs=1e-3)
    assert parity.mean_steps == pytest.approx(2.5, abs=1e-3)
    assert (parity.within_one, parity.outputs[0].same, parity.top1_agreement) == (0.0, 0.0, 1.0)
    assert not parity.ok


def test_shares_count_single_values(dense):
    theirs = Runner(TFLiteFile(dense[1]))({"row": ROWS})[0]
    step = qr.verify_tflite(theirs, dense[1], ROWS).outputs[0].step
    moved = theirs.copy()
    moved[:6, 0] += 2.0 * step  # 6 of 600 values
    parity = qr.verify_tflite(moved, dense[1], ROWS)
    assert parity.within_one == pytest.approx(0.99)
    assert parity.outputs[0].same == pytest.approx(0.99)
    assert parity.ok
    moved[6, 0] += 2.0 * step
    assert not qr.verify_tflite(moved, dense[1], ROWS).ok


# Softmax


def test_behind_a_softmax_the_logits_are_judged(classifier):
    parity = qr.verify_tflite(*classifier, ROWS)
    assert [logit.name for logit in parity.logits] == ["quant_inside_softmax", "quant_behind"]
    for output, logit in zip(parity.outputs, parity.logits, strict=True):
        assert output.step == pytest.approx(1.0 / 256.0)
        assert logit.step != output.step
        assert logit.within_one >= 0.999
        assert logit.max_steps <= 2.001
    assert parity.ok
    assert "quant_inside_softmax (logits)" in parity.table()


def test_wrong_logits_behind_a_softmax_are_not_ok(classifier):
    model, tflite = classifier
    other = keras.models.clone_model(model)
    other.set_weights([w + 0.05 if w.ndim == 2 else w for w in model.get_weights()])
    parity = qr.verify_tflite(other, tflite, ROWS)
    assert len(parity.logits) == 2
    assert not parity.ok
