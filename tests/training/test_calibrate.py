"""Calibration: ranges are those of the float model on the data, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import qat_round as qr
from qat_round.quantizers.quantized_tensors import quantized_tensors
from tests.models import nets


def ranges(model) -> dict:
    """[lo, hi] by tensor; "input" for the (last) input, whose layer's number is not fixed."""

    def ends(tensor):
        lo, hi = (tensor.weights[end].numpy() for end in ("min_var", "max_var"))
        return np.concatenate([np.ravel(lo), np.ravel(hi)])

    tensors = quantized_tensors(model)
    return {t.name if t.name == "input" else t.path: ends(t) for t in tensors}


@pytest.fixture(scope="module")
def images(pictures):
    return pictures[0][:96]


def fresh(float_net):
    return qr.quantize_model(float_net, "sine")


def test_ranges_are_the_least_and_greatest_of_the_float_models_activations(float_net, images):
    found = ranges(qr.calibrate(fresh(float_net), images))
    outputs = [float_net.get_layer(name).output for name in ("relu", "act2", "classes")]
    seen = [images, *keras.Model(float_net.inputs, outputs).predict(images, verbose=0)]
    paths = ("input", "quant_relu/output", "quant_act2/output", "quant_classes/output")
    for path, values in zip(paths, seen, strict=True):
        ends = [min(values.min(), 0.0), max(values.max(), 0.0)]
        np.testing.assert_allclose(found[path], ends, rtol=1e-5, atol=1e-6)


def test_weight_ranges_are_symmetric_around_the_channels_largest(float_net, images):
    found = ranges(qr.calibrate(fresh(float_net), images))
    kernel = float_net.get_layer("conv2").kernel.numpy()
    largest = np.abs(kernel).max(axis=(0, 1, 2))
    np.testing.assert_array_equal(found["quant_conv2/kernel"], [*-largest, *largest])


def test_weight_ranges_are_set_without_calibration(float_net):
    found = ranges(fresh(float_net))
    largest = np.abs(float_net.get_layer("classes").kernel.numpy()).max(axis=0)
    np.testing.assert_array_equal(found["quant_classes/kernel"], [*-largest, *largest])


def as_tensor(images):
    return tf.constant(images)


def as_list(images):
    return [images]


def as_dict(images):
    return {"image": images}


def as_dataset(images):
    return tf.data.Dataset.from_tensor_slices(images).batch(40)


def as_labelled_dataset(images):
    labels = np.zeros(len(images))
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(32)


def as_dataset_of_dicts(images):
    return tf.data.Dataset.from_tensor_slices({"image": images}).batch(32)


def as_generator(images):
    return (images[start : start + 10] for start in range(0, len(images), 10))


def as_float64(images):
    return images.astype(np.float64)


@pytest.mark.parametrize(
    "form",
    [
        as_tensor,
        as_list,
        as_dict,
        as_dataset,
        as_labelled_dataset,
        as_dataset_of_dicts,
        as_generator,
        as_float64,
    ],
)
def test_every_form_of_data_gives_the_same_ranges(float_net, images, form, arrays_ranges):
    found = ranges(qr.calibrate(fresh(float_net), form(images)))
    for path, ends in arrays_ranges.items():
        np.testing.assert_allclose(found[path], ends, rtol=1e-5, atol=1e-6, err_msg=path)


@pytest.fixture(scope="module")
def arrays_ranges(float_net, images):
    return ranges(qr.calibrate(fresh(float_net), images))


def test_several_inputs_come_as_a_list_or_by_name():
    rows = [nets.vectors(seed=1), 3.0 * nets.vectors(seed=2)]
    by_list = ranges(qr.calibrate(qr.quantize_model(nets.twin_net()), rows))
    named = dict(zip(("left_second", "right_first"), reversed(rows), strict=True))
    by_name = ranges(qr.calibrate(qr.quantize_model(nets.twin_net()), named))
    for ours, theirs in zip(by_list.values(), by_name.values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_whole_numbers_are_taken_as_they_are():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2)])
    pixels = np.arange(0, 256, 4, dtype=np.uint8).reshape(16, 4)
    found = ranges(qr.calibrate(qr.quantize_model(model), pixels))
    np.testing.assert_array_equal(found["input"], [0.0, 252.0])


def test_only_ranges_change(float_net, images):
    model = fresh(float_net)
    before = {w.name: w.numpy() for w in model.weights}
    assert qr.calibrate(model, images) is model
    changed = {w.name for w in model.weights if not np.array_equal(w.numpy(), before[w.name])}
    assert changed
    assert all(name.split(":")[0].endswith(("_min", "_max", "_seen")) for name in changed)


def test_no_tensor_is_left_at_its_first_guess(float_net, images):
    model = qr.calibrate(fresh(float_net), images)
    assert not [t.path for t in quantized_tensors(model) if t.is_first_guess]


def test_calibrating_again_forgets_the_first_time(float_net, images, arrays_ranges):
    model = qr.calibrate(fresh(float_net), 100.0 * images)
    found = ranges(qr.calibrate(model, images))
    for path, ends in arrays_ranges.items():
        np.testing.assert_allclose(found[path], ends, rtol=1e-5, atol=1e-6)


def test_a_fixed_range_stays_as_it_was_given(images, float_net):
    fixed = qr.TensorSpec(range=qr.ranges.Fixed(-1.0, 4.0))
    model = qr.calibrate(qr.quantize_model(float_net, activations=fixed), images)
    np.testing.assert_array_equal(ranges(model)["quant_relu/output"], [-1.0, 4.0])


def test_training_moves_a_calibrated_range_slowly(float_net, pictures, images, arrays_ranges):
    model = qr.calibrate(fresh(float_net), images)
    nets.steps(nets.ready(model, rate=0.0), 2.0 * pictures[0], pictures[1], count=1)
    before, after = (r["quant_relu/output"][1] for r in (arrays_ranges, ranges(model)))
    assert before < after < 1.01 * before


def test_a_calibrated_net_predicts_nearly_as_the_float_one(float_net, pictures):
    model = qr.calibrate(fresh(float_net), pictures[0])
    given, ours = (nets.predicted(m, pictures[0]).argmax(1) for m in (float_net, model))
    assert np.mean(given == ours) > 0.98


def test_a_mean_of_nothing_but_noise_has_no_step_finer_than_means_have():
    """A layer norm behind another one: its mean is a float's rounding noise, 1e-8."""
    x = keras.Input((24,))
    normed = keras.layers.LayerNormalization(name="first")(x)
    model = keras.Model(x, keras.layers.LayerNormalization(name="second")(normed))
    data = np.random.default_rng(0).normal(size=(64, 24)).astype(np.float32)
    found = qr.calibrate(qr.quantize_model(model), data)
    tensors = {t.path: t for t in quantized_tensors(found) if t.variable is None}
    step = {path: float(t.scale_and_zero_point()[0]) for path, t in tensors.items()}
    assert step["quant_second_mean/output"] == pytest.approx(
        step["quant_first_normalized/output"] / 24, rel=1e-5
    )
    lo, hi = (tensors["quant_first_mean/output"].weights[end] for end in ("min_var", "max_var"))
    means = data.mean(-1)
    np.testing.assert_allclose([lo, hi], [means.min(), means.max()], rtol=1e-5)  # is no noise
