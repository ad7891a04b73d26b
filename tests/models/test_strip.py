"""The way back: float models and plain data."""

from __future__ import annotations

import json

import numpy as np
import pytest

import qat_round as qr
from qat_round._compat import Default8BitQuantizeScheme
from tests.models import nets

SCHEMES = {"ours": lambda: None, "tfmot": Default8BitQuantizeScheme}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("net", [nets.conv_net, nets.twin_net])
def test_a_stripped_model_answers_as_the_float_one_did(net, scheme):
    model = net()
    back = qr.strip(qr.quantize_model(model, base_scheme=SCHEMES[scheme]()))
    rows = [nets.vectors(), nets.vectors(seed=1)] if net is nets.twin_net else nets.pictures(16)[0]
    for ours, theirs in zip(_listed(back, rows), _listed(model, rows), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert not any("quant_" in layer.name for layer in back.layers)


def _listed(model, rows) -> list:
    found = model.predict(rows, verbose=0)
    return found if isinstance(found, list) else [found]


def test_trained_weights_come_raw_or_on_their_grid(tuned, pictures):
    model = tuned("sine")
    kernel = model.get_layer("quant_conv").float_weights()[0].numpy()
    raw = qr.strip(model).get_layer("conv").kernel.numpy()
    on_grid = qr.strip(model, "quantized").get_layer("conv").kernel.numpy()
    np.testing.assert_array_equal(raw, kernel)
    scale = np.array(qr.encodings(model)["weights"]["quant_conv/kernel"]["scale"])
    np.testing.assert_allclose(on_grid / scale, np.round(on_grid / scale), atol=1e-3)
    assert np.abs(on_grid - raw).max() <= scale.max() * 0.501
    assert np.abs(on_grid - raw).max() > 0.0


def test_another_word_than_raw_and_quantized_is_refused(tuned):
    with pytest.raises(ValueError, match='"raw", "quantized"'):
        qr.strip(tuned("ste"), "rounded")


def test_encodings_are_those_of_the_file(tuned, converted):
    from qat_round.files.tflite_file import TFLiteFile

    found = json.loads(json.dumps(qr.encodings(tuned("ste"))))
    file = TFLiteFile(converted("ste"))
    output = file.tensors[file.outputs[0]]
    ours = found["activations"]["quant_classes/output"]
    assert ours["scale"] == pytest.approx(output.scales, rel=1e-6)
    assert ours["zero_point"] == list(output.zero_points)
    kernel = found["weights"]["quant_classes/kernel"]
    assert len(kernel["scale"]) == 10
    assert (kernel["qmin"], kernel["qmax"]) == (-127, 127)


@pytest.mark.parametrize("verb", [qr.strip, qr.encodings])
def test_a_float_model_is_refused(verb):
    with pytest.raises(ValueError, match="not quantized"):
        verb(nets.dense_net())
