"""Random graphs of many layers, shared and nested: intake's model equals the original."""

from __future__ import annotations

import numpy as np
import pytest

from qat_round import intake
from qat_round._compat import keras, tf

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
BINARY = ("Add", "Multiply", "Subtract", "Maximum", "Average")


def _random_model(library, rng, depth, operators):
    """Grows a graph: each step takes earlier tensors and a new, old or nested layer."""
    layers, channels = library.layers, 4
    inputs = [library.Input((6, 6, channels)) for _ in range(rng.integers(1, 3))]
    tensors, used = list(inputs), []
    for step in range(8):
        x = tensors[max(0, len(tensors) - 1 - int(rng.integers(0, 3)))]
        kind = rng.random()
        if kind < 0.2:
            other = tensors[int(rng.integers(0, len(tensors)))]
            tensors.append(getattr(layers, BINARY[rng.integers(len(BINARY))])()([x, other]))
        elif kind < 0.4 and operators:
            tensors.append(operators[rng.integers(len(operators))](x))
        elif kind < 0.5 and used:
            tensors.append(used[int(rng.integers(0, len(used)))](x))
        elif kind < 0.65 and depth and step:
            used.append(_chain(library, rng, depth - 1))
            tensors.append(used[-1](x))
        else:
            used.append(UNARY[rng.integers(len(UNARY))](layers, channels))
            tensors.append(used[-1](x))
    joined = tensors[-1]
    for x in inputs:
        joined = layers.Add()([joined, x])
    return library.Model(inputs, [joined, tensors[len(tensors) // 2]])


def _chain(library, rng, depth):
    parts = [UNARY[rng.integers(len(UNARY))](library.layers, 4) for _ in range(2)]
    if depth:
        parts.append(_chain(library, rng, depth - 1))
    return library.Sequential([library.Input((6, 6, 4)), *parts])


def _randomized(model, rng):
    for weight in model.weights:
        if "seed" not in weight.name:
            weight.assign(rng.uniform(0.1, 0.6, weight.shape))
    return model


@pytest.mark.parametrize("seed", range(20))
def test_random_graph_is_equal(seed):
    rng = np.random.default_rng(seed)
    model = _randomized(_random_model(keras, rng, 2, OPERATORS), rng)
    found = intake.to_functional(model)
    assert intake.recorded_operators(found) == []
    folded = intake.fold_batch_norm(intake.split_separable(found))
    assert intake.parity(folded, found) < 1e-4


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
    model = _randomized(_random_model(keras3, rng, 2, operators), rng)
    assert intake.recorded_operators(intake.to_functional(model)) == []
