"""ONNX: QuantizeLinear and DequantizeLinear that onnxruntime runs as Keras computes."""

from __future__ import annotations

import importlib.util

import nets
import pytest

import qat_round as qr

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tf2onnx") is None or importlib.util.find_spec("onnxruntime") is None,
    reason="the extra [onnx] is not installed",
)


def test_onnxruntime_answers_within_a_step(tuned, pictures, tmp_path):
    content = qr.export_onnx(tuned("ste"), tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").read_bytes() == content
    found = qr.verify_onnx(tuned("ste"), tmp_path / "net.onnx", pictures[0])
    assert found.operators["QuantizeLinear"] == found.operators["DequantizeLinear"] == 4
    assert found.outputs[0].within_one > 0.999
    assert found.max_steps <= 2.01  # ties are rounded to even there, and a layer adds them up
    assert found.outputs[0].top1_agreement > 0.99


def test_several_inputs_and_outputs_keep_their_names():
    rows = [nets.vectors(), nets.vectors(seed=1)]
    model = qr.calibrate(qr.quantize_model(nets.twin_net()), rows)
    assert qr.verify_onnx(model, qr.export_onnx(model), rows).max_steps <= 1.01


def test_a_model_that_was_not_calibrated_is_refused():
    with pytest.raises(ValueError, match="never set"):
        qr.export_onnx(qr.quantize_model(nets.dense_net()))
