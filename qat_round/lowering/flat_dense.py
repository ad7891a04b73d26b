"""Dense layers on sequences, as dense layers on steps.

TFLite makes a dense layer on three or more axes a product of matrices between two reshapes, and its
bias a sum behind the second one, which it then leaves in float. Here the reshapes stand around the
dense layer and all that becomes one operator with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qat_round._compat import keras
from qat_round.frontend.graph import Editor, Graph, Node, Part, Ref, Spec
from qat_round.layers import ops, ops_time
from qat_round.lowering.channel_scaling import reshaped

_L = keras.layers
_FOLLOWERS = (_L.BatchNormalization, _L.ReLU, _L.Activation, ops.Clip)


def dense_on_steps(graph: Graph) -> Graph:
    """Every step of a sequence becomes an example in front of a dense layer, and back behind it."""
    editor, consumers, calls = Editor(graph), graph.consumers(), graph.calls()
    flat: dict[Ref, Ref] = {}
    for name, node in editor.walk():
        old = graph.nodes[name]
        source = flat.get(old.args[0]) if len(old.args) == 1 and _is_ref(old.args[0]) else None
        part = graph.parts[node.part]
        if _is_long(part, editor, node):
            source = source or _merged(editor, part, node.args[0])
        elif source is None or part.cls not in _FOLLOWERS:
            editor.keep(name, node)
            continue
        flat[Ref(name)] = y = editor.call(node.part, source, _flat_spec(node.specs[0]))
        if not _is_followed(graph, consumers[Ref(name)], calls):
            editor.stand_in(name, [_split(editor, part, y, node.specs[0])])
    return editor.finish()


def _is_ref(value: Any) -> bool:
    return isinstance(value, Ref)


def _is_long(part: Part, editor: Editor, node: Node) -> bool:
    """Whether it is a dense layer on sequences (or images) of a known size."""
    if part.cls is not _L.Dense or len(node.args) != 1 or node.kwargs.get("mask") is not None:
        return False
    shape = editor.spec(node.args[0]).shape
    return shape is not None and len(shape) > 2 and None not in shape[1:]


def _is_followed(graph: Graph, readers: Sequence[str], calls: Mapping[str, int]) -> bool:
    """Whether one layer alone reads a tensor, by itself, and works value by value or by channel."""
    if len(readers) != 1 or not readers[0]:
        return False
    node = graph.nodes[readers[0]]
    part = graph.parts[node.part]
    alone = len(node.refs) == 1 and calls[part.name] == 1
    return part.cls in _FOLLOWERS and alone and _is_by_channel(part, node)


def _is_by_channel(part: Part, node: Node) -> bool:
    if part.cls is not _L.BatchNormalization:
        return True
    last = len(node.specs[0].shape) - 1
    return (np.ravel(part.config["axis"]) % (last + 1)).tolist() == [last]


def _merged(editor: Editor, part: Part, x: Ref) -> Ref:
    spec = editor.spec(x)
    steps = _as_steps(spec)
    if steps != spec:
        x = reshaped(editor, x, steps, f"{part.name}_lines")
    return editor.emit(ops_time.MergeTime, x, _flat_spec(spec), f"{part.name}_merged")


def _split(editor: Editor, part: Part, y: Ref, spec: Spec) -> Ref:
    steps = _as_steps(spec)
    config: Mapping[str, Any] = {"steps": steps.shape[1]}
    y = editor.emit(ops_time.SplitTime, y, steps, f"{part.name}_by_step", **config)
    return y if steps == spec else reshaped(editor, y, spec, f"{part.name}_back")


def _as_steps(spec: Spec) -> Spec:
    """All axes between the batch and the last one as one."""
    steps = int(np.prod(spec.shape[1:-1]))
    return dataclasses.replace(spec, shape=(spec.shape[0], steps, spec.shape[-1]))


def _flat_spec(spec: Spec) -> Spec:
    return Spec((None, spec.shape[-1]), spec.dtype)
