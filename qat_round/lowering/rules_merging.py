"""Layers that join several tensors, in operators of two.

Keras joins three and more two by two, inside of one layer. What lies in between would have no grid,
and its operators would stay in float.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from qat_round._compat import keras
from qat_round.frontend.graph import Editor, Node, Part, Ref, Spec
from qat_round.layers import ops
from qat_round.layers.ops_math import L2Normalize
from qat_round.lowering.rules import rule
from qat_round.lowering.rules_einsum import permuted

_L = keras.layers


@rule(_L.Add, _L.Multiply)
def _by_twos(editor: Editor, part: Part, node: Node) -> Ref | None:
    """Sums and products of halves, down to two tensors each."""
    given = node.args[0]
    if len(given) < 3 or any(editor.spec(ref).shape is None for ref in given):
        return None
    sides = [_joined(editor, part, half, node.specs[0]) for half in _halves(given)]
    return editor.emit(part.cls, sides, node.specs[0], part.name)


def _joined(editor: Editor, part: Part, given: Sequence[Ref], whole: Spec) -> Ref:
    if len(given) == 1:
        return given[0]
    sides = [_joined(editor, part, half, whole) for half in _halves(given)]
    specs = [editor.spec(ref) for ref in sides]
    masked = any(spec.masked for spec in specs)
    spec = dataclasses.replace(whole, shape=_broadcast(*specs), masked=masked)
    return editor.emit(part.cls, sides, spec, f"{part.name}_part")


def _halves(given: Sequence[Ref]) -> tuple[list[Ref], list[Ref]]:
    middle = (len(given) + 1) // 2
    return list(given[:middle]), list(given[middle:])


def _broadcast(a: Spec, b: Spec) -> tuple[Any, ...]:
    """The shape of a sum; Keras puts the axes that one side lacks right behind the batch."""
    rank = max(a.rank, b.rank)
    wide = [(s.shape[0], *[1] * (rank - s.rank), *s.shape[1:]) for s in (a, b)]
    return tuple(n if m == 1 or m is None else m for m, n in zip(*wide, strict=True))


@rule(_L.Average)
def _average(editor: Editor, part: Part, node: Node) -> Ref:
    spec, count = node.specs[0], len(node.args[0])
    total = editor.emit(_L.Add, node.args[0], spec, f"{part.name}_sum")
    return editor.emit(ops.Affine, total, spec, part.name, scale=1.0 / count)


@rule(_L.Dot)
def _cosine(editor: Editor, part: Part, node: Node) -> Ref | None:
    """The product of vectors that are brought to length 1 before."""
    if not part.config.get("normalize") or any(editor.spec(x).rank is None for x in node.refs):
        return None
    axes = part.config["axes"]
    axes = [axes] * 2 if isinstance(axes, int) else axes
    sides = [
        _unit(editor, part, ref, axis, number)
        for number, (ref, axis) in enumerate(zip(node.args[0], axes, strict=True))
    ]
    return editor.emit(_L.Dot, sides, node.specs[0], part.name, axes=-1)


def _unit(editor: Editor, part: Part, x: Ref, axis: int, number: int) -> Ref:
    """A tensor whose vectors along an axis, now the last one, have length 1."""
    rank = editor.spec(x).rank
    order = [a for a in range(rank) if a != axis % rank] + [axis % rank]
    x = permuted(editor, x, order, f"{part.name}_{number}_order")
    return editor.emit(L2Normalize, x, editor.spec(x), f"{part.name}_{number}_unit")
