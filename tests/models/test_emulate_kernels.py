"""`qr.computed_by`: inference as each set of TFLite's kernels computes it, integer for integer."""

from __future__ import annotations

import contextlib
import functools
import importlib.util

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import qat_round as qr
from qat_round.files.interpreter import quantized
from qat_round.files.tflite_file import TFLiteFile
from qat_round.numerics.kernel_sets import KERNEL_SETS, roundings
from qat_round.numerics.requantize import scaled, scaled_mean
from tests.models import nets

L = keras.layers
EIGHT_BITS = qr.LayerSpec(weights=qr.TensorSpec(bits=8))
KINDS = {  # kind of file -> (settings of quantize_model, io)
    "int8": ({}, "int8"),
    "INT4 weights": ({"weight_bits": 4, "overrides": {L.Dense: EIGHT_BITS}}, "int8"),
    "int16x8": ({"activation_bits": 16}, "int16"),
}
LIKE_DEFAULT = {"sum", "difference", "scaled"}  # too few values in which others would differ
REFUSED = {  # (kind, kernels) -> what the kernels do not take; and the converter
    ("INT4 weights", "reference"): ("depthwise",),
    **dict.fromkeys([("int16x8", of) for of in KERNEL_SETS], ("scaled",)),
}
SLACK = 0.005  # of a step: with 16 bits a value has 65,000 steps in float32
needs_micro = pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None, reason="the extra [edge] is not installed"
)


CASES = [
    pytest.param(kind, kernels, marks=needs_micro if kernels == "micro" else ())
    for kind in KINDS
    for kernels in ("builtin", "reference", "micro")
]


@functools.cache
def images():
    return np.random.default_rng(0).normal(size=(48, 8, 8, 6)).astype(np.float32)


@functools.cache
def made(kind, kernels):
    """A net with an output for each kind of operator, quantized, and its file."""
    settings, io = KINDS[kind]
    model = qr.quantize_model(nets.operator_net(REFUSED.get((kind, kernels), ())), **settings)
    qr.calibrate(model, images()[:16])
    return model, qr.export_tflite(model, io=io, batch_size=1)


@pytest.mark.parametrize(("kind", "kernels"), CASES)
def test_every_operator_computes_as_the_kernels_do(kind, kernels):
    model, tflite = made(kind, kernels)
    found = qr.verify_tflite(model, tflite, images(), kernels=kernels)
    assert len(found.outputs) >= len(nets.OPERATORS) - 1
    assert {o.name: o.max_steps for o in found.outputs if o.max_steps > SLACK} == {}


@pytest.mark.parametrize(("kind", "kernels"), CASES)
def test_the_default_kernels_compute_otherwise(kind, kernels):
    model, tflite = made(kind, kernels)
    by_default = dict(zip(model.output_names, outputs_of(model), strict=True))
    found = qr.verify_tflite(by_default, tflite, images(), kernels=kernels)
    same = {name_of(output.name) for output in found.outputs if output.same == 1.0}
    assert same <= LIKE_DEFAULT | like_default(kind, kernels)


def outputs_of(model):
    return [np.asarray(y) for y in model(images(), training=False)]


def name_of(output):
    return output.removeprefix("quant_").removesuffix("_1")


def like_default(kind, kernels):
    """Outputs whose operators have the same entries in the table, or differ in ties."""
    bits, few = 16 if kind == "int16x8" else 8, 4 if kind == "INT4 weights" else 8
    ours, theirs = (roundings(of, bits, few) for of in ("default", kernels))
    return {
        name
        for name, field in nets.OPERATORS.items()
        if len({getattr(of, field, "").replace("once away", "") for of in (ours, theirs)}) == 1
    }


def test_the_model_computes_as_before_behind_it():
    model, _ = made("int8", "builtin")
    before = outputs_of(model)
    with contextlib.suppress(RuntimeError), qr.computed_by(model, "micro"):
        with qr.computed_by(model, "reference"):
            reference = outputs_of(model)
        micro = outputs_of(model)
        raise RuntimeError
    for ours, after in zip(before, outputs_of(model), strict=True):
        np.testing.assert_array_equal(ours, after)
    dense = model.output_names.index("quant_dense")
    assert np.any(reference[dense] != micro[dense])
    assert np.any(before[dense] != micro[dense])


def test_predict_is_traced_anew():
    model, _ = made("int8", "builtin")
    before = model.predict(images(), verbose=0)
    with qr.computed_by(model, "micro"):
        inside = model.predict(images(), verbose=0)
        called = outputs_of(model)
    for ours, theirs in zip(inside, called, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert any(np.any(a != b) for a, b in zip(before, inside, strict=True))
    np.testing.assert_array_equal(before[0], model.predict(images(), verbose=0)[0])


def test_training_is_not_touched():
    model, _ = made("int8", "builtin")
    given, weights = images()[:8], model.get_weights()
    with qr.computed_by(model, "micro"):
        inside = [np.asarray(y) for y in model(given, training=True)]
    model.set_weights(weights)  # the ranges moved
    outside = [np.asarray(y) for y in model(given, training=True)]
    model.set_weights(weights)
    for ours, theirs in zip(inside, outside, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@needs_micro
def test_logits_in_front_of_a_softmax_are_compared_on_tflite_micro():
    model = qr.calibrate(qr.quantize_model(nets.conv_net("softmax")), nets.pictures()[0][:64])
    tflite = qr.export_tflite(model, io="int8", batch_size=1)
    found = qr.verify_tflite(model, tflite, nets.pictures()[0][:16], kernels="micro")
    assert found.logits[0].max_steps <= SLACK
    assert found.ok


@pytest.mark.parametrize("kernels", ["default", "reference"])
def test_an_input_between_two_levels_is_rounded_as_the_file_rounds_it(kernels):
    image = keras.Input((8,))
    model = qr.quantize_model(keras.Model(image, L.ReLU()(image)))
    qr.calibrate(model, nets.vectors(64))
    tflite = qr.export_tflite(model)  # float inputs: the file's own QUANTIZE
    step = np.float32(
        TFLiteFile(tflite).tensors[TFLiteFile(tflite).operators[0].outputs[0]].scales[0]
    )
    halves = (np.arange(-60, 60, dtype=np.float32) + np.float32(0.5)) * step
    found = qr.verify_tflite(model, tflite, halves.reshape(-1, 8), kernels=kernels)
    assert found.max_steps <= SLACK


def test_inputs_are_given_to_plain_kernels_halves_away_from_zero():
    details = {"dtype": np.int8, "quantization": (1.0, 3)}
    halves = np.array([0.5, 1.5, -0.5, -1.5])
    assert quantized(halves, details).tolist() == [3, 5, 3, 1]
    assert quantized(halves, details, "micro").tolist() == [4, 5, 2, 1]


@pytest.mark.parametrize(
    ("ties", "levels"),
    [
        ("up", [1, 1, 0, 0, 1]),
        ("away", [1, 1, 0, -1, 1]),
        ("once up", [0, 1, 0, 0, 0]),
        ("once away", [0, 1, 0, -1, 0]),
        ("15 bits", [0, 1, 0, 0, 0]),
    ],
)
def test_sums_are_rounded_once_or_twice(ties, levels):
    sums = tf.constant([3.0, 4.0, 0.0, -4.0, 3.0])  # times 1/8: 3 is 1.5 of 4, that is 2 of 4: 0.5
    found = scaled(sums, tf.constant(0.125, tf.float64), ties)
    np.testing.assert_array_equal(found, levels)


def test_the_last_channels_of_a_depthwise_convolution_round_away_from_zero():
    sums = tf.fill([1, 13], -4.0)
    found = scaled(sums, tf.constant(0.125, tf.float64), "eights").numpy()
    assert found.tolist() == [[0.0] * 8 + [-1.0] * 5]


def test_channels_without_weights_are_zero():
    found = scaled(tf.constant([[5.0, 5.0]]), tf.constant([0.0, 1.0], tf.float64), "away")
    np.testing.assert_array_equal(found, [[0.0, 5.0]])


def test_a_mean_is_a_little_small():
    """The factor 1/3 is cut off to 2^31/3, so that 3 (k + 1/2) / 3 is below the half."""
    one = tf.constant(1.0, tf.float64)
    found = scaled_mean(tf.constant([3.0, 300.0]), tf.constant(3.0), one, "away")
    np.testing.assert_array_equal(found, [1.0, 100.0])


@pytest.mark.parametrize("name", KERNEL_SETS)
def test_every_set_of_kernels_is_in_the_table(name):
    for bits, few in ((8, 8), (8, 4), (16, 8)):
        assert roundings(name, bits, few).precision in ("float", "double")


def test_unknown_kernels_are_refused():
    model, _ = made("int8", "builtin")
    with pytest.raises(ValueError, match=r"computed_by: kernels='xnnpack' is unknown; allowed are"):
        qr.computed_by(model, "xnnpack").__enter__()


def test_a_float_model_is_refused():
    with pytest.raises(ValueError, match="computed_by: the model is not quantized"):
        qr.computed_by(nets.conv_net(), "micro").__enter__()


def test_tflite_micro_names_its_extra(monkeypatch):
    model, tflite = made("int8", "builtin")
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(ImportError, match=r"verify_tflite\(kernels='micro'\) .*qat_round\[edge\]"):
        qr.verify_tflite(model, tflite, images(), kernels="micro")
