"""Where a moved tensor is joined: an operator in between, so that it is rounded behind the move.

Everything that is joined is on one scale. Where a pool (or a padding, ...) feeds a concatenation
and something else, the converter changes the scale in front of the pool, and the other reader gets
values on the wrong one; where an average is joined, it averages values that were rounded before.
A product with one, in front of what joins, ends that: it has a scale of its own on either side, and
costs one pass over the tensor. A maximum or minimum would be put on the scale of one of its inputs,
so there all that have one are held apart.
"""

from __future__ import annotations

from collections.abc import Mapping

from qat_round._compat import keras
from qat_round.intake import layers as ours
from qat_round.intake.graph import Editor, Graph, Node, Part, Ref
from qat_round.wrapper import AVERAGES, KEEPS

from .kinds import Kind, kind_of


def moved_apart(graph: Graph) -> Graph:
    """The graph with a pass of its own between what has a scale already and what joins it."""
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
    part = graph.parts[node.part]
    needs_it = _has_a_scale if part.cls in _EXTREMES else _is_moved
    held = [
        _copied(editor, part, new, number) if needs_it(graph, old, readers, kinds) else new
        for number, (old, new) in enumerate(zip(original, given, strict=True))
    ]
    return Node(node.part, (held, *node.args[1:]), node.kwargs, node.specs)


def _has_a_scale(
    graph: Graph, ref: Ref, readers: Mapping[Ref, list[str]], kinds: Mapping[str, Kind | None]
) -> bool:
    """Whether a tensor has a scale before it is compared, which the converter would keep."""
    kind = kinds[graph.nodes[ref.node].part]
    if kind is None or not graph.nodes[ref.node].refs:
        return len(readers[ref]) > 1
    return len(readers[ref]) > 1 or kind.grid in (KEEPS, AVERAGES) or kind.fixed is not None


def _is_moved(
    graph: Graph, ref: Ref, readers: Mapping[Ref, list[str]], kinds: Mapping[str, Kind | None]
) -> bool:
    """Whether the converter's change of scale would reach another reader, or an average."""
    is_shared = False
    while True:
        node = graph.nodes[ref.node]
        kind = kinds[node.part]
        if kind is None or kind.grid not in (KEEPS, AVERAGES) or not node.refs or kind.weights:
            return False
        is_shared = is_shared or len(readers[ref]) > 1
        if is_shared or kind.grid == AVERAGES:
            return True
        ref = node.refs[0]


def _copied(editor: Editor, part: Part, x: Ref, number: int) -> Ref:
    spec = editor.spec(x)
    name = f"{part.name}_held_{number}"
    return editor.emit(ours.Affine, x, spec, name, scale=_NEARLY_ONE) if spec.floating else x


_EXTREMES = (keras.layers.Maximum, keras.layers.Minimum)
_NEARLY_ONE = 1.0 - 2.0**-20  # a product with 1 is optimized away
