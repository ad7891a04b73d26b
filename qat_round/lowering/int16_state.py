"""The inside of recurrent layers in 16 bits, as TFLite's own LSTM has its state.

What is rounded in every step adds up over the steps. So all that computes between the input and the
output of an unrolled layer has 16 bits, where 8 are asked of the layer: what goes in is put on a
finer grid, what comes out on one of 8 bits again. Weights have the bits that they were to have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from qat_round._compat import keras
from qat_round.frontend.graph import Editor, Graph, Node, Part, Ref, map_refs
from qat_round.layers import ops, ops_time
from qat_round.layers.int16_layers import Regrid
from qat_round.lowering.operator_table import is_wide_curve
from qat_round.numerics.grid import WIDE_BITS

_L = keras.layers
_WIDENED = {
    _L.Dense,
    _L.Add,
    _L.Subtract,
    _L.Multiply,
    _L.Dropout,
    _L.SpatialDropout1D,
    ops.Pad,
    ops.Slice,
    ops_time.Split,
    ops_time.Unstack,
    ops_time.MergeTime,
    ops_time.SplitTime,
}
"""What TFLite computes in 16 bits; all else is computed in 8, between two changes of grid."""


def wide_inside(graph: Graph, spec_of: Callable[[Part], Any]) -> Graph:
    """The graph with the changes of grid at the ends of what has 16 bits.

    Args:
        graph: a flat graph, whose pieces of recurrent layers ask for 16 bits.
        spec_of: the LayerSpec of a part.
    """
    parts = {name: _settled(part, spec_of) for name, part in graph.parts.items()}
    graph = dataclasses.replace(graph, parts=parts)
    if not any(part.bits for part in parts.values()):
        return graph
    return _Bordered(graph).graph()


def _settled(part: Part, spec_of: Callable[[Part], Any]) -> Part:
    """The part; as wide as the layer is asked to be, if it is not to have a wide state."""
    if part.bits is None:
        return part
    is_known = part.cls in _WIDENED or is_wide_curve(part)
    return part if is_known and _is_asked(spec_of(part)) else dataclasses.replace(part, bits=None)


def _is_asked(spec: Any) -> bool:
    if spec is None:
        return True
    asked = spec.activations
    return asked is not None and asked.bits in (None, 8) and spec.state_bits in (None, WIDE_BITS)


class _Bordered:
    """One walk over a graph that puts changes of grid where bits change."""

    def __init__(self, graph: Graph):
        self.before, self.editor = graph, Editor(graph)
        self.made: dict[tuple[Ref, bool], Ref] = {}
        self.regrids: dict[tuple[str, int, bool], str] = {}

    def graph(self) -> Graph:
        for name, node in self.editor.walk():
            self.editor.keep(name, self.fitted(node, self.before.parts[node.part]))
        outputs = map_refs(lambda ref: self.as_wide(ref, False), self.before.outputs)
        self.editor.graph = dataclasses.replace(self.before, outputs=outputs)
        return self.editor.finish()

    def fitted(self, node: Node, part: Part) -> Node:
        """The call, of tensors that are as wide as it is."""
        wide = part.bits is not None
        given = (node.args, dict(node.kwargs))
        args, kwargs = map_refs(lambda ref: self.as_wide(ref, wide, part), given)
        return dataclasses.replace(node, args=args, kwargs=kwargs)

    def as_wide(self, ref: Ref, wide: bool, reader: Part | None = None) -> Ref:
        """A tensor in 16 bits or in 8."""
        spec = self.editor.spec(ref)
        if (self.editor.part(ref).bits is not None) == wide or not spec.floating:
            return ref
        if (ref, wide) not in self.made:
            maker = self.editor.nodes[ref.node].part
            key = (maker, ref.index, wide)
            if key not in self.regrids:
                owner = reader if wide else self.editor.parts[maker]
                self.regrids[key] = self.regrid(maker, owner, wide, spec)
            self.made[ref, wide] = self.editor.call(self.regrids[key], ref, spec)
        return self.made[ref, wide]

    def regrid(self, maker: str, owner: Part | None, wide: bool, spec: Any) -> str:
        """The name of a new layer that changes the grid of what another layer gives."""
        made_from = None if owner is None else owner.origin
        word, bits = ("wide", WIDE_BITS) if wide else ("narrow", None)
        config: Mapping[str, Any] = {"dtype": spec.dtype}
        part = Part(f"{maker}_{word}", Regrid, config, (), made_from, bits)
        return self.editor.add_part(part)
