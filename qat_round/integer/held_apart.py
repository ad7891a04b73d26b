"""Where a moved tensor is joined: an operator in between, so that it is rounded behind the move.

Everything that is joined is on one scale. Where a pool (or a padding, ...) feeds a concatenation
and something else, the converter changes the scale in front of the pool, and the other reader gets
values on the wrong one; where an average is joined, it averages values that were rounded before.
A 1x1 depthwise convolution by ones in front of the concatenation ends that: it has a scale of its
own on either side, and costs one pass over the tensor.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qat_round._compat import keras
from qat_round.intake.graph import Editor, Graph, Node, Part, Ref
from qat_round.wrapper import AVERAGES, KEEPS

from .kinds import Kind, kind_of
from .scaling import as_image, can_be_image

_L = keras.layers


def moved_apart(graph: Graph) -> Graph:
    """The graph with a pass of its own between what was only moved and what joins it."""
    editor, readers = Editor(graph), graph.consumers()
    kinds = {name: kind_of(part) for name, part in graph.parts.items()}
    for name, node in editor.walk():
        kind = kinds[node.part]
        if kind is not None and kind.joins and len(node.refs) > 1:
            node = _held(editor, graph, name, node, readers, kinds)
        editor.keep(name, node)
    return editor.finish()


def _held(
    editor: Editor,
    graph: Graph,
    name: str,
    node: Node,
    readers: Mapping[Ref, list[str]],
    kinds: Mapping[str, Kind | None],
) -> Node:
    original, given = graph.nodes[name].args[0], node.args[0]
    if not isinstance(original, (list, tuple)):
        return node
    held = [
        _copied(editor, graph.parts[node.part], new, number)
        if isinstance(old, Ref) and _needs_it(graph, old, readers, kinds)
        else new
        for number, (old, new) in enumerate(zip(original, given, strict=True))
    ]
    return Node(node.part, (held, *node.args[1:]), node.kwargs, node.specs)


def _needs_it(
    graph: Graph,
    ref: Ref,
    readers: Mapping[Ref, list[str]],
    kinds: Mapping[str, Kind | None],
) -> bool:
    """Whether the converter's change of scale would reach another reader, or an average."""
    is_shared = False
    while True:
        node = graph.nodes[ref.node]
        kind = kinds[node.part]
        if kind is None or kind.grid not in (KEEPS, AVERAGES) or not node.refs or kind.weights:
            return False
        is_shared = is_shared or len(readers.get(ref, ())) > 1
        if is_shared or kind.grid == AVERAGES:
            return True
        ref = node.refs[0]


def _copied(editor: Editor, part: Part, x: Ref, number: int) -> Ref:
    spec = editor.spec(x)
    if not can_be_image(spec) or not spec.floating:
        return x
    name = f"{part.name}_held_{number}"
    weights = (np.ones([1, 1, spec.shape[-1], 1], np.float32),)
    config = {"kernel_size": 1, "use_bias": False, "trainable": False, "dtype": spec.dtype}
    host = editor.add_part(Part(name, _L.DepthwiseConv2D, config, weights, part.origin))
    return as_image(editor, x, f"held_{number}", part.name, lambda y, s: editor.call(host, y, s))
