"""Keras 3 models that hide their graph: a subclassed model is called once on symbolic inputs.

What `trace` does for `tf_keras`, for live objects of Keras 3. Their traces are taken away again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def functional(model: Any) -> Iterator[Any]:
    """While open: the model itself, or a Functional one that shares a subclassed model's layers.

    Args:
        model: a live Keras 3 model.

    Raises:
        ValueError: if it was never called on data, or its `call` takes several tensors, or does
            something that has no layer (Python branches on values, own weights).
    """
    import keras as keras3

    known = (keras3.src.models.functional.Functional, keras3.Sequential)
    if isinstance(model, known) or not isinstance(model, keras3.Model):
        yield model
        return
    inputs = _inputs(model)
    marks = [(x, len(x._inbound_nodes), len(x._outbound_nodes)) for x in _all_layers(model)]
    try:
        yield _traced(model, inputs)
    finally:
        for layer, inbound, outbound in marks:
            del layer._inbound_nodes[inbound:]
            del layer._outbound_nodes[outbound:]


def _traced(model: Any, inputs: Any) -> Any:
    import keras as keras3

    try:
        found = keras3.Model(inputs, model.call(inputs), name=model.name)
        _require_all_weights(model, found)
    except Exception as error:
        raise ValueError(_advice(model, error)) from error
    return found


def _all_layers(model: Any) -> Iterator[Any]:
    return model._flatten_layers(include_self=True, recursive=True)


def _inputs(model: Any) -> Any:
    """Symbolic inputs of the shapes that the model was called on or built with."""
    shapes = list((getattr(model, "_build_shapes_dict", None) or {}).values())
    if not shapes:
        raise ValueError(
            f"Model '{model.name}' is not built: its input shape is not known. Call it once on "
            "data, then hand it over again."
        )
    if len(shapes) > 1:
        raise ValueError(
            f"Model '{model.name}' takes several arguments in `call`; intake traces models whose "
            "`call` takes one (a tensor, list, tuple or dict) and `training`. Wrap it: "
            "`keras.Model(inputs, model(a, b))`."
        )
    return _symbolic(shapes[0], model.input_dtype)


def _symbolic(shape: Any, dtype: str, name: str | None = None) -> Any:
    import keras as keras3

    if isinstance(shape, dict):
        return {key: _symbolic(value, dtype, key) for key, value in shape.items()}
    if all(size is None or isinstance(size, int) for size in shape):
        return keras3.Input(tuple(shape[1:]), dtype=dtype, name=name)
    return [_symbolic(each, dtype) for each in shape]


def _require_all_weights(model: Any, found: Any) -> None:
    """Raises if `call` uses weights that belong to no layer, which a graph of layers lacks."""
    known = {id(weight) for weight in found.weights}
    lost = [weight.path for weight in model.weights if id(weight) not in known]
    if lost:
        raise ValueError(f"the weights {lost[:4]} are not those of a layer that it calls")


def _advice(model: Any, error: Exception) -> str:
    return (
        f"Model '{model.name}' ({type(model).__name__}) is subclassed and its `call` cannot be "
        f"followed symbolically: {error}. Write it as a Functional model: make `x = "
        "keras.Input(shape=...)`, apply its layers to it, return `keras.Model(x, y)`; put what is "
        "not a layer (Python branches on values, own weights) into small layers."
    )
