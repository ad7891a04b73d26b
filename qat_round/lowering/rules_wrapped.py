"""Layers that hold other layers: `Bidirectional`, `RNN` around cells, `TimeDistributed`.

Each becomes the layers that it holds, which have rules of their own where they need them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qat_round._compat import keras
from qat_round.frontend.build import make_layer
from qat_round.frontend.graph import Editor, Graph, Node, Part, Ref, Spec, free_name, map_refs
from qat_round.frontend.read import part_names, read, read_layer
from qat_round.frontend.trace import is_functional
from qat_round.frontend.write_back import JOINERS, Found
from qat_round.layers import ops, ops_time
from qat_round.lowering.rules import piece, rule
from qat_round.lowering.unroll import can_unroll, given_inputs, is_forced

_L = keras.layers
_OF_CELL = {_L.LSTMCell: _L.LSTM, _L.GRUCell: _L.GRU, _L.SimpleRNNCell: _L.SimpleRNN}
_STATES = {_L.LSTM: 2, _L.GRU: 1, _L.SimpleRNN: 1}
_MERGES = {"concat": _L.Concatenate, "sum": _L.Add, "mul": _L.Multiply, "ave": _L.Average}
_SAME_ON_STEPS = (_L.Dense, _L.Activation, _L.ReLU, _L.LeakyReLU, _L.Dropout)


@rule(_L.Bidirectional, plain=False)
def _bidirectional(editor: Editor, part: Part, node: Node) -> list[Ref] | None:
    given, sides = given_inputs(node), _sides(part)
    if given is None or sides is None or any(is_forced(side, node) for side in sides.values()):
        return None
    if not all(can_unroll(side, editor.spec(given[0])) for side in sides.values()):
        return None
    half = 1 + len(given) // 2
    states = {"forward": given[1:half], "backward": given[half:]}
    (y, *ahead), (z, *back) = (
        _recurrent(editor, part, name, side, given[0], states[name]) for name, side in sides.items()
    )
    if sides["backward"].config["return_sequences"]:
        backwards = [[None, None, -1]]
        z = editor.emit(ops.Slice, z, editor.spec(z), f"{part.name}_reversed", slices=backwards)
    return [*_merged(editor, part, node, y, z), *ahead, *back]


def _sides(part: Part) -> dict[str, Part] | None:
    """The forward and the backward layer."""
    live = _live(part)
    layers = (
        {} if live is None else {"forward": live.forward_layer, "backward": live.backward_layer}
    )
    return _with_weights(part, layers) if layers else None


def _with_weights(part: Part, layers: dict[str, Any]) -> dict[str, Part] | None:
    """Recurrent layers or cells as parts, each with its own of the weights; None for others."""
    parts, weights = {}, list(part.weights)
    for suffix, layer in layers.items():
        found = read_layer(layer, suffix)
        cls = _OF_CELL.get(found.cls, found.cls)
        if cls not in _STATES:
            return None
        count = 3 if found.config["use_bias"] else 2
        parts[suffix] = Part(f"{part.name}_{suffix}", cls, found.config, tuple(weights[:count]))
        del weights[:count]
    return parts


def _recurrent(
    editor: Editor, part: Part, suffix: str, layer: Part, x: Ref, states: Sequence[Ref]
) -> list[Ref]:
    """Adds a recurrent layer and a call of it; gives its outputs."""
    config = {k: v for k, v in layer.config.items() if k not in ("name", "dtype", "trainable")}
    name = piece(editor, part, suffix, layer.cls, layer.weights, **config)
    spec, units = editor.spec(x), config["units"]
    state = Spec((spec.shape[0], units), spec.dtype)
    sequence = Spec((*spec.shape[:2], units), spec.dtype)
    specs = [sequence if config["return_sequences"] else state]
    specs += [state] * _STATES[layer.cls] if config["return_state"] else []
    call = free_name(f"{name}:0", editor.nodes)
    editor.nodes[call] = Node(name, ([x, *states] if states else x,), {}, tuple(specs))
    return [Ref(call, index) for index in range(len(specs))]


def _merged(editor: Editor, part: Part, node: Node, y: Ref, z: Ref) -> list[Ref]:
    merge = _MERGES.get(part.config["merge_mode"])
    if merge is None:
        return [y, z]
    return [editor.emit(merge, [y, z], node.specs[0], f"{part.name}_merged")]


@rule(_L.RNN, plain=False)
def _rnn(editor: Editor, part: Part, node: Node) -> list[Ref] | None:
    """Cells on top of each other run one after the other, each over the whole sequence."""
    given, layers = given_inputs(node), _layers_of_cells(part)
    if given is None or layers is None or (len(given) > 1 and len(layers) > 1):
        return None
    if any(is_forced(x, node) or not can_unroll(x, editor.spec(given[0])) for x in layers.values()):
        return None
    x, states = given[0], []
    for suffix, layer in layers.items():
        x, *own = _recurrent(editor, part, suffix, layer, x, given[1:])
        states.append(own)
    if part.config.get("reverse_state_order"):
        states.reverse()
    return [x, *(state for own in states for state in own)]


def _layers_of_cells(part: Part) -> dict[str, Part] | None:
    """For each cell the layer that runs it."""
    live = _live(part)
    if live is None or part.config.get("stateful") or part.config.get("time_major"):
        return None
    cells = live.cell.cells if isinstance(live.cell, _L.StackedRNNCells) else [live.cell]
    parts = _with_weights(part, {f"cell_{number}": cell for number, cell in enumerate(cells)})
    if parts is None:
        return None
    for number, found in enumerate(parts.values()):
        last = number == len(cells) - 1
        found.config.update(  # type: ignore[attr-defined]
            return_sequences=bool(part.config.get("return_sequences")) or not last,
            return_state=bool(part.config.get("return_state")),
            go_backwards=bool(part.config.get("go_backwards")) and number == 0,
        )
    return parts


def _live(part: Part) -> Any:
    """The layer itself, new; None if its config alone does not make it."""
    try:
        return make_layer(part)
    except ValueError:
        return None


@rule(_L.TimeDistributed)
def _time_distributed(editor: Editor, part: Part, node: Node) -> Ref | None:
    """The steps as examples of their own, the layer, and back."""
    x, live = node.args[0], _live(part)
    spec = editor.spec(x) if isinstance(x, Ref) else Spec(None, "")
    if live is None or spec.shape is None or spec.shape[1] is None or len(node.specs) != 1:
        return None
    if spec.masked:
        return _on_all_steps(editor, part, live.layer, node)
    flat = _merged_time(editor, part, x)
    if isinstance(live.layer, keras.Model):
        y = _spliced(editor, part, live, flat, spec)
    else:
        _unwrap(editor, part, live.layer)
        y = editor.call(part.name, flat, _flat_spec(node.specs[0]))
    if y is None:
        return None
    steps = {"steps": spec.shape[1]}
    return editor.emit(ops_time.SplitTime, y, node.specs[0], f"{part.name}_by_step", **steps)


def _on_all_steps(editor: Editor, part: Part, layer: Any, node: Node) -> Ref | None:
    """For layers that pass masks on and do the same to a sequence as to each step."""
    if type(layer) not in _SAME_ON_STEPS:
        return None
    _unwrap(editor, part, layer)
    return editor.call(part.name, node.args[0], node.specs[0])


def _unwrap(editor: Editor, part: Part, layer: Any) -> None:
    """Puts the inner layer in the place of the wrapper, under its name and with its weights."""
    inner = read_layer(layer, part.name)
    config = {**inner.config, "trainable": part.config.get("trainable", True)}
    editor.parts[part.name] = Part(part.name, inner.cls, config, part.weights)


def _merged_time(editor: Editor, part: Part, x: Ref) -> Ref:
    """The steps as examples; what was split just before is taken as it was."""
    if editor.part(x).cls is ops_time.SplitTime:
        return editor.nodes[x.node].args[0]
    spec = _flat_spec(editor.spec(x))
    return editor.emit(ops_time.MergeTime, x, spec, f"{part.name}_merged")


def _flat_spec(spec: Spec) -> Spec:
    batch, steps, *rest = spec.shape
    return Spec((None if batch is None else batch * steps, *rest), spec.dtype)


def _spliced(editor: Editor, part: Part, live: Any, x: Ref, spec: Spec) -> Ref | None:
    """The inner model's calls, on the given tensor; None if they cannot be read."""
    if not is_functional(live.layer) or not live.layer.built:
        return None
    live.build(spec.shape)
    live.set_weights(part.weights)
    graph = read(live.layer)
    if not isinstance(graph.inputs, Ref) or not isinstance(graph.outputs, Ref):
        return None
    return _copied(editor, part, graph, x)


def _copied(editor: Editor, part: Part, graph: Graph, x: Ref) -> Ref:
    env = {graph.inputs: x}
    for name, node in graph.nodes.items():
        if Ref(name) in env:
            continue
        inner = graph.parts[node.part]
        config = {key: value for key, value in inner.config.items() if key != "name"}
        made = piece(editor, part, inner.name, inner.cls, inner.weights, **config)
        args, kwargs = map_refs(env.__getitem__, (node.args, dict(node.kwargs)))
        call = free_name(f"{made}:0", editor.nodes)
        editor.nodes[call] = Node(made, args, kwargs, node.specs)
        env.update({Ref(name, i): Ref(call, i) for i in range(len(node.specs))})
    return env[graph.outputs]


def _join_all(parts: dict[str, Part] | None, found: Found) -> list[np.ndarray]:
    """The weights of several layers, each of which is `<part>_<suffix>` or in pieces itself."""
    weights: list[np.ndarray] = []
    for suffix, layer in (parts or {}).items():
        weights += JOINERS[layer.cls](layer, lambda name, s=suffix: found(f"{s}_{name}"))  # type: ignore[misc]
    return weights


def _join_time_distributed(part: Part, found: Found) -> Sequence[np.ndarray]:
    live = _live(part)
    if not isinstance(live.layer, keras.Model):
        inner = read_layer(live.layer, part.name)
        return JOINERS[inner.cls](Part(part.name, inner.cls, inner.config, part.weights), found)
    values: dict[Any, np.ndarray] = {}
    for name, layer in part_names(live.layer).items():
        values |= _of_inner(name, layer, found)
    return [values[variable.ref()] for variable in live.weights]


def _of_inner(name: str, layer: Any, found: Found) -> dict[Any, np.ndarray]:
    """The weights of one layer of an inner model, by its variables."""
    inner = read_layer(layer, name)
    if inner.cls in JOINERS:
        arrays = JOINERS[inner.cls](inner, lambda suffix: found(f"{name}_{suffix}"))
    else:
        names = [variable.name.split(":")[0].split("/")[-1] for variable in layer.weights]
        by_name = found(name) if names else {}
        arrays = [by_name[each] for each in names]
    return {v.ref(): array for v, array in zip(layer.weights, arrays, strict=True)}


JOINERS |= {
    _L.Bidirectional: lambda part, found: _join_all(_sides(part), found),
    _L.RNN: lambda part, found: _join_all(_layers_of_cells(part), found),
    _L.TimeDistributed: _join_time_distributed,
}
