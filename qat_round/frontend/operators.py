"""TensorFlow operators that Keras recorded as `TFOpLambda` become layers that can be quantized.

One rule per operator, in a table by the operator's name without its namespace (`tf.nn.relu` and
`keras.activations.relu` are one name). A rule sees an `Op` and gives the tensors that stand for
its outputs, or None where it has no equal layer; then the operator is kept, and listed.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qat_round._compat import keras, tf
from qat_round.frontend.graph import Editor, Graph, Node, Ref, Spec, refs_in
from qat_round.layers.ops import Unmask

_OP_LAYERS = keras.src.layers.core.tf_op_layer
RECORDED = (_OP_LAYERS.TFOpLambda, _OP_LAYERS.ClassMethod, _OP_LAYERS.InstanceProperty)
"""Classes of layers (with their subclasses) that Keras makes around bare operators."""

RULES: dict[str, Callable[[Op], list[Ref] | None]] = {}


@dataclass(frozen=True)
class Op:
    """One call of an operator, its arguments by name."""

    editor: Editor
    name: str
    label: str
    arguments: dict[str, Any]
    specs: tuple[Spec, ...]

    def get(self, *names: str) -> Any:
        """The argument that has one of these names, None where it has none or is absent."""
        return next((self.arguments[n] for n in names if n in self.arguments), None)

    def spec(self, ref: Ref) -> Spec:
        """Shape and dtype of a tensor."""
        return self.editor.spec(ref)

    def layer(self, cls: type, args: Any, **config: Any) -> list[Ref]:
        """One layer with one output, in the operator's place."""
        made = self.editor.emit(cls, args, self.specs[0], self.label, **config)
        return [self.unmasked(made, refs_in(args))]

    def same(self, x: Ref) -> list[Ref]:
        """The operator's input in its place."""
        return [self.unmasked(x, [x])]

    def unmasked(self, made: Ref, sources: list[Ref]) -> Ref:
        """Without a mask: a layer would pass its input's on, the operator did not."""
        if self.specs[0].masked or not any(self.spec(ref).masked for ref in sources):
            return made
        spec = replace(self.spec(made), masked=False)
        return self.editor.emit(Unmask, made, spec, f"{self.label}_unmask")


def rule(*names: str) -> Callable:
    """Registers a rule for operators of these names."""

    def register(fn: Callable[[Op], list[Ref] | None]) -> Callable:
        for name in names:
            if name in RULES:
                raise ValueError(f"There is a rule for operator '{name}' already.")
            RULES[name] = fn
        return fn

    return register


def operators_as_layers(graph: Graph) -> Graph:
    """Replaces every operator for which there is a rule; lists the others in `graph.kept`."""
    editor = Editor(graph)
    for name, node in editor.walk():
        part = graph.parts[node.part]
        refs = None
        if issubclass(part.cls, RECORDED):
            refs = _translate(editor, name, node)
        if refs is None:
            editor.keep(name, node)
        else:
            editor.stand_in(name, refs)
    graph = editor.finish()
    return _list_kept(graph)


def recorded_operators(model: Any) -> list[str]:
    """Names of the operators that are left in a model as they were recorded.

    Args:
        model: a `tf_keras` model.

    Returns:
        Layer names; a quantizer has nothing to wrap there.

    Example:
        >>> x = keras.Input([4])
        >>> model = keras.Model(x, tf.math.sin(x))
        >>> recorded_operators(model) == [model.layers[1].name]
        True
    """
    return [layer.name for layer in model.layers if isinstance(layer, RECORDED)]


def _list_kept(graph: Graph) -> Graph:
    kept = tuple(name for name, part in graph.parts.items() if issubclass(part.cls, RECORDED))
    return Graph(**{**vars(graph), "kept": kept})


def _translate(editor: Editor, name: str, node: Node) -> list[Ref] | None:
    function = editor.graph.parts[node.part].config.get("function")
    if function is None:
        return None
    words = re.split(r"[.:]", operator_name(function))
    found = RULES.get(words[-1])
    arguments = _bind(function, node)
    if found is None or arguments is None:
        return None
    return found(Op(editor, name, _label(node.part), arguments, node.specs))


def operator_name(function: Any) -> str:
    """The public name of an operator, such as "math.add"; its own name where it has none."""
    public = _OP_LAYERS.get_canonical_name_for_symbol
    name = public(function, add_prefix_to_v1_names=True)
    name = name or public(function, api_name="keras", add_prefix_to_v1_names=True)
    return name or getattr(function, "__name__", "operator")


def _label(part: str) -> str:
    """A layer's name without the namespace: tf.math.add_1 -> add_1."""
    return part.rsplit(".", 1)[-1].strip("_") or part


def _bind(function: Any, node: Node) -> dict[str, Any] | None:
    try:
        bound = inspect.signature(function).bind(*node.args, **node.kwargs)
    except (TypeError, ValueError):
        return None
    bound.apply_defaults()
    return {key: _constant(value) for key, value in bound.arguments.items()}


def _constant(value: Any) -> Any:
    """Tensors and variables of known value as NumPy arrays, all else as it is."""
    if isinstance(value, (tf.Variable, tf.Tensor)):
        return value.numpy()
    return value


def is_constant(value: Any) -> bool:
    """Whether it is a number or an array of numbers."""
    if value is None or isinstance(value, (Ref, str, dict)) or refs_in(value):
        return False
    try:
        return np.asarray(value).dtype.kind in "fiu"
    except (TypeError, ValueError):
        return False


def scalar(value: Any) -> float | None:
    """The number, if the value is one."""
    if not is_constant(value) or np.size(value) != 1:
        return None
    return float(np.asarray(value).reshape(()))


def same_rank(op: Op, refs: list[Ref]) -> bool:
    """Whether the tensors have one known rank (Keras's merging layers broadcast otherwise)."""
    ranks = {op.spec(ref).rank for ref in refs}
    return len(ranks) == 1 and None not in ranks


def positive_axis(axis: int, rank: int) -> int:
    """The axis counted from the front."""
    return int(axis) + rank if axis < 0 else int(axis)
