"""Keras 3 models of one layer, with weights that differ."""

from __future__ import annotations

import numpy as np
import pytest

keras = pytest.importorskip("keras", minversion="3.0")


def randomized(model, seed=0):
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.dtype.startswith("float"):
            weight.assign(rng.uniform(0.2, 0.8, weight.shape) * rng.choice([1, 1.5], weight.shape))
    return model


def one_layer(layer, shape, **call):
    x = keras.Input(shape)
    return randomized(keras.Model(x, layer(x, **call)))
