"""Chains of layers that are one thing: hard-sigmoid, hard-swish, affine after affine, scales."""

from __future__ import annotations

from typing import Any

import numpy as np

from qat_round._compat import keras
from qat_round.frontend.graph import Editor, Graph, Node, Part, Ref
from qat_round.layers.ops import Affine, HardSigmoid, HardSwish

_SIXTH = 1.0 / 6.0


def fuse_hard_activations(graph: Graph) -> Graph:
    """relu6(x + 3) / 6 becomes `HardSigmoid`, and x times that `HardSwish`."""
    editor = Editor(graph)
    for name, node in editor.walk():
        cls, source = _hard(editor, node)
        if cls is None:
            editor.keep(name, node)
            continue
        wanted = f"{node.part}_{'hard_swish' if cls is HardSwish else 'hard_sigmoid'}"
        editor.stand_in(name, [editor.emit(cls, source, node.specs[0], wanted)])
    return editor.finish()


def _hard(editor: Editor, node: Node) -> tuple[type | None, Any]:
    part = editor.parts[node.part]
    if part.cls is Affine and _is_scale(part, _SIXTH):
        before = _node(editor, node.args[0])
        source = _relu6_of_shifted(editor, before)
        if source is not None:
            return HardSigmoid, source
        factor = _other_factor(editor, before, _is_shifted_relu6)
        return (None, None) if factor is None else (HardSwish, factor)
    factor = _other_factor(editor, node, _is_hard_sigmoid)
    return (None, None) if factor is None else (HardSwish, factor)


def _node(editor: Editor, ref: Any) -> Node | None:
    return editor.nodes.get(ref.node) if isinstance(ref, Ref) else None


def _other_factor(editor: Editor, node: Node | None, is_gate: Any) -> Ref | None:
    """x, if the call is a product of x and a gate made of x."""
    if node is None or editor.parts[node.part].cls is not keras.layers.Multiply:
        return None
    factors = node.args[0]
    if not isinstance(factors, (list, tuple)) or len(factors) != 2:
        return None
    a, b = factors
    if is_gate(editor, b, a):
        return a
    return b if is_gate(editor, a, b) else None


def _is_hard_sigmoid(editor: Editor, gate: Ref, x: Ref) -> bool:
    node = _node(editor, gate)
    return node is not None and editor.parts[node.part].cls is HardSigmoid and node.args[0] == x


def _is_shifted_relu6(editor: Editor, gate: Ref, x: Ref) -> bool:
    return _relu6_of_shifted(editor, _node(editor, gate)) == x


def _relu6_of_shifted(editor: Editor, node: Node | None) -> Ref | None:
    """x, if the call is relu6(x + 3)."""
    if node is None or not _is_relu6(editor.parts[node.part]):
        return None
    shift = _node(editor, node.args[0])
    if shift is None or not _is_shift(editor.parts[shift.part], 3.0):
        return None
    return shift.args[0]


def _is_relu6(part: Part) -> bool:
    config = part.config
    return (
        part.cls is keras.layers.ReLU
        and config.get("max_value") == 6.0
        and not config.get("negative_slope")
        and not config.get("threshold")
    )


def _is_shift(part: Part, value: float) -> bool:
    scale, offset = affine_constants(part) if part.cls is Affine else (0, 0)
    return scale is None and offset is not None and np.array_equal(offset, np.float32(value))


def _is_scale(part: Part, value: float) -> bool:
    scale, offset = affine_constants(part)
    return offset is None and scale is not None and np.ndim(scale) == 0 and _near(scale, value)


def _near(a: Any, b: float) -> bool:
    return abs(float(a) - b) < 1e-6 * abs(b)


def affine_constants(part: Part) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Scale and offset of an `Affine`, from its weights where it has some."""
    values = [part.config.get("scale"), part.config.get("offset")]
    weights = iter(part.weights)
    if part.weights:
        values = [None if v is None else next(weights) for v in values]
    scale, offset = (None if v is None else np.asarray(v, np.float32) for v in values)
    return scale, offset


def merge_affines(graph: Graph) -> Graph:
    """Two constant `Affine`s in a row become one, if nobody else reads what is between them."""
    editor, consumers, calls = Editor(graph), graph.consumers(), graph.calls()
    for name, node in editor.walk():
        first = _mergeable(editor, node, calls)
        read_once = len(_readers(consumers, graph.nodes[name])) == 1
        if first is None or not read_once:
            editor.keep(name, node)
            continue
        before, after = editor.parts[first.part], editor.parts[node.part]
        config = {**before.config, **_composed(before, after)}
        editor.parts[first.part] = Part(before.name, Affine, config)
        editor.stand_in(name, [node.args[0]])
    return editor.finish()


def _readers(consumers: dict[Ref, list[str]], node: Node) -> list[str]:
    """Who reads the call's first input."""
    return consumers.get(node.refs[0], []) if node.refs else []


def _mergeable(editor: Editor, node: Node, calls: dict[str, int]) -> Node | None:
    """The call in front, if both are constant `Affine`s that are called once."""
    part = editor.parts[node.part]
    before = _node(editor, node.args[0]) if node.args else None
    if before is None:
        return None
    both = (part, editor.parts[before.part])
    plain = all(p.cls is Affine and not p.config.get("trainable") for p in both)
    once = all(calls.get(p.name, 1) == 1 for p in both)
    return before if plain and once else None


def _composed(first: Part, second: Part) -> dict[str, Any]:
    (s1, o1), (s2, o2) = affine_constants(first), affine_constants(second)
    scale = s2 if s1 is None else s1 if s2 is None else np.multiply(s1, s2, dtype=np.float64)
    shifted = None if o1 is None else np.multiply(o1, 1.0 if s2 is None else s2, dtype=np.float64)
    offset = o2 if shifted is None else shifted if o2 is None else shifted + o2
    values = {"scale": scale, "offset": offset}
    return {key: None if v is None else np.asarray(v).tolist() for key, v in values.items()}


def scales_as_affine(graph: Graph) -> Graph:
    """The layers that `tf_keras.applications` brings along become `Affine` and `Add`.

    ConvNeXt's `LayerScale` (gamma x) becomes a trainable `Affine`; InceptionResNetV2's
    `CustomScaleLayer` (x + scale y) an `Affine` of y and an `Add`.
    """
    editor = Editor(graph)
    for name, node in editor.walk():
        part = graph.parts[node.part]
        if not part.cls.__module__.startswith("tf_keras.src.applications."):
            editor.keep(name, node)
        elif part.cls.__name__ == "LayerScale":
            editor.parts[part.name] = _layer_scale(part)
            editor.keep(name, node)
        elif part.cls.__name__ == "CustomScaleLayer":
            _keep_scaled_sum(editor, name, node, part)
        else:
            editor.keep(name, node)
    return editor.finish()


def _layer_scale(part: Part) -> Part:
    keep = {key: part.config[key] for key in ("name", "trainable", "dtype")}
    config = {**keep, "scale": part.weights[0].tolist(), "offset": None}
    return Part(part.name, Affine, config, part.weights)


def _keep_scaled_sum(editor: Editor, name: str, node: Node, part: Part) -> None:
    x, y = node.args[0]
    scale = float(part.config["scale"])
    y = editor.emit(Affine, y, editor.spec(y), f"{part.name}_scale", scale=scale)
    config = {key: part.config[key] for key in ("name", "dtype")}
    editor.parts[part.name] = Part(part.name, keras.layers.Add, config)
    editor.keep(name, Node(part.name, ([x, y],), {}, node.specs))
