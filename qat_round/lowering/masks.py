"""Keras's masks as tensors of 0 and 1 that TFLite can compute in integers.

Keras carries a mask beside a tensor and combines masks in boolean logic, which has no integer
operator. Here a mask is found again at its source: an `Embedding` (word 0 is masked) or a
`Masking` layer (a step that holds one value throughout is masked).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from qat_round._compat import keras
from qat_round.frontend.graph import Editor, Node, Part, Ref, Spec
from qat_round.layers import ops
from qat_round.layers.ops_math import Divide, Elementwise
from qat_round.lowering.channel_scaling import reshaped
from qat_round.lowering.rules import piece, rule

_L = keras.layers
_SHARP = 1e3  # a step counts as masked only if it is nearer to the mask's value than 1/1000
FAR = 16.0  # masked scores are this much lower: exp(-16) is nothing beside a step of 1/256


def mask_of(editor: Editor, x: Ref) -> Ref | None:
    """The mask of a tensor, shape (batch, steps, 1), 1 where it counts; None if none is found."""
    if not editor.spec(x).masked:
        return None
    node = editor.nodes[x.node]
    part = editor.parts[node.part]
    if part.cls is _L.Embedding and part.config.get("mask_zero"):
        return _of_words(editor, part, node)
    if part.cls is _L.Masking:
        return _of_steps(editor, part, node)
    masked = [ref for ref in node.refs if editor.spec(ref).masked]
    return mask_of(editor, masked[0]) if masked else None


def _of_words(editor: Editor, part: Part, node: Node) -> Ref:
    """A table that gives 0 for word 0 and 1 for all others."""
    words = part.weights[0].shape[0]
    table = np.ones((words, 1), np.float32)
    table[0] = 0.0
    config = {"input_dim": words, "output_dim": 1}
    name = piece(editor, part, "mask", _L.Embedding, [table], **config)
    editor.parts[name] = dataclasses.replace(
        editor.parts[name], config={**editor.parts[name].config, "trainable": False}
    )
    return editor.call(name, node.args[0], _narrow(node.specs[0]))


def _of_steps(editor: Editor, part: Part, node: Node) -> Ref:
    """min(1, 1000 max |x - value|) over each step."""
    x, name, value = node.args[0], part.name, float(part.config["mask_value"])
    spec = editor.spec(x)
    if value:
        x = editor.emit(ops.Affine, x, spec, f"{name}_away", offset=-value)
    size = editor.emit(Elementwise, x, spec, f"{name}_size", kind="abs")
    over: dict[str, Any] = {"kind": "max", "axes": [len(spec.shape) - 1], "keepdims": True}
    narrow = _narrow(spec)
    most = editor.emit(ops.Reduce, size, narrow, f"{name}_most", **over)
    sharp = editor.emit(ops.Affine, most, narrow, f"{name}_sharp", scale=_SHARP)
    return editor.emit(ops.Clip, sharp, narrow, f"{name}_mask", low=0.0, high=1.0)


def _narrow(spec: Spec) -> Spec:
    return Spec((*spec.shape[:-1], 1), spec.dtype)


@rule(_L.Masking)
def _masking(editor: Editor, part: Part, node: Node) -> Ref | None:
    """Once nothing needs the mask any more: x where a step counts, else 0."""
    x, spec = node.args[0], node.specs[0]
    if _is_needed(editor, node):
        return None
    if not part.config["mask_value"]:
        return x  # masked steps are 0 already
    return editor.emit(_L.Multiply, [x, _of_steps(editor, part, node)], spec, part.name)


def _is_needed(editor: Editor, node: Node) -> bool:
    """Whether a layer that has a rule of its own still asks for masks."""
    kinds = {editor.graph.parts[n.part].cls for n in editor.graph.nodes.values()}
    return any(cls in READERS for cls in kinds)


READERS: set[type] = {_L.GlobalAveragePooling1D}
"""Layers that compute otherwise where their input is masked, and have a rule for it."""


@rule(_L.GlobalAveragePooling1D)
def _masked_mean(editor: Editor, part: Part, node: Node) -> Ref | None:
    """The mean of the steps that count."""
    x, spec = node.args[0], node.specs[0]
    if part.config.get("data_format") == "channels_first":
        return None
    keep, axes = bool(part.config.get("keepdims")), {"axes": [1], "keepdims": True}
    mask = mask_of(editor, x)
    whole = editor.spec(x)
    over = {"kind": "mean", **axes}
    flat = Spec((spec.shape[0], 1, spec.shape[-1]), spec.dtype)
    if mask is not None:
        name = part.name
        x = editor.emit(_L.Multiply, [x, mask], whole, f"{name}_counted")
        mean = editor.emit(ops.Reduce, x, flat, f"{name}_mean", **over)
        share = editor.emit(ops.Reduce, mask, _narrow(flat), f"{name}_share", **over)
        y = editor.emit(Divide, [mean, share], flat, f"{name}_ratio")
        return y if keep else reshaped(editor, y, spec, name)
    return editor.emit(ops.Reduce, x, spec, part.name, kind="mean", axes=[1], keepdims=keep)


def far_below(editor: Editor, part: Part, mask: Ref, shape: tuple[Any, ...], word: str) -> Ref:
    """What to add to scores: 0 where the mask is 1, far below 0 where it is 0, in a shape."""
    wide = Spec(shape, editor.spec(mask).dtype)
    mask = reshaped(editor, mask, wide, f"{part.name}_{word}")
    line = {"scale": FAR, "offset": -FAR}
    return editor.emit(ops.Affine, mask, wide, f"{part.name}_{word}_bias", **line)
