"""One activation where there are several equal ones that read the same tensor.

TFLite's converter puts equal operators together, and then makes the one that is left a part of the
operator in front of it. With several ReLUs in the simulation, that operator would be rounded to a
grid of its own, which the file does not have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qat_round._compat import keras
from qat_round.frontend.graph import Editor, Graph, Node, Part, Ref, refs_in
from qat_round.layers import ops

_L = keras.layers
_ACTIVATIONS = (_L.Activation, _L.ReLU, _L.LeakyReLU, ops.Clip)


def one_of_equals(graph: Graph, spec_of: Callable[[Part], Any]) -> Graph:
    """The graph with one call for all that are equal.

    Args:
        graph: a flat graph.
        spec_of: what is asked of a layer; those of which different things are asked stay apart.
    """
    editor, calls = Editor(graph), graph.calls()
    ends = {ref.node for ref in refs_in(graph.outputs)}
    by_input: dict[Ref, list[tuple[Any, Ref]]] = {}
    for name, node in editor.walk():
        part = graph.parts[node.part]
        if part.cls not in _ACTIVATIONS or calls[part.name] > 1 or name in ends:
            editor.keep(name, node)
            continue
        seen, key = by_input.setdefault(node.args[0], []), _key(part, node, spec_of(part))
        first = next((ref for other, ref in seen if other == key), None)
        if first is None:
            seen.append((key, Ref(name)))
            editor.keep(name, node)
        else:
            editor.stand_in(name, [first])
    return editor.finish()


def _key(part: Part, node: Node, spec: Any) -> tuple[Any, ...]:
    """What equal calls have in common; `==` compares it."""
    settings = {key: part.config[key] for key in part.config if key not in ("name", "trainable")}
    return part.cls, settings, dict(node.kwargs), node.specs, spec
