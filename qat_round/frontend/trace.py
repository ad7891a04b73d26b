"""Models that hide their graph: a subclassed model is called once on symbolic inputs.

The call leaves traces in the user's layers (Keras notes every symbolic call); they are taken away
again, so that the model given is as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qat_round._compat import keras, tf
from qat_round.frontend.graph import Ref

_FUNCTIONAL_CALLS = (
    keras.src.engine.functional.Functional.call,
    keras.Sequential.call,
)


def is_functional(model: Any) -> bool:
    """Whether the model is nothing but its graph of layers."""
    return (
        isinstance(model, keras.Model)
        and bool(getattr(model, "_is_graph_network", False))
        and type(model).call in _FUNCTIONAL_CALLS
    )


def as_functional(layer: Any, args: tuple, kwargs: Mapping) -> Any | None:
    """The layer as a Functional model if it is one or can be traced, else None."""
    if is_functional(layer):
        return layer
    if not isinstance(layer, keras.Model) or not isinstance(args[0], Ref):
        return None
    try:
        return trace(layer)
    except ValueError:
        return None


def trace(model: Any) -> Any:
    """A Functional model that shares the subclassed model's layers.

    Args:
        model: a subclassed `tf_keras` model that has been called, or built, once.

    Returns:
        The Functional model of its symbolic call.

    Raises:
        ValueError: if the model does not know its input shapes, or its `call` does something that
            has no layer (Python branches on values, own weights, loops over tensors).
    """
    inputs = tf.nest.map_structure(_symbolic, _input_specs(model))
    marks = _marks(model)
    try:
        return keras.Model(inputs, model.call(inputs), name=model.name)
    except Exception as error:
        raise ValueError(_advice(model, error)) from error
    finally:
        _forget(marks)


def _input_specs(model: Any) -> Any:
    spec = model.save_spec(dynamic_batch=True)
    if spec is None and getattr(model, "_build_input_shape", None) is not None:
        shape = model._build_input_shape
        return tf.nest.map_structure(
            lambda s: tf.TensorSpec(s, model.compute_dtype), _shapes(shape)
        )
    if spec is None:
        raise ValueError(
            f"Model '{model.name}' is not built: its input shape is not known. Call it once on "
            "data, or `model.build(input_shape)`, or start it with "
            "`tf_keras.Input(shape=...)`; then hand it over again."
        )
    args, kwargs = spec
    if len(args) != 1 or refused(kwargs):
        raise ValueError(
            f"Model '{model.name}' takes several arguments in `call`; intake traces models whose "
            "`call` takes one (a tensor, list, tuple or dict) and `training`. Wrap it: "
            "`tf_keras.Model(inputs, model(a, b))`."
        )
    return args[0]


def refused(kwargs: Mapping) -> bool:
    """Whether the keyword arguments hold tensors."""
    return any(isinstance(leaf, tf.TypeSpec) for leaf in tf.nest.flatten(dict(kwargs)))


def _shapes(shape: Any) -> Any:
    if isinstance(shape, dict):
        return {key: tf.TensorShape(value) for key, value in shape.items()}
    if isinstance(shape, list):
        return [tf.TensorShape(value) for value in shape]
    return tf.TensorShape(shape)


def _symbolic(spec: Any) -> Any:
    return keras.Input(batch_shape=tuple(spec.shape), dtype=spec.dtype, name=_plain(spec.name))


def _plain(name: str | None) -> str | None:
    return None if not name else name.split("/")[-1].split(":")[0]


def _marks(model: Any) -> list[tuple[Any, int, int]]:
    layers = model._flatten_layers(include_self=True, recursive=True)
    return [(x, len(x._inbound_nodes), len(x._outbound_nodes)) for x in layers]


def _forget(marks: list[tuple[Any, int, int]]) -> None:
    for layer, inbound, outbound in marks:
        del layer._inbound_nodes[inbound:]
        del layer._outbound_nodes[outbound:]


def _advice(model: Any, error: Exception) -> str:
    return (
        f"Model '{model.name}' ({type(model).__name__}) is subclassed and its `call` cannot be "
        f"followed symbolically: {error}. Write it as a Functional model: make `x = "
        "tf_keras.Input(shape=...)`, apply its layers to it, return `tf_keras.Model(x, y)`; put "
        "what is not a layer (Python branches on values, own weights) into small layers."
    )
