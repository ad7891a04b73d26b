"""Which layers give what goes into and comes out of a model."""

from __future__ import annotations

from qat_round._compat import tf
from qat_round.frontend.graph import Graph
from qat_round.lowering.operator_table import kind_of
from qat_round.quantizers.layer_quantizers import OWN


def edge_parts(graph: Graph) -> frozenset[str]:
    """The model's inputs, and of each output every layer back to the one whose grid it is on.

    A softmax, and what else has a grid that nothing can change, goes with what is in front of it.
    """
    found = {graph.nodes[ref.node].part for ref in tf.nest.flatten(graph.inputs)}
    open_ends = [ref.node for ref in tf.nest.flatten(graph.outputs)]
    seen: set[str] = set()
    while open_ends:
        name = open_ends.pop()
        if name in seen or graph.nodes[name].part in found:
            continue
        seen.add(name)
        part = graph.parts[graph.nodes[name].part]
        kind = kind_of(part)
        own_grid = kind is not None and kind.grid == OWN and kind.fixed is None and not kind.joins
        if kind is None or own_grid:
            continue
        open_ends += [ref.node for ref in graph.nodes[name].refs]
    return frozenset(found | {graph.nodes[name].part for name in seen})
