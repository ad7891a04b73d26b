"""Where a moved tensor is joined: an operator in between, so that it is rounded behind the move.

Everything that is joined is on one scale. Where a pool (or a padding, ...) feeds a concatenation
and something else, the converter changes the scale in front of the pool, and the other reader gets
values on the wrong one; where an average is joined, it averages values that were rounded before.
A product with one, in front of what joins, ends that: it has a scale of its own on either side, and
costs one pass over the tensor. A maximum or minimum would be put on the scale of one of its inputs,
so there all that have one are held apart. A clip is the ends of a grid: it needs an operator in
front of it that has that grid, and gets one where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping

from qat_round._compat import keras
from qat_round.intake import layers as ours
from qat_round.intake.graph import Editor, Graph, Node, Part, Ref
from qat_round.wrapper import AVERAGES, KEEPS, OWN

from .kinds import Kind, is_grid_clip, is_relu, kind_of


def moved_apart(graph: Graph) -> Graph:
    """The graph with a pass of its own between what has a scale already and what joins it."""
    editor, readers = Editor(graph), graph.consumers()
    kinds = {name: kind_of(part) for name, part in graph.parts.items()}
    for name, node in editor.walk():
        kind = kinds[node.part]
        if kind is not None and kind.joins and len(node.refs) > 1:
            node = _held(editor, graph, name, node, readers, kinds)
        elif _needs_a_grid(graph, name, readers, kinds):
            held = _copied(editor, graph.parts[node.part], node.args[0], 0)
            node = Node(node.part, (held,), node.kwargs, node.specs)
        editor.keep(name, node)
    return editor.finish()


def _needs_a_grid(
    graph: Graph, name: str, readers: Mapping[Ref, list[str]], kinds: Mapping[str, Kind | None]
) -> bool:
    """Whether a clip or a ReLU has nothing in front of it with a grid that could be its own."""
    part = graph.part(Ref(name))
    if is_grid_clip(part):
        return not _takes_clip(graph, name, readers, kinds)
    is_bending = part.cls in _BENDING or is_relu(part)
    kind = kinds[graph.part(graph.nodes[name].refs[0]).name] if is_bending else None
    return kind is not None and kind.grid == AVERAGES and not kind.weights


def _takes_clip(
    graph: Graph, name: str, readers: Mapping[Ref, list[str]], kinds: Mapping[str, Kind | None]
) -> bool:
    """Whether a clip's ends can be those of the operator in front, which nothing else reads."""
    ref = graph.nodes[name].refs[0]
    while len(readers[ref]) == 1:
        maker = graph.part(ref)
        kind, linear = kinds[maker.name], maker.config.get("activation") in (None, "linear")
        if kind is None or not kind.takes_relu or not linear:
            return False
        if maker.cls is not keras.layers.BatchNormalization:
            return True
        ref = graph.nodes[ref.node].refs[0]
    return False


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
    makers = {graph.nodes[ref.node].part for ref in original}
    copies: dict[Ref, Ref] = {}  # of a tensor that is joined with itself there is one
    for old, new in zip(original, given, strict=True):
        is_repeated = len(makers) > 1 and _is_repeated(graph, old, kinds)
        if new not in copies and (is_repeated or needs_it(graph, old, readers, kinds)):
            copies[new] = _copied(editor, part, new, len(copies))
    held = [copies.get(new, new) for new in given]
    return Node(node.part, (held, *node.args[1:]), node.kwargs, node.specs)


def _is_repeated(graph: Graph, ref: Ref, kinds: Mapping[str, Kind | None]) -> bool:
    """Whether a layer that is called several times makes it: its calls share a scale."""
    name = graph.nodes[ref.node].part
    kind = kinds[name]
    calls = sum(node.part == name for node in graph.nodes.values())
    return calls > 1 and kind is not None and kind.grid == OWN and kind.fixed is None


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
    if is_grid_clip(graph.part(ref)):
        return True
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
    if not spec.floating:
        return x
    readers = [node for node in editor.nodes.values() if list(node.refs) == [x]]
    before = sum(editor.parts[node.part].cls is ours.Affine for node in readers)
    scale = 1.0 - (before + 1) * _LITTLE
    return editor.emit(ours.Affine, x, spec, f"{part.name}_held_{number}", scale=scale)


_BENDING = (keras.layers.ReLU, keras.layers.LeakyReLU, ours.Clip)
_EXTREMES = (keras.layers.Maximum, keras.layers.Minimum)
_LITTLE = 2.0**-20  # a product with 1 is optimized away, and equal ones are put together
