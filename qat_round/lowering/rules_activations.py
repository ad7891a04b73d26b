"""Activations that TFLite has no integer operator for, in those that it has."""

from __future__ import annotations

import dataclasses

import numpy as np

from qat_round._compat import keras
from qat_round.frontend.graph import Editor, Node, Part, Ref, Spec
from qat_round.frontend.write_back import JOINERS, Found
from qat_round.layers import activation_functions, ops
from qat_round.layers.ops_math import Divide, Elementwise
from qat_round.lowering.channel_scaling import as_image, can_be_image, scaled
from qat_round.lowering.operator_table import is_relu
from qat_round.lowering.rules import rule

_L = keras.layers


@rule(ops.HardSigmoid)
def _hard_sigmoid(editor: Editor, part: Part, node: Node) -> Ref:
    return _line_and_clip(editor, part, node, 1.0 / 6.0)


def _line_and_clip(editor: Editor, part: Part, node: Node, scale: float) -> Ref:
    """As an image throughout: a clip is part of the convolution that is right in front of it."""

    def use(x: Ref, spec: Spec) -> Ref:
        line = editor.emit(ops.Affine, x, spec, f"{part.name}_line", scale=scale, offset=0.5)
        return editor.emit(ops.Clip, line, spec, part.name, low=0.0, high=1.0)

    x, spec = node.args[0], node.specs[0]
    return as_image(editor, x, "line", part.name, use) if can_be_image(spec) else use(x, spec)


@rule(ops.HardSwish)
def _hard_swish(editor: Editor, part: Part, node: Node) -> Ref:
    """A gate and a product, whose integer kernels round once each, as the simulation does."""
    gate = dataclasses.replace(part, name=f"{part.name}_gate")
    return editor.emit(
        _L.Multiply,
        [node.args[0], _hard_sigmoid(editor, gate, node)],
        node.specs[0],
        part.name,
    )


@rule(_L.Activation)
def _by_name(editor: Editor, part: Part, node: Node) -> Ref | None:
    """Activations that Keras knows by a word alone."""
    found = _BY_NAME.get(part.config["activation"])
    return None if found is None else found(editor, part, node)


def _silu(editor: Editor, part: Part, node: Node) -> Ref:
    x, spec = node.args[0], node.specs[0]
    gate = editor.emit(_L.Activation, x, spec, f"{part.name}_sigmoid", activation="sigmoid")
    return editor.emit(_L.Multiply, [x, gate], spec, part.name)


def _sharp_sigmoid(editor: Editor, part: Part, node: Node) -> Ref:
    """Keras 2's own hard-sigmoid, 0.2 x + 0.5 held in 0..1."""
    return _line_and_clip(editor, part, node, 0.2)


def _softsign(editor: Editor, part: Part, node: Node) -> Ref:
    """x / (1 + |x|)."""
    x, spec = node.args[0], node.specs[0]
    size = editor.emit(Elementwise, x, spec, f"{part.name}_size", kind="abs")
    more = editor.emit(ops.Affine, size, spec, f"{part.name}_shift", offset=1.0)
    return editor.emit(Divide, [x, more], spec, part.name)


def _softplus(editor: Editor, part: Part, node: Node) -> Ref:
    """relu(x) - log(sigmoid(|x|)): a logarithm of 1/2 to 1, which 8 bits hold well."""
    x, spec = node.args[0], node.specs[0]
    above = editor.emit(_L.ReLU, x, spec, f"{part.name}_positive")
    below = _log_of_share(editor, part, node)
    return editor.emit(_L.Subtract, [above, below], spec, part.name)


def _log_sigmoid(editor: Editor, part: Part, node: Node) -> Ref:
    """min(x, 0) + log(sigmoid(|x|))."""
    x, spec = node.args[0], node.specs[0]
    negative = editor.emit(ops.Clip, x, spec, f"{part.name}_negative", high=0.0)
    rest = _log_of_share(editor, part, node)
    return editor.emit(_L.Add, [negative, rest], spec, part.name)


def _log_of_share(editor: Editor, part: Part, node: Node) -> Ref:
    """log(sigmoid(|x|)), which is -log(1 + exp(-|x|))."""
    x, spec = node.args[0], node.specs[0]
    size = editor.emit(Elementwise, x, spec, f"{part.name}_size", kind="abs")
    share = editor.emit(_L.Activation, size, spec, f"{part.name}_share", activation="sigmoid")
    return editor.emit(Elementwise, share, spec, f"{part.name}_log", kind="log")


def _mish(editor: Editor, part: Part, node: Node) -> Ref:
    """x tanh(softplus(x))."""
    x, spec = node.args[0], node.specs[0]
    soft = editor.emit(_L.Activation, x, spec, f"{part.name}_softplus", activation="softplus")
    gate = editor.emit(_L.Activation, soft, spec, f"{part.name}_tanh", activation="tanh")
    return editor.emit(_L.Multiply, [x, gate], spec, part.name)


def _selu(editor: Editor, part: Part, node: Node) -> Ref:
    return _exponential_unit(editor, part, node, 1.6732632423543772, 1.0507009873554805)


@rule(_L.ELU)
def _elu(editor: Editor, part: Part, node: Node) -> Ref:
    return _exponential_unit(editor, part, node, float(part.config.get("alpha", 1.0)), 1.0)


def _exponential_unit(editor: Editor, part: Part, node: Node, alpha: float, scale: float) -> Ref:
    """scale (relu(x) + alpha (exp(min(x, 0)) - 1)): TFLite has an integer kernel for each."""
    x, spec = node.args[0], node.specs[0]
    above = editor.emit(_L.ReLU, x, spec, f"{part.name}_positive")
    if scale != 1.0:
        above = editor.emit(ops.Affine, above, spec, f"{part.name}_above", scale=scale)
    negative = editor.emit(ops.Clip, x, spec, f"{part.name}_negative", high=0.0)
    power = editor.emit(_L.Activation, negative, spec, f"{part.name}_exp", activation="exponential")
    shifted = {"scale": scale * alpha, "offset": -scale * alpha}
    below = editor.emit(ops.Affine, power, spec, f"{part.name}_shift", **shifted)
    return editor.emit(_L.Add, [above, below], spec, part.name)


@rule(_L.PReLU)
def _prelu(editor: Editor, part: Part, node: Node) -> Ref:
    """relu(x) + a min(x, 0)."""
    x, spec = node.args[0], node.specs[0]
    above = editor.emit(_L.ReLU, x, spec, f"{part.name}_positive")
    negative = editor.emit(ops.Clip, x, spec, f"{part.name}_negative", high=0.0)
    below = scaled(editor, part, negative, "slope", scale=part.weights[0])
    return editor.emit(_L.Add, [above, below], spec, part.name)


def _slopes(part: Part, found: Found) -> list[np.ndarray]:
    try:
        return [found("slope")["depthwise_kernel"]]
    except KeyError:
        return [found("slope_scale")["scale"]]


JOINERS[_L.PReLU] = _slopes


@rule(_L.ReLU)
def _bent_relu(editor: Editor, part: Part, node: Node) -> Ref | None:
    """A slope below 0, a largest value that no operator has; Keras computes them in float."""
    config, x, spec = part.config, node.args[0], node.specs[0]
    slope, most = float(config.get("negative_slope") or 0.0), config.get("max_value")
    if config.get("threshold") or is_relu(part):
        return None
    if not slope:
        return editor.emit(ops.Clip, x, spec, part.name, low=0.0, high=float(config["max_value"]))
    if most is None:
        return editor.emit(_L.LeakyReLU, x, spec, f"{part.name}_leaky", alpha=slope)
    above = editor.emit(ops.Clip, x, spec, f"{part.name}_positive", low=0.0, high=float(most))
    negative = editor.emit(ops.Clip, x, spec, f"{part.name}_negative", high=0.0)
    below = editor.emit(ops.Affine, negative, spec, f"{part.name}_slope", scale=slope)
    return editor.emit(_L.Add, [above, below], spec, part.name)


_BY_NAME = {
    "swish": _silu,
    "silu": _silu,
    "hard_sigmoid": _sharp_sigmoid,
    "softsign": _softsign,
    "selu": _selu,
    "softplus": _softplus,
    "mish": _mish,
    activation_functions.log_sigmoid: _log_sigmoid,
}
