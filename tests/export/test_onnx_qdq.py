"""ONNX: QuantizeLinear and DequantizeLinear that onnxruntime runs as Keras computes."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import qat_round as qr
from qat_round.export.onnx_qdq import _check_operators
from qat_round.files.interpreter import Runner
from qat_round.files.tflite_file import LINEAR, TFLiteFile
from qat_round.models.emulate_kernels import computing_as
from qat_round.numerics.kernel_sets import ONNXRUNTIME
from tests.models import nets

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tf2onnx") is None or importlib.util.find_spec("onnxruntime") is None,
    reason="the extra [onnx] is not installed",
)


def test_onnxruntime_answers_within_a_step(tuned, pictures, tmp_path):
    content = qr.export_onnx(tuned("ste"), tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").read_bytes() == content
    found = qr.verify_onnx(tuned("ste"), tmp_path / "net.onnx", pictures[0])
    assert found.max_steps <= 1.001
    assert found.outputs[0].same > 0.995
    assert found.outputs[0].top1_agreement > 0.99


def test_weights_and_biases_are_the_integers_of_the_tflite(tuned, converted):
    import onnx
    from onnx.numpy_helper import to_array

    graph = onnx.load_from_string(qr.export_onnx(tuned("ste"))).graph
    ours = [to_array(t) for t in graph.initializer if to_array(t).size > 1]
    file = TFLiteFile(converted("ste"))
    runner = Runner(file, keep_all=True)
    for operator in (op for op in file.operators if op.name in LINEAR):
        for tensor in operator.inputs[1:3]:
            theirs = runner.read_raw(tensor)
            same = [np.array_equal(np.sort(a, None), np.sort(theirs, None)) for a in ours]
            assert any(same), file.tensors[tensor].name
    assert {a.dtype.name for a in ours} >= {"int8", "int32"}


def test_int4_weights_are_the_same_numbers_in_int8(float_net, pictures):
    model = qr.calibrate(qr.quantize_model(float_net, weight_bits=4), pictures[0][:32])
    found = qr.verify_onnx(model, qr.export_onnx(model), pictures[0])
    assert found.max_steps <= 1.001
    assert found.outputs[0].same > 0.995
    default = np.asarray(model(pictures[0], training=False))  # TFLite's INT4 kernels round twice
    found = qr.verify_tflite(model, qr.export_tflite(model), pictures[0])
    assert found.outputs[0].same == 1.0
    with computing_as(model, ONNXRUNTIME):
        assert np.any(default != np.asarray(model(pictures[0], training=False)))


def test_gelu_is_spelled_out():
    keras = nets.keras
    x = keras.Input((8,))
    hidden = keras.layers.Dense(16, activation="gelu")(x)
    rows = nets.vectors()[:, :8]
    net = keras.Model(x, keras.layers.Dense(3, name="scores")(hidden))
    model = qr.calibrate(qr.quantize_model(net), rows)
    found = qr.verify_onnx(model, qr.export_onnx(model), rows)
    assert found.operators["Erf"] == 1
    assert found.max_steps <= 1.001


def test_operators_that_are_not_translated_are_named():
    import onnx

    graph = onnx.helper.make_graph([onnx.helper.make_node("TFL_FROB", ["a"], ["b"])], "g", [], [])
    with pytest.raises(ValueError, match="does not translate TFLite's FROB"):
        _check_operators(graph)


def test_activations_of_16_bits_are_refused():
    model = qr.calibrate(qr.quantize_model(nets.dense_net(), activation_bits=16), nets.vectors())
    with pytest.raises(ValueError, match="activations of 8 bits"):
        qr.export_onnx(model)


def test_several_inputs_and_outputs_keep_their_names():
    rows = [nets.vectors(), nets.vectors(seed=1)]
    model = qr.calibrate(qr.quantize_model(nets.twin_net()), rows)
    assert qr.verify_onnx(model, qr.export_onnx(model), rows).max_steps <= 1.01


def test_a_model_that_was_not_calibrated_is_refused():
    with pytest.raises(ValueError, match="never set"):
        qr.export_onnx(qr.quantize_model(nets.dense_net()))
