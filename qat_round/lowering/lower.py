"""Rewrites a float graph into layers that TFLite can compute in integers, with equal outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from qat_round._compat import keras
from qat_round.frontend.activations import pull_activations
from qat_round.frontend.batch_norm import norm_as_affine
from qat_round.frontend.graph import Editor, Graph, Node, Part, Ref, refs_in
from qat_round.frontend.patterns import affine_constants, merge_affines
from qat_round.frontend.split import split_separables
from qat_round.layers import ops
from qat_round.lowering.channel_scaling import as_image, can_be_image
from qat_round.lowering.cse import one_of_equals
from qat_round.lowering.flat_dense import dense_on_steps
from qat_round.lowering.int16_joins import joined_otherwise
from qat_round.lowering.int16_state import wide_inside
from qat_round.lowering.masks import READERS
from qat_round.lowering.operator_table import has_host
from qat_round.lowering.requantize_joins import moved_apart
from qat_round.lowering.rules import apply_rules
from qat_round.quantizers.spec import FLOAT

_L = keras.layers


def lower(graph: Graph, spec_of: Callable[[Part], Any] = lambda part: None) -> Graph:
    """The graph in layers of which as many as possible have a `Kind`.

    Args:
        graph: a flat graph, as intake makes it.
        spec_of: the LayerSpec of a part; those of FLOAT stay as they are.

    Returns:
        A graph with equal inference outputs.
    """
    graph = pull_activations(split_separables(graph), fused=frozenset({"linear", "relu"}))
    graph = apply_rules(graph, lambda part: spec_of(part) == FLOAT)
    graph = wide_inside(without_masks(graph), spec_of)
    graph = joined_otherwise(one_of_equals(graph, spec_of), spec_of)
    for rewrite in LOWERINGS:
        graph = rewrite(graph)
    return graph


def without_masks(graph: Graph) -> Graph:
    """Embeddings that mask nothing, once no layer asks for masks and no output carries one."""
    if any(graph.spec(ref).masked for ref in refs_in(graph.outputs)):
        return graph
    if any(part.cls in READERS for part in graph.parts.values()):
        return graph
    parts = {name: _unmasking(part) for name, part in graph.parts.items()}
    return dataclasses.replace(graph, parts=parts)


def _unmasking(part: Part) -> Part:
    if part.cls is not _L.Embedding or not part.config.get("mask_zero"):
        return part
    return dataclasses.replace(part, config={**part.config, "mask_zero": False})


def norms_without_host(graph: Graph) -> Graph:
    """A batch norm that follows no linear layer of its own becomes a per-channel affine layer.

    So does one that is called several times, if one of its calls has no such layer in front.
    """
    editor, consumers, calls = Editor(graph), graph.consumers(), graph.calls()
    lone: dict[str, Part] = {}
    for name, node in graph.nodes.items():
        part = graph.parts[node.part]
        if part.cls not in _NORMS or has_host(graph, name, consumers, calls):
            continue
        affine = norm_as_affine(part, node.specs[0])
        if affine is not None:
            lone[part.name] = affine
    for name, node in editor.walk():
        if node.part in lone:
            editor.parts[node.part] = lone[node.part]
            node = Node(node.part, node.args[:1], {}, node.specs)
        editor.keep(name, node)
    return editor.finish()


_NORMS = (_L.BatchNormalization,)


def affines_into_hosts(graph: Graph) -> Graph:
    """A constant per-channel affine behind a linear layer of its own goes into its weights."""
    editor, consumers, calls = Editor(graph), graph.consumers(), graph.calls()
    for name, node in editor.walk():
        part = graph.parts[node.part]
        folded = None
        if part.cls is ops.Affine and has_host(graph, name, consumers, calls):
            folded = _fold(editor.part(node.args[0]), part)
        if folded is None:
            editor.keep(name, node)
        else:
            editor.parts[folded.name] = folded
            editor.stand_in(name, [node.args[0]])
    return editor.finish()


def _fold(host: Part, affine: Part) -> Part | None:
    scale, offset = _per_channel(affine, _channels(host))
    if scale is None or not host.weights:
        return None
    *kernels, bias = host.weights if host.config["use_bias"] else (*host.weights, np.zeros(1))
    kernel = kernels[-1] * _against(host.cls, kernels[-1], scale)
    weights = (*kernels[:-1], kernel, bias * scale + offset)
    weights = tuple(np.asarray(w, host.weights[0].dtype) for w in weights)
    return dataclasses.replace(host, config={**host.config, "use_bias": True}, weights=weights)


def _channels(host: Part) -> int:
    kernel = host.weights[0].shape if host.weights else (0,)
    if host.cls in (_L.DepthwiseConv1D, _L.DepthwiseConv2D):
        return int(kernel[-1] * kernel[-2])
    return int(kernel[-2] if host.cls in (_L.Conv1DTranspose, _L.Conv2DTranspose) else kernel[-1])


def _against(cls: type, kernel: np.ndarray, scale: np.ndarray) -> np.ndarray:
    if cls in (_L.Conv1DTranspose, _L.Conv2DTranspose):
        return scale[:, None]
    return scale.reshape(kernel.shape[-2:]) if "Depthwise" in cls.__name__ else scale


def _per_channel(affine: Part, channels: int) -> tuple[Any, Any]:
    """Scale and offset as vectors of the channels; None if they vary over other axes."""
    vectors = []
    for value, neutral in zip(affine_constants(affine), (1.0, 0.0), strict=True):
        array = np.asarray(neutral if value is None else value, np.float64)
        if array.size not in (1, channels) or (array.ndim and array.shape[-1] != array.size):
            return None, None
        vectors.append(np.broadcast_to(array.reshape(-1), [channels]))
    return vectors[0], vectors[1]


def affines_as_depthwise(graph: Graph) -> Graph:
    """A constant affine layer becomes a 1x1 depthwise convolution, with a scale per channel.

    One number alone stays a product or a sum with a constant; what varies over other axes becomes
    a product and a sum.
    """
    editor = Editor(graph)
    for name, node in editor.walk():
        part = graph.parts[node.part]
        made = _as_depthwise(editor, part, node) if part.cls is ops.Affine else None
        if made is None:
            editor.keep(name, node)
        else:
            editor.stand_in(name, [made])
    return editor.finish()


def _as_depthwise(editor: Editor, part: Part, node: Node) -> Ref | None:
    given = [value for value in affine_constants(part) if value is not None]
    if len(given) == 1 and np.size(given[0]) == 1:
        return None
    spec, x = node.specs[0], node.args[0]
    scale, offset = _per_channel(part, spec.shape[-1]) if can_be_image(spec) else (None, None)
    if scale is None or offset is None:
        return None if len(given) == 1 else _as_product_and_sum(editor, part, node)
    weights = (scale.reshape(1, 1, -1, 1).astype("float32"), offset.astype("float32"))
    config = {"name": part.name, "kernel_size": 1, "dtype": spec.dtype}
    config["trainable"] = bool(part.config.get("trainable"))
    made = Part(part.name, _L.DepthwiseConv2D, config, weights, part.made_from)
    editor.parts[part.name] = made
    return as_image(editor, x, "affine", part.name, lambda y, s: editor.call(part.name, y, s))


def _as_product_and_sum(editor: Editor, part: Part, node: Node) -> Ref:
    x = node.args[0]
    for word, value in zip(("scale", "offset"), affine_constants(part), strict=True):
        if value is not None:
            number = {word: np.asarray(value).tolist()}
            x = editor.emit(ops.Affine, x, node.specs[0], f"{part.name}_{word}", **number)
    return x


LOWERINGS: tuple[Callable[..., Graph], ...] = (
    norms_without_host,
    merge_affines,
    affines_into_hosts,
    affines_as_depthwise,
    dense_on_steps,
    moved_apart,
)
"""After the rules of single layers, in this order; each leaves the inference outputs equal."""
