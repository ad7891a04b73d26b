"""A layer's weights, quantized once for all calls of the layer in one graph.

A shared layer is called several times in one step, the cell of an unrolled recurrent layer once for
each time step; its weights are the same each time. What the first call made is handed to the next
ones as long as it is what they would make: in the same graph, with the variable not written to
in between (a step of an optimizer, say), and known to every tape that knows the variable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from qat_round._compat import is_exporting, known_to_tapes, tf
from qat_round.quantizers.observers import is_observed

_STORE = "_qat_round_quantized"  # an attribute of the graph: it goes when the graph goes


class _Made(NamedTuple):
    value: tf.Tensor
    writes: int
    training: Any
    state: Any  # kept, so that its id is nobody else's


@tf.autograph.experimental.do_not_convert
def once(
    variable: tf.Variable, state: dict[str, Any], training: Any, make: Callable[[], tf.Tensor]
) -> tf.Tensor:
    """What `make` gives, or gave before in this graph for the same variable.

    Eagerly, in graphs for files, and while somebody looks into the quantizers, always made anew.

    Args:
        variable: the weight that is quantized.
        state: its quantizer's layer weights.
        training: as the layer was called; a tensor has to be the same one.
        make: gives the quantized weight.
    """
    graph, replica = tf.compat.v1.get_default_graph(), tf.distribute.get_replica_context()
    is_apart = tf.executing_eagerly() or not hasattr(graph, "capture") or replica is None
    if is_apart or is_exporting() or is_observed():
        return make()
    key = id(state), int(tf.get_static_value(replica.replica_id_in_sync_group))
    store = getattr(graph, _STORE, None)
    if store is None:
        setattr(graph, _STORE, store := {})
    found = store.get(key)
    if found is not None and _holds(found, graph, variable, state, training):
        return found.value
    value = make()
    store[key] = _Made(value, _writes(graph, variable), training, state)
    return value


def _holds(found: _Made, graph: Any, variable: Any, state: dict[str, Any], training: Any) -> bool:
    trained = [variable, *(v for v in state.values() if getattr(v, "trainable", False))]
    return (
        found.training is training
        and found.writes == _writes(graph, variable)
        and known_to_tapes([found.value])
        >= known_to_tapes([tf.convert_to_tensor(v) for v in trained])
    )


def _writes(graph: Any, variable: Any) -> int:
    """How many operations of the graph so far do more with the variable than to read it."""
    handle = graph.capture(variable.handle)
    return sum(op.type != "ReadVariableOp" for op in handle.consumers())
