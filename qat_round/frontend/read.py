"""From a live `tf_keras` model to a flat `Graph`.

Nested models are opened, at any depth: each of their calls becomes calls of their layers. A layer
that is called twice stays one part with two nodes, whether the second call is its own or that of
the model around it.
"""

from __future__ import annotations

import warnings
from collections import ChainMap
from collections.abc import Mapping
from typing import Any

from qat_round._compat import keras, tf
from qat_round.frontend.activations import named_activations
from qat_round.frontend.graph import Graph, Node, Part, Ref, Spec, free_name, refs_in
from qat_round.frontend.trace import as_functional

_OPERATORS = (keras.src.layers.core.tf_op_layer.TFOpLambda,)


def read(model: Any) -> Graph:
    """The graph of a Functional or Sequential model, nested models opened.

    Args:
        model: a built `tf_keras` model that knows its inputs and outputs.

    Returns:
        The graph; parts are named as the layers, and `outer_inner` where two would share a name.
    """
    return _Reader(model).graph()


def part_names(model: Any) -> dict[str, Any]:
    """The layer behind each name that `read` gives."""
    reader = _Reader(model)
    reader.graph()
    return dict(reader.layers)


class _Reader:
    """Keeps what has been read so far: parts, nodes, and which layer has which name."""

    def __init__(self, model: Any):
        self._model = model
        self._names: dict[int, str] = {}
        self._reserved = {layer.name: None for layer in model.layers}
        self.layers: dict[str, Any] = {}
        self.parts: dict[str, Part] = {}
        self.nodes: dict[str, Node] = {}
        self._specs: dict[Ref, Spec] = {}

    def graph(self) -> Graph:
        model = self._model
        _warn_of_losses(model)
        inputs = [self._input(tensor) for tensor in model.inputs]
        outputs = self._open(model, inputs, (), {})
        _require_own_weights(self.layers, model.name)
        pack = tf.nest.pack_sequence_as
        return Graph(
            name=model.name,
            parts=self.parts,
            nodes=self.nodes,
            inputs=pack(model._nested_inputs, inputs),
            outputs=pack(model._nested_outputs, tf.nest.flatten(outputs)),
            output_names=tuple(model.output_names),
        )

    def _input(self, tensor: Any) -> Ref:
        layer = tensor._keras_history.layer
        return self._record(layer, (), {}, [tensor], ())[0]

    def _open(self, model: Any, inputs: list[Ref], path: tuple, forced: Mapping) -> Any:
        """Reads a model's calls, its inputs being the given tensors; gives its outputs."""
        env = {_key(tensor): ref for tensor, ref in zip(model.inputs, inputs, strict=True)}
        for node in _calls_in_order(model):
            if node.is_input or all(_key(t) in env for t in tf.nest.flatten(node.outputs)):
                continue
            args, kwargs = tf.nest.map_structure(
                lambda x: env[_key(x)] if _is_symbolic(x) else x,
                (tuple(node.call_args), dict(node.call_kwargs)),
            )
            outputs = tf.nest.flatten(node.outputs)
            refs = self._call(node.layer, args, kwargs, outputs, path, forced)
            env.update({_key(t): ref for t, ref in zip(outputs, refs, strict=True)})
        return [env[_key(tensor)] for tensor in model.outputs]

    def _call(
        self, layer: Any, args: tuple, kwargs: Mapping, outputs: list, path: tuple, forced: Mapping
    ) -> list[Ref]:
        kwargs = _with_training(layer, kwargs, forced)
        inner = as_functional(layer, args, kwargs) if _is_plain_call(args, kwargs) else None
        given = _inputs_in_order(inner, args) if inner is not None else None
        if given is None or not self._fits(inner, given):
            return self._record(layer, args, kwargs, outputs, path)
        passed = {"training": kwargs["training"]} if kwargs.get("training") is not None else {}
        return self._open(inner, given, (*path, layer.name), passed)

    def _fits(self, model: Any, given: list[Ref]) -> bool:
        """Whether the tensors go in as they are (Keras would cast or squeeze others)."""
        wanted = [_spec(tensor) for tensor in model.inputs]
        found = [self._specs[ref] for ref in given]
        return len(wanted) == len(found) and all(
            w.rank == f.rank and w.dtype == f.dtype for w, f in zip(wanted, found, strict=True)
        )

    def _record(
        self, layer: Any, args: tuple, kwargs: Mapping, outputs: list, path: tuple
    ) -> list[Ref]:
        part = self._part(layer, path)
        name = free_name(f"{part}:0", self.nodes)
        specs = tuple(_spec(tensor) for tensor in outputs)
        kwargs = {key: value for key, value in kwargs.items() if key != "name"}
        self.nodes[name] = Node(part, tuple(args), kwargs, specs)
        refs = [Ref(name, index) for index in range(len(specs))]
        self._specs.update(zip(refs, specs, strict=True))
        return refs

    def _part(self, layer: Any, path: tuple[str, ...]) -> str:
        if id(layer) not in self._names:
            name = self._name(layer.name, path)
            self._names[id(layer)] = name
            self.layers[name] = layer
            self.parts[name] = read_layer(layer, name)
        return self._names[id(layer)]

    def _name(self, wanted: str, path: tuple[str, ...]) -> str:
        """The layer's own name; with the models around it in front where that is taken."""
        if not path:
            return free_name(wanted, self.parts)
        taken: Any = ChainMap(self.parts, self._reserved)  # type: ignore[misc]
        for outer in reversed(path):
            if wanted not in taken:
                return wanted
            wanted = f"{outer}_{wanted}"
        return free_name(wanted, taken)


def _warn_of_losses(model: Any) -> None:
    lost = [x.name for x in model.layers if type(x).__name__ in ("AddLoss", "AddMetric")]
    if lost:
        warnings.warn(
            f"Model '{model.name}' has add_loss or add_metric terms ({', '.join(lost)}), which are "
            "no part of its outputs: they are not in the copy. Add them to it again.",
            stacklevel=6,
        )


def _require_own_weights(layers: Mapping[str, Any], model: str) -> None:
    """Raises if two layers train one variable: their copies would part, each with its own scale."""
    owners: dict[int, str] = {}
    for name, layer in layers.items():
        for variable in layer.trainable_weights:
            first = owners.setdefault(id(variable), name)
            if first != name:
                raise ValueError(
                    f"Layers '{first}' and '{name}' of model '{model}' share the weight "
                    f"'{variable.name}', which each would quantize by a scale of its own. Call one "
                    "layer twice instead, or give each its own weights; frozen layers "
                    "(trainable=False) may share."
                )


def read_layer(layer: Any, name: str) -> Part:
    """One layer as a part: class, config with activations by name, copies of its weights."""
    weights = tuple(keras.backend.batch_get_value(layer.weights))
    if isinstance(layer, _OPERATORS):
        return Part(name, type(layer), {"name": name, "function": layer.function}, weights)
    if isinstance(layer, keras.layers.Lambda):
        return Part(name, type(layer), _lambda_config(layer, name), weights)
    try:
        config = dict(layer.get_config())
    except NotImplementedError as error:
        raise ValueError(
            f"Layer '{layer.name}' ({type(layer).__name__}) has no get_config(), so that no copy "
            "of it can be made. Add get_config() returning its constructor's arguments."
        ) from error
    if getattr(layer, "synchronized", False):  # Keras leaves it out of the config
        config["synchronized"] = True
    return Part(name, type(layer), {**config, **named_activations(layer), "name": name}, weights)


def _lambda_config(layer: Any, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "function": layer.function,
        "output_shape": layer._output_shape,
        "mask": layer.mask,
        "arguments": layer.arguments,
        "dtype": layer.dtype,
    }


def _calls_in_order(model: Any) -> Any:
    for depth in sorted(model._nodes_by_depth, reverse=True):
        yield from model._nodes_by_depth[depth]


def _key(tensor: Any) -> tuple[int, int, int]:
    layer, node, index = tensor._keras_history
    return id(layer), node, index


def _is_symbolic(x: Any) -> bool:
    return hasattr(x, "_keras_history")


def _spec(tensor: Any) -> Spec:
    shape: Any = getattr(tensor, "shape", None)
    known = shape is not None and shape.rank is not None
    masked = getattr(tensor, "_keras_mask", None) is not None
    return Spec(tuple(shape) if known else None, tf.as_dtype(tensor.dtype).name, masked)


def _with_training(layer: Any, kwargs: Mapping, forced: Mapping) -> dict[str, Any]:
    """A nested model's `training=` holds for its layers, unless they were given their own."""
    if not forced or not layer._call_spec.expects_training_arg:
        return dict(kwargs)
    given = {key: value for key, value in kwargs.items() if value is not None}
    return {**kwargs, **forced, **given}


def _is_plain_call(args: tuple, kwargs: Mapping) -> bool:
    """Whether a model was called on its inputs and at most `training=`."""
    extra = {k for k, v in kwargs.items() if v is not None and k != "training"}
    return not extra and len(args) == 1


def _inputs_in_order(model: Any, args: tuple) -> list | None:
    given, wanted = args[0], model._nested_inputs
    if isinstance(given, dict) and not isinstance(wanted, dict):
        by_name = [given.get(name) for name in model.input_names]
        return by_name if all(isinstance(ref, Ref) for ref in by_name) else None
    if isinstance(given, dict):
        given = {key: given[key] for key in wanted if key in given}
    refs = refs_in(given)
    return refs if len(refs) == len(tf.nest.flatten(given)) else None
