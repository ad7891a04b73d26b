"""Layers that hold two operations, as two; and 1-D convolutions as 2-D ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from qat_round._compat import keras
from qat_round.frontend.graph import Editor, Graph, Node, Part, Ref, Spec

_L = keras.layers
_SEPARABLE = {
    _L.SeparableConv1D: (_L.DepthwiseConv1D, _L.Conv1D),
    _L.SeparableConv2D: (_L.DepthwiseConv2D, _L.Conv2D),
}
_WIDER = {
    _L.Conv1D: _L.Conv2D,
    _L.DepthwiseConv1D: _L.DepthwiseConv2D,
    _L.SeparableConv1D: _L.SeparableConv2D,
    _L.Conv1DTranspose: _L.Conv2DTranspose,
    _L.MaxPooling1D: _L.MaxPooling2D,
    _L.AveragePooling1D: _L.AveragePooling2D,
}
_ONE_D = ("kernel_size", "strides", "dilation_rate", "pool_size", "output_padding")
_NEUTRAL = {"kernel_size": 1, "strides": 1, "dilation_rate": 1, "pool_size": 1, "output_padding": 0}


def split_separables(graph: Graph) -> Graph:
    """`SeparableConv` as `<name>_depthwise` and `<name>_pointwise`; shared ones stay shared."""
    editor, halves = Editor(graph), {}
    for name, node in editor.walk():
        part = graph.parts[node.part]
        if part.cls not in _SEPARABLE:
            editor.keep(name, node)
            continue
        if part.name not in halves:
            halves[part.name] = tuple(editor.add_part(half) for half in _halves(part))
        x = _padded(editor, node, part)
        middle = Spec((*node.specs[0].shape[:-1], None), node.specs[0].dtype)
        x = editor.call(halves[part.name][0], x, middle)
        editor.stand_in(name, [editor.call(halves[part.name][1], x, node.specs[0])])
    return editor.finish()


def _padded(editor: Editor, node: Node, part: Part) -> Ref:
    """The input, padded in front where the layer is causal (depthwise convolution cannot)."""
    x = node.args[0]
    if part.config["padding"] != "causal":
        return x
    reach = _first(part.config["dilation_rate"]) * (_first(part.config["kernel_size"]) - 1)
    spec = editor.spec(x)
    length = spec.shape[1] + reach if spec.shape[1] is not None else None
    spec = Spec((spec.shape[0], length, *spec.shape[2:]), spec.dtype)
    return editor.emit(_L.ZeroPadding1D, x, spec, f"{part.name}_padding", padding=[reach, 0])


def _first(value: Any) -> int:
    return int(np.ravel(value)[0])


def _halves(part: Part) -> tuple[Part, Part]:
    config = part.config
    depthwise, pointwise = _SEPARABLE[part.cls]
    base = {key: config[key] for key in ("trainable", "dtype")}
    first = {
        key: config[key]
        for key in ("kernel_size", "strides", "dilation_rate", "depth_multiplier", "data_format")
    }
    first |= {key: value for key, value in config.items() if key.startswith("depthwise_")}
    first["padding"] = "valid" if config["padding"] == "causal" else config["padding"]
    second = {key: config[key] for key in ("filters", "use_bias", "activation", "data_format")}
    second |= {key: value for key, value in config.items() if key.startswith("bias_")}
    for key in ("initializer", "regularizer", "constraint"):
        second[f"kernel_{key}"] = config[f"pointwise_{key}"]
    name, weights = part.name, part.weights
    return (
        Part(f"{name}_depthwise", depthwise, {**base, **first, "use_bias": False}, weights[:1]),
        Part(f"{name}_pointwise", pointwise, {**base, **second, "kernel_size": 1}, weights[1:]),
    )


def conv1ds_as_conv2d(graph: Graph) -> Graph:
    """1-D convolutions and poolings as 2-D ones of height 1, between two reshapes."""
    editor, wide = Editor(graph), {}
    for name, node in editor.walk():
        part = graph.parts[node.part]
        if part.cls not in _WIDER or not _has_lengths(editor, node):
            editor.keep(name, node)
            continue
        if part.name not in wide:
            editor.parts[part.name] = _widened(part)
            wide[part.name] = part.name
        editor.stand_in(name, [_in_two_d(editor, name, node, part)])
    return editor.finish()


def _has_lengths(editor: Editor, node: Node) -> bool:
    """Whether all is known but the batch and the length, and only the input is given."""
    channels = editor.spec(node.args[0]).shape[-1], node.specs[0].shape[-1]
    return None not in channels and len(node.refs) == 1


def _in_two_d(editor: Editor, name: str, node: Node, part: Part) -> Ref:
    x, out = node.args[0], node.specs[0]
    if part.config.get("padding") == "causal":
        x = _padded(editor, node, part)
    expanded = _reshape(editor, x, _expanded(editor.spec(x)), f"{part.name}_expand")
    wide_name = name
    editor.keep(wide_name, Node(part.name, (expanded,), node.kwargs, (_expanded(out),)))
    return _reshape(editor, Ref(wide_name), out, f"{part.name}_squeeze")


def _expanded(spec: Spec) -> Spec:
    return Spec((spec.shape[0], 1, *spec.shape[1:]), spec.dtype)


def _reshape(editor: Editor, x: Ref, spec: Spec, name: str) -> Ref:
    shape = [-1 if n is None else n for n in spec.shape[1:]]
    return editor.emit(_L.Reshape, x, spec, name, target_shape=shape)


def _widened(part: Part) -> Part:
    config = dict(part.config)
    for key in _ONE_D:
        if config.get(key) is not None:
            config[key] = [_NEUTRAL[key], _first(config[key])]
    if config.get("padding") == "causal":
        config["padding"] = "valid"
    if part.cls in (_L.DepthwiseConv1D, _L.SeparableConv1D):
        # TensorFlow's depthwise kernel wants the same stride both ways; the height is 1 anyway.
        config["strides"] = [config["strides"][1]] * 2
    kernels = len(part.weights) - bool(config.get("use_bias"))
    weights = [w[None] if i < kernels else w for i, w in enumerate(part.weights)]
    return Part(part.name, _WIDER[part.cls], config, tuple(weights))
