"""Normalizations within an example: means, products and an inverse root, each on a grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from qat_round._compat import keras
from qat_round.frontend.graph import Editor, Node, Part, Ref, Spec
from qat_round.frontend.write_back import JOINERS, Found
from qat_round.layers import ops
from qat_round.layers.ops_math import Elementwise, L2Normalize
from qat_round.lowering.channel_scaling import reshaped, scaled
from qat_round.lowering.rules import rule

_L = keras.layers


@rule(_L.LayerNormalization)
def _layer_normalization(editor: Editor, part: Part, node: Node) -> Ref | None:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta, over the axes of the layer."""
    spec = node.specs[0]
    if spec.shape is None:
        return None
    axes = sorted(int(a) % len(spec.shape) for a in np.ravel(part.config["axis"]))
    y = _normalized(editor, part, node.args[0], axes)
    gamma, beta = _gamma_and_beta(part)
    shape = [spec.shape[a] if a in axes else 1 for a in range(1, len(spec.shape))]
    gamma, beta = (None if v is None else np.reshape(v, shape) for v in (gamma, beta))
    return scaled(editor, part, y, "gain", gamma, beta)


@rule(_L.GroupNormalization)
def _group_normalization(editor: Editor, part: Part, node: Node) -> Ref | None:
    """Layer normalization of groups of channels, over all positions."""
    spec, x = node.specs[0], node.args[0]
    axis = part.config["axis"]
    unknown = spec.shape is None or list(spec.shape[1:]).count(None) > 1 or spec.shape[-1] is None
    if unknown or len(spec.shape) < 2 or axis % len(spec.shape) != len(spec.shape) - 1:
        return None
    channels, middle = spec.shape[-1], spec.shape[1:-1]
    groups = channels if part.config["groups"] == -1 else part.config["groups"]
    length = None if None in middle else int(np.prod(middle))
    split = Spec((spec.shape[0], length, groups, channels // groups), spec.dtype)
    y = reshaped(editor, x, split, f"{part.name}_split")
    y = _normalized(editor, part, y, [1, 3])
    y = reshaped(editor, y, spec, f"{part.name}_join")
    return scaled(editor, part, y, "gain", *_gamma_and_beta(part))


@rule(_L.UnitNormalization)
def _unit_normalization(editor: Editor, part: Part, node: Node) -> Ref | None:
    spec = node.specs[0]
    axes = [a % len(spec.shape) for a in np.ravel(part.config["axis"])]
    if axes != [len(spec.shape) - 1]:
        return None
    return editor.emit(L2Normalize, node.args[0], spec, part.name)


def _gamma_and_beta(part: Part) -> list[Any]:
    weights = list(part.weights)
    return [weights.pop(0) if part.config[key] else None for key in ("scale", "center")]


def _normalized(editor: Editor, part: Part, x: Ref, axes: Sequence[int]) -> Ref:
    """(x - mean) / sqrt(variance + epsilon)."""
    spec, name = editor.spec(x), part.name
    narrow = tuple(1 if a in axes else n for a, n in enumerate(spec.shape))
    small = dataclasses.replace(spec, shape=narrow)
    over: dict[str, Any] = {"axes": list(axes), "keepdims": True, "kind": "mean"}
    mean = editor.emit(ops.Reduce, x, small, f"{name}_mean", **over)
    off = editor.emit(_L.Subtract, [x, mean], spec, f"{name}_centered")
    square = editor.emit(_L.Multiply, [off, off], spec, f"{name}_square")
    variance = editor.emit(ops.Reduce, square, small, f"{name}_variance", **over)
    epsilon = float(part.config["epsilon"])
    safe = editor.emit(ops.Affine, variance, small, f"{name}_epsilon", offset=epsilon)
    inverse = editor.emit(Elementwise, safe, small, f"{name}_inverse", kind="rsqrt")
    return editor.emit(_L.Multiply, [off, inverse], spec, f"{name}_normalized")


def _joined(part: Part, found: Found) -> list[np.ndarray]:
    words = {"scale": ("depthwise_kernel", "scale"), "center": ("bias", "offset")}
    wanted = [key for key in ("scale", "center") if part.config[key]]
    try:
        gain = found("gain")
        return [gain[words[key][0]] for key in wanted]
    except KeyError:
        return [found(f"gain_{words[key][1]}")[words[key][1]] for key in wanted]


JOINERS[_L.LayerNormalization] = _joined
JOINERS[_L.GroupNormalization] = _joined
