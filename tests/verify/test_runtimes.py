"""Every kind of file on every runtime: no output step from Keras, which computes as its kernels do.

How each of them rounds, operator by operator: models/test_emulate_kernels.py.
"""

from __future__ import annotations

import functools
import importlib.util

import numpy as np
import pytest
import tf_keras as keras

import qat_round as qr
from qat_round.files.tflite_file import TFLiteFile
from tests.models import nets

NETS = {"conv": (nets.conv_net, (12, 12, 1)), "series": (nets.series_net, (12, 12))}
EIGHT_BITS = qr.LayerSpec(weights=qr.TensorSpec(bits=8))
KINDS = {  # kind of file -> (settings of quantize_model, io)
    "int8": ({}, "int8"),
    "uint8": ({}, "uint8"),
    "int16x8": ({"activation_bits": 16}, "int16"),
    "INT4 weights": ({"weight_bits": 4}, "int8"),
    "INT4 but dense": ({"weight_bits": 4, "overrides": {keras.layers.Dense: EIGHT_BITS}}, "int8"),
}
KERNELS = ("default", "builtin", "reference")
SLACK = 0.005  # of a step: with 16 bits a logit has 59,000 steps in float32
SAMPLES = 64
needs_micro = pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None, reason="the extra [edge] is not installed"
)


@functools.cache
def samples(net):
    images, labels = nets.pictures()
    return images.reshape(-1, *NETS[net][1]), labels


@functools.cache
def trained(net):
    model = nets.ready(NETS[net][0](), rate=3e-3)
    model.fit(*samples(net), epochs=3, verbose=0)
    return model


@functools.cache
def made(net, kind):
    """The quantized model, and its file for one sample at a time."""
    settings, io = KINDS[kind]
    model = qr.calibrate(qr.quantize_model(trained(net), **settings), samples(net)[0][:128])
    return model, qr.export_tflite(model, io=io, batch_size=1)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("net", NETS)
def test_litert_answers_as_keras(net, kind, kernels):
    parity = qr.verify_tflite(*made(net, kind), samples(net)[0][:SAMPLES], kernels=kernels)
    assert parity.float_operators == {}
    assert parity.max_steps <= SLACK


@needs_micro
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("net", NETS)
def test_tflite_micro_answers_as_keras(net, kind):
    model, tflite = made(net, kind)
    inputs = samples(net)[0][:SAMPLES]
    if kind == "INT4 weights":  # known: it takes no INT4 dense layer with a step for each channel
        with pytest.raises(ValueError, match=r"refuses the file .*kTfLiteInt4"):
            qr.edge.run_micro(tflite, inputs)
        return
    (found,) = qr.edge.run_micro(tflite, inputs).outputs.values()
    with qr.computed_by(model, "micro"):
        ours = np.asarray(model(inputs, training=False))
    file = TFLiteFile(tflite)
    assert np.abs(found - ours).max() / file.tensors[file.outputs[0]].scales[0] <= SLACK
    assert qr.verify_tflite(model, tflite, inputs, kernels="micro").max_steps <= SLACK


def test_the_kernels_are_others():
    """Reference kernels round products twice; sums of some integers end a step away."""
    model, tflite = made("conv", "int8")
    by_default = nets.predicted(model, samples("conv")[0])
    found = [
        qr.verify_tflite(by_default, tflite, samples("conv")[0], kernels=kernels).outputs[0].same
        for kernels in KERNELS
    ]
    assert found[0] == 1.0
    assert max(found[1:]) < 1.0


def test_kernels_that_lack_an_operator_say_so():
    """LiteRT's reference kernels have no INT4 depthwise convolution."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 4))
    net = keras.Model(image, keras.layers.DepthwiseConv2D(3)(image))
    rows = np.random.default_rng(0).normal(size=(32, 8, 8, 4)).astype(np.float32)
    model = qr.calibrate(qr.quantize_model(net, weight_bits=4), rows)
    tflite = qr.export_tflite(model, batch_size=1)
    assert qr.verify_tflite(model, tflite, rows).max_steps <= 1.001
    with pytest.raises(ValueError, match="'reference' kernels do not take the .tflite: .*DEPTHW"):
        qr.verify_tflite(model, tflite, rows, kernels="reference")


def test_unknown_kernels_are_refused():
    with pytest.raises(ValueError, match=r"kernels='fast' is unknown; allowed are \['default'"):
        qr.verify_tflite(*made("conv", "int8"), samples("conv")[0], kernels="fast")
