"""Random graphs of many layers, shared and nested: intake's model equals the original."""

from __future__ import annotations

import numpy as np
import pytest

from qat_round._compat import keras, tf
from qat_round.frontend.check_equal import parity
from qat_round.frontend.operators import recorded_operators
from qat_round.frontend.to_functional import fold_batch_norm, split_separable, to_functional
from tests.models.random_graphs import JOINS, Growth

UNARY = (
    lambda layers, c: layers.Conv2D(c, 3, padding="same", activation="relu"),
    lambda layers, c: layers.Conv2D(c, 1, activation="elu"),
    lambda layers, c: layers.SeparableConv2D(c, 3, padding="same"),
    lambda layers, c: layers.DepthwiseConv2D(3, padding="same", activation="hard_sigmoid"),
    lambda layers, c: layers.BatchNormalization(),
    lambda layers, c: layers.LayerNormalization(),
    lambda layers, c: layers.PReLU(shared_axes=[1, 2]),
    lambda layers, c: layers.LeakyReLU(),
    lambda layers, c: layers.Dropout(0.5),
    lambda layers, c: layers.Dense(c, activation="gelu"),
    lambda layers, c: layers.MaxPooling2D(3, 1, padding="same"),
)
OPERATORS = (
    lambda x: x * 0.5 + 1.0,
    lambda x: x[:, :, :, ::-1],
    lambda x: tf.nn.relu6(x),
    lambda x: x * tf.nn.relu6(x + 3.0) / 6.0,
    lambda x: tf.nn.silu(x),
    lambda x: 1.0 - x,
    lambda x: tf.clip_by_value(x, -1.0, 1.0),
)


def _random_model(library, rng, operators):
    """Grows a graph of layers and operators that keep an image's shape."""

    def following(rng, x):
        if operators and rng.random() < 0.25:
            return operators[rng.integers(len(operators))]
        return UNARY[rng.integers(len(UNARY))](library.layers, 4)

    growth = Growth(library, rng, following, binary=JOINS)
    return growth.model([(6, 6, 4)] * rng.integers(1, 3))


def _randomized(model, rng):
    for weight in model.weights:
        if "seed" not in weight.name:
            weight.assign(rng.uniform(0.1, 0.6, weight.shape))
    return model


@pytest.mark.parametrize("seed", range(20))
def test_random_graph_is_equal(seed):
    rng = np.random.default_rng(seed)
    model = _randomized(_random_model(keras, rng, OPERATORS), rng)
    found = to_functional(model)
    assert recorded_operators(found) == []
    folded = fold_batch_norm(split_separable(found))
    assert parity(folded, found) < 1e-4


@pytest.mark.parametrize("seed", range(10))
def test_random_graph_of_keras3_is_equal(seed):
    keras3 = pytest.importorskip("keras", minversion="3.0")
    rng = np.random.default_rng(seed)
    operators = (
        lambda x: x * 0.5 + 1.0,
        lambda x: keras3.ops.hard_silu(x),
        lambda x: x[:, :, :, ::-1],
        lambda x: keras3.ops.clip(1 - x, -1.0, 1.0),
    )
    model = _randomized(_random_model(keras3, rng, operators), rng)
    assert recorded_operators(to_functional(model)) == []
