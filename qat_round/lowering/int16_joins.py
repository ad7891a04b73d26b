"""What TFLite's converter lacks at 16 bits, made of what it has.

It refuses CONCATENATION and PACK of 16-bit tensors. Tensors that are padded with zeros to where
they belong and added are joined as well: every sum has one part that is not 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from qat_round._compat import keras
from qat_round.frontend.graph import Editor, Graph, Node, Part, Ref
from qat_round.layers import ops, ops_time
from qat_round.numerics.grid import WIDE_BITS

_L = keras.layers


def is_wide(spec: Any) -> bool:
    """Whether a LayerSpec asks for 16-bit activations."""
    asked = getattr(spec, "activations", None)
    return asked is not None and asked.bits == WIDE_BITS


def joined_otherwise(graph: Graph, spec_of: Callable[[Part], Any]) -> Graph:
    """The graph without concatenations of which 16 bits are asked.

    Args:
        graph: a flat graph.
        spec_of: the LayerSpec of a part.
    """
    editor = Editor(graph)
    for name, node in editor.walk():
        part = graph.parts[node.part]
        fn = _OTHERWISE.get(part.cls) if is_wide(spec_of(part)) else None
        made = fn(editor, part, node) if fn is not None and node.specs[0].floating else None
        if made is None:
            editor.keep(name, node)
        else:
            editor.stand_in(name, [made])
    return editor.finish()


def _concatenated(editor: Editor, part: Part, node: Node) -> Ref | None:
    return _side_by_side(editor, part, node, node.refs, int(part.config.get("axis", -1)))


def _stacked(editor: Editor, part: Part, node: Node) -> Ref | None:
    """The same along a new axis of length 1."""
    refs = []
    for number, ref in enumerate(node.refs):
        spec = editor.spec(ref)
        shape = (spec.shape[0], 1, *spec.shape[1:])
        if None in shape[1:]:
            return None
        wider, name = dataclasses.replace(spec, shape=shape), f"{part.name}_step_{number}"
        refs.append(editor.emit(_L.Reshape, ref, wider, name, target_shape=shape[1:]))
    return _side_by_side(editor, part, node, refs, 1)


def _side_by_side(
    editor: Editor, part: Part, node: Node, refs: Sequence[Ref], axis: int
) -> Ref | None:
    """One after the other: what is there, with room behind it, plus the next, with room before."""
    spec = node.specs[0]
    axis = -1 if spec.shape is None else axis % len(spec.shape)
    sizes = [editor.spec(ref).shape[axis] for ref in refs] if axis > 0 else []
    if not sizes or None in sizes:
        return None
    joined, width = refs[0], sizes[0]
    for number, (ref, size) in enumerate(zip(refs[1:], sizes[1:], strict=True), 1):
        shape = list(spec.shape)
        shape[axis] = width + size
        wider = dataclasses.replace(spec, shape=tuple(shape))
        sides = [
            editor.emit(ops.Pad, x, wider, f"{part.name}_{word}_{number}", paddings=room)
            for x, word, room in (
                (joined, "left", _room(shape, axis, 0, size)),
                (ref, "right", _room(shape, axis, width, 0)),
            )
        ]
        name = part.name if number == len(refs) - 1 else f"{part.name}_sum_{number}"
        joined, width = editor.emit(_L.Add, sides, wider, name), width + size
    return joined


def _room(shape: Sequence[Any], axis: int, before: int, behind: int) -> list[list[int]]:
    """Paddings for each axis after the batch, of one axis alone."""
    return [[before, behind] if at == axis else [0, 0] for at in range(1, len(shape))]


_OTHERWISE: dict[type, Callable[[Editor, Part, Node], Ref | None]] = {
    _L.Concatenate: _concatenated,
    ops_time.Stack: _stacked,
}
