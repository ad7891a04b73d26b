"""Preprocessing inside the model: `Rescaling` and `Normalization` as `Affine`, and folded.

As an `Affine` they are one layer class for a quantizer, with equal outputs. Folding them into the
first convolution saves the layer, but divides the kernel by the inputs' size (255, say), so that
the same optimizer step moves it that much further: fold for inference, not before training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qat_round._compat import keras
from qat_round.frontend.graph import Editor, Graph, Node, Part, Ref, refs_in
from qat_round.frontend.patterns import affine_constants
from qat_round.layers.ops import Affine

_KINDS = (keras.layers.Rescaling, keras.layers.Normalization)
_PLAIN = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Dense)


def preprocessing_as_affine(graph: Graph) -> Graph:
    """`Rescaling` and `Normalization` become constant `Affine` layers of the same name."""
    parts = dict(graph.parts)
    for node in graph.nodes.values():
        part = graph.parts[node.part]
        if issubclass(part.cls, _KINDS) and isinstance(node.args[0], Ref):
            shape = graph.spec(node.args[0]).shape
            parts[part.name] = _as_affine(part, shape) or part
    return Graph(**{**vars(graph), "parts": parts})


def _as_affine(part: Part, shape: tuple | None) -> Part | None:
    if issubclass(part.cls, keras.layers.Rescaling):
        scale, offset = part.config["scale"], part.config["offset"]
    else:
        if shape is None:
            return None
        scale, offset = _normalization(part, shape)
    scale, offset = np.asarray(scale, np.float64), np.asarray(offset, np.float64)
    config = {
        "name": part.name,
        "dtype": part.config.get("dtype", "float32"),
        "scale": scale.tolist(),
        "offset": offset.tolist() if offset.any() else None,
    }
    return Part(part.name, Affine, config)


def _normalization(part: Part, shape: tuple) -> tuple[np.ndarray, np.ndarray]:
    """(x - mean) / max(sqrt(variance), epsilon) as scale and offset; or its inverse."""
    config = part.config
    mean, variance = part.weights[:2] if part.weights else (config["mean"], config["variance"])
    axes = _axes(config["axis"], len(shape))
    broadcast = [shape[i] if i in axes else 1 for i in range(1, len(shape))]
    mean = _spread(mean, broadcast)
    deviation = np.maximum(np.sqrt(_spread(variance, broadcast)), keras.backend.epsilon())
    if config.get("invert"):
        return deviation, mean
    return 1.0 / deviation, -mean / deviation


def _axes(axis: Any, rank: int) -> set[int]:
    axes = () if axis is None else np.atleast_1d(axis)
    return {int(a) % rank for a in axes}


def _spread(values: Any, broadcast: list) -> np.ndarray:
    array = np.asarray(values, np.float64)
    return array.reshape(()) if array.size == 1 else array.reshape(broadcast)


def fold_preprocessings(graph: Graph) -> Graph:
    """Folds a constant `Affine` on a model input into the convolution or dense layer behind it.

    Done where outputs stay equal: the affine is per channel and read by that layer only, the layer
    has one call, and it pads with nothing or the offset is zero (a padded zero is a zero *after*
    the affine). Everywhere else the `Affine` stays.

    Args:
        graph: a graph in which preprocessing is `Affine` already.

    Returns:
        The folded graph.
    """
    editor, consumers, calls = Editor(graph), graph.consumers(), graph.calls()
    starts = {ref.node for ref in refs_in(graph.inputs)}
    for name, node in editor.walk():
        affine = _foldable(graph, graph.nodes[name], starts, consumers, calls)
        if affine is None:
            editor.keep(name, node)
            continue
        part = graph.parts[node.part]
        editor.parts[part.name] = _folded(part, graph.parts[affine.part])
        source = editor.resolve(affine.args[0])
        editor.keep(name, Node(node.part, (source, *node.args[1:]), node.kwargs, node.specs))
    return editor.finish()


def _foldable(graph: Graph, node: Node, starts: set, consumers: Mapping, calls: Mapping) -> Any:
    """The affine call in front, if it can be folded."""
    part = graph.parts[node.part]
    if not node.args or not isinstance(node.args[0], Ref) or not _is_host(part):
        return None
    affine = graph.nodes[node.args[0].node]
    before = graph.parts[affine.part]
    if before.cls is not Affine or before.config.get("trainable"):
        return None
    source = affine.args[0]
    alone = len(consumers[node.args[0]]) == 1 and calls[part.name] == calls[before.name] == 1
    if not alone or source.node not in starts or not graph.spec(source).floating:
        return None
    return affine if _keeps_padding(part, before) and _is_per_channel(before) else None


def _is_host(part: Part) -> bool:
    depthwise = issubclass(part.cls, keras.layers.DepthwiseConv2D)
    plain = part.cls in _PLAIN and part.config.get("groups", 1) == 1
    first = part.config.get("data_format", "channels_last") == "channels_last"
    return (depthwise or plain) and first


def _keeps_padding(part: Part, affine: Part) -> bool:
    _, offset = affine_constants(affine)
    return part.config.get("padding", "valid") == "valid" or offset is None or not offset.any()


def _is_per_channel(affine: Part) -> bool:
    values = [v for v in affine_constants(affine) if v is not None]
    return all(v.size in (1, v.shape[-1] if v.ndim else 1) for v in values)


def _folded(part: Part, affine: Part) -> Part:
    scale, offset = affine_constants(affine)
    kernel = part.weights[0].astype(np.float64)
    channels = kernel.shape[-2]
    scale, offset = _vector(scale, 1.0, channels), _vector(offset, 0.0, channels)
    has_bias = part.config["use_bias"]
    bias = part.weights[1].astype(np.float64) if has_bias else 0.0
    shift = kernel * offset[:, None]
    depthwise = issubclass(part.cls, keras.layers.DepthwiseConv2D)
    shift = shift.sum(tuple(range(kernel.ndim - 2 if depthwise else kernel.ndim - 1))).ravel()
    weights = [kernel * scale[:, None]]
    use_bias = has_bias or bool(offset.any())
    if use_bias:
        weights.append(bias + shift)
    arrays = tuple(w.astype(part.weights[0].dtype) for w in weights)
    return Part(part.name, part.cls, {**part.config, "use_bias": use_bias}, arrays)


def _vector(value: np.ndarray | None, default: float, channels: int) -> np.ndarray:
    values = np.float64(default) if value is None else np.asarray(value, np.float64).ravel()
    return np.broadcast_to(values, (channels,)).astype(np.float64)
