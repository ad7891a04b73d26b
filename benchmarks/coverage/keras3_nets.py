"""Networks that `tf_keras.applications` has and Keras 3's does not, built in Keras 3.

The Functional graph is gone through once: each layer anew by its class name and settings, a
recorded sum as `keras.ops.add`, the weights copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_DROPPED = ("initializer", "regularizer", "constraint")  # only training from nothing needs them
_SUM = "__operators__.add"


def in_keras3(model: Any) -> Any:
    """The same network, with the same weights, as a Keras 3 Functional model.

    Args:
        model: a `tf_keras` Functional model with one input, without nested models; of the bare
            operators it may have sums.

    Raises:
        ValueError: for another bare operator.
    """
    import keras

    made: dict[int, Any] = {}
    for layer in model.layers:  # in the order of computing
        node = layer.inbound_nodes[0]
        if not node.keras_inputs:
            tensor = keras.Input(layer.output.shape[1:], name=layer.name)
        else:
            tensor = _called(keras, layer, [made[id(x)] for x in node.keras_inputs])
        made[id(node.outputs)] = tensor
    built = keras.Model(made[id(model.inputs[0])], made[id(model.outputs[0])], name=model.name)
    for layer in model.layers:
        if layer.weights and type(layer).__name__ != "Normalization":  # its are its settings
            built.get_layer(layer.name).set_weights(layer.get_weights())
    return built


def _called(keras: Any, layer: Any, inputs: list[Any]) -> Any:
    kind = type(layer).__name__
    if kind == "TFOpLambda":
        if layer.get_config()["function"] != _SUM:
            raise ValueError(f"in_keras3: '{layer.name}' is no sum; add the operator here.")
        return keras.ops.add(*inputs)
    settings = {k: _plain(v) for k, v in layer.get_config().items() if _is_kept(k)}
    made = getattr(keras.layers, kind)(**settings)
    return made(inputs if kind in ("Add", "Multiply", "Concatenate") else inputs[0])


def _is_kept(name: str) -> bool:
    return name not in ("dtype", "trainable") and not name.endswith(_DROPPED)


def _plain(value: Any) -> Any:
    """A setting as Keras 3 takes it: no arrays of one number, no lists of Keras's own."""
    if isinstance(value, np.ndarray):
        return value.item() if not value.ndim else value.ravel()
    if isinstance(value, (list, tuple)) and not isinstance(value, Mapping):
        plain = [_plain(item) for item in value]
        return plain[0] if len(plain) == 1 else tuple(plain)
    return value
