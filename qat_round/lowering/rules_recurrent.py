"""Recurrent layers, unrolled over a known number of steps into pieces that all steps share.

The matrix products with the inputs are one for all steps. Gates that have the same activation stay
one tensor up to it; the candidate has its own product and its own grid, since its scale is
another. Where a layer starts at zero, the first step does without the terms that are zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from qat_round._compat import keras
from qat_round.frontend.graph import Editor, Node, Part, Ref
from qat_round.frontend.write_back import JOINERS, Found
from qat_round.lowering.masks import READERS, mask_of
from qat_round.lowering.rules import rule
from qat_round.lowering.unroll import Unroll, can_unroll, given_inputs, is_forced, warn_of_many

_L = keras.layers
States = list[Ref]
Run = Callable[[Unroll, States], tuple[list[Ref], States]]


@rule(_L.LSTM, plain=False)
def _lstm(editor: Editor, part: Part, node: Node) -> list[Ref] | None:
    return _unrolled(editor, part, node, _lstm_steps, 2)


@rule(_L.GRU, plain=False)
def _gru(editor: Editor, part: Part, node: Node) -> list[Ref] | None:
    return _unrolled(editor, part, node, _gru_steps, 1)


@rule(_L.SimpleRNN, plain=False)
def _simple(editor: Editor, part: Part, node: Node) -> list[Ref] | None:
    return _unrolled(editor, part, node, _simple_steps, 1)


def _unrolled(editor: Editor, part: Part, node: Node, run: Run, count: int) -> list[Ref] | None:
    """The outputs of a call, or None where it cannot be unrolled."""
    given = given_inputs(node)
    if given is None or len(given) not in (1, 1 + count) or is_forced(part, node):
        return None
    if not can_unroll(part, editor.spec(given[0])):
        return None
    mask = mask_of(editor, given[0])
    if mask is None and editor.spec(given[0]).masked:
        return None
    unroll = Unroll(editor, part, given[0], mask)
    warn_of_many(unroll.steps)
    outputs, states = run(unroll, given[1:])
    first = unroll.stack(outputs) if part.config.get("return_sequences") else outputs[-1]
    return [first, *states] if part.config.get("return_state") else [first]


def _lstm_steps(u: Unroll, states: States) -> tuple[list[Ref], States]:
    """c' = f c + i g,  h' = o act(c');  i, o, f, g = gates of x W + h U + b."""
    kernel, recurrent, bias = _lstm_weights(u.part)
    outputs: list[Ref] = []
    h: Ref | None
    c: Ref | None
    h, c = states or (None, None)
    for t, x in enumerate(u.project(kernel, bias)):
        gates, candidate = _with_state(u, x, h, recurrent)
        gates = u.activation("gates", "recurrent_activation", gates, 3 * u.units)
        i, o, *f = u.gates(gates, 3, [0, 1] if c is None else [0, 1, 2])
        new = u.multiply("new", i, u.activation("candidate", "activation", candidate, u.units))
        new = new if c is None else u.add("carry", u.multiply("kept", f[0], c), new)
        c = u.held("carry", t, new, c)
        squashed = u.activation("squashed", "activation", c, u.units)
        h = u.held("state", t, u.multiply("state", o, squashed), h)
        outputs.append(u.shown(t, h))
    return outputs, [state for state in (h, c) if state is not None]


def _with_state(u: Unroll, x: dict[str, Ref], h: Ref | None, kernels: dict) -> tuple[Ref, ...]:
    """Inputs' and state's parts of the sums, added; the inputs' alone where there is no state."""
    if h is None:
        return tuple(x[name] for name in kernels)
    h = u.dropped_state(h)
    return tuple(
        u.add(f"{name}_sum", x[name], u.dense(f"recurrent_{name}", h, kernel, None), size)
        for name, kernel in kernels.items()
        if (size := kernel.shape[-1])
    )


def _lstm_weights(part: Part) -> tuple[dict, dict, dict]:
    """Kernel, recurrent kernel and bias of the gates (i, o, f) and of the candidate."""
    kernel, recurrent, *bias = (_lstm_parts(w) for w in part.weights)
    return kernel, recurrent, bias[0] if bias else {}


def _lstm_parts(weight: np.ndarray) -> dict[str, np.ndarray]:
    i, f, g, o = np.split(weight, 4, axis=-1)
    return {"gates": np.concatenate([i, o, f], axis=-1), "candidate": g}


def _join_lstm(part: Part, found: Found) -> Sequence[np.ndarray]:
    def joined(side: str, name: str) -> np.ndarray:
        i, o, f = np.split(found(f"{side}_gates")[name], 3, axis=-1)
        return np.concatenate([i, f, found(f"{side}_candidate")[name], o], axis=-1)

    return _in_order(part, joined)


def _in_order(part: Part, joined: Callable[[str, str], np.ndarray]) -> list[np.ndarray]:
    """Kernel, recurrent kernel, bias; a single step that starts at zero has no recurrent kernel."""
    try:
        recurrent = joined("recurrent", "kernel")
    except KeyError:
        recurrent = part.weights[1]
    weights = [joined("input", "kernel"), recurrent]
    return weights if len(part.weights) == 2 else [*weights, joined("input", "bias")]


def _gru_steps(u: Unroll, states: States) -> tuple[list[Ref], States]:
    """h' = g - z (g - h);  z, r = gates of x W + h U + b,  g = act(x W + r (h U) + b)."""
    kernel, recurrent, bias, after = _gru_weights(u.part)
    candidate = _reset_after if u.config.get("reset_after", True) else _reset_before
    outputs: list[Ref] = []
    h = states[0] if states else None
    for t, x in enumerate(u.project(kernel, bias)):
        if h is None and after:
            h = u.zeros(x["gates"], 2 * u.units)
        seen = None if h is None else u.dropped_state(h)
        z, *r = _gru_gates(u, x["gates"], seen, recurrent["gates"], after.get("gates"))
        total = candidate(u, x["candidate"], seen, r, recurrent["candidate"], after)
        g = u.activation("candidate", "activation", total, u.units)
        way = g if h is None else u.subtract("way", g, h)
        h = u.held("state", t, u.subtract("state", g, u.multiply("held", z, way)), h)
        outputs.append(u.shown(t, h))
    return outputs, [h] if h is not None else []


def _gru_gates(
    u: Unroll, x: Ref, h: Ref | None, kernel: np.ndarray, bias: np.ndarray | None
) -> list[Ref]:
    size = 2 * u.units
    if h is not None:
        x = u.add("gates_sum", x, u.dense("recurrent_gates", h, kernel, bias), size)
    gates = u.activation("gates", "recurrent_activation", x, size)
    return u.gates(gates, 2, [0] if h is None else [0, 1])


def _reset_after(
    u: Unroll, x: Ref, h: Ref | None, r: list[Ref], kernel: np.ndarray, bias: dict[str, np.ndarray]
) -> Ref:
    if h is None:
        return x
    from_state = u.dense("recurrent_candidate", h, kernel, bias.get("candidate"))
    return u.add("candidate_sum", x, u.multiply("reset", r[0], from_state))


def _reset_before(
    u: Unroll, x: Ref, h: Ref | None, r: list[Ref], kernel: np.ndarray, bias: dict[str, np.ndarray]
) -> Ref:
    if h is None:
        return x
    from_state = u.dense("recurrent_candidate", u.multiply("reset", r[0], h), kernel, None)
    return u.add("candidate_sum", x, from_state)


def _gru_weights(part: Part) -> tuple[dict, dict, dict, dict]:
    """Kernel, recurrent kernel, inputs' bias and state's bias of the gates and the candidate."""
    kernel, recurrent, *bias = part.weights
    rows = np.atleast_2d(bias[0]) if bias else ()
    biases = [_gru_parts(row) for row in rows] + [{}, {}]
    return _gru_parts(kernel), _gru_parts(recurrent), biases[0], biases[1]


def _gru_parts(weight: np.ndarray) -> dict[str, np.ndarray]:
    z, r, g = np.split(weight, 3, axis=-1)
    return {"gates": np.concatenate([z, r], axis=-1), "candidate": g}


def _join_gru(part: Part, found: Found) -> Sequence[np.ndarray]:
    def joined(side: str, name: str) -> np.ndarray:
        halves = [found(f"{side}_{half}")[name] for half in ("gates", "candidate")]
        return np.concatenate(halves, axis=-1)

    weights = _in_order(part, joined)
    if len(weights) == 3 and part.weights[2].ndim == 2:
        weights[2] = np.stack([weights[2], joined("recurrent", "bias")])
    return weights


def _simple_steps(u: Unroll, states: States) -> tuple[list[Ref], States]:
    """h' = act(x W + h U + b)."""
    kernel, recurrent, *bias = ({"total": w} for w in u.part.weights)
    outputs: list[Ref] = []
    h = states[0] if states else None
    for t, x in enumerate(u.project(kernel, bias[0] if bias else {})):
        (total,) = _with_state(u, x, h, recurrent)
        h = u.held("state", t, u.activation("state", "activation", total, u.units), h)
        outputs.append(u.shown(t, h))
    return outputs, [h] if h is not None else []


def _join_simple(part: Part, found: Found) -> Sequence[np.ndarray]:
    return _in_order(part, lambda side, name: found(f"{side}_total")[name])


JOINERS |= {_L.LSTM: _join_lstm, _L.GRU: _join_gru, _L.SimpleRNN: _join_simple}
READERS.update({_L.LSTM, _L.GRU, _L.SimpleRNN, _L.Bidirectional, _L.RNN})
