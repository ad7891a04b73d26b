"""Batch norm in inference mode: folded into the layer in front, or a per-channel `Affine`.

With k = gamma / sqrt(variance + epsilon):
    y = k (w * x + b - mean) + beta = (k w) * x + (k (b - mean) + beta)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qat_round._compat import keras
from qat_round.frontend.graph import Editor, Graph, Node, Part, Ref, Spec
from qat_round.layers.ops import Affine

_L = keras.layers
_BY_LAST = (_L.Conv1D, _L.Conv2D, _L.Conv3D, _L.Dense)
_TRANSPOSED = (_L.Conv1DTranspose, _L.Conv2DTranspose, _L.Conv3DTranspose)
_DEPTHWISE = (_L.DepthwiseConv1D, _L.DepthwiseConv2D)
_SEPARABLE = (_L.SeparableConv1D, _L.SeparableConv2D)


def fold_batch_norms(graph: Graph) -> Graph:
    """Folds every batch norm that follows a linear layer of its own; others become `Affine`.

    A batch norm is folded if the layer in front is a (transposed, depthwise, separable)
    convolution or a dense layer without activation, called once and read by the batch norm alone.

    Args:
        graph: any graph.

    Returns:
        A graph with equal inference outputs. Batch norm that is shared, is given `training=`, or
        works on other axes than the last stays.
    """
    editor, consumers, calls = Editor(graph), graph.consumers(), graph.calls()
    for name, node in editor.walk():
        part = graph.parts[node.part]
        if not _is_plain_norm(part, node, calls):
            editor.keep(name, node)
            continue
        host = editor.part(node.args[0])
        lonely = len(consumers[graph.nodes[name].args[0]]) == 1 and calls.get(host.name) == 1
        if lonely and _takes_norm(host):
            editor.parts[host.name] = fold(host, part)
            editor.stand_in(name, [node.args[0]])
        else:
            editor.parts[part.name] = _as_affine(part)
            editor.keep(name, Node(part.name, node.args[:1], {}, node.specs))
    return editor.finish()


def _is_plain_norm(part: Part, node: Node, calls: Mapping[str, int]) -> bool:
    if not issubclass(part.cls, _L.BatchNormalization) or not isinstance(node.args[0], Ref):
        return False
    free = node.kwargs.get("training") is None and node.kwargs.get("mask") is None
    return (
        free and calls[part.name] == 1 and _on_last_axis(part, node.specs[0]) and not _renorm(part)
    )


def norm_as_affine(part: Part, spec: Spec) -> Part | None:
    """A batch norm over the last axis, in inference mode, as a per-channel `Affine` of its name."""
    return None if _renorm(part) or not _on_last_axis(part, spec) else _as_affine(part)


def _on_last_axis(part: Part, spec: Spec) -> bool:
    axes = np.atleast_1d(part.config["axis"])
    return spec.rank is not None and len(axes) == 1 and int(axes[0]) % spec.rank == spec.rank - 1


def _renorm(part: Part) -> bool:
    return bool(part.config.get("renorm"))


def _takes_norm(host: Part) -> bool:
    known = (*_BY_LAST, *_TRANSPOSED, *_DEPTHWISE, *_SEPARABLE)
    linear = host.config.get("activation") in (None, "linear")
    last = host.config.get("data_format", "channels_last") == "channels_last"
    return host.cls in known and linear and last


def norm_constants(part: Part) -> tuple[np.ndarray, np.ndarray]:
    """k and beta - k mean of a batch norm: y = k x + offset, in float64."""
    values = [w.astype(np.float64) for w in part.weights]
    gamma = values.pop(0) if part.config["scale"] else 1.0
    beta = values.pop(0) if part.config["center"] else 0.0
    mean, variance = values[:2]
    k = gamma / np.sqrt(variance + part.config["epsilon"])
    return k, beta - k * mean


def fold(host: Part, norm: Part) -> Part:
    """The layer with the batch norm behind it in its weights."""
    k, offset = norm_constants(norm)
    kernels: list[Any] = list(host.weights)
    bias = kernels.pop() if host.config["use_bias"] else 0.0
    kernels[-1] = kernels[-1].astype(np.float64) * _against_kernel(host.cls, kernels[-1], k)
    weights = [*kernels, k * bias + offset]
    dtype = host.weights[0].dtype
    config = {**host.config, "use_bias": True}
    return Part(host.name, host.cls, config, tuple(np.asarray(w, dtype) for w in weights))


def _against_kernel(cls: type, kernel: np.ndarray, k: np.ndarray) -> np.ndarray:
    """k in a shape that multiplies the kernel's output channels."""
    if cls in _TRANSPOSED:
        return k[:, None]
    return k.reshape(kernel.shape[-2:]) if cls in _DEPTHWISE else k


def _as_affine(norm: Part) -> Part:
    k, offset = norm_constants(norm)
    base = {key: norm.config[key] for key in ("name", "dtype", "trainable")}
    return Part(norm.name, Affine, {**base, "scale": k.tolist(), "offset": offset.tolist()})


def unfold(
    host: Part, norm: Part, arrays: list[np.ndarray], bias: np.ndarray
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What layer and batch norm must hold so that folding gives the arrays again.

    Args:
        host: the layer as it was before folding.
        norm: the batch norm as it was.
        arrays: the folded layer's weights, as many as the original layer has.
        bias: the folded layer's bias.

    Returns:
        Weights of the layer and of the batch norm. Statistics and gamma stay; a layer without bias
        passes its new bias on to beta, or to the mean where there is no beta.
    """
    k, offset = norm_constants(norm)
    last = 1 if host.cls in _SEPARABLE else 0
    arrays = [array.astype(np.float64) for array in arrays]
    arrays[last] = arrays[last] / _against_kernel(host.cls, arrays[last], k)
    if host.config["use_bias"]:
        arrays[-1] = (bias - offset) / k
        return arrays, list(norm.weights)
    return arrays, _with_offset(norm, bias.astype(np.float64), k)


def unfold_affine(norm: Part, values: list[np.ndarray]) -> list[np.ndarray] | None:
    """A batch norm's weights that give this scale and offset; None if it has no gamma."""
    if not norm.config["scale"]:
        return None
    scale, offset = (value.astype(np.float64) for value in values)
    variance = norm.weights[-1].astype(np.float64)
    gamma = scale * np.sqrt(variance + norm.config["epsilon"])
    changed = Part(norm.name, norm.cls, norm.config, (gamma, *norm.weights[1:]))
    return _with_offset(changed, offset, scale)


def _with_offset(norm: Part, offset: np.ndarray, k: np.ndarray) -> list[np.ndarray]:
    weights = list(norm.weights)
    mean = weights[-2].astype(np.float64)
    if norm.config["center"]:
        weights[-3] = offset + k * mean
    else:
        weights[-2] = -offset / k
    return weights
