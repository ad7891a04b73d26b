"""Notes that travel with tensors, as Keras's masks do: the grid of values, the scale of sums.

TFLite gives some operators no scale of their own (pooling, padding, reshaping, resizing keep their
input's), and it rounds biases to the scale of the sums that they are added to. To compute as the
file does, a layer has to know what made its input.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from qat_round._compat import tf

_GRID, _SUM = "_qat_round_grid", "_qat_round_sum"


class GridNote(NamedTuple):
    """The quantizer that made a tensor, and the layer weights of its state."""

    quantizer: Any
    weights: dict[str, Any]


class SumNote(NamedTuple):
    """A tensor is a sum of products that is not rounded yet.

    Args:
        step: the sums' scale, input step times weight step; () or (channels,).
        bias: what was added to them, or None.
    """

    step: tf.Tensor
    bias: Any


def note_grid(tensor: Any, grid: GridNote | None) -> Any:
    """The tensor, with a note of the grid that its values are on."""
    if grid is not None and tf.is_tensor(tensor):
        setattr(tensor, _GRID, grid)
    return tensor


def noted_grid(inputs: Any) -> GridNote | None:
    """The grid of the first input that has a note."""
    notes = (getattr(tensor, _GRID, None) for tensor in tf.nest.flatten(inputs))
    return next((grid for grid in notes if grid is not None), None)


def note_sum(tensor: Any, sums: SumNote | None) -> Any:
    """The tensor, with a note of the sums that it consists of."""
    if sums is not None and tf.is_tensor(tensor):
        setattr(tensor, _SUM, sums)
    return tensor


def noted_sum(inputs: Any) -> SumNote | None:
    """The note of sums that are not rounded yet, if there is one input and it has one."""
    return getattr(inputs, _SUM, None) if tf.is_tensor(inputs) else None
