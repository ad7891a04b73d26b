"""Rules that take a layer apart into layers that TFLite can compute in integers.

A rule is a function of (editor, part, node) in a table by the layer's class. It gives the tensors
that stand for the call's outputs, or None where it cannot take this call; the layer then stays.
Rules of composite layers may emit layers that have rules themselves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from qat_round.frontend.graph import Editor, Graph, Node, Part, Ref

Rule = Callable[[Editor, Part, Node], "Ref | Sequence[Ref] | None"]

_RULES: dict[type, Rule] = {}
_DEEPEST = 8  # rules whose layers have rules whose layers ...


def rule(*classes: type, plain: bool = True) -> Callable[[Rule], Rule]:
    """Registers a rule for layers of these classes.

    Args:
        *classes: exactly these, not their subclasses.
        plain: whether the rule is only for calls with one argument and no keyword arguments.
    """

    def register(fn: Rule) -> Rule:
        for cls in classes:
            if cls in _RULES:
                raise ValueError(f"There is a rule for {cls.__name__} already.")
            _RULES[cls] = _for_plain_calls(fn) if plain else fn
        return fn

    return register


def piece(
    editor: Editor,
    part: Part,
    suffix: str,
    cls: type,
    weights: Sequence[Any] = (),
    bits: int | None = None,
    **config: Any,
) -> str:
    """The name of a layer that is a piece of another: one for all calls of that other.

    Args:
        editor: of the graph that is made.
        part: the layer that is taken apart.
        suffix: the piece is called `<part>_<suffix>`.
        cls: its class.
        weights: its weights' values.
        bits: see `Part`.
        **config: its config, without name; dtype and trainable are the part's.
    """
    key = (part.name, suffix)
    if key not in editor.pieces:
        base = {k: part.config[k] for k in ("dtype", "trainable") if k in part.config}
        made = Part(f"{part.name}_{suffix}", cls, base | config, tuple(weights), bits=bits)
        editor.pieces[key] = editor.add_part(made)
    return editor.pieces[key]


def _for_plain_calls(fn: Rule) -> Rule:
    @functools.wraps(fn)
    def guarded(editor: Editor, part: Part, node: Node) -> Any:
        given = {key: value for key, value in node.kwargs.items() if value is not None}
        return fn(editor, part, node) if len(node.args) == 1 and not given else None

    return guarded


def apply_rules(graph: Graph, is_float: Callable[[Part], bool]) -> Graph:
    """The graph with every layer taken apart for which there is a rule, at any depth.

    Args:
        graph: any graph.
        is_float: which layers stay as they are.
    """
    for _ in range(_DEEPEST):
        graph, found = _once(graph, is_float)
        if not found:
            break
    return graph


def _once(graph: Graph, is_float: Callable[[Part], bool]) -> tuple[Graph, bool]:
    editor, found = Editor(graph), False
    for name, node in editor.walk():
        part = graph.parts[node.part]
        fn = None if is_float(part) else _RULES.get(part.cls)
        made = None if fn is None else fn(editor, part, node)
        if made is None:
            editor.keep(name, node)
        else:
            found = True
            editor.stand_in(name, [made] if isinstance(made, Ref) else made)
    return editor.finish(), found
