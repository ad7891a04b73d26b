"""Attention, norms and einsum: taken apart, they compute the same, and give their weights back."""

from __future__ import annotations

import numpy as np
import pytest
import tf_keras as keras

import qat_round as qr
from qat_round.frontend.build import build
from qat_round.frontend.to_functional import read_graph, rewritten
from qat_round.layers.ops import Affine
from qat_round.lowering.lower import lower
from qat_round.lowering.rules_einsum import parse
from tests.models.probe import furthest

L = keras.layers
TAKEN_APART = (L.MultiHeadAttention, L.Attention, L.LayerNormalization, L.GroupNormalization)
TAKEN_APART += (L.EinsumDense, L.UnitNormalization, L.GlobalAveragePooling1D)


def uniform():
    return keras.initializers.RandomUniform(0.5, 1.5, seed=0)


def taken_apart(model):
    made = build(lower(rewritten(read_graph(model))))
    assert not [layer.name for layer in made.layers if isinstance(layer, TAKEN_APART)]
    return made


def heads(**options):
    return L.MultiHeadAttention(2, 3, bias_initializer=uniform(), **options)


def called_twice(x):
    layer = heads()
    return layer(x, x), layer(x, L.ReLU()(x))


def einsum(equation, shape, **options):
    return L.EinsumDense(equation, shape, bias_initializer=uniform(), **options)


def norm(cls, **options):
    return cls(gamma_initializer=uniform(), beta_initializer=uniform(), **options)


NETS = {
    "heads": lambda x: heads()(x, x),
    "heads, no bias, other size": lambda x: heads(use_bias=False, output_shape=5)(x, x),
    "heads, key and value": lambda x: heads(value_dim=4)(x, L.ReLU()(x), L.Dense(6)(x)),
    "heads, scores too": lambda x: heads()(x, x, return_attention_scores=True),
    "heads, causal": lambda x: heads()(x, x, use_causal_mask=True),
    "heads, dropout": lambda x: heads(dropout=0.5)(x, x),
    "heads, twice": called_twice,
    "attention": lambda x: L.Attention()([x, L.ReLU()(x)]),
    "attention, scaled": lambda x: L.Attention(use_scale=True)([x, x]),
    "attention, causal": lambda x: L.Attention()([x, x], use_causal_mask=True),
    "einsum": lambda x: einsum("abc,cd->abd", (None, 4), bias_axes="d")(x),
    "einsum, two out": lambda x: einsum("abc,cde->abde", (None, 2, 4), bias_axes="de")(x),
    "einsum, turned": lambda x: einsum("abc,bd->adc", (4, None), activation="relu")(x),
    "einsum, dots": lambda x: einsum("...x,xy->...y", 4, bias_axes="y")(x),
    "layer norm": lambda x: norm(L.LayerNormalization)(x),
    "layer norm, all axes": lambda x: norm(L.LayerNormalization, axis=[1, 2])(x),
    "layer norm, plain": lambda x: L.LayerNormalization(center=False, scale=False)(x),
    "group norm": lambda x: norm(L.GroupNormalization, groups=3)(x),
    "unit norm": lambda x: L.UnitNormalization()(x),
}


def net(make, shape=(5, 6)):
    keras.utils.set_random_seed(0)
    x = keras.Input(shape)
    return keras.Model(x, make(x))


def sequences(count=4, shape=(5, 6)):
    return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)


@pytest.mark.parametrize("make", NETS.values(), ids=NETS.keys())
def test_the_pieces_compute_the_same_and_give_their_weights_back(make):
    model, x = net(make), sequences()
    pieces = taken_apart(model)
    assert furthest(model, pieces, x) < 1e-5
    rng = np.random.default_rng(1)
    for layer in pieces.layers:
        if not (isinstance(layer, Affine) and layer.name.split("_")[-1] in ("epsilon", "0")):
            layer.set_weights([w + rng.uniform(0.05, 0.3, w.shape) for w in layer.get_weights()])
    qr.write_back(pieces, model)
    assert furthest(model, pieces, x) < 1e-5


@pytest.mark.parametrize("known", [(5, 6), (3, 4, 6), (2, 3, 4, 6)])
def test_sizes_need_not_be_fixed_to_normalize(known):
    model = net(norm(L.LayerNormalization), (*[None] * (len(known) - 1), 6))
    assert furthest(model, taken_apart(model), sequences(2, known)) < 1e-5
    assert qr.coverage(model).ok


def test_a_mask_given_as_a_tensor_is_a_sum():
    keras.utils.set_random_seed(0)
    x, mask = keras.Input((5, 6)), keras.Input((5, 5))
    model = keras.Model([x, mask], heads()(x, x, attention_mask=mask))
    seen = np.tril(np.ones((4, 5, 5), np.float32))
    assert furthest(model, taken_apart(model), [sequences(), seen]) < 1e-5


@pytest.mark.parametrize(
    "make", [heads, L.Attention, L.GlobalAveragePooling1D], ids=lambda cls: cls.__name__
)
def test_padded_words_are_left_out(make):
    keras.utils.set_random_seed(0)
    ids = keras.Input((5,), dtype="int32")
    words, layer = L.Embedding(9, 6, mask_zero=True)(ids), make()
    if isinstance(layer, L.GlobalAveragePooling1D):
        y = layer(words)
    elif isinstance(layer, L.Attention):
        y = layer([L.Dense(6)(L.Embedding(9, 6)(ids)), words])
    else:
        y = layer(L.Dense(6)(L.Embedding(9, 6)(ids)), words)
    data = np.random.default_rng(0).integers(1, 9, (4, 5))
    data[:2, 3:] = 0
    model = keras.Model(ids, y)
    assert furthest(model, taken_apart(model), data) < 1e-5


@pytest.mark.parametrize(
    ("equation", "rank"),
    [("abc,acd->abd", 3), ("abc,cd->bad", 3), ("abc,de->abe", 3), ("ab,bc->ac", 3)],
)
def test_equations_that_are_no_dense_layer_are_left_alone(equation, rank):
    assert parse(equation, rank) is None


def test_a_mask_of_booleans_is_refused_with_advice():
    x, mask = keras.Input((5, 6)), keras.Input((5, 5), dtype="bool")
    model = keras.Model([x, mask], heads()(x, x, attention_mask=mask))
    with pytest.raises(ValueError, match="cast a given attention_mask to float32"):
        qr.quantize_model(model)


def test_a_transformer_block_is_integer_and_answers_as_keras_does():
    def block(x):
        x = L.Add()([x, heads()(x, x)])
        x = norm(L.LayerNormalization)(x)
        y = L.Dense(6)(L.Dense(12, "gelu")(x))
        return L.GlobalAveragePooling1D()(norm(L.LayerNormalization)(L.Add()([x, y])))

    model, x = net(block), sequences(64)
    quantized = qr.quantize_model(model)
    qr.calibrate(quantized, x)
    parity = qr.verify_tflite(quantized, qr.export_tflite(quantized), x)
    assert parity.float_operators == {}
    assert parity.within_one >= 0.99
