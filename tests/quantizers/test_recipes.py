"""Named recipes for low bits."""

from __future__ import annotations

import numpy as np
import pytest

import qat_round as qr
from qat_round.quantizers.quantized_tensors import quantized_tensors

NAMES = ["w8a8", "w8a16", "w4a8", "w4a4", "w3a3", "w2a4", "w2a2"]


# Recipes.


def test_recipes_are_plain_data_and_a_copy():
    found = qr.recipes()
    assert list(found) == NAMES
    found["w4a4"]["weights"]["bits"] = 7
    assert qr.recipes()["w4a4"]["weights"]["bits"] == 4


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_gives_its_bits_and_keeps_the_edges_at_eight(float_net, name):
    q = qr.quantize_model(float_net, recipe=name)
    tensors = quantized_tensors(q)
    weights, activations = int(name[1]), int(name[3:])
    assert {t.bits for t in tensors if t.variable is not None} == {weights}
    edges = 16 if name == "w8a16" else 8
    inner = [t.bits for t in tensors if t.variable is None][1:-1]
    assert set(inner) == {activations}
    assert (tensors[0].bits, tensors[-1].bits) == (edges, edges)


def test_two_bit_weights_have_four_levels(low):
    tensor = next(t for t in quantized_tensors(low) if t.variable is not None)
    step, zero = tensor.scale_and_zero_point()
    assert np.all(zero == 0)
    levels = np.round(tensor.quantizer.infer(tensor.variable, tensor.weights) / step)
    assert set(np.unique(levels)) == {-2.0, -1.0, 0.0, 1.0}


def test_overrides_go_over_a_recipe(float_net):
    eight = qr.LayerSpec(qr.TensorSpec(bits=8))
    q = qr.quantize_model(float_net, recipe="w4a4", overrides={"conv": eight})
    bits = {t.path: t.bits for t in quantized_tensors(q)}
    assert (bits["quant_conv/kernel"], bits["quant_conv2/kernel"]) == (8, 4)


def test_unknown_recipes_and_doubled_settings_are_refused(float_net):
    with pytest.raises(ValueError, match="Unknown recipe 'w4a5'.*w4a"):
        qr.quantize_model(float_net, recipe="w4a5")
    with pytest.raises(ValueError, match="A recipe has no"):
        qr.quantize_model(float_net, recipe={**qr.recipes()["w4a4"], "colour": 1})
    with pytest.raises(TypeError, match="a recipe says it all"):
        qr.quantize_model(float_net, weight_bits=4, recipe="w4a4")
