"""Activations that TFLite has no integer operator for, in those that it has."""

from __future__ import annotations

import dataclasses

from qat_round._compat import keras
from qat_round.intake import layers as ours
from qat_round.intake.graph import Editor, Node, Part, Ref

from .rules import rule

_L = keras.layers


@rule(_L.Activation)
def _silu(editor: Editor, part: Part, node: Node) -> Ref | None:
    if part.config["activation"] not in ("swish", "silu"):
        return None
    x, spec = node.args[0], node.specs[0]
    gate = editor.emit(_L.Activation, x, spec, f"{part.name}_sigmoid", activation="sigmoid")
    return editor.emit(_L.Multiply, [x, gate], spec, part.name)


@rule(ours.HardSigmoid)
def _hard_sigmoid(editor: Editor, part: Part, node: Node) -> Ref:
    spec = node.specs[0]
    sixth = {"scale": 1.0 / 6.0, "offset": 0.5}
    line = editor.emit(ours.Affine, node.args[0], spec, f"{part.name}_affine", **sixth)
    return editor.emit(ours.Clip, line, spec, part.name, low=0.0, high=1.0)


@rule(ours.HardSwish)
def _hard_swish(editor: Editor, part: Part, node: Node) -> Ref:
    """A gate and a product, whose integer kernels round once each, as the simulation does."""
    gate = dataclasses.replace(part, name=f"{part.name}_gate")
    return editor.emit(
        _L.Multiply,
        [node.args[0], _hard_sigmoid(editor, gate, node)],
        node.specs[0],
        part.name,
    )


@rule(_L.ELU)
def _elu(editor: Editor, part: Part, node: Node) -> Ref:
    """relu(x) + alpha (exp(min(x, 0)) - 1): TFLite has an integer kernel for each."""
    x, spec, alpha = node.args[0], node.specs[0], float(part.config.get("alpha", 1.0))
    positive = editor.emit(_L.ReLU, x, spec, f"{part.name}_positive")
    negative = editor.emit(ours.Clip, x, spec, f"{part.name}_negative", high=0.0)
    power = editor.emit(_L.Activation, negative, spec, f"{part.name}_exp", activation="exponential")
    shifted = {"scale": alpha, "offset": -alpha}
    below = editor.emit(ours.Affine, power, spec, f"{part.name}_shift", **shifted)
    return editor.emit(_L.Add, [positive, below], spec, part.name)


@rule(_L.PReLU)
def _prelu(editor: Editor, part: Part, node: Node) -> Ref:
    """(1 - a) relu(x) + a x, a per channel."""
    x, spec, alpha = node.args[0], node.specs[0], part.weights[0]
    positive = editor.emit(_L.ReLU, x, spec, f"{part.name}_positive")
    scale = (1.0 - alpha).tolist()
    above = editor.emit(ours.Affine, positive, spec, f"{part.name}_above", scale=scale)
    all_ = editor.emit(ours.Affine, x, spec, f"{part.name}_all", scale=alpha.tolist())
    return editor.emit(_L.Add, [above, all_], spec, part.name)


@rule(_L.Average)
def _average(editor: Editor, part: Part, node: Node) -> Ref:
    spec, count = node.specs[0], len(node.args[0])
    total = editor.emit(_L.Add, node.args[0], spec, f"{part.name}_sum")
    return editor.emit(ours.Affine, total, spec, part.name, scale=1.0 / count)
