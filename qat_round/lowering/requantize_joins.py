"""Where a moved tensor is joined: an operator in between, so that it is rounded behind the move.

Everything that is joined is on one scale. Where a pool (or a padding, ...) feeds a concatenation
and something else, the converter changes the scale in front of the pool, and the other reader gets
values on the wrong one; where an average is joined, it averages values that were rounded before.
A product with one, in front of what joins, ends that: it has a scale of its own on either side, and
costs one pass over the tensor. A maximum or minimum would be put on the scale of one of its inputs,
so there all that have one are held apart. A clip is the ends of a grid: it needs an operator in
front of it that has that grid, and gets one where there is none. A reshaped tensor that is
multiplied with itself, or added to itself, would be reshaped behind that operator, which the
converter then refuses.
"""

from __future__ import annotations

import collections

from qat_round._compat import keras
from qat_round.frontend.graph import Editor, Graph, Node, Part, Ref
from qat_round.layers import ops, ops_time
from qat_round.lowering.operator_table import has_host, is_grid_clip, is_relu, kind_of
from qat_round.quantizers.layer_quantizers import AVERAGES, KEEPS, OWN


def moved_apart(graph: Graph) -> Graph:
    """The graph with a pass of its own between what has a scale already and what joins it."""
    return _Apart(graph).graph()


class _Apart:
    """What one walk over a graph needs to know of it."""

    def __init__(self, graph: Graph):
        self.before, self.editor = graph, Editor(graph)
        self.readers, self.calls = graph.consumers(), graph.calls()
        self.kinds = {name: kind_of(part) for name, part in graph.parts.items()}
        self.copies: collections.Counter[Ref] = collections.Counter()

    def graph(self) -> Graph:
        for name, node in self.editor.walk():
            kind = self.kinds[node.part]
            if kind is not None and kind.joins and len(node.refs) > 1:
                node = self.held(name, node)
            elif self.needs_a_grid(name):
                held = self.copied(self.before.parts[node.part], node.args[0], 0)
                node = Node(node.part, (held,), node.kwargs, node.specs)
            elif self.is_doubled(name):
                x = node.args[0][0]
                pair = [x, self.copied(self.before.parts[node.part], x, 0)]
                node = Node(node.part, (pair,), node.kwargs, node.specs)
            self.editor.keep(name, node)
        return self.editor.finish()

    def is_doubled(self, name: str) -> bool:
        """Whether both operands are one tensor, or equal ones, that come out of a reshape."""
        node = self.before.nodes[name]
        if self.before.parts[node.part].cls not in _PAIRS or len(node.refs) != 2:
            return False
        first, second = (self.before.nodes[ref.node] for ref in node.refs)
        return self.before.parts[first.part].cls in _RESHAPING and first == second

    def needs_a_grid(self, name: str) -> bool:
        """Whether a clip or a ReLU has nothing in front of it with a grid that could be its own."""
        part = self.before.part(Ref(name))
        if is_grid_clip(part):
            return not self.takes_clip(name)
        if part.cls not in _BENDING and not is_relu(part):
            return False
        kind = self.kinds[self.before.part(self.before.nodes[name].refs[0]).name]
        return kind is not None and kind.grid == AVERAGES and not kind.weights

    def takes_clip(self, name: str) -> bool:
        """Whether a clip's ends can be those of the operator in front, which nothing else reads."""
        ref = self.before.nodes[name].refs[0]
        maker = self.before.part(ref)
        if len(self.readers[ref]) != 1 or not self.takes_relu(maker):
            return False
        if maker.cls is not keras.layers.BatchNormalization:
            return True
        host = self.before.part(self.before.nodes[ref.node].refs[0])
        has_one = has_host(self.before, ref.node, self.readers, self.calls)
        return has_one and self.takes_relu(host)

    def takes_relu(self, part: Part) -> bool:
        """Whether a ReLU behind a layer becomes part of its operator."""
        kind, is_linear = self.kinds[part.name], part.config.get("activation") in (None, "linear")
        return kind is not None and kind.takes_relu and is_linear

    def held(self, name: str, node: Node) -> Node:
        original, given = self.before.nodes[name].args[0], node.args[0]
        if not isinstance(original, (list, tuple)):
            return node
        part = self.before.parts[node.part]
        needs_it = self.has_a_scale if part.cls in _EXTREMES else self.is_moved
        makers = {self.before.nodes[ref.node].part for ref in original}
        copies: dict[Ref, Ref] = {}  # of a tensor that is joined with itself there is one
        for old, new in zip(original, given, strict=True):
            is_repeated = len(makers) > 1 and self.is_repeated(old)
            if new not in copies and (is_repeated or needs_it(old)):
                copies[new] = self.copied(part, new, len(copies))
        held = [copies.get(new, new) for new in given]
        return Node(node.part, (held, *node.args[1:]), node.kwargs, node.specs)

    def is_repeated(self, ref: Ref) -> bool:
        """Whether a layer that is called several times makes it: its calls share a scale."""
        name = self.before.nodes[ref.node].part
        kind = self.kinds[name]
        shares = kind is not None and kind.grid == OWN and kind.fixed is None
        return shares and self.calls[name] > 1

    def has_a_scale(self, ref: Ref) -> bool:
        """Whether a tensor has a scale before it is compared, which the converter would keep."""
        node = self.before.nodes[ref.node]
        kind, is_shared = self.kinds[node.part], len(self.readers[ref]) > 1
        if kind is None or not node.refs:
            return is_shared
        return is_shared or kind.grid in (KEEPS, AVERAGES) or kind.fixed is not None

    def is_moved(self, ref: Ref) -> bool:
        """Whether the converter's change of scale would reach another reader, or an average."""
        if is_grid_clip(self.before.part(ref)):
            return True
        while True:
            node = self.before.nodes[ref.node]
            kind = self.kinds[node.part]
            if kind is None or kind.grid not in (KEEPS, AVERAGES) or not node.refs or kind.weights:
                return False
            if kind.grid == AVERAGES or len(self.readers[ref]) > 1:
                return True
            ref = node.refs[0]

    def copied(self, part: Part, x: Ref, number: int) -> Ref:
        """A tensor's product with a number so near to 1 that it stays as it is."""
        spec = self.editor.spec(x)
        if not spec.floating:
            return x
        self.copies[x] += 1
        scale = 1.0 - self.copies[x] * _LITTLE
        return self.editor.emit(ops.Affine, x, spec, f"{part.name}_held_{number}", scale=scale)


_BENDING = (keras.layers.ReLU, keras.layers.LeakyReLU, ops.Clip)
_PAIRS = (keras.layers.Add, keras.layers.Multiply, keras.layers.Subtract)
_RESHAPING = (
    keras.layers.Reshape,
    keras.layers.Flatten,
    keras.layers.Conv1D,
    keras.layers.DepthwiseConv1D,
    keras.layers.Conv1DTranspose,
    ops_time.MergeTime,
    ops_time.SplitTime,
)
_EXTREMES = (keras.layers.Maximum, keras.layers.Minimum)
_LITTLE = 2.0**-20  # a product with 1 is optimized away, and equal ones are put together
