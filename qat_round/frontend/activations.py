"""Activations: functions get their Keras name, and what a quantizer cannot fuse its own layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qat_round._compat import keras, tf
from qat_round.frontend.graph import Editor, Graph, Node, Part, Ref
from qat_round.layers import activation_functions
from qat_round.layers.ops import Clip, HardSigmoid, HardSwish

FUSED = frozenset({"linear", "relu", "softmax", "sigmoid", "tanh", "gelu", "swish"})
"""What TFMOT takes as the activation of a layer that has weights."""

_HOSTS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
    keras.layers.Dense,
    keras.layers.EinsumDense,
)

_KERAS_NAMES = [
    "linear",
    "relu",
    "softmax",
    "sigmoid",
    "tanh",
    "gelu",
    "swish",
    "elu",
    "selu",
    "softplus",
    "softsign",
    "exponential",
    "hard_sigmoid",
    "mish",
]

_TENSORFLOW = {
    tf.nn.relu: "relu",
    tf.nn.relu6: "relu6",
    tf.nn.softmax: "softmax",
    tf.nn.sigmoid: "sigmoid",
    tf.nn.tanh: "tanh",
    tf.nn.gelu: "gelu",
    tf.nn.silu: "swish",
    tf.nn.elu: "elu",
    tf.nn.selu: "selu",
    tf.nn.softplus: "softplus",
    tf.nn.softsign: "softsign",
    tf.nn.leaky_relu: "leaky_relu",
    tf.nn.log_softmax: "log_softmax",
    tf.math.log_sigmoid: "log_sigmoid",
    tf.exp: "exponential",
    tf.identity: "linear",
}


def _known() -> dict[Any, Any]:
    """What stands for each function: a name that `tf_keras` knows, or one of ours."""
    ours = {fn: activation_functions.FUNCTIONS.get(name, name) for fn, name in _TENSORFLOW.items()}
    return {**ours, **{getattr(keras.activations, name): name for name in _KERAS_NAMES}}


_KNOWN = _known()


def named_activations(layer: Any) -> dict[str, Any]:
    """What a copied config must say for a layer's activations: the name, else the function."""
    found = {}
    for attribute in ("activation", "recurrent_activation"):
        value = getattr(layer, attribute, None)
        if isinstance(value, keras.layers.Layer):
            if not value.weights:
                found[attribute] = type(value).from_config(value.get_config())
        elif callable(value):
            found[attribute] = activation(value)
    config = layer.get_config() if found else {}
    return {k: v for k, v in found.items() if k in config}


def activation(value: Any) -> Any:
    """A name that `tf_keras` knows, one of our functions, or the callable itself.

    Example:
        >>> activation(tf.nn.swish)
        'swish'
    """
    try:
        return _KNOWN.get(value, value)
    except TypeError:  # a callable that has no hash
        return value


def pull_activations(graph: Graph, fused: frozenset[str] = FUSED) -> Graph:
    """Moves activations that cannot be fused behind their layer, as a layer of their own.

    A convolution or dense layer keeps an activation of `fused`; any other becomes the layer
    `<layer>_<activation>`. A layer that is shared shares it. `Activation` layers whose function
    has a layer class (relu6, hard-swish, ...) become that layer.
    """
    editor = Editor(graph)
    pulled: dict[str, str] = {}
    for name, node in editor.walk():
        part = graph.parts[node.part]
        if issubclass(part.cls, keras.layers.Activation):
            _replace(editor, part, pulled)
        if not _must_move(part, fused):
            editor.keep(name, node)
            continue
        if part.name not in pulled:
            pulled[part.name] = _split(editor, part)
        _follow(editor, name, node, pulled[part.name])
    return editor.finish()


def _must_move(part: Part, fused: frozenset[str]) -> bool:
    value = part.config.get("activation")
    if value is None or isinstance(value, dict) or not issubclass(part.cls, _HOSTS):
        return False
    return not (isinstance(value, str) and value in fused)


def _split(editor: Editor, part: Part) -> str:
    value = part.config["activation"]
    editor.parts[part.name] = Part(
        part.name, part.cls, {**part.config, "activation": "linear"}, part.weights
    )
    cls, config = as_layer(value)
    dtype = part.config.get("dtype", "float32")
    return editor.add_part(Part(f"{part.name}_{label(value)}", cls, {"dtype": dtype, **config}))


def _follow(editor: Editor, name: str, node: Node, part: str) -> None:
    editor.keep(name, node)
    editor.stand_in(name, [editor.call(part, Ref(name), node.specs[0])])


def _replace(editor: Editor, part: Part, seen: dict[str, str]) -> None:
    cls, config = as_layer(part.config["activation"])
    if cls is not keras.layers.Activation and part.name not in seen:
        seen[part.name] = part.name
        base = {key: part.config[key] for key in ("name", "dtype", "trainable")}
        editor.parts[part.name] = Part(part.name, cls, {**base, **config})


def label(value: Any) -> str:
    """The word for an activation in a layer's name."""
    if isinstance(value, str):
        return value
    return getattr(value, "name", None) or getattr(value, "__name__", "activation").strip("<>")


_LAYERS: dict[Callable, tuple[type, dict[str, Any]]] = {
    activation_functions.relu6: (keras.layers.ReLU, {"max_value": 6.0}),
    activation_functions.hard_sigmoid: (HardSigmoid, {}),
    activation_functions.hard_swish: (HardSwish, {}),
    activation_functions.leaky_relu: (keras.layers.LeakyReLU, {"alpha": 0.2}),
    activation_functions.hard_tanh: (Clip, {"low": -1.0, "high": 1.0}),
    activation_functions.celu: (keras.layers.ELU, {}),
}


def as_layer(value: Any) -> tuple[type, dict[str, Any]]:
    """Class and config of the layer that computes an activation."""
    if isinstance(value, keras.layers.Layer):
        return type(value), value.get_config()
    if value == "elu":
        return keras.layers.ELU, {}
    named = None if isinstance(value, str) else _LAYERS.get(value)
    return named or (keras.layers.Activation, {"activation": value})
