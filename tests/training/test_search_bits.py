"""The search for bits under a budget."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import tf_keras as keras

import qat_round as qr
from qat_round.quantizers.quantized_tensors import quantized_tensors


def test_bits_are_found_under_a_budget(float_net, pictures):
    x = pictures[0][:32]
    whole = sum(int(np.prod(w.shape)) for w in float_net.trainable_weights if "kernel" in w.name)
    found = qr.search_bits(float_net, x, budget_bytes=int(0.6 * whole))
    assert found.bytes <= 0.6 * whole
    assert set(found.bits.values()) == {4, 8}
    assert all(by[4] > by[8] for by in found.sensitivity.values())
    q = qr.quantize_model(float_net, overrides=found.overrides)
    bits = {t.layer.name: t.bits for t in quantized_tensors(q) if t.variable is not None}
    assert bits == {f"quant_{name}": b for name, b in found.bits.items()}
    with pytest.raises(ValueError, match=f"the smallest is {-(-whole // 2):,}"):
        qr.search_bits(float_net, x, budget_bytes=10)


L = keras.layers


# Bits under a budget.


def separable_and_attention():
    """Layers that are lowered to several, a constant that has 8 bits, and plain ones."""
    keras.utils.set_random_seed(1)
    x = inputs = keras.Input((8, 8, 3), name="image")
    x = L.SeparableConv2D(8, 3, activation="hard_sigmoid", name="separable")(x)
    x = L.PReLU(shared_axes=[1, 2], name="bent")(x)
    x = L.Reshape((36, 8), name="steps")(x)
    x = L.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = L.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(inputs, L.Dense(4, name="last")(x))


def test_a_search_speaks_of_the_users_layers():
    model, x = separable_and_attention(), np.random.default_rng(0).normal(size=(32, 8, 8, 3))
    everything = qr.search_bits(model, x, budget_bytes=10**6, bits=(4, 8))
    assert {"separable", "attention", "last"} <= set(everything.bits)
    assert set(everything.bits) <= {layer.name for layer in model.layers}
    found = qr.search_bits(model, x, budget_bytes=int(0.75 * everything.bytes))
    assert found.bytes <= 0.75 * everything.bytes
    q = qr.quantize_model(model, overrides=found.overrides)
    stored_bytes = importlib.import_module("qat_round.training.search_bits").stored_bytes
    stored = sum(
        stored_bytes(int(np.prod(t.variable.shape)), t.bits)
        for t in quantized_tensors(q)
        if t.variable is not None
    )
    assert abs(stored - found.bytes) <= 4  # of a layer with several weights each is rounded up


def test_a_search_counts_what_the_user_settled(float_net, pictures):
    x = pictures[0][:32]
    settled = {"conv2": qr.LayerSpec(qr.TensorSpec(bits=8))}
    found = qr.search_bits(float_net, x, budget_bytes=10**6, overrides=settled)
    assert set(found.bits) == {"conv", "classes"}
    free = qr.search_bits(float_net, x, budget_bytes=10**6)
    assert found.bytes == free.bytes


@pytest.mark.parametrize(
    ("given", "says"),
    [({"bits": (2.5, 8)}, "bits=2.5"), ({"bits": (4, 9)}, "2 to 8"), ({"bit": 4}, "'bit'")],
)
def test_a_search_refuses_what_it_does_not_know(float_net, pictures, given, says):
    with pytest.raises((ValueError, TypeError), match=says):
        qr.search_bits(float_net, pictures[0][:8], budget_bytes=10**6, **given)
