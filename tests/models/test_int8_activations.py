"""Low-bit activations in int8 files."""

from __future__ import annotations

import pytest

import qat_round as qr
from qat_round.quantizers.quantized_tensors import quantized_tensors

# Files.


@pytest.mark.parametrize("name", ["w4a8", "w3a3", "w2a2"])
def test_files_of_few_bits_hold_int4_and_answer_as_the_lifted_model(float_net, pictures, name):
    x = pictures[0]
    q = qr.calibrate(qr.quantize_model(float_net, recipe=name), x[:128], "mse")
    if name == "w4a8":
        tflite = qr.export_tflite(q, io="int8")
    else:
        with pytest.raises(ValueError, match="lift_activations=True"):
            qr.export_tflite(q, io="int8")
        with pytest.warns(UserWarning, match="written with 8 bits on the same ranges"):
            tflite = qr.export_tflite(q, io="int8", lift_activations=True)
    with qr.lifted(q):
        report = qr.verify_tflite(q, tflite, x[:100])
    assert report.ok
    assert report.max_steps <= 1
    assert report.tensor_types["INT4"] == 3
    assert {t.bits for t in quantized_tensors(q) if t.variable is None} == {8, int(name[3:])}
