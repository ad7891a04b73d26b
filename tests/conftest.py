"""Fixtures that cost seconds, made once: data, a trained network, and what comes of it."""

from __future__ import annotations

import functools

import nets
import pytest

import qat_round as qr


@pytest.fixture(scope="session")
def pictures():
    return nets.pictures()


@pytest.fixture(scope="session")
def float_net(pictures):
    """A trained float network, to be quantized; tests leave it as it is."""
    model = nets.ready(nets.conv_net(), rate=3e-3)
    model.fit(*pictures, epochs=3, verbose=0)
    return model


@pytest.fixture(scope="session")
def tuned(float_net, pictures):
    """rounder name -> the network quantized by it, calibrated and fine-tuned; not to be changed."""

    @functools.cache
    def make(rounder: str):
        model = qr.quantize_model(float_net, rounder)
        qr.calibrate(model, pictures[0][:128])
        nets.ready(model, rate=1e-4).fit(*pictures, epochs=1, verbose=0)
        return model

    return make


@pytest.fixture(scope="session")
def converted(tuned):
    """(rounder name, io) -> the tuned network's `.tflite`."""

    @functools.cache
    def make(rounder: str, io: str = "int8") -> bytes:
        return qr.export_tflite(tuned(rounder), io=io)

    return make
