"""Small quantized models that several tests start from."""

from __future__ import annotations

import qat_round as qr
from tests.models import nets


def low_bit_dense(optimizer, method=None):
    """The dense net with 2-bit weights, calibrated by a method and compiled."""
    q = qr.quantize_model(nets.dense_net(), recipe="w2a4")
    qr.calibrate(q, nets.vectors(), method)
    q.compile(optimizer, "mse")
    return q


def with_file(model, inputs):
    """The model quantized and calibrated, and its `.tflite`."""
    quantized = qr.calibrate(qr.quantize_model(model), inputs)
    return quantized, qr.export_tflite(quantized)
