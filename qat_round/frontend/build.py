"""From a `Graph` to a `tf_keras` model: every layer made once, every weight set once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qat_round._compat import keras, tf
from qat_round.frontend.graph import Graph, Part, Ref, map_refs


def build(graph: Graph) -> Any:
    """Makes the model.

    Args:
        graph: what to make.

    Returns:
        A new `tf_keras` Functional model with its own copies of the weights.

    Raises:
        ValueError: if a layer cannot be made from its config, or has other weights than expected.
    """
    inputs = map_refs(lambda ref: _input(graph.part(ref)), graph.inputs)
    tensors = dict(zip(tf.nest.flatten(graph.inputs), tf.nest.flatten(inputs), strict=True))
    layers = _make_layers(graph)
    for name, node in graph.nodes.items():
        if Ref(name) in tensors:
            continue
        args, kwargs = map_refs(tensors.__getitem__, (node.args, dict(node.kwargs)))
        outputs = layers[node.part](*args, **kwargs)
        tensors.update({Ref(name, i): t for i, t in enumerate(tf.nest.flatten(outputs))})
    outputs = map_refs(tensors.__getitem__, graph.outputs)
    model = keras.Model(inputs, outputs, name=graph.name)
    set_weights(graph.parts, {name: layer.weights for name, layer in layers.items()})
    if len(graph.output_names) == len(model.output_names):
        model.output_names = list(graph.output_names)
    return model


def _input(part: Part) -> Any:
    return keras.layers.InputLayer.from_config(dict(part.config)).output


def _make_layers(graph: Graph) -> dict[str, Any]:
    inputs = {graph.nodes[ref.node].part for ref in tf.nest.flatten(graph.inputs)}
    scope = {part.cls.__name__: part.cls for part in graph.parts.values() if _is_custom(part.cls)}
    with keras.utils.custom_object_scope(scope):
        return {name: make_layer(p) for name, p in graph.parts.items() if name not in inputs}


def _is_custom(cls: type) -> bool:
    return not cls.__module__.startswith("tf_keras.")


def make_layer(part: Part) -> Any:
    """The layer of a part, new and without its weights' values."""
    config = _fresh(part.config)
    if issubclass(part.cls, keras.layers.Lambda) or callable(config.get("function")):
        return part.cls(**config)
    try:
        cls: Any = part.cls
        return cls.from_config(config)
    except Exception as error:
        raise ValueError(
            f"Layer '{part.name}' ({part.cls.__name__}) cannot be made again from its config: "
            f"{error}. Its get_config() has to return every argument that its constructor needs; "
            f"`{part.cls.__name__}.from_config(layer.get_config())` must work."
        ) from error


def _fresh(config: Any) -> Any:
    """A copy with own dicts and lists: Keras takes those inside apart while it reads them."""
    if isinstance(config, Mapping):
        return {key: _fresh(value) for key, value in config.items()}
    return [_fresh(value) for value in config] if type(config) is list else config


def set_weights(parts: Mapping[str, Part], variables: Mapping[str, list[Any]]) -> None:
    """Gives layers, built, the weights of their parts, all in one go."""
    pairs: list[tuple] = []
    for name, own in variables.items():
        values = parts[name].weights
        if not values:  # a layer of ours: its config holds its numbers
            continue
        _check_weights(name, values, own)
        pairs.extend(zip(own, values, strict=True))
    keras.backend.batch_set_value(pairs)


def _check_weights(name: str, values: Any, variables: Any) -> None:
    given = [tuple(value.shape) for value in values]
    wanted = [tuple(variable.shape) for variable in variables]
    if given != wanted:
        raise ValueError(
            f"The copy of layer '{name}' has weights of shapes {wanted}, the original has {given}. "
            "A layer made from the same config and called on the same shapes must have the same "
            "weights: check its get_config() and build()."
        )
